"""The environment: read, and set for the libraries, here and nowhere else."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wine.errors import TrainerError

_DEFAULTS = {
    "GIT_PYTHON_REFRESH": "quiet",  # GitPython complains where no git is installed
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a closed network has nobody to report to
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # a minute: enough for a gateway that restarts in the middle of a run
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the URL inside the network is none a reader can open
}
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}  # seconds


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    tracking_uri: str
    """MLFLOW_TRACKING_URI: the gateway's address."""
    user: str | None = None
    """STACK_USER: shown as the run's user; without it MLflow shows the account that logs in."""
    git_commit: str | None = None
    """STACK_GIT_COMMIT: the commit that the trainer was built from."""


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        TrainerError: MLFLOW_TRACKING_URI is unset, empty, or no URL; `sqlite://` is for tests without a server.
    """
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not tracking_uri.startswith(("http://", "https://", "sqlite://")):
        seen = f"is {tracking_uri!r}, no URL" if tracking_uri else "is not set"
        raise TrainerError(f"MLFLOW_TRACKING_URI {seen}: set it to the gateway's address, http://host:port")
    return Settings(
        tracking_uri=tracking_uri,
        user=os.environ.get("STACK_USER") or None,
        git_commit=os.environ.get("STACK_GIT_COMMIT") or None,
    )


def read_sweeps_folder() -> Path:
    """Return STACK_SWEEPS, the folder of the sweeps that are not finished."""
    return Path(os.environ.get("STACK_SWEEPS") or "/sweeps")


def tame_libraries() -> None:
    """Leave the output to the trainer's own lines and shorten MLflow's patience; call it before importing MLflow."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("matplotlib", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def prepare_programs() -> None:
    """Set the environment for programs of others that this process starts: a home that can't be written is no home."""
    os.environ.setdefault("MPLCONFIGDIR", "/tmp/matplotlib")  # nosec B108


@contextmanager
def impatience() -> Iterator[None]:
    """Have MLflow ask once and wait five seconds, where by default it retries for minutes."""
    before = {name: os.environ.get(name) for name in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
