"""The operator's account of an external store, as the secrets service reads and hands it out."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import certificates
import pytest
import secrets_files

KEYS = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = to/be+kept=%s\n"


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder into which the operator's files are mounted."""
    monkeypatch.setattr(secrets_files, "OPERATOR", tmp_path)
    monkeypatch.setenv("STACK_S3_CREDENTIALS_FILE", "./s3/credentials")
    monkeypatch.setenv("STACK_S3_CA_FILE", "/dev/null")
    write(tmp_path, KEYS)
    return tmp_path


def write(folder: Path, content: str, mode: int = 0o640) -> None:
    (folder / "aws_credentials").write_text(content)
    (folder / "aws_credentials").chmod(mode)


def test_of_the_operators_file_the_default_profile_is_handed_out(operator: Path) -> None:
    write(operator, f"[other]\naws_access_key_id = OTHER\n{KEYS}aws_session_token = t\nregion = eu\n")
    files = secrets_files.read_operators_account()
    assert files["s3_credentials"] == KEYS + "aws_session_token = t\n"
    assert "BEGIN CERTIFICATE" in files["store_ca.pem"]


@pytest.mark.parametrize("named", ["", "/dev/null"])
def test_no_file_means_the_machines_role(operator: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("STACK_S3_CREDENTIALS_FILE", named)
    assert secrets_files.read_operators_account()["s3_credentials"] == ""


@pytest.mark.parametrize(
    ("content", "mode", "part"),
    [
        ("AKIA:secret-of-the-operator\n", 0o600, "no AWS credentials file"),
        (
            "[other]\naws_access_key_id = AKIA\n",
            0o600,
            "no aws_access_key_id and no aws_secret_access_key in [default]",
        ),
        ("[default]\naws_access_key_id = AKIA\n", 0o600, "no aws_secret_access_key in [default]"),
        (KEYS, 0o644, "every user of this machine may use: chmod o= ./s3/credentials"),
    ],
)
def test_a_file_that_will_not_do_is_one_line_without_a_secret(
    operator: Path, content: str, mode: int, part: str
) -> None:
    write(operator, content, mode)
    with pytest.raises(SystemExit) as end:
        secrets_files.read_operators_account()
    [line] = str(end.value).splitlines()
    assert line.startswith("secrets: STACK_S3_CREDENTIALS is './s3/credentials', which ")
    assert part in line
    assert "secret-of-the-operator" not in line


def test_the_operators_authority_is_the_only_one(operator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_S3_CA_FILE", "./s3/ca.pem")
    own = certificates.make_authority(dt.datetime.now(dt.UTC)).partition("-----BEGIN PRIVATE KEY-----")[0]
    (operator / "store_ca.pem").write_text(own)
    assert secrets_files.read_operators_account()["store_ca.pem"] == own
    (operator / "store_ca.pem").write_text("not PEM")
    write(operator, "neither")
    with pytest.raises(SystemExit) as end:
        secrets_files.read_operators_account()
    assert [line.split()[1] for line in str(end.value).splitlines()] == ["STACK_S3_CREDENTIALS", "STACK_S3_CA"]
