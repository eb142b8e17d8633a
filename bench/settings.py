"""What `./stack bench` tells the program that measures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Where to work.

    Attributes:
        name: name of the bench's own stack.
        scratch: folder that is removed at the end.
        image: image of this program, for the clients that must be inside the stack's network.
    """

    name: str
    scratch: Path
    image: str


def load() -> Settings:
    """Return the settings. Raises KeyError outside `./stack bench`."""
    return Settings(
        name=os.environ["STACK_TEST_NAME"],
        scratch=Path(os.environ["STACK_TEST_SCRATCH"]),
        image=os.environ["STACK_TEST_IMAGE"],
    )
