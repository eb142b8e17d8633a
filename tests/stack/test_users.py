"""Accounts and roles as an operator uses them, and their agreement with MLflow's own page and API."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.server.auth.client import AuthServiceClient

from stack.deployment import REVOKED_SECONDS, Deployment, find_end
from tracking import roles

Login = tuple[str, str]
EXPERIMENT, MODEL = "Wine Regression", "Wine_Elasticnet_Sklearn_Regressor"
PASSWORD = "a-password-of-their-own-1"


@pytest.fixture
def users(client: MlflowClient, stack: Deployment) -> AuthServiceClient:
    return AuthServiceClient(stack.url)


@pytest.fixture
def bob(stack: Deployment, users: AuthServiceClient) -> Iterator[Login]:
    """A user that somebody made by MLflow's API, without any role."""
    users.create_user("bob", PASSWORD)
    yield "bob", PASSWORD
    remove(users, "bob")


def remove(users: AuthServiceClient, *names: str) -> None:
    present = list_names(users)
    for name in names:
        if name in present:
            users.delete_user(name)
    for role in users.list_all_roles():
        if role.name.startswith(roles.EXPIRES) and not users.list_role_users(role.id):
            users.delete_role(role.id)


def list_names(users: AuthServiceClient) -> set[str]:
    return {user["username"] for user in users._request("/api/2.0/mlflow/users/list", "GET")["users"]}


def find_roles(users: AuthServiceClient, name: str) -> set[str]:
    return {role.name for role in users.list_user_roles(name) if not roles.is_direct(role.name)}


def told(stack: Deployment, *arguments: str) -> str:
    """Return what ./stack user would say, without a container's start."""
    return stack.tool("admin").check("user", *arguments)


def describe(stack: Deployment, name: str) -> dict[str, Any]:
    (found,) = json.loads(told(stack, "list", name, "--json"))
    assert isinstance(found, dict)
    return found


def status(stack: Deployment, login: Login, experiment_id: str) -> int:
    return stack.ask(f"/api/2.0/mlflow/experiments/get?experiment_id={experiment_id}", login).status_code


def test_the_roles_are_in_mlflows_store(stack: Deployment, users: AuthServiceClient) -> None:
    made = {role.name: role for role in users.list_roles(roles.WORKSPACE) if role.name in roles.DESCRIPTIONS}
    for name, permission, of_scorers in (("viewer", "READ", "READ"), ("editor", "EDIT", "MANAGE")):
        expected = {(kind, "*", permission) for kind in ("experiment", "registered_model", "prompt")}
        expected.add(("scorer", "*", of_scorers))
        found = made[name].permissions
        assert {(p.resource_type, p.resource_pattern, p.permission) for p in found} == expected
    assert [(p.resource_type, p.permission) for p in made["promoter"].permissions] == [
        (p.resource_type, p.permission) for p in made["editor"].permissions
    ]
    assert made["disabled"].permissions == []
    assert all(role.description for role in made.values())
    assert find_roles(users, "trainer") == {"promoter"}


def test_a_role_that_is_missing_is_made_and_one_that_was_edited_stays(
    stack: Deployment, users: AuthServiceClient
) -> None:
    made = {role.name: role for role in users.list_roles(roles.WORKSPACE)}
    edited = next(p for p in made["viewer"].permissions if p.resource_type == "scorer")
    users.remove_role_permission(edited.id)
    users.delete_role(made["promoter"].id)
    users.delete_role(made["disabled"].id)
    try:
        stack.compose("run", "--rm", "--no-deps", "-T", "migrate")
        after = {role.name: role for role in users.list_roles(roles.WORKSPACE)}
        assert {p.resource_type for p in after["viewer"].permissions} == {"experiment", "registered_model", "prompt"}
        assert len(after["promoter"].permissions) == 4
        assert after["disabled"].permissions == []
        assert find_roles(users, "trainer") == {"promoter"}
    finally:
        users.add_role_permission(made["viewer"].id, "scorer", "*", "READ")


