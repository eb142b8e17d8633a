"""What MLflow's permissions can't say, asked after MLflow has allowed a request.

MLflow lets every user create experiments and models, makes the creator of a model its manager, and takes EDIT for
enough to move any alias. Here creating needs a role that may edit all, Production is a promoter's, and the last
administrator stays. Everything else is MLflow's decision alone. A rule raises what the client is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flask
import sqlalchemy
from mlflow.entities.model_registry.model_version_stages import STAGE_PRODUCTION
from mlflow.exceptions import MlflowException
from mlflow.protos import model_registry_pb2 as registry
from mlflow.protos import service_pb2 as service
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.server import auth, handlers
from mlflow.server.auth import routes as user_routes
from mlflow.tracing.constant import TraceTagKey
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

from tracking import production, roles
from tracking.identity import Account, Identity

PROTECTED_ALIASES = {production.ALIAS}
USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
TRACE_ID = re.compile(r"[A-Za-z0-9_-]{1,50}")
RUN_LINK = re.compile(r"https?://", re.IGNORECASE)
LOCK = 0x61646D696E  # any number; "admin" in ASCII
OTHER_ADMINS = sqlalchemy.text("""
    SELECT count(*) FROM users WHERE is_admin AND username <> :name AND NOT EXISTS (
        SELECT FROM user_role_assignments AS assigned JOIN roles ON roles.id = assigned.role_id
        WHERE assigned.user_id = users.id AND (roles.name = :disabled OR starts_with(roles.name, :expires)))
""")


def refuse(message: str) -> MlflowException:
    """Return the error of a request that this user may not send."""
    return MlflowException(message, PERMISSION_DENIED)


def reject(message: str) -> MlflowException:
    """Return the error of a request that nobody may send."""
    return MlflowException(message, INVALID_PARAMETER_VALUE)


# ------------------------------------------------------------------------------------------ experiments and models
def need_editor(account: Account, kinds: set[str], what: str) -> None:
    """Raise unless the account has a role that may edit all resources of one of these kinds."""
    if not (account.is_admin or account.edits & kinds):
        raise refuse(f"creating {what} needs the role editor or promoter: ask an administrator")


def need_promoter(account: Account, what: str) -> None:
    """Raise unless the account may promote."""
    if not (account.is_admin or roles.PROMOTER in account.roles):
        raise refuse(f"{what} needs the role promoter: ask somebody who has it, or an administrator")


def create_experiment(account: Account, message: Any) -> None:
    """An experiment's files lie in the stack's own store, where its id says whose they are: nowhere else."""
    need_editor(account, {"experiment"}, "an experiment")
    if message.artifact_location:
        raise reject(
            f"artifact_location is {message.artifact_location[:200]!r}: leave it out, "
            "the stack keeps every experiment's artifacts in its own store"
        )


def create_registered_model(account: Account, message: Any) -> None:
    """A prompt is a registered model too."""
    need_editor(account, {"registered_model", "prompt"}, "a model or prompt")
    for tag in message.tags:
        change_registry_tag(account, tag)


def change_registry_tag(account: Account, message: Any) -> None:
    """Set or delete a tag of a model or version: those that say who promoted what are not for everybody."""
    if message.key in production.OWN:
        raise reject(f"the tag {message.key!r} is set by the server alone: leave it out")
    if message.key.startswith(production.RESERVED):
        need_promoter(account, f"the tag {message.key!r}")


def create_version(_account: Account, message: Any) -> None:
    """MLflow's pages show the link to a run as one to be clicked."""
    drop_promotion_tags(message)
    if message.run_link and not RUN_LINK.match(message.run_link):
        raise reject(f"run_link is {message.run_link[:200]!r}: write an http or https URL")


def drop_promotion_tags(message: Any) -> None:
    """Take the tags of a promotion out of the request: a new version has none.

    MLflow's client copies a version to another model with all of its tags, which is no reason to refuse it. The handler
    reads the same parsed body again.
    """
    body = flask.request.get_json(force=True, silent=True)
    if any(tag.key.startswith(production.RESERVED) for tag in message.tags):
        if not isinstance(body, dict):
            raise reject(f"tags that begin with {production.RESERVED!r} are set by a promotion: leave them out")
        body["tags"] = [tag for tag in body["tags"] if not str(tag.get("key")).startswith(production.RESERVED)]


