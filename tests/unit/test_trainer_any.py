"""`train --model`: any estimator on any table; what it logs, and what it refuses in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner, Result

from tabular.estimators import classifies, list_estimators, make_estimator
from tabular.pipeline import build_pipeline
from unit.trainer_store import open_store
from wine import cli

# (of those that the trainer takes: they need another kind of target or of inputs than the table below has)
ODD = {
    *("CategoricalNB", "ComplementNB", "MultinomialNB"),  # no negative inputs
    *("MultiTaskElasticNet", "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV"),  # several targets
    "IsotonicRegression",  # one input
    *("CCA", "PLSCanonical"),  # as many targets as components
    "RadiusNeighborsClassifier",  # no row without a neighbour
    "QuadraticDiscriminantAnalysis",  # no columns that say the same, as those of a text do
    *("GammaRegressor", "PoissonRegressor", "TweedieRegressor"),  # no negative target
}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    with open_store(tmp_path) as uri:
        yield uri


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A table of 120 people: numbers, texts, gaps, yes and no."""
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "age": random.integers(18, 80, 120),
            "height": random.normal(170, 10, 120).round(1),
            "town": random.choice(["Bern", "Aachen", "Łódź"], 120),
            "smokes": random.choice([True, False], 120),
        }
    )
    frame["income"] = (frame["age"] * 30 + 500 * (frame["town"] == "Bern") + random.normal(0, 50, 120)).round(2)
    frame["class"] = np.where(frame["income"] > frame["income"].median(), "high", "low")
    frame.loc[3, "height"] = None
    frame.loc[5, "town"] = None
    frame.to_csv(tmp_path / "people.csv", index=False)
    frame.to_parquet(tmp_path / "people.parquet")
    return tmp_path / "people.csv"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["train", *arguments])


def find_run(experiment: str = "Wine Regression") -> Run:
    found = MlflowClient().get_experiment_by_name(experiment)
    assert found
    (made,) = MlflowClient().search_runs([found.experiment_id])
    return made


