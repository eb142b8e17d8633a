"""./stack trash and ./stack undo: what was deleted by a stock client comes back as it was, or one line says why not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

from stack.deployment import Deployment
from stack.store_tool import collect, run_in_tool, show_history
from stack.transfers import Place

Login = tuple[str, str]
MakeUser = Callable[[str], Login]
ActAs = Callable[[Login], None]
Rows = dict[str, list[dict[str, Any]]]
REST = "/api/2.0/mlflow-artifacts/artifacts/"

READ = """
import sys
found = {}
with engine.connect() as connection:
    for table, where in json.loads(sys.argv[1]):
        query = f"SELECT to_jsonb(t) FROM {table} t WHERE {where} ORDER BY to_jsonb(t)::text"
        found[table] = connection.execute(sqlalchemy.text(query)).scalars().all()
print(json.dumps(found))
"""
PSQL = ("exec", "-T", "--user", "postgres", "postgres", "/usr/lib/postgresql/17/bin/psql", "--host=/run/postgresql")


def read(stack: Deployment, *wanted: tuple[str, str]) -> Rows:
    """Return rows of MLflow's database as they are, by table."""
    rows: Rows = json.loads(run_in_tool(stack, READ, json.dumps(wanted)))
    return rows


def read_users(stack: Deployment, table: str, where: str) -> list[dict[str, Any]]:
    """Return rows of the users' database, which no tool reaches."""
    query = f"SELECT coalesce(json_agg(to_jsonb(t) ORDER BY to_jsonb(t)::text), '[]') FROM {table} t WHERE {where}"
    rows: list[dict[str, Any]] = json.loads(stack.compose(*PSQL, "--dbname=auth", "-AtXc", query))
    return rows


def read_model(stack: Deployment, name: str) -> Rows:
    tables = [f"model_version{end}" for end in ("s", "_tags")]
    tables += [f"registered_model{end}" for end in ("s", "_tags", "_aliases")]
    rows = read(stack, *((table, f"name = '{name}'") for table in tables))
    return {**rows, "role_permissions": read_users(stack, "role_permissions", f"resource_pattern = '{name}'")}


def read_experiment(stack: Deployment, identifier: str) -> Rows:
    inside = f"experiment_id = {identifier}"
    of_runs = f"run_uuid IN (SELECT run_uuid FROM runs WHERE {inside})"
    wanted = [(table, of_runs) for table in ("metrics", "latest_metrics", "params", "tags")]
    wanted += [(table, inside) for table in ("experiments", "runs", "experiment_tags", "logged_models")]
    return read(stack, *wanted)


def show(stack: Deployment, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.tool("artifacts").check("trash", "--json", *options))
    return found


def find(stack: Deployment, kind: str, words: str) -> dict[str, Any]:
    """Return the newest entry of a kind that is about something."""
    found = [entry for entry in show(stack, "--kind", kind) if words in entry["what"]]
    assert found, f"no {kind} {words!r}"
    return found[-1]


def undo(stack: Deployment, *arguments: str) -> list[dict[str, Any]]:
    undone: list[dict[str, Any]] = json.loads(stack.tool("artifacts").check("undo", "--json", *arguments))
    return undone


