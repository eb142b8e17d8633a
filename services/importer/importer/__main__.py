"""`python -m importer`: the steps of ./stack import-mlflow."""

import atexit
import gc
import logging
import sqlite3
import sys

import psycopg2  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import OperationalError

from admin.faults import FaultError, printable
from importer.cli import app

# To look for cycles among what MLflow's import makes would cost most of a second when the interpreter ends.
atexit.register(gc.freeze)
logging.basicConfig(level=logging.ERROR)

try:
    app(prog_name="./stack import-mlflow")
except FaultError as fault:
    sys.exit("\n".join(f"stack: {printable(line)}" for line in str(fault).splitlines()))
except OperationalError as error:
    reason = " ".join(str(error.orig).split())
    sys.exit(f"stack: the database can't be used: {printable(reason)}: ./stack status shows what is wrong")
except (psycopg2.Error, sqlite3.Error) as error:
    sys.exit(f"stack: the source can't be read: {printable(' '.join(str(error).split()))}")
except OSError as error:
    sys.exit(
        f"stack: a file can't be read or written: {error.strerror}: {printable(str(error.filename))}: is there space?"
    )
except (BotoCoreError, ClientError) as error:
    sys.exit(f"stack: the object store can't be used: {printable(str(error))}: see ./stack logs objectstore")
