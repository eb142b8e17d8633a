"""What nginx/gateway makes of the operator's choices: hosts and proxies, and what it refuses by itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD = {
    "STACK_NGINX_CONF": str(ROOT / "nginx/conf"),
    "STACK_BIND": "127.0.0.1",
    "STACK_PUBLIC_URL": "",
    "STACK_TLS": "off",
    "STACK_TRUSTED_PROXIES": "",
    "STACK_OBJECTSTORE": "minio",
    "STACK_SERVE": "off",
    "STACK_SERVE_BODY": "10m",
    "STACK_WORKERS": "2",
}


def render(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "nginx/gateway", "render", folder],
        env={"PATH": os.environ["PATH"], **GOOD, **changes},
        capture_output=True,
        text=True,
        check=False,
    )


def is_our_host(folder: Path, host: str) -> bool:
    """Answer as nginx's map does."""
    (block,) = re.findall(
        r"map \$http_host \$is_our_host \{(.*?)\n\}", (folder / "choices.conf").read_text(), re.DOTALL
    )
    return any(re.search(pattern, host) for pattern in re.findall(r'"~(.*)" 1;', block))


@pytest.mark.parametrize(
    ("bind", "host", "expected"),
    [
        ("127.0.0.1", "localhost:5000", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "[::1]:5000", True),
        ("127.0.0.1", "nginx:5001", True),
        ("127.0.0.1", "gateway:5000", True),
        ("127.0.0.1", "mlflow.example.org", True),
        ("127.0.0.1", "mlflow.example.org:8443", True),
        ("127.0.0.1", "192.0.2.7", False),
        ("192.0.2.7", "192.0.2.7:5000", True),
        ("192.0.2.7", "192.0.2.8:5000", False),
        ("0.0.0.0", "192.0.2.8:5000", True),
        ("0.0.0.0", "192.0.2.8.evil.example", False),
        ("0.0.0.0", "evil.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "127x0x0x1", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "evil.localhost", False),
        ("127.0.0.1", "localhost:5000:5000", False),
        ("127.0.0.1", "localhost:5000@evil.example", False),
        ("127.0.0.1", "mlflow-example.org", False),
    ],
)
def test_hosts_follow_from_the_choices(tmp_path: Path, bind: str, host: str, expected: bool) -> None:
    proxy = {"STACK_TLS": "upstream", "STACK_TRUSTED_PROXIES": "10.0.0.1"}
    result = render(tmp_path / "x", STACK_BIND=bind, STACK_PUBLIC_URL="https://MLflow.example.org:8443/", **proxy)
    assert result.returncode == 0, result.stderr
    assert is_our_host(tmp_path / "x", host) is expected


def test_only_the_named_proxies_are_trusted(tmp_path: Path) -> None:
    assert render(tmp_path / "x", STACK_TLS="upstream", STACK_TRUSTED_PROXIES="10.0.0.1,fd00::/8").returncode == 0
    text = (tmp_path / "x" / "choices.conf").read_text()
    assert re.findall(r"set_real_ip_from (.*);", text) == ["10.0.0.1", "fd00::/8"]
    assert "real_ip_header X-Forwarded-For;" in text
    assert render(tmp_path / "y").returncode == 0
    text = (tmp_path / "y" / "choices.conf").read_text()
    assert "real_ip" not in text.replace("$realip_remote_addr", "")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"STACK_BIND": "0.0.0.0"}, ("STACK_BIND is '0.0.0.0'", "STACK_TLS")),
        ({"STACK_BIND": "192.0.2.7"}, ("STACK_BIND is '192.0.2.7'", "STACK_TLS")),
        ({"STACK_TLS": "maybe"}, ("STACK_TLS is 'maybe'", "self-signed")),
        ({"STACK_SERVE": "a b"}, ("STACK_SERVE is 'a b'", "or off")),
        ({"STACK_SERVE": 'a"1;}'}, ("STACK_SERVE is", "or off")),
        ({"STACK_WORKERS": "many"}, ("STACK_WORKERS is 'many'", "1 to 16")),
        ({"STACK_SERVE_BODY": "10"}, ("STACK_SERVE_BODY is '10'", "10m")),
        ({"STACK_TLS": ""}, ("STACK_TLS is ''", "self-signed")),
        ({"STACK_TLS": "files"}, ("/run/secrets/tls.pem", "secrets service")),
        ({"STACK_TLS": "upstream"}, ("STACK_TRUSTED_PROXIES is ''",)),
        ({"STACK_NGINX_CONF": "/none"}, ("/none can't be read",)),
    ],
)
def test_unfit_choices_are_refused_in_one_line(tmp_path: Path, changes: dict[str, str], parts: tuple[str, ...]) -> None:
    result = render(tmp_path / "x", **changes)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line
    assert not (tmp_path / "x").exists()


