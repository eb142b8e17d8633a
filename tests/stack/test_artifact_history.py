"""What was replaced or deleted can be brought back by the operator, byte by byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import mlflow
import pytest
from mlflow import MlflowClient

from stack.deployment import Deployment
from stack.store_tool import run_in_tool, show_history

Login = tuple[str, str]
NAMES = ["plain.txt", "with space+plus & 50%.txt", "ünï/cödé? 1.txt", "folder/.hidden", "folder/deep/er/x"]


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    found = client.get_experiment_by_name("history")
    experiment = found.experiment_id if found else client.create_experiment("history")
    made: str = client.create_run(experiment).info.run_id
    return made


@pytest.fixture
def folder(client: MlflowClient, run_id: str) -> str:
    """Where MLflow's REST API has the run's artifacts."""
    location: str = client.get_run(run_id).info.artifact_uri
    return "/api/2.0/mlflow-artifacts/artifacts/" + location.removeprefix("mlflow-artifacts:/")


def put(stack: Deployment, admin: Login, folder: str, name: str, content: bytes) -> None:
    answer = stack.ask(f"{folder}/{quote(name)}", admin, "PUT", data=content)
    assert answer.status_code == 200, answer.text


def get(stack: Deployment, admin: Login, folder: str, name: str) -> bytes | None:
    answer = stack.ask(f"{folder}/{quote(name)}", admin)
    return answer.content if answer.status_code == 200 else None


def delete(stack: Deployment, admin: Login, folder: str, name: str) -> None:
    answer = stack.ask(f"{folder}/{quote(name)}", admin, "DELETE")
    assert answer.status_code in (200, 204), answer.text


def test_a_replaced_and_deleted_artifact_comes_back(stack: Deployment, admin: Login, run_id: str, folder: str) -> None:
    first, second = b"first\0" * 100, b"second"
    put(stack, admin, folder, "a/model.bin", first)
    put(stack, admin, folder, "a/model.bin", second)
    put(stack, admin, folder, "a/other.bin", b"untouched")
    delete(stack, admin, folder, "a/model.bin")
    assert get(stack, admin, folder, "a/model.bin") is None

    before = show_history(stack, run_id, "a/model.bin")
    assert [(entry["size"], entry["state"]) for entry in before] == [(6, "deleted"), (600, "replaced")]
    assert {entry["path"] for entry in before} == {"a/model.bin"}
    table = stack.check("artifacts", "history", run_id)
    assert re.search(r"^a/model\.bin +\S{8,} +\S+Z +6 +deleted +\S+Z *$", table, re.MULTILINE), table
    assert re.search(r"^a/other\.bin +\S{8,} +\S+Z +9 +current +- *$", table, re.MULTILINE), table
    short = dict(re.findall(r"^a/model\.bin +(\S+) +\S+ +(\d+)", table, re.MULTILINE))

    # The newest, then an older one by what the table shows of its id.
    assert stack.check("artifacts", "undelete", run_id, "a/model.bin").startswith("a/model.bin is again what it was")
    assert get(stack, admin, folder, "a/model.bin") == second
    (oldest,) = [version for version, size in short.items() if size == "600"]
    stack.tool("artifacts").check("artifacts", "undelete", run_id, "a/model.bin", "--version", oldest)
    assert get(stack, admin, folder, "a/model.bin") == first
    after = show_history(stack, run_id, "a/model.bin")
    assert (after[0]["size"], after[0]["state"]) == (600, "current")
    assert {entry["version"] for entry in before} < {entry["version"] for entry in after}, "nothing is lost by it"
    assert len(after) == 4
    assert get(stack, admin, folder, "a/other.bin") == b"untouched"


def test_a_folder_that_was_deleted_comes_back_whole(stack: Deployment, admin: Login, run_id: str, folder: str) -> None:
    for number, name in enumerate(NAMES):
        put(stack, admin, folder, name, f"former {name}".encode())
        put(stack, admin, folder, name, f"{number} {name}".encode())
    for name in NAMES:
        delete(stack, admin, folder, name)
    put(stack, admin, folder, "folder/deep/er/x", b"new")
    put(stack, admin, folder, "folderless", b"beside")
    delete(stack, admin, folder, "folderless")
    stack.tool("artifacts").check("artifacts", "undelete", run_id, "folder")
    assert get(stack, admin, folder, "folder/.hidden") == b"3 folder/.hidden"
    assert get(stack, admin, folder, "folder/deep/er/x") == b"new", "what is there stays as it is"
    assert len(show_history(stack, run_id, "folder/deep/er/x")) == 3, "what is there is not written again"
    assert get(stack, admin, folder, "folderless") is None
    for number, name in enumerate(NAMES[:3]):
        # (by the command itself the name that is hardest to hand over)
        check = stack.tool("artifacts").check if name.isascii() else stack.check
        check("artifacts", "undelete", run_id, name)
        assert get(stack, admin, folder, name) == f"{number} {name}".encode()


def test_what_can_not_be_is_refused_in_one_line(stack: Deployment, admin: Login, run_id: str, folder: str) -> None:
    put(stack, admin, folder, "d/here.txt", b"1")
    put(stack, admin, folder, "d/here.txt", b"2")
    current, former = show_history(stack, run_id, "d/here.txt")
    attempts = [
        (("history", "0" * 32), "there is no run and no logged model"),
        (("history", "m-" + "0" * 32), "there is no run and no logged model"),
        (("history", run_id, "d/her"), "has no artifact 'd/her'"),
        (("undelete", run_id, "nope"), "has no artifact 'nope'"),
        (("undelete", "nope", "d/here.txt"), "there is no run and no logged model 'nope'"),
        (("undelete", run_id, "d/here.txt"), "is the current one"),
        (("undelete", run_id, "d/here.txt", "--version", current["version"]), "is the current one"),
        (("undelete", run_id, "d/here.txt", "--version", "0xyz"), "has no version that begin with '0xyz'"),
        (("undelete", run_id, "d/here.txt", "--version", ""), "has no version that begin with ''"),
        (("undelete", run_id, "d"), "there is nothing to bring back"),
        (("undelete", run_id, "d", "--version", former["version"]), "is a folder"),
    ]
    for arguments, words in attempts:
        result = stack.tool("artifacts").run("artifacts", *arguments)
        assert (result.returncode, result.stdout) == (1, ""), arguments
        assert words in result.stderr, arguments
        assert result.stderr.startswith("stack: "), result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    refused = stack.run("artifacts", *attempts[0][0])
    assert (refused.returncode, refused.stdout, attempts[0][1] in refused.stderr) == (1, "", True)
    assert [entry["version"] for entry in show_history(stack, run_id)] == [current["version"], former["version"]]


def test_a_logged_model_is_found_by_its_id_and_by_its_run(
    stack: Deployment, admin: Login, client: MlflowClient, tmp_path: Path
) -> None:
    def double(model_input: list[int]) -> list[int]:
        return [2 * number for number in model_input]

    mlflow.set_experiment("history")
    with mlflow.start_run() as run:
        logged = mlflow.pyfunc.log_model(name="twice", python_model=double, pip_requirements=["mlflow"])
    model = client.get_logged_model(logged.model_id)
    folder = "/api/2.0/mlflow-artifacts/artifacts/" + model.artifact_location.removeprefix("mlflow-artifacts:/")
    content = get(stack, admin, folder, "MLmodel")
    assert content
    delete(stack, admin, folder, "MLmodel")
    (of_model,), (of_run,) = (
        show_history(stack, model.model_id, "MLmodel"),
        show_history(stack, run.info.run_id, "twice/MLmodel"),
    )
    assert of_model["state"] == of_run["state"] == "deleted"
    assert of_model["version"] == of_run["version"]
    assert {entry["path"] for entry in show_history(stack, run.info.run_id)} > {"twice/MLmodel", "twice/conda.yaml"}
    stack.tool("artifacts").check("artifacts", "undelete", run.info.run_id, "twice/MLmodel")
    assert get(stack, admin, folder, "MLmodel") == content
    assert mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict([4]) == [8]


@pytest.fixture
def many(stack: Deployment, client: MlflowClient, run_id: str) -> Iterator[tuple[str, set[str]]]:
    """More objects than a page of the store's listing has, with names that keys and folders order differently."""
    prefix = client.get_run(run_id).info.artifact_uri.removeprefix("mlflow-artifacts:/") + "/"
    names = {"part", "part.txt", "part/x", "part0", "z"} | {f"part-{number}" for number in range(600)}
    names |= {f"part/{number}" for number in range(600)}
    script = f"""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda path: s3.put_object(Bucket=name, Key={prefix!r} + path, Body=b""), {sorted(names)!r}))
"""
    run_in_tool(stack, script)
    yield prefix, names
    run_in_tool(stack, f"bucket.remove_folder({prefix!r})")


def test_no_version_is_lost_between_two_pages(stack: Deployment, run_id: str, many: tuple[str, set[str]]) -> None:
    prefix, names = many
    assert {entry["path"] for entry in show_history(stack, run_id)} == names
    # With pages of three, every place is between two.
    script = f"""
ask = bucket._list
whole = {{(v.key, v.identifier) for vs in bucket.walk({prefix!r} + "part-1") for v in vs}}
bucket._list = lambda **where: s3.list_object_versions(Bucket=name, MaxKeys=3, **where)
parts = [(v.key, v.identifier) for vs in bucket.walk({prefix!r} + "part-1") for v in vs]
print(len(whole), len(parts), set(parts) == whole)
"""
    assert run_in_tool(stack, script).split() == ["111", "111", "True"]
