"""Ctrl-C and SIGTERM: what a program was told from outside, whatever a library makes of it on the way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wine.errors import Interrupted, Terminated

_told: list[BaseException] = []


@contextmanager
def listening() -> Iterator[None]:
    """Within it a signal is raised, and is what `find_stop` finds."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        _told.clear()


def find_stop(error: BaseException) -> BaseException | None:
    """Return the interruption that the error is or came of: an import of NumPy's in C makes an ImportError of one."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        return error
    return _told[0] if _told else None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _note(Interrupted())


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second must not disturb the clean-up
    raise _note(Terminated("SIGTERM received"))


def _note(stop: BaseException) -> BaseException:
    _told.append(stop)
    return stop
