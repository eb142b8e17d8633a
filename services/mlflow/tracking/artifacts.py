"""Signed artifact URLs that work from where the client is.

MLflow signs S3 URLs with the endpoint by which the server itself reaches the store, a name that exists only between
the containers. Here they are signed for the host and port that the client used: the gateway passes requests for the
bucket's path on with their Host unchanged, and the store checks the signature. No client needs a key or a second port.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import flask
from botocore.client import BaseClient
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository, _get_s3_client

PUBLIC_URL = "STACK_PUBLIC_URL"
# A signed URL outlives its user's account: so it is short-lived, whatever a client asks for (in seconds). The URLs of
# an upload's parts are all signed before the first is sent, and a large file on a slow line takes long.
MAX_SECONDS = 300
MAX_SECONDS_PART = 3600


def find_base() -> str:
    """Return the URL by which the client reached the gateway; a proxy that ends TLS in front is known by its name."""
    public: str = flask.current_app.config.get(PUBLIC_URL, "")
    if public and flask.request.host == urlsplit(public).netloc:
        return public
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
        # MLflow has checked the Host header against its list of allowed hosts by now.
        url: str = _get_s3_client(s3_endpoint_url=find_base()).generate_presigned_url(operation, **kwargs)
        return url


class GatewayArtifactRepository(S3ArtifactRepository):
    """MLflow's S3 repository, with URLs signed for the gateway while a request is being answered."""

    def _get_s3_client(self) -> Any:
        client = super()._get_s3_client()
        return ClientSideSigner(client) if flask.has_request_context() else client


def register(public_url: str) -> None:
    """Make s3:// artifacts use this repository."""
    from mlflow.server import app

    app.config[PUBLIC_URL] = public_url
    _artifact_repository_registry.register("s3", GatewayArtifactRepository)
