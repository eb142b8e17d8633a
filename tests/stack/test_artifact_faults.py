"""Artifacts when things go wrong: clients and stores that die, a full disk, lost power; and that nothing is spooled."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from stack.deployment import RETRY_SECONDS, Deployment, wait_until
from stack.processes import Watch, count_connections
from stack.transfers import (
    ARTIFACTS,
    MIB,
    PRESIGNED,
    Paced,
    Place,
    begin_parts,
    begin_upload,
    digest_file,
    find_lost,
    frame,
    list_names,
    make_blocks,
    make_bytes,
    upload_until,
    write_file,
)

Login = tuple[str, str]
SERVERS = ("nginx", "mlflow")
WAYS = ("length", "chunks", "signed-part")  # a body of known length, one in chunks, one part by a signed URL


def kill(stack: Deployment, service: str) -> None:
    subprocess.run(["docker", "kill", "-s", "KILL", stack.container(service)["Id"]], check=True, capture_output=True)


def start_store(stack: Deployment, admin: Login, folder: str) -> None:
    """Start the store and wait until it takes an object."""
    stack.compose("start", "objectstore")

    def is_up() -> bool:
        return stack.ask(f"{ARTIFACTS}{folder}/.up", admin, "PUT", data=b"x").ok

    wait_until(is_up, "the store takes an object")
    assert stack.ask(f"{ARTIFACTS}{folder}/.up", admin, "DELETE").ok


def begin(place: Place, way: str, name: str, size: int) -> tuple[socket.socket, Callable[[bytes], bytes]]:
    """Begin an upload one of the ways; return the connection and what frames its body."""
    stack, admin, folder = place.stack, place.login, place.folder
    if way == "signed-part":
        _, urls = begin_parts(stack, admin, folder, name, 3)
        return begin_upload(stack, urls[0].removeprefix(stack.url), None, size), bytes
    length = None if way == "chunks" else size
    return begin_upload(stack, f"{ARTIFACTS}{folder}/{name}", admin, length), frame if length is None else bytes


# ----------------------------------------------------------------------------------------------------------- clients
def assert_no_connection_stays(stack: Deployment, act: Callable[[], None], rounds: int) -> None:
    """Fail if connections of the gateway or of MLflow's process stay after what is done some times."""
    # (MLflow's process keeps some to its neighbours for later: those are there after some rounds)
    for _ in range(rounds):
        act()
    time.sleep(2)
    before = {service: count_connections(stack, service) for service in SERVERS}
    for _ in range(rounds):
        act()
    now: dict[str, int] = {}

    def have_ended() -> bool:
        now.update({service: count_connections(stack, service) for service in SERVERS})
        return now["nginx"] <= before["nginx"] and now["mlflow"] <= before["mlflow"] + 4

    try:
        wait_until(have_ended, "the connections have ended")
    except AssertionError as error:
        raise AssertionError(f"{error}: {before} before, {now} now") from None


def test_a_client_that_dies_in_the_middle_leaves_nothing(place: Place) -> None:
    stack, admin, folder = place.stack, place.login, place.folder

    deaths = list(itertools.product(WAYS, ("closes", "resets")))

    def die(way: str, end: str) -> None:
        connection, write = begin(place, way, f"{way}-{end}", 20 * MIB)
        with connection:
            for block in make_blocks(8 * MIB):
                connection.sendall(write(block))
            time.sleep(0.3)  # in the middle: some is with the store by now
            if end == "resets":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def die_each_way() -> None:
        with ThreadPoolExecutor(len(deaths)) as pool:
            for died in [pool.submit(die, *death) for death in deaths]:
                died.result()

    assert_no_connection_stays(stack, die_each_way, rounds=3)
    # What is visible at any moment is nothing.
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert list_names(stack, admin, folder) == set()
        time.sleep(0.5)
    for way, end in deaths:
        assert stack.ask(f"{ARTIFACTS}{folder}/{way}-{end}", admin).status_code == 404
    assert Watch(stack, SERVERS).list_files() == {}


