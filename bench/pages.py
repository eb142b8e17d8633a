"""What MLflow's pages cost a browser on a slow line: this stack, without and with TLS, beside stock MLflow."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.ui import WebDriverWait

from bench.client import Login
from bench.effort import Effort
from bench.load import LoadError
from bench.report import Comparison, Machine, render
from bench.settings import Settings
from bench.stacks import Servers
from stack.walk import Browser, open_browser, was_interrupted

# Chromium's own idea of a line: each answer begins so much later, and all share the throughput.
MEGABITS, LATENCY_MS = 10, 40
LINE = {
    "offline": False,
    "latency": LATENCY_MS,
    "downloadThroughput": MEGABITS * 1e6 / 8,
    "uploadThroughput": MEGABITS * 1e6 / 8,
}
WAIT_SECONDS, QUIET_SECONDS, ATTEMPTS = 40, 0.7, 4
EXPERIMENT, RUNS, KEYS = "9101", 150, 8
# The same in every server's database.
FILL = f"""
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time)
    SELECT {EXPERIMENT}, 'bench of pages', 'mlflow-artifacts:/{EXPERIMENT}', 'active', now, now
    FROM (SELECT extract(epoch FROM now())::bigint * 1000 AS now) AS made;
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
        source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT id, 'table run ' || n, 'UNKNOWN', '', '', 'u', 'FINISHED', n * 60000, n * 60000 + 5000, '', 'active',
        'mlflow-artifacts:/{EXPERIMENT}/' || id || '/artifacts', {EXPERIMENT}
    FROM (SELECT n, md5('page ' || n) AS id FROM generate_series(1, {RUNS}) AS n) AS made;
    INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
    SELECT md5('page ' || n), 'metric ' || k, random(), 1, 1, false
    FROM generate_series(1, {RUNS}) AS n, generate_series(1, {KEYS}) AS k;
    INSERT INTO params (run_uuid, key, value)
    SELECT md5('page ' || n), 'param ' || k, (n % 7)::text
    FROM generate_series(1, {RUNS}) AS n, generate_series(1, {KEYS}) AS k;
    INSERT INTO tags (run_uuid, key, value)
    SELECT md5('page ' || n), 'mlflow.runName', 'table run ' || n FROM generate_series(1, {RUNS}) AS n;
    ANALYZE;
"""
# Each page, and the text by which it is there: of the last that it asks the server for.
PAGES = {
    "first page": ("/", "bench of pages"),
    f"table of {RUNS} runs": (f"/#/experiments/{EXPERIMENT}/runs", f"table run {RUNS}"),
}
TITLES = {"plain": "this stack", "tls": "this stack, TLS and HTTP/2", "stock": "stock MLflow"}
# Runs in each page before its own scripts: notes when the text is there.
WATCH = """
performance.setResourceTimingBufferSize(2000);
const look = () => {
    if (document.body && document.body.textContent.includes(%s)) window.shownAfter = performance.now();
    else requestAnimationFrame(look);
};
look();
"""
# (What came from the cache has transferred nothing.)
COUNT = """
const entries = ["navigation", "resource"].flatMap(kind => performance.getEntriesByType(kind));
const sent = entries.filter(each => each.transferSize > 0);
return [entries.length, window.shownAfter, sent.length, sent.reduce((sum, each) => sum + each.transferSize, 0)];
"""


@dataclass(frozen=True)
class Load:
    """One load of a page.

    Attributes:
        milliseconds: from the address to the page with its data.
        requests: how many went over the network.
        kilobytes: how much came over it.
    """

    milliseconds: float
    requests: float
    kilobytes: float


Pair = tuple[Load, Load]  # by a browser that has never been there, and by the same again


@dataclass(frozen=True)
class Loaded:
    """What was found: by server (TITLES) and page (PAGES)."""

    machine: Machine
    figures: dict[str, dict[str, Pair]]

    def compare(self) -> list[Comparison]:
        """Return how much faster than stock MLflow's the pages are."""
        found = []
        for name in ("plain", "tls"):
            for page in PAGES:
                for which, turn in enumerate(("first", "second")):
                    ratio = (
                        self.figures["stock"][page][which].milliseconds / self.figures[name][page][which].milliseconds
                    )
                    title = f"{page}, {turn} load: {TITLES[name]} beside stock MLflow"
                    found.append(Comparison(f"{name} {page} {turn}", title, ratio, "x", "≥", 1))
        return found

    def to_text(self) -> str:
        """Return the tables."""
        rows = [
            [f"{page}: {title}", *(cell for load in self.figures[name][page] for cell in to_cells(load))]
            for page in PAGES
            for name, title in TITLES.items()
        ]
        head = [f"{MEGABITS} Mbit/s, {LATENCY_MS} ms", "first: s", "requests", "KB", "second: s", "requests", "KB"]
        comparisons = [each.to_row() for each in self.compare()]
        tables = [render(head, rows), render(["comparison", "seen", "goal", "reached"], comparisons)]
        return "\n\n".join([*tables, self.machine.describe()])

    def to_data(self) -> dict[str, Any]:
        """Return all of it for a program."""
        comparisons = [{**asdict(each), "is_reached": each.is_reached} for each in self.compare()]
        return {"pages": {**asdict(self), "comparisons": comparisons}}


