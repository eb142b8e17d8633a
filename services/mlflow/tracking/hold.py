"""Who removes objects and who makes a backup wait for each other: an advisory lock in MLflow's database.

Those who remove share it; a backup has it alone while it takes down what there is. It ends with its connection.
(`artifacts` and `backup` have a copy of this file: Dockerfile.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from sqlalchemy import text

LOCK = 0x686F6C64  # any number but those of the other locks; "hold" in ASCII


class HeldError(Exception):
    """A backup is taking down what there is: nothing may be removed at the moment."""


def open_engine(uri: str) -> sqlalchemy.Engine:
    """Return an engine whose connections are never kept: a lock is not to outlive what it is for."""
    return sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")


@contextmanager
def removing(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Be one of those who remove objects. Raises HeldError at once during a backup; SQLAlchemyError."""
    with engine.connect() as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock_shared(:lock)"), {"lock": LOCK}).scalar():
            raise HeldError
        yield


@contextmanager
def holding(engine: sqlalchemy.Engine, seconds: int) -> Iterator[None]:
    """Let nobody remove objects. Raises HeldError if somebody is still at it after that time; SQLAlchemyError."""
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{seconds}s'"))
        try:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        except sqlalchemy.exc.OperationalError as error:
            if getattr(error.orig, "pgcode", None) == "55P03":  # lock_not_available
                raise HeldError from None
            raise
        yield
