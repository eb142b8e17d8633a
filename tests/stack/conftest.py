"""Fixtures on real containers: one stack for most tests, others made by the tests that change or break one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.server.auth.client import AuthServiceClient

from stack.accounts import PASSWORD, assign
from stack.deployment import Deployment, read_exports
from stack.external import External, make_external
from stack.intruders import Intruders, make_intruders
from stack.tool import Tool
from stack.transfers import Place

Login = tuple[str, str]
WINE = "Wine_Elasticnet_Sklearn_Regressor"
SERVED = "Served_By_Tests"  # a model that the shared stack serves as soon as it has a version with the alias


def prepare_deployment(suffix: str, **settings: str) -> Deployment:
    """Return one more checkout. Tests run in two or three processes, each with stacks of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    name, scratch = f"{os.environ['STACK_TEST_NAME']}-{worker}", Path(os.environ["STACK_TEST_SCRATCH"]) / worker
    deployment = Deployment(f"{name}-{suffix}", scratch / suffix)
    deployment.prepare(**settings)
    return deployment


@pytest.fixture(scope="module")
def make_deployment() -> Iterator[Callable[..., Deployment]]:
    """Return a function that prepares one more checkout, which serves no models unless told to.

    What it made is destroyed at the end of the file: an idle stack takes time from those that are tested.
    """
    made: list[Deployment] = []

    def make(suffix: str, **settings: str) -> Deployment:
        deployment = prepare_deployment(suffix, **{"STACK_SERVE": "off", **settings})
        made.append(deployment)
        return deployment

    yield make
    for deployment in made:
        deployment.destroy()


@pytest.fixture(scope="session")
def stack() -> Iterator[Deployment]:
    """The stack that most tests use, made as a user makes it."""
    deployment = prepare_deployment("main", STACK_SERVE=f"{WINE}@1,{SERVED}")
    deployment.check("up")
    deployment.known_login = read_exports(deployment.check("env"))
    yield deployment
    deployment.destroy()


@pytest.fixture(scope="module", autouse=True)
def no_tool_stays() -> Iterator[None]:
    """At a file's end its tools' containers end: the next is not to find them among the stack's own."""
    yield
    while Tool.started:
        Tool.started.pop().close()


@pytest.fixture(scope="session")
def external() -> Iterator[External]:
    """A store that somebody else runs."""
    store = make_external()
    try:
        store.start()
        yield store
    finally:
        store.destroy()


@pytest.fixture(scope="session")
def admin(stack: Deployment) -> Login:
    login = stack.login()
    return login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]


@pytest.fixture
def client(stack: Deployment, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A stock client, with the three variables that a user sets and nothing else."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in stack.login().items():
        monkeypatch.setenv(name, value)
    # A test asks once and wants the answer that a user would see in the end.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    return MlflowClient()


@pytest.fixture
def place(stack: Deployment, admin: Login, client: MlflowClient) -> Place:
    """A run whose artifacts a test carries."""
    return Place(stack, admin, client, client.create_run("0", run_name="bytes").info.run_id)


@pytest.fixture
def run(place: Place) -> str:
    return place.run


@pytest.fixture
def folder(place: Place) -> str:
    return place.folder


@pytest.fixture(scope="session")
def intruders(stack: Deployment, admin: Login) -> Intruders:
    """Users who try what they may not, and a secret that is not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.login().items():
            patch.setenv(name, value)
        return make_intruders(stack, admin)


@pytest.fixture
def users(client: MlflowClient, stack: Deployment) -> AuthServiceClient:
    return AuthServiceClient(stack.url)


@pytest.fixture
def make_user(stack: Deployment, admin: Login, users: AuthServiceClient) -> Iterator[Callable[[str], Login]]:
    """Return a function that makes a user with a role."""
    made: list[str] = []

    def make(role: str) -> Login:
        name = f"{role}-{time.time_ns()}"
        users.create_user(name, PASSWORD)
        made.append(name)
        assign(users, name, role)
        return name, PASSWORD

    yield make
    for name in made:  # (the test may have become somebody else, or removed the user)
        stack.ask("/api/2.0/mlflow/users/delete", admin, "DELETE", json={"username": name})


@pytest.fixture
def act_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Login], None]:
    """Return a function after which every MLflow client is that user."""

    def switch(login: Login) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", login[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", login[1])

    return switch
