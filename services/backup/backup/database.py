"""The rows: what there is of them, and a moment of both databases that WAL can be replayed to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import text

from admin.faults import FaultError
from backup.manifest import Figures, Table
from backup.settings import DATABASES, database_uri
from tracking import hold

# To read all of a large table would slow its users down: of these only the rows are counted.
MANY_ROWS = 200_000
TRIES = 40
HOLD_SECONDS = 60
SEGMENT_MB = 16
ARCHIVE_SECONDS = 90

TABLES = """
SELECT format('%I.%I', n.nspname, c.relname), c.reltuples
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1
"""
SEQUENCES = "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences ORDER BY 1"
# (a row's text is the same on every server of this version; the sum is the same in any order)
CHECKSUM = "SELECT count(*), md5(coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text) FROM {} t"
COUNT = "SELECT count(*) FROM {}"
VERSION = "SELECT version_num FROM {}"
VERSIONS = {"mlflow": "alembic_version", "auth": "alembic_version_auth"}
SNAPSHOT = "SELECT pg_current_snapshot()::text"
# Who writes holds a lock on its own transaction, from its first row until all others see it.
WRITERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock'"


def connect(database: str) -> sqlalchemy.Connection:
    """Return a connection that sees one moment as long as it lasts."""
    engine = sqlalchemy.create_engine(
        database_uri(database), poolclass=sqlalchemy.NullPool, isolation_level="REPEATABLE READ"
    )
    return engine.connect()


def read_sequences(connections: dict[str, sqlalchemy.Connection]) -> dict[str, int | None]:
    """Return the last values of all sequences, which no transaction keeps still."""
    return {
        f"{database}.{name}": value
        for database, connection in connections.items()
        for name, value in connection.execute(text(SEQUENCES)).all()
    }


def count_rows(connections: dict[str, sqlalchemy.Connection]) -> dict[str, Table]:
    """Count what the databases hold at the moments that these connections see."""
    tables: dict[str, Table] = {}
    for database, connection in connections.items():
        for name, estimate in connection.execute(text(TABLES)).all():
            if estimate > MANY_ROWS:
                rows, checksum = connection.execute(text(COUNT.format(name))).scalar_one(), None
            else:
                rows, checksum = connection.execute(text(CHECKSUM.format(name))).one()
            tables[f"{database}.{name}"] = Table(rows, checksum)
    return tables


def read_schemas(connections: dict[str, sqlalchemy.Connection]) -> dict[str, str]:
    """Return the revision of each database's schema."""
    return {
        database: connection.execute(text(VERSION.format(VERSIONS[database]))).scalar_one()
        for database, connection in connections.items()
    }


def look() -> Figures:
    """Count what the databases hold now."""
    connections = {database: connect(database) for database in DATABASES}
    try:
        return Figures(True, count_rows(connections), read_sequences(connections))
    finally:
        for connection in connections.values():
            connection.close()


@dataclass(frozen=True)
class Moment:
    """A moment of both databases, which stays to be seen until it was counted.

    Attributes:
        target: the restore point.
        segment: of WAL that it is in.
        time: by the database's clock, in seconds.
        exact: whether nothing was written between what is seen and the restore point.
        sequences: their last values.
        connections: which see it.
    """

    target: str
    segment: str
    time: float
    exact: bool
    sequences: dict[str, int | None]
    connections: dict[str, sqlalchemy.Connection]

    def count(self) -> tuple[Figures, dict[str, str]]:
        """Count what there was, and return the schemas' revisions too."""
        try:
            figures = Figures(self.exact, count_rows(self.connections), self.sequences)
            return figures, read_schemas(self.connections)
        finally:
            close(self.connections)


def close(connections: dict[str, sqlalchemy.Connection]) -> None:
    """Close connections."""
    for connection in connections.values():
        connection.close()


