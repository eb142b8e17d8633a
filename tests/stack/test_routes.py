"""Every route of the running server, with every role, against the reviewed list (routes.csv)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from stack.deployment import Deployment
from stack.matrix import ROLES, World, ask_all, find_needs, is_refused, make_logins, read_reviewed, read_routes


@pytest.fixture(scope="module")
def own(make_deployment: Callable[..., Deployment]) -> Deployment:
    """A stack of its own: the wrong logins here would have the others' first ones wait."""
    deployment = make_deployment("routes")
    deployment.check("up", "--no-train", timeout=600)
    return deployment


@pytest.fixture(scope="module")
def routes(own: Deployment) -> list[tuple[str, str]]:
    return read_routes(own)


def test_every_route_of_the_server_has_been_reviewed(routes: list[tuple[str, str]]) -> None:
    reviewed = {(row.method, row.path) for row in read_reviewed()}
    assert len(reviewed) > 500
    assert set(routes) - reviewed == set(), "new in this version: say in routes.csv who may use them"
    assert reviewed - set(routes) == set(), "gone in this version"


@pytest.mark.timeout(600)
def test_nobody_gets_further_than_the_reviewed_list_says(own: Deployment, routes: list[tuple[str, str]]) -> None:
    login = own.login()
    world = World(own, (login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]))
    expected = {(row.method, row.path): row for row in read_reviewed()}
    deviations, pairs = [], 0
    for method, path, answers in ask_all(world, routes, make_logins(world)):
        row = expected.get((method, path))
        assert row is not None, (method, path)
        pairs += len(answers)
        for role, answer in answers.items():
            if is_refused(answer) == row.lets_in(role):
                deviations.append(
                    (method, path, role, answer.status_code, f"expected {row.needs}, seen {find_needs(answers)}")
                )
    assert deviations == []
    assert pairs == len(routes) * len(ROLES) > 3500
    print(f"{pairs} pairs of route and role, none deviates")


def test_a_route_that_nobody_knows_needs_a_login_too(own: Deployment) -> None:
    for path in ("/no/such/route", "/ajax-api/9.9/mlflow/secrets", "/metrics"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
            assert requests.request(method, own.url + path, timeout=30).status_code == 401, (method, path)
