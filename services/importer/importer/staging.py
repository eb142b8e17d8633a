"""The rows: first into a schema of their own, at the source's version of MLflow.

There they are brought up to date, and take the place of the empty tables in one transaction. A kill at any moment
leaves the stack empty, or with everything.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg2  # type: ignore[import-untyped]
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from admin.faults import FaultError
from importer.settings import Order
from importer.source import LARGEST_ID, Column, Source, count, count_all

SCHEMA = "stack_import"
VERSION = "alembic_version"
LOCK = 0x696D70  # any number but those of the other locks; "imp" in ASCII
NEEDED = {"experiments", "runs", "metrics", "params", "tags", "registered_models", "model_versions"}
# Encrypted with keys that the old server has, or of work that was under way there.
LEFT = {
    "webhooks": "webhooks",
    "webhook_events": "webhooks",
    "secrets": "AI gateway",
    "endpoints": "AI gateway",
    "endpoint_model_mappings": "AI gateway",
    "endpoint_bindings": "AI gateway",
    "endpoint_tags": "AI gateway",
    "model_definitions": "AI gateway",
    "guardrails": "AI gateway",
    "guardrail_configs": "AI gateway",
    "budget_policies": "AI gateway",
    "jobs": "jobs",
    "job_locks": "jobs",
    "scheduler_leases": "jobs",
}
ACCOUNTS = {"users", "roles", "alembic_version_auth"}
MANY = 200_000
# Of an experiment that got another id: a file store's have 18 digits.
FORMER_ID = "import.experiment_id"


class Staged(msgspec.Struct, frozen=True):
    """What is in the schema, written when it is whole.

    Attributes:
        fingerprint: of the source.
        counted: rows of each table there, when they were read.
        copied: rows of each table, as read back.
        renumbered: experiments with another id.
        left: what was not taken over.
        runs: of a file store, how many there were.
    """

    fingerprint: str
    counted: dict[str, int]
    copied: dict[str, int]
    renumbered: dict[int, int]
    left: list[str]
    runs: int | None = None


Report = Callable[[str], None]


def open_engine(uri: str, schema: str = SCHEMA) -> sqlalchemy.Engine:
    """Return an engine whose statements are about the tables of one schema."""
    options = {"options": f"-csearch_path={schema}"}
    return sqlalchemy.create_engine(uri, connect_args=options, poolclass=sqlalchemy.NullPool)


def describe_state(uri: str) -> str:
    """Return what the stack holds, "" if it is empty."""
    with open_engine(uri, "public").connect() as connection:
        return describe(connection)


def describe(connection: Any) -> str:
    """Return what the stack holds, "" if it is empty."""
    asked = {
        "runs": "runs",
        "models": "registered_models",
        "experiments besides Default": "experiments WHERE experiment_id <> 0",
        "logged models": "logged_models",
        "traces": "trace_info",
        "webhooks": "webhooks",
        "datasets": "evaluation_datasets",
        "AI gateway endpoints": "endpoints",
    }
    # (not all are there in an older schema, none before the first migration)
    there = set(sqlalchemy.inspect(connection).get_table_names())
    found = {
        what: connection.execute(text(f"SELECT count(*) FROM {rows}")).scalar_one()  # noqa: S608 # nosec B608
        for what, rows in asked.items()
        if rows.partition(" ")[0] in there
    }
    return ", ".join(f"{number} {what}" for what, number in found.items() if number)


def read_mark(uri: str) -> str:
    """Return what the last takeover has noted on the table of experiments."""
    with open_engine(uri, "public").connect() as connection:
        return connection.execute(text("SELECT obj_description(to_regclass('experiments'))")).scalar() or ""


def read_staged(uri: str) -> Staged | None:
    """Return what is in the schema from an earlier run, if it is whole."""
    with open_engine(uri).connect() as connection:
        found = connection.execute(
            text("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = :name"),
            {"name": SCHEMA},
        ).scalar()
    return msgspec.json.decode(found, type=Staged) if found else None


def open_scripts() -> ScriptDirectory:
    """Return MLflow's migrations, without MLflow, whose import takes seconds."""
    package = importlib.util.find_spec("mlflow")
    if package is None or package.origin is None:
        raise FaultError("MLflow is not in the image: build it again by ./stack up")
    config = Config()
    config.set_main_option("script_location", str(Path(package.origin).parent / "store/db_migrations"))
    return ScriptDirectory.from_config(config)


