"""Batch prediction of a file through the command, beside the same model in this process."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from lifecycle import registry
from stack.deployment import CHECKOUT, Deployment
from wine.errors import TrainerError

WINE = "Wine_Elasticnet_Sklearn_Regressor"
WINES = CHECKOUT / "trainer" / "data" / "winequality-red.csv"
# The whole file of 200,000 rows at once takes 80 MB more than a small one, 10,000,000 rows would take gigabytes.
MAX_GROWTH_MB, MAX_GROWTH_SOAK_MB = 50, 150


def grow(path: Path, rows: int) -> None:
    """Write the red wines again and again."""
    head, *lines = WINES.read_text().splitlines(keepends=True)
    with path.open("w") as file:
        file.write(head)
        whole, rest = divmod(rows, len(lines))
        for _ in range(whole):
            file.writelines(lines)
        file.writelines(lines[:rest])


def find_peak(said: str) -> int:
    found = re.search(r"peak memory (\d+) MB", said)
    assert found, said
    return int(found[1])


@pytest.fixture(scope="module")
def small(stack: Deployment) -> tuple[Path, str]:
    """The red wines, predicted by the command: the output, and what it said."""
    output = stack.root / "predicted.parquet"
    result = stack.run("predict", f"{WINE}@production", "--input", str(WINES), "--output", output.name, "--keep", "pH")
    assert result.returncode == 0, result.stderr
    return output, result.stderr


def test_a_file_is_predicted_as_in_this_process(client: MlflowClient, small: tuple[Path, str]) -> None:
    frame = pd.read_csv(WINES, sep=";", dtype=float)
    expected = mlflow.pyfunc.load_model(f"models:/{WINE}@production").predict(frame.drop(columns="quality"))
    table = pq.read_table(small[0]).to_pandas()
    assert list(table.columns) == ["pH", "prediction"]
    assert np.array_equal(table["pH"].to_numpy(), frame["pH"].to_numpy())
    assert np.array_equal(table["prediction"].to_numpy(), expected)


def test_a_version_has_many_names(client: MlflowClient) -> None:
    client.set_registered_model_alias(WINE, "blue", "1")
    model = registry.read_model(client, WINE)
    for reference in (
        f"{WINE}@production",
        f"{WINE}/Production",
        f"{WINE}/production",
        WINE,
        f"models:/{WINE}@production",
    ):
        assert registry.find_version(client, reference)[1] == model.champion, reference
    for reference in (f"{WINE}@blue", f"{WINE}/1", f"models:/{WINE}/1"):
        assert registry.find_version(client, reference)[1] == 1, reference
    client.delete_registered_model_alias(WINE, "blue")
    for reference, line in (
        (f"{WINE}@blue", "has no alias 'blue': it has production"),
        (f"{WINE}/99", "has no version 99"),
        (f"{WINE}/Staging", "has no version in Staging"),
        (f"{WINE}/nowhere", "names no version"),
        ("Nobody's", "there is no registered model"),
    ):
        with pytest.raises(TrainerError, match=line):
            registry.find_version(client, reference)


def test_a_row_that_does_not_fit_is_named_and_no_output_is_left(stack: Deployment) -> None:
    bad = stack.root / "bad.csv"
    lines = WINES.read_text().splitlines()
    lines[1201] = lines[1201].replace(";", ";strong;", 1).replace(";", "", 1)
    bad.write_text("\n".join(lines))
    result = stack.run("predict", f"{WINE}@production", "--input", str(bad), "--output", "out.csv")
    assert result.returncode == 1
    assert re.search(
        r"^error: bad.csv, row 1201(, column 'fixed acidity': '.*strong' is no double|:)", result.stderr, re.MULTILINE
    )
    assert not list(stack.root.glob("out.csv*"))


def test_memory_stays_flat_however_long_the_file_is(stack: Deployment, small: tuple[Path, str], soak: bool) -> None:
    rows = 10_000_000 if soak else 200_000
    source, output = stack.root / "long.csv", stack.root / "long-out.csv"
    grow(source, rows)
    arguments = ["predict", f"models:/{WINE}/Production", "--input", str(source), "--output", str(output)]
    result = stack.run(*arguments, timeout=1200)
    assert result.returncode == 0, result.stderr
    assert f"Predicted {rows} rows" in result.stderr
    with output.open("rb") as file:
        assert sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b"")) == rows + 1
    source.unlink()
    output.unlink()
    before, after = find_peak(small[1]), find_peak(result.stderr)
    assert after - before < (MAX_GROWTH_SOAK_MB if soak else MAX_GROWTH_MB), (before, after)
