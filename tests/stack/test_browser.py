"""MLflow's pages in a real browser, through the login."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from stack.deployment import Deployment
from stack.walk import PAGES, WAIT_SECONDS, Browser, find_subject, log_in, open_browser, open_page, outlast, see, walk

Login = tuple[str, str]
Said = Callable[[], list[str]]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path / "profile") as opened:
        yield opened


def make_grid(client: MlflowClient) -> list[str]:
    """Make four runs over two params, as a contour plot needs them. Returns their ids."""
    experiment = client.create_experiment("Compared")
    runs = []
    for alpha, l1_ratio, rmse in ((0.1, 0.1, 0.71), (0.1, 0.9, 0.75), (0.9, 0.1, 0.77), (0.9, 0.9, 0.82)):
        run = client.create_run(experiment, run_name=f"alpha {alpha} l1_ratio {l1_ratio}").info.run_id
        client.log_param(run, "alpha", alpha)
        client.log_param(run, "l1_ratio", l1_ratio)
        client.log_metric(run, "rmse", rmse)
        client.set_terminated(run)
        runs.append(run)
    return runs


def test_without_a_login_the_browser_shows_nothing_of_mlflow(browser: Browser, stack: Deployment) -> None:
    def attempt(_: Said) -> None:
        browser.get(stack.url + "/")
        assert "MLflow" not in browser.title
        assert "root" not in browser.page_source

    outlast(browser, attempt)


def test_the_browser_shows_runs_comparison_artifacts_and_registry(
    browser: Browser, stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    subject = find_subject(client, stack.url, admin[0], make_grid(client))
    log_in(browser, stack.url, admin)
    assert list(walk(browser, subject)) == list(PAGES)


# What a script of somebody else's tries: to read, and to change by each way that a browser has. `found` tells the test.
ATTACK = """
const base = "%(base)s", found = {};
const body = name => JSON.stringify({name: "%(mark)s " + name});
const json = {"Content-Type": "application/json"};
const attempts = {
    read: () => fetch(base + "/ajax-api/2.0/mlflow/experiments/get?experiment_id=0", {credentials: "include"})
        .then(answer => answer.text()),
    change: () => fetch(base + "/ajax-api/2.0/mlflow/experiments/create",
        {method: "POST", credentials: "include", headers: json, body: body("change")}).then(answer => answer.text()),
    simple: () => fetch(base + "/ajax-api/2.0/mlflow/experiments/create",
        {method: "POST", mode: "no-cors", credentials: "include", body: body("simple")}).then(answer => answer.text()),
    graphql: () => fetch(base + "/graphql", {method: "POST", mode: "no-cors", credentials: "include",
        body: "{}"}).then(answer => answer.text()),
};
Promise.all(Object.entries(attempts).map(([name, attempt]) =>
    attempt().then(text => { found[name] = text; }, error => { found[name] = "failed"; })
)).then(() => { found.origin = window.origin;
    const shown = document.body.appendChild(document.createElement("pre"));
    shown.textContent = JSON.stringify(found); shown.id = "tried"; });
"""


# Another port of the same host is of the same site to a browser, and MLflow by itself lets both in.
@pytest.fixture(params=["localhost", "127.0.0.1"])
def foreign_page(stack: Deployment, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a page of another origin, whose script attacks the stack."""
    script = ATTACK % {"base": stack.url, "mark": "foreign"}
    page = f"<html><body><iframe src='{stack.url}/'></iframe><script>{script}</script></body></html>".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{request.param}:{server.server_port}/"
        server.shutdown()


def wait_for_attack(browser: Browser) -> dict[str, str]:
    """Return what the script found."""
    WebDriverWait(browser, WAIT_SECONDS).until(lambda driver: driver.find_elements(By.ID, "tried"), "no end of it")
    found: dict[str, str] = json.loads(browser.find_element(By.ID, "tried").get_attribute("textContent") or "")
    return found


def names_with(client: MlflowClient, mark: str) -> list[str]:
    return [each.name for each in client.search_experiments() if each.name.startswith(mark)]


def test_a_foreign_page_can_neither_read_nor_change_with_a_logged_in_browser(
    browser: Browser, stack: Deployment, admin: Login, client: MlflowClient, foreign_page: str
) -> None:
    def attempt(said: Said) -> None:
        log_in(browser, stack.url, admin)
        see(browser, "admin")
        # The same script in a page of ours reads and changes: what it tries is possible.
        mark = f"own {time.time_ns()} {foreign_page}"
        own = ATTACK % {"base": stack.url, "mark": mark}
        browser.execute_script(own)
        found = wait_for_attack(browser)
        assert "Default" in found["read"]
        assert names_with(client, mark) == [f"{mark} change"]  # MLflow itself wants JSON to be called so
        browser.get(foreign_page)
        found = wait_for_attack(browser)
        assert (found["read"], found["change"]) == ("failed", "failed")
        assert (found["simple"], found["graphql"]) == ("failed", "failed")
        assert names_with(client, "foreign") == []
        refused = [line for line in stack.logs("nginx").splitlines() if '"status":403' in line and "ajax-api" in line]
        if (
            "127.0.0.1" in foreign_page
        ):  # the browser did send the login: that nothing came of it is the gateway's doing
            refused = [line for line in refused if '"user":"admin"' in line]
        assert any("experiments/get" in line for line in refused), refused
        assert any("experiments/create" in line for line in refused), refused
        WebDriverWait(browser, WAIT_SECONDS).until(
            lambda _: any("frame-ancestors" in text for text in said()),
            "the browser doesn't say that it refuses to frame our page",
        )

    outlast(browser, attempt)


