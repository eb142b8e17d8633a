"""runs/log-metric, runs/log-batch, metrics/get-history and get-history-bulk-interval."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from mlflow.utils.search_utils import SearchUtils
from msgspec import UNSET, UnsetType

from tracking.fast.answers import describe_metric
from tracking.fast.requests import (
    MAX_BIGINT,
    MAX_NAME,
    Integer,
    Message,
    Milliseconds,
    Pair,
    ReplayError,
    Request,
    need,
    need_name,
    need_run,
    read_number,
)
from tracking.fast.runs import MAX_PARAM, need_right

MAX_METRICS, MAX_PAIRS, MAX_ENTITIES = 1000, 100, 1000  # in a batch
MAX_VALUE = 1.7976931348623157e308  # stands for infinity in the database
MAX_HISTORY_RUNS, MAX_PER_RUN = 100, 2500  # mlflow.server.handlers
MAX_HISTORY = 25_000
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# The later of two values of a metric: by step, then timestamp, then value; of equal ones the first stays.
KEEP_LATER = """
    ON CONFLICT (key, run_uuid) DO UPDATE
    SET value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan
    WHERE (excluded.step, excluded.timestamp, excluded.value)
        > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)
"""
# The rows come sorted by key, so that two requests wait for each other's rows in one order. MLflow locks in it too.
WRITE_METRICS = f"""
    metric AS (
        INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
        SELECT run_uuid, key, value, timestamp, step, is_nan FROM run,
            unnest($2::varchar[], $3::float8[], $4::bigint[], $5::bigint[], $6::bool[])
            AS given (key, value, timestamp, step, is_nan)
        ON CONFLICT DO NOTHING
    ), latest AS (
        INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
        SELECT run_uuid, key, value, timestamp, step, is_nan FROM run,
            unnest($7::varchar[], $8::float8[], $9::bigint[], $10::bigint[], $11::bool[])
            AS given (key, value, timestamp, step, is_nan)
        {KEEP_LATER}
    )
"""  # noqa: S608 # nosec B608: constants
RUN = "run AS (SELECT run_uuid FROM runs WHERE run_uuid = $1 AND lifecycle_stage = 'active')"
LOG_METRICS = f"WITH {RUN}, {WRITE_METRICS} SELECT run_uuid FROM run"  # noqa: S608 # nosec B608: constants
LOG_METRIC = f"""
    WITH {RUN}, metric AS (
        INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
        SELECT run_uuid, $2::varchar, $3::float8, $4::bigint, $5::bigint, $6::bool FROM run ON CONFLICT DO NOTHING
    ), latest AS (
        INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
        SELECT run_uuid, $2::varchar, $3::float8, $4::bigint, $5::bigint, $6::bool FROM run
        {KEEP_LATER}
    )
    SELECT run_uuid FROM run
"""  # noqa: S608 # nosec B608: constants
# A parameter that is there with another value stops it all, and MLflow says so. One that somebody else adds meanwhile
# makes the insert fail.
LOG_BATCH = f"""
    WITH param AS (
        SELECT * FROM unnest($12::varchar[], $13::varchar[]) AS given (key, value)
    ), there AS (
        SELECT params.key, params.value <> param.value AS differs
        FROM params JOIN param ON param.key = params.key WHERE params.run_uuid = $1
    ), run AS (
        SELECT run_uuid FROM runs WHERE run_uuid = $1 AND lifecycle_stage = 'active'
        AND NOT EXISTS (SELECT FROM there WHERE differs)
    ), added AS (
        INSERT INTO params (key, value, run_uuid)
        SELECT key, value, run_uuid FROM run, param WHERE NOT EXISTS (SELECT FROM there WHERE there.key = param.key)
    ), tagged AS (
        INSERT INTO tags (key, value, run_uuid)
        SELECT key, value, run_uuid FROM run, unnest($14::varchar[], $15::varchar[]) AS given (key, value)
        ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value
    ), {WRITE_METRICS}
    SELECT run_uuid FROM run
