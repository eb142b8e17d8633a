"""What the stack has acknowledged is there, whole, whatever is killed at whatever moment: a ledger is compared."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from stack.deployment import Deployment, wait_until
from stack.ledger import API, Login, check_nothing_is_lost
from stack.transfers import ARTIFACTS

SERVICES = ["postgres", "objectstore", "mlflow", "nginx", "backup", "follower", "serving"]

pytestmark = pytest.mark.timeout(3600)


def kill(stack: Deployment, services: list[str]) -> None:
    """Kill servers at once, and wait until Docker has started all of them again."""
    former = stack.kill(*services)

    def run_again() -> bool:
        named = ["docker", "container", "inspect", *(f"{stack.name}-{service}-1" for service in services)]
        found = json.loads(subprocess.run(named, check=True, capture_output=True, text=True).stdout)
        states = {service: each["State"] for service, each in zip(services, found, strict=True)}
        return all(state["Running"] and state["Pid"] not in (0, former[name]) for name, state in states.items())

    wait_until(run_again, f"{', '.join(services)} run again")


def test_what_was_acknowledged_survives_the_kill_of_anything_at_any_moment(
    stack: Deployment, admin: Login, tmp_path: Path, soak: bool
) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    print(f"seed {seed}")

    def strike(number: int) -> None:
        time.sleep(chance.uniform(0, 1))
        # (everything at once in every fifth round, the first among them)
        services = SERVICES if number % 5 == 0 else [chance.choice(SERVICES[:4] if not soak else SERVICES)]
        start = time.monotonic()
        kill(stack, services)
        print(f"round {number}: {', '.join(services)}; running again after {time.monotonic() - start:.1f} s")

    check_nothing_is_lost(stack, admin, tmp_path, 100 if soak else 5, strike)


def test_a_run_that_still_writes_is_no_orphan_whatever_its_client_says_of_the_time(
    stack: Deployment, admin: Login
) -> None:
    name = f"orphans-{time.time_ns()}"
    experiment = stack.ask(f"{API}experiments/create", admin, "POST", json={"name": name}).json()["experiment_id"]

    def make_run(**tags: str) -> str:
        """Make a run that began an hour ago, as its client says."""
        body = {"experiment_id": experiment, "start_time": int((time.time() - 3600) * 1000)}
        body |= {"tags": [{"key": f"mlflow.{key}", "value": value} for key, value in tags.items()]}
        run: str = stack.ask(f"{API}runs/create", admin, "POST", json=body).json()["run"]["info"]["run_id"]
        return run

    def post(path: str, run: str, **body: Any) -> None:
        assert stack.ask(f"{API}runs/{path}", admin, "POST", json={"run_id": run, **body}).ok

    silent, parent, uploads = make_run(), make_run(), make_run()
    child = make_run(parentRunId=parent)
    by_metric, by_tag, by_param = make_run(), make_run(), make_run()
    ended = make_run()
    post("update", ended, status="FINISHED")
    stack.tool("artifacts")  # (its start takes a while)
    time.sleep(21)  # (less than which all that follows takes, also on a busy machine)
    # (a metric of years ago, and one that takes no other's place)
    post("log-metric", by_metric, key="m", value=1, timestamp=1000, step=0)
    post("log-metric", child, key="m", value=1, timestamp=1000, step=0)
    post("set-tag", by_tag, key="t", value="v")
    post("log-parameter", by_param, key="p", value="v")
    place = f"{ARTIFACTS}{experiment}/{uploads}/artifacts/x"
    assert stack.ask(place, admin, "PUT", data=b"x").ok
    asked = ("orphans", "--experiment", name, "--older-than", "20s", "--json")
    found = json.loads(stack.tool("artifacts").check(*asked, "--mark"))["runs"]
    assert {run["run"] for run in found} == {silent}
    said = stack.tool("artifacts").check("orphans", "--experiment", name, "--older-than", "0s")
    assert all(run in said for run in (parent, child, uploads, by_metric, by_tag, by_param))
    assert silent not in said
    assert ended not in said
    # One that was marked and lives on is not held up by it.
    post("log-metric", silent, key="m", value=1, timestamp=1000, step=0)
    post("update", silent, status="FINISHED")
