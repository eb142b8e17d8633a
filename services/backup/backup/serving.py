"""The container's own work: it takes WAL, copies new objects, and makes the sets of the schedule.

What imports libraries runs in a process of its own: what waits here day and night is small.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess  # nosec B404: for its exception
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from backup import programs

TARGET, ARCHIVING = Path("/backups"), Path("/archiving/on")
DATABASE = "/run/postgresql/.s.PGSQL.5432"
STATE = TARGET / "schedule.json"  # what the schedule did last
PASS_SECONDS = 60
SHARE = 20  # of the time, a pass may take one part
RETRY_SECONDS = 900
DAY = 24 * 3600
WEEK = 7 * DAY  # after which the newest set is brought back on trial again


def say(text: str) -> None:
    """Write into the container's log."""
    print(f"backup: {text}", file=sys.stderr, flush=True)


def run(verb: str) -> tuple[bool, str]:
    """Run a verb to its end; return whether it did well, and its last line."""
    done = programs.run(sys.executable, "-m", "backup", verb)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [""]
    return not done.returncode, lines[-1]


class Schedule:
    """When a set is due: once a day, at a time of UTC."""

    def __init__(self, at: str) -> None:
        """Take a time such as 02:30, or off."""
        self.at = at
        self.not_before = 0.0

    def is_due(self, now: float, last: float) -> bool:
        """Return whether a set is due that the last one, begun then, is not."""
        if self.at == "off" or now < self.not_before:
            return False
        hours, _, minutes = self.at.partition(":")
        due = (
            datetime.fromtimestamp(now, UTC)
            .replace(hour=int(hours), minute=int(minutes), second=0, microsecond=0)
            .timestamp()
        )
        if due > now:
            due -= 24 * 3600
        return last < due

    def remember(self, is_good: bool, said: str, now: float) -> None:
        """Write down how a set of the schedule ended; one that failed is tried again later."""
        former = read_state()
        made = now if is_good else former.get("made", 0)
        write_state(former | {"tried": now, "made": made, "fault": "" if is_good else said})
        self.not_before = 0.0 if is_good else now + RETRY_SECONDS


def note_archive(said: str) -> None:
    """Write down what is wrong with the WAL, "" for nothing."""
    former = read_state()
    if former.get("archive", "") != said:
        write_state(former | {"archive": said})


def write_state(state: dict[str, Any]) -> None:
    """Write what ./stack status shows."""
    temporary = STATE.with_suffix(".new")
    try:
        temporary.write_text(json.dumps(state))
        temporary.replace(STATE)
    except OSError as error:  # (WAL is to be taken all the same)
        say(f"{STATE} can't be written: {error.strerror}")


def read_state() -> dict[str, Any]:
    """Return what the schedule did last."""
    try:
        state: dict[str, Any] = json.loads(STATE.read_text())
    except (OSError, ValueError):
        return {}
    return state


def answers() -> bool:
    """Return whether Postgres does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(DATABASE)
        except OSError:
            return False
    return True


def look_around(schedule: Schedule, next_pass: float) -> float:
    """Do what is due; return when objects are copied next."""
    if not answers():
        return next_pass
    now = time.time()
    made = read_state().get("made", 0)
    # (the schedule's first day begins with a set at once: before it nothing can be brought back)
    if schedule.is_due(now, made):
        is_good, said = run("scheduled")
        say(said)
        schedule.remember(is_good, said, now)
    state = read_state()
    if schedule.at != "off" and state.get("made") and now - max(state.get("trial", 0), state.get("trying", 0)) > WEEK:
        is_good, said = run("trial")
        say(said)
        former = read_state()
        # (one that failed is tried again the next day)
        again = now if is_good else now - WEEK + DAY
        done = {"trying": again, "trial": now if is_good else former.get("trial", 0), "untrue": "" if is_good else said}
        write_state(former | done)
    if ARCHIVING.exists() and time.monotonic() >= next_pass:
        start = time.monotonic()
        is_good, said = run("pass")
        if said:
            say(said)
        note_archive(said if is_good else "")
        return time.monotonic() + max(PASS_SECONDS, SHARE * (time.monotonic() - start))
    return next_pass


def main() -> None:
    """Run until the container ends."""
    is_good, said = run("prepare")
    if not is_good:
        say(said)
    server = programs.start(programs.PGBACKREST, "--log-level-stderr=error", "server")

    def end(_number: int, _frame: FrameType | None) -> None:
        server.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    schedule = Schedule(os.environ.get("STACK_BACKUP_AT", "off"))
    next_pass = time.monotonic() + PASS_SECONDS
    waits: Callable[[], int | None] = server.poll
    while waits() is None:
        next_pass = look_around(schedule, next_pass)
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    code = server.wait()
    sys.exit(0 if code in (0, -signal.SIGTERM) else f"backup: pgBackRest's server ended with {code}")
