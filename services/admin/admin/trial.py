"""What ./stack upgrade asks of a new version before anybody else may: a login, rows and bytes, both ways."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import requests

from admin.faults import FaultError
from admin.gateway import PATIENCE_SECONDS, Api, AwayError
from admin.settings import Settings

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
PREFIX = "stack-upgrade-check-"  # (`artifacts forget` removes them for good)
DEADLINE_SECONDS = 90
SIZE = 256 * 1024
METRIC, PARAM = 0.1 + 0.2, "a parameter"


def try_out(settings: Settings) -> float:
    """Do what a client does, in an experiment that is deleted after; return the seconds. Raises FaultError."""
    trial = Trial(Api(settings))
    trial.wait()
    start = time.monotonic()
    trial.refuse_wrong_login()
    trial.tidy()
    experiment = trial.post("experiments/create", name=f"{PREFIX}{uuid.uuid4()}")["experiment_id"]
    try:
        trial.use(experiment)
    finally:
        trial.post("experiments/delete", experiment_id=experiment)
    return time.monotonic() - start


class Trial:
    """A client of the new version."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.deadline = time.monotonic() + DEADLINE_SECONDS

    def _insist[T](self, ask: Callable[[], T]) -> T:
        """Ask again, as any client does, as long as a part is not there yet."""
        while True:
            try:
                return ask()
            except AwayError:
                if time.monotonic() > self.deadline:
                    raise
                time.sleep(0.1)

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a POST."""
        return self._insist(lambda: self.api.ask("POST", f"{API}/{path}", **fields))

    def get(self, path: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a GET."""
        return self._insist(lambda: self.api.ask("GET", f"{API}/{path}", **fields))

    def carry(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """Send or fetch an artifact."""

        def ask() -> requests.Response:
            try:
                answer = self.api.session.request(
                    method, self.api.settings.gateway + path, data=data, timeout=PATIENCE_SECONDS
                )
            except requests.RequestException:
                raise AwayError("the gateway ends a connection while an artifact is carried") from None
            if answer.status_code >= requests.codes.server_error:
                raise AwayError(f"{method} of an artifact is answered with {answer.status_code}")
            return answer

        answer = self._insist(ask)
        if not answer.ok:
            raise FaultError(f"{method} of an artifact is answered with {answer.status_code}")
        return answer.content

    def wait(self) -> None:
        """Return when the new version answers."""
        self.get("experiments/get", experiment_id="0")

    def refuse_wrong_login(self) -> None:
        """Raise FaultError if anybody gets in."""
        url = f"{self.api.settings.gateway}{API}/experiments/get?experiment_id=0"
        answer = requests.get(url, auth=(self.api.settings.username, str(uuid.uuid4())), timeout=PATIENCE_SECONDS)
        expect("a wrong password", requests.codes.unauthorized, answer.status_code)

    def tidy(self) -> None:
        """Delete what a trial left that was killed."""
        found = self.post("experiments/search", max_results=1000, filter=f"name LIKE '{PREFIX}%'")
        for experiment in found.get("experiments", []):
            self.post("experiments/delete", experiment_id=experiment["experiment_id"])

    def use(self, experiment: str) -> None:
        """Write a run with a file, read both again, delete them."""
        now = int(time.time() * 1000)
        run = self.post("runs/create", experiment_id=experiment, start_time=now)["run"]["info"]["run_id"]
        metric = {"key": "metric", "value": METRIC, "timestamp": now, "step": 0}
        self.post("runs/log-batch", run_id=run, metrics=[metric], params=[{"key": "param", "value": PARAM}])
        self.post("runs/update", run_id=run, status="FINISHED", end_time=now + 1)
        found = self.post("runs/search", experiment_ids=[experiment], filter=f"metrics.metric = {METRIC!r}")
        expect("the search for a run", [run], [each["info"]["run_id"] for each in found.get("runs", [])])
        read = self.get("runs/get", run_id=run)["run"]
        expect("a run's status", "FINISHED", read["info"]["status"])
        expect("a run's metric", METRIC, read["data"]["metrics"][0]["value"])
        expect("a run's parameter", PARAM, read["data"]["params"][0]["value"])
        path, content = f"{ARTIFACTS}/{experiment}/{run}/artifacts/check.bin", os.urandom(SIZE)
        self.carry("PUT", path, content)
        listed = [each["path"] for each in self.get("artifacts/list", run_id=run).get("files", [])]
        expect("the list of a run's artifacts", ["check.bin"], listed)
        if self.carry("GET", path) != content:
            raise FaultError("an artifact did not come back as it was sent")
        self.carry("DELETE", path)
        self.post("runs/delete", run_id=run)
        left = self.post("runs/search", experiment_ids=[experiment])
        expect("the search for a deleted run", [], left.get("runs", []))


def expect(what: str, wanted: Any, found: Any) -> None:
    """Raise FaultError if it is not so."""
    if wanted != found:
        raise FaultError(f"{what} is answered with {found!r}, not with {wanted!r}")
