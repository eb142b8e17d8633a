"""A ledger of what the stack has acknowledged to clients who write, compared with what is there in the end."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests

from stack.deployment import Deployment, wait_until
from stack.transfers import ARTIFACTS, make_bytes

Login = tuple[str, str]
API = "/api/2.0/mlflow/"
WRITERS = 3
MODELS = [f"ledger-{number}" for number in range(WRITERS)]  # one for each of them
BATCH = 4  # metrics, params and tags of one request
OK, AWAY = 200, 503


class Ledger:
    """What was acknowledged: a line each, on the disk before the next question is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a")

    def note(self, what: str, **facts: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"what": what, **facts}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


class LostError(Exception):
    """No answer, or one that says that somebody is away."""


def make_content(run: str) -> bytes:
    """Return the bytes of a run's artifact: small ones and such as take several of the store's pieces."""
    seed = int(run[:6], 16)
    return make_bytes((1000, 100_000, 1_500_000)[seed % 3], seed)


def make_batch(run: str) -> dict[str, list[dict[str, Any]]]:
    """Return what one request logs at once."""
    return {
        "metrics": [{"key": f"m{n}", "value": n, "timestamp": 1, "step": 0} for n in range(BATCH)],
        "params": [{"key": f"p{n}", "value": run} for n in range(BATCH)],
        "tags": [{"key": f"t{n}", "value": run} for n in range(BATCH)],
    }


@dataclass
class Writers:
    """Clients who write one run after the other, each step when the one before was acknowledged, and none twice."""

    stack: Deployment
    login: Login
    experiment: str
    ledger: Ledger
    faults: list[str] = field(default_factory=list)
    ended: int = 0  # runs that were written to their end
    over: threading.Event = field(default_factory=threading.Event)

    def _ask(self, session: requests.Session, method: str, path: str, **options: Any) -> Any:
        """Return the answer; a LostError if it did not come, a fault if it is neither a success nor says so."""
        try:
            answer = session.request(method, self.stack.url + path, timeout=90, **options)
        except requests.RequestException as error:
            raise LostError from error
        if answer.status_code == AWAY:
            raise LostError
        if answer.status_code != OK:
            self.faults.append(f"{method} {path[:60]}: {answer.status_code} {answer.text[:200]}")
            raise LostError
        return answer.json() if answer.content else {}

    def _write_run(self, session: requests.Session, model: str) -> None:
        def post(path: str, **body: Any) -> Any:
            return self._ask(session, "POST", API + path, json=body)

        made = post("runs/create", experiment_id=self.experiment)
        run = made["run"]["info"]["run_id"]
        self.ledger.note("run", run=run)
        post("runs/log-batch", run_id=run, **make_batch(run))
        self.ledger.note("batch", run=run)
        for step in range(3):
            post("runs/log-metric", run_id=run, key="loss", value=step / 3, timestamp=step, step=step)
            self.ledger.note("metric", run=run, step=step)
        post("runs/log-parameter", run_id=run, key="param", value=run)
        self.ledger.note("param", run=run)
        post("runs/set-tag", run_id=run, key="tag", value=run)
        self.ledger.note("tag", run=run)
        place = f"{ARTIFACTS}{self.experiment}/{run}/artifacts/model/bytes"
        self._ask(session, "PUT", place, data=make_content(run))
        self.ledger.note("artifact", run=run)
        source = f"mlflow-artifacts:/{self.experiment}/{run}/artifacts/model"
        version = post("model-versions/create", name=model, source=source, run_id=run)["model_version"]["version"]
        self.ledger.note("version", run=run, model=model, version=version)
        post("registered-models/alias", name=model, alias="newest", version=version)
        self.ledger.note("alias", model=model, version=version)
        post("runs/update", run_id=run, status="FINISHED", end_time=int(time.time() * 1000))
        self.ledger.note("end", run=run)
        self.ended += 1

    def _write(self, model: str) -> None:
        while not self.over.is_set():
            with requests.Session() as session:
                session.auth = self.login
                try:
                    while not self.over.is_set():
                        self._write_run(session, model)
                except LostError:
                    time.sleep(0.2)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._write, args=(model,)) for model in MODELS]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(90)


