"""The begin of a sweep: everything is checked, then there are a parent run and a folder for the workers."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from optuna.distributions import distribution_to_json

from sweep.folder import Folder, Plan, extend, find_newest, make_folder
from sweep.outcome import describe
from sweep.space import choose_space
from sweep.study import Study
from tabular.command import Request, prepare
from tabular.estimators import find_estimator, parse_object
from tabular.scores import CLASSIFICATION, REGRESSION
from tabular.training import Task, name_model
from wine import gateway, tracking
from wine.data import read_source
from wine.edge import tell
from wine.errors import TrainerError
from wine.names import Filing
from wine.settings import Settings, impatience


@dataclass(frozen=True)
class Search:
    """How is searched, as the command line says it."""

    space: str | None
    metric: str | None
    trials: int
    folds: int
    timeout: float | None
    prune: bool
    workers: int
    """Shown; ./stack starts them."""


def begin(settings: Settings, request: Request, search: Search, filing: Filing) -> Folder:
    """Check all and make the sweep.

    Raises:
        TrainerError: Something doesn't fit, or the gateway can't be reached or refuses.
    """
    task = prepare(request, err=True)  # (stdout is for the id)
    metric, direction = _choose_metric(task, search.metric)
    if task.classifies and (fewest := int(task.split.train_y.value_counts().min())) < search.folds:
        what = f"a class has {fewest} rows to train on, fewer than --folds {search.folds}"
        raise TrainerError(f"{what}: choose fewer folds, or drop or merge the class")
    given = None if search.space is None else parse_object("--space", search.space)
    space = choose_space(find_estimator(request.model), given, task.params)
    client = gateway.connect(settings)
    with gateway.explained(settings):
        plan = Plan(
            model=task.model,
            params=task.params,
            space={name: distribution_to_json(found) for name, found in space.items()},
            metric=metric,
            direction=direction,
            target=request.target,
            source=task.table.source,
            seed=task.seed,
            folds=search.folds,
            trials=search.trials,
            prune=search.prune,
            experiment=filing.experiment,
            experiment_id=tracking.find_experiment(client, filing.experiment),
            run_id="",
            model_name=filing.model_name or name_model(task.table, task.model),
            register=filing.register,
            begun=time.time(),
            deadline=None if search.timeout is None else time.time() + search.timeout,
        )
        run_name = filing.run_name or f"Sweep {task.model}"
        labels = tracking.Labels(filing.experiment, run_name, settings.user, settings.git_commit, task.tags)
        folder = _file(client, labels, plan, task, read_source(request.data)[0])
    what = f"{plan.trials} trials of {plan.model} for {plan.metric}, {plan.folds} folds each"
    tell(f"Sweep {folder.run_id}: {what}, {search.workers} at a time", err=True)
    return folder


def resume(settings: Settings, trials: int | None, timeout: float | None) -> Folder:
    """Open the newest unfinished sweep again.

    Raises:
        TrainerError: There is none, or it is under way, or the gateway can't be reached or refuses.
    """
    folder = find_newest()
    if alive := folder.count_alive():
        raise TrainerError(f"sweep {folder.run_id} is under way with {alive} workers: wait for them, or stop them")
    plan = extend(folder.read_plan(), trials, timeout)
    client = gateway.connect(settings)
    with gateway.explained(settings):
        if client.get_run(plan.run_id).info.lifecycle_stage == "deleted":
            raise TrainerError(f"run {plan.run_id} of the sweep has been deleted: restore it, or start another sweep")
        client.update_run(plan.run_id, status="RUNNING")
    folder.rest(False)
    folder.write_plan(plan)
    tell(f"Going on with sweep {plan.run_id} ({plan.model}) after {Study(folder, plan).count_ended()} trials", err=True)
    return folder


def _choose_metric(task: Task, wanted: str | None) -> tuple[str, str]:
    known: dict[str, Any] = CLASSIFICATION if task.classifies else REGRESSION
    metric = wanted or next(iter(known))
    if metric not in known:
        kind = "classifier" if task.classifies else "regressor"
        raise TrainerError(f"--metric is {metric!r}, but {task.model} is a {kind}: choose {', '.join(known)}")
    return metric, known[metric]


def _file(client: MlflowClient, labels: tracking.Labels, plan: Plan, task: Task, content: bytes) -> Folder:
    run_name = {MLFLOW_RUN_NAME: labels.run_name}
    run_id = client.create_run(plan.experiment_id, tags=labels.tags | labels.origin | run_name).info.run_id
    try:
        plan = replace(plan, run_id=run_id)
        describe(client, plan, task)
        folder = make_folder(run_id)
        folder.write_table(content)
        Study(folder, plan)
        folder.write_plan(plan)
    except BaseException:
        with suppress(Exception), impatience():
            client.set_terminated(run_id, "FAILED")
        raise
    return folder
