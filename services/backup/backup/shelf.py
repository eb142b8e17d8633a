"""Files of our own beside pgBackRest's, written and read by rclone, which encrypts them if there is a passphrase.

One rclone for all: a process for each file would take most of the time.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess  # nosec B404: for its constants
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

from admin.faults import FaultError
from backup import programs
from backup.settings import SCRATCH

START_SECONDS = 30
IDLE_SECONDS = 20  # rclone ends a connection on which nothing was asked for a minute
CHUNK = 1024 * 1024
OK, NOT_FOUND = 200, 404


class ShelfError(Exception):
    """A file can't be written or read; the message says why."""


class _Connection(http.client.HTTPConnection):
    """HTTP by a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=300)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Shelf:
    """The files below a folder; usable by many threads."""

    def __init__(self, folder: Path, passphrase: str) -> None:
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._config, self._socket = SCRATCH / f"rclone-{name}.conf", str(SCRATCH / f"rclone-{name}.sock")
        self._local = threading.local()
        kept = f"[files]\ntype = alias\nremote = {folder}\n"
        if passphrase:
            hidden = programs.run(programs.RCLONE, "obscure", "-", said=passphrase).stdout
            # Names say nothing (SHA-256), and an operator finds a file by its name.
            kept = (
                f"[files]\ntype = crypt\nremote = {folder}\nfilename_encryption = off\n"
                f"directory_name_encryption = false\npassword = {hidden}"
            )
        self._config.touch(0o600)
        self._config.write_text(kept)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [programs.RCLONE, "rcd", "--config", str(self._config), "--cache-dir", str(SCRATCH / "rclone")]
        command += ["--rc-addr", f"unix://{self._socket}", "--rc-no-auth", "--rc-serve", "--log-level", "ERROR"]
        command += ["--rc-server-read-timeout", "24h", "--rc-server-write-timeout", "24h"]
        self._process = programs.start(*command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_listening():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise FaultError("rclone does not start: see ./stack logs backup")
            time.sleep(0.02)
        return self

    def _is_listening(self) -> bool:
        # (that the socket's file is there does not say so yet)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(self._socket) == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
        self._config.unlink(missing_ok=True)
        Path(self._socket).unlink(missing_ok=True)

    def _ask(
        self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is not None and time.monotonic() - self._local.used > IDLE_SECONDS:
            connection.close()
            connection = None
        if connection is None:
            connection = self._local.connection = _Connection(self._socket)
        self._local.used = time.monotonic()
        try:
            connection.request(
                method, url, body, headers or {}, encode_chunked=not isinstance(body, (bytes, type(None)))
            )
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ShelfError(str(error) or type(error).__name__) from error
        except BaseException:  # what the body raises: rclone is not to take for a file what came so far
            connection.close()
            raise

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        content = json.dumps({"fs": "files:", **parameters}).encode()
        answer = self._ask("POST", f"/{operation}", content, {"Content-Type": "application/json"})
        found: dict[str, Any] = json.loads(answer.read())
        if answer.status != OK:
            raise ShelfError(found.get("error", f"status {answer.status}"))
        return found

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file. Raises ShelfError, and whatever the chunks raise: then nothing has that name."""
        folder, _, base = name.rpartition("/")
        limit = secrets.token_hex(
            16
        )  # (nobody who stores an artifact may know it: what has it in it would be cut there)
        begin = f'--{limit}\r\nContent-Disposition: form-data; name="file"; filename="{base}"\r\n\r\n'.encode()

        def body() -> Iterator[bytes]:
            yield begin
            yield from chunks
            yield f"\r\n--{limit}--\r\n".encode()

        url = "/operations/uploadfile?" + urlencode({"fs": "files:", "remote": folder})
        headers = {"Content-Type": f"multipart/form-data; boundary={limit}", "Transfer-Encoding": "chunked"}
        answer = self._ask("POST", url, body(), headers)
        content = answer.read()
        if answer.status != OK:
            raise ShelfError(json.loads(content).get("error", f"status {answer.status}"))

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a file, by a connection of their own. Raises ShelfError, FileNotFoundError."""
        connection = _Connection(self._socket)
        try:
            connection.request("GET", f"/[files:]/{quote(name)}")
            answer = connection.getresponse()
            if answer.status == NOT_FOUND:
                raise FileNotFoundError(name)
            if answer.status != OK:
                raise ShelfError(f"{name}: status {answer.status}")
            missing = int(answer.headers["Content-Length"])
            while chunk := answer.read(CHUNK):
                missing -= len(chunk)
                yield chunk
            if missing:  # (rclone found out on the way that it is damaged)
                raise ShelfError(f"{name}: {missing} bytes of it can't be read")
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ShelfError(f"{name}: {error!r}") from error
        finally:
            connection.close()

    def read_all(self, name: str) -> bytes:
        """Return the bytes of a file. Raises ShelfError, FileNotFoundError."""
        return b"".join(self.read(name))

    def list(self, folder: str) -> dict[str, int]:
        """Return the files below a folder, with their sizes."""
        options = {"recurse": True, "filesOnly": True, "noModTime": True, "noMimeType": True}
        try:
            found = self._call("operations/list", remote=folder, opt=options)["list"]
        except ShelfError as error:
            if "directory not found" in str(error):
                return {}
            raise
        return {item["Path"]: item["Size"] for item in found}

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises ShelfError."""
        try:
            self._call("operations/deletefile", remote=name)
        except ShelfError as error:
            if "not found" not in str(error):
                raise

    def hash(self, names: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of what files hold, every byte read; what is missing or damaged is not in it."""
        command = [programs.RCLONE, "hashsum", "SHA256", "files:", "--download", "--config", str(self._config)]
        command += ["--checkers", "4", "--files-from-raw", "-", "--no-traverse", "--retries", "1"]
        command += ["--cache-dir", str(SCRATCH / "rclone")]
        done = programs.run(*command, said="".join(f"{name}\n" for name in names))
        if done.returncode < 0:
            raise ShelfError(f"rclone was ended by signal {-done.returncode}")
        lines = (line.split("  ", 1) for line in done.stdout.splitlines())
        return {line[1]: line[0] for line in lines if len(line) == 2 and len(line[0]) == 64}  # noqa: PLR2004
