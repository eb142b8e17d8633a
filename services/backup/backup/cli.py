"""Command line of the backup container."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from admin import moments
from admin.faults import FaultError, printable
from artifacts import report
from artifacts.objects import Bucket
from backup import (
    capture,
    carrying,
    copying,
    database,
    expiring,
    making,
    passing,
    pgbackrest,
    planning,
    removal,
    repository,
    restoring,
    retention,
    settings,
    telling,
    trail,
    trial,
    verification,
)
from backup.making import show_size
from backup.repository import Repository
from backup.settings import ARCHIVING
from backup.shelf import ShelfError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Name = Annotated[str | None, typer.Argument(metavar="SET", help="name of a set; default: the newest")]
From = Annotated[str, typer.Option("--from", help="the folder is another, which is mounted", hidden=True)]
Asked = Annotated[bool, typer.Option("--passphrase-stdin", help="the passphrase is on standard input", hidden=True)]
At = Annotated[str, typer.Option(help="moment between sets: 2026-11-25T10:00:00Z, or latest")]


@app.callback()
def main() -> None:
    """Make, list, check and remove backups of rows and artifacts."""


@contextmanager
def opened(source: str, asked: bool) -> Iterator[Repository]:
    """Open the stack's own folder of backups, or another that is mounted."""
    passphrase = sys.stdin.readline().strip("\n") if asked else settings.read_passphrase()
    folder, shown = (settings.SOURCE, source) if source else (settings.TARGET, settings.load().shown)
    pgbackrest.configure(folder, passphrase)
    with repository.opened(folder, shown, passphrase) as found:
        yield found