def find_revision(source: Source, shown: str) -> str:
    """Return which version of MLflow's schema the source has. Raises FaultError."""
    tables = source.find_tables()
    if VERSION not in tables or NEEDED - tables.keys():
        missing = sorted((NEEDED | {VERSION}) - tables.keys())
        raise FaultError(f"--backend-store-uri {shown!r} is no database of MLflow's: it has no table {missing[0]}")
    rows = source.ask(f"SELECT version_num FROM {VERSION}")  # noqa: S608 # nosec B608 - a constant
    revision = str(rows[0][0]) if len(rows) == 1 else f"of {len(rows)} rows"
    try:
        open_scripts().get_revision(revision)
    except CommandError:
        raise FaultError(
            f"--backend-store-uri {shown!r} has schema {revision}, which this stack's MLflow does not know: it is of a "
            "newer MLflow than this stack's, which is to be upgraded first"
        ) from None
    if "workspace" in tables["experiments"]:
        spaces = [name for (name,) in source.ask("SELECT DISTINCT workspace FROM experiments") if name != "default"]
        if spaces:
            raise FaultError(f"--backend-store-uri {shown!r} has the workspace {spaces[0]!r}: this stack has none")
    return revision


def find_left(source: Source) -> list[str]:
    """Return what is there and not taken over."""
    tables = source.find_tables()
    left = {LEFT[name] for name in tables.keys() & LEFT.keys() if count(source, name)}
    return sorted(left) + (["user accounts"] if tables.keys() & ACCOUNTS else [])


def renumber(source: Source) -> dict[int, int]:
    """Return a new id for each experiment whose own doesn't fit MLflow's column in Postgres."""
    ids = sorted(int(row[0]) for row in source.ask("SELECT experiment_id FROM experiments"))
    taken = {identifier for identifier in ids if identifier <= LARGEST_ID}
    found: dict[int, int] = {}
    following = 1
    for identifier in ids:
        if identifier > LARGEST_ID:
            while following in taken:
                following += 1
            taken.add(following)
            found[identifier] = following
    return found


def make_schema(uri: str, revision: str) -> None:
    """Make MLflow's empty tables, as that revision has them."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = open_engine(uri)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    Base.metadata.create_all(engine)
    config = _get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def copy_rows(
    uri: str, source: Source, renumbered: dict[int, int], report: Report
) -> tuple[dict[str, int], dict[str, int]]:
    """Copy all rows; return how many each table had, and has. Raises FaultError."""
    engine = open_engine(uri)
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    there = source.find_tables()
    counted: dict[str, int] = {}
    with engine.begin() as connection:
        names = ", ".join(f'"{name}"' for name in metadata.tables if name != VERSION)
        connection.execute(text(f"TRUNCATE {names}"))  # (a migration may have put a row there)
        bonds = loosen(connection)
        for table in metadata.tables.values():
            if table.name == VERSION or table.name not in there or table.name in LEFT:
                continue
            columns = find_columns(table, there[table.name])
            counted[table.name] = count(source, table.name)
            if counted[table.name] >= MANY:
                report(f"{counted[table.name]} rows of {table.name}")
            if counted[table.name]:
                copy_table(connection, table.name, columns, source, renumbered)
        tie(connection, bonds)
        reset_sequences(connection, metadata)
        copied = {
            name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()  # noqa: S608 # nosec B608
            for name in counted
        }
    if different := [name for name in counted if counted[name] != copied[name]]:
        name = different[0]
        raise FaultError(f"table {name}: {counted[name]} rows are in the source, {copied[name]} were copied: try again")
    return counted, copied


def find_columns(table: sqlalchemy.Table, there: list[str]) -> list[Column]:
    """Return the columns to be filled. Raises FaultError if the source has others."""
    found = [
        Column(column.name, isinstance(column.type, sqlalchemy.Boolean))
        for column in table.columns
        if column.computed is None
    ]
    if odd := sorted({column.name for column in found} ^ set(there)):
        raise FaultError(
            f"table {table.name} of the source differs from MLflow's of that version by its column {odd[0]}: "
            "run `mlflow db upgrade` on a copy of it, and take over that copy"
        )
    return found


def loosen(connection: Any) -> list[tuple[str, str, str]]:
    """Drop the foreign keys: to check them row by row takes longer than to copy; return them."""
    asked = text(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = to_regnamespace(:name)"
    )
    bonds = [tuple(row) for row in connection.execute(asked, {"name": SCHEMA})]
    for table, name, _ in bonds:
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    return bonds


def tie(connection: Any, bonds: list[tuple[str, str, str]]) -> None:
    """Make the foreign keys again, which checks all rows. Raises FaultError."""
    for table, name, definition in bonds:
        try:
            connection.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"))
        except sqlalchemy.exc.IntegrityError as error:
            raise FaultError(
                f"table {table} of the source has rows that belong to nothing: {' '.join(str(error.orig).split())}: "
                "remove them in a copy of the source, and take over that copy"
            ) from None


def copy_table(connection: Any, name: str, columns: list[Column], source: Source, renumbered: dict[int, int]) -> None:
    """Copy the rows of one table. Raises FaultError."""
    names = ", ".join(f'"{column.name}"' for column in columns)
    with source.read(name, columns, renumbered) as rows:
        cursor = connection.connection.cursor()
        try:
            cursor.copy_expert(f'COPY "{name}" ({names}) FROM STDIN', rows, 1024 * 1024)
        except psycopg2.Error as error:
            said = " ".join(str(error).split())
            raise FaultError(
                f"table {name} of the source has a row that MLflow's schema in Postgres doesn't take: {said}: "
                "correct it in a copy of the source, and take over that copy"
            ) from None
        finally:
            cursor.close()


def reset_sequences(connection: Any, metadata: sqlalchemy.MetaData) -> None:
    """Let numbers that are given from now on follow those that are there."""
    for table in metadata.tables.values():
        for column in table.columns:
            asked = text("SELECT pg_get_serial_sequence(:name, :column)")
            names = {"name": f'{SCHEMA}."{table.name}"', "column": column.name}
            if isinstance(column.type, sqlalchemy.Integer) and (sequence := connection.execute(asked, names).scalar()):
                # (names are MLflow's own)
                largest = f'SELECT max("{column.name}") FROM "{table.name}"'  # noqa: S608 # nosec B608
                connection.execute(text(f"SELECT setval('{sequence}', greatest(({largest}), 1))"))  # nosec B608


def stage(uri: str, source: Source, order: Order, runs: int | None, report: Report) -> Staged:
    """Bring all rows into the schema, up to date and with the stack's own URIs. Raises FaultError."""
    from importer import locations

    revision = find_revision(source, order.shown)
    renumbered = renumber(source)
    make_schema(uri, revision)
    counted, copied = copy_rows(uri, source, renumbered, report)
    left = find_left(source)
    upgrade(uri)
    engine = open_engine(uri)
    with engine.begin() as connection:
        for former, new in renumbered.items():
            connection.execute(
                text("INSERT INTO experiment_tags (experiment_id, key, value) VALUES (:id, :key, :value)"),
                {"id": new, "key": FORMER_ID, "value": str(former)},
            )
        locations.rewrite(connection)
        staged = Staged(order.fingerprint, counted, copied, renumbered, left, runs)
        note = msgspec.json.encode(staged).decode().replace("'", "''").replace(":", "\\:")
        connection.execute(text(f"COMMENT ON SCHEMA {SCHEMA} IS '{note}'"))
    return staged


