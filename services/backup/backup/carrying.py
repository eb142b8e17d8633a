"""A folder of backups in a bucket too, and from there back: as it lies, so that nothing here needs the passphrase.

Nothing in the bucket is ever removed or, but for what pgBackRest changes, replaced: the key that the stack has for it
needs no right to delete.
"""

from __future__ import annotations

import configparser
import fcntl
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from admin.faults import FaultError
from backup import programs
from backup.repository import IDENTITY, LOCK
from backup.settings import SCRATCH

AUTHORITY = Path("/ca.pem")
CONFIG = SCRATCH / "carrying.conf"
URL = re.compile(r"s3://(?P<place>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?)")
# What is nobody else's, and what says that all else is there: that comes last.
SKIPPED = ["/lock*", "*.new", "/schedule.json", "/trial/**", "/files/begun/**"]
LAST = [f"/{IDENTITY}", "*.info", "*.info.copy", "/files/passes/**", "/files/sets/**"]
LIMITS = ["--transfers", "8", "--checkers", "8", "--retries", "3", "--low-level-retries", "5", "--contimeout", "10s"]
SHOWN = 3


@dataclass(frozen=True)
class Place:
    """A folder in a bucket.

    Attributes:
        remote: as rclone calls it.
        shown: as the operator does.
    """

    remote: str
    shown: str


def open_place(url: str, endpoint: str, region: str, credentials: str) -> Place:
    """Return a place, by the account in the text of an AWS credentials file. Raises FaultError."""
    if not (found := URL.fullmatch(url)):
        raise FaultError(f"{url!r} is no place in a bucket: write s3://BUCKET/FOLDER")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(credentials)
        account = parser["default"]
        keys = account["aws_access_key_id"], account["aws_secret_access_key"]
    except (configparser.Error, KeyError):
        raise FaultError(
            "STACK_BACKUP_S3_CREDENTIALS is no AWS credentials file: write [default], aws_access_key_id = ... and "
            "aws_secret_access_key = ..."
        ) from None
    lines = ["[there]", "type = s3", f"provider = {'Other' if endpoint else 'AWS'}", f"region = {region}"]
    lines += [f"access_key_id = {keys[0]}", f"secret_access_key = {keys[1]}", "no_check_bucket = true"]
    lines += [f"endpoint = {endpoint}", "force_path_style = true"] if endpoint else []
    CONFIG.touch(0o600)
    CONFIG.write_text("\n".join(lines) + "\n")
    return Place(f"there:{found['place'].rstrip('/')}", url)


def run(place: Place, verb: str, *options: str) -> str:
    """Run rclone; return what it said. Raises FaultError that says why it failed."""
    command = [programs.RCLONE, verb, "--config", str(CONFIG), "--cache-dir", str(SCRATCH / "rclone")]
    command += [*LIMITS, *options]
    if AUTHORITY.is_file() and AUTHORITY.stat().st_size:
        command += ["--ca-cert", str(AUTHORITY)]
    done = programs.run(*command)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [re.sub(r"^\S+ \S+ (ERROR|CRITICAL|NOTICE) *: ", "", line) for line in lines]
        raise FaultError(f"{place.shown} can't be used: {'; '.join(said[-SHOWN:])}: check STACK_BACKUP_S3_* in .env")
    return done.stderr


def exclude(*patterns: str) -> list[str]:
    """Return options that leave files out."""
    return [part for pattern in patterns for part in ("--exclude", pattern)]


def include(*patterns: str) -> list[str]:
    """Return options that take these files only."""
    return [part for pattern in patterns for part in ("--include", pattern)]


def carry(folder: Path, place: Place) -> None:
    """Copy what the bucket has not yet, and read every byte there again. Raises FaultError."""
    with (folder / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # (a set that is being made or removed is waited for)
        begun = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        run(place, "copy", str(folder), place.remote, "--size-only", *exclude(*SKIPPED, *LAST))
        run(place, "copy", str(folder), place.remote, "--checksum", *include(*LAST))
        # (WAL may have come meanwhile)
        read = ["--download", "--one-way", "--min-age", begun]
        run(place, "check", str(folder), place.remote, *read, *exclude(*SKIPPED))


def fetch(place: Place, folder: Path) -> None:
    """Copy all that the bucket has. Raises FaultError."""
    run(place, "copy", place.remote, str(folder), "--checksum")
    if not (folder / IDENTITY).exists():
        raise FaultError(f"{place.shown} holds no backups: name the folder that ./stack backup --to had")
