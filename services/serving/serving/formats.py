"""Which models may be loaded: those that are data, unless the operator opens the rest (STACK_SERVE_PICKLE=on).

MLflow's own switch (MLFLOW_ALLOW_PICKLE_DESERIALIZATION) is no help here: since the list of types that skops may make
stands in the model itself, MLflow refuses both skops and pickle, or neither. So the list is looked at here.
"""

from __future__ import annotations

import importlib
from typing import Any

SAFE_LOADER = "mlflow.sklearn"
SAFE_FORMAT = "skops"
OPEN_IT = "STACK_SERVE_PICKLE=on allows models that run code of their own"


def find_danger(flavors: dict[str, Any]) -> str | None:
    """Return why loading a model of these flavors (MLmodel) may run code of its own, None if it can't."""
    function, sklearn = flavors.get("python_function") or {}, flavors.get("sklearn") or {}
    if function.get("loader_module") != SAFE_LOADER:
        return f"it is loaded by {function.get('loader_module')!r}, and only scikit-learn's models are known to be data"
    if sklearn.get("serialization_format") != SAFE_FORMAT:
        return f"its format is {sklearn.get('serialization_format', 'pickle')!r}, not {SAFE_FORMAT!r}"
    if function.get("code") or sklearn.get("code"):
        return "it brings code along"
    if function.get("data") or function.get("config"):
        return "its MLmodel names a place or a configuration that scikit-learn's models have none of"
    for name in sklearn.get("skops_trusted_types") or []:
        if not is_estimators(name):
            return f"it wants {str(name)[:100]!r} trusted, which is no class of scikit-learn"
    return None


def is_estimators(name: object) -> bool:
    """Return whether this is a class of scikit-learn's: skops knows most of them by itself, not all."""
    module, _, attribute = str(name).rpartition(".")
    if not module.startswith("sklearn."):
        return False
    try:
        return isinstance(getattr(importlib.import_module(module), attribute, None), type)
    except ImportError:
        return False