def upgrade(uri: str) -> None:
    """Bring the schema to this version's."""
    from mlflow.store.db.utils import _upgrade_db, _verify_schema

    engine = open_engine(uri)
    try:
        _upgrade_db(engine)
    except sqlalchemy.exc.DBAPIError as error:
        raise FaultError(
            f"MLflow's own migration doesn't take the source's rows: {' '.join(str(error.orig).split())}: correct them "
            "in a copy of the source, and take over that copy"
        ) from None
    _verify_schema(engine)


def is_unchanged(source: Source, staged: Staged) -> bool:
    """Return whether the source has as many rows as when it was read."""
    now = count_all(source)
    return all(now.get(name) == number for name, number in staged.counted.items())


def count_here(uri: str, schema: str, tables: list[str]) -> dict[str, int]:
    """Return how many rows tables have; those that MLflow has no longer are not in it."""
    engine = open_engine(uri, schema)
    there = set(sqlalchemy.inspect(engine).get_table_names())
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()  # noqa: S608 # nosec B608
            for name in tables
            if name in there
        }


def switch(uri: str, mark: str) -> None:
    """Let the tables take the place of the empty ones. Raises FaultError."""
    engine = open_engine(uri, "public")
    with engine.begin() as connection:
        if holds := describe(connection):
            raise FaultError(f"the stack holds {holds} by now: nothing was taken over")
        tables = sqlalchemy.inspect(connection)
        for name in tables.get_table_names(schema="public"):
            connection.execute(text(f'DROP TABLE public."{name}" CASCADE'))
        for name in tables.get_table_names(schema=SCHEMA):
            connection.execute(text(f'ALTER TABLE {SCHEMA}."{name}" SET SCHEMA public'))
        # (MLflow's triggers have functions)
        functions = text(
            "SELECT oid::regprocedure::text, pronamespace = 'public'::regnamespace FROM pg_proc"
            " WHERE pronamespace IN ('public'::regnamespace, to_regnamespace(:name))"
        )
        for name, is_former in sorted(connection.execute(functions, {"name": SCHEMA}), key=lambda row: not row[1]):
            what = f"DROP FUNCTION {name}" if is_former else f"ALTER FUNCTION {name} SET SCHEMA public"
            connection.execute(text(what))
        connection.execute(text(f"DROP SCHEMA {SCHEMA}"))  # (if anything else were in it, this would fail)
        # (what keeps deleted rows is gone with the tables: the next `migrate` makes it again)
        if connection.execute(text("SELECT to_regclass('stack.trash')")).scalar():
            connection.execute(text("COMMENT ON TABLE stack.trash IS 'off'"))
        quoted = mark.replace("'", "''").replace(":", "\\:")
        connection.execute(text(f"COMMENT ON TABLE public.experiments IS '{quoted}'"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
