"""An experiment, or a registered model with the runs that its versions come from, into an archive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

import mlflow

from lifecycle import archive
from lifecycle.archive import Writer
from lifecycle.server import PAGE, Server
from wine.errors import TrainerError

HISTORY = 25_000  # values of a metric for each question
EXPERIMENT, MODEL = "experiment", "model"
COPY = re.compile(r"models:/([^/]+)/([0-9]+)")  # the source of a version that was copied from another
NO_SOURCES = ("dummy-source", "prompt-template")  # what prompts have

Tell = Callable[[str], None]


def find_kind(server: Server, name: str, kind: str | None) -> tuple[str, dict[str, Any]]:
    """Return what bears a name, and which of the two it is. Raises TrainerError."""
    experiment = server.find("experiments/get-by-name", experiment_name=name) if kind != MODEL else None
    model = server.find("registered-models/get", name=name) if kind != EXPERIMENT else None
    if experiment and experiment["experiment"].get("lifecycle_stage") == "deleted":
        experiment = None
    if experiment and model:
        raise TrainerError(f"{name!r} is an experiment and a model: say --kind experiment or --kind model")
    if experiment:
        return EXPERIMENT, experiment["experiment"]
    if model:
        return MODEL, model["registered_model"]
    raise TrainerError(f"{name!r} is neither an experiment nor a registered model that this login sees: check the name")


def export(server: Server, name: str, kind: str | None, target: BinaryIO, tell: Tell) -> None:
    """Write an archive. Raises TrainerError, MlflowException."""
    kind, found = find_kind(server, name, kind)
    head = {"kind": kind, "name": name, "mlflow": mlflow.__version__, "made": datetime.now(UTC).isoformat()}
    with archive.writing(target, head) as writer:
        runs = (export_experiment if kind == EXPERIMENT else export_model)(server, writer, found)
        entries = len(writer.entries)
    tell(f"Exported {kind} {name!r}: {runs} runs, {entries} entries, each with its SHA-256")


def export_experiment(server: Server, writer: Writer, experiment: dict[str, Any]) -> int:
    """Write an experiment; return how many runs it has."""
    writer.add_document("experiment.json", experiment)
    identifier = experiment["experiment_id"]
    asked = {"experiment_ids": [identifier], "run_view_type": "ACTIVE_ONLY", "max_results": PAGE}
    order = ["attributes.start_time ASC"]
    models: dict[str | None, list[dict[str, Any]]] = {}
    for model in server.list("POST", "logged-models/search", "models", experiment_ids=[identifier]):
        models.setdefault(model["info"].get("source_run_id"), []).append(model)
    count = 0
    for run in server.list("POST", "runs/search", "runs", order_by=order, **asked):
        count += 1
        export_run(server, writer, run)
        for model in models.pop(run["info"]["run_id"], []):
            export_logged_model(server, writer, model)
    for some in models.values():
        for model in some:
            export_logged_model(server, writer, model)
    for trace in find_traces(server, identifier):
        document = trace.to_dict()
        writer.add_document(f"traces/{trace.info.trace_id}.json", document)
    return count


def export_run(server: Server, writer: Writer, run: dict[str, Any]) -> None:
    """Write a run: what the server says of it, the history of its metrics, its artifacts."""
    identifier = run["info"]["run_id"]
    history = {
        metric["key"]: list(
            server.list(
                "GET",
                "metrics/get-history",
                "metrics",
                run_id=identifier,
                metric_key=metric["key"],
                max_results=HISTORY,
            )
        )
        for metric in run["data"].get("metrics", [])
    }
    writer.add_document(f"runs/{identifier}.json", {**run, "history": history})
    export_files(server, writer, run["info"]["artifact_uri"], f"artifacts/runs/{identifier}")


def export_logged_model(server: Server, writer: Writer, model: dict[str, Any]) -> None:
    """Write a logged model and its files."""
    identifier = model["info"]["model_id"]
    writer.add_document(f"models/{identifier}.json", model)
    export_files(server, writer, model["info"]["artifact_uri"], f"artifacts/models/{identifier}")


def export_files(server: Server, writer: Writer, location: str, folder: str) -> None:
    """Write all files below a location."""
    for path, _ in server.list_files(location):
        size, body = server.open_file(location, path)
        writer.add(f"{folder}/{path}", size, body)


def find_traces(server: Server, experiment: str) -> Iterator[Any]:
    """Yield the traces of an experiment, the oldest first."""
    token = None
    while True:
        page = server.client.search_traces(
            locations=[experiment], order_by=["timestamp_ms ASC"], max_results=100, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def export_model(server: Server, writer: Writer, model: dict[str, Any]) -> int:
    """Write a registered model with the runs and logged models that its versions come from; return how many runs."""
    versions = [follow_copies(server, version) for version in find_versions(server, model["name"])]
    logged: dict[str, dict[str, Any]] = {}
    for identifier in filter(None, map(find_model, versions)):
        if found := server.find(f"logged-models/{identifier}"):
            logged[identifier] = found["model"]
    named = [*(each.get("run_id") for each in versions), *(m["info"].get("source_run_id") for m in logged.values())]
    # (not those that were removed for good)
    asked = {each: server.find("runs/get", run_id=each) for each in filter(None, dict.fromkeys(named))}
    runs = {identifier: answer["run"] for identifier, answer in asked.items() if answer}
    for version in versions:
        source = version.get("source", "")
        if not (find_model(version) in logged or source in NO_SOURCES or runs.keys() & set(source.split("/"))):
            raise TrainerError(
                f"version {version['version']} comes from {source!r}, which can't be carried: it is no artifact of a "
                "run or logged model that this MLflow has: delete that version, or log the model again"
            )
    writer.add_document("model.json", {**model, "versions": versions})
    for identifier, run in runs.items():
        export_run(server, writer, run)
        for each in [each for each in logged.values() if each["info"].get("source_run_id") == identifier]:
            export_logged_model(server, writer, logged.pop(each["info"]["model_id"]))
    for each in logged.values():
        export_logged_model(server, writer, each)
    return len(runs)


def follow_copies(server: Server, version: dict[str, Any]) -> dict[str, Any]:
    """Return a version with the source of that which it was copied from (`copy_model_version` names no more)."""
    origin, seen = version, set()
    while (copied := COPY.fullmatch(origin.get("source", ""))) and copied[0] not in seen:
        seen.add(copied[0])
        found = server.find("model-versions/get", name=copied[1], version=copied[2])
        if found is None:
            break
        origin = found["model_version"]
    return {**version, **{key: origin[key] for key in ("source", "model_id", "run_id") if origin.get(key)}}


def find_versions(server: Server, name: str) -> list[dict[str, Any]]:
    """Return the versions of a registered model, the first one first."""
    quote = '"' if "'" in name else "'"
    asked = {"filter": f"name = {quote}{name}{quote}", "max_results": 200}
    versions = list(server.list("GET", "model-versions/search", "model_versions", **asked))
    return sorted((each for each in versions if each["name"] == name), key=lambda each: int(each["version"]))


def find_model(version: dict[str, Any]) -> str | None:
    """Return the logged model that a version comes from."""
    return version.get("model_id") or read_model_id(version.get("source", ""))


def read_model_id(source: str) -> str | None:
    """Return the logged model that a version's source names."""
    rest = source.removeprefix("models:/")
    return rest if source.startswith("models:/m-") and "/" not in rest else None
