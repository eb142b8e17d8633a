"""Docker's health check: the supervisor lives, and each version that it names answers. Run with `python -IS`."""

import json
import socket
import sys
import time
from pathlib import Path

STATE = Path("/run/serving/state.json")
MAX_AGE = 15  # the first worker's start takes the supervisor some seconds


def main() -> None:
    """Exit 0 if all is well; a version that can't be served is no fault of this container's."""
    try:
        age = time.time() - STATE.stat().st_mtime
        models = json.loads(STATE.read_text())["models"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"serving: no state: {error}")
    if age > MAX_AGE:
        sys.exit(f"serving: the supervisor has not been heard of for {age:.0f} s")
    for model in models:
        if model["served"]:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(4)
                    connection.connect(str(STATE.with_name(f"{model['name']}.sock")))
                    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    answer = connection.recv(64)
            except OSError as error:
                sys.exit(f"serving: {model['name']} does not answer: {error}")
            if not answer.startswith(b"HTTP/1.1 200"):
                sys.exit(f"serving: {model['name']} answers {answer!r}")
    print("alive")


main()
