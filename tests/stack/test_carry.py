"""An experiment or a model goes from one stack to another."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LinearRegression

from lifecycle import archive as lifecycle_archive
from stack.deployment import Deployment, wait_until

Login = tuple[str, str]


@pytest.fixture(scope="module")
def archive(stack: Deployment) -> Iterator[tuple[Path, Path, str]]:
    """An experiment and a model, exported; the run that has everything."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.login().items():
            patch.setenv(name, value)
        client = MlflowClient()
        experiment = client.create_experiment("Carried", tags={"team": "wine"})
        parent = client.create_run(experiment, start_time=1700000000000, run_name="whole").info.run_id
        client.log_inputs(
            parent, [DatasetInput(Dataset("rows", "abc", "local", "{}"), [InputTag("mlflow.data.context", "training")])]
        )
        client.log_param(parent, "alpha", "0.5")
        for step, measured in enumerate([0.9, float("nan"), 0.1]):
            client.log_metric(parent, "rmse", measured, timestamp=1700000000000 + step, step=step)
        client.log_text(parent, "what it is\n", "deep/odd + ü %20.txt")
        client.set_terminated(parent, end_time=1700000009000)
        child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
        # (what MLflow's own setters set, other files' tests would meet)
        patch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        model = LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0])
        with mlflow.start_run(run_id=child):
            logged = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
            mlflow.log_metric("mae", 0.25, model_id=logged.model_id)
        client.create_registered_model("Carried_Model", tags={"owner": "ann"}, description="of old")
        for _ in range(3):
            source, model_id = f"models:/{logged.model_id}", logged.model_id
            client.create_model_version("Carried_Model", source, child, description="a version", model_id=model_id)
        client.copy_model_version("models:/Carried_Model/1", "Carried_Model")
        client.delete_model_version("Carried_Model", "2")
        client.set_registered_model_alias("Carried_Model", "champion", "3")
        client.transition_model_version_stage("Carried_Model", "1", "Staging")
        with mlflow.start_span("asked") as span:
            span.set_inputs({"question": "why"})
        mlflow.flush_trace_async_logging()
        files = stack.root.parent / "experiment.tar.gz", stack.root.parent / "model.tar.gz"
        stack.check("export", "Carried", "--to", str(files[0]))
        stack.check("export", "Carried_Model", "--to", str(files[1]))
        yield files[0], files[1], parent


def test_an_experiment_is_carried_by_an_editor(
    stack: Deployment,
    archive: tuple[Path, Path, str],
    make_user: Callable[[str], Login],
    act_as: Callable[[Login], None],
    client: MlflowClient,
) -> None:
    taken = stack.run("import", str(archive[0]))
    assert (taken.returncode, taken.stderr.splitlines()[-1]) == (
        1,
        "error: there is an experiment 'Carried' already: choose another by --name",
    )
    former = client.get_experiment_by_name("Carried")
    assert former
    editor = make_user("editor")
    stack.environment = {"MLFLOW_TRACKING_USERNAME": editor[0], "MLFLOW_TRACKING_PASSWORD": editor[1]}
    try:
        kill_import(stack, archive[0], client)
        said = stack.check("import", str(archive[0]), "--name", "Brought")
    finally:
        stack.environment = {}
    assert "Imported experiment 'Brought': 2 runs, 1 logged models," in said
    # What the kill left behind is taken back.
    assert [each.name for each in client.search_experiments(filter_string="name LIKE 'Brought%'")] == ["Brought"]
    experiment = client.get_experiment_by_name("Brought")
    assert experiment
    assert experiment.tags["team"] == "wine"
    assert experiment.tags["import.state"] == "done"
    runs = {run.data.tags["import.run_id"]: run for run in client.search_runs([experiment.experiment_id])}
    originals = {run.info.run_id: run for run in client.search_runs([former.experiment_id])}
    assert runs.keys() == originals.keys()
    new = {old: run.info.run_id for old, run in runs.items()}
    for old, run in runs.items():
        original = originals[old]
        assert run.info.run_id != old
        assert run.data.params == original.data.params
        assert str(run.data.metrics) == str(original.data.metrics)
        assert (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name) == (
            original.info.status,
            original.info.start_time,
            original.info.end_time,
            original.info.run_name,
        )
        assert [each.dataset.to_dictionary() for each in run.inputs.dataset_inputs] == [
            each.dataset.to_dictionary() for each in original.inputs.dataset_inputs
        ]
        for key in run.data.metrics:
            assert read_history(client, run.info.run_id, key) == read_history(client, old, key)
        parent = original.data.tags.get("mlflow.parentRunId")
        assert run.data.tags.get("mlflow.parentRunId") == (parent and new[parent])
    assert mlflow.artifacts.load_text(f"runs:/{new[archive[2]]}/deep/odd + ü %20.txt") == "what it is\n"
    [model] = client.search_logged_models([experiment.experiment_id])
    [original_model] = client.search_logged_models([former.experiment_id])
    assert model.source_run_id == new[original_model.source_run_id]
    assert [metric.value for metric in model.metrics or []] == [0.25]
    assert mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict([[3.0]])[0] == pytest.approx(6.0)
    [trace] = client.search_traces(locations=[experiment.experiment_id])
    assert [(span.name, span.inputs) for span in trace.data.spans] == [("asked", {"question": "why"})]