def test_a_client_that_goes_away_during_a_download_leaves_no_connection(
    stack: Deployment, admin: Login, folder: str
) -> None:
    path = f"{ARTIFACTS}{folder}/large.bin"
    assert stack.ask(path, admin, "PUT", data=make_bytes(60 * MIB)).ok

    def go_away() -> None:
        with stack.ask(path, admin, stream=True) as answer:
            assert len(next(answer.iter_content(MIB))) == MIB

    assert_no_connection_stays(stack, go_away, rounds=10)


def test_an_unfinished_upload_in_parts_is_not_visible_and_can_be_ended(
    stack: Deployment, admin: Login, folder: str
) -> None:
    upload, urls = begin_parts(stack, admin, folder, "parts.bin", 3)
    assert requests.put(urls[0], data=make_bytes(5 * MIB), timeout=90).ok
    assert stack.ask(f"{ARTIFACTS}{folder}/parts.bin", admin).status_code == 404
    assert list_names(stack, admin, folder) == set()
    for method in ("GET", "HEAD"):
        assert requests.request(method, urls[0], timeout=90).status_code == 403
    body = {"path": "parts.bin", "upload_id": upload}
    assert stack.ask(f"/api/2.0/mlflow-artifacts/mpu/abort/{folder}", admin, "POST", json=body).ok
    late = requests.put(urls[1], data=make_bytes(5 * MIB), timeout=90)
    assert late.status_code == 404, late.text
    body |= {"parts": [{"part_number": 1, "etag": "x"}]}  # type: ignore[dict-item]
    assert not stack.ask(f"/api/2.0/mlflow-artifacts/mpu/complete/{folder}", admin, "POST", json=body).ok
    assert list_names(stack, admin, folder) == set()


# ------------------------------------------------------------------------------------------------------- store's death
def test_a_store_that_dies_in_the_middle_of_an_upload_is_said_within_seconds(place: Place) -> None:
    stack, admin, client, folder = place.stack, place.login, place.client, place.folder
    halfway, died = threading.Barrier(len(WAYS) + 1, timeout=300), threading.Event()

    def upload(way: str) -> tuple[bytes, float]:
        """Return the answer, and when it was there."""
        connection, write = begin(place, way, f"{way}.bin", 64 * MIB)
        answer = b""
        with connection:
            blocks = make_blocks(64 * MIB)
            for block in itertools.islice(blocks, 8):
                connection.sendall(write(block))
            halfway.wait()
            assert died.wait(300)
            connection.settimeout(60)
            with contextlib.suppress(ConnectionError):
                for block in blocks:
                    connection.sendall(write(block))
                    time.sleep(0.05)
                connection.sendall(b"0\r\n\r\n" if way == "chunks" else b"")
            with contextlib.suppress(ConnectionError):
                while b"\r\n\r\n" not in answer and (more := connection.recv(65536)):
                    answer += more
        return answer, time.monotonic()

    try:
        with ThreadPoolExecutor(len(WAYS)) as pool:
            uploads = {way: pool.submit(upload, way) for way in WAYS}
            halfway.wait()
            kill(stack, "objectstore")
            moment = time.monotonic()
            died.set()
        for way, (answer, end) in {way: done.result() for way, done in uploads.items()}.items():
            assert answer.startswith(b"HTTP/1.1 503 "), (way, answer[:500])
            assert re.search(rb"\r\nRetry-After: \d+\r\n", answer, re.IGNORECASE), (way, answer[:500])
            print(f"{way}: answered after {end - moment:.1f} s")
            assert end - moment < 100, way
        # Metadata doesn't need the store.
        start = time.monotonic()
        made = client.create_run("0", run_name="without a store")
        client.log_metric(made.info.run_id, "written", 1.0)
        assert client.get_run(made.info.run_id).data.metrics == {"written": 1.0}
        print(f"metadata without a store: {time.monotonic() - start:.1f} s")
    finally:
        start_store(stack, admin, folder)
    assert list_names(stack, admin, folder) == set()


