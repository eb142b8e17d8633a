# Every image of the stack, one stage each, all on one base image, so that the layers are shared and a site without a
# registry needs to make a single image by itself. Stages are named after the compose services.
# No "# syntax=" line: it would pull a frontend from a registry; what is used here works with the BuildKit of Docker 20.10.
ARG BASE_IMAGE=debian:trixie-slim
# MinIO's maintained continuation (upstream is archived, its images are gone): ARCHITECTURE.md, "Object store".
ARG MINIO_IMAGE=docker.io/pgsty/silo:RELEASE.2026-09-03T13-18-01Z

FROM ${BASE_IMAGE} AS base
# The one table of user ids (uid = gid). nginx is in the groups of servers whose unix sockets it connects to; follower
# reads what serving says of itself; backup reads the files of the database; postgres and artifacts, who bring back what
# was lost, read backups.
# (Debian's own user `backup` is nobody's here.)
RUN set -eu; \
    userdel backup; \
    for user in postgres:10001 objectstore:10002 mlflow:10003 nginx:10004 trainer:10005 admin:10006 migrate:10007 bucket:10008 artifacts:10009 serving:10010 follower:10011 backup:10012; do \
        groupadd --gid "${user#*:}" "${user%:*}"; \
        useradd --uid "${user#*:}" --gid "${user#*:}" --home-dir "/home/${user%:*}" --shell /usr/sbin/nologin "${user%:*}"; \
    done; \
    usermod --append --groups mlflow,objectstore,serving nginx; \
    usermod --append --groups serving follower; \
    usermod --append --groups postgres backup; \
    usermod --append --groups backup postgres; \
    usermod --append --groups backup artifacts; \
    rm -f /etc/apt/apt.conf.d/docker-clean

# ---------------------------------------------------------------------------------------------------------- postgres
FROM base AS postgres
# postgresql.conf has jit = off, so the JIT compiler's libraries (160 MB) stay out of the image.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        -o DPkg::Options::=--path-exclude='/usr/lib/*/libLLVM*' -o DPkg::Options::=--path-exclude='/usr/lib/*/libz3*' \
        -o DPkg::Options::=--path-exclude='/usr/share/doc/*' -o DPkg::Options::=--path-exclude='/usr/share/locale/*' \
        pgbackrest postgresql-17 \
    && ln -sf /etc/postgres/pgbackrest.conf /etc/pgbackrest.conf \
    && install -d -o postgres -g postgres -m 0750 /var/lib/postgresql/data \
    && install -d -o postgres -g postgres -m 0755 /run/postgresql \
    && install -d -o backup -g backup -m 0755 /archiving
COPY --chmod=0755 services/postgres/ /etc/postgres/
ENV PGDATA=/var/lib/postgresql/data/17
USER postgres
# SIGINT is Postgres's "fast" stop: clients are disconnected and a checkpoint is written. SIGTERM would wait for them.
STOPSIGNAL SIGINT
ENTRYPOINT ["/etc/postgres/entrypoint.sh"]

# ------------------------------------------------------------------------------------------------------------ python
FROM base AS python
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install -y --no-install-recommends python3 python3-venv

FROM python AS installer
COPY services/installer.txt /tmp/
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --require-hashes -r /tmp/installer.txt

FROM installer AS environment
COPY services/requirements.txt /tmp/
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv --without-pip /opt/venv \
    && UV_LINK_MODE=copy /opt/uv/bin/uv pip install --python /opt/venv/bin/python \
        --no-deps --require-hashes --compile-bytecode -r /tmp/requirements.txt

FROM python AS app
COPY --from=environment /opt/venv /opt/venv
# The root file systems are read-only, so bytecode is compiled here or never.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/app \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true GIT_PYTHON_REFRESH=quiet
WORKDIR /app

# ------------------------------------------------------------------------------------------------------------- nginx
# MLflow's pages, from the same wheel as the server, and compressed once for all.
FROM base AS pages
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install -y --no-install-recommends brotli
RUN --mount=type=bind,from=environment,source=/opt/venv/lib,target=/mnt \
    mkdir /pages && cp -r /mnt/python3*/site-packages/mlflow/server/js/build /pages/static-files && test -s /pages/static-files/index.html \
    && find /pages -type f -size +1k -regex '.*\.\(js\|mjs\|cjs\|css\|html\|json\|svg\|ttf\|eot\|txt\)' -print0 > /tmp/texts \
    && xargs -0 gzip -9 --keep < /tmp/texts \
    && xargs -0 -n 8 -P 2 brotli --quality=9 --keep < /tmp/texts

