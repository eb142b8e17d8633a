"""A worker: does trials until none is left, each a run of MLflow below the sweep's."""

from __future__ import annotations

import statistics
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import typer
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from optuna.trial import Trial, TrialState
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from sweep.study import Study
from tabular.estimators import explained_fit
from tabular.scores import measure
from tabular.table import check_table
from tabular.training import MAX_PARAM, Task, open_task
from wine import gateway
from wine.errors import TrainerError
from wine.settings import Settings, impatience
from wine.tracking import FAILURE_TAG, Labels

if TYPE_CHECKING:
    from sweep.folder import Folder, Plan

TRIAL_TAG = "sweep.trial"
# As MLflow's own storage for Optuna has it.
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


def open_plan(plan: Plan, content: bytes) -> Task:
    """Return the task of a plan."""
    return open_task(check_table(content, plan.source, plan.target), plan.model, plan.params, plan.seed)


def work(settings: Settings, folder: Folder, order: int) -> bool:
    """Do trials until none is left; return whether no other worker is still at it.

    Raises:
        TrainerError: The gateway stays away, or the estimator refuses too many trials.
    """
    plan = folder.read_plan()
    name = f"worker-{order}-{uuid.uuid4().hex}"
    # One thread a worker: workers share the cores.
    with folder.hold_life(name) as life, threadpool_limits(1):
        task = open_plan(plan, folder.read_table())
        client = gateway.connect(settings)
        ledger = Ledger(client, plan, settings)
        shift = _Shift(order, plan, task, Study(folder, plan), ledger)
        with gateway.explained(settings):
            while trial := shift.study.claim(name, lambda number: gateway.ask_patiently(lambda: ledger.bury(number))):
                _do_trial(shift, trial)
        if ledger.trials:
            mean = 1000 * ledger.seconds / ledger.trials
            typer.echo(f"worker {order}: {ledger.trials} trials; to log one took {mean:.0f} ms")
        with folder.lock("end"):  # one after the other, so that one of them is the last
            life.close()
            return not folder.count_alive()


