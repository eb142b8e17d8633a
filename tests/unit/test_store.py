"""Where the object store is: all faults at once, and what follows from the choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracking import store

GOOD = {
    "STACK_OBJECTSTORE": "s3",
    "STACK_S3_ENDPOINT": "https://s3.example.org:9000",
    "STACK_S3_REGION": "eu-central-1",
    "STACK_S3_STYLE": "path",
    "STACK_BUCKET": "artifacts",
}
PLACE = {"Bucket": "artifacts", "Key": "k"}


def read(**changes: str) -> store.Store:
    chosen, faults = store.read({**GOOD, **changes})
    assert faults == []
    return chosen


@pytest.fixture
def credentials(tmp_path: Path) -> str:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = B\naws_session_token = C\n")
    return str(file)


def test_all_faults_are_named_at_once() -> None:
    _, faults = store.read(
        {
            "STACK_OBJECTSTORE": "swift",
            "STACK_S3_ENDPOINT": "s3.example.org",
            "STACK_S3_REGION": "Frankfurt!",
            "STACK_S3_STYLE": "subdomain",
            "STACK_BUCKET": "My_Bucket",
            "STACK_S3_ENCRYPTION": "rot13",
            "STACK_S3_KMS_KEY": "key",
        }
    )
    for value in ("'swift'", "'s3.example.org'", "'Frankfurt!'", "'subdomain'", "'My_Bucket'", "'rot13'", "'key'"):
        assert [value in fault for fault in faults].count(True) == 1, value
    assert len(faults) == 7


@pytest.mark.parametrize(
    ("endpoint", "style", "bucket", "part"),
    [
        ("https://10.1.2.3:9000", "path", "artifacts", "write its name"),  # no gateway checks a certificate for it
        ("http://10.1.2.3", "virtual", "artifacts", "write its name"),
        ("https://s3.example.org", "virtual", "my.bucket", "STACK_S3_STYLE=path"),
        ("https://s3.example.org/below", "path", "artifacts", "write it as"),
        ("https://user@s3.example.org", "path", "artifacts", "write it as"),
        ("ftp://s3.example.org", "path", "artifacts", "write it as"),
        ("https://s3.example.org:port", "path", "artifacts", "write it as"),
    ],
)
def test_an_endpoint_that_can_not_work_is_refused(endpoint: str, style: str, bucket: str, part: str) -> None:
    _, [fault] = store.read({**GOOD, "STACK_S3_ENDPOINT": endpoint, "STACK_S3_STYLE": style, "STACK_BUCKET": bucket})
    assert repr(endpoint) in fault
    assert part in fault


def test_only_an_external_store_may_be_aws() -> None:
    assert read(STACK_S3_ENDPOINT="").shown == "AWS S3 in eu-central-1"
    _, [fault] = store.read({**GOOD, "STACK_OBJECTSTORE": "minio", "STACK_S3_ENDPOINT": ""})
    assert "STACK_S3_ENDPOINT is not set" in fault


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "https://s3.example.org:9000/artifacts/k?"),
        ({"STACK_S3_STYLE": "virtual"}, "https://artifacts.s3.example.org:9000/k?"),
        ({"STACK_S3_ENDPOINT": ""}, "https://s3.eu-central-1.amazonaws.com/artifacts/k?"),
        ({"STACK_S3_ENDPOINT": "", "STACK_S3_STYLE": "virtual"}, "https://artifacts.s3.eu-central-1.amazonaws.com/k?"),
    ],
)
def test_urls_are_signed_for_the_place_by_the_operators_account(
    credentials: str, changes: dict[str, str], url: str
) -> None:
    signed = read(**changes).connect(credentials, None).generate_presigned_url("get_object", Params=PLACE)
    assert signed.startswith(url)
    assert "%2Feu-central-1%2Fs3%2F" in signed
    assert "X-Amz-Security-Token=C" in signed


def test_encryption_goes_with_every_new_object() -> None:
    assert read().describe_upload() == {}
    assert read(STACK_S3_ENCRYPTION="AES256").describe_upload() == {"ServerSideEncryption": "AES256"}
    assert read(STACK_S3_ENCRYPTION="aws:kms", STACK_S3_KMS_KEY="arn:aws:kms:eu:1:key/2").describe_upload() == {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:eu:1:key/2",
    }


def test_own_and_external_stores_have_their_own_files() -> None:
    external, own = read(), read(STACK_OBJECTSTORE="minio")
    assert external.find_credentials().endswith("/s3_credentials")
    assert own.find_credentials().endswith("/aws_credentials")
    assert (external.find_authorities() or "").endswith("/store_ca.pem")
    assert own.find_authorities() is None
