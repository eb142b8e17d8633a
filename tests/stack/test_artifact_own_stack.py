"""A stack of its own: URLs that end soon, disks that are full or lose their power, WAL that nobody takes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from stack.deployment import PROBE, RETRY_SECONDS, Deployment, wait_until
from stack.disks import Disk, give
from stack.transfers import ARTIFACTS, MIB, PRESIGNED, begin_parts, find_lost, list_names, make_bytes, upload_until

Login = tuple[str, str]
URL_SECONDS = 8
QUEUE_MB = 64
SEGMENT_MB = 16
RUNS = "/api/2.0/mlflow/runs/"


# The audit log's is small too. What WAL may wait for a target that is away is as much as a small disk has room for.
SMALLER = f"""
  audit:
    driver: local
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size=2m,uid=10004,gid=10004"}}
services:
  postgres:
    environment: {{PGBACKREST_ARCHIVE_PUSH_QUEUE_MAX: {QUEUE_MB}MiB}}
    healthcheck: {{interval: 15s}} # (it looks at the space on the disk)
"""


def make_disk(service: str) -> Disk:
    folder = Path(os.environ["STACK_TEST_SCRATCH"]) / f"disk-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
    return Disk(folder / f"{service}.img", service, megabytes=700)


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    made = make_disk("objectstore")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def database_disk() -> Iterator[Disk]:
    made = make_disk("postgres")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def own(make_deployment: Callable[..., Deployment], disk: Disk, database_disk: Disk) -> Iterator[Deployment]:
    deployment = make_deployment("bytes", STACK_URL_SECONDS=str(URL_SECONDS))
    give(deployment, disk, database_disk, more=SMALLER)
    deployment.check("up", "--no-train")
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
    with requests.get(url, stream=True, timeout=90) as answer:
        for number, piece in enumerate(answer.iter_content(MIB)):
            digest.update(piece)
            if number == 10:
                time.sleep(pause)
                assert requests.get(url, timeout=90).status_code == 403
                assert requests.head(url, timeout=90).status_code == 403
    assert time.monotonic() - start > URL_SECONDS
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()
    late = requests.get(url, timeout=90)
    assert (late.status_code, late.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_a_url_is_for_one_verb_and_one_key(own: Deployment, owner: Login, folder: str) -> None:
    for name in ("one.txt", "two.txt"):
        assert own.ask(f"{ARTIFACTS}{folder}/{name}", owner, "PUT", data=name.encode()).ok

    def find_one() -> str:
        return find_url(own, owner, f"{folder}/one.txt")  # (one that has not ended)

    upload, _ = begin_parts(own, owner, folder, "parts.bin", 2)
    for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
        answer = requests.request(method, find_one(), data=b"changed", timeout=90)
        assert answer.status_code in (401, 403, 405), (method, answer.status_code)
    for method in ("GET", "HEAD", "POST", "DELETE"):
        _, parts = begin_parts(own, owner, folder, "parts.bin", 1)
        assert requests.request(method, parts[0], timeout=90).status_code in (401, 403, 405), method
    # What is written behind it changes nothing.
    for tail in (
        "?versionId=x",
        "?acl",
        "?uploads",
        f"?uploadId={upload}&partNumber=2",
        "?response-content-type=text/html",
    ):
        answer = requests.get(find_one() + tail, timeout=90)
        assert answer.content == b"one.txt", tail
        assert answer.headers["Content-Type"].startswith("text/plain")
    for tail in ("/two.txt", "/../two.txt", "%2F..%2Ftwo.txt"):
        assert requests.get(find_one() + tail, timeout=90).status_code == 403, tail
    assert own.ask(f"{ARTIFACTS}{folder}/one.txt", owner).content == b"one.txt"
    assert list_names(own, owner, folder) == {"one.txt", "two.txt"}


# ------------------------------------------------------------------------------------------------------------- power
def restart(own: Deployment, owner: Login) -> None:
    own.compose("start", "objectstore")
    place = f"{ARTIFACTS}0/up/artifacts/up"
    wait_until(lambda: own.ask(place, owner, "PUT", data=b"x").ok, "the store takes an object")


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
    command += [own.image("objectstore"), "10", "entrypoint"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in result.stderr.splitlines() if line.startswith("objectstore: ")]
    assert len(lines) == 1, result.stderr[:2000]
    assert "chattr +S" in lines[0]


def write_runs(own: Deployment, owner: Login, count: int, end: Callable[[], None]) -> list[str]:
    """Make runs with a metric by four clients; call `end` as soon as `count` are acknowledged. Returns these."""
    acknowledged: list[str] = []
    enough = threading.Event()

    def write() -> None:
        with requests.Session() as session, contextlib.suppress(requests.RequestException):
            session.auth = owner
            while not enough.is_set():
                made = session.post(f"{own.url}{RUNS}create", json={"experiment_id": "0"}, timeout=90)
                made.raise_for_status()
                run = made.json()["run"]["info"]["run_id"]
                body = {"run_id": run, "key": "kept", "value": 1.0, "timestamp": 1}
                session.post(f"{own.url}{RUNS}log-metric", json=body, timeout=90).raise_for_status()
                acknowledged.append(run)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write) for _ in range(4)]
        try:
            wait_until(lambda: len(acknowledged) >= count, "runs are acknowledged")
            kept = list(acknowledged)
            end()
        finally:
            enough.set()
        for writer in writers:
            writer.result()
    return kept


def find_lost_runs(own: Deployment, owner: Login, runs: list[str]) -> list[str]:
    def is_kept(run: str) -> bool:
        answer = own.ask(f"{RUNS}get?run_id={run}", owner)
        return answer.ok and [metric["value"] for metric in answer.json()["run"]["data"].get("metrics", [])] == [1.0]

    return [run for run in runs if not is_kept(run)]


def start_database(own: Deployment, owner: Login) -> None:
    own.compose("start", "backup", "postgres")
    wait_until(lambda: own.is_served(owner), "the database answers")


def test_rows_that_were_acknowledged_survive_a_loss_of_power(
    own: Deployment, owner: Login, database_disk: Disk, soak: bool
) -> None:
    for _ in range(5 if soak else 1):
        runs = write_runs(own, owner, 60, lambda: database_disk.cut_power(own))
        start_database(own, owner)
        assert find_lost_runs(own, owner, runs) == []


def test_without_fsync_they_would_be_lost(own: Deployment, owner: Login, database_disk: Disk, soak: bool) -> None:
    """The drill above can fail."""
    if not soak:
        pytest.skip("--soak: it is the drill that is tried here, not the stack")

    def set_fsync(value: str) -> None:
        own.compose("exec", "-T", "postgres", "psql", "-qc", f"alter system set fsync = {value}")
        own.compose("restart", "postgres")
        wait_until(lambda: own.is_served(owner), "the database answers")

    set_fsync("off")
    kept = write_runs(own, owner, 60, lambda: database_disk.cut_power(own))
    own.compose("start", "backup", "postgres")
    # (it may be that nothing comes up any more)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: own.is_served(owner), "the database answers", 20)
        assert find_lost_runs(own, owner, kept) == []
        pytest.fail("nothing was lost")
    pytest.exit("the database of this stack is damaged on purpose: run the other tests by themselves")


def test_an_answer_comes_after_the_disk_was_told_to_write_down_what_it_holds(
    own: Deployment, owner: Login, folder: str, disk: Disk, database_disk: Disk
) -> None:
    """A disk has a cache of its own, which it empties when told to, as fsync does and a synchronous file."""
    run = folder.split("/")[1]

    def log(number: int) -> requests.Response:
        body = {"run_id": run, "key": "flushed", "value": number, "timestamp": number}
        return own.ask(f"{RUNS}log-metric", owner, "POST", json=body)

    def put(number: int) -> requests.Response:
        return own.ask(f"{ARTIFACTS}{folder}/flushed-{number}", owner, "PUT", data=b"flushed")

    for device, write in ((database_disk, log), (disk, put)):
        before = device.count_flushes()
        for number in range(20):
            assert write(number).ok
            assert device.count_flushes() > before + number, (device.service, number)


# -------------------------------------------------------------------------------------------------------- a full disk
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
    wait_until(lambda: own.ask(place, owner, "PUT", data=make_bytes(8 * MIB, 999)).ok, "uploads go on")
    print(f"uploads went on {time.monotonic() - freed:.0f} s after there was space again")
    assert own.ask(place, owner).content == make_bytes(8 * MIB, 999)
    assert find_lost(own, owner, folder, expected) == []


@pytest.fixture
def filler(own: Deployment) -> Iterator[str]:
    """A file that takes the room on the database's disk, and is removed whatever happens."""
    name = "/var/lib/postgresql/data/filler"
    yield name
    remove_filler(own)


