"""Rows as MLflow's messages in JSON: the fields that its protocol buffers would show, no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# One row for each run, whole: a list of rows for each of its parts, so that a page of runs is one round trip.
# (the tables' primary keys begin with the key; each of these has an index on run_uuid too)
INFO = """
    runs.run_uuid, runs.name, runs.experiment_id, runs.user_id, runs.status, runs.start_time, runs.end_time,
    runs.artifact_uri, runs.lifecycle_stage
"""
PARTS = """
    ARRAY(SELECT (key, value, timestamp, step, is_nan) FROM latest_metrics WHERE run_uuid = runs.run_uuid) AS metrics,
    ARRAY(SELECT (key, value) FROM params WHERE run_uuid = runs.run_uuid) AS params,
    ARRAY(SELECT (key, value) FROM tags WHERE run_uuid = runs.run_uuid) AS tags,
    ARRAY(SELECT (d.name, d.digest, d.dataset_source_type, d.dataset_source, d.dataset_schema, d.dataset_profile,
            ARRAY(SELECT (name, value) FROM input_tags WHERE input_uuid = i.input_uuid))
        FROM inputs AS i JOIN datasets AS d ON d.dataset_uuid = i.source_id
        WHERE i.destination_type = 'RUN' AND i.destination_id = runs.run_uuid) AS datasets,
    ARRAY(SELECT (destination_id, step) FROM inputs
        WHERE source_type = 'RUN_OUTPUT' AND source_id = runs.run_uuid AND destination_type = 'MODEL_OUTPUT') AS outputs
"""
MODEL_INPUTS = """
    ARRAY(SELECT destination_id FROM inputs
        WHERE source_type = 'RUN_INPUT' AND source_id = runs.run_uuid AND destination_type = 'MODEL_INPUT')
    AS model_inputs
"""

Row = Mapping[str, Any]


def keep(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have something in them: an empty list is not shown."""
    return {name: value for name, value in fields.items() if value}


def describe_metric(key: str, value: float, timestamp: int, step: int, is_nan: bool) -> dict[str, Any]:
    """Return a Metric (service.proto); NaN is a text in JSON."""
    return {"key": key, "value": "NaN" if is_nan else value, "timestamp": timestamp, "step": step}


def describe_pairs(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Return Params or tags; where a value is NULL in the database, MLflow's handler fails too."""
    return [{"key": key, "value": value} for key, value in pairs]


def describe_info(row: Row) -> dict[str, Any]:
    """Return a RunInfo."""
    info = {
        "run_uuid": row["run_uuid"],
        "run_id": row["run_uuid"],
        "run_name": row["name"],
        "experiment_id": str(row["experiment_id"]),
        "user_id": row["user_id"],
        "status": row["status"],
        "start_time": row["start_time"],
        "lifecycle_stage": row["lifecycle_stage"],
    }
    if row["end_time"]:
        info["end_time"] = row["end_time"]
    if row["artifact_uri"]:
        info["artifact_uri"] = row["artifact_uri"]
    return info


def describe_dataset(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a DatasetInput."""
    name, digest, source_type, source, schema, profile, tags = row
    dataset = {"name": name, "digest": digest, "source_type": source_type, "source": source}
    return keep({"tags": describe_pairs(tags), "dataset": dataset | keep({"schema": schema, "profile": profile})})


def describe_run(row: Row, model_inputs: Iterable[str] = ()) -> dict[str, Any]:
    """Return a Run: INFO and PARTS of the row."""
    return {
        "info": describe_info(row),
        "data": keep(
            {
                "metrics": [describe_metric(*metric) for metric in row["metrics"]],
                "params": describe_pairs(row["params"]),
                "tags": describe_pairs(row["tags"]),
            }
        ),
        "inputs": keep(
            {
                "dataset_inputs": [describe_dataset(dataset) for dataset in row["datasets"]],
                "model_inputs": [{"model_id": model_id} for model_id in model_inputs],
            }
        ),
        "outputs": keep({"model_outputs": [{"model_id": model, "step": step} for model, step in row["outputs"]]}),
    }


def is_plain(row: Row) -> bool:
    """Return whether MLflow would show just what is in the row of a run."""
    # A run of MLflow 1 has its name in a tag only; one without a user or start was not written by a server of today.
    return bool(row["name"]) and row["user_id"] is not None and row["start_time"] is not None
