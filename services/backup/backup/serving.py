"""The container's own work: pgBackRest's server, which takes the WAL that Postgres hands over."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from admin.faults import FaultError
from backup import pgbackrest, programs, repository, settings
from backup.settings import ARCHIVING, Settings


def serve(chosen: Settings) -> None:
    """Run pgBackRest's server until the container ends."""
    passphrase = settings.read_passphrase()
    pgbackrest.configure(settings.TARGET, passphrase)
    has_sets = False
    try:
        with repository.opened(settings.TARGET, chosen.shown, passphrase) as found:
            repository.check_owner(found, chosen.stack)
            has_sets = bool(found.find_sets())
    except FaultError as fault:
        if (settings.TARGET / repository.IDENTITY).exists():
            print(f"backup: {fault}", file=sys.stderr, flush=True)
    # Without a backup WAL is of no use, and would only fill the disk.
    if has_sets:
        ARCHIVING.touch()
    else:
        ARCHIVING.unlink(missing_ok=True)
    server = programs.start(programs.PGBACKREST, "--log-level-stderr=error", "server")

    def end(_number: int, _frame: FrameType | None) -> None:
        server.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    code = server.wait()
    sys.exit(0 if code in (0, -signal.SIGTERM) else f"backup: pgBackRest's server ended with {code}")
