"""What is to be brought back: which set, up to which moment, with which objects, and into what."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
from sqlalchemy import text

from admin import moments
from admin.faults import FaultError
from backup import capture, database, making, pgbackrest
from backup.manifest import Item, Manifest
from backup.repository import Repository
from backup.settings import PGDATA, SOCKET

LATEST = "latest"
# What a team would miss, and how many a stack has from its start: the default experiment, and the one of the log of
# predictions. The users are admin, trainer and serving.
HELD = {"runs": 0, "registered_models": 0, "experiments": 2, "trace_info": 0, "evaluation_datasets": 0, "webhooks": 0}
WORDS = {"registered_models": "models", "trace_info": "traces", "evaluation_datasets": "datasets"}
OWN_USERS = 3
LONG_DAYS = 8  # without a set: WAL is removed with the sets that it goes with
ARCHIVE = f"postgres/archive/{pgbackrest.STANZA}/"
OWN_ARCHIVE = f"{ARCHIVE}{PGDATA.name}-"
MIGRATIONS = {"mlflow": "store/db_migrations", "auth": "server/auth/db/migrations"}


@dataclass(frozen=True)
class Plan:
    """How a moment is brought back.

    Attributes:
        manifest: of the set that it begins with.
        kind: pgBackRest's type of target.
        target: to which WAL is replayed.
        items: the objects.
        missing: those of which there is no copy.
        at: the moment, "" for the set's own.
    """

    manifest: Manifest
    kind: str
    target: str
    items: list[Item]
    missing: list[Item]
    at: str = ""


def make_plan(repository: Repository, name: str | None, at: str) -> Plan:
    """Return how a set, or a moment after it, is brought back. Raises FaultError."""
    if not at:
        manifest = repository.read(repository.choose(name))
        check_versions(manifest)
        return Plan(manifest, "name", manifest.target, manifest.live, [])
    manifests = repository.read_sets()
    if at == LATEST:
        moment = find_latest(repository, manifests)
        at = moments.write(datetime.fromtimestamp(moment, UTC))
    else:
        moment = read_moment(at)
    before = [each for each in manifests if each.moment <= moment and (name is None or each.name <= name)]
    if not before:
        oldest = moments.write(datetime.fromtimestamp(manifests[0].moment, UTC)) if manifests else "nowhere"
        raise FaultError(f"--at {at!r} is before the first set: the backups begin at {oldest}")
    check_versions(before[-1])
    check_order(manifests, before[-1], at)
    check_archive(repository, before[-1], moment, at)
    # A later set knows of what was written, replaced or deleted in between.
    listings = [repository.read_passes(), *(each.objects for each in reversed(manifests))]
    items, missing = capture.choose_at(capture.merge(listings), moment)
    target = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
    return Plan(before[-1], "time", target, items, missing, target)


def find_latest(repository: Repository, manifests: list[Manifest]) -> float:
    """Return the last moment of which rows and objects are there. Raises FaultError."""
    if not manifests:
        raise FaultError(f"{repository.shown} has no set that is whole: ./stack backup makes one")
    newest = manifests[-1]
    _, last = pgbackrest.find_gap(repository.folder, find_last_segment(newest))
    known = [making.read_name(name) for name in repository.find_passes() if name > newest.name]
    return max([moment for moment in known if moment <= last.stat().st_mtime], default=newest.moment)


def check_order(manifests: list[Manifest], chosen: Manifest, at: str) -> None:
    """Refuse a moment that the clock showed twice: WAL is replayed to the first one only. Raises FaultError."""
    later = [each for each in manifests if each.name > chosen.name]
    if later and any(each.moment < later[0].moment for each in later):
        raise FaultError(
            f"--at {at!r}: the clock went back after set {chosen.name}, so that moment is not one: choose a set, "
            "without --at"
        )


def check_versions(manifest: Manifest) -> None:
    """Refuse what this version's programs can't read. Raises FaultError."""
    # (a third of what a round of every minute would import)
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    archived = [file.path for file in manifest.files if file.path.startswith(ARCHIVE)]
    if other := [path for path in archived if not path.startswith(OWN_ARCHIVE)]:
        raise FaultError(
            f"set {manifest.name} is of another Postgres ({other[0]}), this one is {PGDATA.name}: use the version of "
            "the stack that made it"
        )
    package = importlib.util.find_spec("mlflow")  # finds, doesn't import
    folder = Path(str(package and package.origin)).parent
    for database_name, migrations in MIGRATIONS.items():
        config = Config()
        config.set_main_option("script_location", str(folder / migrations))
        revision = manifest.schemas[database_name]
        try:
            ScriptDirectory.from_config(config).get_revision(revision)
        except CommandError:
            raise FaultError(
                f"set {manifest.name} has schema {revision} of {database_name}, which this version does not know: "
                "use the version of the stack that made it, or a newer"
            ) from None


def find_unfit_keys(kind: str, items: list[Item]) -> list[str]:
    """Return the keys that a store can't hold as they are."""
    if kind != "seaweedfs":
        return []
    return [item.key for item in items if "\\" in item.key or "//" in item.key or item.key.startswith("/")]


