"""Disks of the tests' own for what a stack keeps: they can be full, and their power can be cut."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from stack.deployment import QUIET, Deployment, wait_until

IMAGE = os.environ.get("STACK_TEST_IMAGE", "mlflow-stack/tests:0.1.0")
USERS = {"postgres": 10001, "objectstore": 10002}  # Dockerfile
VOLUMES = {"postgres": "postgres-data", "objectstore": "objectstore-data"}
READERS = {"postgres": ["backup"], "objectstore": []}  # who mounts it too
FLUSHES = 15  # which number of a device's statistics counts its flushes (Documentation/block/stat.rst)
# The journal is written when a write asks for it, not by the clock: what nobody asked for is lost with the power.
OPTIONS = "commit=600"


class Disk:
    """A file system in a file, mounted by Docker through a loop device; what a service keeps is on it."""

    def __init__(self, file: Path, service: str, megabytes: int) -> None:
        self.file, self.service = file, service
        user = USERS[service]
        file.parent.mkdir(parents=True, exist_ok=True)
        self._run(
            f"truncate -s {megabytes}M {file}; "
            f"mkfs.ext4 -q -F -m 0 -E root_owner={user}:{user},lazy_itable_init=0,nodiscard {file}"
        )
        self.device = self._run(f"losetup --find --show {file}")

    def _run(self, script: str) -> str:
        """Run a script that may set up loop devices, which the tests' own container may not."""
        folder = self.file.parent
        rights = ["--cap-add", "SYS_ADMIN", "--device-cgroup-rule", "b 7:* rmw", "--device", "/dev/loop-control"]
        command = ["docker", "run", "--rm", *rights, "--volume", "/dev:/dev", "--volume", f"{folder}:{folder}"]
        result = subprocess.run([*command, IMAGE, "sh", "-ec", script], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def count_flushes(self) -> int:
        """Return how often the device was told to write down what is in its own cache."""
        return int(Path(f"/sys/block/{Path(self.device).name}/stat").read_text().split()[FLUSHES])

    def cut_power(self, deployment: Deployment) -> None:
        """Stop the service, and make its disk what had reached it by now; what was still in memory is lost."""
        identifier = deployment.container(self.service)["Id"]

        def is_paused() -> bool:
            """Stop all of its processes (one that waits for its disk can't be stopped at once)."""
            return subprocess.run(["docker", "pause", identifier], check=False, capture_output=True).returncode == 0

        wait_until(is_paused, f"{self.service} stands still")
        # (what the file system has written to its device is in this file; what it still holds in memory is not)
        self._run(f"cp --sparse=always {self.file} {self.file}.cut")
        subprocess.run(["docker", "unpause", identifier], check=True, capture_output=True)
        users = [identifier, *(deployment.container(reader)["Id"] for reader in READERS[self.service])]
        subprocess.run(["docker", "kill", "-s", "KILL", *users], check=True, capture_output=True)
        subprocess.run(["docker", "wait", *users], check=True, capture_output=True)
        self._run(f"losetup --detach {self.device}; mv {self.file}.cut {self.file}; losetup {self.device} {self.file}")

    def remove(self) -> None:
        """Free the device, once no container has it."""
        self._run(f"losetup --detach {self.device}; rm -f {self.file} {self.file}.cut")


def give(deployment: Deployment, *disks: Disk, more: str = "") -> None:
    """Make these the disks of their services, before the first start; `more` is YAML for the same file."""
    lines = ["volumes:"]
    for disk in disks:
        options = f"{{type: ext4, device: {disk.device}, o: {OPTIONS}}}"
        lines += [f"  {VOLUMES[disk.service]}:", "    driver: local", f"    driver_opts: {options}"]
    (deployment.root / "disk.yml").write_text("\n".join([*lines, more, ""]))
    with (deployment.root / ".env").open("a") as file:
        file.write(f"COMPOSE_FILE={QUIET}:disk.yml\n")
