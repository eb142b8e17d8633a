"""Batch prediction: a file is read in pieces, each held against the signature, predicted and written."""

from __future__ import annotations

import csv
import gc
import io
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from mlflow.pyfunc import PyFuncModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lifecycle.models import first_line
from lifecycle.schema import Column, check_names, conform
from lifecycle.settings import Terminal
from wine.data import detect_separator
from wine.errors import TrainerError

CSV, JSON, PARQUET = "csv", "json", "parquet"
FORMATS = {".csv": CSV, ".json": JSON, ".jsonl": JSON, ".ndjson": JSON, ".parquet": PARQUET, ".pq": PARQUET}
CSV_BLOCK = 2**20  # bytes; Arrow reads some blocks ahead
ROWS = 50_000  # of the other formats, at once
NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "none"]
PREDICTION = "prediction"


@dataclass(frozen=True)
class Source:
    """The file to predict from."""

    path: Path
    shown: str
    """What the user calls it."""
    columns: list[Column] | None
    """What the model wants; None if it doesn't say."""
    keep: list[str]
    """Columns that go into the output as they are."""

    @property
    def names(self) -> list[str]:
        """The columns to read; none for all."""
        names = [] if self.columns is None else [*(column.name for column in self.columns), *self.keep]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Piece:
    """Some rows of the file."""

    columns: dict[str, Any]
    """For each column, an Arrow array or a list."""
    rows: int
    done: float
    """How much of the file has been read with it, 0 to 1."""


@dataclass(frozen=True)
class Summary:
    """What a prediction took."""

    rows: int
    seconds: float
    peak_megabytes: int


def find_format(name: str) -> str:
    """Return the format of a file by its name. Raises TrainerError."""
    suffix = PurePath(name).suffix.lower()
    if suffix not in FORMATS:
        raise TrainerError(f"{name!r} ends with {suffix!r}: name a file that ends with {', '.join(FORMATS)}")
    return FORMATS[suffix]


def predict(model: PyFuncModel, source: Source, output: BinaryIO, form: str, terminal: Terminal) -> Summary:
    """Predict every row of a file and write the predictions, in its order.

    Raises:
        TrainerError: The file can't be read, a value doesn't fit the signature, or the model fails.
    """
    gc.enable()
    started, rows, writer = time.perf_counter(), 0, None
    with show_progress(terminal) as progress:
        task = progress.add_task("", total=1.0, rows=0)
        for piece in read_pieces(source):
            predicted = predict_piece(model, source, piece, rows + 1)
            writer = writer or open_writer(output, form, predicted.schema)
            writer.write(predicted)
            rows += piece.rows
            progress.update(task, completed=piece.done, rows=rows)
    if writer is None:
        raise TrainerError(f"{source.shown} has no rows: nothing to predict")
    writer.close()
    output.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Summary(rows, time.perf_counter() - started, peak)


def predict_piece(model: PyFuncModel, source: Source, piece: Piece, first_row: int) -> pa.Table:
    """Return the predictions of some rows, after the columns that are kept."""
    if source.columns is None:
        frame = pa.table(piece.columns).to_pandas()
    else:
        frame = pa.table(conform(piece.columns, source.columns, first_row, source.shown)).to_pandas()
    try:
        columns = name_outputs(model.predict(frame))
        table = pa.table({**{name: piece.columns[name] for name in source.keep}, **columns})
    except KeyError as error:
        raise TrainerError(f"{source.shown} lacks the column {error}, which --keep names") from None
    except Exception as error:  # a model may raise anything
        last = first_row + piece.rows - 1
        raise TrainerError(
            f"{source.shown}, rows {first_row} to {last}: the model fails ({first_line(error)})"
        ) from error
    if len(table) != piece.rows:
        raise TrainerError(
            f"the model answers {len(table)} predictions for {piece.rows} rows: it can't be used on a table"
        )
    return table


def name_outputs(predicted: Any) -> dict[str, Any]:
    """Return a model's answer as named columns."""
    if isinstance(predicted, pd.DataFrame):
        return {str(name): pa.array(predicted[name]) for name in predicted.columns}
    array = np.asarray(predicted)
    if array.ndim == 2:  # noqa: PLR2004 - a table
        return {f"{PREDICTION}_{index}": pa.array(array[:, index]) for index in range(array.shape[1])}
    return {PREDICTION: pa.array(array)}


