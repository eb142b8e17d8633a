"""Estimators of scikit-learn by name, with their parameters."""

import difflib
import inspect
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from sklearn.base import is_classifier
from sklearn.utils import all_estimators

from wine.errors import TrainerError


@cache
def list_estimators() -> dict[str, type]:
    """Return scikit-learn's regressors and classifiers by name, but those that are made of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modules that are deprecated
        found = all_estimators(type_filter=["regressor", "classifier"])
    return {name: kind for name, kind in found if not _list_required(kind)}


def find_estimator(name: str) -> type:
    """Return a class by its name.

    Raises:
        TrainerError: scikit-learn has no such regressor or classifier.
    """
    known = list_estimators()
    if name in known:
        return known[name]
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.5)
    hint = " or ".join(by_lower[key] for key in near) or "RandomForestRegressor, for one"
    raise TrainerError(f"--model is {name!r}, no regressor or classifier of scikit-learn's: choose {hint}")


def parse_object(option: str, text: str) -> dict[str, Any]:
    """Return the JSON object that an option has.

    Raises:
        TrainerError: It is none.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise TrainerError(f"{option} is {text!r}, no JSON ({error}): write it as '{{\"name\": 1}}'") from None
    if not isinstance(found, dict):
        raise TrainerError(f"{option} is {text!r}: write an object, as '{{\"name\": 1}}'")
    return found


def check_params(kind: type, params: dict[str, Any], option: str) -> None:
    """Check the names of parameters; their values the estimator checks when it is fitted.

    Raises:
        TrainerError: The estimator doesn't take one of them.
    """
    taken = sorted(kind().get_params(deep=False))
    for name in params:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(taken)}"
            raise TrainerError(f"{option} has {name!r}, which {kind.__name__} doesn't take: {hint}")


def make_estimator(kind: type, params: dict[str, Any], seed: int) -> Any:
    """Return the estimator, with the seed for what is random in it unless its parameters say otherwise."""
    taken = kind().get_params(deep=False)
    random = {"random_state": seed} if "random_state" in taken else {}
    return kind(**(random | params))


def classifies(kind: type) -> bool:
    """Return whether it is a classifier."""
    return bool(is_classifier(kind()))


@contextmanager
def explained_fit(name: str) -> Iterator[None]:
    """Turn what an estimator refuses (a parameter's value, the data) into a TrainerError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence and the like: the metrics tell
            yield
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrainerError(f"{name} refuses this: {lines[0][:300]}") from error


def _list_required(kind: type) -> list[str]:
    parameters = list(inspect.signature(kind).parameters.values())
    return [
        found.name for found in parameters if found.default is found.empty and found.kind is found.POSITIONAL_OR_KEYWORD
    ]
