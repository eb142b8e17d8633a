"""What was deleted in MLflow and can be brought back: the rows that triggers keep (services/migrate/triggers.py).

An entry is what one transaction of MLflow's took away: a registered model with its versions, tags and aliases, say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import text

from artifacts.catalog import REMOVED

EXPERIMENTS, RUNS, LOGGED_MODELS = "experiments", "runs", "logged_models"
MODELS, VERSIONS, ALIASES = "registered_models", "model_versions", "registered_model_aliases"
MODEL_TAGS, VERSION_TAGS = "registered_model_tags", "model_version_tags"
ASSESSMENTS = "assessments"
# What an entry is called after: the first of these tables that it has rows of.
KINDS = {
    EXPERIMENTS: "experiment",
    RUNS: "run",
    LOGGED_MODELS: "logged-model",
    MODELS: "model",
    VERSIONS: "version",
    ALIASES: "alias",
    MODEL_TAGS: "tag",
    VERSION_TAGS: "tag",
}
KEYS = {
    EXPERIMENTS: ("experiment_id",),
    RUNS: ("run_uuid",),
    LOGGED_MODELS: ("model_id",),
    MODELS: ("workspace", "name"),
    MODEL_TAGS: ("workspace", "key", "name"),
    VERSIONS: ("workspace", "name", "version"),
    VERSION_TAGS: ("workspace", "key", "name", "version"),
    ALIASES: ("workspace", "name", "alias"),
}

# (a run that had been deleted before its experiment is only in the way of that experiment's entry)
ENTRIES = """
WITH rows AS (
    SELECT *, array_position(:order, relation) AS rank FROM stack.trash
    WHERE moment >= :since AND NOT (relation = 'runs' AND content ->> 'lifecycle_stage' = 'deleted')
), ranks AS (SELECT entry, min(rank) AS rank FROM rows GROUP BY entry),
counts AS (
    SELECT entry, jsonb_object_agg(relation, number) AS counts
    FROM (SELECT entry, relation, count(*) AS number FROM rows GROUP BY entry, relation) AS each GROUP BY entry
)
SELECT min(rows.id) OVER (PARTITION BY rows.entry) AS entry_id, rows.id, rows.moment, rows.relation, rows.is_change,
    rows.content, counts.counts
FROM rows JOIN ranks USING (entry, rank) JOIN counts USING (entry) ORDER BY rows.id
"""
LIVE = """
SELECT kept.id, to_jsonb(live) FROM stack.trash AS kept
CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, kept.content) AS former
JOIN {table} AS live ON {keys} WHERE kept.relation = '{table}'
"""
# (What MLflow marked is there until gc removes it, which leaves some of it alone: its entry stays as long.)
OLD = """
SELECT CAST(entry AS text) FROM stack.trash GROUP BY entry
HAVING max(moment) <= to_timestamp(CAST(:cutoff AS numeric) / 1000) AND NOT bool_or(
    (relation = 'experiments' AND EXISTS (SELECT FROM experiments WHERE lifecycle_stage = 'deleted'
        AND experiment_id = CAST(content ->> 'experiment_id' AS integer)))
    OR (relation = 'runs' AND EXISTS (SELECT FROM runs WHERE lifecycle_stage = 'deleted'
        AND run_uuid = content ->> 'run_uuid'))
    OR (relation = 'logged_models' AND EXISTS (SELECT FROM logged_models WHERE lifecycle_stage = 'deleted'
        AND model_id = content ->> 'model_id')))
