"""TLS in its three kinds, on one stack that changes from one to the next: files, upstream, self-signed."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import os
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import certificates
import h2.connection
import h2.events
import httpx
import pytest
import requests
from cryptography import x509

from stack.deployment import PROBE, QUIET, Deployment, wait_until

Login = tuple[str, str]
PUBLIC = "mlflow.example.org"
NAMES = ("127.0.0.1", "localhost", PUBLIC)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def change(deployment: Deployment, **settings: str) -> None:
    """Set settings in .env, in the place of former ones."""
    file = deployment.root / ".env"
    kept = [line for line in file.read_text().splitlines() if line.split("=")[0] not in settings]
    file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in settings.items())]) + "\n")


class Operator:
    """An operator with an authority of their own, who puts certificates into files of the checkout."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key, self.authority_file = folder / "a.pem", folder / "a.key", folder / "ca.pem"
        self.authority = certificates.make_authority(now())
        self.authority_file.write_text(self.authority.partition("-----BEGIN PRIVATE KEY-----")[0])

    def write(self, names: tuple[str, ...] = NAMES, begin: dt.datetime | None = None) -> int:
        """Write a new certificate and its key. Returns its serial number."""
        pem = certificates.make_leaf(self.authority, names, begin or now())
        head, mark, tail = pem.partition("-----BEGIN PRIVATE KEY-----")
        self.certificate.write_text(head)
        self.key.write_text(mark + tail)
        self.key.chmod(0o600)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture(scope="module")
def tls(make_deployment: Callable[..., Deployment]) -> Deployment:
    return make_deployment(
        "tls",
        STACK_TLS="files",
        STACK_TLS_CERT="tls/a.pem",
        STACK_TLS_KEY="./tls/a.key",
        STACK_PUBLIC_URL=f"https://{PUBLIC}",
        COMPOSE_FILE=QUIET,
    )


@pytest.fixture(scope="module")
def operator(tls: Deployment) -> Operator:
    return Operator(tls.root / "tls")


@pytest.fixture(scope="module")
def files(tls: Deployment, operator: Operator) -> Deployment:
    """The stack with the operator's certificate."""
    operator.write()
    tls.scheme, tls.authority = "https", operator.authority_file
    tls.check("up", "--no-train")
    return tls


@pytest.fixture(scope="module")
def admin(files: Deployment) -> Login:
    login = files.login()
    return login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]


def handshake(deployment: Deployment, **versions: ssl.TLSVersion) -> tuple[str | None, str | None, int]:
    """Return TLS version, protocol and the certificate's serial number of a new connection."""
    context = ssl.create_default_context(cafile=str(deployment.authority))
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, version in versions.items():
        setattr(context, name, version)
    with (
        socket.create_connection(("127.0.0.1", deployment.port), timeout=60) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
    ):
        shown = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
        return wrapped.version(), wrapped.selected_alpn_protocol(), shown.serial_number


def ask_plain(deployment: Deployment, method: str, host: str) -> requests.Response:
    """Speak plain HTTP to the port of HTTPS."""
    return requests.request(
        method,
        f"http://127.0.0.1:{deployment.port}/some/path?x=%2F",
        headers={"Host": host},
        allow_redirects=False,
        timeout=60,
    )


# ----------------------------------------------------------------------------------------------------------- files
def test_env_names_the_public_url(files: Deployment, admin: Login) -> None:
    assert files.login()["MLFLOW_TRACKING_URI"] == f"https://{PUBLIC}"
    assert files.ask(PROBE, admin).status_code == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_2_and_1_3_and_http_2_are_spoken_and_nothing_older(files: Deployment) -> None:
    assert handshake(files)[:2] == ("TLSv1.3", "h2")
    assert handshake(files, maximum_version=ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", files.port), timeout=60) as connection,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|alert"),
    ):
        context.wrap_socket(connection)


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308), ("PUT", 308)])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_plain_http_is_sent_to_https_at_the_same_address(
    files: Deployment, method: str, status: int, name: str
) -> None:
    answer = ask_plain(files, method, f"{name}:{files.port}")
    assert answer.status_code == status
    assert answer.headers["Location"] == f"https://{name}:{files.port}/some/path?x=%2F"
    assert "Strict-Transport-Security" not in answer.headers


