"""runs/search. Filter and order are MLflow's own SQL, so that they mean the same; the rest is one statement of ours."""

from __future__ import annotations

import asyncio
import json
import threading
from base64 import b64decode
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from cachetools import LRUCache
from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.store.tracking.sqlalchemy_store import _get_orderby_clauses, _get_sqlalchemy_filter_clauses
from mlflow.utils.search_utils import SearchUtils
from sqlalchemy import select
from sqlalchemy.dialects.postgresql.asyncpg import dialect as make_dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tracking.fast.answers import INFO, PARTS, describe_run, is_plain
from tracking.fast.requests import Message, ReplayError, Request, need, read_id

MAX_RESULTS = 10_000  # a page of mlflow.search_runs; more are MLflow's
MAX_ON_LOOP = 200  # runs that are described at once; more give way to other requests meanwhile
VIEWS = {"ACTIVE_ONLY": ViewType.ACTIVE_ONLY, "DELETED_ONLY": ViewType.DELETED_ONLY, "ALL": ViewType.ALL}
FETCH = f"""
    SELECT {INFO}, {PARTS} FROM unnest($1::varchar[]) WITH ORDINALITY AS found (run_uuid, place)
    JOIN runs ON runs.run_uuid = found.run_uuid ORDER BY found.place
"""  # noqa: S608 # nosec B608: constants
PIECE = 500  # runs in one answer of the database

Statement = tuple[str, list[Any]]


class Wanted(NamedTuple):
    """What runs are asked for."""

    experiments: tuple[int, ...]
    filter: str
    view: int
    order_by: tuple[str, ...]
    limit: int
    offset: int


# Pages poll with the same words. Threads share it.
DIALECT = make_dialect()  # type: ignore[no-untyped-call]
statements: LRUCache[Wanted, Statement] = LRUCache(512)
lock = threading.Lock()


class Search(Message):
    """SearchRuns."""

    experiment_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]
    filter: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    run_view_type: Literal["ACTIVE_ONLY", "DELETED_ONLY", "ALL"] = "ACTIVE_ONLY"
    max_results: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS)] = 1000
    order_by: Annotated[list[str], msgspec.Meta(max_length=10)] = msgspec.field(default_factory=list)
    page_token: str = ""


def write(wanted: Wanted) -> Statement:
    """Return the statement that finds the runs' ids, and its values. Raises ReplayError for what MLflow refuses.

    It is MLflow's (SqlAlchemyStore._search_runs) without DISTINCT: only joins of datasets find a run twice.
    """
    with lock:
        if (known := statements.get(wanted)) is not None:
            return known
    try:
        with Session() as session:  # of no database: it builds queries
            columns, orders, sorted_joins = _get_orderby_clauses(list(wanted.order_by), session)
            parsed = SearchUtils.parse_search_filter(wanted.filter)
            attributes, others, datasets = _get_sqlalchemy_filter_clauses(parsed, session, "postgresql")
    except (MlflowException, ValueError, TypeError, AttributeError):
        raise ReplayError from None
    need(not datasets)
    statement = select(SqlRun.run_uuid, *columns)
    for other in others:
        statement = statement.join(other)
    for join in sorted_joins:
        statement = statement.outerjoin(join)
    stages = LifecycleStage.view_type_to_stages(wanted.view)
    statement = (
        statement.filter(SqlRun.experiment_id.in_(wanted.experiments), SqlRun.lifecycle_stage.in_(stages), *attributes)
        .order_by(*orders)
        .offset(wanted.offset)
        .limit(wanted.limit)
    )
    try:
        compiled = statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
    except SQLAlchemyError:
        raise ReplayError from None
    values = [compiled.params[name] for name in compiled.positiontup or ()]
    with lock:
        statements[wanted] = compiled.string, values
    return compiled.string, values


def read_offset(token: str) -> int:
    """Return the offset of a page. Raises ReplayError for a token that was not made by MLflow or here."""
    if not token:
        return 0
    try:
        offset = json.loads(b64decode(token, validate=True))["offset"]
    except (ValueError, KeyError, TypeError):
        raise ReplayError from None
    need(type(offset) is int and 0 < offset < 2**31)
    return int(offset)


async def search(request: Request) -> dict[str, Any]:
    """Return a page of runs."""
    message = request.read_body(Search)
    offset = read_offset(message.page_token)
    asked = [read_id(text) for text in message.experiment_ids]
    readable = tuple(experiment for experiment in asked if request.rights.may_search_runs(experiment))
    need(bool(readable))
    most = message.max_results
    view = VIEWS[message.run_view_type]
    statement, values = write(Wanted(readable, message.filter, view, tuple(message.order_by), most + 1, offset))
    found = [row[0] for row in await request.database.fetch(statement, *values, is_planned=True)]
    runs: list[dict[str, Any]] = []
    for start in range(0, len(found[:most]), PIECE):
        rows = await request.database.fetch(FETCH, found[start : min(start + PIECE, most)])
        need(all(is_plain(row) for row in rows))
        for place in range(0, len(rows), MAX_ON_LOOP):
            runs += [describe_run(row) for row in rows[place : place + MAX_ON_LOOP]]
            if len(found) > MAX_ON_LOOP:
                await asyncio.sleep(0)
    more = len(found) > most
    token = {"next_page_token": SearchUtils.create_page_token(offset + most).decode()} if more else {}
    return {**({"runs": runs} if runs else {}), **token}
