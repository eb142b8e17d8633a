"""Pictures of a trained model on its test rows; figures are objects, so no display and no global state is needed."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

MAX_CLASSES = 30  # of which names can be read beside a matrix


def plot_residuals(model: Any, inputs: pd.DataFrame, truth: pd.Series) -> Figure:
    """Plot truth minus prediction over prediction, both in the target's unit."""
    predicted = model.predict(inputs).ravel()
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(predicted, truth - predicted, s=12, alpha=0.5)
    axes.axhline(0, color="black", linewidth=1)
    axes.set(title="Residuals on the test rows", xlabel=f"predicted {truth.name}", ylabel="truth - prediction")
    return figure


def plot_confusion(model: Any, inputs: pd.DataFrame, truth: pd.Series) -> Figure:
    """Plot how many rows of each class (down) were taken for which (across)."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    few = truth.nunique() <= MAX_CLASSES
    ConfusionMatrixDisplay.from_predictions(
        truth,
        model.predict(inputs),
        ax=axes,
        colorbar=False,
        include_values=few,
        xticks_rotation="vertical",
        cmap="Blues",
    )
    if not few:
        axes.set(xticks=[], yticks=[])
    axes.set_title("Confusion on the test rows")
    return figure
