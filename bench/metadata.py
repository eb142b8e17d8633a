"""What the hot path of metadata costs: this stack with and without its fast path, beside stock MLflow."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from bench import client, floors, load, usage
from bench.client import Question
from bench.effort import Effort
from bench.floors import Floors
from bench.latency import Summary
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers

OK = 200
SLOW_SECONDS = 20  # for a server that answers none of eight clients in the usual time
RUNS = 2000
EXPERIMENT, RUN = "9001", "b" * 32  # one run is logged to, the others are searched
FOUND = "c4ca4238a0b923820dcc509a6f75849b"  # one of the latter: md5 of 1
API = "/api/2.0/mlflow/"
JSON = {"Content-Type": "application/json"}
# The same in every server's database: runs with 5 metrics, 5 parameters and 4 tags.
FILL = f"""
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time)
    VALUES ({EXPERIMENT}, 'bench', 'mlflow-artifacts:/{EXPERIMENT}', 'active', 1, 1),
        (9002, 'bench 2', 'mlflow-artifacts:/9002', 'active', 1, 1)
    ON CONFLICT DO NOTHING;
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
        source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT id, 'run ' || n, 'UNKNOWN', '', '', 'u', 'FINISHED', n, '', 'active',
        'mlflow-artifacts:/{EXPERIMENT}/' || id || '/artifacts', experiment
    FROM (SELECT n, md5(n::text) AS id, {EXPERIMENT} AS experiment FROM generate_series(1, {RUNS}) AS n
        UNION ALL SELECT 0, '{RUN}', 9002) AS made
    ON CONFLICT DO NOTHING;
    INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
    SELECT md5(n::text), 'metric ' || k, random(), 1, 1, false
    FROM generate_series(1, {RUNS}) AS n, generate_series(1, 5) AS k
    ON CONFLICT DO NOTHING;
    INSERT INTO params (run_uuid, key, value)
    SELECT md5(n::text), 'param ' || k, (n % 7)::text FROM generate_series(1, {RUNS}) AS n, generate_series(1, 5) AS k
    ON CONFLICT DO NOTHING;
    INSERT INTO tags (run_uuid, key, value)
    SELECT md5(n::text), 'tag ' || k, 'value' FROM generate_series(1, {RUNS}) AS n, generate_series(1, 4) AS k
    ON CONFLICT DO NOTHING;
    ANALYZE;
