"""Rights hold for bytes as for metadata: runs, logged models and traces, by every way that a byte can go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from stack.deployment import Deployment
from stack.intruders import SECRET, Intruders, put_artifact
from stack.transfers import ARTIFACTS, MPU, PRESIGNED, begin_parts, list_names

Login = tuple[str, str]
# Where MLflow keeps files below an experiment.
PLACES = ("{run}/artifacts", "models/m-0123456789abcdef0123456789abcdef/artifacts", "traces/tr-0123456789/artifacts")


def chunks() -> Iterator[bytes]:
    yield b"over"
    yield b"written"


def list_attempts(folder: str, name: str) -> dict[str, tuple[str, str, dict[str, object]]]:
    """Return each way to read, list, write or delete a file: method, path, what else."""
    file = f"{ARTIFACTS}{folder}/{name}"
    browser = file.replace("/api/", "/ajax-api/", 1)
    parts = {"path": name, "num_parts": 1, "upload_id": "x", "parts": [{"part_number": 1, "etag": "x"}]}
    return {
        "read get": ("GET", file, {}),
        "read get by the browser's path": ("GET", browser, {}),
        "read head": ("HEAD", file, {}),
        "read range": ("GET", file, {"headers": {"Range": "bytes=0-3"}}),
        "read condition": ("GET", file, {"headers": {"If-None-Match": '"x"'}}),
        "read presigned": ("GET", f"{PRESIGNED}{folder}/{name}", {}),
        "read list": ("GET", ARTIFACTS.rstrip("/"), {"params": {"path": folder}}),
        "write put": ("PUT", file, {"data": b"overwritten"}),
        "write put by the browser's path": ("PUT", browser, {"data": b"overwritten"}),
        "write chunked put": ("PUT", file, {"data": chunks()}),
        "write empty put": ("PUT", file, {"data": b""}),
        "write create parts": ("POST", f"{MPU}create/{folder}", {"json": parts}),
        "write complete parts": ("POST", f"{MPU}complete/{folder}", {"json": parts}),
        "write abort parts": ("POST", f"{MPU}abort/{folder}", {"json": parts}),
        "write delete": ("DELETE", file, {}),
        "write delete folder": ("DELETE", f"{ARTIFACTS}{folder}", {}),
    }


def try_all(stack: Deployment, login: Login, folder: str, name: str, only: str = "") -> dict[str, int]:
    """Return the status of each attempt; none may show the secret."""
    statuses = {}
    for attempt, (method, path, options) in list_attempts(folder, name).items():
        if attempt.startswith(only):
            answer = stack.ask(path, login, method, **options)
            assert SECRET not in answer.text, attempt
            assert name not in answer.text, attempt
            statuses[attempt] = answer.status_code
    return statuses


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("who", ["newcomer", "editor", "viewer"])
def test_no_right_to_an_experiment_is_none_to_its_files(
    stack: Deployment, admin: Login, intruders: Intruders, place: str, who: str
) -> None:
    folder = f"{intruders.experiment}/{place.format(run=intruders.run)}"
    put_artifact(stack, admin, f"{folder}/kept.txt", SECRET)
    login: Login = getattr(intruders, who)
    found = try_all(stack, login, folder, "kept.txt")
    assert {attempt: status for attempt, status in found.items() if status != 403} == {}
    assert stack.ask(f"{ARTIFACTS}{folder}/kept.txt", admin).text == SECRET
    assert "kept.txt" in list_names(stack, admin, folder)
    assert stack.ask(f"{ARTIFACTS}{folder}/kept.txt", admin, "DELETE").ok


@pytest.mark.parametrize("place", PLACES)
def test_a_viewer_reads_and_changes_nothing(stack: Deployment, admin: Login, intruders: Intruders, place: str) -> None:
    folder = f"{intruders.own_experiment}/{place.format(run=intruders.own_run)}"
    put_artifact(stack, admin, f"{folder}/seen.txt", "seen")
    for attempt, (method, path, options) in list_attempts(folder, "seen.txt").items():
        if attempt.startswith("read"):
            answer = stack.ask(path, intruders.viewer, method, **options)
            assert answer.status_code == (206 if attempt == "read range" else 200), (attempt, answer.text)
    found = try_all(stack, intruders.viewer, folder, "seen.txt", only="write")
    assert {attempt: status for attempt, status in found.items() if status != 403} == {}
    assert stack.ask(f"{ARTIFACTS}{folder}/seen.txt", admin).text == "seen"


def test_a_url_outlives_neither_its_object_nor_shows_another_version(
    stack: Deployment, admin: Login, intruders: Intruders
) -> None:
    """A deleted artifact is deleted for those who have a URL of it, too."""
    folder = intruders.own_folder
    put_artifact(stack, admin, f"{folder}/gone.txt", "gone")
    url = stack.ask(f"{PRESIGNED}{folder}/gone.txt", intruders.viewer).json()["url"]
    assert requests.get(url, timeout=90).text == "gone"
    assert stack.ask(f"{ARTIFACTS}{folder}/gone.txt", admin, "DELETE").ok
    assert requests.get(url, timeout=90).status_code == 404
    assert requests.get(url + "?versionId=null", timeout=90).status_code == 404


def test_parts_that_nobody_put_together_are_no_artifact(stack: Deployment, admin: Login, intruders: Intruders) -> None:
    """The parts' URLs need no login: what makes them visible does, with the right to write."""
    folder = intruders.own_folder
    upload, urls = begin_parts(stack, intruders.editor, folder, "parts.txt", 1)
    put = requests.put(urls[0], data=b"part", timeout=90)
    assert put.ok
    body = {"path": "parts.txt", "upload_id": upload, "parts": [{"part_number": 1, "etag": put.headers["ETag"]}]}
    for login in (None, intruders.newcomer, intruders.viewer):
        refused = stack.ask(f"{MPU}complete/{folder}", login, "POST", json=body)
        assert refused.status_code in (401, 403)
    # Nor into another folder.
    elsewhere = stack.ask(f"{MPU}complete/{intruders.secret_folder}", intruders.editor, "POST", json=body)
    assert elsewhere.status_code == 403
    assert "parts.txt" not in list_names(stack, admin, folder)
    assert stack.ask(f"{MPU}complete/{folder}", intruders.editor, "POST", json=body).ok
    assert stack.ask(f"{ARTIFACTS}{folder}/parts.txt", intruders.viewer).content == b"part"