def is_in_production(name: str, version: str | None) -> bool:
    """Return whether this version of a model, or any for None, is in Production or bears a protected alias."""
    store = handlers._get_model_registry_store()
    try:
        if version is not None:
            found = store.get_model_version(name, version)
            return found.current_stage == STAGE_PRODUCTION or has_protected(found.aliases)
        model = store.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return False  # MLflow says so itself
        raise
    return has_protected(model.aliases) or any(
        latest.current_stage == STAGE_PRODUCTION for latest in model.latest_versions
    )


def has_protected(aliases: Any) -> bool:
    """Return whether one of the aliases is protected, however it is spelled."""
    return any(alias.casefold() in PROTECTED_ALIASES for alias in aliases)


def change_alias(account: Account, message: Any) -> None:
    """Set or delete an alias."""
    if has_protected([message.alias]):
        need_promoter(account, f"the alias {message.alias!r}")


def change_stage(account: Account, _message: Any) -> None:
    """Every stage: to archive what is in Production takes it from there too."""
    need_promoter(account, "changing a stage")


def change_model(account: Account, message: Any) -> None:
    """Rename or delete a model."""
    if is_in_production(message.name, None):
        need_promoter(account, f"renaming or deleting model {message.name!r}, which is in Production,")


def delete_version(account: Account, message: Any) -> None:
    """Delete a model version."""
    if is_in_production(message.name, message.version):
        need_promoter(account, f"deleting version {message.version} of {message.name!r}, which is in Production,")


# Tags by which the server finds a trace's files: whoever sets them reads what they point to, with the server's own key.
TRACE_PLACES = {MLFLOW_ARTIFACT_LOCATION, TraceTagKey.ARCHIVE_LOCATION, TraceTagKey.SPANS_LOCATION}


def keep_trace_places(keys: Any) -> None:
    """Raise if one of these tags of a trace is the server's own."""
    for key in keys:
        if key in TRACE_PLACES:
            raise reject(f"the tag {key!r} of a trace is set by the server alone: leave it out")


def start_trace_v3(_account: Account, message: Any) -> None:
    """Start a trace, with tags as a map; its id is part of a path."""
    trace_id = message.trace.trace_info.trace_id
    if trace_id and not TRACE_ID.fullmatch(trace_id):
        raise reject(f"trace_id is {trace_id[:200]!r}: use 1 to 50 of A-Z a-z 0-9 _ -")
    keep_trace_places(message.trace.trace_info.tags)


def change_trace(_account: Account, message: Any) -> None:
    """Start or end a trace, with tags as a list (version 2 of the API)."""
    keep_trace_places(tag.key for tag in message.tags)


def change_trace_tag(_account: Account, message: Any) -> None:
    """Set or delete a tag of a trace."""
    keep_trace_places([message.key])


MESSAGE_RULES: dict[Any, Callable[[Account, Any], None]] = {
    service.CreateExperiment: create_experiment,
    registry.CreateRegisteredModel: create_registered_model,
    registry.CreateModelVersion: create_version,
    registry.RenameRegisteredModel: change_model,
    registry.DeleteRegisteredModel: change_model,
    registry.DeleteModelVersion: delete_version,
    registry.TransitionModelVersionStage: change_stage,
    registry.SetRegisteredModelAlias: change_alias,
    registry.DeleteRegisteredModelAlias: change_alias,
    registry.SetRegisteredModelTag: change_registry_tag,
    registry.DeleteRegisteredModelTag: change_registry_tag,
    registry.SetModelVersionTag: change_registry_tag,
    registry.DeleteModelVersionTag: change_registry_tag,
    service.StartTraceV3: start_trace_v3,
    service.StartTrace: change_trace,
    service.EndTrace: change_trace,
    service.SetTraceTag: change_trace_tag,
    service.SetTraceTagV3: change_trace_tag,
    service.DeleteTraceTag: change_trace_tag,
    service.DeleteTraceTagV3: change_trace_tag,
}


# ------------------------------------------------------------------------------------------------------------- users
def create_user(fields: dict[str, Any]) -> None:
    """A name with a colon could never log in, others break logs and URLs."""
    name = fields.get("username")
    if not (isinstance(name, str) and USER_NAME.fullmatch(name)):
        raise reject(f"username is {name!r}: use 1 to 128 of A-Z a-z 0-9 . _ @ -, a letter or digit first")
    change_password(fields)


