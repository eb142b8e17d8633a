"""Generated secrets, what is refused, and what each consumer gets."""

from __future__ import annotations

import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import secrets_files


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("STACK_BUCKET", "bucket")
    return {name: generate() for name, generate in secrets_files.GENERATORS.items()}


def test_generated_secrets_are_long_and_pass_the_check(values: dict[str, str]) -> None:
    for name, value in values.items():
        assert len(value) >= 20, name
        if name not in secrets_files.NAMES:
            assert secrets_files.find_fault(value) is None, name


def test_no_two_generated_secrets_are_the_same(values: dict[str, str]) -> None:
    assert len(set(values.values())) == len(values)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("short", "20"),
        ("", "20"),
        ("changemechangemechangeme", "example"),
        ("changeme", "20"),
        ("minioadminminioadmin123", "example"),
        ("minioadminminioadminminioadmin", "example"),
        ("password1234password1234", "example"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaa", "example"),
        ("with a space in the middle of it", "only"),
        ("line\nbreak-0123456789-abcdef", "only"),
        ("umlaut-ü-0123456789-abcdef", "only"),
    ],
)
def test_unfit_secrets_are_refused_with_a_reason(value: str, part: str) -> None:
    fault = secrets_files.find_fault(value)
    assert fault is not None
    assert part in fault


def test_each_consumer_gets_only_what_it_needs(values: dict[str, str]) -> None:
    files = secrets_files.render_files(values)
    everything = {consumer: "\n".join(content.values()) for consumer, content in files.items()}
    owners = {
        "database_mlflow_password": {"postgres", "migrate", "mlflow", "artifacts"},
        "database_auth_password": {"postgres", "migrate", "mlflow"},
        "database_undo_password": {"postgres", "artifacts"},
        "s3_root_password": {"objectstore", "bucket"},
        "s3_secret_key": {"objectstore", "bucket", "mlflow"},
        "s3_artifacts_secret": {"objectstore", "bucket", "artifacts"},
        "s3_backup_secret": {"objectstore", "bucket", "backup"},
        "flask_secret_key": {"mlflow"},
        "kek_passphrase": {"mlflow"},
        "webhook_encryption_key": {"mlflow"},
        "admin_password": {"migrate", "admin"},
        "trainer_password": {"migrate", "trainer"},
        "serving_password": {"migrate", "follower"},
    }
    for name, expected in owners.items():
        assert {consumer for consumer, text in everything.items() if values[name] in text} == expected, name


def test_seaweedfs_gives_mlflow_and_the_tool_the_one_bucket(values: dict[str, str]) -> None:
    config = json.loads(secrets_files.render_files(values)["objectstore"]["s3.json"])
    identities = {identity["name"]: identity for identity in config["identities"]}
    assert "Admin" in identities["root"]["actions"]
    assert all(action.endswith(":bucket") for action in identities["artifacts"]["actions"])
    # An action of SeaweedFS's own beside the policy would widen it.
    assert identities["mlflow"].keys() == {"name", "credentials", "policyNames"}
    [policy] = [found for found in config["policies"] if [found["name"]] == identities["mlflow"]["policyNames"]]
    statements = json.loads(policy["content"])["Statement"]
    assert [statement["Resource"] for statement in statements] == [["arn:aws:s3:::bucket"], ["arn:aws:s3:::bucket/*"]]
    assert not any("*" in action or "Versioning" in action for found in statements for action in found["Action"])


def test_mlflow_clients_can_read_the_credentials(values: dict[str, str]) -> None:
    parser = ConfigParser()
    parser.read_string(secrets_files.render_files(values)["admin"]["credentials"])
    assert parser["mlflow"]["mlflow_tracking_username"] == "admin"
    assert parser["mlflow"]["mlflow_tracking_password"] == values["admin_password"]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the operator's files, none of which is named yet."""
    monkeypatch.setattr(secrets_files, "OPERATOR", tmp_path)
    monkeypatch.setenv("STACK_BACKUP_S3_TO", "off")
    for name in ("S3_CREDENTIALS", "S3_CA", "NOTIFY"):
        monkeypatch.setenv(f"STACK_BACKUP_{name}_FILE", "/dev/null")
    return tmp_path


def write(path: Path, content: str, mode: int = 0o600) -> None:
    path.write_text(content)
    path.chmod(mode)


def test_what_is_not_named_is_not_handed_out(outside: Path) -> None:
    assert set(secrets_files.read_way_outside().values()) == {""}


def test_the_urls_of_messages_and_the_buckets_account_are_handed_out(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(outside / "backup_notify", "# who\nmailto://me:secret@example.org\n\njson://here/x\n")
    write(outside / "backup_credentials", "[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
    monkeypatch.setenv("STACK_BACKUP_NOTIFY_FILE", "./notify")
    monkeypatch.setenv("STACK_BACKUP_S3_TO", "s3://bucket/folder")
    monkeypatch.setenv("STACK_BACKUP_S3_CREDENTIALS_FILE", "./key")
    files = secrets_files.read_way_outside()
    assert "mailto://me:secret@example.org" in files["notify"]
    assert "aws_access_key_id = A" in files["bucket_credentials"]
    assert "BEGIN CERTIFICATE" in files["bucket_ca.pem"]


@pytest.mark.parametrize(
    ("content", "mode", "part"),
    [
        ("json://here\n", 0o644, "which every user of this machine may use: chmod o= ./notify"),
        ("json://here\nme@example.org\n", 0o600, "whose line 2 is no URL"),
    ],
)
def test_urls_that_others_read_or_that_are_none_are_refused(
    content: str, mode: int, part: str, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(outside / "backup_notify", content, mode)
    monkeypatch.setenv("STACK_BACKUP_NOTIFY_FILE", "./notify")
    with pytest.raises(SystemExit, match=re.escape(part)):
        secrets_files.read_way_outside()


def test_a_bucket_without_an_account_is_refused(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_BACKUP_S3_TO", "s3://bucket/folder")
    with pytest.raises(SystemExit, match="STACK_BACKUP_S3_CREDENTIALS is '', but STACK_BACKUP_S3_TO is set"):
        secrets_files.read_way_outside()
