"""Command line of the artifacts container."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import sqlalchemy
import typer

from admin import moments
from admin.faults import FaultError, printable
from artifacts import catalog, collection, history, objects, report, settings, silent, trash_cli
from artifacts.survey import Tally

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
verbs = typer.Typer(no_args_is_help=True, help="Versions of artifacts: what was replaced or deleted, and back again.")
app.add_typer(verbs, name="artifacts")

Owner = Annotated[str, typer.Argument(metavar="RUN", help="id of a run, or of a logged model (m-...)")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback()
def main() -> None:
    """Administer the objects of a running stack."""


trash_cli.register(app)


def open_all() -> tuple[settings.Settings, sqlalchemy.Engine, objects.Bucket]:
    """Return the settings, the database and the bucket."""
    chosen = settings.load()
    return chosen, sqlalchemy.create_engine(chosen.database_uri), objects.open_bucket(chosen)


@verbs.command("history")
def show_history(
    run: Owner,
    path: Annotated[str | None, typer.Argument(help="file or folder; default: all")] = None,
    as_json: Json = False,
) -> None:
    """List the versions of artifacts, the newest first."""
    _, engine, bucket = open_all()
    found = history.find_artifacts(bucket, history.find_owner(engine, bucket, run), path)
    if as_json:
        print(json.dumps([describe(artifact, version) for artifact in found for version in artifact.versions]))
        return
    rows = [
        (
            artifact.path,
            artifact.shorten(version),
            moments.write(version.time),
            str(version.size),
            version.state,
            moments.write(version.ended) if version.ended else "-",
        )
        for artifact in found
        for version in artifact.versions
    ]
    report.print_table(("PATH", "VERSION", "WRITTEN", "BYTES", "STATE", "SINCE"), rows, frozenset({"BYTES"}))


def describe(artifact: history.Artifact, version: objects.Version) -> dict[str, Any]:
    """Return a version for a program."""
    return {
        "path": artifact.path,
        "version": version.identifier,
        "time": moments.write(version.time),
        "size": version.size,
        "state": version.state,
        "ended": moments.write(version.ended) if version.ended else None,
    }


@verbs.command()
def undelete(
    run: Owner,
    path: Annotated[str, typer.Argument(help="file, or folder whose deleted files come back")],
    version: Annotated[str | None, typer.Option(help="what the version's id begins with; default: the newest")] = None,
    as_json: Json = False,
) -> None:
    """Bring back what was deleted or replaced, as a new version; nothing is lost by it."""
    _, engine, bucket = open_all()
    owner = history.find_owner(engine, bucket, run)
    artifacts = history.find_artifacts(bucket, owner, path)
    chosen = history.choose_versions(owner, artifacts, path, version)
    for _, each in chosen:
        bucket.bring_back(each)
    if as_json:
        print(json.dumps([describe(artifact, each) for artifact, each in chosen]))
        return
    for artifact, each in chosen:
        print(printable(f"{artifact.path} is again what it was at {moments.write(each.time)} ({each.size} bytes)"))


def read_age(option: str, text: str) -> timedelta:
    """Return a span of time. Raises FaultError."""
    span = moments.read_span(text)
    if span is None:
        raise FaultError(f"{option} {text!r} is no span of time: write 30d, 12h or 0s")
    return span


@app.command("orphans")
def show_orphans(
    older_than: Annotated[str, typer.Option(help="nothing was written for longer: 24h, 7d")] = "24h",
    experiment: Annotated[str | None, typer.Option(help="only runs of the experiment of this name")] = None,
    mark: Annotated[bool, typer.Option("--mark", help="end them as KILLED, with a tag that says why")] = False,
    as_json: Json = False,
) -> None:
    """Show runs that are said to run, though nothing of them or of their children was written for long."""
    limit = datetime.now(UTC) - read_age("--older-than", older_than)
    _, engine, bucket = open_all()
    found = silent.find_silent(engine, bucket, limit, experiment)
    ended = [run for run in found if silent.mark(engine, run, limit)] if mark else found
    if as_json:
        rows = [dataclasses.asdict(run) | {"since": moments.write(run.since)} for run in ended]
        print(json.dumps({"marked": mark, "runs": rows}))
        return
    cells = [(run.run, run.name, run.experiment, run.user, moments.write(run.since)) for run in ended]
    report.print_table(("MARKED AS KILLED" if mark else "ORPHAN", "NAME", "EXPERIMENT", "USER", "SILENT SINCE"), cells)
    if found and not mark:
        report.note("nothing was changed: ./stack orphans --mark ends them as KILLED, with the same options")


@app.command("gc")
def collect(
    older_than: Annotated[
        str | None, typer.Option(help="what was deleted in MLflow for longer: 30d, 12h; default: STACK_TRASH_DAYS")
    ] = None,
    versions_older_than: Annotated[
        str | None, typer.Option(help="versions replaced or deleted for longer; default: STACK_VERSION_DAYS")
    ] = None,
    uploads_older_than: Annotated[
        str | None, typer.Option(help="uploads begun before and never finished; default: STACK_UPLOAD_DAYS")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="remove it; else only show what would be")] = False,
    as_json: Json = False,
) -> None:
    """Remove for good what was deleted long ago, rows and objects; show what has no row or no objects."""
    of_rows = None if older_than is None else read_age("--older-than", older_than)
    of_versions = None if versions_older_than is None else read_age("--versions-older-than", versions_older_than)
    of_uploads = None if uploads_older_than is None else read_age("--uploads-older-than", uploads_older_than)
    chosen, engine, bucket = open_all()
    now = datetime.now(UTC)
    age = (chosen.keep_rows or UNKEPT) if of_rows is None else of_rows
    of_versions = chosen.keep_versions if of_versions is None else of_versions
    limits = collection.Limits(
        rows=int((now - age).timestamp() * 1000),
        versions=None if of_versions is None else now - of_versions,
        uploads=now - (chosen.keep_uploads if of_uploads is None else of_uploads),
    )
    result = collection.apply(chosen, engine, bucket, limits) if apply else collection.look(engine, bucket, limits)
    if as_json:
        print(json.dumps(result.describe()))
    else:
        print_result(result)
    if not apply and result.has_work:
        report.note("nothing was removed: ./stack gc --apply removes it, with the same options")


@app.command(hidden=True)
def forget(prefix: str) -> None:
    """Remove for good the deleted experiments whose names begin so, as ./stack upgrade does with its own."""
    chosen, engine, bucket = open_all()
    collection.forget(chosen, engine, bucket, prefix)


def print_result(result: collection.Result) -> None:
    """Print the tables, those with something in them."""
    numbers = frozenset({"ROWS", "OBJECTS", "VERSIONS", "BYTES"})
    rows = [
        (line.what, "-" if line.rows is None else str(line.rows), *describe_tally(line.tally)) for line in result.lines
    ]
    report.print_table(("REMOVED" if result.applied else "TO REMOVE", "ROWS", *COUNTS), rows, numbers)
    if result.kept:
        print()
        names = [(catalog_name(kept.kind), kept.identifier, kept.reason) for kept in result.kept]
        report.print_table(("KEPT", "ID", "BECAUSE"), names)
    if result.survey.orphans:
        print()
        orphans = [(o.folder, o.kind, *describe_tally(o.tally)) for o in result.survey.orphans]
        report.print_table(("OBJECTS WITHOUT A ROW", "OF A", *COUNTS), orphans, numbers)
    if result.survey.missing:
        print()
        missing = [(catalog_name(m.kind), m.identifier, m.folder, str(m.former)) for m in result.survey.missing]
        report.print_table(("ROWS WITHOUT OBJECTS", "ID", "FOLDER", "VERSIONS"), missing, numbers)


COUNTS = ("OBJECTS", "VERSIONS", "BYTES")
UNKEPT = timedelta(days=30)  # what MLflow itself can restore is left alone for so long where nothing else is kept


def describe_tally(tally: Tally | None) -> tuple[str, str, str]:
    """Return the cells of a tally."""
    if tally is None:
        return "-", "-", "-"
    return str(tally.objects), str(tally.versions), report.show_size(tally.size)


def catalog_name(kind: str) -> str:
    """Return the kind of a row as people say it."""
    return {catalog.MODEL: "logged model", "version": "model version"}.get(kind, kind)
