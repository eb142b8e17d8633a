"""Users who try what they may not, and what they are after: an experiment whose content nobody gave them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import requests
from mlflow.server.auth.client import AuthServiceClient

from stack.deployment import Deployment

Login = tuple[str, str]
SECRET = "the-secret-that-nobody-else-may-read"
SECRET_NAME = "Intruders: the other team's"
# A trace's attachments are named by UUIDs.
ATTACHMENT = "0b6a1f3e-7c55-4f0e-9a2d-3f1c6f0e7a11"
# What /etc/passwd and the server's secret files begin with or hold.
SERVER_FILES = ("root:x:0:0", "aws_secret_access_key", "postgres:5432:")


def ask(
    stack: Deployment, login: Login | None, method: str, path: str, body: Any = None, **options: Any
) -> requests.Response:
    """Send one request; `body` goes as JSON."""
    return stack.ask(path, login, method, json=body, **options)


def ask_ok(stack: Deployment, login: Login, method: str, path: str, body: Any = None) -> Any:
    """Send one request that has to succeed; return what the JSON answer says."""
    answer = ask(stack, login, method, path, body)
    assert answer.ok, (method, path, answer.status_code, answer.text)
    return answer.json() if answer.text else {}


def discloses(answer: requests.Response) -> bool:
    """Return whether the secret or a file of the server is in the answer."""
    return any(mark in answer.text for mark in (SECRET, *SERVER_FILES))


@dataclass(frozen=True)
class Intruders:
    """The cast.

    Attributes:
        admin: who owns the secret.
        editor: may EDIT every experiment, model and prompt, except for the secret experiment, which is DENYed.
        newcomer: was given nothing.
        viewer: may READ every experiment and model, except for the secret experiment.
        experiment: the secret experiment's id.
        secret_name: its name, which begins with SECRET_NAME.
        run: its run; the artifacts `secret.txt`, `traces.json` and an attachment hold SECRET.
        own_experiment: an experiment of the editor's.
        own_run: its run, with the artifact `own.txt`.
        own_model: a registered model of the editor's.
    """

    admin: Login
    editor: Login
    newcomer: Login
    viewer: Login
    experiment: str
    secret_name: str
    run: str
    own_experiment: str
    own_run: str
    own_model: str

    @property
    def secret_folder(self) -> str:
        """Where the secret's artifacts are below the bucket."""
        return f"{self.experiment}/{self.run}/artifacts"

    @property
    def own_folder(self) -> str:
        return f"{self.own_experiment}/{self.own_run}/artifacts"


def make_user(users: AuthServiceClient, name: str, rights: dict[str, str]) -> Login:
    """Make a user with a role of the test's own that gives these rights on everything of a type."""
    login = (f"{name}-{secrets.token_hex(3)}", f"a-password-of-{name}-{secrets.token_hex(8)}")
    users.create_user(*login)
    role = users.create_role("default", f"tests-{login[0]}")
    for kind, permission in rights.items():
        users.add_role_permission(role.id, kind, "*", permission)
    users.assign_role(login[0], role.id)
    return login


def make_run(stack: Deployment, login: Login, experiment: str) -> str:
    run: str = ask_ok(stack, login, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": experiment})["run"][
        "info"
    ]["run_id"]
    return run


def put_artifact(stack: Deployment, login: Login, path: str, content: str) -> None:
    answer = stack.ask(f"/api/2.0/mlflow-artifacts/artifacts/{path}", login, "PUT", data=content.encode())
    assert answer.ok, answer.text


def make_intruders(stack: Deployment, admin: Login) -> Intruders:
    """Make users, the secret and the editor's own things. Needs the client's variables of an administrator."""
    users = AuthServiceClient(stack.url)
    edit = dict.fromkeys(("experiment", "registered_model", "prompt"), "EDIT")
    read = dict.fromkeys(edit, "READ")
    editor = make_user(users, "editor", edit)
    newcomer = make_user(users, "newcomer", {})
    viewer = make_user(users, "viewer", read)

    create, number = "/api/2.0/mlflow/experiments/create", secrets.token_hex(3)
    secret_name = f"{SECRET_NAME} {number}"
    experiment: str = ask_ok(stack, admin, "POST", create, {"name": secret_name})["experiment_id"]
    for login in (editor, viewer):
        users.grant_user_permission(login[0], "experiment", experiment, "DENY")
    run = make_run(stack, admin, experiment)
    folder = f"{experiment}/{run}/artifacts"
    put_artifact(stack, admin, f"{folder}/secret.txt", SECRET)
    put_artifact(stack, admin, f"{folder}/traces.json", f'{{"spans": [], "note": "{SECRET}"}}')
    put_artifact(stack, admin, f"{folder}/attachments/{ATTACHMENT}", SECRET)

    own = {"name": f"Intruders: the editor's own {number}"}
    own_experiment: str = ask_ok(stack, editor, "POST", create, own)["experiment_id"]
    own_run = make_run(stack, editor, own_experiment)
    put_artifact(stack, editor, f"{own_experiment}/{own_run}/artifacts/own.txt", "own")
    own_model = f"Intruders_{number}"
    ask_ok(stack, editor, "POST", "/api/2.0/mlflow/registered-models/create", {"name": own_model})
    return Intruders(admin, editor, newcomer, viewer, experiment, secret_name, run, own_experiment, own_run, own_model)