def remove_filler(own: Deployment) -> None:
    """Make room; the server may have ended."""
    command = ["docker", "run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "rm"]
    command += ["--volume", f"{own.name}_postgres-data:/data", own.image("secrets"), "-f", "/data/filler"]
    subprocess.run(command, check=True, capture_output=True)


def test_a_full_disk_of_the_database_ends_writes_and_nothing_else(own: Deployment, owner: Login, filler: str) -> None:
    def log(number: int) -> requests.Response:
        body = {"run_id": run, "key": "kept", "value": number, "timestamp": number, "step": number}
        return own.ask(f"{RUNS}log-metric", owner, "POST", json=body)

    def fill(megabytes: str) -> None:
        script = f"dd if=/dev/zero of={filler} oflag=append conv=notrunc bs=1M count={megabytes} 2>/dev/null || true"
        own.compose("exec", "-T", "postgres", "sh", "-c", script)

    def checkpoint() -> None:
        own.compose("exec", "-T", "postgres", "psql", "-qc", "checkpoint")

    begun = datetime.now(UTC).isoformat()
    made = own.ask(f"{RUNS}create", owner, "POST", json={"experiment_id": "0"})
    run, kept = made.json()["run"]["info"]["run_id"], 0
    process = own.container("postgres")["State"]["Pid"]
    checkpoint()  # (the first to connect to a database writes a file)
    fill("$(($(df --output=avail -BM /var/lib/postgresql/data | tr -dc 0-9) - 80))")
    filled = time.monotonic()
    while (answer := log(kept + 1)).ok:
        kept += 1
        assert time.monotonic() - filled < 240, "writes were never refused"
    print(f"refused {time.monotonic() - filled:.0f} s after little was left, {kept} before")
    assert answer.status_code == 503, answer.text
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert "disk of the database is nearly full" in answer.json()["message"]
    assert answer.headers["Retry-After"] == RETRY_SECONDS
    for path, body in (("set-tag", {"key": "k", "value": "v"}), ("update", {"status": "FINISHED"})):
        assert own.ask(f"{RUNS}{path}", owner, "POST", json={"run_id": run, **body}).status_code == 503, path
    for path in ("experiments/create", "registered-models/create"):
        assert own.ask(f"/api/2.0/mlflow/{path}", owner, "POST", json={"name": "full"}).status_code == 503, path
    assert re.search(r"database: \d+ % full, .* left: make room", own.run("status").stdout)
    # Somebody else takes the rest as well.
    fill("1000")
    for _ in range(10):
        assert log(0).status_code == 503
        found = own.ask(f"{RUNS}get?run_id={run}", owner).json()["run"]["data"]
        assert [metric["value"] for metric in found.get("metrics", [])] == ([kept] if kept else [])
        checkpoint()
    assert "PANIC" not in own.compose("logs", "--no-log-prefix", "--since", begun, "postgres")
    assert own.container("postgres")["State"]["Pid"] == process
    # A server that ends now comes up again as soon as there is room.
    own.kill("postgres")
    time.sleep(3)
    remove_filler(own)
    freed = time.monotonic()
    wait_until(lambda: log(kept + 1).ok, "writes go on")
    print(f"writes went on {time.monotonic() - freed:.0f} s after there was room")
    asked = f"metrics/get-history?run_id={run}&metric_key=kept&max_results=25000"
    history = own.ask(f"/api/2.0/mlflow/{asked}", owner).json()["metrics"]
    assert {metric["step"] for metric in history} == set(range(1, kept + 2))


def test_wal_that_nobody_takes_is_said_and_does_not_fill_the_disk(own: Deployment, owner: Login) -> None:
    def ask_postgres(statement: str) -> str:
        return own.compose("exec", "-T", "postgres", "psql", "-qAtc", statement).strip()

    def find_fault() -> str:
        done = own.execute("docker", "compose", "exec", "-T", "backup", "python", "-m", "backup", "pass")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["archive"])

    def set_mode(mode: str) -> None:
        own.compose("exec", "-T", "backup", "chmod", mode, "/backups/postgres/archive/main")

    def write_segments(count: int) -> None:
        one = "select pg_logical_emit_message(true, 'drill', repeat('x', 2000000)); select pg_switch_wal();"
        # (with pauses, in which each is tried to be handed over)
        ask_postgres("; ".join([*[one, "select pg_sleep(0.5)"] * count]))

    waiting = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'"
    own.check("backup")
    assert find_fault() == ""
    set_mode("000")
    try:
        write_segments(2 * QUEUE_MB // SEGMENT_MB)
        wait_until(lambda: find_fault() != "", "the fault is said")
        print(find_fault())
        wait_until(lambda: int(ask_postgres(waiting)) <= QUEUE_MB // SEGMENT_MB, "WAL is given up")
        assert own.is_served(owner)
    finally:
        set_mode("750")
    # What was given up is said until there is a backup anew.
    write_segments(1)  # (which wakes who hands over)
    wait_until(lambda: "it has a gap" in find_fault(), "the gap is said")
    own.check("backup")
    assert find_fault() == ""


def test_a_full_disk_of_the_audit_log_holds_nobody_up(own: Deployment, owner: Login) -> None:
    own.compose("exec", "-T", "nginx", "sh", "-c", "head -c 3000000 /dev/zero >/var/log/stack/filler || true")
    try:
        assert own.ask(f"{RUNS}create", owner, "POST", json={"experiment_id": "0"}).ok
        assert own.ask(PROBE, owner).ok
        status = own.run("status")
        assert "audit log: 100 % full" in status.stdout
        assert status.returncode == 1
    finally:
        own.compose("exec", "-T", "nginx", "rm", "/var/log/stack/filler")

    def is_noted() -> bool:
        """Make a run, and look for it (for a second after a full disk nginx does not try)."""
        made = own.ask(f"{RUNS}create", owner, "POST", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
        return made in own.tool("admin").check("audit", "--since", "5m")

    wait_until(is_noted, "the log goes on")


# (the last one, since it takes the shared stack too)
def test_a_url_that_another_stack_has_signed_is_refused(
    own: Deployment, owner: Login, stack: Deployment, admin: Login, folder: str
) -> None:
    # The same path exists in both.
    for deployment, login in ((own, owner), (stack, admin)):
        assert deployment.ask(f"{ARTIFACTS}{folder}/both.txt", login, "PUT", data=b"both").ok
    for (signer, login), other in (((own, owner), stack), ((stack, admin), own)):
        url = find_url(signer, login, f"{folder}/both.txt")
        assert requests.get(url, timeout=90).content == b"both"
        url = find_url(signer, login, f"{folder}/both.txt")  # (one that has not ended)
        assert requests.get(url.replace(signer.url, other.url), timeout=90).status_code == 403
    _, parts = begin_parts(stack, admin, folder, "parts.bin", 1)
    assert requests.put(parts[0].replace(stack.url, own.url), data=b"x", timeout=90).status_code == 403
