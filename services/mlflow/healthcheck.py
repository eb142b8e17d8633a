"""Docker's health check: ask every worker over its socket; print one line per fault. Run with `python -IS` (15 ms)."""

import json
import os
import socket
import sys
import time

QUESTION = b"GET /_stack/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main() -> None:
    """Exit 0 if all workers say that they are ready."""
    # All are asked before the first answer is read: so they look at database and store at the same time. (Together they
    # have 6 s, of the 8 that Docker gives.)
    end = time.monotonic() + 6
    connections = [socket.socket(socket.AF_UNIX) for _ in range(int(os.environ["STACK_WORKERS"]))]
    try:
        for number, connection in enumerate(connections, 1):
            connection.settimeout(1)
            connection.connect(f"/run/mlflow/http-{number}.sock")
            connection.sendall(QUESTION)
        answers = []
        for number, connection in enumerate(connections, 1):  # noqa: B007 - the fault names it
            connection.settimeout(max(0.1, end - time.monotonic()))
            answers.append(connection.makefile("rb").read())
    except OSError as error:
        sys.exit(f"mlflow: no answer of worker {number} on its socket: {error}")
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit("\n".join(json.loads(body or b"{}").get("faults", ["mlflow: not ready"])))
    print("ready")


main()
