"""What users of MLflow's own client wait for: this stack with and without its fast path, beside stock MLflow."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import usage
from bench.client import Login
from bench.effort import Effort
from bench.latency import find_percentile
from bench.metadata import TITLES, fill
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers
from bench.usage import Usage

SETTLE_SECONDS = 15
ROUNDS = 5
# What each task is called, and how often it is done (Effort.client_divisor).
TASKS = {
    "script": ("the article's script, register_model", 3),
    "log_metric": ("log_metric, in a loop of 1,000", 1000),
    "log_metrics": ("log_metrics of 50 keys, 100 steps", 100),
    "log_batch": ("log_batch of 100 metrics", 100),
    "autolog": ("autolog of a forest of 100 trees", 3),
    "search_runs": ("search_runs, 1,000 of 2,000", 20),
}
GOALS = {"log_metric": 3, "log_batch": 4, "search_runs": 4}
IDLE_GOAL = 600  # MB
SLOW_DIVISOR = 25  # stock MLflow with a login needs half a second for each request
# The first of each is the one that clients reach.
SERVICES = {
    "fast": ("nginx", "mlflow", "postgres", "objectstore"),
    "replay": ("replay-nginx", "replay-mlflow", "postgres", "objectstore"),
    "stock_open": ("stock-open", "stock-postgres"),
    "stock_login": ("stock-login", "stock-postgres"),
}
SHARED = {"postgres", "objectstore", "stock-postgres"}  # by two of them


class ClientError(Exception):
    """The client ended before it was done."""


@dataclass(frozen=True)
class Done:
    """One task with one server.

    Attributes:
        p50: milliseconds of a call.
        seconds: of all calls together.
        calls: how many.
        client: milliseconds of CPU that the client's own process took for a call, with its children.
        services: the same of each of the server's containers.
    """

    p50: float
    seconds: float
    calls: int
    client: float
    services: dict[str, float]


@dataclass(frozen=True)
class Toured:
    """What was found.

    Attributes:
        machine: where.
        done: by server (TITLES) and task (TASKS).
        idle, after: by server and service, before anybody asked for anything, and after all tasks.
    """

    machine: Machine
    done: dict[str, dict[str, Done]]
    idle: dict[str, dict[str, Usage]]
    after: dict[str, dict[str, Usage]]

    def compare(self) -> list[Comparison]:
        """Return the figures that the project promises, and the most that a server could reach with this client."""
        fast, stock = self.done["fast"], self.done["stock_open"]
        found = []
        for task, (title, _) in TASKS.items():
            ratio = stock[task].p50 / fast[task].p50
            goal = GOALS.get(task)
            name = f"{title}: beside stock MLflow"
            found.append(Comparison(task, name, ratio, "x", "≥", goal) if goal else Comparison(task, name, ratio))
        found += [
            Comparison(
                f"most {task}",
                f"{TASKS[task][0]}: the same if the server took no time",
                stock[task].p50 / fast[task].client,
            )
            for task in GOALS
        ]
        memory = sum(seen.memory for seen in self.idle["fast"].values())
        found.append(Comparison("idle", "idle memory without serving", memory, "MB", "≤", IDLE_GOAL))
        more = sum(seen.memory for seen in self.idle["stock_open"].values()) / memory
        found.append(Comparison("idle_stock", "idle memory of stock MLflow and its Postgres beside it", more))
        return found

    def to_text(self) -> str:
        """Return the tables."""
        calls = [
            [
                title,
                *(f"{self.done[server][task].p50:.1f}" for server in TITLES),
                f"{self.done['fast'][task].client:.1f}",
            ]
            for task, (title, _) in TASKS.items()
        ]
        totals = [
            [title, *(f"{d.seconds:.1f} s / {d.calls}" for d in (self.done[s][task] for s in TITLES))]
            for task, (title, _) in TASKS.items()
        ]
        return "\n\n".join(
            [
                render(["a call: p50 ms", *TITLES.values(), "its client's CPU"], calls),
                render(["all calls: seconds / calls", *TITLES.values()], totals),
                *(self.render_cpu(server) for server in ("fast", "stock_open")),
                self.render_memory(),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def render_cpu(self, server: str) -> str:
        """Return the table of the CPU that a call takes."""
        rows = [
            [title, f"{done.client:.1f}", *(f"{value:.1f}" for value in done.services.values())]
            for task, (title, _) in TASKS.items()
            for done in [self.done[server][task]]
        ]
        return render([f"{TITLES[server]}: CPU ms of a call", "client", *SERVICES[server]], rows)

    def render_memory(self) -> str:
        """Return the table of anonymous memory."""
        rows = [
            [f"{TITLES[server]}: {service}", f"{seen.memory:.0f}", f"{self.after[server][service].memory:.0f}"]
            for server in ("fast", "stock_open")
            for service, seen in self.idle[server].items()
        ]
        return render(["anonymous memory, MB", "idle", "after all calls"], rows)

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()]
        return {"clients": {**asdict(self), "comparisons": comparisons}}

    def plot(self, file: Path) -> None:
        """Draw what a call takes."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axis = plt.subplots(figsize=(10, 5.2), layout="constrained")
        height = 0.8 / (len(TITLES) + 1)
        bars = {title: [self.done[server][task].p50 for task in TASKS] for server, title in TITLES.items()}
        bars["the client's own CPU"] = [self.done["fast"][task].client for task in TASKS]
        for number, (title, values) in enumerate(bars.items()):
            places = [index + number * height for index in range(len(values))]
            labels = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values]  # noqa: PLR2004 (digits)
            axis.bar_label(axis.barh(places, values, height, label=title), labels, padding=3, fontsize="x-small")
        axis.set_yticks([index + 0.4 - height / 2 for index in range(len(TASKS))], [t for t, _ in TASKS.values()])
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set(xscale="log", xlabel="milliseconds of a call, p50: less is better")
        axis.grid(axis="x", which="major", alpha=0.3)
        axis.legend(fontsize="small")
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)


