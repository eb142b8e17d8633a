"""Bad input and dead neighbours: one clear line, a non-zero exit, nothing half-created."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stack.deployment import CHECKOUT, PROBE, RETRY_SECONDS, Deployment, wait_until

Login = tuple[str, str]
OUTAGE_SECONDS = 60


def assert_one_line(text: str, *parts: str) -> None:
    """Fail unless `text` is a single line that holds all parts and no traceback."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("==>", "    done"))]
    assert len(lines) == 1, text
    for part in parts:
        assert part in lines[0], text


def set_settings(deployment: Deployment, **settings: str) -> None:
    with (deployment.root / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())


@pytest.fixture(scope="module")
def spare(make_deployment: Callable[..., Deployment]) -> Deployment:
    """A checkout whose stack never comes up."""
    return make_deployment("fault")


@pytest.fixture
def other(spare: Deployment) -> Iterator[Deployment]:
    """The same, with the .env that it had before each test."""
    file = spare.root / ".env"
    before = file.read_text()
    yield spare
    file.write_text(before)


@pytest.mark.parametrize("arguments", [(), ("-h",), ("help",)])
def test_the_command_explains_itself(other: Deployment, arguments: tuple[str, ...]) -> None:
    output = other.check(*arguments)
    for command in ("up", "down", "destroy", "env", "train", "status", "logs", "test"):
        assert f"\n  {command} " in output or f"\n  {command}[" in output or f"\n  {command}  " in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("up", "--bogus"),
        ("train", "--data"),
        ("screenshots", "--bogus"),
        ("screenshots", "--to"),
        # (the value of a variable that is not set: nothing else is done instead)
        ("restore", "--at", "", "--replace"),
        ("restore", "--replace", "--into="),
        ("restore", "", "--replace"),
        ("backup", "--to", ""),
        ("backup", "schedule", "02:30", "--keep"),
        ("upgrade", "--to="),
    ],
)
def test_a_wrong_command_is_a_usage_error(stack: Deployment, arguments: tuple[str, ...]) -> None:
    result = stack.run(*arguments)
    assert result.returncode == 2
    assert_one_line(result.stderr, "./stack -h")


def test_all_faults_of_env_are_named_at_once(other: Deployment) -> None:
    set_settings(
        other, STACK_PORT="99999", STACK_BIND="somewhere", STACK_JOBS="maybe", STACK_WORKERS="0", STACK_COLOUR="red"
    )
    with (other.root / ".env").open("a") as file:
        file.write("no assignment\n")
    result = other.run("up")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 6, result.stderr
    for part in ("'99999'", "'somewhere'", "'maybe'", "'0'", "STACK_COLOUR", "'no assignment'"):
        assert part in result.stderr


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "MINIO_ROOT_PASSWORD", "MLFLOW_TRACKING_PASSWORD"])
def test_env_is_no_place_for_secrets(other: Deployment, name: str) -> None:
    set_settings(other, **{name: "changeme"})
    result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, name, "not a setting")


def test_a_last_line_of_env_without_its_end_stays_a_line_of_its_own(other: Deployment) -> None:
    with (other.root / ".env").open("a") as file:
        file.write("STACK_MIN_FREE_MB=999999999")
    assert "MB are free" in other.run("up").stderr
    assert "STACK_MIN_FREE_MB=999999999" in (other.root / ".env").read_text().splitlines()
    assert "COMPOSE_FILE=docker-compose.yml" in (other.root / ".env").read_text().splitlines()


def test_more_workers_need_more_memory(other: Deployment) -> None:
    set_settings(other, STACK_WORKERS="16")
    result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, "STACK_MLFLOW_MEMORY is '1g'", "16 workers", "1792m")


