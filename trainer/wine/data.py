"""The table to learn from: load, check, split."""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from wine.errors import TrainerError, show_address

PACKAGED = Path(__file__).parents[1] / "data" / "winequality-red.csv"
MIN_ROWS = 20  # a quarter of fewer is no test set
FETCH_TIMEOUT = 30.0  # seconds without an answer
FETCH_LIMIT = 100 * 2**20  # bytes

_MISSING = {"", "na", "n/a", "nan", "null", "none"}


@dataclass(frozen=True)
class Table:
    """A checked table: every cell a finite number."""

    frame: pd.DataFrame
    """One row per wine, shape (rows, inputs + 1), all float64."""
    target: str
    """The column to predict."""
    source: str
    """The file or URL it came from."""
    digest: str
    """The first 16 hexadecimal digits of the file's SHA-256."""

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return PurePosixPath(urlsplit(self.source).path).stem or "data"

    @property
    def inputs(self) -> list[str]:
        """The columns to predict from."""
        return [column for column in self.frame.columns if column != self.target]


@dataclass(frozen=True)
class Split:
    """Three quarters of a table's rows to train on, one quarter to test on, drawn by the seed."""

    table: Table
    seed: int
    train_x: pd.DataFrame
    test_x: pd.DataFrame
    train_y: pd.Series[float]
    test_y: pd.Series[float]


def load_table(source: str | None, target: str) -> Table:
    """Read and check a CSV file, separated by `;` or `,`, with a header.

    Args:
        source: A path, an http(s) URL, or None for the packaged red wines.
        target: The column to predict.

    Raises:
        TrainerError: It can't be read, or isn't a table of numbers with that column.
    """
    content, shown = read_source(source)
    try:
        frame = parse_table(content.decode("utf-8-sig"), target)
    except UnicodeDecodeError as error:
        raise TrainerError(f"{shown} is no CSV file in UTF-8 ({error.reason}): convert it") from None
    except (TrainerError, csv.Error) as error:
        raise TrainerError(f"{shown}: {error}") from None
    return Table(frame, target, shown, hashlib.sha256(content).hexdigest()[:16])


def read_source(source: str | None) -> tuple[bytes, str]:
    """Return the content of a path, an http(s) URL, or None for the packaged red wines, and how its place is shown.

    Raises:
        TrainerError: It can't be read.
    """
    if source is None:
        return _read(PACKAGED), f"trainer/data/{PACKAGED.name}"
    if source.startswith(("http://", "https://")):
        return _fetch(source), show_address(source)
    return _read(Path(source)), source


def parse_table(text: str, target: str) -> pd.DataFrame:
    """Parse and check CSV text; all columns become float64. Row 1 is the first after the header.

    Raises:
        TrainerError: The text is empty, ragged or short, lacks the target, or has a cell that is no number.
    """
    separator = detect_separator(text.partition("\n")[0])
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator, strict=True) if row]
    if not rows:
        raise TrainerError("the file is empty: give a CSV file with a header")
    names, cells = [name.strip() for name in rows[0]], rows[1:]
    if target not in names:
        raise TrainerError(f"no column {target!r} among {', '.join(names)}: choose one by --target")
    if len(names) == 1 or len(set(names)) < len(names) or "" in names:
        raise TrainerError(f"the columns {', '.join(names)} must be two or more with different names: rename them")
    for number, row in enumerate(cells, start=1):
        if len(row) != len(names):
            raise TrainerError(f"row {number} has {len(row)} cells, the header {len(names)}: correct it")
    if len(cells) < MIN_ROWS:
        raise TrainerError(f"{len(cells)} rows are too few to train and test: give {MIN_ROWS} or more")
    texts = pd.DataFrame(cells, columns=names)
    return pd.DataFrame({name: _to_numbers(texts[name]) for name in names})


def detect_separator(header: str) -> str:
    """Return `;` or `,`, whichever splits the header into more columns; quoted ones don't count."""
    return max(";,", key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def split_table(table: Table, seed: int) -> Split:
    """Draw the training and test rows, 75 to 25; the same seed draws the same rows everywhere."""
    train, test = train_test_split(table.frame, random_state=seed)
    return Split(table, seed, train[table.inputs], test[table.inputs], train[table.target], test[table.target])


def _to_numbers(texts: pd.Series[str]) -> pd.Series[float]:
    numbers = pd.to_numeric(texts, errors="coerce").astype("float64")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if not bad.size:
        return numbers
    place, seen = f"column {texts.name!r}, row {bad[0] + 1}", texts.iloc[bad[0]]
    if seen.strip().lower() in _MISSING:
        raise TrainerError(f"{place}: the value is missing ({seen!r}); fill it in or drop the row")
    raise TrainerError(f"{place}: {seen!r} is no finite number; correct it or drop the column")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainerError(f"{path} can't be read ({error.strerror}): check the path given by --data") from None


def _fetch(url: str) -> bytes:
    shown = show_address(url)
    if "@" in url.split("/", 3)[2]:
        raise TrainerError(f"{shown} was given with a login in the URL, which is not supported: give a file")
    try:
        with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT) as response:  # noqa: S310 # nosec B310 - http(s) only
            content: bytes = response.read(FETCH_LIMIT + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TrainerError(f"{shown} can't be fetched ({error}): check the URL, or give a file") from None
    if len(content) > FETCH_LIMIT:
        raise TrainerError(f"{shown} is larger than {FETCH_LIMIT} bytes: give a smaller table, or a file")
    return content