FROM base AS nginx
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
    && apt-get install -y --no-install-recommends libnginx-mod-http-brotli-static libnginx-mod-http-set-misc nginx \
    && install -d -o mlflow -g mlflow -m 0750 /run/mlflow \
    && install -d -o objectstore -g objectstore -m 0750 /run/objectstore \
    && install -d -o serving -g serving -m 0750 /run/serving \
    && install -d -o nginx -g nginx -m 0755 /var/log/stack /var/lib/stack
COPY --from=pages /pages /usr/share/mlflow
COPY --chmod=0755 nginx/gateway nginx/healthcheck /usr/local/bin/
USER nginx
# SIGQUIT lets requests that have begun finish; SIGTERM would cut them.
STOPSIGNAL SIGQUIT
ENTRYPOINT ["gateway"]
CMD ["start"]

# ------------------------------------------------------------------------------------- the servers and clients in Python
FROM app AS secrets
COPY --chmod=0755 services/secrets/ /app/
ENTRYPOINT ["python", "secrets_files.py"]

FROM app AS bucket
COPY --chmod=0755 services/bucket/ /app/
# How the store is spoken with stands once, beside the server that speaks with it most.
COPY --chmod=0755 services/mlflow/tracking/__init__.py services/mlflow/tracking/store.py services/mlflow/tracking/reading.py /app/tracking/
RUN install -d -o bucket -g bucket -m 0700 /state
USER bucket
ENTRYPOINT ["python", "bucket.py"]

FROM app AS mlflow
COPY --chmod=0755 services/mlflow/ /app/
RUN python -m compileall -q /app && install -d -o mlflow -g mlflow -m 0750 /run/mlflow /var/spool/mlflow
USER mlflow
ENTRYPOINT ["gunicorn", "--config", "/app/gunicorn.conf.py", "tracking.app:create_app()"]

# The same code and settings as the server whose databases it upgrades.
FROM mlflow AS migrate
COPY --chmod=0755 services/migrate/ /app/
# What the log of predictions is called stands once, beside the server that writes it.
COPY --chmod=0755 services/serving/serving/__init__.py services/serving/serving/batches.py /app/serving/
USER migrate
ENTRYPOINT ["python", "migrate.py"]

FROM app AS admin
COPY --chmod=0755 services/admin/ /app/
# The names of the roles stand once, beside the server that gives them their meaning.
COPY --chmod=0755 services/mlflow/tracking/__init__.py services/mlflow/tracking/roles.py /app/tracking/
RUN python -m compileall -q /app
USER admin
ENTRYPOINT ["python", "-m", "admin"]

FROM app AS artifacts
COPY --chmod=0755 services/artifacts/ /app/
# How an operator writes moments, and how faults are said, stands once, beside the other verbs.
COPY --chmod=0755 services/admin/admin/__init__.py services/admin/admin/faults.py services/admin/admin/moments.py services/admin/admin/audit.py /app/admin/
COPY --chmod=0755 services/mlflow/tracking/__init__.py services/mlflow/tracking/store.py services/mlflow/tracking/hold.py services/mlflow/tracking/champion.py /app/tracking/
RUN python -m compileall -q /app
USER artifacts
ENTRYPOINT ["python", "-m", "artifacts"]

FROM app AS backup
# (Postgres: sets are brought back on trial. Of postgresql-common nothing is used.)
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        -o DPkg::Options::=--path-exclude='/usr/lib/*/libLLVM*' -o DPkg::Options::=--path-exclude='/usr/lib/*/libz3*' \
        -o DPkg::Options::=--path-exclude='/usr/share/doc/*' -o DPkg::Options::=--path-exclude='/usr/share/locale/*' \
        pgbackrest postgresql-17 \
    && ln -sf /tmp/pgbackrest.conf /etc/pgbackrest.conf \
    && install -d -o backup -g backup -m 0750 /backups && install -d -o backup -g backup -m 0755 /archiving
