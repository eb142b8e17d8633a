"""Published vulnerabilities of MLflow, each tried on the running stack with its vector; the number is the test's id.

Who tries: somebody without a login, a user who may edit nearly everything (`editor`), and one who was given nothing
(`newcomer`). Each must fail, and neither the secret of another team nor a file of the server may be in an answer.
docs/security.md lists those that have no vector here, with the reason.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any
from urllib.parse import quote

import pytest
import requests

from stack import rawhttp
from stack.deployment import Deployment
from stack.intruders import ATTACHMENT, SECRET, Intruders, ask, ask_ok, discloses, put_artifact

Login = tuple[str, str]

CREATE_EXPERIMENT = "/api/2.0/mlflow/experiments/create"
CREATE_RUN = "/api/2.0/mlflow/runs/create"
CREATE_VERSION = "/api/2.0/mlflow/model-versions/create"
MPU = "/api/2.0/mlflow-artifacts/mpu"
REFUSED = {400, 401, 403, 404, 405}
PROMPT = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]


def fill(text: str, intruders: Intruders) -> str:
    """Put the secret's whereabouts into a vector."""
    values = {
        "SECRET_FOLDER": intruders.secret_folder,
        "SECRET_RUN": intruders.run,
        "SECRET_EXPERIMENT": intruders.experiment,
    }
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def assert_refused(answer: requests.Response) -> None:
    assert answer.status_code in REFUSED, (answer.request.method, answer.request.url, answer.status_code, answer.text)
    assert not discloses(answer)


def get_raw(stack: Deployment, login: Login | None, target: str) -> rawhttp.Reply:
    """Ask for a target as it stands: requests would tidy `..` and `#` up."""
    return rawhttp.request(stack.port, target, login=login)


# --------------------------------------------------------- artifact_location: what the server is to take for a folder
LOCATIONS = [
    ("CVE-2023-6909", "file:///etc?/../../../../../etc"),  # `?` hides the rest of a local path from the check
    ("CVE-2024-1594", "file:///etc#/../../../../../etc"),  # `#` does
    ("CVE-2024-1483", "file:/etc#../../../../../etc"),  # `#` instead of `?` in a local URI
    ("CVE-2024-2928", "http:///#/../../../../../../../../etc"),  # the fragment becomes the path
    ("CVE-2024-3848", "s3:///etc#/../../../../etc"),  # a fragment skips what the scheme's check would say
    ("CVE-2024-1593", "file:///etc;/../../../../../etc"),  # `;` smuggles a path into the URL's parameters
    ("CVE-2024-8859", "dbfs:/etc?/../../../../etc"),  # the query of a dbfs: URI is glued onto a local path
    ("CVE-2023-6974", "http://postgres:5432/api/2.0/mlflow-artifacts/artifacts/x"),  # the server as a proxy
    ("CVE-2023-6974", "http://169.254.169.254/api/2.0/mlflow-artifacts/artifacts/x"),
    ("CVE-2023-6975", "..%2f..%2f..%2fetc"),
    ("CVE-2023-6976", "file:///etc/../tmp"),
    ("CVE-2023-6018", "/tmp"),  # any place that the server may write to
    ("CVE-2023-6015", "file:///var/spool/mlflow"),
    ("CVE-2026-2033", "/run/secrets"),
    ("local", "file:///run/secrets"),
    ("local", "file://localhost/etc"),
    ("local", "relative/folder"),
    ("local", "../../etc"),
    ("local", "C:/etc"),
    ("local", "file:etc"),
    ("local", "FILE:///etc"),
    ("other-bucket", "s3://another-bucket/x"),
    ("other-experiment", "s3://mlflow-artifacts/SECRET_FOLDER"),
    ("other-experiment", "S3://mlflow-artifacts/SECRET_FOLDER"),
    ("other-experiment", "mlflow-artifacts:/SECRET_FOLDER"),
    ("other-experiment", "mlflow-artifacts:///SECRET_FOLDER"),
    ("other-experiment", "mlflow-artifacts:/999/%2e%2e/SECRET_FOLDER"),
    ("other-host", "mlflow-artifacts://postgres:5432/x"),
    ("other-host", "mlflow-artifacts://127.0.0.1:5000/x"),
    ("other-host", "ftp://objectstore:9000/x"),
    ("other-host", "sftp://postgres:5432/x"),
    ("other-host", "hdfs://postgres:5432/x"),
    ("other-host", "viewfs://postgres:5432/x"),
    ("other-host", "gs://bucket/x"),
    ("other-host", "wasbs://container@account.blob.core.windows.net/x"),
    ("other-host", "abfss://container@postgres/x"),
    ("other-host", "r2://bucket@postgres/x"),
    ("other-host", "b2://bucket@postgres/x"),
    ("other-scheme", "postgresql://postgres/auth"),
    ("other-scheme", "sqlite:////tmp/x"),
    ("other-scheme", "models:/x/1"),
    ("other-scheme", "runs:/SECRET_RUN"),
    ("other-scheme", "databricks://x"),
    ("other-scheme", "uc:/x"),
    ("other-scheme", " file:///etc"),
    ("other-scheme", "file\n:///etc"),
]


@pytest.mark.parametrize(("number", "location"), LOCATIONS, ids=[f"{n}-{u!r}" for n, u in LOCATIONS])
def test_an_experiment_can_not_be_put_anywhere(
    stack: Deployment, intruders: Intruders, number: str, location: str
) -> None:
    """The vector: an experiment whose folder is elsewhere, then its runs' artifacts listed, read and written."""
    login, location = intruders.editor, fill(location, intruders)
    for name, prefix in (("artifact_location", "/api"), ("artifactLocation", "/ajax-api")):
        body = {"name": f"{number} {secrets.token_hex(4)}", name: location}
        created = ask(stack, login, "POST", CREATE_EXPERIMENT.replace("/api", prefix, 1), body)
        assert not discloses(created)
        if created.ok:
            follow_location(stack, login, created.json()["experiment_id"])
        assert created.status_code in REFUSED, created.text


def follow_location(stack: Deployment, login: Login, experiment: str) -> None:
    """Do what the vector is for."""
    run = ask_ok(stack, login, "POST", CREATE_RUN, {"experiment_id": experiment})["run"]["info"]["run_id"]
    for path in ("", "passwd", "aws_credentials", "secret.txt", "../../passwd", "../../../secret.txt"):
        for question in (
            f"/get-artifact?run_uuid={run}&path={path}",
            f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={path}",
        ):
            assert not discloses(ask(stack, login, "GET", question))


