"""Served models: the right answers, who may have them, and that no change or fault ends them."""

from __future__ import annotations

import importlib
import json
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
import skops.io
from mlflow import MlflowClient
from mlflow.models import infer_signature
from mlflow.server.auth.client import AuthServiceClient

from stack.conftest import SERVED, WINE
from stack.deployment import REVOKED_SECONDS, Deployment, find_end, wait_until
from stack.served import COLUMNS, FRAME, ONE_ROW, ROWS, Load, Served, make_model

Login = tuple[str, str]
PASSWORD = "a-password-for-tests-only-1"


@pytest.fixture(scope="module")
def served(stack: Deployment, admin: Login) -> Iterator[Served]:
    """The model of the tests, with two good versions; the first is in production."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.login().items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
        mlflow.set_experiment("Serving tests")
        model = Served(stack, admin, MlflowClient(), SERVED)
        for alpha in (0.1, 0.9):
            model.register(alpha)
        assert model.ask().status_code == 503
        assert int(model.ask().headers["Retry-After"]) > 0
        model.promote("1")
        model.wait_for("1")
        yield model
        model.client.delete_registered_model_alias(SERVED, "production")


@pytest.fixture
def first(served: Served) -> Served:
    """The same, with its first version in production."""
    served.promote("1")
    served.wait_for("1")
    return served


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[str, list[float]]:
    """What pyfunc predicts from the rows, by version."""
    return {
        version: mlflow.pyfunc.load_model(f"models:/{SERVED}/{version}").predict(FRAME).tolist()
        for version in ("1", "2")
    }


def records(rows: list[list[float]] = ROWS) -> list[dict[str, float]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"dataframe_split": {"columns": COLUMNS, "data": ROWS}})),
        ("application/json; charset=utf-8", json.dumps({"dataframe_records": records()})),
        ("application/json", json.dumps({"instances": records()})),
        ("application/json", json.dumps({"inputs": {c: [row[i] for row in ROWS] for i, c in enumerate(COLUMNS)}})),
        ("application/json", json.dumps({"dataframe_split": {"columns": COLUMNS, "data": ROWS, "index": [4, 5, 6]}})),
        ("text/csv", FRAME.to_csv(index=False)),
    ],
    ids=["split", "records", "instances", "inputs", "with an index", "csv"],
)
def test_every_form_of_input_gets_pyfuncs_answer(
    first: Served, expected: dict[str, list[float]], content_type: str, body: str
) -> None:
    answer = first.ask(body.encode(), headers={"content-type": content_type})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": expected["1"]}
    assert answer.headers["X-Model-Name"] == SERVED
    assert answer.headers["X-Model-Version"] == "1"


def test_the_other_questions_of_mlflows_protocol_are_answered(first: Served) -> None:
    assert first.ask(question="ping").status_code == 200
    assert first.ask(question="health").status_code == 200
    assert first.ask(question="version").text == mlflow.__version__
    first.ask()
    metrics = first.ask(question="metrics").text
    assert f'serving_requests_total{{model="{SERVED}",version="1",status="200"}}' in metrics
    assert first.stack.ask(f"/serve/{SERVED}/invocations", first.login).status_code == 405
    assert first.stack.ask(f"/serve/{SERVED}/other", first.login).status_code == 404
    assert first.stack.ask(f"/serve/{SERVED}.sock/../x/ping", first.login).status_code == 404


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"fixed acidity": 1.0, "alcohol": 2.0}], "missing inputs ['pH']"),
        ([{"fixed acidity": 1.0, "pH": "sour", "alcohol": 2.0}], "convert column pH to type"),
        ([{"fixed acidity": None, "pH": 3.0, "alcohol": 2.0}], "contains NaN"),
    ],
)
def test_what_does_not_fit_the_signature_is_named(first: Served, rows: list[dict[str, Any]], words: str) -> None:
    answer = first.ask({"dataframe_records": rows})
    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert set(answer.json()) == {"error_code", "message"}
    assert "Traceback" not in answer.text


def test_large_requests_are_refused(first: Served) -> None:
    split = {"columns": COLUMNS, "data": ROWS[:1] * 10_001}
    answer = first.ask({"dataframe_split": split})
    assert answer.status_code == 413
    assert "10001 rows, 10000 are the most" in answer.json()["message"]
    answer = first.ask(b"x" * (10 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert "STACK_SERVE_BODY" in answer.json()["message"]
    assert first.ask({"dataframe_split": split | {"data": ROWS[:1] * 10_000}}).ok


def test_predicting_needs_use_on_the_model(first: Served, admin: Login) -> None:
    stack, users = first.stack, AuthServiceClient(first.stack.url)
    login = ("serving-viewer", PASSWORD)
    users.create_user(*login)
    viewer = next(role for role in users.list_roles("default") if role.name == "viewer")
    users.assign_role(login[0], viewer.id)
    path = f"/serve/{SERVED}/invocations"
    for anonymous in (None, ("admin", "wrong"), ("nobody", "wrong")):
        answer = requests.post(stack.url + path, json=ONE_ROW, auth=anonymous, timeout=90)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    for question in ("invocations", "ping", "version", "metrics", "health"):
        refused = first.ask(ONE_ROW, login, question)
        assert refused.status_code == 403
        assert "USE" in refused.json()["message"]
    assert first.stack.ask("/serve/No_Such_Model/ping", login).status_code == 403
    users.grant_user_permission(login[0], "registered_model", SERVED, "USE")
    assert find_end(lambda: not first.ask(ONE_ROW, login).ok, "a granted right is seen") < REVOKED_SECONDS
    # (the answer of the gateway is remembered: for two seconds, and never for somebody else)
    assert first.ask(ONE_ROW, (login[0], "wrong")).status_code == 401
    users.revoke_user_permission(login[0], "registered_model", SERVED)
    assert find_end(lambda: first.ask(ONE_ROW, login).status_code != 403, "it is taken away") < REVOKED_SECONDS


def test_a_model_that_is_not_in_the_list_is_not_there(first: Served) -> None:
    answer = first.stack.ask("/serve/No_Such_Model/ping", first.login)
    assert answer.status_code == 404
    assert "STACK_SERVE" in answer.json()["message"]


def move(served: Served, load: Load, version: str) -> float:
    """Move the alias; return after how many seconds the first answer of that version came."""
    load.first.pop(version, None)
    moved = time.monotonic()
    served.promote(version)
    wait_until(lambda: version in load.first, f"version {version} answers")
    return load.first[version] - moved


def test_alias_moves_lose_no_request(first: Served, expected: dict[str, list[float]], soak: bool) -> None:
    taken = []
    right = {version: json.dumps({"predictions": values[:1]}) for version, values in expected.items()}
    with Load(first) as load:
        for number in range(20 if soak else 4):
            taken.append(move(first, load, "21"[number % 2]))
            time.sleep(1)
    assert set(load.answers) == {(200, version, right[version]) for version in "12"}
    assert sum(load.answers.values()) > 200
    # (5 on a machine that has time: ./stack bench serving)
    print(f"{sum(load.answers.values())} answers; seconds to the first of the new version: {taken}")


def overwrite(served: Served, version: str, name: str, content: bytes) -> None:
    """Put another file into a version."""
    uri = served.client.get_model_version_download_uri(SERVED, version).removeprefix("mlflow-artifacts:/")
    answer = served.stack.ask(f"/api/2.0/mlflow-artifacts/artifacts/{uri}/{name}", served.login, "PUT", data=content)
    assert answer.ok, answer.text


def make_corrupt(served: Served, _folder: Path) -> str:
    version = served.register(0.3)
    overwrite(served, version, "model.skops", b"not a model")
    return version


def make_huge(served: Served, folder: Path) -> str:
    """A small file that is a large model: 640 MB of zeros."""
    version = served.register(0.3)
    model, _ = make_model(0.3)
    model.padding_ = np.zeros(80_000_000)
    skops.io.dump(model, folder / "huge.skops", compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    overwrite(served, version, "model.skops", (folder / "huge.skops").read_bytes())
    return version


def make_foreign(served: Served, _folder: Path) -> str:
    """A model that needs a library which the image has not."""
    version = served.register(0.3)
    uri = served.client.get_model_version_download_uri(SERVED, version).removeprefix("mlflow-artifacts:/")
    model = served.stack.ask(f"/api/2.0/mlflow-artifacts/artifacts/{uri}/MLmodel", served.login).text
    overwrite(served, version, "MLmodel", model.replace("mlflow.sklearn", "mlflow.xgboost").encode())
    return version


def make_wrong_signature(served: Served, _folder: Path) -> str:
    """A signature that the model itself can't do with."""
    _, frame = make_model(0.3)
    fewer = frame[COLUMNS[:2]]
    return served.register(0.3, signature=infer_signature(fewer, np.zeros(60)), input_example=fewer.head(2))


