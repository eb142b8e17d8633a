"""Make the bucket, its versioning and lifecycle, and the accounts in the object store; run at every start.

In a store that somebody else runs there is one account, the operator's, and what it may not make it finds; the bucket's
lifecycle is the operator's too.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import tenacity
from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, SSLError

from tracking import store
from tracking.store import SECRETS, Store

DEADLINE_SECONDS = 60
CHECK = ".stack/check"
MISSING = {"404", "NoSuchBucket", "NoSuchKey"}
FORBIDDEN = {"403", "AccessDenied"}
SERVER_FAULT = 500
# Fails quickly: waiting is this program's job, not the library's.
LIMITS = {"connect_timeout": 2, "read_timeout": 10, "retries": {"total_max_attempts": 1}}


class AccountError(Exception):
    """MinIO's admin API refused or did not answer."""


class StoreError(Exception):
    """The operator's account may not do what MLflow needs; the message says what."""


FAULTS = (BotoCoreError, ClientError, AccountError)


def read_credentials(name: str) -> tuple[str, str]:
    """Return (access key, secret key) from an AWS credentials file."""
    parser = configparser.ConfigParser()
    if not parser.read(SECRETS / name):
        sys.exit(f"bucket: {SECRETS / name} can't be read: start the stack's secrets service first")
    section = parser["default"]
    return section["aws_access_key_id"], section["aws_secret_access_key"]


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
BACKUP_ACTIONS = (
    ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketVersions"],
    ["s3:GetObject", "s3:GetObjectVersion"],
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
    # Written once: the bucket keeps every version, so that a write at each start would pile up.
    if not client.list_objects_v2(Bucket=bucket, Prefix=CHECK).get("KeyCount"):
        client.put_object(Bucket=bucket, Key=CHECK, Body=b"")
    client.get_object(Bucket=bucket, Key=CHECK)


def find_bucket(client: BaseClient, chosen: Store) -> None:
    """Make the bucket if there is none. Raises StoreError, BotoCoreError, ClientError."""
    try:
        client.head_bucket(Bucket=chosen.bucket)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in FORBIDDEN:
            raise StoreError(
                f"the bucket {chosen.bucket} is closed to the account in STACK_S3_CREDENTIALS (403): "
                "name a bucket and an account that fit (s3:ListBucket)"
            ) from None
        if code not in MISSING:
            raise
    else:
        return
    place = {} if chosen.region == "us-east-1" else {"LocationConstraint": chosen.region}
    try:
        client.create_bucket(Bucket=chosen.bucket, **({"CreateBucketConfiguration": place} if place else {}))
    except ClientError as error:
        raise StoreError(
            f"there is no bucket {chosen.bucket}, and the account in STACK_S3_CREDENTIALS may not make it "
            f"({error.response['Error']['Code']}): make it, or set STACK_S3_BUCKET to another"
        ) from None


def find_versioning(client: BaseClient, bucket: str) -> str:
    """Return "Enabled" after having seen to it, or what the state is that the account can't change."""
    state = "not to be seen"
    try:
        state = client.get_bucket_versioning(Bucket=bucket).get("Status", "off")
        if state != "Enabled":
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    except ClientError as error:
        if is_passing(error):
            raise
        return state
    return "Enabled"


def check_operators_account(client: BaseClient, chosen: Store) -> None:
    """Prove with the operator's account all that MLflow does, and leave no trace if it may. Raises StoreError."""
    place = {"Bucket": chosen.bucket, "Key": CHECK}
    versions: list[str | None] = []
    attempts: dict[str, Callable[[], Any]] = {
        "s3:ListBucket": lambda: client.list_objects_v2(Bucket=chosen.bucket, MaxKeys=1),
        "s3:PutObject": lambda: client.put_object(**place, Body=b"", **chosen.describe_upload()),
        "s3:GetObject": lambda: client.get_object(**place),
        "s3:DeleteObject": lambda: client.delete_object(**place),
    }
    faults = []
    for action, attempt in attempts.items():
        try:
            answer = attempt()
        except ClientError as error:
            if is_passing(error):
                raise
            code, message = (error.response["Error"].get(name, "") for name in ("Code", "Message"))
            if code in MISSING:
                continue  # it may look for what it may not write
            faults.append(f"the account in STACK_S3_CREDENTIALS may not {action} in {chosen.bucket}: {code} {message}")
        else:
            versions.append(answer.get("VersionId"))
    if faults:
        raise StoreError("\n".join(faults))
    for version in filter(None, dict.fromkeys(versions)):
        with contextlib.suppress(ClientError):
            client.delete_object(**place, VersionId=version)


def is_passing(error: BaseException) -> bool:
    """Return whether to wait helps: the store is away, not closed to us."""
    if isinstance(error, ClientError):
        return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] >= SERVER_FAULT)
    return isinstance(error, BotoCoreError) and not isinstance(error, (SSLError, NoCredentialsError))