def refuse(stack: Deployment, words: str, *arguments: str) -> None:
    """See that it is refused in one line, and that nothing came back."""
    result = stack.tool("artifacts").run("undo", *arguments)
    assert (result.returncode, result.stdout) == (1, ""), result
    assert result.stderr.startswith("stack: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr, result.stderr


def make_model(client: MlflowClient) -> str:
    """Make a model with all that one can have: two versions, tags, aliases, descriptions."""
    name = f"t{time.time_ns()}"
    run = client.create_run("0", run_name="trash").info.run_id
    client.create_registered_model(name, {"team": "ä", "long": "x" * 4000}, "what it is for")
    for number in ("1", "2"):
        client.create_model_version(
            name, f"runs:/{run}/m", run, {"n": number}, None, f"no. {number}", await_creation_for=0
        )
    client.set_registered_model_alias(name, "blue", "1")
    client.set_registered_model_alias(name, "green", "1")
    return name


def test_a_registered_model_comes_back_with_all_it_had(
    stack: Deployment, client: MlflowClient, users: AuthServiceClient, make_user: MakeUser, act_as: ActAs
) -> None:
    login = stack.login()
    admin = login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]
    owner, reader = make_user("editor"), make_user("none")
    act_as(owner)
    name = make_model(client)
    act_as(admin)
    users.grant_user_permission(reader[0], "registered_model", name, "READ")
    users.grant_user_permission(owner[0], "registered_model", f"{name}-other", "READ")
    client.set_registered_model_alias(name, "production", "2")
    before = read_model(stack, name)
    assert {table: len(rows) for table, rows in before.items()} == {
        "model_versions": 2, "model_version_tags": 5, "registered_models": 1, "registered_model_tags": 3,
        "registered_model_aliases": 3, "role_permissions": 2,
    }  # fmt: skip

    client.delete_registered_model(name)
    assert not any(read_model(stack, name).values())
    entry = find(stack, "model", name)
    assert (entry["user"], entry["state"]) == ("admin", "")
    assert entry["what"] == f"{name}, with 2 versions, 3 aliases"
    assert entry in show(stack, "--user", "admin", "--since", "10m", "--kind", "model", "--kind", "run")
    assert entry not in show(stack, "--user", owner[0], "--kind", "model")
    table = stack.check("trash", "--kind", "model")
    assert f"{entry['id']} " in table, table
    assert name in table, table

    # The name is taken meanwhile: nothing comes back, until it is free again.
    client.create_registered_model(name)
    taken = read_model(stack, name)
    refuse(stack, f"there is a model {name!r} again: rename that", entry["id"])
    assert find(stack, "model", name)["state"] == "its name is taken"
    assert read_model(stack, name) == taken
    client.rename_registered_model(name, f"{name}-new")

    said = stack.check("undo", entry["id"])
    assert said == f"model {name}, with 2 versions, 3 aliases; 2 grants is back\n"
    assert read_model(stack, name) == before
    act_as(reader)
    assert client.get_registered_model(name).aliases == {"blue": "1", "green": "1", "production": "2"}
    act_as(admin)
    assert not [each for each in show(stack, "--kind", "model") if each["id"] == entry["id"]]
    refuse(stack, f"there is no entry {entry['id']}", entry["id"])


def test_of_two_who_undo_the_same_one_does(stack: Deployment, client: MlflowClient) -> None:
    name = make_model(client)
    before = read_model(stack, name)
    client.delete_registered_model(name)
    script = f"""
from concurrent.futures import ThreadPoolExecutor
from artifacts import undoing
auth = sqlalchemy.create_engine(chosen.undo_database_uri)
def undo(_):
    try:
        return undoing.undo(engine, auth, {find(stack, "model", name)["id"]}).what
    except undoing.FaultError as fault:
        return str(fault).split(" ")[:3]
with ThreadPoolExecutor(4) as pool:
    print(json.dumps(list(pool.map(undo, range(4)))))
"""
    said = json.loads(run_in_tool(stack, script))
    assert sorted(isinstance(each, str) for each in said) == [False, False, False, True], said
    assert [each for each in said if not isinstance(each, str)] == [["there", "is", "no"]] * 3
    assert read_model(stack, name) == before


