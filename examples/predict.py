"""The article's prediction: two wines by the model that is in Production. URL and login come from outside.

python examples/predict.py examples/two_wines.csv
"""

import sys

import mlflow
import pandas as pd

# (float: whole numbers in a short file are none to the model's signature)
data = pd.read_csv(sys.argv[1], sep=";", dtype=float)
model = mlflow.pyfunc.load_model("models:/Wine_Elasticnet_Sklearn_Regressor/Production")
print(model.predict(data))
