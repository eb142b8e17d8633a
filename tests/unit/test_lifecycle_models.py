"""A model's files are looked at before anything of them is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LinearRegression

from lifecycle.models import Files, check_format, load
from lifecycle.refusals import Refused


@pytest.fixture
def files(tmp_path: Path) -> Files:
    folder = tmp_path / "model"
    model = LinearRegression().fit(np.eye(2), [1.0, 2.0])
    mlflow.sklearn.save_model(model, folder, pip_requirements=["scikit-learn"], serialization_format="skops")
    return Files("m", 1, folder)


def edit(files: Files, flavor: str, **changes: Any) -> None:
    """Change MLmodel as an author could who wants to get past the look."""
    path = files.folder / "MLmodel"
    card = yaml.safe_load(path.read_text())
    card["flavors"][flavor] |= changes
    path.write_text(yaml.safe_dump(card))


def test_what_the_stack_saves_passes_and_loads(files: Files) -> None:
    check_format(files)
    assert load(files).predict(np.eye(2)) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize(
    ("flavor", "changes", "line"),
    [
        ("python_function", {"loader_module": "antigravity"}, "is loaded by antigravity"),
        ("python_function", {"code": "code"}, "brings code of its own"),
        ("python_function", {"data": "model.pkl"}, "brings code of its own"),
        ("python_function", {"model_path": "../other/model.skops"}, "names a file outside of it"),
        ("sklearn", {"code": "code"}, "brings code of its own"),
        ("sklearn", {"serialization_format": "pickle"}, "is saved as pickle"),
    ],
)
def test_a_card_that_leads_to_code_is_refused(files: Files, flavor: str, changes: dict[str, Any], line: str) -> None:
    edit(files, flavor, **changes)
    with pytest.raises(Refused, match=f"format: version 1 of m {line}.*--trust-model"):
        check_format(files)


def test_types_that_the_model_itself_calls_trusted_are_not(files: Files) -> None:
    import skops.io

    class Evil:
        """Any type that skops doesn't know."""

    globals()["Evil"] = Evil
    Evil.__qualname__ = "Evil"
    skops.io.dump(Evil(), files.folder / "model.skops")
    edit(files, "sklearn", skops_trusted_types=[f"{__name__}.Evil"])
    with pytest.raises(Refused, match=r"format: .*holds .*Evil"):
        check_format(files)


@pytest.mark.parametrize("text", ["", "]", "flavors: 1", "flavors: {}"])
def test_a_card_that_can_not_be_read_is_refused(files: Files, text: str) -> None:
    (files.folder / "MLmodel").write_text(text)
    with pytest.raises(Refused, match="artifact: the file MLmodel"):
        check_format(files)


def test_a_file_that_is_no_model_is_refused(files: Files) -> None:
    (files.folder / "model.skops").write_text("hello")
    with pytest.raises(Refused, match=r"artifact: the file model\.skops"):
        check_format(files)
