"""Where the stack's rows and objects are, and what an operator asked for."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from admin.faults import FaultError
from tracking import store

WORK = Path("/work")  # a volume: what was begun goes on from here
DATABASE = Path("/source/database")  # the folder of the SQLite file, or the file store (read-only)
ARTIFACTS = Path("/source/artifacts")  # (read-only)
AUTHORITIES = "/source/ca.pem"


@dataclass(frozen=True)
class Order:
    """What was asked for; it comes by standard input, since it may hold a password.

    Attributes:
        uri: the backend store as it was typed.
        file: for a file or folder of this machine, its name below DATABASE ("" for the folder itself), else None.
        artifacts: where the artifacts are, as it was typed.
        endpoint: of the store that has them, if they are in one ("" is AWS).
        region: of that store.
        credentials: a credentials file's text, for that store.
    """

    uri: str
    file: str | None
    artifacts: str
    endpoint: str = ""
    region: str = "us-east-1"
    credentials: str = ""

    @property
    def shown(self) -> str:
        """The backend store without its password."""
        if self.file is not None:
            return self.uri
        try:
            return str(sqlalchemy.make_url(self.uri).render_as_string(hide_password=True))
        except sqlalchemy.exc.ArgumentError:
            return "what was given"

    @property
    def fingerprint(self) -> str:
        """What tells this source from others."""
        return hashlib.sha256(f"{self.shown}\n{self.artifacts}".encode()).hexdigest()[:16]


def read_order(text: bytes) -> Order:
    """Return what ./stack hands over: values with a NUL after each, the last one to the end."""
    uri, kind, file, artifacts, endpoint, region, credentials = (part.decode() for part in text.split(b"\0", 6))
    return Order(uri, file if kind == "file" else None, artifacts, endpoint, region, credentials)


def load() -> tuple[str, store.Store]:
    """Return the database's URI (without a password) and the object store. Raises FaultError."""
    place, faults = store.read(os.environ)
    uri = os.environ.get("STACK_DATABASE_URI", "")
    if not uri:
        faults.append("STACK_DATABASE_URI is not set: docker-compose.yml sets it")
    if faults:
        raise FaultError("\n".join(faults))
    return uri, place
