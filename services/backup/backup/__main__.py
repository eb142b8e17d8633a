"""`python -m backup`: the verbs of ./stack that make, check and bring back backups."""

import sys

if sys.argv[1:] == ["serve"]:
    from backup import serving

    serving.main()

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import OperationalError

from admin.faults import FaultError, printable
from backup.cli import app
from backup.faults import describe
from backup.shelf import ShelfError

try:
    app(prog_name="./stack backup")
except FaultError as fault:
    sys.exit("\n".join(f"stack: {printable(line)}" for line in str(fault).splitlines()))
except ShelfError as error:
    sys.exit(f"stack: a file of the backups can't be written or read: {printable(str(error))}: is there space?")
except OSError as error:
    sys.exit(
        f"stack: a file can't be read or written: {printable(describe(error))}: see that its disk is there, neither "
        "full nor read-only"
    )
except OperationalError as error:
    reason = " ".join(str(error.orig).split())
    sys.exit(f"stack: the database can't be used: {printable(reason)}: ./stack status shows what is wrong")
except (BotoCoreError, ClientError) as error:
    sys.exit(f"stack: the object store can't be used: {printable(str(error))}: see ./stack logs objectstore")