@pytest.mark.parametrize(
    "arguments", [("backup", "schedule", "off"), ("artifacts", "migrate", "--to", "s3")], ids=lambda words: words[0]
)
def test_a_second_stack_of_a_folder_does_not_change_the_settings_of_the_first(
    other: Deployment, arguments: tuple[str, ...]
) -> None:
    settings = (other.root / ".env").read_text()
    other.environment = {"STACK_NAME": "trial"}
    result = other.run(*arguments)
    other.environment = {}
    assert result.returncode == 1
    assert_one_line(result.stderr, "stack 'trial' shares .env with stack", other.name, "a checkout of its own")
    assert (other.root / ".env").read_text() == settings


UPSTREAM = {"STACK_TLS": "upstream", "STACK_PUBLIC_URL": "https://mlflow.example.org"}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"STACK_BIND": "0.0.0.0"}, ("STACK_BIND is '0.0.0.0'", "STACK_TLS is 'off'")),
        ({"STACK_BIND": "192.0.2.7"}, ("STACK_BIND is '192.0.2.7'", "STACK_TLS is 'off'")),
        ({"STACK_TLS": "maybe"}, ("STACK_TLS is 'maybe'", "self-signed, files or upstream")),
        ({"STACK_TLS": "files", "STACK_TLS_CERT": "LICENSE", "STACK_TLS_KEY": "none"}, ("STACK_TLS_KEY is 'none'",)),
        ({"STACK_TLS": "files", "STACK_TLS_CERT": "tests", "STACK_TLS_KEY": "LICENSE"}, ("STACK_TLS_CERT is 'tests'",)),
        ({"STACK_TLS_CERT": "LICENSE"}, ("STACK_TLS_CERT is 'LICENSE'", "STACK_TLS=files")),
        ({"STACK_TLS": "self-signed", "STACK_PUBLIC_URL": "http://x.example"}, ("'http://x.example'", "https://")),
        ({**UPSTREAM}, ("STACK_TRUSTED_PROXIES is ''", "addresses")),
        (
            {**UPSTREAM, "STACK_TRUSTED_PROXIES": "10.0.0.1,proxy"},
            ("STACK_TRUSTED_PROXIES is", "'proxy' is no address"),
        ),
        ({**UPSTREAM, "STACK_TRUSTED_PROXIES": "10.0.0.0/33"}, ("STACK_TRUSTED_PROXIES is", "'10.0.0.0/33' is no")),
        ({**UPSTREAM, "STACK_TRUSTED_PROXIES": "fd00::/129"}, ("STACK_TRUSTED_PROXIES is", "'fd00::/129' is no")),
        ({"STACK_TLS": "upstream", "STACK_TRUSTED_PROXIES": "10.0.0.1"}, ("STACK_PUBLIC_URL is ''", "upstream")),
        ({"STACK_TRUSTED_PROXIES": "10.0.0.1"}, ("STACK_TRUSTED_PROXIES is '10.0.0.1'", "STACK_TLS is 'off'")),
    ],
)
def test_tls_settings_that_do_not_fit_are_one_clear_line(
    other: Deployment, settings: dict[str, str], parts: tuple[str, ...]
) -> None:
    set_settings(other, **settings)
    result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, *parts)


def test_an_address_of_another_machine_is_named_before_anything_is_made(other: Deployment) -> None:
    set_settings(other, STACK_TLS="self-signed", STACK_BIND="203.0.113.77")  # an address for documentation, RFC 5737
    result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, "STACK_BIND is '203.0.113.77'", "127.0.0.1")
    assert other.compose("ps", "--all", "--quiet") == ""


def test_a_taken_port_is_named_before_anything_is_made(other: Deployment) -> None:
    with socket.create_server(("127.0.0.1", other.port)):
        result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, str(other.port), "STACK_PORT")
    assert other.compose("ps", "--all", "--quiet") == ""


def test_a_running_stack_keeps_its_gateway_when_its_new_port_is_taken(stack: Deployment, admin: Login) -> None:
    original = (stack.root / ".env").read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        try:
            set_settings(stack, STACK_PORT=port)
            result = stack.run("up")
        finally:
            (stack.root / ".env").write_text(original)
    assert result.returncode == 1
    assert_one_line(result.stderr, port, "STACK_PORT")
    assert stack.ask(PROBE, admin).status_code == 200


