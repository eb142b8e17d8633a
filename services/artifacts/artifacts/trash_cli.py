"""`./stack trash` and `./stack undo`: what was deleted in MLflow, and back again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import sqlalchemy
import typer

from admin import moments
from admin.faults import FaultError, printable
from artifacts import deleters, deletions, objects, report, settings, trash, undoing

KINDS = (*dict.fromkeys(trash.KINDS.values()), deletions.KIND)
OLDEST = datetime(1970, 1, 1, tzinfo=UTC)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def register(app: typer.Typer) -> None:
    """Add both verbs."""
    app.command("trash")(show_trash)
    app.command("undo")(undo)


@dataclass(frozen=True)
class Line:
    """What was deleted, as it is shown."""

    id: str
    time: str
    kind: str
    what: str
    user: str | None
    state: str


def show_trash(
    user: Annotated[str | None, typer.Option(help="what this user deleted")] = None,
    since: Annotated[str | None, typer.Option(help="2h, 7d, 2026-11-25 or 2026-11-25T18:00:00Z; default: all")] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(KINDS)}; may be said again")] = None,
    as_json: Json = False,
) -> None:
    """List what was deleted in MLflow and is not there again, the newest last."""
    for each in kind or ():
        if each not in KINDS:
            raise FaultError(f"--kind {each!r} is none of {', '.join(KINDS)}")
    chosen = settings.load()
    start = moments.read_since(since) if since is not None else OLDEST
    engine = sqlalchemy.create_engine(chosen.database_uri)
    lines = sorted(
        (line for line in find_lines(chosen, engine, start, kind or list(KINDS)) if user in (None, line.user)),
        key=lambda line: line.time,
    )
    if as_json:
        print(json.dumps([asdict(line) for line in lines]))
    else:
        cells = [(line.id, line.time, line.kind, line.user or "-", line.state or "yes", line.what) for line in lines]
        report.print_table(("ID", "DELETED", "KIND", "BY", "UNDO", "WHAT"), cells)
    if chosen.keep_rows is None:
        report.note("STACK_TRASH_DAYS is 0: what MLflow removes is not kept")


def find_lines(
    chosen: settings.Settings, engine: sqlalchemy.Engine, since: datetime, kinds: list[str]
) -> Iterator[Line]:
    """Yield what was deleted."""
    entries = [entry for entry in trash.read_entries(engine, since) if entry.kind in kinds]
    found = deletions.find_deletions(engine, objects.open_bucket(chosen), since) if deletions.KIND in kinds else []
    times = [entry.time for entry in entries] + [deletion.time for deletion in found]
    log = deleters.Deleters(list(deleters.read_lines(min(times) - deleters.BEFORE)) if times else [])
    for entry in entries:
        by = log.find_of_rows(entry)
        yield Line(str(entry.identifier), show(entry.time), entry.kind, entry.what, by, entry.state)
    for deletion in found:
        by = log.find_of_artifacts(deletion)
        yield Line(deletion.identifier, show(deletion.time), deletions.KIND, deletion.what, by, "")


def show(moment: datetime) -> str:
    """Return a moment as it is shown."""
    return moments.write(moment.astimezone(UTC))


def undo(
    identifiers: Annotated[list[str], typer.Argument(metavar="ID...", help="as ./stack trash shows it")],
    leave_taken: Annotated[
        bool, typer.Option("--leave-taken", help="bring a version back without the aliases that name others by now")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring back what was deleted, as it was. What can't be is said in a line each; the others come back."""
    chosen = settings.load()
    engine, users = sqlalchemy.create_engine(chosen.database_uri), sqlalchemy.create_engine(chosen.undo_database_uri)
    done, faults = [], []
    for identifier in identifiers:
        try:
            if re.fullmatch("[0-9]{1,18}", identifier):
                undone = undoing.undo(engine, users, int(identifier), leave_taken=leave_taken)
            else:
                undone = deletions.undo(engine, objects.open_bucket(chosen), identifier)
        except FaultError as fault:
            faults.append(str(fault))
            continue
        done.append(undone)
        if not as_json:
            print(printable(f"{undone.kind} {undone.what} is back"))
        for each in undone.notes:
            report.note(each)
    if as_json:
        print(json.dumps([asdict(undone) for undone in done]))
    if faults:
        raise FaultError("\n".join(faults))
