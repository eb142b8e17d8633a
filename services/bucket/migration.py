"""Copy all artifacts to another store and prove that they are there: ./stack artifacts migrate.

It runs twice: while the stack serves, and again when writing is held off. What has been compared is remembered, by what
both stores say of the object: ETag, size and time name a version, and are compared with themselves only; that two
objects are the same is known by reading both. So the second run reads only what has changed, and a run that was
killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError

from tracking import store
from tracking.reading import ChangedError, Reader
from tracking.store import Store

STATE = Path("/state")
OWN = ".stack/"  # what `bucket` proves the account with
THREADS = 4
CHUNK = 1024 * 1024
SHOWN = 20
MISSING = {"404", "NoSuchKey"}
LIMITS: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "retries": {"mode": "standard", "total_max_attempts": 5},
}
# One part at a time is in memory, for each thread; S3 takes 10,000 of an object.
PART = 8 * 1024 * 1024
MAX_PARTS = 9000
KEPT = ("ContentType", "ContentEncoding", "ContentDisposition", "ContentLanguage", "CacheControl", "Metadata")
SCHEMA = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS compared (key TEXT PRIMARY KEY, source TEXT, target TEXT, sha256 TEXT) WITHOUT ROWID;
    DROP TABLE IF EXISTS source;
    DROP TABLE IF EXISTS target;
    CREATE TABLE source (key TEXT PRIMARY KEY, tag TEXT, size INTEGER) WITHOUT ROWID;
    CREATE TABLE target (key TEXT PRIMARY KEY, tag TEXT, size INTEGER) WITHOUT ROWID;
"""
# What was compared, and is as it was then on both sides.
SAME = "compared.source = source.tag AND compared.target = target.tag"
TO_DO = f"""
    SELECT source.key, target.size = source.size FROM source
    LEFT JOIN target USING (key) LEFT JOIN compared USING (key) WHERE ({SAME}) IS NOT TRUE
"""  # noqa: S608 # nosec B608 - a constant
# At the target alone: ours if we put it there and it is still that.
LEFT_OVER = """
    SELECT target.key, compared.target IS target.tag FROM target LEFT JOIN source USING (key)
    LEFT JOIN compared USING (key) WHERE source.key IS NULL
"""


@dataclass(frozen=True)
class Read:
    """An object as it was read: what its store says of it, and its bytes' digest."""

    tag: str
    sha256: str
    kept: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """An object that is the same on both sides."""

    source: str
    target: str
    sha256: str
    size: int
    was_copied: bool


def render_tag(etag: str, time: datetime, size: int) -> str:
    """Return what names a version of an object, as a listing and as an answer say it."""
    return f"{etag.strip('"')} {int(time.timestamp())} {size}"


class Hashing:
    """A body to be read, of which the digest is known in the end."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes."""
        chunk: bytes = self.body.read(size)
        self.digest.update(chunk)
        self.size += len(chunk)
        return chunk


