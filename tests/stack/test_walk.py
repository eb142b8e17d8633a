"""The article's walk, from the first `./stack up` to a prediction, by stock clients from outside."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from stack.deployment import CHECKOUT, Deployment

MODEL = "Wine_Elasticnet_Sklearn_Regressor"
DATA = CHECKOUT / "trainer/data/winequality-red.csv"
TWO_ROWS = pd.read_csv(DATA, sep=";").drop(columns="quality").head(2)


def rmse_of(client: MlflowClient, version: object) -> float:
    run_id: str = version.run_id  # type: ignore[attr-defined]
    rmse: float = client.get_run(run_id).data.metrics["rmse"]
    return rmse


def run_example(stack: Deployment, *command: str, **login: str) -> str:
    """Run an example as a user would: a process with the three variables, and nothing else of MLflow's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    result = subprocess.run(
        [sys.executable, *command],
        cwd=CHECKOUT / "examples",
        env={**clean, **stack.login(), **login},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_first_up_trains_two_models_and_puts_the_better_one_in_production(client: MlflowClient) -> None:
    versions = client.search_model_versions(f"name = '{MODEL}'")
    by_stage = {version.current_stage: version for version in versions if version.version in ("1", "2")}
    assert sorted(by_stage) == ["Archived", "Production"]
    assert rmse_of(client, by_stage["Production"]) < rmse_of(client, by_stage["Archived"])
    assert client.get_model_version_by_alias(MODEL, "production").version == by_stage["Production"].version


def test_the_trainers_run_shows_everything_that_the_article_shows(client: MlflowClient) -> None:
    version = client.get_model_version(MODEL, "1")
    run = client.get_run(version.run_id)
    assert run.info.run_name == "Sk_Elasticnet"
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "Wine Regression"
    assert {"alpha", "l1_ratio"} <= set(run.data.params)
    assert {"rmse", "mae", "r2"} <= set(run.data.metrics)
    assert run.data.tags["team"] == "Analytics Principal"
    assert run.data.tags["dataset"] == "Wine"
    assert run.data.tags["release.version"] == "2.2.2"
    assert run.data.tags["mlflow.user"]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"code", "plots"} <= artifacts
    assert {item.path for item in client.list_artifacts(run.info.run_id, "plots")} == {
        "plots/coefficients.png",
        "plots/residuals.png",
    }
    assert [dataset.dataset.name for dataset in run.inputs.dataset_inputs]


def test_seed_40_gives_the_values_of_mlflows_own_tutorial(client: MlflowClient) -> None:
    metrics = client.get_run(client.get_model_version(MODEL, "1").run_id).data.metrics
    assert metrics["rmse"] == pytest.approx(0.7931640229276851, rel=1e-12)
    assert metrics["mae"] == pytest.approx(0.6271946374319586, rel=1e-12)
    assert metrics["r2"] == pytest.approx(0.10862644997792614, rel=1e-12)


def test_stack_train_registers_one_more_version(stack: Deployment, client: MlflowClient) -> None:
    before = len(client.search_model_versions(f"name = '{MODEL}'"))
    stack.check("train", "--alpha", "0.07", "--l1-ratio", "0.3")
    after = client.search_model_versions(f"name = '{MODEL}'")
    assert len(after) == before + 1
    newest = max(after, key=lambda version: int(version.version))
    assert client.get_run(newest.run_id).data.params["alpha"] == "0.07"


def test_the_articles_script_runs_unmodified_and_its_model_goes_to_production(
    stack: Deployment, client: MlflowClient
) -> None:
    assert "RMSE: 0.7931640229276851" in run_example(stack, "train.py", str(DATA))
    assert "RMSE: " in run_example(stack, "train.py", str(DATA), "0.2", "0.1")
    experiment = client.get_experiment_by_name("Wine Regression")
    own = "tags.mlflow.source.name = 'train.py'"
    best, other = client.search_runs([experiment.experiment_id], own, order_by=["metrics.rmse ASC"])
    assert best.data.params["alpha"] == "0.2"

    name = "Wine_by_hand"
    first = mlflow.register_model(f"runs:/{other.info.run_id}/model", name)
    client.transition_model_version_stage(name, first.version, "Production")
    second = mlflow.register_model(f"runs:/{best.info.run_id}/model", name)
    client.transition_model_version_stage(name, second.version, "Production", archive_existing_versions=True)
    client.set_registered_model_alias(name, "champion", second.version)
    assert client.get_model_version(name, first.version).current_stage == "Archived"
    assert client.get_model_version_by_alias(name, "champion").version == second.version
    by_stage = mlflow.pyfunc.load_model(f"models:/{name}/Production").predict(TWO_ROWS)
    by_alias = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(TWO_ROWS)
    assert list(by_stage) == list(by_alias)


