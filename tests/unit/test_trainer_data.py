"""The trainer's table: every kind of file it must take, and every kind it must refuse in one line."""

from __future__ import annotations

import functools
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wine.data import MIN_ROWS, PACKAGED, detect_separator, load_table, parse_table, split_table
from wine.errors import TrainerError

GOOD_ROWS = [f"{n}.5;{n};5" for n in range(MIN_ROWS)]


def make_text(*rows: str, header: str = "acid;sugar;quality") -> str:
    return "\n".join([header, *(rows or GOOD_ROWS)]) + "\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The URL of a web server that has a good table and nothing else."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "good.csv").write_text(make_text())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_packaged_wines_are_the_1599_reds_with_11_inputs() -> None:
    table = load_table(None, "quality")
    assert table.frame.shape == (1599, 12)
    assert table.inputs[0] == "fixed acidity"
    assert table.inputs[-1] == "alcohol"
    assert table.frame["quality"].min() == 3
    assert table.frame["quality"].max() == 8
    assert (table.name, table.source) == ("winequality-red", "trainer/data/winequality-red.csv")
    assert table.digest == "38cb54f15a085ae1"


def test_the_packaged_file_is_the_one_that_its_readme_describes() -> None:
    digest = hashlib.sha256(PACKAGED.read_bytes()).hexdigest()
    assert digest in (PACKAGED.parent / "README.md").read_text()


def test_every_number_is_read_as_python_reads_it() -> None:
    lines = PACKAGED.read_text().splitlines()[1:]
    expected = np.array([[float(cell) for cell in line.split(";")] for line in lines])
    assert np.array_equal(load_table(None, "quality").frame.to_numpy(), expected)


@pytest.mark.parametrize(
    ("header", "separator"),
    [("a;b;c", ";"), ("a,b,c", ","), ('"a, the first";"b";"c"', ";"), ('"a;b","c"', ","), ("alone", ";")],
)
def test_the_separator_is_the_one_that_splits_the_header(header: str, separator: str) -> None:
    assert detect_separator(header) == separator


@pytest.mark.parametrize(
    "text",
    [
        make_text(),
        make_text().replace(";", ","),
        make_text().replace("\n", "\r\n"),
        make_text().replace("acid", '"acid"'),
        "\ufeff" + make_text(),
        make_text() + "\n\n",
        make_text().rstrip("\n"),
    ],
    ids=["semicolons", "commas", "windows", "quoted", "byte order mark", "blank lines", "no last newline"],
)
def test_files_of_every_usual_dialect_give_the_same_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "some.csv").write_bytes(text.encode())
    table = load_table(str(tmp_path / "some.csv"), "quality")
    assert table.frame.equals(parse_table(make_text(), "quality"))
    assert table.inputs == ["acid", "sugar"]
    assert table.name == "some"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ("\n \n", "no column 'quality' among"),
        (make_text(header="acid;sugar;taste"), "no column 'quality' among acid, sugar, taste: choose one by --target"),
        (make_text(*["5"] * MIN_ROWS, header="quality"), "must be two or more"),
        (make_text(header="acid;acid;quality"), "different names"),
        (make_text(header="acid;;quality"), "different names"),
        (make_text(*GOOD_ROWS[:-1], "1;much;5"), "column 'sugar', row 20: 'much' is no finite number"),
        (make_text(*GOOD_ROWS[:-1], "1;1_000;5"), "column 'sugar', row 20: '1_000' is no finite number"),
        (make_text(*GOOD_ROWS[:-1], "1;inf;5"), "column 'sugar', row 20: 'inf' is no finite number"),
        (make_text("1;2;good", *GOOD_ROWS), "column 'quality', row 1: 'good' is no finite number"),
        (make_text("1;;5", *GOOD_ROWS), "column 'sugar', row 1: the value is missing ('')"),
        (make_text("1;NaN;5", *GOOD_ROWS), "column 'sugar', row 1: the value is missing ('NaN')"),
        (make_text("1;2", *GOOD_ROWS), "row 1 has 2 cells, the header 3"),
        (make_text("1;2;5;6", *GOOD_ROWS), "row 1 has 4 cells, the header 3"),
        (make_text(*GOOD_ROWS[:-1]), f"{MIN_ROWS - 1} rows are too few"),
        (make_text('"1;2;5', *GOOD_ROWS), "unexpected end of data"),
    ],
)
def test_a_bad_table_is_refused_by_file_place_and_value(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TrainerError) as caught:
        load_table(str(path), "quality")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00quality")
    with pytest.raises(TrainerError, match=r"bad\.csv is no CSV file in UTF-8"):
        load_table(str(tmp_path / "bad.csv"), "quality")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"none\.csv can't be read \(No such file"):
        load_table(str(tmp_path / "none.csv"), "quality")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="Is a directory"):
        load_table(str(tmp_path), "quality")


def test_a_table_is_fetched_from_a_url(site: str) -> None:
    table = load_table(f"{site}/good.csv", "quality")
    assert table.frame.equals(parse_table(make_text(), "quality"))
    assert (table.name, table.source) == ("good", f"{site}/good.csv")


def test_the_query_of_a_url_which_may_hold_a_secret_is_not_kept(site: str) -> None:
    assert load_table(f"{site}/good.csv?signature=hush", "quality").source == f"{site}/good.csv"


def test_a_url_that_answers_404_is_refused(site: str) -> None:
    with pytest.raises(TrainerError, match=r"none\.csv can't be fetched \(HTTP Error 404"):
        load_table(f"{site}/none.csv", "quality")


def test_a_url_that_nobody_answers_is_refused() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port meanwhile
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.csv"
        with pytest.raises(TrainerError, match=r"can't be fetched \(.*Connection refused"):
            load_table(url, "quality")


@pytest.mark.parametrize("url", ["http://", "http://[/x.csv", "http://127.0.0.1:port/x.csv"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TrainerError, match="can't be fetched"):
        load_table(url, "quality")


def test_a_login_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(TrainerError) as caught:
        load_table("http://ada:hush@127.0.0.1:1/x.csv", "quality")
    assert "hush" not in str(caught.value)


def test_the_split_is_three_to_one_and_loses_no_row() -> None:
    table = load_table(None, "quality")
    split = split_table(table, seed=40)
    assert (len(split.train_x), len(split.test_x)) == (1199, 400)
    assert sorted([*split.train_x.index, *split.test_x.index]) == list(range(1599))
    assert list(split.test_x.columns) == table.inputs
    assert split.test_y.equals(table.frame["quality"].loc[split.test_x.index])


def test_the_same_seed_draws_the_same_rows_and_another_seed_others() -> None:
    table = load_table(None, "quality")
    assert split_table(table, 7).test_x.equals(split_table(table, 7).test_x)
    assert not split_table(table, 7).test_x.equals(split_table(table, 8).test_x)
