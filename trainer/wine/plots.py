"""Pictures of a trained model; figures are objects, so no display and no global state is needed."""

from matplotlib.figure import Figure
from sklearn.linear_model import ElasticNet

from wine.data import Split


def plot_residuals(model: ElasticNet, split: Split) -> Figure:
    """Plot truth minus prediction over prediction, both in the target's unit, for the test rows."""
    predicted = model.predict(split.test_x)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(predicted, split.test_y - predicted, s=12, alpha=0.5)
    axes.axhline(0, color="black", linewidth=1)
    axes.set(title="Residuals on the test rows", xlabel=f"predicted {split.test_y.name}", ylabel="truth - prediction")
    return figure


def plot_coefficients(model: ElasticNet, split: Split) -> Figure:
    """Plot each input's coefficient, in the target's unit per unit of the input."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(split.train_x.columns), model.coef_)
    axes.axvline(0, color="black", linewidth=1)
    axes.invert_yaxis()  # the first input on top, as in the table
    axes.set(title="Coefficients", xlabel=f"{split.train_y.name} per unit of the input")
    return figure
