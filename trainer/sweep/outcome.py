"""The end of a sweep: the best model is fitted again, logged and registered; plots say how the search went."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from optuna import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState

from sweep.study import Study
from sweep.worker import TRIAL_TAG, Ledger, open_plan
from tabular.training import MAX_PARAM, Task, describe_dataset, fit, log_fit
from wine import gateway, registry
from wine.edge import tell
from wine.errors import TrainerError
from wine.settings import Settings
from wine.tracking import FAILURE_TAG, Labels, open_run

if TYPE_CHECKING:
    from sweep.folder import Folder, Plan

SWEEP_TAG = "sweep.run"


def close(settings: Settings, folder: Folder) -> None:
    """Summarise the sweep, fit the best again and register it; remove the folder if all trials are done.

    Raises:
        TrainerError: Trials are missing, though there is time, or none is complete.
    """
    plan = folder.read_plan()
    client = gateway.connect(settings)
    with gateway.explained(settings):
        study = Study(folder, plan)
        study.bury_lost(Ledger(client, plan, settings).bury)
        _end_strays(client, plan)
        ended = study.count_ended()
        if ended < plan.trials and not study.is_late():
            client.set_terminated(plan.run_id, "KILLED")
            raise TrainerError(
                f"the workers ended after {ended} of {plan.trials} trials: ./stack sweep --resume goes on"
            )
        best = study.find_best()
        if best is None:
            client.set_terminated(plan.run_id, "FAILED")
            _forget(folder, ended, plan)
            raise TrainerError(f"none of {ended} trials is complete: give it more --timeout, or change --space")
        _summarise(client, plan, study.optuna, best)
        version = _find_version(client, plan, best)
        if version is None:
            version = _refit(client, settings, plan, open_plan(plan, folder.read_table()), best)
        client.set_terminated(plan.run_id, "FINISHED")
    if plan.register:
        tell(f"Registered {plan.model_name} version {version} (not promoted)")
    if ended < plan.trials:
        folder.rest(True)
        tell(f"The time was up after {ended} of {plan.trials} trials: ./stack sweep --resume goes on")
    _forget(folder, ended, plan)
    tell("Done")


def describe(client: MlflowClient, plan: Plan, task: Task) -> None:
    """Log to the parent run what a sweep is to do."""
    chosen = {name: getattr(plan, name) for name in ("model", "metric", "folds", "seed", "trials")}
    fixed = {f"fixed_{name}": value for name, value in plan.params.items()}
    client.log_batch(
        plan.run_id, params=[Param(name, str(value)[:MAX_PARAM]) for name, value in (chosen | fixed).items()]
    )
    client.log_dict(plan.run_id, {name: json.loads(text) for name, text in plan.space.items()}, "space.json")
    used = DatasetInput(
        describe_dataset(task.table)._to_mlflow_entity(), [InputTag(MLFLOW_DATASET_CONTEXT, "training")]
    )
    client.log_inputs(plan.run_id, [used])


def _forget(folder: Folder, ended: int, plan: Plan) -> None:
    if ended >= plan.trials:
        folder.remove()


def _end_strays(client: MlflowClient, plan: Plan) -> None:
    """End the runs that a killed worker, or a killed end of this sweep, has left."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{plan.run_id}' AND attributes.status = 'RUNNING'"
    for run in client.search_runs([plan.experiment_id], query):
        client.set_tag(run.info.run_id, FAILURE_TAG, "its process died")
        client.set_terminated(run.info.run_id, "FAILED")


def _summarise(client: MlflowClient, plan: Plan, study: OptunaStudy, best: FrozenTrial) -> None:
    states = [trial.state for trial in study.trials]
    counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    shown: dict[str, float] = {f"trials_{state.name.lower()}": states.count(state) for state in counted}
    shown[f"best_cv_{plan.metric}"] = float(best.value or 0.0)
    moment = int(time.time() * 1000)
    metrics = [Metric(name, value, moment, 0) for name, value in shown.items()]
    client.log_batch(plan.run_id, metrics, tags=[RunTag("sweep.best_trial", str(best.number))])
    with tempfile.TemporaryDirectory() as scratch:
        _draw_plots(Path(scratch), study, plan)
        study.trials_dataframe().to_csv(Path(scratch) / "trials.csv", index=False)
        client.log_artifacts(plan.run_id, scratch, "sweep")
    typer.echo(f"Best: trial {best.number}, cv {plan.metric} {best.value:.6g}, {best.params}")


def _draw_plots(folder: Path, study: OptunaStudy, plan: Plan) -> None:
    import matplotlib as mpl  # (some tenths of a second, which the workers don't wait for)

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as plots

    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    varied = [name for name in plan.space if len({trial.params[name] for trial in complete}) > 1]
    wanted: dict[str, Callable[..., Any]] = {"history": plots.plot_optimization_history}
    if len(complete) > 1 and varied:
        wanted["parallel-coordinates"] = plots.plot_parallel_coordinate
        if len({trial.value for trial in complete}) > 1:
            wanted["importance"] = plots.plot_param_importances
    if len(complete) > 1 and len(varied) > 1:
        wanted["contour"] = plots.plot_contour
    for name, plot in wanted.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these plots count as experimental
            drawn = plot(study, target_name=f"cv {plan.metric}")
        figure = next(iter(getattr(drawn, "flat", [drawn]))).figure
        figure.set_size_inches(12, 9) if name == "contour" else figure.set_size_inches(9, 6)
        figure.savefig(folder / f"{name}.png", bbox_inches="tight")
        plt.close(figure)


def _find_version(client: MlflowClient, plan: Plan, best: FrozenTrial) -> str | None:
    """Return the version that an earlier end of this sweep has registered of the same trial."""
    wanted = {SWEEP_TAG: plan.run_id, TRIAL_TAG: str(best.number)}
    for version in client.search_model_versions(f"name = '{plan.model_name}'"):
        if wanted.items() <= version.tags.items():
            return str(version.version)
    return None


def _refit(client: MlflowClient, settings: Settings, plan: Plan, task: Task, best: FrozenTrial) -> str:
    pipeline, metrics = fit(task, best.params)
    for name, value in metrics.items():
        typer.echo(f"  {name.upper()} on the test rows: {value}")
    tags = task.tags | {MLFLOW_PARENT_RUN_ID: plan.run_id, "sweep.best_of": plan.run_id}
    labels = Labels(plan.experiment, f"best of sweep (trial {best.number})", settings.user, settings.git_commit, tags)
    with open_run(client, labels) as run_id:
        model_uri = log_fit(task, pipeline, metrics | {f"cv_{plan.metric}": float(best.value or 0.0)}, best.params)
        tell(f"Logged the best model in run {run_id}, below {plan.run_id}")
        if not plan.register:
            return ""
        marks = {SWEEP_TAG: plan.run_id, TRIAL_TAG: str(best.number)}
        return registry.register(client, model_uri, plan.model_name, marks)