"""  # noqa: S608 # nosec B608: constants
HISTORY = """
    SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = $1 AND key = $2
    ORDER BY timestamp, step, value LIMIT $3
"""
# As MLflow samples: the first of each of n equal parts; the last of all is added below.
SAMPLE = """
    WITH part AS (
        SELECT value, timestamp, step, is_nan, ntile($3::int) OVER (ORDER BY step, timestamp, value, is_nan) AS bucket
        FROM metrics WHERE run_uuid = $1 AND key = $2 AND step BETWEEN $4 AND $5
    ), ranked AS (
        SELECT *, row_number() OVER (PARTITION BY bucket ORDER BY step, timestamp, value, is_nan) AS place,
            row_number() OVER (ORDER BY step DESC, timestamp DESC, value DESC, is_nan DESC) AS from_end
        FROM part
    )
    SELECT value, timestamp, step, is_nan, place = 1 AS is_sample FROM ranked WHERE place = 1 OR from_end = 1
    ORDER BY step, timestamp, value, is_nan
"""

Value = float | Literal["NaN", "Infinity", "-Infinity"]


class Metric(Message):
    """What each request says of a metric."""

    key: str
    value: Value
    timestamp: Milliseconds
    step: Integer = 0


class BatchMetric(Metric):
    """A metric of a batch."""

    run_id: str | UnsetType = UNSET


class LogMetric(Metric, kw_only=True):
    """LogMetric."""

    run_id: str
    run_uuid: str | UnsetType = UNSET


class LogBatch(Message):
    """LogBatch."""

    run_id: str
    metrics: Annotated[list[BatchMetric], msgspec.Meta(max_length=MAX_METRICS)] = msgspec.field(default_factory=list)
    params: Annotated[list[Pair], msgspec.Meta(max_length=MAX_PAIRS)] = msgspec.field(default_factory=list)
    tags: Annotated[list[Pair], msgspec.Meta(max_length=MAX_PAIRS)] = msgspec.field(default_factory=list)


class Stored(NamedTuple):
    """A metric as its row is."""

    key: str
    value: float
    timestamp: int
    step: int
    is_nan: bool


def store(metric: Metric) -> Stored:
    """Return the row of a metric. Raises ReplayError for what MLflow may refuse."""
    need_name(metric.key)
    value = metric.value
    if isinstance(value, str):
        value = NOT_FINITE[value]
    elif not math.isfinite(value):  # 1e999
        raise ReplayError
    is_nan = math.isnan(value)
    # (+ 0.0: MLflow's driver writes -0.0 as a number that Postgres reads as 0)
    stored = 0.0 if is_nan else max(-MAX_VALUE, min(MAX_VALUE, value)) + 0.0
    return Stored(metric.key, stored, metric.timestamp, metric.step, is_nan)


def find_latest(metrics: list[Stored]) -> list[Stored]:
    """Return the latest of each key, sorted by key; of equal ones the first."""
    latest: dict[str, Stored] = {}
    for metric in metrics:
        known = latest.get(metric.key)
        if known is None or (metric.step, metric.timestamp, metric.value) > (known.step, known.timestamp, known.value):
            latest[metric.key] = metric
    return [latest[key] for key in sorted(latest)]


def split(rows: list[Stored]) -> list[list[Any]]:
    """Return the columns of rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], [], []]


async def log_metric(request: Request) -> dict[str, Any]:
    """Log a metric of an active run."""
    message = request.read_body(LogMetric)
    need_run(message.run_id, message.run_uuid)
    metric = store(message)
    await need_right(request, message.run_id, "update")
    need(await request.database.fetch_row(LOG_METRIC, message.run_id, *metric) is not None)
    return {}


