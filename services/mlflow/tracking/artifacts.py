"""Signed artifact URLs that work from where the client is.

MLflow signs S3 URLs with the endpoint by which the server itself reaches the store, a name that exists only between
the containers. Here they are signed for the host and port that the client used: the gateway passes requests for the
bucket's path on with their Host unchanged, and the store checks the signature. No client needs a key or a second port.
"""

from __future__ import annotations

from typing import Any

import flask
from botocore.client import BaseClient
from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository, _get_s3_client

# A signed URL outlives its user's account: so it is short-lived, whatever a client asks for (in seconds). The URLs of
# an upload's parts are all signed before the first is sent, and a large file on a slow line takes long.
MAX_SECONDS = 300
MAX_SECONDS_PART = 3600


def find_base() -> str:
    """Return the URL by which the client reached the gateway, which says by what scheme, and has checked the host."""
    return flask.request.host_url.rstrip("/")


class ClientSideSigner:
    """An S3 client whose signed URLs carry the host of the request being answered; all else is the inner client's."""

    def __init__(self, inner: BaseClient) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate_presigned_url(self, operation: str, **kwargs: Any) -> str:
        """Return a signed URL below the URL by which the client reached the gateway."""
        longest = MAX_SECONDS_PART if operation == "upload_part" else MAX_SECONDS
        kwargs["ExpiresIn"] = min(kwargs.get("ExpiresIn", longest), longest)
        url: str = _get_s3_client(s3_endpoint_url=find_base()).generate_presigned_url(operation, **kwargs)
        return url


class GatewayArtifactRepository(S3ArtifactRepository):
    """MLflow's S3 repository, with URLs signed for the gateway while a request is being answered."""

    def _get_s3_client(self) -> Any:
        client = super()._get_s3_client()
        return ClientSideSigner(client) if flask.has_request_context() else client


class ServerSideArtifactRepository(ArtifactRepository):
    """MLflow's S3 repository without signed URLs: all bytes go through the server.

    For STACK_TLS=self-signed: MLflow's clients check the certificate behind a signed URL against their own list of
    authorities, whatever MLFLOW_TRACKING_SERVER_CERT_PATH says. They ask for signed URLs only if the repository of the
    server is of the kind that makes them.
    """

    def __init__(self, artifact_uri: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(artifact_uri, *args, **kwargs)
        self._inner = S3ArtifactRepository(artifact_uri, *args, **kwargs)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file."""
        self._inner.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store a folder."""
        self._inner.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what is stored at `path`."""
        found: list[FileInfo] = self._inner.list_artifacts(path)
        return found

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Remove what is stored at `artifact_path`."""
        self._inner.delete_artifacts(artifact_path)

    def upload_archived_trace_data_bytes(self, data: bytes) -> None:
        """Store an archived trace."""
        self._inner.upload_archived_trace_data_bytes(data)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._inner._download_file(remote_file_path, local_path)


def register(tls: str) -> None:
    """Make s3:// artifacts use the repository that fits how the gateway does TLS."""
    _artifact_repository_registry.register(
        "s3", ServerSideArtifactRepository if tls == "self-signed" else GatewayArtifactRepository
    )
