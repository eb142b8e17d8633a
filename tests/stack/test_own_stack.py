"""Drills that need a stack of their own: plain docker compose, secrets, migrations, job runners."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import mlflow
import pytest
from mlflow.entities import ViewType

from stack.deployment import PROBE, Deployment, preset_choices, read_exports, wait_until
from tracking.fast import search


def read_login(deployment: Deployment) -> tuple[str, str]:
    """Return the login as it is now: these tests change it."""
    login = deployment.known_login = read_exports(deployment.tool("admin").check("env"))
    return login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]


@pytest.fixture(scope="module")
def plain(make_deployment: Callable[..., Deployment]) -> Deployment:
    """A clean clone without .env, brought up by plain `docker compose up`; only what a registry would give is named."""
    deployment = make_deployment("plain")
    (deployment.root / ".env").unlink()
    deployment.environment = {
        "STACK_NAME": deployment.name,
        "STACK_PORT": str(deployment.port),
        **{name: value for name, value in preset_choices().items() if value},
    }
    deployment.compose("up", "--detach")
    return deployment


def test_plain_compose_up_does_the_same_as_stack_up(plain: Deployment) -> None:
    def trainer_is_done() -> bool:
        return bool(plain.container("trainer")["State"]["Status"] == "exited")

    wait_until(trainer_is_done, "the trainer has ended")
    assert plain.container("trainer")["State"]["ExitCode"] == 0, plain.logs("trainer")
    known = read_exports(plain.check("env"))
    login = known["MLFLOW_TRACKING_USERNAME"], known["MLFLOW_TRACKING_PASSWORD"]
    answer = plain.ask(
        "/api/2.0/mlflow/registered-models/alias?name=Wine_Elasticnet_Sklearn_Regressor&alias=production", login
    )
    assert answer.json()["model_version"]["current_stage"] == "Production"


def test_an_example_secret_is_refused_and_nothing_changes(plain: Deployment) -> None:
    before = read_login(plain)
    # (which values are: tests/unit/test_secrets_files.py)
    result = plain.run("secrets", "set", "admin_password", stdin="password1234password1234")
    assert result.returncode == 1
    assert "nothing was changed" in result.stderr
    assert read_login(plain) == before
    assert plain.is_served(before)


def test_an_example_secret_in_the_volume_stops_the_start(plain: Deployment) -> None:
    script = "import pathlib; p = pathlib.Path('/master/trainer_password'); {}"

    def change(code: str) -> str:
        return subprocess.run(
            ["docker", "run", "--rm", "--user", "0", "--volume", f"{plain.name}_secrets-master:/master"]
            + ["--entrypoint", "python", plain.image("secrets"), "-c", script.format(code)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    original = change("print(p.read_text(), end='')")
    change("p.write_text('changeme')")
    result = plain.execute("docker", "compose", "run", "--rm", "-T", "secrets")
    change(f"p.write_text({original!r})")
    assert result.returncode == 1
    assert "trainer_password" in result.stderr
    assert "changeme" not in result.stderr


def test_secrets_that_encrypt_data_and_names_are_not_rotated(plain: Deployment) -> None:
    before = read_login(plain)
    result = plain.run("secrets", "rotate", "kek_passphrase", "s3_access_key", "admin_password")
    assert result.returncode == 1
    assert "kek_passphrase can't be rotated here: data in the database is encrypted" in result.stderr
    assert "s3_access_key can't be rotated here: it is a name" in result.stderr
    assert read_login(plain) == before


def test_rotated_secrets_work_and_the_old_ones_do_not(plain: Deployment) -> None:
    before = read_login(plain)
    with_old = plain.ask("/api/2.0/mlflow/runs/search", before, "POST", json={"experiment_ids": ["1"]}).json()
    # An operator who was shut out comes in again this way, whatever was done to the stack's own accounts.
    damage = """
        update users set is_admin = false where username = 'admin';
        insert into user_role_assignments (user_id, role_id)
            select users.id, roles.id from users, roles where username = 'admin' and name in ('disabled', 'viewer');
        delete from user_role_assignments using users where users.id = user_id and username = 'trainer';
        delete from users where username = 'trainer'"""
    plain.compose("exec", "-T", "postgres", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", "auth", "-c", damage)
    plain.check("secrets", "rotate")
    after = read_login(plain)
    assert after != before
    wait_until(lambda: plain.is_served(after), "the new password is let in")
    listed = plain.ask("/api/2.0/mlflow/users/list", after).json()["users"]
    held = {user["username"]: {role["name"] for role in user["roles"]} for user in listed}
    assert held == {"admin": {"viewer"}, "trainer": {"promoter"}, "serving": {"serving"}}
    assert {user["username"] for user in listed if user["is_admin"]} == {"admin"}
    assert plain.ask(PROBE, before).status_code == 401
    with_new = plain.ask("/api/2.0/mlflow/runs/search", after, "POST", json={"experiment_ids": ["1"]}).json()
    assert with_new == with_old
    plain.check("train", "--alpha", "0.3")

    def follows() -> bool:
        said = json.loads(plain.compose("exec", "-T", "follower", "cat", "/models/desired.json"))
        return bool(said["trouble"] == "")

    wait_until(follows, "the account that fetches models has its new password")


def ask_postgres(plain: Deployment, database: str, sql: str) -> str:
    return plain.compose("exec", "-T", "postgres", "psql", "-qAtd", database, "-v", "ON_ERROR_STOP=1", "-c", sql)


# How MLflow's page and its search_runs ask for the newest runs, and by which of the stack's indexes they are found.
NEWEST: dict[tuple[str, ...], str] = {
    (): "stack_runs_newest",
    ("attributes.start_time DESC",): "stack_runs_newest_page",
}
FILL = """
    insert into experiments (experiment_id, name, lifecycle_stage) values (77, 'full', 'active');
    insert into runs (run_uuid, lifecycle_stage, start_time, experiment_id)
    select md5(n::text), 'active', n, 77 from generate_series(1, 5000) as n;
    analyze runs;