def find_everything(chosen: Store) -> str:
    """Return the state of the versioning in an external store, when all that is needed is there. Raises StoreError."""
    client = chosen.connect(chosen.find_credentials(), chosen.find_authorities(), **LIMITS)

    @tenacity.retry(
        retry=tenacity.retry_if_exception(is_passing),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(DEADLINE_SECONDS),
        reraise=True,
    )
    def find() -> str:
        find_bucket(client, chosen)
        versioning = find_versioning(client, chosen.bucket)
        check_operators_account(client, chosen)
        return versioning

    try:
        return find()
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"{chosen.shown} can't be used: {error}: check STACK_S3_* in .env") from error


def make_everything(chosen: Store) -> None:
    """Wait for a store of the stack's own, then make all that is missing. Raises StoreError."""
    root, account = read_credentials("root_credentials"), read_credentials("client_credentials")
    upload_days, version_days = (int(os.environ[name]) for name in ("STACK_UPLOAD_DAYS", "STACK_VERSION_DAYS"))

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(FAULTS),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(DEADLINE_SECONDS),
        reraise=True,
    )
    def provision() -> None:
        client = connect(chosen, "root_credentials")
        make_bucket(client, chosen.bucket)
        set_lifecycle(client, chosen.bucket, describe_lifecycle(chosen.kind, upload_days, version_days))
        if chosen.kind == "minio":
            accounts = (
                (account, chosen.bucket, MLFLOW_ACTIONS),
                (read_credentials("artifacts_credentials"), f"{chosen.bucket}-versions", TOOL_ACTIONS),
                (read_credentials("backup_credentials"), f"{chosen.bucket}-backup", BACKUP_ACTIONS),
            )
            for each, name, actions in accounts:
                policy = describe_policy(chosen.bucket, actions)
                make_minio_account(chosen.endpoint, root, each, name, policy)
        check_account(connect(chosen, "client_credentials"), chosen.bucket)

    try:
        provision()
    except FAULTS as error:
        raise StoreError(
            f"{chosen.endpoint} is not usable after {DEADLINE_SECONDS} s: {error}: see ./stack logs objectstore"
        ) from error


def connect(chosen: Store, credentials: str) -> BaseClient:
    """Return a client of a store of the stack's own, with the account in the file of that name."""
    return chosen.connect(chosen.find_credentials(credentials), chosen.find_authorities(), **LIMITS)


def main() -> None:
    """Make or find everything, and check it; a line for each fault and exit 1 if it can't be done."""
    chosen, faults = store.read(os.environ)
    if faults:
        sys.exit("\n".join(f"bucket: {line}" for line in faults))
    versioning = "Enabled"
    try:
        if chosen.is_external:
            versioning = find_everything(chosen)
        else:
            make_everything(chosen)
    except StoreError as error:
        sys.exit("\n".join(f"bucket: {line}" for line in str(error).splitlines()))
    if versioning != "Enabled":
        print(
            f"bucket: versioning of {chosen.bucket} is {versioning}, and the account in STACK_S3_CREDENTIALS may not "
            "turn it on (s3:PutBucketVersioning): what is replaced or deleted can't be brought back",
            file=sys.stderr,
        )
    print(json.dumps({"bucket": chosen.bucket, "versioning": versioning, "store": chosen.kind}))


if __name__ == "__main__":
    main()
