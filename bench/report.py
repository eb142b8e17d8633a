"""What was found, as tables and as JSON."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.guesses import Flood, Timing, count
from bench.latency import Summary

SMALL = 0.005  # two decimals show nothing of it


@dataclass(frozen=True)
class Machine:
    """Where the figures are from: a busy machine's mean little."""

    cores: int
    load: float
    name: str = ""  # the processor's
    day: str = ""

    def describe(self) -> str:
        """Return the line below the tables."""
        text = ", ".join(filter(None, [self.day, self.name, f"{self.cores} cores"]))
        text += f", load {self.load:.1f} when the bench began"
        return text if self.load < self.cores / 4 else f"{text}: NOT QUIET, the figures are too high and uneven"


def find_machine() -> Machine:
    """Return this one, now."""
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = found[1] if found else platform.machine()
    return Machine(os.cpu_count() or 1, os.getloadavg()[0], name, time.strftime("%Y-%m-%d"))


@dataclass(frozen=True)
class Server:
    """One server's figures: one client, then eight."""

    name: str
    title: str
    one: Summary
    eight: Summary


@dataclass(frozen=True)
class Comparison:
    """One number and what it should be; a goal that is not reached is shown, and is no failure of the run."""

    name: str
    title: str
    value: float
    unit: str = "x"
    sign: Literal["≤", "≥", ""] = ""
    goal: float = 0.0

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if not self.sign:
            return None
        return self.value <= self.goal if self.sign == "≤" else self.value >= self.goal

    def to_row(self) -> list[str]:
        """Return the cells of the table."""
        goal = f"{self.sign} {self.goal:g} {self.unit}" if self.sign else ""
        value = f"{self.value:.2f}" if abs(self.value) >= SMALL else f"{self.value:.1g}"
        reached = {True: "yes", False: "NO", None: ""}[self.is_reached]
        return [self.title, f"{value} {self.unit}".rstrip(), goal.rstrip(), reached]


@dataclass(frozen=True)
class Report:
    """All that one run found. The servers are: login, rights, open, stock_login, stock_open."""

    machine: Machine
    servers: Sequence[Server]
    flood: Flood
    timing: Timing

    def compare(self) -> list[Comparison]:
        """Return the ratios that the project promises."""
        of = {server.name: server for server in self.servers}
        login, rights, bare, stock_login, stock_open = (
            of[n] for n in ("login", "rights", "open", "stock_login", "stock_open")
        )
        return [
            Comparison(
                "login_cost", "a login's cost: p50 with less p50 without", login.one.p50 - rights.one.p50, "ms", "≤", 1
            ),
            Comparison("rights_cost", "the same with MLflow's look at rights", login.one.p50 - bare.one.p50, "ms"),
            Comparison("login_ratio", "the latter as a ratio of p50", login.one.p50 / bare.one.p50),
            Comparison(
                "faster_than_stock",
                "faster than stock with login, p50",
                stock_login.one.p50 / login.one.p50,
                "x",
                "≥",
                30,
            ),
            Comparison(
                "more_than_stock",
                "more req/s than stock with login, 8 clients",
                login.eight.per_second / stock_login.eight.per_second,
            ),
            Comparison(
                "faster_than_open_stock", "faster than stock without login, p50", stock_open.one.p50 / login.one.p50
            ),
            Comparison(
                "guessed_p99",
                "p99 while guessed at, to p99 alone",
                self.flood.guessed.p99 / self.flood.idle.p99,
                "x",
                "≤",
                3,
            ),
            Comparison(
                "known_to_unknown", "wrong password to unknown user, median", self.timing.known / self.timing.unknown
            ),
            Comparison("timing_chance", "both the same, by Mann-Whitney: p", self.timing.chance, "", "≥", 0.01),
        ]

    def to_text(self) -> str:
        """Return the tables."""
        servers = [[s.title, *to_cells(s.one), *to_cells(s.eight)] for s in self.servers]
        flood, timing = self.flood, self.timing
        guesses = [
            ["one logged-in client alone", *to_cells(flood.idle)],
            ["the same while guessed at", *to_cells(flood.guessed)],
        ]
        return "\n\n".join(
            [
                render(["server", "1: p50 ms", "p99 ms", "req/s", "8: p50 ms", "p99 ms", "req/s"], servers),
                render(["guessing", "p50 ms", "p99 ms", "req/s"], guesses)
                + f"\nguesses meant: {flood.meant}, answered: {count(flood.statuses)}, in {flood.seconds:.1f} s"
                + f"\nthe logged-in client was refused: {count(flood.refused)}",
                describe(timing),
                render(["comparison", "seen", "goal", "reached"], [c.to_row() for c in self.compare()]),
                self.machine.describe(),
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        return {
            **asdict(self),
            "comparisons": [{**asdict(c), "is_reached": c.is_reached} for c in self.compare()],
        }


def to_cells(summary: Summary) -> list[str]:
    """Return the cells of one client's or several clients' figures."""
    return [f"{summary.p50:.2f}", f"{summary.p99:.2f}", f"{summary.per_second:.0f}"]


def describe(timing: Timing) -> str:
    """Return what the times of wrong logins tell."""
    return (
        f"wrong password: median {timing.known:.2f} ms of {timing.count[0]};"
        f" unknown user: {timing.unknown:.2f} ms of {timing.count[1]};"
        f" Kolmogorov-Smirnov {timing.distance:.3f}\nanswered: {count(timing.statuses)}"
    )


def render(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )
