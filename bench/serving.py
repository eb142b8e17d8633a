"""What a prediction costs: this stack beside MLflow's own server of one model, and how soon it follows the alias."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import client, load
from bench.client import Question
from bench.effort import Effort
from bench.latency import Sample
from bench.report import Comparison, Machine, Server, render, to_cells
from bench.settings import Settings
from bench.stacks import Servers
from stack.deployment import wait_until

MODEL = "Wine_Elasticnet_Sklearn_Regressor"
MOVES = 6
DATA = Path(__file__).parents[1] / "trainer/data/winequality-red.csv"
OK = 200
TITLES = {"stack": "this stack: gateway, login, rights", "stock": "mlflow models serve"}
MEGA = {"MiB": 2**20 / 1e6, "GiB": 2**30 / 1e6, "KiB": 2**10 / 1e6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


class ServingError(Exception):
    """The model was not served."""


def make_question(path: str) -> Question:
    """Return the question for one row of the wine data."""
    lines = DATA.read_text().splitlines()
    head, row = (line.replace('"', "").split(";")[:-1] for line in lines[:2])
    body = {"dataframe_split": {"columns": head, "data": [[float(value) for value in row]]}}
    return Question(path, json.dumps(body), {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Predicted:
    """What was found.

    Attributes:
        machine: where.
        stack, stock: one client, then eight.
        moves: seconds from moving the alias to the first answer of the new version.
        memory: MB that the container takes with one model, before anybody asks it.
    """

    machine: Machine
    stack: Server
    stock: Server
    moves: tuple[float, ...]
    memory: float

    def compare(self) -> list[Comparison]:
        """Return the figures that the project promises."""
        stack, stock = self.stack, self.stock
        more = stack.eight.per_second / stock.eight.per_second
        return [
            Comparison("row_p50", "one row through gateway and login, p50", stack.one.p50, "ms", "≤", 3),
            Comparison("rows_per_second", "req/s, 8 clients", stack.eight.per_second, "", "≥", 500),
            Comparison("more_than_serve", "req/s beside mlflow models serve, 8 clients", more, "x", "≥", 5),
            Comparison("faster_than_serve", "p50 beside mlflow models serve", stock.one.p50 / stack.one.p50),
            Comparison("alias_move", "alias move to the first new answer, the worst", max(self.moves), "s", "≤", 5),
            Comparison("idle_memory", "memory of serving with one model, idle", self.memory, "MB", "≤", 300),
        ]

    def to_text(self) -> str:
        """Return the tables."""
        rows = [[s.title, *to_cells(s.one), *to_cells(s.eight)] for s in (self.stack, self.stock)]
        return "\n\n".join(
            [
                render(
                    ["predictions of one row", "1: p50 ms", "p99 ms", "req/s", "8: p50 ms", "p99 ms", "req/s"], rows
                ),
                "seconds from moving the alias to the first answer: " + ", ".join(f"{s:.1f}" for s in self.moves),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()]
        return {"serving": {**asdict(self), "comparisons": comparisons}}


def measure(place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Predicted:
    """Measure both servers by turns, then the alias. Raises LoadError, ServingError."""
    servers.deployment.compose("run", "--rm", "--no-deps", "-T", "trainer", "bootstrap")
    urls = {"stack": servers.url, "stock": ""}
    questions = {"stack": make_question(f"/serve/{MODEL}/invocations"), "stock": make_question("/invocations")}
    wait_until(lambda: is_answered(servers.url, servers.login, questions["stack"]), f"{MODEL} is served", 60)
    time.sleep(5)
    memory = read_memory(servers.deployment.container("serving")["Id"])
    servers.deployment.compose("up", "--detach", "--no-build", "--no-deps", "stock-serving")
    urls["stock"] = "http://" + servers.deployment.compose("port", "stock-serving", "5000").strip()
    wait_until(lambda: is_answered(urls["stock"], servers.login, questions["stock"]), "mlflow models serve answers", 90)
    samples = {name: Sample() for name in urls}
    for name, url in urls.items():
        measure_one(url, servers.login, 1, questions[name])
    for _ in range(chosen.rounds):
        for name, url in urls.items():
            samples[name].add(measure_one(url, servers.login, chosen.round_seconds, questions[name]))
    found = {
        name: Server(
            name,
            TITLES[name],
            samples[name].summarize(),
            load.measure(url, servers.login, chosen.load_seconds, place.scratch, questions[name]),
        )
        for name, url in urls.items()
    }
    servers.stop("stock-serving")
    moves = tuple(move(servers, questions["stack"], "12"[number % 2]) for number in range(MOVES))
    return Predicted(machine, found["stack"], found["stock"], moves, memory)


def measure_one(url: str, login: client.Login, seconds: float, question: Question) -> Sample:
    """Measure one client. Raises ServingError if it is refused."""
    sample = client.measure(url, login, seconds, question)
    if set(sample.statuses) != {OK}:
        raise ServingError(f"{url}: answers other than 200: {dict(sample.statuses)}")
    return sample


def is_answered(url: str, login: client.Login, question: Question) -> bool:
    """Return whether a server predicts."""
    try:
        return client.ask(client.connect(url), client.make_header(login), question)[0] == OK
    except (OSError, http.client.HTTPException):
        return False


def read_version(connection: http.client.HTTPConnection, login: client.Login, question: Question) -> str:
    """Return which version answers."""
    headers = {"Authorization": client.make_header(login), **question.headers}
    connection.request("POST", question.path, question.body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.headers.get("X-Model-Version", "")


def move(servers: Servers, question: Question, version: str) -> float:
    """Move the alias; return after how many seconds the first answer of that version came. Raises ServingError."""
    connection = client.connect(servers.url)
    body = json.dumps({"name": MODEL, "alias": "production", "version": version})
    headers = {"Authorization": client.make_header(servers.login), "Content-Type": "application/json"}
    connection.request("POST", "/api/2.0/mlflow/registered-models/alias", body, headers)
    connection.getresponse().read()
    begun = time.monotonic()
    while read_version(connection, servers.login, question) != version:
        if time.monotonic() - begun > client.TIMEOUT_SECONDS:
            raise ServingError(f"version {version} is not served within {client.TIMEOUT_SECONDS} s")
        time.sleep(0.02)
    taken = time.monotonic() - begun
    time.sleep(4)  # (the former process has ended by then)
    return taken


def read_memory(container: str) -> float:
    """Return what a container takes, MB, as `docker stats` shows it."""
    command = ["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" / ")[0]
    unit = shown.lstrip("0123456789.")
    return float(shown.removesuffix(unit)) * MEGA[unit]
