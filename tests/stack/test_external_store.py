"""STACK_OBJECTSTORE=s3: a whole stack on a store that somebody else runs, reached by TLS."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import certificates
import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from stack.deployment import CHECKOUT, RETRY_SECONDS, Deployment, wait_until
from stack.external import UNMADE, UNVERSIONED, External

Said = tuple[int, str]  # a job's exit code and stderr
MODEL = "Wine_Elasticnet_Sklearn_Regressor"
DATA = CHECKOUT / "trainer/data/winequality-red.csv"


def bring_up(external: External, deployment: Deployment, keys: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    external.serve(deployment, keys)
    return deployment.run("up")


@pytest.fixture(scope="module")
def outside(external: External, make_deployment: Callable[..., Deployment]) -> Iterator[Deployment]:
    """A stack whose artifacts are in the external store, made as a user makes it."""
    deployment = make_deployment("s3", **external.settings(STACK_S3_ENCRYPTION="AES256"))
    result = bring_up(external, deployment, external.root)
    assert result.returncode == 0, result.stderr
    yield deployment
    external.leave(f"{deployment.name}_outside")


@pytest.fixture
def client(outside: Deployment, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in outside.login().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    return MlflowClient()


def find_keys(external: External, prefix: str = "") -> dict[str, int]:
    pages = (
        external.connect(external.root).get_paginator("list_objects_v2").paginate(Bucket=external.bucket, Prefix=prefix)
    )
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def test_the_stack_runs_no_store_of_its_own(outside: Deployment) -> None:
    services = json.loads(outside.compose("config", "--format", "json"))["services"]
    assert "objectstore" not in services
    running = outside.compose("ps", "--services").split()
    assert sorted(running) == ["backup", "follower", "mlflow", "nginx", "postgres", "serving"]


def test_models_are_trained_into_the_external_store_and_load(
    outside: Deployment, external: External, client: MlflowClient
) -> None:
    version = client.get_model_version_by_alias(MODEL, "production")
    assert version.current_stage == "Production"
    rows = pd.read_csv(DATA, sep=";", dtype=float).drop(columns="quality").head(2)
    assert len(mlflow.pyfunc.load_model(f"models:/{MODEL}/Production").predict(rows)) == 2
    assert any(key.endswith("/MLmodel") for key in find_keys(external))


def test_bytes_go_there_and_back_and_are_encrypted(
    outside: Deployment, external: External, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # (parts of 5 MiB: signed URLs for parts are used as for files of 500 MiB)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(6 * 2**20))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * 2**20))
    files = {"empty.bin": b"", "ä +%.bin": b"x" * 1000, "large.bin": bytes(range(256)) * 2**16}
    run = client.create_run("0")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        client.log_artifact(run.info.run_id, str(tmp_path / name))
    prefix, back = f"0/{run.info.run_id}/artifacts/", tmp_path / "back"
    back.mkdir()
    owner = external.connect(external.root)
    for name, content in files.items():
        got = Path(client.download_artifacts(run.info.run_id, name, str(back)))
        assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(content).digest()
        stored = owner.get_object(Bucket=external.bucket, Key=prefix + name)
        assert stored["Body"].read() == content
        assert stored["ServerSideEncryption"] == "AES256", name
    assert owner.head_object(Bucket=external.bucket, Key=prefix + "large.bin")["ETag"].endswith('-4"'), (
        "not sent in parts"
    )


def test_a_file_by_rest_goes_past_mlflow_and_is_encrypted(outside: Deployment, external: External) -> None:
    login = (outside.login()["MLFLOW_TRACKING_USERNAME"], outside.login()["MLFLOW_TRACKING_PASSWORD"])
    path = "/api/2.0/mlflow-artifacts/artifacts/0/by-rest/file.txt"
    assert outside.ask(path, login, "PUT", data=b"by rest").status_code == 200
    answer = outside.ask(path, login, headers={"Range": "bytes=3-"})
    assert (answer.status_code, answer.content) == (206, b"rest")
    stored = external.connect(external.root).get_object(Bucket=external.bucket, Key="0/by-rest/file.txt")
    assert stored["ServerSideEncryption"] == "AES256"


def test_versioning_was_turned_on(outside: Deployment, external: External) -> None:
    assert external.connect(external.root).get_bucket_versioning(Bucket=external.bucket)["Status"] == "Enabled"


def test_the_check_leaves_no_trace(outside: Deployment, external: External) -> None:
    found = external.connect(external.root).list_object_versions(Bucket=external.bucket, Prefix=".stack/")
    assert not found.get("Versions")
    assert not found.get("DeleteMarkers")


def test_no_secret_of_the_operators_is_in_an_inspection_or_a_log(outside: Deployment, external: External) -> None:
    places = [outside.compose("logs", "--no-color"), outside.compose("config")]
    for service in ("secrets", "bucket", "migrate", "mlflow", "nginx"):
        container = outside.container(service)
        places.append(json.dumps(container))
        if pid := container["State"]["Pid"]:
            places += [
                Path(f"/proc/{pid}/{part}").read_bytes().decode(errors="replace") for part in ("cmdline", "environ")
            ]
    assert not any(external.root[1] in place for place in places)
    listing = outside.compose(
        "run", "--rm", "--no-deps", "-T", "--entrypoint", "stat", "bucket", "-c", "%U %a", "/run/secrets/s3_credentials"
    )
    assert listing.strip() == "bucket 400"


def test_the_network_to_the_store_is_open_in_this_mode_alone(outside: Deployment) -> None:
    networks = json.loads(outside.compose("config", "--format", "json"))["networks"]
    assert not networks["store"].get("internal")
    assert networks["database"]["internal"] is True
    alone = outside.execute("docker", "compose", "--file", "docker-compose.yml", "config", "--format", "json")
    assert json.loads(alone.stdout)["networks"]["store"]["internal"] is True


def test_another_store_or_bucket_is_refused_while_the_artifacts_are_there(outside: Deployment) -> None:
    file = outside.root / ".env"
    before = file.read_text()
    try:
        file.write_text(before.replace("STACK_S3_BUCKET=artifacts", "STACK_S3_BUCKET=another"))
        result = outside.run("up")
        assert result.returncode == 1
        assert "the artifacts are in 'https://s3.example.org:8333/artifacts': set them back" in result.stderr
        file.write_text(
            before.replace("STACK_OBJECTSTORE=s3", "STACK_OBJECTSTORE=seaweedfs").replace(":compose.s3.yml", "")
        )
        result = outside.run("up")
        assert result.returncode == 1
        assert "is s3's: set it back to s3, then ./stack artifacts migrate --to seaweedfs" in result.stderr
    finally:
        file.write_text(before)


@pytest.fixture
def run_bucket(outside: Deployment, external: External) -> Iterator[Callable[[tuple[str, str] | None, str], Said]]:
    """Return a function that runs the job as an operator with this account and this bucket would have it run."""
    file = outside.root / "s3/credentials"

    def run(keys: tuple[str, str] | None, bucket: str) -> Said:
        if keys:
            external.write_credentials(keys, file)
        else:
            file.write_text("")
        result = outside.execute("docker", "compose", "run", "--rm", "-T", "secrets")
        if result.returncode == 0:
            command = (
                "docker",
                "compose",
                "run",
                "--rm",
                "--no-deps",
                "-T",
                "--env",
                f"STACK_BUCKET={bucket}",
                "bucket",
            )
            result = outside.execute(*command)
        return result.returncode, result.stderr

    yield run
    external.write_credentials(external.root, file)
    outside.compose("run", "--rm", "-T", "secrets")


def test_what_the_account_may_not_is_said_in_one_line_and_the_limited_one_is_enough(
    external: External, run_bucket: Callable[[tuple[str, str] | None, str], Said]
) -> None:
    owner = external.connect(external.root)
    owner.create_bucket(Bucket=UNVERSIONED)
    code, said = run_bucket(external.limited, UNVERSIONED)
    assert code == 0, said
    assert f"bucket: versioning of {UNVERSIONED} is" in said
    assert "may not turn it on (s3:PutBucketVersioning)" in said
    code, said = run_bucket(external.limited, UNMADE)
    assert code == 1
    assert f"bucket: there is no bucket {UNMADE}, and the account in STACK_S3_CREDENTIALS may not make it" in said
    code, said = run_bucket(external.stranger, external.bucket)
    assert code == 1
    assert f"bucket: the bucket {external.bucket} is closed to the account in STACK_S3_CREDENTIALS (403)" in said
    code, said = run_bucket(external.reader, external.bucket)
    assert code == 1
    lines = [line for line in said.splitlines() if line.startswith("bucket: ")]
    assert [
        f"may not {action} in {external.bucket}" in line
        for action, line in zip(("s3:PutObject", "s3:DeleteObject"), lines, strict=True)
    ] == [True, True]
    code, said = run_bucket(None, external.bucket)
    assert code == 1
    assert (
        "STACK_S3_CREDENTIALS is './s3/credentials', which has no aws_access_key_id and no aws_secret_access_key"
        in said
    )
    code, said = run_bucket(external.limited, external.bucket)
    assert code == 0, said


@pytest.mark.parametrize("other", ["authority", "name"])
def test_no_other_certificate_is_believed(outside: Deployment, external: External, other: str) -> None:
    """As somebody between stack and store would have: another authority's, or one for another name."""
    login = (outside.login()["MLFLOW_TRACKING_USERNAME"], outside.login()["MLFLOW_TRACKING_PASSWORD"])
    path = "/api/2.0/mlflow-artifacts/artifacts/0/tls/file.txt"
    assert outside.ask(path, login, "PUT", data=b"content").status_code == 200
    assert outside.ask(path, login).content == b"content"
    try:
        if other == "authority":
            external.write_certificate(authority=certificates.make_authority(dt.datetime.now(dt.UTC)))
        else:
            external.write_certificate(("s3.example.net",))
        external.restart()
        for method, data in (("GET", None), ("PUT", b"changed")):
            answer = outside.ask(path, login, method, data=data)
            assert (answer.status_code, answer.headers.get("Retry-After")) == (503, RETRY_SECONDS), answer.text
        ready = outside.execute("docker", "compose", "exec", "-T", "mlflow", "python", "/app/healthcheck.py")
        assert ready.returncode == 1
        assert "objectstore: SSL validation failed" in ready.stderr + ready.stdout
    finally:
        external.write_certificate()
        external.restart()
    wait_until(lambda: outside.ask(path, login).content == b"content", "the store is believed again")
