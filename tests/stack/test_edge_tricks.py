"""Tricks with paths, headers and the protocol reach nothing that the plain request would not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

import pytest
import requests
from itsdangerous import URLSafeSerializer

from stack import rawhttp
from stack.deployment import Deployment, wait_until
from stack.intruders import SECRET, SECRET_NAME, Intruders
from stack.rawhttp import Reply, basic, exchange, request

Login = tuple[str, str]

# What somebody without a login may hear; 429 is the throttle's, 501 is nginx's for a transfer coding it can't do.
REFUSALS = {400, 401, 403, 404, 405, 414, 421, 429, 431, 494, 501, 505}
TOKEN = URLSafeSerializer("x" * 43, salt="artifact url").dumps(["get_object", {"Bucket": "b", "Key": "k"}, 2**31])
PROTECTED = [
    "/health",
    "/version",
    "/static-files/index.html",
    "/metrics",
    "/api/2.0/mlflow/experiments/get?experiment_id=0",
    "/ajax-api/3.0/jobs/1",
    "/get-artifact?run_uuid=x&path=y",
    "/v1/traces",
    "/gateway/x/invocations",
]
INTERNAL = ["/_stack/ready", "/_stack/auth", "/_stack/anything"]

# Each makes another target of a path; q is the query with its question mark, or nothing.
TRICKS: dict[str, Callable[[str, str], str]] = {
    "plain": lambda p, q: p + q,
    "double slash": lambda p, q: "/" + p + q,
    "double slashes": lambda p, q: p.replace("/", "//") + q,
    "dot": lambda p, q: "/." + p + q,
    "dot dot": lambda p, q: "/x/.." + p + q,
    "dot dot above the root": lambda p, q: "/.." + p + q,
    "%2e": lambda p, q: "/%2e" + p + q,
    "%2e in every step": lambda p, q: p.replace("/", "/%2e/") + q,
    "%2e%2e": lambda p, q: "/x/%2e%2e" + p + q,
    "%2E.": lambda p, q: "/x/%2E." + p + q,
    "%2f": lambda p, q: "/%2f" + p[1:] + q,
    "%2f..": lambda p, q: "/x%2f.." + p + q,
    "%2f between": lambda p, q: "/" + p[1:].replace("/", "%2f") + q,
    "twice encoded": lambda p, q: "/x/%252e%252e" + p + q,
    "%5c": lambda p, q: "/%5c" + p[1:] + q,
    "backslash": lambda p, q: "\\" + p[1:] + q,
    "backslashes": lambda p, q: p.replace("/", "\\") + q,
    "..\\": lambda p, q: "/x\\.." + p + q,
    "..%5c": lambda p, q: "/x/..%5c.." + p + q,
    "parameters": lambda p, q: p + ";jsessionid=1" + q,
    "parameters first": lambda p, q: "/;" + p + q,
    "..;": lambda p, q: "/x/..;" + p + q,
    "upper case": lambda p, q: p.upper() + q,
    "mixed case": lambda p, q: p.title() + q,
    "trailing dot": lambda p, q: p + "." + q,
    "trailing slash": lambda p, q: p + "/" + q,
    "trailing slashes": lambda p, q: p + "///" + q,
    "trailing /.": lambda p, q: p + "/." + q,
    "trailing %2f": lambda p, q: p + "%2f" + q,
    "trailing space": lambda p, q: p + "%20" + q,
    "raw space": lambda p, q: p + " x" + q,
    "trailing tab": lambda p, q: p + "%09" + q,
    "trailing line feed": lambda p, q: p + "%0a" + q,
    "header injection": lambda p, q: p + "%0d%0aX-Forwarded-User:%20admin" + q,
    "NUL": lambda p, q: p + "%00" + q,
    "NUL and more": lambda p, q: p + "%00.png" + q,
    "fully encoded": lambda p, q: "/" + "/".join("".join(f"%{ord(c):02x}" for c in s) for s in p[1:].split("/")) + q,
    "overlong UTF-8": lambda p, q: "/%c0%ae%c0%ae" + p + q,
    "fullwidth dots": lambda p, q: "/%ef%bc%8e%ef%bc%8e" + p + q,
    "bad escape": lambda p, q: p + "%zz" + q,
    "image": lambda p, q: p + "/x.png" + q,
    "after static files": lambda p, q: "/static-files/.." + p + q,
    "after static files, encoded": lambda p, q: "/static-files/%2e%2e" + p + q,
    "below static files": lambda p, q: "/static-files" + p + q,
    "after health": lambda p, q: "/health/.." + p + q,
    "health;": lambda p, q: "/health;" + p + q,
    "health%2f..": lambda p, q: "/health%2f.." + p + q,
    "after livez": lambda p, q: "/livez/.." + p + q,
    "after livez, encoded": lambda p, q: "/livez/%2e%2e" + p + q,
    "livez%2f..": lambda p, q: "/livez%2f.." + p + q,
    "livez;": lambda p, q: "/livez;" + p + q,
    "livez%3f": lambda p, q: "/livez%3f" + p + q,
    "livez%00": lambda p, q: "/livez%00" + p + q,
    "livez%23": lambda p, q: "/livez%23" + p + q,
    "below livez": lambda p, q: "/livez" + p + q,
    "after a signed path": lambda p, _: f"/signed/{TOKEN}/../.." + p,
    "after a signed path, encoded": lambda p, _: f"/signed/{TOKEN}/%2e%2e/%2e%2e" + p,
    "after a signed path, %2f": lambda p, _: f"/signed/{TOKEN}/..%2f.." + p,
    "absolute form": lambda p, q: "http://127.0.0.1" + p + q,
    "absolute form of another host": lambda p, q: "http://evil.example" + p + q,
    "absolute form with a login": lambda p, q: "http://admin:admin@127.0.0.1" + p + q,
    "absolute form, https": lambda p, q: "https://127.0.0.1" + p + q,
    "absolute form without a host": lambda p, q: "http://" + p + q,
    "no slash": lambda p, q: p[1:] + q,
    "fragment": lambda p, q: p + "#/livez" + q,
    "question mark of another path": lambda p, q: p + "?/livez" + q.replace("?", "&"),
}


def apply_trick(trick: str, path: str) -> str:
    plain, mark, query = path.partition("?")
    return TRICKS[trick](plain, mark + query)


def find_upstreams(stack: Deployment, identifiers: Iterable[str]) -> dict[str, str]:
    """Return, by request id, which server behind the gateway got the request ("" for none), from the gateway's log."""
    wanted, found = set(identifiers), dict[str, str]()

    def are_logged() -> bool:
        lines = [line[line.index("{") :] for line in stack.logs("nginx", "2000").splitlines() if '"request_id"' in line]
        entries = map(json.loads, lines)
        found.update({entry["request_id"]: entry["upstream"] for entry in entries if entry["request_id"] in wanted})
        return wanted <= set(found)

    wait_until(are_logged, "all requests are in the log")
    return found