@dataclass(frozen=True)
class Side:
    """A bucket of one of the two stores."""

    client: BaseClient
    bucket: str
    extra: dict[str, str]

    def list_objects(self) -> Iterator[tuple[str, str, int]]:
        """Yield key, tag and size of every object but our own."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", []):
                if not item["Key"].startswith(OWN):
                    yield item["Key"], render_tag(item["ETag"], item["LastModified"], item["Size"]), item["Size"]

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[tuple[Hashing, str, dict[str, Any]] | None]:
        """Give an object's body, tag and what is kept beside its bytes; None if there is none."""
        try:
            reader = Reader(self.client, Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in MISSING:
                raise
            yield None
            return
        answer = reader.answer
        tag = render_tag(answer["ETag"], answer["LastModified"], reader.size)
        with reader:
            yield Hashing(reader), tag, {name: answer[name] for name in KEPT if answer.get(name)}

    def read(self, key: str) -> Read | None:
        """Return an object's tag and digest, having read all of it."""
        with self.open(key) as opened:
            if opened is None:
                return None
            body, tag, kept = opened
            while body.read(CHUNK):
                pass
            return Read(tag, body.digest.hexdigest(), kept)

    def write(self, key: str, body: Hashing, kept: dict[str, Any], size: int) -> None:
        """Store what is read from `body`."""
        parts = TransferConfig(multipart_chunksize=max(PART, size // MAX_PARTS), use_threads=False)
        self.client.upload_fileobj(body, Bucket=self.bucket, Key=key, ExtraArgs={**kept, **self.extra}, Config=parts)


def settle(source: Side, target: Side, key: str, may_be_there: bool) -> Compared | None:
    """See to it that an object is at the target; None if it is gone from the source, or changed while it was read."""
    try:
        return settle_still(source, target, key, may_be_there)
    except ChangedError:
        return None
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING:
            raise
        return None


def settle_still(source: Side, target: Side, key: str, may_be_there: bool) -> Compared | None:
    """Do so with an object that nobody touches meanwhile. Raises ChangedError, ClientError otherwise."""
    if may_be_there:
        before, there = source.read(key), target.read(key)
        if before and there and (before.sha256, before.kept) == (there.sha256, there.kept):
            return Compared(before.tag, there.tag, before.sha256, int(before.tag.split()[-1]), was_copied=False)
    with source.open(key) as opened:
        if opened is None:
            return None
        body, tag, kept = opened
        target.write(key, body, kept, int(tag.split()[-1]))
    there = target.read(key)
    if there is None or there.sha256 != body.digest.hexdigest():
        return None
    return Compared(tag, there.tag, there.sha256, body.size, was_copied=True)


class Migration:
    """The two sides, and what is known of them."""

    def __init__(self, source: Side, target: Side, state: Path) -> None:
        self.source = source
        self.target = target
        self.known = sqlite3.connect(state, isolation_level=None)
        self.known.executescript(SCHEMA)

    def look(self) -> None:
        """List both sides."""
        for table, side in (("source", self.source), ("target", self.target)):
            self.known.execute("BEGIN")
            self.known.execute(f"DELETE FROM {table}")  # noqa: S608 # nosec B608 - a constant
            self.known.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", side.list_objects())  # noqa: S608 # nosec B608
            self.known.execute("COMMIT")

    def ask(self, query: str) -> list[Any]:
        """Return rows."""
        return self.known.execute(query).fetchall()

    def copy(self) -> None:
        """Copy and compare what has not been; remove at the target what is gone from the source."""
        self.look()
        for key, is_ours in self.ask(LEFT_OVER):
            if is_ours:
                self.target.client.delete_object(Bucket=self.target.bucket, Key=key)
                self.known.execute("DELETE FROM compared WHERE key = ?", (key,))
        to_do = self.ask(TO_DO)
        [(objects, size)] = self.ask("SELECT count(*), coalesce(sum(size), 0) FROM source")
        say(f"{objects} objects with {size} bytes; {len(to_do)} are to be copied or compared")
        copied = moved = 0
        for done, (key, result) in enumerate(self.settle_all(iter(to_do)), 1):
            if result:
                row = (key, result.source, result.target, result.sha256)
                self.known.execute("INSERT OR REPLACE INTO compared VALUES (?, ?, ?, ?)", row)
                copied, moved = copied + result.was_copied, moved + result.size * result.was_copied
            if done % 1000 == 0:
                say(f"{done} of {len(to_do)}")
        if to_do:
            say(f"{copied} objects with {moved} bytes were copied; by SHA-256 they are the same on both sides")

    def settle_all(self, to_do: Iterator[tuple[str, int | None]]) -> Iterator[tuple[str, Compared | None]]:
        """Yield what became of each, a few at a time."""
        with ThreadPoolExecutor(THREADS) as pool:
            running: dict[Future[Compared | None], str] = {}
            for key, may_be_there in to_do:
                running[pool.submit(settle, self.source, self.target, key, bool(may_be_there))] = key
                if len(running) >= 2 * THREADS:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            for future, key in running.items():
                yield key, future.result()

    def find_differences(self) -> list[str]:
        """Return a line for each object that is not known to be the same on both sides."""
        self.look()
        lines = [f"{key!r} is not the same" if same else f"{key!r} is missing there" for key, same in self.ask(TO_DO)]
        lines += [f"{key!r} is there, but not among the stack's artifacts" for key, _ in self.ask(LEFT_OVER)]
        return lines

    def describe(self) -> dict[str, Any]:
        """Return how much there is, and one digest of all keys and contents."""
        digest, count, size = hashlib.sha256(), 0, 0
        rows = self.known.execute("SELECT key, sha256, source.size FROM source JOIN compared USING (key) ORDER BY key")
        for key, sha256, length in rows:
            digest.update(f"{sha256} {json.dumps(key)}\n".encode())
            count, size = count + 1, size + length
        return {"objects": count, "bytes": size, "sha256": digest.hexdigest()}


def say(text: str) -> None:
    """Tell an operator how far it is."""
    print(f"    {text}", file=sys.stderr, flush=True)


def open_side(chosen: Store) -> Side:
    """Return a store's bucket, by the account that MLflow has there."""
    client = chosen.connect(chosen.find_credentials("client_credentials"), chosen.find_authorities(), **LIMITS)
    return Side(client, chosen.bucket, chosen.describe_upload())


def main(verb: str) -> None:
    """`copy` while the stack serves, `finish` when nobody writes; exit 1 with a line for each difference."""
    sides, faults = [], []
    for prefix in ("STACK_", "STACK_TARGET_"):
        chosen, found = store.read(os.environ, prefix)
        sides.append(chosen)
        faults += found
    if faults:
        sys.exit("\n".join(f"migration: {line}" for line in faults))
    places = "\n".join(f"{side.kind} {side.endpoint} {side.bucket}" for side in sides)
    state = STATE / f"{hashlib.sha256(places.encode()).hexdigest()[:16]}.sqlite"
    try:
        migration = Migration(open_side(sides[0]), open_side(sides[1]), state)
        migration.copy()
        if verb == "copy":
            return
        if differences := migration.find_differences():
            hidden = len(differences) - SHOWN
            lines = [f"migration: {line}" for line in differences[:SHOWN]]
            sys.exit("\n".join([*lines, *([f"migration: and {hidden} more"] if hidden > 0 else [])]))
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"migration: a store can't be used: {error}: what was copied stays, the next run goes on from here")
    print(json.dumps(migration.describe()))


if __name__ == "__main__":
    main(sys.argv[1])
