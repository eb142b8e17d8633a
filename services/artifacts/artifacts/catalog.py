"""What MLflow's database says of runs, logged models, experiments and model versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

import sqlalchemy
from sqlalchemy import text

RUN, MODEL, EXPERIMENT = "run", "model", "experiment"
REMOVED = "Deleted_Internal"  # the stage of a model version that was deleted (mlflow/store/model_registry)
BATCH = 1000
# (a deleted run or model can't be changed, so that the time of its last change is that of its deletion)
QUERIES = {
    RUN: "SELECT run_uuid, experiment_id, artifact_uri, lifecycle_stage = 'deleted', deleted_time, TRUE FROM runs",
    MODEL: "SELECT model_id, experiment_id, artifact_location, lifecycle_stage = 'deleted', last_updated_timestamp_ms,"
    " status = 2 FROM logged_models",  # LoggedModelStatus.READY
    EXPERIMENT: "SELECT CAST(experiment_id AS varchar), experiment_id, artifact_location, lifecycle_stage = 'deleted',"
    " last_update_time, TRUE FROM experiments",
}
VERSIONS = (
    "SELECT name, version, run_id, source, storage_location FROM model_versions"
    " WHERE current_stage IS DISTINCT FROM :removed"
)
# Those that ./stack undo can still bring back (services/migrate/triggers.py): what they are made from has to stay.
DELETED_VERSIONS = (
    "SELECT content ->> 'name', CAST(content ->> 'version' AS integer), content ->> 'run_id', content ->> 'source',"
    " content ->> 'storage_location', TRUE FROM stack.trash WHERE relation = 'model_versions'"
    " AND content ->> 'current_stage' IS DISTINCT FROM :removed"
    " AND moment > to_timestamp(CAST(:cutoff AS numeric) / 1000)"
)


@dataclass(frozen=True)
class Thing:
    """A run, a logged model or an experiment.

    Attributes:
        kind: run, model or experiment.
        identifier: its id.
        experiment: id of its experiment.
        location: URI of its artifacts.
        deleted: when it was deleted in MLflow, in milliseconds, or None.
        is_ready: whether its artifacts should all be there.
    """

    kind: str
    identifier: str
    experiment: int
    location: str | None
    deleted: int | None
    is_ready: bool = True


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model, and what it is made from."""

    name: str
    version: int
    run: str | None
    source: str | None
    location: str | None
    is_deleted: bool = False

    @property
    def label(self) -> str:
        """How an operator knows it."""
        return f"{self.name} version {self.version}{' (deleted: ./stack trash)' if self.is_deleted else ''}"


@dataclass(frozen=True)
class Catalog:
    """All that the database knows, at one moment.

    Attributes:
        things: runs, logged models and experiments.
        versions: of registered models.
        deleted_versions: those that can be brought back.
    """

    things: list[Thing]
    versions: list[ModelVersion]
    deleted_versions: list[ModelVersion] = field(default_factory=list)


def read_versions(connection: Any) -> list[ModelVersion]:
    """Return the model versions. `connection` may be a session."""
    return [ModelVersion(*row) for row in connection.execute(text(VERSIONS), {"removed": REMOVED})]


def read_deleted_versions(connection: Any, cutoff: int) -> list[ModelVersion]:
    """Return the model versions that were deleted after `cutoff`, in milliseconds. `connection` may be a session."""
    asked = {"removed": REMOVED, "cutoff": cutoff}
    return [ModelVersion(*row) for row in connection.execute(text(DELETED_VERSIONS), asked)]


def read_catalog(engine: sqlalchemy.Engine, cutoff: int | None = None) -> Catalog:
    """Return everything, as of one moment; with the model versions that were deleted after `cutoff`, if it is given."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        things = [
            Thing(kind, identifier, experiment, location, changed if is_deleted else None, is_ready)
            for kind, query in QUERIES.items()
            for identifier, experiment, location, is_deleted, changed, is_ready in connection.execute(text(query))
        ]
        deleted = [] if cutoff is None else read_deleted_versions(connection, cutoff)
        return Catalog(things, read_versions(connection), deleted)


def find_thing(engine: sqlalchemy.Engine, identifier: str) -> tuple[Thing | None, list[tuple[str, str]]]:
    """Return a run or a logged model, and (name, location) of a run's logged models, as MLflow's client shows them."""
    with engine.connect() as connection:
        for kind, column in ((RUN, "run_uuid"), (MODEL, "model_id")):
            row = connection.execute(text(f"{QUERIES[kind]} WHERE {column} = :id"), {"id": identifier}).one_or_none()
            if row is not None:
                break
        else:
            return None, []
        # Of several of the same name MLflow's client shows the newest (mlflow/store/artifact/runs_artifact_repo.py).
        models = connection.execute(
            text(
                "SELECT name, artifact_location FROM logged_models WHERE source_run_id = :id"
                " ORDER BY lifecycle_stage = 'deleted' DESC, creation_timestamp_ms"
            ),
            {"id": identifier},
        )
        thing = Thing(kind, row[0], row[1], row[2], row[4] if row[3] else None, row[5])
        by_name = {row.name: row.artifact_location for row in models}
        return thing, list(by_name.items())


def find_traces(engine: sqlalchemy.Engine, identifiers: Iterable[str]) -> set[str]:
    """Return those of these traces that the database knows."""
    query = text("SELECT request_id FROM trace_info WHERE request_id IN :ids")
    query = query.bindparams(sqlalchemy.bindparam("ids", expanding=True))
    with engine.connect() as connection:
        return {
            identifier
            for some in batched(identifiers, BATCH, strict=False)
            for (identifier,) in connection.execute(query, {"ids": list(some)})
        }


def find_trace_locations(connection: Any, experiment: int) -> list[str]:
    """Return where traces of an experiment lie. `connection` may be a session."""
    query = (
        "SELECT DISTINCT value FROM trace_tags JOIN trace_info USING (request_id) WHERE experiment_id = :experiment"
        " AND key IN ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation')"
    )
    return [location for (location,) in connection.execute(text(query), {"experiment": experiment})]
