"""Which sets are kept: 7d,4w,6m is the newest of each of the last 7 days, 4 weeks and 6 months that have one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from admin.faults import FaultError

RULE = re.compile(r"([1-9][0-9]{0,3})([dwm])")
PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "d": lambda moment: (moment.year, moment.month, moment.day),
    "w": lambda moment: tuple(moment.isocalendar()[:2]),
    "m": lambda moment: (moment.year, moment.month),
}


def read_rules(text: str) -> dict[str, int]:
    """Return how many days, weeks and months. Raises FaultError."""
    found = [RULE.fullmatch(part) for part in text.split(",")]
    rules = {rule[2]: int(rule[1]) for rule in found if rule}
    if len(rules) != len(found):
        raise FaultError(f"STACK_BACKUP_KEEP is {text!r}: write it as 7d,4w,6m (days, weeks, months)")
    return rules


def choose_expired(sets: dict[str, float], rules: dict[str, int], damaged: Collection[str] = frozenset()) -> list[str]:
    """Return which sets go, of names and moments in seconds.

    The newest one stays in any case, and so does the newest that nobody found to be damaged: a damaged one is kept as
    any other, but in nobody's place.
    """
    newest_first = sorted(sets, key=lambda name: sets[name], reverse=True)
    kept = _choose_kept(newest_first, sets, rules)
    kept |= _choose_kept([name for name in newest_first if name not in damaged], sets, rules)
    return [name for name in reversed(newest_first) if name not in kept]


def _choose_kept(newest_first: list[str], sets: dict[str, float], rules: dict[str, int]) -> set[str]:
    kept = set(newest_first[:1])
    for unit, count in rules.items():
        periods: dict[tuple[int, ...], str] = {}
        for name in newest_first:
            periods.setdefault(PERIODS[unit](datetime.fromtimestamp(sets[name], UTC)), name)
        kept |= set(list(periods.values())[:count])
    return kept
