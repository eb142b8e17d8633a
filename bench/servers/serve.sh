#!/bin/sh
# `mlflow models serve` as its manual starts it, on the first copy of a model that the stack has fetched.
set -eu
for model in /models/copies/*/files; do break; done
export HOME=/tmp
exec mlflow models serve --model-uri "$model" --env-manager local --host 0.0.0.0 --port 5000
