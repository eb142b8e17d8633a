"""Nothing is reached without a login, and nobody sees what nobody gave them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

from stack.deployment import Deployment, wait_until

Login = tuple[str, str]

ROUTES = [
    "/",
    "/static-files/index.html",
    "/health",
    "/version",
    "/api/2.0/mlflow/experiments/get?experiment_id=0",
    "/ajax-api/2.0/mlflow/experiments/get?experiment_id=0",
    "/api/3.0/mlflow/server-info",
    "/api/2.0/mlflow-artifacts/artifacts/0/x",
    "/get-artifact?path=x",
    "/graphql",
    "/signup",
    "/admin",
    "/v1/traces",
    "/no/such/route",
]
# (more than a few wrong logins, and the address has to wait: tests/stack/test_edge.py)
BAD_LOGINS: list[Login] = [("admin", "wrong"), ("nobody", "wrong"), ("", ""), ("admin", "")]


@pytest.mark.parametrize("login", BAD_LOGINS)
def test_a_wrong_login_is_refused(stack: Deployment, login: Login) -> None:
    answer = stack.ask("/version", login)
    assert answer.status_code == 401
    assert "log in with a user name and password" in answer.json()["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_asks_for_a_login(stack: Deployment, path: str) -> None:
    answer = stack.ask(path, None)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "log in with a user name and password" in answer.json()["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_every_method_asks_for_a_login(stack: Deployment, method: str) -> None:
    assert stack.ask("/api/2.0/mlflow/experiments/create", None, method).status_code == 401


def test_the_right_login_is_let_in(stack: Deployment, admin: Login) -> None:
    assert stack.ask("/version", admin).text == mlflow.__version__


def test_the_liveness_path_says_nothing(stack: Deployment) -> None:
    answer = stack.ask("/livez", None)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("path", ["/_stack/auth", "/_stack/ready", "/_stack/", "/_stack/x", "//_stack/ready"])
def test_the_stacks_own_routes_are_not_for_clients(stack: Deployment, admin: Login, path: str) -> None:
    assert stack.ask(path, admin).status_code == 404


def test_a_host_that_is_not_ours_is_refused(stack: Deployment, admin: Login) -> None:
    answer = stack.ask("/api/2.0/mlflow/experiments/get?experiment_id=0", admin, headers={"Host": "evil.example"})
    assert answer.status_code == 403


def test_a_foreign_page_can_not_change_anything(stack: Deployment, admin: Login) -> None:
    answer = stack.ask(
        "/api/2.0/mlflow/experiments/create",
        admin,
        "POST",
        json={"name": "foreign"},
        headers={"Origin": "https://evil.example"},
    )
    assert answer.status_code == 403


def test_a_mlflow_client_with_a_wrong_password_is_told_what_to_do(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(MlflowException, match="log in with a user name and password"):
        client.get_experiment("0")


@pytest.fixture
def sign_path(client: MlflowClient) -> str:
    """The path by which MLflow makes a URL for an artifact."""
    with mlflow.start_run(experiment_id="0") as run:
        mlflow.log_text("signed", "signed.txt")
    return f"/api/2.0/mlflow-artifacts/presigned/0/{run.info.run_id}/artifacts/signed.txt"


@pytest.fixture
def presigned(stack: Deployment, admin: Login, sign_path: str) -> str:
    """The URL that MLflow makes for an artifact."""
    answer = stack.ask(sign_path, admin)
    assert answer.ok, answer.text
    url: str = answer.json()["url"]
    return url


def test_a_signed_url_leads_through_the_gateway_and_needs_no_login(stack: Deployment, presigned: str) -> None:
    assert presigned.startswith(stack.url + "/signed/")
    answer = requests.get(presigned, timeout=90)
    assert (answer.status_code, answer.text) == (200, "signed")


def test_a_signed_url_follows_the_host_that_the_client_used(stack: Deployment, admin: Login, sign_path: str) -> None:
    local = stack.url.replace("127.0.0.1", "localhost")
    url = requests.get(local + sign_path, auth=admin, timeout=90).json()["url"]
    assert url.startswith(local + "/signed/")
    assert requests.get(url, timeout=90).text == "signed"


def test_a_signed_url_is_good_for_its_own_key_and_verb_only(presigned: str) -> None:
    address, _, token = presigned.rpartition("/")
    payload, _, signature = token.rpartition(".")
    attempts: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", address, {}),
        ("GET", f"{address}/", {}),
        ("GET", f"{address}/{payload}", {}),
        ("GET", f"{address}/{payload}.", {}),
        ("GET", f"{address}/{payload[:-1]}{'A' if payload[-1] != 'A' else 'B'}.{signature}", {}),
        ("GET", f"{address}/{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", {}),
        ("GET", f"{address}/{payload}x.{signature}", {}),
        ("PUT", presigned, {"data": b"changed"}),
        ("DELETE", presigned, {}),
        ("POST", presigned, {}),
    ]
    for method, url, options in attempts:
        status = requests.request(method, url, timeout=90, **options).status_code
        assert status in (401, 403, 404, 405), (method, url, status)
    assert requests.get(presigned, timeout=90).text == "signed"


def test_an_ordinary_user_sees_nothing_that_is_not_theirs(
    stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    name, password = "carol", "a-password-of-her-own-1"
    users = AuthServiceClient(stack.url)
    users.create_user(name, password)
    try:
        login = (name, password)
        experiment = client.get_experiment_by_name("Wine Regression")
        query = f"/api/2.0/mlflow/experiments/get?experiment_id={experiment.experiment_id}"
        assert stack.ask(query, admin).status_code == 200
        assert stack.ask(query, login).status_code == 403
        found = stack.ask("/api/2.0/mlflow/experiments/search?max_results=100", login).json()
        assert found.get("experiments", []) == []
        users.grant_user_permission(name, "experiment", experiment.experiment_id, "READ")
        assert stack.ask(query, login).status_code == 200
    finally:
        users.delete_user(name)


def test_the_trainer_is_no_administrator(stack: Deployment, client: MlflowClient) -> None:
    user = AuthServiceClient(stack.url).get_user("trainer")
    assert not user.is_admin


def test_every_request_is_one_line_of_json_in_the_gateways_log(stack: Deployment, admin: Login) -> None:
    answer = stack.ask("/version", admin)
    entries: dict[str, Any] = {}

    def is_logged() -> bool:
        lines = [line[line.index("{") :] for line in stack.logs("nginx", "2000").splitlines() if '"request_id"' in line]
        entries.update({entry["request_id"]: entry for entry in map(json.loads, lines)})
        return answer.headers["X-Request-Id"] in entries

    wait_until(is_logged, "the request is in the log")
    entry = entries[answer.headers["X-Request-Id"]]
    assert (entry["user"], entry["method"], entry["path"], entry["status"]) == ("admin", "GET", "/version", 200)
    assert float(entry["upstream_seconds"]) >= 0


def test_logins_are_not_written_into_any_log(stack: Deployment, admin: Login) -> None:
    stack.ask("/version", admin)
    log = stack.compose("logs", "--no-color")
    assert admin[1] not in log
    assert '"user":"admin"' in log
    assert "X-Amz-Signature" not in log
    assert re.search(r'"/signed/[\w.-]{20}', log) is None


def test_only_the_clients_own_variables_are_needed(client: MlflowClient) -> None:
    assert [name for name in os.environ if name.startswith("AWS_")] == []
    assert client.get_experiment("0").name == "Default"
