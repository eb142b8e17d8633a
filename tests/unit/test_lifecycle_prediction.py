"""Files of all kinds, read in pieces and held against a signature; a small model that adds two columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lifecycle import prediction
from lifecycle.schema import Column
from lifecycle.settings import Terminal
from wine.errors import TrainerError

COLUMNS = [
    Column("a", "double", pa.float64(), is_required=True),
    Column("n", "long", pa.int64(), is_required=True),
    Column("s", "string", pa.string(), is_required=False),
]
FRAME = pd.DataFrame({"id": ["x", "y", "z"], "a": [0.5, 1.0, 2.5], "n": [1, 2, 3], "s": ["p", "q", "r"]})
QUIET = Terminal(shows_progress=False, columns=80)


class Sum:
    """Stands for a model."""

    def predict(self, frame: pd.DataFrame) -> Any:
        assert str(frame["a"].dtype) == "float64"
        assert str(frame["n"].dtype) == "int64"
        return (frame["a"] + frame["n"]).to_numpy()


def run(path: Path, keep: list[str] | None = None, form: str = "csv", model: Any = None) -> str:
    output = io.BytesIO()
    source = prediction.Source(path, path.name, COLUMNS, keep or [])
    prediction.predict(model or Sum(), source, output, form, QUIET)
    return output.getvalue().decode("utf-8", "surrogateescape")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(path, index=False)


def write_semicolons(path: Path, frame: pd.DataFrame) -> None:
    path.write_text("\ufeff" + frame.to_csv(index=False, sep=";"))


def write_lines(path: Path, frame: pd.DataFrame) -> None:
    frame.to_json(path, orient="records", lines=True)


def write_records(path: Path, frame: pd.DataFrame) -> None:
    path.write_text(json.dumps({"dataframe_records": frame.to_dict(orient="records")}, indent=1))


def write_split(path: Path, frame: pd.DataFrame) -> None:
    path.write_text(json.dumps({"dataframe_split": frame.to_dict(orient="split")}))


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=2)


WRITERS = [
    (write_csv, "f.csv"),
    (write_semicolons, "g.csv"),
    (write_lines, "f.jsonl"),
    (write_lines, "f.json"),
    (write_records, "g.json"),
    (write_split, "h.json"),
    (write_parquet, "f.parquet"),
]


@pytest.fixture(params=WRITERS, ids=lambda item: f"{item[0].__name__}-{item[1]}")
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pd.DataFrame], Path]:
    writer, name = request.param
    path = tmp_path / str(name)

    def write(frame: pd.DataFrame) -> Path:
        writer(path, frame)
        return path

    return write


def test_every_kind_of_file_is_predicted_in_its_order(save: Callable[[pd.DataFrame], Path]) -> None:
    assert run(save(FRAME), ["id"]).splitlines() == ['"id","prediction"', '"x",1.5', '"y",3', '"z",5.5']


def test_pieces_are_one_file(save: Callable[[pd.DataFrame], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "ROWS", 7)
    monkeypatch.setattr(prediction, "CSV_BLOCK", 200)
    frame = pd.concat([FRAME] * 40, ignore_index=True).assign(a=np.arange(120) / 8)
    lines = run(save(frame)).splitlines()
    assert [float(line) for line in lines[1:]] == list(frame["a"] + frame["n"])
    broken = frame.astype({"n": object})
    broken.loc[97, "n"] = "x97"
    with pytest.raises(TrainerError, match="row 98, column 'n': 'x97' is no long"):
        run(save(broken.astype(str) if save(frame).suffix == ".parquet" else broken))


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("a", "abc", "row 2, column 'a': 'abc' is no double: correct it"),
        ("a", None, "row 2, column 'a': the value is missing: fill it in"),
        ("n", 2.5, "row 2, column 'n': .*2.5.* is no long: correct it"),
        ("n", "", "row 2, column 'n': (the value is missing|'' is no long)"),
    ],
)
def test_what_does_not_fit_is_named_by_row_and_column(
    save: Callable[[pd.DataFrame], Path], column: str, value: Any, line: str
) -> None:
    frame = FRAME.astype({column: object})
    frame.loc[1, column] = value
    path = save(FRAME)
    if path.suffix == ".parquet" and value is not None:
        frame[column] = frame[column].astype(str if isinstance(value, str) else float)
    path = save(frame)
    with pytest.raises(TrainerError, match=line) as error:
        run(path)
    assert path.name in str(error.value)


def test_a_missing_column_is_named(save: Callable[[pd.DataFrame], Path]) -> None:
    with pytest.raises(TrainerError, match="lacks the column 'n', which the model needs"):
        run(save(FRAME.drop(columns="n")))
    assert run(save(FRAME.drop(columns="s"))).count("\n") == 4  # an optional one
    with pytest.raises(TrainerError, match="'colour', which --keep names"):
        run(save(FRAME), ["colour"])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("f.csv", "", "empty"),
        ("f.csv", "a,n,s\n", "no rows"),
        ("f.csv", "a,n,s\n1,2,x\n1,2\n", "row 2: 2 cells, the header has 3"),
        ("f.csv", "a,a,n,s\n1,1,2,x\n", "column 'a' twice"),
        ("f.json", "[1, 2]", "row 1: '1' is no object"),
        ("f.json", '"text"', "neither records nor columns"),
        ("f.jsonl", '{"a": 1, "n": 1}\n{"a":', "row 2: no JSON"),
        ("f.parquet", "hello", "can't be read"),
        ("f.xlsx", "hello", "'f.xlsx' ends with '.xlsx'"),
    ],
)
def test_a_file_that_is_none_of_these_is_said_so(tmp_path: Path, name: str, content: str, line: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TrainerError, match=line):
        run(tmp_path / name)


def test_a_model_that_fails_is_named_with_its_rows(tmp_path: Path) -> None:
    class Broken:
        def predict(self, _: pd.DataFrame) -> Any:
            raise ValueError("no such leaf\nmore")

    class Lazy:
        def predict(self, _: pd.DataFrame) -> Any:
            return [1.0]

    write_csv(tmp_path / "f.csv", FRAME)
    with pytest.raises(TrainerError, match=r"rows 1 to 3: the model fails \(no such leaf\)"):
        run(tmp_path / "f.csv", model=Broken())
    with pytest.raises(TrainerError, match="1 predictions for 3 rows"):
        run(tmp_path / "f.csv", model=Lazy())


def test_predictions_of_several_columns_have_names(tmp_path: Path) -> None:
    class Pair:
        def predict(self, frame: pd.DataFrame) -> Any:
            return np.array([[1.0, 2.0]] * len(frame))

    write_csv(tmp_path / "f.csv", FRAME)
    assert run(tmp_path / "f.csv", model=Pair()).splitlines()[0] == '"prediction_0","prediction_1"'


def test_every_kind_of_output_has_the_same_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "f.csv", FRAME)
    lines = run(tmp_path / "f.csv", form="json").splitlines()
    assert [json.loads(line) for line in lines] == [{"prediction": value} for value in (1.5, 3.0, 5.5)]
    output = run(tmp_path / "f.csv", form="parquet").encode("utf-8", "surrogateescape")
    assert pq.read_table(io.BytesIO(output)).to_pydict() == {"prediction": [1.5, 3.0, 5.5]}
