"""What any MLflow client does with artifacts; run by clients of several versions. Prints what came back as JSON.

Usage: round_trip.py FOLDER DOWNLOADS: logs what is in FOLDER, downloads it into DOWNLOADS.
"""

from __future__ import annotations

import json
import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

folder, downloads = sys.argv[1:]
mlflow.set_experiment("Clients of several versions")
client = MlflowClient()
with mlflow.start_run() as run:
    mlflow.log_artifacts(folder, "data")
    model = LinearRegression().fit(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]))
    mlflow.sklearn.log_model(model, artifact_path="model", pip_requirements=["scikit-learn"])
run_id = run.info.run_id
listed = [(item.path, item.is_dir, item.file_size) for item in client.list_artifacts(run_id, "data")]
client.download_artifacts(run_id, "data", downloads)
loaded = mlflow.sklearn.load_model(f"runs:/{run_id}/model")
print(
    json.dumps(
        {
            "version": mlflow.__version__,
            "run": [run.info.experiment_id, run_id],
            "listed": listed,
            "prediction": float(loaded.predict(np.array([[2.0]]))[0]),
        }
    )
)