@pytest.mark.parametrize("location", ["file:///etc", "s3://mlflow-artifacts/SECRET_FOLDER", "mlflow-artifacts:/x"])
@pytest.mark.parametrize("login", [None, ("nobody", "a-wrong-password")])
def test_nobody_creates_an_experiment_without_a_login(
    stack: Deployment, intruders: Intruders, location: str, login: Login | None
) -> None:
    for prefix in ("/api", "/ajax-api"):
        body = {"name": "nobody's", "artifact_location": fill(location, intruders)}
        assert ask(stack, login, "POST", CREATE_EXPERIMENT.replace("/api", prefix, 1), body).status_code in (401, 429)


def test_an_experiment_in_its_own_place_is_as_ever(stack: Deployment, intruders: Intruders) -> None:
    """The twin: without a location the same user writes and reads."""
    created = ask_ok(stack, intruders.editor, "POST", CREATE_EXPERIMENT, {"name": f"own {secrets.token_hex(4)}"})
    run = ask_ok(stack, intruders.editor, "POST", CREATE_RUN, {"experiment_id": created["experiment_id"]})["run"]
    folder = f"{created['experiment_id']}/{run['info']['run_id']}/artifacts"
    put_artifact(stack, intruders.editor, f"{folder}/own.txt", "own")
    answer = stack.ask(f"/get-artifact?run_uuid={run['info']['run_id']}&path=own.txt", intruders.editor)
    assert answer.text == "own"


# ---------------------------------------------------------------------------- source: where a model version's bytes are
SOURCES: list[tuple[str, str, dict[str, Any]]] = [
    ("CVE-2023-1176", "/etc/passwd", {}),  # tells whether a file exists
    ("CVE-2023-1177", "/etc", {}),
    ("CVE-2023-2356", "file://localhost:5000/etc", {}),  # a host makes the path look remote
    ("CVE-2023-2780", "//localhost/../../../../../../etc", {}),
    ("CVE-2023-3765", "C:/etc", {}),
    ("CVE-2023-6831", "file:///a/..%5c..%5c..%5cetc", {}),
    ("CVE-2023-6753", "file:///a/..\\..\\..\\etc", {}),
    ("CVE-2023-6977", "//proc/self/root/etc", {}),
    ("CVE-2024-1483", "file:///etc#/x", {}),
    ("CVE-2024-1558", "mlflow-artifacts://host:9/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc", {}),
    ("CVE-2024-1593", "http://host/;/../../../../../etc", {}),
    ("CVE-2024-3573", "file:etc", {}),
    ("CVE-2024-3573", ":///etc", {}),
    ("CVE-2025-11201", "models:/../../../../etc", {}),
    ("CVE-2025-11201", "file:///../../../etc", {}),
    ("CVE-2026-2614", "file:///etc", {"tags": PROMPT}),  # a version said to be a prompt's was not checked
    ("CVE-2026-116690", "../../../etc", {"tags": PROMPT}),  # without a scheme it still was not
    ("CVE-2026-116690", "etc", {"tags": PROMPT}),
    ("bucket", "s3://mlflow-artifacts/SECRET_FOLDER", {}),
    ("bucket", "S3://mlflow-artifacts/SECRET_FOLDER", {}),
    ("bucket", "s3a://mlflow-artifacts/SECRET_FOLDER", {}),
    ("bucket", "s3://mlflow-artifacts/./SECRET_FOLDER", {}),
    ("bucket", "s3://mlflow-artifacts/SECRET_FOLDER", {"tags": PROMPT}),
    ("bucket", "mlflow-artifacts:/SECRET_FOLDER", {}),
    ("bucket", "mlflow-artifacts:/SECRET_FOLDER", {"run_id": "OWN_RUN"}),
    ("bucket", "mlflow-artifacts:/SECRET_FOLDER", {"run_id": "SECRET_RUN"}),
    ("bucket", "s3://mlflow-artifacts/SECRET_FOLDER", {"run_id": "OWN_RUN"}),
    ("bucket", "runs:/SECRET_RUN", {}),
    ("bucket", "runs:/SECRET_RUN/", {"run_id": "OWN_RUN"}),
    ("bucket", "runs:/SECRET_RUN/x", {"run_id": "SECRET_RUN"}),
    ("bucket", "runs:/OWN_RUN/../../SECRET_RUN/artifacts", {"run_id": "OWN_RUN"}),
    ("bucket", "http://nginx:5000/api/2.0/mlflow-artifacts/artifacts/SECRET_FOLDER", {}),
    ("other-host", "http://postgres:5432/", {}),
    ("other-host", "https://127.0.0.1/", {}),
    ("other-host", "ftp://objectstore:9000/x", {}),
    ("other-host", "hdfs://postgres:5432/x", {}),
    ("other-host", "gs://bucket/x", {}),
    ("other-host", "dbfs:/etc", {}),
    ("other-host", "s3://another-bucket/x", {}),
    ("other-scheme", "postgresql://postgres/auth", {}),
    ("other-scheme", "s3://mlflow-artifacts/SECRET_FOLDER\nruns:/OWN_RUN/x", {}),
    ("other-scheme", "s3://mlflow-artifacts/SECRET_FOLDER/dummy-source", {}),
]


@pytest.mark.parametrize(
    ("number", "source", "more"), SOURCES, ids=[f"{n}-{u!r}-{','.join(m)}-{i}" for i, (n, u, m) in enumerate(SOURCES)]
)
def test_a_model_version_can_not_come_from_anywhere(
    stack: Deployment, intruders: Intruders, number: str, source: str, more: dict[str, Any]
) -> None:
    """The vector: a version of an own model with a source elsewhere, then its artifacts asked for."""
    text = fill(json.dumps({"name": intruders.own_model, "source": source, **more}), intruders)
    body = json.loads(text.replace("OWN_RUN", intruders.own_run))
    for prefix in ("/api", "/ajax-api"):
        assert ask(stack, None, "POST", CREATE_VERSION.replace("/api", prefix, 1), body).status_code == 401
        created = ask(stack, intruders.editor, "POST", CREATE_VERSION.replace("/api", prefix, 1), body)
        assert not discloses(created)
        if created.ok:
            version = created.json()["model_version"]["version"]
            read = [
                ask(
                    stack,
                    intruders.editor,
                    "GET",
                    f"/model-versions/get-artifact?name={intruders.own_model}&version={version}&path={path}",
                )
                for path in ("secret.txt", "passwd", "etc/passwd", "hostname")
            ]
            assert [answer.request.url for answer in read if discloses(answer) or answer.ok] == []
        # 500: MLflow's answer to some models: URIs that it can't parse.
        assert created.status_code in {*REFUSED, 500}, created.text


