"""Docker's health check: it has asked lately. (Whether it was answered, ./stack status says.) Run with `python -IS`."""

import sys
import time
from pathlib import Path

MAX_AGE = 60  # a large model takes longer to fetch; three misses in a row are needed then

try:
    age = time.time() - Path("/tmp/beat").stat().st_mtime
except OSError:
    sys.exit("follower: it has not asked yet")
if age > MAX_AGE:
    sys.exit(f"follower: it has not asked for {age:.0f} s")
print("alive")
