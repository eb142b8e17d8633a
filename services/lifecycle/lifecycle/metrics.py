"""Metrics: their names, and whether more is better."""

from __future__ import annotations

from wine.errors import TrainerError

# What the trainer and their authors call MLflow's metrics of an evaluation.
SHORT = {
    "rmse": "root_mean_squared_error",
    "mae": "mean_absolute_error",
    "mse": "mean_squared_error",
    "mape": "mean_absolute_percentage_error",
    "r2": "r2_score",
    "accuracy": "accuracy_score",
    "f1": "f1_score",
    "precision": "precision_score",
    "recall": "recall_score",
}
LESS = {*(name for name in SHORT.values() if name.endswith("error")), "max_error", "log_loss", "loss"}
MORE = {*(name for name in SHORT.values() if name.endswith("score")), "roc_auc", "precision_recall_auc", "score", "auc"}
DECISIVE = {"regressor": "root_mean_squared_error", "classifier": "accuracy_score"}


def full_name(name: str) -> str:
    """Return what MLflow's evaluation calls a metric."""
    return SHORT.get(name, name)


def is_more_better(name: str) -> bool:
    """Return whether a higher value is the better one; `NAME:max` and `NAME:min` say so. Raises TrainerError."""
    plain, colon, direction = name.partition(":")
    if colon and direction in {"min", "max"}:
        return direction == "max"
    known = full_name(plain.lower())
    if colon or known not in LESS | MORE:
        raise TrainerError(f"whether more of metric {name!r} is better is not known: write {plain}:max or {plain}:min")
    return known in MORE


def read_threshold(text: str) -> tuple[str, float]:
    """Return the metric and the value of `metric=value`. Raises TrainerError."""
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not equals or not number - number == 0:
        raise TrainerError(f"--threshold {text!r} is no metric=value, such as rmse=0.75: correct it")
    is_more_better(full_name(name))
    return full_name(name), number
