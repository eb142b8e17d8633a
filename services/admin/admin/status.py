"""What runs, how it is and what it takes, from the words of Docker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from admin.faults import printable

# One-shot services: to have ended with 0 is their good end.
PLAIN_WIDTH = 160  # where the output is no terminal, nothing is cut off
LATE_HOURS = 25  # of a backup that is made each day
WARN_PERCENT, FULL_PERCENT = 85, 95  # of a disk: time to make room, and hardly any left
# What the container `backup` says is wrong, by the name of the part.
BACKUP_FAULTS = {
    "target": "target",
    "fault": "the last one failed",
    "archive": "WAL",
    "untrue": "the last one brought back on trial",
    "copies": "objects",
    "clock": "clock",
    "bucket": "bucket",
    "messages": "messages",
}
JOBS = {"secrets", "bucket", "migrate", "trainer", "admin", "artifacts"}


@dataclass(frozen=True)
class Service:
    """One container of the stack.

    Attributes:
        name: compose service.
        state: Docker's state: running, exited, restarting, ...
        health: Docker's health, "" for a container without a check.
        exit_code: of an exited container.
        memory: used, in Docker's notation ("52.1MiB"), "" if it doesn't run.
        image: name and version.
    """

    name: str
    state: str
    health: str
    exit_code: int
    memory: str
    image: str

    @property
    def is_well(self) -> bool:
        """Whether the service is as it should be."""
        if self.name in JOBS:
            return self.state == "running" or (self.state == "exited" and self.exit_code == 0)
        return self.state == "running" and self.health in ("", "healthy")

    @property
    def word(self) -> str:
        """Its condition in a word."""
        if self.name in JOBS and self.state == "exited":
            return "done" if self.exit_code == 0 else f"failed ({self.exit_code})"
        return self.health or self.state


@dataclass(frozen=True)
class Model:
    """One model that is to be served, as `serving` describes it.

    Attributes:
        name: registered model.
        wanted: version that the alias names, or the pinned one; "" for none.
        served: version that answers, "" for none.
        state: served, loading, kept (another version than the wanted one answers) or not served.
        reason: why it isn't the wanted one.
    """

    name: str
    wanted: str
    served: str
    state: str
    reason: str

    @property
    def is_well(self) -> bool:
        """Whether nothing is in the way of the wanted version."""
        return self.state in ("served", "loading") or not self.wanted


def read_json_values(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a stream of JSON values; versions of compose print one list, or one object a line."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield from value if isinstance(value, list) else [value]
        rest = rest[end:].strip()


def read_services(text: str) -> list[Service]:
    """Return the services in `docker compose ps --format json` and `docker stats --format json`.

    Among them may be objects {"Ready": NAME} of servers that are healthy, which Docker doesn't know yet.
    """
    values = list(read_json_values(text))
    memory = {value["Name"]: value["MemUsage"].split(" / ")[0] for value in values if "MemUsage" in value}
    ready = {value["Ready"] for value in values if "Ready" in value}
    return sorted(
        (
            Service(
                name=value["Service"],
                state=value["State"],
                health="healthy" if value["Name"] in ready else value.get("Health", ""),
                exit_code=value.get("ExitCode", 0),
                memory=memory.get(value["Name"], ""),
                image=value.get("Image", ""),
            )
            for value in values
            if "Service" in value
        ),
        key=lambda service: (service.name in JOBS, service.name),
    )


def read_models(text: str) -> tuple[list[Model], str]:
    """Return the served models in the same stream, and what is in the way of finding new versions."""
    nothing: dict[str, Any] = {"models": [], "trouble": ""}
    state = next((value for value in read_json_values(text) if "models" in value), nothing)
    fields = ("name", "wanted", "served", "state", "reason")
    return [Model(**{name: value[name] for name in fields}) for value in state["models"]], state["trouble"]


@dataclass(frozen=True)
class Backups:
    """What there is of backups, as the container `backup` describes it.

    Attributes:
        line: for the operator.
        is_well: whether they are made as they should be.
    """

    line: str
    is_well: bool


def read_backups(text: str, now: datetime) -> Backups | None:
    """Return what the same stream says of backups, None if nothing."""
    state = next((value["Backups"] for value in read_json_values(text) if "Backups" in value), None)
    if state is None:
        return None
    at, names = state["at"], state["sets"]
    plan = "none by themselves (./stack backup schedule)" if at == "off" else f"each day at {at} UTC"
    faults = [f"{what}: {state[part]}" for part, what in BACKUP_FAULTS.items() if state.get(part)]
    if not names:
        shown = "no backup can be read" if state.get("target") else "no backup"
        shown += "" if faults else ": ./stack backup makes one"  # (it would begin anew where a disk is away)
        return Backups("; ".join([shown, plan, *faults]), is_well=at == "off" and not faults)
    age = now - datetime.strptime(names[-1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    hours = age.total_seconds() / 3600
    is_late = at != "off" and hours > LATE_HOURS
    if is_late:
        faults.insert(0, f"the newest is {hours:.0f} h old: LATE")
    count = "1 backup" if len(names) == 1 else f"{len(names)} backups"
    sizes = state.get("sizes") or {}
    size = f", {decimal(sizes['sets'][names[-1]])}" if names[-1] in sizes.get("sets", {}) else ""
    total = f", {decimal(sizes['all'])} in all" if "all" in sizes else ""
    shown = f"{count}, the newest {names[-1]} ({hours:.1f} h old{size}){total}; {plan}"
    if state.get("place"):
        came = "not yet" if state.get("carried") is None else f"as of {state['carried']:.0f} s ago"
        shown += f"; in {state['place']} too, {came}"
    if state["trial"]:
        days = (now.timestamp() - state["trial"]) / 86400
        shown += f"; brought back on trial {days:.1f} days ago"
    return Backups("; ".join([shown, *faults]), is_well=not faults)


@dataclass(frozen=True)
class Disk:
    """The file system that something of the stack's lies on.

    Attributes:
        name: what lies there.
        used: bytes.
        free: bytes that the stack may still write.
    """

    name: str
    used: int
    free: int

    @property
    def percent(self) -> float:
        """How full it is."""
        return 100 * self.used / max(self.used + self.free, 1)

    @property
    def is_well(self) -> bool:
        """Whether there is room left."""
        return self.percent < FULL_PERCENT


def read_disks(text: str) -> list[Disk]:
    """Return the disks in the same stream."""
    return [Disk(value["Disk"], value["used"], value["free"]) for value in read_json_values(text) if "Disk" in value]


def measure_disk(name: str, folder: Path) -> Disk:
    """Return the disk that a folder of this container lies on."""
    found = os.statvfs(folder)
    return Disk(name, (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize)


def print_disks(disks: list[Disk]) -> None:
    """Print how full each is, and which is to be looked after."""
    shown = [f"{disk.name} {disk.percent:.0f} %" for disk in disks]
    full = [
        f"{disk.name}: {disk.percent:.0f} % full, {decimal(disk.free)} left: make room"
        for disk in disks
        if disk.percent >= WARN_PERCENT
    ]
    Console(width=None if "COLUMNS" in os.environ else PLAIN_WIDTH).print(
        f"Disks: {'; '.join([', '.join(shown), *full])}",
        highlight=False,
        markup=False,
        style="red" if full else "",
        soft_wrap=True,
    )


def print_models(models: list[Model], trouble: str, console: Console) -> None:
    """Print which version of which model answers, and why it isn't the wanted one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("MODEL", "SERVED", "WANTED", "STATE"):
        table.add_column(heading, no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for model in models:
        colour = "green" if model.state == "served" else "red" if not model.is_well else "yellow"
        table.add_row(
            model.name, model.served or "-", model.wanted or "-", f"[{colour}]{model.state}[/]", escape(model.reason)
        )
    console.print(table)
    if trouble:
        console.print(f"new versions can't be looked for: {trouble}", highlight=False, markup=False)


def print_backups(backups: Backups) -> None:
    """Print the line about backups."""
    style = "" if backups.is_well else "red"
    Console(width=None if "COLUMNS" in os.environ else PLAIN_WIDTH).print(
        f"Backups: {printable(backups.line)}", highlight=False, markup=False, style=style, soft_wrap=True
    )


def print_table(services: list[Service], version: str | None, url: str, models: list[Model], trouble: str) -> None:
    """Print the tables; plain text where the output is not a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SERVICE", "HEALTH", "MEMORY", "IMAGE"):
        table.add_column(heading, no_wrap=True)
    for service in services:
        colour = "green" if service.is_well else "red"
        table.add_row(service.name, f"[{colour}]{service.word}[/]", service.memory, service.image)
    console = Console(width=None if "COLUMNS" in os.environ else PLAIN_WIDTH)
    console.print(table)
    if models:
        console.print()
        print_models(models, trouble, console)
        console.print()
    console.print(f"MLflow {version or 'does not answer'} at {url}", highlight=False)
