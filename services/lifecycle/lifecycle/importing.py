"""What an archive holds, made again on a server by the caller's own login: with its ids, whole or not at all.

Everything is verified before the first change. An experiment has another name until all is in it; what fails is taken
back, and what a kill left behind is taken back by the next import of the same archive.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from lifecycle import archive
from lifecycle.exporting import EXPERIMENT, NO_SOURCES, find_model
from lifecycle.server import Server
from wine.errors import TrainerError

# Tags by which what came is known.
RUN, LOGGED_MODEL, STATE, SOURCE = "import.run_id", "import.model_id", "import.state", "import.from"
STATUS = "import.status"
PARENT, HISTORY, SOURCE_RUN = "mlflow.parentRunId", "mlflow.log-model.history", "mlflow.sourceRun"
RESERVED = "stack."  # what only this stack says of its own
MANY, FEW = 1000, 100  # values, params and tags that a request may have
UNFINISHED = " (unfinished "  # in the name of an experiment until it is whole

Tell = Callable[[str], None]


@dataclass
class Import:
    """An import that is under way.

    Attributes:
        server: where to.
        experiment: id of the experiment that is filled.
        runs: new id of each run.
        locations: where the artifacts of a run or logged model belong, by the former id.
        models: new id of each logged model.
        documents: of the logged models, by the former id.
        pending: the run whose values are still to come: some belong to logged models that come after it.
        parents: runs whose parent has not come yet, by the new id.
        traces: how many were sent.
    """

    server: Server
    experiment: str = ""
    runs: dict[str, str] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    pending: dict[str, Any] | None = None
    parents: dict[str, str] = field(default_factory=dict)
    files: int = 0
    traces: int = 0
    registered: dict[str, Any] | None = None

    def take(self, name: str, size: int, body: Any) -> None:
        """Make again what one entry holds. Raises TrainerError, MlflowException."""
        kind, _, rest = name.partition("/")
        if kind == "artifacts":
            _, identifier, path = rest.split("/", 2)
            self.server.write_file(self.locations[identifier], path, size, body)
            self.files += 1
            return
        document = archive.read_document(name, size, body)
        if kind == "experiment.json":
            for tag in document.get("tags", []):
                self.set_experiment_tag(tag["key"], tag["value"])
        elif kind == "model.json":
            self.registered = document
        elif kind == "runs":
            self.flush()
            self.make_run(document)
        elif kind == "models":
            self.make_logged_model(document)
        elif kind == "traces":
            self.copy_trace(document)

    def set_experiment_tag(self, key: str, value: str) -> None:
        """Set a tag of the experiment."""
        if not key.startswith(RESERVED):
            self.server.ask(
                "POST", "experiments/set-experiment-tag", experiment_id=self.experiment, key=key, value=value
            )

    def make_run(self, document: dict[str, Any]) -> None:
        """Make a run with params and tags; its values wait."""
        info, data = document["info"], document["data"]
        former = info["run_id"]
        asked = {
            "experiment_id": self.experiment,
            "start_time": info.get("start_time"),
            "run_name": info.get("run_name"),
        }
        made = self.server.ask("POST", "runs/create", **asked)["run"]["info"]
        new = self.runs[former] = made["run_id"]
        self.locations[former] = made["artifact_uri"]
        tags = {tag["key"]: tag["value"] for tag in data.get("tags", []) if not tag["key"].startswith(RESERVED)}
        if parent := tags.get(PARENT):
            if parent in self.runs:
                tags[PARENT] = self.runs[parent]
            else:
                self.parents[new] = parent
        if HISTORY in tags:
            tags[HISTORY] = tags[HISTORY].replace(former, new)
        tags[RUN] = former
        self.log(new, params=data.get("params", []), tags=[{"key": key, "value": value} for key, value in tags.items()])
        self.pending = document

    def log(self, run: str, **some: list[dict[str, Any]]) -> None:
        """Log values, params or tags, in as many requests as it takes."""
        for kind, entries in some.items():
            most = MANY if kind == "metrics" else FEW
            for begin in range(0, len(entries), most):
                self.server.ask("POST", "runs/log-batch", run_id=run, **{kind: entries[begin : begin + most]})

    def flush(self) -> None:
        """Give the pending run its values, inputs, outputs and its end."""
        if self.pending is None:
            return
        document, self.pending = self.pending, None
        info = document["info"]
        former = info["run_id"]
        new = self.runs[former]
        self.log(new, metrics=self.find_values(former, document["history"]))
        inputs, outputs = document.get("inputs", {}), document.get("outputs", {})
        models = [
            {**each, "model_id": self.models[each["model_id"]]}
            for each in inputs.get("model_inputs", [])
            if each.get("model_id") in self.models
        ]
        if datasets := inputs.get("dataset_inputs", []):
            self.server.ask("POST", "runs/log-inputs", run_id=new, datasets=datasets)
        if models:
            self.server.ask("POST", "runs/log-inputs", run_id=new, models=models)
        made = [
            {**each, "model_id": self.models[each["model_id"]]}
            for each in outputs.get("model_outputs", [])
            if each.get("model_id") in self.models
        ]
        if made:
            self.server.ask("POST", "runs/outputs", run_id=new, models=made)
        status, end = info.get("status", "FINISHED"), info.get("end_time")
        if status in ("RUNNING", "SCHEDULED"):  # nobody is going to end this copy
            self.log(new, tags=[{"key": STATUS, "value": status}])
            status, end = "KILLED", end or info.get("start_time")
        self.server.ask("POST", "runs/update", run_id=new, status=status, end_time=end)

    def find_values(self, run: str, history: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return the values of a run, those of logged models with the model's new id."""
        owned: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for former, document in self.documents.items():
            for metric in document.get("data", {}).get("metrics", []):
                if metric.get("run_id", run) == run:
                    place = (metric["key"], str(metric["timestamp"]), str(metric.get("step", 0)))
                    extra = {name: metric[name] for name in ("dataset_name", "dataset_digest") if metric.get(name)}
                    owned.setdefault(place, []).append({"model_id": self.models[former], **extra})
        found: list[dict[str, Any]] = []
        none: list[dict[str, Any]] = [{}]
        for key, values in history.items():
            for value in values:
                plain: dict[str, Any] = {
                    "key": key,
                    **{name: value[name] for name in ("value", "timestamp", "step") if name in value},
                }
                place = (key, str(value["timestamp"]), str(value.get("step", 0)))
                found += [{**plain, **each} for each in owned.get(place, none)]
        return found

    def make_logged_model(self, document: dict[str, Any]) -> None:
        """Make a logged model; its files follow."""
        info, data = document["info"], document.get("data", {})
        former = info["model_id"]
        tags = [tag for tag in info.get("tags", []) if not tag["key"].startswith(RESERVED)]
        asked = {
            "experiment_id": self.experiment,
            "name": info.get("name"),
            "model_type": info.get("model_type"),
            "source_run_id": self.runs.get(info.get("source_run_id", "")),
            "params": data.get("params", []),
            "tags": [*tags, {"key": LOGGED_MODEL, "value": former}],
        }
        made = self.server.ask("POST", "logged-models", **{key: value for key, value in asked.items() if value})
        made_info = made["model"]["info"]
        self.models[former] = made_info["model_id"]
        self.locations[former] = made_info["artifact_uri"]
        self.documents[former] = document

    def copy_trace(self, document: dict[str, Any]) -> None:
        """Copy a trace by MLflow's own way."""
        from mlflow.tracing.utils.copy import copy_trace_to_experiment

        self.flush()
        metadata = document.get("info", {}).get("trace_metadata", {})
        if (run := metadata.get(SOURCE_RUN)) in self.runs:
            metadata[SOURCE_RUN] = self.runs[run]
        copy_trace_to_experiment(document, self.experiment)
        self.traces += 1

    def end(self) -> None:
        """Finish what had to wait for all the rest. Raises TrainerError."""
        self.flush()
        for new, parent in self.parents.items():
            if parent in self.runs:
                self.log(new, tags=[{"key": PARENT, "value": self.runs[parent]}])
        for former, new in self.models.items():
            status = self.documents[former]["info"].get("status")
            if status not in (None, "LOGGED_MODEL_PENDING"):
                self.server.ask("PATCH", f"logged-models/{new}", model_id=new, status=status)
        if self.traces:
            mlflow.flush_trace_async_logging()
            there = len(self.server.client.search_traces(locations=[self.experiment], max_results=500))
            if there < min(self.traces, 500):
                raise TrainerError(f"{self.traces} traces were sent, {there} are there: try again")

    def find_source(self, version: dict[str, Any]) -> dict[str, str]:
        """Return where a version comes from, here, and what has to be told with it. Raises TrainerError."""
        source: str = version.get("source", "")
        parts = source.split("/")
        run = self.runs.get(version.get("run_id", ""), "")
        models = [self.models[part] for part in (find_model(version), *parts) if part in self.models]
        if models:
            return {"source": f"models:/{models[0]}", "model_id": models[0], "run_id": run}
        for index, part in enumerate(parts):
            if part in self.runs:
                rest = parts[index + 1 :]
                path = "/".join(rest[1:] if rest[:1] == ["artifacts"] else rest)
                return {"source": f"runs:/{self.runs[part]}/{path}", "run_id": run or self.runs[part]}
        if source in NO_SOURCES:
            return {"source": source}
        raise TrainerError(
            f"version {version['version']} comes from {source!r}, which is not in the archive: export it again"
        )

    def register(self, name: str, digest: str, tell: Tell) -> None:
        """Make the registered model with its versions. Raises TrainerError, MlflowException."""
        model = self.registered or {}
        tags = [tag for tag in model.get("tags", []) if not tag["key"].startswith(RESERVED)]
        tags += [{"key": STATE, "value": f"unfinished {digest}"}, {"key": SOURCE, "value": model.get("name", "")}]
        self.server.ask("POST", "registered-models/create", name=name, description=model.get("description"), tags=tags)
        following = 1
        for version in model.get("versions", []):
            source = {key: value for key, value in self.find_source(version).items() if value}
            while following < int(version["version"]):  # (one that was deleted: the others keep their numbers)
                made = self.server.ask("POST", "model-versions/create", name=name, **source)["model_version"]
                self.server.ask("DELETE", "model-versions/delete", name=name, version=made["version"])
                following += 1
            kept = [tag for tag in version.get("tags", []) if not tag["key"].startswith(RESERVED)]
            described = {"description": version["description"]} if version.get("description") else {}
            self.server.ask("POST", "model-versions/create", name=name, tags=kept, **source, **described)
            following += 1
        self.place(name, model, tell)

    def place(self, name: str, model: dict[str, Any], tell: Tell) -> None:
        """Give versions their stages and aliases, as far as this login may."""
        for version in model.get("versions", []):
            stage = version.get("current_stage", "None")
            if stage != "None":
                asked = {
                    "name": name,
                    "version": version["version"],
                    "stage": stage,
                    "archive_existing_versions": False,
                }
                without = f"version {version['version']} is not in {stage}"
                self.attempt(tell, without, "model-versions/transition-stage", asked)
        for alias in model.get("aliases", []):
            asked = {"name": name, "alias": alias["alias"], "version": alias["version"]}
            self.attempt(tell, f"alias {alias['alias']} is not set", "registered-models/alias", asked)

    def attempt(self, tell: Tell, without: str, path: str, asked: dict[str, Any]) -> None:
        """Do what only some may (Production is a promoter's); say it if this login may not."""
        try:
            self.server.ask("POST", path, **asked)
        except MlflowException as error:
            if error.get_http_status_code() not in (400, 403):
                raise
            tell(f"note: {without}: {str(error).splitlines()[0]}")


