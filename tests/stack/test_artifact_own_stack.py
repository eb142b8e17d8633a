"""Artifacts in a stack of their own: URLs that end soon, a store whose disk is full or loses its power."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from stack.deployment import PROBE, Deployment, wait_until
from stack.disks import Disk
from stack.transfers import ARTIFACTS, MIB, PRESIGNED, begin_parts, find_lost, list_names, make_bytes, upload_until

Login = tuple[str, str]
URL_SECONDS = 3


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    name = f"disk-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
    made = Disk(Path(os.environ["STACK_TEST_SCRATCH"]) / name / "disk.img", megabytes=700)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def own(make_deployment: Callable[..., Deployment], disk: Disk) -> Iterator[Deployment]:
    deployment = make_deployment("bytes", STACK_URL_SECONDS=str(URL_SECONDS))
    disk.give_to(deployment)
    deployment.check("up", "--no-train", timeout=900)
    yield deployment
    deployment.destroy()


@pytest.fixture(scope="module")
def owner(own: Deployment) -> Login:
    login = own.login()
    return login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]


@pytest.fixture
def folder(own: Deployment, owner: Login) -> str:
    answer = own.ask("/api/2.0/mlflow/runs/create", owner, "POST", json={"experiment_id": "0"})
    return f"0/{answer.json()['run']['info']['run_id']}/artifacts"


# -------------------------------------------------------------------------------------------------------------- URLs
def find_url(own: Deployment, owner: Login, path: str) -> str:
    url: str = own.ask(PRESIGNED + path, owner).json()["url"]
    return url


def test_a_url_ends_and_what_has_begun_may_finish(own: Deployment, owner: Login, folder: str, soak: bool) -> None:
    # (65: longer than the gateway's own URLs of the store are good for an upload)
    pause = 65 if soak else URL_SECONDS + 1.5
    content = make_bytes(60 * MIB)
    assert own.ask(f"{ARTIFACTS}{folder}/large.bin", owner, "PUT", data=content).ok
    url = find_url(own, owner, f"{folder}/large.bin")
    digest, start = hashlib.sha256(), time.monotonic()
    with requests.get(url, stream=True, timeout=30) as answer:
        for number, piece in enumerate(answer.iter_content(MIB)):
            digest.update(piece)
            if number == 10:
                time.sleep(pause)
                assert requests.get(url, timeout=30).status_code == 403
                assert requests.head(url, timeout=30).status_code == 403
    assert time.monotonic() - start > URL_SECONDS
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()
    late = requests.get(url, timeout=30)
    assert (late.status_code, late.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_a_url_that_another_stack_has_signed_is_refused(
    own: Deployment, owner: Login, stack: Deployment, admin: Login, folder: str
) -> None:
    # The same path exists in both.
    for deployment, login in ((own, owner), (stack, admin)):
        assert deployment.ask(f"{ARTIFACTS}{folder}/both.txt", login, "PUT", data=b"both").ok
    theirs, ours = find_url(stack, admin, f"{folder}/both.txt"), find_url(own, owner, f"{folder}/both.txt")
    assert requests.get(theirs, timeout=30).content == requests.get(ours, timeout=30).content == b"both"
    assert requests.get(theirs.replace(stack.url, own.url), timeout=30).status_code == 403
    assert requests.get(ours.replace(own.url, stack.url), timeout=30).status_code == 403
    _, parts = begin_parts(stack, admin, folder, "parts.bin", 1)
    assert requests.put(parts[0].replace(stack.url, own.url), data=b"x", timeout=30).status_code == 403


def test_a_url_is_for_one_verb_and_one_key(own: Deployment, owner: Login, folder: str) -> None:
    for name in ("one.txt", "two.txt"):
        assert own.ask(f"{ARTIFACTS}{folder}/{name}", owner, "PUT", data=name.encode()).ok
    one = find_url(own, owner, f"{folder}/one.txt")
    upload, parts = begin_parts(own, owner, folder, "parts.bin", 2)
    for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
        answer = requests.request(method, one, data=b"changed", timeout=30)
        assert answer.status_code in (401, 403, 405), (method, answer.status_code)
    for method in ("GET", "HEAD", "POST", "DELETE"):
        assert requests.request(method, parts[0], timeout=30).status_code in (401, 403, 405), method
    # What is written behind it changes nothing.
    one = find_url(own, owner, f"{folder}/one.txt")
    for tail in (
        "?versionId=x",
        "?acl",
        "?uploads",
        f"?uploadId={upload}&partNumber=2",
        "?response-content-type=text/html",
    ):
        answer = requests.get(one + tail, timeout=30)
        assert answer.content == b"one.txt", tail
        assert answer.headers["Content-Type"].startswith("text/plain")
    for tail in ("/two.txt", "/../two.txt", "%2F..%2Ftwo.txt"):
        assert requests.get(one + tail, timeout=30).status_code == 403, tail
    assert own.ask(f"{ARTIFACTS}{folder}/one.txt", owner).content == b"one.txt"
    assert list_names(own, owner, folder) == {"one.txt", "two.txt"}


# ------------------------------------------------------------------------------------------------------------- power
def restart(own: Deployment, owner: Login) -> None:
    own.compose("start", "objectstore")
    place = f"{ARTIFACTS}0/up/artifacts/up"
    wait_until(lambda: own.ask(place, owner, "PUT", data=b"x").ok, "the store takes an object", 120)


@pytest.mark.timeout(1800)
def test_what_was_acknowledged_survives_a_loss_of_power(
    own: Deployment, owner: Login, disk: Disk, folder: str, soak: bool
) -> None:
    for number in range(5 if soak else 1):
        place = f"{folder}/{number}"
        expected = upload_until(own, owner, place, 50, lambda: None)
        disk.cut_power(own)
        restart(own, owner)
        assert find_lost(own, owner, place, expected) == []
        for name in expected:
            assert own.ask(f"{ARTIFACTS}{place}/{name}", owner, "DELETE").ok


def test_without_synchronous_files_it_would_be_lost(own: Deployment, owner: Login, disk: Disk, folder: str) -> None:
    """The drill above can fail."""
    own.compose("exec", "-T", "objectstore", "sh", "-c", "chattr -R -S /data || true")
    assert "S" not in own.compose("exec", "-T", "objectstore", "lsattr", "-d", "/data").split()[0]
    expected = upload_until(own, owner, folder, 20, lambda: None)
    disk.cut_power(own)
    restart(own, owner)
    assert find_lost(own, owner, folder, expected) != []
    # A restart has made them synchronous again.
    assert "S" in own.compose("exec", "-T", "objectstore", "lsattr", "-d", "/data").split()[0]


def test_a_file_system_without_them_is_named(own: Deployment) -> None:
    command = ["docker", "run", "--rm", "--network", "none", "--tmpfs", "/data:uid=10002,gid=10002", "--tmpfs", "/tmp"]
    command += ["--volume", f"{own.name}_secrets-objectstore:/run/secrets:ro", "--entrypoint", "timeout"]
    command += [own.image("objectstore"), "3", "entrypoint"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in result.stderr.splitlines() if line.startswith("objectstore: ")]
    assert len(lines) == 1, result.stderr[:2000]
    assert "chattr +S" in lines[0]


# -------------------------------------------------------------------------------------------------------- a full disk
@pytest.mark.timeout(900)
def test_a_full_disk_is_said_and_nothing_acknowledged_is_lost(own: Deployment, owner: Login, folder: str) -> None:
    expected: dict[str, str] = {}
    # (what is free differs by what the tests before have left, the full counts above all)
    fill = "dd if=/dev/zero of=/data/filler bs=1M count=$(($(df --output=avail -BM /data | tr -dc 0-9) - 90))"
    own.compose("exec", "-T", "objectstore", "sh", "-c", fill)
    refused = None
    for number in range(150):
        content = make_bytes(8 * MIB, number)
        start = time.monotonic()
        answer = own.ask(f"{ARTIFACTS}{folder}/{number}.bin", owner, "PUT", data=content)
        if not answer.ok:
            refused = answer
            print(f"refused after {time.monotonic() - start:.1f} s, {len(expected)} before")
            break
        expected[f"{number}.bin"] = hashlib.sha256(content).hexdigest()
    assert refused is not None, "the disk was never full"
    assert refused.status_code in (503, 507), refused.text
    said = refused.json()
    assert said["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert len(said["message"].splitlines()) == 1
    assert len(expected) > 5
    # Metadata, downloads and lists go on.
    assert own.ask(PROBE, owner).status_code == 200
    assert list_names(own, owner, folder) == set(expected)
    assert find_lost(own, owner, folder, expected) == []
    own.compose("exec", "-T", "objectstore", "rm", "/data/filler")
    freed = time.monotonic()
    place = f"{ARTIFACTS}{folder}/again.bin"
    wait_until(lambda: own.ask(place, owner, "PUT", data=make_bytes(8 * MIB, 999)).ok, "uploads go on", 150)
    print(f"uploads went on {time.monotonic() - freed:.0f} s after there was space again")
    assert own.ask(place, owner).content == make_bytes(8 * MIB, 999)
    assert find_lost(own, owner, folder, expected) == []
