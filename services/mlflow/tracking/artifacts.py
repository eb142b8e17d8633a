"""Artifact bytes go between client, gateway and object store; this process only says where to.

The gateway gets the store's own signed URL of one object, in a header that no client sees:
- for a download, as the answer of the request itself (`get_local_path`, X-Accel-Redirect);
- for an upload, as the answer to the gateway's question before it takes the body (`find_place`);
- for a URL that MLflow's clients were given (`ClientUrls`), as the answer to the gateway's question about its token.
So any S3 store will do, whatever its name, and no client sees anything of it. What the gateway can't pass on because
its length is not said beforehand is streamed through here, to the store, without a file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import posixpath
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, BinaryIO

import boto3
import fastapi
import flask
import sqlalchemy
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session
from itsdangerous import BadSignature, URLSafeSerializer
from mlflow.entities import FileInfo
from mlflow.entities.presigned_download import PresignedDownloadUrlResponse
from mlflow.environment_variables import MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.server.handlers import _content_disposition_attachment
from mlflow.store.artifact.artifact_repo import ArtifactRepository, StreamUploadMixin
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository, _attachment_content_disposition
from mlflow.utils.mime_type_utils import _guess_mime_type
from werkzeug.exceptions import HTTPException

from tracking import hold

logger = logging.getLogger(__name__)
# What is streamed through here: two parts of 8 MiB in memory and two on their way. (boto3 holds ten and sends ten, for
# each upload: 170 MB.)
STREAMED = TransferConfig(max_concurrency=2)
STREAMED.max_in_memory_upload_chunks = 2
OBJECT_HEADER = "X-Stack-Object"
SEND_OBJECT = {"X-Accel-Redirect": "@object"}
CLIENT_PATH = "/signed/"
# How long the store takes the gateway's URL of an object, in seconds. The gateway begins at once, but it fetches a
# download piece by piece, as its client takes it.
STORE_SECONDS, STORE_DOWNLOAD_SECONDS = 60, 24 * 3600
# The URLs of an upload's parts are all made before the first is sent, and a large file on a slow line takes long. They
# make nothing visible: that takes a request with a login (mpu/complete).
PART_SECONDS = 3600
# After how long without an answer the store is taken for dead; boto3 waits a minute, and then once more.
READ_SECONDS = 15
# From which size on MLflow's clients fetch an object in pieces, bytes: it is more than one of their pieces then.
IN_PIECES = 100 * 1024 * 1024 + 1
METHODS = {"get_object": ("GET", "HEAD"), "put_object": ("PUT",), "upload_part": ("PUT",)}

is_head: ContextVar[bool] = ContextVar("is_head", default=False)


class TokenError(Exception):
    """A token that is not ours, has expired, or is for another method."""


@dataclass(frozen=True)
class ClientUrls:
    """URLs of one object and method for a short time, below the URL by which the client reached the gateway.

    A token holds what is to be done with which object until when, with an HMAC of it (itsdangerous).
    """

    serializer: URLSafeSerializer
    seconds: int

    def make(self, host_url: str, operation: str, parameters: dict[str, Any], seconds: int) -> str:
        """Return the URL for an operation of S3's.

        `host_url` is how the client came: the gateway has checked the host, and says by what scheme.
        """
        longest = PART_SECONDS if operation == "upload_part" else self.seconds
        until = int(time.time()) + min(seconds, longest)
        token = self.serializer.dumps([operation, parameters, until])
        return f"{host_url.rstrip('/')}{CLIENT_PATH}{token}"

    def read(self, token: str, method: str) -> tuple[str, dict[str, Any]]:
        """Return the operation and its parameters. Raises TokenError."""
        try:
            operation, parameters, until = self.serializer.loads(token)
        except BadSignature:
            raise TokenError("it is not signed by this server") from None
        if time.time() >= until:
            raise TokenError("its time is over")
        if method not in METHODS[operation]:
            raise TokenError(f"it is not for {method}")
        return operation, parameters


def sign(client: BaseClient, operation: str, parameters: dict[str, Any], method: str) -> str:
    """Return the store's signed URL for the gateway. S3 signs the method: HEAD is an operation of its own."""
    seconds = STORE_DOWNLOAD_SECONDS if operation == "get_object" else STORE_SECONDS
    if method == "HEAD":
        operation = "head_object"
    if operation == "put_object":
        parameters = describe_upload() | parameters
    url: str = client.generate_presigned_url(operation, Params=parameters, ExpiresIn=seconds)
    return url


