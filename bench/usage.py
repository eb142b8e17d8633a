"""What containers take of CPU and memory, by their cgroups."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

NANO, MICRO, MEGA = 1e9, 1e6, 1e6


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and MB of anonymous memory: what is no file's and no other process's to have."""

    cpu: float
    memory: float


def read_file(file: Path) -> dict[str, int]:
    """Return the numbers of a file of a cgroup, by name."""
    return {name: int(value) for name, value in map(str.split, file.read_text().splitlines())}


def read(root: Path) -> Usage:
    """Return what the container with this root has taken, by cgroup 2 or 1."""
    groups = root / "sys/fs/cgroup"
    if (groups / "cpu.stat").exists():
        cpu = read_file(groups / "cpu.stat")["usage_usec"] / MICRO
        return Usage(cpu, read_file(groups / "memory.stat")["anon"] / MEGA)
    cpu = int((groups / "cpuacct/cpuacct.usage").read_text()) / NANO
    return Usage(cpu, read_file(groups / "memory/memory.stat")["total_rss"] / MEGA)


def read_all(project: str, services: Iterable[str]) -> dict[str, Usage]:
    """Return what services of a compose project have taken."""
    # (not by Docker's own statistics: it takes a second for each)
    services = list(services)
    command = ["docker", "inspect", "--format", "{{.State.Pid}}", *(f"{project}-{service}-1" for service in services)]
    pids = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {service: read(Path(f"/proc/{pid}/root")) for service, pid in zip(services, pids, strict=True)}


def measure[T](project: str, services: Iterable[str], work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Do something. Returns its result, and the CPU seconds that each service took meanwhile."""
    before = read_all(project, services)
    result = work()
    after = read_all(project, services)
    return result, {service: after[service].cpu - usage.cpu for service, usage in before.items()}