def log_page(text: str, name: str) -> str:
    """Log an artifact to a new run of the default experiment. Returns the run's id."""
    with mlflow.start_run(experiment_id="0") as run:
        mlflow.log_text(text, name)
    identifier: str = run.info.run_id
    return identifier


# A URL that doesn't offer a download, as MLflow's do.
SIGN = """
from itsdangerous import URLSafeSerializer
key = open("/run/secrets/flask_secret_key").read().strip()
parameters = {{"Bucket": "mlflow-artifacts", "Key": "{key}"}}
print(URLSafeSerializer(key, salt="artifact url").dumps(["get_object", parameters, 2**31]))
"""


@pytest.mark.parametrize("kind", ["html", "svg"])
def test_an_uploaded_page_opened_by_its_address_runs_no_script(
    browser: Browser, stack: Deployment, admin: Login, client: MlflowClient, kind: str
) -> None:
    script = "document.documentElement.setAttribute('ran', window.origin)"
    page = {
        "html": f"<html><body><p>uploaded</p><script>{script}</script></body></html>",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><text y="20">uploaded</text><script>{script}</script></svg>',
    }[kind]
    run = log_page(page, f"page.{kind}")
    path = f"0/{run}/artifacts/page.{kind}"
    token = stack.compose("exec", "-T", "mlflow", "python", "-c", SIGN.format(key=path)).strip()

    def attempt(_: Said) -> None:
        log_in(browser, stack.url, admin)
        browser.get(f"{stack.url}/signed/{token}")
        assert "uploaded" in browser.page_source
        assert browser.find_element(By.CSS_SELECTOR, ":root").get_attribute("ran") is None
        browser.get("about:blank")
        signed_for_download = stack.ask(f"/api/2.0/mlflow-artifacts/presigned/{path}", admin).json()["url"]
        for address in (
            f"/get-artifact?run_uuid={run}&path=page.{kind}",
            f"/api/2.0/mlflow-artifacts/artifacts/{path}",
            f"/ajax-api/2.0/mlflow-artifacts/artifacts/{path}",
            signed_for_download.removeprefix(stack.url),
        ):
            answer = stack.ask(address, admin)
            assert answer.content.decode() == page, address
            assert answer.headers["Content-Security-Policy"].startswith("sandbox;"), address
            assert answer.headers["Content-Disposition"].startswith("attachment"), address
            browser.get(stack.url + address)
            assert "uploaded" not in browser.page_source  # offered as a download

    outlast(browser, attempt)


def test_the_pages_show_an_uploaded_page_in_a_frame_without_our_origin(
    browser: Browser, stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    """Charts are such pages: their inline scripts run, where they reach nothing of ours."""
    attack = ATTACK % {"base": stack.url, "mark": "framed"}
    run = log_page(f"<html><body><script>{attack}</script></body></html>", "chart.html")

    def attempt(_: Said) -> None:
        browser.switch_to.default_content()
        log_in(browser, stack.url, admin)
        open_page(browser, stack.url, f"/experiments/0/runs/{run}/artifacts/chart.html")
        browser.refresh()
        WebDriverWait(browser, WAIT_SECONDS).until(
            expected_conditions.frame_to_be_available_and_switch_to_it((By.CSS_SELECTOR, "iframe.mlflow-html-iframe"))
        )
        found = wait_for_attack(browser)
        assert found["origin"] == "null"
        assert (found["read"], found["change"]) == ("failed", "failed")
        assert names_with(client, "framed") == []

    outlast(browser, attempt)


def test_an_uploaded_picture_with_a_script_is_shown_as_a_picture(
    browser: Browser, stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="480"><rect width="640" height="480"/>'
        "<script>document.title = 'ran'</script></svg>"
    )
    run = log_page(picture, "picture.svg")
    shown = "return [...document.images].some(i => i.complete && i.naturalWidth === 640)"

    def attempt(_: Said) -> None:
        log_in(browser, stack.url, admin)
        open_page(browser, stack.url, f"/experiments/0/runs/{run}/artifacts/picture.svg")
        browser.refresh()
        WebDriverWait(browser, WAIT_SECONDS).until(
            lambda driver: driver.execute_script(shown), "the picture is not shown"
        )
        assert browser.title != "ran"

    outlast(browser, attempt)