"""


def explain(order_by: tuple[str, ...]) -> str:
    """Return the question how Postgres plans the fast path's own statement, for its values as there."""
    statement, values = search.write(search.Wanted((77,), "", ViewType.ACTIVE_ONLY, order_by, 101, 0))
    given = ", ".join(f"'{value}'" if isinstance(value, str) else str(value) for value in values)
    return f"set plan_cache_mode = force_custom_plan; prepare asked as {statement}; explain execute asked({given})"


def test_two_migrations_at_once_do_not_race(plain: Deployment) -> None:
    """On empty databases and on old ones: both end well, and the schema is the newest."""
    plain.compose("stop", "mlflow")
    old = 'python -c "from mlflow.store.db.utils import _get_alembic_config, InitialBase; import os, sqlalchemy as s\n'
    old += "from alembic import command; e = s.create_engine(os.environ['STACK_DATABASE_URI'])\n"
    old += "InitialBase.metadata.create_all(e); c = _get_alembic_config(str(e.url))\n"
    old += "c.attributes['connection'] = n = e.connect(); command.upgrade(c, 'bda7b8c39065'); n.commit()\""
    for prepare in (None, old):
        for name in ("mlflow", "auth"):
            ask_postgres(plain, name, f"drop schema public cascade; create schema public authorization {name}")
        run = ["docker", "compose", "run", "--rm", "--no-deps", "-T"]
        if prepare:
            made = plain.execute(*run, "--entrypoint", "sh", "migrate", "-c", prepare)
            assert made.returncode == 0, made.stderr
            # As an earlier version of the stack left it, with an index that is another by now.
            ask_postgres(plain, "mlflow", "set role mlflow; create index stack_runs_newest on runs (name)")
        both = plain.execute("sh", "-c", " & ".join([f"{' '.join(run)} migrate || touch failed"] * 2) + " & wait")
        assert not (plain.root / "failed").exists(), both.stdout + both.stderr
        assert both.stdout.count("this version's schema") == 2, both.stdout + both.stderr
        ask_postgres(plain, "mlflow", FILL)
        for order_by, index in NEWEST.items():
            assert f"using {index} on runs" in ask_postgres(plain, "mlflow", explain(order_by))
    plain.compose("start", "mlflow")
    login = read_login(plain)
    wait_until(lambda: plain.is_served(login), "the server accepts the migrated schema")


