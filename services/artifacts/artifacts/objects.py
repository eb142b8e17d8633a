"""The bucket: versions of objects, unfinished uploads, and how they are removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.client import BaseClient

from admin.faults import FaultError
from artifacts import settings

BATCH = 1000  # what one request of S3's may delete
# S3 copies up to 5 GB by one request; more goes in parts.
COPYING = TransferConfig(multipart_threshold=5_000_000_000, multipart_chunksize=1_000_000_000)
ROUNDS = 5
# What a page of versions has. Markers come first: of two of the same second the marker is more often the later one.
ITEMS = ("DeleteMarkers", "Versions")
MANY_FOLDERS = 50
LAST = "\U0010ffff"  # comes after every other character


@dataclass(frozen=True)
class Version:
    """One version of an object, or the marker that says that it was deleted.

    Attributes:
        key: of the object.
        identifier: of the version.
        time: when it was written.
        size: in bytes.
        is_marker: whether it is a delete marker.
        is_latest: whether it is what a reader sees.
        ended: when another version or a marker took its place, or None.
        was_deleted: whether that was a marker.
    """

    key: str
    identifier: str
    time: datetime
    size: int
    is_marker: bool
    is_latest: bool
    ended: datetime | None = None
    was_deleted: bool = False

    @property
    def state(self) -> str:
        """What became of it, in a word."""
        return "current" if self.is_latest else "deleted" if self.was_deleted else "replaced"


@dataclass(frozen=True)
class Upload:
    """An unfinished upload in parts."""

    key: str
    identifier: str
    time: datetime


class Bucket:
    """The bucket of all artifacts."""

    def __init__(self, client: BaseClient, name: str, of_new: dict[str, str] | None = None) -> None:
        """Take what goes with every new object too: how the store is to encrypt it."""
        self.client = client
        self.name = name
        self.of_new = of_new or {}

    def walk(self, prefix: str = "") -> Iterator[list[Version]]:
        """Yield the versions of each object whose key begins with `prefix`, the newest first.

        SeaweedFS goes by the names of folders, not by keys, and loses some where one page ends and the next begins: of
        a/x, a-b and a.b those that are not in the first. So what is too much for one page is asked for in parts.
        """
        page = self._list(Prefix=prefix)
        if not page["IsTruncated"]:
            yield from group(page, prefix)
            return
        level = self._list(Prefix=prefix, Delimiter="/")
        folders = find_folders(level)
        if not level["IsTruncated"] and len(folders) <= MANY_FOLDERS:
            yield from group(level, prefix)
            parts = folders
        else:
            parts = self._find_parts(prefix, level)
            yield from group(self._list_object(prefix), prefix)
        for part in parts:
            yield from self.walk(part)

    def _list(self, **where: str) -> dict[str, Any]:
        page: dict[str, Any] = self.client.list_object_versions(Bucket=self.name, **where)
        return page

    def _list_object(self, key: str) -> dict[str, Any]:
        """Return all versions of one object, which may be more than a page."""
        whole: dict[str, Any] = {kind: [] for kind in ITEMS}
        page = self._list(Prefix=key)
        if all(item["Key"] != key for kind in ITEMS for item in page.get(kind, [])):
            # SeaweedFS may have it behind a page of others: it has the versions in a folder of that name.
            page = self._list(Prefix=f"{key}.versions")
        while True:
            for kind in ITEMS:
                whole[kind] += [item for item in page.get(kind, []) if item["Key"] == key]
            if not page["IsTruncated"] or page["NextKeyMarker"] != key:
                return whole
            page = self._list(Prefix=key, KeyMarker=key, VersionIdMarker=page["NextVersionIdMarker"])

    def _find_parts(self, prefix: str, level: dict[str, Any]) -> list[str]:
        """Return `prefix` with each character that comes after it in a key.

        Names that differ in this character come in the same order for keys and for folders, but for the folder that
        has the prefix itself as its name: that is always asked for.
        """
        inside = f"{prefix}/"
        found = {inside} if prefix and not prefix.endswith("/") and level["IsTruncated"] else set()
        while True:
            names = [*find_folders(level), *(item["Key"] for kind in ITEMS for item in level.get(kind, []))]
            parts = {name[: len(prefix) + 1] for name in names if len(name) > len(prefix)}
            found |= parts
            if not level["IsTruncated"] or not (later := parts - {inside}):
                return sorted(found)
            level = self._list(Prefix=prefix, Delimiter="/", KeyMarker=min(later) + LAST)

    def find_uploads(self, prefix: str = "") -> Iterator[Upload]:
        """Yield the uploads in parts that have not ended."""
        for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix):
            for item in page.get("Uploads", []):
                yield Upload(item["Key"], item["UploadId"], item["Initiated"])

    def remove(self, versions: Iterable[Version]) -> int:
        """Remove versions for good; return how many. Raises FaultError if the store keeps one."""
        count = 0
        for some in batched(versions, BATCH, strict=False):
            objects = [{"Key": version.key, "VersionId": version.identifier} for version in some]
            answer = self.client.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                raise FaultError(
                    f"the object store keeps {len(errors)} objects, the first is {errors[0].get('Key')!r}: "
                    f"{errors[0].get('Message') or errors[0].get('Code')}: try again, or see ./stack logs objectstore"
                )
            count += len(objects)
        return count

    def abort(self, uploads: Iterable[Upload]) -> int:
        """Remove unfinished uploads; return how many."""
        count = 0
        for upload in uploads:
            try:
                self.client.abort_multipart_upload(Bucket=self.name, Key=upload.key, UploadId=upload.identifier)
            except self.client.exceptions.NoSuchUpload:  # it has ended meanwhile
                continue
            count += 1
        return count

    def remove_folder(self, folder: str) -> None:
        """Remove every version of every object below `folder`, and uploads to it."""
        if not folder.strip("/"):
            raise ValueError(folder)
        self.abort(list(self.find_uploads(folder)))
        # Listed in full, then removed, and listed again: one whose objects vanish meanwhile may leave some out.
        for _ in range(ROUNDS):
            found = [version for versions in self.walk(folder) for version in versions]
            if not found:
                return
            self.remove(found)
        raise FaultError(
            f"objects below {folder!r} come back as they are removed: somebody writes there: try again later"
        )

    def bring_back(self, version: Version) -> None:
        """Make a version the current one, by a copy of it. Raises FaultError if the copy isn't whole."""
        source = {"Bucket": self.name, "Key": version.key, "VersionId": version.identifier}
        kind = self.client.head_object(**source).get("ContentType", "binary/octet-stream")
        # (of a copy in parts the store would say a type of its own; of any other it keeps what it had)
        extra = {"ContentType": kind} if version.size >= COPYING.multipart_threshold else {}
        extra |= self.of_new
        self.client.copy(source, self.name, version.key, ExtraArgs=extra, Config=COPYING)
        size = self.client.head_object(Bucket=self.name, Key=version.key)["ContentLength"]
        if size != version.size:
            raise FaultError(f"the copy of {version.key!r} has {size} bytes, the version {version.size}: try again")


