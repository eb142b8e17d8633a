"""Every route of the running server, with every role, against the reviewed list (routes.csv); and guessing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import requests

from stack.deployment import QUIET, Deployment, wait_until
from stack.matrix import ROLES, World, ask_all, find_needs, is_refused, make_logins, read_reviewed, read_routes


@pytest.fixture(scope="module")
def own(make_deployment: Callable[..., Deployment]) -> Deployment:
    """A stack of its own: the wrong logins here would have the others' first ones wait."""
    deployment = make_deployment("routes", COMPOSE_FILE=QUIET)
    deployment.check("up", "--no-train")
    return deployment


@pytest.fixture(scope="module")
def routes(own: Deployment) -> list[tuple[str, str]]:
    return read_routes(own)


def test_every_route_of_the_server_has_been_reviewed(routes: list[tuple[str, str]]) -> None:
    reviewed = {(row.method, row.path) for row in read_reviewed()}
    assert len(reviewed) > 500
    assert set(routes) - reviewed == set(), "new in this version: say in routes.csv who may use them"
    assert reviewed - set(routes) == set(), "gone in this version"


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
            assert requests.request(method, own.url + path, timeout=90).status_code == 401, (method, path)


def guess(own: Deployment, user: str, times: int) -> list[requests.Response]:
    """Try passwords, a new one each time: one that is sent again is no guess."""
    return [own.ask("/version", (user, f"guess-{time.time_ns()}")) for _ in range(times)]


def test_a_guesser_is_told_to_wait_and_a_right_login_is_not(own: Deployment) -> None:
    known = own.login()
    right = (known["MLFLOW_TRACKING_USERNAME"], known["MLFLOW_TRACKING_PASSWORD"])
    assert own.ask("/version", right).ok
    # (each worker lets one through every few seconds: a slow machine lets through more of them)
    answers = guess(own, "admin", 120)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) > len(answers) / 2
    last = refused[-1]
    assert 1 <= int(last.headers["Retry-After"]) <= 60
    assert last.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert {answer.status_code for answer in answers} <= {401, 429}
    # The same user from the same address, with the right password, goes on: every worker knows it by now.
    assert all(own.ask("/version", right).ok for _ in range(20))


def test_a_right_login_from_another_address_is_not_locked_out(own: Deployment) -> None:
    # New workers know nobody, and the tool's container has an address of its own.
    own.compose("restart", "mlflow")
    wait_until(lambda: guess(own, "admin", 1)[0].status_code in (401, 429), "the server is back")
    assert 429 in {answer.status_code for answer in guess(own, "admin", 120)}
    assert "admin" in own.check("user", "list")


def test_an_old_password_sent_again_and_again_locks_nobody_out(own: Deployment) -> None:
    assert {own.ask("/version", ("trainer", "an-old-password")).status_code for _ in range(60)} == {401}


def test_no_guess_is_written_with_its_password(own: Deployment) -> None:
    for _ in range(2):
        own.ask("/version", ("admin", "a-guess-that-must-not-be-logged"))
    assert "a-guess-that-must-not-be-logged" not in own.compose("logs", "--no-color")
    assert "a-guess-that-must-not-be-logged" not in own.check("audit", "--json")