def test_a_version_comes_back_with_its_aliases(stack: Deployment, client: MlflowClient) -> None:
    name = make_model(client)
    before = read_model(stack, name)
    client.delete_model_version(name, "1")
    first = find(stack, "version", name)
    assert first["what"] == f"{name} version 1, with 2 aliases"
    assert read_model(stack, name)["model_versions"] != before["model_versions"]
    undo(stack, first["id"])
    after = read_model(stack, name)
    # (a model that changed says so, as after every other change of a version)
    assert after["registered_models"][0].pop("last_updated_time") > before["registered_models"][0].pop(
        "last_updated_time"
    )
    assert after == before

    # One of its aliases names another version by now.
    client.delete_model_version(name, "1")
    client.set_registered_model_alias(name, "green", "2")
    entry = find(stack, "version", name)
    taken = read_model(stack, name)
    refuse(
        stack, f"the alias 'green' of {name!r} names version 2 now: --leave-taken brings version 1 back", entry["id"]
    )
    assert read_model(stack, name) == taken
    (undone,) = undo(stack, entry["id"], "--leave-taken")
    assert undone["notes"] == [f"the alias 'green' of {name!r} names version 2 now: it was left there"]
    assert client.get_registered_model(name).aliases == {"blue": "1", "green": "2"}
    assert read_model(stack, name)["model_versions"] == before["model_versions"]

    # Its model is deleted after it: first the one, then the other.
    client.delete_model_version(name, "1")
    client.delete_registered_model(name)
    version, model = find(stack, "version", name), find(stack, "model", name)
    assert version["state"] == "its model is gone"
    refuse(stack, "there is no such model any more: undo its deletion first", version["id"])
    undo(stack, model["id"], version["id"])
    assert client.get_registered_model(name).aliases == {"blue": "1", "green": "2"}
    assert read_model(stack, name)["model_versions"] == before["model_versions"]


def test_what_was_in_production_is_so_again_or_nobody_else_is(stack: Deployment, client: MlflowClient) -> None:
    name = make_model(client)
    client.set_registered_model_alias(name, "production", "1")
    before = read_model(stack, name)
    client.delete_registered_model_alias(name, "production")
    assert client.get_model_version(name, "1").current_stage == "Archived"
    undo(stack, find(stack, "alias", f"{name}@production")["id"])
    after = read_model(stack, name)
    assert after["registered_model_aliases"] == before["registered_model_aliases"]
    assert [row["current_stage"] for row in after["model_versions"]] == ["Production", "None"]

    client.delete_model_version(name, "1")
    client.set_registered_model_alias(name, "production", "2")
    entry = find(stack, "version", name)
    refuse(stack, "names version 2 now", entry["id"])
    (undone,) = undo(stack, entry["id"], "--leave-taken")
    assert undone["notes"][-1] == f"version 2 of {name!r} is in Production now: version 1 is Archived"
    stages = [client.get_model_version(name, number).current_stage for number in ("1", "2")]
    assert stages == ["Archived", "Production"]
    assert client.get_registered_model(name).aliases == {"blue": "1", "green": "1", "production": "2"}


def test_an_alias_and_a_tag_come_back(stack: Deployment, client: MlflowClient) -> None:
    name = make_model(client)
    before = read_model(stack, name)
    client.delete_registered_model_alias(name, "blue")
    client.delete_registered_model_tag(name, "team")
    client.delete_model_version_tag(name, "2", "n")
    alias = find(stack, "alias", name)
    assert alias["what"] == f"{name}@blue (version 1)"
    undo(
        stack,
        alias["id"],
        find(stack, "tag", f"team of {name}")["id"],
        find(stack, "tag", f"n of {name} version 2")["id"],
    )
    after = read_model(stack, name)
    assert after == before

    client.delete_registered_model_alias(name, "blue")
    client.set_registered_model_alias(name, "blue", "2")
    refuse(stack, "is there again: it names version 2: take it away first", find(stack, "alias", name)["id"])
    client.delete_model_version(name, "1")
    client.delete_registered_model_alias(name, "blue")
    refuse(stack, "there is no such version any more", show(stack, "--kind", "alias")[-2]["id"])