def kill_import(stack: Deployment, file: Path, client: MlflowClient) -> None:
    """Begin an import, and kill it when there is something of it."""
    command = ["./stack", "import", str(file), "--name", "Brought"]
    # (as long as nobody can make a logged model, it does not come to its end)
    with (
        stack.locked("logged_models", "SHARE"),
        subprocess.Popen(command, cwd=stack.root, env={**os.environ, **stack.environment}) as process,
    ):
        condition = "name LIKE 'Brought (unfinished%'"
        wait_until(lambda: bool(client.search_experiments(filter_string=condition)), "an import that has begun")
        running = ["docker", "ps", "-q", "--filter", f"name=^{stack.name}-lifecycle-run"]
        found = subprocess.run(running, check=True, capture_output=True, text=True).stdout.split()
        subprocess.run(["docker", "kill", *found], check=True, capture_output=True)
        assert process.wait(300) != 0
    assert client.search_experiments(filter_string=condition)


def read_history(client: MlflowClient, run: str, key: str) -> list[tuple[int, int, str]]:
    return sorted((each.timestamp, each.step, str(each.value)) for each in client.get_metric_history(run, key))


def test_a_model_is_carried(stack: Deployment, archive: tuple[Path, Path, str], client: MlflowClient) -> None:
    stack.check("import", str(archive[1]), "--name", "Brought_Model")
    model = client.get_registered_model("Brought_Model")
    assert (model.description, model.tags["owner"], model.aliases) == ("of old", "ann", {"champion": "3"})
    versions = {version.version: version for version in client.search_model_versions("name = 'Brought_Model'")}
    assert {number: found.current_stage for number, found in versions.items()} == {
        "1": "Staging",
        "3": "None",
        "4": "None",
    }
    assert {found.description for found in versions.values()} == {"a version"}
    assert versions["4"].source == versions["3"].source != ""  # (it is a copy of version 1)
    run = client.get_run(str(versions["3"].run_id))
    experiment = client.get_experiment_by_name("Brought_Model (imported)")
    assert experiment
    assert run.info.experiment_id == experiment.experiment_id
    assert mlflow.pyfunc.load_model("models:/Brought_Model@champion").predict([[3.0]])[0] == pytest.approx(6.0)


def test_a_model_that_can_not_be_carried_is_not_exported(
    stack: Deployment, archive: tuple[Path, Path, str], client: MlflowClient
) -> None:
    client.create_registered_model("Left_Behind")
    client.create_model_version("Left_Behind", f"runs:/{archive[2]}/model", archive[2])
    # (as in an MLflow that was taken over; a client can't name what is not the server's own)
    elsewhere = "UPDATE model_versions SET source = 's3://somewhere-else/model', run_id = '' WHERE name = 'Left_Behind'"
    stack.compose("exec", "-T", "postgres", "psql", "-qd", "mlflow", "-v", "ON_ERROR_STOP=1", "-c", elsewhere)
    result = stack.run("export", "Left_Behind", "--to", str(archive[1].with_name("left.tar.gz")))
    assert result.returncode == 1
    assert "version 1 comes from 's3://somewhere-else/model'" in result.stderr
    assert not archive[1].with_name("left.tar.gz").exists()


def test_a_damaged_archive_changes_nothing(
    stack: Deployment, archive: tuple[Path, Path, str], client: MlflowClient
) -> None:
    # (each kind of damage by itself: tests/unit/test_lifecycle_archive.py)
    content = bytearray(gzip.decompress(archive[0].read_bytes()))
    place = content.index(b"what it is")
    content[place] ^= 1
    damaged = archive[0].with_name("damaged.tar.gz")
    damaged.write_bytes(gzip.compress(bytes(content), 1))
    result = stack.run("import", str(damaged), "--name", "Never")
    assert result.returncode == 1
    assert "damaged.tar.gz is damaged: 'artifacts/runs/" in result.stderr
    assert client.get_experiment_by_name("Never") is None
    with pytest.raises(MlflowException):
        client.get_registered_model("Never")


def test_what_fails_half_way_is_taken_back(
    stack: Deployment, archive: tuple[Path, Path, str], client: MlflowClient
) -> None:
    broken = archive[1].with_name("broken.tar.gz")
    with broken.open("wb") as file:
        head = {"kind": "model", "name": "Broken", "mlflow": "3", "made": "2026-11-26T00:00:00"}
        with lifecycle_archive.writing(file, head) as writer:
            for name, size, body in lifecycle_archive.read_entries(archive[1]):
                if name == "model.json":
                    document = lifecycle_archive.read_document(name, size, body)
                    document["versions"][-2].update(source="runs:/" + "0" * 32 + "/model", model_id="")
                    writer.add_document(name, document)
                elif name not in (lifecycle_archive.FIRST, lifecycle_archive.MANIFEST):
                    writer.add(name, size, body)
    result = stack.run("import", str(broken))
    assert result.returncode == 1
    assert "note: taking back what was made so far" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: version 3 comes from 'runs:/000")
    with pytest.raises(MlflowException):
        client.get_registered_model("Broken")
    assert [each.name for each in client.search_experiments(filter_string="name LIKE 'Broken%'")] == []
