"""What a training leaves in MLflow: run, tags, params, metrics, data set, model, code, plots."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import mlflow
import mlflow.sklearn
from mlflow import MlflowClient
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.pandas_dataset import PandasDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.models import infer_signature
from sklearn.linear_model import ElasticNet

from wine.data import Split, Table
from wine.errors import TrainerError
from wine.model import Hyperparameters, Metrics
from wine.settings import impatience
from wine.stops import find_stop

TAGS = {"team": "Analytics Principal", "dataset": "Wine", "release.version": "2.2.2"}
FAILURE_TAG = "failure.reason"

# Named and pinned: to find them, MLflow would load the model in a subprocess, which takes longer than all the rest.
REQUIREMENTS = [f"{name}=={version(name)}" for name in ("mlflow", "scikit-learn", "numpy", "pandas", "skops")]


@dataclass(frozen=True)
class Labels:
    """What a run is filed under, and where it says that it comes from."""

    experiment: str
    run_name: str
    user: str | None = None
    git_commit: str | None = None
    tags: dict[str, str] = field(default_factory=TAGS.copy)

    @property
    def origin(self) -> dict[str, str]:
        """The tags from which MLflow's pages show user, source and commit."""
        user = {"mlflow.user": self.user} if self.user else {}
        commit = {"mlflow.source.git.commit": self.git_commit} if self.git_commit else {}
        return {"mlflow.source.name": "trainer/wine"} | user | commit


def find_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment, created when missing.

    Raises:
        TrainerError: An experiment of that name has been deleted; the name stays taken until it is purged.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage == "deleted":
        what = f"the experiment {name!r} (id {found.experiment_id}) has been deleted"
        raise TrainerError(f"{what}: restore it, or choose another by --experiment")
    return str(found.experiment_id)


@contextmanager
def open_run(client: MlflowClient, labels: Labels) -> Iterator[str]:
    """Yield the id of a new run, which ends as FINISHED, or as FAILED or KILLED with the reason as a tag.

    Raises:
        TrainerError: The experiment has been deleted.
    """
    experiment_id = find_experiment(client, labels.experiment)
    try:
        run = mlflow.start_run(experiment_id=experiment_id, run_name=labels.run_name, tags=labels.tags | labels.origin)
        yield str(run.info.run_id)
    except BaseException as error:
        _abandon_run(client, error)
        raise
    mlflow.end_run()


def list_params(split: Split, chosen: Hyperparameters) -> dict[str, float]:
    """Return the params that a run is logged with, and found again by."""
    return asdict(chosen) | {"seed": split.seed}


def log_training(split: Split, chosen: Hyperparameters, model: ElasticNet, metrics: Metrics) -> str:
    """Log all of a training to the active run and return the URI of the logged model."""
    mlflow.log_params(list_params(split, chosen))
    mlflow.log_metrics(asdict(metrics))
    mlflow.log_input(_describe_dataset(split.table), context="training")
    with tempfile.TemporaryDirectory() as folder:
        _collect_artifacts(Path(folder), model, split)
        mlflow.log_artifacts(folder)
    logged = mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(split.train_x, model.predict(split.train_x)),
        input_example=split.train_x.head(2),
        pip_requirements=REQUIREMENTS,
    )
    return str(logged.model_uri)


def _abandon_run(client: MlflowClient, error: BaseException) -> None:
    run = mlflow.active_run()
    if run is None:
        return
    stop = find_stop(error)
    why = stop or error
    reason = f"{type(why).__name__}: {why}".rstrip(": ")[:500]
    # Without a second try: the gateway may be the reason, and a container has ten seconds to stop.
    with suppress(Exception), impatience():
        mlflow.end_run("KILLED" if stop else "FAILED")
        client.set_tag(run.info.run_id, FAILURE_TAG, reason)


def _describe_dataset(table: Table) -> PandasDataset:
    origin = HTTPDatasetSource if "://" in table.source else LocalArtifactDatasetSource
    return mlflow.data.from_pandas(
        table.frame, source=origin(table.source), targets=table.target, name=table.name, digest=table.digest
    )


def _collect_artifacts(folder: Path, model: ElasticNet, split: Split) -> None:
    from wine.plots import plot_coefficients, plot_residuals  # (matplotlib: a search's workers don't draw)

    plots, code = folder / "plots", folder / "code"
    plots.mkdir()
    code.mkdir()
    plot_residuals(model, split).savefig(plots / "residuals.png")
    plot_coefficients(model, split).savefig(plots / "coefficients.png")
    for module in Path(__file__).parent.glob("*.py"):
        shutil.copy(module, code)
