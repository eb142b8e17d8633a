"""The little that the verbs ask the gateway."""

from __future__ import annotations

import requests

from admin.settings import Settings

TIMEOUT_SECONDS = 5.0


def ask_version(settings: Settings) -> str | None:
    """Return MLflow's version, or None if the gateway is away or refuses the login."""
    try:
        answer = requests.get(
            f"{settings.gateway}/version", auth=(settings.username, settings.password), timeout=TIMEOUT_SECONDS
        )
    except requests.RequestException:
        return None
    return answer.text.strip() if answer.ok else None


def is_alive(settings: Settings) -> bool:
    """Return whether the gateway answers at all."""
    try:
        return requests.get(f"{settings.gateway}/livez", timeout=TIMEOUT_SECONDS).ok
    except requests.RequestException:
        return False