def make_other_signature(served: Served, _folder: Path) -> str:
    """A model that is well, but wants what the clients of the first don't send."""
    model, frame = make_model(0.3, [*COLUMNS, "sulphates"])
    return served.register(
        0.3, sk_model=model, signature=infer_signature(frame, model.predict(frame)), input_example=frame.head(2)
    )


def make_pickle(served: Served, _folder: Path) -> str:
    return served.register(0.3, serialization_format="cloudpickle")


def make_fileless(served: Served, _folder: Path) -> str:
    """A version whose files were never there."""
    run = served.client.create_run(served.client.get_experiment_by_name("Serving tests").experiment_id)
    return str(served.client.create_model_version(SERVED, f"runs:/{run.info.run_id}/model", run.info.run_id).version)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_corrupt, "it can't be loaded"),
        (make_huge, "it needs more memory than STACK_SERVE_MODEL_MEMORY=512m"),
        (make_foreign, "it is loaded by 'mlflow.xgboost'"),
        (make_wrong_signature, "it does not predict its own input example"),
        (make_other_signature, "what the served version 1 takes: Model is missing inputs ['sulphates']"),
        (make_pickle, "STACK_SERVE_PICKLE=on"),
        (make_fileless, "it has no files"),
    ],
    ids=["corrupt", "huge", "foreign", "wrong signature", "other signature", "pickle", "no files"],
)
def test_a_version_that_can_not_be_served_changes_nothing(first: Served, tmp_path: Path, make: Any, words: str) -> None:
    version = make(first, tmp_path)
    with Load(first, clients=1) as load:
        first.promote(version)
        assert words in first.wait_for_reason(version)
    assert {(status, served) for status, served, _ in load.answers} == {(200, "1")}
    if make is make_corrupt:
        status = first.stack.run("status")
        assert status.returncode == 1
        assert [SERVED, "1", version, "kept"] in [line.split()[:4] for line in status.stdout.splitlines()]