@contextmanager
def held() -> Iterator[None]:
    """Let nobody remove objects meanwhile. Raises FaultError."""
    try:
        with hold.holding(hold.open_engine(database_uri("mlflow")), HOLD_SECONDS):
            yield
    except hold.HeldError:
        raise FaultError(
            f"somebody removed artifacts for longer than {HOLD_SECONDS} s (./stack gc?): try again"
        ) from None


def take_moment(name: str) -> Moment:
    """Set a restore point, beside connections that see the rows as they are there.

    Writers go on. They are seen to have written nothing between the connections' moment and the restore point if after
    it nobody is about to, and nobody has since; where somebody always is, the moment is said not to be exact.

    A snapshot does not show a transaction that is newer than all that have ended, and the record of a commit is in the
    WAL before others see the rows: so after the restore point it counts who holds a lock, and then looks whether
    somebody has ended since the beginning.
    """
    engine = sqlalchemy.create_engine(
        database_uri("postgres"), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
    )
    asked = text("SELECT pg_create_restore_point(:name), extract(epoch FROM clock_timestamp())")
    with engine.connect() as marker:
        for attempt in range(TRIES):
            before = marker.execute(text(SNAPSHOT)).scalar_one()
            connections = {database: connect(database) for database in DATABASES}
            sequences = read_sequences(connections)  # (from here on each sees one moment)
            target = f"{name}-{attempt}"
            lsn, now = marker.execute(asked, {"name": target}).one()
            writers = marker.execute(text(WRITERS)).scalar_one()
            exact = writers == 0 and before == marker.execute(text(SNAPSHOT)).scalar_one()
            if exact or attempt == TRIES - 1:
                break
            close(connections)
            time.sleep(0.01 * (attempt % 5))
        segment = marker.execute(text("SELECT pg_walfile_name(:lsn)"), {"lsn": lsn}).scalar_one()
        marker.execute(text("SELECT pg_switch_wal()"))
    return Moment(target, segment, float(now), exact, sequences, connections)


@dataclass(frozen=True)
class Handed:
    """WAL that Postgres is told to hand over: which segment, by the database's clock, and up to which transaction."""

    segment: str
    time: float
    transaction: str


def hand_over(former: str) -> Handed | None:
    """Let Postgres hand over what was written since a transaction; None if nothing was."""
    engine = sqlalchemy.create_engine(
        database_uri("postgres"), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        transaction = connection.execute(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")).scalar_one()
        if transaction == former:
            return None
        now = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        segment = connection.execute(text("SELECT pg_walfile_name(pg_switch_wal() - 1)")).scalar_one()
    return Handed(segment, float(now), transaction)


def wait_for_archive(segment: str, seconds: float = ARCHIVE_SECONDS) -> None:
    """Return when Postgres has handed a segment of WAL over. Raises FaultError."""
    engine = sqlalchemy.create_engine(
        database_uri("postgres"), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
    )
    asked = text("SELECT last_archived_wal, last_failed_wal, archived_count, failed_count FROM pg_stat_archiver")
    deadline = time.monotonic() + seconds
    with engine.connect() as connection:
        while time.monotonic() < deadline:
            row: Any = connection.execute(asked).one()
            # (names of one timeline come in order; what follows a restore begins with a higher one)
            if row.last_archived_wal is not None and row.last_archived_wal[:24] >= segment:
                return
            time.sleep(0.1)
    raise FaultError(
        f"Postgres has not handed over WAL {segment} within {seconds:.0f} s ({row.failed_count} failures, the last "
        f"of {row.last_failed_wal}): ./stack logs postgres says why"
    )


def find_archive_fault() -> str | None:
    """Return what is wrong with the handing over of WAL, None for nothing."""
    asked = text(
        "SELECT last_failed_time > coalesce(last_archived_time, '-infinity') AS fails, last_failed_wal, "
        "(SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') AS waiting FROM pg_stat_archiver"
    )
    engine = sqlalchemy.create_engine(database_uri("postgres"), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        row: Any = connection.execute(asked).one()
    if not row.fails:
        return None
    return f"Postgres can't hand over {row.last_failed_wal}, {row.waiting * SEGMENT_MB} MB wait: ./stack logs postgres"
