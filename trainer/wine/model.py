"""The elastic net: its hyper-parameters, the fit, the metrics."""

import math
from dataclasses import dataclass

from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from wine.data import Split
from wine.errors import TrainerError


@dataclass(frozen=True)
class Hyperparameters:
    """The penalty alpha * (l1_ratio * |w|_1 + (1 - l1_ratio) / 2 * |w|_2^2) on the coefficients w.

    Source: scikit-learn's user guide, 1.1.5 "Elastic-Net".

    Raises:
        TrainerError: alpha is negative or not finite, or l1_ratio is outside 0 to 1.
    """

    alpha: float
    l1_ratio: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise TrainerError(f"alpha is {self.alpha}: give a finite number, 0 or more, by --alpha")
        if not 0 <= self.l1_ratio <= 1:  # NaN fails this too
            raise TrainerError(f"l1_ratio is {self.l1_ratio}: give a number from 0 to 1 by --l1-ratio")


@dataclass(frozen=True)
class Metrics:
    """Errors on the test rows; rmse and mae in the target's unit, r2 without one, at most 1."""

    rmse: float
    mae: float
    r2: float


def fit_model(split: Split, chosen: Hyperparameters) -> ElasticNet:
    """Fit the elastic net to the training rows."""
    model = ElasticNet(alpha=chosen.alpha, l1_ratio=chosen.l1_ratio, random_state=42)
    return model.fit(split.train_x, split.train_y)


def measure_model(model: ElasticNet, split: Split) -> Metrics:
    """Compare the model's predictions for the test rows with the truth."""
    predicted = model.predict(split.test_x)
    return Metrics(
        rmse=float(root_mean_squared_error(split.test_y, predicted)),
        mae=float(mean_absolute_error(split.test_y, predicted)),
        r2=float(r2_score(split.test_y, predicted)),
    )