def test_a_model_version_of_an_own_run_is_as_ever(stack: Deployment, intruders: Intruders) -> None:
    """The twin, by each of the sources that MLflow's clients send."""
    logged = ask_ok(
        stack,
        intruders.editor,
        "POST",
        "/api/2.0/mlflow/logged-models",
        {"experiment_id": intruders.own_experiment, "source_run_id": intruders.own_run, "name": "own"},
    )["model"]["info"]["model_id"]
    bodies: list[dict[str, Any]] = [
        {"source": f"runs:/{intruders.own_run}/model", "run_id": intruders.own_run},
        {"source": f"mlflow-artifacts:/{intruders.own_folder}", "run_id": intruders.own_run},
        {"source": f"models:/{logged}", "model_id": logged},
    ]
    versions = [
        ask_ok(stack, intruders.editor, "POST", CREATE_VERSION, {"name": intruders.own_model, **body})
        for body in bodies
    ]
    own = versions[1]["model_version"]["version"]
    path = f"/model-versions/get-artifact?name={intruders.own_model}&version={own}&path=own.txt"
    assert stack.ask(path, intruders.editor).text == "own"
    prompt = f"Prompt_{secrets.token_hex(4)}"
    ask_ok(
        stack, intruders.editor, "POST", "/api/2.0/mlflow/registered-models/create", {"name": prompt, "tags": PROMPT}
    )
    for source in ("dummy-source", "prompt-template"):
        ask_ok(stack, intruders.editor, "POST", CREATE_VERSION, {"name": prompt, "source": source, "tags": PROMPT})


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "vbscript:x"])
def test_a_run_link_is_no_script(stack: Deployment, intruders: Intruders, link: str) -> None:
    """A link that the pages would show; refused or not, MLflow's pages must not be made to run it."""
    body = {"name": intruders.own_model, "source": f"runs:/{intruders.own_run}/model", "run_id": intruders.own_run}
    answer = ask(stack, intruders.editor, "POST", CREATE_VERSION, {**body, "run_link": link})
    assert answer.status_code in REFUSED, answer.text


# -------------------------------------------------------------------------------------------- paths of artifacts
PATHS = [
    ("CVE-2023-30172", "../../../../../../../../etc/passwd"),
    ("CVE-2023-30172", "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd"),
    ("CVE-2023-43472", "%2fetc%2fpasswd"),
    ("CVE-2023-6831", "..%5c..%5c..%5cetc%5cpasswd"),
    ("CVE-2024-1560", "%252e%252e%252f%252e%252e%252fetc%252fpasswd"),
    ("CVE-2024-1560", "%25252e%25252e%25252fetc"),
    ("CVE-2024-2928", "x%23%2f..%2f..%2f..%2fetc%2fpasswd"),
    ("CVE-2024-8859", "a%3f%2f..%2f..%2f..%2fetc%2fpasswd"),
    ("CVE-2026-2033", "....%2f%2f....%2f%2fetc%2fpasswd"),
    ("CVE-2026-2033", "file:%2f%2f%2fetc%2fpasswd"),
    ("CVE-2026-2033", "C:%5cetc"),
    ("other-experiment", "..%2f..%2f..%2fSECRET_FOLDER%2fsecret.txt"),
    ("other-experiment", "..%5c..%5c..%5cSECRET_FOLDER%5csecret.txt"),
    ("other-experiment", "%252e%252e%2f%252e%252e%2f%252e%252e%2fSECRET_FOLDER%2fsecret.txt"),
    ("other-experiment", "x%00%2f..%2f..%2f..%2f..%2fSECRET_FOLDER%2fsecret.txt"),
]


@pytest.mark.parametrize("who", ["anonymous", "editor"])
@pytest.mark.parametrize(("number", "path"), PATHS, ids=[f"{n}-{p}" for n, p in PATHS])
def test_no_artifact_path_leads_out_of_its_folder(
    stack: Deployment, intruders: Intruders, number: str, path: str, who: str
) -> None:
    """The vector: `path` of every route that takes one, for the user's own run, model, trace and folder."""
    login = None if who == "anonymous" else intruders.editor
    path = fill(path, intruders)
    own, run, model = intruders.own_folder, intruders.own_run, intruders.own_model
    targets = [
        f"/get-artifact?run_uuid={run}&path={path}",
        f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={path}",
        f"/ajax-api/2.0/mlflow/artifacts/list?run_id={run}&path={path}",
        f"/model-versions/get-artifact?name={model}&version=1&path={path}",
        f"/api/2.0/mlflow-artifacts/artifacts/{own}/{path}",
        f"/ajax-api/2.0/mlflow-artifacts/artifacts/{own}/{path}",
        f"/api/2.0/mlflow-artifacts/artifacts?path={own}/{path}",
        f"/api/2.0/mlflow-artifacts/presigned/{own}/{path}",
        f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id=x&path={path}",
        f"/ajax-api/2.0/mlflow/logged-models/m-0/artifacts/files?artifact_file_path={path}",
    ]
    for target in targets:
        reply = get_raw(stack, login, target)
        assert not any(mark in reply.data.decode("latin-1") for mark in (SECRET, "root:x:0:0", "aws_secret")), target
        if login is None:
            assert set(reply.statuses) <= {400, 401}, target
        elif "presigned" in target and reply.statuses == [200]:
            # A name with odd characters may be signed; what is signed is a key below the user's own folder.
            url = json.loads(reply.body)["url"]
            assert not discloses(requests.get(url, timeout=90))


@pytest.mark.parametrize("who", ["anonymous", "editor"])
@pytest.mark.parametrize(("number", "path"), PATHS, ids=[f"{n}-{p}" for n, p in PATHS])
def test_nothing_is_written_or_deleted_out_of_an_own_folder(
    stack: Deployment, intruders: Intruders, number: str, path: str, who: str
) -> None:
    """The vector: uploads (CVE-2023-6015, -6018, -6975, -6976), parts of uploads and deletions with such a path."""
    login = None if who == "anonymous" else intruders.editor
    path, own = fill(path, intruders), intruders.own_folder
    body = json.dumps({"path": "x", "num_parts": 1, "upload_id": "x", "parts": []})
    length = f"Content-Length: {len(body)}"
    kind = "Content-Type: application/json"
    attempts = [
        ("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={intruders.own_run}&path={path}"),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{own}/{path}"),
        ("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{own}/sub/{path}"),
        ("POST", f"{MPU}/create/{own}/{path}"),
        ("POST", f"{MPU}/complete/{own}/{path}"),
        ("POST", f"{MPU}/abort/{own}/{path}"),
    ]
    for method, target in attempts:
        reply = rawhttp.request(stack.port, target, kind, length, method=method, login=login, body=body)
        assert not any(mark in reply.data.decode("latin-1") for mark in (SECRET, "root:x:0:0")), target
        if login is None:
            assert set(reply.statuses) <= {400, 401}, target
    assert_secret_is_whole(stack, intruders)


