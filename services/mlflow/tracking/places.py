"""Where an upload goes and a download is: asked for every file, and answered by MLflow's rights, without its layers.

The gateway asks before each upload, MLflow's clients before each download.
"""

from __future__ import annotations

import asyncio
import posixpath
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from cachetools import TTLCache
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.server.handlers import _get_artifact_repo_mlflow_artifacts
from mlflow.utils.uri import validate_path_is_safe
from starlette.requests import Request
from starlette.types import Scope

from tracking.artifacts import Passing, SigningRepository
from tracking.identity import Account

ROUTE = "/mlflow-artifacts/artifacts/"
SIGNED_ROUTES = ("/api/2.0/mlflow-artifacts/presigned/", "/ajax-api/2.0/mlflow-artifacts/presigned/")
# For how long a right that MLflow granted is believed: a run's files come one after the other.
SECONDS = 2
# Of a path, what MLflow's rights depend on: experiment, run (or kind and model), "artifacts".
PLACE_PARTS = 4


@dataclass
class Places:
    """What one worker answers; used by its event loop.

    Attributes:
        granted: places that a user was granted lately, (user name, method, place).
    """

    granted: TTLCache[tuple[str, str, str], bool] = field(default_factory=lambda: TTLCache(10_000, SECONDS))

    async def find_place(self, scope: Scope, name: str, account: Account) -> str | None:
        """Return the store's URL for an upload; None if there is more to say than that, which MLflow then says."""
        path = scope["path"]
        if MLFLOW_ENABLE_WORKSPACES.get() or not auth._is_native_fastapi_proxy_artifact_path(path, "PUT"):
            return None
        try:
            if not (account.is_admin or await self.is_granted(scope, name, "PUT")):
                return None
            artifact_path = validate_path_is_safe(path.partition(ROUTE)[2])
            repository = _get_artifact_repo_mlflow_artifacts()
            if not posixpath.basename(artifact_path) or not isinstance(repository, Passing):
                return None
            return repository.find_place(artifact_path)
        except MlflowException:
            return None

    async def find_download(self, scope: Scope, name: str, account: Account) -> dict[str, Any] | None:
        """Return what MLflow's client is told of a file; None if there is more to say than that.

        Raises BotoCoreError if the store does not answer.
        """
        route = next((route for route in SIGNED_ROUTES if scope["path"].startswith(route)), None)
        if route is None or scope["method"] != "GET" or scope["query_string"] or MLFLOW_ENABLE_WORKSPACES.get():
            return None
        # The right is that of a plain download.
        plain = {**scope, "path": scope["path"].replace("/presigned/", "/artifacts/", 1)}
        try:
            if not (account.is_admin or await self.is_granted(plain, name, "GET")):
                return None
            artifact_path = validate_path_is_safe(scope["path"].removeprefix(route))
            repository = _get_artifact_repo_mlflow_artifacts()
            if not artifact_path.isprintable() or not isinstance(repository, SigningRepository):
                return None
            host_url = str(Request(scope).base_url)
            found = await asyncio.to_thread(repository.find_download, artifact_path, host_url)
        except (MlflowException, ClientError):
            return None
        return dict(found.to_dict())

    async def is_granted(self, scope: Scope, name: str, method: str) -> bool:
        """Ask MLflow's own check of this route, seldom twice for one place. Raises MlflowException."""
        place = "/".join(scope["path"].partition(ROUTE)[2].split("/")[:PLACE_PARTS])
        if (name, method, place) not in self.granted:
            validate = auth._get_fastapi_proxy_artifact_validator(scope["path"], method)
            if not await validate(name, Request(scope)):
                return False
            self.granted[name, method, place] = True
        return True
