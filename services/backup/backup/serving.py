"""The container's own work: it takes WAL, copies new objects, and makes the sets of the schedule.

What imports libraries runs in a process of its own: what waits here day and night is small.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess  # nosec B404: for its exception
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from backup import programs

TARGET, ARCHIVING = Path("/backups"), Path("/archiving/on")
DATABASE = "/run/postgresql/.s.PGSQL.5432"
STATE = Path("/tmp/schedule.json")  # what was done, found and told last: where no fault of the target's is in the way
COPY = STATE.name  # in the target: what the next start begins with
IDENTITY = "repository.json"
NOTIFY = Path("/run/secrets/notify")
ROUND_SECONDS = 40  # and what a round takes: what is lost with all of this machine came within the last minute
FIRST_SECONDS, SOON_SECONDS = 20, 10
CERTAIN = 2  # rounds that fail, before somebody is told
AGAIN_SECONDS = 300  # until a message that did not go out is tried again
SLACK_SECONDS = 60
LATE_SECONDS = 25 * 3600
PARTS = ("archive", "copies", "clock", "bucket")  # what a round finds out
WORDS = {"fault": "backup", "untrue": "trial"}  # how a fault is called in a message
WORDS |= {"archive": "WAL", "copies": "objects", "clock": "clock", "bucket": "bucket"}
RETRY_SECONDS = 900
DAY = 24 * 3600
NAME = "%Y%m%dT%H%M%SZ"  # of a set
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
        # (the set may be made, and what is too old not be removed)
        is_made = is_good or find_newest() >= datetime.fromtimestamp(now, UTC).strftime(NAME)
        made = now if is_made else former.get("made", 0)
        write_state(former | {"tried": now, "made": made, "fault": "" if is_good else said})
        self.not_before = 0.0 if is_made else now + RETRY_SECONDS


def write_state(state: dict[str, Any]) -> bool:
    """Write what ./stack status shows, and the copy of it; return whether the former could be written."""
    is_written = _write(STATE, state)
    if is_own():
        _write(TARGET / COPY, state)
    return is_written


def _write(path: Path, state: dict[str, Any]) -> bool:
    temporary = path.with_suffix(".new")
    try:
        temporary.write_text(json.dumps(state))
        temporary.replace(path)
    except OSError as error:  # (WAL is to be taken all the same)
        say(f"{path} can't be written: {error.strerror}")
        return False
    return True


def read_state() -> dict[str, Any]:
    """Return what the schedule did last."""
    return _read(STATE)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_own() -> bool:
    """Return whether the target has backups of this stack: what else it may be, nothing is written there."""
    return _read(TARGET / IDENTITY).get("stack") == os.environ.get("STACK_NAME", "")


def recall() -> None:
    """Go on with what was known before the start."""
    if is_own():
        _write(STATE, _read(TARGET / COPY))


def answers() -> bool:
    """Return whether Postgres does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(DATABASE)
        except OSError:
            return False
    return True


class Job:
    """A verb that takes long, beside the rounds."""

    def __init__(self, verb: str) -> None:
        """Start it."""
        self.verb = verb
        self.begun = time.time()
        self._said, self._wrong = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        command = (sys.executable, "-m", "backup", verb)
        self._process = programs.start(*command, stdout=self._said, stderr=self._wrong)

    def end(self) -> tuple[bool, str] | None:
        """Return whether it did well, and its last line; None as long as it goes on."""
        if (code := self._process.poll()) is None:
            return None
        with self._said, self._wrong:
            file = self._wrong if code else self._said
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines() or [""]
        return not code, lines[-1]