@app.command()
def make(
    full: Annotated[bool, typer.Option("--full", help="copy everything again, not only what has changed")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Make a set of this moment's rows and artifacts."""
    start = time.monotonic()
    chosen = settings.load()
    passphrase = settings.read_passphrase()
    with (
        repository.alone(settings.TARGET, chosen.shown),
        repository.alone(settings.TARGET, chosen.shown, repository.OBJECTS_LOCK, waits=True),
    ):
        repository.make(settings.TARGET, chosen.shown, chosen.stack, passphrase)
        with opened("", asked=False) as found:
            repository.check_owner(settings.TARGET, chosen.shown, chosen.stack)
            made = making.make_set(chosen, found, full or is_base_damaged(found))
    manifest = made.manifest
    rows = sum(table.rows for table in manifest.figures.tables.values())
    if as_json:
        print(
            json.dumps(
                {
                    "name": manifest.name,
                    "held": made.held,
                    "seconds": time.monotonic() - start,
                    "added": manifest.copied,
                }
            )
        )
        return
    if not manifest.keys:
        print(
            "stack: note: the set is not encrypted, so it has no secrets. Keep apart what ./stack secrets export "
            "prints: without it webhooks' secrets and the like can't be read after a restore elsewhere",
            file=sys.stderr,
        )
    print(
        f"Set {manifest.name}: {rows} rows, {len(manifest.live)} objects, {show_size(manifest.size)}, of which this "
        f"backup added {show_size(manifest.copied)}, in {time.monotonic() - start:.1f} s. Removing artifacts was held "
        f"for {made.held:.1f} s."
    )
    print(f"Bring it back: ./stack restore {manifest.name} --into NAME, or --replace")


def is_base_damaged(found: Repository) -> bool:
    """Return whether a set that takes over what the last ones have may be no better than one that is damaged."""
    full = max((each.name for each in found.read_sets() if each.label.endswith("F")), default="")
    if not (damaged := [name for name in sorted(found.find_damaged()) if name >= full]):
        return False
    print(f"stack: note: {', '.join(damaged)} is damaged, so everything is copied again", file=sys.stderr)
    return True


@app.command("list")
def show(
    source: From = "",
    asked: Asked = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the sets, the newest last."""
    with opened(source, asked) as found:
        manifests, damaged = found.sort_sets()
        begun, untrue = found.find_begun(), found.find_damaged()
    if as_json:
        lines = [
            {
                "name": each.name,
                "moment": each.moment,
                "objects": len(each.live),
                "size": each.size,
                "added": each.copied,
                "label": each.label,
            }
            for each in manifests
        ]
        print(json.dumps({"sets": lines, "incomplete": begun, "damaged": sorted({*damaged, *untrue})}))
        return
    rows = [
        (
            each.name,
            moments.write(datetime.fromtimestamp(each.moment, UTC)),
            show_age(time.time() - each.moment),
            str(sum(table.rows for table in each.figures.tables.values())),
            str(len(each.live)),
            show_size(each.size),
            show_size(each.copied),
            ("full" if each.label.endswith("F") else "incremental") + (", DAMAGED" if each.name in untrue else ""),
        )
        for each in manifests
    ]
    rows += [(name, "-", "-", "-", "-", "-", "-", "incomplete") for name in begun]
    rows += [(name, "-", "-", "-", "-", "-", "-", "DAMAGED") for name in damaged]
    columns = ("SET", "MOMENT", "AGE", "ROWS", "OBJECTS", "SIZE", "ADDED", "KIND")
    report.print_table(columns, sorted(rows), frozenset({"AGE", "ROWS", "OBJECTS", "SIZE", "ADDED"}))


def show_age(seconds: float) -> str:
    """Return an age for people."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


@app.command()
def verify(
    name: Name = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="also bring its database back on trial, and compare it")
    ] = False,
) -> None:
    """Read every byte of a set again."""
    start = time.monotonic()
    with opened("", asked=False) as found:
        manifest = found.read(found.choose(name))
        try:
            read = verification.verify(found, manifest)
            if restore:
                with repository.alone(found.folder, found.shown, repository.TRIAL_LOCK, waits=True):
                    rows = trial.try_out(found.folder, manifest)
        except repository.DamageError as fault:
            with contextlib.suppress(ShelfError):  # what was found is said in any case
                found.note(manifest.name, str(fault))
            raise
        found.note(manifest.name, "")
    print(
        f"Set {manifest.name} is whole: {read.files} files of the database and {read.objects} objects read, "
        f"{show_size(read.size)} in {read.seconds:.1f} s"
    )
    if restore:
        print(
            f"Its database was brought back on trial, with {rows} rows as they were ({time.monotonic() - start:.1f} s)"
        )


@app.command("rm")
def remove(names: Annotated[list[str], typer.Argument(metavar="SET...", help="names of sets")]) -> None:
    """Remove sets, and what no other set needs; never the last one."""
    chosen = settings.load()
    with (
        repository.alone(settings.TARGET, chosen.shown),
        repository.alone(settings.TARGET, chosen.shown, repository.OBJECTS_LOCK, waits=True),
        opened("", asked=False) as found,
    ):
        repository.check_owner(settings.TARGET, chosen.shown, chosen.stack)
        freed = removal.remove(found, [found.choose(name) for name in names])
    print(f"{', '.join(names)}: removed, {show_size(freed)} of copies of objects freed")


# ------------------------------------------------------------------------------- what the container does by itself
@app.command(hidden=True)
def prepare() -> None:
    """Say what is wrong with the folder of backups; WAL is archived if there is a set that it goes with."""
    chosen, passphrase = settings.load(), settings.read_passphrase()
    pgbackrest.configure(settings.TARGET, passphrase)
    try:
        check_own(chosen)
    except repository.MissingError:
        return  # (without a backup WAL is of no use; if there are some in a former place, the rounds say that it waits)
    ARCHIVING.write_text(chosen.shown)
    with opened("", asked=False):
        pass


def check_own(chosen: settings.Settings) -> None:
    """Let no WAL come into the backups of another database, and no new ones begin where a disk is away.

    Raises MissingError where there were none yet, another FaultError for what is wrong. WAL waits meanwhile, unless it
    belongs nowhere: given up, it would be missing without anybody's being told.
    """
    try:
        repository.check_owner(settings.TARGET, chosen.shown, chosen.stack)
    except repository.OwnerError:
        ARCHIVING.unlink(missing_ok=True)
        raise
    except repository.MissingError:
        # (an earlier version named no place)
        if ARCHIVING.exists() and ARCHIVING.read_text() in ("", chosen.shown):
            raise FaultError(
                f"{chosen.shown} has no backups any more: see that its disk is there, or begin anew: ./stack backup"
            ) from None
        raise


@app.command("pass", hidden=True)
def copy_between() -> None:
    """Do what is due every minute; print what is wrong, as JSON."""
    chosen = settings.load()
    try:
        check_own(chosen)
        with opened("", asked=False) as found:
            passed = passing.go(chosen, found)
    except FaultError as fault:  # (how much WAL waits is told all the same)
        passed = passing.Passed(archive=database.find_archive_fault() or "", copies=str(fault))
    print(json.dumps(asdict(passed)))


@app.command(hidden=True)
def scheduled() -> None:
    """Make a set, and remove those that are not to be kept any more."""
    rules = retention.read_rules(os.environ.get("STACK_BACKUP_KEEP", ""))
    with contextlib.suppress(repository.MissingError):  # (a place that is new begins with this set)
        check_own(settings.load())
    make()
    with opened("", asked=False) as found:
        sets = {each.name: each.moment for each in found.read_sets()}
        expired = retention.choose_expired(sets, rules, found.find_damaged())
    if expired:
        remove(expired)


@app.command(hidden=True)
def measure() -> None:
    """Print how large the sets are, and all of it, as JSON."""
    with opened("", asked=False) as found:
        sizes = {each.name: each.size for each in found.read_sets()}
    parts = [path for top in ("files", "postgres") for path in (settings.TARGET / top).rglob("*")]
    total = 0
    for path in parts:
        with contextlib.suppress(FileNotFoundError):  # (it was removed meanwhile)
            total += path.lstat().st_size
    print(json.dumps({"sets": sizes, "all": total}))


@app.command("trial", hidden=True)
def try_newest() -> None:
    """Verify the newest set, and bring its database back on trial."""
    verify(None, restore=True)


@app.command(hidden=True)
def copy(name: Annotated[str, typer.Argument()], to: Annotated[str, typer.Option()]) -> None:
    """Copy a set into another folder, which is mounted, and verify it there."""
    with opened("", asked=False) as found:
        size = copying.copy_set(found, name, settings.COPY, to)
    passphrase = settings.read_passphrase()
    pgbackrest.configure(settings.COPY, passphrase)
    with repository.opened(settings.COPY, to, passphrase) as there:
        read = verification.verify(there, there.read(name))
        there.write_out()
    print(
        f"Set {name} is in {to} too: {show_size(size)} copied, {show_size(read.size)} read again in "
        f"{read.seconds:.1f} s"
    )
    print(f"Bring it back: ./stack restore {to}/{name} --into NAME, or --replace")


def open_place(url: str) -> carrying.Place:
    """Return a place in a bucket; its credentials come by standard input."""
    return carrying.open_place(url, os.environ, sys.stdin.read())


@app.command(hidden=True)
def carry(url: str) -> None:
    """Copy the folder of backups into a bucket, and read every byte there again."""
    carrying.carry(settings.TARGET, open_place(url))


@app.command(hidden=True)
def fetch(
    url: str,
    bucket_at: Annotated[str, typer.Option(help="as the bucket was at a moment, where it keeps versions")] = "",
) -> None:
    """Copy a folder of backups from a bucket."""
    at = ""
    if bucket_at:
        try:
            at = moments.write(moments.read_date(bucket_at))
        except ValueError:
            raise FaultError(f"--bucket-at {bucket_at!r} is no moment: write 2026-11-25T10:00:00Z") from None
    carrying.fetch(open_place(url), settings.TARGET, at)


@app.command(hidden=True)
def expire(
    url: str,
    keep: Annotated[str, typer.Option(help="what stays: the newest of so many days, weeks and months")],
    apply: Annotated[bool, typer.Option("--apply", help="remove it; without this it is only said")] = False,
) -> None:
    """Remove from a bucket the sets that need not be kept. Standard input has the passphrase's line and credentials."""
    rules = retention.read_rules(keep)
    passphrase = sys.stdin.readline().strip("\n")
    place = carrying.open_place(url, os.environ, sys.stdin.read(), "--credentials")
    folder = settings.SCRATCH / "expiring"
    folder.mkdir()
    expiring.fetch_manifests(place, folder)
    bucket = expiring.open_bucket(place)
    with repository.opened(folder, url, passphrase) as found, expiring.explained(url):
        expiry = expiring.plan(found, bucket, place.folder, rules)
    if not apply:
        print(f"{expiring.describe(expiry)}{': --apply removes them' if expiry.sets else ''}")
        return
    expiring.remove(bucket, expiry)
    print(f"{expiring.describe(expiry)}{': removed' if expiry.sets else ''}")


@app.command()
def notify(
    test: Annotated[bool, typer.Option("--test", help="send a message that says that it is a test")] = False,
) -> None:
    """Say how many get messages about backups."""
    if not test:
        urls = [telling.show(number, url) for number, url in enumerate(telling.read_urls(), start=1)]
        print(f"Messages go to {len(urls)} URLs{': number ' + ', '.join(urls) if urls else ''}")
        return
    print(f"A test went out to {telling.test()} URLs")


@app.command(hidden=True)
def tell() -> None:
    """Send the message on standard input."""
    telling.tell()


# ------------------------------------------------------------------------------------ steps of ./stack restore, in turn
@app.command(hidden=True)
def state() -> None:
    """Print what a stack holds that would be replaced; nothing if it is empty."""
    print(planning.describe_state())


@app.command(hidden=True)
def find_run(run: str, source: From = "", asked: Asked = False) -> None:
    """Print the moment at which a run had ended: asked is the running stack, or the newest set and the WAL after it."""
    if not source:
        with database.connect("mlflow") as connection:
            print(planning.find_run(connection, run))
        return
    with opened(source, asked) as found:
        newest = found.read(found.choose(None))
        planning.check_versions(newest)
        with trial.brought_back(settings.TARGET / "trial", newest), trial.connect("mlflow") as connection:
            print(planning.find_run(connection, run))


@app.command(hidden=True)
def plan(
    name: Name = None,
    source: From = "",
    asked: Asked = False,
    at: At = "",
) -> None:
    """Verify a set, and print how it is brought back: name, pgBackRest's label, type, target, keys or none, moment."""
    with opened(source, asked) as found:
        chosen = planning.make_plan(found, name, at)
        kind = settings.load().store.kind
        if unfit := planning.find_unfit_keys(kind, chosen.items):
            raise FaultError(
                f"{kind} can't hold {len(unfit)} of the objects, the first is {unfit[0]!r}: choose another store"
            )
        if not at:
            read = verification.verify(found, chosen.manifest)
        else:
            read = verification.verify(found, chosen.manifest, chosen.items)
        for item in chosen.missing:
            note(f"of that moment there is no copy of {item.key!r} ({item.size} bytes)")
    note(f"set {chosen.manifest.name} is whole: {show_size(read.size)} read in {read.seconds:.1f} s")
    kept = "keys" if chosen.manifest.keys else "none"
    fields = (chosen.manifest.name, chosen.manifest.label, chosen.kind, chosen.target, kept, chosen.at)
    print("\t".join(fields))


def note(text: str) -> None:
    """Say what an operator should know."""
    print(f"stack: note: {printable(text)}", file=sys.stderr)


@app.command(hidden=True)
def keys(name: Name = None, source: From = "", asked: Asked = False, at: At = "") -> None:
    """Print the secrets that an encrypted set has."""
    with opened(source, asked) as found:
        print(json.dumps(planning.make_plan(found, name, at).manifest.keys or {}))


@app.command(hidden=True)
def put(name: Name = None, source: From = "", asked: Asked = False, at: At = "") -> None:
    """Write the objects of a set into the store, by the account that may."""
    account = Path("/run/secrets-of-writer")
    place = settings.load().store
    client = place.connect(place.find_credentials(secrets=account), place.find_authorities(account), **capture.LIMITS)
    bucket = Bucket(client, place.bucket, place.describe_upload())
    with opened(source, asked) as found:
        chosen = planning.make_plan(found, name, at)
        done = restoring.put_objects(found, bucket, chosen.items)
    note(
        f"objects: {done.written} written, {done.kept} were there, {done.removed} others removed, "
        f"{show_size(done.size)} in all"
    )


@app.command(hidden=True)
def read_trail(name: Name = None, source: From = "", asked: Asked = False, at: At = "") -> None:
    """Print the audit log of a set as a tar."""
    with opened(source, asked) as found:
        trail.pack(found, planning.make_plan(found, name, at).manifest.audit, sys.stdout.buffer)


@app.command(hidden=True)
def put_trail() -> None:
    """Put the audit log, which comes by standard input, beside what is there, by the user that may."""
    note(f"audit log: {trail.unpack(sys.stdin.buffer)} days")


@app.command(hidden=True)
def compare(name: Name = None, source: From = "", asked: Asked = False, at: At = "") -> None:
    """Compare rows and objects with what a set says of them; exit 1 if they differ."""
    bucket = capture.open_bucket(settings.load().store)
    with opened(source, asked) as found:
        chosen = planning.make_plan(found, name, at)
    figures, objects = restoring.look_at_rows(), restoring.compare_objects(bucket, chosen.items)
    is_counted = not at and chosen.manifest.figures.exact
    if at:
        note("between two sets nothing was counted: of the rows it is only said what is there now")
        rows = [restoring.Line(name, "", str(table.rows), True) for name, table in figures.tables.items() if table.rows]
    else:
        rows = restoring.compare_figures(chosen.manifest.figures, figures)
        planning.note_keys(chosen.manifest, note)
        if not is_counted:
            note("somebody always wrote while the set was made: its rows were counted a moment before it")
    cells = [
        (line.what, line.wanted, line.found, describe(line, line in objects or is_counted)) for line in rows + objects
    ]
    report.print_table(("WHAT", "BACKUP", "RESTORED", ""), cells, frozenset({"BACKUP", "RESTORED"}))
    different = [line.what for line in (rows if is_counted else []) + objects if not line.is_same]
    if different:
        raise FaultError(f"what was brought back differs from the set: {', '.join(different)}")


def describe(line: restoring.Line, is_certain: bool) -> str:
    """Return how a line of the comparison came out, in a word."""
    if not line.wanted:
        return ""
    return "same" if line.is_same else "DIFFERENT" if is_certain else "about"
