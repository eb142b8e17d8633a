"""What each hot call costs as runs and metrics grow, and what Postgres reads for it."""

from __future__ import annotations

import hashlib
import math
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from bench import client, load
from bench.client import Question
from bench.effort import Effort
from bench.latency import Summary
from bench.metadata import API, make_metrics, post
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers

OK = 200
LARGE, SMALL, MADE = "9201", "9202", "9203"  # experiments: one grows, one has 100 runs, in one runs are made
SMALL_RUNS = 100
KEYS = 5  # metrics, parameters and tags of a run
RUN = "ffffffffffffffffffffffffffffffff"  # is logged to
PREPARE = f"""
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time)
    SELECT id, 'growth ' || id, 'mlflow-artifacts:/' || id, 'active', 1, 1
    FROM unnest(ARRAY[{LARGE}, {SMALL}, {MADE}]) AS id;
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
        source_version, lifecycle_stage, artifact_uri, experiment_id)
    VALUES ('{RUN}', 'logged', 'UNKNOWN', '', '', 'u', 'RUNNING', 0, '', 'active', 'mlflow-artifacts:/x', {LARGE});
    INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source)
    VALUES ('data', {LARGE}, 'data', 'digest', 'local', 'file');
"""
# Runs from :first to :last with :steps values of each metric. (The rows are right: to have each one's run looked up
# takes half of the time.)
FILL = f"""
    SET session_replication_role = replica;
    CREATE TEMP TABLE made AS SELECT n, md5('growth ' || n) AS id FROM generate_series(:first, :last) AS n;
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
        end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT id, 'run ' || n, 'UNKNOWN', '', '', 'u', 'FINISHED', n, n + 1, '', 'active',
        'mlflow-artifacts:/{LARGE}/' || id || '/artifacts', CASE WHEN n <= {SMALL_RUNS} THEN {SMALL} ELSE {LARGE} END
    FROM made;
    INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
    SELECT id, 'metric ' || k, random(), n::bigint * 10000 + step, step, false
    FROM generate_series(1, {KEYS}) AS k, made, generate_series(1, :steps) AS step ORDER BY n, step;
    INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
    SELECT id, 'metric ' || k, random(), n::bigint * 10000 + :steps, :steps, false
    FROM made, generate_series(1, {KEYS}) AS k;
    INSERT INTO params (run_uuid, key, value)
    SELECT id, 'param ' || k, (n % 100)::text FROM made, generate_series(1, {KEYS}) AS k;
    INSERT INTO tags (run_uuid, key, value) SELECT id, 'tag ' || k, 'value' FROM made, generate_series(1, {KEYS}) AS k;
    INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id)
    SELECT md5('growth input ' || n), 'DATASET', 'data', 'RUN', id FROM made
    UNION ALL SELECT md5('growth output ' || n), 'RUN_OUTPUT', id, 'MODEL_OUTPUT', 'm-' || id FROM made;
    ANALYZE;
    CHECKPOINT;
"""
NEWEST = ["attributes.start_time DESC"]  # as MLflow's page asks
BEST = ["metrics.`metric 1` DESC"]
FILTER = "metrics.`metric 1` > 0.5 AND params.`param 1` = '3'"
FIRST = hashlib.md5(b"growth 1", usedforsecurity=False).hexdigest()


def search(experiment: str, **fields: Any) -> Question:
    """Return the question for a hundred runs."""
    return post("runs/search", experiment_ids=[experiment], max_results=100, **fields)


QUESTIONS = {
    "experiments/get": Question(f"{API}experiments/get?experiment_id={LARGE}"),
    "runs/get": Question(f"{API}runs/get?run_id={FIRST}"),
    "runs/create": post("runs/create", experiment_id=MADE, start_time=0, run_name="made", user_id="u"),
    "runs/update": post("runs/update", run_id=RUN, status="RUNNING", end_time="%N%"),
    "log-metric": post("runs/log-metric", run_id=RUN, key="metric 1", value=1.5, timestamp="%N%", step=1),
    "log-batch, 10 keys, 10 steps": post("runs/log-batch", run_id=RUN, metrics=make_metrics(10, 10)),
    "get-history, one metric": Question(f"{API}metrics/get-history?run_id={FIRST}&metric_key=metric%201"),
    "history for a chart": Question(
        f"{API}metrics/get-history-bulk-interval?run_ids={FIRST}&metric_key=metric%201&max_results=320"
    ),
    "search: newest, MLflow's page": search(LARGE, order_by=NEWEST),
    "search: newest, search_runs": search(LARGE),
    "search: best by a metric": search(LARGE, order_by=BEST),
    "search: filtered, newest": search(LARGE, order_by=NEWEST, filter=FILTER),
    "search: small experiment, newest": search(SMALL, order_by=NEWEST),
    "search: small experiment, filtered": search(SMALL, order_by=NEWEST, filter=FILTER),
}
ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)
SCAN = re.compile(r"(Seq|Index|Index Only|Bitmap Index) Scan(?: Backward)?(?: using (\w+))? on (\w+)")
# n log n, between the last two sizes, is a power of the number of runs of little more than 1; noise is some more.
MOST_POWER = 1.25


