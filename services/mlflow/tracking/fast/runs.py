"""runs/get, create, update, set-tag and log-parameter."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

import msgspec
from cachetools import LRUCache
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from mlflow.utils.name_utils import _generate_random_name
from msgspec import UNSET, UnsetType

from tracking.fast.answers import INFO, MODEL_INPUTS, PARTS, describe_info, describe_run, is_plain
from tracking.fast.requests import (
    MAX_NAME,
    Message,
    Milliseconds,
    Pair,
    ReplayError,
    Request,
    Text,
    need,
    need_name,
    need_run,
    read_id,
)

MAX_PARAM = 6000
MAX_CREATED_TAGS = 1000
# A run stays in its experiment for ever, so what was read once is right as long as there is such a run.
experiments: LRUCache[str, int] = LRUCache(10_000)

GET = f"SELECT {INFO}, {PARTS}, {MODEL_INPUTS} FROM runs WHERE run_uuid = $1"  # noqa: S608 # nosec B608: constants
EXPERIMENT_OF = "SELECT experiment_id FROM runs WHERE run_uuid = $1"
CREATE = """
    WITH place AS (
        SELECT experiment_id, artifact_location FROM experiments
        WHERE experiment_id = $2 AND lifecycle_stage = 'active' AND artifact_location ~ '^mlflow-artifacts:/[0-9]+$'
    ), run AS (
        INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
            source_version, lifecycle_stage, artifact_uri, experiment_id)
        SELECT $1::varchar, $3::varchar, 'UNKNOWN', '', '', $4::varchar, 'RUNNING', $5::bigint, '', 'active',
            artifact_location || '/' || $1::varchar || '/artifacts', experiment_id FROM place
        RETURNING run_uuid, artifact_uri
    ), named AS (
        INSERT INTO tags (key, value, run_uuid)
        SELECT key, value, run_uuid FROM run, unnest($6::varchar[], $7::varchar[]) AS given (key, value)
    )
    SELECT artifact_uri FROM run
"""
UPDATE = f"""
    WITH run AS (
        UPDATE runs SET status = coalesce($2::varchar, status), end_time = coalesce($3::bigint, end_time),
            name = coalesce($4::varchar, name)
        WHERE run_uuid = $1 AND lifecycle_stage = 'active' RETURNING {INFO}
    ), named AS (
        INSERT INTO tags (key, value, run_uuid)
        SELECT '{MLFLOW_RUN_NAME}', $4::varchar, run_uuid FROM run WHERE $4::varchar IS NOT NULL
        ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value
    )
    SELECT * FROM run
"""  # noqa: S608 # nosec B608: constants
SET_TAG = """
    INSERT INTO tags (key, value, run_uuid)
    SELECT $2::varchar, $3::varchar, run_uuid FROM runs WHERE run_uuid = $1 AND lifecycle_stage = 'active'
    ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value RETURNING run_uuid
"""
# Two that come at once with other values: the second one's insert fails, and MLflow says so.
LOG_PARAM = """
    WITH run AS (
        SELECT run_uuid FROM runs WHERE run_uuid = $1 AND lifecycle_stage = 'active'
    ), there AS (
        SELECT value FROM params WHERE run_uuid = $1 AND key = $2::varchar
    ), added AS (
        INSERT INTO params (key, value, run_uuid)
        SELECT $2::varchar, $3::varchar, run_uuid FROM run WHERE NOT EXISTS (SELECT FROM there) RETURNING value
    )
    SELECT value FROM added UNION ALL SELECT value FROM there, run
