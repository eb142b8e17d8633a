"""Make a database as MLflow 2.22 leaves it, with data, and print what its own client reads there.

Run by the old client's interpreter (/opt/mlflow-2.22/bin/python) with the URIs of two empty databases, MLflow's and the
user store's: MLflow 2.22 itself makes the tables, and its migrations (`mlflow db upgrade`) bring them to its newest
schema.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

RUNS = 20
ANN = "the password of somebody who may edit it"


def main(uri: str, auth_uri: str, password: str) -> None:
    assert mlflow.__version__.startswith("2.22."), mlflow.__version__
    import sqlalchemy.pool as pools

    # (a name that 2.22 only lists, and that SQLAlchemy 2.1 has no more)
    pools.FallbackAsyncAdaptedQueuePool = pools.AsyncAdaptedQueuePool  # type: ignore[attr-defined]
    fill(uri)
    from mlflow.server.auth.db.utils import migrate
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import create_engine

    migrate(create_engine(auth_uri), "head")
    users = SqlAlchemyStore()
    users.init_db(auth_uri)
    users.create_user("admin", password, is_admin=True)
    users.create_user("ann", ANN)
    users.create_experiment_permission("1", "ann", "EDIT")


def fill(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("from 2.22", artifact_location="mlflow-artifacts:/22", tags={"team": "één"})
    for number in range(RUNS):
        run = client.create_run(experiment, start_time=1_700_000_000_000 + number, run_name=f"run {number}").info.run_id
        metrics = [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in range(50)]
        client.log_batch(run, metrics, [Param("number", str(number))], [RunTag("tag", "x" * number)])
        client.set_terminated(run, end_time=1_700_000_100_000 + number)
    client.delete_run(run)
    client.create_registered_model("Model of 2.22", tags={"kind": "old"}, description="kept")
    client.create_model_version("Model of 2.22", f"mlflow-artifacts:/22/{run}/artifacts/model", run)
    client.set_registered_model_alias("Model of 2.22", "champion", "1")
    print(json.dumps(read(client)))


def read(client: MlflowClient) -> dict[str, Any]:
    """Return what there is, by whichever version's client."""
    experiments = {found.name: found for found in client.search_experiments()}
    experiment = experiments["from 2.22"]
    runs = client.search_runs([experiment.experiment_id], run_view_type=3, max_results=1000)  # 3: deleted ones too
    models = client.search_registered_models()
    return {
        "experiment": [experiment.experiment_id, experiment.artifact_location, experiment.tags["team"]],
        "runs": sorted(
            [
                found.info.run_id,
                found.info.run_name,
                found.info.status,
                found.info.start_time,
                found.info.end_time,
                found.info.lifecycle_stage,
                found.info.artifact_uri,
                found.data.params,
                found.data.metrics,
                found.data.tags["tag"],
            ]
            for found in runs
        ),
        "history": [
            [point.value, point.timestamp, point.step]
            for point in client.get_metric_history(min(found.info.run_id for found in runs), "loss")
        ],
        "models": [
            [found.name, found.tags, found.description, {name: str(version) for name, version in found.aliases.items()}]
            for found in models
        ],
        "version": client.get_model_version_by_alias("Model of 2.22", "champion").source,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
