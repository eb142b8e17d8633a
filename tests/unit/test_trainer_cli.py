"""The trainer's two commands: what they print, what they leave in MLflow, and how they fail."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner, Result

from unit.trainer_store import open_store
from wine import cli, registry, tracking
from wine.names import MODEL

WINE = Path(cli.__file__).parent
SOURCES = {f"code/{path.name}" for path in WINE.glob("*.py")}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)  # where a store without a server puts its artifacts
    with open_store(tmp_path) as uri:
        yield uri


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def list_runs(experiment: str = "Wine Regression") -> list[Run]:
    found = MlflowClient().get_experiment_by_name(experiment)
    return list(MlflowClient().search_runs([found.experiment_id])) if found else []


def list_artifacts(run_id: str, folder: str | None = None) -> set[str]:
    found = MlflowClient().list_artifacts(run_id, folder)
    return {path for item in found for path in (list_artifacts(run_id, item.path) if item.is_dir else {item.path})}


def assert_fails(result: Result, complaint: str) -> None:
    """An expected failure: exit code 1, one line on stderr, no run."""
    assert result.exit_code == 1, result.output
    assert re.search(complaint, result.stderr), result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list_runs() == []


def test_train_prints_the_articles_lines_and_what_it_made() -> None:
    result = run("train")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    start = lines.index("Elasticnet model (alpha=0.500000, l1_ratio=0.500000):")
    names, values = zip(*(line.split(": ") for line in lines[start + 1 : start + 4]), strict=True)
    assert names == ("  RMSE", "  MAE", "  R2")
    assert [float(value) for value in values] == pytest.approx(
        [0.7931640229276851, 0.6271946374319586, 0.10862644997792614], rel=1e-12
    )
    run_id = list_runs()[0].info.run_id
    assert f"Logged run {run_id} (Sk_Elasticnet) in experiment 'Wine Regression'" in result.stdout
    assert f"Registered {MODEL} version 1" in result.stdout
    assert re.fullmatch(r"\[ *\d+\.\d s\] Done", lines[-1])


def test_train_leaves_all_of_a_training_in_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_USER", "ada")
    monkeypatch.setenv("STACK_GIT_COMMIT", "c0ffee")
    assert run("train").exit_code == 0
    (made,) = list_runs()
    assert (made.info.run_name, made.info.status) == ("Sk_Elasticnet", "FINISHED")
    assert made.data.params == {"alpha": "0.5", "l1_ratio": "0.5", "seed": "40"}
    assert made.data.metrics.keys() == {"rmse", "mae", "r2"}
    expected = {
        "team": "Analytics Principal",
        "dataset": "Wine",
        "release.version": "2.2.2",
        "mlflow.user": "ada",
        "mlflow.source.name": "trainer/wine",
        "mlflow.source.git.commit": "c0ffee",
    }
    assert made.data.tags.items() >= expected.items()
    assert list_artifacts(made.info.run_id) == SOURCES | {"plots/residuals.png", "plots/coefficients.png"}
    (used,) = made.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("winequality-red", "38cb54f15a085ae1")
    assert "trainer/data/winequality-red.csv" in used.dataset.source
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_the_logged_model_has_signature_example_and_pinned_requirements() -> None:
    assert run("train").exit_code == 0
    (made,) = list_runs()
    logged = MlflowClient().get_logged_model(made.outputs.model_outputs[0].model_id)
    assert logged.name == "model"
    info = mlflow.models.get_model_info(f"models:/{logged.model_id}")
    assert len(info.signature.inputs.input_names()) == 11
    assert info.saved_input_example_info["type"] == "dataframe"
    pins = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{logged.model_id}")).read_text().splitlines()
    assert pins[0] == f"mlflow=={mlflow.__version__}"
    assert all("==" in pin for pin in pins)


def test_train_takes_every_option(tmp_path: Path) -> None:
    header, *rows = (WINE.parent / "data" / "winequality-red.csv").read_text().splitlines()[:101]
    (tmp_path / "my.csv").write_text("\n".join([header, *rows]))
    options = "--alpha 0.2 --l1-ratio 0.1 --seed 3 --target pH --run-name Mine --experiment Acids --no-register"
    result = run("train", "--data", str(tmp_path / "my.csv"), *options.split())
    assert result.exit_code == 0, result.output
    (made,) = list_runs("Acids")
    assert made.info.run_name == "Mine"
    assert made.data.params == {"alpha": "0.2", "l1_ratio": "0.1", "seed": "3"}
    assert made.inputs.dataset_inputs[0].dataset.name == "my"
    assert "Registered" not in result.stdout
    assert registry.find_model(MlflowClient()) is None


def test_bootstrap_trains_two_and_puts_the_better_in_production() -> None:
    result = run("bootstrap")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    client = MlflowClient()
    production = client.get_model_version_by_alias(MODEL, "production")
    versions = {str(version.version): version for version in registry.list_versions(client)}
    assert sorted(version.current_stage for version in versions.values()) == ["Archived", "Production"]
    assert versions[str(production.version)].current_stage == "Production"
    rmse = {number: client.get_run(version.run_id).data.metrics["rmse"] for number, version in versions.items()}
    assert rmse[str(production.version)] == min(rmse.values()) < max(rmse.values())
    assert "Put version 2 in Production" in result.stdout


def test_the_model_in_production_predicts_two_wines_of_a_csv(tmp_path: Path) -> None:
    assert run("bootstrap").exit_code == 0
    lines = (WINE.parent / "data" / "winequality-red.csv").read_text().splitlines()[:3]
    (tmp_path / "two.csv").write_text("\n".join(line.rpartition(";")[0] for line in lines))
    # MLflow takes no whole numbers for a column of floats, and some columns of a short file are whole.
    two = pd.read_csv(tmp_path / "two.csv", sep=";", dtype=float)
    predicted = mlflow.pyfunc.load_model(f"models:/{MODEL}/Production").predict(two)
    assert len(predicted) == 2
    assert all(3 <= quality <= 8 for quality in predicted)
    assert list(mlflow.pyfunc.load_model(f"models:/{MODEL}@production").predict(two)) == list(predicted)


def test_a_second_bootstrap_trains_nothing_and_does_not_even_import_what_training_needs() -> None:
    assert run("bootstrap").exit_code == 0
    program = "import sys, wine.cli\ntry: wine.cli.app(['bootstrap'])\nfinally: print(*sys.modules)"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=WINE.parent)
    line, modules = result.stdout.splitlines()
    assert re.fullmatch(r"\[ *\d+\.\d s\] Already trained: version 2 is in Production", line)
    assert not set(modules.split()) & {"sklearn", "matplotlib", "skops", "wine.data", "wine.tracking"}
    assert len(list_runs()) == 2


def test_bootstrap_completes_one_that_died_after_its_first_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cli, "BOOTSTRAP_PAIRS", ((0.5, 0.5), (-1.0, 0.5)))  # the second is refused
        assert run("bootstrap").exit_code == 1
    assert len(list_runs()) == 1
    result = run("bootstrap")
    assert result.exit_code == 0, result.output
    assert "Kept version 1" in result.stdout
    assert len(registry.list_versions(MlflowClient())) == len(list_runs()) == 2
    assert str(MlflowClient().get_model_version_by_alias(MODEL, "production").version) == "2"


def test_bootstrap_leaves_a_users_versions_alone() -> None:
    assert run("train").exit_code == run("train").exit_code == 0
    result = run("bootstrap")
    assert result.exit_code == 0
    assert "Already trained: 2 versions, none in Production" in result.stdout
    assert len(list_runs()) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--alpha", "-1"], r"alpha is -1\.0"),
        (["--alpha", "nan"], "alpha is nan"),
        (["--alpha", "inf"], "alpha is inf"),
        (["--l1-ratio", "1.5"], r"l1_ratio is 1\.5"),
        (["--l1-ratio", "2"], r"l1_ratio is 2\.0"),
        (["--data", "none.csv"], r"none\.csv can't be read \(No such file"),
        (["--data", "empty.csv"], r"empty\.csv: the file is empty"),
        (["--data", "binary.csv"], r"binary\.csv"),
        (["--data", "grade.csv"], "no column 'quality' among fixed acidity"),
        (["--data", "text.csv"], "'seven' is no finite number"),
        (["--target", "taste"], "no column 'taste' among fixed acidity, .*, quality: choose one by --target"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(arguments: list[str], complaint: str) -> None:
    Path("empty.csv").touch()
    Path("binary.csv").write_bytes(b"\x00\x01\x02")
    table = (WINE.parent / "data/winequality-red.csv").read_text()
    Path("grade.csv").write_text(table.replace("quality", "grade", 1))
    Path("text.csv").write_text(table.replace("7.4;0.7;", "seven;0.7;", 1))
    assert_fails(run("train", *arguments), complaint)


@pytest.mark.parametrize("arguments", [["--alpha", "half"], ["--seed", "-1"], ["--speed", "9"], ["--bogus"], ["extra"]])
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("command", ["train", "bootstrap"])
@pytest.mark.parametrize(
    ("uri", "complaint"),
    [("", "is not set"), ("localhost:5000", "is 'localhost:5000', no URL"), ("ftp://x", "is 'ftp://x', no URL")],
)
def test_a_tracking_uri_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, command: str, uri: str, complaint: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = run(command)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: MLFLOW_TRACKING_URI {complaint}")


@pytest.mark.parametrize("command", ["train", "bootstrap"])
def test_a_gateway_that_is_not_there_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port meanwhile
        uri = f"http://ada:hush@127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        begin = time.monotonic()
        result = run(command)
        seconds = time.monotonic() - begin
    print(f"told after {seconds:.1f} s")
    assert seconds < 60  # (MLflow's client by itself asks for minutes)
    assert result.exit_code == 1
    shown = uri.replace("ada:hush@", "")
    assert result.stderr == (
        f"error: {shown} can't be reached ([Errno 111] Connection refused): "
        "check MLFLOW_TRACKING_URI and that the stack is up\n"
    )


def test_a_gateway_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        result = run("bootstrap")
        seconds = time.monotonic() - begin
    print(f"given up after {seconds:.1f} s")
    assert seconds < 60
    assert result.exit_code == 1
    assert "can't be reached (timed out)" in result.stderr


@pytest.mark.parametrize(
    ("status", "complaint"),
    [
        (401, "refuses the login of nobody (401): check the user name and password"),
        (403, "denies this to nobody (403, /api/2.0/mlflow/experiments/search): ask an administrator"),
        (413, "answers 413 (/api/2.0/mlflow/experiments/search): look at its log"),
        (429, "answers 429 (too many 429 error responses): look at its log"),
        (502, "answers 502 (too many 502 error responses): look at its log"),
        (404, "doesn't answer as an MLflow server does"),
        (200, "doesn't answer as an MLflow server does"),
    ],
)
def test_what_a_web_server_answers_instead_of_mlflow_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, complaint: str
) -> None:
    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>\n<h1>a page</h1>\n</html>")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("HOME", str(tmp_path))  # without a login
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        result = run("bootstrap")
        server.shutdown()
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_deleted_experiment_is_one_line() -> None:
    MlflowClient().delete_experiment(MlflowClient().create_experiment("Wine Regression"))
    assert_fails(run("train"), "the experiment 'Wine Regression' .* has been deleted: restore it")


def test_an_unexpected_failure_exits_with_3_and_a_traceback(store: str) -> None:
    Path(store.removeprefix("sqlite:///")).write_text("no database")
    result = run("train")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: this is a bug in the trainer, please report it\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_ends_its_run_as_killed_at_once(number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "wine", "train"]
    environment = os.environ | {"PYTHONPATH": str(WINE.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout
        assert any(line.startswith("  R2: ") for line in child.stdout)  # now the run is open
        child.send_signal(number)
        begin = time.monotonic()
        _, errors = child.communicate(timeout=120)
    print(f"ended after {time.monotonic() - begin:.1f} s")
    assert child.returncode == code, errors
    assert errors.count("\n") == 1
    (made,) = list_runs()
    assert made.info.status == "KILLED"
    assert "failure.reason" in made.data.tags


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_whose_interruption_a_library_takes_for_a_failure_is_a_stopped_one(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(*_: object) -> str:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except BaseException:  # noqa: BLE001 - as an import of an extension module does
            raise ImportError("numpy._core.multiarray failed to import") from None
        raise AssertionError("no signal came")

    monkeypatch.setattr(tracking, "log_training", mistake)
    result = run("train")
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1
    (made,) = list_runs()
    assert made.info.status == "KILLED"
    assert made.data.tags["failure.reason"].startswith(("Terminated", "Interrupted"))
