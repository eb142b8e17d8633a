"""Docker's health check: ask the server over its socket; print one line per fault. Run with `python -IS` (15 ms)."""

import json
import socket
import sys


def main() -> None:
    """Exit 0 if the server says that it is ready."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(6)
            connection.connect("/run/mlflow/http.sock")
            connection.sendall(b"GET /_stack/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as error:
        sys.exit(f"mlflow: no answer on its socket: {error}")
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        sys.exit("\n".join(json.loads(body or b"{}").get("faults", ["mlflow: not ready"])))
    print("ready")


main()