def test_a_store_that_is_down_is_503_with_retry_after_and_the_clients_own_retry_succeeds(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, admin, client, folder = place.stack, place.login, place.client, place.folder
    run = place.run
    there = f"{ARTIFACTS}{folder}/there.bin"
    assert stack.ask(there, admin, "PUT", data=b"there").ok
    url = stack.ask(PRESIGNED + f"{folder}/there.bin", admin).json()["url"].removeprefix(stack.url)
    _, urls = begin_parts(stack, admin, folder, "parts.bin", 1)
    kill(stack, "objectstore")
    try:
        listing = f"{ARTIFACTS.rstrip('/')}?path={folder}"
        questions: list[tuple[str, str, Login | None, object]] = [
            ("PUT", f"{ARTIFACTS}{folder}/new.bin", admin, b"x" * 100_000),
            ("PUT", f"{ARTIFACTS}{folder}/new.bin", admin, iter([b"x" * 100_000])),
            ("PUT", urls[0].removeprefix(stack.url), None, b"x" * 100_000),
            ("GET", there, admin, None),
            ("HEAD", there, admin, None),
            ("GET", url, None, None),
            ("GET", PRESIGNED + f"{folder}/there.bin", admin, None),
            ("GET", listing, admin, None),
            ("DELETE", there, admin, None),
        ]
        for method, path, login, data in questions:
            start = time.monotonic()
            answer = stack.ask(path, login, method, data=data)
            seconds = time.monotonic() - start
            assert answer.status_code == 503, (method, path[:60], answer.status_code, answer.text[:300])
            assert answer.headers["Retry-After"].isdigit(), (method, path[:60])
            print(f"{method} {path[:60]}: {seconds:.1f} s")
            assert seconds < 60, (method, path[:60], seconds)
            if method != "HEAD":
                assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        # A stock client tries again by itself, as long as its defaults say.
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        file = tmp_path / "patient.bin"
        digest = write_file(file, 3 * MIB)
        with ThreadPoolExecutor(2) as pool:
            logged = pool.submit(client.log_artifact, run, str(file), "patient")
            fetched = pool.submit(client.download_artifacts, run, "there.bin", str(tmp_path))
            time.sleep(4)
            assert not logged.done()
            assert not fetched.done()
            stack.compose("start", "objectstore")
            logged.result(timeout=600)
            assert Path(fetched.result(timeout=600)).read_bytes() == b"there"
        (target := tmp_path / "target").mkdir()
        assert digest_file(Path(client.download_artifacts(run, "patient/patient.bin", str(target)))) == digest
    finally:
        start_store(stack, admin, folder)


@pytest.fixture
def patience(stack: Deployment, soak: bool) -> Iterator[float]:
    """After how many seconds a store that hangs has to be given up: without --soak the gateway waits for less."""
    if soak:
        yield 120
        return
    configuration = stack.root / "nginx/conf/object.conf"
    original = configuration.read_text()
    changed = original.replace("proxy_read_timeout 60s;", "proxy_read_timeout 10s;")
    changed = changed.replace("proxy_send_timeout 30s;", "proxy_send_timeout 10s;")
    assert len(set(changed.splitlines()) - set(original.splitlines())) == 2
    configuration.write_text(changed)
    try:
        assert "the new configuration runs" in stack.check("reload")
        yield 90  # (what comes in chunks goes through MLflow's process, which waits for 15 s twice)
    finally:
        configuration.write_text(original)
        stack.check("reload")


def test_a_store_that_hangs_is_said(
    stack: Deployment, admin: Login, client: MlflowClient, folder: str, patience: float
) -> None:
    """A machine that has lost its power answers nothing at all: no connection is ended."""
    there = f"{ARTIFACTS}{folder}/there.bin"
    assert stack.ask(there, admin, "PUT", data=make_bytes(30 * MIB)).ok
    store = stack.container("objectstore")["Id"]

    def ask(method: str, data: Any) -> tuple[int, str, float]:
        start = time.monotonic()
        answer = requests.request(
            method,
            stack.url + (there if method == "GET" else f"{there}.new"),
            data=data,
            auth=admin,
            timeout=150,
        )
        return answer.status_code, answer.headers.get("Retry-After", ""), time.monotonic() - start

    subprocess.run(["docker", "pause", store], check=True, capture_output=True)
    try:
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, *question) for question in (
                ("GET", None), ("PUT", make_bytes(30 * MIB)), ("PUT", make_blocks(30 * MIB)))]  # fmt: skip
            made = client.create_run("0", run_name="the store hangs")
            assert client.get_run(made.info.run_id).info.status == "RUNNING"
            answers = [question.result() for question in asked]
    finally:
        subprocess.run(["docker", "unpause", store], check=True, capture_output=True)
    assert [answer[:2] for answer in answers] == [(503, RETRY_SECONDS)] * 3, answers
    assert max(answer[2] for answer in answers) < patience, answers
    wait_until(lambda: stack.ask(there, admin).ok, "the store answers again")