"""


class Create(Message):
    """CreateRun."""

    experiment_id: str
    user_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    start_time: Milliseconds = 0
    run_name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ""
    tags: Annotated[list[Pair], msgspec.Meta(max_length=MAX_CREATED_TAGS)] = msgspec.field(default_factory=list)


class Update(Message):
    """UpdateRun; what is absent stays."""

    run_id: str
    run_uuid: str | UnsetType = UNSET
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"] | UnsetType = UNSET
    end_time: Milliseconds | UnsetType = UNSET
    run_name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] | UnsetType = UNSET


class Change(Message):
    """SetTag and LogParam."""

    run_id: str
    key: str
    value: Text = ""
    run_uuid: str | UnsetType = UNSET


async def need_right(request: Request, run_id: str, action: str) -> None:
    """Raise ReplayError unless the user may "read" or "update" the run."""
    if request.rights.is_admin:
        return
    experiment_id = experiments.get(run_id)
    if experiment_id is None:
        row = await request.database.fetch_row(EXPERIMENT_OF, run_id)
        if row is None:
            raise ReplayError
        experiment_id = experiments[run_id] = row["experiment_id"]
    need(request.rights.may_use_run(experiment_id, action))


async def get(request: Request) -> dict[str, Any]:
    """Return a run, deleted ones too."""
    fields = request.read_query("run_id", "run_uuid")
    run_id = fields.get("run_id", "")
    need_run(run_id, fields.get("run_uuid", UNSET))
    row = await request.database.fetch_row(GET, run_id)
    if row is None or not is_plain(row):
        raise ReplayError
    need(request.rights.may_use_run(row["experiment_id"], "read"))
    return {"run": describe_run(row, row["model_inputs"])}


async def create(request: Request) -> dict[str, Any]:
    """Create a run in an experiment that is there and active."""
    message = request.read_body(Create)
    experiment_id = read_id(message.experiment_id)
    need(request.rights.may_create_run(experiment_id))
    tags = {tag.key: tag.value for tag in message.tags}
    need(len(tags) == len(message.tags), all(len(key) <= MAX_NAME for key in tags))
    tag = tags.get(MLFLOW_RUN_NAME, "")
    need(not (message.run_name and tag and message.run_name != tag), tag != "" or MLFLOW_RUN_NAME not in tags)
    name = message.run_name or tag or _generate_random_name()
    need(len(name) <= MAX_NAME)
    tags[MLFLOW_RUN_NAME] = name
    run_id = uuid.uuid4().hex
    row = await request.database.fetch_row(
        CREATE, run_id, experiment_id, name, message.user_id, message.start_time, list(tags), list(tags.values())
    )
    if row is None:
        raise ReplayError
    info = {
        "run_uuid": run_id,
        "run_id": run_id,
        "run_name": name,
        "experiment_id": str(experiment_id),
        "user_id": message.user_id,
        "status": "RUNNING",
        "start_time": message.start_time,
        "artifact_uri": row["artifact_uri"],
        "lifecycle_stage": "active",
    }
    shown = [{"key": key, "value": value} for key, value in tags.items()]
    return {"run": {"info": info, "data": {"tags": shown}, "inputs": {}}}


async def update(request: Request) -> dict[str, Any]:
    """Change status, end or name of an active run."""
    message = request.read_body(Update)
    need_run(message.run_id, message.run_uuid)
    await need_right(request, message.run_id, "update")
    given = (
        None if value is UNSET else value for value in (message.status, message.end_time, message.run_name or UNSET)
    )
    row = await request.database.fetch_row(UPDATE, message.run_id, *given)
    if row is None or not is_plain(row):
        raise ReplayError
    return {"run_info": describe_info(row)}


async def set_tag(request: Request) -> dict[str, Any]:
    """Set a tag of an active run; its name is MLflow's business."""
    message = request.read_body(Change)
    need_run(message.run_id, message.run_uuid)
    need_name(message.key)
    need(message.key != MLFLOW_RUN_NAME)
    await need_right(request, message.run_id, "update")
    need(await request.database.fetch_row(SET_TAG, message.run_id, message.key, message.value) is not None)
    return {}


async def log_parameter(request: Request) -> dict[str, Any]:
    """Log a parameter of an active run, once or with the same value again."""
    message = request.read_body(Change)
    need_run(message.run_id, message.run_uuid)
    need_name(message.key)
    need(len(message.value) <= MAX_PARAM)
    await need_right(request, message.run_id, "update")
    row = await request.database.fetch_row(LOG_PARAM, message.run_id, message.key, message.value)
    need(row is not None and row["value"] == message.value)
    return {}