@pytest.mark.parametrize(("name", "value"), [("STACK_WORKERS", "08"), ("STACK_MLFLOW_MEMORY", "08g")])
def test_a_number_that_begins_with_0_is_one_clear_line(other: Deployment, name: str, value: str) -> None:
    set_settings(other, **{name: value})
    result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, f"{name} is '{value}'")


def test_a_full_disk_is_named_before_anything_is_made(other: Deployment) -> None:
    set_settings(other, STACK_MIN_FREE_MB="999999999")
    result = other.run("up")
    assert result.returncode == 1
    assert_one_line(result.stderr, "MB are free", "STACK_MIN_FREE_MB")


def test_another_stack_of_the_same_name_is_left_alone(stack: Deployment, other: Deployment) -> None:
    set_settings(other, STACK_NAME=stack.name)
    result = other.run("up")
    (other.root / ".env").unlink()  # its name is the other stack's: it must not be destroyed with this one
    assert result.returncode == 1
    assert_one_line(result.stderr, stack.name, str(stack.root), "STACK_NAME")


def test_the_object_store_never_changes_under_existing_data(stack: Deployment) -> None:
    original = (stack.root / ".env").read_text()
    present = json.loads(stack.compose("config", "--format", "json"))["services"]["objectstore"]["build"]["target"]
    wrong = {"minio": "seaweedfs", "seaweedfs": "minio"}[present]
    try:
        set_settings(stack, STACK_OBJECTSTORE=wrong)
        result = stack.run("up")
    finally:
        (stack.root / ".env").write_text(original)
    assert result.returncode == 1
    assert_one_line(result.stderr, f"'{wrong}'", present)


@pytest.mark.parametrize("command", ["env", "train", "status", "reload"])
def test_commands_of_a_running_stack_say_that_none_runs(other: Deployment, command: str) -> None:
    result = other.run(command)
    assert result.returncode == 1
    assert_one_line(result.stderr, other.name, "./stack up")


def test_destroy_asks_first(stack: Deployment, admin: Login) -> None:
    result = stack.run("destroy")
    assert result.returncode == 1
    assert_one_line(result.stderr, "--yes", stack.name)
    assert stack.ask(PROBE, admin).status_code == 200