def test_a_trainer_whose_role_somebody_changed_keeps_the_change(stack: Deployment, users: AuthServiceClient) -> None:
    made = {role.name: role for role in users.list_roles(roles.WORKSPACE)}
    users.unassign_role("trainer", made["promoter"].id)
    users.delete_role(made["disabled"].id)
    try:
        stack.compose("run", "--rm", "--no-deps", "-T", "migrate")
        assert find_roles(users, "trainer") == set()
        assert "disabled" in {role.name for role in users.list_roles(roles.WORKSPACE)}
    finally:
        users.assign_role("trainer", made["promoter"].id)


def test_a_user_is_added_with_a_password_that_is_shown_once(
    stack: Deployment, users: AuthServiceClient, client: MlflowClient
) -> None:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    try:
        added = stack.run("user", "add", "ann", "--role", "viewer")
        assert added.returncode == 0, added.stderr
        login = ("ann", added.stdout.removesuffix("\n"))
        assert len(login[1]) == 24
        assert "ann was added as viewer" in added.stderr
        assert login[1] not in added.stderr
        # MLflow's side: the same user, with the role that its page shows.
        assert not users.get_user("ann").is_admin
        assert find_roles(users, "ann") == {"viewer"}
        assert status(stack, login, experiment) == 200
        run = {"experiment_id": experiment}
        assert stack.ask("/api/2.0/mlflow/runs/create", login, "POST", json=run).status_code == 403
        again = stack.tool("admin").run("user", "add", "ann", "--role", "admin")
        assert (again.returncode, again.stdout) == (1, "")
        assert "there is a user 'ann' already" in again.stderr
        assert not users.get_user("ann").is_admin
        assert status(stack, login, experiment) == 200
    finally:
        remove(users, "ann")


def test_a_password_of_ones_own_comes_from_a_file_or_stdin(stack: Deployment, users: AuthServiceClient) -> None:
    file = stack.root / "tests" / "password.txt"
    file.write_text(PASSWORD + "\n")
    try:
        # The path is relative to the folder that the user is in.
        command = "cd tests && ../stack user add ann --role editor --password-file password.txt --expires 90d --json"
        added = stack.execute("sh", "-c", command)
        assert added.returncode == 0, added.stderr
        shown = json.loads(added.stdout)
        assert (shown["name"], shown["role"]) == ("ann", "editor")
        assert "password" not in shown
        assert stack.ask("/version", ("ann", PASSWORD)).status_code == 200
        assert find_roles(users, "ann") == {"editor", f"expires-{shown['expires']}"}
        changed = stack.check("user", "passwd", "ann", "--password-file=-", stdin="another-password-2")
        assert changed == "ann has another password\n"
        assert stack.ask("/version", ("ann", "another-password-2")).status_code == 200
        made = told(stack, "passwd", "ann").removesuffix("\n")
        assert stack.ask("/version", ("ann", made)).status_code == 200
    finally:
        file.unlink()
        remove(users, "ann")


def test_what_is_changed_on_mlflows_side_is_seen_on_ours_and_back(
    stack: Deployment, users: AuthServiceClient, client: MlflowClient, bob: Login
) -> None:
    made = {role.name: role.id for role in users.list_roles(roles.WORKSPACE)}
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    nothing = {"other_roles": [], "disabled": False, "expired": False, "expires": None, "grants": []}
    assert describe(stack, "bob") == {"name": "bob", "role": None, **nothing}
    # MLflow's side changes, ours follows.
    users.assign_role("bob", made["editor"])
    users.grant_user_permission("bob", "registered_model", MODEL, "MANAGE")
    chemists = users.create_role(roles.WORKSPACE, "chemists")
    try:
        users.assign_role("bob", chemists.id)
        assert describe(stack, "bob") == {
            "name": "bob",
            "role": "editor",
            **nothing,
            "other_roles": ["chemists"],
            "grants": [{"kind": "model", "id": MODEL, "permission": "MANAGE"}],
        }
        table = told(stack, "list", "bob")
        assert re.search(r"^bob +editor \(chemists\) +yes +- +1$", table, re.MULTILINE)
        assert "__user_" not in told(stack, "list") + told(stack, "list", "--json")
        # Ours changes, MLflow's follows. What somebody gave on the page stays.
        assert json.loads(told(stack, "role", "bob", "viewer", "--json"))["role"] == "viewer"
        assert find_roles(users, "bob") == {"viewer", "chemists"}
        told(stack, "role", "bob", "admin")
        assert users.get_user("bob").is_admin
        assert find_roles(users, "bob") == {"chemists"}
        assert describe(stack, "bob")["role"] == "admin"
        told(stack, "role", "bob", "promoter")
        assert not users.get_user("bob").is_admin
        assert find_roles(users, "bob") == {"promoter", "chemists"}
        users.update_user_admin("bob", True)
        assert describe(stack, "bob")["role"] == "admin"
        assert status(stack, bob, experiment) == 200
    finally:
        users.delete_role(chemists.id)


