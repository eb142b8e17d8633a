"""Takes over what another MLflow holds: ./stack import-mlflow."""