def assert_secret_is_whole(stack: Deployment, intruders: Intruders) -> None:
    """Nothing came to the secret's folder, and nothing went."""
    listed = ask_ok(stack, intruders.admin, "GET", f"/api/2.0/mlflow/artifacts/list?run_id={intruders.run}")["files"]
    assert sorted(file["path"] for file in listed) == ["attachments", "secret.txt", "traces.json"]
    answer = stack.ask(f"/get-artifact?run_uuid={intruders.run}&path=secret.txt", intruders.admin)
    assert answer.text == SECRET


# ------------------------------------------------------------------------------- routes that forgot to ask who it is
def list_unchecked(intruders: Intruders) -> list[tuple[str, str, str, Any]]:
    """Return (number, method, path, body) of vectors that a user without rights on the secret must not get through."""
    secret, run, experiment = intruders.secret_folder, intruders.run, intruders.experiment
    part = {"path": "secret.txt", "num_parts": 1, "upload_id": "x", "parts": []}
    trace = f"tr-{run}"
    return [
        # artifacts of others
        ("CVE-2024-4263", "DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{secret}/secret.txt", None),
        ("CVE-2024-4263", "DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{experiment}", None),
        ("CVE-2026-2651", "POST", f"{MPU}/create/{secret}", part),
        ("CVE-2026-2651", "POST", f"{MPU}/complete/{secret}", part),
        ("CVE-2026-2651", "POST", f"{MPU}/abort/{secret}", part),
        ("CVE-2026-2651", "POST", f"{MPU.replace('/api', '/ajax-api', 1)}/create/{secret}", part),
        ("upload-artifact", "POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=x", "x"),
        ("get-artifact", "GET", f"/get-artifact?run_uuid={run}&path=secret.txt", None),
        ("artifacts", "GET", f"/api/2.0/mlflow-artifacts/artifacts/{secret}/secret.txt", None),
        ("artifacts", "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{secret}/x", "x"),
        ("artifacts", "GET", f"/api/2.0/mlflow-artifacts/artifacts?path={secret}", None),
        ("artifacts", "GET", "/api/2.0/mlflow-artifacts/artifacts?path=", None),
        ("artifacts", "GET", "/api/2.0/mlflow-artifacts/artifacts", None),
        ("presigned", "GET", f"/api/2.0/mlflow-artifacts/presigned/{secret}/secret.txt", None),
        (
            "presigned",
            "POST",
            "/api/2.0/mlflow/artifacts/presigned-download-url",
            {"run_id": run, "path": "secret.txt"},
        ),
        ("presigned", "POST", "/api/2.0/mlflow/artifacts/presigned-upload-url", {"run_id": run, "path": "x"}),
        # traces and assessments
        ("CVE-2025-15381", "GET", f"/api/3.0/mlflow/traces/{trace}", None),
        ("CVE-2025-15381", "POST", f"/api/3.0/mlflow/traces/{trace}/assessments", {"assessment": {"name": "x"}}),
        ("CVE-2026-8147", "GET", f"/api/2.0/mlflow/traces/{trace}/info", None),
        ("CVE-2026-8147", "PATCH", f"/api/2.0/mlflow/traces/{trace}/tags", {"key": "a", "value": "b"}),
        (
            "CVE-2026-8147",
            "POST",
            "/api/2.0/mlflow/traces/delete-traces",
            {"experiment_id": experiment, "max_timestamp_millis": 9999999999999},
        ),
        ("CVE-2026-2652", "POST", "/v1/traces", "x"),
        # label schemas of another's experiment
        ("CVE-2026-13484", "GET", f"/api/3.0/mlflow/label-schemas?experiment_id={experiment}", None),
        ("CVE-2026-13484", "POST", "/api/3.0/mlflow/label-schemas", {"experiment_id": experiment, "name": "x"}),
        # artifacts of a logged model by the pages' own route
        (
            "CVE-2026-33866",
            "GET",
            "/ajax-api/2.0/mlflow/logged-models/m-0/artifacts/files?artifact_file_path=MLmodel",
            None,
        ),
        # jobs
        ("CVE-2026-0545", "POST", "/ajax-api/3.0/jobs/", {"job_name": "run_task", "params": {"command": "id"}}),
        ("CVE-2026-0545", "GET", "/ajax-api/3.0/jobs/1", None),
        ("CVE-2026-0545", "PATCH", "/ajax-api/3.0/jobs/cancel/1", None),
        ("CVE-2026-118624", "POST", "/ajax-api/3.0/jobs/search", {}),
        # the AI gateway's secrets and what they can be made to send
        ("CVE-2026-3198", "GET", "/api/3.0/mlflow/gateway/secrets/list", None),
        ("CVE-2026-3198", "GET", "/api/3.0/mlflow/gateway/endpoints/list", None),
        ("CVE-2026-3198", "GET", "/api/3.0/mlflow/gateway/model-definitions/list", None),
        (
            "CVE-2026-4035",
            "POST",
            "/api/3.0/mlflow/gateway/secrets/create",
            {"secret_name": "x", "secret_value": {"api_key": "$HOME"}, "provider": "openai"},
        ),
        ("CVE-2025-52967", "GET", "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=../../api/2.0/endpoints", None),
        ("CVE-2025-52967", "POST", "/ajax-api/2.0/mlflow/gateway-proxy", {"gateway_path": "http://postgres:5432/"}),
        # classes and code named by the caller
        (
            "CVE-2026-115886",
            "POST",
            "/ajax-api/3.0/mlflow/scorer/invoke",
            {"experiment_id": intruders.own_experiment, "serialized_scorer": scorer("mlflow.genai.scorers.trulens")},
        ),
        (
            "CVE-2026-116692",
            "POST",
            "/api/3.0/mlflow/scorers/register",
            {"experiment_id": experiment, "name": "x", "serialized_scorer": scorer("os")},
        ),
        ("CVE-2026-116692", "POST", "/ajax-api/3.0/mlflow/scorer/invoke", {"serialized_scorer": scorer("os")}),
        ("CVE-2026-2611", "POST", "/ajax-api/3.0/mlflow/assistant/message", {"message": "x"}),
        ("CVE-2026-2611", "PUT", "/ajax-api/3.0/mlflow/assistant/config", {"providers": {}}),
        ("CVE-2026-2611", "GET", "/ajax-api/3.0/mlflow/assistant/config", None),
        ("promptlab", "POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run", {"experiment_id": experiment}),
        # accounts
        ("CVE-2023-6014", "POST", "/api/2.0/mlflow/users/create", {"username": "x", "password": "x" * 20}),
        ("CVE-2023-6014", "GET", "/signup", None),
        ("users", "PATCH", "/api/2.0/mlflow/users/update-admin", {"username": intruders.editor[0], "is_admin": True}),
        ("users", "PATCH", "/api/2.0/mlflow/users/update-password", {"username": "admin", "password": "x" * 20}),
        ("users", "DELETE", "/api/2.0/mlflow/users/delete", {"username": "admin"}),
        (
            "users",
            "POST",
            "/api/3.0/mlflow/users/permissions/grant",
            {
                "username": intruders.editor[0],
                "resource_type": "experiment",
                "resource_id": experiment,
                "permission": "MANAGE",
            },
        ),
        ("roles", "POST", "/api/3.0/mlflow/roles/create", {"workspace": "default", "name": "mine"}),
        # webhooks
        ("CVE-2026-2393", "GET", "/api/2.0/mlflow/webhooks", None),
        (
            "CVE-2026-2393",
            "POST",
            "/api/2.0/mlflow/webhooks",
            {
                "name": "x",
                "url": "https://postgres:5432/",
                "status": "DISABLED",
                "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
            },
        ),
        ("CVE-2026-64849", "POST", "/api/2.0/mlflow/webhooks/x/test", {}),
    ]


