"""A folder of backups in a bucket too, and from there back: as it lies, so that nothing here needs the passphrase.

Nothing in the bucket is ever removed or, but for what pgBackRest changes, replaced: the key that the stack has for it
needs no right to delete.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from admin.faults import FaultError
from backup import programs
from backup.repository import IDENTITY
from backup.settings import SCRATCH, SECRETS

# The authority of the store, if it has one of its own: for the container itself, and for one of the moment.
AUTHORITIES = (SECRETS / "bucket_ca.pem", Path("/ca.pem"))
CREDENTIALS = SECRETS / "bucket_credentials"
URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<folder>[A-Za-z0-9._/-]*))?")
CARRIED = "carried.json"  # what was carried last, and to where
# What is nobody else's or not whole, and what says that all else is there: that comes last.
SKIPPED = ["/lock*", "*.new", "*.partial", "*.pgbackrest.tmp", "/schedule.json", f"/{CARRIED}", "/trial/**"]
SKIPPED += ["/files/begun/**", "/files/damaged/**"]
CHANGING = [f"/{IDENTITY}", "*.info", "*.info.copy"]
LAST = ["/files/passes/**", "/files/sets/**"]
# What comes between sets, and while one is made.
BETWEEN, BETWEEN_LAST = ["/files/objects/**", "/postgres/archive/**"], ["/files/passes/**"]
LIMITS = ["--transfers", "8", "--checkers", "8", "--retries", "3", "--low-level-retries", "5", "--contimeout", "10s"]
# Between sets the next round comes soon.
SOON = ["--transfers", "8", "--checkers", "8", "--retries", "1", "--low-level-retries", "2", "--contimeout", "5s"]
SOON += ["--timeout", "30s"]
MARGIN_SECONDS = 120  # between what a file's time says and when it was seen
SHOWN = 2
NOISE = [
    re.compile(r"^\S+ \S+ (ERROR|CRITICAL|NOTICE) *: "),
    re.compile(r"last error was: "),
    re.compile(r"operation error S3: "),
]
NOISE += [
    re.compile(r"https response error "),
    re.compile(r"RequestID: [^,]*, HostID: [^,]*, "),
    re.compile(r'\b[A-Z][a-z]+ "[^"]*": '),
]


@dataclass(frozen=True)
class Place:
    """A folder in a bucket.

    Attributes:
        bucket: its name.
        folder: in it, "" for all of it.
        shown: as the operator calls both.
        config: rclone's configuration.
        account: key and secret.
        endpoint: of the store, "" for AWS.
        region: of the bucket.
    """

    bucket: str
    folder: str
    shown: str
    config: Path
    account: tuple[str, str]
    endpoint: str
    region: str

    @property
    def remote(self) -> str:
        """As rclone calls it: with a slash at its end it does not ask first whether that is an object."""
        return f"there:{self.bucket}/{self.folder}".rstrip("/") + "/"


def find_authority() -> str | None:
    """Return the file with the store's own authority, if it has one."""
    return next((str(path) for path in AUTHORITIES if path.is_file() and path.stat().st_size), None)


def read_account(credentials: str, setting: str) -> tuple[str, str]:
    """Return key and secret of an AWS credentials file. Raises FaultError."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(credentials)
        account = parser["default"]
        return account["aws_access_key_id"], account["aws_secret_access_key"]
    except (configparser.Error, KeyError):
        raise FaultError(
            f"{setting} is no AWS credentials file: write [default], aws_access_key_id = ... and "
            "aws_secret_access_key = ..."
        ) from None


def open_place(
    url: str, environment: Mapping[str, str], credentials: str, setting: str = "STACK_BACKUP_S3_CREDENTIALS"
) -> Place:
    """Return a place, by the account in the text of an AWS credentials file. Raises FaultError."""
    if not (found := URL.fullmatch(url)):
        raise FaultError(f"{url!r} is no place in a bucket: write s3://BUCKET/FOLDER")
    endpoint, region = (environment.get(f"STACK_BACKUP_S3_{name}", "") for name in ("ENDPOINT", "REGION"))
    keys = read_account(credentials, setting)
    lines = ["[there]", "type = s3", f"provider = {'Other' if endpoint else 'AWS'}", f"region = {region}"]
    lines += [f"access_key_id = {keys[0]}", f"secret_access_key = {keys[1]}", "no_check_bucket = true"]
    lines += [f"endpoint = {endpoint}", "force_path_style = true"] if endpoint else []
    config = SCRATCH / f"carrying-{os.getpid()}.conf"
    config.touch(0o600)
    config.write_text("\n".join(lines) + "\n")
    return Place(found["bucket"], (found["folder"] or "").strip("/"), url, config, keys, endpoint, region)


def run(place: Place, verb: str, *options: str, limits: list[str] = LIMITS) -> str:
    """Run rclone; return what it put out. Raises FaultError that says why it failed."""
    command = [programs.RCLONE, verb, "--config", str(place.config), "--cache-dir", str(SCRATCH / "rclone")]
    command += [*limits, *options]
    if authority := find_authority():
        command += ["--ca-cert", authority]
    done = programs.run(*command)
    if done.returncode:
        said = [clean(line) for line in done.stderr.splitlines() if line.strip()]
        shown = "; ".join(dict.fromkeys(said[-SHOWN:]))
        raise FaultError(f"{place.shown} can't be used: {shown}: check STACK_BACKUP_S3_* in .env")
    return done.stdout


def clean(line: str) -> str:
    """Return what a line of rclone's says, without how it asked."""
    for noise in NOISE:
        line = noise.sub("", line)
    return line