def test_plain_http_is_not_sent_to_a_name_that_is_not_ours(files: Deployment) -> None:
    answer = ask_plain(files, "GET", "evil.example")
    assert (answer.status_code, answer.headers.get("Location")) == (403, None)


def test_a_client_follows_from_http_to_https(files: Deployment) -> None:
    plain = files.url.replace("https://", "http://")
    answer = requests.get(f"{plain}/livez", timeout=60, verify=str(files.authority))
    assert (answer.status_code, answer.url) == (204, f"{files.url}/livez")


@pytest.mark.parametrize("path", ["/", PROBE, "/livez", "/signed/" + "0" * 64, "/_stack/x"])
def test_a_name_that_is_not_ours_reaches_nothing(files: Deployment, admin: Login, path: str) -> None:
    for host in ("evil.example", f"evil.example:{files.port}", "127.0.0.1.evil.example", "0.0.0.0"):
        answer = files.ask(path, admin, headers={"Host": host})
        assert answer.status_code == 403, host
        assert "Host" in answer.json()["message"]


def test_another_origin_is_refused_and_our_own_is_not(files: Deployment, admin: Login) -> None:
    for origin in (f"http://127.0.0.1:{files.port}", "https://localhost:1", "https://evil.example", "null"):
        for method in ("GET", "POST", "OPTIONS"):
            answer = files.ask("/api/2.0/mlflow/experiments/search", admin, method, headers={"Origin": origin}, json={})
            assert answer.status_code == 403, (origin, method)
            assert "Access-Control-Allow-Origin" not in answer.headers
    answer = files.ask(PROBE, admin, headers={"Origin": files.url})
    assert answer.status_code == 200


def test_a_signed_url_is_https(files: Deployment, admin: Login) -> None:
    api, path = "/api/2.0/mlflow-artifacts", "0/run/artifacts/x.txt"
    assert files.ask(f"{api}/artifacts/{path}", admin, "PUT", data=b"x").ok
    url = files.ask(f"{api}/presigned/{path}", admin).json()["url"]
    assert url.startswith(f"{files.url}/signed/")
    assert requests.get(url, timeout=60, verify=str(files.authority)).text == "x"


# ------------------------------------------------------------------------------------------------------------ HTTP/2
@pytest.fixture
def second(files: Deployment, admin: Login) -> Iterator[httpx.Client]:
    """A logged-in client that speaks HTTP/2 and nothing else."""
    context = ssl.create_default_context(cafile=str(files.authority))
    with httpx.Client(base_url=files.url, auth=admin, timeout=60, verify=context, http1=False, http2=True) as client:
        yield client


def test_http_2_carries_questions_logins_and_refusals(second: httpx.Client, files: Deployment) -> None:
    answer = second.get(PROBE)
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    assert second.get(PROBE, auth=("admin", "wrong")).status_code == 401
    assert second.get("/static-files/none.js").status_code == 404
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert second.get(PROBE, headers=headers).status_code == 403, headers
    assert second.get("/static-files/index.html").headers["Cache-Control"] == "private, no-cache"


def test_http_2_carries_bytes_both_ways(second: httpx.Client) -> None:
    content = os.urandom(5_000_000)
    path = "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/second.bin"
    put = second.put(path, content=content)
    assert (put.status_code, put.http_version) == (200, "HTTP/2"), put.text
    got = second.get(path)
    assert (got.content, got.http_version) == (content, "HTTP/2")
    part = second.get(path, headers={"Range": "bytes=1000000-1999999"})
    assert (part.status_code, part.content) == (206, content[1_000_000:2_000_000])
    # (in one window: this client doesn't look for an answer before its body has gone)
    refused = second.put(path, content=content[:60_000], auth=("admin", "wrong"))
    assert refused.status_code == 401
    assert second.get(path).content == content