@pytest.mark.parametrize("path", [*PROTECTED, *INTERNAL])
def test_no_path_trick_gets_past_the_login(stack: Deployment, path: str) -> None:
    replies = {trick: request(stack.port, apply_trick(trick, path)) for trick in TRICKS}
    answered = {trick: reply.statuses for trick, reply in replies.items() if not set(reply.statuses) <= REFUSALS}
    assert answered == {}
    # A 400 or 404 could be MLflow's own: the log knows that none of these left the gateway.
    identifiers = {name: trick for trick, reply in replies.items() for name in reply.request_ids}
    assert len(identifiers) > len(TRICKS) / 2
    upstreams = find_upstreams(stack, identifiers)
    assert {identifiers[name]: upstream for name, upstream in upstreams.items() if upstream} == {}


@pytest.mark.parametrize("role", ["viewer", "editor", "admin"])
@pytest.mark.parametrize("path", INTERNAL)
def test_no_path_trick_leads_a_user_to_the_stacks_own_routes(
    stack: Deployment, intruders: Intruders, path: str, role: str
) -> None:
    login: Login = getattr(intruders, role)
    replies = {trick: request(stack.port, apply_trick(trick, path), login=login) for trick in TRICKS}
    # MLflow answers some of these with its start page or a 404 of its own; what counts is whose answer it is not.
    assert {trick: reply.statuses for trick, reply in replies.items() if b'"faults"' in reply.data} == {}
    assert {trick: reply.statuses for trick, reply in replies.items() if {204, 503} & set(reply.statuses)} == {}


@pytest.mark.parametrize("target", ["/livez?/version", "/livez#/version", "//livez", "/x/../livez", "http://x/livez"])
def test_what_comes_down_to_the_liveness_path_says_nothing(stack: Deployment, target: str) -> None:
    reply = request(stack.port, target)
    assert set(reply.statuses) <= {204, *REFUSALS}
    assert reply.statuses != [204] or reply.body == b""


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/experiments/get",
        "/ajax-api/2.0/mlflow/experiments/get",
        "/api/2.0/mlflow/runs/get",
        "/api/2.0/mlflow/artifacts/list",
        "/get-artifact",
    ],
)
def test_no_path_trick_shows_a_user_what_is_not_theirs(stack: Deployment, intruders: Intruders, path: str) -> None:
    query = f"?experiment_id={intruders.experiment}&run_id={intruders.run}&path=secret.txt"
    shown = {}
    for trick in TRICKS:
        reply = request(stack.port, apply_trick(trick, path + query), login=intruders.viewer)
        if SECRET.encode() in reply.data or SECRET_NAME.encode() in reply.data or b"secret.txt" in reply.body:
            shown[trick] = reply.statuses
    assert shown == {}


def test_the_admin_does_see_it(stack: Deployment, intruders: Intruders) -> None:
    """The twin: the requests of the tests above are the right ones."""
    target = f"/get-artifact?run_uuid={intruders.run}&path=secret.txt"
    assert SECRET.encode() in request(stack.port, target, login=intruders.admin).data
    target = f"/api/2.0/mlflow/experiments/get?experiment_id={intruders.experiment}"
    assert SECRET_NAME.encode() in request(stack.port, target, login=intruders.admin).data
    assert request(stack.port, target, login=intruders.viewer).statuses == [403]


