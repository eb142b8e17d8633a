"""Where an upload goes: the gateway asks for every file, and is told by MLflow's rights, without its layers."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field

from cachetools import TTLCache
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.server.handlers import _get_artifact_repo_mlflow_artifacts
from mlflow.utils.uri import validate_path_is_safe
from starlette.requests import Request
from starlette.types import Scope

from tracking.artifacts import Passing
from tracking.identity import Account

ROUTE = "/mlflow-artifacts/artifacts/"
METHOD = "PUT"
# For how long a right that MLflow granted is believed: a run's files come one after the other.
SECONDS = 2
# Of a path, what MLflow's rights depend on: experiment, run (or kind and model), "artifacts".
PLACE_PARTS = 4


@dataclass
class Uploads:
    """What one worker answers; used by its event loop.

    Attributes:
        granted: places that a user was granted lately, (user name, place).
    """

    granted: TTLCache[tuple[str, str], bool] = field(default_factory=lambda: TTLCache(10_000, SECONDS))

    async def find_place(self, scope: Scope, name: str, account: Account) -> str | None:
        """Return the store's URL for an upload; None if there is more to say than that, which MLflow then says."""
        path = scope["path"]
        if MLFLOW_ENABLE_WORKSPACES.get() or not auth._is_native_fastapi_proxy_artifact_path(path, METHOD):
            return None
        try:
            if not (account.is_admin or await self.is_granted(scope, name)):
                return None
            artifact_path = validate_path_is_safe(path.partition(ROUTE)[2])
            repository = _get_artifact_repo_mlflow_artifacts()
            if not posixpath.basename(artifact_path) or not isinstance(repository, Passing):
                return None
            return repository.find_place(artifact_path)
        except MlflowException:
            return None

    async def is_granted(self, scope: Scope, name: str) -> bool:
        """Ask MLflow's own check of this route, seldom twice for one place. Raises MlflowException."""
        place = "/".join(scope["path"].partition(ROUTE)[2].split("/")[:PLACE_PARTS])
        if (name, place) not in self.granted:
            validate = auth._get_fastapi_proxy_artifact_validator(scope["path"], METHOD)
            if not await validate(name, Request(scope)):
                return False
            self.granted[name, place] = True
        return True
