"""Registers the model of the newest run of an experiment and prints its version: what a pipeline promotes next.

python examples/ci/register.py "Wine Regression" Wine_Elasticnet_Sklearn_Regressor
"""

import sys

import mlflow

experiment, model = sys.argv[1:]
client = mlflow.MlflowClient()
found = client.get_experiment_by_name(experiment)
runs = client.search_runs([found.experiment_id], "attributes.status = 'FINISHED'", order_by=["start_time DESC"])
run = next(run for run in runs if run.outputs.model_outputs)
print(mlflow.register_model(f"models:/{run.outputs.model_outputs[0].model_id}", model).version)