# ------------------------------------------------------------------------------------------------------ signed URLs
NOT_SIGNED = [
    "/x/../signed/{}",
    "/./signed/{}",
    "//signed/{}",
    "/status/..%2fsigned/{}",
    "/status%2f../signed/{}",
    "/other/%2e%2e/signed/{}",
    "/other%2f%2e%2e%2fsigned%2f{}",
    "/%73igned/{}",
    "/SIGNED/{}",
    "/signed;/{}",
    "/signed%5c{}",
    "/signed",
    "/signed/",
    "/signed//{}",
    "/signed/{}/",
    "/signed/{}/../{}",
    "/signed/{}%00",
    "/signed/{}%0d%0aX-Stack-Object:%20http://objectstore:9000/",
    "/signed/../_stack/signed/{}",
    "/_stack/signed/{}",
    "/_stack/upload/api/2.0/mlflow-artifacts/artifacts/0/x",
    "/mlflow-artifacts/x?X-Amz-Signature=" + "0" * 64,
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "COPY"])
def test_the_object_store_is_not_reached_by_a_made_up_token(stack: Deployment, method: str) -> None:
    targets = [target.format(TOKEN, TOKEN) for target in NOT_SIGNED]
    replies = {target: request(stack.port, target, "Content-Length: 0", method=method) for target in targets}
    assert {target: reply.statuses for target, reply in replies.items() if not set(reply.statuses) <= REFUSALS} == {}
    identifiers = {name: target for target, reply in replies.items() for name in reply.request_ids}
    upstreams = find_upstreams(stack, identifiers)
    assert {identifiers[name]: upstream for name, upstream in upstreams.items() if ":9000" in upstream} == {}


@pytest.fixture(scope="module")
def signed(stack: Deployment, intruders: Intruders) -> str:
    """A signed URL's path for the editor's own artifact."""
    path = f"/api/2.0/mlflow-artifacts/presigned/{intruders.own_folder}/own.txt"
    url: str = stack.ask(path, intruders.editor).json()["url"]
    return url.removeprefix(stack.url)


def test_a_signed_url_is_of_no_use_for_another_object_or_question(
    stack: Deployment, intruders: Intruders, signed: str
) -> None:
    key = f"{intruders.secret_folder}/secret.txt"
    payload, signature = signed.removeprefix("/signed/").rsplit(".", 1)
    other = {"Bucket": "mlflow-artifacts", "Key": key}
    forged = [
        URLSafeSerializer(secret, salt=salt).dumps([operation, other, 2**31])
        for secret in ("", "x" * 43)
        for salt in ("artifact url", "itsdangerous", "cookie-session")
        for operation in ("get_object", "put_object", "list_objects_v2")
    ]
    bent = [
        *(f"/signed/{token}" for token in forged),
        *(f"/signed/{token.rsplit('.', 1)[0]}.{signature}" for token in forged),
        f"/signed/{payload}",
        f"/signed/{payload}.",
        f"/signed/{payload}.{signature[:-1]}",
        f"/signed/{payload}.{signature}.{signature}",
        f"/signed/{signature}.{payload}",
        f"{signed}/../{key}",
        f"{signed}%2f..%2f{key}",
        f"{signed}/{key}",
    ]
    replies = {target: request(stack.port, target) for target in bent}
    assert {target: reply.statuses for target, reply in replies.items() if not set(reply.statuses) <= REFUSALS} == {}
    assert [target for target, reply in replies.items() if SECRET.encode() in reply.data] == []
    for query in ("", "?list-type=2", "?acl", "?uploads", "?versionId=null", "?response-content-type=text%2Fhtml"):
        reply = request(stack.port, signed + query)
        assert b"own" in reply.body
        assert b"text/html" not in reply.data


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: PUT",
        "X-Original-URL: /mlflow-artifacts/{secret}",
        "X-Rewrite-URL: /mlflow-artifacts/{secret}",
        "X-Amz-Copy-Source: /mlflow-artifacts/{secret}",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Prefix: /other",
        "X-Amz-Security-Token: x",
        "Range: bytes=0-0",
    ],
)
def test_headers_make_nothing_else_of_a_signed_url(
    stack: Deployment, intruders: Intruders, signed: str, header: str
) -> None:
    reply = request(stack.port, signed, header.format(secret=f"{intruders.secret_folder}/secret.txt"))
    assert set(reply.statuses) <= {200, 206, *REFUSALS}
    assert SECRET.encode() not in reply.data
    assert request(stack.port, signed).body.endswith(b"own")


