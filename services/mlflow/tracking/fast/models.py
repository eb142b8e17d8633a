"""registered-models/alias and model-versions/get-download-uri."""

from __future__ import annotations

import re
from typing import Any

from tracking.fast.answers import describe_pairs, keep
from tracking.fast.requests import ReplayError, Request, need, read_id

ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
MAX_MODEL_NAME = 256
VERSION = """
    SELECT v.version, v.creation_time, v.last_updated_time, v.description, v.user_id, v.current_stage, v.source,
        v.storage_location, v.run_id, v.status, v.status_message, v.run_link,
        ARRAY(SELECT (key, value) FROM model_version_tags AS tags
            WHERE tags.workspace = v.workspace AND tags.name = v.name AND tags.version = v.version) AS tags,
        ARRAY(SELECT alias FROM registered_model_aliases AS aliases
            WHERE aliases.workspace = v.workspace AND aliases.name = v.name AND aliases.version = v.version) AS aliases,
        EXISTS (SELECT FROM registered_model_tags AS marks
            WHERE marks.workspace = v.workspace AND marks.name = v.name AND marks.key = 'mlflow.prompt.is_prompt')
        AS is_prompt
    FROM model_versions AS v
"""
BY_ALIAS = (
    VERSION
    + """JOIN registered_model_aliases AS a ON a.workspace = v.workspace AND a.name = v.name AND a.version = v.version
    WHERE a.workspace = 'default' AND a.name = $1 AND a.alias = $2 AND v.current_stage <> 'Deleted_Internal'
"""
)
BY_VERSION = (
    VERSION
    + "WHERE v.workspace = 'default' AND v.name = $1 AND v.version = $2 AND v.current_stage <> 'Deleted_Internal'"
)


async def get_by_alias(request: Request) -> dict[str, Any]:
    """Return the version that an alias names."""
    fields = request.read_query("name", "alias")
    name, alias = fields.get("name", ""), fields.get("alias", "")
    need(ALIAS.fullmatch(alias) is not None, alias.lower() != "latest")
    row = await find(request, BY_ALIAS, name, alias)
    shown = ("description", "user_id", "current_stage", "source", "run_id", "run_link", "status")
    return {
        "model_version": {
            "name": name,
            "version": str(row["version"]),
            "creation_timestamp": row["creation_time"],
            **({} if row["last_updated_time"] is None else {"last_updated_timestamp": row["last_updated_time"]}),
            **{field: row[field] for field in shown if row[field] is not None},
            **keep(
                {
                    "status_message": row["status_message"],
                    "tags": describe_pairs(row["tags"]),
                    "aliases": row["aliases"],
                }
            ),
        }
    }


async def get_download_uri(request: Request) -> dict[str, Any]:
    """Return where a version's files are."""
    fields = request.read_query("name", "version")
    name, version = fields.get("name", ""), fields.get("version", "")
    row = await find(request, BY_VERSION, name, read_id(version))
    uri = row["storage_location"] or row["source"]
    need(bool(uri))
    return {"artifact_uri": uri}


async def find(request: Request, statement: str, name: str, key: str | int) -> Any:
    """Return the row of a version of a model that the user may read. Raises ReplayError."""
    need(0 < len(name) <= MAX_MODEL_NAME, "/" not in name, ":" not in name)
    need(request.rights.may_read_model(name))
    row = await request.database.fetch_row(statement, name, key)
    if row is None or row["is_prompt"] or any(value is None for _, value in row["tags"]):
        raise ReplayError
    return row
