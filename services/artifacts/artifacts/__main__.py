"""`python -m artifacts`: the verbs of ./stack that work on the object store and on MLflow's database."""

import atexit
import gc
import sys

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import OperationalError

from admin.faults import FaultError, printable
from artifacts.cli import app

# To look for cycles among what MLflow's import makes would cost most of a second when the interpreter ends.
atexit.register(gc.freeze)

try:
    app(prog_name="./stack")
except FaultError as fault:
    sys.exit("\n".join(f"stack: {printable(line)}" for line in str(fault).splitlines()))
except OperationalError as error:
    reason = " ".join(str(error.orig).split())
    sys.exit(f"stack: the database can't be used: {printable(reason)}: ./stack status shows what is wrong")
except (BotoCoreError, ClientError) as error:
    sys.exit(f"stack: the object store can't be used: {printable(str(error))}: see ./stack logs objectstore")
