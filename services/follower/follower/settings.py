"""All that the container reads from its environment and its secret."""

from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from serving import copies

CREDENTIALS = Path("/run/secrets/credentials")


@dataclass(frozen=True)
class Settings:
    """What this deployment chose.

    Attributes:
        gateway: URL of the gateway inside the stack.
        choices: the models that are to be served.
        log: whether predictions are logged.
    """

    gateway: str
    choices: tuple[copies.Choice, ...]
    log: bool


def load() -> Settings:
    """Return the settings; end with a line for each that is missing."""
    faults = [
        f"follower: {name} is not set: docker-compose.yml sets it"
        for name in ("MLFLOW_TRACKING_URI", "STACK_SERVE", "STACK_PREDICTION_LOG")
        if not os.environ.get(name)
    ]
    if faults:
        sys.exit("\n".join(faults))
    return Settings(
        os.environ["MLFLOW_TRACKING_URI"],
        tuple(copies.read_choices(os.environ["STACK_SERVE"])),
        os.environ["STACK_PREDICTION_LOG"] == "on",
    )


def read_login() -> tuple[str, str]:
    """Return the account's login, which may have been rotated since. Raises OSError, ValueError."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(CREDENTIALS.read_text())
        section = parser["mlflow"]
        return section["mlflow_tracking_username"], section["mlflow_tracking_password"]
    except (configparser.Error, KeyError) as error:
        raise ValueError(f"{CREDENTIALS}: {error}") from None
