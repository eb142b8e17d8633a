"""A worker's own connections to MLflow's database."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

SECONDS = 60.0  # for one statement
LIFE_SECONDS = 300.0  # of a connection that nobody uses
# What asyncpg says of a connection that ends, or has ended, under it. (The second also where the server says good-bye
# between two statements: "cannot switch to state 12".)
ENDED = (asyncpg.InterfaceError, asyncpg.InternalClientError)


class LostError(Exception):
    """The connection ended before the answer came: whether the statement was done is not known."""


class RefusedError(Exception):
    """The database refused the statement, and did nothing of it."""


async def keep(_connection: Any) -> None:
    """Reset nothing when a connection goes back: a statement leaves nothing behind, and a reset is a round trip."""


class Database:
    """Statements, each a transaction of its own. Made after the fork, used by one event loop."""

    def __init__(self, uri: str, size: int) -> None:
        """`uri` is SQLAlchemy's, `size` the most connections at a time."""
        url = make_url(uri)
        self.options: dict[str, Any] = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "database": url.database,
            "passfile": url.query.get("passfile"),
            "timeout": 3,
        }
        self.size = size
        self.pool: asyncpg.Pool | None = None
        self.opening = asyncio.Lock()

    async def open(self) -> asyncpg.Pool:
        """Return the pool, made at the first use. Raises LostError."""
        async with self.opening:
            if self.pool is None:
                try:
                    self.pool = await asyncpg.create_pool(
                        **self.options,
                        min_size=1,
                        max_size=self.size,
                        command_timeout=SECONDS,
                        max_inactive_connection_lifetime=LIFE_SECONDS,
                        reset=keep,
                        # (each of these statements is short: to compile it would take longer)
                        server_settings={"application_name": "mlflow-fast", "jit": "off"},
                    )
                except (OSError, asyncpg.PostgresError, *ENDED) as error:
                    raise LostError from error
        return self.pool

    async def fetch(self, statement: str, *values: Any, is_planned: bool = False) -> list[asyncpg.Record]:
        """Return the rows of a statement, `is_planned` for just these values. Raises LostError, RefusedError.

        A statement that is asked often gets one plan for all values. What is right for the filter of a large experiment
        reads all runs for a small one.
        """
        pool = self.pool or await self.open()
        try:
            async with pool.acquire() as connection:
                asked = await connection.prepare(statement) if is_planned else None
                rows: list[asyncpg.Record] = await (
                    asked.fetch(*values) if asked else connection.fetch(statement, *values)
                )
        except (asyncpg.PostgresConnectionError, *ENDED, OSError, TimeoutError) as error:
            raise LostError from error
        except asyncpg.PostgresError as error:
            raise RefusedError from error
        return rows

    async def fetch_row(self, statement: str, *values: Any) -> asyncpg.Record | None:
        """Return the only row of a statement, None if there is none. Raises LostError, RefusedError."""
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None