def test_an_experiment_comes_back_with_the_runs_that_went_with_it(stack: Deployment, client: MlflowClient) -> None:
    experiment = client.create_experiment(f"trash-{time.time_ns()}", tags={"a": "b"})
    runs = [client.create_run(experiment).info.run_id for _ in range(3)]
    for run in runs:
        client.log_metric(run, "m", float("inf"))
        client.log_param(run, "p", "x")
        client.set_terminated(run)
    model = client.create_logged_model(experiment, "files").model_id
    start = read_experiment(stack, experiment)
    client.delete_run(runs[0])
    before = read_experiment(stack, experiment)
    client.delete_experiment(experiment)
    entry, of_run = find(stack, "experiment", f"(id {experiment})"), find(stack, "run", runs[0])
    assert (entry["user"], of_run["user"]) == ("admin", "admin")
    assert entry["what"].endswith(f"(id {experiment}), with 2 runs")
    refuse(stack, f"(id {experiment}), which is deleted: undo that first", of_run["id"])
    undo(stack, entry["id"])
    assert read_experiment(stack, experiment) == before, "the run that was deleted before is so since that time"
    undo(stack, find(stack, "run", runs[0])["id"])
    assert read_experiment(stack, experiment) == start

    client.delete_logged_model(model)
    undo(stack, find(stack, "logged-model", model)["id"])
    assert read_experiment(stack, experiment) == start

    # What MLflow restored itself is nothing to be undone.
    client.delete_run(runs[1])
    entry = find(stack, "run", runs[1])
    client.restore_run(runs[1])
    assert not [each for each in show(stack, "--kind", "run") if each["id"] == entry["id"]]
    refuse(stack, "is not deleted any more: there is nothing to undo", entry["id"])
    # Deleted once more, there is one entry of it.
    client.delete_run(runs[1])
    (again,) = [each for each in show(stack, "--kind", "run") if runs[1] in each["what"]]
    assert again["id"] != entry["id"]
    undo(stack, again["id"])
    assert read_experiment(stack, experiment) == start