def test_a_signed_upload_can_not_copy_from_elsewhere(stack: Deployment, intruders: Intruders) -> None:
    """S3 copies on the server's side when a PUT names a source; the signature must not lend itself to that."""
    folder = f"/api/2.0/mlflow-artifacts/mpu/{{}}/{intruders.own_folder}"
    begun = stack.ask(
        folder.format("create"), intruders.editor, "POST", json={"path": "copied.txt", "num_parts": 1}
    ).json()
    url = begun["credentials"][0]["url"]
    secret = f"mlflow-artifacts/{intruders.secret_folder}/secret.txt"
    for source in (secret, "/" + secret, "/" + quote(secret, safe="")):
        answer = requests.put(url, headers={"X-Amz-Copy-Source": source}, timeout=90)
        # The header goes no further: what was stored is the body of this request, which has none.
        assert answer.status_code == 200, answer.text
        assert answer.headers["ETag"].strip('"') == hashlib.md5(b"", usedforsecurity=False).hexdigest()
    own = requests.put(url, data=b"mine", timeout=90)
    assert own.status_code == 200, own.text
    parts = [{"part_number": 1, "etag": own.headers["ETag"]}]
    completed = stack.ask(
        folder.format("complete"),
        intruders.editor,
        "POST",
        json={"path": "copied.txt", "upload_id": begun["upload_id"], "parts": parts},
    )
    assert completed.ok, completed.text
    stored = stack.ask(f"/api/2.0/mlflow-artifacts/artifacts/{intruders.own_folder}/copied.txt", intruders.editor)
    assert stored.text == "mine"


# ---------------------------------------------------------------------------------------------------------- headers
SPOOFED = [
    "X-Original-URL: /livez",
    "X-Original-URI: /livez",
    "X-Original-Method: GET",
    "X-Rewrite-URL: /livez",
    "X-Accel-Redirect: /livez",
    "X-HTTP-Method-Override: OPTIONS",
    "X-Forwarded-User: admin",
    "X-Forwarded-Email: admin",
    "X-Remote-User: admin",
    "Remote-User: admin",
    "REMOTE_USER: admin",
    "X-Authenticated-User: admin",
    "X-WEBAUTH-USER: admin",
    "X-User: admin",
    "X-Real-IP: 127.0.0.1",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Host: localhost",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Prefix: /livez",
    "X-Forwarded-Uri: /livez",
    "Forwarded: for=127.0.0.1;host=localhost;proto=https",
    "X-Script-Name: /livez",
    "SCRIPT_NAME: /livez",
    "X-Stack-User: admin",
    "X-Stack-Auth: 204",
    "X-Stack-Internal: 1",
    "X-MLflow-Authorization: {basic}",
    "X-MLFLOW-WORKSPACE: default",
    "X-Mlflow-Internal: 1",
    "Proxy-Authorization: {basic}",
    "Cookie: session=admin; username=admin",
    "Authorization: Bearer admin",
    "Authorization: Digest username=admin",
    "Authorization: Basic",
    "Authorization: Basic ",
    "Authorization: Basic YWRtaW4=",
    "Authorization: Basic YWRtaW46",
    "Authorization: Basic Og==",
    "Authorization: Basic YWRtaW4A",
    "Authorization: Basic !!!!",
    "Authorization: {basic},{basic}",
    "Authorization : {basic}",
    " Authorization: {basic}",
    "Authorization\x00: {basic}",
    "Authorization: {basic}\x00",
]


@pytest.mark.parametrize("path", ["/version", "/_stack/ready", "/api/2.0/mlflow/experiments/get?experiment_id=0"])
def test_no_header_stands_in_for_a_login(stack: Deployment, intruders: Intruders, path: str) -> None:
    value = basic(intruders.admin).partition(": ")[2]
    # A header that holds the right login in the wrong form counts as no login, too.
    replies = {header: request(stack.port, path, header.format(basic=value)) for header in SPOOFED}
    assert {header: reply.statuses for header, reply in replies.items() if not set(reply.statuses) <= REFUSALS} == {}
    identifiers = {name: header for header, reply in replies.items() for name in reply.request_ids}
    upstreams = find_upstreams(stack, identifiers)
    assert {identifiers[name]: upstream for name, upstream in upstreams.items() if upstream} == {}


def test_no_header_makes_a_user_somebody_else(stack: Deployment, intruders: Intruders) -> None:
    value = basic(intruders.admin).partition(": ")[2]
    target = f"/api/2.0/mlflow/experiments/get?experiment_id={intruders.experiment}"
    headers = [header for header in SPOOFED if "uthorization" not in header] + [
        f"X-MLflow-Authorization: {value}",
        f"Proxy-Authorization: {value}",
    ]
    replies = {header: request(stack.port, target, header, login=intruders.viewer) for header in headers}
    assert {header: reply.statuses for header, reply in replies.items() if SECRET_NAME.encode() in reply.data} == {}
    assert {header for header, reply in replies.items() if 200 in reply.statuses} == set()
    current = "/ajax-api/2.0/mlflow/users/current"
    replies = {header: request(stack.port, current, header, login=intruders.viewer) for header in headers}
    name = intruders.viewer[0].encode()
    others = {h: reply.statuses for h, reply in replies.items() if reply.statuses == [200] and name not in reply.body}
    assert others == {}


@pytest.mark.parametrize(
    "path", ["/gateway/x/invocations", "/gateway/mlflow/v1/chat/completions", "/ajax-api/3.0/jobs/1"]
)
def test_a_second_login_in_another_header_is_not_believed(stack: Deployment, intruders: Intruders, path: str) -> None:
    value = basic(intruders.admin).partition(": ")[2]
    plain = request(stack.port, path, "Content-Length: 2", method="POST", login=intruders.viewer, body="{}")
    both = request(
        stack.port,
        path,
        f"X-MLflow-Authorization: {value}",
        "Content-Length: 2",
        method="POST",
        login=intruders.viewer,
        body="{}",
    )
    assert both.statuses == plain.statuses
    assert set(plain.statuses) <= REFUSALS