def scorer(module: str) -> str:
    """Return a serialized scorer that names a class of this module and an address for it to call."""
    third_party = {"module": module, "class_name": "system", "kwargs": {"api_base": "http://postgres:5432"}}
    return json.dumps({"name": "x", "third_party_scorer_data": third_party, "call_source": "import os"})


UNCHECKED = [
    f"{number}-{method} {path}"
    for number, method, path, _ in list_unchecked(
        Intruders(
            *((("", ""),) * 4),
            experiment="E",
            secret_name="S",
            run="R",
            own_experiment="OE",
            own_run="OR",
            own_model="OM",
        )
    )
]


@pytest.mark.parametrize("who", ["anonymous", "newcomer", "editor"])
@pytest.mark.parametrize("index", range(len(UNCHECKED)), ids=UNCHECKED)
def test_no_route_forgets_to_ask_who_it_is(stack: Deployment, intruders: Intruders, index: int, who: str) -> None:
    """The vector: a request to a route that some version served to everybody, or to everybody with a login."""
    _number, method, path, body = list_unchecked(intruders)[index]
    login = None if who == "anonymous" else getattr(intruders, who)
    options: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
    answer = stack.ask(path, login, method, **options)
    assert not discloses(answer)
    if login is None:
        assert answer.status_code == 401, answer.text
    else:
        assert answer.status_code in REFUSED, (answer.status_code, answer.text)
    assert_secret_is_whole(stack, intruders)


def test_the_secret_is_in_no_search(stack: Deployment, intruders: Intruders) -> None:
    """CVE-2026-2734 (model versions of all) and its kin: what a search lists is what the user may read."""
    model = f"Secret_{secrets.token_hex(4)}"
    ask_ok(stack, intruders.admin, "POST", "/api/2.0/mlflow/registered-models/create", {"name": model})
    ask_ok(
        stack,
        intruders.admin,
        "POST",
        CREATE_VERSION,
        {"name": model, "source": f"runs:/{intruders.run}/m", "run_id": intruders.run},
    )
    everything = [
        ("GET", "/api/2.0/mlflow/model-versions/search", None),
        ("GET", f"/api/2.0/mlflow/model-versions/search?filter={quote(f'name={model!r}')}", None),
        ("GET", f"/api/2.0/mlflow/model-versions/search?filter={quote(f'run_id={intruders.run!r}')}", None),
        ("GET", "/api/2.0/mlflow/registered-models/search", None),
        ("POST", "/api/2.0/mlflow/registered-models/get-latest-versions", {"name": model}),
        ("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1000}),
        ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [intruders.experiment]}),
        ("POST", "/api/2.0/mlflow/logged-models/search", {"experiment_ids": [intruders.experiment]}),
        ("GET", f"/api/2.0/mlflow/traces?experiment_ids={intruders.experiment}", None),
        ("POST", "/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": [intruders.experiment]}),
        (
            "POST",
            "/graphql",
            {"query": '{ mlflowSearchModelVersions(input: {filter: ""}) { modelVersions { name runId } } }'},
        ),
        (
            "POST",
            "/graphql",
            {"query": f'{{ mlflowGetRun(input: {{runId: "{intruders.run}"}}) {{ run {{ info {{ runId }} }} }} }}'},
        ),
        (
            "POST",
            "/graphql",
            {"query": f'{{ mlflowListArtifacts(input: {{runId: "{intruders.run}"}}) {{ files {{ path }} }} }}'},
        ),
        (
            "POST",
            "/graphql",
            {
                "query": f'{{ a: mlflowGetExperiment(input: {{experimentId: "{intruders.experiment}"}}) '
                "{ ...F } } fragment F on MlflowGetExperimentResponse { experiment { name } }"
            },
        ),
    ]
    for method, path, body in everything:
        answer = ask(stack, intruders.newcomer, method, path, body)
        assert model not in answer.text, (path, answer.text)
        for login in (intruders.newcomer, intruders.editor):
            answer = ask(stack, login, method, path, body)
            assert intruders.secret_name not in answer.text, (path, answer.text)
            # Model versions are the model's, and the editor may read every model.
            assert login == intruders.editor or f'"{intruders.run}"' not in answer.text, (path, answer.text)
            assert "secret.txt" not in answer.text, (path, answer.text)
    admin = ask(stack, intruders.admin, "GET", "/api/2.0/mlflow/model-versions/search?max_results=200000")
    assert model in admin.text


# ------------------------------------------------------------------------------------------------------ traces
def start_trace(stack: Deployment, login: Login, experiment: str, **more: Any) -> requests.Response:
    info = {
        "trace_id": f"tr-{secrets.token_hex(16)}",
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        **more,
    }
    return ask(stack, login, "POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})


def read_trace(stack: Deployment, login: Login, trace: str) -> list[requests.Response]:
    """Ask for the trace's data in every way."""
    return [
        ask(stack, login, "GET", path)
        for path in (
            f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id={trace}",
            f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}",
            f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id={trace}&path={ATTACHMENT}",
            f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}&path={ATTACHMENT}",
            f"/api/3.0/mlflow/traces/get?trace_id={trace}",
            f"/api/2.0/mlflow/traces/{trace}/credentials-for-data-download",
        )
    ]


