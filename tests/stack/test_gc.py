"""./stack gc: what was deleted goes for good, rows and objects; all else stays."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from stack.deployment import Deployment, wait_until
from stack.store_tool import PREAMBLE, collect, count_versions, run_in_tool, show_history

Login = tuple[str, str]
IS_SEAWEEDFS = os.environ.get("STACK_TEST_OBJECTSTORE") == "seaweedfs"
ALL = ("--older-than", "0s")
REST = "/api/2.0/mlflow-artifacts/artifacts/"


def double(model_input: list[int]) -> list[int]:
    """A model without dependencies."""
    return [2 * number for number in model_input]


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    made: str = client.create_experiment(f"gc-{time.time_ns()}")
    return made


@pytest.fixture
def make_run(client: MlflowClient, experiment: str) -> Callable[[], tuple[str, str]]:
    """Return a function that makes a run with three versions of two artifacts, and returns its id and folder."""

    def make() -> tuple[str, str]:
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "m", 1)
        for name, text in (("a.txt", "former"), ("a.txt", "latter"), ("deep/b.txt", "b")):
            client.log_text(run.info.run_id, text, name)
        return run.info.run_id, run.info.artifact_uri.removeprefix("mlflow-artifacts:/") + "/"

    return make


def log_model(experiment: str, name: str | None = None) -> tuple[str, str, str]:
    """Log a model in a run of its own, and register it under `name`; return (run, model, folder)."""
    with mlflow.start_run(experiment_id=experiment) as run:
        logged = mlflow.pyfunc.log_model(
            name="twice", python_model=double, pip_requirements=["mlflow"], registered_model_name=name
        )
    model = mlflow.get_logged_model(logged.model_id)
    return run.info.run_id, model.model_id, model.artifact_location.removeprefix("mlflow-artifacts:/") + "/"


def log_files(client: MlflowClient, experiment: str, folder: Path) -> tuple[str, str]:
    """Make a logged model that is nothing but files, and return its id and folder: a true one takes seconds."""
    for name in ("MLmodel", "a", "b", "c"):
        (folder / name).write_text(name)
    model = client.create_logged_model(experiment, "files")
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id, model.artifact_location.removeprefix("mlflow-artifacts:/") + "/"


def exists(client: MlflowClient, run_id: str) -> bool:
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def ids(result: dict[str, Any], kind: str) -> set[str]:
    return {entry["id"] for entry in result[kind]}


def watch_second_store(stack: Deployment) -> None:
    """Run a second store, whose uploads are too old at once, and whose master looks every minute."""
    second = f"{stack.name}-second"
    command = ["docker", "run", "--detach", "--rm", "--name", second, "--network", f"{stack.name}_store"]
    command += ["--volume", f"{stack.name}_secrets-objectstore:/run/secrets:ro", "--env", "STACK_UPLOAD_DAYS=0"]
    command += ["--env", "WEED_MASTER_MAINTENANCE_SLEEP_MINUTES=1", stack.image("objectstore")]
    script = """
import boto3, os, sys, time
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/run/secrets/root_credentials"
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1")
end = time.monotonic() + 900
while True:
    try:
        s3.create_bucket(Bucket="bucket")
        break
    except Exception:
        time.sleep(1)
        assert time.monotonic() < end
upload = s3.create_multipart_upload(Bucket="bucket", Key="x/y")["UploadId"]
s3.upload_part(Bucket="bucket", Key="x/y", UploadId=upload, PartNumber=1, Body=b"x")
s3.put_object(Bucket="bucket", Key="x/z", Body=b"z")
assert s3.list_multipart_uploads(Bucket="bucket")["Uploads"]
while s3.list_multipart_uploads(Bucket="bucket").get("Uploads"):
    time.sleep(2)
    assert time.monotonic() < end
assert s3.get_object(Bucket="bucket", Key="x/z")["Body"].read() == b"z"
"""
    subprocess.run(command, check=True, capture_output=True)
    try:
        run = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "bucket", "-c", script)
        stack.compose(*run, f"http://{second}:9000")
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", second], check=True, capture_output=True)


@pytest.fixture(scope="module", autouse=True)
def removed_uploads(stack: Deployment) -> Iterator[Future[None] | None]:
    """Begun before all else: it takes more than a minute, in which the other tests go on."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(watch_second_store, stack) if IS_SEAWEEDFS else None


