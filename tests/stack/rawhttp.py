"""HTTP as bytes on a socket: requests that no client library would send."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
from dataclasses import dataclass

# Anywhere: a body without a last line feed may stand right before the next answer.
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Z]")
REQUEST_ID = re.compile(rb"^x-request-id: ([0-9a-f]{32})\r$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """All bytes that came back on one connection."""

    data: bytes

    @property
    def statuses(self) -> list[int]:
        """The status of each answer on this connection, in order."""
        return [int(status) for status in STATUS_LINE.findall(self.data)]

    @property
    def request_ids(self) -> list[str]:
        return [found.decode() for found in REQUEST_ID.findall(self.data)]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


def exchange(port: int, data: bytes, seconds: float = 20) -> Reply:
    """Send bytes, return all that comes back until the gateway closes or is silent for `seconds`."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        # A gateway that has seen enough closes while we send.
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while chunk := connection.recv(65536):
                received += chunk
    return Reply(bytes(received))


def basic(login: tuple[str, str]) -> str:
    """Return the header that logs in."""
    return f"Authorization: Basic {base64.b64encode(':'.join(login).encode()).decode()}"


def request(
    port: int,
    target: str,
    *headers: str,
    method: str = "GET",
    login: tuple[str, str] | None = None,
    body: str = "",
) -> Reply:
    """Send one request with this exact target and these header lines, and ask for the connection's end."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close", *headers]
    if login:
        lines.append(basic(login))
    return exchange(port, ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))
