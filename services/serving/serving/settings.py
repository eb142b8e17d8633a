"""All that the container reads from its environment, checked at once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from serving import copies

UNITS = {"m": 1024**2, "g": 1024**3}


class SettingsError(Exception):
    """One or more settings are unfit; the message has a line for each."""


@dataclass(frozen=True)
class Settings:
    """What this deployment chose.

    Attributes:
        choices: the models that are to be served.
        pickle: whether models may run code of their own when they are loaded.
        memory: bytes that one model's process may have.
        memory_text: the same as the operator wrote it.
        rows: the most rows of one request.
        log: whether predictions are logged.
        sample: of which share of their rows.
    """

    choices: tuple[copies.Choice, ...]
    pickle: bool
    memory: int
    memory_text: str
    rows: int
    log: bool
    sample: float


def load() -> Settings:
    """Return the settings. Raises SettingsError that names every fault there is."""
    faults = []
    wanted, pickle = os.environ.get("STACK_SERVE", ""), os.environ.get("STACK_SERVE_PICKLE", "")
    memory, rows = os.environ.get("STACK_SERVE_MODEL_MEMORY", ""), os.environ.get("STACK_SERVE_ROWS", "")
    log, sample = os.environ.get("STACK_PREDICTION_LOG", ""), os.environ.get("STACK_PREDICTION_SAMPLE", "")
    entry = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(@[1-9][0-9]*)?"
    if not re.fullmatch(rf"off|{entry}(,{entry})*", wanted):
        faults.append(f"STACK_SERVE is {wanted!r}: write names of registered models, with commas between them, or off")
    if pickle not in ("on", "off"):
        faults.append(f"STACK_SERVE_PICKLE is {pickle!r}: choose on or off")
    if not re.fullmatch(r"[1-9][0-9]*[mg]", memory):
        faults.append(f"STACK_SERVE_MODEL_MEMORY is {memory!r}: write it as 512m or 1g")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", rows):
        faults.append(f"STACK_SERVE_ROWS is {rows!r}: write a whole number of rows")
    if log not in ("on", "off"):
        faults.append(f"STACK_PREDICTION_LOG is {log!r}: choose on or off")
    if not re.fullmatch(r"1(\.0*)?|0\.0*[1-9][0-9]*", sample):
        faults.append(f"STACK_PREDICTION_SAMPLE is {sample!r}: write a share above 0 and up to 1, such as 0.1")
    if faults:
        raise SettingsError("\n".join(faults))
    return Settings(
        choices=tuple(copies.read_choices(wanted)),
        pickle=pickle == "on",
        memory=int(memory[:-1]) * UNITS[memory[-1]],
        memory_text=memory,
        rows=int(rows),
        log=log == "on",
        sample=float(sample),
    )
