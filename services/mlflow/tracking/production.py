"""The alias `production` and the stage Production name the same version, whichever of them a client sets.

MLflow keeps the two apart, knows no compare-and-set and forgets what was there before. Here a request that may change
one of them holds a lock of its model, in the database, from before MLflow's handler until the other has followed. The
latest change leads: what was in Production goes to Archived, the version's tags say whose change it was, and a tag of
the model remembers the versions in turn, so that a rollback knows the one before.

A client may say which version it compared its own with (CHAMPION_HEADER): has another come meanwhile, it gets 409.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import flask
import sqlalchemy
from mlflow.entities.model_registry.model_version_stages import STAGE_ARCHIVED, STAGE_PRODUCTION, get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.protos import model_registry_pb2 as registry
from mlflow.protos.databricks_pb2 import RESOURCE_CONFLICT, TEMPORARILY_UNAVAILABLE
from mlflow.server import handlers
from mlflow.store.model_registry.dbmodels import models
from sqlalchemy.exc import SQLAlchemyError

from tracking import champion
from tracking.champion import LOCK, WAIT_SECONDS

ALIAS = champion.ALIAS
CHAMPION_HEADER = "X-Stack-Champion"  # a version, or NOBODY
ROLLBACK_HEADER = "X-Stack-Rollback"  # whatever it holds: the version is one that was there before
NOBODY = "none"

# Tags that begin so are for those who may promote; the ones below only the server writes.
RESERVED = "stack."
HISTORY = "stack.production"  # of the model: the versions that were in Production, the last one last
MAX_HISTORY = 500
BY, AT, FROM = "stack.promoted_by", "stack.promoted_at", "stack.promoted_from"  # of the version
OWN = {HISTORY, BY, AT, FROM}


@dataclass(frozen=True)
class Wish:
    """What a request asks for.

    Attributes:
        name: the model.
        leaves: the version that would leave Production, if it is there; None for whichever is there.
        champion: the version that would be in Production, None for no one.
    """

    name: str
    leaves: int | None
    champion: int | None


@dataclass(frozen=True)
class Change:
    """A request that is being answered.

    Attributes:
        wish: what it asks for.
        before: the version that was in Production when it came.
        user: who asks.
        is_rollback: whether `before` is to be forgotten rather than remembered.
    """

    wish: Wish
    before: int | None
    user: str
    is_rollback: bool


# ------------------------------------------------------------------------------------------------ what a request asks
def set_alias(message: Any) -> Wish | None:
    """Set an alias."""
    return Wish(message.name, None, int(message.version)) if message.alias == ALIAS else None


def delete_alias(message: Any) -> Wish | None:
    """Delete an alias: nobody is in Production then."""
    return Wish(message.name, None, None) if message.alias == ALIAS else None


def move_stage(message: Any) -> Wish | None:
    """To Production, or away from it."""
    version = int(message.version)
    if get_canonical_stage(message.stage) == STAGE_PRODUCTION:
        return Wish(message.name, None, version)
    return Wish(message.name, version, None)


def delete_version(message: Any) -> Wish | None:
    """Delete a version; MLflow takes its aliases away too."""
    return Wish(message.name, int(message.version), None)


READERS: dict[Any, Callable[[Any], Wish | None]] = {
    registry.SetRegisteredModelAlias: set_alias,
    registry.DeleteRegisteredModelAlias: delete_alias,
    registry.TransitionModelVersionStage: move_stage,
    registry.DeleteModelVersion: delete_version,
}
# These change neither by themselves, but wait for who does.
LOCKED = (registry.RenameRegisteredModel, registry.DeleteRegisteredModel)


def read_wish(message: Any) -> Wish | None:
    """Return what a request asks for, None if it is nothing of ours or MLflow will refuse it."""
    try:
        wish = READERS[type(message)](message)
        # (a prompt has aliases and no stages)
        return None if wish is None or handlers._is_prompt(wish.name) else wish
    except (ValueError, MlflowException):
        return None


# ------------------------------------------------------------------------------------------------- in the database
@functools.cache
def find_engine() -> sqlalchemy.Engine:
    """Return this worker's engine for locks: one connection, for which its threads wait in turn.

    Were locks waited for on connections of MLflow's own pools, who holds one might find none left to go on with.
    """
    return sqlalchemy.create_engine(
        handlers._get_model_registry_store().engine.url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        pool_pre_ping=True,
    )


def lock(name: str) -> sqlalchemy.Connection:
    """Return a connection that holds the model's lock until its transaction ends."""
    try:
        connection = find_engine().connect()
        try:
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'"))
            connection.execute(
                sqlalchemy.text("SELECT pg_advisory_xact_lock(:lock, hashtext(:name))"), {"lock": LOCK, "name": name}
            )
        except BaseException:
            connection.close()
            raise
    except SQLAlchemyError as error:
        raise MlflowException(
            f"others are changing what of {name!r} is in Production: try again", TEMPORARILY_UNAVAILABLE
        ) from error
    return connection


