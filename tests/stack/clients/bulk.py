"""Many runs into an SQLite database that an MLflow made, by its tables: bulk.py DATABASE ARTIFACTS COUNT.

Each has 50 values of 5 metrics, 5 params, 5 tags and an artifact. By the client it would take an hour.
"""

import random
import sqlite3
import sys
import uuid
from pathlib import Path

database, artifacts, count = sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3])
connection = sqlite3.connect(database)
connection.execute(
    "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time)"
    " VALUES (1000, 'bulk', ?, 'active', 1700000000000, 1700000000000)",
    (f"{artifacts}/1000",),
)
source = random.Random(1)
for number in range(count):
    run, start = uuid.UUID(int=source.getrandbits(128)).hex, 1700000000000 + number
    place = artifacts / "1000" / run / "artifacts"
    connection.execute(
        "INSERT INTO runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage, artifact_uri,"
        " experiment_id) VALUES (?, ?, 'LOCAL', 'FINISHED', ?, ?, 'active', ?, 1000)",
        (run, f"run {number}", start, start + 1000, str(place)),
    )
    values = [(f"m{step % 5}", source.random(), start + step, step, run) for step in range(50)]
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, 0, ?)", values
    )
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, 0, ?)",
        values[-5:],
    )
    for table in ("params", "tags"):
        rows = [(f"{table} {index}", str(number * index), run) for index in range(5)]
        connection.executemany(f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)", rows)
    place.mkdir(parents=True)
    (place / "note.txt").write_text(f"artifact of {run}\n")
connection.commit()
