"""One client on one connection that it keeps: each answer is timed by itself, so that percentiles are exact."""

from __future__ import annotations

import base64
import http.client
import itertools
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.latency import Sample

# Needs a login, the server and its database. (MLflow ignores an unknown field, and the fast path leaves it to
# MLflow: so servers with and without a login do the same work.)
QUESTION = "/api/2.0/mlflow/experiments/get?experiment_id=0&by=handler"
TIMEOUT_SECONDS = 60
Login = tuple[str, str]
NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Question:
    """What is asked: a path, and what is posted there, if anything. %N% in it is another number each time."""

    path: str = QUESTION
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """HTTP's."""
        return "POST" if self.body else "GET"


EXPERIMENT = Question()


def make_header(login: Login) -> str:
    """Return the value of HTTP Basic's Authorization header."""
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


def connect(url: str, source: str = "") -> http.client.HTTPConnection:
    """Return a connection to the server of a URL, from one of this machine's addresses."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=TIMEOUT_SECONDS, source_address=(source, 0) if source else None
    )
    connection.connect()
    return connection


def ask(
    connection: http.client.HTTPConnection, authorization: str, question: Question = EXPERIMENT
) -> tuple[int, float]:
    """Ask a question once. Returns the status and the milliseconds until the answer was there."""
    start = time.perf_counter()
    headers = {"Authorization": authorization, **question.headers}
    body = question.body.replace("%N%", str(next(NUMBERS))) if question.body else None
    connection.request(question.method, question.path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, (time.perf_counter() - start) * 1000


def measure(url: str, login: Login, seconds: float, question: Question = EXPERIMENT) -> Sample:
    """Ask one question after the other for a while."""
    sample = Sample()
    authorization = make_header(login)
    connection = connect(url)
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        status, milliseconds = ask(connection, authorization, question)
        sample.milliseconds.append(milliseconds)
        sample.statuses[status] += 1
    sample.seconds = max(now - start, seconds)
    connection.close()
    return sample