def load(made: Run) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(f"models:/{made.outputs.model_outputs[0].model_id}")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_regressor_learns_from_numbers_texts_and_gaps(people: Path, suffix: str) -> None:
    data = people.with_suffix(suffix)
    options = ["--model", "RandomForestRegressor", "--params", '{"n_estimators": 20}', "--target", "income"]
    result = run("--data", str(data), *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    made = find_run()
    assert made.info.run_name == "Sk_RandomForestRegressor"
    assert made.data.params == {"model": "RandomForestRegressor", "seed": "40", "n_estimators": "20"}
    assert made.data.metrics.keys() == {"rmse", "mae", "r2"}
    assert made.data.metrics["r2"] > 0.8
    assert made.data.tags["dataset"] == "people"
    assert made.inputs.dataset_inputs[0].dataset.name == "people"
    assert [item.path for item in MlflowClient().list_artifacts(made.info.run_id, "plots")] == ["plots/residuals.png"]
    inputs = load(made).metadata.signature.inputs.to_dict()
    assert {column["name"]: column["type"] for column in inputs} == {
        **dict.fromkeys(["age", "height", "smokes"], "double"),
        **dict.fromkeys(["town", "class"], "string"),
    }
    assert "Registered people_RandomForestRegressor version 1" in result.stdout


def test_the_model_predicts_with_gaps_and_with_texts_that_it_has_not_seen(people: Path) -> None:
    assert run("--data", str(people), "--model", "Ridge", "--target", "income").exit_code == 0
    rows = pd.DataFrame(
        {
            "age": [30.0, None],
            "height": [None, 180.0],
            "town": ["Oslo", None],
            "smokes": [1.0, 0.0],
            "class": ["low", "high"],
        }
    )
    low, high = load(find_run()).predict(rows)
    assert 0 < low < high < 5000


def test_a_classifier_has_the_metrics_of_one(people: Path) -> None:
    result = run("--data", str(people), "--model", "LogisticRegression", "--target", "class", "--model-name", "Rich")
    assert result.exit_code == 0, result.output
    made = find_run()
    assert made.data.metrics.keys() == {"accuracy", "f1", "log_loss", "roc_auc"}
    assert made.data.metrics["roc_auc"] > 0.9
    assert [item.path for item in MlflowClient().list_artifacts(made.info.run_id, "plots")] == ["plots/confusion.png"]
    assert "Registered Rich version 1" in result.stdout


def test_several_classes_given_as_numbers(people: Path) -> None:
    result = run("--model", "RandomForestClassifier", "--params", '{"n_estimators": 5}')
    assert result.exit_code == 0, result.output
    made = find_run()
    assert made.data.metrics.keys() == {"accuracy", "f1", "log_loss", "roc_auc"}
    assert load(made).metadata.signature.outputs.to_dict()[0]["tensor-spec"]["dtype"] == "int64"


def test_a_classifier_without_chances_has_no_log_loss(people: Path) -> None:
    assert run("--data", str(people), "--model", "Perceptron", "--target", "class").exit_code == 0
    assert find_run().data.metrics.keys() == {"accuracy", "f1", "roc_auc"}


def test_the_articles_net_by_name_gives_its_figures_on_scaled_inputs_its_own_name() -> None:
    result = run("--model", "ElasticNet", "--params", '{"alpha": 0.1}')
    assert "Registered Wine_Elasticnet_Sklearn_Regressor version 1" in result.stdout


def test_a_parquet_file_takes_the_articles_options(people: Path) -> None:
    options = ["--target", "income", "--alpha", "0.1", "--l1-ratio", "0.2", "--no-register"]
    result = run("--data", str(people.with_suffix(".parquet")), *options)
    assert result.exit_code == 0, result.output
    assert find_run().data.params == {"model": "ElasticNet", "seed": "40", "alpha": "0.1", "l1_ratio": "0.2"}


def test_the_same_seed_gives_the_same_figures(people: Path) -> None:
    options = [
        "--data",
        str(people),
        "--model",
        "ExtraTreesRegressor",
        "--target",
        "income",
        "--no-register",
        "--seed",
        "3",
    ]
    assert run(*options).exit_code == run(*options).exit_code == 0
    found = MlflowClient().get_experiment_by_name("Wine Regression")
    one, other = MlflowClient().search_runs([found.experiment_id])
    assert one.data.metrics == other.data.metrics


def test_model_name_names_the_articles_model_too() -> None:
    assert "Registered Mine version 1" in run("--model-name", "Mine").stdout


def test_every_estimator_is_fitted_saved_and_loaded_in_the_safe_format(tmp_path: Path, soak: bool) -> None:
    import skops.io

    from tabular.training import _list_own_types

    random = np.random.default_rng(2)
    inputs = pd.DataFrame(random.normal(size=(60, 3)), columns=["a", "b", "c"])
    inputs["d"] = pd.Series(random.choice(["x", "y"], 60), dtype="object")
    numbers, classes = inputs["a"] * 2 + 1, (inputs["a"] > 0).astype("int64")
    names = [name for name in list_estimators() if name not in ODD]
    assert len(names) > 60
    for name in names if soak else names[::6]:
        kind = list_estimators()[name]
        model = build_pipeline(make_estimator(kind, {}, 1), inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(inputs, classes if classifies(kind) else numbers)
            skops.io.dump(model, tmp_path / "model.skops")
            again = skops.io.load(tmp_path / "model.skops", trusted=_list_own_types(model))
        assert np.array_equal(model.predict(inputs), again.predict(inputs)), name


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--model", "RandomForestRegresor"],
            "--model is 'RandomForestRegresor', no regressor .*: choose RandomForestReg",
        ),
        (["--model", "StackingRegressor"], "--model is 'StackingRegressor', no regressor or classifier"),
        (["--model", "Ridge", "--params", "alpha=1"], "--params is 'alpha=1', no JSON"),
        (["--model", "Ridge", "--params", "[1]"], r"--params is '\[1\]': write an object"),
        (
            ["--model", "Ridge", "--params", '{"alfa": 1}'],
            "--params has 'alfa', which Ridge doesn't take: did you mean alpha",
        ),
        (["--model", "Ridge", "--params", '{"alpha": -1}'], "Ridge refuses this: The 'alpha' parameter"),
        (["--model", "Ridge", "--target", "wage"], "no column 'wage' among age, height, .*: choose one by --target"),
        (["--model", "Ridge", "--target", "class"], "column 'class' is text .*: choose a classifier"),
        (
            ["--model", "SVC", "--target", "income"],
            "column 'income' has .* in row 1, and a classifier predicts classes",
        ),
        (["--model", "SVC", "--target", "town"], "column 'town', row 6: the target is missing"),
        (["--model", "MultiTaskLasso", "--target", "income"], "MultiTaskLasso refuses this: "),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(people: Path, options: list[str], complaint: str) -> None:
    result = run("--data", str(people), *(options if "--target" in options else [*options, "--target", "income"]))
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert_matches(complaint, result.stderr)
    assert MlflowClient().get_experiment_by_name("Wine Regression") is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda frame: frame.assign(when=pd.Timestamp("2026-01-01")),
            "column 'when' is of type datetime64.*: convert it or drop",
        ),
        (lambda frame: frame.assign(nothing=None), "column 'nothing' has no value: drop it"),
        (lambda frame: frame.assign(far=np.inf), "column 'far', row 1: inf is no finite number"),
        (lambda frame: frame.assign(**{"class": "low"}), "column 'class' has one class only, 'low'"),
        (
            lambda frame: frame.assign(**{"class": ["odd", *frame["class"][1:]]}),
            "class 'odd' of column 'class' has one row, which can't be in train and test: drop or merge it",
        ),
        (
            lambda frame: frame.assign(**{"class": [f"c{n // 2}" for n in range(len(frame))]}),
            "can't be split into train and test",
        ),
        (lambda frame: frame.head(5), "5 rows are too few"),
        (lambda frame: frame[["class"]], "must be two or more"),
    ],
)
def test_a_table_that_nothing_can_be_learnt_from_is_one_line(people: Path, change: object, complaint: str) -> None:
    assert callable(change)
    data = people.with_suffix(".parquet")
    change(pd.read_parquet(data)).to_parquet(data)
    result = run("--data", str(data), "--model", "LogisticRegression", "--target", "class")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert_matches(complaint, result.stderr)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.parquet", b"a,b\n1,2\n", "no Parquet file"),
        ("x.csv", b"", "the file is empty"),
        ("x.csv", b"\xff\xfe", "no CSV file in UTF-8"),
        ("x.csv", b"a,b\n1,2\n1,2,3,4\n", "no CSV file"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("--data", str(tmp_path / name), "--model", "Ridge", "--target", "b")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert_matches(complaint, result.stderr)


@pytest.mark.parametrize("options", [["--params", "{}"], ["--model", "Ridge", "--alpha", "1"]])
def test_options_that_exclude_each_other_are_wrong_usage(options: list[str]) -> None:
    assert run(*options).exit_code == 2


def assert_matches(pattern: str, text: str) -> None:
    import re

    assert re.search(pattern, text), text
