"""The edge of every command, where each failure becomes one line and an exit code; and the lines on the way."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import NoReturn

import typer

from wine.errors import Terminated, TrainerError
from wine.settings import tame_libraries
from wine.stops import find_stop, listening

_BEGIN = perf_counter()


def tell(line: str, err: bool = False) -> None:
    """Print a line with the seconds since the start."""
    typer.echo(f"[{perf_counter() - _BEGIN:4.1f} s] {line}", err=err)


@contextmanager
def edge(failed: int = 1, bug: int = 3) -> Iterator[None]:
    """End the process with 1 and one line for an expected failure, 130 for Ctrl-C, 143 for SIGTERM, 3 for a bug."""
    with listening():
        tame_libraries()
        try:
            yield
        except (Exception, KeyboardInterrupt, Terminated) as error:  # noqa: BLE001 - what is not expected is a bug
            stop = find_stop(error)
            if isinstance(stop, Terminated):
                _exit(143, f"terminated: {stop}")
            if stop:
                _exit(130, "interrupted")
            if isinstance(error, TrainerError):
                _exit(failed, f"error: {error}")
            _exit(bug, f"{traceback.format_exc()}error: this is a bug in the trainer, please report it")


def _exit(code: int, line: str) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(code) from None