def test_an_artifact_that_is_replaced_during_a_download_is_never_mixed(
    stack: Deployment, admin: Login, folder: str
) -> None:
    old, new = (make_bytes(40 * MIB, seed) for seed in (1, 2))
    path = f"{ARTIFACTS}{folder}/replaced.bin"
    assert stack.ask(path, admin, "PUT", data=old).ok
    got = bytearray()
    with stack.ask(path, admin, stream=True) as answer, contextlib.suppress(requests.RequestException):
        for number, piece in enumerate(answer.iter_content(MIB)):
            got += piece
            if number == 4:
                assert stack.ask(path, admin, "PUT", data=new).ok
    # Either the old one to its end, or cut: the client knows the length, and asks again.
    assert old.startswith(got)
    assert stack.ask(path, admin).content == new


# ------------------------------------------------------------------------------------------------------------- reload
def test_a_reload_in_the_middle_of_slow_transfers_breaks_none(
    stack: Deployment, admin: Login, folder: str, soak: bool
) -> None:
    size, seconds = (3_000_000_000, 150) if soak else (50_000_000, 6)
    reloaded = threading.Event()  # none ends before, however busy the machine is
    path = f"{ARTIFACTS}{folder}/{{}}.bin"
    expected = hashlib.sha256(b"".join(make_blocks(0)))
    for block in make_blocks(size):
        expected.update(block)
    with requests.put(stack.url + path.format("down"), data=Paced(size, 1e9), auth=admin, timeout=600) as answer:
        assert answer.ok, answer.text
    _, urls = begin_parts(stack, admin, folder, "parts.bin", 1)
    signed = stack.ask(PRESIGNED + f"{folder}/down.bin", admin).json()["url"]

    def upload(url: str, login: Login | None) -> int:
        body = Paced(size, size / seconds, reloaded)
        return requests.put(url, data=body, auth=login, timeout=600).status_code

    def upload_chunks() -> int:
        body = Paced(size, size / seconds, reloaded)
        pieces = iter(lambda: body.read(MIB), b"")
        return requests.put(stack.url + path.format("chunks"), data=pieces, auth=admin, timeout=600).status_code

    def download(url: str, login: Login | None) -> str:
        digest, got, start = hashlib.sha256(), 0, time.monotonic()
        with requests.get(url, auth=login, stream=True, timeout=600) as answer:
            for piece in answer.iter_content(256 * 1024):
                digest.update(piece)
                got += len(piece)
                time.sleep(max(0.0, got / (size / seconds) - (time.monotonic() - start)))
                if got > size - 2 * MIB:
                    reloaded.wait(120)
        return digest.hexdigest()

    configuration = stack.root / "nginx/conf/nginx.conf"
    original = configuration.read_text()
    with ThreadPoolExecutor(5) as pool:
        uploads = [pool.submit(upload, stack.url + path.format("up"), admin), pool.submit(upload, urls[0], None)]
        uploads.append(pool.submit(upload_chunks))
        downloads = [
            pool.submit(download, stack.url + path.format("down"), admin),
            pool.submit(download, signed, None),
        ]
        try:
            for number in range(3):
                time.sleep(seconds / 5)
                configuration.write_text(f"{original}# touched {number}\n")
                assert "new configuration runs" in stack.check("reload")
                assert not any(transfer.done() for transfer in uploads)
                assert not any(transfer.done() for transfer in downloads)
        finally:
            reloaded.set()
            configuration.write_text(original)
            stack.check("reload")
        assert [transfer.result() for transfer in uploads] == [200, 200, 200]
        assert [transfer.result() for transfer in downloads] == [expected.hexdigest()] * 2
    for name in ("up", "chunks"):
        assert download_digest(stack, admin, path.format(name)) == expected.hexdigest()