def put(stack: Deployment, admin: Login, folder: str, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        assert stack.ask(f"{folder}/{quote(path)}", admin, "PUT", data=content).ok


def test_deleted_artifacts_come_back_and_are_reached_by_nobody_meanwhile(
    stack: Deployment, admin: Login, client: MlflowClient, place: Place, make_user: MakeUser
) -> None:
    run, folder = place.run, REST + client.get_run(place.run).info.artifact_uri.removeprefix("mlflow-artifacts:/")
    files = {"kept.txt": b"k", "m/a ä+.bin": b"a\0" * 1000, "m/deep/b.txt": b"b", "m/c.txt": b"c"}
    put(stack, admin, folder, dict.fromkeys(files, b"former"))
    put(stack, admin, folder, files)
    former = [entry["version"] for entry in show_history(stack, run, "m/c.txt")]
    assert stack.ask(f"{folder}/m", admin, "DELETE").ok
    (entry,) = [entry for entry in show(stack, "--kind", "artifact", "--since", "10m") if run in entry["what"]]
    assert entry["id"].startswith(f"{run}@20")
    assert entry["what"] == f"m/a ä+.bin, m/c.txt, m/deep/b.txt of run {run}"
    assert entry["user"] == "admin"
    assert [file.path for file in client.list_artifacts(run)] == ["kept.txt"]
    viewer = make_user("viewer")
    for login in (admin, viewer):
        for asked in (
            "m/c.txt",
            "m/deep/b.txt",
            f"m/c.txt?versionId={former[0]}",
            f"m/c.txt?versionId={quote(former[1])}",
        ):
            answer = stack.ask(f"{folder}/{asked}", login)
            assert answer.status_code == 404, (asked, answer.status_code, answer.text)

    # One file is there again: it stays, the others come.
    put(stack, admin, folder, {"m/c.txt": b"new"})
    (undone,) = undo(stack, entry["id"])
    assert undone["notes"] == ["1 files came back since: they were left as they are"]
    assert {path: stack.ask(f"{folder}/{quote(path)}", viewer).content for path in files} == {
        **files,
        "m/c.txt": b"new",
    }
    refuse(stack, "there is nothing to undo", entry["id"])
    refuse(stack, "there is no deletion", f"{run}@2026-01-01T00:00:00Z")
    refuse(stack, "there is no deletion", "m-nobody@x")
    assert not [entry for entry in show(stack, "--kind", "artifact") if run in entry["what"]]


def test_who_is_killed_while_artifacts_come_back_has_lost_nothing(
    stack: Deployment, admin: Login, client: MlflowClient, run: str
) -> None:
    inside = client.get_run(run).info.artifact_uri.removeprefix("mlflow-artifacts:/") + "/many/"
    count = 150
    script = f"""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    keys = [{inside!r} + str(number) for number in range({count})]
    list(pool.map(lambda key: s3.put_object(Bucket=name, Key=key, Body=key.encode()), keys))
"""
    run_in_tool(stack, script)
    assert stack.ask(f"{REST}{inside}", admin, "DELETE").ok
    (entry,) = [entry for entry in show(stack, "--kind", "artifact") if run in entry["what"]]
    script = f"""
import signal, time
from artifacts import deletions
def count():
    return s3.list_objects_v2(Bucket=name, Prefix={inside!r})["KeyCount"]
assert count() == 0
if (child := os.fork()) == 0:
    deletions.undo(sqlalchemy.create_engine(chosen.database_uri), objects.open_bucket(chosen), {entry["id"]!r})
    os._exit(0)
while count() < 5:
    time.sleep(0.005)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(count())
"""
    came = int(run_in_tool(stack, script))
    assert 5 <= came < count
    (again,) = [entry for entry in show(stack, "--kind", "artifact") if run in entry["what"]]
    assert again["id"] == entry["id"]
    (undone,) = undo(stack, entry["id"])
    assert undone["what"].endswith(f": {count - came} files")
    script = f"""
bodies = [s3.get_object(Bucket=name, Key={inside!r} + str(number))["Body"].read() for number in range({count})]
print(bodies == [({inside!r} + str(number)).encode() for number in range({count})])
bucket.remove_folder({inside!r})
"""
    assert run_in_tool(stack, script) == "True\n"


def test_gc_leaves_alone_what_can_be_undone_and_ends_it(stack: Deployment, admin: Login, client: MlflowClient) -> None:
    experiment = client.create_experiment(f"trash-gc-{time.time_ns()}")
    run = client.create_run(experiment).info
    client.log_text(run.run_id, "model", "m/MLmodel")
    name = f"t{time.time_ns()}"
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run.run_id}/m", run.run_id, await_creation_for=0)
    before = read_model(stack, name)
    client.delete_run(run.run_id)
    earlier = f"""
with engine.begin() as connection:
    connection.execute(sqlalchemy.text("SET LOCAL stack.trash = 'off'"))
    connection.execute(sqlalchemy.text("UPDATE runs SET deleted_time = deleted_time - 3600000"
                                       " WHERE run_uuid = '{run.run_id}'"))
"""
    run_in_tool(stack, earlier)
    client.delete_registered_model(name)
    # The run was deleted an hour ago, the model that is made from it was not.
    kept = {each["identifier"]: each["reason"] for each in collect(stack, "--older-than", "30m", "--apply")["kept"]}
    assert kept[run.run_id] == f"{name} version 1 (deleted: ./stack trash) is made from it"
    undo(stack, find(stack, "model", name)["id"], find(stack, "run", run.run_id)["id"])
    assert read_model(stack, name) == before
    folder = REST + run.artifact_uri.removeprefix("mlflow-artifacts:/")
    assert stack.ask(f"{folder}/m/MLmodel", admin).content == b"model"

    client.delete_registered_model(name)
    client.delete_run(run.run_id)
    entries = [find(stack, "model", name)["id"], find(stack, "run", run.run_id)["id"]]
    assert collect(stack, "--older-than", "0s")["forgotten"] >= 1
    assert entries[0] in {entry["id"] for entry in show(stack)}, "shown only"
    result = collect(stack, "--older-than", "0s", "--apply")
    assert result["forgotten"] >= len(entries)
    assert run.run_id in {entry["id"] for entry in result["runs"]}
    assert not {entry["id"] for entry in show(stack)} & set(entries)
    for entry in entries:
        refuse(stack, f"there is no entry {entry}", entry)
    assert read_users(stack, "stack.trash", f"content ->> 'resource_pattern' = '{name}'") == []


