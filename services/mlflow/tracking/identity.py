"""Who is asking: MLflow's own credential check, offered to the gateway."""

from __future__ import annotations

import base64
import binascii

import anyio.to_thread
from starlette.types import Scope

Credentials = tuple[str, str]


def read_basic(scope: Scope) -> Credentials | None:
    """Return (user name, password) of the request's HTTP Basic header (RFC 7617, UTF-8), or None."""
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(headers) != 1:
        return None
    scheme, _, encoded = headers[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (username, password) if colon else None


async def is_known(credentials: Credentials) -> bool:
    """Return whether MLflow's user store knows these credentials. Raises SQLAlchemyError if it can't be asked.

    The check is cached by MLflow (auth_cache_ttl_seconds in tracking/settings.py). It runs in a thread: a miss costs
    a query and scrypt.
    """
    from mlflow.server.auth import _authenticate_cached

    return await anyio.to_thread.run_sync(_authenticate_cached, *credentials) is not None