@pytest.mark.parametrize(
    "location",
    ["s3://mlflow-artifacts/SECRET_FOLDER", "mlflow-artifacts:/SECRET_FOLDER", "file:///etc", "http://postgres:5432/"],
)
@pytest.mark.parametrize("key", ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"])
def test_a_traces_folder_is_not_what_its_tag_says(
    stack: Deployment, intruders: Intruders, location: str, key: str
) -> None:
    """The server keeps a trace's folder in a tag; a user who sets that tag would read any folder of the bucket."""
    location = fill(location, intruders)
    for prefix in ("/api/3.0", "/api/2.0", "/ajax-api/3.0", "/ajax-api/2.0"):
        started = start_trace(stack, intruders.editor, intruders.own_experiment)
        assert started.ok, started.text
        trace = started.json()["trace"]["trace_info"]["trace_id"]
        for name in ("mlflow.trace.spansLocation", key):
            value = "ARCHIVE_REPO" if "spans" in name else location
            ask(stack, intruders.editor, "PATCH", f"{prefix}/mlflow/traces/{trace}/tags", {"key": name, "value": value})
        assert [answer.request.url for answer in read_trace(stack, intruders.editor, trace) if discloses(answer)] == []
    started = start_trace(stack, intruders.editor, intruders.own_experiment, tags={key: location})
    if started.ok:
        trace = started.json()["trace"]["trace_info"]["trace_id"]
        assert not any(map(discloses, read_trace(stack, intruders.editor, trace)))
    older = {"experiment_id": intruders.own_experiment, "timestamp_ms": "1", "tags": [{"key": key, "value": location}]}
    started = ask(stack, intruders.editor, "POST", "/api/2.0/mlflow/traces", older)
    if started.ok:
        trace = started.json()["trace_info"]["request_id"]
        ended = {"request_id": trace, "timestamp_ms": "2", "status": "OK", "tags": older["tags"]}
        ask(stack, intruders.editor, "PATCH", f"/api/2.0/mlflow/traces/{trace}", ended)
        assert not any(map(discloses, read_trace(stack, intruders.editor, trace)))


@pytest.mark.parametrize(
    "name", ["../../SECRET_FOLDER", "..", "/etc", "../../SECRET_EXPERIMENT/SECRET_RUN", "..%2f..%2fx", "..\\..\\x"]
)
def test_cve_2026_53995_a_traces_id_is_no_path(stack: Deployment, intruders: Intruders, name: str) -> None:
    """The vector: an id with `..` for a new trace, whose files are then written and read beside its folder."""
    name = fill(name, intruders)
    started = start_trace(stack, intruders.editor, intruders.own_experiment, trace_id=name)
    assert not any(map(discloses, read_trace(stack, intruders.editor, quote(name, safe=""))))
    assert_secret_is_whole(stack, intruders)
    assert started.status_code in REFUSED, started.text


def test_cve_2025_15381_a_trace_needs_the_right_to_its_experiment(stack: Deployment, intruders: Intruders) -> None:
    started = start_trace(stack, intruders.admin, intruders.experiment, tags={"note": SECRET})
    trace = started.json()["trace"]["trace_info"]["trace_id"]
    assert discloses(ask(stack, intruders.admin, "GET", f"/api/3.0/mlflow/traces/{trace}"))
    assessment = {
        "assessment_name": "x",
        "trace_id": trace,
        "feedback": {"value": True},
        "source": {"source_type": "HUMAN"},
    }
    for login in (intruders.editor, intruders.newcomer, intruders.viewer):
        assert_refused(start_trace(stack, login, intruders.experiment))
        for answer in (*read_trace(stack, login, trace), ask(stack, login, "GET", f"/api/3.0/mlflow/traces/{trace}")):
            assert not discloses(answer)
            assert answer.status_code in {*REFUSED, 500}
        attempts = [
            ("POST", f"/api/3.0/mlflow/traces/{trace}/assessments", {"assessment": assessment}),
            ("PATCH", f"/api/3.0/mlflow/traces/{trace}/tags", {"key": "intruder", "value": "x"}),
            (
                "POST",
                "/api/3.0/mlflow/traces/delete-traces",
                {"experiment_id": intruders.experiment, "request_ids": [trace]},
            ),
        ]
        for method, path, body in attempts:
            assert_refused(ask(stack, login, method, path, body))
    after = ask(stack, intruders.admin, "GET", f"/api/3.0/mlflow/traces/{trace}")
    assert SECRET in after.text
    assert "intruder" not in after.text
    assert "assessment_name" not in after.text


# ------------------------------------------------------------------------------------------------------ webhooks
URLS = [
    "http://postgres:5432",
    "https://postgres:5432/",
    "https://objectstore:9000/",
    "https://nginx:5000/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://0/",
    "https://0177.0.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://localhost/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fd00::1]/",
    "https://10.0.0.1/",
    "https://172.17.0.1/",
    "https://192.168.0.1/",
    "https://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/latest/meta-data",
    "https://user@127.0.0.1/",
    "https://example.org@127.0.0.1/",
    "https://127.0.0.1#@example.org/",
    "https://example.org\\@127.0.0.1/",
    "file:///etc/passwd",
    "gopher://postgres:5432/",
    "ftp://postgres/",
    "https:///etc",
    "//postgres:5432/",
    "",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("who", ["anonymous", "editor", "admin"])
def test_cve_2026_2393_a_webhook_does_not_reach_inside(
    stack: Deployment, intruders: Intruders, url: str, who: str
) -> None:
    """The vector: a webhook to an address inside, which the server calls (CVE-2026-64849: or is redirected to).

    Even an administrator's is refused when it is made, so that nothing is ever sent (and this test never tests it).
    """
    login = None if who == "anonymous" else getattr(intruders, who)
    events = [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]
    body = {"name": f"hook-{secrets.token_hex(3)}", "url": url, "status": "DISABLED", "events": events}
    answer = ask(stack, login, "POST", "/api/2.0/mlflow/webhooks", body)
    assert answer.status_code in ({401} if login is None else REFUSED), answer.text


def test_cve_2026_64849_the_server_has_no_way_out(stack: Deployment) -> None:
    """A name that means an inside address at the second look, or a redirect, needs a first answer from outside."""
    networks = stack.container("mlflow")["NetworkSettings"]["Networks"]
    assert sorted(network.removeprefix(f"{stack.name}_") for network in networks) == ["database", "store"]
    listed = json.loads(stack.execute("docker", "network", "inspect", *networks).stdout)
    assert [network["Internal"] for network in listed] == [True, True]


# ------------------------------------------------------------------------------------------ passwords and accounts
@pytest.mark.parametrize("password", ["password", "password1234", "admin", "mlflow", ""])
def test_cve_2026_2635_there_is_no_default_password(stack: Deployment, password: str) -> None:
    """The vector: the administrator of MLflow's own basic_auth.ini."""
    assert stack.ask("/version", ("admin", password)).status_code in (401, 429)


@pytest.mark.parametrize("prefix", ["/api", "/ajax-api"])
@pytest.mark.parametrize(
    ("number", "password"),
    [("CVE-2025-11200", "a"), ("CVE-2025-11200", "short"), ("CVE-2025-1474", ""), ("CVE-2025-1474", None)],
)
def test_an_account_needs_a_password_worth_the_name(
    stack: Deployment, intruders: Intruders, number: str, password: str | None, prefix: str
) -> None:
    """The vector: an administrator makes a user without a password, or with one that is guessed at once."""
    name = f"weak-{secrets.token_hex(4)}"
    body = {"username": name} if password is None else {"username": name, "password": password}
    assert_refused(ask(stack, intruders.admin, "POST", f"{prefix}/2.0/mlflow/users/create", body))
    found = ask(stack, intruders.admin, "GET", f"/api/2.0/mlflow/users/get?username={name}")
    assert found.status_code == 404
    own = {"username": intruders.viewer[0], "password": password or ""}
    assert_refused(ask(stack, intruders.viewer, "PATCH", f"{prefix}/2.0/mlflow/users/update-password", own))
    assert stack.ask("/version", intruders.viewer).status_code == 200


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null"])
def test_cve_2025_1473_a_foreign_form_signs_nobody_up(
    stack: Deployment, intruders: Intruders, origin: str | None
) -> None:
    """The vector: a form on another page sends the signup with the administrator's login."""
    name = f"forged-{secrets.token_hex(4)}"
    for path in ("/api/2.0/mlflow/users/create-ui", "/api/2.0/mlflow/users/create"):
        answer = stack.ask(
            path,
            intruders.admin,
            "POST",
            data={"username": name, "password": "a-long-enough-password"},
            headers={"Origin": origin} if origin else {},
        )
        assert_refused(answer)
    assert ask(stack, intruders.admin, "GET", f"/api/2.0/mlflow/users/get?username={name}").status_code == 404


@pytest.mark.parametrize("login", [None, "editor", "admin"])
def test_cve_2023_6568_the_content_type_is_not_echoed(
    stack: Deployment, intruders: Intruders, login: str | None
) -> None:
    """The vector: a script as the request's Content-Type, told back in an HTML error."""
    answer = stack.ask(
        "/api/2.0/mlflow/users/create",
        getattr(intruders, login) if login else None,
        "POST",
        data="x",
        headers={"Content-Type": "<script>alert(1)</script>"},
    )
    assert_refused(answer)
    assert "<script>" not in answer.text


# ------------------------------------------------------------------------------- pages of others and their origins
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example", None),
        ("evil.example:5000", "http://evil.example:5000"),
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example"),
        (None, "http://evil.example"),
        (None, "https://127.0.0.1.evil.example"),
        (None, "null"),
        (None, "file://"),
        (None, "http://localhost.evil.example"),
    ],
)
@pytest.mark.parametrize("path", ["/api/2.0/mlflow", "/ajax-api/2.0/mlflow"])
def test_cve_2025_14279_a_rebound_name_changes_nothing(
    stack: Deployment, intruders: Intruders, host: str | None, origin: str | None, path: str
) -> None:
    """The vector: a page whose name came to mean this server's address; CVE-2026-2611: or another origin's page."""
    headers = {name: value for name, value in (("Host", host), ("Origin", origin)) if value}
    name = f"rebound {secrets.token_hex(4)}"
    created = stack.ask(f"{path}/experiments/create", intruders.editor, "POST", json={"name": name}, headers=headers)
    assert created.status_code in {*REFUSED, 421}
    found = ask(stack, intruders.admin, "GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(name)}")
    assert found.status_code == 404
    read = stack.ask(f"{path}/experiments/get?experiment_id=0", intruders.editor, headers=headers)
    assert host is None or read.status_code in {*REFUSED, 421}
    allowed = read.headers.get("Access-Control-Allow-Origin")
    assert allowed is None or (allowed not in ("*", origin))


