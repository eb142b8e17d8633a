"""The environment and the login that ./stack hands over: read here and nowhere else."""

from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from wine.errors import TrainerError

LOGIN_FIELDS = ("mlflow_tracking_username", "mlflow_tracking_password")
# In memory (tmpfs): where MLflow's client looks for ~/.mlflow/credentials when the caller's own login is used.
HOME = Path("/tmp/home")


@dataclass(frozen=True)
class Terminal:
    """What ./stack says of the caller's terminal, which the container doesn't have.

    Attributes:
        shows_progress: whether standard error is one.
        columns: its width, None if the output is no terminal.
    """

    shows_progress: bool
    columns: int | None


def read_terminal() -> Terminal:
    """Return what is known of the caller's terminal."""
    columns = os.environ.get("COLUMNS", "")
    return Terminal(os.environ.get("STACK_PROGRESS") == "on", int(columns) if columns.isdigit() else None)


def take_login() -> None:
    """Write the login that comes on standard input, two lines, where MLflow's client reads it.

    Without STACK_LOGIN the home folder's credentials, the stack's administrator, are used.

    Raises:
        TrainerError: It is not a user name and a password that such a file can hold.
    """
    if os.environ.get("STACK_LOGIN") != "stdin":
        return
    values = sys.stdin.read().split("\n")[: len(LOGIN_FIELDS)]
    for name, value in zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), values, strict=False):
        if value != value.strip() or not value.isprintable() or not value:
            raise TrainerError(f"{name} is empty, begins or ends with a space, or can't be printed: correct it")
    parser = configparser.ConfigParser()
    # (MLflow reads the file with interpolation)
    parser["mlflow"] = dict(zip(LOGIN_FIELDS, (value.replace("%", "%%") for value in values), strict=True))
    path = HOME / ".mlflow" / "credentials"
    path.parent.mkdir(parents=True, mode=0o700)
    path.touch(mode=0o600, exist_ok=False)
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)
    os.environ["HOME"] = str(HOME)