RUN --mount=type=cache,target=/root/.cache --mount=type=bind,from=installer,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,source=services/backup/requirements.txt,target=/tmp/requirements.txt \
    UV_LINK_MODE=copy /opt/uv/bin/uv pip install --python /opt/venv/bin/python \
        --no-deps --require-hashes --compile-bytecode -r /tmp/requirements.txt
COPY --chmod=0755 services/backup/ /app/
COPY --chmod=0755 services/admin/admin/__init__.py services/admin/admin/faults.py services/admin/admin/moments.py /app/admin/
# The bucket's versions, and who waits for whom, stand once, beside those who remove.
COPY --chmod=0755 services/artifacts/artifacts/__init__.py services/artifacts/artifacts/objects.py services/artifacts/artifacts/settings.py services/artifacts/artifacts/report.py /app/artifacts/
COPY --chmod=0755 services/mlflow/tracking/__init__.py services/mlflow/tracking/store.py services/mlflow/tracking/reading.py services/mlflow/tracking/hold.py /app/tracking/
RUN python -m compileall -q /app
USER backup
ENTRYPOINT ["python", "-m", "backup"]

# An account of its own it needs none: it is the artifacts service's, which reads and writes rows and objects.
FROM app AS importer
COPY --from=backup /opt/venv/bin/rclone /usr/local/bin/rclone
COPY --chmod=0755 services/importer/ /app/
COPY --chmod=0755 services/admin/admin/__init__.py services/admin/admin/faults.py /app/admin/
COPY --chmod=0755 services/artifacts/artifacts/__init__.py services/artifacts/artifacts/report.py /app/artifacts/
COPY --chmod=0755 services/mlflow/tracking/__init__.py services/mlflow/tracking/store.py services/mlflow/tracking/reading.py /app/tracking/
RUN python -m compileall -q /app && install -d -o artifacts -g artifacts -m 0700 /work
USER artifacts
ENTRYPOINT ["python", "-m", "importer"]

FROM app AS serving
COPY --chmod=0755 services/serving/ /app/
RUN python -m compileall -q /app && install -d -o serving -g serving -m 0750 /run/serving \
    && install -d -o serving -g serving -m 0770 /predictions
USER serving
ENTRYPOINT ["python", "-m", "serving"]

FROM app AS follower
COPY --chmod=0755 services/follower/ /app/
# How copies of models and the log of predictions lie on the disk stands once, beside the server that has them.
COPY --chmod=0755 services/serving/serving/__init__.py services/serving/serving/copies.py services/serving/serving/batches.py /app/serving/
RUN python -m compileall -q /app && install -d -o serving -g serving -m 0750 /run/serving \
    && install -d -o serving -g serving -m 0770 /predictions && install -d -o follower -g follower -m 0755 /models
USER follower
ENTRYPOINT ["python", "-m", "follower"]

FROM app AS trainer
# What only a training needs is a layer of its own, so that the server's image doesn't carry it. (libgomp1: LightGBM's)
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install -y --no-install-recommends libgomp1
RUN --mount=type=cache,target=/root/.cache --mount=type=bind,from=installer,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,source=trainer/requirements.txt,target=/tmp/requirements.txt \
    UV_LINK_MODE=copy /opt/uv/bin/uv pip install --python /opt/venv/bin/python \
        --no-deps --require-hashes --compile-bytecode -r /tmp/requirements.txt
COPY --chmod=0755 trainer/ /app/
RUN python -m compileall -q /app && install -d -o trainer -g trainer -m 0700 /sweeps
USER trainer
ENTRYPOINT ["python", "-m", "wine"]
CMD ["bootstrap"]

# Which rows are held out, and how the gateway is reached, stands once, in the trainer.
FROM app AS lifecycle
COPY --chmod=0755 trainer/ services/lifecycle/ /app/
COPY --chmod=0755 services/admin/admin/__init__.py services/admin/admin/faults.py services/admin/admin/moments.py /app/admin/
COPY --chmod=0755 services/serving/serving/__init__.py services/serving/serving/batches.py /app/serving/
RUN python -m compileall -q /app
# The stack's administrator, whose login it uses when the caller has none.
USER admin
ENTRYPOINT ["python", "-m", "lifecycle"]
CMD ["--help"]

