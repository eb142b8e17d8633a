"""MLflow's pages in a real browser, through the login."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from stack.deployment import Deployment

Login = tuple[str, str]
FLAGS = (
    "headless=new",
    "no-sandbox",  # the tests run as root in a container of their own
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "window-size=1500,1000",
)
WAIT_SECONDS = 30
MODEL = "Wine_Elasticnet_Sklearn_Regressor"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def log_in(browser: webdriver.Chrome, stack: Deployment, login: Login) -> None:
    browser.get(stack.url.replace("http://", f"http://{login[0]}:{login[1]}@") + "/version")
    browser.get(stack.url + "/")


def see(browser: webdriver.Chrome, *texts: str) -> None:
    """Wait until the page shows all texts."""
    for text in texts:
        WebDriverWait(browser, WAIT_SECONDS).until(
            expected_conditions.text_to_be_present_in_element((By.TAG_NAME, "body"), text), f"not on the page: {text}"
        )


def open_page(browser: webdriver.Chrome, stack: Deployment, fragment: str) -> None:
    browser.get(f"{stack.url}/#{fragment}")


def make_grid(client: MlflowClient) -> tuple[str, list[str]]:
    """Make four runs over two params, as a contour plot needs them. Returns the experiment's and the runs' ids."""
    experiment = client.create_experiment("Compared")
    runs = []
    for alpha, l1_ratio, rmse in ((0.1, 0.1, 0.71), (0.1, 0.9, 0.75), (0.9, 0.1, 0.77), (0.9, 0.9, 0.82)):
        run = client.create_run(experiment, run_name=f"alpha {alpha} l1_ratio {l1_ratio}").info.run_id
        client.log_param(run, "alpha", alpha)
        client.log_param(run, "l1_ratio", l1_ratio)
        client.log_metric(run, "rmse", rmse)
        client.set_terminated(run)
        runs.append(run)
    return experiment, runs


def test_without_a_login_the_browser_shows_nothing_of_mlflow(browser: webdriver.Chrome, stack: Deployment) -> None:
    browser.get(stack.url + "/")
    assert "MLflow" not in browser.title
    assert "root" not in browser.page_source


def walk(browser: webdriver.Chrome, stack: Deployment, experiment: str, run: str, compared: str) -> None:
    """See every page that the article shows; `compared` is the query of the comparison."""
    open_page(browser, stack, "/experiments")
    see(browser, "Wine Regression", "Default")

    open_page(browser, stack, f"/experiments/{experiment}/runs")
    see(browser, "Sk_Elasticnet")

    open_page(browser, stack, f"/experiments/{experiment}/runs/{run}")
    see(browser, "rmse", "0.79316", "alpha", "Analytics Principal", "winequality-red", MODEL, "Created by", "Source")

    open_page(browser, stack, f"/experiments/{experiment}/runs/{run}/artifacts/plots/residuals.png")
    see(browser, "coefficients.png", "plots/residuals.png")
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: driver.execute_script(
            "return [...document.images].some(i => i.complete && i.naturalWidth > 400 && i.naturalHeight > 300)"
        ),
        "the plot is not shown",
    )
    open_page(browser, stack, f"/experiments/{experiment}/runs/{run}/artifacts/code/model.py")
    browser.refresh()  # the page reads the path to open once
    see(browser, "ElasticNet")

    open_page(browser, stack, f"/compare-runs?{compared}")
    see(browser, "Comparing 4 Runs from 1 Experiment", "Parallel Coordinates Plot")
    for tab in ("Scatter Plot", "Contour Plot", "Parallel Coordinates Plot"):
        browser.find_element(By.XPATH, f"//*[@role='tab'][contains(., '{tab}')]").click()
        WebDriverWait(browser, WAIT_SECONDS).until(
            lambda driver: any(
                plot.is_displayed()
                for plot in driver.find_elements(By.CSS_SELECTOR, ".js-plotly-plot, .parcoords, svg.main-svg")
            ),
            f"{tab} is not drawn",
        )

    open_page(browser, stack, f"/models/{MODEL}")
    see(browser, MODEL, "Version 1", "Version 2", "production")


def find_failed_loads(browser: webdriver.Chrome) -> list[str]:
    """Return what didn't load: that the gateway could have broken. Notices of MLflow's scripts are not ours."""
    messages = [entry["message"] for entry in browser.get_log("browser")]
    # The icon is asked for by the page of the login, which is no page of MLflow's.
    return [text for text in messages if "Failed to load resource" in text and "/favicon.ico" not in text]


def test_the_browser_shows_runs_comparison_artifacts_and_registry(
    browser: webdriver.Chrome, stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    experiment = client.get_experiment_by_name("Wine Regression").experiment_id
    run = client.get_model_version(MODEL, "1").run_id
    grid, compared = make_grid(client)
    query = f"runs={quote(json.dumps(compared))}&experiments={quote(json.dumps([grid]))}"
    log_in(browser, stack, admin)
    see(browser, "admin")
    for _ in range(4):
        failure: TimeoutException | None = None
        try:
            walk(browser, stack, experiment, run, query)
        except TimeoutException as error:
            failure = error
        failed = find_failed_loads(browser)
        # Chromium drops requests when the machine's networks change, as they do while other tests start a stack.
        if not any("ERR_NETWORK_CHANGED" in text for text in failed):
            break
    assert failed == []
    if failure:
        raise failure