ACTIVE = {
    "page.html": b"<script>document.title='run'</script>",
    "picture.svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "page.xhtml": b"<html xmlns='http://www.w3.org/1999/xhtml'><script>alert(1)</script></html>",
    "feed.xml": b"<?xml version='1.0'?><x:script xmlns:x='http://www.w3.org/1999/xhtml'>alert(1)</x:script>",
    "MLmodel": b"!!python/object/apply:os.system ['id']\n<img src=x onerror=alert(1)>",
    "page": b"<html><script>alert(1)</script></html>",
    "page.txt": b"<html><script>alert(1)</script></html>",
    "manual.pdf": b"%PDF-1.4 <script>alert(1)</script>",
}


@pytest.mark.parametrize("name", ACTIVE)
def test_cve_2026_33865_an_artifact_is_not_run_in_the_pages_origin(
    stack: Deployment, intruders: Intruders, name: str
) -> None:
    """The vector: a file that a browser would run when another user opens it."""
    answer = stack.ask(
        f"/api/2.0/mlflow-artifacts/artifacts/{intruders.own_folder}/{name}", intruders.editor, "PUT", data=ACTIVE[name]
    )
    assert answer.ok
    signed = stack.ask(f"/api/2.0/mlflow-artifacts/presigned/{intruders.own_folder}/{name}", intruders.editor).json()
    served = [
        stack.ask(f"/get-artifact?run_uuid={intruders.own_run}&path={name}", intruders.editor),
        stack.ask(f"/api/2.0/mlflow-artifacts/artifacts/{intruders.own_folder}/{name}", intruders.editor),
        stack.ask(f"/ajax-api/2.0/mlflow-artifacts/artifacts/{intruders.own_folder}/{name}", intruders.editor),
        requests.get(signed["url"], timeout=90),
    ]
    for answer in served:
        assert answer.content == ACTIVE[name]
        sandboxed = "sandbox" in answer.headers.get("Content-Security-Policy", "")
        attached = answer.headers.get("Content-Disposition", "").startswith("attachment")
        assert sandboxed or attached, (answer.request.url, answer.headers)
        assert answer.headers.get("X-Content-Type-Options") == "nosniff", answer.request.url


