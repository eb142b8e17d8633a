"""The object store: where it is, and how it is spoken with. One reading of the choices for all who connect to it.

(`bucket` and `artifacts` have a copy of this file: Dockerfile.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.client import BaseClient
from botocore.config import Config

SECRETS = Path("/run/secrets")
KINDS = ("minio", "seaweedfs", "s3")
STYLES = ("path", "virtual")
ENCRYPTIONS = ("AES256", "aws:kms")
# For a store that somebody else runs: the operator's, handed over by the secrets service.
EXTERNAL_CREDENTIALS = "s3_credentials"
EXTERNAL_AUTHORITIES = "store_ca.pem"


@dataclass(frozen=True)
class Store:
    """An S3 store and the bucket in it.

    Attributes:
        kind: minio or seaweedfs, which the stack runs itself, or s3, which somebody else runs.
        endpoint: URL by which the stack reaches it, "" for AWS.
        region: region that requests are signed for.
        bucket: bucket of all artifacts.
        style: whether the bucket's name is in the path or in the host ("virtual").
        encryption: what the store is told to encrypt objects with at rest, "" for its own default.
        kms_key: key of encryption aws:kms, "" for the account's default.
    """

    kind: str
    endpoint: str
    region: str
    bucket: str
    style: str
    encryption: str
    kms_key: str

    @property
    def is_external(self) -> bool:
        """Whether somebody else runs it."""
        return self.kind == "s3"

    @property
    def shown(self) -> str:
        """How an operator knows it."""
        return self.endpoint or f"AWS S3 in {self.region}"

    @property
    def checksums(self) -> str:
        """When AWS's library adds checksums of its own kind to what it sends: many stores but AWS's don't take them."""
        return "when_required" if self.is_external else "when_supported"

    def describe_upload(self) -> dict[str, str]:
        """Return what goes with every new object, as parameters of S3's operations."""
        described = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key}
        return {name: value for name, value in described.items() if value}

    def find_authorities(self, secrets: Path = SECRETS) -> str | None:
        """Return the file of authorities that its certificate is checked by."""
        return str(secrets / EXTERNAL_AUTHORITIES) if self.is_external else None

    def find_credentials(self, name: str = "aws_credentials", secrets: Path = SECRETS) -> str:
        """Return the file of the account: the external store's, else the one of that name.

        An external store's is empty for the machine's role: then AWS's library asks the machine.
        """
        return str(secrets / (EXTERNAL_CREDENTIALS if self.is_external else name))

    def connect(self, credentials: str, authorities: str | None, **config: Any) -> BaseClient:
        """Return a client with the account in the file `credentials`."""
        session = botocore.session.Session()
        session.set_config_variable("credentials_file", credentials)
        return boto3.Session(botocore_session=session).client(
            "s3",
            endpoint_url=self.endpoint or None,
            region_name=self.region,
            verify=authorities,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": self.style},
                request_checksum_calculation=self.checksums,
                **config,
            ),
        )


def find_endpoint_fault(endpoint: str, style: str, bucket: str) -> str | None:
    """Return what is wrong with the URL of an external store, or None."""
    try:
        url = urlsplit(endpoint)
        host, _port = url.hostname or "", url.port
    except ValueError:
        return "write it as https://s3.example.org or https://s3.example.org:9000"
    if url.scheme not in ("http", "https") or not host or url.username or url.path.strip("/") or url.query:
        return "write it as https://s3.example.org or https://s3.example.org:9000"
    if re.fullmatch(r"[0-9.]+|.*:.*", host) and (url.scheme == "https" or style == "virtual"):
        return "which has an address where a certificate or the bucket's name needs a host: write its name"
    if style == "virtual" and url.scheme == "https" and "." in bucket:
        return f"and no certificate is for {bucket}.{host}: set STACK_S3_STYLE=path"
    return None


def read(environment: Mapping[str, str], prefix: str = "STACK_") -> tuple[Store, list[str]]:
    """Return the store that the environment describes, and a line for each fault in it."""

    def get(name: str) -> str:
        return environment.get(f"{prefix}{name}", "")

    store = Store(
        kind=get("OBJECTSTORE"),
        endpoint=get("S3_ENDPOINT").rstrip("/"),
        region=get("S3_REGION"),
        bucket=get("BUCKET"),
        style=get("S3_STYLE"),
        encryption=get("S3_ENCRYPTION"),
        kms_key=get("S3_KMS_KEY"),
    )
    faults = []
    if store.kind not in KINDS:
        faults.append(f"STACK_OBJECTSTORE is {store.kind!r}: choose {', '.join(KINDS)}")
    if store.endpoint and (fault := find_endpoint_fault(store.endpoint, store.style, store.bucket)):
        faults.append(f"STACK_S3_ENDPOINT is {store.endpoint!r}: {fault}")
    elif not store.endpoint and not store.is_external:
        faults.append("STACK_S3_ENDPOINT is not set: docker-compose.yml sets it")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", store.region):
        faults.append(f"STACK_S3_REGION is {store.region!r}: write it as us-east-1")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", store.bucket):
        faults.append(f"STACK_S3_BUCKET is {store.bucket!r}: name a bucket (3 to 63 of a-z 0-9 . -)")
    if store.style not in STYLES:
        faults.append(f"STACK_S3_STYLE is {store.style!r}: choose {' or '.join(STYLES)}")
    if store.encryption and store.encryption not in ENCRYPTIONS:
        faults.append(f"STACK_S3_ENCRYPTION is {store.encryption!r}: choose {' or '.join(ENCRYPTIONS)}, or nothing")
    if store.kms_key and not (store.encryption == "aws:kms" and re.fullmatch(r"[A-Za-z0-9:/_-]+", store.kms_key)):
        faults.append(
            f"STACK_S3_KMS_KEY is {store.kms_key!r}: it is a key's id or ARN, with STACK_S3_ENCRYPTION=aws:kms"
        )
    return store, faults