@pytest.fixture
def opened(first: Served) -> Iterator[Served]:
    """The same, by an operator who lets models run code of their own."""
    first.stack.environment["STACK_SERVE_PICKLE"] = "on"
    first.stack.compose("up", "--detach", "--no-deps", "serving")
    try:
        first.wait_for("1")
        yield first
    finally:
        del first.stack.environment["STACK_SERVE_PICKLE"]
        first.promote("1")
        first.stack.compose("up", "--detach", "--no-deps", "serving")
        first.wait_for("1")


def test_a_model_whose_module_is_missing_changes_nothing(
    opened: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that are data need no module that is not there; one by pickle may."""
    (tmp_path / "teams_own_code.py").write_text(
        "from sklearn.linear_model import ElasticNet\n\n\nclass Careful(ElasticNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    careful = importlib.import_module("teams_own_code").Careful
    _, frame = make_model(0.3)
    model = careful(alpha=0.3).fit(frame, frame.sum(axis=1))
    version = opened.register(0.3, sk_model=model, serialization_format="cloudpickle")
    with Load(opened, clients=1) as load:
        opened.promote(version)
        reason = opened.wait_for_reason(version)
    assert reason == "it needs the Python module 'teams_own_code', which the image of serving has not"
    assert {(status, served) for status, served, _ in load.answers} == {(200, "1")}
    assert opened.read_state()["served"] == "1"


def test_a_worker_that_dies_is_started_again(first: Served) -> None:
    pids = first.stack.compose("exec", "-T", "serving", "sh", "-c", "ls -t /run/serving/workers").split()
    assert pids
    # (of the processes with a model, the ones that the kernel is to end before the supervisor)
    script = 'for p in /proc/[0-9]*; do [ "$(cat $p/oom_score_adj)" = 500 ] && kill -9 ${p#/proc/}; done; true'
    first.stack.compose("exec", "-T", "serving", "sh", "-c", script)
    seconds = wait_until(lambda: first.ask().status_code == 503, "the dead worker is seen")
    print(f"seen after {seconds:.1f} s, served again after {first.wait_for('1'):.1f} s more")


def test_more_than_the_worker_can_do_is_told_to_come_again(first: Served) -> None:
    body = FRAME.sample(9_000, replace=True).to_csv(index=False).encode()

    def ask(_number: int) -> requests.Response:
        return first.ask(body, headers={"content-type": "text/csv"})

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(ask, range(120)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert {answer.json()["error_code"] for answer in refused} == {"TEMPORARILY_UNAVAILABLE"}


def test_predictions_go_on_while_everything_else_is_away(first: Served) -> None:
    """For a minute: then a login that was let in must be checked again. (A restart takes less.)"""
    stack, others = first.stack, ("mlflow", "postgres", "objectstore", "follower")
    # (what a login is answered that can't be checked any more)
    late: set[tuple[object, str]] = {(503, "")}

    def is_within_a_minute() -> bool:
        away = time.monotonic() - stopped
        print(f"away for {away:.0f} s")
        return away < 50

    try:
        with Load(first, clients=2) as load:
            wait_until(lambda: sum(load.answers.values()) > 20, "predictions are made")
            stopped = time.monotonic()
            stack.compose("stop", *others)
            before = sum(load.answers.values())
            wait_until(lambda: sum(load.answers.values()) > before + 20, "predictions are made with nobody there")
        answered = {(status, version) for status, version, _ in load.answers}
        assert answered - (set() if is_within_a_minute() else late) == {(200, "1")}
        # A right that was not asked for lately can't be checked now.
        answer = stack.ask(f"/serve/{WINE}/ping", ("serving-nobody", PASSWORD))
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        # From the copies on the disk.
        stack.compose("restart", "serving")
        restarted = time.time()
        # (the former process has left what it had said)
        wait_until(
            lambda: first.state.stat().st_mtime > restarted and first.read_state()["served"] == "1",
            "it is served again",
        )
        answer = first.ask()
        answered = {(answer.status_code, answer.headers.get("X-Model-Version", ""))}
        assert answered <= ({(200, "1")} if is_within_a_minute() else {(200, "1")} | late)
    finally:
        stack.compose("start", *others)
    wait_until(lambda: stack.is_served(first.login), "the server is back")


def test_a_deleted_alias_ends_the_serving(first: Served) -> None:
    first.client.delete_registered_model_alias(SERVED, "production")
    wait_until(lambda: first.ask().status_code == 503, "nothing is served")
    assert first.read_state()["state"] == "not served"
    assert "alias" in first.read_state()["reason"].lower()


def test_a_pinned_version_is_served_whatever_the_alias_names(served: Served) -> None:
    """The shared stack pins version 1 of the wine model; the trainer has put version 2 in production."""
    wine = Served(served.stack, served.login, served.client, WINE)
    assert wine.client.get_model_version_by_alias(WINE, "production").version == "2"
    rows = dict.fromkeys(("density", "pH", "sulphates", "alcohol", "chlorides", "citric acid"), 1.0)
    rows |= {f"{kind} acidity": 1.0 for kind in ("fixed", "volatile")} | {"residual sugar": 1.0}
    rows |= {f"{kind} sulfur dioxide": 1.0 for kind in ("free", "total")}
    answer = wine.ask({"dataframe_records": [rows]})
    assert (answer.status_code, answer.headers["X-Model-Version"]) == (200, "1"), answer.text
    state = wine.read_state()
    assert (state["pinned"], state["state"]) == (True, "served")


def test_models_have_no_way_out_and_no_secret(first: Served) -> None:
    inside = (
        "import os, pathlib, socket\n"
        "assert [link.name for link in pathlib.Path('/sys/class/net').iterdir()] == ['lo']\n"
        "assert not pathlib.Path('/run/secrets').exists() or not os.listdir('/run/secrets')\n"
        "assert not [name for name in os.environ if 'PASSWORD' in name or 'SECRET' in name or 'TRACKING' in name]\n"
        "for path in ('/models/x', '/app/x', '/etc/x'):\n"
        "    try:\n"
        "        pathlib.Path(path).write_text('x')\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise SystemExit(path + ' can be written')\n"
    )
    first.stack.compose("exec", "-T", "serving", "python", "-c", inside)


def test_the_account_that_fetches_may_read_and_nothing_else(first: Served) -> None:
    script = (
        "import requests\n"
        "from follower import settings\n"
        "chosen, login = settings.load(), settings.read_login()\n"
        "ask = lambda method, path, **fields: requests.request(\n"
        "    method, chosen.gateway + path, auth=login, json=fields, timeout=60).status_code\n"
        f"model = '{SERVED}'\n"
        "assert ask('GET', '/api/2.0/mlflow/registered-models/get?name=' + model) == 200\n"
        "for answer in (\n"
        "    ask('POST', '/api/2.0/mlflow/registered-models/alias', name=model, alias='x', version='1'),\n"
        "    ask('POST', '/api/2.0/mlflow/runs/create', experiment_id='0'),\n"
        "    ask('POST', '/api/2.0/mlflow/experiments/create', name='x'),\n"
        "    ask('POST', '/serve/' + model + '/invocations'),\n"
        "    ask('PUT', '/api/2.0/mlflow-artifacts/artifacts/0/x/artifacts/x'),\n"
        "):\n"
        "    assert answer == 403, answer\n"
    )
    first.stack.compose("exec", "-T", "follower", "python", "-c", script)


def test_a_killed_supervisor_comes_back_with_what_it_served(first: Served) -> None:
    former = first.stack.kill("serving")["serving"]
    wait_until(lambda: first.stack.container("serving")["State"]["Pid"] not in (0, former), "serving runs again")
    first.wait_for("1")
