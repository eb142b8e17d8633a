"""experiments/get and experiments/get-by-name."""

from __future__ import annotations

from typing import Any

from tracking.fast.answers import Row, describe_pairs, keep
from tracking.fast.requests import ReplayError, Request, need, read_id

SELECT = """
    SELECT experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace,
        ARRAY(SELECT (key, value) FROM experiment_tags AS tags WHERE tags.experiment_id = experiments.experiment_id)
        AS tags
    FROM experiments
"""
BY_ID = SELECT + "WHERE experiment_id = $1"
BY_NAME = SELECT + "WHERE name = $1 AND workspace = 'default'"


async def get(request: Request) -> dict[str, Any]:
    """Return an experiment, deleted ones too."""
    experiment_id = read_id(request.read_query("experiment_id").get("experiment_id", ""))
    need(request.rights.may_read_experiment(experiment_id))
    return describe(await request.database.fetch_row(BY_ID, experiment_id))


async def get_by_name(request: Request) -> dict[str, Any]:
    """Return an experiment by its name."""
    name = request.read_query("experiment_name").get("experiment_name", "")
    need(bool(name))
    row = await request.database.fetch_row(BY_NAME, name)
    need(row is not None and request.rights.may_read_experiment(row["experiment_id"]))
    return describe(row)


def describe(row: Row | None) -> dict[str, Any]:
    """Return the message of an experiment. Raises ReplayError without one."""
    if row is None or row["artifact_location"] is None or any(value is None for _, value in row["tags"]):
        raise ReplayError
    fields = {name: row[name] for name in ("name", "artifact_location", "lifecycle_stage", "workspace")}
    times = {name: row[name] for name in ("creation_time", "last_update_time")}
    return {
        "experiment": {
            "experiment_id": str(row["experiment_id"]),
            **fields,
            **keep({**times, "tags": describe_pairs(row["tags"])}),
        }
    }
