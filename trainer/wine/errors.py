"""What can go wrong, and how an address is shown when it does."""

from urllib.parse import urlsplit, urlunsplit


class TrainerError(Exception):
    """An expected failure, told in one line: what, the value seen, what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; of its own class, since Python dies of the signal once a plain one passed through `exec` of a text."""


class Terminated(BaseException):
    """SIGTERM; no `Exception`, so that nothing on the way mistakes it for a failure it can handle."""


def show_address(url: str) -> str:
    """Return the URL without login, query and fragment, which may hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the malformed URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