def find_header(folder: Path, name: str, url: str) -> str:
    """Return what goes to the store with an upload by this URL, as nginx's map says."""
    (block,) = re.findall(
        rf"map \$object \$object_{name} \{{(.*?)\n\}}", (folder / "choices.conf").read_text(), re.DOTALL
    )
    return next((value for pattern, value in re.findall(r'"~(.*)" "(.*)";', block) if re.search(pattern, url)), "")


def test_uploads_are_encrypted_where_their_url_was_signed_so(tmp_path: Path) -> None:
    assert render(tmp_path / "on", STACK_S3_ENCRYPTION="aws:kms", STACK_S3_KMS_KEY="arn:k/1").returncode == 0
    both = "https://s/b/k?X-Amz-SignedHeaders=host%3Bx-amz-server-side-encryption%3Bx-amz-server-side-encryption-aws-kms-key-id&X-Amz-Signature=1"
    one = "https://s/b/k?X-Amz-SignedHeaders=host%3Bx-amz-server-side-encryption&X-Amz-Signature=1"
    none = "https://s/b/x-amz-server-side-encryption?X-Amz-SignedHeaders=host&X-Amz-Signature=1"
    found = [
        (find_header(tmp_path / "on", "encryption", url), find_header(tmp_path / "on", "kms_key", url))
        for url in (both, one, none)
    ]
    assert found == [("aws:kms", "arn:k/1"), ("aws:kms", ""), ("", "")]
    assert render(tmp_path / "off").returncode == 0
    assert find_header(tmp_path / "off", "encryption", both) == ""


def test_an_external_store_is_never_spoken_with_unchecked(tmp_path: Path) -> None:
    result = render(tmp_path / "x", STACK_OBJECTSTORE="s3")
    assert result.returncode == 1
    assert result.stderr.startswith("nginx: /run/secrets/store_ca.pem can't be read")
    result = render(tmp_path / "x", STACK_OBJECTSTORE="azure")
    assert "STACK_OBJECTSTORE is 'azure': choose minio, seaweedfs or s3" in result.stderr


@pytest.mark.parametrize(("chosen", "listed"), [("off", []), ("Wine", ["Wine"]), ("Wine,a.b-c@3", ["Wine", "a.b-c"])])
def test_the_gateway_knows_which_models_are_to_be_served(tmp_path: Path, chosen: str, listed: list[str]) -> None:
    assert render(tmp_path / "x", STACK_SERVE=chosen, STACK_SERVE_BODY="3m").returncode == 0
    text = (tmp_path / "x/choices.conf").read_text()
    (block,) = re.findall(r"map \$model \$is_listed \{(.*?)\n\}", text, re.DOTALL)
    assert re.findall(r'"(.*)" 1;', block) == listed
    assert (tmp_path / "x/largest.conf").read_text() == "client_max_body_size 3m;\n"


def test_each_of_mlflows_workers_is_asked_by_its_own_socket(tmp_path: Path) -> None:
    assert render(tmp_path / "x", STACK_WORKERS="3").returncode == 0
    sockets = re.findall(r"^server unix:(\S+) max_fails=0;$", (tmp_path / "x/workers.conf").read_text(), re.MULTILINE)
    assert sockets == [f"/run/mlflow/http-{number}.sock" for number in (1, 2, 3)]
