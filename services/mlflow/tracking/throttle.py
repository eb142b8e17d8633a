"""Guessing is slowed down: a leaky bucket of wrong logins for each address, and for each user at an address.

A bucket is never one user's alone: who guesses carol's password from one address does not lock carol out at another.
The counters are each worker's own, and the gateway spreads requests over them: so each has its part of the limit.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field

from cachetools import LRUCache

MAX_BUCKETS = 50_000  # about 10 MB; the one unused for longest goes first


@dataclass(frozen=True)
class Limit:
    """How many wrong logins are let through.

    Attributes:
        burst: at once.
        per_second: from then on.
    """

    burst: int
    per_second: float

    def share(self, workers: int) -> Limit:
        """Return a worker's part."""
        return Limit(math.ceil(self.burst / workers), self.per_second / workers)


PER_USER_AND_ADDRESS = Limit(burst=20, per_second=1 / 3)
PER_ADDRESS = Limit(burst=120, per_second=2.0)


def find_network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that one IPv6 subscriber has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address  # noqa: PLR2004


@dataclass
class Throttle:
    """Counts wrong logins. Not thread-safe: one event loop's, of so many workers."""

    workers: int = 1
    buckets: LRUCache[tuple[str, ...], tuple[float, float]] = field(default_factory=lambda: LRUCache(MAX_BUCKETS))

    def find_wait(self, user: str, address: str, now: float) -> int:
        """Return after how many seconds this user may try again from this address; 0: now."""
        wait = 0
        for key, limit in self._keys(user, address):
            over = self._level(key, limit, now) + 1 - limit.burst
            if over > 0:
                wait = max(wait, math.ceil(over / limit.per_second))
        return wait

    def count_failure(self, user: str, address: str, now: float) -> None:
        """Remember a wrong login."""
        for key, limit in self._keys(user, address):
            self.buckets[key] = (self._level(key, limit, now) + 1, now)

    def _keys(self, user: str, address: str) -> tuple[tuple[tuple[str, ...], Limit], ...]:
        network = find_network(address)
        user_limit, address_limit = (limit.share(self.workers) for limit in (PER_USER_AND_ADDRESS, PER_ADDRESS))
        return ((network, user), user_limit), ((network,), address_limit)

    def _level(self, key: tuple[str, ...], limit: Limit, now: float) -> float:
        level, since = self.buckets.get(key, (0.0, now))
        return max(0.0, level - (now - since) * limit.per_second)