def measure(model: PyFuncModel, source: Source, rounds: int = 5) -> tuple[float, float, float]:
    """Return rows a second, the median of several rounds: this module's, a script's of the same, the model's alone.

    The script is what a user writes: `pandas.read_csv`, `predict`, `to_csv`, all rows at once. They take turns.
    """
    ours, script, alone = [], [], []
    with source.path.open(encoding="utf-8-sig") as file:
        separator = detect_separator(file.readline())
    for _ in range(rounds):
        with tempfile.TemporaryFile() as output:
            summary = predict(model, source, output, CSV, Terminal(shows_progress=False, columns=80))
            ours.append(summary.rows / summary.seconds)
        with tempfile.TemporaryFile() as output:
            started = time.perf_counter()
            # (whole numbers among the inputs are floats to a model whose signature says double)
            frame = pd.read_csv(source.path, sep=separator, dtype=float)
            read = time.perf_counter()
            predicted = model.predict(frame)
            done = time.perf_counter()
            pd.DataFrame({PREDICTION: predicted}).to_csv(output, index=False)
            script.append(len(frame) / (time.perf_counter() - started))
            alone.append(len(frame) / (done - read))
    return statistics.median(ours), statistics.median(script), statistics.median(alone)


# ------------------------------------------------------------------------------------------------------------ reading
def read_pieces(source: Source) -> Iterator[Piece]:
    """Yield the file in pieces, each small enough to be held.

    Raises:
        TrainerError: It can't be read.
    """
    reader = {CSV: read_csv, JSON: read_json, PARQUET: read_parquet}[find_format(source.shown)]
    try:
        yield from reader(source)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise TrainerError(f"{source.shown} can't be read ({first_line(error)}): check the file") from None


def read_csv(source: Source) -> Iterator[Piece]:
    """Yield a CSV file, whose values are read as what the model wants: this is what most of the time goes into."""
    with source.path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
    if not head.strip():
        raise TrainerError(f"{source.shown} is empty: give a CSV file with a header")
    separator = detect_separator(head)
    present = next(csv.reader([head.rstrip("\r\n")], delimiter=separator))
    check_names(source.columns or [], present, source.shown)
    types = {name: pa.string() for name in source.keep if name in present}
    types |= {column.name: column.arrow for column in source.columns or [] if column.name in present}
    rows = 0
    try:
        for piece in open_csv(source, separator, types):
            yield piece
            rows += piece.rows
    except pa.ArrowInvalid:
        # Which cell it is Arrow doesn't say: so the same is read as text, and held against the signature.
        passed, ragged = 0, []

        def note(row: pa.csv.InvalidRow) -> str:
            ragged.append(row)
            return "error"

        try:
            for piece in open_csv(source, separator, dict.fromkeys(types, pa.string()), note):
                if passed + piece.rows > rows:
                    conform(blank_nulls(piece.columns), source.columns or [], passed + 1, source.shown)
                passed += piece.rows
        except pa.ArrowInvalid:
            if not ragged or ragged[0].number is None:
                raise
            where = f"{source.shown}, row {ragged[0].number - 1}"
            raise TrainerError(
                f"{where}: {ragged[0].actual_columns} cells, the header has {ragged[0].expected_columns}: correct it"
            ) from None
        raise


def open_csv(
    source: Source,
    separator: str,
    types: dict[str, pa.DataType],
    note: Callable[[pa.csv.InvalidRow], str] | None = None,
) -> Iterator[Piece]:
    """Yield the pieces of a CSV file with these types; `note` is told of rows with too many or too few cells."""
    size = source.path.stat().st_size or 1
    with source.path.open("rb") as file:
        reader = pa.csv.open_csv(
            file,
            # (only one thread knows the number of a row)
            pa.csv.ReadOptions(block_size=CSV_BLOCK, use_threads=note is None),
            pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=note),
            pa.csv.ConvertOptions(
                column_types=types,
                include_columns=[name for name in source.names if name in types],
                null_values=NULLS,
            ),
        )
        for batch in reader:
            yield Piece(dict(zip(batch.schema.names, batch.columns, strict=True)), batch.num_rows, file.tell() / size)


