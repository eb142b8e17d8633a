"""MLflow's pages are files of the gateway: the same as MLflow's own, compressed ahead, kept by browsers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow import MlflowClient
from selenium.common.exceptions import WebDriverException

from stack import rawhttp
from stack.deployment import Deployment
from stack.walk import ATTEMPTS, INTERRUPTED, log_in, open_browser, see, was_interrupted

Login = tuple[str, str]
# Of the same wheel as the stack's.
BUILD = Path(mlflow.__file__).parent / "server/js/build"
FILES = sorted(str(path.relative_to(BUILD)) for path in BUILD.rglob("*") if path.is_file())
MAIN = next(f"/static-files/{name}" for name in FILES if re.fullmatch(r"static/js/main\.\w+\.js", name))
INDEX = "/static-files/index.html"
# Headers that tell of the file and of the one answer; all others are to be MLflow's.
OF_THE_FILE = {
    "accept-ranges", "cache-control", "content-disposition", "content-encoding", "content-length", "date", "etag",
    "expires", "last-modified", "vary", "x-request-id",
}  # fmt: skip
ODD = [MAIN.removeprefix("/static-files") + end for end in ("/", ".gz", ".br")]
FOREVER = "private, max-age=31536000, immutable"


@pytest.fixture(scope="module")
def session(stack: Deployment, admin: Login) -> Iterator[httpx.Client]:
    """A client that is logged in and asks for nothing compressed."""
    with httpx.Client(base_url=stack.url, auth=admin, timeout=90, headers={"Accept-Encoding": "identity"}) as client:
        yield client


def spell_oddly(path: str) -> str:
    """Return the path in another spelling, which the gateway leaves to MLflow."""
    return path[:-1] + f"%{ord(path[-1]):02x}"


def is_mlflows(answer: httpx.Response) -> bool:
    """Return whether MLflow answered with a file: it names it."""
    return "Content-Disposition" in answer.headers


def keep_common(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in OF_THE_FILE}


def check_file(session: httpx.Client, name: str) -> list[str]:
    """Compare a file with MLflow's own answer, and its compressed forms with the file. Returns what is wrong."""
    path = f"/static-files/{name}"
    ours, theirs = session.get(path), session.get(spell_oddly(path))
    zipped = {coding: session.get(path, headers={"Accept-Encoding": coding}) for coding in ("gzip", "br")}
    content = (BUILD / name).read_bytes()
    checks = {
        "MLflow's is not MLflow's": is_mlflows(theirs),
        "the gateway's is MLflow's": not is_mlflows(ours),
        "status": ours.status_code == theirs.status_code == 200,
        "body": ours.content == theirs.content == content,
        "headers": keep_common(ours) == keep_common(theirs),
    }
    for coding, answer in zipped.items():
        checks[f"{coding}: body"] = answer.content == content
        checks[f"{coding}: headers"] = keep_common(answer) == keep_common(ours)
        checks[f"{coding}: not smaller"] = len(content) < 10_000 or int(answer.headers["Content-Length"]) <= len(
            content
        )
        if len(content) > 1024 and Path(name).suffix in (".js", ".css"):
            checks[f"{coding}: not compressed"] = answer.headers.get("Content-Encoding") == coding
            checks[f"{coding}: caches are not told"] = "Accept-Encoding" in answer.headers["Vary"]
    return [f"{name}: {what}" for what, is_right in checks.items() if not is_right]


def test_each_file_is_as_mlflow_gives_it(session: httpx.Client) -> None:
    assert len(FILES) > 300
    with ThreadPoolExecutor(4) as pool:
        wrong = [each for found in pool.map(lambda name: check_file(session, name), FILES) for each in found]
    assert wrong == []


def test_the_first_page_is_as_mlflow_gives_it(session: httpx.Client, stack: Deployment) -> None:
    ours, theirs = session.get("/"), session.get(f"{stack.url}//")
    assert is_mlflows(theirs)
    assert not is_mlflows(ours)
    assert ours.content == theirs.content == (BUILD / "index.html").read_bytes()
    assert keep_common(ours) == keep_common(theirs)
    assert "set-cookie" not in theirs.headers
    assert session.get("/?workspace=x").content == ours.content


