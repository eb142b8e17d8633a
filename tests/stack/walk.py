"""MLflow's pages in a real browser, in the article's order; each step returns when its page shows what it should.

The tests take these steps, and `./stack screenshots` makes a picture after each: none shows what no test looks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

Browser = webdriver.Chrome
WIDTH, HEIGHT = 1500, 1000
FLAGS = (
    "headless=new",
    "no-sandbox",  # the tests run as root in a container of their own
    "disable-gpu",
    "enable-unsafe-swiftshader",  # WebGL without a GPU: charts need it, and newer Chromiums do not choose it themselves
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    f"window-size={WIDTH},{HEIGHT}",
)
WAIT_SECONDS = 90
ATTEMPTS = 8
INTERRUPTED = "ERR_NETWORK_CHANGED"
# The icon is asked for by the page of the login, which is no page of MLflow's; the others are closed by the stack
# (tracking/closed.py), and MLflow's pages do without them.
NOT_THERE = ("/favicon.ico", "/mlflow/assistant/", "/mlflow/gateway-proxy?")
EXPERIMENT = "Wine Regression"
MODEL = "Wine_Elasticnet_Sklearn_Regressor"


@dataclass(frozen=True)
class Subject:
    """What is walked through.

    Attributes:
        url: the stack.
        user: who is logged in.
        experiment: id of the trainer's experiment.
        run: id of the run of version 1 there, the article's.
        compared: ids of some runs of one experiment.
        grid: id of that experiment.
        version: the version that is in Production.
        tags: the tags that its promotion gave it.
    """

    url: str
    user: str
    experiment: str
    run: str
    compared: tuple[str, ...]
    grid: str
    version: str
    tags: dict[str, str]


def find_subject(client: MlflowClient, url: str, user: str, compared: Sequence[str]) -> Subject:
    """Return what there is to see; `compared` are runs of one experiment."""
    promoted = client.get_model_version_by_alias(MODEL, "production")
    return Subject(
        url=url,
        user=user,
        experiment=client.get_experiment_by_name(EXPERIMENT).experiment_id,
        run=client.get_model_version(MODEL, "1").run_id,
        compared=tuple(compared),
        grid=client.get_run(compared[0]).info.experiment_id,
        version=promoted.version,
        tags={name: value for name, value in promoted.tags.items() if name.startswith("stack.")},
    )


# --------------------------------------------------------------------------------------------------------- the browser
@contextmanager
def open_browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """Yield a browser that has never been anywhere; `profile` is a folder for it to make."""
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, *flags, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        # The page itself, without the frame that counts as part of a window.
        screen = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        yield driver
    finally:
        driver.quit()


def log_in(browser: Browser, url: str, login: tuple[str, str]) -> None:
    browser.get(url.replace("http://", f"http://{login[0]}:{login[1]}@") + "/version")
    browser.get(url + "/")


def see(browser: Browser, *texts: str) -> None:
    """Wait until the page shows all texts."""
    for text in texts:
        WebDriverWait(browser, WAIT_SECONDS).until(
            expected_conditions.text_to_be_present_in_element((By.TAG_NAME, "body"), text), f"not on the page: {text}"
        )


def find(browser: Browser, path: str) -> WebElement:
    """Return the element of this XPath as soon as it can be clicked."""
    return WebDriverWait(browser, WAIT_SECONDS).until(
        expected_conditions.element_to_be_clickable((By.XPATH, path)), f"not on the page: {path}"
    )


def open_page(browser: Browser, url: str, fragment: str) -> None:
    browser.get(f"{url}/#{fragment}")


def find_failed_loads(browser: Browser) -> list[str]:
    """Return what didn't load since the last question: the gateway could have broken it.

    Notices of MLflow's scripts are not ours.
    """
    return [
        text
        for text in (entry["message"] for entry in browser.get_log("browser"))
        if ("Failed to load resource" in text and not any(path in text for path in NOT_THERE))
        or "Content Security Policy" in text
    ]


def was_interrupted(browser: Browser) -> bool:
    """Return whether the machine's networks have changed since the last question: Chromium drops requests then."""
    return any(INTERRUPTED in entry["message"] for entry in browser.get_log("browser"))