# ------------------------------------------------------------------------------------------------------- objectstore
# One of the next two is the objectstore service (STACK_OBJECTSTORE). All that differs between the stores is here, in
# services/objectstore/ and in services/bucket/bucket.py.
FROM installer AS seaweedfs-wheel
COPY services/objectstore/requirements.txt /tmp/
RUN --mount=type=cache,target=/root/.cache \
    /opt/uv/bin/pip install --no-deps --require-hashes --target /opt/seaweedfs -r /tmp/requirements.txt

FROM base AS seaweedfs
# (e2fsprogs: chattr)
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install -y --no-install-recommends e2fsprogs
COPY --from=seaweedfs-wheel /opt/seaweedfs/bin/weed /usr/local/bin/weed
COPY --chmod=0755 services/objectstore/seaweedfs.sh /usr/local/bin/entrypoint
RUN install -d -o objectstore -g objectstore -m 0700 /data && install -d -o objectstore -g objectstore -m 0750 /run/objectstore
USER objectstore
ENTRYPOINT ["entrypoint"]

FROM base AS minio-data
RUN install -d -o objectstore -g objectstore -m 0700 /empty/data

FROM ${MINIO_IMAGE} AS minio
# Only an empty folder is added, owned by the user that the server runs as: a fresh volume inherits that owner.
COPY --from=minio-data --chown=10002:10002 /empty/ /
# MinIO reads its root account from these files (cmd/common-main.go, readFromSecret); the web console stays off.
ENV MINIO_ROOT_USER_FILE=/run/secrets/root_user MINIO_ROOT_PASSWORD_FILE=/run/secrets/root_password \
    MINIO_BROWSER=off MINIO_CALLHOME_ENABLE=off HOME=/tmp
USER 10002:10002
CMD ["server", "--address", ":9000", "/data"]

# ------------------------------------------------------------------------------------------------------------- tests
# Everything that the tests, the checkers and the browser need; it never runs in a stack.
FROM app AS tests
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
    && apt-get install -y --no-install-recommends \
        chromium chromium-driver docker-cli docker-compose docker-buildx e2fsprogs fonts-dejavu-core git iproute2 \
        libnginx-mod-http-brotli-static libnginx-mod-http-set-misc mount nginx-light procps testssl.sh wrk
COPY --from=installer /opt/uv /opt/uv
COPY tests/requirements.txt /tmp/
COPY trainer/requirements.txt /tmp/trainer.txt
RUN --mount=type=cache,target=/root/.cache \
    UV_LINK_MODE=copy /opt/uv/bin/uv pip install --python /opt/venv/bin/python \
        --no-deps --require-hashes --compile-bytecode -r /tmp/requirements.txt -r /tmp/trainer.txt
# An older client, in an environment of its own; what it doesn't bring along it finds in the main one.
COPY tests/requirements-2.22.txt /tmp/
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv --without-pip /opt/mlflow-2.22 \
    && UV_LINK_MODE=copy /opt/uv/bin/uv pip install --python /opt/mlflow-2.22/bin/python \
        --no-deps --require-hashes --compile-bytecode -r /tmp/requirements-2.22.txt \
    && ls -d /opt/venv/lib/python3*/site-packages > "$(echo /opt/mlflow-2.22/lib/python3*/site-packages)/main.pth"
# What the type checker has to know of libraries doesn't change with our code: found out here, each run takes half as long.
RUN --mount=type=bind,source=pyproject.toml,target=/tmp/pyproject.toml \
    mypy --config-file=/tmp/pyproject.toml --cache-dir=/var/cache/mypy --command "import \
        PIL, alembic, anyio, boto3, certifi, cryptography.x509, fastapi, graphql, hypothesis.strategies, jinja2, lightgbm, numpy, \
        optuna.visualization, pytest, requests, rich.progress, schemathesis, selenium.webdriver.support.ui, starlette.routing, \
        tenacity, typer.testing, uvicorn, werkzeug, xgboost"
ENV PYTHONPATH=
ENTRYPOINT []

# For the drill that kills Docker's daemon: one that is nobody else's.
FROM tests AS machine
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install -y --no-install-recommends docker.io iptables
