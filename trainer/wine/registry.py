"""The registered model: its versions, which of them is in production, and why."""

import warnings
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from wine.names import MODEL

ALIAS = "production"

# On the registered model from the first bootstrap's first step to its last: tells its remains from a user's work.
_UNFINISHED = "bootstrap.unfinished"


@dataclass(frozen=True)
class Candidate:
    """A registered version and the error of its run, in the target's unit."""

    version: str
    rmse: float


def register(client: MlflowClient, model_uri: str, name: str = MODEL, tags: dict[str, str] | None = None) -> str:
    """Register a logged model and return the new version's number."""
    _create_model(client, name)
    identifier = model_uri.rpartition("/")[2]
    return str(client.create_model_version(name, model_uri, model_id=identifier, tags=tags).version)


def find_model(client: MlflowClient) -> RegisteredModel | None:
    """Return the registered model, if there is one that this account may see."""
    # A search, since asking for a name that isn't there may be answered by 403.
    return next(iter(client.search_registered_models(f"name = '{MODEL}'")), None)


def list_versions(client: MlflowClient) -> list[ModelVersion]:
    """Return all versions of the registered model."""
    return list(client.search_model_versions(f"name = '{MODEL}'"))


def find_production(model: RegisteredModel) -> str | None:
    """Return the version that the alias names, or else the newest in stage Production."""
    staged = (found.version for found in model.latest_versions if found.current_stage == "Production")
    version = model.aliases.get(ALIAS) or next(staged, None)
    return None if version is None else str(version)


def explain_settled(client: MlflowClient) -> str | None:
    """Say why a bootstrap has nothing to do; None when it has."""
    model = find_model(client)
    if model is None or _UNFINISHED in model.tags:
        return None
    if production := find_production(model):
        return f"version {production} is in Production"
    count = len(list_versions(client))
    return f"{count} versions, none in Production: choose one in the UI" if count > 1 else None


def open_bootstrap(client: MlflowClient) -> None:
    """Mark the registered model as unfinished, creating it when missing."""
    _create_model(client)
    client.set_registered_model_tag(MODEL, _UNFINISHED, "true")


def find_candidate(client: MlflowClient, params: dict[str, float], digest: str) -> Candidate | None:
    """Return a version whose run finished with these params on the data of this digest."""
    wanted = ("FINISHED", {key: str(value) for key, value in params.items()}, [digest])
    for version in list_versions(client):
        run = find_run(client, version)
        if run and wanted == (run.info.status, run.data.params, _list_digests(run)) and "rmse" in run.data.metrics:
            return Candidate(str(version.version), run.data.metrics["rmse"])
    return None


def promote_better(client: MlflowClient, candidates: list[Candidate]) -> str:
    """Put the candidate of the smallest rmse in Production, archive the others, and end the bootstrap.

    A version that somebody else has put in production meanwhile stays there. Returns the version in production.
    """
    better, *others = sorted(candidates, key=lambda candidate: candidate.rmse)
    model = find_model(client)
    production = (model and find_production(model)) or better.version
    if production in {candidate.version for candidate in candidates}:
        production = better.version
        client.set_registered_model_alias(MODEL, ALIAS, production)
        _move_stage(client, production, "Production")
        for other in others:
            _move_stage(client, other.version, "Archived")
    client.delete_registered_model_tag(MODEL, _UNFINISHED)
    return production


def _create_model(client: MlflowClient, name: str = MODEL) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def find_run(client: MlflowClient, version: ModelVersion) -> Run | None:
    """Return the run of a version, None if it has none that this account may see: purged, or another user's."""
    if not version.run_id:
        return None
    try:
        return client.get_run(version.run_id)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"}:
            raise
        return None


def _list_digests(run: Run) -> list[str]:
    return [used.dataset.digest for used in run.inputs.dataset_inputs]


def _move_stage(client: MlflowClient, version: str, stage: str) -> None:
    with warnings.catch_warnings():
        # Stages are deprecated upstream, and `models:/<name>/Production` is still what readers of the article load.
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(MODEL, version, stage)
