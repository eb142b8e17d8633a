"""Which folder of the bucket a row's location means, and whose a folder is that no row names."""

from __future__ import annotations

import re

OWN = ".stack/"  # the stack's own objects
# MLflow's layout below an experiment, for what the database doesn't know any more.
LAYOUT = re.compile(
    r"(?P<folder>(?:.*?/)?(?:traces/(?P<trace>[^/]+)|models/(?P<model>m-[^/]+)|(?P<run>[0-9a-f]{32}))/artifacts/)."
)


def find_folder(location: str | None, bucket: str) -> str | None:
    """Return the folder with a / at its end, or None if it isn't below the bucket (or is the bucket itself)."""
    scheme, _, rest = (location or "").partition(":")
    host, path = "", rest
    if rest.startswith("//"):
        host, _, path = rest[2:].partition("/")
    path = path.strip("/")
    is_ours = scheme == "mlflow-artifacts" or (scheme == "s3" and host == bucket)
    if not is_ours or any(part in ("", ".", "..") for part in path.split("/")):
        return None
    return f"{path}/"


def find_ancestors(key: str) -> list[str]:
    """Return the folders that a key is in, the deepest first."""
    ends = [index + 1 for index, sign in enumerate(key) if sign == "/"]
    return [key[:end] for end in reversed(ends)]


def guess_owner(key: str) -> tuple[str, str, str]:
    """Return (kind, id, folder) by MLflow's layout; ("unknown", "", the first two folders) if it doesn't fit."""
    found = LAYOUT.match(key)
    if found:
        for kind in ("trace", "model", "run"):
            if found[kind]:
                return kind, found[kind], found["folder"]
    return "unknown", "", "".join(part + "/" for part in key.split("/")[:-1][:2])
