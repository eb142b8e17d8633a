"""What the hot path of metadata costs: this stack with and without its fast path, beside stock MLflow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from bench import client, load
from bench.client import Question
from bench.effort import Effort
from bench.latency import Summary
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers

OK = 200
RUNS = 2000
EXPERIMENT, RUN = "9001", "b" * 32  # one run is logged to, the others are searched
API = "/api/2.0/mlflow/"
JSON = {"Content-Type": "application/json"}
# The same in every server's database: runs with 5 metrics, 5 parameters and 4 tags.
FILL = f"""
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time)
    VALUES ({EXPERIMENT}, 'bench', 'mlflow-artifacts:/{EXPERIMENT}', 'active', 1, 1),
        (9002, 'bench 2', 'mlflow-artifacts:/9002', 'active', 1, 1);
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
        source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT id, 'run ' || n, 'UNKNOWN', '', '', 'u', 'FINISHED', n, '', 'active',
        'mlflow-artifacts:/{EXPERIMENT}/' || id || '/artifacts', experiment
    FROM (SELECT n, md5(n::text) AS id, {EXPERIMENT} AS experiment FROM generate_series(1, {RUNS}) AS n
        UNION ALL SELECT 0, '{RUN}', 9002) AS made;
    INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
    SELECT md5(n::text), 'metric ' || k, random(), 1, 1, false
    FROM generate_series(1, {RUNS}) AS n, generate_series(1, 5) AS k;
    INSERT INTO params (run_uuid, key, value)
    SELECT md5(n::text), 'param ' || k, (n % 7)::text FROM generate_series(1, {RUNS}) AS n, generate_series(1, 5) AS k;
    INSERT INTO tags (run_uuid, key, value)
    SELECT md5(n::text), 'tag ' || k, 'value' FROM generate_series(1, {RUNS}) AS n, generate_series(1, 4) AS k;
    ANALYZE;
