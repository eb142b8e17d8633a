"""Runs that are said to run, and of which nobody has written anything for long: their process was killed, mostly.

When a row was written, Postgres knows (track_commit_timestamp in services/postgres/postgresql.conf): a client's own
times are what it likes. What was written before the stack kept that counts by the run's own times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from sqlalchemy import text

from artifacts.objects import Bucket
from artifacts.places import find_folder

TAG = "stack.orphan"
RUNS = text("""
    SELECT run_uuid, runs.name, experiments.name AS experiment, user_id, artifact_uri
    FROM runs JOIN experiments USING (experiment_id)
    WHERE status IN ('RUNNING', 'SCHEDULED') AND runs.lifecycle_stage = 'active' AND start_time < :before
        AND (CAST(:experiment AS varchar) IS NULL OR experiments.name = :experiment)
    ORDER BY start_time
""")
# Where a run's writes leave a row. (Its children are part of it: a search is silent while its trials go on.) At
# the end its own times, for what is older than the times of commits that are kept.
LAST_WRITE = text("""
    WITH RECURSIVE family (run) AS (
        SELECT CAST(:run AS varchar)
        UNION SELECT run_uuid FROM tags JOIN family ON key = 'mlflow.parentRunId' AND value = run
    ), written (at) AS (
        SELECT max(pg_xact_commit_timestamp(runs.xmin)) FROM runs JOIN family ON run_uuid = run
        UNION ALL SELECT max(pg_xact_commit_timestamp(metrics.xmin)) FROM metrics JOIN family ON run_uuid = run
        UNION ALL SELECT max(pg_xact_commit_timestamp(params.xmin)) FROM params JOIN family ON run_uuid = run
        UNION ALL SELECT max(pg_xact_commit_timestamp(tags.xmin)) FROM tags JOIN family ON run_uuid = run
        UNION ALL SELECT max(pg_xact_commit_timestamp(inputs.xmin)) FROM inputs JOIN family ON destination_id = run
        UNION ALL SELECT max(pg_xact_commit_timestamp(logged_models.xmin)) FROM logged_models
            JOIN family ON source_run_id = run
        UNION ALL SELECT to_timestamp(max(start_time) / 1000.0) FROM runs JOIN family ON run_uuid = run
        UNION ALL SELECT to_timestamp(max(timestamp) / 1000.0) FROM latest_metrics JOIN family ON run_uuid = run
            WHERE timestamp <= 1000 * extract(epoch FROM now())
    ) SELECT max(at) FROM written
""")
MARK = text("""
    UPDATE runs SET status = 'KILLED', end_time = :end
    WHERE run_uuid = :run AND status IN ('RUNNING', 'SCHEDULED') AND lifecycle_stage = 'active'
""")
EXPLAIN = text("""
    INSERT INTO tags (key, value, run_uuid) VALUES (:key, :value, :run)
    ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value
""")


@dataclass(frozen=True)
class Silent:
    """A run that is said to run, and is silent.

    Attributes:
        run: its id.
        name: its name.
        experiment: the name of its experiment.
        user: who began it, as its client said.
        since: when something of it was written for the last time.
    """

    run: str
    name: str
    experiment: str
    user: str
    since: datetime


def find_silent(engine: sqlalchemy.Engine, bucket: Bucket, limit: datetime, experiment: str | None) -> list[Silent]:
    """Return the runs that are said to run and were not written since `limit`, the oldest first."""
    found = []
    with engine.connect() as connection:
        asked = {"before": int(limit.timestamp() * 1000), "experiment": experiment}
        for row in connection.execute(RUNS, asked).all():
            last = find_last_write(connection, row.run_uuid)
            if last >= limit:
                continue
            # (an upload that takes hours leaves no row)
            folder = find_folder(row.artifact_uri, bucket.name)
            stored = [version.time for versions in bucket.walk(folder) for version in versions] if folder else []
            last = max([last, *stored])
            if last < limit:
                found.append(Silent(row.run_uuid, row.name or "", row.experiment, row.user_id or "", last))
    return found


def find_last_write(connection: Any, run: str) -> datetime:
    """Return when something of a run, or of its children, was written for the last time."""
    last: datetime = connection.execute(LAST_WRITE, {"run": run}).scalar_one()
    return last.astimezone(UTC)


def mark(engine: sqlalchemy.Engine, silent: Silent, limit: datetime) -> bool:
    """Say of a run that it was killed when it was last heard of; False if it ended or wrote meanwhile.

    A run that goes on after all is not held up by it: it may be written to, and its own end takes this one's place.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM runs WHERE run_uuid = :run FOR UPDATE"), {"run": silent.run})
        if find_last_write(connection, silent.run) >= limit:
            return False
        end = int(silent.since.timestamp() * 1000)
        if not connection.execute(MARK, {"run": silent.run, "end": end}).rowcount:
            return False
        shown = silent.since.isoformat(timespec="seconds").replace("+00:00", "Z")
        said = f"nothing was written since {shown}: taken for killed by ./stack orphans --mark"
        connection.execute(EXPLAIN, {"run": silent.run, "key": TAG, "value": said})
    return True