def to_cells(load: Load) -> list[str]:
    """Return the cells of one load."""
    return [f"{load.milliseconds / 1000:.2f}", f"{load.requests:.0f}", f"{load.kilobytes:.0f}"]


def choose_middle(loads: Sequence[Load]) -> Load:
    """Return the median of each figure."""
    return Load(
        statistics.median(load.milliseconds for load in loads),
        statistics.median(load.requests for load in loads),
        statistics.median(load.kilobytes for load in loads),
    )


def trust(url: str) -> tuple[str, ...]:
    """Return the flag by which a browser believes the server's certificate, if there is one, and keeps what comes."""
    address = urlsplit(url)
    if address.scheme != "https":
        return ()
    shown = x509.load_pem_x509_certificate(
        ssl.get_server_certificate((str(address.hostname), address.port or 443)).encode()
    )
    key = shown.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (f"ignore-certificate-errors-spki-list={base64.b64encode(hashlib.sha256(key).digest()).decode()}",)


def load_page(browser: Browser, address: str) -> Load:
    """Open a page; return when it shows what it should and asks for nothing more. Raises WebDriverException."""
    browser.get("about:blank")
    start = time.monotonic()
    browser.get(address)
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: driver.execute_script("return window.shownAfter"), address
    )
    known, since = 0, time.monotonic()
    while time.monotonic() < min(since + QUIET_SECONDS, start + WAIT_SECONDS):
        time.sleep(0.1)
        count = browser.execute_script(COUNT)[0]
        if count != known:
            known, since = count, time.monotonic()
    _, milliseconds, requests, sent = browser.execute_script(COUNT)
    return Load(milliseconds, requests, sent / 1000)


def load_twice(place: Settings, url: str, login: Login | None, path: str, text: str) -> Pair:
    """Load a page by a browser that has never been there, then once more. Raises WebDriverException, LoadError."""
    for _ in range(ATTEMPTS):
        with (
            tempfile.TemporaryDirectory(dir=place.scratch) as folder,
            open_browser(Path(folder) / "profile", *trust(url)) as browser,
        ):
            scheme, _, rest = url.partition("://")
            browser.get(f"{scheme}://{':'.join(login)}@{rest}/version" if login else f"{url}/version")
            browser.execute_cdp_cmd("Network.enable", {})
            browser.execute_cdp_cmd("Network.emulateNetworkConditions", LINE)
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH % json.dumps(text)})
            failure: WebDriverException | None = None
            try:
                pair = load_page(browser, url + path), load_page(browser, url + path)
            except WebDriverException as error:
                failure = error
            if was_interrupted(browser):
                continue
            if failure:
                raise failure
            return pair
    raise LoadError(
        f"{url}: the machine's networks changed during each of {ATTEMPTS} loads: start no container meanwhile"
    )


def measure(place: Settings, servers: Servers, chosen: Effort, machine: Machine) -> Loaded:
    """Load all pages of all three by turns; this stack is stopped in the end. Raises LoadError."""
    deployment = servers.deployment

    def fill(service: str) -> None:
        deployment.compose("exec", "-T", service, "psql", "-qd", "mlflow", "-v", "ON_ERROR_STOP=1", "-c", FILL)

    # With TLS the gateway listens for the stack's own clients without it: the same server either way.
    deployment.environment["STACK_TLS"], deployment.scheme = "self-signed", "https"
    deployment.check("up", "--no-train", timeout=900)
    fill("postgres")
    servers.stop("serving", "follower")
    servers.start_stock_database()
    fill("stock-postgres")
    urls = {
        "plain": f"http://{deployment.compose('port', 'nginx', '5001').strip()}",
        "tls": servers.url,
        "stock": servers.start_others("stock-open"),
    }
    pairs: dict[str, dict[str, list[Pair]]] = {name: {page: [] for page in PAGES} for name in TITLES}
    for _ in range(chosen.page_loads):
        for page, (path, text) in PAGES.items():
            for name, url in urls.items():
                login = None if name == "stock" else servers.login
                try:
                    pairs[name][page].append(load_twice(place, url, login, path, text))
                except WebDriverException as error:
                    raise LoadError(f"{url}: {(error.msg or '').strip() or type(error).__name__}") from error
    servers.stop("stock-open", "stock-postgres", "nginx", "mlflow")
    del deployment.environment["STACK_TLS"]
    deployment.scheme = "http"
    figures = {
        name: {
            page: (choose_middle([f for f, _ in each]), choose_middle([s for _, s in each]))
            for page, each in of.items()
        }
        for name, of in pairs.items()
    }
    return Loaded(machine, figures)
