"""Twins of the gateway: its own template, but one asks for no login, and one has a place that asks for nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

TEMPLATE = "nginx.conf"
QUESTION = re.compile(r"^ *auth_request /_stack/auth;\n", re.MULTILINE)
DEFAULT = re.compile(r"^(?= *location / \{\n)", re.MULTILINE)
EMPTY = "/empty"


class TemplateError(Exception):
    """The template is not the one that this module knows how to change."""


def change(template: str, place: re.Pattern[str], name: str, text: str) -> str:
    """Return the template with another text at one place, called by a name. Raises TemplateError."""
    changed, count = place.subn(text, template)
    if count != 1:
        raise TemplateError(f"{TEMPLATE} has '{name}' {count} times, not once: make bench/gateway.py follow it")
    return changed


def drop_login(template: str) -> str:
    """Return the template without the line that makes every request need a login. Raises TemplateError."""
    return change(template, QUESTION, "auth_request /_stack/auth;", "")


def add_empty(template: str) -> str:
    """Return the template with a place behind the login that MLflow's process answers at once. Raises TemplateError."""
    # (that process looks at the login itself as well, as it does for every request)
    return change(
        template, DEFAULT, "location / {", f"location = {EMPTY} {{ proxy_pass http://mlflow/_stack/auth; }}\n"
    )


def write_twin(source: Path, target: Path, write: Callable[[str], str]) -> None:
    """Copy the gateway's configuration, changed so. Raises TemplateError."""
    shutil.copytree(source, target)
    (target / TEMPLATE).write_text(write((source / TEMPLATE).read_text()))
