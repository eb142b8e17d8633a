"""`./stack undo` of rows: all of an entry comes back in one transaction, or nothing of it and a line says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from admin.faults import FaultError
from artifacts import trash
from artifacts.catalog import REMOVED
from artifacts.trash import (
    ALIASES,
    ASSESSMENTS,
    EXPERIMENTS,
    KEYS,
    KINDS,
    LOGGED_MODELS,
    MODEL_TAGS,
    MODELS,
    RUNS,
    VERSION_TAGS,
    VERSIONS,
)
from tracking import champion

Row = dict[str, Any]

# A table comes after those that it refers to.
REGISTRY = (MODELS, MODEL_TAGS, VERSIONS, VERSION_TAGS, ALIASES)
# What MLflow changed in the rows that it marks.
MARKS = {
    EXPERIMENTS: ("lifecycle_stage", "last_update_time"),
    RUNS: ("lifecycle_stage", "deleted_time"),
    LOGGED_MODELS: ("lifecycle_stage", "last_updated_timestamp_ms"),
    VERSIONS: (
        "current_stage", "last_updated_time", "description", "user_id", "source", "run_id", "run_link",
        "status_message",
    ),
}  # fmt: skip
COLUMNS = """
SELECT array_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute WHERE attrelid = CAST(:table AS regclass)
AND attnum > 0 AND NOT attisdropped AND attname IN (SELECT jsonb_object_keys(content) FROM stack.trash WHERE id = :id)
"""
INSERT = """
INSERT INTO {table} ({columns}) SELECT {former} FROM stack.trash AS kept
CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, kept.content) AS former WHERE {where}
"""
CHANGE = """
UPDATE {table} AS live SET {columns} FROM stack.trash AS kept
CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, kept.content) AS former WHERE {keys} AND {where}
"""
OF_ENTRY = "kept.entry = CAST(:entry AS xid8) AND kept.relation = '{table}' AND kept.is_change = {is_change}"
FIND_ENTRY = "SELECT CAST(entry AS text) FROM stack.trash WHERE id = :id"
# (of two who bring back the same entry the second waits here, and then finds nothing)
LOCK_ENTRY = "SELECT id FROM stack.trash WHERE entry = CAST(:entry AS xid8) ORDER BY id LIMIT 1 FOR UPDATE"
COUNTS = """
SELECT relation, count(*) FROM stack.trash WHERE entry = CAST(:entry AS xid8)
AND NOT (relation = 'runs' AND content ->> 'lifecycle_stage' = 'deleted') GROUP BY relation
"""
ROWS = """
SELECT id, moment, relation, is_change, content FROM stack.trash
WHERE entry = CAST(:entry AS xid8) AND relation = ANY(:relations) ORDER BY id
"""
DELETED_EXPERIMENTS = """
SELECT name, experiment_id FROM experiments WHERE experiment_id = ANY(:ids) AND lifecycle_stage = 'deleted' LIMIT 1
"""
TRACE_IS_THERE = "EXISTS (SELECT FROM trace_info WHERE request_id = kept.content ->> 'trace_id')"
IN_PRODUCTION = """
SELECT version FROM model_versions
WHERE workspace = :workspace AND name = :name AND current_stage = :stage AND version <> :version
"""
STAGE = """
SELECT current_stage FROM model_versions WHERE workspace = :workspace AND name = :name AND version = :version
"""
IS_THERE = "SELECT EXISTS (SELECT FROM registered_models WHERE workspace = :workspace AND name = :name)"
IS_PROMPT = """
SELECT EXISTS (SELECT FROM registered_model_tags WHERE workspace = :workspace AND name = :name
    AND key = 'mlflow.prompt.is_prompt' AND lower(value) = 'true')
"""
MOVE = """
UPDATE model_versions SET current_stage = :stage,
    last_updated_time = floor(extract(epoch FROM clock_timestamp()) * 1000)
