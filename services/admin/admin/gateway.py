"""What the verbs ask the gateway."""

from __future__ import annotations

from typing import Any

import requests

from admin.faults import FaultError, printable
from admin.settings import Settings

TIMEOUT_SECONDS = 5.0
# A new password costs scrypt, and the server may have others to serve.
PATIENCE_SECONDS = 30.0
AWAY = {502, 503, 504}


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


def describe_refused_login(settings: Settings) -> str:
    """Return what to do when the password in our file is no longer the account's."""
    return (
        f"the login of {settings.username} is refused: its password was changed in MLflow, or it was disabled: "
        "./stack secrets rotate admin_password makes a new one known to both, and lets it in again"
    )


class AwayError(FaultError):
    """Nobody answered; whether the question was heard is not known."""


class RejectedError(FaultError):
    """MLflow says no, and why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"MLflow refuses it: {printable(message)}")
        self.code = code


class Api:
    """MLflow's REST API behind the gateway, asked as the administrator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.session = requests.Session()
        self.session.auth = (settings.username, settings.password)

    def ask(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        """Return the answer. Raises AwayError, RejectedError, or FaultError if the login is not good for it."""
        place: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        try:
            answer = self.session.request(
                method, self.settings.gateway + path, timeout=PATIENCE_SECONDS, allow_redirects=False, **place
            )
        except requests.RequestException:
            raise AwayError("the gateway does not answer: ./stack status shows what is wrong") from None
        if answer.status_code in AWAY:
            raise AwayError("the server is starting or its database is away: ./stack status shows what is wrong")
        if answer.status_code == requests.codes.unauthorized:
            raise FaultError(describe_refused_login(self.settings))
        if answer.status_code == requests.codes.too_many_requests:
            wait = answer.headers.get("Retry-After", "60")
            raise FaultError(f"the gateway has seen too many wrong logins: try again in {printable(wait)} s")
        try:
            content: dict[str, Any] = answer.json() if answer.content else {}
        except ValueError:
            content = {}
        if answer.ok:
            return content
        if answer.status_code == requests.codes.forbidden:
            raise FaultError(
                f"{self.settings.username} may not do this: if it is no administrator any more, "
                "./stack secrets rotate admin_password makes it one again"
            )
        raise RejectedError(
            str(content.get("error_code", "")), str(content.get("message", f"HTTP {answer.status_code}"))
        )
