"""Python inside the tool's container: what only its account may do with the store."""

from __future__ import annotations

import json
from typing import Any

from stack.deployment import Deployment

PREAMBLE = """
import json, os
from datetime import UTC, datetime, timedelta
import sqlalchemy
from artifacts import catalog, collection, objects, plan, removal, settings, survey
chosen = settings.load()
bucket, engine = objects.open_bucket(chosen), sqlalchemy.create_engine(chosen.database_uri)
s3, name = bucket.client, bucket.name
"""


def run_in_tool(stack: Deployment, script: str, *arguments: str) -> str:
    """Run Python in the artifacts container; return what it prints."""
    result = stack.tool("artifacts").execute(PREAMBLE + script, *arguments)
    assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def count_versions(stack: Deployment, prefix: str) -> tuple[int, int]:
    """Return how many versions (and markers) there are, and how many objects that a reader sees."""
    script = f"found = [v for vs in bucket.walk({prefix!r}) for v in vs]\n"
    script += "print(json.dumps([len(found), sum(v.is_latest and not v.is_marker for v in found)]))"
    versions, current = json.loads(run_in_tool(stack, script))
    return versions, current


def collect(stack: Deployment, *options: str) -> dict[str, Any]:
    """Run what ./stack gc runs."""
    result: dict[str, Any] = json.loads(stack.tool("artifacts").check("gc", "--json", *options))
    return result


def show_history(stack: Deployment, *arguments: str) -> list[dict[str, Any]]:
    """Run what ./stack artifacts history runs."""
    result: list[dict[str, Any]] = json.loads(
        stack.tool("artifacts").check("artifacts", "history", "--json", *arguments)
    )
    return result
