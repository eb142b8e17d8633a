"""`python -m admin`: the verbs of ./stack that need no access to Docker."""

import sys

from admin.cli import app
from admin.faults import FaultError, printable

try:
    app(prog_name="./stack")
except FaultError as fault:
    sys.exit("\n".join(f"stack: {printable(line)}" for line in str(fault).splitlines()))