@pytest.mark.parametrize("order", [("viewer", "admin"), ("admin", "viewer"), ("admin", "admin")])
def test_two_logins_are_none(stack: Deployment, intruders: Intruders, order: tuple[str, str]) -> None:
    lines = [basic(getattr(intruders, role)) for role in order]
    assert set(request(stack.port, "/version", *lines).statuses) <= {400, 401}


@pytest.mark.parametrize(
    "lines",
    [
        "Host: 127.0.0.1:{port}\r\nHost: evil.example",
        "Host: evil.example\r\nHost: 127.0.0.1:{port}",
        "Host: 127.0.0.1:{port}\r\n Host: evil.example",
        "Host : 127.0.0.1:{port}",
        "Host: evil.example",
        "Host: 127.0.0.1:{port}@evil.example",
        "Host: 127.0.0.1:{port}/x",
        "Host: 127.0.0.1:{port}#evil.example",
        "Host: evil.example:{port}",
        "Host: 127.0.0.1.evil.example:{port}",
        "Host: 127.0.0.1:{port}:80",
        "Host:",
        "X: y",
    ],
)
def test_a_host_that_is_not_ours_gets_nothing(stack: Deployment, intruders: Intruders, lines: str) -> None:
    text = "GET /version HTTP/1.1\r\n{}\r\n{}\r\nConnection: close\r\n\r\n"
    data = text.format(lines.format(port=stack.port), basic(intruders.admin)).encode()
    assert set(exchange(stack.port, data).statuses) <= REFUSALS


def test_an_absolute_target_does_not_get_past_the_host_check(stack: Deployment, intruders: Intruders) -> None:
    for host in ("evil.example", "evil.example:5000", "127.0.0.1.evil.example"):
        assert set(request(stack.port, f"http://{host}/version", login=intruders.admin).statuses) <= REFUSALS


# --------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("login", [None, "viewer"])
@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/" + "a" * 9000, ""),
        ("/" + "a" * 1_000_000, ""),
        ("/?" + "a" * 1_000_000, ""),
        ("/" + "/x" * 20_000, ""),
        ("/" + "../" * 10_000, ""),
        ("/version", "X: " + "a" * 1_000_000),
        ("/version", "\r\n".join(f"X-{number}: y" for number in range(20_000))),
        ("/version", "Cookie: " + "a=b; " * 100_000),
        ("/version", "Authorization: Basic " + "QUFB" * 100_000),
    ],
    ids=["9k", "1M", "query", "steps", "up", "header", "headers", "cookie", "login"],
)
def test_what_is_too_long_is_refused_and_nothing_breaks(
    stack: Deployment, intruders: Intruders, target: str, headers: str, login: str | None
) -> None:
    reply = request(stack.port, target, *filter(None, [headers]), login=getattr(intruders, login) if login else None)
    assert set(reply.statuses) <= REFUSALS
    assert stack.is_served(intruders.admin)


def test_a_long_login_is_refused(stack: Deployment, intruders: Intruders) -> None:
    """Within the gateway's limits, beyond any user's name: scrypt is not to be fed with it."""
    reply = request(stack.port, "/version", login=("admin", "x" * 5000))
    assert reply.statuses == [401]
    assert stack.is_served(intruders.admin)


# ------------------------------------------------------------------------------------------------- request smuggling
# The body is a request of its own for whoever reads the lengths differently. {n} is its length.
SMUGGLED = "GET /_stack/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
DISAGREEMENTS = {
    "CL.TE": "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    "TE.CL": "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "TE.TE": "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\nContent-Length: {n}",
    "TE.TE reversed": "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\nContent-Length: {n}",
    "TE twice": "Transfer-Encoding: chunked, chunked",
    "TE with identity": "Transfer-Encoding: chunked, identity\r\nContent-Length: {n}",
    "TE identity": "Transfer-Encoding: identity\r\nContent-Length: {n}",
    "TE mixed case": "Transfer-Encoding: Chunked\r\nContent-Length: {n}",
    "TE before colon": "Transfer-Encoding : chunked\r\nContent-Length: {n}",
    "TE tab": "Transfer-Encoding:\tchunked\r\nContent-Length: {n}",
    "TE vertical tab": "Transfer-Encoding: \x0bchunked\r\nContent-Length: {n}",
    "TE NUL": "Transfer-Encoding: chunked\x00\r\nContent-Length: {n}",
    "TE quoted": 'Transfer-Encoding: "chunked"\r\nContent-Length: {n}',
    "TE semicolon": "Transfer-Encoding: chunked;q=1\r\nContent-Length: {n}",
    "TE folded": "Transfer-Encoding:\r\n chunked\r\nContent-Length: {n}",
    "folded": "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: {n}",
    "folded first": " Transfer-Encoding: chunked\r\nContent-Length: {n}",
    "bare line feed": "X: y\nTransfer-Encoding: chunked\r\nContent-Length: {n}",
    "bare return": "X: y\rTransfer-Encoding: chunked\r\nContent-Length: {n}",
    "two lengths": "Content-Length: {n}\r\nContent-Length: 0",
    "two same lengths": "Content-Length: {n}\r\nContent-Length: {n}",
    "list of lengths": "Content-Length: {n}, 0",
    "plus": "Content-Length: +{n}",
    "minus": "Content-Length: -{n}",
    "hexadecimal": "Content-Length: 0x{n}",
    "space": "Content-Length: {n} 0",
    "point": "Content-Length: {n}.0",
    "huge": "Content-Length: 99999999999999999999999",
    "underscores": "Content_Length: {n}\r\nTransfer_Encoding: chunked",
    "none": "X: y",
}


