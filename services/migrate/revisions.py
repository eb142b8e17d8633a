"""MLflow's migrations as their files name them: alembic would load them, which imports MLflow and takes seconds."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

NAMED = re.compile(r"^(revision|down_revision)(?:: [^=]+)? = (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Revisions:
    """What a folder of alembic's holds.

    Attributes:
        known: all of them.
        newest: the one that no other follows, None if that is not one.
    """

    known: frozenset[str]
    newest: str | None


def read(folder: Path) -> Revisions:
    """Return the revisions of a folder with `versions`. Raises OSError."""
    known: set[str] = set()
    followed: set[str] = set()
    for path in (folder / "versions").glob("*.py"):
        named = {name: ast.literal_eval(value) for name, value in NAMED.findall(path.read_text())}
        if "revision" in named:
            known.add(named["revision"])
            before = named.get("down_revision") or ()
            followed |= {before} if isinstance(before, str) else set(before)
    heads = known - followed
    return Revisions(frozenset(known), heads.pop() if len(heads) == 1 else None)
