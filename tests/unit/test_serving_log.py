"""The log of predictions: what is in its files, and that neither memory nor disk can hold it up."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import ElasticNet

from serving import batches, log
from serving.answers import Answerer
from serving.app import ModelApp
from serving.batches import Batch
from serving.log import Log

NAMES = ["fixed acidity", "pH"]
ROWS = [[7.4, 3.51], [7.8, 3.2], [11.25, 3.16]]
JSON = "application/json"


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame(generator.random((60, 2)) * 10, columns=NAMES)
    model = ElasticNet(alpha=0.1).fit(frame, generator.random(60))
    path = tmp_path_factory.mktemp("model") / "model"
    mlflow.sklearn.save_model(model, path, signature=infer_signature(frame, model.predict(frame)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
        return Answerer(mlflow.pyfunc.load_model(str(path)), 10_000)


@pytest.fixture
def kept(answerer: Answerer, tmp_path: Path) -> Log:
    return Log(answerer, "M", "3", 1.0, tmp_path)


def ask(kept: Log, answerer: Answerer, body: bytes, kind: str = JSON, request_id: str = "r") -> list[float]:
    """Have a request answered and logged, as the application does."""
    answer = answerer.answer_by_mlflow(body, kind)
    kept.add(request_id, body, kind, answer, 0.25)
    values: list[float] = json.loads(answer)["predictions"]
    return values


def split(rows: list[list[float]] = ROWS) -> bytes:
    return json.dumps({"dataframe_split": {"columns": NAMES, "data": rows}}).encode()


def read(folder: Path) -> pd.DataFrame:
    paths = [path for path, _ in batches.list_batches(folder)]
    return pd.concat([pq.read_table(path).to_pandas() for path in paths], ignore_index=True)


def test_a_file_holds_what_was_asked_and_answered(kept: Log, answerer: Answerer, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=NAMES)
    bodies: list[tuple[bytes, str]] = [
        (split(), JSON),
        (json.dumps({"inputs": frame.to_dict("records")}).encode(), "application/json; charset=utf-8"),
        (frame.to_csv(index=False).encode(), "text/csv"),
        (
            json.dumps(
                {"dataframe_split": {"columns": [*NAMES, "extra"], "data": [[*row, 1] for row in ROWS]}}
            ).encode(),
            JSON,
        ),
    ]
    before = datetime.now(UTC)
    expected = [value for n, (body, kind) in enumerate(bodies) for value in ask(kept, answerer, body, kind, f"r{n}")]
    assert list(tmp_path.iterdir()) == []  # nothing is written while a request is answered
    kept.write()
    ((path, batch),) = batches.list_batches(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert (batch.model, batch.version, batch.rows) == ("M", "3", 12)
    rows = read(tmp_path)
    assert [json.loads(text) for text in rows["output"]] == expected
    assert rows[[batches.INPUT + name for name in NAMES]].to_numpy().tolist() == ROWS * 4
    assert list(rows["request_id"]) == [f"r{n}" for n in range(4) for _ in ROWS]
    assert list(rows["row"]) == [0, 1, 2] * 4
    assert set(rows["rows"]) == {3}
    assert set(rows["version"]) == {"3"}
    assert set(rows["seconds"]) == {0.25}
    assert rows["input_hash"][0] == hashlib.sha256(bodies[0][0]).hexdigest()[:16]
    assert before <= rows["time"].min() <= rows["time"].max() <= datetime.now(UTC)
    assert kept.written == 12
    kept.write()
    assert len(list(tmp_path.iterdir())) == 1  # nothing has come: no file


def test_what_does_not_fit_into_memory_is_counted_and_there_is_room_again(
    kept: Log, answerer: Answerer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = split(ROWS[:1])
    answer = answerer.answer_by_mlflow(body, JSON)
    size = len(body) + len(answer) + log.OVERHEAD
    monkeypatch.setattr(log, "BUFFER_BYTES", 3 * size)
    for _ in range(5):
        kept.add("r", body, JSON, answer, 0.1)
    assert kept.dropped == {"memory": 2, "disk": 0, "unreadable": 0}
    kept.write()
    assert len(read(tmp_path)) == 3
    kept.add("r", body, JSON, answer, 0.1)
    kept.write()
    assert len(read(tmp_path)) == 4
    assert kept.dropped["memory"] == 2


def test_the_oldest_files_go_when_nobody_takes_them_away(
    kept: Log, answerer: Answerer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(kept, answerer, split(), request_id="0")
    kept.write()
    ((path, _),) = batches.list_batches(tmp_path)
    limit = int(path.stat().st_size * 3.5)
    monkeypatch.setattr(batches, "LIMIT_BYTES", limit)
    (tmp_path / ".99.part").write_bytes(b"x")
    os.utime(tmp_path / ".99.part", (0, 0))  # of a worker that was killed long ago
    for number in range(1, 6):
        ask(kept, answerer, split(), request_id=str(number))
        kept.write()
        assert sum(found.stat().st_size for found in tmp_path.iterdir()) <= limit
    assert list(dict.fromkeys(read(tmp_path)["request_id"])) == ["3", "4", "5"]
    assert (kept.removed, kept.written) == (9, 18)
    assert not (tmp_path / ".99.part").exists()
    assert 'serving_log_removed_rows_total{model="M"} 9' in kept.render('model="M"')


def test_a_disk_that_takes_nothing_loses_the_log_and_nothing_else(answerer: Answerer, tmp_path: Path) -> None:
    kept = Log(answerer, "M", "3", 1.0, tmp_path / "not there")
    ask(kept, answerer, split())
    ask(kept, answerer, split())
    kept.write()
    assert kept.dropped == {"memory": 0, "disk": 2, "unreadable": 0}
    (tmp_path / "not there").mkdir()
    ask(kept, answerer, split())
    kept.write()
    assert len(read(tmp_path / "not there")) == 3


def test_a_request_that_can_not_be_read_takes_no_other_with_it(kept: Log, answerer: Answerer, tmp_path: Path) -> None:
    kept.add("bad", b"{", JSON, '{"predictions": [1.0]}', 0.1)
    kept.add("worse", split(), JSON, "no JSON", 0.1)
    ask(kept, answerer, split(), request_id="good")
    kept.write()
    assert set(read(tmp_path)["request_id"]) == {"good"}
    assert kept.dropped["unreadable"] == 2


def test_a_share_of_the_rows_and_no_more_than_some_of_a_request(answerer: Answerer, tmp_path: Path) -> None:
    some, most = tmp_path / "some", tmp_path / "most"
    for folder, sample in ((some, 0.25), (most, 1.0)):
        folder.mkdir()
        kept = Log(answerer, "M", "3", sample, folder)
        for _ in range(2):
            ask(kept, answerer, split(ROWS[:1] * 1500))
        kept.write()
    assert 600 < len(read(some)) < 900  # 750, with a standard deviation of 24
    rows = read(most)
    assert len(rows) == 2 * log.MAX_ROWS
    assert set(rows["rows"]) == {1500}
    assert rows["row"].max() > log.MAX_ROWS  # of all of it, not of its beginning


def test_the_end_of_a_worker_writes_what_there_is_and_many_requests_do_sooner(
    kept: Log, answerer: Answerer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FLUSH_REQUESTS", 2)
    kept.start()
    for _ in range(3):
        ask(kept, answerer, split())
    deadline = time.monotonic() + 10
    while not batches.list_batches(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(read(tmp_path)) == 9
    ask(kept, answerer, split())
    kept.end()
    assert len(read(tmp_path)) == 12


def test_the_application_logs_what_it_answered_and_ends_when_all_is_written(
    kept: Log, answerer: Answerer, tmp_path: Path
) -> None:
    app = ModelApp(answerer, "M", "3", kept)
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    statuses: list[int] = []

    async def ask_app(body: bytes, request_id: str) -> None:
        headers = [(b"content-type", JSON.encode()), (b"x-request-id", request_id.encode())]

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
        await app(scope, receive, send)

    async def live() -> None:
        async def send(message: Any) -> None:
            answered.append(message["type"])

        answered: list[str] = []
        lifespan = asyncio.create_task(app({"type": "lifespan"}, events.get, send))
        await events.put({"type": "lifespan.startup"})
        await ask_app(split(), "good")
        await ask_app(b'{"dataframe_split": {}}', "bad")
        await events.put({"type": "lifespan.shutdown"})
        await lifespan
        assert answered == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(live())
    assert statuses == [200, 400]
    rows = read(tmp_path)
    assert list(rows["request_id"]) == ["good"] * 3
    assert 0 < rows["seconds"].max() < 60


def test_names_of_files_say_what_is_in_them_and_others_are_none() -> None:
    batch = Batch("A-B.3", "12", datetime(2026, 11, 25, 20, 1, 2, 345, tzinfo=UTC), 7)
    assert batches.read_name(batch.name) == batch
    assert batch.day == "2026-11-25"
    hostile: list[Any] = [
        "../" + batch.name,
        batch.name + ".part",
        ".1.part",
        "x.parquet",
        "M@0-20261125T200102000345Z-1.parquet",
    ]
    hostile += ["M@1-20261325T200102000345Z-1.parquet", "M/N@1-20261125T200102000345Z-1.parquet", batch.name + "\n"]
    assert [batches.read_name(name) for name in hostile] == [None] * len(hostile)
