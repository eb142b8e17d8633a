"""What nothing can be faster than on this machine: a request that asks for nothing, and Postgres without a request."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from bench import client, gateway, load
from bench.client import Question
from bench.effort import Effort
from bench.latency import Summary
from bench.load import CLIENTS, LoadError
from bench.report import render, to_cells
from bench.settings import Settings
from bench.stacks import Servers

# The first without a login; the second an answer of MLflow's process, reached as any other of its answers.
EMPTY = {"nginx alone": "/livez", "nginx, login, this stack's process": gateway.EMPTY}
NO_CONTENT = 204
RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
PROGRAM = "/usr/lib/postgresql/17/bin/pgbench"

# Another value each time, and a later one.
NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
PARTS = """
    ARRAY(SELECT (key, value, timestamp, step, is_nan) FROM latest_metrics WHERE run_uuid = runs.run_uuid),
    ARRAY(SELECT (key, value) FROM params WHERE run_uuid = runs.run_uuid),
    ARRAY(SELECT (key, value) FROM tags WHERE run_uuid = runs.run_uuid)
"""


def write_metrics(run: str, rows: str) -> str:
    """Return the statement that writes metrics, each with what is the latest of its key."""
    return f"""
        WITH given AS (SELECT '{run}' AS run_uuid, given.* FROM ({rows}) AS given (key, value, timestamp, step)),
        metric AS (
            INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
            SELECT run_uuid, key, value, timestamp, step, false FROM given ON CONFLICT DO NOTHING
        )
        INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
        SELECT DISTINCT ON (key) run_uuid, key, value, timestamp, step, false FROM given
        ORDER BY key, step DESC, timestamp DESC, value DESC
        ON CONFLICT (key, run_uuid) DO UPDATE
        SET value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan
    """


def write_statements(experiment: str, run: str, found: str) -> dict[str, str]:
    """Return what each question of bench/metadata.py must do at least, for pgbench: by name of the question."""
    many = (
        f"SELECT 'k' || k, k + s / 10.0, now, s FROM (SELECT {NOW} AS now) AS clock, "
        "generate_series(1, %d) AS k, generate_series(1, %d) AS s"
    )
    return {
        "experiments/get": f"SELECT * FROM experiments WHERE experiment_id = {experiment}",
        "runs/get": f"SELECT *, {PARTS} FROM runs WHERE run_uuid = '{found}'",
        "log-metric": write_metrics(run, f"SELECT 'm', 1.5, {NOW}, 1"),
        "log-batch, 100 keys": write_metrics(run, many % (100, 1)),
        "log-batch, 10 keys, 10 steps": write_metrics(run, many % (10, 10)),
        "runs/create": f"""
            WITH run AS (
                INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,
                    start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
                SELECT id, 'made', 'UNKNOWN', '', '', 'u', 'RUNNING', {NOW}, '', 'active',
                    'mlflow-artifacts:/9002/' || id || '/artifacts', 9002
                FROM (SELECT md5(random()::text || clock_timestamp()) AS id) AS new RETURNING run_uuid
            )
            INSERT INTO tags (run_uuid, key, value) SELECT run_uuid, 'mlflow.runName', 'made' FROM run
        """,
        "runs/update": f"UPDATE runs SET status = 'RUNNING', end_time = {NOW} WHERE run_uuid = '{run}'",
        "search, 100 of 2,000": f"""
            SELECT *, {PARTS} FROM runs WHERE experiment_id = {experiment} AND lifecycle_stage = 'active'
            ORDER BY start_time DESC, run_uuid LIMIT 101
        """,
    }


@dataclass(frozen=True)
class Floors:
    """What was found.

    Attributes:
        empty: one client, then eight, by name (EMPTY).
        database: statements a second of eight clients, by the question that needs them.
    """

    empty: dict[str, tuple[Summary, Summary]]
    database: dict[str, float]

    def find(self, question: str) -> float:
        """Return requests a second if each is an empty one and then its statement: both take the same cores."""
        empty = list(self.empty.values())[-1][1].per_second
        return 1 / (1 / empty + 1 / self.database[question])

    def to_text(self, rates: Mapping[str, float]) -> str:
        """Return the tables; `rates` are this stack's, requests a second by question."""
        empty = [[name, *to_cells(one), *to_cells(eight)] for name, (one, eight) in self.empty.items()]
        rows = [
            [question, f"{alone:.0f}", f"{floor:.0f}", f"{rates[question]:.0f}", f"{rates[question] / floor:.2f}"]
            for question, alone in self.database.items()
            for floor in [self.find(question)]
        ]
        return "\n\n".join(
            [
                render(["requests for nothing", "1: p50 ms", "p99 ms", "req/s", "8: p50 ms", "p99 ms", "req/s"], empty),
                render(["eight clients, a second", "pgbench", "floor: both", "this stack", "of the floor"], rows),
            ]
        )


def run_pgbench(servers: Servers, statement: str, seconds: int) -> float:
    """Return how often a second eight clients of Postgres itself get a statement done. Raises LoadError."""
    script = f"cat >/tmp/bench.sql && {PROGRAM} -n -M prepared -c {CLIENTS} -T {seconds} -f /tmp/bench.sql mlflow"
    told = servers.deployment.execute(
        "docker", "compose", "exec", "-T", "postgres", "sh", "-c", script, stdin=" ".join(statement.split())
    )
    found = RATE.search(told.stdout)
    if told.returncode or not found:
        raise LoadError(f"pgbench: {told.stderr.strip()}: {statement}")
    return float(found[1])


def measure(place: Settings, servers: Servers, chosen: Effort, statements: Mapping[str, str]) -> Floors:
    """Measure this stack, which is up. Raises LoadError."""
    url = servers.start_others("empty-nginx")
    empty = {}
    for name, path in EMPTY.items():
        question = Question(path)
        client.measure(url, servers.login, 1, question)
        one = client.measure(url, servers.login, chosen.round_seconds, question)
        if set(one.statuses) != {NO_CONTENT}:
            raise LoadError(f"{url}{path}: answers other than {NO_CONTENT}: {dict(one.statuses)}")
        empty[name] = one.summarize(), load.measure(url, servers.login, chosen.load_seconds, place.scratch, question)
    servers.stop("empty-nginx")
    rates = {}
    for name, statement in statements.items():
        rates[name] = run_pgbench(servers, statement, chosen.load_seconds)
        print(f"    pgbench: {name}: {rates[name]:.0f} a second", file=sys.stderr, flush=True)
    return Floors(empty, rates)
