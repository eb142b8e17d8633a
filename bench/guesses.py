"""What wrong logins do to a user who is logged in, and whether their timing tells which users exist."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from scipy import stats

from bench import client, guesser
from bench.effort import Effort
from bench.latency import Sample, Summary
from bench.settings import Settings
from bench.stacks import Servers

PER_SECOND = 200
CHECKOUT = Path(__file__).parents[1]


FLOODED = 10  # accounts that the flood is about; others are timed, since a throttle may remember it


class GuessError(Exception):
    """The guesses were not answered in a way that tells anything."""


@dataclass(frozen=True)
class Flood:
    """One logged-in client without and with guesses beside it, and what the guesses were answered."""

    idle: Summary
    guessed: Summary
    refused: dict[str, int]
    statuses: dict[str, int]
    meant: int
    seconds: float


@dataclass(frozen=True)
class Timing:
    """Wrong logins of users that exist beside those of names that nobody has.

    Attributes:
        known: median of users that exist, milliseconds.
        unknown: median of names that nobody has.
        chance: how probable a difference of the ranks like this one is if there is none (Mann-Whitney, two-sided).
        distance: the largest distance of both distributions, 0 to 1 (Kolmogorov-Smirnov).
        count: answers of each kind.
        statuses: of all guesses; only those with 401 are timed.
    """

    known: float
    unknown: float
    chance: float
    distance: float
    count: tuple[int, int]
    statuses: dict[str, int]


def make_users(servers: Servers, count: int) -> list[str]:
    """Make accounts to be guessed; nobody keeps their passwords."""
    names = [f"guessed-{number}" for number in range(count)]
    with requests.Session() as session:
        session.auth = servers.login
        for name in names:
            answer = session.post(
                f"{servers.url}/api/2.0/mlflow/users/create",
                json={"username": name, "password": secrets.token_urlsafe(24)},
                timeout=client.TIMEOUT_SECONDS,
            )
            answer.raise_for_status()
    return names


@contextmanager
def run_guesser(settings: Settings, servers: Servers, verb: str, **order: Any) -> Iterator[subprocess.Popen[str]]:
    """Run bench/guesser.py in the stack's network; it has begun when this returns. Raises GuessError."""
    command = ["docker", "run", "--rm", "--interactive", "--name", f"{settings.name}-guesser"]
    # With the stack's label it is removed with it, should the bench be interrupted.
    command += ["--label", f"com.docker.compose.project={servers.deployment.name}"]
    command += ["--network", servers.network, "--cap-add", "NET_ADMIN"]
    command += ["--volume", f"{CHECKOUT}:{CHECKOUT}:ro", "--workdir", str(CHECKOUT)]
    command += [settings.image, "python", "-m", "bench.guesser", verb]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != guesser.STARTED:
            raise GuessError(f"bench.guesser {verb} did not start, see above")
        yield process


def read_result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what the guesser found, when it is done. Raises GuessError."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise GuessError("bench.guesser ended without a result, see above")
    result: dict[str, Any] = json.loads(line)
    return result


def measure_flood(settings: Settings, servers: Servers, effort: Effort, known: list[str]) -> Flood:
    """Measure one logged-in client alone, then while wrong logins arrive from one other address."""
    client.measure(servers.url, servers.login, 1)
    idle = client.measure(servers.url, servers.login, effort.guess_seconds)
    order = {"per_second": PER_SECOND, "seconds": effort.guess_seconds + 1, "known": known}
    with run_guesser(settings, servers, "flood", **order) as process:
        time.sleep(1)  # part of the flood: what is measured is its course, not its first moment
        guessed = client.measure(servers.url, servers.login, effort.guess_seconds)
        result = read_result(process)
    return Flood(
        idle=idle.summarize(),
        guessed=guessed.summarize(),
        refused=count_refused(guessed),
        statuses=result["statuses"],
        meant=result["meant"],
        seconds=result["seconds"],
    )


def count(statuses: dict[str, int]) -> str:
    """Return "401: 12, 429: 3"."""
    names = {"0": "no answer"}
    return ", ".join(f"{names.get(status, status)}: {number}" for status, number in sorted(statuses.items())) or "never"


def count_refused(sample: Sample) -> dict[str, int]:
    """Return how often the logged-in client was not served, by status."""
    return {str(status): count for status, count in sample.statuses.items() if status != requests.codes.ok}


def measure_timing(settings: Settings, servers: Servers, effort: Effort, known: list[str]) -> Timing:
    """Time both kinds of wrong logins on a server that has just started."""
    servers.restart()
    with run_guesser(settings, servers, "time", count=effort.guesses, known=known) as process:
        return compare(**read_result(process))


def compare(known: list[float], unknown: list[float], statuses: dict[str, int]) -> Timing:
    """Return how far apart two sets of times are. Raises GuessError."""
    if not known or not unknown:
        raise GuessError(f"too few wrong logins were answered with 401, so that none can be timed: {count(statuses)}")
    return Timing(
        known=statistics.median(known),
        unknown=statistics.median(unknown),
        chance=float(stats.mannwhitneyu(known, unknown).pvalue),
        distance=float(stats.ks_2samp(known, unknown).statistic),
        count=(len(known), len(unknown)),
        statuses=statuses,
    )