def describe_upload() -> dict[str, str]:
    """Return what goes with every new object: how the store is to encrypt it (settings.describe_store)."""
    return S3ArtifactRepository.get_s3_file_upload_extra_args() or {}


class ClientSideSigner:
    """An S3 client whose signed URLs are for clients, while a request is being answered; else the inner client's."""

    def __init__(self, inner: BaseClient, urls: ClientUrls) -> None:
        self._inner = inner
        self._urls = urls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_multipart_upload(self, **parameters: Any) -> Any:
        """Begin an upload in parts; MLflow leaves out what goes with every object."""
        return self._inner.create_multipart_upload(**describe_upload(), **parameters)

    def generate_presigned_url(self, operation: str, Params: dict[str, Any], ExpiresIn: int = PART_SECONDS) -> str:  # noqa: N803
        """Return a URL below the URL by which the client reached the gateway."""
        return self._urls.make(flask.request.host_url, operation, Params, ExpiresIn)


class Reader:
    """A file to be read by a thread, of chunks that come on the event loop."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks: AsyncIterator[bytes] = aiter(chunks)
        self._loop = asyncio.get_running_loop()
        self._rest = bytearray()

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)  # (Starlette's last chunk is empty, others may be too)

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes or what is left, all for -1. Raises what the chunks raise, if the client goes away."""
        while (size < 0 or len(self._rest) < size) and (chunk := self._wait_for_chunk()) is not None:
            self._rest += chunk
        end = len(self._rest) if size < 0 else size
        read = bytes(self._rest[:end])
        del self._rest[:end]
        return read

    def _wait_for_chunk(self) -> bytes | None:
        return asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()


class Passing(StreamUploadMixin, ABC):
    """What an artifact repository of the server does so that bytes go past it."""

    artifact_uri: str
    removals: sqlalchemy.Engine  # by which a removal shows that it is at work

    @abstractmethod
    def _get_store(self) -> BaseClient:
        """Return a client of the store that signs for the gateway."""

    def _locate(self, *parts: str | None) -> dict[str, Any]:
        bucket, _, root = self.artifact_uri.removeprefix("s3://").partition("/")
        if any("\\" in part for part in parts if part):  # SeaweedFS would take it for /
            raise MlflowException("Invalid path: a name with a backslash is none here", INVALID_PARAMETER_VALUE)
        return {"Bucket": bucket, "Key": posixpath.join(root, *(part for part in parts if part))}

    def get_local_path(self, artifact_path: str) -> None:
        """End the request: the gateway sends the object. MLflow asks this before it fetches a file to be sent."""
        parameters = self._locate(artifact_path) | describe_download(artifact_path)
        answers_flask = flask.has_request_context()
        method = "HEAD" if is_head.get() else "GET"
        headers = {**SEND_OBJECT, OBJECT_HEADER: sign(self._get_store(), "get_object", parameters, method)}
        if answers_flask:
            raise HTTPException(response=flask.Response(headers=headers))
        raise fastapi.HTTPException(fastapi.status.HTTP_200_OK, headers=headers)

    def find_place(self, artifact_path: str) -> str:
        """Return the store's URL for an upload. Raises MlflowException for a name that can't be."""
        return sign(self._get_store(), "put_object", self._locate(artifact_path), "PUT")

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Store what comes, whose length is not known."""
        await asyncio.to_thread(self._upload, Reader(chunks), self._locate(artifact_path, artifact_file_name))

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Store what comes, whose length is not known."""
        self._upload(stream, self._locate(artifact_path, artifact_file_name))

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Remove what is stored at `artifact_path`. Raises MlflowException while a backup takes down what there is."""
        try:
            with hold.removing(self.removals):
                self._remove(artifact_path)
        except hold.HeldError:
            raise MlflowException(
                "a backup is being made: try again in a few seconds", TEMPORARILY_UNAVAILABLE
            ) from None

    @abstractmethod
    def _remove(self, artifact_path: str | None) -> None:
        """Remove what is stored at `artifact_path`."""

    def _upload(self, stream: Any, parameters: dict[str, Any]) -> None:
        kind = {"ContentType": _guess_mime_type(posixpath.basename(parameters["Key"])), **describe_upload()}
        try:
            self._get_store().upload_fileobj(stream, **parameters, ExtraArgs=kind, Config=STREAMED)
        except (BotoCoreError, Boto3Error, ClientError) as error:
            logger.warning("the object store took no file: %s", error)  # which names the store's own places
            raise MlflowException("the object store took no file: try again", TEMPORARILY_UNAVAILABLE) from error


class SigningRepository(Passing, S3ArtifactRepository):
    """MLflow's S3 repository, whose signed URLs lead clients to the gateway."""

    urls: ClientUrls

    def _get_store(self) -> BaseClient:
        return super()._get_s3_client()

    def _remove(self, artifact_path: str | None) -> None:
        S3ArtifactRepository.delete_artifacts(self, artifact_path)

    def _get_s3_client(self) -> Any:
        client = super()._get_s3_client()
        return ClientSideSigner(client, self.urls) if flask.has_request_context() else client

    def get_download_presigned_url(self, artifact_path: str, expiration: int = 300) -> PresignedDownloadUrlResponse:
        """Return where an object is. Raises MlflowException."""
        return tell_large(super().get_download_presigned_url(artifact_path, expiration))

    def find_download(self, artifact_path: str, host_url: str) -> PresignedDownloadUrlResponse:
        """Return the same without a Flask request. Raises MlflowException, BotoCoreError, ClientError."""
        place = self._locate(artifact_path)
        size = self._get_store().head_object(**place)["ContentLength"]
        named = {"ResponseContentDisposition": _attachment_content_disposition(posixpath.basename(artifact_path))}
        seconds = MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS.get()
        url = self.urls.make(host_url, "get_object", place | named, seconds)
        return tell_large(PresignedDownloadUrlResponse(url, {}, size))


