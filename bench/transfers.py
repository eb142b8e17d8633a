"""How fast artifacts go up and come down: this stack beside stock MLflow and beside the store itself."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import usage
from bench.effort import Effort
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers

CHECKOUT = Path(__file__).parents[1]
STORE = "http://objectstore:9000"
BUCKET = "mlflow-artifacts"
# As clients inside the stack's networks reach them.
URLS = {"stock": "http://stock-store:5000", "stack": "http://nginx:5001"}
TITLES = {
    "raw": "the store itself, boto3",
    "stock_rest": "stock MLflow, PUT and GET",
    "stack_rest": "this stack, PUT and GET",
    "stock_client": "stock MLflow, its client",
    "stack_client": "this stack, MLflow's client",
}
DIRECTIONS = ("up", "down")
MEGA, GIGA = 1e6, 1e9
LARGE = 1_000_000_000
IDLE_SECONDS = 20


class TransferError(Exception):
    """The carrier ended before it was done."""


@dataclass(frozen=True)
class Carried:
    """What was carried.

    Attributes:
        machine: where.
        seconds: median by (way, direction, bytes).
        cpu: CPU seconds that MLflow's container took for each GB that went through the stack in either direction, less
            what it takes when idle.
    """

    machine: Machine
    seconds: dict[tuple[str, str, int], float]
    cpu: float

    def find_speed(self, way: str, direction: str, size: int) -> float:
        """Return MB/s."""
        return size / MEGA / self.seconds[way, direction, size]

    def find_sizes(self) -> list[int]:
        """Return the sizes of single files."""
        return sorted({size for _, direction, size in self.seconds if direction != "folder"})

    def compare(self) -> list[Comparison]:
        """Return the ratios that the project promises."""
        sizes = self.find_sizes()
        large = max(size for size in sizes if size <= LARGE)
        (files,) = {size for _, direction, size in self.seconds if direction == "folder"}

        def ratio(one: str, other: str, direction: str, size: int) -> float:
            return self.seconds[other, direction, size] / self.seconds[one, direction, size]

        found = []
        for direction, goal in (("up", 0.85), ("down", 0.9)):
            best = max(ratio(way, "raw", direction, large) for way in ("stack_rest", "stack_client"))
            title = f"{direction}: {name_size(large)} beside the store itself"
            found.append(Comparison(f"raw_{direction}", title, best, "x", "≥", goal))
        for direction in DIRECTIONS:
            value = ratio("stack_rest", "stock_rest", direction, large)
            title = f"{direction}: {name_size(large)} by PUT and GET, beside stock"
            found.append(Comparison(f"rest_{direction}", title, value, "x", "≥", 1.5))
        worst, name = min(
            (ratio(f"stack_{kind}", f"stock_{kind}", direction, size), f"{kind}, {direction}, {name_size(size)}")
            for kind in ("rest", "client")
            for direction in DIRECTIONS
            for size in sizes
        )
        found.append(Comparison("worst", f"the worst beside stock ({name})", worst, "x", "≥", 1))
        value = ratio("stack_client", "stock_client", "folder", files)
        found.append(Comparison("folder", "a folder of small files beside stock, log_artifacts", value, "x", "≥", 3))
        # (the store puts each on the disk before it answers, and the client sends one after the other)
        value = ratio("stack_client", "raw", "folder", files)
        found.append(Comparison("raw_folder", "the same beside the store itself, boto3", value, "x"))
        found.append(Comparison("cpu", "CPU seconds of MLflow's container for a GB", self.cpu, "s", "≤", 0.1))
        return found

    def to_text(self) -> str:
        """Return the tables."""
        sizes = self.find_sizes()
        rows = [
            [f"{direction}: {title}", *(f"{self.find_speed(way, direction, size):.3g}" for size in sizes)]
            for direction in DIRECTIONS
            for way, title in TITLES.items()
        ]
        return "\n\n".join(
            [
                render(["MB/s", *map(name_size, sizes)], rows),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        return {
            "transfers": [[*key, seconds] for key, seconds in self.seconds.items()],
            "transfer_comparisons": [{**c.__dict__, "is_reached": c.is_reached} for c in self.compare()],
        }

    def plot(self, file: Path) -> None:
        """Draw throughput over size."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        sizes = self.find_sizes()
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
        for axis, direction in zip(axes, DIRECTIONS, strict=True):
            for way, title in TITLES.items():
                speeds = [self.find_speed(way, direction, size) for size in sizes]
                axis.plot(sizes, speeds, marker="o", label=title, linestyle="-" if way.startswith("stack") else "--")
            axis.set(xscale="log", yscale="log", xlabel="size of the file, bytes", title=direction)
            axis.grid(which="major", alpha=0.3)
        axes[0].set_ylabel("MB/s")
        axes[1].legend(fontsize="small")
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)