@pytest.mark.parametrize("role", [None, "viewer"])
@pytest.mark.parametrize("disagreement", DISAGREEMENTS)
def test_no_request_is_smuggled_past_the_gateway(
    stack: Deployment, intruders: Intruders, disagreement: str, role: str | None
) -> None:
    body = "0\r\n\r\n" + SMUGGLED
    lines = [
        "POST /api/2.0/mlflow/experiments/search HTTP/1.1",
        f"Host: 127.0.0.1:{stack.port}",
        "Content-Type: application/json",
        *([basic(getattr(intruders, role))] if role else []),
        DISAGREEMENTS[disagreement].format(n=len(body)),
    ]
    data = ("\r\n".join(lines) + "\r\n\r\n" + body + SMUGGLED).encode("latin-1")
    reply = exchange(stack.port, data, seconds=1)
    # Whatever the lengths are taken for: no answer is the internal route's.
    assert b'"faults"' not in reply.data
    assert not {204, 503} & set(reply.statuses)
    if role is None:
        assert set(reply.statuses) <= REFUSALS
    # The next client on the gateway's connection to the server gets its own answer.
    for _ in range(3):
        assert stack.ask("/version", intruders.viewer).status_code == 200


@pytest.mark.parametrize("size", ["ffffffffffffffffff", "-1", "0x5", "5 5", "g", "5\x00"])
def test_a_bad_chunk_is_refused(stack: Deployment, intruders: Intruders, size: str) -> None:
    reply = request(
        stack.port,
        "/api/2.0/mlflow/experiments/search",
        "Transfer-Encoding: chunked",
        "Content-Type: application/json",
        method="POST",
        login=intruders.viewer,
        body=f"{size}\r\nhello\r\n0\r\n\r\n",
    )
    assert set(reply.statuses) <= REFUSALS
    assert stack.is_served(intruders.admin)


def test_the_body_of_a_get_is_no_second_request(stack: Deployment) -> None:
    data = f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}"
    # (which would end the connection; so the next one does)
    last = "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert exchange(stack.port, (data + last).encode()).statuses == [204, 204]


def test_a_pipelined_request_needs_its_own_login(stack: Deployment, intruders: Intruders) -> None:
    """nginx and the server keep connections; a login is good for the request that carries it."""
    with_login = f"GET /version HTTP/1.1\r\nHost: 127.0.0.1:{stack.port}\r\n{basic(intruders.viewer)}\r\n\r\n"
    without = f"GET /version HTTP/1.1\r\nHost: 127.0.0.1:{stack.port}\r\nConnection: close\r\n\r\n"
    assert exchange(stack.port, (with_login + without).encode()).statuses == [200, 401]


# --------------------------------------------------------------------------------------- methods, versions, upgrades
METHODS = ["TRACE", "TRACK", "CONNECT", "DEBUG", "PROPFIND", "MOVE", "PURGE", "BREW", "get", "GET\x00", "G" * 5000]


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_method_gets_nothing(stack: Deployment, intruders: Intruders, method: str) -> None:
    for target in ("/version", "/_stack/ready", "/signed/" + TOKEN):
        assert set(request(stack.port, target, method=method).statuses) <= REFUSALS
    marker = "X-Echo: an-echo-of-the-request"
    reply = request(stack.port, "/version", marker, method=method, login=intruders.viewer)
    assert set(reply.statuses) <= REFUSALS
    assert b"an-echo-of-the-request" not in reply.data


@pytest.mark.parametrize("target", ["postgres:5432", "objectstore:9000", "127.0.0.1:5000", "/"])
def test_the_gateway_is_no_forward_proxy(stack: Deployment, intruders: Intruders, target: str) -> None:
    assert set(request(stack.port, target, method="CONNECT", login=intruders.admin).statuses) <= REFUSALS
    reply = request(stack.port, f"http://{target}/status", login=intruders.admin)
    assert set(reply.statuses) <= REFUSALS


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("GET /version", False),
        ("GET /version HTTP/1.0", True),
        ("GET /version HTTP/1.2", True),
        ("GET /version HTTP/2.0", False),
        ("GET /version HTTP/9.9", False),
        ("GET /version HTTP/1.1 x", False),
        ("GET  /version  HTTP/1.1", True),
        ("GET /version http/1.1", False),
        ("GET\t/version\tHTTP/1.1", False),
        ("\x16\x03\x01\x00\xa5\x01", False),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04", False),
    ],
)
def test_another_version_of_http_needs_a_login_too(stack: Deployment, line: str, known: bool) -> None:
    data = f"{line}\r\nHost: 127.0.0.1:{stack.port}\r\nConnection: close\r\n\r\n"
    reply = exchange(stack.port, data.encode("latin-1"))
    assert set(reply.statuses) <= REFUSALS
    assert bool(reply.statuses) or not known
    assert b"UNAUTHENTICATED" in reply.data or b"HTTP/" not in reply.data or reply.statuses != [401]


