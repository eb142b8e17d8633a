"""A model's signature, held against tables: what doesn't fit is named by row and column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from mlflow.models import Model
from mlflow.types import DataType
from mlflow.types.schema import Schema

from wine.errors import TrainerError

ARROW = {
    DataType.boolean: pa.bool_(),
    DataType.integer: pa.int32(),
    DataType.long: pa.int64(),
    DataType.float: pa.float32(),
    DataType.double: pa.float64(),
    DataType.string: pa.string(),
    DataType.datetime: pa.timestamp("ns"),
}


@dataclass(frozen=True)
class Column:
    """A column that a model wants."""

    name: str
    kind: str
    """MLflow's word for its type."""
    arrow: pa.DataType
    is_required: bool


def read_columns(card: Model, what: str) -> list[Column] | None:
    """Return the columns of a model's signature, None if it has no signature.

    Raises:
        TrainerError: It takes no table of plain columns.
    """
    inputs = card.signature.inputs if card.signature else None
    if inputs is None:
        return None
    plain = not inputs.is_tensor_spec() and inputs.has_input_names()
    if not plain or any(spec.type not in ARROW for spec in inputs.inputs):
        raise TrainerError(f"{what} takes {describe(inputs)}: only tables of plain, named columns can be given to it")
    return [Column(spec.name, spec.type.name, ARROW[spec.type], bool(spec.required)) for spec in inputs.inputs]


def describe(schema: Schema) -> str:
    """Return a schema in a few words."""
    text = "; ".join(str(spec) for spec in schema.inputs)
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - a line's worth


def check_names(columns: list[Column], present: list[str], source: str) -> None:
    """Raise TrainerError if a column is missing or there twice."""
    missing = [column.name for column in columns if column.is_required and column.name not in present]
    if missing:
        raise TrainerError(
            f"{source} lacks the column {missing[0]!r}, which the model needs: it has {', '.join(present)}"
        )
    twice = [column.name for column in columns if present.count(column.name) > 1]
    if twice:
        raise TrainerError(f"{source} has the column {twice[0]!r} twice: rename one")


def conform(
    found: dict[str, Any], columns: list[Column], first_row: int, source: str
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return the columns in the types that the model wants.

    Args:
        found: For each name, an Arrow array or a list of Python values.
        columns: The model's.
        first_row: The number of the first row; the first one after a header is 1.
        source: The file, for the message.

    Raises:
        TrainerError: A value doesn't fit, or is missing.
    """
    result = {}
    for column in columns:
        if column.name not in found:
            continue  # an optional one
        values = found[column.name]

        def convert(part: Any, column: Column = column) -> Any:
            return to_type(part, column.arrow)

        try:
            array = convert(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            index = find_first(values, convert)
            seen = values[index]
            seen = seen.as_py() if isinstance(seen, pa.Scalar) else seen
            raise TrainerError(
                f"{source}, row {first_row + index}, column {column.name!r}: {seen!r} is no {column.kind}: correct it"
            ) from None
        if column.is_required and (gap := find_missing(array)) is not None:
            raise TrainerError(
                f"{source}, row {first_row + gap}, column {column.name!r}: the value is missing: fill it in"
            )
        result[column.name] = array
    return result


def to_type(values: Any, wanted: pa.DataType) -> Any:
    """Return values as an Arrow array of this type. Raises if one would not be the same after."""
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        # (told the type, Arrow would cut 2.5 to a whole number)
        values = pa.array(values)
    if values.type == wanted or pa.types.is_null(values.type):
        return values.cast(wanted)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    # Arrow would write a number as text, and count a truth; only text may become anything.
    changes_kind = pa.types.is_string(wanted) or pa.types.is_boolean(values.type) != pa.types.is_boolean(wanted)
    if changes_kind and not is_text:
        raise TypeError(wanted)
    return values.cast(wanted)


def find_first(values: Any, convert: Callable[[Any], Any]) -> int:
    """Return the index of the first value that can't be converted."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values[low:middle])
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            high = middle
        else:
            low = middle
    return low


def find_missing(array: pa.Array | pa.ChunkedArray) -> int | None:
    """Return the index of the first value that is null or not a number, None if there is none."""
    if not array.null_count and not pa.types.is_floating(array.type):
        return None
    gone = pc.is_null(array, nan_is_null=True)
    index = pc.index(gone, True).as_py()
    return None if index < 0 else int(index)