def assert_status(stack: Deployment, login: Login, experiment: str, expected: int) -> None:
    """Rights are read again every two seconds, and a change of them holds within five."""
    assert find_end(lambda: status(stack, login, experiment) != expected, f"status {expected}") < REVOKED_SECONDS


def test_grants_and_denials(stack: Deployment, users: AuthServiceClient, client: MlflowClient, bob: Login) -> None:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id

    def permission(kind: str, identifier: str) -> str:
        name: str = users.get_user_permission("bob", kind, identifier).permission
        return name

    assert_status(stack, bob, experiment, 403)
    assert told(stack, "grant", "bob", "experiment", EXPERIMENT, "READ") == (
        f"bob has READ on experiment {EXPERIMENT}\n"
    )
    assert_status(stack, bob, experiment, 200)
    assert permission("experiment", experiment) == "READ"
    told(stack, "grant", "bob", "experiment", experiment, "MANAGE")
    assert permission("experiment", experiment) == "MANAGE"
    told(stack, "grant", "bob", "model", MODEL, "USE")
    assert permission("registered_model", MODEL) == "USE"
    told(stack, "role", "bob", "editor")
    denied = json.loads(told(stack, "deny", "bob", "experiment", EXPERIMENT, "--json"))
    assert {"kind": "experiment", "id": experiment, "permission": "DENY"} in denied["grants"]
    assert_status(stack, bob, experiment, 403)
    assert re.search(rf"^experiment +{experiment} +{EXPERIMENT} +DENY$", told(stack, "list", "bob"), re.MULTILINE)
    told(stack, "revoke", "bob", "experiment", EXPERIMENT)
    assert_status(stack, bob, experiment, 200)
    assert permission("experiment", experiment) == "EDIT"
    told(stack, "revoke", "bob", "model", MODEL)
    assert describe(stack, "bob")["grants"] == []


def test_disabling_enabling_expiring_and_removing(stack: Deployment, users: AuthServiceClient, bob: Login) -> None:
    made = {role.name: role.id for role in users.list_roles(roles.WORKSPACE)}
    users.assign_role("bob", made["viewer"])
    assert json.loads(told(stack, "disable", "bob", "--json"))["disabled"] is True
    assert find_roles(users, "bob") == {"viewer", "disabled"}
    assert re.search(r"^bob +viewer +disabled +- +0$", told(stack, "list"), re.MULTILINE)
    assert json.loads(told(stack, "disable", "bob", "--json"))["disabled"] is True
    assert json.loads(told(stack, "enable", "bob", "--json"))["disabled"] is False
    assert find_roles(users, "bob") == {"viewer"}
    for moment in ("2999-12-31", "2998-12-31"):
        assert told(stack, "expire", "bob", moment) == f"bob can log in until {moment}T00:00:00Z\n"
        assert find_roles(users, "bob") == {"viewer", f"expires-{moment}T00:00:00Z"}
    gone = told(stack, "remove", "bob", "--json")
    assert json.loads(gone) == {"name": "bob", "removed": True}
    assert "bob" not in list_names(users)
    assert not [role.name for role in users.list_all_roles() if role.name.startswith(roles.EXPIRES)]


def test_a_disabled_user_is_shut_out_and_let_in_again(stack: Deployment, users: AuthServiceClient, bob: Login) -> None:
    assert stack.ask("/version", bob).status_code == 200
    stack.check("user", "disable", "bob")
    assert find_end(lambda: stack.ask("/version", bob).status_code != 401, "bob is shut out") < REVOKED_SECONDS
    told(stack, "enable", "bob")
    assert find_end(lambda: stack.ask("/version", bob).status_code != 200, "bob is let in again") < REVOKED_SECONDS


