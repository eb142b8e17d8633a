"""Bring both databases to this version's schema and make the stack's roles and accounts, before any server starts.

A server of MLflow would migrate by itself at its start, and two of them would race: one of them dies. Here one
process at a time does it, under an advisory lock, and the servers wait for its success (docker-compose.yml).
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import indexes
import revisions
import sqlalchemy
import tenacity
import triggers
import typer
from sqlalchemy.exc import DBAPIError, OperationalError

from serving import batches
from tracking import roles, settings

LOCK = 0x6D6C666C6F77  # any number; "mlflow" in ASCII
DEADLINE_SECONDS = 60
# Name: is an administrator. One is made last: a store without any is one that this job did not finish.
ACCOUNTS = {"trainer": False, "serving": False, "admin": True}
# The trainer registers models and promotes the better one; `serving` fetches what is to be served.
ROLES = {"trainer": roles.PROMOTER, "serving": roles.SERVING}


@contextmanager
def lock_database(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Hold the migration lock of a database; a second `migrate` waits here. Raises OperationalError."""
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(OperationalError),
    wait=tenacity.wait_fixed(0.5),
    stop=tenacity.stop_after_delay(DEADLINE_SECONDS),
    reraise=True,
)
def wait_for_database(engine: sqlalchemy.Engine) -> None:
    """Return when the database accepts a login. Raises OperationalError after the deadline."""
    engine.connect().close()


def read_revision(engine: sqlalchemy.Engine, table: str) -> str | None:
    """Return the revision that a database is at, None if it has none."""
    with engine.connect() as connection:
        if connection.execute(sqlalchemy.text("SELECT to_regclass(:table)"), {"table": table}).scalar() is None:
            return None
        found = connection.execute(sqlalchemy.text(f"SELECT version_num FROM {table}")).scalar()  # noqa: S608 # nosec B608
    return None if found is None else str(found)


def find_pending(tracking: sqlalchemy.Engine, auth: sqlalchemy.Engine) -> list[str]:
    """Return what is to be done, by what alembic's tables say: to import MLflow takes seconds. Raises SettingsError."""
    package = importlib.util.find_spec("mlflow")  # finds, doesn't import
    if package is None or package.origin is None:
        return ["MLflow is not where it is looked for"]
    folder = Path(package.origin).parent
    pending: list[str] = []
    for engine, migrations, table in (
        (tracking, folder / "store/db_migrations", "alembic_version"),
        (auth, folder / "server/auth/db/migrations", "alembic_version_auth"),
    ):
        there, found = revisions.read(migrations), read_revision(engine, table)
        wanted = there.newest
        if wanted is None or found != wanted:
            name = engine.url.database
            if found is not None and found not in there.known:
                raise settings.SettingsError(
                    f"the database {name} is at revision {found}, which this version does not know: it was last used "
                    "by a newer one, and there is no way down but ./stack restore"
                )
            pending.append(f"database {name}: schema {found or 'not noted'} to {wanted or 'the newest'}")
    if pending:
        return pending  # (the tables that are asked below may not be there)
    if not indexes.has_all(tracking):
        pending.append("database mlflow: indexes of the stack's own")
    made = sqlalchemy.text("SELECT count(*) FROM roles WHERE workspace = :workspace AND name IN :names")
    made = made.bindparams(sqlalchemy.bindparam("names", expanding=True))
    with auth.connect() as connection:
        has_admin = connection.execute(sqlalchemy.text("SELECT EXISTS (SELECT FROM users WHERE is_admin)")).scalar()
        count = connection.execute(made, {"workspace": roles.WORKSPACE, "names": list(roles.DESCRIPTIONS)}).scalar()
    if not has_admin or count != len(roles.DESCRIPTIONS):
        pending.append("database auth: roles and accounts of the stack's own")
    return pending