def leave_out(*patterns: str) -> list[str]:
    """Return options that take all but these files, and but those that nobody else needs."""
    return [part for pattern in (*SKIPPED, *patterns) for part in ("--filter", f"- {pattern}")]


def take(*patterns: str) -> list[str]:
    """Return options that take these files only."""
    return [*leave_out(), *(part for pattern in patterns for part in ("--filter", f"+ {pattern}")), "--filter", "- *"]


def check_place(folder: Path, place: Place) -> None:
    """Let no two stacks write into one place. Raises FaultError."""
    listed = run(place, "lsf", place.remote, "--files-only", "--max-depth", "1")
    if IDENTITY not in listed.splitlines():
        return
    if run(place, "cat", f"{place.remote}{IDENTITY}").encode() != (folder / IDENTITY).read_bytes():
        raise FaultError(f"{place.shown} has the backups of another folder: choose another place")


def write_time(moment: float) -> str:
    """Return a moment as rclone reads it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


def copy_all(folder: Path, place: Place, begun: float) -> None:
    """Copy what the bucket has not yet. Raises FaultError.

    What says that all else is there comes last, and only if it was there when this began: nobody is kept from making a
    set meanwhile, whose files have not all been seen.
    """
    check_place(folder, place)
    run(place, "copy", str(folder), place.remote, "--size-only", "--fast-list", *leave_out(*CHANGING, *LAST))
    run(place, "copy", str(folder), place.remote, "--checksum", *take(*CHANGING))
    run(place, "copy", str(folder), place.remote, "--checksum", "--min-age", write_time(begun), *take(*LAST))


def carry(folder: Path, place: Place) -> None:
    """Copy what the bucket has not yet, and read every byte there again. Raises FaultError."""
    begun = time.time()
    copy_all(folder, place, begun)
    read = ["--download", "--one-way", "--min-age", write_time(begun)]
    run(place, "check", str(folder), place.remote, *read, *leave_out())


def carry_on(folder: Path, place: Place) -> None:
    """Copy what came since the last time: for every minute; after a new set all is looked at. Raises FaultError."""
    newest = max((path.name for path in (folder / "files/sets").glob("*Z*")), default="")
    begun = time.time()  # (a set that comes after the look, and is taken along, is looked for again)
    former = read_carried(folder, place)
    if former is None or former[1] != newest or begun < former[0]:
        copy_all(folder, place, begun)
    else:
        new = ["--size-only", "--no-traverse", "--max-age", write_time(former[0] - MARGIN_SECONDS)]
        run(place, "copy", str(folder), place.remote, *new, *take(*BETWEEN), limits=SOON)
        last = ["--min-age", write_time(begun), *take(*BETWEEN_LAST)]
        run(place, "copy", str(folder), place.remote, *new, *last, limits=SOON)
    state = {"place": place.shown, "id": read_id(folder), "begun": begun, "newest": newest}
    temporary = folder / f"{CARRIED}.new"
    temporary.write_text(json.dumps(state))
    temporary.replace(folder / CARRIED)


def read_carried(folder: Path, place: Place) -> tuple[float, str] | None:
    """Return when this folder was carried to this place last, and with which newest set; None for never."""
    try:
        state = json.loads((folder / CARRIED).read_text())
        is_same = (state["place"], state["id"]) == (place.shown, read_id(folder))
        return (float(state["begun"]), str(state["newest"])) if is_same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_id(folder: Path) -> str:
    """Return what tells this folder from others."""
    return str(json.loads((folder / IDENTITY).read_text())["id"])


def fetch(place: Place, folder: Path, at: str = "") -> None:
    """Let the folder have what the bucket has, or had at a moment, and nothing else. Raises FaultError."""
    run(place, "sync", place.remote, str(folder), "--checksum", *(["--s3-version-at", at] if at else []))
    if not (folder / IDENTITY).exists():
        raise FaultError(f"{place.shown} holds no backups: name the folder that ./stack backup --to had")