def test_a_dry_run_counts_and_removes_nothing(
    stack: Deployment, client: MlflowClient, make_run: Callable[[], tuple[str, str]]
) -> None:
    (gone, folder), (stays, _) = make_run(), make_run()
    client.delete_run(gone)
    assert gone not in ids(collect(stack), "runs"), "it was deleted just now, not 30 days ago"
    result = collect(stack, *ALL)
    assert result["applied"] is False
    (entry,) = [entry for entry in result["runs"] if entry["id"] == gone]
    assert entry == {"id": gone, "objects": 2, "versions": 3, "size": len("former" + "latter" + "b")}
    assert stays not in ids(result, "runs")
    shown = stack.run("gc", *ALL)
    assert shown.returncode == 0
    assert "nothing was removed: ./stack gc --apply removes it" in shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()[:3]] == ["TO", "runs", "logged"]
    assert client.get_run(gone).info.lifecycle_stage == "deleted"
    assert count_versions(stack, folder) == (3, 2)


def test_rows_and_objects_of_what_was_deleted_go_and_nothing_else(
    stack: Deployment, client: MlflowClient, experiment: str, make_run: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    (gone, folder), (stays, folder_of_other) = make_run(), make_run()
    model, folder_of_model = log_files(client, experiment, tmp_path)
    model_stays, folder_of_stays = log_files(client, experiment, tmp_path)
    assert count_versions(stack, folder_of_model)[1] > 3
    client.delete_run(gone)
    client.delete_logged_model(model)
    result = json.loads(stack.check("gc", "--json", *ALL, "--apply"))
    assert result["applied"] is True
    assert gone in ids(result, "runs")
    assert model in ids(result, "logged_models")
    assert not exists(client, gone)
    assert count_versions(stack, folder) == (0, 0)
    assert count_versions(stack, folder_of_model) == (0, 0)
    assert client.get_run(stays).data.metrics == {"m": 1}
    assert count_versions(stack, folder_of_other) == (3, 2)
    assert client.get_logged_model(model_stays).model_id == model_stays
    assert count_versions(stack, folder_of_stays)[1] > 3
    assert ids(collect(stack, *ALL), "runs").isdisjoint({gone, stays})
    rows = "select count(*) from (select run_uuid from metrics union all select run_uuid from latest_metrics) m"
    left = stack.compose("exec", "-T", "postgres", "psql", "-qtAd", "mlflow", "-c", f"{rows} where run_uuid = '{gone}'")
    assert left.strip() == "0"


def test_an_experiment_goes_with_all_that_is_in_it(
    stack: Deployment, client: MlflowClient, experiment: str, make_run: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    make_run()
    _, folder = log_files(client, experiment, tmp_path)
    assert count_versions(stack, folder)[1] > 3
    # (nobody deletes it: it is deleted with its experiment)
    client.delete_experiment(experiment)
    result = collect(stack, *ALL, "--apply")
    assert experiment in ids(result, "experiments")
    with pytest.raises(MlflowException, match="No Experiment"):
        client.get_experiment(experiment)
    assert count_versions(stack, f"{experiment}/") == (0, 0)


def test_what_a_registered_model_is_made_from_stays(
    stack: Deployment, client: MlflowClient, experiment: str, make_run: Callable[[], tuple[str, str]]
) -> None:
    name = f"gc-{time.time_ns()}"
    run, model, folder = log_model(experiment, name)
    other, _ = make_run()
    client.create_model_version(name, f"runs:/{other}/deep", run_id=other)
    for deleted in (run, other):
        client.delete_run(deleted)
    client.delete_logged_model(model)
    before = count_versions(stack, folder)
    result = collect(stack, *ALL, "--apply")
    kept = {entry["identifier"]: entry["reason"] for entry in result["kept"]}
    assert kept[run] == kept[model] == f"{name} version 1 is made from it"
    assert kept[other] == f"{name} version 2 is made from it"
    assert f"{name} version 1 is made from it" in stack.tool("artifacts").check("gc", *ALL)
    assert count_versions(stack, folder) == before
    assert mlflow.pyfunc.load_model(f"models:/{name}/1").predict([4]) == [8]

    # Nor does its experiment go; all of it does when the model is gone.
    client.delete_experiment(experiment)
    result = collect(stack, *ALL, "--apply")
    assert experiment in {entry["identifier"] for entry in result["kept"]}
    assert count_versions(stack, folder) == before
    client.delete_registered_model(name)
    assert experiment in ids(collect(stack, *ALL, "--apply"), "experiments")
    assert count_versions(stack, f"{experiment}/") == (0, 0)


def test_what_is_restored_before_its_turn_stays_whole(
    stack: Deployment, client: MlflowClient, experiment: str, make_run: Callable[[], tuple[str, str]]
) -> None:
    (run, folder), (other, folder_of_other) = make_run(), make_run()
    client.delete_run(run)
    client.delete_run(other)
    # The plan is made, then the run is restored, then its turn comes.
    script = f"""
cutoff = int(datetime.now(UTC).timestamp() * 1000)
units = {{unit.identifier: unit for unit in plan.make_plan(catalog.read_catalog(engine), name, cutoff).units}}
with engine.begin() as connection:
    connection.execute(sqlalchemy.text("UPDATE runs SET lifecycle_stage = 'active', deleted_time = NULL"
                                       " WHERE run_uuid = '{run}'"))
remover = removal.Remover(engine, chosen.database_uri, bucket)
print(remover.remove(units["{run}"], cutoff), remover.remove(units["{other}"], cutoff), remover.notes.find())
"""
    assert run_in_tool(stack, script).split("\n")[-2] == "False True []"
    assert client.get_run(run).info.lifecycle_stage == "active"
    assert count_versions(stack, folder) == (3, 2)
    assert not exists(client, other)
    assert count_versions(stack, folder_of_other) == (0, 0)

    # An experiment with a run that was restored is not taken either.
    client.delete_experiment(experiment)
    client.restore_run(run)
    kept = {entry["identifier"]: entry["reason"] for entry in collect(stack, *ALL, "--apply")["kept"]}
    assert kept[experiment] == f"its run {run} is not deleted, or not as long ago"
    assert count_versions(stack, folder) == (3, 2)


KILLED = """
cutoff = datetime.now(UTC)
limits = collection.Limits(int(cutoff.timestamp() * 1000), None, cutoff - timedelta(days=7))
def die(*_):
    os._exit(9)
{where} = die
collection.apply(chosen, engine, bucket, limits)
"""


@pytest.mark.parametrize(
    ("where", "row_is_there"),
    [
        ("removal.Remover._remove_rows", True),
        ("objects.Bucket.remove_folder", False),
        ("removal.Notes.erase", False),
    ],
)
def test_what_a_kill_left_is_finished_by_the_next(
    stack: Deployment, client: MlflowClient, make_run: Callable[[], tuple[str, str]], where: str, row_is_there: bool
) -> None:
    collect(stack, *ALL, "--apply")
    run, folder = make_run()
    client.delete_run(run)
    killed = stack.tool("artifacts").execute(PREAMBLE + KILLED.format(where=where))
    assert killed.returncode == 9, killed.stderr
    assert exists(client, run) is row_is_there
    assert count_versions(stack, ".stack/gc/")[1] == 1
    assert (count_versions(stack, folder) == (0, 0)) is (where == "removal.Notes.erase")
    assert collect(stack, *ALL)["begun_before"] == 1
    if row_is_there:  # then nothing has happened: it may be restored, and stays
        client.restore_run(run)
        collect(stack, *ALL, "--apply")
        assert count_versions(stack, folder) == (3, 2)
        assert client.get_run(run).data.metrics == {"m": 1}
    else:
        collect(stack, *ALL, "--apply")
        assert count_versions(stack, folder) == (0, 0)
    assert count_versions(stack, ".stack/gc/") == (0, 0)


def test_a_second_one_at_the_same_time_is_refused(
    stack: Deployment, client: MlflowClient, make_run: Callable[[], tuple[str, str]]
) -> None:
    run, folder = make_run()
    client.delete_run(run)
    script = "with removal.lock(engine):\n    print('locked', flush=True)\n    import time; time.sleep(3600)"
    command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "--name", f"{stack.name}-locker"]
    with subprocess.Popen(
        [*command, "--entrypoint", "python", "artifacts", "-c", PREAMBLE + script],
        cwd=stack.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "locked\n"
            second = stack.run("gc", *ALL, "--apply")
            assert (second.returncode, second.stdout) == (1, "")
            assert second.stderr == "stack: another ./stack gc --apply is at work: wait for its end\n"
            assert run in ids(collect(stack, *ALL), "runs"), "to look is allowed"
        finally:
            subprocess.run(["docker", "rm", "--force", f"{stack.name}-locker"], check=True, capture_output=True)
    # Killed, it holds nothing any more.
    tool = stack.tool("artifacts")
    wait_until(lambda: tool.run("gc", *ALL, "--apply").returncode == 0, "the lock is free")
    assert count_versions(stack, folder) == (0, 0)


def test_orphans_on_both_sides_are_shown_and_left_alone(
    stack: Deployment, client: MlflowClient, experiment: str, admin: Login
) -> None:
    strange = {
        f"{experiment}/{'0' * 31}1/artifacts/": "run",
        f"{experiment}/models/m-{'0' * 31}1/artifacts/": "model",
        f"{experiment}/traces/tr-{'0' * 31}1/artifacts/": "trace",
        "strange/folder/": "unknown",
    }
    script = f"for folder in {list(strange)!r}: s3.put_object(Bucket=name, Key=folder + 'deep/x', Body=b'12345')"
    run_in_tool(stack, script)
    _, empty, folder = log_model(experiment, f"gc-{time.time_ns()}")
    known = client.create_run(experiment).info.run_id
    client.log_text(known, "x", "x.txt")
    for entry in show_history(stack, empty):
        assert stack.ask(REST + folder + entry["path"], admin, "DELETE").ok
    try:
        for options in (("--json",), ("--json", "--apply")):
            result = json.loads(stack.tool("artifacts").check("gc", *options))
            found = {entry["folder"]: (entry["kind"], entry["objects"], entry["size"]) for entry in result["orphans"]}
            assert {place: found.get(place) for place in strange} == {p: (kind, 1, 5) for p, kind in strange.items()}
            assert not [place for place in found if known in place]
            missing = {entry["identifier"]: entry for entry in result["missing"]}
            assert missing[empty]["former"] > 0, "its objects can be brought back"
            assert len([entry for entry in missing.values() if entry["folder"] == folder]) == 2, "its version too"
        table = stack.tool("artifacts").check("gc")
        assert "OBJECTS WITHOUT A ROW" in table
        assert "ROWS WITHOUT OBJECTS" in table
        left = f"print(sum(len(versions) for place in {list(strange)!r} for versions in bucket.walk(place)))"
        assert run_in_tool(stack, left) == "4\n"
        assert client.get_logged_model(empty).model_id == empty
    finally:
        run_in_tool(stack, f"for folder in {list(strange)!r}: bucket.remove_folder(folder)")


def test_a_trace_whose_objects_are_in_the_bucket_is_no_orphan(
    stack: Deployment, client: MlflowClient, experiment: str
) -> None:
    with mlflow.start_run(experiment_id=experiment):
        span = mlflow.start_span_no_context("question", inputs={"a": 1})
        span.end()
        mlflow.flush_trace_async_logging()
    (trace,) = client.search_traces([experiment])
    folder = f"{experiment}/traces/{trace.info.trace_id}/artifacts/"
    run_in_tool(stack, f"s3.put_object(Bucket=name, Key={folder + 'traces.json'!r}, Body=b'{{}}')")
    assert folder not in {entry["folder"] for entry in collect(stack)["orphans"]}


def test_old_versions_and_unfinished_uploads_go(
    stack: Deployment, client: MlflowClient, admin: Login, make_run: Callable[[], tuple[str, str]]
) -> None:
    run, folder = make_run()
    client.log_text(run, "x", "gone.txt")
    assert stack.ask(REST + folder + "gone.txt", admin, "DELETE").ok
    start = f"""
upload = s3.create_multipart_upload(Bucket=name, Key={folder + "big.bin"!r})["UploadId"]
s3.upload_part(Bucket=name, Key={folder + "big.bin"!r}, UploadId=upload, PartNumber=1, Body=b"x" * 5_000_000)
"""
    run_in_tool(stack, start)
    uploads = f"print(len(list(bucket.find_uploads({folder!r}))))"
    assert run_in_tool(stack, uploads) == "1\n"
    assert count_versions(stack, folder) == (5, 2)

    # Young as they are they stay, by the days that the stack has; and --older-than is about rows.
    assert collect(stack, "--apply", *ALL)["applied"]
    assert count_versions(stack, folder) == (5, 2)
    assert run_in_tool(stack, uploads) == "1\n"

    time.sleep(3)
    client.log_text(run, "newest", "deep/b.txt")
    aged = ("--versions-older-than", "2s", "--uploads-older-than", "2s")
    looked = collect(stack, *aged)
    assert [line["rows"] for line in looked["summary"] if line["what"] == "unfinished uploads"] != [0]
    assert count_versions(stack, folder) == (6, 2)
    collect(stack, *aged, "--apply")
    states = {(entry["path"], entry["state"]) for entry in show_history(stack, run)}
    assert states >= {("a.txt", "current"), ("deep/b.txt", "current")}
    assert not {path for path, _ in states} & {"gone.txt"}
    assert run_in_tool(stack, uploads) == "0\n"
    time.sleep(3)
    collect(stack, *aged, "--apply")
    assert count_versions(stack, folder) == (2, 2)
    assert client.list_artifacts(run)
    assert stack.ask(REST + folder + "a.txt", admin).content == b"latter"
    assert stack.ask(REST + folder + "deep/b.txt", admin).content == b"newest"


def test_the_bucket_has_the_lifecycle_that_env_says(stack: Deployment) -> None:
    script = "print(json.dumps(s3.get_bucket_lifecycle_configuration(Bucket=name)['Rules']))"
    read = (
        "import boto3, json, os\n"
        "os.environ['AWS_SHARED_CREDENTIALS_FILE'] = '/run/secrets/root_credentials'\n"
        "s3 = boto3.client('s3', endpoint_url=os.environ['STACK_S3_ENDPOINT'], region_name='us-east-1')\n"
        "name = os.environ['STACK_BUCKET']\n" + script
    )
    command = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "bucket", "-c", read)
    rules = {rule["ID"]: rule for rule in json.loads(stack.compose(*command))}
    assert rules["versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    if "uploads" in rules:
        assert rules["uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    stack.environment |= {"STACK_VERSION_DAYS": "0", "STACK_UPLOAD_DAYS": "3"}
    try:
        stack.compose("run", "--rm", "--no-deps", "-T", "bucket")
        changed = stack.execute("docker", "compose", *command)
        if changed.returncode == 0:
            assert [rule["ID"] for rule in json.loads(changed.stdout)] == ["uploads"]
            assert json.loads(changed.stdout)[0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 3}
        else:
            assert "NoSuchLifecycleConfiguration" in changed.stderr
    finally:
        stack.environment = {}
        stack.compose("run", "--rm", "--no-deps", "-T", "bucket")


def test_the_tool_reaches_its_bucket_and_mlflows_database_only(stack: Deployment) -> None:
    script = """
import socket
from botocore.exceptions import ClientError
for attempt in (lambda: s3.create_bucket(Bucket="other"), lambda: s3.list_objects_v2(Bucket="other"),
                lambda: s3.delete_bucket(Bucket=name)):
    try:
        attempt()
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404), error
        continue
    raise SystemExit("not denied")
try:
    sqlalchemy.create_engine(chosen.database_uri.replace("mlflow@", "auth@").replace("/mlflow?", "/auth?")).connect()
    raise SystemExit("it reaches the users")
except sqlalchemy.exc.OperationalError:
    pass
try:
    socket.create_connection(("192.0.2.1", 80), 3)
    raise SystemExit("it reaches the outside")
except OSError:
    pass
assert os.getuid() == 10009
try:
    open("/app/x", "w")
    raise SystemExit("it can write")
except OSError:
    pass
"""
    run_in_tool(stack, script)


def test_bad_options_and_dead_neighbours_get_one_line(stack: Deployment) -> None:
    tool = stack.tool("artifacts")
    for options in (("--older-than", "3x"), ("--versions-older-than", "-1d"), ("--uploads-older-than", "1.5h")):
        refused = tool.run("gc", "=".join(options))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (f"stack: {options[0]} {options[1]!r} is no span of time: write 30d, 12h or 0s\n")
    for service, words in (
        ("postgres", "the database can't be used"),
        ("objectstore", "the object store can't be used"),
    ):
        stack.compose("stop", service)
        try:
            refused = stack.run("gc")
            assert (refused.returncode, refused.stdout) == (1, "")
            assert refused.stderr.startswith(f"stack: {words}"), refused.stderr
            assert refused.stderr.count("\n") == 1, refused.stderr
        finally:
            stack.compose("start", service)
    wait_until(lambda: tool.run("gc").returncode == 0, "both are back")


@pytest.mark.skipif(not IS_SEAWEEDFS, reason="MinIO has a time of its own")
def test_the_store_removes_unfinished_uploads_by_itself(
    stack: Deployment, removed_uploads: Future[None] | None
) -> None:
    assert removed_uploads
    removed_uploads.result()
    assert "adminScripts: s3.clean.uploads -timeAgo=168h" in stack.logs("objectstore")
