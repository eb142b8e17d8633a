"""Make the bucket, its versioning and lifecycle, and the accounts in the object store; run at every start."""

from __future__ import annotations

import configparser
import json
import os
import sys
from pathlib import Path
from typing import Any

import boto3
import tenacity
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

SECRETS = Path("/run/secrets")
DEADLINE_SECONDS = 60
MISSING = {"404", "NoSuchBucket"}


class AccountError(Exception):
    """MinIO's admin API refused or did not answer."""


FAULTS = (BotoCoreError, ClientError, AccountError)


def read_credentials(name: str) -> tuple[str, str]:
    """Return (access key, secret key) from an AWS credentials file."""
    parser = configparser.ConfigParser()
    if not parser.read(SECRETS / name):
        sys.exit(f"bucket: {SECRETS / name} can't be read: start the stack's secrets service first")
    section = parser["default"]
    return section["aws_access_key_id"], section["aws_secret_access_key"]


def connect(endpoint: str, credentials: tuple[str, str]) -> BaseClient:
    """Return an S3 client that fails quickly: waiting is this program's job, not the library's."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=credentials[0],
        aws_secret_access_key=credentials[1],
        region_name="us-east-1",
        config=Config(
            connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
        ),
    )


def make_bucket(client: BaseClient, bucket: str) -> None:
    """Make `bucket` with versioning on, if it isn't so already. Raises ClientError, BotoCoreError."""
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING:
            raise
        client.create_bucket(Bucket=bucket)
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def describe_lifecycle(store: str, upload_days: int, version_days: int) -> list[dict[str, Any]]:
    """Return the bucket's rules: what is kept no longer than how many days; 0 keeps versions for ever.

    MinIO refuses a rule about uploads (minio/minio#15681) and removes unfinished ones after 24 hours by itself.
    SeaweedFS keeps the rules, but nothing of what the stack runs follows them: `./stack gc` does, and of uploads
    services/objectstore/seaweedfs.sh.
    """
    rules: list[dict[str, Any]] = []
    every = {"Status": "Enabled", "Filter": {"Prefix": ""}}
    if store != "minio":
        rules.append({"ID": "uploads", **every, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": upload_days}})
    if version_days:
        versions = {"NoncurrentVersionExpiration": {"NoncurrentDays": version_days}}
        rules.append({"ID": "versions", **every, **versions, "Expiration": {"ExpiredObjectDeleteMarker": True}})
    return rules


def set_lifecycle(client: BaseClient, bucket: str, rules: list[dict[str, Any]]) -> None:
    """Give the bucket these rules and no others. Raises ClientError, BotoCoreError."""
    if rules:
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    else:
        client.delete_bucket_lifecycle(Bucket=bucket)


# What each account may do with the bucket, and with what is in it. Versions are the tool's (services/artifacts).
MLFLOW_ACTIONS = (
    ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
    ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
)
TOOL_ACTIONS = (
    [*MLFLOW_ACTIONS[0], "s3:ListBucketVersions"],
    [*MLFLOW_ACTIONS[1], "s3:GetObjectVersion", "s3:DeleteObjectVersion"],
)


def describe_policy(bucket: str, actions: tuple[list[str], list[str]]) -> dict[str, Any]:
    """Return MinIO's policy for an account."""
    places = (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*")
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": allowed, "Resource": [place]}
            for allowed, place in zip(actions, places, strict=True)
        ],
    }


def make_minio_account(
    endpoint: str, root: tuple[str, str], account: tuple[str, str], name: str, policy: dict[str, Any]
) -> None:
    """Make a user in MinIO, with the rights of a policy of that name. Raises AccountError.

    SeaweedFS reads the like from its configuration file (services/secrets). Protocol: MinIO's admin API, PUT
    add-canned-policy, add-user and set-user-or-group-policy, each of which replaces what is there.
    """
    from minio.credentials.providers import StaticProvider
    from minio.error import MinioAdminException, MinioException
    from minio.minioadmin import MinioAdmin
    from urllib3.exceptions import HTTPError

    scheme, _, address = endpoint.partition("://")
    admin = MinioAdmin(endpoint=address, credentials=StaticProvider(*root), secure=scheme == "https")
    try:
        admin.policy_add(name, policy=policy)
        admin.user_add(*account)
        admin.policy_set(name, user=account[0])
    except (MinioException, MinioAdminException, HTTPError) as error:
        raise AccountError(error) from error


def check_account(client: BaseClient, bucket: str) -> None:
    """Prove with MLflow's own account that it can list, write and read in the bucket."""
    key = ".stack/check"
    # Written once: the bucket keeps every version, so that a write at each start would pile up.
    if not client.list_objects_v2(Bucket=bucket, Prefix=key).get("KeyCount"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    client.get_object(Bucket=bucket, Key=key)


def main() -> None:
    """Wait for the store, then make and check everything; one line and exit 1 if it can't be done."""
    endpoint, bucket, store = (os.environ[name] for name in ("STACK_S3_ENDPOINT", "STACK_BUCKET", "STACK_OBJECTSTORE"))
    root, account = read_credentials("root_credentials"), read_credentials("client_credentials")
    upload_days, version_days = (int(os.environ[name]) for name in ("STACK_UPLOAD_DAYS", "STACK_VERSION_DAYS"))

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(FAULTS),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(DEADLINE_SECONDS),
        reraise=True,
    )
    def provision() -> None:
        make_bucket(connect(endpoint, root), bucket)
        set_lifecycle(connect(endpoint, root), bucket, describe_lifecycle(store, upload_days, version_days))
        if store == "minio":
            tool = read_credentials("artifacts_credentials")
            make_minio_account(endpoint, root, account, bucket, describe_policy(bucket, MLFLOW_ACTIONS))
            make_minio_account(endpoint, root, tool, f"{bucket}-versions", describe_policy(bucket, TOOL_ACTIONS))
        check_account(connect(endpoint, account), bucket)

    try:
        provision()
    except FAULTS as error:
        sys.exit(f"bucket: {endpoint} is not usable after {DEADLINE_SECONDS} s: {error}: see ./stack logs objectstore")
    print(json.dumps({"bucket": bucket, "versioning": "Enabled", "store": store}))


if __name__ == "__main__":
    main()
