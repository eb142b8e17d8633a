"""What ./stack status says of backups and disks, as JSON. Run with `python -IS`: asked often, it imports nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

BACKUPS, DONE = Path("/backups"), Path("/tmp/schedule.json")
DISKS = {"database": Path("/var/lib/postgresql/data"), "backups": BACKUPS}
PARTS = ("fault", "archive", "untrue", "trial", "copies", "clock", "bucket", "messages")


def describe(backups: Path, done: Path) -> dict[str, object]:
    """Return which sets a folder has, and what the container does by itself."""
    try:
        known = json.loads(done.read_text())
    except (OSError, ValueError):
        known = {}
    names, fault = list_sets(backups)
    bucket = os.environ.get("STACK_BACKUP_S3_TO", "off")
    state = {
        "sets": names,
        "target": fault,
        "at": os.environ.get("STACK_BACKUP_AT", "off"),
        "place": "" if bucket == "off" else bucket,
        "carried": time.time() - known["carried"] if known.get("carried") else None,
        "sizes": known.get("sizes") or {},
    }
    return state | {name: known.get(name, "") for name in PARTS}


def list_sets(backups: Path) -> tuple[list[str], str]:
    """Return the names of the sets, and why they can't be told, "" if they can."""
    try:
        return sorted(path.name.removesuffix(".bin") for path in (backups / "files/sets").iterdir()), ""
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        shown = os.environ.get("STACK_BACKUP_TO", "")
        return [], f"{shown} can't be read ({error.strerror}): see that its disk is there, and well"


if __name__ == "__main__":
    print(json.dumps({"Backups": describe(BACKUPS, DONE)}))
    for name, place in DISKS.items():
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        # (as df counts: what is kept for root is neither used nor free)
        used, free = (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize
        print(json.dumps({"Disk": name, "used": used, "free": free}))