# ---------------------------------------------------------------------------------------------------------- loads
def test_cve_2025_0453_a_batch_of_questions_is_refused(stack: Deployment, intruders: Intruders) -> None:
    """The vector: one GraphQL request with hundreds of searches, which holds a worker for as long as it takes."""
    search = (
        f'mlflowSearchRuns(input: {{experimentIds: ["{intruders.own_experiment}"]}}) {{ runs {{ info {{ runId }} }} }}'
    )
    aliases = "{ " + " ".join(f"a{index}: {search}" for index in range(500)) + " }"
    nested = "{ " + search.replace("runId", "runId " + "... on MlflowRunInfo { runId " * 500 + "}" * 500) + " }"
    fragments = (
        "{ ...F0 } "
        + " ".join(f"fragment F{i} on Query {{ ...F{i + 1} ...F{i + 1} }}" for i in range(30))
        + " fragment F30 on Query { "
        + search
        + " }"
    )
    begun = time.monotonic()
    for body in ({"query": aliases}, {"query": nested}, {"query": fragments}, [{"query": "{ " + search + " }"}] * 500):
        assert ask(stack, None, "POST", "/graphql", body).status_code == 401
        answer = ask(stack, intruders.editor, "POST", "/graphql", body)
        # What is answered at all is answered once: a name asked for twice is one.
        assert answer.text.count('"runId"') <= 1 + answer.text.count(intruders.own_run)
        assert len(answer.text) < 100_000
    seconds = time.monotonic() - begun
    print(f"answered after {seconds:.1f} s")
    assert seconds < 100
    assert stack.ask("/version", intruders.editor).status_code == 200


def test_cve_2024_6838_names_have_an_end(stack: Deployment, intruders: Intruders) -> None:
    """The vector: an experiment whose name (or place) has millions of characters, which freezes the pages."""
    long = secrets.token_hex(4) + "9" * 5_000_000
    for body in ({"name": long}, {"name": secrets.token_hex(4), "artifact_location": "mlflow-artifacts:/" + long}):
        answer = ask(stack, intruders.editor, "POST", CREATE_EXPERIMENT, body)
        assert answer.status_code in {*REFUSED, 413}
        assert len(answer.text) < 100_000
    rename = {"experiment_id": intruders.own_experiment, "new_name": long}
    assert ask(stack, intruders.editor, "POST", "/api/2.0/mlflow/experiments/update", rename).status_code in {
        *REFUSED,
        413,
    }


def test_cve_2024_3099_a_models_name_is_one_name(stack: Deployment, intruders: Intruders) -> None:
    """The vector: names that are the same once decoded, so that one user's model is taken for another's."""
    name = f"Twin_{secrets.token_hex(4)}"
    ask_ok(stack, intruders.admin, "POST", "/api/2.0/mlflow/registered-models/create", {"name": name})
    for other in (f"{name}%00", f"%{ord(name[0]):02x}{name[1:]}", f"{name}/", f"{name}:1", f"../{name}", f"{name}%2f"):
        ask(stack, intruders.editor, "POST", "/api/2.0/mlflow/registered-models/create", {"name": other})
        found = ask(stack, intruders.admin, "GET", f"/api/2.0/mlflow/registered-models/get?name={name}").json()
        assert found["registered_model"]["name"] == name
        assert "latest_versions" not in found["registered_model"]
        for bad in (":", "/"):
            if bad in other:
                got = ask(stack, intruders.admin, "GET", f"/api/2.0/mlflow/registered-models/get?name={quote(other)}")
                assert got.status_code in REFUSED


# --------------------------------------------------------------------------------- fields that hold an address
def test_addresses_in_datasets_models_and_tags_are_only_text(stack: Deployment, intruders: Intruders) -> None:
    """A dataset's source, a model's own description and tags may say anything; the server must not go there."""
    run = ask_ok(stack, intruders.editor, "POST", CREATE_RUN, {"experiment_id": intruders.own_experiment})["run"][
        "info"
    ]
    source = json.dumps({"url": "http://postgres:5432/", "uri": "file:///etc/passwd"})
    dataset = {"name": "d", "digest": "1", "source_type": "http", "source": source}
    ask_ok(
        stack,
        intruders.editor,
        "POST",
        "/api/2.0/mlflow/runs/log-inputs",
        {"run_id": run["run_id"], "datasets": [{"dataset": dataset}]},
    )
    model = {"artifact_path": "../../../../etc", "run_id": run["run_id"], "utc_time_created": "2026", "flavors": {}}
    ask(
        stack,
        intruders.editor,
        "POST",
        "/api/2.0/mlflow/runs/log-model",
        {"run_id": run["run_id"], "model_json": json.dumps(model)},
    )
    place = "file:///etc"
    tags = [
        ("experiments/set-experiment-tag", {"experiment_id": intruders.own_experiment}),
        ("runs/set-tag", {"run_id": run["run_id"]}),
        ("registered-models/set-tag", {"name": intruders.own_model}),
    ]
    for route, body in tags:
        for key in ("mlflow.artifactLocation", "mlflow.source.name", "artifact_location", "mlflow.parentRunId"):
            ask(stack, intruders.editor, "POST", f"/api/2.0/mlflow/{route}", {**body, "key": key, "value": place})
    logged = ask_ok(
        stack,
        intruders.editor,
        "POST",
        "/api/2.0/mlflow/logged-models",
        {
            "experiment_id": intruders.own_experiment,
            "source_run_id": run["run_id"],
            "name": "own",
            "tags": [{"key": "mlflow.artifactLocation", "value": place}],
        },
    )["model"]["info"]
    assert logged["artifact_uri"].startswith(f"mlflow-artifacts:/{intruders.own_experiment}/models/")
    for path in (
        f"/get-artifact?run_uuid={run['run_id']}&path=passwd",
        f"/api/2.0/mlflow/artifacts/list?run_id={run['run_id']}",
        f"/ajax-api/2.0/mlflow/logged-models/{logged['model_id']}/artifacts/files?artifact_file_path=passwd",
        f"/api/2.0/mlflow/logged-models/{logged['model_id']}/artifacts/directories",
        f"/ajax-api/2.0/mlflow/experiments/get?experiment_id={intruders.own_experiment}",
    ):
        assert not discloses(ask(stack, intruders.editor, "GET", path))
    body = {"experiment_id": intruders.own_experiment, "source_run_id": intruders.run, "name": "x"}
    assert_refused(ask(stack, intruders.editor, "POST", "/api/2.0/mlflow/logged-models", body))
