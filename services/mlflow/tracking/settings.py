"""All that the server and `migrate` read from the environment and from secret files, checked at once.

MLflow takes some of its own settings from environment variables only. `apply` sets those in this process, so that the
container's configuration, which anyone who may run `docker inspect` can read, never holds a secret.
"""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tracking import closed, store

# What STACK_OPEN takes; "jobs" is opened by STACK_JOBS.
SWITCHES = [name for name in closed.FEATURES if name != "jobs"]
SECRETS = Path("/run/secrets")
ARTIFACT_ROOT = "mlflow-artifacts:/"
MAX_WORKERS = 16
MAX_URL_SECONDS = 300  # a URL outlives its user's account
# (the last two are mlflow.prompt.constants' placeholders)
MODEL_SOURCES = r"\A(?:mlflow-artifacts:/(?!/)|runs:/|models:/|(?:dummy-source|prompt-template)\Z)"
# What Postgres allows (max_connections = 100) less some for its own and the operator's.
CONNECTIONS = 90
POOLS = 4  # tracking, registry and auth have one each, in each worker, and so has the fast path
MAX_FAST = 8  # as many statements at a time keep two cores busy
# Which Host headers are answered besides the operator's: the loopback addresses and the compose names of the gateway.
TLS = ("off", "self-signed", "files", "upstream")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]", "nginx", "gateway")


class SettingsError(Exception):
    """One or more settings are unfit; the message has a line for each."""


@dataclass(frozen=True)
class Settings:
    """What this deployment chose.

    Attributes:
        database_uri: SQLAlchemy URI of MLflow's database, without a password (libpq's passfile holds it).
        auth_database_uri: the same for the user store.
        store: the object store.
        public_url: URL by which users reach the gateway, or "".
        bind: address on which the gateway is published.
        tls: how the gateway does TLS: off, self-signed, files, upstream.
        workers: number of worker processes.
        url_seconds: how long a URL of an artifact is good for a client.
        jobs: whether MLflow's job runners (scorers, trace archival) run beside the server.
        opened: features of MLflow that are open though the stack doesn't use them (tracking/closed.py).
        log: whether served predictions are logged (`migrate` makes the place for it).
        fast_path: whether plain requests are answered beside MLflow's handlers (tracking/fast).
        trash: whether what is deleted is kept for a while (`migrate` makes the triggers).
    """

    database_uri: str
    auth_database_uri: str
    store: store.Store
    public_url: str
    bind: str
    tls: str
    workers: int
    url_seconds: int
    jobs: bool
    opened: frozenset[str]
    log: bool = False
    fast_path: bool = True
    trash: bool = False


class Reader:
    """Reads variables that docker-compose.yml sets, and remembers what is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def read(self, name: str, *choices: str) -> str:
        """Return the value, which is one of the choices if there are any."""
        value = os.environ.get(name, "")
        if not value:
            self.faults.append(f"{name} is not set: docker-compose.yml sets it")
        elif choices and value not in choices:
            self.faults.append(f"{name} is {value!r}: choose {' or '.join(choices)}")
        return value

    def count(self, name: str, most: int) -> int:
        """Return the value, a whole number from 1 to `most`."""
        value = self.read(name)
        if value.isdigit() and 1 <= int(value) <= most:
            return int(value)
        if value:
            self.faults.append(f"{name} is {value!r}: choose a whole number from 1 to {most}")
        return 0

    def switch(self, name: str) -> bool:
        """Return whether the value is "on"."""
        return self.read(name, "on", "off") == "on"


def load() -> Settings:
    """Return the settings. Raises SettingsError that names every fault there is."""
    reader = Reader()
    workers = reader.count("STACK_WORKERS", MAX_WORKERS)
    url_seconds = reader.count("STACK_URL_SECONDS", MAX_URL_SECONDS)
    jobs, fast_path = reader.switch("STACK_JOBS"), reader.switch("STACK_FAST_PATH")
    opened = {name for name in os.environ.get("STACK_OPEN", "").split(",") if name}
    if unknown := sorted(opened - set(SWITCHES)):
        reader.faults.append(
            f"STACK_OPEN is {','.join(sorted(opened))!r}, {unknown[0]!r} is none of {', '.join(SWITCHES)}"
        )
    public_url = os.environ.get("STACK_PUBLIC_URL", "")
    if public_url and not (urlsplit(public_url).scheme in ("http", "https") and urlsplit(public_url).hostname):
        reader.faults.append(f"STACK_PUBLIC_URL is {public_url!r}: write it as https://mlflow.example.org")
    required = {name: reader.read(name) for name in ("STACK_DATABASE_URI", "STACK_AUTH_DATABASE_URI")}
    chosen_store, store_faults = store.read(os.environ)
    reader.faults += store_faults
    bind, tls = reader.read("STACK_BIND"), reader.read("STACK_TLS", *TLS)
    if reader.faults:
        raise SettingsError("\n".join(reader.faults))
    return Settings(
        database_uri=required["STACK_DATABASE_URI"],
        auth_database_uri=required["STACK_AUTH_DATABASE_URI"],
        store=chosen_store,
        public_url=public_url.rstrip("/"),
        bind=bind,
        tls=tls,
        workers=workers,
        url_seconds=url_seconds,
        jobs=jobs,
        opened=frozenset(opened | ({"jobs"} if jobs else set())),
        log=os.environ.get("STACK_PREDICTION_LOG") == "on",
        fast_path=fast_path,
        trash=os.environ.get("STACK_TRASH_DAYS", "0") != "0",
    )


def read_secret(name: str) -> str:
    """Return the content of a secret file. Raises SettingsError if it can't be read or is empty."""
    try:
        value = (SECRETS / name).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{SECRETS / name}: {error.strerror}: start the stack's secrets service first") from None
    if not value:
        raise SettingsError(f"{SECRETS / name} is empty: start the stack's secrets service first")
    return value