"""  # noqa: S608 (constants)


def post(path: str, **fields: Any) -> Question:
    """Return a question whose body is JSON; the text "%N%" in it stands for a number."""
    return Question(API + path, json.dumps(fields).replace('"%N%"', "%N%"), JSON)


def make_metrics(keys: int, steps: int) -> list[dict[str, Any]]:
    """Return metrics of a batch, new ones each time."""
    return [
        {"key": f"k{key}", "value": key + step / 10, "timestamp": "%N%", "step": step}
        for key in range(keys)
        for step in range(steps)
    ]


SEARCH = {"experiment_ids": [EXPERIMENT], "max_results": 100, "order_by": ["attributes.start_time DESC"]}
FILTER = "metrics.`metric 1` > 0.5 AND params.`param 1` = '3'"
QUESTIONS = {
    "experiments/get": Question(f"{API}experiments/get?experiment_id={EXPERIMENT}"),
    "runs/get": Question(f"{API}runs/get?run_id={'c4ca4238a0b923820dcc509a6f75849b'}"),  # md5 of 1
    "log-metric": post("runs/log-metric", run_id=RUN, key="m", value=1.5, timestamp="%N%", step=1),
    "log-batch, 100 keys": post("runs/log-batch", run_id=RUN, metrics=make_metrics(100, 1)),
    "log-batch, 10 keys, 10 steps": post("runs/log-batch", run_id=RUN, metrics=make_metrics(10, 10)),
    "runs/create": post("runs/create", experiment_id="9002", start_time="%N%", run_name="made", user_id="u"),
    "runs/update": post("runs/update", run_id=RUN, status="RUNNING", end_time="%N%"),
    "search, 100 of 2,000": post("runs/search", **SEARCH),
    "search, filtered": post("runs/search", **SEARCH, filter=FILTER),
}
# Requests a second of eight clients.
GOALS = {
    "experiments/get": 1500,
    "runs/get": 1500,
    "log-metric": 1000,
    "log-batch, 100 keys": 150,
    "log-batch, 10 keys, 10 steps": 300,
    "runs/create": 800,
    "runs/update": 1200,
    "search, 100 of 2,000": 80,
    "search, filtered": 50,
}
TITLES = {
    "fast": "this stack",
    "replay": "without its fast path",
    "stock_open": "stock MLflow",
    "stock_login": "stock MLflow, basic-auth",
}
Figures = tuple[Summary, Summary]  # of one client, of eight


@dataclass(frozen=True)
class Asked:
    """What was found: by server (TITLES) and question (QUESTIONS)."""

    machine: Machine
    figures: dict[str, dict[str, Figures]]

    def compare(self) -> list[Comparison]:
        """Return the figures that the project promises."""
        fast, stock = self.figures["fast"], self.figures["stock_open"]
        rates = [
            Comparison(f"rate {name}", f"{name}, req/s, 8 clients", fast[name][1].per_second, "", "≥", goal)
            for name, goal in GOALS.items()
        ]
        more = [
            Comparison(
                f"more {name}", f"{name} beside stock MLflow", fast[name][1].per_second / stock[name][1].per_second
            )
            for name in GOALS
        ]
        gets = fast["experiments/get"][1].per_second
        return [
            Comparison("p50 get", "experiments/get, one client, p50", fast["experiments/get"][0].p50, "ms", "≤", 1.5),
            Comparison("p50 log", "log-metric, one client, p50", fast["log-metric"][0].p50, "ms", "≤", 2.5),
            *rates,
            *more,
            Comparison(
                "more than login",
                "experiments/get beside stock MLflow, basic-auth",
                gets / self.figures["stock_login"]["experiments/get"][1].per_second,
                "x",
                "≥",
                100,
            ),
        ]

    def to_text(self) -> str:
        """Return the tables."""
        ones = [[q, *(f"{self.figures[s][q][0].p50:.2f}" for s in TITLES)] for q in QUESTIONS]
        eights = [[q, *(f"{self.figures[s][q][1].per_second:.0f}" for s in TITLES)] for q in QUESTIONS]
        return "\n\n".join(
            [
                render(["one client: p50 ms", *TITLES.values()], ones),
                render(["eight clients: req/s", *TITLES.values()], eights),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()]
        return {"metadata": {**asdict(self), "comparisons": comparisons}}


def fill(servers: Servers, service: str) -> None:
    """Write the runs that are searched into a database."""
    servers.deployment.compose("exec", "-T", service, "psql", "-qd", "mlflow", "-v", "ON_ERROR_STOP=1", "-c", FILL)


def ask_all(place: Settings, url: str, login: client.Login, chosen: Effort) -> dict[str, Figures]:
    """Ask one server every question. Raises LoadError."""
    found: dict[str, Figures] = {}
    for name, question in QUESTIONS.items():
        client.measure(url, login, 1, question)
        one = client.measure(url, login, chosen.round_seconds, question)
        if set(one.statuses) != {OK}:
            raise load.LoadError(f"{url}: {name}: answers other than 200: {dict(one.statuses)}")
        found[name] = one.summarize(), load.measure(url, login, chosen.load_seconds, place.scratch, question)
    return found


def measure(place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Asked:
    """Measure all four, one after the other, then start this stack again. Raises LoadError."""
    fill(servers, "postgres")
    figures = {"fast": ask_all(place, servers.url, servers.login, chosen)}
    replay = servers.start_others("replay-mlflow", "replay-nginx")
    figures["replay"] = ask_all(place, replay, servers.login, chosen)
    servers.stop("replay-nginx", "replay-mlflow", "nginx", "mlflow", "objectstore", "postgres", "serving", "follower")
    servers.start_stock_database()
    fill(servers, "stock-postgres")
    for name, service in (("stock_open", "stock-open"), ("stock_login", "stock-login")):
        figures[name] = ask_all(place, servers.start_others(service), servers.login, chosen)
        servers.stop(service)
    servers.stop("stock-postgres")
    servers.start()
    return Asked(machine, figures)