class Found:
    """What is there in the end, as any client sees it."""

    def __init__(self, stack: Deployment, login: Login, experiment: str) -> None:
        self.stack, self.experiment = stack, experiment
        self.session = requests.Session()
        self.session.auth = login
        asked = {"experiment_ids": [experiment], "max_results": 1000}
        self.runs = {run["info"]["run_id"]: run for run in self._list("POST", "runs/search", "runs", asked)}
        self.versions: dict[tuple[str, str], Any] = {}
        self.aliases: dict[str, str] = {}
        for model in MODELS:
            asked = {"filter": f"name = '{model}'", "max_results": 1000}
            for version in self._list("GET", "model-versions/search", "model_versions", asked):
                self.versions[model, version["version"]] = version
            registered = self._ask("GET", "registered-models/get", {"name": model})["registered_model"]
            for alias in registered.get("aliases", []):
                self.aliases[model] = alias["version"]

    def _ask(self, method: str, path: str, asked: dict[str, Any]) -> Any:
        place: dict[str, Any] = {"params": asked} if method == "GET" else {"json": asked}
        answer = self.session.request(method, self.stack.url + API + path, timeout=60, **place)
        assert answer.ok, f"{path}: {answer.text}"
        return answer.json()

    def _list(self, method: str, path: str, name: str, asked: dict[str, Any]) -> Iterator[Any]:
        token = ""
        while True:
            page = self._ask(method, path, asked | {"page_token": token})
            yield from page.get(name, [])
            if not (token := page.get("next_page_token", "")):
                return

    def read(self, run: str, kind: str) -> dict[str, Any]:
        """Return metrics, params or tags of a run."""
        return {item["key"]: item["value"] for item in self.runs[run]["data"].get(kind, [])}

    def fetch(self, run: str) -> requests.Response:
        """Return the answer to the question for a run's artifact."""
        place = f"{ARTIFACTS}{self.experiment}/{run}/artifacts/model/bytes"
        return self.session.get(self.stack.url + place, timeout=60)

    def find_steps(self, run: str) -> list[int]:
        """Return the steps of a metric's history."""
        asked = {"run_id": run, "metric_key": "loss", "max_results": 100}
        return [metric.get("step", 0) for metric in self._ask("GET", "metrics/get-history", asked).get("metrics", [])]

    def count_batch(self, run: str) -> int:
        """Return how much of a batch is there."""
        return sum(
            self.read(run, kind).get(item["key"]) == item["value"]
            for kind, items in make_batch(run).items()
            for item in items
        )

    def has(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry of the ledger is there as it was acknowledged."""
        run, model = entry.get("run", ""), entry.get("model", "")
        tests: dict[str, Callable[[], bool]] = {
            "run": lambda: run in self.runs,
            "batch": lambda: self.count_batch(run) == 3 * BATCH,
            "metric": lambda: self.find_steps(run).count(entry["step"]) == 1,
            "param": lambda: self.read(run, "params").get("param") == run,
            "tag": lambda: self.read(run, "tags").get("tag") == run,
            "artifact": lambda: self.fetch(run).content == make_content(run),
            "version": lambda: bool(self.versions[model, entry["version"]]["run_id"] == run),
            # (each model has one writer; an alias may have moved on without an answer, and never goes back)
            "alias": lambda: int(self.aliases[model]) >= int(entry["version"]),
            "end": lambda: bool(self.runs[run]["info"]["status"] == "FINISHED"),
        }
        try:
            return tests[entry["what"]]()
        except KeyError:
            return False

    def find_half(self, stored: set[str]) -> list[str]:
        """Return what is there in part; `stored` are the runs whose artifact was acknowledged."""
        half = [f"{run}: {self.count_batch(run)} of a batch" for run in self.runs]
        half = [line for line in half if not re.search(rf": (0|{3 * BATCH}) of a batch", line)]
        for run in self.runs.keys() - stored:
            answer = self.fetch(run)
            if answer.status_code != requests.codes.not_found and answer.content != make_content(run):
                half.append(f"{run}: an artifact of {len(answer.content)} bytes, {answer.status_code}")
        half += [
            f"{key}: {version['status']}" for key, version in self.versions.items() if version["status"] != "READY"
        ]
        half += [f"{alias}: an alias of no version" for alias in self.aliases.items() if alias not in self.versions]
        return half


def check_nothing_is_lost(
    stack: Deployment, login: Login, folder: Path, rounds: int, strike: Callable[[int], None]
) -> None:
    """Let clients write, strike the stack so many times, and fail unless all that was acknowledged is there, whole.

    Args:
        folder: for the ledger.
        strike: is given the number of the round, and returns when the stack is on its feet again.
    """
    name = f"ledger-{time.time_ns()}"
    made = stack.ask(f"{API}experiments/create", login, "POST", json={"name": name})
    experiment = made.json()["experiment_id"]
    for model in MODELS:
        stack.ask(f"{API}registered-models/create", login, "POST", json={"name": model})
    ledger = Ledger(folder / "ledger.jsonl")
    with Writers(stack, login, experiment, ledger) as writers:

        def write() -> None:
            enough = writers.ended + 2 * WRITERS
            wait_until(lambda: writers.ended >= enough, "they write")

        for number in range(rounds):
            write()
            strike(number)
        write()
    assert writers.faults == []
    found, entries = Found(stack, login, experiment), ledger.read()
    lost = [entry for entry in entries if not found.has(entry)]
    half = found.find_half({entry["run"] for entry in entries if entry["what"] == "artifact"})
    print(f"{len(entries)} entries of {len({entry.get('run') for entry in entries})} runs")
    assert (lost, half) == ([], [])
    check_orphans(stack, login, name, {entry["run"] for entry in entries if entry["what"] == "end"}, experiment)


def check_orphans(stack: Deployment, admin: Login, name: str, ended: set[str], experiment: str) -> None:
    """Fail unless the runs that nobody will ever end are found, and ended, and no others."""

    def find_running() -> set[str]:
        body = {"experiment_ids": [experiment], "filter": "attributes.status = 'RUNNING'", "max_results": 1000}
        found = stack.ask(f"{API}runs/search", admin, "POST", json=body).json().get("runs", [])
        return {run["info"]["run_id"] for run in found}

    def list_orphans(*options: str) -> set[str]:
        said = json.loads(stack.tool("artifacts").check("orphans", "--experiment", name, "--json", *options))
        return {run["run"] for run in said["runs"]}

    running = find_running()
    assert running
    assert not running & ended
    assert list_orphans() == set()  # a day is not over
    assert list_orphans("--older-than", "0s") == running
    assert find_running() == running
    assert list_orphans("--older-than", "0s", "--mark") == running
    assert find_running() == set()
    one = stack.ask(f"{API}runs/get?run_id={min(running)}", admin).json()["run"]
    assert one["info"]["status"] == "KILLED"
    assert one["info"]["end_time"] >= one["info"]["start_time"]
    assert "taken for killed" in {tag["key"]: tag["value"] for tag in one["data"]["tags"]}["stack.orphan"]