def summarize(milliseconds: Sequence[float], cpu: float, services: dict[str, float]) -> Done:
    """Return a task's figures; CPU is in seconds of all calls."""
    count = len(milliseconds)
    return Done(
        p50=find_percentile(milliseconds, 50),
        seconds=sum(milliseconds) / 1000,
        calls=count,
        client=cpu * 1000 / count,
        services={service: seconds * 1000 / count for service, seconds in services.items()},
    )


class User:
    """One server's user: bench/user.py in a process of its own."""

    def __init__(self, login: Login, url: str, log: Path) -> None:
        """Start it; `log` has what it says beside its answers."""
        self.log = log
        name, password = login
        variables = {"URI": url, "USERNAME": name, "PASSWORD": password}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.user"],
                env={**os.environ, **{f"MLFLOW_TRACKING_{key}": value for key, value in variables.items()}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.ask("log_metric", 1)

    def ask(self, task: str, count: int) -> tuple[list[float], float]:
        """Have a task done that often. Returns milliseconds of each, and CPU seconds. Raises ClientError."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([task, count]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise ClientError(f"the client ended in '{task}':\n{self.log.read_text()[-4000:]}")
        milliseconds, cpu = json.loads(line)
        return milliseconds, cpu

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def start(servers: Servers) -> dict[str, str]:
    """Start all four, beside this stack that is up. Returns their URLs."""
    others = [name for name in SERVICES if name != "fast"]
    servers.stop("serving", "follower")
    servers.start_stock_database()
    servers.start_others(*(s for name in others for s in reversed(SERVICES[name]) if s not in SHARED))
    return {"fast": servers.url} | {name: servers.start_others(SERVICES[name][0]) for name in others}


def read_usage(servers: Servers) -> dict[str, dict[str, Usage]]:
    """Return what each server's services take."""
    return {name: usage.read_all(servers.deployment.name, services) for name, services in SERVICES.items()}


def share(count: int, rounds: int) -> list[int]:
    """Return how often something is done in each round: one time at least in all."""
    return [max(1, count) * (number + 1) // rounds - max(1, count) * number // rounds for number in range(rounds)]


def take_turns(servers: Servers, users: dict[str, User], task: str, count: int) -> dict[str, Done]:
    """Have a task done by all by turns. Raises ClientError."""
    times: dict[str, list[float]] = {name: [] for name in users}
    clients: dict[str, float] = dict.fromkeys(users, 0.0)
    services = {name: dict.fromkeys(SERVICES[name], 0.0) for name in users}
    for number in range(ROUNDS):
        for name, user in users.items():
            mine = count // SLOW_DIVISOR if name == "stock_login" else count
            if not (calls := share(mine, ROUNDS)[number]):
                continue
            ask = functools.partial(user.ask, task, calls)
            (milliseconds, cpu), taken = usage.measure(servers.deployment.name, SERVICES[name], ask)
            times[name] += milliseconds
            clients[name] += cpu
            services[name] = {service: seconds + taken[service] for service, seconds in services[name].items()}
    return {name: summarize(times[name], clients[name], services[name]) for name in users}


def measure(place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Toured:
    """Have each task done with all four by turns, so that all see the same machine. Raises ClientError."""
    urls = start(servers)
    time.sleep(SETTLE_SECONDS)  # (stock MLflow starts its job runners after it has begun to answer)
    idle = read_usage(servers)
    for database in ("postgres", "stock-postgres"):
        fill(servers, database)
    done: dict[str, dict[str, Done]] = {name: {} for name in urls}
    with contextlib.ExitStack() as stack:
        users = {}
        for name, url in urls.items():
            users[name] = User(servers.login, url, place.scratch / f"{name}.log")
            stack.callback(users[name].close)
        # The first process of all reads its libraries from the disk.
        users["fast"].ask("script", 1)
        for task, (title, count) in TASKS.items():
            for name, found in take_turns(servers, users, task, count // chosen.client_divisor).items():
                done[name][task] = found
                print(f"    {title}: {TITLES[name]}: {found.p50:.1f} ms", file=sys.stderr, flush=True)
    toured = Toured(machine, done, idle, read_usage(servers))
    servers.stop("replay-nginx", "replay-mlflow", "stock-open", "stock-login", "stock-postgres")
    servers.deployment.compose("start", "serving", "follower")
    return toured
