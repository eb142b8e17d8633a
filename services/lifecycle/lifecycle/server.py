"""MLflow's REST API in its own JSON, by the caller's login: what an archive holds is what the server says."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import http_request, verify_rest_response

from lifecycle.archive import Sized
from wine.errors import TrainerError

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
SCHEME = "mlflow-artifacts:/"
PAGE = 1000
FOUND, MISSING = 200, 404


@dataclass(frozen=True)
class Server:
    """A tracking server."""

    client: MlflowClient

    def _send(self, endpoint: str, method: str, **options: Any) -> Any:
        return http_request(self.client._tracking_client.store.get_host_creds(), endpoint, method, **options)

    def ask(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        """Return an answer. Raises MlflowException."""
        options = {"params": values} if method == "GET" else {"json": values}
        answer = self._send(API + path, method, **options)
        found: dict[str, Any] = verify_rest_response(answer, API + path).json()
        return found

    def find(self, path: str, **values: Any) -> dict[str, Any] | None:
        """Return an answer, None if there is no such thing. Raises MlflowException."""
        try:
            return self.ask("GET", path, **values)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
                return None
            raise

    def list(self, method: str, path: str, name: str, **values: Any) -> Iterator[dict[str, Any]]:
        """Yield what all pages of an answer have."""
        token: str | None = None
        while True:
            page = self.ask(method, path, **values, **({"page_token": token} if token else {}))
            yield from page.get(name, [])
            token = page.get("next_page_token")
            if not token:
                return

    def list_files(self, location: str) -> Iterator[tuple[str, int]]:
        """Yield path and size of every artifact below a location. Raises TrainerError, MlflowException."""
        root = find_path(location)

        def walk(folder: str) -> Iterator[tuple[str, int]]:
            place = posixpath.join(root, folder) if folder else root
            answer = self._send(FILES, "GET", params={"path": place})
            for item in verify_rest_response(answer, FILES).json().get("files", []):
                path = posixpath.join(folder, posixpath.basename(item["path"]))
                if item.get("is_dir"):
                    yield from walk(path)
                else:
                    yield path, int(item.get("file_size", 0))

        yield from walk("")

    def open_file(self, location: str, path: str) -> tuple[int, Any]:
        """Return size and bytes of an artifact. Raises TrainerError."""
        endpoint = f"{FILES}/{quote(posixpath.join(find_path(location), path))}"
        answer = self._send(endpoint, "GET", stream=True, extra_headers={"Accept-Encoding": "identity"})
        if answer.status_code != FOUND:
            raise TrainerError(f"artifact {path!r} of {location} can't be fetched ({answer.status_code}): try again")
        return int(answer.headers["Content-Length"]), answer.raw

    def write_file(self, location: str, path: str, size: int, body: Any) -> None:
        """Store an artifact. Raises TrainerError."""
        endpoint = f"{FILES}/{quote(posixpath.join(find_path(location), path))}"
        # (what is read from an archive can't be read again: no second try)
        data = Sized(body, size) if size else b""
        answer = self._send(endpoint, "PUT", data=data, max_retries=0, timeout=3600)
        if answer.status_code != FOUND:
            raise TrainerError(f"artifact {path!r} can't be stored in {location} ({answer.status_code}): try again")


def find_path(location: str) -> str:
    """Return where a location is below the server's root. Raises TrainerError."""
    if not location.startswith(SCHEME):
        raise TrainerError(
            f"the artifacts are in {location!r}, which is not the server's own place: they can't be carried"
        )
    return location.removeprefix(SCHEME).lstrip("/")
