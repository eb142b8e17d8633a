"""Where artifacts are in this stack, and which of the old store's objects belong to whom.

MLflow puts what belongs to a run, a logged model or a trace into a folder ID/artifacts, wherever that is. In this stack
it is below the folder of its experiment, by which rights go; so that is where it comes, whatever the old root was
called in how many ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

SCHEME = "mlflow-artifacts:/"
FOLDER = "artifacts"
# The folder of whatever has artifacts, below the bucket.
OWNERS = {
    "run": "SELECT run_uuid, experiment_id || '/' || run_uuid || '/artifacts' FROM runs",
    "model": "SELECT model_id, experiment_id || '/models/' || model_id || '/artifacts' FROM logged_models",
    "trace": "SELECT request_id, experiment_id || '/traces/' || request_id || '/artifacts' FROM trace_info",
}
REWRITE = (
    "UPDATE experiments SET artifact_location = 'mlflow-artifacts\\:/' || experiment_id",
    "UPDATE runs SET artifact_uri = 'mlflow-artifacts\\:/' || experiment_id || '/' || run_uuid || '/artifacts'",
    (
        "UPDATE logged_models SET artifact_location ="
        " 'mlflow-artifacts\\:/' || experiment_id || '/models/' || model_id || '/artifacts'"
    ),
    (
        "UPDATE trace_tags SET value ="
        " 'mlflow-artifacts\\:/' || i.experiment_id || '/traces/' || i.request_id || '/artifacts'"
        " FROM trace_info i WHERE i.request_id = trace_tags.request_id AND trace_tags.key = 'mlflow.artifactLocation'"
    ),
)
KEPT = re.compile(r"(runs|models):/|dummy-source$|prompt-template$")


@dataclass(frozen=True)
class Owner:
    """A run, a logged model or a trace, and its folder below the bucket."""

    kind: str
    identifier: str
    folder: str


@dataclass(frozen=True)
class Version:
    """A version of a registered model, and where its files are said to be."""

    label: str
    places: tuple[str, ...]


def read_owners(connection: Any) -> dict[str, Owner]:
    """Return whatever has artifacts, by its id."""
    return {
        identifier: Owner(kind, identifier, folder)
        for kind, query in OWNERS.items()
        for identifier, folder in connection.execute(text(query))
    }


def split(path: str, owners: dict[str, Owner]) -> tuple[Owner, str] | None:
    """Return whose a path is, and the rest of it; None if it is nobody's."""
    parts = path.split("/")
    for index in range(1, len(parts)):
        if parts[index] == FOLDER and (owner := owners.get(parts[index - 1])):
            return owner, "/".join(parts[index + 1 :])
    return None


def rewrite_source(source: str | None, owners: dict[str, Owner]) -> str | None:
    """Return the URI of a model version's files as it is here; unchanged if they are in nobody's folder."""
    if not source or KEPT.match(source):
        return source
    found = split(source.rstrip("/"), owners)
    if found is None:
        return source
    owner, rest = found
    return f"{SCHEME}{owner.folder}" + (f"/{rest}" if rest else "")


def rewrite(connection: Any) -> None:
    """Let every URI name the place in this stack."""
    owners = read_owners(connection)
    for statement in REWRITE:
        connection.execute(text(statement))
    asked = "SELECT name, version, source, storage_location FROM model_versions"
    changed = text(
        "UPDATE model_versions SET source = :source, storage_location = :location"
        " WHERE name = :name AND version = :version"
    )
    for name, version, source, location in connection.execute(text(asked)).all():
        new = {"source": rewrite_source(source, owners), "location": rewrite_source(location, owners)}
        if (new["source"], new["location"]) != (source, location):
            connection.execute(changed, {"name": name, "version": version, **new})


def find_outside(connection: Any) -> list[str]:
    """Return the versions of registered models whose files are in no folder of a run or logged model."""
    asked = (
        "SELECT name || ' version ' || version || '\\: ' || coalesce(storage_location, source) FROM model_versions"
        " WHERE current_stage IS DISTINCT FROM 'Deleted_Internal'"
        " AND coalesce(storage_location, source) !~"
        " '^(mlflow-artifacts|runs|models)\\:/|^(dummy-source|prompt-template)$'"
    )
    return [line for (line,) in connection.execute(text(asked))]


def find_missing(connection: Any, held: set[str]) -> list[str]:
    """Return what should have files and has none; `held` are the folders (of any depth) with an object in them."""
    lines = []
    models = "SELECT model_id, name, experiment_id FROM logged_models WHERE status = 2 AND lifecycle_stage = 'active'"
    for identifier, name, experiment in connection.execute(text(models)):
        if f"{experiment}/models/{identifier}/artifacts" not in held:
            lines.append(f"logged model {identifier} ({name})")
    runs = (
        "SELECT run_uuid, experiment_id, coalesce(name, '') FROM runs WHERE lifecycle_stage = 'active'"
        " AND EXISTS (SELECT FROM tags t WHERE t.run_uuid = runs.run_uuid AND t.key IN"
        " ('mlflow.log-model.history', 'mlflow.loggedArtifacts'))"
        " AND NOT EXISTS (SELECT FROM logged_models m WHERE m.source_run_id = runs.run_uuid)"
    )
    for identifier, experiment, name in connection.execute(text(runs)):
        if f"{experiment}/{identifier}/artifacts" not in held:
            lines.append(f"run {identifier} ({name})")
    versions = (
        "SELECT name || ' version ' || version, coalesce(storage_location, source) FROM model_versions WHERE"
        " current_stage IS DISTINCT FROM 'Deleted_Internal' AND coalesce(storage_location, source)"
        " LIKE 'mlflow-artifacts\\:/%'"
    )
    for label, place in connection.execute(text(versions)):
        if place.removeprefix(SCHEME).strip("/") not in held:
            lines.append(f"model version {label}")
    return lines


def find_folders(keys: Iterable[str]) -> set[str]:
    """Return every folder that has one of these keys in it."""
    found: set[str] = set()
    for key in keys:
        folder = key.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
