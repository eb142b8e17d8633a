#!/bin/sh
# Stock MLflow as its manual starts it, on Postgres, artifacts in a local folder unless STOCK_ARTIFACTS names a place. Options go to `mlflow server`.
set -eu
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat /run/secrets/flask_secret_key) # the login's app wants one
export MLFLOW_FLASK_SERVER_SECRET_KEY
exec mlflow server --host 0.0.0.0 --port 5000 --workers "$STACK_WORKERS" \
    --backend-store-uri 'postgresql+psycopg2://mlflow@postgres:5432/mlflow?passfile=/run/secrets/pgpass' \
    --artifacts-destination "${STOCK_ARTIFACTS:-/tmp/artifacts}" "$@"
