"""The table to learn from: numbers, texts and gaps; from CSV or Parquet."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types

from tabular.formats import is_parquet
from wine.data import MIN_ROWS, PACKAGED, detect_separator, read_source
from wine.errors import TrainerError

WHOLE = 2**53  # beyond it a float no longer holds every whole number


@dataclass(frozen=True)
class Table:
    """A checked table: inputs are floats (with gaps) or texts (with gaps), the target has no gap."""

    frame: pd.DataFrame
    """One row per example."""
    target: str
    """The column to predict."""
    source: str
    """The file or URL it came from."""
    digest: str
    """The first 16 hexadecimal digits of the file's SHA-256."""

    @property
    def name(self) -> str:
        """Wine for the packaged wines, else the file's name without its suffix."""
        packaged = self.source == f"trainer/data/{PACKAGED.name}"
        return "Wine" if packaged else PurePosixPath(urlsplit(self.source).path).stem or "data"

    @property
    def inputs(self) -> pd.DataFrame:
        """The columns to predict from."""
        return self.frame.drop(columns=self.target)

    @property
    def truth(self) -> pd.Series:
        """The column to predict."""
        return self.frame[self.target]


def load_table(source: str | None, target: str) -> Table:
    """Read and check a CSV file (`;` or `,`, with a header) or a Parquet file.

    Args:
        source: A path, an http(s) URL, or None for the packaged red wines.
        target: The column to predict.

    Raises:
        TrainerError: It can't be read, or isn't a table with that column.
    """
    content, shown = read_source(source)
    return check_table(content, shown, target)


def check_table(content: bytes, shown: str, target: str) -> Table:
    """Parse and check the content of a file.

    Raises:
        TrainerError: It isn't a table with that column.
    """
    try:
        frame = _read_parquet(content) if is_parquet(shown) else _read_csv(content)
        frame = _check_columns(frame, target)
    except TrainerError as error:
        raise TrainerError(f"{shown}: {error}") from None
    return Table(frame, target, shown, hashlib.sha256(content).hexdigest()[:16])


def _read_parquet(content: bytes) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrainerError(f"no Parquet file ({str(error).splitlines()[0][:120]}): check it") from None


def _read_csv(content: bytes) -> pd.DataFrame:
    try:
        text = content.decode("utf-8-sig")
        separator = detect_separator(text.partition("\n")[0])
        return pd.read_csv(io.StringIO(text), sep=separator, index_col=False, skipinitialspace=True)
    except UnicodeDecodeError as error:
        raise TrainerError(f"no CSV file in UTF-8 ({error.reason}): convert it") from None
    except pd.errors.EmptyDataError:
        raise TrainerError("the file is empty: give a CSV file with a header") from None
    except (pd.errors.ParserError, ValueError) as error:
        raise TrainerError(f"no CSV file ({' '.join(str(error).split())[:160]}): correct it") from None


def _check_columns(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    names = [str(name).strip() for name in frame.columns]
    if target not in names:
        raise TrainerError(f"no column {target!r} among {', '.join(names)}: choose one by --target")
    if len(names) == 1 or len(set(names)) < len(names) or "" in names:
        raise TrainerError(f"the columns {', '.join(names)} must be two or more with different names: rename them")
    if len(frame) < MIN_ROWS:
        raise TrainerError(f"{len(frame)} rows are too few to train and test: give {MIN_ROWS} or more")
    frame = frame.set_axis(names, axis="columns").reset_index(drop=True)
    checked = pd.DataFrame({name: _check_column(frame[name]) for name in names})
    gaps = np.flatnonzero(checked[target].isna())
    if gaps.size:
        raise TrainerError(f"column {target!r}, row {gaps[0] + 1}: the target is missing; fill it in or drop the row")
    return checked


def _check_column(column: pd.Series) -> pd.Series:
    if column.isna().all():
        raise TrainerError(f"column {column.name!r} has no value: drop it")
    if types.is_bool_dtype(column) or types.is_numeric_dtype(column):
        numbers = column.astype("float64")
        bad = np.flatnonzero(np.isinf(numbers))
        if bad.size:
            seen = f"column {column.name!r}, row {bad[0] + 1}: {numbers.iloc[bad[0]]}"
            raise TrainerError(f"{seen} is no finite number; correct it or drop the column")
        return numbers
    if types.is_string_dtype(column.dropna()) or isinstance(column.dtype, pd.CategoricalDtype):
        # (object: scikit-learn's encoder knows NaN as a gap, and no pd.NA)
        return column.map(str, na_action="ignore").astype("object").where(column.notna(), np.nan)
    what = f"column {column.name!r} is of type {column.dtype}, neither numbers nor text"
    raise TrainerError(f"{what}: convert it or drop it")
