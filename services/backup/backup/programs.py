"""The programs that do the work. They are started here alone, by their full paths, never by a shell."""

from __future__ import annotations

import subprocess  # nosec B404: that is what this file is for
from typing import Any

PGBACKREST = "/usr/bin/pgbackrest"
RCLONE = "/opt/venv/bin/rclone"
SYNC = "/usr/bin/sync"


def run(*command: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with this on its standard input; it never raises for an exit code."""
    return subprocess.run(command, input=said, capture_output=True, text=True, check=False)  # noqa: S603 # nosec B603


def start(*command: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that goes on."""
    return subprocess.Popen(command, **options)  # noqa: S603 # nosec B603