@pytest.mark.parametrize("path", ["/", INDEX, MAIN, "/static-files/none", "/static-files/"])
def test_nothing_of_it_is_there_without_a_login(stack: Deployment, path: str) -> None:
    for login in (None, ("admin", "wrong"), ("nobody", "x")):
        for method in ("GET", "HEAD"):
            answer = stack.ask(path, login, method, headers={"Accept-Encoding": "gzip, br"})
            assert (answer.status_code, answer.headers["WWW-Authenticate"][:5]) == (401, "Basic"), (login, method)
            assert b"MLflow</title>" not in answer.content


def test_what_has_its_hash_in_its_name_is_kept_and_the_rest_is_asked_for_again(session: httpx.Client) -> None:
    lives = {name: session.head(f"/static-files/{name}").headers["Cache-Control"] for name in FILES}
    again = {name for name, life in lives.items() if life != FOREVER}
    assert {name for name in again if not name.endswith(".LICENSE.txt")} == {
        "asset-manifest.json", "favicon.ico", "index.html", "lib/notebook-trace-renderer/index.html", "manifest.json",
    }  # fmt: skip
    assert {lives[name] for name in again} == {"private, no-cache"}
    assert session.head("/").headers["Cache-Control"] == "private, no-cache"
    assert "Cache-Control" not in session.get(f"{MAIN}.not").headers


@pytest.mark.parametrize("path", ["/", MAIN])
def test_a_file_that_is_known_already_is_not_sent_again(session: httpx.Client, path: str) -> None:
    tags = {}
    for coding in ("identity", "gzip", "br"):
        headers = {"Accept-Encoding": coding}
        tags[coding] = session.head(path, headers=headers).headers["ETag"]
        answer = session.get(path, headers={**headers, "If-None-Match": tags[coding]})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert session.get(path, headers={**headers, "If-None-Match": '"other"'}).status_code == 200
    assert len(set(tags.values())) == (3 if path == MAIN else 1)  # one for each form


def test_a_part_of_a_file_and_its_head(session: httpx.Client) -> None:
    content = (BUILD / MAIN.removeprefix("/static-files/")).read_bytes()
    answer = session.get(MAIN, headers={"Range": "bytes=100-199"})
    assert (answer.status_code, answer.content) == (206, content[100:200])
    assert session.get(MAIN, headers={"Range": f"bytes={len(content)}-"}).status_code == 416
    answer = session.head(MAIN)
    assert (answer.status_code, answer.content, int(answer.headers["Content-Length"])) == (200, b"", len(content))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "/", "/none.js", "/static", "/static/", "/index.html", *ODD])
def test_what_is_no_file_is_left_to_mlflow(session: httpx.Client, path: str, method: str) -> None:
    """(Flask answers a method that a path doesn't know without regard to what the path names.)"""
    if (path, method) == ("/index.html", "GET"):
        return
    answer = session.request(method, f"/static-files{path}")
    theirs = session.request(method, f"/%73tatic-files{path}")
    assert (answer.status_code, answer.content) == (theirs.status_code, theirs.content)
    assert answer.status_code != 200 or method == "OPTIONS" or path == ODD[0]  # which is a file to MLflow
    assert keep_common(answer) == keep_common(theirs)


@pytest.mark.parametrize("secret", ["etc/passwd", "etc/nginx/nginx.conf", "usr/share/nginx/html/index.html"])
@pytest.mark.parametrize("step", ["..", "%2e%2e", ".%2e", "..%2f", "%2e%2e%2f", "..%5c", "....", "..;", "static/../.."])
def test_no_spelling_leads_out_of_the_files(stack: Deployment, admin: Login, step: str, secret: str) -> None:
    for target in (
        f"/static-files/{'/'.join([step] * 5)}/{secret}",
        f"/static-files//{secret}",
        f"/static-files/%2f{secret}",
    ):
        reply = rawhttp.request(stack.port, target, login=admin)
        assert reply.statuses[0] in (308, 400, 404), target
        assert not any(mark in reply.data for mark in (b"root:", b"worker_", b"Welcome to nginx")), target


