"""The article's training as a pipeline runs it, with what the gate wants besides.

A model that says what it takes (by its input example), and rows that it has not seen, in a file of their own.

python examples/ci/train.py trainer/data/winequality-red.csv held-out.csv [ALPHA [L1_RATIO]]
"""

import sys

import mlflow
import mlflow.sklearn
import pandas as pd
from sklearn.linear_model import ElasticNet
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split

source, held_out = sys.argv[1:3]
alpha = float(sys.argv[3]) if len(sys.argv) > 3 else 0.5
l1_ratio = float(sys.argv[4]) if len(sys.argv) > 4 else 0.5

train, test = train_test_split(pd.read_csv(source, sep=";", dtype=float), random_state=40)
test.to_csv(held_out, index=False)
train_x, test_x = train.drop(columns="quality"), test.drop(columns="quality")

mlflow.set_experiment("Wine Regression")
with mlflow.start_run(run_name="Sk_Elasticnet"):
    model = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, random_state=42).fit(train_x, train["quality"])
    rmse = root_mean_squared_error(test["quality"], model.predict(test_x))
    print(f"RMSE: {rmse}")
    mlflow.log_params({"alpha": alpha, "l1_ratio": l1_ratio})
    mlflow.log_metric("rmse", rmse)
    mlflow.sklearn.log_model(model, name="model", input_example=train_x.head(2))
