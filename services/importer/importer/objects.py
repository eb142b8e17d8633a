"""The artifacts: listed where they were, copied by rclone to where they belong, and read again on both sides."""

from __future__ import annotations

import configparser
import hashlib
import io
import os
import subprocess  # nosec B404: rclone is a program
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError

from admin.faults import FaultError
from importer.locations import Owner, split
from importer.settings import ARTIFACTS, AUTHORITIES, WORK, Order
from tracking.reading import ChangedError, Reader
from tracking.store import Store

RCLONE = "/usr/local/bin/rclone"
WORKERS = 8
CHUNK = 1024 * 1024
SHOWN = 10
CREDENTIALS = Path("/tmp/source_credentials")  # (in this container's memory: the volume would keep it after a fault)
LIMITS = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": WORKERS + 2,
    "retries": {"mode": "standard", "total_max_attempts": 4},
}


@dataclass(frozen=True)
class Object:
    """An artifact: its path in the old store, its key in this one, its size."""

    path: str
    key: str
    size: int


class Side(Protocol):
    """Where the artifacts were."""

    remote: str

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the path and size of every object. Raises FaultError."""

    def open(self, path: str) -> BinaryIO:
        """Open one."""


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path, shown: str) -> None:
        self.root, self.shown = root, shown
        self.remote = str(root)

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the path and size of every file. Raises FaultError for what can't be read."""
        seen: set[str] = set()

        def refuse(error: OSError) -> None:
            place = str(error.filename).removeprefix(f"{self.root}/")
            raise FaultError(
                f"--artifacts {self.shown!r}: {place!r} can't be read ({error.strerror}): chmod -R o+rX it, for the "
                "container is a user of its own"
            )

        for folder, folders, files in os.walk(self.root, followlinks=True, onerror=refuse):
            real = str(Path(folder).resolve())
            if real in seen:  # (a link that leads back)
                folders.clear()
                continue
            seen.add(real)
            for name in files:
                path = Path(folder, name)
                relative = str(path.relative_to(self.root))
                if not path.exists():  # a link to nothing
                    continue
                if not os.access(path, os.R_OK):
                    refuse(PermissionError(13, "Permission denied", str(path)))
                yield relative, path.stat().st_size

    def open(self, path: str) -> BinaryIO:
        """Open a file."""
        return (self.root / path).open("rb")


class Bucket:
    """A bucket, or a folder of one, of a store that somebody else runs."""

    def __init__(self, order: Order) -> None:
        self.shown = order.artifacts
        self.bucket, _, prefix = order.artifacts.removeprefix("s3://").strip("/").partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        CREDENTIALS.touch(0o600)
        CREDENTIALS.write_text(order.credentials)
        self.store = Store(
            kind="s3",
            endpoint=order.endpoint,
            region=order.region,
            bucket=self.bucket,
            style="path",
            encryption="",
            kms_key="",
        )
        authorities = AUTHORITIES if Path(AUTHORITIES).exists() and Path(AUTHORITIES).stat().st_size else None
        self.client: BaseClient = self.store.connect(str(CREDENTIALS), authorities, **LIMITS)
        self.remote = f"source:{self.bucket}/{self.prefix}".rstrip("/")

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the path and size of every object. Raises FaultError."""
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield item["Key"].removeprefix(self.prefix), item["Size"]
        except (BotoCoreError, ClientError) as error:
            raise FaultError(
                f"--artifacts {self.shown!r} can't be read: {error}: check --s3-endpoint and --s3-credentials"
            ) from None

    def open(self, path: str) -> BinaryIO:
        """Open an object."""
        return io.BufferedReader(Reader(self.client, Bucket=self.bucket, Key=f"{self.prefix}{path}"), CHUNK)


def open_side(order: Order) -> Folder | Bucket:
    """Return where the artifacts are."""
    return Bucket(order) if order.artifacts.startswith("s3://") else Folder(ARTIFACTS, order.artifacts)


def match(found: Iterable[tuple[str, int]], owners: dict[str, Owner]) -> tuple[list[Object], int]:
    """Return the objects that belong to somebody, and how many belong to nobody."""
    best: dict[str, Object] = {}
    strays = 0
    for path, size in found:
        owned = split(path, owners)
        if owned is None or not owned[1]:
            strays += 1
            continue
        key = f"{owned[0].folder}/{owned[1]}"
        other = best.get(key)
        if other is not None:
            strays += 1
        # (a copy somewhere below is not what the old server used)
        if other is None or len(path) < len(other.path):
            best[key] = Object(path, key, size)
    return sorted(best.values(), key=lambda each: each.key), strays


def refuse_unfit(kind: str, objects: list[Object]) -> None:
    """Raise FaultError for keys that the store can't hold as they are."""
    unfit = [each.path for each in objects if not is_text(each.path)]
    if kind == "seaweedfs":
        unfit += [each.path for each in objects if "\\" in each.key or "//" in each.key]
    if unfit:
        raise FaultError(
            f"{len(unfit)} artifacts have names that this object store ({kind}) can't hold, the first is {unfit[0]!r}: "
            "rename them, or choose another STACK_OBJECTSTORE"
        )


