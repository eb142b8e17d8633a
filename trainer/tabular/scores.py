"""How good a model is: the metrics of a regressor and of a classifier."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

REGRESSION = {"rmse": "minimize", "mae": "minimize", "r2": "maximize"}
CLASSIFICATION = {"accuracy": "maximize", "f1": "maximize", "log_loss": "minimize", "roc_auc": "maximize"}


def measure(model: Any, inputs: pd.DataFrame, truth: pd.Series, classifies: bool) -> dict[str, float]:
    """Return the metrics of a fitted model on these rows; those that it can't have are left out.

    A classifier's f1 is the mean over the classes, roc_auc the mean over one class against the rest.
    """
    predicted = model.predict(inputs)
    if not classifies:
        return {
            "rmse": float(root_mean_squared_error(truth, predicted)),
            "mae": float(mean_absolute_error(truth, predicted)),
            "r2": float(r2_score(truth, predicted)),
        }
    found = {"accuracy": accuracy_score(truth, predicted), "f1": f1_score(truth, predicted, average="macro")}
    if hasattr(model, "predict_proba"):
        chances = model.predict_proba(inputs)
        found["log_loss"] = log_loss(truth, chances, labels=model.classes_)
        if set(truth) == set(model.classes_):
            two = len(model.classes_) == 2  # noqa: PLR2004
            scores, several = (
                (chances[:, 1], "raise") if two else (chances / np.sum(chances, axis=1, keepdims=True), "ovr")
            )
            found["roc_auc"] = roc_auc_score(truth, scores, multi_class=several, labels=model.classes_)
    elif hasattr(model, "decision_function") and len(model.classes_) == 2 and set(truth) == set(model.classes_):  # noqa: PLR2004
        found["roc_auc"] = roc_auc_score(truth, model.decision_function(inputs))
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}
