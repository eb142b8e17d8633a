"""The rules that a candidate has to keep before it goes to Production, the cheap ones first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import MetricThreshold
from mlflow.models.evaluation import EvaluationResult
from mlflow.models.evaluation.validation import ModelValidationFailedException
from mlflow.pyfunc import PyFuncModel

from lifecycle import metrics, models, schema
from lifecycle.evaluation import HeldOut, find_kind, measure, measure_latency
from lifecycle.models import Files, first_line
from lifecycle.refusals import Refused
from wine.errors import TrainerError


@dataclass(frozen=True)
class Limits:
    """What the operator demands.

    Attributes:
        metric: the metric that candidate and champion are compared by; None for the usual one of their kind.
        min_improvement: the share by which the candidate has to be better than the champion.
        thresholds: for each metric the worst value that is let through.
        max_latency: milliseconds for one row (95 of 100); None for no limit.
        trusts: whether a format that can run code is let through.
    """

    metric: str | None = None
    min_improvement: float = 0.0
    thresholds: dict[str, float] = field(default_factory=dict)
    max_latency: float | None = None
    trusts: bool = False


def check_files(files: Files, limits: Limits) -> None:
    """Rules that need nothing but the files of the candidate."""
    if not limits.trusts:
        models.check_format(files)
    if models.read_card(files).signature is None:
        raise Refused("signature", f"{files} has none: log the model with a signature or an input example")


def check_compatible(candidate: Files, champion: Files) -> None:
    """Whoever calls the champion must be able to call the candidate in the same way."""
    new = schema.read_columns(models.read_card(candidate), str(candidate)) or []
    old = {column.name: column for column in schema.read_columns(models.read_card(champion), str(champion)) or []}
    if not old:
        return  # a champion without a signature takes anything
    for column in new:
        known = old.get(column.name)
        if known is None and column.is_required:
            raise Refused(
                "signature", f"{candidate} needs the column {column.name!r}, {champion} has none of that name"
            )
        if known is not None and known.kind != column.kind:
            raise Refused(
                "signature",
                f"column {column.name!r} is {column.kind} for {candidate}, {known.kind} for {champion}",
            )
        if known is not None and column.is_required and not known.is_required:
            raise Refused("signature", f"column {column.name!r} is required by {candidate}, optional for {champion}")
    outputs = [models.read_card(files).signature.outputs for files in (candidate, champion)]
    described = [schema.describe(output) if output else "" for output in outputs]
    if all(described) and described[0] != described[1]:
        raise Refused("signature", f"{candidate} answers {described[0]}, {champion} {described[1]}")


def check_example(model: PyFuncModel, files: Files) -> None:
    """The input example fits the signature, and is predicted: a finite number or a label for each row."""
    example = models.read_example(files)
    if example is None:
        return
    try:
        predicted = model.predict(example)
    except Exception as error:  # a model may raise anything
        raise Refused("example", f"{files} fails on its own input example ({first_line(error)})") from error
    check_predictions(predicted, len(example), f"{files}, on its own input example,")


def check_predictions(predicted: Any, rows: int, what: str) -> None:
    """Raise Refused unless there is a finite prediction for each row."""
    values = predicted.to_numpy() if isinstance(predicted, pd.DataFrame | pd.Series) else np.asarray(predicted)
    if len(values) != rows:
        raise Refused("prediction", f"{what} answers {len(values)} predictions for {rows} rows")
    if np.issubdtype(values.dtype, np.number) and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).reshape(rows, -1).any(axis=1).sum())
        raise Refused("prediction", f"{what} answers no finite number for {bad} of {rows} rows")


def check_finite(results: dict[str, float], names: set[str], what: str) -> None:
    """NaN passes every comparison that is not asked for carefully."""
    for name in sorted(names):
        if name not in results:
            known = ", ".join(sorted(results))
            raise TrainerError(f"metric {name!r} is none of the evaluation's: it has {known}")
        if not math.isfinite(results[name]):
            raise Refused("metric", f"{name} of {what} is {results[name]} on the held-out rows: no number to compare")


def validate(
    rule: str,
    thresholds: dict[str, MetricThreshold],
    result: EvaluationResult,
    baseline: EvaluationResult | None = None,
) -> None:
    """Have MLflow compare; its message has the rule and both figures. Raises Refused."""
    if not thresholds:
        return
    try:
        mlflow.validate_evaluation_results(thresholds, result, baseline)
    except ModelValidationFailedException as error:
        raise Refused(rule, str(error.message)) from None


def examine_champion(files: Files, held_out: HeldOut, kind: str, limits: Limits) -> EvaluationResult:
    """Evaluate what is in Production, in a run within the gate's own.

    Raises:
        Refused: It can't be evaluated.
    """
    if not limits.trusts:
        models.check_format(files)
    model = models.load(files)
    rows = held_out.present(schema.read_columns(models.read_card(files), str(files)))
    # (told where: a nested run is else one of the Default experiment)
    experiment = mlflow.active_run().info.experiment_id
    with mlflow.start_run(run_name=f"champion {files.version}", experiment_id=experiment, nested=True):
        return measure(model, rows, held_out.target, kind)


def examine(
    candidate: Files, champion: Files | None, held_out: HeldOut, limits: Limits, tell: Callable[[str], None]
) -> None:
    """Ask all rules, and log what was measured to the active run.

    Raises:
        Refused: One of them is not kept.
    """
    check_files(candidate, limits)
    if champion is not None:
        check_compatible(candidate, champion)
    model = models.load(candidate)
    check_example(model, candidate)
    rows = held_out.present(schema.read_columns(models.read_card(candidate), str(candidate)))
    kind = find_kind(model, held_out)
    name = metrics.full_name(limits.metric or metrics.DECISIVE[kind])
    baseline = None
    if champion is not None:
        try:
            baseline = examine_champion(champion, held_out, kind, limits)
            check_finite(baseline.metrics, {name}, str(champion))
        except Refused as error:
            if error.rule == models.FORMAT:
                raise  # it could be compared with, if its author were trusted
            baseline = None
            tell(f"{champion} can't be compared with, so that the absolute rules alone decide ({error})")
    inputs = rows.drop(columns=held_out.target)
    try:
        predicted = model.predict(inputs)
    except Exception as error:  # a model may raise anything
        raise Refused("evaluation", f"{candidate} fails on the held-out rows ({first_line(error)})") from error
    check_predictions(predicted, len(rows), f"{candidate}, on the held-out rows,")
    result = measure(model, rows, held_out.target, kind)
    check_finite(result.metrics, {name, *limits.thresholds}, str(candidate))
    tell(f"{name} on {held_out.shown}: {show_both(result.metrics[name], baseline and baseline.metrics[name])}")
    validate("threshold", make_thresholds(limits), result)
    if baseline is not None:
        mlflow.log_metric(f"champion_{name}", float(baseline.metrics[name]))
        change = MetricThreshold(
            min_relative_change=limits.min_improvement, greater_is_better=metrics.is_more_better(limits.metric or name)
        )
        validate("improvement", {name: change}, result, baseline)
    latency = measure_latency(model, inputs)
    mlflow.log_metric("latency_p95_ms", latency)
    if limits.max_latency is not None and latency > limits.max_latency:
        raise Refused(
            "latency",
            f"{candidate} takes {latency:.3f} ms for one row (95 of 100), the limit is {limits.max_latency:g} ms",
        )


def show_both(candidate: float, champion: float | None) -> str:
    """Return both figures in a few words."""
    return f"candidate {candidate:.6g}, " + ("no champion" if champion is None else f"champion {champion:.6g}")


def make_thresholds(limits: Limits) -> dict[str, MetricThreshold]:
    """Return the absolute rules."""
    return {
        name: MetricThreshold(threshold=value, greater_is_better=metrics.is_more_better(name))
        for name, value in limits.thresholds.items()
    }
