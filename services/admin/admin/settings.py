"""What the verbs read from the environment and from the login file."""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass
from pathlib import Path

AUDIT = Path("/var/log/stack")  # docker-compose.yml mounts it


@dataclass(frozen=True)
class Settings:
    """Where the gateway is, and who we are.

    Attributes:
        gateway: URL of the gateway inside the compose network.
        url: URL of the gateway for users.
        username: name of the administrator's account.
        password: its password, as generated.
    """

    gateway: str
    url: str
    username: str
    password: str


def load() -> Settings:
    """Return the settings. Raises FileNotFoundError if the stack never ran."""
    file = Path.home() / ".mlflow" / "credentials"
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(file.read_text())
    published = f"http://{os.environ['STACK_BIND']}:{os.environ['STACK_PORT']}"
    return Settings(
        gateway=os.environ["MLFLOW_TRACKING_URI"],
        url=os.environ.get("STACK_URL") or published.replace("//0.0.0.0:", "//127.0.0.1:"),
        username=parser["mlflow"]["mlflow_tracking_username"],
        password=parser["mlflow"]["mlflow_tracking_password"],
    )