# ------------------------------------------------------------------------------------------------- lists for the pages
LISTS = "/ajax-api/2.0/mlflow/runs/search"
PAGE = {"Accept-Encoding": "gzip", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def long_list(session: httpx.Client) -> dict[str, list[str]]:
    """A question with a long answer."""
    made = session.post("/api/2.0/mlflow/experiments/create", json={"name": "long list"}).json()["experiment_id"]
    params = [{"key": f"param {number}", "value": "x" * 50} for number in range(100)]
    run = session.post("/api/2.0/mlflow/runs/create", json={"experiment_id": made}).json()["run"]["info"]["run_id"]
    assert session.post("/api/2.0/mlflow/runs/log-batch", json={"run_id": run, "params": params}).status_code == 200
    return {"experiment_ids": [made]}


def test_long_lists_are_compressed_for_our_pages(session: httpx.Client, long_list: dict[str, list[str]]) -> None:
    plain = session.post(LISTS, json=long_list)
    answer = session.post(LISTS, json=long_list, headers=PAGE)
    assert len(plain.content) > 8000
    assert (answer.headers["Content-Encoding"], answer.json()) == ("gzip", plain.json())
    assert answer.num_bytes_downloaded < len(plain.content) / 5
    assert keep_common(answer) | {"transfer-encoding": ""} == keep_common(plain) | {"transfer-encoding": ""}


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept-Encoding": "gzip"},
        {"Accept-Encoding": "gzip", "Sec-Fetch-Site": "cross-site"},
        {"Accept-Encoding": "gzip", "Sec-Fetch-Site": "same-site"},
        {"Accept-Encoding": "gzip", "Sec-Fetch-Site": "none"},
        {"Accept-Encoding": "identity", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
def test_for_nobody_else(session: httpx.Client, long_list: dict[str, list[str]], headers: dict[str, str]) -> None:
    assert "Content-Encoding" not in session.post(LISTS, json=long_list, headers=headers).headers


def test_nothing_else_is_compressed(session: httpx.Client, long_list: dict[str, list[str]]) -> None:
    assert "Content-Encoding" not in session.post(LISTS.replace("ajax-", ""), json=long_list, headers=PAGE).headers
    experiment = long_list["experiment_ids"][0]
    run = session.post(LISTS, json=long_list).json()["runs"][0]["info"]["run_id"]
    for path in (
        f"runs/get?run_id={run}",
        f"experiments/get?experiment_id={experiment}",
        "experiments/search?max_results=1",
    ):
        answer = session.get(f"/ajax-api/2.0/mlflow/{path}", headers=PAGE)
        assert (answer.status_code, answer.headers.get("Content-Encoding")) == (200, None), path


def test_what_is_wrong_is_said_as_before(
    stack: Deployment, session: httpx.Client, long_list: dict[str, list[str]]
) -> None:
    wrong = {**long_list, "filter": "no = filter ="}
    plain, answer = session.post(LISTS, json=wrong), session.post(LISTS, json=wrong, headers=PAGE)
    assert (answer.status_code, answer.json()) == (plain.status_code, plain.json())
    assert answer.status_code == 400
    for login in (None, ("admin", "wrong")):
        refused = stack.ask(LISTS, login, "POST", json=long_list, headers=PAGE)
        assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert session.post(LISTS, json=long_list, headers={**PAGE, "Origin": "https://evil.example"}).status_code == 403


# --------------------------------------------------------------------------------------------------------- the browser
LOADED = """
return performance.getEntriesByType("resource").filter(each => each.name.includes("/static-files/"))
    .map(each => [new URL(each.name).pathname, each.transferSize, each.encodedBodySize, each.decodedBodySize]);
"""


def load(stack: Deployment, login: Login, profile: Path, times: int) -> tuple[list[dict[str, list[int]]], bool]:
    """Load the first page some times by one browser. Returns what it loaded each time; whether it was interrupted."""
    loads: list[dict[str, list[int]]] = []
    with open_browser(profile) as browser:
        try:
            for _ in range(times):
                log_in(browser, stack.url, login)
                see(browser, login[0], "Recent Experiments")
                loads.append({path: sizes for path, *sizes in browser.execute_script(LOADED)})
        except WebDriverException as error:
            if was_interrupted(browser) or INTERRUPTED in str(error):
                return loads, True
            raise
        return loads, was_interrupted(browser)


def test_a_browser_loads_the_files_once(stack: Deployment, admin: Login, client: MlflowClient, tmp_path: Path) -> None:
    for attempt in range(ATTEMPTS):
        loads, is_interrupted = load(stack, admin, tmp_path / f"profile{attempt}", 2)
        if not is_interrupted:
            break
    else:
        pytest.skip("the machine's networks changed in the middle of each attempt")
    first, second = loads
    transferred, encoded, decoded = first[MAIN]
    assert transferred >= encoded > 0
    assert decoded > 4 * encoded  # it came compressed
    hashed = {path for path in second if re.search(r"\.[0-9a-f]{8,}\.", path)}
    assert len(hashed & first.keys()) > 5
    assert {path for path in hashed & first.keys() if second[path][0] > 0} == set()