def upgrade_tracking(engine: sqlalchemy.Engine) -> None:
    """Upgrade MLflow's schema; an empty database gets the newest."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.utils import _initialize_tables, _is_empty_database, _upgrade_db, _verify_schema

    with lock_database(engine):
        if _is_empty_database(engine):
            _initialize_tables(engine)
        try:
            _verify_schema(engine)
        except MlflowException:  # not the newest revision
            indexes.drop(engine)
            triggers.suspend(engine, triggers.TRACKING)
            _upgrade_db(engine)
            _verify_schema(engine)
        indexes.make(engine)


def upgrade_auth(engine: sqlalchemy.Engine) -> None:
    """Upgrade the user store's schema, which has migrations of its own."""
    from mlflow.server.auth.db.utils import migrate_if_needed

    with lock_database(engine):
        migrate_if_needed(engine, "head")


def keep_deleted(engine: sqlalchemy.Engine, made: triggers.Triggers, *, wanted: bool) -> None:
    """Let a database keep what is deleted, or no longer; this needs no MLflow, whose import takes seconds."""
    if not triggers.are_current(engine, made, wanted=wanted):
        with lock_database(engine):
            triggers.make(engine, made, wanted=wanted)


def make_roles(store: Any) -> set[str]:
    """Make the roles that are missing, whole, in one transaction; one that is there is an operator's to change.

    Returns those that were made.
    """
    from mlflow.server.auth.db.models import SqlRole, SqlRolePermission

    with store.ManagedSessionMaker(read_only=False) as session:
        present = {name for (name,) in session.query(SqlRole.name).filter(SqlRole.workspace == roles.WORKSPACE)}
        for name, description in roles.DESCRIPTIONS.items():
            if name not in present:
                grants = [
                    SqlRolePermission(resource_type=kind, resource_pattern="*", permission=permission)
                    for kind, permission in roles.GRANTS.get(name, {}).items()
                ]
                session.add(SqlRole(name=name, workspace=roles.WORKSPACE, description=description, permissions=grants))
        for account, role in ROLES.items():
            if role not in present:
                give_role(session, account)
    return roles.DESCRIPTIONS.keys() - present


def give_role(session: Any, account: str) -> None:
    """Give one of the stack's accounts its role, if it is there and has it not."""
    from mlflow.server.auth.db.models import SqlRole, SqlUser, SqlUserRoleAssignment

    session.flush()
    role = session.query(SqlRole).filter_by(workspace=roles.WORKSPACE, name=ROLES[account]).one()
    user = session.query(SqlUser).filter_by(username=account).one_or_none()
    if user and not session.query(SqlUserRoleAssignment).filter_by(user_id=user.id, role_id=role.id).count():
        session.add(SqlUserRoleAssignment(user_id=user.id, role_id=role.id))


def make_whole(session: Any, name: str) -> None:
    """Let the stack's administrator be one again, and log in, whatever was done to it on MLflow's page."""
    from mlflow.server.auth.db.models import SqlUser

    user = session.query(SqlUser).filter_by(username=name).one()
    user.is_admin = True
    for assignment in list(user.user_role_assignments):
        if assignment.role.name == roles.DISABLED or assignment.role.name.startswith(roles.EXPIRES):
            session.delete(assignment)


def make_accounts(engine: sqlalchemy.Engine, reset_passwords: bool) -> None:
    """Make the stack's roles, and its own accounts, once, or give these the passwords in the secret files.

    With the passwords, `admin` gets its rights back: so an operator who is shut out comes in again. Where there is an
    administrator, a missing account was removed by somebody: it doesn't come back by itself.
    """
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    with lock_database(engine):
        store.init_db(str(engine.url))
        made = make_roles(store)
        is_old = not reset_passwords and any(user.is_admin for user in store.list_users())
        for name, is_admin in ACCOUNTS.items():
            # (an account that came with a later version of the stack comes with its role)
            if is_old and ROLES.get(name) not in made:
                continue
            password = settings.read_secret(f"{name}_password")
            if not store.has_user(name):
                store.create_user(name, password, is_admin=is_admin)
            elif reset_passwords:
                store.update_user(name, password=password)
                if not is_admin:
                    continue  # whatever roles it has by now are an operator's choice
            with store.ManagedSessionMaker(read_only=False) as session:
                if is_admin:
                    make_whole(session, name)
                else:
                    give_role(session, name)


