"""Docker's health check: does what Postgres hands its WAL to answer?"""

import socket
import sys

try:
    socket.create_connection(("127.0.0.1", 8432), timeout=3).close()
except OSError as error:
    sys.exit(f"pgBackRest's server: {error}")