def test_the_tool_brings_grants_back_and_reaches_no_table_of_the_users(stack: Deployment) -> None:
    script = """
users = sqlalchemy.create_engine(chosen.undo_database_uri)
for table in ("users", "roles", "role_permissions", "user_role_assignments", "stack.trash"):
    for query in (f"SELECT * FROM {table}", f"DELETE FROM {table}", f"CREATE TABLE {table}_x ()"):
        try:
            with users.begin() as connection:
                connection.execute(sqlalchemy.text(query))
        except sqlalchemy.exc.ProgrammingError as error:
            assert "permission denied" in str(error.orig), error
        else:
            raise SystemExit(f"{query!r} was not denied")
"""
    run_in_tool(stack, script)


TRIGGERS = """
SELECT tgrelid::regclass::text, tgtype, array(SELECT attname FROM pg_attribute
WHERE attrelid = tgrelid AND attnum = ANY(tgattr::int2[]) ORDER BY attname)
FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text = ANY(ARRAY['experiments', 'runs', 'logged_models',
'metrics', 'latest_metrics', 'params', 'tags', 'inputs', 'trace_info', 'spans'])
"""


def test_logging_fires_no_trigger(stack: Deployment, client: MlflowClient) -> None:
    script = f"""
with engine.connect() as connection:
    print(json.dumps([list(row) for row in connection.execute(sqlalchemy.text('''{TRIGGERS}'''))]))
"""
    row, update = 1, 16
    found = json.loads(run_in_tool(stack, script))
    assert sorted(found) == [
        ["experiments", row | update, ["lifecycle_stage"]],
        ["logged_models", row | update, ["lifecycle_stage"]],
        ["runs", row | update, ["deleted_time", "lifecycle_stage"]],
    ]


def test_off_nothing_is_kept_and_on_again_it_is(stack: Deployment, client: MlflowClient) -> None:
    name = make_model(client)
    migrate = ("run", "--rm", "--no-deps", "-T", "migrate")
    stack.environment["STACK_TRASH_DAYS"] = "0"
    try:
        stack.compose(*migrate)
        client.delete_model_version(name, "1")
        client.delete_registered_model(name)
        assert read(stack, ("stack.trash", f"content ->> 'name' = '{name}'")) == {"stack.trash": []}
        result = stack.run("trash", "--kind", "model")
        assert (result.returncode, name in result.stdout) == (0, False)
        assert "stack: note: STACK_TRASH_DAYS is 0: what MLflow removes is not kept" in result.stderr
    finally:
        del stack.environment["STACK_TRASH_DAYS"]
        stack.compose(*migrate)
    name = make_model(client)
    client.delete_registered_model(name)
    undo(stack, find(stack, "model", name)["id"])
    assert client.get_registered_model(name).name == name


def test_what_can_not_be_is_refused_in_one_line(stack: Deployment, client: MlflowClient) -> None:
    for identifier in ("0", "9" * 18, "9" * 30, "nope", "", "-", "1;DROP TABLE runs"):
        refuse(stack, "there is no ", "--", identifier)
    result = stack.tool("artifacts").run("trash", "--kind", "everything")
    assert (result.returncode, "--kind 'everything' is none of experiment, run" in result.stderr) == (1, True)
    with pytest.raises(MlflowException):
        client.get_registered_model("nope")