def test_a_client_outside_predicts_with_the_production_model(client: MlflowClient) -> None:
    predictions = mlflow.pyfunc.load_model(f"models:/{MODEL}/Production").predict(TWO_ROWS)
    assert len(predictions) == 2
    assert all(3 < value < 8 for value in predictions)


def test_the_articles_prediction_runs_unmodified(stack: Deployment) -> None:
    values = run_example(stack, "predict.py", "two_wines.csv").strip(" [\n]").split()
    assert [3 < float(value) < 8 for value in values] == [True, True]


def test_the_notebook_runs_from_top_to_bottom(stack: Deployment, client: MlflowClient) -> None:
    cells = json.loads((CHECKOUT / "examples/walk.ipynb").read_text())["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    run_example(stack, "-c", program)
    (version,) = client.search_model_versions("name = 'Wine_notebook'")
    assert client.get_run(version.run_id).data.params["alpha"] == "0.02"


def test_a_pipeline_trains_registers_and_promotes_by_an_account_of_its_own(
    stack: Deployment, client: MlflowClient
) -> None:
    stack.check("user", "add", "walk-ann", "--role", "editor")
    token = stack.check("user", "token", "add", "walk-ann", "--for", "ci", "--expires", "1d", "--role", "promoter")
    password = token.strip()
    login = {"MLFLOW_TRACKING_USERNAME": "walk-ann-ci", "MLFLOW_TRACKING_PASSWORD": password}
    steps = yaml.safe_load((CHECKOUT / "examples/ci/train.yml").read_text())["jobs"]["train"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert "python examples/ci/train.py trainer/data/winequality-red.csv held-out.csv 0.1 0.5" in commands
    folder = stack.root.parent / "pipeline"  # (of the machine, whose folders ./stack can mount)
    folder.mkdir()
    run_example(stack, "ci/train.py", str(DATA), str(folder / "held-out.csv"), "0.1", "0.5", **login)
    printed = run_example(stack, "ci/register.py", "Wine Regression", "Wine_by_pipeline", **login)
    version = client.get_model_version("Wine_by_pipeline", printed.split()[-1])
    assert client.get_run(version.run_id).data.params["alpha"] == "0.1"
    # The gate's step as the runner would have it: its expressions filled in, by the shell, where the file is.
    (step,) = [command for command in commands if "promote" in command]
    for expression, value in (("vars.STACK_HOME", str(stack.root)), ("steps.register.outputs.version", printed)):
        step = step.replace(f"${{{{ {expression} }}}}", value.strip())
    assert "${{" not in step
    result = subprocess.run(
        ["bash", "-e", "-c", step],
        cwd=folder,
        env={**os.environ, **stack.login(), **login, "MODEL": "Wine_by_pipeline"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    promoted = client.get_model_version_by_alias("Wine_by_pipeline", "production")
    assert (promoted.version, promoted.current_stage) == (version.version, "Production")
    assert promoted.tags["stack.gate"] == "passed"
    assert promoted.tags["stack.promoted_by"] == "walk-ann-ci"


def test_experiments_are_created_renamed_searched_and_deleted(client: MlflowClient) -> None:
    identifier = client.create_experiment("Iris to be")
    client.rename_experiment(identifier, "Iris")
    assert client.get_experiment_by_name("Iris").experiment_id == identifier
    assert identifier in {found.experiment_id for found in client.search_experiments(filter_string="name = 'Iris'")}
    client.delete_experiment(identifier)
    assert client.get_experiment(identifier).lifecycle_stage == "deleted"


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20 + 1])
def test_artifact_bytes_come_back_as_they_went(client: MlflowClient, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    source = tmp_path / "a name with + and ü.bin"
    source.write_bytes(content)
    with mlflow.start_run(experiment_id="0") as run:
        mlflow.log_artifact(str(source), "some folder")
    target = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path=f"some folder/{source.name}", dst_path=str(tmp_path / "back")
    )
    assert hashlib.sha256(Path(target).read_bytes()).digest() == hashlib.sha256(content).digest()


def test_a_large_file_goes_up_in_parts_by_signed_urls(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(10 * 2**20))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * 2**20))
    source = tmp_path / "large.bin"
    source.write_bytes(os.urandom(23 * 2**20))
    with mlflow.start_run(experiment_id="0") as run:
        mlflow.log_artifact(str(source))
    target = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="large.bin", dst_path=str(tmp_path / "back")
    )
    assert Path(target).read_bytes() == source.read_bytes()


def test_a_missing_artifact_is_an_error_that_says_so(client: MlflowClient, tmp_path: Path) -> None:
    with mlflow.start_run(experiment_id="0") as run:
        pass
    with pytest.raises(MlflowException, match=r"nothing\.txt"):
        mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="nothing.txt", dst_path=str(tmp_path / "back")
        )
