"""The folder of a sweep, which its workers share: what is searched, the table, the study, and who is alive.

Locks are the kernel's: the end of a process, however it came, is the end of its locks.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from wine.errors import TrainerError
from wine.settings import read_sweeps_folder

PATIENCE = 60.0  # seconds that a worker waits for its sweep
_OLD = 3600.0  # seconds after which nobody asks for an ended sweep


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do."""

    model: str
    params: dict[str, Any]
    """Parameters that stay as they are."""
    space: dict[str, str]
    """Distributions as Optuna's JSON."""
    metric: str
    direction: str
    target: str
    source: str
    """Where the table came from; its content is in the folder."""
    seed: int
    folds: int
    trials: int
    """How many are to end as COMPLETE or PRUNED."""
    prune: bool
    experiment: str
    experiment_id: str
    run_id: str
    """The parent run, after which the folder is called."""
    model_name: str
    register: bool
    begun: float
    deadline: float | None
    """Moment after which no trial begins."""


class Folder:
    """A sweep's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal.log"

    @property
    def run_id(self) -> str:
        """The parent run."""
        return self.path.name

    def read_plan(self) -> Plan:
        """Return what is to be done."""
        return Plan(**json.loads((self.path / "plan.json").read_text()))

    def write_plan(self, plan: Plan) -> None:
        """Write what is to be done; a reader sees the old or the new, whole."""
        new = self.path / "plan.new"
        new.write_text(json.dumps(asdict(plan)))
        new.replace(self.path / "plan.json")

    def read_table(self) -> bytes:
        """Return the content of the table's file."""
        return (self.path / "table").read_bytes()

    def write_table(self, content: bytes) -> None:
        """Keep the table: a sweep goes on with what it began with."""
        (self.path / "table").write_bytes(content)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock of that name; wait for whoever has it."""
        with (self.path / f"{name}.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def hold_life(self, worker: str) -> IO[bytes]:
        """Take a worker's lock, for as long as the file is open."""
        file = (self.path / f"{worker}.life").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def is_alive(self, worker: str) -> bool:
        """Return whether somebody holds a worker's lock."""
        try:
            with (self.path / f"{worker}.life").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def count_alive(self) -> int:
        """Return how many workers there are."""
        return sum(self.is_alive(path.stem) for path in self.path.glob("*.life"))

    @property
    def rests(self) -> bool:
        """Whether its time was up: it has been closed, and is there for a --resume."""
        return (self.path / "rests").exists()

    def rest(self, rests: bool) -> None:
        """Note that it has been closed with trials left, or goes on."""
        if rests:
            (self.path / "rests").touch()
        else:
            (self.path / "rests").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it: the sweep has ended, and MLflow has what it found."""
        (self.path / "plan.json").unlink(missing_ok=True)  # first, so that half a folder is none
        shutil.rmtree(self.path)


def make_folder(run_id: str) -> Folder:
    """Make the folder of a new sweep."""
    path = read_sweeps_folder() / run_id
    path.mkdir()
    return Folder(path)


def open_folder(run_id: str) -> Folder:
    """Return the folder of a sweep that has not ended.

    Raises:
        TrainerError: There is none.
    """
    path = read_sweeps_folder() / run_id
    if not (path / "plan.json").is_file():
        raise TrainerError(f"no sweep {run_id!r} is unfinished: start one by ./stack sweep")
    return Folder(path.resolve())


def answer(call: str, folder: Folder) -> None:
    """Let those who wait for a call find a sweep's folder by it: a link, which outlives the folder."""
    for link in read_sweeps_folder().iterdir():
        if link.is_symlink() and not link.exists() and link.lstat().st_mtime < time.time() - _OLD:
            link.unlink(missing_ok=True)
    (read_sweeps_folder() / call).symlink_to(folder.run_id)


def has_ended(call: str) -> bool:
    """Return whether the sweep that has answered a call has been closed."""
    link = read_sweeps_folder() / call
    return link.is_symlink() and (not (link / "plan.json").is_file() or Folder(link).rests)


def await_folder(call: str) -> Folder | None:
    """Return the folder of the sweep that answers a call, None if it has ended already.

    Raises:
        TrainerError: None has answered.
    """
    deadline = time.monotonic() + PATIENCE
    link = read_sweeps_folder() / call
    while not link.is_symlink():
        if time.monotonic() > deadline:
            raise TrainerError(f"no sweep has begun within {PATIENCE:.0f} s: look above for the reason, or try again")
        time.sleep(0.05)
    return None if has_ended(call) else Folder(link.resolve())


def find_newest() -> Folder:
    """Return the folder of the newest sweep that has not ended.

    Raises:
        TrainerError: All have.
    """
    plans = [Folder(path.parent.resolve()) for path in read_sweeps_folder().glob("*/plan.json")]
    if not plans:
        raise TrainerError("no sweep is unfinished: start one by ./stack sweep")
    return max(plans, key=lambda folder: folder.read_plan().begun)


def extend(plan: Plan, trials: int | None, timeout: float | None) -> Plan:
    """Return a plan with another end."""
    deadline = None if timeout is None else time.time() + timeout
    return replace(plan, trials=trials or plan.trials, deadline=deadline)