def test_a_service_account_has_its_owners_role_and_an_end(
    stack: Deployment, users: AuthServiceClient, bob: Login
) -> None:
    refused = stack.tool("admin").run("user", "token", "add", "bob", "--for", "ci", "--expires", "90d")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "choose the service's own with --role" in refused.stderr
    users.assign_role("bob", {role.name: role.id for role in users.list_roles(roles.WORKSPACE)}["editor"])
    try:
        made = json.loads(told(stack, "token", "add", "bob", "--for", "ci", "--expires", "2999-12-31", "--json"))
        assert (made["name"], made["role"], made["expires"]) == ("bob-ci", "editor", "2999-12-31T00:00:00Z")
        assert find_roles(users, "bob-ci") == {"editor", "expires-2999-12-31T00:00:00Z"}
        assert stack.ask("/version", ("bob-ci", made["password"])).status_code == 200
        removed = stack.tool("admin").run("user", "remove", "bob")
        assert "accounts that may be bob's services still log in: bob-ci" in removed.stderr
    finally:
        remove(users, "bob-ci")


def test_a_team_is_imported_whole_or_not_at_all(stack: Deployment, users: AuthServiceClient, bob: Login) -> None:
    before, roles_before = list_names(users), {role.name for role in users.list_all_roles()}
    file = stack.root / "team.csv"
    try:
        file.write_text("name,role,expires\ncarol,editor,2999-12-31\nd:ave,viewer,\nbob,viewer,\ncarol,boss,soon\n")
        bad = stack.run("user", "import", "team.csv")
        assert (bad.returncode, bad.stdout) == (1, "")
        assert [line.split(":")[1].strip() for line in bad.stderr.splitlines()] == [
            "line 3",
            "line 4",
            "line 5",
            "line 5",
            "line 5",
            "nobody was added",
        ]
        assert "there is a user 'bob' already" in bad.stderr
        assert list_names(users) == before
        assert {role.name for role in users.list_all_roles()} == roles_before
        file.write_text("name,role,expires\ncarol,editor,2999-12-31\ndave,viewer,\nerin,admin,\n")
        rows = list(csv.DictReader(stack.check("user", "import", "team.csv").splitlines()))
        assert [row["name"] for row in rows] == ["carol", "dave", "erin"]
        assert find_roles(users, "carol") == {"editor", "expires-2999-12-31T00:00:00Z"}
        assert find_roles(users, "dave") == {"viewer"}
        assert users.get_user("erin").is_admin
        for row in rows:
            assert stack.ask("/version", (row["name"], row["password"])).status_code == 200
        again = stack.run("user", "import", "-", stdin=file.read_text())
        assert again.stderr.count("already") == 3
    finally:
        file.unlink(missing_ok=True)
        remove(users, "carol", "dave", "erin")


def test_bad_input_is_one_line_and_changes_nothing(stack: Deployment, users: AuthServiceClient, bob: Login) -> None:
    before = told(stack, "list", "--json")
    attempts: list[tuple[list[str], str, str]] = [
        (["add", "eve", "--role", "boss"], "", "there is no role 'boss': choose viewer, editor, promoter, admin"),
        (["add", "e:ve", "--role", "viewer"], "", "name 'e:ve' is unfit"),
        (["add", "eve", "--role", "viewer", "--password-file", "-"], "short", "has 5 characters: choose one of 12"),
        (
            ["add", "eve", "--role", "viewer", "--password-file", "no.txt"],
            "",
            "'no.txt' is not a file that can be read",
        ),
        (["import", "no.csv"], "", "'no.csv' is not a file that can be read"),
        (["role", "nobody", "viewer"], "", "there is no user 'nobody': ./stack user list shows them"),
        (["role", "admin", "viewer"], "", "admin can't be made a viewer: ./stack itself logs in with it"),
        (["remove", "admin"], "", "admin can't be removed: ./stack itself logs in with it"),
        (["disable", "admin"], "", "admin can't be disabled: ./stack itself logs in with it"),
        (["passwd", "trainer"], "", "./stack secrets rotate trainer_password"),
        (["grant", "bob", "experiment", "No such", "READ"], "", "there is no experiment 'No such'"),
        (["grant", "bob", "run", "1", "READ"], "", "there is no kind 'run': choose experiment or model"),
        (["revoke", "bob", "experiment", "Default"], "", "bob has no grant of its own on experiment 'Default'"),
    ]
    by_hand = [arguments for arguments, _, _ in attempts if {"-", "no.txt", "no.csv", "nobody"} & {*arguments}]
    assert len(by_hand) == 4
    for arguments, stdin, words in attempts:
        run = stack.run if arguments in by_hand else stack.tool("admin").run
        result = run("user", *arguments, stdin=stdin)
        assert (result.returncode, result.stdout) == (1, ""), arguments
        assert result.stderr.count("\n") == 1, result.stderr
        assert words in result.stderr
    assert stack.tool("admin").run("user", "add", "eve").returncode == 2
    assert stack.run("user", "frobnicate").returncode == 2
    assert told(stack, "list", "--json") == before


