"""What must survive: a second up, a stop, a kill -9 of anything, a changed gateway configuration."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from stack.deployment import PROBE, RETRY_SECONDS, Deployment, wait_until

Login = tuple[str, str]
MODEL = "Wine_Elasticnet_Sklearn_Regressor"


def snapshot(client: MlflowClient) -> tuple[object, ...]:
    """Return what a user would miss: runs, versions with stages and aliases."""
    experiments = sorted((found.experiment_id, found.name) for found in client.search_experiments())
    runs = sorted(
        (run.info.run_id, str(sorted(run.data.metrics.items())), str(sorted(run.data.params.items())))
        for run in client.search_runs([identifier for identifier, _ in experiments])
    )
    versions = sorted(
        (version.name, version.version, version.current_stage, str(version.aliases))
        for version in client.search_model_versions()
    )
    return experiments, runs, versions


def test_a_second_up_changes_nothing_and_trains_nothing(stack: Deployment, client: MlflowClient) -> None:
    before, containers = snapshot(client), [stack.container(name)["Id"] for name in ("postgres", "mlflow", "nginx")]
    output = stack.run("up")
    assert output.returncode == 0, output.stderr
    assert "Already trained" in output.stderr
    assert snapshot(client) == before
    assert [stack.container(name)["Id"] for name in ("postgres", "mlflow", "nginx")] == containers


def test_down_and_up_keep_everything(stack: Deployment, client: MlflowClient) -> None:
    before = snapshot(client)
    stack.check("down")
    with pytest.raises(requests.ConnectionError):
        requests.get(stack.url, timeout=5)
    stack.check("up")
    assert snapshot(client) == before
    assert len(mlflow.pyfunc.load_model(f"models:/{MODEL}/Production").metadata.to_dict()) > 0


@pytest.mark.parametrize("service", ["postgres", "objectstore", "mlflow", "nginx"])
def test_a_killed_server_heals_and_no_acknowledged_write_is_lost(
    stack: Deployment, admin: Login, client: MlflowClient, service: str, soak: bool
) -> None:
    for round_number in range(20 if soak else 1):
        run = client.create_run("0", run_name=f"before the end of {service} {round_number}")
        client.log_metric(run.info.run_id, "kept", 1.0)
        client.log_text(run.info.run_id, "kept", "kept.txt")
        killed = stack.kill(service)[service]

        def runs_again(former: int = killed) -> bool:
            state = stack.container(service)["State"]
            return bool(state["Running"] and state["Pid"] not in (0, former))  # (Docker takes a moment to notice)

        wait_until(runs_again, f"{service} runs again")
        wait_until(lambda: stack.is_served(admin), f"the gateway serves again after the end of {service}")
        assert client.get_run(run.info.run_id).data.metrics == {"kept": 1.0}

        def artifact_is_back(run_id: str = run.info.run_id) -> bool:
            try:
                text: str = mlflow.artifacts.load_text(f"runs:/{run_id}/kept.txt")
            except Exception:  # noqa: BLE001 - whatever the client says while the store starts
                return False
            return text == "kept"

        wait_until(artifact_is_back, f"the artifact is back after the end of {service}")


def test_while_the_database_stops_and_starts_a_writer_is_told_to_try_again(stack: Deployment, admin: Login) -> None:
    body = {"experiment_id": "0", "start_time": 1, "run_name": "written to while the database stops"}
    run = stack.ask("/api/2.0/mlflow/runs/create", admin, "POST", json=body).json()["run"]["info"]["run_id"]
    answers: Counter[tuple[int, str]] = Counter()
    over = threading.Event()

    def write(writer: int) -> None:
        with requests.Session() as session:
            for step in itertools.count():
                if over.is_set():
                    return
                metric = {"run_id": run, "key": f"m{writer}", "value": 1, "step": step, "timestamp": step}
                answer = session.post(
                    f"{stack.url}/api/2.0/mlflow/runs/log-metric", auth=admin, json=metric, timeout=60
                )
                answers[answer.status_code, answer.headers.get("Retry-After", "")] += 1

    with ThreadPoolExecutor(12) as pool:
        written = [pool.submit(write, number) for number in range(12)]
        try:
            for _ in range(4):
                subprocess.run(["docker", "restart", f"{stack.name}-postgres-1"], check=True, capture_output=True)
                wait_until(lambda: stack.is_served(admin), "the stack serves again")
        finally:
            over.set()
    assert [each.result() for each in written] == [None] * 12
    assert answers[200, ""] > 0
    assert answers.keys() <= {(200, ""), (503, RETRY_SECONDS)}, answers


# Ends the connection of the first one that asks for the schema's version.
END_THE_FIRST = """do $$ begin
    lock table alembic_version;
    for tried in 1..200 loop
        perform pg_terminate_backend(pid) from pg_locks where relation = 'alembic_version'::regclass and not granted;
        if found then return; end if;
        perform pg_sleep(0.1);
    end loop;
    raise 'nobody asked';