class Watch:
    """What the container does by itself."""

    def __init__(self, schedule: Schedule) -> None:
        """Begin with a round soon."""
        self._schedule = schedule
        self._job: Job | None = None
        self._next_round = time.monotonic() + FIRST_SECONDS
        self._next_message = 0.0
        self._failed: dict[str, int] = {}  # how many rounds in a row
        self._measured = ""

    def hurry(self, _number: int, _frame: FrameType | None) -> None:
        """Let the next round come at once."""
        self._next_round = 0.0

    def look_around(self) -> None:
        """Do what is due."""
        if self._job and (ended := self._job.end()):
            self._note(self._job, *ended)
            self._job = None
        if answers():
            self._job = self._job or self._find_job(time.time())
            if ARCHIVING.exists() and time.monotonic() >= self._next_round:
                self._go_round()
        self._tell(time.time())

    def _find_job(self, now: float) -> Job | None:
        state = read_state()
        made = state.get("made", 0)
        # (the schedule's first day begins with a set at once: before it nothing can be brought back; and a set that is
        # of tomorrow was made by a clock that has gone back since)
        if self._schedule.is_due(now, made if made <= now + SLACK_SECONDS else 0):
            return Job("scheduled")
        tried = min(max(state.get("trial", 0), state.get("trying", 0)), now)
        if self._schedule.at != "off" and made and now - tried > WEEK:
            return Job("trial")
        if (newest := find_newest(self._measured)) != self._measured:
            self._measured = newest
            return Job("measure")
        return None

    def _note(self, job: Job, is_good: bool, said: str) -> None:
        if job.verb == "measure":
            with contextlib.suppress(ValueError):
                write_state(read_state() | {"sizes": json.loads(said) if is_good else {}})
            return
        say(said)
        if job.verb == "scheduled":
            self._schedule.remember(is_good, said, job.begun)
            return
        former = read_state()
        # (one that failed is tried again the next day)
        again = job.begun if is_good else job.begun - WEEK + DAY
        trial = job.begun if is_good else former.get("trial", 0)
        write_state(former | {"trying": again, "trial": trial, "untrue": "" if is_good else said})

    def _go_round(self) -> None:
        start = time.monotonic()
        is_good, said = run("pass")
        found = dict.fromkeys(PARTS, "")
        try:
            found |= json.loads(said) if is_good else {"copies": said}
        except ValueError:
            found["copies"] = said
        former = read_state()
        for part, fault in found.items():
            if fault and fault != former.get(part):
                say(fault)
            self._failed[WORDS[part]] = self._failed.get(WORDS[part], 0) + 1 if fault else 0
        took = time.monotonic() - start
        changed: dict[str, str | float] = {
            part: fault for part, fault in found.items() if former.get(part, "") != fault
        }
        if not found["bucket"] and not found["copies"]:
            changed |= {"carried": time.time() - took, "took": took}
        write_state(former | changed)
        if not ARCHIVING.exists():
            self._failed.clear()  # (no other round comes: what this one found is certain)
        # (what fails for the first time is tried again soon: then it is said)
        first = any(count == 1 for count in self._failed.values())
        self._next_round = start + (SOON_SECONDS if first else ROUND_SECONDS)

    def _tell(self, now: float) -> None:
        if not (NOTIFY.exists() and NOTIFY.stat().st_size) or time.monotonic() < self._next_message:
            return
        state = read_state()
        troubles = find_troubles(state, self._schedule.at, find_newest(self._measured), now)
        told: dict[str, str] = state.get("told", {})
        troubles = {
            part: fault
            for part, fault in troubles.items()
            if part in told or self._failed.get(part, CERTAIN) >= CERTAIN
        }
        if troubles.keys() == told.keys():
            return
        title, body = describe_change(os.environ.get("STACK_NAME", ""), told, troubles)
        done = programs.run(sys.executable, "-m", "backup", "tell", said=json.dumps({"title": title, "body": body}))
        fault = (done.stderr.strip().splitlines() or ["the message did not go out"])[-1] if done.returncode else ""
        if fault:
            say(fault)
        is_written = write_state(read_state() | {"messages": fault} | ({} if fault else {"told": troubles}))
        if fault or not is_written:  # (what was told and could not be written down would be told again at once)
            self._next_message = time.monotonic() + AGAIN_SECONDS


def find_newest(otherwise: str = "") -> str:
    """Return the name of the newest set, "" for none; where the target can't be read, what is known otherwise."""
    try:
        names = [path.name.removesuffix(".bin") for path in (TARGET / "files/sets").iterdir() if "Z" in path.name]
    except FileNotFoundError:
        return ""
    except OSError:
        return otherwise
    return max(names, default="")


def find_troubles(state: dict[str, Any], at: str, newest: str, now: float) -> dict[str, str]:
    """Return what an operator has to know of, by what it is about."""
    troubles = {word: state.get(part, "") for part, word in WORDS.items()}
    if at != "off" and newest:
        age = now - datetime.strptime(newest, NAME).replace(tzinfo=UTC).timestamp()
        troubles["late"] = f"the newest backup is {age / 3600:.0f} h old" if age > LATE_SECONDS else ""
    return {part: fault for part, fault in troubles.items() if fault}


def describe_change(stack: str, told: dict[str, str], troubles: dict[str, str]) -> tuple[str, str]:
    """Return title and text of the message about what has come, what goes on, and what is over."""
    new = [f"{part}: {fault}" for part, fault in troubles.items() if part not in told]
    rest = [f"still {part}: {fault}" for part, fault in troubles.items() if part in told]
    over = [f"over: {part}: {fault}" for part, fault in told.items() if part not in troubles]
    word = " need you" if new else " are well again" if not rest else ", something is over"
    title = f"{stack}: backups{word}"
    return title, "\n".join(new + over + rest + ["See ./stack status and docs/disaster-recovery.md."])


def main() -> None:
    """Run until the container ends."""
    watch = Watch(Schedule(os.environ.get("STACK_BACKUP_AT", "off")))
    signal.signal(signal.SIGHUP, watch.hurry)
    recall()
    is_good, said = run("prepare")
    if not is_good:
        say(said)
        write_state(read_state() | {"archive": said})
    server = programs.start(programs.PGBACKREST, "--log-level-stderr=error", "server")

    def end(_number: int, _frame: FrameType | None) -> None:
        server.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    waits: Callable[[], int | None] = server.poll
    while waits() is None:
        watch.look_around()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    code = server.wait()
    sys.exit(0 if code in (0, -signal.SIGTERM) else f"backup: pgBackRest's server ended with {code}")
