"""The rules that every container keeps, checked on the compose file as data and on the containers that run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stack.deployment import CHECKOUT, Deployment

SERVERS = ["postgres", "objectstore", "mlflow", "nginx", "serving", "follower", "backup"]
JOBS = ["secrets", "bucket", "migrate"]
# What is excepted from a rule, with the reason in docker-compose.yml on the spot.
ROOT_USERS = {"secrets"}
CAPABILITIES = {"secrets": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]}
NO_HEALTH_CHECK = {"objectstore"}


@pytest.fixture(scope="module")
def services(stack: Deployment) -> dict[str, dict[str, Any]]:
    config: dict[str, Any] = json.loads(stack.compose("--profile", "*", "config", "--format", "json"))
    found: dict[str, dict[str, Any]] = config["services"]
    return found


def test_only_the_gateway_is_published_and_on_loopback(services: dict[str, dict[str, Any]], stack: Deployment) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert list(published) == ["nginx"]
    assert [port["host_ip"] for port in published["nginx"]] == ["127.0.0.1"]


def test_every_service_has_a_folder_of_its_name(services: dict[str, dict[str, Any]]) -> None:
    for name in services:
        assert (CHECKOUT / "services" / name).is_dir() or (CHECKOUT / name).is_dir(), name


def test_every_service_is_hardened(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == CAPABILITIES.get(name, []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert 0 < service["pids_limit"] <= 512, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert service["stop_grace_period"] == "10s", name
        assert "privileged" not in service, name


def test_servers_restart_and_have_health_checks(services: dict[str, dict[str, Any]]) -> None:
    for name in SERVERS:
        assert services[name]["restart"] == "always", name
        assert ("healthcheck" in services[name]) == (name not in NO_HEALTH_CHECK), name


def test_data_networks_are_closed(stack: Deployment) -> None:
    networks = json.loads(stack.compose("config", "--format", "json"))["networks"]
    assert networks["database"]["internal"] is True
    assert networks["store"]["internal"] is True
    assert list(stack.container("follower")["NetworkSettings"]["Networks"]) == [f"{stack.name}_edge"]
    assert list(stack.container("serving")["NetworkSettings"]["Networks"]) == ["none"]
    assert list(stack.container("postgres")["NetworkSettings"]["Networks"]) == [f"{stack.name}_database"]


@pytest.mark.parametrize("service", SERVERS)
def test_no_server_runs_as_root(stack: Deployment, service: str) -> None:
    pid = stack.container(service)["State"]["Pid"]
    status = subprocess.run(["cat", f"/proc/{pid}/status"], check=True, capture_output=True, text=True).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.parametrize("service", SERVERS)
def test_no_server_can_write_its_root_file_system(stack: Deployment, service: str) -> None:
    result = stack.execute("docker", "compose", "exec", "-T", service, "sh", "-c", "echo x > /etc/x")
    assert result.returncode != 0
    assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr


def read_secrets(stack: Deployment) -> dict[str, str]:
    """Return every generated secret from the master volume."""
    output = subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{stack.name}_secrets-master:/master:ro", "--network", "none"]
        + ["--entrypoint", "python", stack.image("secrets"), "-c"]
        + [
            "import json, pathlib as p; print(json.dumps({f.name: f.read_text() for f in p.Path('/master').iterdir()}))"
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    values: dict[str, str] = json.loads(output)
    return values


def test_no_secret_is_in_an_inspection_a_command_line_a_log_or_a_layer(stack: Deployment) -> None:
    secrets = read_secrets(stack)
    assert len(secrets) == 18
    places = {"logs": stack.compose("logs", "--no-color"), "compose": stack.compose("config")}
    for service in SERVERS + JOBS:
        container = stack.container(service)
        places[f"inspect {service}"] = json.dumps(container)
        history = ["docker", "history", "--no-trunc", container["Config"]["Image"]]
        places[f"layers {service}"] = subprocess.run(history, check=True, capture_output=True, text=True).stdout
        if pid := container["State"]["Pid"]:
            for part in ("cmdline", "environ"):
                places[f"{part} of {service}"] = Path(f"/proc/{pid}/{part}").read_bytes().decode(errors="replace")
    for name, value in secrets.items():
        for place, text in places.items():
            assert value not in text, f"{name} is in {place}"


def test_each_consumer_reads_its_own_secrets_only(stack: Deployment) -> None:
    listing = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "sh"]
        + [
            option
            for name in (
                "postgres",
                "objectstore",
                "bucket",
                "migrate",
                "mlflow",
                "admin",
                "artifacts",
                "trainer",
                "follower",
                "backup",
            )
            for option in ("--volume", f"{stack.name}_secrets-{name}:/secrets/{name}:ro")
        ]
        + [stack.image("secrets"), "-c", "stat -c '%n %U %a' /secrets/* /secrets/*/*"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = [line.split() for line in listing.splitlines()]
    assert len(lines) > 14
    for path, owner, mode in lines:
        consumer = path.split("/")[2]
        assert owner == consumer, path
        assert mode == ("500" if path.count("/") == 2 else "400"), path
    with_master = [name for name in SERVERS if "secrets-master" in json.dumps(stack.container(name)["Mounts"])]
    assert with_master == []


def test_the_server_has_no_superuser_and_no_other_database(stack: Deployment) -> None:
    script = (
        "import psycopg2\n"
        "for user, database in (('postgres', 'postgres'), ('mlflow', 'auth'), ('auth', 'mlflow')):\n"
        "    try:\n"
        "        psycopg2.connect(host='postgres', user=user, dbname=database, passfile='/run/secrets/pgpass')\n"
        "    except psycopg2.OperationalError:\n"
        "        continue\n"
        "    raise SystemExit(f'{user} reaches {database}')\n"
        "own = psycopg2.connect(host='postgres', user='mlflow', dbname='mlflow', passfile='/run/secrets/pgpass')\n"
        "cursor = own.cursor()\n"
        "cursor.execute('select rolsuper or rolcreatedb or rolcreaterole from pg_roles where rolname = current_user')\n"
        "assert cursor.fetchone() == (False,)\n"
        "cursor.execute('show data_checksums')\n"
        "assert cursor.fetchone() == ('on',)\n"
    )
    stack.compose("exec", "-T", "mlflow", "python", "-c", script)


def test_the_backup_reads_rows_files_and_objects_and_changes_none(stack: Deployment) -> None:
    script = (
        "import boto3, botocore.exceptions, os, pathlib, psycopg2\n"
        "own = psycopg2.connect(host='/run/postgresql', user='backup', dbname='mlflow')\n"
        "own.autocommit = True\n"
        "cursor = own.cursor()\n"
        "cursor.execute('select count(*) from experiments')\n"
        "assert cursor.fetchone()[0] > 0\n"
        "cursor.execute('set default_transaction_read_only = off')\n"
        "for attempt in ('delete from tags', 'create table x (y int)', 'drop database auth',\n"
        "                \"copy (select 1) to program 'true'\"):\n"
        "    try:\n"
        "        cursor.execute(attempt)\n"
        "    except psycopg2.Error:\n"
        "        continue\n"
        "    raise SystemExit(f'{attempt}: not denied')\n"
        "try:\n"
        "    psycopg2.connect(host='/run/postgresql', user='postgres', dbname='postgres')\n"
        "    raise SystemExit('it comes in as the superuser')\n"
        "except psycopg2.OperationalError:\n"
        "    pass\n"
        "data = pathlib.Path('/var/lib/postgresql/data/17')\n"
        "assert (data / 'global/pg_control').read_bytes()\n"
        "try:\n"
        "    (data / 'x').touch()\n"
        "    raise SystemExit('it writes the files of the database')\n"
        "except OSError:\n"
        "    pass\n"
        "os.environ['AWS_SHARED_CREDENTIALS_FILE'] = '/run/secrets/aws_credentials'\n"
        "s3 = boto3.client('s3', endpoint_url=os.environ['STACK_S3_ENDPOINT'], region_name='us-east-1')\n"
        "bucket = os.environ['STACK_BUCKET']\n"
        "[version, *_] = s3.list_object_versions(Bucket=bucket)['Versions']\n"
        "place = {'Bucket': bucket, 'Key': version['Key']}\n"
        "s3.get_object(**place, VersionId=version['VersionId'])\n"
        "for attempt in (lambda: s3.put_object(**place, Body=b'x'), lambda: s3.delete_object(**place),\n"
        "                lambda: s3.delete_object(**place, VersionId=version['VersionId']),\n"
        "                lambda: s3.create_bucket(Bucket='other'), lambda: s3.delete_bucket(Bucket=bucket),\n"
        "                lambda: s3.put_bucket_versioning(\n"
        "                    Bucket=bucket, VersioningConfiguration={'Status': 'Suspended'})):\n"
        "    try:\n"
        "        attempt()\n"
        "    except botocore.exceptions.ClientError as error:\n"
        "        assert error.response['ResponseMetadata']['HTTPStatusCode'] in (403, 404), error\n"
        "        continue\n"
        "    raise SystemExit('not denied')\n"
    )
    stack.compose("exec", "-T", "backup", "python", "-c", script)


def test_mlflows_account_in_the_store_reaches_the_one_bucket_only(stack: Deployment) -> None:
    script = (
        "import boto3, botocore.exceptions, os\n"
        "os.environ['AWS_SHARED_CREDENTIALS_FILE'] = '/run/secrets/aws_credentials'\n"
        "s3 = boto3.client('s3', endpoint_url=os.environ['STACK_S3_ENDPOINT'], region_name='us-east-1')\n"
        "bucket = os.environ['STACK_BUCKET']\n"
        "s3.list_objects_v2(Bucket=bucket, MaxKeys=1)\n"
        "for attempt in (lambda: s3.create_bucket(Bucket='other'), lambda: s3.list_objects_v2(Bucket='other'),\n"
        "                lambda: s3.delete_bucket(Bucket=bucket),\n"
        "                lambda: s3.put_bucket_versioning(\n"
        "                    Bucket=bucket, VersioningConfiguration={'Status': 'Suspended'})):\n"
        "    try:\n"
        "        attempt()\n"
        "    except botocore.exceptions.ClientError as error:\n"
        "        assert error.response['ResponseMetadata']['HTTPStatusCode'] in (403, 404), error\n"
        "        continue\n"
        "    raise SystemExit('not denied')\n"
    )
    stack.compose("exec", "-T", "mlflow", "python", "-c", script)