end $$"""


def test_a_database_that_ends_under_a_workers_first_request_is_503(stack: Deployment, admin: Login) -> None:
    """MLflow makes a worker's store at the first request, outside of its sessions: Flask would answer a bare 500."""
    stack.compose("restart", "mlflow")
    wait_until(lambda: stack.is_served(admin), "the gateway serves")
    for _ in range(20):  # (the fast path asks for the schema's version as well, and makes no store)
        assert stack.ask(PROBE, admin).status_code == 200
    stack.compose("stop", "follower", "backup")  # (nobody else asks)
    with ThreadPoolExecutor(1) as pool:
        ask = ["exec", "-T", "postgres", "psql", "-qAtd", "mlflow", "-v", "ON_ERROR_STOP=1", "-c"]
        ended = pool.submit(stack.compose, *ask, END_THE_FIRST)
        locked = "select count(*) from pg_locks where relation = 'alembic_version'::regclass and mode ~ '^AccessExcl'"
        wait_until(lambda: stack.compose(*ask, locked).strip() == "1", "the table is locked")
        asked = stack.ask("/api/2.0/mlflow/experiments/search?max_results=1", admin)
        ended.result()
    stack.compose("start", "follower", "backup")
    assert (asked.status_code, asked.headers.get("Retry-After")) == (503, RETRY_SECONDS), asked.text
    assert "try again" in asked.json()["message"]


def test_a_killed_worker_is_replaced(stack: Deployment, admin: Login) -> None:
    workers = find_workers(stack)
    os.kill(workers[0], signal.SIGKILL)
    wait_until(lambda: stack.is_served(admin), "the gateway serves")
    for _ in range(20):
        assert stack.ask(PROBE, admin).status_code == 200
    assert len(workers) >= 2
    wait_until(lambda: len(find_workers(stack)) == len(workers), "there are as many as before")


def test_each_worker_has_its_share_of_the_requests(stack: Deployment, admin: Login) -> None:
    def ask() -> bool:
        agent = f"share-{time.time_ns()}"
        with requests.Session() as session:
            for _ in range(100):
                answer = session.get(stack.url + PROBE, auth=admin, timeout=90, headers={"User-Agent": agent})
                answer.raise_for_status()
        logged = [line for line in stack.logs("nginx", "2000").splitlines() if agent in line]
        shares = Counter(re.findall(r'"upstream":"(.*?)"', "\n".join(logged)))
        print(shares)
        # (what is logged may be read a moment too early)
        if shares.total() != 100:
            return False
        return len(shares) == len(find_workers(stack)) and min(shares.values()) > 0.7 * 100 / len(shares)

    # (a worker that is busy with another's request, such as a new one with the follower's first login, gets none)
    wait_until(ask, "each has its share of a hundred requests")


def find_workers(stack: Deployment) -> list[int]:
    """Return the process ids of MLflow's workers."""
    master = stack.find_process("mlflow")
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def test_every_server_stops_when_it_is_told_to(stack: Deployment) -> None:
    servers = ("postgres", "objectstore", "mlflow", "nginx")

    def stop(service: str) -> float:
        start = time.monotonic()
        # (more time than compose gives, after which it kills: the machine may be busy with others)
        stack.compose("stop", "--timeout", "100", service)
        return time.monotonic() - start

    with ThreadPoolExecutor(len(servers)) as pool:
        seconds = dict(zip(servers, pool.map(stop, servers), strict=True))
    ends = {service: stack.container(service)["State"]["ExitCode"] for service in servers}
    stack.compose("start", *servers)
    print({service: f"{took:.1f} s" for service, took in seconds.items()})
    assert set(ends.values()) <= {0, 143}, f"one was killed: {ends}"


def test_the_stack_is_well_after_all_that(stack: Deployment, admin: Login) -> None:
    wait_until(lambda: stack.is_served(admin), "the gateway serves")
    wait_until(lambda: stack.run("status").returncode == 0, "every service is well")


def test_reload_follows_a_change_without_dropping_a_request(
    stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    configuration = stack.root / "nginx/conf/nginx.conf"
    original = configuration.read_text()
    failures: list[str] = []
    stop = threading.Event()

    def ask_on_new_connections() -> None:
        if (status := stack.ask(PROBE, admin).status_code) != requests.codes.ok:
            failures.append(f"status {status}")

    def ask_on_a_kept_connection() -> None:
        # nginx closes idle connections at a reload. A request that crosses such a close is sent again by any client
        # that keeps connections (RFC 9112, 9.3.1), as MLflow's does; a bare requests.Session would not.
        client.get_experiment("0")

    def repeat(ask: Callable[[], None]) -> None:
        while not stop.is_set():
            try:
                ask()
            except (requests.RequestException, MlflowException) as error:
                failures.append(repr(error))
            stop.wait(0.05)

    threads = [
        threading.Thread(target=repeat, args=(ask,)) for ask in (ask_on_new_connections, ask_on_a_kept_connection)
    ]
    for thread in threads:
        thread.start()
    try:
        changed = original.replace("add_header X-Request-Id $request_id always;", "add_header X-Changed yes always;", 1)
        configuration.write_text(changed)
        assert "new configuration runs" in stack.check("reload")
        wait_until(lambda: "X-Changed" in stack.ask("/livez", None).headers, "the change is served")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        configuration.write_text(original)
        stack.check("reload")
    assert failures == []


def test_a_broken_configuration_never_becomes_the_running_configuration(stack: Deployment, admin: Login) -> None:
    configuration = stack.root / "nginx/conf/nginx.conf"
    original = configuration.read_text()
    try:
        for broken, fault in (
            (original.replace("http {", "http {{"), "nginx refuses"),
            (original.replace("$is_our_host", "$is_our_hoost"), "nginx refuses"),
        ):
            configuration.write_text(broken)
            result = stack.run("reload")
            assert result.returncode != 0
            assert fault in result.stderr
            assert stack.ask(PROBE, admin).status_code == 200
        result = stack.execute("docker", "compose", "run", "--rm", "--no-deps", "-T", "nginx")
        assert result.returncode != 0, "a gateway with a broken configuration started"
    finally:
        configuration.write_text(original)
