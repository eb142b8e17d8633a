"""What the verbs read from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from admin.faults import FaultError

CREDENTIALS = "/run/secrets/aws_credentials"


@dataclass(frozen=True)
class Settings:
    """Where the rows and the objects are, and how long what was replaced is kept.

    Attributes:
        database_uri: SQLAlchemy URI of MLflow's database, without a password (libpq's passfile holds it).
        endpoint: URL of the object store.
        bucket: bucket of all artifacts.
        keep_versions: how long a replaced or deleted version is kept, or None for ever.
        keep_uploads: how long an upload may take.
    """

    database_uri: str
    endpoint: str
    bucket: str
    keep_versions: timedelta | None
    keep_uploads: timedelta


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

    uri, endpoint, bucket = read("STACK_DATABASE_URI"), read("STACK_S3_ENDPOINT"), read("STACK_BUCKET")
    versions, uploads = read_days("STACK_VERSION_DAYS", 0), read_days("STACK_UPLOAD_DAYS", 1)
    if faults:
        raise FaultError("\n".join(faults))
    return Settings(uri, endpoint, bucket, versions or None, uploads)