def blank_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Return text columns with null where a CSV file says so."""
    nulls = pa.array(NULLS)
    return {
        name: pa.compute.if_else(pa.compute.is_in(array, value_set=nulls), pa.scalar(None, pa.string()), array)
        if pa.types.is_string(array.type)
        else array
        for name, array in values.items()
    }


def read_parquet(source: Source) -> Iterator[Piece]:
    """Yield a Parquet file; buffered, so that a large row group is not read at once."""
    with pa.parquet.ParquetFile(source.path, buffer_size=2**20, pre_buffer=False) as file:
        check_names(source.columns or [], file.schema_arrow.names, source.shown)
        total, done = max(file.metadata.num_rows, 1), 0
        names = [name for name in source.names if name in file.schema_arrow.names] or None  # None: all
        for batch in file.iter_batches(batch_size=ROWS, columns=names):
            done += batch.num_rows
            yield Piece(dict(zip(batch.schema.names, batch.columns, strict=True)), batch.num_rows, done / total)


def read_json(source: Source) -> Iterator[Piece]:
    """Yield a JSON file: an object a line; or a whole array of objects, or MLflow's dataframe_split or _records."""
    size = source.path.stat().st_size or 1
    with source.path.open("rb") as file:
        head = file.readline().strip()
        is_lines = head.startswith(b"{") and head.endswith(b"}") and not is_split(read_value(head, source, 1))
        file.seek(0)
        if not is_lines:
            yield from read_whole(source, read_value(file.read(), source, 1))
            return
        number = 0
        while lines := list(itertools.islice(file, ROWS)):
            records = [read_value(line, source, number + index) for index, line in enumerate(lines, 1) if line.strip()]
            number += len(lines)
            yield to_piece(source, records, number - len(lines) + 1, file.tell() / size)


def read_whole(source: Source, value: Any) -> Iterator[Piece]:
    """Yield the rows of a JSON value that holds all of them."""
    value = value.get("dataframe_records", value.get("dataframe_split", value)) if isinstance(value, dict) else value
    if is_split(value):
        records = [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
    elif isinstance(value, list):
        records = value
    else:
        raise TrainerError(f"{source.shown} holds neither records nor columns and data: write one object a line")
    for first in range(0, len(records), ROWS):
        part = records[first : first + ROWS]
        yield to_piece(source, part, first + 1, (first + len(part)) / len(records))


def is_split(value: Any) -> bool:
    """Return whether this is a table as columns and data, itself or within."""
    return isinstance(value, dict) and (
        {"columns", "data"} <= value.keys() or bool({"dataframe_split", "dataframe_records"} & value.keys())
    )


def to_piece(source: Source, records: list[Any], first_row: int, done: float) -> Piece:
    """Return records as columns. Raises TrainerError if one is no object or lacks a column."""
    bad = next((index for index, record in enumerate(records) if not isinstance(record, dict)), None)
    if bad is not None:
        raise TrainerError(
            f"{source.shown}, row {first_row + bad}: {str(records[bad])[:100]!r} is no object of columns"
        )
    names = source.names or list(records[0] if records else [])
    present = set(itertools.chain.from_iterable(records))
    check_names(source.columns or [], sorted(present), source.shown)
    values = {name: [record.get(name) for record in records] for name in names if name in present}
    return Piece(values, len(records), done)


def read_value(text: bytes, source: Source, row: int) -> Any:
    """Return a JSON value. Raises TrainerError."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise TrainerError(f"{source.shown}, row {row}: no JSON ({error}): write one object a line") from None


# ------------------------------------------------------------------------------------------------------------ writing
class JsonWriter:
    """Writes an object a line, as Arrow's writers write theirs."""

    def __init__(self, output: BinaryIO) -> None:
        self.output = io.TextIOWrapper(output, encoding="utf-8", write_through=True)

    def write(self, table: pa.Table) -> None:
        """Write a table."""
        for record in table.to_pylist():
            self.output.write(json.dumps(record, default=str) + "\n")

    def close(self) -> None:
        """Leave the file to who opened it."""
        self.output.detach()


def open_writer(output: BinaryIO, form: str, schema: pa.Schema) -> Any:
    """Return a writer of tables."""
    if form == CSV:
        return pa.csv.CSVWriter(output, schema)
    return pa.parquet.ParquetWriter(output, schema) if form == PARQUET else JsonWriter(output)


def show_progress(terminal: Terminal) -> Progress:
    """Return a progress bar on standard error, or one that shows nothing."""
    return Progress(
        BarColumn(None),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=Console(stderr=True, force_terminal=terminal.shows_progress, width=terminal.columns),
        disable=not terminal.shows_progress,
        transient=True,
    )
