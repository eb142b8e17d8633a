"""MinIO's admin calls. The server can't be had without a registry: here its side of the protocol is recorded, and the
requests are compared with MinIO's documentation. `./stack test --objectstore minio` proves it on the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import bucket
import pytest

ROOT = ("ROOTUSER", "root-password-of-the-test")
ACCOUNT = ("ACCESSKEY", "secret-key-of-the-test")
POLICY = bucket.describe_policy("artifacts", bucket.MLFLOW_ACTIONS)


class Recorder(BaseHTTPRequestHandler):
    """Records PUT requests and answers with `status`."""

    requests: ClassVar[list[tuple[str, dict[str, list[str]], bytes]]] = []
    status = 200

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        url = urlsplit(self.path)
        self.requests.append((url.path, parse_qs(url.query), body))
        assert ROOT[0] in self.headers["Authorization"]
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep the tests' output clean."""


@pytest.fixture
def minio() -> Iterator[str]:
    Recorder.requests, Recorder.status = [], 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_account_is_made_with_rights_on_the_one_bucket(minio: str) -> None:
    bucket.make_minio_account(minio, ROOT, ACCOUNT, "artifacts", POLICY)
    (path, query, body), (user_path, user_query, user_body), (set_path, set_query, _) = Recorder.requests
    assert path == "/minio/admin/v3/add-canned-policy"
    assert query == {"name": ["artifacts"]}
    resources = [resource for statement in json.loads(body)["Statement"] for resource in statement["Resource"]]
    assert resources == ["arn:aws:s3:::artifacts", "arn:aws:s3:::artifacts/*"]
    assert user_path == "/minio/admin/v3/add-user"
    assert user_query == {"accessKey": [ACCOUNT[0]]}
    assert ACCOUNT[1].encode() not in user_body, "the secret key must be encrypted for the admin API"
    assert set_path == "/minio/admin/v3/set-user-or-group-policy"
    assert set_query == {"userOrGroup": [ACCOUNT[0]], "isGroup": ["false"], "policyName": ["artifacts"]}


def test_a_refusal_is_an_error_of_ours(minio: str) -> None:
    Recorder.status = 403
    with pytest.raises(bucket.AccountError):
        bucket.make_minio_account(minio, ROOT, ACCOUNT, "artifacts", POLICY)


def test_only_the_tool_may_remove_versions() -> None:
    policies = [
        bucket.describe_policy("artifacts", actions) for actions in (bucket.MLFLOW_ACTIONS, bucket.TOOL_ACTIONS)
    ]
    mlflow, tool = ({action for part in policy["Statement"] for action in part["Action"]} for policy in policies)
    assert tool - mlflow == {"s3:ListBucketVersions", "s3:GetObjectVersion", "s3:DeleteObjectVersion"}
    assert mlflow < tool
    assert [part["Resource"] for part in policies[1]["Statement"]] == [
        ["arn:aws:s3:::artifacts"],
        ["arn:aws:s3:::artifacts/*"],
    ]


@pytest.mark.parametrize(
    ("store", "version_days", "expected"),
    [
        ("seaweedfs", 30, {"uploads", "versions"}),
        ("seaweedfs", 0, {"uploads"}),
        ("minio", 30, {"versions"}),
        ("minio", 0, set()),
    ],
)
def test_the_lifecycle_has_what_the_store_takes(store: str, version_days: int, expected: set[str]) -> None:
    rules = {rule["ID"]: rule for rule in bucket.describe_lifecycle(store, 7, version_days)}
    assert set(rules) == expected
    if "uploads" in rules:
        assert rules["uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    if "versions" in rules:
        assert rules["versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
