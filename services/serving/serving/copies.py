"""The models' copies on the disk: what `follower` writes and `serving` reads. Nothing but the standard library.

/models/desired.json names the version of each model that is wanted, and the folder in /models/copies that it is in. A
folder is complete and never changes: its manifest was written last, and then it got its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/models")
COPIES = ROOT / "copies"
DESIRED = ROOT / "desired.json"
MANIFEST = "manifest.json"  # beside the folder `files`
FILES = "files"
# What `serving` says of itself, to people and to `follower`, which leaves the copies alone that are in use.
STATE = Path("/run/serving/state.json")


@dataclass(frozen=True)
class Choice:
    """One entry of STACK_SERVE.

    Attributes:
        name: registered model.
        version: the pinned one, "" for the one with the alias.
    """

    name: str
    version: str


@dataclass(frozen=True)
class Wanted:
    """What is wanted of one model.

    Attributes:
        name: registered model.
        version: "" if none is to be served.
        copy: folder in COPIES, "" if there is none (yet).
        reason: why there is no version, or no copy.
    """

    name: str
    version: str = ""
    copy: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Desired:
    """All that is wanted.

    Attributes:
        models: by name.
        trouble: why what is wanted can't be found out at the moment.
    """

    models: dict[str, Wanted]
    trouble: str = ""


def read_choices(text: str) -> list[Choice]:
    """Return the entries of STACK_SERVE, which ./stack and the gateway have checked."""
    entries = [] if text == "off" else [entry.partition("@") for entry in text.split(",") if entry]
    return [Choice(name, version) for name, _, version in entries]


def name_copy(name: str, version: str, created: int) -> str:
    """Return the folder of a version; a model that was deleted and made again counts its versions from 1 again."""
    return f"{name}@{version}-{created}"


def find_version(copy: str) -> str:
    """Return the version that a copy is of."""
    return copy.rpartition("@")[2].partition("-")[0]


def write_file(path: Path, content: str) -> None:
    """Write a file as a whole: whoever reads it sees the old or the new content, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, {} if there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_desired(path: Path, desired: Desired) -> None:
    """Say what is wanted."""
    write_file(path, json.dumps(asdict(desired), indent=1))


def read_desired(path: Path) -> Desired | None:
    """Return what is wanted, None if nobody has said so yet."""
    content = read_json(path)
    try:
        return Desired({name: Wanted(**entry) for name, entry in content["models"].items()}, content["trouble"])
    except (KeyError, TypeError, AttributeError):
        return None


def find_served(path: Path) -> set[str] | None:
    """Return the copies that are in use, or were last, None if that can't be told."""
    content = read_json(path)
    try:
        return {copy for model in content["models"] for copy in (model["served_copy"], model["copy"]) if copy}
    except (KeyError, TypeError):
        return None


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> Iterable[Path]:
    """Return the files below a folder, as paths in it, sorted."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())


def write_manifest(folder: Path) -> None:
    """Write down what is in the copy; the last step before it gets its name."""
    files = {str(path): hash_file(folder / FILES / path) for path in list_files(folder / FILES)}
    write_file(folder / MANIFEST, json.dumps({"files": files}, indent=1))


def find_fault(folder: Path) -> str | None:
    """Return what is wrong with a copy, None if every byte is as it was fetched."""
    expected = read_json(folder / MANIFEST).get("files")
    if not isinstance(expected, dict):
        return "the copy has no manifest"
    found = {str(path) for path in list_files(folder / FILES)}
    if changed := sorted(found ^ expected.keys()):
        return f"the copy is not as it was fetched: {changed[0]} is missing or new"
    for name, digest in expected.items():
        try:
            if hash_file(folder / FILES / name) != digest:
                return f"the copy is not as it was fetched: {name} has changed"
        except OSError as error:
            return f"{name} can't be read: {error.strerror}"
    return None
