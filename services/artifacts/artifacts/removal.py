"""Removing rows and objects so that a kill at any moment leaves nothing half done.

A row goes first, in one transaction that checks once more that it is still deleted and unused; its objects after.
Before both, what is to go is written down in the bucket: whoever comes next finishes it, or forgets it if the rows are
still there. So a run is whole or gone: one that is restored before its turn has lost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy
from sqlalchemy import text

from admin.faults import FaultError
from artifacts import catalog
from artifacts.catalog import EXPERIMENT, MODEL, QUERIES, RUN, Catalog, Thing
from artifacts.objects import Bucket, Version
from artifacts.places import OWN, find_folder
from artifacts.plan import Kept, Unit, find_surviving_folders, make_plan
from artifacts.survey import split_expired
from tracking import hold

LOCK = 0x6763  # any number but migrate's; "gc" in ASCII
NOTES = f"{OWN}gc/"
COLUMNS = {RUN: "run_uuid", MODEL: "model_id", EXPERIMENT: "experiment_id"}
MANY = 50_000  # versions that are held in memory


@contextmanager
def lock(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Be the only one who removes. Raises FaultError if somebody else does. The lock ends with its connection."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}).scalar():
            raise FaultError("another ./stack gc --apply is at work: wait for its end")
        try:
            with hold.removing(hold.open_engine(str(engine.url))):
                yield
        except hold.HeldError:
            raise FaultError("a backup is being made: wait for its end") from None
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


class Notes:
    """What was about to be removed, in the bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def write(self, unit: Unit, folders: list[str]) -> str:
        """Write a note; return its key."""
        key = f"{NOTES}{unit.kind}-{unit.identifier}.json"
        content = json.dumps({"kind": unit.kind, "id": unit.identifier, "folders": folders})
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=content.encode())
        return key

    def find(self) -> list[str]:
        """Return the keys of the notes that somebody left."""
        return [versions[0].key for versions in self.bucket.walk(NOTES) if not versions[0].is_marker]

    def read(self, key: str) -> dict[str, Any]:
        """Return a note."""
        body = self.bucket.client.get_object(Bucket=self.bucket.name, Key=key)["Body"].read()
        note: dict[str, Any] = json.loads(body)
        return note

    def erase(self, key: str) -> None:
        """Remove a note with its versions."""
        self.bucket.remove([version for versions in self.bucket.walk(key) for version in versions])


def finish(engine: sqlalchemy.Engine, bucket: Bucket) -> tuple[int, list[Kept]]:
    """Finish what somebody began who was killed; return how many notes there were, and what stays."""
    notes, kept = Notes(bucket), []
    keys = notes.find()
    for key in keys:
        note = notes.read(key)
        known = catalog.read_catalog(engine)
        if not any((thing.kind, thing.identifier) == (note["kind"], note["id"]) for thing in known.things):
            survivors = find_surviving_folders(known, bucket.name, [])
            for folder in note["folders"]:
                if label := survivors.find_inside(folder):
                    kept.append(Kept(note["kind"], note["id"], f"{label} has its objects in {folder}"))
                else:
                    bucket.remove_folder(folder)
        notes.erase(key)
    return len(keys), kept


class Remover:
    """Removes rows by MLflow's own functions, as `mlflow gc` does, and then their objects."""

    def __init__(self, engine: sqlalchemy.Engine, uri: str, bucket: Bucket) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.engine = engine
        self.bucket = bucket
        self.notes = Notes(bucket)
        self.store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
        self.open_session: Callable[..., Any] = self.store.ManagedSessionMaker

    def remove(self, unit: Unit, cutoff: int) -> bool:
        """Remove a unit for good; return False if it is not to go any more."""
        folders = list(unit.folders)
        if unit.kind == EXPERIMENT:
            with self.engine.connect() as connection:
                folders += self._find_traces_elsewhere(connection, unit)
        key = self.notes.write(unit, folders)
        is_gone = self._remove_rows(unit, cutoff)
        if is_gone:
            for folder in folders:
                self.bucket.remove_folder(folder)
        self.notes.erase(key)
        return is_gone

    def _find_traces_elsewhere(self, connection: Any, unit: Unit) -> list[str]:
        locations = catalog.find_trace_locations(connection, int(unit.identifier))
        folders = filter(None, (find_folder(location, self.bucket.name) for location in locations))
        return sorted({folder for folder in folders if not folder.startswith(unit.folders)})

    def _remove_rows(self, unit: Unit, cutoff: int) -> bool:
        with self.open_session(read_only=False) as session:
            if not is_still_to_go(session, unit, self.bucket.name, cutoff):
                return False
            # MLflow's functions each open a session: here all of them work in ours, where the rows are locked.
            self.store.ManagedSessionMaker = lambda **_: nullcontext(session)
            try:
                for thing in reversed(unit.things):
                    self._remove_row(thing)
                session.flush()
            finally:
                self.store.ManagedSessionMaker = self.open_session
        return True

    def _remove_row(self, thing: Thing) -> None:
        if thing.kind == RUN:
            self.store._hard_delete_run(thing.identifier)
        elif thing.kind == MODEL:
            self.store._hard_delete_logged_model(thing.identifier)
        else:
            self.store._hard_delete_experiment(thing.identifier)


def is_still_to_go(session: Any, unit: Unit, bucket: str, cutoff: int) -> bool:
    """Lock the rows of a unit, and return whether the same plan would be made of them now."""
    things: list[Thing] = []
    kinds = [EXPERIMENT, RUN, MODEL] if unit.kind == EXPERIMENT else [unit.kind]
    for kind in kinds:
        column = "experiment_id" if unit.kind == EXPERIMENT else COLUMNS[kind]
        value = int(unit.identifier) if unit.kind == EXPERIMENT else unit.identifier
        rows = session.execute(text(f"{QUERIES[kind]} WHERE {column} = :value FOR UPDATE"), {"value": value})
        things += [Thing(kind, row[0], row[1], row[2], row[4] if row[3] else None, row[5]) for row in rows]
    versions, deleted = catalog.read_versions(session), catalog.read_deleted_versions(session, cutoff)
    units = make_plan(Catalog(things, versions, deleted), bucket, cutoff).units
    found = {(thing.kind, thing.identifier) for same in units if same.kind == unit.kind for thing in same.things}
    return found == {(thing.kind, thing.identifier) for thing in unit.things}


def remove_expired(bucket: Bucket, before: datetime) -> int:
    """Remove the versions that ended before a moment, everywhere but in the stack's own folder; return how many."""
    count = 0
    while True:
        versions: list[Version] = []
        markers: list[Version] = []
        for found in bucket.walk():
            if not found[0].key.startswith(OWN):
                expired, alone = split_expired(found, before)
                versions += expired
                markers += alone
                if len(versions) + len(markers) >= MANY:
                    break
        if not versions and not markers:
            return count
        count += bucket.remove(versions) + bucket.remove(markers)


def remove_stale_uploads(bucket: Bucket, before: datetime) -> int:
    """Remove the uploads that began before a moment and have not ended; return how many."""
    count = 0
    while stale := list(islice((upload for upload in bucket.find_uploads() if upload.time <= before), MANY)):
        removed = bucket.abort(stale)
        count += removed
        if not removed:
            break
    return count
