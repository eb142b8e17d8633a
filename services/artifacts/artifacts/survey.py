"""One walk over the bucket: what belongs to whom, what belongs to nobody, what is missing, what is too old."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy

from artifacts import catalog
from artifacts.catalog import EXPERIMENT, MODEL, Catalog
from artifacts.objects import Bucket, Version
from artifacts.places import OWN, find_ancestors, find_folder, guess_owner
from artifacts.plan import Plan


@dataclass
class Tally:
    """How much there is.

    Attributes:
        objects: that a reader can see.
        versions: those and the former ones.
        size: bytes of all versions.
    """

    objects: int = 0
    versions: int = 0
    size: int = 0

    def add(self, versions: list[Version]) -> None:
        """Count one object."""
        self.objects += any(version.is_latest and not version.is_marker for version in versions)
        self.versions += sum(not version.is_marker for version in versions)
        self.size += sum(version.size for version in versions)


@dataclass(frozen=True)
class Orphan:
    """A folder of objects whose run, logged model or trace the database doesn't know."""

    folder: str
    kind: str
    tally: Tally


@dataclass(frozen=True)
class Missing:
    """A row whose objects are not there."""

    kind: str
    identifier: str
    folder: str
    former: int


@dataclass
class Survey:
    """What the walk has seen."""

    going: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    expired: Tally = field(default_factory=Tally)
    orphans: list[Orphan] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def split_expired(versions: list[Version], before: datetime) -> tuple[list[Version], list[Version]]:
    """Return the versions of one object that ended before a moment, and its marker if it would be left alone.

    A marker goes after what it hides, or it would come to light again.
    """
    expired = [version for version in versions if version.ended is not None and version.ended <= before]
    first = versions[0]
    is_alone = first.is_latest and first.is_marker and len(expired) == len(versions) - 1
    return expired, [first] if is_alone and first.time <= before else []


def make_survey(
    bucket: Bucket, engine: sqlalchemy.Engine, known: Catalog, plan: Plan, expire_before: datetime | None
) -> Survey:
    """Walk over the bucket once. Objects whose rows came while it walked are no orphans."""
    survey = Survey()
    going: dict[str, tuple[str, str]] = {}
    for unit in plan.units:
        going.update(dict.fromkeys(unit.folders, (unit.kind, unit.identifier)))
        for thing in unit.things:
            if folder := find_folder(thing.location, bucket.name):
                going[folder] = (thing.kind, thing.identifier)
    watched = {folder: Tally() for folder in find_owned_folders(known, bucket.name)}
    strays: dict[tuple[str, str, str], Tally] = defaultdict(Tally)
    for versions in bucket.walk():
        key = versions[0].key
        if key.startswith(OWN):
            continue
        above = find_ancestors(key)
        owners = [folder for folder in above if folder in watched]
        for folder in owners:
            watched[folder].add(versions)
        if goes := next((going[folder] for folder in above if folder in going), None):
            survey.going[goes].add(versions)
            continue
        if not owners:
            strays[guess_owner(key)].add(versions)
        if expire_before is not None:
            expired, markers = split_expired(versions, expire_before)
            survey.expired.versions += len(expired) + len(markers)
            survey.expired.size += sum(version.size for version in expired)
    survey.orphans = list(find_orphans(strays, bucket, engine, keeps_versions=expire_before is None))
    survey.missing = list(find_missing(known, bucket.name, watched))
    return survey


def find_owned_folders(known: Catalog, bucket: str) -> set[str]:
    """Return the folders that a run, a logged model or a version of a registered model owns."""
    things = {find_folder(thing.location, bucket) for thing in known.things if thing.kind != EXPERIMENT}
    return {folder for folder in things | {find_folder(v.location, bucket) for v in known.versions} if folder}


def find_orphans(
    strays: dict[tuple[str, str, str], Tally], bucket: Bucket, engine: sqlalchemy.Engine, *, keeps_versions: bool
) -> Iterator[Orphan]:
    """Yield what still belongs to nobody, by the database as it is now."""
    if not strays:
        return
    owned = find_owned_folders(catalog.read_catalog(engine), bucket.name)
    traces = catalog.find_traces(engine, {identifier for kind, identifier, _ in strays if kind == "trace"})
    for (kind, identifier, folder), tally in sorted(strays.items()):
        is_known = folder in owned or (kind == "trace" and identifier in traces)
        # What was deleted already goes by itself, if versions have an end.
        if not is_known and (tally.objects or (tally.versions and keeps_versions)):
            yield Orphan(folder, kind, tally)


def find_missing(known: Catalog, bucket: str, watched: dict[str, Tally]) -> Iterator[Missing]:
    """Yield the logged models and the versions of registered models that have no objects."""
    named = [
        *(
            (MODEL, t.identifier, t.location)
            for t in known.things
            if t.kind == MODEL and t.deleted is None and t.is_ready
        ),
        *(("version", version.label, version.location) for version in known.versions),
    ]
    for kind, identifier, location in named:
        folder = find_folder(location, bucket)
        if folder is not None and not watched[folder].objects:
            yield Missing(kind, identifier, folder, watched[folder].versions)
