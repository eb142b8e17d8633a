"""Three libraries, one line of MLflow: `autolog` logs params, metrics and the model of whichever is used."""

import sys

import mlflow
import pandas as pd
from sklearn.model_selection import train_test_split

library, rounds = sys.argv[1], int(float(sys.argv[2]))
data = pd.read_csv("winequality-red.csv", sep=";", dtype=float)
train, test = train_test_split(data, random_state=40)
train_x, train_y = train.drop(columns="quality"), train["quality"]
test_x, test_y = test.drop(columns="quality"), test["quality"]

mlflow.autolog()

if library == "sklearn":
    from sklearn.ensemble import GradientBoostingRegressor as Regressor
elif library == "xgboost":
    from xgboost import XGBRegressor as Regressor
else:
    from lightgbm import LGBMRegressor as Regressor

with mlflow.start_run():
    model = Regressor(n_estimators=rounds, random_state=40).fit(train_x, train_y)
    rmse = ((model.predict(test_x) - test_y) ** 2).mean() ** 0.5
    mlflow.log_metric("test_rmse", rmse)
print(f"{library}: RMSE {rmse:.4f}")
