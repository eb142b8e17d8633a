"""The database that is taken over: it is read, in one transaction or from a copy, and never changed."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess  # nosec B404: MLflow's own converter of file stores is a program
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import psycopg2  # type: ignore[import-untyped]
import sqlalchemy
from psycopg2 import sql

from admin.faults import FaultError, printable
from importer import filestore
from importer.settings import DATABASE, WORK, Order

# What a name of the host itself is called inside a container (docker-compose.yml: extra_hosts).
LOCAL = {"localhost", "127.0.0.1", "::1"}
HOST = "host.docker.internal"
COPY = WORK / "source.sqlite"
CONVERTED = WORK / "filestore.sqlite"
ROWS = 5000
# A row for Postgres's COPY: these signs would end a value or a line.
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# 18 digits, as a file store gives them, don't fit MLflow's own column in Postgres.
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class Column:
    """A column of a table of MLflow's."""

    name: str
    is_boolean: bool


class Source(Protocol):
    """What can be asked of any of the kinds."""

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows."""

    def find_tables(self) -> dict[str, list[str]]:
        """Return the columns of each table."""

    def read(self, table: str, columns: list[Column], renumbered: dict[int, int]) -> BinaryIO:
        """Return all rows of a table, as COPY reads them."""

    def close(self) -> None:
        """End it."""


def count(source: Source, table: str) -> int:
    """Return how many rows a table has."""
    return int(source.ask(f'SELECT count(*) FROM "{table}"')[0][0])  # noqa: S608 # nosec B608 - a table's own name


def count_all(source: Source) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table: count(source, table) for table in sorted(source.find_tables())}


class Lines(io.RawIOBase):
    """A file made of lines as they come."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._rest = b""

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as there is something; return by how much."""
        if not self._rest:
            self._rest = next(self._lines, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def render_cell(value: Any, is_flag: bool) -> str:
    """Return a value as COPY reads it."""
    if value is None:
        return "\\N"
    if is_flag:
        return "t" if value else "f"
    if isinstance(value, str):
        return value.translate(ESCAPES)
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return repr(value)


class Sqlite:
    """A copy of an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}", uri=True)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows."""
        return self._connection.execute(query).fetchall()

    def find_tables(self) -> dict[str, list[str]]:
        """Return the columns of each table."""
        names = self.ask("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        # (table_xinfo names computed columns too; 2 and 3 are those)
        asked = "SELECT name FROM pragma_table_xinfo('{}') WHERE hidden = 0"
        return {name: [column for (column,) in self.ask(asked.format(name))] for (name,) in names}

    def read(self, table: str, columns: list[Column], renumbered: dict[int, int]) -> BinaryIO:
        """Return all rows of a table, as COPY reads them."""
        names = ", ".join(f'"{column.name}"' for column in columns)
        cursor = self._connection.execute(f'SELECT {names} FROM "{table}"')  # noqa: S608 # nosec B608 - its own names
        flags = [column.is_boolean for column in columns]
        ids = [number for number, column in enumerate(columns) if column.name == "experiment_id"]

        def render(row: tuple[Any, ...]) -> str:
            if renumbered:
                row = tuple(
                    renumbered.get(value, value) if number in ids else value for number, value in enumerate(row)
                )
            return "\t".join(map(render_cell, row, flags)) + "\n"

        def lines() -> Iterator[bytes]:
            while rows := cursor.fetchmany(ROWS):
                text = "".join(map(render, rows))
                if "\0" in text:
                    raise FaultError(
                        f"table {table} has a value with the character NUL, which Postgres can't hold: remove it "
                        "in a copy of the source, and take over that copy"
                    )
                yield text.encode()

        return io.BufferedReader(Lines(lines()), 1024 * 1024)

    def close(self) -> None:
        """End it."""
        self._connection.close()


class Postgres:
    """A Postgres, seen as of one moment by a transaction that may not write."""

    def __init__(self, order: Order) -> None:
        try:
            url = sqlalchemy.make_url(order.uri)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise FaultError(
                "--backend-store-uri is no URL of a Postgres: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
                "with @ : / and % in a password as %40 %3A %2F %25"
            ) from None
        host = HOST if url.host in LOCAL else url.host
        options: dict[str, Any] = {**url.query, "host": host, "connect_timeout": 10}
        options |= {"port": url.port or 5432, "user": url.username, "dbname": url.database or url.username}
        if url.password is not None:
            options["password"] = str(url.password)
        try:
            self._connection = psycopg2.connect(**{name: value for name, value in options.items() if value is not None})
        except (psycopg2.OperationalError, psycopg2.ProgrammingError) as error:
            raise FaultError(
                f"--backend-store-uri {order.shown!r}: {' '.join(str(error).split())}: check host, user and password "
                "(a database of this machine is to listen where containers reach it, not on 127.0.0.1 alone)"
            ) from None
        self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        self._connection.set_client_encoding("UTF8")  # (whatever it is there: as ours takes it)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def find_tables(self) -> dict[str, list[str]]:
        """Return the columns of each table."""
        found: dict[str, list[str]] = {}
        asked = (
            "SELECT c.table_name, c.column_name FROM information_schema.columns c JOIN information_schema.tables t "
            "USING (table_schema, table_name) WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' "
            "AND c.is_generated = 'NEVER' ORDER BY c.table_name, c.ordinal_position"
        )
        for table, column in self.ask(asked):
            found.setdefault(table, []).append(column)
        return found

    def read(self, table: str, columns: list[Column], renumbered: dict[int, int]) -> BinaryIO:
        """Return all rows of a table, as COPY reads them."""
        assert not renumbered  # noqa: S101 # nosec B101 - its ids are no larger than ours
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
        statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(names, sql.Identifier(table))
        path = WORK / "table.copy"
        with path.open("wb") as file, self._connection.cursor() as cursor:
            cursor.copy_expert(statement.as_string(cursor), file)
        opened = path.open("rb")
        path.unlink()
        return opened

    def close(self) -> None:
        """End it."""
        self._connection.close()


def copy_sqlite(order: Order) -> Path:
    """Copy the file, with what is written but not in it yet. Raises FaultError."""
    path = DATABASE / str(order.file)
    parts = [path.with_name(f"{path.name}{suffix}") for suffix in ("", "-wal")]
    WORK.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        COPY.with_name(f"{COPY.name}{suffix}").unlink(missing_ok=True)

    def look() -> list[tuple[int, int] | None]:
        stats = [part.stat() if part.exists() else None for part in parts]
        return [found and (found.st_size, found.st_mtime_ns) for found in stats]

    try:
        before = look()
        for part, target in zip(parts, (COPY, COPY.with_name(f"{COPY.name}-wal")), strict=True):
            if part.exists():
                shutil.copyfile(part, target)
    except OSError as error:
        raise FaultError(
            f"--backend-store-uri {order.uri!r} can't be copied: {error.strerror}: {error.filename}"
        ) from None
    if look() != before:
        raise FaultError(f"--backend-store-uri {order.uri!r} is being written: stop the old MLflow first")
    return COPY


def open_sqlite(order: Order, path: Path) -> Sqlite:
    """Open a copy. Raises FaultError."""
    opened = Sqlite(path)
    try:
        fault = opened.ask("PRAGMA quick_check(1)")[0][0]
    except sqlite3.DatabaseError as error:
        fault = str(error)
    if fault != "ok":
        raise FaultError(
            f"--backend-store-uri {order.uri!r} is no whole SQLite database: {' '.join(str(fault).split())}"
        )
    return opened


def is_file_store(order: Order) -> bool:
    """Return whether it is a folder mlruns."""
    return order.file is not None and (DATABASE / order.file).is_dir()


def convert(order: Order) -> Path:
    """Make an SQLite database of a file store by MLflow's own command. Raises FaultError."""
    root = filestore.prepare(filestore.find_root(order), WORK)
    CONVERTED.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mlflow", "migrate-filestore", "--no-progress"]
    command += ["--source", str(root), "--target", f"sqlite:///{CONVERTED}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # nosec B603 - our own words
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise FaultError(f"mlflow migrate-filestore can't read {order.uri!r}: {printable(last)}")
    return CONVERTED


def open_source(order: Order, *, converted: bool = True) -> Source:
    """Open what is taken over; of a file store, what it was converted to. Raises FaultError."""
    if is_file_store(order):
        return open_sqlite(order, convert(order) if converted else CONVERTED)
    if order.file is not None:
        return open_sqlite(order, copy_sqlite(order))
    return Postgres(order)
