"""Registered models and their versions: found by what a user writes, and moved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from lifecycle.refusals import Refused
from wine.errors import TrainerError

ALIAS = "production"
STAGES = {"production": "Production", "staging": "Staging", "archived": "Archived"}
NOBODY = "none"
# (services/mlflow/tracking/production.py gives these their meaning)
HISTORY = "stack.production"
CHAMPION_HEADER, ROLLBACK_HEADER = "X-Stack-Champion", "X-Stack-Rollback"
ALIAS_PATH = "/api/2.0/mlflow/registered-models/alias"


@dataclass(frozen=True)
class Registered:
    """A registered model as it is now."""

    name: str
    aliases: dict[str, int]
    history: list[int]
    """The versions that were in Production, the last one last."""
    versions: dict[int, Any]
    """MLflow's ModelVersion of each."""

    def find(self, version: int) -> Any:
        """Return a version. Raises TrainerError."""
        if version not in self.versions:
            known = ", ".join(map(str, sorted(self.versions))) or "none"
            raise TrainerError(f"{self.name} has no version {version}: it has {known}")
        return self.versions[version]

    def find_staged(self, stage: str) -> int | None:
        """Return the newest version in a stage."""
        return max((n for n, found in self.versions.items() if found.current_stage == stage), default=None)

    @property
    def champion(self) -> int | None:
        """The version in Production."""
        return self.aliases.get(ALIAS) or self.find_staged("Production")


def read_model(client: MlflowClient, name: str) -> Registered:
    """Return a registered model with its versions. Raises TrainerError if there is none of that name."""
    quote = '"' if "'" in name else "'"
    # A search, since asking for a name that isn't there may be answered by 403.
    model = next(iter(client.search_registered_models(f"name = {quote}{name}{quote}")), None)
    if model is None:
        raise TrainerError(f"there is no registered model {name!r} that this account may see: check the name")
    return Registered(
        name=name,
        aliases={alias: int(version) for alias, version in model.aliases.items()},
        history=[int(part) for part in model.tags.get(HISTORY, "").split(",") if part],
        versions={int(v.version): v for v in client.search_model_versions(f"name = {quote}{name}{quote}")},
    )


def find_version(client: MlflowClient, reference: str) -> tuple[Registered, int]:
    """Return the model and version of `NAME@alias`, `NAME/3`, `NAME/Production`, the same after `models:/`, or `NAME`.

    Raises:
        TrainerError: There is no such version.
    """
    text = reference.removeprefix("models:/")
    if match := re.fullmatch(r"(?P<name>[^@]+)@(?P<alias>[^@/]+)", text):
        model, alias = read_model(client, match["name"]), match["alias"]
        if alias not in model.aliases:
            known = ", ".join(sorted(model.aliases)) or "none"
            raise TrainerError(f"{model.name} has no alias {alias!r}: it has {known}")
        model.find(model.aliases[alias])
        return model, model.aliases[alias]
    name, slash, rest = text.partition("/")
    model = read_model(client, name)
    if not slash:
        rest = "Production"
    if rest.isascii() and rest.isdigit():
        model.find(int(rest))
        return model, int(rest)
    if rest.lower() not in STAGES:
        raise TrainerError(f"{reference!r} names no version: write NAME@alias, NAME/3 or NAME/Production")
    stage = STAGES[rest.lower()]
    version = model.champion if stage == STAGES[ALIAS] else model.find_staged(stage)
    if version is None:
        raise TrainerError(f"{name} has no version in {stage}: promote one, or name a version as {name}/3")
    model.find(version)
    return model, version


def move_production(name: str, version: int, champion: int | None, *, is_rollback: bool = False) -> None:
    """Put a version in Production: the alias by this request, stage, tags and history by the server within it.

    Raises:
        Refused: Another version than `champion` is there by now.
    """
    headers = {CHAMPION_HEADER: NOBODY if champion is None else str(champion)}
    if is_rollback:
        headers[ROLLBACK_HEADER] = "yes"
    response = http_request(
        get_default_host_creds(mlflow.get_tracking_uri()),
        ALIAS_PATH,
        "POST",
        extra_headers=headers,
        json={"name": name, "alias": ALIAS, "version": str(version)},
    )
    if response.status_code == HTTPStatus.CONFLICT:
        raise Refused("champion", response.json()["message"])
    verify_rest_response(response, ALIAS_PATH)