def is_any(bind: str) -> bool:
    """Return whether the gateway is published on all addresses of the machine."""
    try:
        return ipaddress.ip_address(bind).is_unspecified
    except ValueError:
        return False


def allowed_hosts(settings: Settings) -> list[str]:
    """Return the patterns of Host headers that MLflow answers (fnmatch; [ is escaped as [[])."""
    hosts = [*LOCAL_HOSTS, settings.bind, urlsplit(settings.public_url).hostname or settings.bind]
    patterns = [pattern for host in dict.fromkeys(hosts) for pattern in (host, host.replace("[", "[[]", 1) + ":*")]
    # The gateway checks the Host before, and better: fnmatch has no way to say "an address" (nginx/gateway).
    return [*patterns, "[0-9]*.[0-9]*.[0-9]*.[0-9]*"] if is_any(settings.bind) else patterns


def write_auth_config(settings: Settings, path: Path) -> None:
    """Write MLflow's basic-auth configuration; nothing in it is secret."""
    path.write_text(
        "[mlflow]\n"
        # Nobody sees what nobody gave them; see docs/ and MLflow's /admin page for roles.
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {settings.auth_database_uri}\n"
        # Made by `migrate`, which alone has the password.
        "admin_username = admin\n"
        # tracking/identity.py reads accounts again every two seconds, and empties this cache when one has changed.
        "auth_cache_ttl_seconds = 3600\n"
    )


class Connections(NamedTuple):
    """How many connections to Postgres a worker may have.

    Attributes:
        kept: that each of MLflow's pools keeps.
        overflow: that each of them may open beside.
        fast: of the fast path.
    """

    kept: int
    overflow: int
    fast: int


def share_connections(workers: int) -> Connections:
    """Return each worker's share of what Postgres allows."""
    # (one more in each worker is for locks: tracking/production.py)
    share = (CONNECTIONS - workers) // (POOLS * workers)
    kept = min(5, share)
    return Connections(kept, min(5, share - kept), min(MAX_FAST, share))


def describe_store(chosen: store.Store) -> dict[str, str]:
    """Return what MLflow and AWS's library read about the object store."""
    described = {
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": chosen.style,
        "MLFLOW_S3_ENDPOINT_URL": chosen.endpoint,  # (none is AWS's own)
        "MLFLOW_S3_UPLOAD_EXTRA_ARGS": json.dumps(chosen.describe_upload()) if chosen.encryption else "",
        "AWS_SHARED_CREDENTIALS_FILE": chosen.find_credentials(),
        "AWS_DEFAULT_REGION": chosen.region,
        "AWS_CA_BUNDLE": chosen.find_authorities(),
        "AWS_REQUEST_CHECKSUM_CALCULATION": chosen.checksums,
    }
    return {name: value for name, value in described.items() if value}


def apply(settings: Settings) -> None:
    """Set what MLflow reads from the environment, in this process."""
    auth_config = Path("/tmp/auth.ini")
    shares = share_connections(settings.workers)
    write_auth_config(settings, auth_config)
    os.environ.update(
        {
            "MLFLOW_AUTH_CONFIG_PATH": str(auth_config),
            **describe_store(settings.store),
            # A dead store is said so within seconds: MLflow's clients try again by themselves.
            "AWS_RETRY_MODE": "standard",
            "AWS_MAX_ATTEMPTS": "2",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(allowed_hosts(settings)),
            # A model version comes from a run or a model that MLflow knows (and checks), or is a prompt: whatever else
            # a source names would be read with the server's own key.
            "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": MODEL_SOURCES,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": str(settings.jobs).lower(),
            # A pool that is empty waits; a Postgres that is full answers 400, which clients don't try again.
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(shares.kept),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(shares.overflow),
            # `migrate` made the accounts; if somebody has removed `admin` since, MLflow is not to want it back.
            "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED": "true",
            # What `mlflow server` hands to its workers (mlflow/server/constants.py, mlflow/server/__init__.py).
            "_MLFLOW_SERVER_FILE_STORE": settings.database_uri,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": ARTIFACT_ROOT,
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"s3://{settings.store.bucket}",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
        }
    )


def apply_secrets() -> None:
    """Set the secrets that MLflow reads from the environment only. Raises SettingsError."""
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = read_secret("flask_secret_key")
    os.environ["MLFLOW_CRYPTO_KEK_PASSPHRASE"] = read_secret("kek_passphrase")
    os.environ["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] = read_secret("webhook_encryption_key")
