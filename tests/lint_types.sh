#!/bin/sh
# One run of mypy per program: each has its own folder as root of its imports.
set -eu
for roots in services/mlflow:services/admin services/mlflow:services/admin:services/artifacts services/mlflow \
    services/mlflow:services/serving:services/migrate services/secrets services/mlflow:services/bucket services/serving \
    services/serving:services/follower trainer trainer:services/admin:services/serving:services/lifecycle; do
    MYPYPATH=$roots mypy --cache-dir=/tmp/mypy "${roots##*:}"
done
MYPYPATH=services/admin:services/artifacts:services/follower:services/lifecycle:services/mlflow:services/serving:services/secrets:services/bucket:trainer:tests mypy --cache-dir=/tmp/mypy tests
MYPYPATH=tests mypy --cache-dir=/tmp/mypy bench
