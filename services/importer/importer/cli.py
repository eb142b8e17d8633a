"""The two steps of ./stack import-mlflow: look, then take over."""

from __future__ import annotations

import sqlite3
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
import typer
from sqlalchemy import text

from admin.faults import FaultError, printable
from artifacts import report
from importer import filestore, locations, objects, settings, source, staging
from importer.settings import Order
from importer.source import Source
from importer.staging import Staged

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
SHOWN = 20
TAKEN = "taken over"


@app.callback()
def main() -> None:
    """Take over what another MLflow holds."""


def say(line: str) -> None:
    """Tell an operator how far it is."""
    print(f"    {printable(line)}", file=sys.stderr, flush=True)


def note(line: str) -> None:
    """Say what an operator should know."""
    print(f"stack: note: {printable(line)}", file=sys.stderr, flush=True)


def describe_mark(order: Order) -> str:
    """Return what is noted in the database when this source has been taken over."""
    return f"{TAKEN} from {order.shown} ({order.fingerprint})"


@app.command()
def check() -> None:
    """See whether the stack is empty, and the source fit; print what is noted if it has been taken over already."""
    order = settings.read_order(sys.stdin.buffer.read())
    uri, _ = settings.load()
    if staging.read_mark(uri).startswith(describe_mark(order)):
        print(staging.read_mark(uri))
        return
    if holds := staging.describe_state(uri):
        raise FaultError(
            f"the stack holds {holds}: take over into an empty one (STACK_NAME=other ./stack import-mlflow ...)"
        )
    if source.is_file_store(order):
        filestore.find_root(order)
        return
    with_source = source.open_source(order)
    try:
        staging.find_revision(with_source, order.shown)
    except (sqlite3.DatabaseError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise FaultError(f"--backend-store-uri {order.shown!r} can't be read: {error}") from None
    finally:
        with_source.close()


@app.command()
def take() -> None:
    """Take over all, and compare."""
    begun = time.monotonic()
    order = settings.read_order(sys.stdin.buffer.read())
    uri, store = settings.load()
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as lock:
        if not lock.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": staging.LOCK}).scalar():
            raise FaultError("another ./stack import-mlflow is at work on this stack: wait for its end")
        side = objects.open_side(order)
        say("Listing the artifacts")
        listed = list(side.list())
        staged = stage(order, uri)
        say(f"Rows are there after {time.monotonic() - begun:.0f} s")
        with staging.open_engine(uri).connect() as connection:
            owners = locations.read_owners(connection)
            found, strays = objects.match(listed, owners)
            objects.refuse_unfit(store.kind, found)
            folders = locations.find_folders(each.key for each in found)
            missing, outside = locations.find_missing(connection, folders), locations.find_outside(connection)
        target = objects.Target(store)
        there = target.measure()
        absent = [each for each in found if there.get(each.key) != each.size]
        say(f"Copying {len(absent)} artifacts, {report.show_size(sum(each.size for each in absent))}")
        target.copy(side, absent, say)
        say(f"Comparing {len(found)} artifacts after {time.monotonic() - begun:.0f} s")
        different = target.compare(side, found)
        if different:  # (of the same size, from a run that was killed)
            target.copy(side, different, say)
            different = target.compare(side, different)
        lines = compare_rows(uri, staged)
        switched = not different and all(line[4] == "yes" for line in lines)
        if switched:
            staging.switch(uri, f"{describe_mark(order)} at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    size = report.show_size(sum(each.size for each in found))
    same = len(found) - len(different)
    lines.append(("artifacts", str(len(found)), str(same), size, "no" if different else "yes"))
    report.print_table(("WHAT", "SOURCE", "HERE", "BYTES", "SAME"), lines, frozenset({"SOURCE", "HERE", "BYTES"}))
    print_notes(order, staged, missing, outside, 0 if source.is_file_store(order) else strays)
    if not switched:
        wrong = ", ".join(each.key for each in different[:SHOWN]) or "rows"
        raise FaultError(f"not all is the same ({wrong}): nothing was taken over; the same command tries again")
    clean()
    print(f"Taken over in {time.monotonic() - begun:.0f} s: rows by number in each table, artifacts by SHA-256")


def stage(order: Order, uri: str) -> Staged:
    """Bring the rows in, or go on with those that an earlier run brought."""
    files = source.is_file_store(order)
    runs = filestore.count_runs(filestore.find_root(order)) if files else None
    earlier = staging.read_staged(uri)
    if earlier and earlier.fingerprint == order.fingerprint and files and earlier.runs == runs:
        say("The rows are there from a run before")
        return earlier
    if files:
        say(f"Reading {runs} runs of the file store")
    opened: Source = source.open_source(order)
    try:
        if earlier and earlier.fingerprint == order.fingerprint and not files and staging.is_unchanged(opened, earlier):
            say("The rows are there from a run before")
            return earlier
        say("Copying the rows")
        return staging.stage(uri, opened, order, runs, say)
    finally:
        opened.close()


def compare_rows(uri: str, staged: Staged) -> list[tuple[str, str, str, str, str]]:
    """Return a line for each table with rows, one for all that have none."""
    here = staging.count_here(uri, staging.SCHEMA, list(staged.counted))
    lines, changed = [], []
    empty = 0
    for name, number in staged.counted.items():
        if not number:
            empty += 1
            continue
        now = here.get(name, 0) - (len(staged.renumbered) if name == "experiment_tags" else 0)
        # What was copied is what was there; where MLflow's own migration moves rows to another table, that is said.
        if now != number:
            changed.append(name)
        lines.append((name, str(number), str(now), "", "yes" if staged.copied[name] == number else "no"))
    if changed:
        note(f"MLflow's migration to its newer schema has changed the number of rows of {', '.join(changed)}")
    lines.append(("tables without rows", str(empty), str(empty), "", "yes"))
    return lines


def print_notes(order: Order, staged: Staged, missing: list[str], outside: list[str], strays: int) -> None:
    """Say what is not as it was."""
    for former, new in staged.renumbered.items():
        note(f"experiment {former} has the id {new} here (its own is too large for Postgres): tag {staging.FORMER_ID}")
    if staged.left:
        note(f"not taken over: {', '.join(staged.left)} (encrypted with the old server's keys, or of work under way)")
    if "user accounts" not in staged.left:
        note("user accounts of the old server (basic_auth.db) are not taken over: ./stack user import makes new ones")
    if strays:
        note(f"{strays} objects below {order.artifacts} belong to no run, model or trace: they were left there")
    for what, lines in (
        ("has no artifacts in the source", missing),
        ("names files outside the artifacts, which stay where they are", outside),
    ):
        for line in lines[:SHOWN]:
            note(f"{line} {what}")
        if len(lines) > SHOWN:
            note(f"and {len(lines) - SHOWN} more")


def clean() -> None:
    """Remove what was only for the way."""
    for path in settings.WORK.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name == "mlruns":
            import shutil

            shutil.rmtree(Path(path))
