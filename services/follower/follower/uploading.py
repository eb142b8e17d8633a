"""Takes the files of the log of predictions to MLflow: artifacts of a run a model and day.

What a file holds is not looked at: a model's process wrote it, which may have run code of its own. Nothing but a
regular file of that folder is sent, so that no link makes this process give away what it alone can read.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from follower.registry import API, ARTIFACTS, SCHEME, AwayError, Registry
from serving import batches
from serving.batches import Batch

PAUSE, RETRY_SECONDS = 2.0, 15.0


class UploadError(Exception):
    """A file can't be sent; the message says why. It stays, as long as there is room for it."""


@dataclass
class Uploader:
    """Who sends the files, and where to.

    Attributes:
        registry: the gateway.
        folder: where the files wait.
        places: where those of a model and day go.
    """

    registry: Registry
    folder: Path = batches.FOLDER
    places: dict[tuple[str, str], str] = field(default_factory=dict)

    def step(self) -> None:
        """Send all that waits, the oldest first. Raises AwayError, UploadError, OSError."""
        for path, batch in batches.list_batches(self.folder):
            self.send(path, batch)

    def send(self, path: Path, batch: Batch) -> None:
        """Send one file, and remove it; one that was sent before under its name takes its own place."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return  # there was no room for it any more
        except OSError as error:
            self.drop(path, error.strerror or "it can't be opened")
            return
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= batches.LIMIT_BYTES:
                self.drop(path, "it is no file of the log")
                return
            place = self.find_place(batch)
            with self.registry.send("PUT", f"{ARTIFACTS}/{quote(f'{place}/{path.name}')}", data=file) as answer:
                if not answer.ok:
                    self.places.clear()  # (the run may be gone)
                    raise UploadError(f"{path.name} is refused ({answer.status_code}): {answer.text[:200]}")
        path.unlink(missing_ok=True)

    @staticmethod
    def drop(path: Path, why: str) -> None:
        """Remove what is not to be sent."""
        print(f"follower: {path.name}: {why}: it is removed", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            path.unlink()

    def find_place(self, batch: Batch) -> str:
        """Return where the artifacts of the model's run of the day are; the run is made if there is none."""
        key = batch.model, batch.day
        if key not in self.places:
            experiment = self.find_experiment()
            asked = f"tags.model = '{batch.model}' AND tags.day = '{batch.day}'"
            found, content = self.registry.post_json(
                f"{API}/runs/search", {"experiment_ids": [experiment], "filter": asked, "max_results": 1}
            )
            runs = content.get("runs", []) if found else []
            info = runs[0]["info"] if runs else self.make_run(experiment, batch)
            if not str(info["artifact_uri"]).startswith(SCHEME):
                raise UploadError(f"the run {info['run_id']} keeps its artifacts in {info['artifact_uri']!r}")
            self.places = {key: place for key, place in self.places.items() if key[1] == batch.day}
            self.places[key] = str(info["artifact_uri"]).removeprefix(SCHEME).strip("/")
        return self.places[key]

    def find_experiment(self) -> str:
        """Return the experiment's id. Raises AwayError, UploadError."""
        found, content = self.registry.ask_json(f"{API}/experiments/get-by-name", experiment_name=batches.EXPERIMENT)
        experiment = content.get("experiment", {})
        if not found or experiment.get("lifecycle_stage") != "active":
            raise UploadError(
                f"there is no experiment {batches.EXPERIMENT!r} for the log of predictions: ./stack up makes it; "
                "if it was deleted, restore it"
            )
        return str(experiment["experiment_id"])

    def make_run(self, experiment: str, batch: Batch) -> dict[str, str]:
        """Return the info of a new run, which is finished at once: it computes nothing."""
        now = int(time.time() * 1000)
        tags = {"model": batch.model, "day": batch.day, "mlflow.source.name": "serving"}
        found, content = self.registry.post_json(
            f"{API}/runs/create",
            {
                "experiment_id": experiment,
                "run_name": f"{batch.model} {batch.day}",
                "start_time": now,
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )
        if not found:
            raise UploadError(f"no run can be made in {batches.EXPERIMENT!r}: {str(content.get('message'))[:200]}")
        info: dict[str, str] = content["run"]["info"]
        self.registry.post_json(f"{API}/runs/update", {"run_id": info["run_id"], "status": "FINISHED", "end_time": now})
        return info


def run(uploader: Uploader) -> None:
    """Send what waits, again and again; what goes wrong is said once."""
    said = ""
    while True:
        try:
            uploader.step()
            fault = ""
        except (AwayError, UploadError, OSError, KeyError, TypeError, ValueError) as error:
            fault = str(error)
        if fault and fault != said:
            print(f"follower: the log of predictions waits: {fault}", file=sys.stderr, flush=True)
        said = fault
        time.sleep(RETRY_SECONDS if fault else PAUSE)