class PlainRepository(Passing, ArtifactRepository):
    """The same without signed URLs for clients: all bytes come and go by the artifacts' own paths.

    For STACK_TLS=self-signed: MLflow's clients check the certificate behind a signed URL against their own list of
    authorities, whatever MLFLOW_TRACKING_SERVER_CERT_PATH says. They ask for signed URLs only if the repository of the
    server is of the kind that makes them.
    """

    def __init__(self, artifact_uri: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(artifact_uri, *args, **kwargs)
        self._inner = S3ArtifactRepository(artifact_uri, *args, **kwargs)

    def _get_store(self) -> BaseClient:
        return self._inner._get_s3_client()

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

    def _remove(self, artifact_path: str | None) -> None:
        self._inner.delete_artifacts(artifact_path)

    def upload_archived_trace_data_bytes(self, data: bytes) -> None:
        """Store an archived trace."""
        self._inner.upload_archived_trace_data_bytes(data)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._inner._download_file(remote_file_path, local_path)


def tell_large(found: PresignedDownloadUrlResponse) -> PresignedDownloadUrlResponse:
    """Return the same, with the size of a large object only.

    MLflow's client takes a size for a wish that it fetch the object in pieces, by many threads, which costs more than
    it brings as long as there are few pieces. Without one it asks for the whole by the artifact's own path.
    """
    is_large = found.file_size is not None and found.file_size >= IN_PIECES
    return found if is_large else dataclasses.replace(found, file_size=None)


def describe_download(path: str) -> dict[str, str]:
    """Return what the store is to say of a file: always a download, so that no page opens it as one of the server's."""
    name = posixpath.basename(path)
    return {
        "ResponseContentType": _guess_mime_type(name),
        "ResponseContentDisposition": _content_disposition_attachment(name),
    }


def describe_store_fault(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers of 503: the store can't be reached, which passes."""
    logger.warning("the object store does not answer: %s", error)
    fault = MlflowException("the object store does not answer: try again", TEMPORARILY_UNAVAILABLE)
    return fault.get_http_status_code(), json.loads(fault.serialize_as_json()), {}


def answer_store_fault(error: Exception) -> flask.Response:
    """Return the same to Flask."""
    status, body, headers = describe_store_fault(error)
    return flask.Response(json.dumps(body), status, headers, mimetype="application/json")


def register(app: flask.Flask, tls: str, urls: ClientUrls, database_uri: str) -> None:
    """Make s3:// artifacts use the repository that fits how the gateway does TLS."""
    Passing.removals = hold.open_engine(database_uri)
    session = get_session()
    session.set_default_client_config(Config(connect_timeout=3, read_timeout=READ_SECONDS))
    boto3.setup_default_session(botocore_session=session)
    SigningRepository.urls = urls
    repository = PlainRepository if tls == "self-signed" else SigningRepository
    _artifact_repository_registry.register("s3", repository)
    app.register_error_handler(BotoCoreError, answer_store_fault)
