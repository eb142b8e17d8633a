"""./stack artifacts migrate: to a store that somebody else runs and back, while users work."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import pandas as pd
import pytest
import requests

from stack.deployment import CHECKOUT, Deployment, wait_until
from stack.external import External

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/0/moved"
MODEL = "Wine_Elasticnet_Sklearn_Regressor"
DATA = CHECKOUT / "trainer/data/winequality-red.csv"
NAMES = ("plain.txt", "a b+c.txt", "ü 100%25.txt", ".hidden/..x/y", "k", "k/below", "empty", "n" * 200)
MOVED = "moved-artifacts"


def find_content(name: str) -> bytes:
    return b"" if name == "empty" else name.encode() * 1000


class Account:
    """The stack's admin at its gateway."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        login = deployment.login()
        self.login = (login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"])

    def ask(self, name: str, method: str = "GET", data: bytes | None = None) -> requests.Response:
        return self.deployment.ask(f"{ARTIFACTS}/{quote(name)}", self.login, method, data=data)


@pytest.fixture(scope="module")
def moving(external: External, make_deployment: Callable[..., Deployment]) -> Iterator[Deployment]:
    """A stack with a store of its own, that knows where it is to go."""
    # (the external store is on the networks by which it is reached while copying, and after)
    settings = external.settings(STACK_S3_BUCKET=MOVED, STACK_S3_ENCRYPTION="AES256")
    del settings["STACK_OBJECTSTORE"]
    deployment = make_deployment("moving", STACK_OBJECTSTORE="seaweedfs", **settings)
    external.serve(deployment, external.root)
    external.join(f"{deployment.name}_migration", deployment.name, "migration")
    deployment.check("up")
    yield deployment
    for network in ("outside", "migration"):
        external.leave(f"{deployment.name}_{network}")


@pytest.fixture(scope="module")
def account(moving: Deployment) -> Account:
    found = Account(moving)
    for name in NAMES:
        assert found.ask(name, "PUT", find_content(name)).status_code == 200
    for content in (b"first", b"second"):
        assert found.ask("replaced", "PUT", content).status_code == 200
    assert found.ask("large", "PUT", bytes(range(256)) * 2**17).status_code == 200
    return found


def read_choices(deployment: Deployment) -> dict[str, str]:
    lines = (deployment.root / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def find_moved(external: External) -> dict[str, str]:
    """Return the digest of each object in the external bucket."""
    owner = external.connect(external.root)
    found = {}
    for page in owner.get_paginator("list_objects_v2").paginate(Bucket=MOVED):
        for item in page.get("Contents", []):
            body = owner.get_object(Bucket=MOVED, Key=item["Key"])["Body"].read()
            found[item["Key"]] = hashlib.sha256(body).hexdigest()
    return found


def count_work(output: str) -> list[int]:
    """Return how many objects were to be copied or compared, in each of the two passes."""
    return [
        int(line.split("; ")[1].split()[0]) for line in output.splitlines() if "are to be copied or compared" in line
    ]


def test_it_does_not_switch_while_anything_differs(moving: Deployment, account: Account, external: External) -> None:
    owner = external.connect(external.root)
    owner.create_bucket(Bucket=MOVED)
    owner.put_object(Bucket=MOVED, Key="somebody/elses", Body=b"x")
    before = read_choices(moving)
    result = moving.run("artifacts", "migrate", "--to", "s3")
    assert result.returncode == 1
    assert "migration: 'somebody/elses' is there, but not among the stack's artifacts" in result.stderr
    assert "not everything is the same on both sides, see above: MLflow goes on with seaweedfs" in result.stderr
    assert read_choices(moving) == before
    assert account.ask("plain.txt").content == find_content("plain.txt")
    # What is not ours is not ours to remove.
    assert owner.get_object(Bucket=MOVED, Key="somebody/elses")["Body"].read() == b"x"
    owner.delete_object(Bucket=MOVED, Key="somebody/elses")


@pytest.mark.parametrize(
    ("service", "command"),
    [
        ("artifacts", ("artifacts", "migrate", "--to", "s3")),
        ("migration", ("gc",)),
        ("migration", ("artifacts", "undelete", "x", "y")),
    ],
)
def test_no_two_that_change_objects_run_at_once(moving: Deployment, service: str, command: tuple[str, ...]) -> None:
    # A container in the place of one that works for long.
    labels = [
        f"--label=com.docker.compose.{key}={value}" for key, value in (("project", moving.name), ("service", service))
    ]
    holder = subprocess.check_output(
        ["docker", "run", "--detach", "--rm", "--init", *labels, os.environ["STACK_TEST_BASE_IMAGE"], "sleep", "3600"],
        text=True,
    ).strip()
    try:
        result = moving.run(*command)
    finally:
        subprocess.check_call(["docker", "kill", holder], stdout=subprocess.DEVNULL)
    assert result.returncode == 1
    assert f"runs at the moment (container {holder[:12]}): wait for its end" in result.stderr


def test_a_second_run_copies_what_is_missing_and_nothing_that_users_do_is_lost(
    moving: Deployment, account: Account, external: External, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = external.connect(external.root)
    place: dict[str, Any] = {"Bucket": MOVED}
    # Since the first run: one is gone there, one is damaged there (as long as before), one was deleted here.
    owner.delete_object(**place, Key="0/moved/k")
    owner.put_object(**place, Key="0/moved/k/below", Body=b"X" * len(find_content("k/below")))
    assert account.ask("replaced", "DELETE").status_code == 200
    stop, acknowledged = threading.Event(), dict[str, bytes]()

    def work() -> None:
        number = 0
        while not stop.wait(0.2) and number < 5000:
            number += 1
            name, content = f"meanwhile/{number % 50}", f"{number}".encode() * 50
            try:
                if account.ask(name, "PUT", content).status_code == 200:
                    acknowledged[name] = content
                else:
                    acknowledged.pop(name, None)  # either may be there
            except requests.RequestException:
                acknowledged.pop(name, None)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        result = moving.run("artifacts", "migrate", "--to", "s3")
    finally:
        stop.set()
        worker.join()
    assert result.returncode == 0, result.stderr
    first, second = count_work(result.stderr)
    objects = len(find_moved(external))
    assert first < objects, "it copied all again"
    assert second <= 50
    assert read_choices(moving)["STACK_OBJECTSTORE"] == "s3"
    assert read_choices(moving)["COMPOSE_FILE"] == "docker-compose.yml:compose.s3.yml"
    assert acknowledged
    for name, content in {**{name: find_content(name) for name in NAMES}, **acknowledged}.items():
        assert account.ask(name).content == content, name
    assert account.ask("replaced").status_code == 404
    assert hashlib.sha256(account.ask("large").content).digest() == hashlib.sha256(bytes(range(256)) * 2**17).digest()
    assert owner.get_object(**place, Key="0/moved/large")["ServerSideEncryption"] == "AES256"
    for name, value in moving.login().items():
        monkeypatch.setenv(name, value)
    rows = pd.read_csv(DATA, sep=";", dtype=float).drop(columns="quality").head(2)
    assert len(mlflow.pyfunc.load_model(f"models:/{MODEL}/Production").predict(rows)) == 2


def test_what_was_written_after_goes_to_the_new_store(moving: Deployment, account: Account, external: External) -> None:
    assert account.ask("after", "PUT", b"after").status_code == 200
    assert external.connect(external.root).get_object(Bucket=MOVED, Key="0/moved/after")["Body"].read() == b"after"
    assert "objectstore" not in moving.compose("ps", "--all", "--services").split()


def test_the_former_stores_data_is_kept_and_given_to_nobody(moving: Deployment) -> None:
    volumes = moving.execute(
        "docker", "volume", "ls", "--quiet", "--filter", f"name={moving.name}_objectstore-data"
    ).stdout
    assert sorted(volumes.split()) == [f"{moving.name}_objectstore-data", f"{moving.name}_objectstore-data-s3"]
    file: Path = moving.root / ".env"
    before = file.read_text()
    try:
        file.write_text(
            before.replace("STACK_OBJECTSTORE_DATA=objectstore-data-s3", "STACK_OBJECTSTORE_DATA=objectstore-data")
        )
        result = moving.run("up")
        assert result.returncode == 1
        assert "STACK_OBJECTSTORE is 's3' but the data in volume" in result.stderr
    finally:
        file.write_text(before)


def test_wrong_usage_is_said_and_changes_nothing(moving: Deployment) -> None:
    before = read_choices(moving)
    for arguments, code, part in (
        (("--to", "s3"), 1, "the artifacts are in s3 already"),
        (("--to", "tape"), 2, "'tape': choose minio, seaweedfs or s3"),
        ((), 2, "takes --to"),
    ):
        result = moving.run("artifacts", "migrate", *arguments)
        assert (result.returncode, part in result.stderr) == (code, True), result.stderr
    assert read_choices(moving) == before


def test_back_again(moving: Deployment, account: Account, external: External) -> None:
    moved = find_moved(external)
    result = moving.run("artifacts", "migrate", "--to", "seaweedfs")
    assert result.returncode == 0, result.stderr
    assert read_choices(moving)["STACK_OBJECTSTORE"] == "seaweedfs"
    external.leave(f"{moving.name}_outside")
    wait_until(lambda: account.ask("after").content == b"after", "the stack serves from its own store")
    for name in NAMES:
        assert account.ask(name).content == find_content(name), name
    assert find_moved(external) == moved
