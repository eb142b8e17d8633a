"""What may be removed for good, decided from what the database says."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from artifacts.catalog import EXPERIMENT, MODEL, RUN, Catalog, ModelVersion, Thing
from artifacts.places import find_ancestors, find_folder

NAMES = {RUN: "run", MODEL: "logged model", EXPERIMENT: "experiment"}


@dataclass(frozen=True)
class Unit:
    """Rows that go in one transaction: a run, a logged model, or an experiment with all that is in it.

    Attributes:
        kind: run, model or experiment.
        identifier: its id.
        things: the rows; the first is the one above.
        folders: where their objects lie.
    """

    kind: str
    identifier: str
    things: tuple[Thing, ...]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What was deleted long ago and stays all the same."""

    kind: str
    identifier: str
    reason: str


@dataclass
class Plan:
    """What goes and what stays."""

    units: list[Unit] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class Folders:
    """Folders, each with a word about whose it is; finds those that overlap with another."""

    def __init__(self, labelled: Iterable[tuple[str | None, str]]) -> None:
        self.labels = {folder: label for folder, label in labelled if folder}
        self.sorted = sorted(self.labels)

    def find_inside(self, folder: str) -> str | None:
        """Return whose is a folder that is this one or lies in it."""
        index = bisect_left(self.sorted, folder)
        if index < len(self.sorted) and self.sorted[index].startswith(folder):
            return self.labels[self.sorted[index]]
        return None

    def find_around(self, folder: str) -> str | None:
        """Return whose is a folder that this one lies in."""
        return next((self.labels[above] for above in find_ancestors(folder) if above in self.labels), None)


class Users:
    """The versions of registered models, by what they are made from."""

    def __init__(self, versions: list[ModelVersion], bucket: str) -> None:
        self.labels: dict[tuple[str, str], str] = {}
        for version in versions:
            for kind, identifier in find_references(version):
                self.labels[kind, identifier] = version.label
        places = [(place, v.label) for v in versions for place in (v.location, v.source)]
        self.folders = Folders((find_folder(place, bucket), label) for place, label in places)

    def find(self, thing: Thing, folder: str) -> str | None:
        """Return the label of a version that needs a thing, or None."""
        named = self.labels.get((thing.kind, thing.identifier))
        return named or self.folders.find_inside(folder) or self.folders.find_around(folder)


def find_references(version: ModelVersion) -> list[tuple[str, str]]:
    """Return (kind, id) of what a version names."""
    found = [(RUN, version.run)] if version.run else []
    for uri in (version.source, version.location):
        scheme, _, rest = (uri or "").partition(":/")
        first = rest.strip("/").split("/")[0]
        if scheme == "runs":
            found.append((RUN, first))
        elif scheme == "models":
            found.append((MODEL, first))
    return found


class Planner:
    """Decides about each row."""

    def __init__(self, catalog: Catalog, bucket: str, cutoff: int) -> None:
        self.bucket = bucket
        self.cutoff = cutoff
        self.users = Users(catalog.deleted_versions + catalog.versions, bucket)
        self.members: dict[int, list[Thing]] = defaultdict(list)
        for thing in catalog.things:
            if thing.kind != EXPERIMENT:
                self.members[thing.experiment].append(thing)

    def is_old(self, thing: Thing) -> bool:
        """Return whether it was deleted long ago."""
        return thing.deleted is not None and thing.deleted <= self.cutoff

    def find_reason(self, thing: Thing) -> str | None:
        """Return why a row has to stay, or None."""
        if thing.kind == EXPERIMENT:
            for member in self.members[thing.experiment]:
                # (an experiment is deleted with its runs; its logged models are left as they are)
                if member.kind == RUN and not self.is_old(member):
                    return f"its run {member.identifier} is not deleted, or not as long ago"
                if reason := self.find_reason(member):
                    return f"its {NAMES[member.kind]} {member.identifier} stays: {reason}"
        folder = find_folder(thing.location, self.bucket)
        if folder is None:
            return f"its artifacts are at {thing.location!r}, which is not in this stack's store"
        user = self.users.find(thing, folder)
        return user and f"{user} is made from it"


def make_plan(catalog: Catalog, bucket: str, cutoff: int) -> Plan:
    """Return what was deleted at `cutoff` (in milliseconds) or before and is used by nothing that stays."""
    plan, planner = Plan(), Planner(catalog, bucket, cutoff)
    taken: set[tuple[str, str]] = set()
    # Experiments first: what is in one that goes, goes with it.
    for thing in sorted(catalog.things, key=lambda thing: thing.kind != EXPERIMENT):
        if not planner.is_old(thing) or (thing.kind, thing.identifier) in taken:
            continue
        if reason := planner.find_reason(thing):
            plan.kept.append(Kept(thing.kind, thing.identifier, reason))
            continue
        things = [thing, *(planner.members[thing.experiment] if thing.kind == EXPERIMENT else [])]
        plan.units.append(make_unit(things, bucket))
        taken.update((each.kind, each.identifier) for each in things)
    spare_what_holds_others(plan, catalog, bucket)
    return plan


def make_unit(things: list[Thing], bucket: str) -> Unit:
    """Return the unit of these rows, with the least folders that hold all of theirs."""
    folders: list[str] = []
    for folder in sorted(filter(None, (find_folder(thing.location, bucket) for thing in things))):
        if not folders or not folder.startswith(folders[-1]):
            folders.append(folder)
    return Unit(things[0].kind, things[0].identifier, tuple(things), tuple(folders))


def find_surviving_folders(catalog: Catalog, bucket: str, units: Iterable[Unit]) -> Folders:
    """Return the folders of all that does not go with these units."""
    going = {(thing.kind, thing.identifier) for unit in units for thing in unit.things}
    return Folders(
        (find_folder(thing.location, bucket), f"{NAMES[thing.kind]} {thing.identifier}")
        for thing in catalog.things
        if (thing.kind, thing.identifier) not in going
    )


def spare_what_holds_others(plan: Plan, catalog: Catalog, bucket: str) -> None:
    """Keep what has the folder of something that stays in its own."""
    while True:
        survivors = find_surviving_folders(catalog, bucket, plan.units)
        spared = [
            (unit, label)
            for unit in plan.units
            if (label := next(filter(None, map(survivors.find_inside, unit.folders)), None))
        ]
        if not spared:
            return
        for unit, label in spared:
            plan.units.remove(unit)
            plan.kept.append(Kept(unit.kind, unit.identifier, f"{label} lies in its folder"))