def change_password(fields: dict[str, Any]) -> None:
    """MLflow's native routes (artifacts) read a login as ASCII: with another password uploads alone would fail."""
    password = fields.get("password")
    if not (isinstance(password, str) and password.isascii() and password.isprintable()):
        raise reject(
            "the password has a character that is not printable ASCII, which artifact uploads could not log in with"
        )


def keep_an_admin(name: object, what: str) -> None:
    """Raise if nobody but this user is an administrator who can log in.

    Two administrators who demote each other at the same moment would both pass: so a lock in the database is held until
    the request's end.
    """
    connection = flask.g.stack_admin_lock = auth.store.engine.connect()
    connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    others = connection.execute(
        OTHER_ADMINS, {"name": str(name), "disabled": roles.DISABLED, "expires": roles.EXPIRES}
    ).scalar()
    if not others:
        raise reject(f"{name!r} is the last administrator: {what} after another user is made administrator")


def release_lock(_error: BaseException | None) -> None:
    """End the lock of keep_an_admin."""
    connection = flask.g.pop("stack_admin_lock", None)
    if connection is not None:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
        connection.close()


def delete_user(fields: dict[str, Any]) -> None:
    """Delete a user."""
    if is_admin(fields.get("username")):
        keep_an_admin(fields.get("username"), "remove this account")


def update_admin(fields: dict[str, Any]) -> None:
    """Make a user administrator, or no longer."""
    if not isinstance(fields.get("is_admin"), bool):
        raise reject(f"is_admin is {fields.get('is_admin')!r}: write true or false")
    if not fields["is_admin"] and is_admin(fields.get("username")):
        keep_an_admin(fields.get("username"), "demote this account")


def assign_role(fields: dict[str, Any]) -> None:
    """Give a user a role; some roles end an account."""
    try:
        role = auth.store.get_role(int(fields.get("role_id", 0))).name
    except (MlflowException, TypeError, ValueError):
        return  # MLflow says so itself
    if (role == roles.DISABLED or role.startswith(roles.EXPIRES)) and is_admin(fields.get("username")):
        keep_an_admin(fields.get("username"), "end this account")


def is_admin(name: object) -> bool:
    """Return whether there is such an administrator."""
    return bool(isinstance(name, str) and auth.store.has_user(name) and auth.store.get_user(name).is_admin)


USER_RULES: dict[tuple[str, str], Callable[[dict[str, Any]], None]] = {
    (user_routes.CREATE_USER, "POST"): create_user,
    (user_routes.AJAX_CREATE_USER, "POST"): create_user,
    (user_routes.UPDATE_USER_PASSWORD, "PATCH"): change_password,
    (user_routes.AJAX_UPDATE_USER_PASSWORD, "PATCH"): change_password,
    (user_routes.DELETE_USER, "DELETE"): delete_user,
    (user_routes.AJAX_DELETE_USER, "DELETE"): delete_user,
    (user_routes.UPDATE_USER_ADMIN, "PATCH"): update_admin,
    (user_routes.AJAX_UPDATE_USER_ADMIN, "PATCH"): update_admin,
    (user_routes.ASSIGN_ROLE, "POST"): assign_role,
    (user_routes.AJAX_ASSIGN_ROLE, "POST"): assign_role,
}


# ------------------------------------------------------------------------------------------------------------ wiring
def register(app: flask.Flask, find_identity: Callable[[], Identity]) -> None:
    """Ask the rules after MLflow's own check, which create_app has put in front by now."""
    by_route: dict[tuple[str, str], Any] = {
        (path, method): message
        for path, message, methods in handlers.get_endpoints(lambda message: message)
        if message in MESSAGE_RULES
        for method in methods
    }

    def check() -> None:
        rule = flask.request.url_rule
        route = (rule.rule if rule else "", flask.request.method)
        if (message := by_route.get(route)) is not None:
            login = flask.request.authorization  # known to be right by now
            user = str(login.username if login else "")
            request = handlers._get_request_message(message())
            production.begin(request, user)
            MESSAGE_RULES[message](find_identity().find_account(user), request)
            production.check_champion()
        elif (user_rule := USER_RULES.get(route)) is not None:
            body = flask.request.get_json(silent=True)
            user_rule({**flask.request.args, **(body if isinstance(body, dict) else {})})

    app.before_request(handlers.catch_mlflow_exception(check))
    app.teardown_request(release_lock)
