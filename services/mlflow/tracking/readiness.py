"""Whether the server can do its work now: both databases and the bucket answer."""

from __future__ import annotations

import functools
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy
from botocore.client import BaseClient

from tracking.settings import Settings
from tracking.store import Store

DEADLINE_SECONDS = 4.0


@functools.cache
def connect_store(store: Store) -> BaseClient:
    """Return an S3 client that gives up well before the deadline."""
    limits = {"connect_timeout": 1, "read_timeout": 2, "retries": {"total_max_attempts": 1}}
    return store.connect(store.find_credentials(), store.find_authorities(), **limits)


def check_databases() -> None:
    """Run one statement in each database. Raises SQLAlchemyError."""
    from mlflow.server.auth import store as auth_store
    from mlflow.server.handlers import _get_tracking_store

    tracking_store: Any = _get_tracking_store()  # typed as the abstract store, which has no engine
    for engine in (tracking_store.engine, auth_store.engine):
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))


def check_bucket(settings: Settings) -> None:
    """Ask the object store for the bucket. Raises BotoCoreError, ClientError."""
    connect_store(settings.store).head_bucket(Bucket=settings.store.bucket)


async def find_faults(settings: Settings) -> list[str]:
    """Return one line for each neighbour that doesn't answer; none means ready."""
    faults: list[str] = []

    async def check(name: str, function: functools.partial[None]) -> None:
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
        except TimeoutError:
            faults.append(f"{name}: no answer within {DEADLINE_SECONDS:.0f} s")
        except Exception as error:  # noqa: BLE001 - whatever a driver raises means the same: not ready
            faults.append(f"{name}: {str(error).splitlines()[0][:200]}")

    async with anyio.create_task_group() as group:
        group.start_soon(check, "postgres", functools.partial(check_databases))
        group.start_soon(check, "objectstore", functools.partial(check_bucket, settings))
    return faults
