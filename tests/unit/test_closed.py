"""What is closed, and that nothing else is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tracking.closed import FEATURES, Closed

ROUTES = list(csv.DictReader((Path(__file__).parents[1] / "stack/routes.csv").open()))


def test_the_reviewed_list_and_the_patterns_agree() -> None:
    closed = Closed(frozenset())
    seen = {row["path"] for row in ROUTES if closed.find_reason(row["path"])}
    assert seen == {row["path"] for row in ROUTES if row["needs"] == "closed"}


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_a_switch_opens_its_own_feature_only(name: str) -> None:
    before, after = Closed(frozenset()), Closed(frozenset({name}))
    paths = [row["path"] for row in ROUTES if before.find_reason(row["path"])]
    opened = [path for path in paths if after.find_reason(path) is None]
    assert opened
    assert len(opened) < len(paths)
    others = Closed(frozenset(FEATURES) - {name})
    assert all(others.find_reason(path) for path in opened)


def test_everything_can_be_opened() -> None:
    assert Closed(frozenset(FEATURES)).find_reason("/gateway/openai/v1/responses") is None


@pytest.mark.parametrize(
    "path", ["//gateway//mlflow/v1/models", "/ajax-api/3.0/mlflow//assistant/config", "/api/4.0/mlflow/gateway/new"]
)
def test_other_spellings_and_later_versions_are_closed_too(path: str) -> None:
    assert Closed(frozenset()).find_reason(path)


@pytest.mark.parametrize(
    "path", ["/", "/api/2.0/mlflow/runs/create", "/gateways", "/api/2.0/mlflow/jobs-of-mine", "/x/gateway/"]
)
def test_what_only_looks_like_it_is_open(path: str) -> None:
    assert Closed(frozenset()).find_reason(path) is None


def test_the_answer_says_which_switch() -> None:
    assert "STACK_OPEN=gateway" in str(Closed(frozenset()).find_reason("/gateway/x"))
    assert "STACK_JOBS=on" in str(Closed(frozenset()).find_reason("/ajax-api/3.0/jobs/1"))
