"""Messages to those whom the operator named, by apprise: mail, chat, a pager, or any URL that takes JSON."""

from __future__ import annotations

import json
import logging
import os
import sys

from admin.faults import FaultError
from backup.settings import SECRETS

URLS = SECRETS / "notify"  # one a line; they hold secrets: nothing of them is printed but their scheme


def read_urls() -> list[str]:
    """Return where messages go."""
    lines = URLS.read_text().splitlines() if URLS.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def show(number: int, url: str) -> str:
    """Return how an operator knows a URL."""
    return f"{number} ({url.partition('://')[0]}://)"


def send(title: str, body: str) -> int:
    """Send a message to all; return how many there are. Raises FaultError that says to whom it could not be sent."""
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # (it would print URLs)
    urls = read_urls()
    if not urls:
        raise FaultError("nobody is named who gets messages: set STACK_BACKUP_NOTIFY to a file of URLs, ./stack up")
    faults = []
    for number, url in enumerate(urls, start=1):
        target = apprise.Apprise()
        if not target.add(url):
            faults.append(f"{show(number, url)} is no URL that apprise knows")
        elif not target.notify(title=title, body=body):
            faults.append(f"{show(number, url)} did not take it")
    if faults:
        raise FaultError(
            f"of {len(urls)} URLs in STACK_BACKUP_NOTIFY the message did not go out to number {', '.join(faults)}: "
            "check the file, and whether this machine reaches them"
        )
    return len(urls)


def tell() -> None:
    """Send what is on standard input: {"title": ..., "body": ...}."""
    said = json.load(sys.stdin)
    send(said["title"], said["body"])


def test() -> int:
    """Send a message that says that it is none."""
    name = os.environ.get("STACK_NAME", "")
    return send(f"{name}: test", f"This is a test of the messages about backups of the stack {name}. Nothing is wrong.")
