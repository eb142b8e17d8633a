"""Moments as an operator writes them: a span from now, a day, or a day and a time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from admin.faults import FaultError

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_span(text: str) -> timedelta | None:
    """Return the length of a span such as 90d, or None if it isn't one."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    return timedelta(**{UNITS[found[2]]: int(found[1])}) if found else None


def read_date(text: str) -> datetime:
    """Return the moment of an ISO date, its beginning, or an ISO time, both UTC if no offset is given."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def read_expiry(text: str, now: datetime | None = None) -> datetime:
    """Return when a login ends, in whole seconds. Raises FaultError for what can't be read, and for the past."""
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    try:
        span = read_span(text)
        moment = read_date(text) if span is None else now + span
    except (ValueError, OverflowError):
        raise FaultError(f"expiry {text!r} is no moment: write 90d, 12h, 2026-12-31 or 2026-12-31T18:00:00Z") from None
    if moment <= now:
        raise FaultError(f"expiry {text!r} is past: choose a moment to come")
    return moment.replace(microsecond=0)


def read_since(text: str, now: datetime | None = None) -> datetime:
    """Return the moment that a look back starts at. Raises FaultError for what can't be read, and for the future."""
    now = now or datetime.now(UTC)
    try:
        span = read_span(text)
        moment = read_date(text) if span is None else now - span
    except (ValueError, OverflowError):
        raise FaultError(f"--since {text!r} is no moment: write 2h, 7d, 2026-11-25 or 2026-11-25T18:00:00Z") from None
    if moment > now:
        raise FaultError(f"--since {text!r} is still to come: choose a moment that is past")
    return moment


def write(moment: datetime) -> str:
    """Return a moment as it is shown, which is also a form that is read."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