FIND_LOG = sqlalchemy.text("SELECT experiment_id FROM experiments WHERE name = :name")
FIND_LOG_GRANT = sqlalchemy.text("""
    SELECT EXISTS (SELECT FROM role_permissions AS held JOIN roles ON roles.id = held.role_id
    WHERE roles.workspace = :workspace AND roles.name = :role AND held.resource_type = 'experiment'
    AND held.resource_pattern = :experiment)
""")


def find_log(tracking: sqlalchemy.Engine) -> str | None:
    """Return the id of the experiment that served predictions are logged in."""
    with tracking.connect() as connection:
        found = connection.execute(FIND_LOG, {"name": batches.EXPERIMENT}).scalar()
    return None if found is None else str(found)


def has_log(tracking: sqlalchemy.Engine, auth: sqlalchemy.Engine) -> bool:
    """Return whether the place for the log is there, without MLflow, whose import takes seconds."""
    experiment = find_log(tracking)
    asked = {"workspace": roles.WORKSPACE, "role": roles.SERVING, "experiment": experiment}
    with auth.connect() as connection:
        return experiment is not None and bool(connection.execute(FIND_LOG_GRANT, asked).scalar())


def make_log(tracking: sqlalchemy.Engine, auth: sqlalchemy.Engine) -> None:
    """Make the experiment that served predictions are logged in; the account `serving` may write there, and only there.

    A grant of this one experiment that is there already is an operator's to change.
    """
    from mlflow.server.auth.db.models import SqlRole, SqlRolePermission
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

    with lock_database(tracking):
        experiment = find_log(tracking)
        if experiment is None:
            store = TrackingStore(str(tracking.url), settings.ARTIFACT_ROOT)
            experiment = str(store.create_experiment(batches.EXPERIMENT))
        users = SqlAlchemyStore()
        users.init_db(str(auth.url))
        with users.ManagedSessionMaker(read_only=False) as session:
            role = session.query(SqlRole).filter_by(workspace=roles.WORKSPACE, name=roles.SERVING).one_or_none()
            if role is None:
                raise settings.SettingsError(
                    f"the role {roles.SERVING!r} was removed, and STACK_PREDICTION_LOG is 'on': make it again on "
                    "MLflow's page, or set STACK_PREDICTION_LOG=off"
                )
            grant = {"role_id": role.id, "resource_type": "experiment", "resource_pattern": experiment}
            if not session.query(SqlRolePermission).filter_by(**grant).count():
                session.add(SqlRolePermission(**grant, permission="EDIT"))


def main(
    reset_passwords: Annotated[
        bool, typer.Option(help="set the accounts' passwords to those in the secret files")
    ] = False,
    pending: Annotated[bool, typer.Option("--pending", help="only print what would be done to the databases")] = False,
) -> None:
    """Upgrade both databases and make roles and accounts."""
    start = time.monotonic()
    try:
        chosen = settings.load()
        settings.write_auth_config(chosen, Path("/tmp/auth.ini"))
        os.environ["MLFLOW_AUTH_CONFIG_PATH"] = "/tmp/auth.ini"
        tracking = sqlalchemy.create_engine(chosen.database_uri)
        auth = sqlalchemy.create_engine(chosen.auth_database_uri)
        wait_for_database(tracking)
        to_do = find_pending(tracking, auth)
        if pending:
            print("".join(f"{line}\n" for line in to_do), end="")
            return
        if reset_passwords or to_do:
            upgrade_tracking(tracking)
            upgrade_auth(auth)
            make_accounts(auth, reset_passwords)
        keep_deleted(tracking, triggers.TRACKING, wanted=chosen.trash)
        keep_deleted(auth, triggers.AUTH, wanted=chosen.trash)
        if chosen.log and not has_log(tracking, auth):
            make_log(tracking, auth)
    except settings.SettingsError as error:
        sys.exit("\n".join(f"migrate: {line}" for line in str(error).splitlines()))
    except OperationalError as error:
        sys.exit(f"migrate: the database can't be used: {str(error.orig).strip()}: see ./stack logs postgres")
    except DBAPIError as error:
        said = str(error.orig).strip().splitlines()[0]
        sys.exit(f"migrate: the databases could not be brought to this version's schema: {said}")
    print(f"migrate: both databases are at this version's schema ({time.monotonic() - start:.1f} s)")


if __name__ == "__main__":
    typer.run(main)
