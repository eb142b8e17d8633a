"""pgBackRest: the copies of the database's files, and the WAL between them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from admin.faults import FaultError
from backup import programs
from backup.settings import PGDATA, SECRETS, SOCKET

CONFIG = Path("/tmp/pgbackrest.conf")  # (/etc/pgbackrest.conf is a link to it)
STANZA = "main"
SEGMENT = re.compile(r"(?P<segment>[0-9A-F]{24})-[0-9a-f]{40}(\.[a-z0-9]+)?")
SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENTS_IN_A_LOG = 0x100  # the third part of a name counts to that


def configure(folder: Path, passphrase: str) -> None:
    """Write the configuration, which this container's memory alone has: the passphrase is in it."""
    cipher = f"repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={passphrase}\n" if passphrase else ""
    content = f"""[global]
repo1-path={folder}/postgres
{cipher}repo1-bundle=y
repo1-block=y
# What is kept is decided set by set (cli.remove).
expire-auto=n
compress-type=zst
# (users are not to feel it)
process-max=1
start-fast=y
archive-timeout=60
lock-path=/tmp/pgbackrest
log-level-console=off
log-level-stderr=warn
log-level-file=off
tls-server-address=*
tls-server-ca-file={SECRETS}/backup_ca.pem
tls-server-cert-file={SECRETS}/backup_cert.pem
tls-server-key-file={SECRETS}/backup_key.pem
tls-server-auth=postgres={STANZA}

[{STANZA}]
pg1-path={PGDATA}
pg1-socket-path={SOCKET}
pg1-user=backup
pg1-database=postgres
"""
    temporary = CONFIG.with_suffix(f".{os.getpid()}")
    temporary.touch(0o600)
    temporary.write_text(content)
    temporary.replace(CONFIG)  # (the server may be reading it)


def run(command: str, *options: str) -> str:
    """Run a command of pgBackRest's; return its output. Raises FaultError."""
    done = programs.run(programs.PGBACKREST, f"--stanza={STANZA}", *options, command)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or ["nothing"]
        reason = re.sub(r"^.*ERROR: ", "", said[0]).strip()
        raise FaultError(f"pgBackRest can't {command}: {reason}")
    return done.stdout


def find_backups() -> list[dict[str, Any]]:
    """Return what pgBackRest knows of its backups, the oldest first."""
    found: list[dict[str, Any]] = json.loads(run("info", "--output=json"))
    return [backup for stanza in found for backup in stanza.get("backup", [])]


def find_system() -> int | None:
    """Return what Postgres calls the cluster that the backups are of, None without one."""
    stanzas: list[dict[str, Any]] = json.loads(run("info", "--output=json"))
    systems = [database["system-id"] for stanza in stanzas for database in stanza.get("db", [])]
    return int(systems[-1]) if systems else None


def make_backup(is_full: bool) -> dict[str, Any]:
    """Copy the files that changed since the last backup, or all; return what pgBackRest knows of the new one."""
    run("stanza-create")
    run("backup", f"--type={'full' if is_full else 'incr'}")
    return find_backups()[-1]


def find_chain(label: str) -> list[str]:
    """Return the labels of all backups whose files one needs, itself included."""
    [backup] = [each for each in find_backups() if each["label"] == label]
    return sorted({label, *(backup.get("reference") or [])})


def find_segments(folder: Path) -> dict[str, Path]:
    """Return the segments of WAL that a folder of backups has."""
    return {
        found["segment"]: path
        for path in (folder / "postgres/archive" / STANZA).rglob("*")
        if (found := SEGMENT.fullmatch(path.name))
    }


def count_up(first: str, last: str) -> list[str]:
    """Return the names of all segments from one to another, of one timeline.

    Raises FaultError if these are two.
    """
    if first[:8] != last[:8]:
        raise FaultError(f"the WAL goes from {first} to {last}, which is on another timeline: make a backup anew")

    def number(segment: str) -> int:
        return int(segment[8:16], 16) * SEGMENTS_IN_A_LOG + int(segment[16:], 16)

    return [
        f"{first[:8]}{each // SEGMENTS_IN_A_LOG:08X}{each % SEGMENTS_IN_A_LOG:08X}"
        for each in range(number(first), number(last) + 1)
    ]


def find_gap(folder: Path, first: str) -> tuple[str | None, Path]:
    """Return which segment after one is the first to be missing, None for none, and the last one of that timeline.

    Raises FaultError if the archive has nothing of it.
    """
    segments = find_segments(folder)
    last = max((segment for segment in segments if segment[:8] == first[:8] and segment >= first), default=None)
    if last is None:
        raise FaultError(f"WAL {first} is not in the archive: make a backup anew")
    return next((each for each in count_up(first, last) if each not in segments), None), segments[last]


def find_files(folder: Path, label: str, first: str, last: str) -> list[Path]:
    """Return the files that bring a backup back and replay WAL up to a segment. Raises FaultError if one is missing.

    backup.info and archive.info are not among them: they change with each backup, and pgBackRest has a copy of each
    with a checksum of its own.
    """
    files = [
        path
        for each in find_chain(label)
        for path in sorted((folder / "postgres/backup" / STANZA / each).rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]
    segments = find_segments(folder)
    wanted = count_up(first, last)
    if missing := [segment for segment in wanted if segment not in segments]:
        raise FaultError(
            f"{len(missing)} of {len(wanted)} segments of WAL are not in the archive, the first is {missing[0]}: "
            "./stack logs postgres says why, ./stack backup begins anew"
        )
    return files + [segments[segment] for segment in wanted]


def verify(label: str) -> list[str]:
    """Let pgBackRest read a backup with its WAL; return its complaints: its exit code is 0 in any case."""
    said = run("verify", f"--set={label}", "--output=text", "--verbose")
    if re.search(r"status: ok", said):
        return []
    return [line.strip() for line in said.splitlines() if re.search(r"invalid|missing|mismatch|error", line)][:5] or [
        said
    ]
