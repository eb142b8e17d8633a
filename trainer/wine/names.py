"""What things are called if nobody says otherwise, and what a training is filed under."""

from dataclasses import dataclass

EXPERIMENT, RUN_NAME, TARGET, SEED = "Wine Regression", "Sk_Elasticnet", "quality", 40
MODEL = "Wine_Elasticnet_Sklearn_Regressor"


@dataclass(frozen=True)
class Filing:
    """Where a training goes in MLflow; None: named after data and estimator."""

    experiment: str = EXPERIMENT
    run_name: str | None = None
    model_name: str | None = None
    register: bool = True
