"""Which models may be loaded, and what is said of a version that can't be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from serving import copies, formats
from serving.loading import LoadError, load
from serving.order import Order
from serving.settings import Settings, SettingsError
from serving.settings import load as load_settings

SAFE = {
    "python_function": {"loader_module": "mlflow.sklearn", "model_path": "model.skops", "code": None},
    "sklearn": {"serialization_format": "skops", "skops_trusted_types": None, "code": None},
}


def change(flavor: str, **fields: Any) -> dict[str, Any]:
    return {**SAFE, flavor: {**SAFE[flavor], **fields}}


@pytest.mark.parametrize(
    "flavors",
    [
        SAFE,
        change("sklearn", skops_trusted_types=[]),
        change("sklearn", skops_trusted_types=["sklearn.tree._tree.Tree"]),
    ],
)
def test_skops_with_nothing_but_scikit_learn_is_data(flavors: dict[str, Any]) -> None:
    assert formats.find_danger(flavors) is None


@pytest.mark.parametrize(
    ("flavors", "words"),
    [
        ({}, "None"),
        ({"python_function": None, "sklearn": None}, "None"),
        (change("python_function", loader_module="mlflow.pyfunc.model"), "'mlflow.pyfunc.model'"),
        (change("python_function", loader_module="os"), "'os'"),
        (change("sklearn", serialization_format="cloudpickle"), "'cloudpickle'"),
        ({"python_function": SAFE["python_function"]}, "'pickle'"),
        (change("python_function", code="code"), "code"),
        (change("sklearn", code="code"), "code"),
        (change("python_function", data="elsewhere"), "place"),
        (change("python_function", config={"a": 1}), "configuration"),
        (change("sklearn", skops_trusted_types=["os.system"]), "'os.system'"),
        (change("sklearn", skops_trusted_types=["sklearn.tree._tree.Tree", "builtins.eval"]), "'builtins.eval'"),
        (change("sklearn", skops_trusted_types=["sklearn.datasets.load_iris"]), "'sklearn.datasets.load_iris'"),
        (change("sklearn", skops_trusted_types=["sklearn.os.system"]), "'sklearn.os.system'"),
        (change("sklearn", skops_trusted_types=["sklearn.nothing.Here"]), "'sklearn.nothing.Here'"),
        (change("sklearn", skops_trusted_types=[7]), "'7'"),
    ],
)
def test_what_may_run_code_of_its_own_is_named(flavors: dict[str, Any], words: str) -> None:
    assert words in (formats.find_danger(flavors) or "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(copies, "COPIES", tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    return tmp_path


def make_copy(place: Path, name: str, **options: Any) -> Path:
    """Make a copy of a model as `follower` does."""
    rows = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
    model = LinearRegression().fit(rows, [1.0, 2.0, 3.0])
    usual = {"signature": infer_signature(rows, rows["x"]), "input_example": rows, "pip_requirements": ["scikit-learn"]}
    mlflow.sklearn.save_model(model, place / name / copies.FILES, **{**usual, **options})
    copies.write_manifest(place / name)
    return place / name / copies.FILES


def make_order(copy: str, *, pickle: bool = False) -> Order:
    return Order("M", copies.find_version(copy), copy, "", pickle, 2**29, "512m", 100, "/tmp/x", log=False, sample=1.0)


def test_a_good_copy_is_loaded_and_has_predicted_its_example(place: Path) -> None:
    make_copy(place, "M@1-5")
    assert load(make_order("M@1-5")).model.metadata is not None


def test_pickle_is_loaded_only_where_the_operator_opens_it(place: Path) -> None:
    make_copy(place, "M@1-5", serialization_format="cloudpickle")
    with pytest.raises(LoadError, match="STACK_SERVE_PICKLE=on"):
        load(make_order("M@1-5"))
    assert load(make_order("M@1-5", pickle=True))


def test_a_missing_module_is_named(place: Path) -> None:
    files = make_copy(place, "M@1-5")
    text = (files / "MLmodel").read_text().replace("loader_module: mlflow.sklearn", "loader_module: not_there_at_all")
    (files / "MLmodel").write_text(text)
    copies.write_manifest(place / "M@1-5")
    with pytest.raises(LoadError, match="needs the Python module 'not_there_at_all'"):
        load(make_order("M@1-5", pickle=True))


@pytest.mark.parametrize("damage", ["changed", "missing", "new", "manifest"])
def test_a_copy_that_is_not_as_it_was_fetched_is_not_loaded(place: Path, damage: str) -> None:
    files = make_copy(place, "M@1-5")
    if damage == "changed":
        content = bytearray((files / "model.skops").read_bytes())
        content[len(content) // 2] ^= 1
        (files / "model.skops").write_bytes(content)
    elif damage == "missing":
        (files / "conda.yaml").unlink()
    elif damage == "new":
        (files / "more.py").write_text("x")
    else:
        (files.parent / copies.MANIFEST).unlink()
    with pytest.raises(LoadError, match="the copy"):
        load(make_order("M@1-5"))


def test_a_version_without_mlmodel_is_refused_in_a_line(place: Path) -> None:
    files = make_copy(place, "M@1-5")
    (files / "MLmodel").write_text("[")
    copies.write_manifest(files.parent)
    with pytest.raises(LoadError, match="its MLmodel can't be read") as caught:
        load(make_order("M@1-5"))
    assert "\n" not in str(caught.value)


def test_a_version_without_an_example_is_served_untried(place: Path) -> None:
    files = make_copy(place, "M@1-5")
    shutil.rmtree(files)
    make_copy(place, "M@1-5", input_example=None)
    assert load(make_order("M@1-5")).is_slow


CHOSEN = {
    "STACK_SERVE": "Wine,Other@3",
    "STACK_SERVE_PICKLE": "off",
    "STACK_SERVE_MODEL_MEMORY": "512m",
    "STACK_SERVE_ROWS": "10",
    "STACK_PREDICTION_LOG": "on",
    "STACK_PREDICTION_SAMPLE": "0.05",
}


def choose(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in (CHOSEN | changes).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(monkeypatch)
    assert chosen.choices == (copies.Choice("Wine", ""), copies.Choice("Other", "3"))
    assert (chosen.memory, chosen.rows, chosen.pickle) == (512 * 1024**2, 10, False)
    assert (chosen.log, chosen.sample) == (True, 0.05)
    assert choose(monkeypatch, STACK_SERVE="off").choices == ()


def test_every_unfit_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as caught:
        choose(monkeypatch, **dict.fromkeys(CHOSEN, "a/b"))
    for name in CHOSEN:
        assert f"{name} is 'a/b'" in str(caught.value)


@pytest.mark.parametrize("sample", ["0", "0.0", "1.5", "-1", "1e-3", ""])
def test_a_share_is_above_0_and_up_to_1(monkeypatch: pytest.MonkeyPatch, sample: str) -> None:
    with pytest.raises(SettingsError, match="STACK_PREDICTION_SAMPLE is "):
        choose(monkeypatch, STACK_PREDICTION_SAMPLE=sample)


def test_a_copys_name_says_its_version() -> None:
    copy = copies.name_copy("A.b-c@d"[:5], "12", 1795633333145)
    assert copies.find_version(copy) == "12"
    assert json.dumps(copy)
