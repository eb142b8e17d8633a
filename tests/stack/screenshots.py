"""`./stack screenshots`: a stack of its own, the article's path in it, and a picture of every page of the walk."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image
from selenium.common.exceptions import TimeoutException, WebDriverException

from stack.deployment import Deployment
from stack.walk import EXPERIMENT, MODEL, Browser, find_subject, log_in, open_browser, walk

# Beside the two that a new stack trains; the first is the best.
TRAININGS = (("0.02", "0.1"), ("0.1", "0.9"), ("0.5", "0.1"))  # alpha, l1_ratio
REST_SECONDS = 20.0


def say(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


def train(deployment: Deployment) -> None:
    """Do what the article does, by the stack's commands."""
    for alpha, l1_ratio in TRAININGS:
        say(f"Training with alpha {alpha} and l1_ratio {l1_ratio}")
        deployment.check("train", "--alpha", alpha, "--l1-ratio", l1_ratio)
    say("Promoting the best")
    deployment.check("promote", MODEL, "--best", "rmse")


def take_picture(browser: Browser) -> bytes:
    """Return the page as a PNG file, once it stands still: no spinner turns, nothing slides in.

    Raises:
        TimeoutException: It doesn't.
    """
    before, deadline = b"", time.monotonic() + REST_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now: bytes = browser.get_screenshot_as_png()
        if now == before:
            return now
        before = now
    raise TimeoutException(f"the page does not stand still within {REST_SECONDS:.0f} s")


def save(picture: bytes, path: Path) -> None:
    """Write a picture with 256 colours, which is a third of its size. (kmeans keeps rare ones: a chart's points.)"""
    with Image.open(BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)


def take_pictures(url: str, login: tuple[str, str], folder: Path) -> None:
    """Walk through a trained stack's pages, with MLflow's variables set."""
    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    subject = find_subject(client, url, login[0], [run.info.run_id for run in runs])
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile) / "profile") as browser:
        log_in(browser, url, login)
        for name in walk(browser, subject):
            save(take_picture(browser), folder / f"{name}.png")
            say(f"{name}.png")


def main() -> None:
    name, scratch = os.environ["STACK_TEST_NAME"], Path(os.environ["STACK_TEST_SCRATCH"])
    pictures = scratch / "pictures"
    pictures.mkdir()
    deployment = Deployment(f"{name}-main", scratch / "main")
    deployment.prepare()
    try:
        say("Starting a stack")
        deployment.check("up")
        train(deployment)
        variables = deployment.login()
        os.environ.update(variables)
        login = variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]
        take_pictures(deployment.url, login, pictures)
    except (AssertionError, WebDriverException) as error:
        sys.exit(f"screenshots: {error}")


if __name__ == "__main__":
    main()
