"""The twin of the gateway that asks for no login: the same template without the one line that asks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

TEMPLATE = "nginx.conf"
QUESTION = re.compile(r"^ *auth_request /_stack/auth;\n", re.MULTILINE)


class TemplateError(Exception):
    """The template is not the one that this module knows how to change."""


def drop_login(template: str) -> str:
    """Return the template without the line that makes every request need a login. Raises TemplateError."""
    changed, count = QUESTION.subn("", template)
    if count != 1:
        raise TemplateError(
            f"{TEMPLATE} has 'auth_request /_stack/auth;' {count} times, not once: make bench/gateway.py follow it"
        )
    return changed


def write_twin(source: Path, target: Path) -> None:
    """Copy the gateway's configuration, changed so. Raises TemplateError."""
    shutil.copytree(source, target)
    (target / TEMPLATE).write_text(drop_login((source / TEMPLATE).read_text()))
