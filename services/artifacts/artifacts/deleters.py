"""Who deleted something, by the gateway's audit log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from admin import audit
from admin.faults import FaultError
from artifacts.deletions import Deletion
from artifacts.trash import ALIASES, EXPERIMENTS, LOGGED_MODELS, MODEL_TAGS, MODELS, RUNS, VERSION_TAGS, VERSIONS, Entry

LOG = Path("/var/log/stack")  # docker-compose.yml mounts it
# The log says when a request ended, in whole seconds; its rows went before that.
BEFORE, AFTER = timedelta(seconds=1), timedelta(minutes=5)
# By which requests rows go, and which of their targets are which columns.
ACTIONS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    EXPERIMENTS: (("experiments/delete",), {"experiment_id": "experiment_id"}),
    RUNS: (("runs/delete",), {"run_id": "run_uuid"}),
    LOGGED_MODELS: (("logged-models/",), {"model_id": "model_id"}),
    MODELS: (("registered-models/delete",), {"name": "name"}),
    VERSIONS: (("model-versions/delete",), {"name": "name", "version": "version"}),
    # (to move what is in production to another stage takes its alias away)
    ALIASES: (("registered-models/alias", "model-versions/transition-stage"), {"name": "name"}),
    MODEL_TAGS: (("registered-models/delete-tag",), {"name": "name", "key": "key"}),
    VERSION_TAGS: (("model-versions/delete-tag",), {"name": "name", "version": "version", "key": "key"}),
}
SUCCESS = "2"  # what such statuses begin with
ARTIFACTS = "mlflow-artifacts/artifacts/"
# What a line has that may be about a deletion: most are not, and to parse them all would take long.
WORDS = ('"DELETE"', "/delete", "transition-stage")


@dataclass(frozen=True)
class Line:
    """A request that may have deleted something."""

    moment: datetime
    user: str
    action: str
    targets: dict[str, Any]


def read_lines(since: datetime, folder: Path = LOG) -> Iterator[Line]:
    """Yield the requests since a moment that succeeded and may have deleted something, the oldest first."""
    for file in audit.find_files(folder, since):
        try:
            with file.open(errors="replace", newline="\n") as lines:
                while line := lines.readline(audit.MAX_LINE):
                    if not any(word in line for word in WORDS) or (entry := audit.read_entry(line)) is None:
                        continue
                    if entry["moment"] >= since and str(entry.get("status")).startswith(SUCCESS):
                        targets = audit.read_targets(entry.get("targets"))
                        yield Line(entry["moment"], str(entry.get("user")), str(entry.get("action")), targets)
        except OSError as error:
            raise FaultError(
                f"{file}: {error.strerror}: the gateway's user should have made it readable for all"
            ) from None


class Deleters:
    """The requests that may have deleted something."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines

    def _find(self, moment: datetime, actions: tuple[str, ...]) -> Iterator[Line]:
        for line in self.lines:
            if moment - BEFORE <= line.moment <= moment + AFTER and line.action.startswith(actions):
                yield line

    def find_of_rows(self, entry: Entry) -> str | None:
        """Return who deleted rows, None if the log doesn't say."""
        actions, targets = ACTIONS[entry.relation]
        row = entry.rows[0]
        for line in self._find(entry.time, actions):
            if all(str(line.targets.get(target)) == str(row[column])[:200] for target, column in targets.items()):
                if entry.relation == ALIASES and line.targets.get("alias") not in (None, row["alias"]):
                    continue
                return line.user
        return None

    def find_of_artifacts(self, deletion: Deletion) -> str | None:
        """Return who deleted artifacts, None if the log doesn't say."""
        key = deletion.gone[0].marker.key
        for line in self._find(deletion.time, (ARTIFACTS,)):
            path = unquote(line.action.removeprefix(ARTIFACTS)).strip("/")
            if key == path or key.startswith(f"{path}/"):
                return line.user
        return None
