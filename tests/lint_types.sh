#!/bin/sh
# One run of mypy per program: each has its own folder as root of its imports.
set -eu
cache=/tmp/mypy
[ ! -d /var/cache/mypy ] || cache=/var/cache/mypy # the tests' image has what is to know of libraries
for roots in services/mlflow:services/admin services/mlflow:services/admin:services/artifacts \
    services/mlflow:services/admin:services/artifacts:services/backup services/mlflow:services/admin:services/artifacts:services/importer \
    services/mlflow \
    services/mlflow:services/serving:services/migrate services/secrets services/mlflow:services/bucket services/serving \
    services/serving:services/follower trainer trainer:services/admin:services/serving:services/lifecycle; do
    MYPYPATH=$roots mypy --cache-dir="$cache" "${roots##*:}"
done
MYPYPATH=services/admin:services/artifacts:services/backup:services/follower:services/importer:services/lifecycle:services/mlflow:services/serving:services/secrets:services/bucket:services/migrate:trainer:tests mypy --cache-dir="$cache" tests
MYPYPATH=tests mypy --cache-dir="$cache" bench