def import_archive(server: Server, path: Path, new_name: str | None, tell: Tell) -> None:
    """Verify an archive and make again what is in it. Raises TrainerError, MlflowException."""
    head = archive.verify(path)
    kind, name, digest = head["kind"], new_name or head["name"], head["digest"]
    take_back_unfinished(server, digest)
    is_model = kind != EXPERIMENT
    experiment = f"{name} (imported)" if is_model else name
    if is_model and server.find("registered-models/get", name=name):
        raise TrainerError(f"there is a registered model {name!r} already: choose another by --name")
    if found := server.find("experiments/get-by-name", experiment_name=experiment):
        gone = " (deleted)" if found["experiment"].get("lifecycle_stage") == "deleted" else ""
        raise TrainerError(f"there is an experiment {experiment!r}{gone} already: choose another by --name")
    tell(f"{path.name} is whole: {kind} {head['name']!r} of MLflow {head['mlflow']}, made {head['made'][:19]}Z")
    work = Import(server)
    registered = False
    temporary = f"{experiment}{UNFINISHED}{secrets.token_hex(4)})"
    tags = [{"key": STATE, "value": f"unfinished {digest}"}, {"key": SOURCE, "value": head["name"]}]
    work.experiment = server.ask("POST", "experiments/create", name=temporary, tags=tags)["experiment_id"]
    try:
        for entry, size, body in archive.read_entries(path):
            if entry not in (archive.FIRST, archive.MANIFEST):
                work.take(entry, size, body)
        work.end()
        if is_model:
            registered = True
            work.register(name, digest, tell)
        server.ask("POST", "experiments/update", experiment_id=work.experiment, new_name=experiment)
        work.set_experiment_tag(STATE, "done")
        if is_model:
            server.ask("POST", "registered-models/set-tag", name=name, key=STATE, value="done")
    except BaseException:
        tell("note: taking back what was made so far")
        if registered:
            take_back(server, "DELETE", "registered-models/delete", name=name)
        take_back(server, "POST", "experiments/delete", experiment_id=work.experiment)
        raise
    tell(
        f"Imported {kind} {name!r}: {len(work.runs)} runs, {len(work.models)} logged models, {work.files} artifacts, "
        f"{work.traces} traces" + (f", into experiment {experiment!r}" if is_model else "")
    )


def take_back(server: Server, method: str, path: str, **values: Any) -> None:
    """Remove what was made, as far as the server lets us."""
    try:
        server.ask(method, path, **values)
    except MlflowException:
        return


def take_back_unfinished(server: Server, digest: str) -> None:
    """Remove what an import of this archive left behind when it was killed."""
    condition = f"tags.`{STATE}` = 'unfinished {digest}'"
    found = server.list("POST", "experiments/search", "experiments", filter=condition, max_results=100)
    # (one that has its name already is whole, and somebody may have gone on with it)
    if not (left := [each["experiment_id"] for each in found if UNFINISHED in each["name"]]):
        return
    for each in list(server.list("GET", "registered-models/search", "registered_models", filter=condition)):
        take_back(server, "DELETE", "registered-models/delete", name=each["name"])
    for identifier in left:
        take_back(server, "POST", "experiments/delete", experiment_id=identifier)
