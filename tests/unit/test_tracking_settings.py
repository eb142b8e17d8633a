"""The server's settings: all faults at once, hosts and origins that follow from the operator's choices."""

from __future__ import annotations

import fnmatch

import pytest

from tracking import settings

GOOD = {
    "STACK_DATABASE_URI": "postgresql+psycopg2://mlflow@postgres/mlflow",
    "STACK_AUTH_DATABASE_URI": "postgresql+psycopg2://auth@postgres/auth",
    "STACK_OBJECTSTORE": "minio",
    "STACK_S3_ENDPOINT": "http://objectstore:9000",
    "STACK_S3_REGION": "us-east-1",
    "STACK_S3_STYLE": "path",
    "STACK_BUCKET": "mlflow-artifacts",
    "STACK_BIND": "127.0.0.1",
    "STACK_TLS": "off",
    "STACK_PUBLIC_URL": "",
    "STACK_WORKERS": "2",
    "STACK_URL_SECONDS": "300",
    "STACK_JOBS": "off",
    "STACK_FAST_PATH": "on",
}


def load(monkeypatch: pytest.MonkeyPatch, **changes: str) -> settings.Settings:
    for name, value in {**GOOD, **changes}.items():
        monkeypatch.setenv(name, value)
    return settings.load()


def test_good_settings_load(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch, STACK_JOBS="on", STACK_WORKERS="3")
    assert (loaded.workers, loaded.jobs) == (3, True)


def test_all_faults_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(settings.SettingsError) as error:
        load(
            monkeypatch,
            STACK_WORKERS="many",
            STACK_JOBS="perhaps",
            STACK_PUBLIC_URL="mlflow",
            STACK_BUCKET="",
            STACK_TLS="yes",
        )
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for part in ("'many'", "'perhaps'", "'mlflow'", "STACK_S3_BUCKET is ''", "'yes'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:5000", True),
        ("localhost:5000", True),
        ("localhost", True),
        ("[::1]:5000", True),
        ("nginx:5000", True),
        ("nginx:5001", True),
        ("gateway:5000", True),
        ("10.1.2.3:5000", True),
        ("mlflow.example.org", True),
        ("mlflow.example.org:443", True),
        ("evil.example", False),
        ("mlflow.example.org.evil.example", False),
        ("localhost.evil.example", False),
        ("10.1.2.4", False),
        ("", False),
    ],
)
def test_hosts_follow_from_the_choices(monkeypatch: pytest.MonkeyPatch, host: str, expected: bool) -> None:
    loaded = load(monkeypatch, STACK_BIND="10.1.2.3", STACK_PUBLIC_URL="https://mlflow.example.org")
    patterns = settings.allowed_hosts(loaded)
    assert (
        any(fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in patterns) == expected
    )


def test_all_addresses_are_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = settings.allowed_hosts(load(monkeypatch, STACK_BIND="0.0.0.0"))

    def is_allowed(host: str) -> bool:
        return any(fnmatch.fnmatch(host, pattern) for pattern in patterns)

    assert all(map(is_allowed, ("192.0.2.7", "192.0.2.7:5000")))
    assert not any(map(is_allowed, ("evil.example", "1.2.3.evil.example")))


@pytest.mark.parametrize("workers", range(1, settings.MAX_WORKERS + 1))
def test_all_pools_together_stay_within_what_postgres_allows(workers: int) -> None:
    share = settings.share_connections(workers)
    assert share.kept >= 1
    assert share.fast >= 1
    pools = (settings.POOLS - 1) * (share.kept + share.overflow) + share.fast
    assert workers * (pools + 1) <= settings.CONNECTIONS


def test_a_missing_secret_is_one_clear_error() -> None:
    with pytest.raises(settings.SettingsError, match=r"flask_secret_key.*secrets service"):
        settings.read_secret("flask_secret_key")
