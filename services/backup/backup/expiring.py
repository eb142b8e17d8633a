"""What a bucket of backups need not keep any more, removed by the operator's own key, which the stack has not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError

from admin.faults import FaultError
from artifacts.objects import Bucket, Version
from backup import carrying, making, pgbackrest, retention
from backup.carrying import Place
from backup.manifest import Manifest
from backup.repository import CHECK, IDENTITY, OBJECTS, PASSES, SETS, Repository

BATCH = 1000
# A set that came to the bucket this long after it was made is not counted: who has the stack's key could write such.
LATE_SECONDS = 2 * 86400
ARCHIVE, BACKUPS = f"postgres/archive/{pgbackrest.STANZA}/", f"postgres/backup/{pgbackrest.STANZA}/"
LABEL = re.compile(r"[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?")


@dataclass(frozen=True)
class Expiry:
    """What is to go.

    Attributes:
        sets: by name.
        late: sets that are not counted, and stay.
        keys: all that goes, with its versions; the sets' manifests first.
        size: of it, in bytes.
    """

    sets: list[str]
    late: list[str]
    keys: dict[str, list[Version]]
    size: int


def open_bucket(place: Place) -> Bucket:
    """Return the bucket."""
    client: BaseClient = boto3.client(
        "s3",
        endpoint_url=place.endpoint or None,
        region_name=place.region,
        aws_access_key_id=place.account[0],
        aws_secret_access_key=place.account[1],
        verify=carrying.find_authority() or True,
        config=Config(s3={"addressing_style": "path" if place.endpoint else "auto"}, connect_timeout=10),
    )
    return Bucket(client, place.bucket)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Say of a key that may not what is wrong with it. Raises FaultError."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise FaultError(f"{url} can't be expired by that key ({code}): --credentials names the operator's") from None


def fetch_manifests(place: Place, folder: Path) -> None:
    """Copy what says what there is. Raises FaultError."""
    patterns = [f"/{IDENTITY}", f"/files/{CHECK}*", f"/files/{SETS}/**", f"/files/{PASSES}/**"]
    carrying.run(place, "copy", place.remote, str(folder), *carrying.take(*patterns))
    if not (folder / IDENTITY).exists():
        raise FaultError(f"{place.shown} holds no backups: name the folder that STACK_BACKUP_S3_TO has")


def plan(repository: Repository, bucket: Bucket, folder: str, rules: dict[str, int]) -> Expiry:
    """Return what no set needs that is to be kept. Raises FaultError."""
    manifests, damaged = repository.sort_sets()
    if damaged:
        raise FaultError(f"{', '.join(damaged)} can't be read, so it is not known what they need: nothing was removed")
    begin = f"{folder}/" if folder else ""
    there = {versions[0].key.removeprefix(begin): versions for versions in bucket.walk(begin)}
    sets = {each.name: each for each in manifests}
    arrived = {
        Path(key).name.removesuffix(".bin"): min(each.time.timestamp() for each in versions)
        for key, versions in there.items()
        if key.startswith(f"files/{SETS}/")
    }
    late = [name for name, each in sets.items() if arrived.get(name, 0) - each.ended > LATE_SECONDS]
    expired = retention.choose_expired({name: each.moment for name, each in sets.items() if name not in late}, rules)
    rest = [each for name, each in sets.items() if name not in expired]
    if not expired or not rest:
        return Expiry([], late, {}, 0)
    last = max(arrived[each.name] for each in rest)
    needs = find_needs(repository, rest)
    gone = {key: versions for key, versions in there.items() if is_expired(key, expired, needs)}
    # What came after the newest set may be of one that is on its way.
    gone = {key: found for key, found in gone.items() if max(each.time.timestamp() for each in found) <= last}
    ordered = sorted(gone, key=lambda key: (not key.startswith(f"files/{SETS}/"), key))
    size = sum(each.size for versions in gone.values() for each in versions)
    return Expiry(expired, late, {key: gone[key] for key in ordered}, size)


@dataclass(frozen=True)
class Needs:
    """What the sets need that stay: copies of objects, files of pgBackRest's, the first pass, WAL, newest backup."""

    copies: frozenset[str]
    files: frozenset[str]
    oldest: str
    segment: str
    labels: frozenset[str]


def find_needs(repository: Repository, rest: list[Manifest]) -> Needs:
    """Return what these sets need, and the moments after the oldest of them."""
    oldest = min(each.name for each in rest)
    items = [*(item for each in rest for item in each.copies), *repository.read_passes(oldest)]
    files = {file.path for each in rest for file in each.files}
    segments = [Path(path).name[:24] for path in files if path.startswith(ARCHIVE)]
    labels = {path.removeprefix(BACKUPS).partition("/")[0] for path in files if path.startswith(BACKUPS)}
    copies = frozenset(item.name for item in items if item.name)
    return Needs(copies, frozenset(files), oldest, min(segments), frozenset(labels))


def is_expired(key: str, expired: list[str], needs: Needs) -> bool:
    """Return whether nobody needs a file; what is not known is needed."""
    name = Path(key).name.removesuffix(".bin")
    if key in needs.files:
        return False
    if key.startswith(f"files/{SETS}/"):
        return name in expired
    if key.startswith(f"files/{PASSES}/"):
        return name <= needs.oldest
    if key.startswith(f"files/{OBJECTS}/"):
        return key.removeprefix("files/").removesuffix(".bin") not in needs.copies
    if key.startswith(ARCHIVE):
        found = pgbackrest.SEGMENT.fullmatch(Path(key).name)
        return bool(found) and Path(key).name[:24] < needs.segment
    label = key.removeprefix(BACKUPS).partition("/")[0] if key.startswith(BACKUPS) else ""
    return bool(LABEL.fullmatch(label)) and label not in needs.labels and label < max(needs.labels)


def remove(bucket: Bucket, expiry: Expiry) -> None:
    """Remove all versions of what is to go. Raises FaultError if the store keeps some."""
    versions = [each for found in expiry.keys.values() for each in found]
    for some in itertools.batched(versions, BATCH, strict=False):
        objects = [{"Key": each.key, "VersionId": each.identifier} for each in some]
        try:
            answer = bucket.client.delete_objects(Bucket=bucket.name, Delete={"Objects": objects, "Quiet": True})
            errors = answer.get("Errors", [])
        except ClientError as error:
            errors = [{"Key": objects[0]["Key"], "Message": error.response["Error"].get("Message")}]
        if errors:
            raise FaultError(
                f"the store keeps {errors[0].get('Key')!r} ({errors[0].get('Message')}): --credentials must be of an "
                "account that may s3:DeleteObject and s3:DeleteObjectVersion, and no lock may be on the objects"
            )


def describe(expiry: Expiry) -> str:
    """Return in a line what goes."""
    kept = f"; {', '.join(expiry.late)} came long after their time, and stay" if expiry.late else ""
    if not expiry.sets:
        return f"No set is older than what is kept{kept}"
    return (
        f"{len(expiry.sets)} sets ({', '.join(expiry.sets)}) and what nobody else needs: {len(expiry.keys)} objects, "
        f"{making.show_size(expiry.size)}{kept}"
    )