def test_job_runners_run_when_the_operator_wants_them(plain: Deployment) -> None:
    plain.environment |= {"STACK_JOBS": "on", "STACK_MLFLOW_MEMORY": "4g"}
    plain.compose("up", "--detach", "--no-build", "--no-deps", "mlflow")
    login = read_login(plain)
    wait_until(lambda: plain.is_served(login), "the server is up")

    def runners() -> int:
        return plain.compose("top", "mlflow").count("mlflow.server.jobs")

    wait_until(lambda: runners() > 0, "job runners run")
    assert mlflow.__version__ in plain.ask("/version", login).text
    plain.environment |= {"STACK_JOBS": "off"}
    plain.compose("up", "--detach", "--no-build", "--no-deps", "mlflow")
    wait_until(lambda: plain.is_served(login) and runners() == 0, "the server is up without them")


def test_removed_accounts_stay_removed_an_unfinished_store_is_finished_and_what_was_spooled_goes(
    plain: Deployment,
) -> None:
    admin = plain.known_login["MLFLOW_TRACKING_USERNAME"], plain.known_login["MLFLOW_TRACKING_PASSWORD"]
    other = "second", "a-password-of-their-own-1"
    users = "/api/2.0/mlflow/users"

    def migrate_and_restart(login: tuple[str, str]) -> None:
        """The server is killed, with something left where it spools."""
        plain.compose("run", "--rm", "--no-deps", "-T", "migrate")
        spool = "mkdir -p $TMPDIR/left && echo x >$TMPDIR/left/x && echo x >$TMPDIR/y"
        plain.compose("exec", "-T", "mlflow", "sh", "-c", spool)
        plain.compose("kill", "mlflow")
        plain.compose("start", "mlflow")
        wait_until(lambda: plain.is_served(login), "the server is up")
        left = plain.compose("exec", "-T", "mlflow", "sh", "-c", "ls $TMPDIR").split()
        assert not {"left", "y"}.intersection(left)

    made = plain.ask(f"{users}/create", admin, "POST", json={"username": other[0], "password": other[1]})
    assert made.ok, made.text
    assert plain.ask(f"{users}/update-admin", admin, "PATCH", json={"username": other[0], "is_admin": True}).ok
    for name in ("admin", "trainer", "serving"):
        assert plain.ask(f"{users}/delete", other, "DELETE", json={"username": name}).ok
    migrate_and_restart(other)
    assert [user["username"] for user in plain.ask(f"{users}/list", other).json()["users"]] == ["second"]
    assert plain.ask(PROBE, admin).status_code == 401

    # A store without an administrator is what a `migrate` leaves that was killed between two accounts.
    plain.compose("exec", "-T", "postgres", "psql", "-q", "-d", "auth", "-c", "update users set is_admin = false")
    migrate_and_restart(admin)
    found = {user["username"]: user["is_admin"] for user in plain.ask(f"{users}/list", admin).json()["users"]}
    assert found == {"second": False, "trainer": False, "serving": False, "admin": True}


def test_destroy_leaves_nothing(plain: Deployment) -> None:
    plain.close_tools()
    plain.check("destroy", "--yes")
    label = ("--filter", f"label=com.docker.compose.project={plain.name}", "--quiet")
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls"), ("image", "ls")):
        left = subprocess.run(["docker", *kind, *label], check=True, capture_output=True, text=True).stdout
        assert left == "", kind
