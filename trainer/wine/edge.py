"""The edge of every command, where each failure becomes one line and an exit code; and the lines on the way."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import NoReturn

import typer

from wine.errors import Terminated, TrainerError
from wine.settings import tame_libraries

_BEGIN = perf_counter()


def tell(line: str, err: bool = False) -> None:
    """Print a line with the seconds since the start."""
    typer.echo(f"[{perf_counter() - _BEGIN:4.1f} s] {line}", err=err)


@contextmanager
def edge(failed: int = 1, bug: int = 3) -> Iterator[None]:
    """End the process with 1 and one line for an expected failure, 130 for Ctrl-C, 143 for SIGTERM, 3 for a bug."""
    signal.signal(signal.SIGTERM, _terminate)
    tame_libraries()
    try:
        yield
    except TrainerError as error:
        _exit(failed, f"error: {error}")
    except KeyboardInterrupt:
        _exit(130, "interrupted")
    except Terminated as error:
        _exit(143, f"terminated: {error}")
    except Exception:  # noqa: BLE001 - whatever else it is, it's a bug
        _exit(bug, f"{traceback.format_exc()}error: this is a bug in the trainer, please report it")


def _exit(code: int, line: str) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(code) from None


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second must not disturb the clean-up
    raise Terminated("SIGTERM received")
