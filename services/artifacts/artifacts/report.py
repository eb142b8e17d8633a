"""Tables for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from admin.faults import printable

PLAIN_WIDTH = 400  # where the output is no terminal, nothing is cut off


def print_table(
    headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers: frozenset[str] = frozenset()
) -> None:
    """Print a table; plain text where the output is not a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ignore", justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if "COLUMNS" in os.environ else PLAIN_WIDTH).print(table)


def note(text: str) -> None:
    """Say what an operator should know, beside the answer."""
    print(f"stack: note: {printable(text)}", file=sys.stderr)


def show_size(size: int) -> str:
    """Return a number of bytes as people read it."""
    return decimal(size)
