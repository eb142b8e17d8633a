"""The short way of predictions, held against MLflow's own scoring application, case by case."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import ElasticNet
from starlette.types import ASGIApp, Message

from serving.answers import Answerer, RequestError

NAMES = ["fixed acidity", "pH", "alcohol"]
ROWS = [[7.4, 3.51, 9.4], [7.8, 3.2, 9.8], [11.2, 3.16, 9.8], [6.25, 3.0, 12.125]]
JSON = "application/json"


@dataclass(frozen=True)
class Theirs:
    """MLflow's application, asked without a server."""

    app: ASGIApp

    def ask(self, body: bytes, content_type: str = JSON) -> tuple[int, str]:
        sent: list[Message] = []
        waiting = [{"type": "http.request", "body": body}]

        async def receive() -> Message:
            return waiting.pop() if waiting else await asyncio.sleep(60, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/invocations",
            "query_string": b"",
            "headers": [(b"content-type", content_type.encode())],
        }
        asyncio.run(self.app(scope, receive, send))  # type: ignore[arg-type]
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()

    def ask_json(self, request: object) -> tuple[int, str]:
        return self.ask(json.dumps(request).encode())


def answer_ours(ours: Answerer, body: bytes, content_type: str = JSON) -> tuple[int, str]:
    """Return status and answer, MLflow's way; for a refusal the reason."""
    try:
        return 200, ours.answer_by_mlflow(body, content_type)
    except RequestError as error:
        return error.status, error.reason


def check_same(ours: tuple[int, str], mlflows: tuple[int, str]) -> None:
    """The same status; the same answer, or at least a reason in a line."""
    assert ours[0] == mlflows[0], (ours, mlflows)
    if ours[0] == 200:
        assert ours[1] == mlflows[1]
    else:
        assert ours[1]
        assert "\n" not in ours[1]


def save(folder: Path, kind: str) -> Path:
    """Save a model: of doubles, of mixed numbers, or a classifier of strings."""
    generator = np.random.default_rng(1)
    frame = pd.DataFrame(generator.random((60, 3)) * 10, columns=NAMES)
    if kind == "mixed":
        frame["pH"] = frame["pH"].astype("int64")
        frame["alcohol"] = frame["alcohol"].astype("float32")
    if kind == "classes":
        model: Any = RandomForestClassifier(5, random_state=1).fit(frame, np.where(frame["pH"] > 5, "good", "bad"))
    else:
        model = ElasticNet(alpha=0.1).fit(frame, generator.random(60))
    path = folder / kind
    mlflow.sklearn.save_model(
        model,
        path,
        signature=infer_signature(frame, model.predict(frame)),
        input_example=frame.head(2),
        pip_requirements=["scikit-learn"],
        skops_trusted_types=["sklearn.tree._tree.Tree"] if kind == "classes" else None,
    )
    return path