def is_text(path: str) -> bool:
    """Return whether a name is UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def split_heads(each: Object) -> tuple[str, str, str]:
    """Return how path and key begin where they differ, and the end that they share."""
    old, new = each.path.split("/"), each.key.split("/")
    shared = 0
    while shared < min(len(old), len(new)) and old[-1 - shared] == new[-1 - shared]:
        shared += 1
    return "/".join(old[: len(old) - shared]), "/".join(new[: len(new) - shared]), "/".join(old[len(old) - shared :])


class Target:
    """The stack's bucket."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.client = store.connect(store.find_credentials(), store.find_authorities(), **LIMITS)

    def render_config(self, side: Folder | Bucket) -> str:
        """Return rclone's configuration; keys stay in the files they are in."""
        config = configparser.ConfigParser(interpolation=None)
        config["target"] = describe_remote(self.store, self.store.find_credentials())
        if isinstance(side, Bucket):
            config["source"] = describe_remote(side.store, str(CREDENTIALS))
        text = io.StringIO()
        config.write(text)
        return text.getvalue()

    def measure(self) -> dict[str, int]:
        """Return the size of every object that is there, by its key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.store.bucket)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def copy(self, side: Folder | Bucket, objects: list[Object], report: Callable[[str], None]) -> None:
        """Copy, by rclone, over what is there. Raises FaultError."""
        config = WORK / "rclone.conf"
        config.touch(0o600)
        config.write_text(self.render_config(side))
        groups: dict[tuple[str, str], list[str]] = {}
        for each in objects:
            if not is_line(each.path):
                with side.open(each.path) as body:
                    self.client.upload_fileobj(
                        body, self.store.bucket, each.key, ExtraArgs=self.store.describe_upload()
                    )
                continue
            old, new, rest = split_heads(each)
            groups.setdefault((old, new), []).append(rest)
        for number, ((old, new), names) in enumerate(sorted(groups.items()), 1):
            if number % 50 == 0:
                report(f"{number} of {len(groups)} groups of folders")
            source = "/".join(part for part in (side.remote, old) if part)
            target = "/".join(part for part in (f"target:{self.store.bucket}", new) if part)
            # (what is there is known already, and all is read again afterwards)
            options = ["--no-traverse", "--no-check-dest", "--s3-no-head", "--copy-links", "--retries", "3"]
            run_rclone(
                ["copy", source, target, "--transfers", str(WORKERS), *options], names, self.find_authorities(side)
            )

    def find_authorities(self, side: Folder | Bucket) -> str | None:
        """Return the file of authorities for certificates."""
        given = isinstance(side, Bucket) and Path(AUTHORITIES).exists() and Path(AUTHORITIES).stat().st_size
        return self.store.find_authorities() or (AUTHORITIES if given else None)

    def compare(self, side: Folder | Bucket, objects: list[Object]) -> list[Object]:
        """Return the objects that are not the same by SHA-256; every byte is read on both sides."""
        there = self.measure()
        held = [each for each in objects if there.get(each.key) == each.size]

        def is_same(each: Object) -> bool:
            after = Reader(self.client, Bucket=self.store.bucket, Key=each.key)
            try:
                with side.open(each.path) as before, after:
                    return hash_all(before) == hash_all(after)
            except ChangedError:
                return False

        with ThreadPoolExecutor(WORKERS) as pool:
            same = {each.key for each, is_one in zip(held, pool.map(is_same, held), strict=True) if is_one}
        return [each for each in objects if each.key not in same]


def is_line(name: str) -> bool:
    """Return whether a name can stand in one of rclone's lists, which have one on each line."""
    return "\n" not in name and "\r" not in name


def run_rclone(arguments: list[str], names: list[str], authorities: str | None) -> None:
    """Let rclone do something with the files of these names. Raises FaultError."""
    listing = WORK / "names"
    listing.write_text("".join(f"{name}\n" for name in names))
    command = [RCLONE, *arguments, "--config", str(WORK / "rclone.conf"), "--files-from-raw", str(listing)]
    command += ["--cache-dir", "/tmp/rclone", "--log-level", "ERROR"]
    command += ["--ca-cert", authorities] if authorities else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # nosec B603
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise FaultError(f"rclone {arguments[0]} did not end well: {lines[-1]}: the same command goes on from here")


def describe_remote(store: Store, credentials: str) -> dict[str, str]:
    """Return rclone's words for a store."""
    described = {
        "type": "s3",
        "provider": "Other" if store.endpoint else "AWS",
        "env_auth": "true",
        "shared_credentials_file": credentials,
        "endpoint": store.endpoint,
        "region": store.region,
        "force_path_style": str(store.style == "path").lower(),
        "no_check_bucket": "true",
        "server_side_encryption": store.encryption,
        "sse_kms_key_id": store.kms_key,
    }
    return {name: value for name, value in described.items() if value}


def hash_all(body: Any) -> str:
    """Return the SHA-256 of all that is read."""
    digest = hashlib.sha256()
    while chunk := body.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