UPGRADES = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "h2c without settings": "Connection: Upgrade\r\nUpgrade: h2c",
    "WebSocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "WebSocket of a wrong version": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 999\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "TLS": "Connection: Upgrade\r\nUpgrade: TLS/1.3",
    "many": "Connection: Upgrade, close, Authorization, Host\r\nUpgrade: websocket, h2c",
    "dropping headers": "Connection: close, Authorization, X-Request-Id, Content-Length",
}


@pytest.mark.parametrize("role", [None, "viewer"])
@pytest.mark.parametrize("upgrade", UPGRADES)
def test_an_upgrade_opens_no_tunnel(stack: Deployment, intruders: Intruders, upgrade: str, role: str | None) -> None:
    """A server that says 101, or a gateway that believes it did, would pass on all that follows unseen."""
    login = f"{basic(getattr(intruders, role))}\r\n" if role else ""
    for path in ("/version", "/_stack/ready", "/static-files/index.html"):
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{stack.port}\r\n{login}{UPGRADES[upgrade]}\r\n\r\n"
        reply = exchange(stack.port, (head + SMUGGLED).encode(), seconds=1)
        assert 101 not in reply.statuses
        assert b'"faults"' not in reply.data
        assert not {204, 503} & set(reply.statuses)
        if role is None:
            assert set(reply.statuses) <= REFUSALS
    assert stack.is_served(intruders.admin)


# --------------------------------------------------------------------- one request, two readings of who or what it is
def read_json(stack: Deployment, login: Login, path: str, body: str) -> Reply:
    return request(
        stack.port,
        path,
        "Content-Type: application/json",
        f"Content-Length: {len(body.encode())}",
        method="POST",
        login=login,
        body=body,
    )


@pytest.mark.parametrize(
    "query",
    [
        "run_uuid={own}&run_uuid={secret}",
        "run_uuid={secret}&run_uuid={own}",
        "run_id={own}&run_uuid={secret}",
        "run_uuid={own}&run_id={secret}",
        "run_id=&run_id={secret}&run_uuid={own}",
        "run_uuid={own}&run_id=&run_id={secret}",
        "run_id=&run_uuid={secret}",
        "RUN_UUID={own}&run_uuid={secret}",
        "run_uuid={own};run_uuid={secret}",
        "run_uuid={secret}%00",
        "run_uuid=%20{secret}",
    ],
)
def test_naming_two_runs_shows_the_own_one_or_none(stack: Deployment, intruders: Intruders, query: str) -> None:
    filled = query.format(own=intruders.own_run, secret=intruders.run)
    for path in ("/get-artifact?path=secret.txt&", "/api/2.0/mlflow/artifacts/list?", "/api/2.0/mlflow/runs/get?"):
        reply = request(stack.port, path + filled, login=intruders.editor)
        assert SECRET.encode() not in reply.data
        assert b"secret.txt" not in reply.body or b"own.txt" in reply.body or 500 in reply.statuses
        assert f"/{intruders.run}/".encode() not in reply.body or reply.statuses != [200]


@pytest.mark.parametrize(
    "names",
    [
        '"run_id": "{own}", "run_uuid": "{secret}"',
        '"run_uuid": "{own}", "run_id": "{secret}"',
        '"run_id": "{own}", "run_id": "{secret}"',
        '"run_id": "{secret}", "run_id": "{own}"',
        '"run_id": "{own}", "runId": "{secret}"',
        '"run_id": "{own}", "runUuid": "{secret}"',
        '"runId": "{secret}"',
        '"runUuid": "{secret}"',
        '"run_id": "", "run_uuid": "{secret}"',
        '"run_id": null, "run_uuid": "{secret}"',
        '"run\\u005fid": "{secret}"',
    ],
)
def test_naming_two_runs_in_a_body_changes_the_own_one_or_none(
    stack: Deployment, intruders: Intruders, names: str
) -> None:
    filled = names.format(own=intruders.own_run, secret=intruders.run)
    for query in ("", f"?run_id={intruders.own_run}"):
        for path, rest in {
            "set-tag": '"key": "intruder", "value": "was here"',
            "log-parameter": '"key": "intruder", "value": "was here"',
            "log-metric": '"key": "intruder", "value": 1, "timestamp": 1',
            "log-batch": '"tags": [{"key": "intruder", "value": "was here"}]',
            "update": '"run_name": "intruder was here"',
        }.items():
            read_json(stack, intruders.editor, f"/api/2.0/mlflow/runs/{path}{query}", f"{{{filled}, {rest}}}")
    run = stack.ask(f"/api/2.0/mlflow/runs/get?run_id={intruders.run}", intruders.admin).json()["run"]
    assert "intruder" not in json.dumps(run)