def read_moment(at: str) -> float:
    """Return a moment in seconds. Raises FaultError."""
    try:
        moment = moments.read_date(at)
    except ValueError:
        raise FaultError(
            f"--at {at!r} is no moment: write 2026-11-25T10:00:00Z, '2026-11-25 10:00:00+00' or latest"
        ) from None
    if moment > datetime.now(UTC):
        raise FaultError(f"--at {at!r} is still to come: choose a moment that is past")
    return moment.timestamp()


def check_archive(repository: Repository, manifest: Manifest, moment: float, at: str) -> None:
    """See whether the WAL goes on from a set to a moment. Raises FaultError."""
    gap, last = pgbackrest.find_gap(repository.folder, find_last_segment(manifest))
    if gap:
        raise FaultError(f"the WAL after set {manifest.name} has a gap at {gap}: choose a set, without --at")
    end = last.stat().st_mtime
    if moment > end:
        shown = moments.write(datetime.fromtimestamp(end, UTC))
        raise FaultError(
            f"--at {at!r} is after the end of the archived WAL ({shown}): choose an earlier moment, or --at latest"
        )


def find_last_segment(manifest: Manifest) -> str:
    """Return the segment of WAL that a set's moment is in."""
    return max(Path(file.path).name[:24] for file in manifest.files if file.path.startswith(ARCHIVE))


def find_trouble(repository: Repository, now: float) -> str | None:
    """Return what is wrong with what comes after the newest set, None for nothing."""
    manifest = repository.read(repository.choose(None))
    try:
        gap, _ = pgbackrest.find_gap(repository.folder, find_last_segment(manifest))
    except FaultError as fault:  # (nothing that follows the set is there, or that can be read)
        return str(fault)
    if gap:
        return f"it has a gap at {gap}, after set {manifest.name}: ./stack backup begins anew"
    days = (now - manifest.moment) / 86400
    return f"it piles up since the newest set, {days:.0f} days ago: ./stack backup" if days > LONG_DAYS else None


def describe_state() -> str:
    """Return what the stack holds that would be replaced, "" if it is empty. Raises FaultError."""
    if not (PGDATA / "PG_VERSION").exists():
        return ""
    if not is_running():
        return "a database, which is not running"
    with database.connect("mlflow") as connection:
        has_schema = connection.execute(text("SELECT to_regclass('runs') IS NOT NULL")).scalar_one()
        if not has_schema:
            return ""
        counts = {table: count(connection, table) - free for table, free in HELD.items()}
    with database.connect("auth") as connection:
        counts["users"] = count(connection, "users") - OWN_USERS
    return ", ".join(f"{number} {WORDS.get(table, table)}" for table, number in counts.items() if number > 0)


def count(connection: sqlalchemy.Connection, table: str) -> int:
    """Return how many rows a table has, 0 if this version of the schema has no such table."""
    if not connection.execute(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": table}).scalar_one():
        return 0
    return int(connection.execute(text(database.COUNT.format(table))).scalar_one())


def is_running() -> bool:
    """Return whether Postgres answers."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"{SOCKET}/.s.PGSQL.5432")
        except OSError:
            return False
    return True


def find_run(connection: sqlalchemy.Connection, run: str) -> str:
    """Return the first whole second at which a run had ended, by its client's clock. Raises FaultError."""
    asked = text("SELECT end_time FROM runs WHERE run_uuid = :run")
    found = connection.execute(asked, {"run": run}).scalar_one_or_none()
    if found is None:
        raise FaultError(f"--at-run {run!r}: there is no such run that has ended: use --at")
    return moments.write(datetime.fromtimestamp(found // 1000 + 1, UTC))


def note_keys(manifest: Manifest, note: Callable[[str], None]) -> None:
    """Say which secrets of the set this stack has not."""
    own = making.read_fingerprints()
    if other := sorted(name for name, value in manifest.fingerprints.items() if own.get(name) != value):
        note(
            f"this stack has another {', '.join(other)} than the set's: what was encrypted by it (webhooks' secrets, "
            "keys of the AI gateway) can't be read: bring the file of ./stack secrets export by --keys"
        )
