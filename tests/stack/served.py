"""A served model of the tests' own: its versions, the load on it, and what the stack says of it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import mlflow
import numpy as np
import pandas as pd
import requests
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.linear_model import ElasticNet

from stack.deployment import WAIT_SECONDS, Deployment, wait_until

Login = tuple[str, str]
COLUMNS = ["fixed acidity", "pH", "alcohol"]
ROWS = [[7.4, 3.51, 9.4], [7.8, 3.2, 9.8], [11.2, 3.16, 9.8]]
FRAME = pd.DataFrame(ROWS, columns=COLUMNS)
ONE_ROW = {"dataframe_split": {"columns": COLUMNS, "data": ROWS[:1]}}


def make_model(alpha: float, columns: list[str] = COLUMNS, rows: int = 60) -> tuple[ElasticNet, pd.DataFrame]:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame(generator.random((rows, len(columns))) * 10, columns=columns)
    return ElasticNet(alpha=alpha).fit(frame, frame.sum(axis=1) + generator.random(rows)), frame


@dataclass
class Served:
    """One model, served by a stack."""

    stack: Deployment
    login: Login
    client: MlflowClient
    name: str

    def register(self, alpha: float, **options: Any) -> str:
        """Register a version; options are log_model's."""
        model, frame = make_model(alpha)
        usual = {
            "signature": infer_signature(frame, model.predict(frame)),
            "input_example": frame.head(2),
            "pip_requirements": ["scikit-learn"],
        }
        info = mlflow.sklearn.log_model(**{"sk_model": model, "name": "model", **usual, **options})
        return self.add(str(info.model_uri))

    def add(self, model_uri: str) -> str:
        """Make a version of a logged model."""
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name)
        identifier = model_uri.rpartition("/")[2]
        return str(self.client.create_model_version(self.name, model_uri, model_id=identifier).version)

    def promote(self, version: str) -> None:
        self.client.set_registered_model_alias(self.name, "production", version)

    def ask(
        self, body: object = ONE_ROW, login: Login | None = None, question: str = "invocations", **options: Any
    ) -> requests.Response:
        """Ask for predictions, as the administrator unless `login` is somebody."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        method = "POST" if question == "invocations" else "GET"
        return self.stack.ask(
            f"/serve/{self.name}/{question}",
            login or self.login,
            method,
            **(sent if method == "POST" else {}),
            **options,
        )

    def is_served(self, version: str) -> bool:
        answer = self.ask()
        return answer.ok and answer.headers["X-Model-Version"] == version

    def wait_for(self, version: str) -> float:
        return wait_until(lambda: self.is_served(version), f"{self.name} version {version} is served")

    @property
    def state(self) -> Path:
        """The file in which serving says how things are."""
        return Path(f"/proc/{self.stack.find_process('serving')}/root/run/serving/state.json")

    def read_state(self) -> dict[str, Any]:
        """Return what serving says of the model."""
        state = json.loads(self.state.read_text())
        found: dict[str, Any] = next(model for model in state["models"] if model["name"] == self.name)
        return found

    def wait_for_reason(self, version: str, seconds: float = WAIT_SECONDS) -> str:
        """Return why a version is not served, once that is known."""

        def is_kept() -> bool:
            state = self.read_state()
            return bool(state["wanted"] == version and state["state"] == "kept" and state["reason"])

        wait_until(is_kept, f"it is said why version {version} is not served", seconds)
        return str(self.read_state()["reason"])


@dataclass
class Load:
    """Clients that ask for one prediction after the other, each on a connection that it keeps, while it is entered.

    Attributes:
        answers: how often each (status, version, prediction) came; what went wrong otherwise stands at the status.
        first: when a version's first answer came, by time.monotonic.
    """

    served: Served
    clients: int = 4
    answers: Counter[tuple[object, str, str]] = field(default_factory=Counter)
    first: dict[str, float] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self.run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def run(self) -> None:
        url = f"{self.served.stack.url}/serve/{self.served.name}/invocations"
        with requests.Session() as session:
            session.auth = self.served.login
            while not self._stopped.is_set():
                try:
                    answer = session.post(url, json=ONE_ROW, timeout=120)
                    version = answer.headers.get("X-Model-Version", "")
                    self.answers[answer.status_code, version, answer.text] += 1
                    self.first.setdefault(version, time.monotonic())
                except requests.RequestException as error:
                    self.answers[repr(error), "", ""] += 1
                time.sleep(0.03)  # the machine has others to serve
