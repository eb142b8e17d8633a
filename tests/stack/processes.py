"""What the processes of a stack's servers do, seen from outside: memory, open files, bytes written, connections."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from stack.deployment import Deployment

ESTABLISHED = "01"
# The folders that a server can write, apart from its sockets and logs.
FOLDERS = {"nginx": ("/tmp",), "mlflow": ("/tmp", "/var/spool/mlflow", "/dev/shm")}
# Small files are the servers' own: configuration, cached logins, workers' heartbeats.
SMALL = 256 * 1024


def find_processes(stack: Deployment, service: str) -> list[int]:
    """Return the ids of a service's processes, as the host sees them."""
    lines = stack.compose("top", service).splitlines()
    column = next(line for line in lines if "PID" in line.split()).split().index("PID")
    rows = [line.split() for line in lines]
    return [int(row[column]) for row in rows if len(row) > column and row[column].isdigit()]


def count_connections(stack: Deployment, *services: str) -> int:
    """Return how many TCP connections of these services are established."""
    count = 0
    for service in services:
        table = Path(f"/proc/{stack.container(service)['State']['Pid']}/net")
        for name in ("tcp", "tcp6"):
            rows = (table / name).read_text().splitlines()[1:]
            count += sum(row.split()[3] == ESTABLISHED for row in rows)
    return count


def read_field(pid: int, file: str, field: str) -> int:
    """Return a number from /proc, 0 if the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0])
    return 0


class Watch:
    """Looks ten times a second, as long as the context lasts.

    Attributes:
        files: the largest size seen of each file that grew beyond SMALL in a folder, or open, of a server.
        growth: bytes by which each service's anonymous memory was above its start, at most.
        written: bytes that each service gave to a disk.
    """

    def __init__(self, stack: Deployment, services: tuple[str, ...]) -> None:
        self._processes = {service: find_processes(stack, service) for service in services}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on)
        self._start = {service: self._read_memory(service) for service in services}
        self._written = {service: self._read_written(service) for service in services}
        self.files: dict[str, int] = {}
        self.growth = dict.fromkeys(services, 0)
        self.written = dict.fromkeys(services, 0)

    def __str__(self) -> str:
        parts = [
            f"{name} memory +{self.growth[name] / 1e6:.1f} MB, written {self.written[name] / 1e6:.2f} MB"
            for name in self.growth
        ]
        return ", ".join([*parts, f"files {self.files}"])

    def _read_memory(self, service: str) -> int:
        return 1024 * sum(read_field(pid, "status", "RssAnon") for pid in self._processes[service])

    def _read_written(self, service: str) -> int:
        return sum(read_field(pid, "io", "write_bytes") for pid in self._processes[service])

    def list_files(self) -> dict[str, int]:
        """Return the size of each regular file beyond SMALL that a server has open or in a folder of its own."""
        found: dict[str, int] = {}
        for service, processes in self._processes.items():
            root = Path(f"/proc/{processes[0]}/root")
            folders = [root / folder.lstrip("/") for folder in FOLDERS[service]]
            paths = [Path(place) / name for folder in folders for place, _, names in os.walk(folder) for name in names]
            for pid in processes:
                with contextlib.suppress(OSError):
                    # (only what can be written: programs and libraries are mapped, and read-only)
                    paths += [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.lstat().st_mode & stat.S_IWUSR]
            for path in paths:
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode) and status.st_size > SMALL:
                        name = str(path.readlink() if "/fd/" in str(path) else path)
                        found[name] = status.st_size
        return {name: size for name, size in found.items() if "/var/log/stack/" not in name}

    def _look(self) -> None:
        for name, size in self.list_files().items():
            self.files[name] = max(size, self.files.get(name, 0))
        for service in self._processes:
            self.growth[service] = max(self.growth[service], self._read_memory(service) - self._start[service])
            self.written[service] = self._read_written(service) - self._written[service]

    def _look_on(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