def outlast(browser: Browser, attempt: Callable[[Callable[[], list[str]]], None]) -> None:
    """Do something by a browser, and once more where the machine's networks have changed meanwhile.

    They do while other tests start a stack, and Chromium drops requests then. The attempt is given a function that
    returns what the browser has said so far (which the browser itself says once).
    """
    for number in range(ATTEMPTS):
        said: list[str] = []

        def read(said: list[str] = said) -> list[str]:
            said += [entry["message"] for entry in browser.get_log("browser")]
            return said

        read()
        said.clear()
        failure: Exception | None = None
        try:
            attempt(read)
        except (WebDriverException, AssertionError) as error:
            failure = error
        if not any(INTERRUPTED in text for text in [*read(), str(failure)]) or number == ATTEMPTS - 1:
            break
        browser.get("about:blank")
    if failure:
        raise failure


# ----------------------------------------------------------------------------------------------------------- the pages
# What MLflow's pages remember of a user who has closed the assistant and the notice of telemetry: in this stack neither
# works anyway (tracking/closed.py).
CLOSED = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
}
IN_THE_WAY = "[role=dialog], [aria-label='Close alert'], [data-component-id='mlflow.assistant.chat_panel.close']"


def show_login(browser: Browser, subject: Subject) -> None:
    """The first page after the login, with the user's name."""
    browser.get(subject.url + "/version")  # of the same origin, and without MLflow's scripts
    browser.execute_script("Object.entries(arguments[0]).forEach(pair => localStorage.setItem(...pair))", CLOSED)
    browser.get(subject.url + "/")
    find(browser, "//*[@role='button'][normalize-space()='Model training']").click()
    see(browser, subject.user, "Experiments", "Model registry")


def show_experiments(browser: Browser, subject: Subject) -> None:
    open_page(browser, subject.url, "/experiments")
    see(browser, EXPERIMENT, "Default")


def show_runs(browser: Browser, subject: Subject) -> None:
    open_page(browser, subject.url, f"/experiments/{subject.experiment}/runs")
    see(browser, "Sk_Elasticnet")


def show_run(browser: Browser, subject: Subject) -> None:
    """Metrics, params, tags, data set, registered model, and where the run comes from."""
    open_page(browser, subject.url, f"/experiments/{subject.experiment}/runs/{subject.run}")
    see(browser, "rmse", "0.79316", "alpha", "Analytics Principal", "winequality-red", MODEL, "Created by", "Source")


def open_artifact(browser: Browser, subject: Subject, path: str) -> None:
    open_page(browser, subject.url, f"/experiments/{subject.experiment}/runs/{subject.run}/artifacts/{path}")
    browser.refresh()  # the page reads the path to open once


def show_plot(browser: Browser, subject: Subject) -> None:
    open_artifact(browser, subject, "plots/residuals.png")
    see(browser, "coefficients.png", "plots/residuals.png")
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: driver.execute_script(
            "return [...document.images].some(i => i.complete && i.naturalWidth > 400 && i.naturalHeight > 300)"
        ),
        "the plot is not shown",
    )


def show_code(browser: Browser, subject: Subject) -> None:
    open_artifact(browser, subject, "code/model.py")
    see(browser, "ElasticNet")


# Whether a chart's points or lines are drawn. Plotly draws them by WebGL onto canvases, which are there also where the
# browser can't do that: so their pixels are looked at.
DRAWN = """
return [...document.querySelectorAll(".js-plotly-plot canvas")].some(canvas => {
    if (!canvas.width || !canvas.offsetParent) return false;
    const copy = document.createElement("canvas");
    copy.width = canvas.width; copy.height = canvas.height;
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
    let painted = 0;
    for (let i = 3; i < pixels.length; i += 4) if (pixels[i] > 0) painted += 1;
    return painted > 100;
});
"""


def compare(browser: Browser, subject: Subject, tab: str) -> None:
    """Open the comparison and one of its charts."""
    query = f"runs={quote(json.dumps(subject.compared))}&experiments={quote(json.dumps([subject.grid]))}"
    open_page(browser, subject.url, f"/compare-runs?{query}")
    see(browser, f"Comparing {len(subject.compared)} Runs from 1 Experiment", "Parallel Coordinates Plot")
    find(browser, f"//*[@role='tab'][contains(., '{tab}')]").click()
    WebDriverWait(browser, WAIT_SECONDS).until(lambda driver: driver.execute_script(DRAWN), f"{tab} is not drawn")


def choose(browser: Browser, selector: str, option: str) -> None:
    """Choose what an axis of a chart shows."""
    find(
        browser, f"//*[@id='{selector}']/ancestor-or-self::*[self::button or contains(@class, 'select-selector')][1]"
    ).click()
    find(browser, f"//*[@role='option' or contains(@class, 'item-option')][normalize-space()='{option}']").click()