def find_champion(name: str) -> int | None:
    """Return the version that the alias names, or else the newest in stage Production."""
    store = handlers._get_model_registry_store()
    with store.ManagedSessionMaker(read_only=False) as session:
        alias = store._get_registered_model_alias(session, name, ALIAS)
        if alias is not None:
            return int(alias.version)
        staged = find_staged(store, session, name)
        return max((int(version.version) for version in staged), default=None)


def find_staged(store: Any, session: Any, name: str) -> list[Any]:
    """Return the versions in stage Production."""
    model = models.SqlModelVersion
    found = store._get_query(session, model).filter(model.name == name, model.current_stage == STAGE_PRODUCTION).all()
    return list(found)


def settle(change: Change) -> None:
    """Bring alias, stages, tags and history in line with what MLflow has just done, all or nothing."""
    name, champion = change.wish.name, change.wish.champion
    if change.wish.leaves not in (None, change.before):
        return  # it was not in Production
    store = handlers._get_model_registry_store()
    with store.ManagedSessionMaker(read_only=False) as session:
        own = store._get_registered_model(session, name)
        now = handlers.get_current_time_millis()
        for version in find_staged(store, session, name):
            if int(version.version) != champion:
                version.current_stage, version.last_updated_time = STAGE_ARCHIVED, now
        alias = store._get_registered_model_alias(session, name, ALIAS)
        if champion is None:
            if alias is not None:
                session.delete(alias)
            return
        version = store._get_sql_model_version(session, name, champion)
        if version.current_stage != STAGE_PRODUCTION:
            version.current_stage, version.last_updated_time = STAGE_PRODUCTION, now
        key = {"workspace": version.workspace, "name": name}
        session.merge(models.SqlRegisteredModelAlias(**key, alias=ALIAS, version=champion))
        if champion == change.before:
            return
        tags = {
            BY: change.user,
            AT: datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            FROM: NOBODY if change.before is None else str(change.before),
        }
        for tag, value in tags.items():
            session.merge(models.SqlModelVersionTag(**key, version=champion, key=tag, value=value))
        known = next((tag.value for tag in own.registered_model_tags if tag.key == HISTORY), "")
        grown = extend_history(read_history(known), change.before, champion, is_rollback=change.is_rollback)
        session.merge(models.SqlRegisteredModelTag(**key, key=HISTORY, value=",".join(map(str, grown))))


def read_history(text: str) -> list[int]:
    """Return the versions that a history tag names."""
    return [int(part) for part in text.split(",") if part]


def extend_history(known: list[int], before: int | None, champion: int, *, is_rollback: bool) -> list[int]:
    """Return the history with the champion as its last: appended or, on the way back, what came after forgotten."""
    if is_rollback and champion in known:
        last = len(known) - 1 - known[::-1].index(champion)
        return known[: last + 1]
    if before is not None and known[-1:] != [before]:
        known = [*known, before]  # it came there before this was kept
    return [*known, champion][-MAX_HISTORY:] if known[-1:] != [champion] else known


# ------------------------------------------------------------------------------------------------------------ wiring
def begin(message: Any, user: str) -> None:
    """Before the rules and MLflow's handler: take the lock, look what is in Production.

    The rules come after it, so that what they see is still so when the handler does its work.
    """
    if isinstance(message, LOCKED):
        flask.g.stack_production_lock = lock(message.name)
    elif type(message) in READERS and (wish := read_wish(message)) is not None:
        flask.g.stack_production_lock = lock(wish.name)
        is_rollback = ROLLBACK_HEADER in flask.request.headers
        flask.g.stack_production = Change(wish, find_champion(wish.name), user, is_rollback)


def check_champion() -> None:
    """Raise if the client compared with another version than the one that is in Production now."""
    change: Change | None = flask.g.get("stack_production")
    compared = flask.request.headers.get(CHAMPION_HEADER, "").strip()
    if change is None or not compared:
        return
    now = NOBODY if change.before is None else str(change.before)
    # (a client that got no answer asks again)
    if compared != now and (change.before is None or change.before != change.wish.champion):
        raise MlflowException(
            f"{change.wish.name!r} has version {now} in Production now, not {compared}: compare with it and try again",
            RESOURCE_CONFLICT,
        )


def end(response: flask.Response) -> flask.Response:
    """After MLflow's handler: let the other follow."""
    change: Change | None = flask.g.pop("stack_production", None)
    if change is None or response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
        return response

    def follow() -> flask.Response:
        settle(change)
        return response

    answer: flask.Response = handlers.catch_mlflow_exception(follow)()
    return answer


def release(_error: BaseException | None) -> None:
    """End the transaction, and the lock with it."""
    connection = flask.g.pop("stack_production_lock", None)
    if connection is not None:
        connection.close()


def register(app: flask.Flask) -> None:
    """Follow MLflow's handlers; tracking/rules.py calls what comes before them."""
    app.after_request(end)
    app.teardown_request(release)
