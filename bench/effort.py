"""How long to measure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """One answer to "how exact".

    Attributes:
        rounds: how often this stack and its twin without a login take turns.
        round_seconds: how long each turn is.
        stock_seconds: how long one client asks a stock server.
        load_seconds: how long eight clients ask this stack and its twin.
        stock_load_seconds: how long eight clients ask a stock server, which takes seconds for each answer.
        guess_seconds: how long wrong logins arrive.
        guesses: how many of each kind are timed.
        users: how many accounts those guesses are spread over: few for each, so that no throttle answers.
        sizes: of the files that are carried, bytes.
        transfers: how often each is carried.
        files: how many small files a folder has.
        growth: pairs of how many runs and values of metrics the database has, from small to large.
        backup: how many runs, values of each metric, objects, and bytes of the large one.
        page_loads: how many browsers load each page.
        client_divisor: by what the calls of MLflow's own client are fewer than bench/clients.py says.
    """

    rounds: int
    round_seconds: float
    stock_seconds: float
    load_seconds: int
    stock_load_seconds: int
    guess_seconds: float
    guesses: int
    users: int
    sizes: tuple[int, ...]
    transfers: int
    files: int
    growth: tuple[tuple[int, int], ...]
    backup: tuple[int, int, int, int]
    page_loads: int
    client_divisor: int


QUICK = Effort(
    rounds=2,
    round_seconds=0.5,
    stock_seconds=2,
    load_seconds=2,
    stock_load_seconds=20,
    guess_seconds=2,
    guesses=10,
    users=5,
    sizes=(1_000, 1_000_000, 100_000_000),
    transfers=1,
    files=100,
    growth=((200, 20_000), (2_000, 200_000)),
    backup=(500, 20, 200, 50_000_000),
    page_loads=1,
    client_divisor=5,
)
USUAL = Effort(
    rounds=5,
    round_seconds=2,
    stock_seconds=15,
    load_seconds=8,
    stock_load_seconds=30,
    guess_seconds=10,
    guesses=40,
    users=20,
    sizes=(1_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000),
    transfers=3,
    files=1000,
    growth=((1_000, 1_000_000), (10_000, 10_000_000), (100_000, 20_000_000)),
    backup=(5_000, 100, 5_001, 1_000_000_000),
    page_loads=2,
    client_divisor=1,
)
FULL = Effort(
    rounds=10,
    round_seconds=3,
    stock_seconds=30,
    load_seconds=15,
    stock_load_seconds=60,
    guess_seconds=10,
    guesses=1000,
    users=200,
    sizes=(1_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 3_000_000_000),
    transfers=3,
    files=1000,
    growth=((1_000, 1_000_000), (10_000, 10_000_000), (100_000, 20_000_000)),
    backup=(5_000, 100, 5_001, 1_000_000_000),
    page_loads=5,
    client_divisor=1,
)
