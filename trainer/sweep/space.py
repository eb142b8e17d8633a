"""What is searched: a range or a list of values for each hyper-parameter."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tabular.estimators import check_params
from wine.errors import TrainerError

_FORM = 'write a list of values, or {"low": 0.001, "high": 1, "log": true}'

_PENALTY = {"alpha": {"low": 1e-4, "high": 1.0, "log": True}}
_FOREST = {
    "max_depth": {"low": 3, "high": 20},
    "min_samples_leaf": {"low": 1, "high": 10},
    "max_features": {"low": 0.2, "high": 1.0},
}
_BOOSTING = {
    "learning_rate": {"low": 0.01, "high": 0.3, "log": True},
    "max_depth": {"low": 2, "high": 8},
    "min_samples_leaf": {"low": 1, "high": 30},
}
_NEIGHBORS = {"n_neighbors": {"low": 1, "high": 40}, "weights": ["uniform", "distance"], "p": [1, 2]}
_VECTORS = {"C": {"low": 0.01, "high": 100.0, "log": True}, "gamma": {"low": 1e-4, "high": 1.0, "log": True}}
# For estimators that many use; every other takes --space.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ElasticNet": _PENALTY | {"l1_ratio": {"low": 0.0, "high": 1.0}},
    "Lasso": _PENALTY,
    "Ridge": {"alpha": {"low": 1e-3, "high": 1e3, "log": True}},
    "LogisticRegression": {"C": {"low": 1e-3, "high": 1e3, "log": True}},
    "RandomForestRegressor": _FOREST,
    "RandomForestClassifier": _FOREST,
    "ExtraTreesRegressor": _FOREST,
    "ExtraTreesClassifier": _FOREST,
    "GradientBoostingRegressor": _BOOSTING | {"subsample": {"low": 0.5, "high": 1.0}},
    "GradientBoostingClassifier": _BOOSTING | {"subsample": {"low": 0.5, "high": 1.0}},
    "HistGradientBoostingRegressor": _BOOSTING | {"l2_regularization": {"low": 1e-6, "high": 10.0, "log": True}},
    "HistGradientBoostingClassifier": _BOOSTING | {"l2_regularization": {"low": 1e-6, "high": 10.0, "log": True}},
    "KNeighborsRegressor": _NEIGHBORS,
    "KNeighborsClassifier": _NEIGHBORS,
    "SVR": _VECTORS,
    "SVC": _VECTORS,
}


def choose_space(kind: type, given: dict[str, Any] | None, fixed: dict[str, Any]) -> dict[str, BaseDistribution]:
    """Return the distributions of the given space, or of the estimator's own.

    Raises:
        TrainerError: There is none, the estimator doesn't take a name in it, or a range is none.
    """
    if given is None:
        if kind.__name__ not in DEFAULTS:
            raise TrainerError(f"no search space is known for {kind.__name__}: give one by --space")
        given = {name: values for name, values in DEFAULTS[kind.__name__].items() if name not in fixed}
    if not given:
        raise TrainerError("--space has nothing to search: name a hyper-parameter that --params doesn't fix")
    check_params(kind, given, "--space")
    if both := sorted(given.keys() & fixed.keys()):
        raise TrainerError(f"{both[0]} is in --space and in --params: take it out of one")
    return {name: _read_range(name, values) for name, values in given.items()}


def _read_range(name: str, values: Any) -> BaseDistribution:
    if isinstance(values, list) and values and all(isinstance(value, str | int | float | None) for value in values):
        return CategoricalDistribution(values)
    if not (isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log"}):
        raise TrainerError(f"--space has {values!r} for {name}: {_FORM}")
    low, high, log = values["low"], values["high"], values.get("log", False)
    numbers = all(type(value) in {int, float} and math.isfinite(value) for value in (low, high))
    if not (numbers and isinstance(log, bool) and low < high and (low > 0 or not log)):
        raise TrainerError(f"--space has {values!r} for {name}: low is to be less than high, and with log above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
