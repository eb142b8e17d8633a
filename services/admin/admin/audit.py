"""The audit log that the gateway writes: files of JSON lines, one a day, read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from admin.faults import FaultError, printable

# No line of the gateway is as long: whatever has no end is read in pieces, not into memory.
MAX_LINE = 1 << 20


@dataclass
class Search:
    """Which entries are wanted, and how many lines could not be read.

    Attributes:
        user: name, or None for everybody.
        since: earliest moment, or None for all there is.
        action: what an action begins with.
        unreadable: lines that were no entry.
    """

    user: str | None = None
    since: datetime | None = None
    action: str = ""
    unreadable: int = 0

    def find(self, folder: Path) -> Iterator[dict[str, Any]]:
        """Yield the entries from the oldest on. Raises FaultError if a file can't be read."""
        for file in find_files(folder, self.since):
            try:
                with file.open(errors="replace", newline="\n") as lines:
                    while line := lines.readline(MAX_LINE):
                        entry = read_entry(line)
                        if entry is None:
                            self.unreadable += 1
                        elif self.is_wanted(entry):
                            entry["targets"] = read_targets(entry.get("targets"))
                            yield entry
            except OSError as error:
                raise FaultError(
                    f"{file}: {error.strerror}: the gateway's user should have made it readable for all"
                ) from None

    def is_wanted(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry fits."""
        return (
            (self.user is None or entry.get("user") == self.user)
            and str(entry.get("action", "")).startswith(self.action)
            and (self.since is None or entry["moment"] >= self.since)
        )


def find_files(folder: Path, since: datetime | None) -> list[Path]:
    """Return the files that may hold entries of that time, the oldest first."""
    found = []
    for file in folder.glob("audit-*.jsonl"):
        try:
            day = date.fromisoformat(file.stem.removeprefix("audit-"))
        except ValueError:
            continue
        # The containers' days are those of UTC.
        if since is None or day >= since.astimezone(UTC).date():
            found.append((day, file))
    return [file for _, file in sorted(found)]


def read_entry(line: str) -> dict[str, Any] | None:
    """Return an entry with `moment` added, or None for a line that is no entry."""
    try:
        entry = json.loads(line)
        entry["moment"] = datetime.fromisoformat(entry["time"]).astimezone(UTC)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return entry  # type: ignore[no-any-return]


def read_targets(text: object) -> dict[str, Any]:
    """Return what an action was done to; what can't be read stays as text."""
    if text in (None, "", "-"):
        return {}
    try:
        value = json.loads(str(text))
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"text": value}


HEADER = ("TIME", "STATUS", "USER", "ADDRESS", "ACTION", "TARGETS")


def format_line(cells: tuple[str, ...]) -> str:
    """Return a line of the table; its columns have fixed widths, since nobody knows what comes."""
    time, status, user, address, action, targets = (printable(cell) for cell in cells)
    return f"{time:<20}  {status:<6}  {user:<20}  {address:<15}  {action:<32}  {targets}".rstrip()


def format_entry(entry: dict[str, Any]) -> str:
    """Return an entry as a line of the table."""
    targets = " ".join(f"{name}={value}" for name, value in entry["targets"].items())
    return format_line(
        (
            f"{entry['moment']:%Y-%m-%dT%H:%M:%SZ}",
            *(str(entry.get(field) or "-") for field in ("status", "user", "address", "action")),
            targets,
        )
    )


def format_json(entry: dict[str, Any]) -> str:
    """Return an entry as one line of JSON."""
    return json.dumps({name: value for name, value in entry.items() if name != "moment"})
