"""Docker's daemon, killed: that of a container, since the machine's own is everybody's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stack.deployment import CHECKOUT, preset_choices

SCRATCH = Path(os.environ.get("STACK_TEST_SCRATCH", "/tmp"))


@pytest.mark.timeout(3600)
def test_what_was_acknowledged_survives_the_kill_of_dockers_daemon(soak: bool) -> None:
    if not soak:
        pytest.skip("--soak: all images are built once more, for a daemon of its own")
    name = f"{os.environ['STACK_TEST_NAME']}-daemon"
    image, images = f"{name}/machine:0.1.0", SCRATCH / "images.tar"
    base = preset_choices()["BASE_IMAGE"]
    build = ["docker", "build", "--quiet", "--target", "machine", "--build-arg", f"BASE_IMAGE={base}", "--tag", image]
    subprocess.run([*build, str(CHECKOUT)], check=True)
    subprocess.run(["docker", "save", "--output", str(images), base], check=True)
    inside = {name: value for name, value in os.environ.items() if name.startswith(("STACK_TEST_", "GIT_CONFIG_"))}
    inside |= {"STACK_TEST_NAME": "inside", "STACK_TEST_SCRATCH": "/scratch"}
    # (all that a daemon needs, and no more: --privileged takes rights that this machine itself may not have)
    run = ["docker", "run", "--rm", "--init", "--name", name, "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"]
    for opened in ("seccomp", "apparmor", "systempaths"):
        run += ["--security-opt", f"{opened}=unconfined"]
    run += ["--workdir", str(CHECKOUT)]
    run += [part for key, value in inside.items() for part in ("--env", f"{key}={value}")]
    for mount in (f"{CHECKOUT}:{CHECKOUT}:ro", f"{images}:/images.tar:ro", f"{name}-docker:/var/lib/docker"):
        run += ["--volume", mount]
    drill = subprocess.run([*run, image, "python", "-m", "pytest", "-s", "tests/stack/daemon_kills.py"], check=False)
    images.unlink()
    assert drill.returncode == 0
