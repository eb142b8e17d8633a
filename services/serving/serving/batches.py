"""The log of predictions on its way: files that `serving` writes and `follower` takes away, and what they are called.

A file has its name when it is whole. The name says all that is to be known without reading it: whoever takes it away
has no library for Parquet. Nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import re
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

EXPERIMENT = "Predictions"  # where they go: a run a model and day
FOLDER = Path("/predictions")
LIMIT_BYTES = 100 * 1024**2  # of all that wait
INPUT = "input."  # what the columns of inputs begin with
PART_SECONDS = 600.0  # after which a file that never became whole is one that nobody writes any more
_NAME = re.compile(
    r"(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})@(?P<version>[1-9][0-9]{0,8})"
    r"-(?P<moment>[0-9]{8}T[0-9]{12})Z-(?P<rows>[0-9]{1,9})\.parquet"
)
_MOMENT = "%Y%m%dT%H%M%S%f"


@dataclass(frozen=True)
class Batch:
    """What a file's name says.

    Attributes:
        model, version: whose predictions they are.
        moment: when it was written.
        rows: how many it has.
    """

    model: str
    version: str
    moment: datetime
    rows: int

    @property
    def name(self) -> str:
        """The name."""
        return f"{self.model}@{self.version}-{self.moment.strftime(_MOMENT)}Z-{self.rows}.parquet"

    @property
    def day(self) -> str:
        """The day that it was written on, in UTC."""
        return self.moment.date().isoformat()


def read_name(name: str) -> Batch | None:
    """Return what a name says, None if it is no batch's."""
    if (found := _NAME.fullmatch(name)) is None:
        return None
    try:
        moment = datetime.strptime(found["moment"], _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Batch(found["model"], found["version"], moment, int(found["rows"]))


def list_batches(folder: Path) -> list[tuple[Path, Batch]]:
    """Return the files that wait, the oldest first."""
    found = [(path, batch) for path in folder.iterdir() if (batch := read_name(path.name))]
    return sorted(found, key=lambda pair: pair[1].moment)


def make_room(folder: Path, size: int, limit: int) -> int:
    """Remove the oldest files until `size` bytes more keep the limit; return how many rows are lost by that."""
    lost, sizes = 0, {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was taken away, or another worker makes room too
            known = path.lstat()
            if path.suffix == ".part" and time.time() - known.st_mtime > PART_SECONDS:
                path.unlink()
            elif stat.S_ISREG(known.st_mode):
                sizes[path] = known.st_size
    total = sum(sizes.values())
    for path, batch in list_batches(folder):
        if total + size <= limit:
            break
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            lost += batch.rows
        total -= sizes.get(path, 0)
    return lost