async def log_batch(request: Request) -> dict[str, Any]:
    """Log metrics, parameters and tags of an active run: all or nothing."""
    message = request.read_body(LogBatch)
    need_run(message.run_id, UNSET)
    need(len(message.metrics) + len(message.params) + len(message.tags) <= MAX_ENTITIES)
    need(all(metric.run_id in (UNSET, message.run_id) for metric in message.metrics))
    metrics = sorted({store(metric): None for metric in message.metrics}, key=lambda metric: metric.key)
    params = {param.key: param.value for param in message.params}
    tags = {tag.key: tag.value for tag in message.tags}
    need(len(params) == len(message.params), all(len(value) <= MAX_PARAM for value in params.values()))
    need(MLFLOW_RUN_NAME not in tags)
    for key in (*params, *tags):
        need_name(key)
    await need_right(request, message.run_id, "update")
    columns = [*split(metrics), *split(find_latest(metrics))]
    if not params and not tags:
        row = await request.database.fetch_row(LOG_METRICS, message.run_id, *columns)
    else:
        pairs = [list(params), list(params.values()), sorted(tags), [tags[key] for key in sorted(tags)]]
        row = await request.database.fetch_row(LOG_BATCH, message.run_id, *columns, *pairs)
    need(row is not None)
    return {}


async def get_history(request: Request) -> dict[str, Any]:
    """Return the values of one metric of a run, in pages if asked for."""
    fields = request.read_query("run_id", "run_uuid", "metric_key", "max_results", "page_token")
    run_id, key = fields.get("run_id", ""), fields.get("metric_key", "")
    need_run(run_id, fields.get("run_uuid", UNSET))
    need(bool(key), len(key) <= MAX_NAME, "page_token" not in fields)
    most = read_count(fields["max_results"], MAX_HISTORY) if "max_results" in fields else None
    await need_right(request, run_id, "read")
    rows = await request.database.fetch(HISTORY, run_id, key, MAX_HISTORY + 1 if most is None else most + 1)
    need(len(rows) <= MAX_HISTORY)  # more are MLflow's: to write them would hold up the others here
    metrics = [describe_metric(*row) for row in rows[:most]]
    token = (
        {} if most is None or len(rows) <= most else {"next_page_token": SearchUtils.create_page_token(most).decode()}
    )
    return {**({"metrics": metrics} if metrics else {}), **token}


async def get_interval(request: Request) -> dict[str, Any]:
    """Return a sample of the values of one metric of some runs, for a chart."""
    pairs = request.read_pairs()
    run_ids = [value for name, value in pairs if name == "run_ids"]
    fields = {name: value for name, value in pairs if name != "run_ids"}
    need(
        len(fields) + len(run_ids) == len(pairs),
        fields.keys() <= {"metric_key", "max_results", "start_step", "end_step"},
    )
    key = fields.get("metric_key", "")
    need(0 < len(run_ids) <= MAX_HISTORY_RUNS, all(run_ids), bool(key), len(key) <= MAX_NAME)
    most = read_count(fields.get("max_results", str(MAX_PER_RUN)), MAX_PER_RUN)
    steps = -(2**63), MAX_BIGINT
    if fields.keys() & {"start_step", "end_step"}:
        steps = read_number(fields.get("start_step", "")), read_number(fields.get("end_step", ""))
        need(steps[0] <= steps[1])
    for run_id in run_ids:
        await need_right(request, run_id, "read")
    metrics: list[dict[str, Any]] = []
    for run_id in run_ids:
        rows = await request.database.fetch(SAMPLE, run_id, key, most, *steps)
        *samples, last = rows or [None]
        if last is not None and (last["is_sample"] or len(samples) < most):
            samples.append(last)
        elif last is not None:
            samples[-1] = last
        metrics += ({**describe_metric(key, *tuple(row)[:4]), "run_id": run_id} for row in samples)
    return {"metrics": metrics} if metrics else {}


def read_count(text: str, most: int) -> int:
    """Return a number of results from 1 to `most`. Raises ReplayError."""
    count = read_number(text)
    need(1 <= count <= most)
    return count
