"""What the verbs read from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from admin.faults import FaultError
from tracking import store


@dataclass(frozen=True)
class Settings:
    """Where the rows and the objects are, and how long what was replaced is kept.

    Attributes:
        database_uri: SQLAlchemy URI of MLflow's database, without a password (libpq's passfile holds it).
        undo_database_uri: the same for the user store, as who may bring back grants there, and no more.
        store: the object store and its bucket.
        keep_versions: how long a replaced or deleted version is kept, or None for ever.
        keep_uploads: how long an upload may take.
        keep_rows: how long what was deleted in MLflow can be brought back, or None if it isn't kept.
    """

    database_uri: str
    undo_database_uri: str
    store: store.Store
    keep_versions: timedelta | None
    keep_uploads: timedelta
    keep_rows: timedelta | None


def load() -> Settings:
    """Return the settings. Raises FaultError that names every fault there is."""
    faults: list[str] = []

    def read(name: str) -> str:
        value = os.environ.get(name, "")
        if not value:
            faults.append(f"{name} is not set: docker-compose.yml sets it")
        return value

    def read_days(name: str, least: int) -> timedelta:
        value = read(name)
        if value and not (value.isascii() and value.isdigit() and int(value) >= least):
            faults.append(f"{name} is {value!r}: write a whole number of days, {least} or more")
            value = ""
        return timedelta(days=int(value or least))

    uri, undo_uri = read("STACK_DATABASE_URI"), read("STACK_UNDO_DATABASE_URI")
    place, found = store.read(os.environ)
    faults += found
    versions, uploads = read_days("STACK_VERSION_DAYS", 0), read_days("STACK_UPLOAD_DAYS", 1)
    rows = read_days("STACK_TRASH_DAYS", 0)
    if faults:
        raise FaultError("\n".join(faults))
    return Settings(uri, undo_uri, place, versions or None, uploads, rows or None)
