"""The times of many requests, and what one says about them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


def find_percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all do not exceed (nearest rank). Raises ValueError."""
    if not values:
        raise ValueError("no request was answered: there is no percentile of nothing")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass
class Sample:
    """What one client saw.

    Attributes:
        milliseconds: one entry for each answer.
        statuses: how often each status code came.
        seconds: how long the client asked.
    """

    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: Sample) -> None:
        """Take another sample's requests in."""
        self.milliseconds += other.milliseconds
        self.statuses += other.statuses
        self.seconds += other.seconds

    def summarize(self) -> Summary:
        """Return the figures of all answers."""
        return Summary(
            p50=find_percentile(self.milliseconds, 50),
            p99=find_percentile(self.milliseconds, 99),
            per_second=len(self.milliseconds) / self.seconds,
            requests=len(self.milliseconds),
        )


@dataclass(frozen=True)
class Summary:
    """Percentiles in milliseconds, requests a second, and how many requests that rests on."""

    p50: float
    p99: float
    per_second: float
    requests: int
