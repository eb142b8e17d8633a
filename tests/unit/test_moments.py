"""Spans, days and times as an operator writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from admin import moments
from admin.faults import FaultError
from tracking import roles

NOW = datetime(2026, 11, 25, 10, 0, 0, 500, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", "2027-02-23T10:00:00Z"),
        ("2w", "2026-12-09T10:00:00Z"),
        ("12h", "2026-11-25T22:00:00Z"),
        ("5m", "2026-11-25T10:05:00Z"),
        ("1s", "2026-11-25T10:00:01Z"),
        ("2026-12-31", "2026-12-31T00:00:00Z"),
        ("2026-12-31T18:00:00Z", "2026-12-31T18:00:00Z"),
        ("2026-12-31T18:00:00+02:00", "2026-12-31T16:00:00Z"),
        ("2026-12-31T18:00:00", "2026-12-31T18:00:00Z"),
    ],
)
def test_an_expiry_is_read(text: str, expected: str) -> None:
    moment = moments.read_expiry(text, NOW)
    assert moments.write(moment) == expected
    assert roles.expiry_role(moment) == "expires-" + expected
    assert roles.find_expiry([roles.expiry_role(moment)]) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "90",
        "90 d",
        "-1d",
        "1.5d",
        "90y",
        "2026-13-01",
        "2026-02-30",
        "999999999w",
        "٩d",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(FaultError, match="is no moment: write 90d"):
        moments.read_expiry(text, NOW)
    with pytest.raises(FaultError, match="is no moment: write 2h"):
        moments.read_since(text, NOW)


@pytest.mark.parametrize("text", ["0d", "2026-11-25", "2026-11-25T10:00:00Z", "1999-01-01"])
def test_an_expiry_is_still_to_come(text: str) -> None:
    with pytest.raises(FaultError, match="is past: choose a moment to come"):
        moments.read_expiry(text, NOW)


def test_a_look_back_starts_in_the_past() -> None:
    assert moments.write(moments.read_since("2h", NOW)) == "2026-11-25T08:00:00Z"
    assert moments.write(moments.read_since("2026-11-24", NOW)) == "2026-11-24T00:00:00Z"
    with pytest.raises(FaultError, match="still to come"):
        moments.read_since("2026-11-26", NOW)


def test_the_earliest_expiry_counts_and_an_unreadable_one_is_over() -> None:
    assert roles.find_expiry(["viewer", "disabled", "__user_3__"]) is None
    early, late = "expires-2026-12-01T00:00:00Z", "expires-2027-12-01T00:00:00Z"
    assert roles.find_expiry([late, "viewer", early]) == datetime(2026, 12, 1, tzinfo=UTC)
    for name in ("expires-", "expires-never", "expires-2026-12-31", "expires-2026-02-30T00:00:00Z"):
        found = roles.find_expiry([late, name])
        assert found is not None
        assert found < NOW
