"""A training of any estimator: what it is of, its fit, and what it leaves in MLflow."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.pandas_dataset import PandasDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.models import infer_signature
from sklearn.pipeline import Pipeline

from tabular.estimators import check_params, classifies, explained_fit, find_estimator, make_estimator
from tabular.pipeline import Split, build_pipeline, split_table
from tabular.scores import measure
from tabular.table import Table
from wine.names import MODEL
from wine.tracking import REQUIREMENTS

MAX_PARAM = 6000  # characters that MLflow keeps of a value


@dataclass(frozen=True)
class Task:
    """An estimator by name and parameters, on a split table."""

    model: str
    params: dict[str, Any]
    seed: int
    table: Table
    split: Split
    classifies: bool

    def build(self, params: dict[str, Any] | None = None) -> Pipeline:
        """Return the unfitted pipeline, with these parameters beside the task's own."""
        estimator = make_estimator(find_estimator(self.model), self.params | (params or {}), self.seed)
        return build_pipeline(estimator, self.split.train_x)

    @property
    def tags(self) -> dict[str, str]:
        """What a run of it is found by."""
        return {"dataset": self.table.name, "estimator": self.model}


def open_task(table: Table, model: str, params: dict[str, Any], seed: int) -> Task:
    """Check estimator, parameters and target against each other, and split the table.

    Raises:
        TrainerError: One of them doesn't fit.
    """
    kind = find_estimator(model)
    check_params(kind, params, "--params")
    return Task(model, params, seed, table, split_table(table, classifies(kind), seed), classifies(kind))


def name_model(table: Table, model: str) -> str:
    """Return the name under which a model is registered if nobody says another."""
    if (table.name, model) == ("Wine", "ElasticNet"):
        return MODEL
    return re.sub(r"[/:\s]+", "_", f"{table.name}_{model}")


def fit(task: Task, params: dict[str, Any] | None = None) -> tuple[Pipeline, dict[str, float]]:
    """Fit to the training rows; return the pipeline and its metrics on the test rows.

    Raises:
        TrainerError: The estimator refuses its parameters or the data.
    """
    pipeline = task.build(params)
    with explained_fit(task.model):
        pipeline.fit(task.split.train_x, task.split.train_y)
        return pipeline, measure(pipeline, task.split.test_x, task.split.test_y, task.classifies)


def log_fit(task: Task, pipeline: Pipeline, metrics: dict[str, float], params: dict[str, Any]) -> str:
    """Log all of a training to the active run and return the URI of the logged model."""
    logged = {"model": task.model, "seed": task.seed} | task.params | params
    mlflow.log_params({name: str(value)[:MAX_PARAM] for name, value in logged.items()})
    mlflow.log_metrics(metrics)
    mlflow.log_input(describe_dataset(task.table), context="training")
    with tempfile.TemporaryDirectory() as folder:
        _collect_artifacts(Path(folder), task, pipeline)
        mlflow.log_artifacts(folder)
    example = task.split.train_x.head(2)
    with explained_fit(task.model):
        info = mlflow.sklearn.log_model(
            pipeline,
            name="model",
            signature=infer_signature(task.split.train_x, pipeline.predict(task.split.train_x)),
            input_example=example,
            pip_requirements=REQUIREMENTS,
            skops_trusted_types=_list_own_types(pipeline),
        )
    return str(info.model_uri)


def describe_dataset(table: Table) -> PandasDataset:
    """Return the table as MLflow's pages show it."""
    origin = HTTPDatasetSource if "://" in table.source else LocalArtifactDatasetSource
    return mlflow.data.from_pandas(
        table.frame, source=origin(table.source), targets=table.target, name=table.name, digest=table.digest
    )


def _list_own_types(pipeline: Pipeline) -> list[str]:
    """Return the types in it that skops doesn't know and that are scikit-learn's or numpy's own."""
    import skops.io  # here, as the plots below: a search's workers come to need neither until its end

    unknown = skops.io.get_untrusted_types(data=skops.io.dumps(pipeline))
    return [name for name in unknown if name.split(".")[0] in {"sklearn", "numpy", "scipy"}]


def _collect_artifacts(folder: Path, task: Task, pipeline: Pipeline) -> None:
    from tabular.plots import plot_confusion, plot_residuals

    plots, code = folder / "plots", folder / "code"
    plots.mkdir()
    code.mkdir()
    plot, name = (plot_confusion, "confusion.png") if task.classifies else (plot_residuals, "residuals.png")
    plot(pipeline, task.split.test_x, task.split.test_y).savefig(plots / name)
    for module in Path(__file__).parent.glob("*.py"):
        shutil.copy(module, code)
