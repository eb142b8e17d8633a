"""The article's training script as a reader has it: only the data's path is local. URL and login come from outside.

python examples/train.py trainer/data/winequality-red.csv [ALPHA [L1_RATIO]]
"""

import sys

import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.model_selection import train_test_split

data = pd.read_csv(sys.argv[1], sep=";")
alpha = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
l1_ratio = float(sys.argv[3]) if len(sys.argv) > 3 else 0.5

np.random.seed(40)
train, test = train_test_split(data)
train_x, test_x = train.drop(["quality"], axis=1), test.drop(["quality"], axis=1)
train_y, test_y = train[["quality"]], test[["quality"]]

mlflow.set_experiment(experiment_name="Wine Regression")
with mlflow.start_run(run_name="Sk_Elasticnet"):
    mlflow.set_tags({"team": "Analytics Principal", "dataset": "Wine", "release.version": "2.2.2"})
    lr = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, random_state=42)
    lr.fit(train_x, train_y)
    predicted = lr.predict(test_x)
    rmse = np.sqrt(mean_squared_error(test_y, predicted))
    mae = mean_absolute_error(test_y, predicted)
    r2 = r2_score(test_y, predicted)
    print(f"Elasticnet model (alpha={alpha:f}, l1_ratio={l1_ratio:f}):\n  RMSE: {rmse}\n  MAE: {mae}\n  R2: {r2}")
    mlflow.log_param("alpha", alpha)
    mlflow.log_param("l1_ratio", l1_ratio)
    mlflow.log_metric("rmse", rmse)
    mlflow.log_metric("r2", r2)
    mlflow.log_metric("mae", mae)
    mlflow.sklearn.log_model(lr, "model")
    mlflow.log_artifact(local_path=__file__, artifact_path="code")
