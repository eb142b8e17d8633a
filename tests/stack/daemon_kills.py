"""Docker's daemon is killed under writers. Runs in a container that has a daemon of its own: see test_daemon.py."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.deployment import Deployment, wait_until
from stack.ledger import Login, check_nothing_is_lost

CGROUPS = Path("/sys/fs/cgroup")
IMAGES = Path("/images.tar")  # what can't be had from Debian's archive or PyPI: the base image
KILLS = 10

pytestmark = pytest.mark.timeout(3600)


class Daemon:
    """The daemon; all commands of this container's find it where they look by themselves."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.log = Path("/var/log/dockerd.log").open("ab")  # noqa: SIM115 (it is the daemons', as long as this process lives)

    def start(self) -> None:
        """Start it. One that follows a killed one at once may end before it answers: then another one is started."""
        for _ in range(3):
            self.process = subprocess.Popen(["dockerd"], stdout=self.log, stderr=self.log)
            ends = time.monotonic() + 60
            while time.monotonic() < ends and self.process.poll() is None:
                if subprocess.run(["docker", "version"], check=False, capture_output=True).returncode == 0:
                    return
                time.sleep(0.2)
            self.kill()
        raise AssertionError(Path(self.log.name).read_text()[-2000:])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def make_room() -> None:
    """Let a daemon make groups of processes."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2", "sysfs"):
            subprocess.run(["mount", "-o", "remount,bind,rw", place], check=True)
    # (with version 2, groups that limit anything have no processes beside them)
    if (CGROUPS / "cgroup.controllers").exists():
        (CGROUPS / "init").mkdir(exist_ok=True)
        for pid in (CGROUPS / "cgroup.procs").read_text().split():
            (CGROUPS / "init/cgroup.procs").write_text(pid)
        for controller in (CGROUPS / "cgroup.controllers").read_text().split():
            (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")


@pytest.fixture(scope="session", autouse=True)
def daemon() -> Iterator[Daemon]:
    make_room()
    daemon = Daemon()
    daemon.start()
    subprocess.run(["docker", "load", "--quiet", "--input", str(IMAGES)], check=True)
    yield daemon
    daemon.kill()


def test_what_was_acknowledged_survives_the_kill_of_the_daemon(
    daemon: Daemon, stack: Deployment, admin: Login, tmp_path: Path
) -> None:
    def strike(number: int) -> None:
        time.sleep(random.uniform(0, 1))
        daemon.kill()
        time.sleep(random.uniform(0, 3))
        start = time.monotonic()
        daemon.start()
        wait_until(lambda: stack.is_served(admin), "the stack serves again")
        print(f"round {number}: served again {time.monotonic() - start:.1f} s after the next daemon's start")

    check_nothing_is_lost(stack, admin, tmp_path, KILLS, strike)
