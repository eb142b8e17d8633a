"""Who may do what, beyond MLflow's own permissions, and how soon a right ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

from stack.accounts import PASSWORD, assign
from stack.deployment import REVOKED_SECONDS, Deployment, find_end, wait_until
from tracking import roles
from tracking.identity import REREAD_SECONDS

Login = tuple[str, str]
WINE = "Wine_Elasticnet_Sklearn_Regressor"


def refused(error: pytest.ExceptionInfo[MlflowException]) -> str:
    assert error.value.get_http_status_code() == HTTPStatus.FORBIDDEN, error.value
    return str(error.value.message)


def make_model(client: MlflowClient) -> str:
    """Make a model with a version, as a training script does; return its name."""
    name = f"m{time.time_ns()}"
    with mlflow.start_run(experiment_id=client.create_experiment(f"e-{name}")) as run:
        mlflow.log_metric("rmse", 0.7)
        mlflow.log_text("notes", "notes.txt")
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run.info.run_id}/model", run.info.run_id)
    return name


def test_an_editor_does_all_of_a_training_but_the_promotion(
    client: MlflowClient, make_user: Callable[[str], Login], act_as: Callable[[Login], None]
) -> None:
    act_as(make_user("editor"))
    name = make_model(client)
    client.set_registered_model_alias(name, "champion", "1")
    for alias in ("production", "Production"):
        with pytest.raises(MlflowException) as error:
            client.set_registered_model_alias(name, alias, "1")
        assert "needs the role promoter" in refused(error)
    for stage in ("Staging", "Production", "Archived"):
        with pytest.raises(MlflowException) as error:
            client.transition_model_version_stage(name, "1", stage)
        assert "needs the role promoter" in refused(error)
    assert client.get_model_version(name, "1").current_stage == "None"
    assert client.get_model_version(name, "1").aliases == ["champion"]
    client.delete_registered_model_alias(name, "champion")
    client.delete_registered_model(name)  # its own, and not in Production


def test_a_promoter_promotes_and_then_the_creator_can_not_take_it_away(
    client: MlflowClient, make_user: Callable[[str], Login], act_as: Callable[[Login], None]
) -> None:
    editor, promoter = make_user("editor"), make_user("promoter")
    act_as(editor)
    name = make_model(client)
    act_as(promoter)
    client.transition_model_version_stage(name, "1", "Production")
    client.set_registered_model_alias(name, "production", "1")
    act_as(editor)
    attempts: list[Callable[[], Any]] = [
        lambda: client.delete_model_version(name, "1"),
        lambda: client.delete_registered_model(name),
        lambda: client.rename_registered_model(name, name + "x"),
        lambda: client.delete_registered_model_alias(name, "production"),
        lambda: client.transition_model_version_stage(name, "1", "Archived"),
    ]
    for attempt in attempts:
        with pytest.raises(MlflowException) as error:
            attempt()
        assert "needs the role promoter" in refused(error)
    version = client.get_model_version(name, "1")
    assert (version.current_stage, version.aliases) == ("Production", ["production"])
    act_as(promoter)
    client.transition_model_version_stage(name, "1", "Archived")
    assert client.get_model_version(name, "1").aliases == []  # which went with the stage
    act_as(editor)
    client.delete_model_version(name, "1")


def test_a_viewer_reads_everything_and_makes_nothing(
    client: MlflowClient, make_user: Callable[[str], Login], act_as: Callable[[Login], None]
) -> None:
    act_as(make_user("viewer"))
    experiment = client.get_experiment_by_name("Wine Regression")
    assert client.search_runs([experiment.experiment_id])
    run = client.get_run(client.get_model_version_by_alias(WINE, "production").run_id)  # another may be a test's
    assert client.list_artifacts(run.info.run_id)
    assert mlflow.artifacts.list_artifacts(run_id=run.info.run_id)
    attempts: list[Callable[[], Any]] = [
        lambda: client.create_experiment("a viewer's"),
        lambda: client.create_registered_model("a viewer's"),
        lambda: client.create_run(experiment.experiment_id),
        lambda: client.log_metric(run.info.run_id, "x", 1),
        lambda: client.set_tag(run.info.run_id, "x", "1"),
        lambda: client.delete_run(run.info.run_id),
        lambda: client.set_registered_model_alias(WINE, "mine", "1"),
    ]
    for attempt in attempts:
        with pytest.raises(MlflowException) as error:
            attempt()
        assert error.value.get_http_status_code() == 403


def test_new_things_are_the_teams_without_a_click(
    client: MlflowClient, make_user: Callable[[str], Login], act_as: Callable[[Login], None]
) -> None:
    one, other = make_user("editor"), make_user("editor")
    act_as(one)
    name = make_model(client)
    experiment = client.get_experiment_by_name(f"e-{name}").experiment_id
    act_as(other)
    client.create_run(experiment)
    client.set_registered_model_tag(name, "seen", "yes")
    with pytest.raises(MlflowException) as error:
        client.delete_experiment(experiment)
    assert error.value.get_http_status_code() == 403
    act_as(one)
    client.delete_experiment(experiment)


def test_a_denied_experiment_is_denied_however_its_id_is_written(
    stack: Deployment, client: MlflowClient, users: AuthServiceClient, make_user: Callable[[str], Login]
) -> None:
    login = make_user("editor")
    number = client.create_experiment(f"secret-{time.time_ns()}")
    users.grant_user_permission(login[0], "experiment", number, "DENY")
    get, search = "/api/2.0/mlflow/experiments/get", "/api/2.0/mlflow/runs/search"
    for written in (number, f"0{number}", f" {number}", f"+{number}", "".join(chr(0x660 + int(d)) for d in number)):
        answers = [
            stack.ask(get, login, params={"experiment_id": written}),
            stack.ask("/api/2.0/mlflow/runs/create", login, "POST", json={"experiment_id": written}),
            stack.ask("/api/2.0/mlflow/runs/create", login, "POST", json=json.dumps({"experiment_id": written})),
        ]
        assert all(answer.status_code in (400, 403) for answer in answers), (written, answers)
        found = stack.ask(search, login, "POST", json={"experiment_ids": [written]})
        assert found.status_code in (400, 403) or found.json().get("runs", []) == []
        query = {"query": f'{{mlflowGetExperiment(input: {{experimentId: "{written}"}}) {{experiment {{name}}}}}}'}
        assert "secret-" not in stack.ask("/graphql", login, "POST", json=query).text
    assert stack.ask(get, login, params={"experiment_id": "1"}).status_code == 200


# --------------------------------------------------------------------------------------------------- how a login ends
def is_in(stack: Deployment, login: Login) -> bool:
    """Return whether any of several requests, each over a connection of its own to spread over the workers, gets in."""
    return any(requests.get(stack.url + "/version", auth=login, timeout=90).ok for _ in range(6))


def ends(stack: Deployment, login: Login) -> float:
    """Return after how many seconds a login was taken for the last time: by then three more seconds say no."""

    def is_taken() -> bool:
        return requests.get(stack.url + "/version", auth=login, timeout=90).ok

    return find_end(is_taken, f"the login of {login[0]} ends", quiet=REREAD_SECONDS + 1, times=6)


@pytest.mark.parametrize("how", ["password", "remove", "disable", "expire"])
def test_a_login_that_is_taken_away_ends_within_seconds_on_every_worker(
    stack: Deployment, users: AuthServiceClient, make_user: Callable[[str], Login], how: str
) -> None:
    login = make_user("editor")
    assert is_in(stack, login)
    if how == "password":
        users.update_user_password(login[0], "another-password-2")
    elif how == "remove":
        users.delete_user(login[0])
    elif how == "disable":
        assign(users, login[0], roles.DISABLED)
    else:
        assign(users, login[0], roles.expiry_role(datetime.now(UTC) + timedelta(seconds=1)))
        time.sleep(1)
    assert ends(stack, login) < REVOKED_SECONDS
    if how == "password":
        assert stack.ask("/version", (login[0], "another-password-2")).ok
    if how == "disable":
        known = {found.name: found.id for found in users.list_roles(roles.WORKSPACE)}
        users.unassign_role(login[0], known[roles.DISABLED])
        wait_until(lambda: is_in(stack, login), "the login is good again")


def test_a_role_that_is_taken_away_ends_within_seconds(
    stack: Deployment, users: AuthServiceClient, make_user: Callable[[str], Login]
) -> None:
    login = make_user("promoter")
    move = {"name": WINE, "alias": "production", "version": "1"}
    before = users.list_user_roles(login[0])
    (promoter,) = [role.id for role in before if role.name == "promoter"]
    current = stack.ask(f"/api/2.0/mlflow/registered-models/alias?name={WINE}&alias=production", login).json()
    move["version"] = current["model_version"]["version"]
    assert stack.ask("/api/2.0/mlflow/registered-models/alias", login, "POST", json=move).ok
    assign(users, login[0], "editor")
    users.unassign_role(login[0], promoter)

    def may_promote() -> bool:
        return stack.ask("/api/2.0/mlflow/registered-models/alias", login, "POST", json=move).status_code != 403

    assert find_end(may_promote, "the right to promote ends", times=6) < REVOKED_SECONDS


def test_an_administrator_who_is_demoted_is_none_within_seconds(
    stack: Deployment, users: AuthServiceClient, make_user: Callable[[str], Login]
) -> None:
    login = make_user("viewer")
    users.update_user_admin(login[0], True)
    wait_until(lambda: stack.ask("/api/2.0/mlflow/webhooks", login).ok, "administrator")
    users.update_user_admin(login[0], False)

    def is_administrator() -> bool:
        return stack.ask("/api/2.0/mlflow/webhooks", login).status_code != 403

    assert find_end(is_administrator, "administrator no longer", times=6) < REVOKED_SECONDS


def test_users_change_their_own_password_with_the_old_one(stack: Deployment, make_user: Callable[[str], Login]) -> None:
    name, old = make_user("viewer")
    path, new = "/ajax-api/2.0/mlflow/users/update-password", "my-new-password-2"
    without = stack.ask(path, (name, old), "PATCH", json={"username": name, "password": new})
    assert (without.status_code, "Current password" in without.text) == (400, True)
    body = {"username": name, "password": new, "current_password": old}
    assert stack.ask(path, (name, old), "PATCH", json={**body, "username": "admin"}).status_code == 403
    assert stack.ask(path, (name, old), "PATCH", json=body).ok
    assert stack.ask("/version", (name, new)).ok
    assert ends(stack, (name, old)) < REVOKED_SECONDS


# ----------------------------------------------------------------------------------------- what nobody may do to users
def test_the_last_administrator_stays(stack: Deployment, admin: Login, users: AuthServiceClient) -> None:
    known = {found.name: found.id for found in users.list_roles(roles.WORKSPACE)}
    demote = ("PATCH", "2.0", "users/update-admin", {"username": "admin", "is_admin": False})
    disable = ("POST", "3.0", "roles/assign", {"username": "admin", "role_id": known[roles.DISABLED]})
    for method, version, path, body in (demote, disable):
        for prefix in ("/api", "/ajax-api"):
            answer = stack.ask(f"{prefix}/{version}/mlflow/{path}", admin, method, json=body)
            assert (answer.status_code, "last administrator" in answer.text) == (400, True), answer.text
    assert users.get_user("admin").is_admin
    assert stack.ask("/version", admin).ok


def test_two_administrators_can_not_demote_each_other_at_once(
    stack: Deployment, admin: Login, users: AuthServiceClient, make_user: Callable[[str], Login]
) -> None:
    other = make_user("viewer")
    users.update_user_admin(other[0], True)
    wait_until(lambda: stack.ask("/api/2.0/mlflow/webhooks", other).ok, "administrator")

    def demote(pair: tuple[Login, str]) -> int:
        body = {"username": pair[1], "is_admin": False}
        return stack.ask("/api/2.0/mlflow/users/update-admin", pair[0], "PATCH", json=body).status_code

    try:
        with ThreadPoolExecutor(2) as pool:
            codes = sorted(pool.map(demote, [(admin, other[0]), (other, "admin")]))
        listed = stack.ask("/api/2.0/mlflow/users/list", admin).json()["users"]
        assert any(user["is_admin"] for user in listed)
        assert codes[0] == 200
        assert codes[1] in (400, 403)
    finally:
        if stack.ask("/api/2.0/mlflow/webhooks", other).ok:
            body = {"username": "admin", "is_admin": True}
            assert stack.ask("/api/2.0/mlflow/users/update-admin", other, "PATCH", json=body).ok
            wait_until(lambda: stack.ask("/api/2.0/mlflow/webhooks", admin).ok, "admin is back")


@pytest.mark.parametrize("name", ["with:colon", "with\nline", "", " ", "-x", "a" * 200, "ü", None, 7])
def test_a_name_that_could_not_log_in_is_refused(stack: Deployment, admin: Login, name: object) -> None:
    body = {"username": name, "password": PASSWORD}
    assert stack.ask("/api/2.0/mlflow/users/create", admin, "POST", json=body).status_code == 400


@pytest.mark.parametrize("password", ["short", "passwörd-of-mine-1", "with\na-line-in-it", None, 123456789012])
def test_a_password_that_could_not_log_in_everywhere_is_refused(
    stack: Deployment, admin: Login, password: object
) -> None:
    body = {"username": f"n{time.time_ns()}", "password": password}
    answer = stack.ask("/api/2.0/mlflow/users/create", admin, "POST", json=body)
    assert answer.status_code == 400, answer.text


# ----------------------------------------------------------------------------------------------------------- audit log
def read_audit(stack: Deployment, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.tool("admin").check("audit", "--json", *options).splitlines()]


def test_the_audit_log_says_who_did_what(
    stack: Deployment, client: MlflowClient, make_user: Callable[[str], Login], act_as: Callable[[Login], None]
) -> None:
    promoter, viewer = make_user("promoter"), make_user("viewer")
    act_as(promoter)
    name = make_model(client)
    client.set_registered_model_alias(name, "production", "1")
    answer = stack.ask("/api/2.0/mlflow/experiments/create", viewer, "POST", json={"name": "x"})
    entries = {(entry["action"], entry["status"]): entry for entry in read_audit(stack, "--user", promoter[0])}
    moved = entries["registered-models/alias", 200]
    assert moved["targets"] == {"version": "1", "alias": "production", "name": name}
    assert moved["user"] == promoter[0]
    made = entries["runs/create", 200]["targets"]
    assert made["experiment_id"] == client.get_experiment_by_name(f"e-{name}").experiment_id
    assert made["run_id"] == client.search_runs([made["experiment_id"]])[0].info.run_id
    (refusal,) = read_audit(stack, "--user", viewer[0], "--action", "experiments/create")
    assert (refusal["status"], refusal["request_id"]) == (403, answer.headers["X-Request-Id"])
    assert "X-Stack-Targets" not in answer.headers
    everything = read_audit(stack)
    assert PASSWORD not in json.dumps(everything)
    streams = {"runs/log-metric", "runs/log-batch", "runs/search"}
    assert [entry for entry in everything if entry["action"] in streams and entry["status"] == 200] == []


def test_nobody_but_the_gateway_can_write_the_audit_log(stack: Deployment) -> None:
    volume = f"{stack.name}_audit"
    for service in ("mlflow", "postgres", "objectstore", "nginx"):
        mounts = {mount.get("Name"): mount for mount in stack.container(service)["Mounts"]}
        assert (volume in mounts) == (service == "nginx")
    result = stack.execute(
        "docker", "compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", "touch", "admin", "/var/log/stack/x"
    )
    assert result.returncode != 0
