"""`./stack bench`: start all servers, measure them one after the other, print the tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import (
    backups,
    client,
    clients,
    effort,
    gateway,
    growth,
    guesses,
    load,
    metadata,
    pages,
    serving,
    settings,
    stacks,
    transfers,
)
from bench.latency import Sample
from bench.report import Machine, Report, Server, find_machine

OK = 200


def say(text: str) -> None:
    """Show progress, beside the tables."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def measure_one(url: str, login: client.Login, seconds: float) -> Sample:
    """Measure one client of a server that is warm. Raises LoadError if it is refused."""
    sample = client.measure(url, login, seconds)
    if set(sample.statuses) != {OK}:
        raise load.LoadError(f"{url}: answers other than 200: {dict(sample.statuses)}")
    return sample


TWINS = {
    "login": "this stack, logged in",
    "rights": "the same gateway and MLflow, without the stack's login",
    "open": "the same, and without MLflow's look at rights",
}


def measure_twins(servers: stacks.Servers, chosen: effort.Effort, scratch: Path) -> list[Server]:
    """Measure this stack and its twins without a login by turns, so that all see the same machine."""
    urls = {"login": servers.url}
    for name in ("rights", "open"):
        urls[name] = servers.start_others(f"{name}-mlflow", f"{name}-nginx")
    samples = {name: Sample() for name in urls}
    for url in urls.values():
        measure_one(url, servers.login, 1)
    for _ in range(chosen.rounds):
        for name, url in urls.items():
            samples[name].add(measure_one(url, servers.login, chosen.round_seconds))
    result = [
        Server(n, TWINS[n], samples[n].summarize(), load.measure(url, servers.login, chosen.load_seconds, scratch))
        for n, url in urls.items()
    ]
    servers.stop("rights-nginx", "rights-mlflow", "open-nginx", "open-mlflow")
    return result


def measure_stock(servers: stacks.Servers, chosen: effort.Effort, scratch: Path) -> list[Server]:
    """Measure stock MLflow with and without its login; this stack is stopped."""
    servers.stop("nginx", "mlflow", "objectstore", "postgres")
    servers.start_stock_database()
    result = []
    for name, service, title in (
        ("stock_login", "stock-login", "stock MLflow, --app-name basic-auth"),
        ("stock_open", "stock-open", "stock MLflow without login"),
    ):
        url = servers.start_others(service)
        measure_one(url, servers.login, 1)
        one = measure_one(url, servers.login, chosen.stock_seconds)
        eight = load.measure(url, servers.login, chosen.stock_load_seconds, scratch)
        result.append(Server(name, title, one.summarize(), eight))
        servers.stop(service)
    return result


def measure_login(place: settings.Settings, servers: stacks.Servers, chosen: effort.Effort, machine: Machine) -> Report:
    """Measure what a login costs; this stack is stopped in the end. Raises LoadError, GuessError."""
    say("Measuring it beside its twins without a login")
    twins = measure_twins(servers, chosen, place.scratch)
    say(f"Measuring it while {guesses.PER_SECOND} wrong logins a second arrive")
    names = guesses.make_users(servers, chosen.users + guesses.FLOODED)
    flooded, timed = names[: guesses.FLOODED], names[guesses.FLOODED :]
    flood = guesses.measure_flood(place, servers, chosen, flooded)
    say("Timing wrong passwords and unknown users")
    timing = guesses.measure_timing(place, servers, chosen, timed)
    say("Measuring stock MLflow")
    stock = measure_stock(servers, chosen, place.scratch)
    return Report(machine, [*twins, *stock], flood, timing)


class Subject(StrEnum):
    """What there is to measure."""

    LOGIN = "login"
    ARTIFACTS = "artifacts"
    SERVING = "serving"
    METADATA = "metadata"
    CLIENTS = "clients"
    UI = "ui"
    GROWTH = "growth"
    BACKUP = "backup"


# In this order: the last ones change what is in the database, or whether this stack runs.
WAYS: dict[Subject, tuple[str, Callable[[settings.Settings, stacks.Servers, effort.Effort, Machine], Any]]] = {
    Subject.ARTIFACTS: ("Carrying artifacts", transfers.measure),
    Subject.SERVING: ("Asking a served model", serving.measure),
    Subject.CLIENTS: ("Working as users of MLflow's own client do", clients.measure),
    Subject.METADATA: ("Asking for runs and logging metrics", metadata.measure),
    Subject.LOGIN: ("Logging in", measure_login),
    Subject.UI: ("Loading pages in a browser", pages.measure),
    Subject.GROWTH: ("Asking as runs and metrics grow", growth.measure),
    Subject.BACKUP: ("Backing up and bringing back", backups.measure),
}
LARGE = {Subject.GROWTH, Subject.BACKUP}  # they fill the disk by 10 GB: only when named
FAULTS = (
    backups.BackupError,
    clients.ClientError,
    gateway.TemplateError,
    guesses.GuessError,
    load.LoadError,
    serving.ServingError,
    transfers.TransferError,
)


def main(
    subjects: Annotated[
        list[Subject] | None, typer.Argument(help="default: all but growth and backup, which fill the disk by 10 GB")
    ] = None,
    quick: Annotated[bool, typer.Option(help="a look whether it works: the figures mean little")] = False,
    full: Annotated[bool, typer.Option(help="longer, and 1,000 wrong logins of each kind")] = False,
) -> None:
    """Measure, and write figures.json, and plot.svg of the last subject that has one, into the scratch folder."""
    if quick and full:
        sys.exit("bench: --quick and --full exclude each other: choose one")
    if set(subjects or ()) >= LARGE:
        sys.exit("bench: growth and backup fill the same tables: name one of them")
    chosen = effort.QUICK if quick else effort.FULL if full else effort.USUAL
    place = settings.load()
    machine = find_machine()
    figures: dict[str, object] = {}
    try:
        servers = stacks.prepare(place)
        for subject, (doing, measure) in WAYS.items():
            if subject in (subjects or set(Subject) - LARGE):
                say("Starting this stack")
                servers.start()
                say(doing)
                found = measure(place, servers, chosen, machine)
                if hasattr(found, "plot"):
                    found.plot(place.scratch / "plot.svg")
                print(found.to_text(), flush=True)
                figures |= found.to_data()
    except FAULTS as error:
        sys.exit(f"bench: {error}")
    finally:  # (what was found before a failure, too)
        (place.scratch / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


typer.run(main)