def find_folders(page: dict[str, Any]) -> list[str]:
    """Return the folders that a page names."""
    return [item["Prefix"] for item in page.get("CommonPrefixes", [])]


def group(page: dict[str, Any], prefix: str) -> Iterator[list[Version]]:
    """Yield the versions of each object in a page, of which SeaweedFS's has `a` for the prefix `a.` too."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for kind in ITEMS:
        for item in page.get(kind, []):
            if item["Key"].startswith(prefix):
                by_key.setdefault(item["Key"], []).append({**item, "marker": kind == ITEMS[0]})
    yield from map(order, by_key.values())


def order(items: list[dict[str, Any]]) -> list[Version]:
    """Return the versions of one object, the newest first, each with what became of it."""
    # (stable: those that bear the same time stay as the store said them)
    items = sorted(items, key=lambda item: (not item["IsLatest"], -item["LastModified"].timestamp()))
    found: list[Version] = []
    for item in items:
        newer = found[-1] if found else None
        found.append(
            Version(
                key=item["Key"],
                identifier=item["VersionId"],
                time=item["LastModified"],
                size=item.get("Size", 0),
                is_marker=item["marker"],
                is_latest=item["IsLatest"],
                ended=newer.time if newer else None,
                was_deleted=newer is not None and newer.is_marker,
            )
        )
    return found


def open_bucket(chosen: settings.Settings) -> Bucket:
    """Return the bucket, by the tool's own account."""
    place = chosen.store
    limits = {"connect_timeout": 3, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 3}}
    client = place.connect(place.find_credentials(), place.find_authorities(), **limits)
    return Bucket(client, place.bucket, place.describe_upload())
