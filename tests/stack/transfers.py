"""Files whose bytes say where they belong, and ways to move them: slowly, in parts, or not to the end."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from mlflow import MlflowClient

from stack.deployment import Deployment
from stack.rawhttp import basic

Login = tuple[str, str]
MIB = 1 << 20
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
MPU = "/api/2.0/mlflow-artifacts/mpu/"
PRESIGNED = "/api/2.0/mlflow-artifacts/presigned/"
BLOCK = random.Random(0).randbytes(MIB)


@dataclass(frozen=True)
class Place:
    """A run of a stack, and who moves its artifacts."""

    stack: Deployment
    login: Login
    client: MlflowClient
    run: str

    @property
    def folder(self) -> str:
        """Where the run's artifacts are below ARTIFACTS."""
        return f"0/{self.run}/artifacts"


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
    """A body of known length, read no faster than `rate` bytes a second, and not to its end before `end`."""

    def __init__(self, size: int, rate: float, end: threading.Event | None = None) -> None:
        self.size, self.rate, self.sent, self.end = size, rate, 0, end
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
        if self.end and self.sent > self.size - 2 * MIB:
            self.end.wait(120)
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
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=90)
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


def upload_until(stack: Deployment, admin: Login, folder: str, count: int, end: Callable[[], None]) -> dict[str, str]:
    """Upload artifacts of mixed sizes by four clients; call `end` as soon as `count` are acknowledged.

    Returns the SHA-256 of all that were.
    """
    sizes = (0, 1, 1000, 100_000, 3 * MIB, 9 * MIB)
    acknowledged: dict[str, str] = {}
    numbers, lock, enough = itertools.count(), threading.Lock(), threading.Event()

    def upload() -> None:
        while not enough.is_set():
            with lock:
                number = next(numbers)
            content = make_bytes(sizes[number % len(sizes)], number)
            with contextlib.suppress(requests.RequestException):
                if not stack.ask(f"{ARTIFACTS}{folder}/{number}.bin", admin, "PUT", data=content).ok:
                    continue
                with lock:
                    acknowledged[f"{number}.bin"] = hashlib.sha256(content).hexdigest()
                    if len(acknowledged) >= count:
                        enough.set()

    with ThreadPoolExecutor(4) as pool:
        uploads = [pool.submit(upload) for _ in range(4)]
        enough.wait(120)
        end()
    for finished in uploads:
        finished.result()
    assert len(acknowledged) >= count
    return acknowledged


def find_lost(stack: Deployment, admin: Login, folder: str, expected: dict[str, str]) -> list[str]:
    def is_lost(name: str) -> bool:
        answer = stack.ask(f"{ARTIFACTS}{folder}/{name}", admin)
        return not answer.ok or hashlib.sha256(answer.content).hexdigest() != expected[name]

    return [name for name in expected if is_lost(name)]