SPELLINGS = [
    "0{id}",
    "%20{id}",
    "{id}%20",
    "%2B{id}",
    "{digits}",
    "{id}.0",
    "{id}e0",
    "0x{id}",
    "{id}%0a",
    "{id}_",
    "00{id}",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_of_an_experiments_number_is_not_another_experiment(
    stack: Deployment, intruders: Intruders, spelling: str
) -> None:
    """MLflow compares rights by text and looks up by number: "01" has to fail where "1" is denied."""
    arabic = "".join(chr(0x0660 + int(digit)) for digit in intruders.experiment)
    written = spelling.format(id=intruders.experiment, digits=quote(arabic))
    text = unquote(written)
    get = "/api/2.0/mlflow/experiments/get?experiment_id="
    shown = {
        "experiments/get": request(stack.port, get + written, login=intruders.editor),
        "experiments/get by ajax": request(stack.port, "/ajax-api" + get[4:] + written, login=intruders.viewer),
    }
    bodies = {
        "/api/2.0/mlflow/runs/search": {"experiment_ids": [text]},
        "/ajax-api/2.0/mlflow/runs/search": {"experimentIds": [text]},
        "/graphql": {
            "query": f'{{ mlflowGetExperiment(input: {{experimentId: "{text}"}}) {{ experiment {{ name }} }} '
            f'mlflowSearchRuns(input: {{experimentIds: ["{text}"]}}) {{ runs {{ info {{ runId }} }} }} }}'
        },
        "/graphql ": {
            "query": "query Q($id: String!) { mlflowGetExperiment(input: {experimentId: $id}) "
            "{ experiment { name } } }",
            "variables": {"id": text},
        },
        "/api/2.0/mlflow/runs/create": {"experiment_id": text, "run_name": "intruder"},
        "/api/2.0/mlflow/experiments/update": {"experiment_id": text, "new_name": "intruder"},
        "/api/2.0/mlflow/experiments/set-experiment-tag": {"experiment_id": text, "key": "intruder", "value": "x"},
        "/api/2.0/mlflow/logged-models": {"experiment_id": text, "name": "intruder"},
    }
    for path, body in bodies.items():
        shown[path] = read_json(stack, intruders.editor, path.strip(), json.dumps(body))
    after = stack.ask(get + intruders.experiment, intruders.admin).json()["experiment"]
    runs = stack.ask(
        "/api/2.0/mlflow/runs/search", intruders.admin, "POST", json={"experiment_ids": [intruders.experiment]}
    ).json()["runs"]
    for run in [run["info"]["run_id"] for run in runs if run["info"]["run_id"] != intruders.run]:
        stack.ask("/api/2.0/mlflow/runs/delete", intruders.admin, "POST", json={"run_id": run})
    stack.ask(
        "/api/2.0/mlflow/experiments/update",
        intruders.admin,
        "POST",
        json={"experiment_id": intruders.experiment, "new_name": intruders.secret_name},
    )
    stack.ask(
        "/api/2.0/mlflow/experiments/delete-experiment-tag",
        intruders.admin,
        "POST",
        json={"experiment_id": intruders.experiment, "key": "intruder"},
    )
    leaks = [
        path
        for path, reply in shown.items()
        if SECRET_NAME.encode() in reply.body or intruders.run.encode() in reply.body
    ]
    assert leaks == []
    assert SECRET_NAME in after["name"]
    assert "intruder" not in [tag["key"] for tag in after.get("tags", [])]
    assert [run["info"]["run_id"] for run in runs] == [intruders.run]


LITERALS = [
    '"0{id}"',
    '"\\u0030{id}"',
    '"\\u{{30}}{id}"',
    '"\\u{{000030}}{id}"',
    '"""0{id}"""',
    '"""\n  0{id}\n"""',
    '"{id}"',
]


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize(
    "query",
    [
        "{{ mlflowGetExperiment(input: {{experimentId: {id}}}) {{ experiment {{ name }} }} }}",
        "{{ mlflowSearchRuns(input: {{experimentIds: [{id}]}}) {{ runs {{ info {{ runId }} }} }} }}",
        "{{ mlflowSearchRuns(input: {{experimentIds: {id}}}) {{ runs {{ info {{ runId }} }} }} }}",
        "query Q($i: String = {id}) {{ mlflowGetExperiment(input: {{experimentId: $i}}) {{ experiment {{ name }} }} }}",
    ],
)
def test_a_graphql_text_is_read_as_graphql_reads_it(
    stack: Deployment, intruders: Intruders, query: str, literal: str
) -> None:
    """GraphQL has escapes and block strings that JSON has not."""
    body = {"query": query.format(id=literal.format(id=intruders.experiment))}
    reply = read_json(stack, intruders.editor, "/graphql", json.dumps(body))
    assert reply.statuses[0] in {200, 400, 403}
    assert SECRET_NAME.encode() not in reply.body
    assert intruders.run.encode() not in reply.body


def test_the_raw_client_reads_answers_as_they_are(stack: Deployment, intruders: Intruders) -> None:
    """The twin of all above: a plain request with a login is answered."""
    reply = rawhttp.request(stack.port, "/version", login=intruders.viewer)
    assert reply.statuses == [200]
    assert reply.body.startswith(b"3.")
    assert len(reply.request_ids) == 1
