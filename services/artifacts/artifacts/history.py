"""Versions of a run's or a logged model's artifacts, and bringing one back."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy

from admin.faults import FaultError
from artifacts import catalog
from artifacts.objects import Bucket, Version
from artifacts.places import find_folder

SHORTEST = 8


@dataclass(frozen=True)
class Artifact:
    """An artifact and its versions, the newest first; delete markers are not among them.

    Attributes:
        path: as a user of MLflow knows it.
        versions: those that can be read.
    """

    path: str
    versions: list[Version]

    def shorten(self, version: Version) -> str:
        """Return the least of a version's id that no other version of this artifact begins with."""
        for length in range(SHORTEST, len(version.identifier)):
            if sum(other.identifier.startswith(version.identifier[:length]) for other in self.versions) == 1:
                return version.identifier[:length]
        return version.identifier


@dataclass(frozen=True)
class Owner:
    """A run or a logged model, and the folders of the bucket that its artifacts lie in.

    Attributes:
        label: as it is named in a message.
        folders: beginning of a path to folder.
    """

    label: str
    folders: dict[str, str]


def find_owner(engine: sqlalchemy.Engine, bucket: Bucket, identifier: str) -> Owner:
    """Return a run or a logged model. Raises FaultError if there is none, or its artifacts are not in the bucket."""
    thing, models = catalog.find_thing(engine, identifier)
    if thing is None:
        raise FaultError(f"there is no run and no logged model {identifier!r}: MLflow's page of the run shows its id")
    label = f"{'run' if thing.kind == catalog.RUN else 'logged model'} {identifier}"
    folder = find_folder(thing.location, bucket.name)
    if folder is None:
        raise FaultError(f"the artifacts of {label} are at {thing.location!r}, which is not in this stack's store")
    # A run's page shows its logged models as folders.
    of_models = {f"{name}/": find_folder(location, bucket.name) for name, location in models}
    return Owner(label, {**{name: place for name, place in of_models.items() if place}, "": folder})


def find_artifacts(bucket: Bucket, owner: Owner, path: str | None) -> list[Artifact]:
    """Return the artifacts at or below a path, or all. Raises FaultError if there never was one."""
    wanted = "" if path is None else path.strip("/")
    found: dict[str, Artifact] = {}
    for start, folder in owner.folders.items():
        if wanted.startswith(start):
            rest = wanted.removeprefix(start)
        elif f"{wanted}/".startswith(start) or not wanted:
            rest = ""
        else:
            continue
        for versions in bucket.walk(folder + rest):
            inner = versions[0].key.removeprefix(folder)
            readable = [version for version in versions if not version.is_marker]
            if readable and (not rest or inner == rest or inner.startswith(f"{rest}/")):
                found.setdefault(start + inner, Artifact(start + inner, readable))
    if path is not None and not found:
        raise FaultError(
            f"{owner.label} has no artifact {path!r}, nor a version of it: ./stack artifacts history lists them"
        )
    return [found[name] for name in sorted(found)]


def choose_version(artifact: Artifact, beginning: str | None) -> Version:
    """Return the version to bring back. Raises FaultError if there is none such, or it is the current one."""
    versions = artifact.versions
    if beginning is None:
        chosen = versions[0]
        hint = "name another with --version"
    else:
        fitting = [version for version in versions if beginning and version.identifier.startswith(beginning)]
        if len(fitting) != 1:
            number = "no version" if not fitting else f"{len(fitting)} versions"
            raise FaultError(
                f"{artifact.path!r} has {number} that begin with {beginning!r}: ./stack artifacts history shows them"
            )
        chosen = fitting[0]
        hint = "there is nothing to bring back"
    if chosen.is_latest:
        raise FaultError(f"version {artifact.shorten(chosen)} of {artifact.path!r} is the current one: {hint}")
    return chosen


def choose_versions(
    owner: Owner, artifacts: list[Artifact], path: str, beginning: str | None
) -> list[tuple[Artifact, Version]]:
    """Return what to bring back: a version of a file, or of a folder the newest of every file that was deleted."""
    path = path.strip("/")
    exact = [artifact for artifact in artifacts if artifact.path == path]
    if exact:
        return [(exact[0], choose_version(exact[0], beginning))]
    if beginning is not None:
        raise FaultError(f"{path!r} is a folder, whose files have versions of their own: name a file with --version")
    deleted = [artifact for artifact in artifacts if not artifact.versions[0].is_latest]
    if not deleted:
        raise FaultError(f"every file below {path!r} of {owner.label} is there: there is nothing to bring back")
    return [(artifact, artifact.versions[0]) for artifact in deleted]
