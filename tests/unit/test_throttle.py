"""Guessing is slowed down, for the guesser alone."""

from __future__ import annotations

import pytest

from tracking import throttle
from tracking.throttle import PER_ADDRESS, PER_USER_AND_ADDRESS, Throttle, find_network


def guess(bucket: Throttle, times: int, user: str = "carol", address: str = "198.51.100.7", now: float = 0.0) -> None:
    for _ in range(times):
        bucket.count_failure(user, address, now)


def test_a_few_mistakes_cost_nothing() -> None:
    bucket = Throttle()
    guess(bucket, PER_USER_AND_ADDRESS.burst - 1)
    assert bucket.find_wait("carol", "198.51.100.7", 0.0) == 0


def test_after_the_burst_one_guess_each_few_seconds_is_let_through() -> None:
    bucket = Throttle()
    guess(bucket, PER_USER_AND_ADDRESS.burst)
    wait = bucket.find_wait("carol", "198.51.100.7", 0.0)
    assert wait == round(1 / PER_USER_AND_ADDRESS.per_second)
    assert bucket.find_wait("carol", "198.51.100.7", wait - 1) > 0
    assert bucket.find_wait("carol", "198.51.100.7", wait) == 0


def test_nobody_else_waits() -> None:
    bucket = Throttle()
    guess(bucket, PER_USER_AND_ADDRESS.burst)
    assert bucket.find_wait("carol", "198.51.100.8", 0.0) == 0
    assert bucket.find_wait("dave", "198.51.100.7", 0.0) == 0


def test_many_names_from_one_address_wait_together() -> None:
    bucket = Throttle()
    for number in range(PER_ADDRESS.burst):
        guess(bucket, 1, user=f"user{number}")
    assert bucket.find_wait("somebody else", "198.51.100.7", 0.0) == 1


def test_what_is_refused_is_not_counted_so_the_wait_does_not_grow() -> None:
    bucket = Throttle()
    guess(bucket, PER_USER_AND_ADDRESS.burst)
    waits = [bucket.find_wait("carol", "198.51.100.7", now / 10) for now in range(50)]
    assert waits == sorted(waits, reverse=True)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_an_ipv6_subscriber_is_one_address(address: str, network: str) -> None:
    assert find_network(address) == network


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_BUCKETS", 10)
    bucket = Throttle()
    for number in range(100):
        guess(bucket, 1, address=f"198.51.100.{number}")
    assert len(bucket.buckets) == 10


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_more_workers_let_no_more_guesses_through(workers: int) -> None:
    buckets = [Throttle(workers) for _ in range(workers)]
    through = 0
    for bucket in buckets:
        while not bucket.find_wait("carol", "198.51.100.7", 0.0):
            bucket.count_failure("carol", "198.51.100.7", 0.0)
            through += 1
    assert PER_USER_AND_ADDRESS.burst <= through < PER_USER_AND_ADDRESS.burst + workers