"""


@dataclass(frozen=True)
class Entry:
    """What one transaction took away.

    Attributes:
        identifier: by which an operator names it.
        time: when.
        relation: the table that it is called after.
        rows: that it is called after, as they were.
        counts: how many rows it has of each table.
        state: "" if it can be brought back, else why not.
    """

    identifier: int
    time: datetime
    relation: str
    rows: list[dict[str, Any]]
    counts: dict[str, int]
    state: str

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return KINDS[self.relation]

    @property
    def what(self) -> str:
        """What it is, as an operator knows it."""
        return describe_rows(self.relation, self.rows, self.counts)


def describe(relation: str, row: dict[str, Any]) -> str:
    """Return what a row is, as an operator knows it."""
    name = row.get("name")
    return {
        EXPERIMENTS: lambda: f"{name} (id {row['experiment_id']})",
        RUNS: lambda: f"{name} ({row['run_uuid']}) in experiment {row['experiment_id']}",
        LOGGED_MODELS: lambda: f"{name} ({row['model_id']}) in experiment {row['experiment_id']}",
        MODELS: lambda: str(name),
        VERSIONS: lambda: f"{name} version {row['version']}",
        ALIASES: lambda: f"{name}@{row['alias']} (version {row['version']})",
        MODEL_TAGS: lambda: f"{row['key']} of {name}",
        VERSION_TAGS: lambda: f"{row['key']} of {name} version {row['version']}",
    }[relation]()


PARTS = {
    RUNS: ("run", "runs"),
    VERSIONS: ("version", "versions"),
    ALIASES: ("alias", "aliases"),
    ASSESSMENTS: ("assessment", "assessments"),
}


def describe_rows(relation: str, rows: list[dict[str, Any]], counts: dict[str, int]) -> str:
    """Return what an entry is, with how much there is in it."""
    shown = describe(relation, rows[0])
    if len(rows) > 1:
        shown += f" and {len(rows) - 1} more"
    parts = [
        f"{counts[each]} {words[counts[each] > 1]}"
        for each, words in PARTS.items()
        if each != relation and counts.get(each)
    ]
    return f"{shown}, with {', '.join(parts)}" if parts else shown


def read_live(connection: sqlalchemy.Connection, relation: str, where: str, **asked: Any) -> dict[int, dict[str, Any]]:
    """Return the row that is there now in the place of each that was kept, by the latter's id."""
    keys = " AND ".join(f"live.{key} = former.{key}" for key in KEYS[relation])
    query = LIVE.format(table=relation, keys=keys) + f" AND {where}"
    return dict(connection.execute(text(query), asked).tuples().all())


def find_state(relation: str, *, is_change: bool, live: dict[str, Any] | None) -> str | None:
    """Return why a row can't be brought back, "" if it can; None if it is there."""
    if not is_change:
        return "" if live is None else "its name is taken"
    if live is None:
        return "its model is gone" if relation == VERSIONS else "gone for good (./stack gc)"
    is_deleted = live["current_stage"] == REMOVED if relation == VERSIONS else live["lifecycle_stage"] == "deleted"
    return "" if is_deleted else None


def read_entries(engine: sqlalchemy.Engine, since: datetime) -> list[Entry]:
    """Return what was deleted since a moment and is not there again, the oldest first."""
    found: dict[int, list[Any]] = {}
    live: dict[str, dict[int, dict[str, Any]]] = {}
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        for row in connection.execute(text(ENTRIES), {"order": list(KINDS), "since": since}):
            found.setdefault(row.entry_id, []).append(row)
            if row.relation not in live:
                live[row.relation] = read_live(connection, row.relation, "kept.moment >= :since", since=since)
    entries: dict[object, Entry] = {}
    for identifier, rows in found.items():
        first = rows[0]
        states = [
            find_state(row.relation, is_change=row.is_change, live=live[row.relation].get(row.id)) for row in rows
        ]
        if all(state is None for state in states):
            continue
        contents, state = [row.content for row in rows], next(filter(None, states), "")
        # Of what was deleted, restored by MLflow and deleted again the newest entry counts.
        place = tuple(first.content[key] for key in KEYS[first.relation]) if first.is_change else identifier
        entries.pop((first.relation, place), None)
        entries[first.relation, place] = Entry(identifier, first.moment, first.relation, contents, first.counts, state)
    return list(entries.values())


def forget(engine: sqlalchemy.Engine, cutoff: int, *, apply: bool) -> int:
    """Remove what was deleted at `cutoff` (in milliseconds) or before, unless it is still marked; return how many."""
    with engine.begin() as connection:
        old = connection.execute(text(OLD), {"cutoff": cutoff}).scalars().all()
        if apply and old:
            connection.execute(text("DELETE FROM stack.trash WHERE entry = ANY(CAST(:old AS xid8[]))"), {"old": old})
    return len(old)


def forget_grants(users: sqlalchemy.Engine, cutoff: int) -> None:
    """Remove what was kept of grants at `cutoff` (in milliseconds) or before."""
    with users.begin() as connection:
        connection.execute(
            text("SELECT stack.forget(to_timestamp(CAST(:cutoff AS numeric) / 1000))"), {"cutoff": cutoff}
        )
