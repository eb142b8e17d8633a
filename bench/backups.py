"""What a backup and a restore take on a database of 1 GB and 5,000 objects, and what who works meanwhile notices."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import client, growth, load
from bench.effort import Effort
from bench.latency import Sample, Summary
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers
from stack.deployment import Deployment, wait_until

OK = 200
ARTIFACTS = f"/api/2.0/mlflow-artifacts/artifacts/{growth.LARGE}"
SMALL, PIECE = 20_000, 1_000_000  # bytes: of an object, and of what a large one is sent in
TURN = 0.5  # seconds that one question is asked for, before the next has its turn
IDLE_TURNS = 15
NEW_RUNS, NEW_OBJECTS = 100, 100  # between the full backup and the incremental one
# A commit is safe once its WAL file is archived; Postgres hands over one that isn't full every minute.
ARCHIVED = "SELECT coalesce(last_archived_wal, '') >= '{name}' FROM pg_stat_archiver"
RPO_SECONDS = 180.0
NOTICED = ("experiments/get", "runs/get", "log-metric", "search: newest, MLflow's page")


class BackupError(Exception):
    """A backup or a restore failed. The text is what it said."""


@dataclass
class Backups:
    """What was found.

    Attributes:
        machine: where.
        metrics: how many values of metrics there were.
        objects: how many objects, one of which is large.
        bytes: of the database, and of all objects.
        seconds: what took how long.
        idle: each question's times while nothing else went on.
        noticed: the same while the full backup was made.
        refused: how many requests were answered other than by 200 meanwhile.
        said: what each backup printed.
    """

    machine: Machine
    metrics: int = 0
    objects: int = 0
    bytes: tuple[int, int] = (0, 0)
    seconds: dict[str, float] = field(default_factory=dict)
    idle: dict[str, Summary] = field(default_factory=dict)
    noticed: dict[str, Summary] = field(default_factory=dict)
    refused: int = 0
    said: dict[str, str] = field(default_factory=dict)

    def compare(self) -> list[Comparison]:
        """Return what the project promises."""
        goals = {"full": 60, "incremental": 10, "restore": 120, "rows": 60, "object": 60}
        titles = {
            "full": "full backup",
            "incremental": "incremental backup",
            "restore": "restore into another stack, until it serves",
            "rows": "a committed row is in the archive after",
            "object": "a new object is among the backups after",
        }
        found = [Comparison(name, titles[name], self.seconds[name], "s", "≤", goal) for name, goal in goals.items()]
        return found + [
            Comparison(
                f"p99 {name}", f"{name}: p99 during a full backup", self.noticed[name].p99 / idle.p99, "x", "≤", 2
            )
            for name, idle in self.idle.items()
        ]

    def to_text(self) -> str:
        """Return the tables."""
        times = [
            [name, *(f"{value:.2f}" for s in (idle, self.noticed[name]) for value in (s.p50, s.p99))]
            for name, idle in self.idle.items()
        ]
        database, objects = (size / 1e9 for size in self.bytes)
        return "\n\n".join(
            [
                f"{self.metrics / 1e6:.1f} M values, {database:.2f} GB; {self.objects:,} objects, {objects:.2f} GB",
                *(f"{name}:\n{text.strip()}" for name, text in self.said.items()),
                render(["one client", "idle: p50 ms", "p99 ms", "backup: p50 ms", "p99 ms"], times)
                + f"\nanswered other than by 200 meanwhile: {self.refused}",
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()]
        return {"backup": {**asdict(self), "comparisons": comparisons}}


def upload(servers: Servers, name: str, size: int) -> None:
    """Store an object of random bytes by the gateway. Raises LoadError."""
    connection = client.connect(servers.url)
    headers = {"Authorization": client.make_header(servers.login), "Content-Length": str(size)}
    connection.request("PUT", f"{ARTIFACTS}/{name}", make_bytes(size), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != OK:
        raise load.LoadError(f"PUT of {name}: answered {answer.status}")


def make_bytes(size: int) -> Iterator[bytes]:
    """Yield so many, in pieces."""
    for start in range(0, size, PIECE):
        yield os.urandom(min(PIECE, size - start))


def notice(servers: Servers, is_over: Callable[[], bool]) -> tuple[dict[str, Summary], int]:
    """Ask the questions by turns until it is over. Returns the times, and how many answers were other than 200."""
    samples = {name: Sample() for name in NOTICED}
    while not is_over():
        for name, sample in samples.items():
            sample.add(client.measure(servers.url, servers.login, TURN, growth.QUESTIONS[name]))
    refused = sum(count for sample in samples.values() for status, count in sample.statuses.items() if status != OK)
    return {name: sample.summarize() for name, sample in samples.items()}, refused


def backup(servers: Servers, *options: str) -> tuple[str, float]:
    """Make a backup. Returns what it printed, and the seconds it took. Raises BackupError."""
    begun = time.monotonic()
    done = servers.deployment.run("backup", *options, timeout=1800)
    if done.returncode:
        raise BackupError(f"./stack backup {' '.join(options)}: {done.stderr.strip()}")
    return done.stdout, time.monotonic() - begun


def restore(servers: Servers, name: str, said: str) -> float:
    """Bring the newest set back into another stack; return the seconds until that answers. Raises BackupError."""
    chosen = said.split("./stack restore ")[1].split(maxsplit=1)[0]
    begun = time.monotonic()
    done = servers.deployment.run("restore", chosen, "--into", name, timeout=1800)
    if done.returncode:
        raise BackupError(f"./stack restore {chosen}: {done.stdout}\n{done.stderr.strip()}")
    commands = (done.stdout + done.stderr).split("Its commands: ")[1]
    settings = dict(word.split("=", 1) for word in commands.split() if "=" in word)
    other = Deployment(name, servers.deployment.root, int(settings["STACK_PORT"]), environment=settings)
    login = other.login()
    connection = client.connect(other.url)
    header = client.make_header((login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]))
    status, _ = client.ask(connection, header, growth.QUESTIONS["runs/get"])
    seconds = time.monotonic() - begun
    connection.close()
    other.run("destroy", "--yes")
    if status != OK:
        raise BackupError(f"the stack that was brought back answers {status}")
    return seconds


def wait_for_rows(servers: Servers) -> float:
    """Commit a row; return the seconds until its WAL is archived."""
    client.measure(servers.url, servers.login, 0.01, growth.QUESTIONS["log-metric"])
    name = growth.run_sql(servers, "SELECT pg_walfile_name(pg_current_wal_lsn())").strip()
    asked = ARCHIVED.format(name=name)
    return wait_until(lambda: growth.run_sql(servers, asked).strip() == "t", "WAL is archived", RPO_SECONDS)


def wait_for_object(servers: Servers) -> float:
    """Store an object; return the seconds until a copy of it is among the backups."""
    before = count_copies(servers)
    upload(servers, "between/one.bin", SMALL)
    return wait_until(lambda: count_copies(servers) > before, "a new object is copied", RPO_SECONDS)


def count_copies(servers: Servers) -> int:
    """Return how many copies of objects there are among the backups."""
    found = servers.deployment.compose("exec", "-T", "backup", "find", "/backups/files/objects", "-type", "f")
    return len(found.splitlines())


def fill(servers: Servers, chosen: Effort, found: Backups) -> None:
    """Make the rows and the objects. Raises LoadError."""
    runs, steps, found.objects, large = chosen.backup
    growth.run_sql(servers, growth.PREPARE)
    growth.run_sql(servers, growth.FILL, first=1, last=runs, steps=steps)
    found.metrics = runs * steps * growth.KEYS
    for number in range(found.objects - 1):
        upload(servers, f"{number % 100}/{number}.bin", SMALL)
    upload(servers, "large.bin", large)
    size = int(growth.run_sql(servers, "SELECT pg_database_size('mlflow')"))
    found.bytes = size, (found.objects - 1) * SMALL + large


def measure(place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Backups:
    """Fill the stack, back it up, bring it back elsewhere. Raises LoadError, BackupError."""
    found = Backups(machine)
    fill(servers, chosen, found)
    tell("filled")
    turns = iter(range(IDLE_TURNS))
    found.idle, _ = notice(servers, lambda: next(turns, None) is None)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(backup, servers, "--full")
        found.noticed, found.refused = notice(servers, made.done)
        found.said["full backup, under load"], found.seconds["full under load"] = made.result()
    tell("backed up, while a client asked all along")
    found.said["full backup"], found.seconds["full"] = backup(servers, "--full")
    runs, steps, *_ = chosen.backup
    growth.run_sql(servers, growth.FILL, first=runs + 1, last=runs + NEW_RUNS, steps=steps)
    for number in range(NEW_OBJECTS):
        upload(servers, f"new/{number}.bin", SMALL)
    found.said["incremental backup"], found.seconds["incremental"] = backup(servers)
    tell("backed up again")
    found.seconds["rows"] = wait_for_rows(servers)
    found.seconds["object"] = wait_for_object(servers)
    found.seconds["restore"] = restore(servers, f"{place.name}-back", found.said["incremental backup"])
    return found


def tell(text: str) -> None:
    """Show progress, beside the tables."""
    print(f"    {text}", file=sys.stderr, flush=True)