def name_size(size: int) -> str:
    """Return "5 MB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def read_cpu_seconds(servers: Servers) -> float:
    """Return what MLflow's container has taken of the CPU so far."""
    return usage.read_all(servers.deployment.name, ["mlflow"])["mlflow"].cpu


def measure_idle_cpu(servers: Servers) -> float:
    """Return how much of a CPU MLflow's container takes when nobody asks it for anything: its health checks."""
    before, began = read_cpu_seconds(servers), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return (read_cpu_seconds(servers) - before) / (time.monotonic() - began)


def carry(settings: Settings, servers: Servers, order: dict[str, Any]) -> Iterable[tuple[str, str, int, float]]:
    """Run bench/carrier.py in the stack's networks. Raises TransferError."""
    name = servers.deployment.name
    command = ["docker", "create", "--rm", "--interactive", "--name", f"{settings.name}-carrier"]
    command += ["--label", f"com.docker.compose.project={name}", "--network", servers.network]
    command += ["--volume", f"{name}_secrets-mlflow:/run/secrets:ro"]
    command += ["--volume", f"{CHECKOUT}:{CHECKOUT}:ro", "--workdir", str(CHECKOUT)]
    container = subprocess.check_output([*command, settings.image, "python", "-m", "bench.carrier"], text=True).strip()
    subprocess.check_call(["docker", "network", "connect", f"{name}_store", container])
    with subprocess.Popen(
        ["docker", "start", "--attach", "--interactive", container],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.close()
        for line in process.stdout:
            way, direction, size, seconds = json.loads(line)
            print(f"    {way} {direction} {name_size(size)}: {seconds:.3f} s", file=sys.stderr, flush=True)
            yield way, direction, size, seconds
    if process.returncode:
        print(servers.deployment.compose("logs", "--no-color", "--tail", "40", "objectstore"), file=sys.stderr)
        raise TransferError(f"bench.carrier ended with {process.returncode}: above what it and the store said")


def measure(settings: Settings, servers: Servers, effort: Effort, machine: Machine) -> Carried:
    """Measure a stack that is up. Raises TransferError."""
    servers.start_stock_database()
    servers.start_others("stock-store")
    order = {
        "login": servers.login,
        "store": STORE,
        "bucket": BUCKET,
        "servers": URLS,
        "sizes": effort.sizes,
        "rounds": effort.transfers,
        "files": effort.files,
    }
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for way, direction, size, seconds in carry(settings, servers, order):
        times[way, direction, size].append(seconds)
    servers.stop("stock-store", "stock-postgres")
    # The same again for this stack alone, large files only: what its MLflow container takes of the CPU for that.
    large = [size for size in effort.sizes if size >= max(effort.sizes) // 10]
    idle = measure_idle_cpu(servers)
    before, began, carried = read_cpu_seconds(servers), time.monotonic(), 0
    for _, _, size, _ in carry(
        settings, servers, {**order, "servers": {"stack": URLS["stack"]}, "sizes": large, "files": 0}
    ):
        carried += size
    cpu = read_cpu_seconds(servers) - before - idle * (time.monotonic() - began)
    return Carried(machine, {key: statistics.median(seen) for key, seen in times.items()}, cpu / (carried / GIGA))
