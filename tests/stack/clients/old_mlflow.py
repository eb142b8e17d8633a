"""What somebody did with a plain MLflow, by its own client: `seed` does it, `dump` prints all that it reads.

Both run by the MLflow that is installed: 2.1, 2.22 and 3 alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import sklearn.linear_model
from mlflow import MlflowClient

MODEL = "Old_Model"
DATA = [[1.0], [2.0], [3.0]]


def seed(artifacts: str) -> None:
    """Make experiments, runs, models; `artifacts` is the root of the experiments' artifacts, "" for the store's own."""
    client = MlflowClient()

    def make_experiment(name: str) -> str:
        made: str = client.create_experiment(name, f"{artifacts}/{name}" if artifacts else None, tags={"team": "wine"})
        return made

    wine, gone = make_experiment("wine"), make_experiment("gone")
    parent = client.create_run(wine, start_time=1700000000000, tags={"mlflow.user": "ann"}).info.run_id
    child = client.create_run(wine, tags={"mlflow.parentRunId": parent, "note": "tab\tnew\nline\\end ünï"}).info.run_id
    client.log_param(parent, "alpha", "0.5")
    client.log_param(parent, "long", "x" * 250)
    for step, value in enumerate([0.9, float("nan"), float("inf"), 0.1, 0.1]):
        client.log_metric(parent, "rmse", value, timestamp=1700000000000 + step, step=step)
    for _ in range(2):  # (the same twice: to a database nothing new)
        client.log_metric(child, "mae", 0.25, timestamp=1700000000000, step=0)
    client.set_tag(parent, "mlflow.note.content", "what it is")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {"plain.txt": b"plain", "odd + ü.bin": bytes(range(256)), "empty": b""}.items():
            Path(folder, name).write_bytes(content)
            client.log_artifact(parent, str(Path(folder, name)), "deep/er" if name == "plain.txt" else None)
    if hasattr(client, "log_inputs"):
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset("rows", "abc", "local", "{}", schema="{}", profile="{}")
        client.log_inputs(parent, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.set_terminated(parent, end_time=1700000009000)
    client.set_terminated(child, "FAILED")
    lost = client.create_run(gone).info.run_id
    client.log_metric(lost, "rmse", 1)
    client.delete_experiment(gone)
    client.delete_run(client.create_run(wine).info.run_id)
    client.create_registered_model(MODEL, tags={"owner": "ann"}, description="of old")
    model = sklearn.linear_model.LinearRegression().fit(DATA, [2.0, 4.0, 6.0])
    mlflow.set_experiment("wine")
    for number in (1, 2):
        with mlflow.start_run() as run:
            mlflow.sklearn.log_model(model, "model", pip_requirements=["scikit-learn"])
        made = mlflow.register_model(f"runs:/{run.info.run_id}/model", MODEL)
        client.update_model_version(MODEL, made.version, description=f"number {number}")
        client.set_model_version_tag(MODEL, made.version, "checked", "yes")
    client.transition_model_version_stage(MODEL, "1", "Production")
    if hasattr(client, "set_registered_model_alias"):
        client.set_registered_model_alias(MODEL, "champion", "2")
    if hasattr(mlflow, "start_span"):
        with mlflow.start_span("asked") as span:
            span.set_inputs({"question": "why"})
        if hasattr(mlflow, "flush_trace_async_logging"):
            mlflow.flush_trace_async_logging()


def describe(value: Any) -> dict[str, str]:
    """Return an entity's own values, as JSON has them."""
    return {key: str(found) for key, found in sorted(dict(value).items())}


def read_files(client: MlflowClient, run: str, folder: str | None = None) -> dict[str, str]:
    """Return the SHA-256 of each of a run's files."""
    found: dict[str, str] = {}
    for info in client.list_artifacts(run, folder):
        if info.is_dir:
            found.update(read_files(client, run, info.path))
        elif not info.path.endswith("registered_model_meta"):  # (which loading writes beside a model)
            with tempfile.TemporaryDirectory() as target:
                path = mlflow.artifacts.download_artifacts(run_id=run, artifact_path=info.path, dst_path=target)
                found[info.path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


def dump_run(client: MlflowClient, run: mlflow.entities.Run, files: bool) -> dict[str, Any]:
    """Return all of a run."""
    info, data = run.info, run.data
    found = {
        "info": [info.experiment_id, info.status, info.start_time, info.end_time, info.lifecycle_stage, info.user_id],
        "name": info.run_name,
        "params": data.params,
        "tags": data.tags,
        "metrics": {key: str(value) for key, value in data.metrics.items()},
        "history": {
            key: sorted((m.timestamp, m.step, str(m.value)) for m in client.get_metric_history(info.run_id, key))
            for key in data.metrics
        },
    }
    if hasattr(run, "inputs") and run.inputs:
        found["inputs"] = [
            [describe(each.dataset), [[tag.key, tag.value] for tag in each.tags]] for each in run.inputs.dataset_inputs
        ]
    if files:
        found["files"] = read_files(client, info.run_id)
    return found


def dump(files: bool) -> dict[str, Any]:
    """Return all that a client reads."""
    client = MlflowClient()
    experiments = client.search_experiments(view_type=3)
    found: dict[str, Any] = {"experiments": {}, "runs": {}, "models": {}, "versions": {}}
    for each in experiments:
        found["experiments"][each.experiment_id] = [
            each.name,
            each.lifecycle_stage,
            each.tags,
            each.creation_time,
            each.last_update_time,
        ]
        token = None
        while True:
            page = client.search_runs([each.experiment_id], run_view_type=3, max_results=1000, page_token=token)
            for run in page:
                active = run.info.lifecycle_stage == "active" and each.lifecycle_stage == "active"
                found["runs"][run.info.run_id] = dump_run(client, run, files and active)
            token = page.token
            if not token:
                break
    for model in client.search_registered_models(""):
        found["models"][model.name] = [
            model.description,
            model.tags,
            model.creation_timestamp,
            model.last_updated_timestamp,
            getattr(model, "aliases", {}),
        ]
    for version in client.search_model_versions(""):
        loaded = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
        found["versions"][f"{version.name}/{version.version}"] = [
            version.description,
            version.tags,
            version.run_id,
            version.current_stage,
            version.creation_timestamp,
            version.last_updated_timestamp,
            [round(float(value), 9) for value in loaded.predict(DATA)],
        ]
    if hasattr(client, "search_traces"):
        traces = client.search_traces(experiment_ids=[each.experiment_id for each in experiments])
        found["traces"] = sorted(
            [span.name, span.inputs, span.start_time_ns] for trace in traces for span in trace.data.spans
        )
    return found


if __name__ == "__main__":
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if sys.argv[1] == "seed":
        seed(sys.argv[2] if len(sys.argv) > 2 else "")
    else:
        print(json.dumps(dump(files=True), sort_keys=True))