WHERE workspace = :workspace AND name = :name AND version = :version AND current_stage <> :stage
"""
# As services/migrate/triggers.py has it, where this account may do no more.
GRANTS = "SELECT wanted, came FROM stack.bring_back_grants(:name, :moment)"
FIRST = "SELECT id FROM stack.trash AS kept WHERE {where} LIMIT 1"


@dataclass
class Undone:
    """What came back.

    Attributes:
        identifier: of the entry.
        kind: what it is, in a word.
        what: the same, as an operator knows it.
        notes: what did not come back, and why.
    """

    identifier: str
    kind: str
    what: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Undoing:
    """An entry on its way back.

    Attributes:
        connection: in whose transaction.
        entry: id of the transaction that took it away.
        relation: the table that it is called after.
        rows: of that table and of the registry's: (id, moment, relation, is_change, content).
        leave_taken: whether aliases that name other versions by now are left as they are.
        notes: what does not come back, and why.
    """

    connection: sqlalchemy.Connection
    entry: str
    relation: str
    rows: list[Any]
    leave_taken: bool
    notes: list[str] = field(default_factory=list)

    def ask(self, query: str, **asked: Any) -> Any:
        """Run a statement."""
        return self.connection.execute(text(query), asked)

    def of(self, relation: str) -> list[Any]:
        """Return the rows of a table."""
        return [row for row in self.rows if row.relation == relation]

    def find_live(self, relation: str) -> dict[int, Row]:
        """Return what is in the place of the rows of a table now, by their id."""
        return trash.read_live(self.connection, relation, "kept.entry = CAST(:entry AS xid8)", entry=self.entry)

    def insert(self, relation: str, also: str = "TRUE", **asked: Any) -> int:
        """Put the removed rows of a table back; return how many."""
        where = f"{OF_ENTRY.format(table=relation, is_change=False)} AND {also}"
        return insert(self.connection, relation, where, entry=self.entry, **asked)

    def change(self, relation: str) -> int:
        """Take the marks off the rows of a table that still have them; return how many."""
        keys = " AND ".join(f"live.{key} = former.{key}" for key in KEYS[relation])
        columns = ", ".join(f"{name} = former.{name}" for name in MARKS[relation])
        marked = f"live.current_stage = '{REMOVED}'" if relation == VERSIONS else "live.lifecycle_stage = 'deleted'"
        where = f"{OF_ENTRY.format(table=relation, is_change=True)} AND {marked}"
        query = CHANGE.format(table=relation, columns=columns, keys=keys, where=where)
        return int(self.ask(query, entry=self.entry).rowcount)


def insert(connection: sqlalchemy.Connection, table: str, where: str, **asked: Any) -> int:
    """Put rows back, with the columns that the table has by now; return how many."""
    first = connection.execute(text(FIRST.format(where=where)), asked).scalar()
    if first is None:
        return 0
    columns = connection.execute(text(COLUMNS), {"table": table, "id": first}).scalar_one()
    former = ", ".join(f"former.{name}" for name in columns)
    query = INSERT.format(table=table, columns=", ".join(columns), former=former, where=where)
    return int(connection.execute(text(query), asked).rowcount)


# --------------------------------------------------------------------------------------------------- what MLflow marks
def undo_marked(undoing: Undoing) -> None:
    """Bring back experiments with their runs, or runs, or logged models."""
    relation = undoing.relation
    live = undoing.find_live(relation)
    for row in undoing.of(relation):
        what = f"{KINDS[relation]} {trash.describe(relation, row.content)}"
        state = trash.find_state(relation, is_change=True, live=live.get(row.id))
        if state is None:
            raise FaultError(f"{what} is not deleted any more: there is nothing to undo")
        if state:
            raise FaultError(
                f"{what} is gone for good, ./stack gc removed it: a backup may have it (./stack backup list)"
            )
    if relation != EXPERIMENTS:
        ids = [row.content["experiment_id"] for row in undoing.of(relation)]
        if around := undoing.ask(DELETED_EXPERIMENTS, ids=ids).one_or_none():
            raise FaultError(
                f"{what} is in experiment {around.name!r} (id {around.experiment_id}), which is deleted: "
                "undo that first"
            )
    undoing.change(relation)
    if relation == EXPERIMENTS:
        undoing.change(RUNS)
    undoing.insert(ASSESSMENTS, TRACE_IS_THERE)


# ------------------------------------------------------------------------------------------------------- the registry
def undo_models(undoing: Undoing) -> None:
    """Bring back registered models with all that they had."""
    live = undoing.find_live(MODELS)
    for row in undoing.of(MODELS):
        if row.id in live:
            raise FaultError(
                f"there is a model {row.content['name']!r} again: rename that on its page, then run this again"
            )
    for relation in REGISTRY:
        undoing.insert(relation)


def find_place(row: Row) -> dict[str, Any]:
    """Return which version a row is about."""
    return {"workspace": row["workspace"], "name": row["name"], "version": row["version"]}


def undo_versions(undoing: Undoing) -> None:
    """Bring back versions of models, with the aliases that they had."""
    live = undoing.find_live(VERSIONS)
    for row in undoing.of(VERSIONS):
        what = f"version {trash.describe(VERSIONS, row.content)}"
        state = trash.find_state(VERSIONS, is_change=True, live=live.get(row.id))
        if state is None:
            raise FaultError(f"{what} is not deleted any more: there is nothing to undo")
        if state:
            raise FaultError(
                f"{what}: there is no such model any more: undo its deletion first (./stack trash), or give it its "
                "former name back"
            )
    taken = undoing.find_live(ALIASES)
    for row in undoing.of(ALIASES):
        if row.id not in taken:
            continue
        now = taken[row.id]["version"]
        fault = f"the alias {row.content['alias']!r} of {row.content['name']!r} names version {now} now"
        if not undoing.leave_taken:
            raise FaultError(f"{fault}: --leave-taken brings version {row.content['version']} back without it")
        undoing.notes.append(f"{fault}: it was left there")
    undoing.change(VERSIONS)
    undoing.insert(ALIASES, "kept.id <> ALL(:taken)", taken=list(taken))
    for row in undoing.of(VERSIONS):
        if row.content["current_stage"] == champion.PRODUCTION:
            settle(undoing, row.content)


def settle(undoing: Undoing, row: Row) -> None:
    """See that a version which was in Production is alone there. Raises FaultError."""
    place = find_place(row)
    others = undoing.ask(IN_PRODUCTION, stage=champion.PRODUCTION, **place).scalars().all()
    if not others:
        return
    fault = f"version {others[0]} of {row['name']!r} is in Production now"
    if not undoing.leave_taken:
        raise FaultError(f"{fault}: --leave-taken brings version {row['version']} back as Archived")
    undoing.ask(MOVE, stage=champion.ARCHIVED, **place)
    undoing.notes.append(f"{fault}: version {row['version']} is Archived")


def undo_aliases(undoing: Undoing) -> None:
    """Bring back aliases; of `production` the stage too, which went with it (tracking/production.py)."""
    live = undoing.find_live(ALIASES)
    for row in undoing.of(ALIASES):
        content, what = row.content, f"alias {trash.describe(ALIASES, row.content)}"
        if row.id in live:
            now = live[row.id]["version"]
            is_same = now == content["version"]
            hint = "there is nothing to undo" if is_same else f"it names version {now}: take it away first"
            raise FaultError(f"{what} is there again: {hint}")
        if undoing.ask(STAGE, **find_place(content)).scalar() in (None, REMOVED):
            raise FaultError(f"{what}: there is no such version any more: undo its deletion first (./stack trash)")
    undoing.insert(ALIASES)
    for row in undoing.of(ALIASES):
        place = find_place(row.content)
        if row.content["alias"] != champion.ALIAS or undoing.ask(IS_PROMPT, **place).scalar():
            continue
        if others := undoing.ask(IN_PRODUCTION, stage=champion.PRODUCTION, **place).scalars().all():
            raise FaultError(
                f"version {others[0]} of {row.content['name']!r} is in Production now: ./stack promote puts "
                "another there"
            )
        undoing.ask(MOVE, stage=champion.PRODUCTION, **place)


def undo_tags(undoing: Undoing) -> None:
    """Bring back tags of models or versions."""
    relation = undoing.relation
    live = undoing.find_live(relation)
    for row in undoing.of(relation):
        content, what = row.content, f"tag {trash.describe(relation, row.content)}"
        if row.id in live:
            raise FaultError(f"{what} is set again: take it away first")
        if relation == MODEL_TAGS:
            is_there = undoing.ask(IS_THERE, workspace=content["workspace"], name=content["name"]).scalar()
        else:
            is_there = undoing.ask(STAGE, **find_place(content)).scalar() is not None
        if not is_there:
            raise FaultError(
                f"{what}: there is no such model or version any more: undo its deletion first (./stack trash)"
            )
    undoing.insert(relation)


UNDOERS: dict[str, Callable[[Undoing], None]] = {
    EXPERIMENTS: undo_marked,
    RUNS: undo_marked,
    LOGGED_MODELS: undo_marked,
    MODELS: undo_models,
    VERSIONS: undo_versions,
    ALIASES: undo_aliases,
    MODEL_TAGS: undo_tags,
    VERSION_TAGS: undo_tags,
}


def undo_grants(undoing: Undoing, users: sqlalchemy.Engine) -> int:
    """Bring back who had which right on the models; return how many rights."""
    count = 0
    with users.begin() as connection:
        for row in undoing.of(MODELS):
            asked = {"name": row.content["name"], "moment": row.moment}
            wanted, found = connection.execute(text(GRANTS), asked).one()
            if found < wanted:
                undoing.notes.append(f"{wanted - found} grants did not come back: their roles are gone, or have them")
            count += found
    return count


# --------------------------------------------------------------------------------------------------------------- all
def open_entry(connection: sqlalchemy.Connection, identifier: int, *, leave_taken: bool) -> tuple[Undoing, Any]:
    """Return an entry, locked, and what it holds. Raises FaultError if there is none."""
    # (the triggers leave alone what is done here)
    connection.execute(
        text("SELECT set_config('stack.trash', 'off', true), set_config('lock_timeout', :wait, true)"),
        {"wait": f"{champion.WAIT_SECONDS}s"},
    )
    entry = connection.execute(text(FIND_ENTRY), {"id": identifier}).scalar()
    if entry is None or connection.execute(text(LOCK_ENTRY), {"entry": entry}).scalar() is None:
        raise FaultError(f"there is no entry {identifier}: ./stack trash lists what can be undone")
    counts: dict[str, int] = dict(connection.execute(text(COUNTS), {"entry": entry}).tuples().all())
    relation = next((name for name in KINDS if name in counts), None)
    if relation is None:
        raise FaultError(f"entry {identifier} is nothing that can be brought back by itself")
    asked = {"entry": entry, "relations": [relation, *REGISTRY]}
    rows = list(connection.execute(text(ROWS), asked))
    return Undoing(connection, entry, relation, rows, leave_taken), counts


def undo(engine: sqlalchemy.Engine, users: sqlalchemy.Engine, identifier: int, *, leave_taken: bool = False) -> Undone:
    """Bring an entry back. Raises FaultError if it can't be, and then nothing of it is."""
    try:
        with engine.begin() as connection:
            undoing, counts = open_entry(connection, identifier, leave_taken=leave_taken)
            # Who changes what is in production waits (tracking/production.py).
            for name in sorted({row.content["name"] for row in undoing.rows if row.relation in REGISTRY}):
                undoing.ask("SELECT pg_advisory_xact_lock(:lock, hashtext(:name))", lock=champion.LOCK, name=name)
            UNDOERS[undoing.relation](undoing)
            what = trash.describe_rows(undoing.relation, [row.content for row in undoing.of(undoing.relation)], counts)
            undoing.ask("DELETE FROM stack.trash WHERE entry = CAST(:entry AS xid8)", entry=undoing.entry)
            # Last, before the models can be seen: who is killed in between has the entry still, and does this again.
            if undoing.relation == MODELS and (number := undo_grants(undoing, users)):
                what += f"; {number} {'grant' if number == 1 else 'grants'}"
    except IntegrityError as error:
        reason = " ".join(str(error.orig).split())
        raise FaultError(f"entry {identifier} doesn't fit what is there now: {reason}") from None
    return Undone(str(identifier), KINDS[undoing.relation], what, undoing.notes)