@dataclass(frozen=True)
class Size:
    """How much there is."""

    runs: int
    metrics: int


@dataclass(frozen=True)
class Answered:
    """One question at one size: the times, and the indexes (or whole tables) that its statements read."""

    times: Summary
    scans: list[str]


@dataclass(frozen=True)
class Growth:
    """What was found: for each size the question's answers. `filling` is seconds, `bytes` of the database, by size."""

    machine: Machine
    sizes: list[Size]
    figures: list[dict[str, Answered]]
    bytes: list[int]
    filling: list[float]

    def compare(self) -> list[Comparison]:
        """Return with which power of the number of runs each call's time grows, between the last two sizes."""
        before, after = self.figures[-2:]
        times = self.sizes[-1].runs / self.sizes[-2].runs
        return [
            Comparison(
                f"power {name}",
                f"{name}: grows as runs to the power of",
                math.log(after[name].times.p50 / before[name].times.p50) / math.log(times),
                "",
                "≤",
                MOST_POWER,
            )
            for name in QUESTIONS
        ]

    def to_text(self) -> str:
        """Return the tables."""
        head = [f"{size.runs:,} runs, {size.metrics / 1e6:g} M" for size in self.sizes]
        times = [[name, *(f"{found[name].times.p50:.2f}" for found in self.figures)] for name in QUESTIONS]
        scans = [f"{name}: {', '.join(dict.fromkeys(self.figures[-1][name].scans))}" for name in QUESTIONS]
        totals = [
            ["database, GB", *(f"{size / 1e9:.2f}" for size in self.bytes)],
            ["filled in, s", *(f"{seconds:.0f}" for seconds in self.filling)],
        ]
        return "\n\n".join(
            [
                render(["one client: p50 ms", *head], times + totals),
                "\n".join(["What Postgres reads at the largest size:", *scans]),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()]
        return {"growth": {**asdict(self), "comparisons": comparisons}}


def run_sql(servers: Servers, sql: str, **numbers: int) -> str:
    """Run statements as Postgres's superuser; return what they print."""
    options = [f"--set={name}={value}" for name, value in numbers.items()]
    command = ["docker", "compose", "exec", "-T", "postgres", "psql", "-qAtd", "mlflow", "-v", "ON_ERROR_STOP=1"]
    result = servers.deployment.execute(*command, *options, stdin=sql, timeout=1800)
    if result.returncode != 0:
        raise load.LoadError(f"Postgres: {result.stderr.strip()}")
    return result.stdout


def explain(servers: Servers, question: Question) -> list[str]:
    """Ask once; return what Postgres read, by its own log. Raises LoadError."""
    since = str(time.time())
    connection = client.connect(servers.url)
    status, _ = client.ask(connection, client.make_header(servers.login), question)
    connection.close()
    if status != OK:
        raise load.LoadError(f"{question.path}: answered {status}")
    name = f"{servers.deployment.name}-postgres-1"
    logged = servers.deployment.execute("docker", "logs", "--since", since, name)
    # (the login's database, which is looked up every two seconds, is no part of the question)
    entries = [entry for entry in ENTRY.split(logged.stdout + logged.stderr) if "mlflow@mlflow" in entry]
    return [
        f"all of {place}" if kind == "Seq" else index or place for kind, index, place in SCAN.findall("".join(entries))
    ]


def ask_all(servers: Servers, chosen: Effort) -> dict[str, Answered]:
    """Ask every question for a while, then once with the plans logged. Raises LoadError."""
    times: dict[str, Summary] = {}
    for name, question in QUESTIONS.items():
        client.measure(servers.url, servers.login, 0.5, question)
        sample = client.measure(servers.url, servers.login, chosen.round_seconds, question)
        if set(sample.statuses) != {OK}:
            raise load.LoadError(f"{name}: answers other than 200: {dict(sample.statuses)}")
        times[name] = sample.summarize()
    run_sql(servers, "ALTER SYSTEM SET auto_explain.log_min_duration = 0; SELECT pg_reload_conf();")
    try:
        return {name: Answered(times[name], explain(servers, question)) for name, question in QUESTIONS.items()}
    finally:
        run_sql(servers, "ALTER SYSTEM SET auto_explain.log_min_duration = -1; SELECT pg_reload_conf();")


def measure(_place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Growth:
    """Fill the database in steps, and ask at each. Raises LoadError."""
    run_sql(servers, PREPARE)
    run_sql(servers, "ALTER SYSTEM SET session_preload_libraries = 'auto_explain';")
    servers.restart_database()
    found = Growth(machine, [], [], [], [])
    done = Size(0, 0)
    for size in (Size(*pair) for pair in chosen.growth):
        begun = time.monotonic()
        steps = (size.metrics - done.metrics) // (size.runs - done.runs) // KEYS
        run_sql(servers, FILL, first=done.runs + 1, last=size.runs, steps=steps)
        found.filling.append(time.monotonic() - begun)
        found.sizes.append(size)
        found.figures.append(ask_all(servers, chosen))
        found.bytes.append(int(run_sql(servers, "SELECT pg_database_size('mlflow')")))
        done = size
        print(f"    {size.runs:,} runs", file=sys.stderr, flush=True)
    return found
