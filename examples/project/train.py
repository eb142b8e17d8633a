"""Three libraries, one line of MLflow: `autolog` logs params, metrics and the model of whichever is used."""

import sys

import mlflow
import pandas as pd
from lightgbm import LGBMRegressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import train_test_split
from xgboost import XGBRegressor

LIBRARIES = {"sklearn": GradientBoostingRegressor, "xgboost": XGBRegressor, "lightgbm": LGBMRegressor}

rounds, libraries = int(float(sys.argv[1])), sys.argv[2].split(",")
data = pd.read_csv("winequality-red.csv", sep=";", dtype=float).rename(columns=lambda name: name.replace(" ", "_"))
train, test = train_test_split(data, random_state=40)
train_x, train_y = train.drop(columns="quality"), train["quality"]
test_x, test_y = test.drop(columns="quality"), test["quality"]

mlflow.autolog()
with mlflow.start_run():
    for library in libraries:
        with mlflow.start_run(run_name=library, nested=True):
            silent = {"verbosity": -1} if library == "lightgbm" else {}
            model = LIBRARIES[library](n_estimators=rounds, random_state=40, **silent).fit(train_x, train_y)
            rmse = ((model.predict(test_x) - test_y) ** 2).mean() ** 0.5
            mlflow.log_metric("test_rmse", rmse)
            print(f"{library}: RMSE {rmse:.4f}")