def test_no_docker_daemon_is_named(other: Deployment) -> None:
    other.environment["DOCKER_HOST"] = "tcp://127.0.0.1:9"
    result = other.run("up")
    other.environment.clear()
    assert result.returncode == 1
    assert_one_line(result.stderr, "DOCKER_HOST=tcp://127.0.0.1:9")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def run_as_nobody(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `./stack up` in a copy of the checkout below `folder`, as a user without any rights."""
    deployment = Deployment("nobody", folder / "checkout")
    deployment.prepare()
    return deployment.execute(
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("env", *(f"{name}={value}" for name, value in environment.items()), "./stack", "up"),
    )


def test_a_user_who_may_not_use_docker_is_told_so(open_folder: Path) -> None:
    result = run_as_nobody(open_folder)
    assert result.returncode == 1
    assert_one_line(result.stderr, "may not use Docker", "sudo")


def test_without_docker_and_root_it_is_said_what_to_install(open_folder: Path) -> None:
    programs = open_folder / "bin"
    programs.mkdir()
    for folder in (Path("/usr/bin"), Path("/usr/sbin")):
        for program in folder.iterdir():
            if not program.name.startswith("docker") and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    result = run_as_nobody(open_folder, PATH=str(programs))
    assert result.returncode == 1
    assert_one_line(result.stderr, "no Docker Engine found", "sudo")


GOOD = (CHECKOUT / "trainer/data/winequality-red.csv").read_text()


# (each way in which data or options can be bad: tests/unit/test_trainer_cli.py, test_trainer_data.py)
def test_bad_training_data_is_refused_before_a_run_is_made(stack: Deployment, client: MlflowClient) -> None:
    folder = stack.root / "data"  # a path that the Docker daemon sees too
    folder.mkdir(exist_ok=True)
    data = folder / "text.csv"
    data.write_text(GOOD.replace("7.4;0.7;", "seven;0.7;", 1))
    data.chmod(0o644)
    experiment = client.get_experiment_by_name("Wine Regression").experiment_id
    before = len(client.search_runs([experiment]))
    result = stack.run("train", "--data", str(data))
    assert result.returncode != 0
    assert "Traceback" not in result.stderr + result.stdout
    assert "seven" in (result.stderr + result.stdout).lower()
    assert len(client.search_runs([experiment])) == before


def test_a_data_file_is_found_from_where_the_user_is(stack: Deployment) -> None:
    folder = stack.root / "elsewhere"
    folder.mkdir(exist_ok=True)
    (folder / "mine.csv").write_text("")
    (folder / "mine.csv").chmod(0o644)
    result = stack.execute("sh", "-c", "cd elsewhere && ../stack train --data mine.csv")
    assert result.returncode != 0
    assert "empty" in (result.stderr + result.stdout).lower()
    (folder / "mine.csv").chmod(0o600)
    result = stack.execute("sh", "-c", "cd elsewhere && ../stack train --data mine.csv")
    assert result.returncode == 1
    assert_one_line(result.stderr, "'mine.csv'", "chmod o+r")


def test_a_missing_data_file_is_named(stack: Deployment) -> None:
    result = stack.run("train", "--data", "/no/such/file.csv")
    assert result.returncode == 1
    assert_one_line(result.stderr, "'/no/such/file.csv'")


@pytest.mark.parametrize("arguments", [("--l1-ratio", "2"), ("--alpha", "much")])
def test_a_wrong_hyperparameter_is_refused(stack: Deployment, arguments: tuple[str, ...]) -> None:
    result = stack.run("train", *arguments)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr + result.stdout
    assert arguments[-1] in result.stderr + result.stdout


def test_training_without_a_gateway_ends_soon_with_one_line(stack: Deployment, admin: Login) -> None:
    stack.compose("stop", "nginx")
    try:
        result = stack.execute("docker", "compose", "run", "--rm", "--no-deps", "-T", "trainer", "train", timeout=300)
    finally:
        stack.compose("start", "nginx")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "http://nginx:5001" in result.stderr
    wait_until(lambda: stack.is_served(admin), "the gateway serves")


# A stock client: it has the three variables that a user sets, and MLflow's own patience.
TRAINING = """
import sys
import mlflow

kind = sys.argv[1]
with mlflow.start_run(run_name=f"a minute without {kind}"):
    for step in range(40):
        if kind == "rows":
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            mlflow.log_param(f"param-{step}", step)
        else:
            mlflow.log_text(str(step) * 10_000, f"step-{step}.txt")
        if step == 5:
            print(mlflow.active_run().info.run_id, flush=True)
            sys.stdin.readline()  # until there is nobody to write to
"""


def begin_training(kind: str) -> tuple[subprocess.Popen[str], str]:
    """Begin a training that logs rows or files; return it in its middle, and its run's id."""
    command = [sys.executable, "-c", TRAINING, kind]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_HTTP_REQUEST_MAX_RETRIES"}
    pipe = subprocess.PIPE
    training = subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
    assert training.stdout
    return training, training.stdout.readline().strip()


def test_trainings_outlast_a_minute_without_database_and_object_store(
    stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    rows, files = begin_training("rows"), begin_training("files")
    begun = 0.0
    place = f"/api/2.0/mlflow-artifacts/artifacts/0/{rows[1]}/artifacts/x.txt"
    stack.compose("stop", "objectstore")
    try:
        # Without the store, metadata goes on.
        run = client.create_run("0", run_name="no store")
        client.log_metric(run.info.run_id, "written", 1.0)
        assert client.get_run(run.info.run_id).data.metrics == {"written": 1.0}
        refused = stack.ask(place, admin, "PUT", data=b"x")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, RETRY_SECONDS)
        # (that Docker asks this and shows the answer: the next test)
        ready = stack.execute("docker", "compose", "exec", "-T", "mlflow", "python", "/app/healthcheck.py")
        assert ready.returncode == 1
        assert "objectstore" in ready.stdout + ready.stderr

        stack.compose("stop", "postgres")
        for login in (admin, ("somebody", "unknown")):
            for method, path in (("GET", PROBE), ("POST", "/api/2.0/mlflow/runs/create"), ("PUT", place)):
                asked = time.monotonic()
                answer = stack.ask(path, login, method, json={})
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, RETRY_SECONDS), (method, path)
                assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
                seconds = time.monotonic() - asked
                print(f"{method} {path[:40]}: {seconds:.1f} s")
                assert seconds < 60
        # (all else was asked before: a client goes on for 105 s)
        for training, _ in (rows, files):
            assert training.stdin
            print(file=training.stdin, flush=True)
        begun = time.monotonic()
        time.sleep(OUTAGE_SECONDS)
        assert (rows[0].poll(), files[0].poll()) == (None, None), "a training has ended already"
    finally:
        stack.compose("start", "postgres", "objectstore")
    print(f"away for {time.monotonic() - begun:.0f} s")
    for kind, (training, _) in (("rows", rows), ("files", files)):
        _, complaint = training.communicate(timeout=600)
        assert training.returncode == 0, complaint[-2000:]
        print(f"{kind}: ended {time.monotonic() - begun:.0f} s after the beginning")
    ended = client.get_run(rows[1])
    assert ended.info.status == client.get_run(files[1]).info.status == "FINISHED"
    assert ended.data.params == {f"param-{step}": str(step) for step in range(40)}
    history = client.get_metric_history(rows[1], "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(n, 1 / (n + 1)) for n in range(40)]
    assert {file.path for file in client.list_artifacts(files[1])} == {f"step-{step}.txt" for step in range(40)}
    for step in range(40):
        found = stack.ask(place.replace(rows[1], files[1]).replace("x.txt", f"step-{step}.txt"), admin)
        assert found.text == str(step) * 10_000
    assert client.get_run(run.info.run_id).data.metrics == {"written": 1.0}
    wait_until(lambda: stack.ask(place, admin, "PUT", data=b"x").ok, "uploads work")


def test_a_server_without_its_database_is_shown_as_unhealthy(stack: Deployment, admin: Login) -> None:
    def is_shown() -> bool:
        health = stack.container("mlflow")["State"]["Health"]
        # (after another outage it may be unhealthy still)
        return bool(health["Status"] == "unhealthy" and "postgres" in health["Log"][-1]["Output"])

    stack.compose("stop", "postgres")
    try:
        wait_until(is_shown, "it shows")
        result = stack.run("status")
        assert result.returncode == 1
        assert "unhealthy" in result.stdout
    finally:
        stack.compose("start", "postgres")
    wait_until(lambda: stack.is_served(admin), "the stack serves again")


def test_status_of_a_stack_without_its_gateway_is_a_failure(stack: Deployment, admin: Login) -> None:
    stack.compose("rm", "--stop", "--force", "nginx")
    try:
        result = stack.run("status")
    finally:
        stack.compose("up", "--detach", "--no-build", "--no-deps", "nginx")
    assert result.returncode == 1
    assert "MLflow does not answer" in result.stdout
    wait_until(lambda: stack.is_served(admin), "the gateway serves")


def test_nothing_is_said_to_be_well_where_docker_said_nothing(stack: Deployment) -> None:
    assert stack.tool("admin").run("status", stdin="").returncode == 1


def test_a_dead_server_is_said_so(stack: Deployment, admin: Login) -> None:
    stack.compose("stop", "mlflow")
    try:
        answer = stack.ask(PROBE, admin)
        assert answer.status_code == 503
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    finally:
        stack.compose("start", "mlflow")
    wait_until(lambda: stack.is_served(admin), "the gateway serves")