def test_loops_over_names_keep_their_input(stack: Deployment) -> None:
    command = "printf 'admin\ntrainer\n' | while read -r name; do ./stack user list \"$name\"; done"
    shown = stack.execute("sh", "-c", command).stdout
    assert re.findall(r"^(admin|trainer) ", shown, re.MULTILINE) == ["admin", "trainer"]


@pytest.fixture
def write_audit(stack: Deployment) -> Iterator[Callable[[str, str], None]]:
    """Return a function that writes a day's file into the volume, as the gateway does."""
    days: list[str] = []

    def run(command: str, content: str = "") -> None:
        volume = f"{stack.name}_audit:/log"
        subprocess.run(
            [
                "docker",
                "run",
                "--rm",
                "-i",
                "--user",
                "0",
                "--volume",
                volume,
                "--entrypoint",
                "sh",
                stack.image("nginx"),
            ]
            + ["-c", command],
            input=content.encode("utf-8", "surrogateescape"),
            check=True,
            timeout=300,
        )

    def write(day: str, content: str) -> None:
        days.append(day)
        run(f"cat > /log/audit-{day}.jsonl", content)

    yield write
    run("rm " + " ".join(f"/log/audit-{day}.jsonl" for day in days))


def test_the_audit_log_is_searched(stack: Deployment, write_audit: Callable[[str, str], None]) -> None:
    def line(time: str, user: str, action: str, targets: str) -> str:
        entry = {"time": time, "request_id": "r", "user": user, "address": "10.0.0.7", "method": "POST"}
        return (
            json.dumps(
                {**entry, "path": f"/api/2.0/mlflow/{action}", "action": action, "status": 200, "targets": targets}
            )
            + "\n"
        )

    write_audit(
        "2001-02-03",
        line("2001-02-03T10:00:00+00:00", "audit-ann", "experiments/create", '{"name": "m"}') + "not json\n",
    )
    write_audit("2001-02-05", line("2001-02-05T10:00:00+00:00", "audit-bob", "registered-models/alias", "-"))
    write_audit("2001-02-06", line("2001-02-06T10:00:00+00:00", "audit-ann", "experiments/delete", ""))
    shown = stack.run("audit", "--user", "audit-ann")
    assert [row.split()[2] for row in shown.stdout.splitlines()] == ["USER", "audit-ann", "audit-ann"]
    assert "stack: lines left out because they can't be read: 1" in shown.stderr
    (found,) = [
        json.loads(row)
        for row in stack.tool("admin")
        .check("audit", "--json", "--user", "audit-ann", "--action", "experiments/c")
        .splitlines()
    ]
    assert (found["targets"], found["address"], found["status"]) == ({"name": "m"}, "10.0.0.7", 200)
    recent = stack.tool("admin").run("audit", "--json", "--since", "2001-02-05T12:00:00Z", "--user", "audit-ann")
    assert [json.loads(row)["action"] for row in recent.stdout.splitlines()] == ["experiments/delete"]
    assert recent.stderr == ""
    refused = stack.tool("admin").run("audit", "--since", "yesterday")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--since 'yesterday' is no moment" in refused.stderr


def test_the_tool_can_not_change_the_audit_log(stack: Deployment) -> None:
    script = "touch /var/log/stack/audit-2001-01-01.jsonl"
    result = stack.execute(
        "docker", "compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "admin", "-c", script
    )
    assert "Read-only file system" in result.stderr
