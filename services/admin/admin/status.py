"""What runs, how it is and what it takes, from the words of Docker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

# One-shot services: to have ended with 0 is their good end.
PLAIN_WIDTH = 160  # where the output is no terminal, nothing is cut off
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


def read_json_values(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a stream of JSON values; versions of compose print one list, or one object a line."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield from value if isinstance(value, list) else [value]
        rest = rest[end:].strip()


def read_services(text: str) -> list[Service]:
    """Return the services in `docker compose ps --format json` followed by `docker stats --format json`."""
    values = list(read_json_values(text))
    memory = {value["Name"]: value["MemUsage"].split(" / ")[0] for value in values if "MemUsage" in value}
    return sorted(
        (
            Service(
                name=value["Service"],
                state=value["State"],
                health=value.get("Health", ""),
                exit_code=value.get("ExitCode", 0),
                memory=memory.get(value["Name"], ""),
                image=value.get("Image", ""),
            )
            for value in values
            if "Service" in value
        ),
        key=lambda service: (service.name in JOBS, service.name),
    )


def print_table(services: list[Service], version: str | None, url: str) -> None:
    """Print the table; plain text where the output is not a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SERVICE", "HEALTH", "MEMORY", "IMAGE"):
        table.add_column(heading, no_wrap=True)
    for service in services:
        colour = "green" if service.is_well else "red"
        table.add_row(service.name, f"[{colour}]{service.word}[/]", service.memory, service.image)
    console = Console(width=None if "COLUMNS" in os.environ else PLAIN_WIDTH)
    console.print(table)
    console.print(f"MLflow {version or 'does not answer'} at {url}", highlight=False)
