"""What another MLflow holds is taken over whole."""

from __future__ import annotations

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

import pytest

from stack.deployment import CHECKOUT, QUIET, Deployment, wait_until

Login = tuple[str, str]
SCRIPT = str(CHECKOUT / "tests/stack/clients/old_mlflow.py")
OLD = "/opt/mlflow-2.22/bin/python"
PASSWORD = "of-the-old-database"
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;"


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
    return make_deployment("taken", COMPOSE_FILE=QUIET)


@pytest.fixture
def emptied(empty: Deployment) -> Deployment:
    """The same without rows; the next command makes the tables anew."""
    if not empty.compose("ps", "--quiet", "postgres"):
        empty.check("up", "--no-train")
    empty.compose("exec", "-T", "postgres", "psql", "-q", "-d", "mlflow", "-c", EMPTY)
    return empty


def take(stack: Deployment, source: Source) -> str:
    return stack.check(
        "import-mlflow", "--backend-store-uri", source.uri, "--artifacts", str(source.artifacts), timeout=1800
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
        said = ""

        def read_until(words: str) -> None:
            nonlocal said
            while words not in said:
                assert process.stderr
                line = process.stderr.readline()
                assert line, said
                said += line

        read_until("Listing the artifacts")
        # (in the end its tables take the place of these, which somebody looks at as long)
        with empty.locked("runs", "ACCESS SHARE"):
            read_until("Copying 15 artifacts")
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
    # What is deleted from now on is kept, as in any stack.
    kept = ask_database(empty, "SELECT count(*) FROM stack.trash")
    ask_database(empty, "DELETE FROM registered_model_aliases")
    assert ask_database(empty, "SELECT count(*) FROM stack.trash") != kept
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
    command = ["import-mlflow", "--backend-store-uri", "-", "--artifacts", str(source.artifacts)]
    result = emptied.run(*command, stdin=f"{uri}\n")
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