async def ask_at_once(url: str, login: Login, context: ssl.SSLContext, times: int) -> list[httpx.Response]:
    """Ask by as many streams of one connection. (httpx's other client opens streams of threads out of order.)"""
    async with httpx.AsyncClient(auth=login, timeout=60, verify=context, http1=False, http2=True) as client:
        await client.get(url)
        return await asyncio.gather(*(client.get(url) for _ in range(times)))


def test_http_2_carries_large_questions_and_many_at_once(second: httpx.Client, files: Deployment, admin: Login) -> None:
    made = second.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}).json()
    run = made["run"]["info"]["run_id"]
    params = [{"key": f"p{number}", "value": "x" * 6000} for number in range(100)]
    logged = second.post("/api/2.0/mlflow/runs/log-batch", json={"run_id": run, "params": params})
    assert logged.status_code == 200, logged.text
    context = ssl.create_default_context(cafile=str(files.authority))
    answers = asyncio.run(ask_at_once(f"{files.url}/api/2.0/mlflow/runs/get?run_id={run}", admin, context, 32))
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert {answer.status_code for answer in answers} == {200}
    assert {len(answer.json()["run"]["data"]["params"]) for answer in answers} == {100}


def test_streams_that_are_reset_at_once_end_the_connection_and_nothing_else(
    files: Deployment, admin: Login, second: httpx.Client
) -> None:
    """As CVE-2023-44487 has it: of one piece of input nginx takes twice the streams that it allows side by side."""
    context = ssl.create_default_context(cafile=str(files.authority))
    context.set_alpn_protocols(["h2"])
    abuser = h2.connection.H2Connection()
    abuser.initiate_connection()
    asked = [
        (":method", "GET"), (":scheme", "https"), (":authority", f"127.0.0.1:{files.port}"), (":path", PROBE),
        ("authorization", "Basic " + base64.b64encode(":".join(admin).encode()).decode()),
    ]  # fmt: skip
    for _ in range(1000):
        stream = abuser.get_next_available_stream_id()
        abuser.send_headers(stream, asked, end_stream=True)
        abuser.reset_stream(stream)
    received = b""
    with (
        socket.create_connection(("127.0.0.1", files.port), timeout=60) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(abuser.data_to_send())
        while chunk := wrapped.recv(65536):
            received += chunk
    ends = [event for event in abuser.receive_data(received) if isinstance(event, h2.events.ConnectionTerminated)]
    assert len(ends) == 1
    # A thousand come in pieces (records of TLS) of some 400, as many as have arrived: the first or second is too much.
    assert (ends[0].last_stream_id or 0) < abuser.get_next_available_stream_id() - 2
    assert second.get(PROBE).status_code == 200


def test_the_key_is_readable_by_the_gateway_alone_and_shown_nowhere(files: Deployment, operator: Operator) -> None:
    listing = files.compose("exec", "-T", "nginx", "stat", "-c", "%n %U %a", "/run/secrets", "/run/secrets/tls.pem")
    assert listing.splitlines() == ["/run/secrets nginx 500", "/run/secrets/tls.pem nginx 400"]
    secret = operator.key.read_text().splitlines()[1]
    assert secret in files.compose("exec", "-T", "nginx", "cat", "/run/secrets/tls.pem")
    assert secret not in json.dumps(files.container("nginx")) + files.compose("logs", "--no-color")


def shows(deployment: Deployment, serial: int) -> bool:
    """Return whether a new connection sees this certificate."""
    return handshake(deployment)[2] == serial


def have_passed(counts: list[int], aim: int) -> bool:
    """Return whether that many requests were answered."""
    return sum(counts) > aim


def test_a_renewed_certificate_is_followed_without_a_failed_request(
    files: Deployment, operator: Operator, admin: Login
) -> None:
    failures: list[str] = []
    counts = [0, 0]
    ended = threading.Event()

    def load(worker: int) -> None:
        while not ended.is_set():
            try:
                answer = files.ask(PROBE, admin)  # a new connection each time
                if answer.status_code != 200:
                    failures.append(f"{answer.status_code} {answer.text}")
            except requests.RequestException as error:
                failures.append(repr(error))
            counts[worker] += 1
            ended.wait(0.1)

    threads = [threading.Thread(target=load, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            serial, aim = operator.write(), sum(counts) + 10
            assert "the new configuration runs" in files.check("reload")
            wait_until(partial(shows, files, serial), "new connections see the new one", 60)
            wait_until(partial(have_passed, counts, aim), "requests went on")
        assert "the configuration is the one that runs" in files.check("reload")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []


def spoil(operator: Operator, how: str) -> None:
    if how == "expired":
        operator.write(begin=now() - dt.timedelta(days=500))
    elif how == "other key":
        kept = operator.certificate.read_text()
        operator.write()
        operator.certificate.write_text(kept)
    elif how == "world-readable":
        operator.key.chmod(0o644)
    elif how == "not PEM":
        operator.certificate.write_text("no certificate\n")
    elif how == "missing":
        operator.key.unlink()


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("expired", ("STACK_TLS_CERT is 'tls/a.pem'", "expired on")),
        ("other key", ("STACK_TLS_KEY is './tls/a.key'", "another certificate")),
        ("world-readable", ("STACK_TLS_KEY is './tls/a.key'", "chmod o= ./tls/a.key")),
        ("not PEM", ("STACK_TLS_CERT is 'tls/a.pem'", "no PEM certificate")),
        ("missing", ("STACK_TLS_KEY is './tls/a.key'", "no file there")),
        ("other name", ("STACK_PUBLIC_URL", "'other.example.org'", "127.0.0.1, localhost")),
    ],
)
def test_an_unfit_certificate_is_one_line_and_the_running_one_serves_on(
    files: Deployment, operator: Operator, admin: Login, how: str, parts: tuple[str, ...]
) -> None:
    _, _, serial = handshake(files)
    containers = files.compose("ps", "--all", "--quiet")
    spoil(operator, how)
    if how == "other name":
        files.environment["STACK_PUBLIC_URL"] = "https://other.example.org"
    try:
        # Both commands check before they change anything; the slower one is tried once.
        result = files.run("up", "--no-train") if how == "expired" else files.run("reload")
    finally:
        files.environment.clear()
        operator.write()
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("==>", "    done"))]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]
    assert handshake(files)[2] == serial
    assert files.compose("ps", "--all", "--quiet") == containers
    assert files.is_served(admin)


