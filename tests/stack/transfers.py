"""Files whose bytes say where they belong, and ways to move them: slowly, in parts, or not to the end."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from stack.deployment import Deployment
from stack.rawhttp import basic

Login = tuple[str, str]
MIB = 1 << 20
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
MPU = "/api/2.0/mlflow-artifacts/mpu/"
PRESIGNED = "/api/2.0/mlflow-artifacts/presigned/"
BLOCK = random.Random(0).randbytes(MIB)


def make_blocks(size: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `size` bytes in blocks of a MiB, each with its number in front: swapped or repeated ones show."""
    for number, start in enumerate(range(0, size, MIB)):
        yield (f"{seed}:{number}:".encode() + BLOCK)[: min(MIB, size - start)]


def make_bytes(size: int, seed: int = 0) -> bytes:
    return b"".join(make_blocks(size, seed))


def write_file(path: Path, size: int, seed: int = 0) -> str:
    """Write a file, return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in make_blocks(size, seed):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path."""
    return {str(path.relative_to(folder)): digest_file(path) for path in folder.rglob("*") if path.is_file()}


class Paced:
    """A body of known length that requests reads no faster than `rate` bytes a second."""

    def __init__(self, size: int, rate: float) -> None:
        self.size, self.rate, self.sent = size, rate, 0
        self.digest = hashlib.sha256()
        self._blocks = make_blocks(size)
        self._rest = b""
        self._start = time.monotonic()

    def __len__(self) -> int:
        return self.size

    def read(self, size: int = -1) -> bytes:
        wait = self.sent / self.rate - (time.monotonic() - self._start)
        if wait > 0:
            time.sleep(wait)
        if not self._rest:
            self._rest = next(self._blocks, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        self.digest.update(piece)
        self.sent += len(piece)
        return piece


def begin_upload(
    stack: Deployment, target: str, login: Login | None, length: int | None, *headers: str
) -> socket.socket:
    """Send the head of a PUT; without a length its body comes in chunks, framed by who sends it."""
    lines = [f"PUT {target} HTTP/1.1", f"Host: 127.0.0.1:{stack.port}", *headers]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    if login:
        lines.append(basic(login))
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=30)
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    return connection


def frame(data: bytes) -> bytes:
    """Return data as one chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def begin_parts(stack: Deployment, login: Login, folder: str, name: str, parts: int) -> tuple[str, list[str]]:
    """Begin a multipart upload; return its id and the URL of each part."""
    answer = stack.ask(f"{MPU}create/{folder}", login, "POST", json={"path": name, "num_parts": parts})
    assert answer.ok, answer.text
    begun = answer.json()
    return begun["upload_id"], [credential["url"] for credential in begun["credentials"]]


def list_names(stack: Deployment, login: Login, folder: str) -> set[str]:
    """Return the names that are listed in a folder."""
    answer = stack.ask(ARTIFACTS.rstrip("/"), login, params={"path": folder})
    assert answer.ok, answer.text
    return {file["path"] for file in answer.json().get("files", [])}
