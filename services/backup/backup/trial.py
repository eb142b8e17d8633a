"""A set's database brought back on trial, beside the backups, compared with what the set says, and removed again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import text

from admin.faults import FaultError
from backup import database, pgbackrest, programs, restoring
from backup.manifest import Figures, Manifest
from backup.repository import DamageError
from backup.settings import DATABASES, PGDATA, SCRATCH

PG_CTL = f"/usr/lib/postgresql/{PGDATA.name}/bin/pg_ctl"
SOCKET = SCRATCH / "trial"
SECONDS = 3600
# What the container's memory has room for; the server has nobody to serve.
OPTIONS = (
    f"-c hba_file={SOCKET}/hba.conf -c listen_addresses='' -c unix_socket_directories={SOCKET} -c archive_mode=off "
    "-c shared_buffers=64MB -c fsync=off"
)


def try_out(folder: Path, manifest: Manifest) -> int:
    """Bring a set's database back, and compare it; return how many rows it has. Raises FaultError."""
    with brought_back(folder / "trial", manifest, "--type=name", f"--target={manifest.target}"):
        figures = look()
    lines = restoring.compare_figures(manifest.figures, figures)
    if manifest.figures.exact and (different := [line.what for line in lines if not line.is_same]):
        raise DamageError(
            f"set {manifest.name}, brought back on trial, differs from what it was: {', '.join(different)}"
        )
    return sum(table.rows for table in figures.tables.values())


@contextmanager
def brought_back(place: Path, manifest: Manifest, *target: str) -> Iterator[None]:
    """Bring a set's database back for a while, with WAL up to a target or to its end. Raises FaultError."""
    remove(place)
    try:
        place.mkdir(mode=0o700)
        until = [*target, "--target-action=promote"] if target else []
        where = [f"--pg1-path={place / PGDATA.name}", "--archive-mode=off", "--log-level-stderr=error"]
        pgbackrest.run("restore", f"--set={manifest.label}", *until, "--target-timeline=current", *where)
        with running(place / PGDATA.name):
            yield
    except OSError as error:
        raise FaultError(f"set {manifest.name} can't be brought back on trial: {error.strerror}: {place}") from None
    finally:
        remove(place)


def remove(place: Path) -> None:
    """Remove what a trial has left."""
    shutil.rmtree(place, ignore_errors=True)


def connect(name: str) -> sqlalchemy.Connection:
    """Return a connection to the database on trial."""
    uri = f"postgresql+psycopg2://postgres@/{name}?host={SOCKET}"
    return sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect()


@contextmanager
def running(data: Path) -> Iterator[None]:
    """Run a server of its own over these files, from when it has reached its target. Raises FaultError."""
    SOCKET.mkdir(exist_ok=True)
    (SOCKET / "hba.conf").write_text("local all all trust\n")  # (in this container's memory, for one user's eyes)
    log = SOCKET / "log"
    log.unlink(missing_ok=True)
    begin = [PG_CTL, f"--pgdata={data}", f"--log={log}", "--wait", f"--timeout={SECONDS}", "--silent", "start"]
    started = programs.run(*begin, f"--options={OPTIONS}")
    try:
        deadline = time.monotonic() + SECONDS
        while started.returncode == 0 and is_recovering():
            if not (data / "postmaster.pid").exists() or time.monotonic() > deadline:
                raise DamageError(f"the database does not come up on trial: {find_reason(log)}")
            time.sleep(0.2)
        if started.returncode:
            raise DamageError(f"the database does not come up on trial: {find_reason(log)}")
        yield
    finally:
        programs.run(PG_CTL, f"--pgdata={data}", "--mode=immediate", "--silent", "--wait", "stop")


def is_recovering() -> bool:
    """Return whether the server still replays WAL, or does not answer."""
    try:
        with connect("postgres") as connection:
            return bool(connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one())
    except sqlalchemy.exc.OperationalError:
        return True


def find_reason(log: Path) -> str:
    """Return the last fault that the server wrote down."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if "FATAL" in line or "PANIC" in line), "it says nothing")


def look() -> Figures:
    """Count what the databases on trial hold."""
    connections = {name: connect(name) for name in DATABASES}
    try:
        return Figures(True, database.count_rows(connections), database.read_sequences(connections))
    finally:
        database.close(connections)