class Ledger:
    """The runs of the trials in MLflow; three requests each.

    Attributes:
        trials: how many were logged.
        seconds: how long that took.
    """

    def __init__(self, client: MlflowClient, plan: Plan, settings: Settings) -> None:
        self._client, self._plan = client, plan
        self._origin = Labels(plan.experiment, "", settings.user, settings.git_commit).origin
        self.trials, self.seconds = 0, 0.0

    def begin(self, trial: Trial) -> str:
        """Make the run of a trial and return its id."""
        begin = time.perf_counter()
        tags = {
            MLFLOW_PARENT_RUN_ID: self._plan.run_id,
            MLFLOW_RUN_NAME: f"trial {trial.number}",
            TRIAL_TAG: str(trial.number),
        }
        # (asked twice it may be there twice: `close` ends the one that nobody knows)
        run = gateway.ask_patiently(lambda: self._client.create_run(self._plan.experiment_id, tags=tags | self._origin))
        self.trials += 1
        self.seconds += time.perf_counter() - begin
        return str(run.info.run_id)

    def end(self, run_id: str, trial: Trial, state: TrialState, scores: list[dict[str, float]], reason: str) -> None:
        """Log what a trial has shown, and end its run."""
        begin = time.perf_counter()
        moment = int(time.time() * 1000)
        metrics = [
            Metric(f"fold_{name}", value, moment, step)
            for step, score in enumerate(scores)
            for name, value in score.items()
        ]
        if state == TrialState.COMPLETE:  # the mean of some folds is not to be compared with that of all
            metrics += [Metric(f"cv_{name}", value, moment, 0) for name, value in _average(scores).items()]
        params = [Param(name, str(value)[:MAX_PARAM]) for name, value in (self._plan.params | trial.params).items()]
        tags = [RunTag("sweep.state", state.name), *([RunTag(FAILURE_TAG, reason[:500])] if reason else [])]
        params.append(Param("model", self._plan.model))
        gateway.ask_patiently(lambda: self._client.log_batch(run_id, metrics, params, tags))
        gateway.ask_patiently(lambda: self._client.set_terminated(run_id, _STATUS[state]))
        self.seconds += time.perf_counter() - begin

    def bury(self, number: int) -> None:
        """End the run of a trial whose worker has died."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._plan.run_id}' AND tags.`{TRIAL_TAG}` = '{number}'"
        for run in self._client.search_runs([self._plan.experiment_id], query):
            self._client.set_tag(run.info.run_id, FAILURE_TAG, "its worker ended; the trial is done again as another")
            self._client.set_tag(run.info.run_id, "sweep.state", TrialState.FAIL.name)
            self._client.set_terminated(run.info.run_id, "FAILED")


@dataclass(frozen=True)
class _Shift:
    number: int
    plan: Plan
    task: Task
    study: Study
    ledger: Ledger


@dataclass(frozen=True)
class _Outcome:
    state: TrialState
    scores: list[dict[str, float]]
    value: float | None = None
    reason: str = ""


def _do_trial(shift: _Shift, trial: Trial) -> None:
    begin = time.perf_counter()
    try:
        run_id = shift.ledger.begin(trial)
        outcome = _evaluate(shift.plan, shift.task, trial)
        # MLflow first: a trial that counts as ended has a run that has all.
        shift.ledger.end(run_id, trial, outcome.state, outcome.scores, outcome.reason)
    except BaseException:
        with suppress(Exception), impatience():
            shift.ledger.bury(trial.number)
        shift.study.lose(trial)
        raise
    if outcome.reason:
        trial.set_user_attr("reason", outcome.reason)
    shift.study.optuna.tell(trial, outcome.value, outcome.state)
    _show(shift, trial, outcome, time.perf_counter() - begin)


def _evaluate(plan: Plan, task: Task, trial: Trial) -> _Outcome:
    kind = StratifiedKFold if task.classifies else KFold
    folds = kind(plan.folds, shuffle=True, random_state=plan.seed)
    inputs, truth = task.split.train_x, task.split.train_y
    scores: list[dict[str, float]] = []
    try:
        with explained_fit(task.model):
            for step, (train, test) in enumerate(folds.split(inputs, truth)):
                model = task.build(trial.params).fit(inputs.iloc[train], truth.iloc[train])
                scores.append(measure(model, inputs.iloc[test], truth.iloc[test], task.classifies))
                mean = _find_mean(plan.metric, scores)
                trial.report(mean, step)
                if step + 1 < plan.folds and trial.should_prune():
                    return _Outcome(TrialState.PRUNED, scores)
    except TrainerError as error:
        return _Outcome(TrialState.FAIL, scores, reason=str(error))
    return _Outcome(TrialState.COMPLETE, scores, mean)


def _find_mean(metric: str, scores: list[dict[str, float]]) -> float:
    values = [score[metric] for score in scores if metric in score]
    if len(values) < len(scores) or not np.all(np.isfinite(values)):
        raise ValueError(f"it has no {metric} on these rows: choose another --metric")
    return statistics.fmean(values)


def _average(scores: list[dict[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(score) for score in scores)) if scores else set()
    return {name: statistics.fmean(score[name] for score in scores) for name in sorted(names)}


def _show(shift: _Shift, trial: Trial, outcome: _Outcome, seconds: float) -> None:
    plan, best = shift.plan, shift.study.find_best()
    shown = f"{plan.metric} {outcome.value:.6g}" if outcome.value is not None else outcome.state.name.lower()
    if outcome.reason:
        shown = f"failed: {outcome.reason}"
    if best:
        shown += " *" if best.number == trial.number else f" (best {best.value:.6g} in trial {best.number})"
    count = f"{shift.study.count_ended():{len(str(plan.trials))}}/{plan.trials}"
    typer.echo(f"[{count}] trial {trial.number}: {shown}, {seconds:.1f} s, worker {shift.number}")
