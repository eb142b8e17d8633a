"""What the registry says, and the files behind a version, by MLflow's REST API through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import requests

from follower import settings
from serving.copies import Choice

ALIAS = "production"
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SCHEME, RUNS = "mlflow-artifacts:/", "runs:/"
SECONDS = (5.0, 30.0)  # to connect, and between two pieces of an answer
PIECE = 1024 * 1024
# What says that there is no such thing, or that we may not see it, and not that nobody can say at the moment.
NO = {400, 403, 404}


ROOT = PurePosixPath()


class AwayError(Exception):
    """The registry can't be asked at the moment; the message says why."""


class MissingError(Exception):
    """There is no version to be served; the message says why."""


class FetchError(Exception):
    """A version's files can't be had; the message says why."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model, with the moment of its creation in milliseconds."""

    name: str
    version: str
    created: int


@dataclass
class Registry:
    """The gateway, asked with the stack's own account."""

    gateway: str
    session: requests.Session = field(default_factory=requests.Session)

    def log_in(self) -> None:
        """Take the login from its file. Raises AwayError."""
        try:
            self.session.auth = settings.read_login()
        except (OSError, ValueError) as error:
            raise AwayError(f"the login of the account serving can't be read: {error}") from None

    def ask(self, path: str, /, **fields: str) -> requests.Response:
        """Return the answer to a question. Raises AwayError."""
        return self.send("GET", path, params=fields)

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Return the answer, whatever it is of 200 and NO; its body has not been read yet. Raises AwayError."""
        if self.session.auth is None:
            self.log_in()
        try:
            answer = self.session.request(
                method, self.gateway + path, timeout=SECONDS, allow_redirects=False, stream=True, **options
            )
        except requests.RequestException as error:
            raise AwayError(f"the gateway does not answer ({type(error).__name__})") from None
        if answer.ok or answer.status_code in NO:
            return answer
        answer.close()
        if answer.status_code == requests.codes.unauthorized:
            self.session.auth = None  # it may have been rotated
            raise AwayError("the login of the account serving is refused: ./stack secrets rotate serving_password")
        raise AwayError(f"the tracking server is away ({answer.status_code})")

    def ask_json(self, path: str, /, **fields: str) -> tuple[bool, dict[str, Any]]:
        """Return whether the answer is good, and its content. Raises AwayError."""
        return self.read_json(path, self.ask(path, **fields))

    def post_json(self, path: str, content: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Return whether the answer to such a request is good, and its content. Raises AwayError."""
        return self.read_json(path, self.send("POST", path, json=content))

    @staticmethod
    def read_json(path: str, answer: requests.Response) -> tuple[bool, dict[str, Any]]:
        """Return whether an answer is good, and its content. Raises AwayError."""
        try:
            content = answer.json()
        except (requests.RequestException, ValueError):
            raise AwayError(f"the tracking server answers {path} with no JSON ({answer.status_code})") from None
        return answer.ok, content if isinstance(content, dict) else {}

    def find(self, choice: Choice) -> Version:
        """Return the version that is to be served. Raises MissingError, AwayError."""
        if choice.version:
            found, content = self.ask_json(f"{API}/model-versions/get", name=choice.name, version=choice.version)
        else:
            found, content = self.ask_json(f"{API}/registered-models/alias", name=choice.name, alias=ALIAS)
        if not found:
            raise MissingError(str(content.get("message", "there is no such version")).strip()[:200])
        version = content["model_version"]
        if version.get("status", "READY") != "READY":
            raise MissingError(f"version {version['version']} is {version['status']}")
        return Version(choice.name, str(version["version"]), int(version["creation_timestamp"]))

    def fetch(self, version: Version, target: Path) -> None:
        """Put a version's files into a folder. Raises FetchError, AwayError, OSError."""
        fields = {"name": version.name, "version": version.version}
        found, content = self.ask_json(f"{API}/model-versions/get-download-uri", **fields)
        place = self.resolve(str(content.get("artifact_uri", ""))) if found else ""
        if not place.startswith(SCHEME):
            raise FetchError(f"its files are in {place or 'no place'!r}, not in the stack's own store")
        root = place.removeprefix(SCHEME).strip("/")
        before = list(self.list_files(root))
        if not before:
            raise FetchError("it has no files")
        for path, size in before:
            self.fetch_file(f"{root}/{path}", target / path, size)
        if list(self.list_files(root)) != before:
            raise FetchError("its files have changed while they were fetched")

    def resolve(self, place: str) -> str:
        """Return where the files are; a version may name them by the run that they belong to. Raises AwayError."""
        if not place.startswith(RUNS):
            return place
        run, _, path = place.removeprefix(RUNS).lstrip("/").partition("/")
        found, content = self.ask_json(f"{API}/runs/get", run_id=run)
        return f"{content['run']['info']['artifact_uri']}/{path}" if found else place

    def list_files(self, root: str, folder: PurePosixPath = ROOT) -> Iterator[tuple[PurePosixPath, int]]:
        """Yield (path, size) of all files below a place, by name. Raises FetchError, AwayError."""
        place = f"{root}/{folder}" if folder.parts else root
        found, content = self.ask_json(ARTIFACTS, path=place)
        if not found:
            raise FetchError(f"its files can't be listed: {str(content.get('message', ''))[:200]}")
        for entry in sorted(content.get("files", []), key=lambda entry: str(entry["path"])):
            name = PurePosixPath(str(entry["path"]))
            if len(name.parts) != 1 or name.name in ("", ".."):
                raise FetchError(f"it has a file of the name {str(name)[:100]!r}")
            if entry.get("is_dir"):
                yield from self.list_files(root, folder / name)
            else:
                yield folder / name, int(entry.get("file_size", 0))

    def fetch_file(self, place: str, target: Path, size: int) -> None:
        """Write one file. Raises FetchError, AwayError, OSError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        answer = self.ask(f"{ARTIFACTS}/{quote(place)}")
        with answer, target.open("xb") as file:
            if not answer.ok:
                raise FetchError(f"{target.name} can't be had ({answer.status_code})")
            try:
                for piece in answer.iter_content(PIECE):
                    file.write(piece)
            except requests.RequestException as error:
                raise AwayError(f"{target.name} was not fetched to its end ({type(error).__name__})") from None
            if file.tell() != size:
                raise FetchError(f"{target.name} has {file.tell()} bytes, not {size}")