def test_plain_compose_refuses_an_open_address_without_tls(files: Deployment) -> None:
    files.environment |= {"STACK_TLS": "off", "STACK_BIND": "192.0.2.7"}
    result = files.execute("docker", "compose", "run", "--rm", "--no-deps", "-T", "nginx", "start")
    files.environment.clear()
    assert result.returncode == 1
    assert "nginx: STACK_BIND is '192.0.2.7', which others can reach" in result.stderr


def test_testssl_finds_nothing_grave(files: Deployment, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none"]
    command += [
        "--jsonfile",
        str(report),
        "--add-ca",
        str(files.authority),
        "--protocols",
        "--std",
        "--server-defaults",
    ]
    command += [
        "--headers",
        "--heartbleed",
        "--ccs-injection",
        "--ticketbleed",
        "--robot",
        "--renegotiation",
        "--crime",
    ]
    command += ["--breach", f"127.0.0.1:{files.port}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    findings = json.loads(report.read_text())
    assert len(findings) > 40, result.stdout
    # What a private authority has by nature: no public list knows it, and it has nobody to ask about revocation.
    by_nature = {"cert_trust", "cert_chain_of_trust", "cert_revocation", "cert_crlDistributionPoints", "cert_ocspURL"}
    grave = [each for each in findings if each["severity"] in ("HIGH", "CRITICAL") and each["id"] not in by_nature]
    assert grave == []


# -------------------------------------------------------------------------------------------------------- upstream
@pytest.fixture(scope="module")
def upstream(files: Deployment) -> Deployment:
    """The same stack with a proxy in front: this process, which comes to the gateway by the bridge's address."""
    networks = files.container("nginx")["NetworkSettings"]["Networks"]
    proxy = networks[f"{files.name}_edge"]["Gateway"]
    change(
        files,
        STACK_TLS="upstream",
        STACK_TLS_CERT="/dev/null",
        STACK_TLS_KEY="/dev/null",
        STACK_TRUSTED_PROXIES=f"192.0.2.1,{proxy}",
    )
    files.scheme, files.authority = "http", None
    files.compose("up", "--detach", "--no-build", "--no-deps", "nginx")
    wait_until(partial(is_alive, files), "the gateway answers")
    return files


def is_alive(deployment: Deployment) -> bool:
    try:
        return deployment.ask("/livez", None).status_code == 204
    except requests.RequestException:
        return False


SIGNED = "/api/2.0/mlflow-artifacts/presigned/0/run/artifacts/x.txt"
FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Host": "evil.example"}


def read_address(deployment: Deployment, request_id: str) -> str:
    """Return the client's address that the gateway's log has for a request."""
    found: list[str] = []

    def is_logged() -> bool:
        lines = [line for line in deployment.logs("nginx", "2000").splitlines() if request_id in line]
        found.extend(json.loads(line[line.index("{") :])["address"] for line in lines)
        return bool(found)

    wait_until(is_logged, "the request is in the log")
    return found[0]


def test_the_named_proxy_is_believed(upstream: Deployment, admin: Login) -> None:
    answer = upstream.ask(SIGNED, admin, headers={**FORWARDED, "Host": "localhost"})
    assert answer.json()["url"].startswith("https://localhost/signed/")
    assert read_address(upstream, answer.headers["X-Request-Id"]) == "198.51.100.7"
    # Of a chain, what the proxy itself saw counts: the rest is what a client may have written.
    chain = {**FORWARDED, "X-Forwarded-For": "203.0.113.1, 198.51.100.8"}
    answer = upstream.ask("/version", admin, headers=chain)
    assert read_address(upstream, answer.headers["X-Request-Id"]) == "198.51.100.8"


def test_signed_urls_origins_and_hsts_follow_from_the_public_url(upstream: Deployment, admin: Login) -> None:
    headers = {**FORWARDED, "Host": PUBLIC}
    answer = upstream.ask(SIGNED, admin, headers=headers)
    assert answer.json()["url"].startswith(f"https://{PUBLIC}/signed/")
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    url = answer.json()["url"].replace(f"https://{PUBLIC}", upstream.url)
    assert requests.get(url, headers=headers, timeout=60).text == "x"
    create = "/ajax-api/2.0/mlflow/experiments/search"
    for origin, status in ((f"https://{PUBLIC}", 200), (f"http://{PUBLIC}", 403), ("https://evil.example", 403)):
        answer = upstream.ask(create, admin, "POST", json={"max_results": 1}, headers={**headers, "Origin": origin})
        assert answer.status_code == status, origin


def test_nobody_else_is_believed(upstream: Deployment, admin: Login) -> None:
    """A container on the same network has an address that is not the proxy's."""
    script = (
        "import configparser, json, requests, pathlib, sys\n"
        "c = configparser.ConfigParser(interpolation=None); c.read(pathlib.Path.home() / '.mlflow/credentials')\n"
        "auth = c['mlflow']['mlflow_tracking_username'], c['mlflow']['mlflow_tracking_password']\n"
        "for port in (5000, 5001):\n"
        f"    a = requests.get(f'http://nginx:{{port}}{SIGNED}', auth=auth, headers={FORWARDED!r}, timeout=60)\n"
        "    print(json.dumps({'url': a.json()['url'], 'id': a.headers['X-Request-Id'],\n"
        "                      'hsts': 'Strict-Transport-Security' in a.headers}))\n"
    )
    run = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "admin", "-c", script)
    if upstream.execute("docker", "image", "inspect", f"{upstream.name}/admin:0.1.0").returncode:
        upstream.compose("build", "admin")
    for port, line in zip((5000, 5001), upstream.compose(*run).splitlines(), strict=True):
        seen = json.loads(line)
        assert seen["url"].startswith(f"http://nginx:{port}/signed/")
        assert seen["hsts"] is False
        assert read_address(upstream, seen["id"]) not in ("198.51.100.7", "")


# ----------------------------------------------------------------------------------------------------- self-signed
@pytest.fixture(scope="module")
def own(upstream: Deployment) -> Deployment:
    """The same stack with a certificate by its own authority."""
    change(upstream, STACK_TLS="self-signed", STACK_PUBLIC_URL="", STACK_TRUSTED_PROXIES="")
    upstream.check("up", "--no-train")
    upstream.scheme, upstream.authority, upstream.known_login = "https", upstream.root / "tls/ca.pem", {}
    return upstream


CLIENT = """
import mlflow, requests, os
with mlflow.start_run(experiment_id="0") as run:
    mlflow.log_metric("m", 1.5)
    mlflow.log_text("by its own authority", "folder/text.txt")
print(mlflow.artifacts.load_text(run.info.artifact_uri + "/folder/text.txt"))
print([each.path for each in mlflow.MlflowClient().list_artifacts(run.info.run_id, "folder")])
"""


def run_client(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a stock client in a process of its own, with these variables and no others of MLflow's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "REQUESTS_", "SSL_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_four_variables_are_all_that_a_stock_client_needs(own: Deployment) -> None:
    variables = own.login()
    assert sorted(variables) == [
        f"MLFLOW_TRACKING_{name}" for name in ("PASSWORD", "SERVER_CERT_PATH", "URI", "USERNAME")
    ]
    assert variables["MLFLOW_TRACKING_URI"] == own.url
    assert variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] == str(own.authority)
    result = run_client(CLIENT, **variables)
    assert result.returncode == 0, result.stderr
    assert "by its own authority\n['folder/text.txt']" in result.stdout
    without = {name: value for name, value in variables.items() if "CERT_PATH" not in name}
    result = run_client(CLIENT, **without)
    assert result.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in result.stderr


def test_any_client_of_requests_needs_the_authority_only(own: Deployment) -> None:
    login = own.login()
    code = (
        "import os, requests\n"
        "auth = os.environ['LOGIN'].split(':', 1)\n"
        f"print(requests.get({own.url + PROBE!r}, auth=tuple(auth), timeout=60).status_code)\n"
    )
    pair = f"{login['MLFLOW_TRACKING_USERNAME']}:{login['MLFLOW_TRACKING_PASSWORD']}"
    assert run_client(code, LOGIN=pair, REQUESTS_CA_BUNDLE=str(own.authority)).stdout == "200\n"
    assert "CERTIFICATE_VERIFY_FAILED" in run_client(code, LOGIN=pair).stderr


def test_env_can_be_evaluated_where_a_path_has_odd_characters(own: Deployment) -> None:
    line = own.check("env").splitlines()[-1]
    assert shlex.split(line) == ["export", f"MLFLOW_TRACKING_SERVER_CERT_PATH={own.authority}"]
    assert "PRIVATE KEY" not in (own.root / "tls/ca.pem").read_text()


def test_the_stacks_own_clients_need_no_authority(own: Deployment) -> None:
    assert f"at {own.url}" in own.check("status")


def test_the_certificate_is_kept_until_its_names_change(own: Deployment) -> None:
    _, _, serial = handshake(own)
    assert "the configuration is the one that runs" in own.check("reload")
    assert handshake(own)[2] == serial
    own.environment["STACK_PUBLIC_URL"] = f"https://{PUBLIC}"
    try:
        own.check("reload")
    finally:
        own.environment.clear()
    context = ssl.create_default_context(cafile=str(own.authority))
    shown: Any = {}

    def is_new() -> bool:
        """Return whether it is for the new name (workers that end may still take a connection)."""
        try:
            with (
                socket.create_connection(("127.0.0.1", own.port), timeout=60) as connection,
                context.wrap_socket(connection, server_hostname=PUBLIC) as wrapped,
            ):
                shown.update(wrapped.getpeercert() or {})
        except ssl.SSLCertVerificationError:
            return False
        return True

    wait_until(is_new, "the certificate for the new name", 60)
    assert handshake(own)[2] != serial
    assert ("DNS", PUBLIC) in shown["subjectAltName"]
