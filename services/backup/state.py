"""What ./stack status says of backups and disks, as JSON. Run with `python -IS`: asked often, it imports nothing."""

import json
import os
import time
from pathlib import Path

BACKUPS = Path("/backups")
DISKS = {"database": Path("/var/lib/postgresql/data"), "backups": BACKUPS}
PARTS = ("fault", "archive", "untrue", "trial", "copies", "clock", "bucket", "messages")

try:
    done = json.loads((BACKUPS / "schedule.json").read_text())
except (OSError, ValueError):
    done = {}
try:
    names = sorted(path.name.removesuffix(".bin") for path in (BACKUPS / "files/sets").iterdir())
except OSError:
    names = []
bucket = os.environ.get("STACK_BACKUP_S3_TO", "off")
state: dict[str, object] = {
    "sets": names,
    "at": os.environ.get("STACK_BACKUP_AT", "off"),
    "place": "" if bucket == "off" else bucket,
}
state["carried"] = time.time() - done["carried"] if done.get("carried") else None
state["sizes"] = done.get("sizes") or {}
print(json.dumps({"Backups": state | {name: done.get(name, "") for name in PARTS}}))
for name, place in DISKS.items():
    try:
        found = os.statvfs(place)
    except OSError:
        continue
    # (as df counts: what is kept for root is neither used nor free)
    used, free = (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize
    print(json.dumps({"Disk": name, "used": used, "free": free}))
