"""What is done every minute between sets: WAL is handed over, objects are copied, all of it goes to the bucket."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from admin.faults import FaultError, printable
from backup import capture, carrying, database, making, planning, repository
from backup.faults import describe
from backup.repository import PASSES, Repository
from backup.settings import SCRATCH, TARGET, Settings
from backup.shelf import ShelfError

HANDED = SCRATCH / "handed"  # up to which transaction WAL was handed over
LISTED = SCRATCH / "listed"  # when the store may be asked again what it has
ARCHIVE_SECONDS = 15
SHARE = 20  # of the time, one part may be taken by asking the store, beyond some seconds: it has others to serve
LITTLE_SECONDS = 4
SKEW_SECONDS = 2  # stores tell whole seconds


@dataclass
class Passed:
    """What is wrong, "" for nothing.

    Attributes:
        archive: with the WAL.
        copies: with the copies of objects.
        clock: with the clocks.
        bucket: with the bucket that all of it goes to.
    """

    archive: str = ""
    copies: str = ""
    clock: str = ""
    bucket: str = ""


def go(chosen: Settings, found: Repository) -> Passed:
    """Do all of it; what is wrong with one part is not in the others' way."""
    passed = Passed()
    moment = None
    with contextlib.suppress(FaultError):  # (what is wrong is found out below)
        moment = hand_over()
    passed.archive = database.find_archive_fault() or ""
    try:
        with repository.alone(TARGET, chosen.shown, repository.OBJECTS_LOCK):
            copy_objects(chosen, found, moment, passed)
    except repository.BusyError:
        pass  # a backup copies them
    except FaultError as fault:
        passed.copies = str(fault)
    except (ShelfError, BotoCoreError, ClientError) as error:
        passed.copies = f"new objects can't be copied: {printable(str(error))}"
    except OSError as error:
        passed.copies = f"new objects can't be copied: {printable(describe(error))}"
    if chosen.bucket != "off":
        try:
            place = carrying.open_place(chosen.bucket, os.environ, carrying.CREDENTIALS.read_text())
            carrying.carry_on(TARGET, place)
        except FaultError as fault:
            passed.bucket = str(fault)
        except OSError as error:
            passed.bucket = f"{chosen.bucket} can't be used: {printable(describe(error))}"
    return passed


def hand_over() -> float | None:
    """Let Postgres hand over its WAL, if there is any; return the moment up to which it is there, None if as before.

    Raises FaultError if it isn't there within some seconds.
    """
    former = HANDED.read_text() if HANDED.exists() else ""
    handed = database.hand_over(former)
    if handed is None:
        return None
    database.wait_for_archive(handed.segment, ARCHIVE_SECONDS)
    HANDED.write_text(handed.transaction)
    return handed.time


def copy_objects(chosen: Settings, found: Repository, moment: float | None, passed: Passed) -> None:
    """Copy what came since the last set. Raises FaultError."""
    if not (sets := found.find_sets()) or (LISTED.exists() and time.monotonic() < float(LISTED.read_text())):
        return
    start = time.monotonic()
    names = sorted({*sets, *(Path(path).name for path in found.shelf.list(PASSES))})
    now = time.time()
    since = datetime.fromtimestamp(making.find_beginning(found, now), UTC)
    source = capture.Source(found, capture.open_bucket(chosen.store))
    # (named by the moment of the WAL that is there: an object that comes later than its row does no harm)
    damaged = capture.copy_new(source, since, making.name_set(moment or now, names), is_moment=moment is not None)
    passed.clock = find_clock_fault(names[-1], now, capture.measure_skew(source.bucket))
    LISTED.write_text(str(time.monotonic() + SHARE * (time.monotonic() - start - LITTLE_SECONDS)))
    passed.archive = passed.archive or planning.find_trouble(found, now) or ""
    if damaged:
        passed.copies = f"what was copied at {damaged[0]} is damaged: {repository.REMEDY}"


def find_clock_fault(last: str, now: float, skew: float) -> str:
    """Return what is wrong with the clocks, "" for nothing."""
    ahead = making.read_name(last) - now
    if ahead > SKEW_SECONDS:
        return (
            f"this machine's clock went back by {ahead:.0f} s, the newest backup or moment is {last}: see to its "
            "clock, then ./stack backup (restore --at counts from there)"
        )
    if abs(skew) > SKEW_SECONDS:
        word = "ahead of" if skew > 0 else "behind"
        return (
            f"the object store's clock is {abs(skew):.0f} s {word} this machine's: restore --at would take objects of "
            "another moment: set the clocks"
        )
    return ""
