"""A store that somebody else runs: a SeaweedFS of its own, outside the stack, with TLS by an authority of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import certificates
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stack.deployment import CHECKOUT, Deployment, find_free_port, preset_choices, wait_until

HOST = "s3.example.org"
PORT = 8333
BACKUPS = "backups"  # a bucket of stacks' backups
UNVERSIONED, UNMADE = "unversioned", "unmade"  # buckets: one without versioning, one that is not there
Keys = tuple[str, str]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass
class External:
    """Its owner's view: `connect` as any of its accounts from this machine."""

    name: str
    folder: Path
    bucket: str = "artifacts"
    published: int = 0
    host: str = ""
    authority_with_key: str = ""

    root: Keys = ("ROOTROOTROOTROOTROOT", "root-key-of-somebody-elses")
    # May use its buckets and no more: not make one, nor change its versioning.
    limited: Keys = ("LIMITEDLIMITEDLIMITE", "limited-key-of-somebody-elses")
    # May add to it, and neither remove what is there nor its former versions.
    appender: Keys = ("APPENDERAPPENDERAPPE", "appenders-key-of-somebody-elses")
    reader: Keys = ("READERREADERREADERRE", "readers-key-of-somebody-elses")
    stranger: Keys = ("STRANGERSTRANGERSTRA", "strangers-key-of-somebody-elses")

    @property
    def url(self) -> str:
        return f"https://{HOST}:{PORT}"

    @property
    def url_by_address(self) -> str:
        """The URL for containers that name no network.

        It is this machine's address on Docker's own network: a container's is another one after each restart, if
        somebody else took it meanwhile.
        """
        return f"https://{self.host}:{self.published}"

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    def start(self) -> None:
        """Start it with certificate and accounts of its own."""
        self.folder.mkdir(parents=True)
        self.authority_with_key = certificates.make_authority(dt.datetime.now(dt.UTC))
        self.authority.write_text(self.authority_with_key.partition("-----BEGIN PRIVATE KEY-----")[0])
        docker, *_ = json.loads(run("docker", "network", "inspect", "bridge"))[0]["IPAM"]["Config"]
        # (a daemon at its first start doesn't say which it took, which is the first)
        self.host = docker.get("Gateway") or str(next(ipaddress.ip_network(docker["Subnet"]).hosts()))
        self.write_certificate()
        (self.folder / "s3.json").write_text(json.dumps(self.render_accounts()))
        image = f"{self.name}/external:0.1.0"
        base = preset_choices().get("BASE_IMAGE", "debian:trixie-slim")
        run(
            "docker",
            "build",
            "--quiet",
            "--target",
            "seaweedfs",
            "--build-arg",
            f"BASE_IMAGE={base}",
            "--tag",
            image,
            str(CHECKOUT),
        )
        run("docker", "network", "create", self.name)
        self.published = find_free_port()
        # The port is published for this machine and nobody else; stacks come by the name, on a network of theirs.
        run(
            *("docker", "run", "--detach", "--name", f"{self.name}-1", "--network", self.name, "--network-alias", HOST),
            *("--publish", f"127.0.0.1:{self.published}:{PORT}", "--publish", f"{self.host}:{self.published}:{PORT}"),
            *("--volume", f"{self.folder}:/etc/external:ro"),
            *(
                "--env",
                "WEED_S3_SSE_KEY=the owner's, for encryption at rest",
                "--entrypoint",
                "weed",
                image,
                "-logtostderr=true",
                "server",
                "-dir=/data",
                "-ip=127.0.0.1",
            ),
            *("-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=100"),
            *("-master.electionTimeout=1s", "-filer", "-s3", f"-s3.port={PORT}", "-s3.ip.bind=0.0.0.0"),
            *("-s3.config=/etc/external/s3.json", "-s3.iam=false", "-s3.autoCreateBucket=false"),
            *("-s3.cert.file=/etc/external/cert.pem", "-s3.key.file=/etc/external/key.pem"),
        )
        wait_until(self.answers, "the external store answers")

    def render_accounts(self) -> dict[str, Any]:
        """Return SeaweedFS's accounts: the owner's, and three that may less."""
        lists = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
        reads = ["s3:GetObject", "s3:ListMultipartUploadParts"]
        writes = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        rights = {
            self.limited: {bucket: [*lists, *reads, *writes] for bucket in (self.bucket, UNVERSIONED, UNMADE)},
            self.appender: {BACKUPS: [*lists, *reads, "s3:PutObject"]},
            self.reader: {self.bucket: [*lists, *reads]},
            self.stranger: {"elsewhere": [*lists, *reads, *writes]},
        }
        return {
            "identities": [
                {"name": keys[0], "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}], **others}
                for keys, others in [
                    (self.root, {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}),
                    *((keys, {"policyNames": [keys[0]]}) for keys in rights),
                ]
            ],
            "policies": [
                {
                    "name": keys[0],
                    "content": json.dumps(
                        {
                            "Version": "2012-10-17",
                            "Statement": [
                                {
                                    "Effect": "Allow",
                                    "Action": actions,
                                    "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
                                }
                                for bucket, actions in allowed.items()
                            ],
                        }
                    ),
                }
                for keys, allowed in rights.items()
            ],
        }

    def connect(self, keys: Keys, **config: Any) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=f"https://127.0.0.1:{self.published}",
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            region_name="us-east-1",
            verify=str(self.authority),
            config=Config(
                signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config
            ),
        )

    def write_certificate(self, names: tuple[str, ...] = (), *, authority: str = "") -> None:
        """Write a certificate for these names, or all of its own, by its authority or another; a restart takes it."""
        mark = "-----BEGIN PRIVATE KEY-----"
        names = names or (HOST, "127.0.0.1", self.host)
        leaf = certificates.make_leaf(authority or self.authority_with_key, names, dt.datetime.now(dt.UTC))
        head, _, tail = leaf.partition(mark)
        (self.folder / "cert.pem").write_text(head)
        (self.folder / "key.pem").write_text(mark + tail)

    def restart(self) -> None:
        run("docker", "restart", "--time", "2", f"{self.name}-1")
        wait_until(self.listens, "the external store listens again")

    def listens(self) -> bool:
        try:
            requests.get(f"https://127.0.0.1:{self.published}/", verify=False, timeout=2)
        except requests.RequestException:
            return False
        return True

    def make_bucket(self, name: str = "") -> None:
        """Make the bucket with versioning on, if it isn't there."""
        name = name or self.bucket
        owner = self.connect(self.root)
        with contextlib.suppress(owner.exceptions.BucketAlreadyOwnedByYou, owner.exceptions.BucketAlreadyExists):
            owner.create_bucket(Bucket=name)
        owner.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def answers(self) -> bool:
        try:
            self.connect(self.root).list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def write_credentials(self, keys: Keys, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_text(f"[default]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n")
        path.chmod(0o600)

    def serve(self, deployment: Deployment, keys: Keys) -> None:
        """Put files for the account into a checkout, and be reachable by name on the network of its stack."""
        files = deployment.root / "s3"
        files.mkdir(exist_ok=True)
        (files / "ca.pem").write_text(self.authority.read_text())
        self.write_credentials(keys, files / "credentials")
        self.join(f"{deployment.name}_outside", deployment.name, "store")

    def join(self, network: str, project: str, key: str) -> None:
        """Be on a network that compose would make, before compose makes it."""
        labels = {"com.docker.compose.project": project, "com.docker.compose.network": key}
        options = [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]
        run("docker", "network", "create", *options, network)
        run("docker", "network", "connect", "--alias", HOST, network, f"{self.name}-1")

    def leave(self, network: str) -> None:
        subprocess.run(
            ["docker", "network", "disconnect", "--force", network, f"{self.name}-1"], check=False, capture_output=True
        )

    def settings(self, **others: str) -> dict[str, str]:
        """Return what an operator writes into .env."""
        return {
            "STACK_OBJECTSTORE": "s3",
            "STACK_S3_ENDPOINT": self.url,
            "STACK_S3_BUCKET": self.bucket,
            "STACK_S3_CREDENTIALS": "./s3/credentials",
            "STACK_S3_CA": "./s3/ca.pem",
            **others,
        }

    def destroy(self) -> None:
        for command in (
            ("docker", "rm", "--force", "--volumes", f"{self.name}-1"),
            ("docker", "network", "rm", self.name),
            ("docker", "image", "rm", f"{self.name}/external:0.1.0"),
        ):
            subprocess.run(command, check=False, capture_output=True)


def make_external() -> External:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    name = f"{os.environ['STACK_TEST_NAME']}-{worker}-external"
    return External(name, Path(os.environ["STACK_TEST_SCRATCH"]) / worker / "external")