def show_parallel_coordinates(browser: Browser, subject: Subject) -> None:
    compare(browser, subject, "Parallel Coordinates Plot")
    axes = {axis.get_attribute("textContent") for axis in browser.find_elements(By.CSS_SELECTOR, ".axis-title")}
    assert axes >= {"alpha", "l1_ratio"}, axes


# Where the middle of the chart and its first run's point are.
POINT = """
const chart = document.querySelector(".js-plotly-plot"), {xaxis, yaxis} = chart._fullLayout;
const {x, y} = chart._fullData[0], {width, height} = chart.getBoundingClientRect();
return [xaxis._offset + xaxis.d2p(x[0]) - width / 2, yaxis._offset + yaxis.d2p(y[0]) - height / 2];
"""


def show_scatter(browser: Browser, subject: Subject) -> None:
    """A param against a metric, and the run's name where the pointer is."""
    compare(browser, subject, "Scatter Plot")
    choose(browser, "y-axis-selector", "rmse")
    chart = browser.find_element(By.CSS_SELECTOR, ".js-plotly-plot")
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, ".js-plotly-plot .ytitle").text == "rmse",
        "the scatter plot does not show rmse",
    )
    right, down = browser.execute_script(POINT)
    ActionChains(browser).move_to_element(chart).move_to_element_with_offset(chart, round(right), round(down)).perform()
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: "rmse" in driver.find_element(By.CSS_SELECTOR, ".hoverlayer .hovertext").text,
        "no run is named where the pointer is",
    )


def show_contour(browser: Browser, subject: Subject) -> None:
    compare(browser, subject, "Contour Plot")
    choose(browser, "zaxis-selector", "rmse")
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, ".contourlayer path, .contourlayer image"),
        "there are no contours",
    )


def show_aliases(browser: Browser, subject: Subject) -> None:
    open_page(browser, subject.url, f"/models/{MODEL}")
    see(browser, MODEL, "Version 1", f"Version {subject.version}", "Aliases", "production")


def show_promotion(browser: Browser, subject: Subject) -> None:
    """The version in Production: alias, stage, and what its promotion wrote."""
    open_page(browser, subject.url, f"/models/{MODEL}/versions/{subject.version}")
    see(browser, f"Version {subject.version}", "production", "Production", *subject.tags)
    assert {"stack.promoted_by", "stack.promoted_at", "stack.promoted_from"} <= subject.tags.keys()


def show_stages(browser: Browser, subject: Subject) -> None:
    """The registry as it was before aliases, which MLflow shows when its new pages of the registry are switched off."""
    open_page(browser, subject.url, f"/models/{MODEL}")
    switch = find(browser, "//*[@role='switch'][@aria-label='New model registry UI']")
    if switch.get_attribute("aria-checked") == "true":
        switch.click()
        find(browser, "//*[@role='dialog']//button[normalize-space()='Disable']").click()
    see(browser, MODEL, "Stage", "Production")


PAGES: dict[str, Callable[[Browser, Subject], None]] = {
    "login": show_login,
    "experiments": show_experiments,
    "runs": show_runs,
    "run": show_run,
    "plot": show_plot,
    "code": show_code,
    "parallel-coordinates": show_parallel_coordinates,
    "contour": show_contour,
    "scatter": show_scatter,
    "promotion": show_promotion,
    "aliases": show_aliases,
    "stages": show_stages,
}


def walk(browser: Browser, subject: Subject) -> Iterator[str]:
    """Yield the name of each page as soon as it shows what it should.

    Raises:
        WebDriverException: A page doesn't.
        AssertionError: Something didn't load.
    """
    for name, show in PAGES.items():
        failed: list[str] = []
        failure: WebDriverException | None = None
        for _ in range(ATTEMPTS):
            failure = None
            try:
                show(browser, subject)
                WebDriverWait(browser, WAIT_SECONDS).until_not(
                    lambda driver: any(
                        each.is_displayed() for each in driver.find_elements(By.CSS_SELECTOR, IN_THE_WAY)
                    ),
                    "something lies over the page",
                )
            except WebDriverException as error:
                failure = error
            failed = find_failed_loads(browser)
            # Chromium drops requests when the machine's networks change, as they do while other tests start a stack.
            if not any(INTERRUPTED in text for text in [*failed, str(failure)]):
                break
            browser.get("about:blank")  # to ask for the same page once more would not load it again
        assert failed == [], f"{name}: {failed}"
        if failure:
            raise failure
        yield name