def download_digest(stack: Deployment, admin: Login, path: str) -> str:
    digest = hashlib.sha256()
    with stack.ask(path, admin, stream=True) as answer:
        assert answer.ok, answer.text
        for piece in answer.iter_content(MIB):
            digest.update(piece)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------- nothing spooled
# Bytes: what the anonymous memory of all processes of a server may grow by during transfers of 3 GB. (nginx keeps 8 MB
# for a GB of a download until its end; MLflow streams what comes in chunks in parts of 8 MiB, four at once.)
GROWTH = {"nginx": 48 * MIB, "mlflow": 72 * MIB}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["put and get", "chunked put", "signed parts and get"])
def test_nothing_is_spooled_and_memory_stays_flat(
    stack: Deployment, admin: Login, folder: str, soak: bool, way: str
) -> None:
    size = 3_000_000_000 if soak else 200_000_000
    path = f"{ARTIFACTS}{folder}/flat.bin"
    part = 100_000_000
    expected = hashlib.sha256()
    # (once before, so that what a server keeps for ever is there already)
    assert stack.ask(f"{ARTIFACTS}{folder}/warm.bin", admin, "PUT", data=make_blocks(20 * MIB)).ok
    with Watch(stack, SERVERS) as watch:
        if way == "signed parts and get":
            upload, urls = begin_parts(stack, admin, folder, "flat.bin", size // part)
            parts = []
            for number, url in enumerate(urls):
                content = make_bytes(part, number)
                expected.update(content)
                answer = requests.put(url, data=content, timeout=600)
                assert answer.ok, answer.text
                parts.append({"part_number": number + 1, "etag": answer.headers["ETag"]})
            body = {"path": "flat.bin", "upload_id": upload, "parts": parts}
            assert stack.ask(f"/api/2.0/mlflow-artifacts/mpu/complete/{folder}", admin, "POST", json=body).ok
            url, login = stack.ask(PRESIGNED + f"{folder}/flat.bin", admin).json()["url"], None
        else:
            paced = Paced(size, 1e9)
            data = iter(lambda: paced.read(MIB), b"") if way == "chunked put" else paced
            answer = requests.put(stack.url + path, data=data, auth=admin, timeout=1200)
            assert answer.ok, answer.text
            expected, url, login = paced.digest, stack.url + path, admin
        got = hashlib.sha256()
        with requests.get(url, auth=login, stream=True, timeout=600) as answer:
            for piece in answer.iter_content(MIB):
                got.update(piece)
    assert got.hexdigest() == expected.hexdigest()
    print(f"{way}, {size:,} bytes each way: {watch}")
    assert watch.files == {}
    for service in SERVERS:
        assert watch.written[service] < 2 * MIB, watch
        assert watch.growth[service] < GROWTH[service] * (1 if soak else 0.5 if service == "nginx" else 1), watch


def test_a_spooled_file_would_be_seen(stack: Deployment) -> None:
    with Watch(stack, SERVERS) as watch:
        for service, place in (
            ("nginx", "/tmp/client_body/x"),
            ("mlflow", "/var/spool/mlflow/x"),
            ("mlflow", "/tmp/x"),
        ):
            script = f"head -c 3000000 /dev/zero >{place}; sleep 0.5; rm {place}"
            stack.compose("exec", "-T", service, "sh", "-c", script)
    assert {Path(name).name for name in watch.files} == {"x"}
    assert len(watch.files) == 3


# ---------------------------------------------------------------------------------------------- what is acknowledged
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_survives_a_kill_of_the_store(
    stack: Deployment, admin: Login, folder: str, soak: bool
) -> None:
    for number in range(20 if soak else 1):
        place = f"{folder}/{number}"
        expected = upload_until(stack, admin, place, 50, lambda: kill(stack, "objectstore"))
        start_store(stack, admin, folder)
        assert find_lost(stack, admin, place, expected) == []
        # What is listed is whole: nothing is half there.
        for name in list_names(stack, admin, place) - set(expected):
            got = stack.ask(f"{ARTIFACTS}{place}/{name}", admin)
            assert got.content == make_bytes(len(got.content), int(name.partition(".")[0])), name