@pytest.fixture(scope="module", params=["doubles", "mixed", "classes"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Answerer, Theirs]]:
    """Ours and MLflow's application, over the same saved model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
        path = str(save(tmp_path_factory.mktemp("models"), kind))
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        theirs = Theirs(scoring_server.init(mlflow.pyfunc.load_model(path)))
        yield Answerer(mlflow.pyfunc.load_model(path), 1000), theirs


def records(rows: list[list[Any]], names: list[str] = NAMES) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


INTS = [[7, 3, 9], [11, 4, 8]]
# (name, request, whether a model of doubles answers it the short way)
GOOD: list[tuple[str, dict[str, Any], bool]] = [
    ("split", {"dataframe_split": {"columns": NAMES, "data": ROWS}}, True),
    ("one row", {"dataframe_split": {"columns": NAMES, "data": ROWS[:1]}}, True),
    ("other order", {"dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in ROWS]}}, True),
    ("more columns", {"dataframe_split": {"columns": [*NAMES, "x"], "data": [[*row, "y"] for row in ROWS]}}, True),
    ("records", {"dataframe_records": records(ROWS)}, True),
    ("records with more", {"dataframe_records": [row | {"x": None} for row in records(ROWS)]}, True),
    ("inputs by column", {"inputs": {name: [row[i] for row in ROWS] for i, name in enumerate(NAMES)}}, True),
    ("inputs by row", {"inputs": records(ROWS)}, True),
    ("instances", {"instances": records(ROWS)}, True),
    ("whole numbers", {"dataframe_split": {"columns": NAMES, "data": INTS}}, True),
    ("whole numbers by row", {"instances": records(INTS)}, True),
    ("both kinds", {"dataframe_records": records([[7, 3.5, 9.0], [8.25, 3, 1e-300]])}, True),
    ("many rows", {"dataframe_split": {"columns": NAMES, "data": ROWS * 200}}, True),
    ("with an index", {"dataframe_split": {"columns": NAMES, "data": ROWS, "index": [5, 6, 7, 8]}}, False),
    ("numbers as text", {"dataframe_records": records([["7.4", "3", "9"]])}, False),
    ("parameters", {"dataframe_records": records(ROWS), "params": {"a": 1}}, False),
    ("something beside", {"dataframe_records": records(ROWS), "comment": "x"}, False),
    ("large whole numbers", {"dataframe_records": records([[2**40, 3, 9]])}, False),
    ("true and false", {"dataframe_records": records([[True, False, True]])}, False),
]
BAD: list[tuple[str, object]] = [
    ("missing column", {"dataframe_split": {"columns": NAMES[:2], "data": [row[:2] for row in ROWS]}}),
    ("text", {"dataframe_records": records([["abc", 1, 1]])}),
    ("nothing", {"dataframe_records": records([[None, 3.5, 9.0]])}),
    ("rows of other lengths", {"dataframe_split": {"columns": NAMES, "data": [[1.0, 2.0, 3.0], [1.0]]}}),
    ("column twice", {"dataframe_split": {"columns": ["pH", "pH", "alcohol"], "data": [[1.0, 2.0, 3.0]]}}),
    ("column twice beside all", {"dataframe_split": {"columns": [*NAMES, "pH"], "data": [[1.0, 2.0, 3.0, 4.0]]}}),
    ("row without a column", {"dataframe_records": [*records(ROWS), {"pH": 1.0}]}),
    ("no rows", {"dataframe_split": {"columns": NAMES, "data": []}}),
    ("two forms", {"dataframe_records": records(ROWS), "inputs": records(ROWS)}),
    ("no form", {"data": ROWS}),
    ("rows without names", {"instances": ROWS}),
    ("list", ROWS),
    ("columns of other lengths", {"inputs": {"fixed acidity": [1.0, 2.0], "pH": [1.0], "alcohol": [1.0]}}),
]


@pytest.mark.parametrize(("case", "request_", "is_short"), GOOD, ids=[case for case, _, _ in GOOD])
def test_both_ways_answer_the_same(
    pair: tuple[Answerer, Theirs], kind: str, case: str, request_: dict[str, Any], is_short: bool
) -> None:
    ours, mlflows = pair
    expected = mlflows.ask_json(request_)
    short = ours.answer_shortly(request_)
    if kind == "doubles":
        assert (short is not None) == is_short
        assert expected[0] == 200
    if short is not None:
        check_same((200, short), expected)
    check_same(answer_ours(ours, json.dumps(request_).encode()), expected)


@pytest.mark.parametrize(("case", "request_"), BAD, ids=[case for case, _ in BAD])
def test_what_mlflow_refuses_does_not_go_the_short_way(
    pair: tuple[Answerer, Theirs], kind: str, case: str, request_: object
) -> None:
    ours, mlflows = pair
    assert ours.answer_shortly(request_) is None
    check_same(answer_ours(ours, json.dumps(request_).encode()), mlflows.ask_json(request_))


@pytest.mark.parametrize(
    "text", ['{"dataframe_records": [{"fixed acidity": NaN, "pH": 1, "alcohol": 1}]}', "{", "[]", ""]
)
def test_odd_json_is_mlflows_to_answer(pair: tuple[Answerer, Theirs], text: str) -> None:
    ours, mlflows = pair
    check_same(answer_ours(ours, text.encode()), mlflows.ask(text.encode()))


def test_csv_is_answered_as_mlflow_does(pair: tuple[Answerer, Theirs]) -> None:
    ours, mlflows = pair
    text = pd.DataFrame([[7.4, 3, 9.5]], columns=NAMES).to_csv(index=False)
    assert mlflows.ask(text.encode(), "text/csv") == (200, ours.answer_by_mlflow(text.encode(), "text/csv"))


def test_a_form_that_mlflow_does_not_know_is_refused_with_its_status(pair: tuple[Answerer, Theirs]) -> None:
    with pytest.raises(RequestError) as caught:
        pair[0].answer_by_mlflow(b"x", "text/html")
    assert caught.value.status == 415


def test_more_rows_than_allowed_are_refused_either_way(pair: tuple[Answerer, Theirs], kind: str) -> None:
    ours, _ = pair
    request = {"dataframe_split": {"columns": NAMES, "data": [[1, 2, 3]] * 1001}}
    ways: list[Callable[[], str]] = [lambda: ours.answer_by_mlflow(json.dumps(request).encode(), JSON)]
    if kind == "doubles":
        ways.append(lambda: str(ours.answer_shortly(request)))
    for way in ways:
        with pytest.raises(RequestError) as caught:
            way()
        assert (caught.value.status, caught.value.code) == (413, "REQUEST_LIMIT_EXCEEDED")
        assert "1001 rows, 1000 are the most" in caught.value.reason


def test_the_reason_names_the_column(pair: tuple[Answerer, Theirs]) -> None:
    ours, _ = pair
    for request, words in (
        ({"dataframe_records": records([[1.0, 2.0]], NAMES[:2])}, "^Model is missing inputs ['alcohol']"),
        ({"dataframe_records": records([["abc", 1, 1]])}, "Failed to convert column fixed acidity"),
    ):
        with pytest.raises(RequestError, match=words.replace("[", r"\[")) as caught:
            ours.answer_by_mlflow(json.dumps(request).encode(), JSON)
        assert len(caught.value.reason) < 300
