"""What another MLflow holds is taken over whole; an experiment or a model goes from one stack to another."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LinearRegression

from lifecycle import archive as lifecycle_archive
from stack.deployment import CHECKOUT, Deployment, wait_until

Login = tuple[str, str]
SCRIPT = str(CHECKOUT / "tests/stack/clients/old_mlflow.py")
OLD = "/opt/mlflow-2.22/bin/python"
PASSWORD = "of-the-old-database"
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;"

pytestmark = pytest.mark.timeout(600)


def run_client(python: str, folder: Path, command: list[str], **environment: str) -> str:
    """Run the client script of an MLflow; return what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PYTHON"))}
    done = subprocess.run(
        [python, SCRIPT, *command],
        cwd=folder,
        env={**clean, "GIT_PYTHON_REFRESH": "quiet", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Source:
    """An old MLflow: where it is, and what its own client reads of it."""

    uri: str
    folder: Path
    artifacts: Path
    read: dict[str, Any]

    def hash(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            content = path.read_bytes() if path.is_file() else b""
            digest.update(f"{path} {path.stat().st_mtime_ns} {hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()


def make_source(folder: Path, uri: str, artifacts: str) -> Source:
    """Let MLflow 2.22 do what its users do."""
    folder.mkdir(parents=True)
    environment = {"MLFLOW_TRACKING_URI": uri}
    run_client(OLD, folder, ["seed", artifacts], **environment)
    read = json.loads(run_client(OLD, folder, ["dump"], **environment))
    return Source(uri, folder, folder / (artifacts or "mlruns"), read)


@pytest.fixture(scope="module")
def empty(make_deployment: Callable[..., Deployment]) -> Deployment:
    """A checkout whose stack was never started."""
    return make_deployment("taken")


@pytest.fixture
def emptied(empty: Deployment) -> Deployment:
    """The same without rows; the next command makes the tables anew."""
    if not empty.compose("ps", "--quiet", "postgres"):
        empty.check("up", "--no-train", timeout=900)
    empty.compose("exec", "-T", "postgres", "psql", "-q", "-d", "mlflow", "-c", EMPTY)
    return empty


def take(stack: Deployment, source: Source) -> str:
    return stack.check(
        "import-mlflow", "--backend-store-uri", source.uri, "--artifacts", str(source.artifacts), timeout=400
    )


def read_stack(stack: Deployment) -> dict[str, Any]:
    """Return what a client of today reads of a stack."""
    read: dict[str, Any] = json.loads(run_client(sys.executable, Path("/tmp"), ["dump"], **stack.login()))
    return read


def simplify(read: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """Return what was read, with what one MLflow says in another way than the other."""
    text = json.dumps(read, sort_keys=True)
    for former, new in ids.items():
        text = text.replace(f'"{former}"', f'"{new}"')
    simple: dict[str, Any] = json.loads(text)
    for model in simple["models"].values():
        model[4] = {alias: str(version) for alias, version in model[4].items()}
    for experiment in simple["experiments"].values():
        experiment[2].pop("import.experiment_id", None)
    for run in simple["runs"].values():
        for key, values in run["history"].items():
            # (a database has the largest number for what is infinite, and once what was said twice)
            large = [[t, s, value.replace("inf", "1.7976931348623157e+308")] for t, s, value in values]
            run["history"][key] = sorted(map(list, {tuple(value) for value in large}))
    return simple


def ask_database(stack: Deployment, statement: str) -> list[str]:
    return stack.compose("exec", "-T", "postgres", "psql", "-At", "-d", "mlflow", "-c", statement).split()


def ask_importer(stack: Deployment, uri: str, folder: Path | None = None, name: str = "") -> str:
    """Return what the container says of a source that it refuses."""
    mounted = ["--volume", f"{folder}:/source/database:ro"] if folder else []
    order = "\0".join([uri, "file" if folder else "url", name, "/nowhere", "", "", ""])
    done = stack.execute(
        "docker", "compose", "run", "--rm", "--no-deps", "-T", *mounted, "importer", "check", stdin=order
    )
    assert done.returncode == 1, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("stack: ")]
    return line


def test_an_sqlite_file_is_taken_over_after_a_kill_in_the_middle(empty: Deployment) -> None:
    source = make_source(empty.root.parent / "sqlite", "sqlite:///mlflow.db", "artifacts")
    source.uri = f"sqlite:///{source.folder}/mlflow.db"
    before = source.hash()
    command = ["./stack", "import-mlflow", "--backend-store-uri", source.uri, "--artifacts", str(source.artifacts)]
    environment = {**os.environ, **empty.environment}
    with subprocess.Popen(
        command, cwd=empty.root, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        said = ""
        while "Copying 15 artifacts" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        os.killpg(process.pid, signal.SIGKILL)
        running = ["docker", "ps", "-q", "--filter", f"name=^{empty.name}-importer"]
        found = subprocess.run(running, check=True, capture_output=True, text=True).stdout.split()
        subprocess.run(["docker", "rm", "--force", *found], check=True, capture_output=True)
    assert ask_database(empty, "SELECT count(*) FROM runs") == ["0"]
    said = take(empty, source)
    assert simplify(read_stack(empty), {}) == simplify(source.read, {})
    assert source.hash() == before
    assert "metrics                   7       7             yes" in said
    assert said.count(" yes") == len(
        [line for line in said.splitlines() if line.endswith(("yes", "yes ", "no", "no "))]
    )
    rows = ask_database(
        empty,
        "SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs"
        " UNION SELECT source FROM model_versions",
    )
    assert rows
    assert [row for row in rows if not row.startswith(("mlflow-artifacts:/", "runs:/", "models:/"))] == []
    # New runs and models follow.
    again = empty.run("import-mlflow", "--backend-store-uri", source.uri, "--artifacts", str(source.folder))
    assert again.returncode == 1
    assert "stack: the stack holds 6 runs, 1 models, 2 experiments besides Default, 1 traces: " in again.stderr


def test_a_file_store_is_taken_over(emptied: Deployment) -> None:
    source = make_source(emptied.root.parent / "files", "./mlruns", "")
    source.uri = str(source.folder / "mlruns")
    before = source.hash()
    run = next(run for run, found in source.read["runs"].items() if "alpha" in found["params"])
    [place] = source.folder.glob(f"mlruns/*/{run}/artifacts/empty")
    take(emptied, source)
    read = read_stack(emptied)
    ids = {each[2]["import.experiment_id"]: new for new, each in read["experiments"].items() if len(each[2]) > 1}
    assert len(ids) == 2
    assert simplify(read, {}) == simplify(source.read, ids)
    assert source.hash() == before
    assert place.exists()


@pytest.fixture
def database(empty: Deployment) -> Iterator[str]:
    """A Postgres of somebody else's; prints its address."""
    name = f"{empty.name}-old"
    script = (
        "set -e; bin=/usr/lib/postgresql/17/bin; echo $1 > /tmp/pw;"
        " $bin/initdb -D /tmp/old -U mlflow -E UTF8 --locale=C.UTF-8 --auth=scram-sha-256 --pwfile=/tmp/pw >/dev/null;"
        " echo 'host all all all scram-sha-256' >> /tmp/old/pg_hba.conf;"
        " echo 'create database mlflow_db' | $bin/postgres --single -D /tmp/old postgres >/dev/null;"
        " exec $bin/postgres -D /tmp/old -c listen_addresses='*' -c unix_socket_directories=/tmp"
    )
    command = ["docker", "run", "--detach", "--name", name, "--network", f"{empty.name}_edge", "--entrypoint", "sh"]
    subprocess.run(
        [*command, f"{empty.name}/postgres:0.1.0", "-c", script, "sh", PASSWORD], check=True, capture_output=True
    )
    try:
        asked = ["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name]
        ready = ["docker", "exec", name, "/usr/lib/postgresql/17/bin/pg_isready", "--host=127.0.0.1"]
        wait_until(lambda: subprocess.run(ready, check=False, capture_output=True).returncode == 0, "the old database")
        yield subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], check=True, capture_output=True)


def test_a_postgres_is_taken_over(emptied: Deployment, database: str) -> None:
    uri = f"postgresql://mlflow:{PASSWORD}@{database}:5432/mlflow_db"
    source = make_source(emptied.root.parent / "postgres", uri, "mlflowruns")
    missing = next(run for run, found in source.read["runs"].items() if "model/MLmodel" in found.get("files", {}))
    for path in (source.artifacts / "wine" / missing).rglob("*"):
        if path.is_file():
            path.unlink()
    result = emptied.run("import-mlflow", "--backend-store-uri", uri, "--artifacts", str(source.artifacts), timeout=400)
    assert result.returncode == 0, result.stderr
    assert f"stack: note: run {missing} (" in result.stderr
    assert PASSWORD not in result.stderr + result.stdout
    read = read_rows(emptied)
    wanted = {run: [found["params"], found["tags"], found["info"]] for run, found in source.read["runs"].items()}
    assert read == wanted


def read_rows(stack: Deployment) -> dict[str, Any]:
    """Return runs without their files, of which some are missing."""
    script = (
        "import json; from mlflow import MlflowClient; c = MlflowClient();"
        "ids = [e.experiment_id for e in c.search_experiments(view_type=3)];"
        "print(json.dumps({r.info.run_id: [r.data.params, r.data.tags, [r.info.experiment_id, r.info.status,"
        " r.info.start_time, r.info.end_time, r.info.lifecycle_stage, r.info.user_id]]"
        " for r in c.search_runs(ids, run_view_type=3)}))"
    )
    environment = {**os.environ, **stack.login()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_no_fit_source_is_refused(emptied: Deployment, database: str) -> None:
    emptied.compose("run", "--rm", "--no-deps", "-T", "migrate")
    folder = emptied.root.parent / "unfit"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "text.db").write_text("no database")
    for name, statements in {
        "other.db": ["CREATE TABLE t (a)"],
        "newer.db": [
            "CREATE TABLE alembic_version (version_num)",
            "INSERT INTO alembic_version VALUES ('ffffffffffff')",
            *(
                f"CREATE TABLE {table} (a)"
                for table in ("experiments", "runs", "metrics", "params", "tags", "registered_models", "model_versions")
            ),
        ],
    }.items():
        (folder / name).unlink(missing_ok=True)
        with sqlite3.connect(folder / name) as connection:
            for statement in statements:
                connection.execute(statement)
    assert "is no whole SQLite database: file is not a database" in ask_importer(emptied, "text.db", folder, "text.db")
    assert "is no database of MLflow's: it has no table alembic_version" in ask_importer(
        emptied, "o", folder, "other.db"
    )
    assert "has schema ffffffffffff" in ask_importer(emptied, "newer.db", folder, "newer.db")
    line = ask_importer(emptied, f"postgresql+psycopg2://mlflow:wrong-password@{database}/mlflow_db")
    assert "password authentication failed" in line
    assert "wrong-password" not in line
    (folder / "files").mkdir()
    assert "is no file store of MLflow" in ask_importer(emptied, "files", folder, "files")
    for uri, artifacts, line in (
        ("sqlite:///nowhere.db", "/tmp", "there is no "),
        ("mysql://ann:secret@db/mlflow", "/tmp", "only SQLite, a folder mlruns and Postgres can be taken over"),
        (f"sqlite:///{folder}/other.db", "/nowhere", "--artifacts '/nowhere': there is no folder"),
    ):
        result = emptied.run("import-mlflow", "--backend-store-uri", uri, "--artifacts", artifacts)
        assert result.returncode == 1
        assert line in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert "secret" not in result.stderr


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
    with subprocess.Popen(command, cwd=stack.root, env={**os.environ, **stack.environment}) as process:
        condition = "name LIKE 'Brought (unfinished%'"
        wait_until(lambda: bool(client.search_experiments(filter_string=condition)), "an import that has begun")
        running = ["docker", "ps", "-q", "--filter", f"name=^{stack.name}-lifecycle-run"]
        found = subprocess.run(running, check=True, capture_output=True, text=True).stdout.split()
        subprocess.run(["docker", "kill", *found], check=True, capture_output=True)
        assert process.wait(60) != 0
    assert client.search_experiments(filter_string=condition)


def read_history(client: MlflowClient, run: str, key: str) -> list[tuple[int, int, str]]:
    return sorted((each.timestamp, each.step, str(each.value)) for each in client.get_metric_history(run, key))


def test_a_model_is_carried(stack: Deployment, archive: tuple[Path, Path, str], client: MlflowClient) -> None:
    stack.check("import", str(archive[1]), "--name", "Brought_Model")
    model = client.get_registered_model("Brought_Model")
    assert (model.description, model.tags["owner"], model.aliases) == ("of old", "ann", {"champion": "3"})
    versions = {version.version: version for version in client.search_model_versions("name = 'Brought_Model'")}
    assert {number: found.current_stage for number, found in versions.items()} == {"1": "Staging", "3": "None"}
    assert {found.description for found in versions.values()} == {"a version"}
    run = client.get_run(str(versions["3"].run_id))
    experiment = client.get_experiment_by_name("Brought_Model (imported)")
    assert experiment
    assert run.info.experiment_id == experiment.experiment_id
    assert mlflow.pyfunc.load_model("models:/Brought_Model@champion").predict([[3.0]])[0] == pytest.approx(6.0)


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
                    document["versions"][-1].update(source="runs:/" + "0" * 32 + "/model", model_id="")
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
