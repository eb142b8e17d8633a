"""What the verbs read from outside, and where things are in this container."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from admin.faults import FaultError
from tracking import store

SECRETS = Path("/run/secrets")
# The stack's own backups; those that are brought back are mounted beside them, read-only.
TARGET, SOURCE, COPY = Path("/backups"), Path("/from"), Path("/to")
ARCHIVING = Path("/archiving/on")  # as long as it is there, Postgres hands its WAL over; it names the place
PGDATA = Path("/var/lib/postgresql/data/17")
SOCKET = "/run/postgresql"
DATABASES = ("mlflow", "auth")
SCRATCH = Path("/tmp")


@dataclass(frozen=True)
class Settings:
    """What of the choices counts here.

    Attributes:
        stack: its name.
        shown: how the operator calls the place of the backups.
        store: the object store and its bucket.
        bucket: which all backups go to too, or off.
    """

    stack: str
    shown: str
    store: store.Store
    bucket: str


def load() -> Settings:
    """Return the settings. Raises FaultError that names every fault there is."""
    faults = [
        f"{name} is not set: docker-compose.yml sets it"
        for name in ("STACK_NAME", "STACK_BACKUP_TO")
        if not os.environ.get(name)
    ]
    place, found = store.read(os.environ)
    if faults + found:
        raise FaultError("\n".join(faults + found))
    bucket = os.environ.get("STACK_BACKUP_S3_TO", "off")
    return Settings(os.environ["STACK_NAME"], os.environ["STACK_BACKUP_TO"], place, bucket)


def read_passphrase(name: str = "passphrase") -> str:
    """Return what backups are encrypted with, "" if they are not."""
    path = SECRETS / name
    return path.read_text().strip("\n") if path.exists() else ""


def database_uri(database: str) -> str:
    """Return where a database is: by the socket, as the user of this container."""
    return f"postgresql+psycopg2://backup@/{database}?host={SOCKET}&connect_timeout=3"