"""


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
    "runs/get": Question(f"{API}runs/get?run_id={FOUND}"),
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
TEN_TIMES = {"experiments/get", "runs/get"}  # stock MLflow's
TITLES = {
    "fast": "this stack",
    "replay": "without its fast path",
    "stock_open": "stock MLflow",
    "stock_login": "stock MLflow, basic-auth",
}
SERVICES = {
    "fast": ("nginx", "mlflow", "postgres"),
    "replay": ("replay-nginx", "replay-mlflow", "postgres"),
    "stock_open": ("stock-open", "stock-postgres"),
    "stock_login": ("stock-login", "stock-postgres"),
}


@dataclass(frozen=True)
class Figures:
    """One question to one server.

    Attributes:
        one, eight: what so many clients saw.
        cpu: milliseconds of CPU that a request of the eight took of each service.
    """

    one: Summary
    eight: Summary
    cpu: dict[str, float]


@dataclass(frozen=True)
class Asked:
    """What was found: by server (TITLES) and question (QUESTIONS)."""

    machine: Machine
    figures: dict[str, dict[str, Figures]]
    floors: Floors

    def compare(self) -> list[Comparison]:
        """Return the figures that the project promises."""
        fast, stock = self.figures["fast"], self.figures["stock_open"]
        rates = [
            Comparison(f"rate {name}", f"{name}, req/s, 8 clients", fast[name].eight.per_second, "", "≥", goal)
            for name, goal in GOALS.items()
        ]
        more = [
            Comparison(
                f"more {name}",
                f"{name} beside stock MLflow",
                fast[name].eight.per_second / stock[name].eight.per_second,
                "x",
                "≥" if name in TEN_TIMES else "",
                10,
            )
            for name in GOALS
        ]
        gets = fast["experiments/get"].eight.per_second
        return [
            Comparison("p50 get", "experiments/get, one client, p50", fast["experiments/get"].one.p50, "ms", "≤", 1.5),
            Comparison("p50 log", "log-metric, one client, p50", fast["log-metric"].one.p50, "ms", "≤", 2.5),
            *rates,
            *more,
            Comparison(
                "more than login",
                "experiments/get beside stock MLflow, basic-auth",
                gets / self.figures["stock_login"]["experiments/get"].eight.per_second,
                "x",
                "≥",
                100,
            ),
        ]

    def to_text(self) -> str:
        """Return the tables."""
        ones = [[q, *(f"{self.figures[s][q].one.p50:.2f}" for s in TITLES)] for q in QUESTIONS]
        eights = [[q, *(f"{self.figures[s][q].eight.per_second:.0f}" for s in TITLES)] for q in QUESTIONS]
        return "\n\n".join(
            [
                render(["one client: p50 ms", *TITLES.values()], ones),
                render(["eight clients: req/s", *TITLES.values()], eights),
                *(self.render_cpu(server) for server in ("fast", "stock_open")),
                self.floors.to_text({q: figures.eight.per_second for q, figures in self.figures["fast"].items()}),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def render_cpu(self, server: str) -> str:
        """Return the table of the CPU that a request takes."""
        rows = [[q, *(f"{self.figures[server][q].cpu[s]:.2f}" for s in SERVICES[server])] for q in QUESTIONS]
        return render([f"{TITLES[server]}: CPU ms of a request", *SERVICES[server]], rows)

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()]
        return {"metadata": {**asdict(self), "comparisons": comparisons}}


def fill(servers: Servers, service: str) -> None:
    """Write the runs that are searched into a database, unless they are there."""
    servers.deployment.compose("exec", "-T", service, "psql", "-qd", "mlflow", "-v", "ON_ERROR_STOP=1", "-c", FILL)


def ask_all(place: Settings, servers: Servers, server: str, url: str, chosen: Effort) -> dict[str, Figures]:
    """Ask one server every question. Raises LoadError."""
    found: dict[str, Figures] = {}
    login = servers.login
    for name, question in QUESTIONS.items():
        client.measure(url, login, 1, question)
        one = client.measure(url, login, chosen.round_seconds, question)
        if set(one.statuses) != {OK}:
            raise load.LoadError(f"{url}: {name}: answers other than 200: {dict(one.statuses)}")

        def ask_eight(seconds: int, question: Question = question) -> tuple[Summary, dict[str, float]]:
            ask = functools.partial(load.measure, url, login, seconds, place.scratch, question)
            return usage.measure(servers.deployment.name, SERVICES[server], ask)

        try:
            eight, cpu = ask_eight(chosen.load_seconds)
        except load.SlowError:
            eight, cpu = ask_eight(SLOW_SECONDS)
        shares = {service: seconds * 1000 / eight.requests for service, seconds in cpu.items()}
        found[name] = Figures(one.summarize(), eight, shares)
        shown = f"{found[name].one.p50:.2f} ms, {eight.per_second:.0f} req/s"
        print(f"    {TITLES[server]}: {name}: {shown}", file=sys.stderr, flush=True)
    return found


def measure(place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Asked:
    """Measure all four, one after the other, then start this stack again. Raises LoadError."""
    fill(servers, "postgres")
    figures = {"fast": ask_all(place, servers, "fast", servers.url, chosen)}
    found = floors.measure(place, servers, chosen, floors.write_statements(EXPERIMENT, RUN, FOUND))
    replay = servers.start_others("replay-mlflow", "replay-nginx")
    figures["replay"] = ask_all(place, servers, "replay", replay, chosen)
    servers.stop("replay-nginx", "replay-mlflow", "nginx", "mlflow", "objectstore", "postgres", "serving", "follower")
    servers.start_stock_database()
    fill(servers, "stock-postgres")
    for name, service in (("stock_open", "stock-open"), ("stock_login", "stock-login")):
        figures[name] = ask_all(place, servers, name, servers.start_others(service), chosen)
        servers.stop(service)
    servers.stop("stock-postgres")
    servers.start()
    return Asked(machine, figures, found)
