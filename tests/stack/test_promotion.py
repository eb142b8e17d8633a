"""The gate before Production, the way back, and the server's part: alias, stage, tags and history agree."""

from __future__ import annotations

import re
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.server.auth.client import AuthServiceClient
from sklearn.linear_model import LinearRegression

from lifecycle import promotion, registry, reversal
from lifecycle.gate import Limits
from lifecycle.promotion import Order
from lifecycle.refusals import Refused
from stack.accounts import PASSWORD
from stack.deployment import Deployment, wait_until
from tracking.champion import LOCK
from wine import gateway
from wine.errors import TrainerError
from wine.settings import Settings

Login = tuple[str, str]
Act = Callable[[Login], None]
MakeUser = Callable[[str], Login]
Become = Callable[..., Login]
WINE = "Wine_Elasticnet_Sklearn_Regressor"
ALIAS_ROUTES = [f"/{api}/2.0/mlflow/registered-models/alias" for api in ("api", "ajax-api")]
STAGE_ROUTES = [f"/{api}/2.0/mlflow/model-versions/transition-stage" for api in ("api", "ajax-api")]


# ------------------------------------------------------------------------------------------------- what there is to see
@dataclass(frozen=True)
class Shown:
    """What a client sees of a model."""

    alias: str | None
    stages: dict[str, str]
    tags: dict[str, dict[str, str]]

    def promoted(self, version: int) -> tuple[str | None, str | None]:
        """Return by whom, and from which version on."""
        tags = self.tags[str(version)]
        return tags.get("stack.promoted_by"), tags.get("stack.promoted_from")


def look(client: MlflowClient, name: str) -> Shown:
    versions = client.search_model_versions(f"name = '{name}'")
    return Shown(
        alias=client.get_registered_model(name).aliases.get("production"),
        stages={str(v.version): v.current_stage for v in versions},
        tags={str(v.version): dict(v.tags) for v in versions},
    )


def assert_in_production(client: MlflowClient, name: str, version: int | None) -> Shown:
    """Alias and stage say the same, and nothing else is in Production."""
    shown = look(client, name)
    assert shown.alias == (None if version is None else str(version))
    assert [number for number, stage in shown.stages.items() if stage == "Production"] == (
        [] if version is None else [str(version)]
    )
    return shown


def make_model(client: MlflowClient, versions: int) -> str:
    """Make a model whose versions have no files."""
    name = f"p{time.time_ns()}"
    run = client.create_run("0", run_name="promotion").info.run_id
    client.create_registered_model(name)
    for _ in range(versions):
        client.create_model_version(name, f"runs:/{run}/model", run, await_creation_for=0)
    return name


def move_stage(client: MlflowClient, name: str, version: int, stage: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(name, str(version), stage)


# ------------------------------------------------------------------------------------------------------ alias and stage
@pytest.mark.parametrize("route", ALIAS_ROUTES)
def test_who_sets_the_alias_moves_the_stage_too(
    stack: Deployment, admin: Login, client: MlflowClient, route: str
) -> None:
    name = make_model(client, 2)
    for version in (1, 2):
        body = {"name": name, "alias": "production", "version": str(version)}
        assert stack.ask(route, admin, "POST", json=body).ok
        assert_in_production(client, name, version)
    shown = look(client, name)
    assert shown.stages == {"1": "Archived", "2": "Production"}
    assert (shown.promoted(1), shown.promoted(2)) == (("admin", "none"), ("admin", "1"))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown.tags["2"]["stack.promoted_at"])
    assert stack.ask(route, admin, "DELETE", json={"name": name, "alias": "production"}).ok
    assert assert_in_production(client, name, None).stages == {"1": "Archived", "2": "Archived"}


@pytest.mark.parametrize("route", STAGE_ROUTES)
@pytest.mark.parametrize("archives", [True, False])
def test_who_sets_the_stage_moves_the_alias_too(
    stack: Deployment, client: MlflowClient, make_user: MakeUser, route: str, archives: bool
) -> None:
    name, login = make_model(client, 2), make_user("promoter")
    for version in (1, 2):
        body = {"name": name, "version": str(version), "stage": "Production", "archive_existing_versions": archives}
        assert stack.ask(route, login, "POST", json=body).ok
        assert_in_production(client, name, version)
    assert look(client, name).promoted(2) == (login[0], "1")
    # A version that is not there may go where it likes; the one that is there takes the alias away with it.
    move_stage(client, name, 1, "Staging")
    assert_in_production(client, name, 2)
    move_stage(client, name, 2, "Staging")
    assert assert_in_production(client, name, None).stages == {"1": "Staging", "2": "Staging"}


def test_deleting_and_renaming_leave_nothing_apart(client: MlflowClient) -> None:
    name = make_model(client, 3)
    client.set_registered_model_alias(name, "production", "1")
    client.set_registered_model_alias(name, "production", "2")
    client.delete_model_version(name, "3")
    assert_in_production(client, name, 2)
    client.rename_registered_model(name, f"{name}-renamed")
    name = f"{name}-renamed"
    assert assert_in_production(client, name, 2).promoted(2) == ("admin", "1")
    client.delete_model_version(name, "2")
    assert_in_production(client, name, None)
    reversal.roll_back(client, name, print)
    assert_in_production(client, name, 1)


def test_what_fails_changes_nothing_and_holds_no_lock(client: MlflowClient) -> None:
    name = make_model(client, 1)
    client.set_registered_model_alias(name, "production", "1")
    attempts: list[Callable[[], Any]] = [
        lambda: client.set_registered_model_alias(name, "production", "9"),
        lambda: client.set_registered_model_alias(name, "production", "x"),
        lambda: move_stage(client, name, 9, "Production"),
        lambda: move_stage(client, name, 1, "Nowhere"),
        lambda: client.set_registered_model_alias(f"{name}-not-there", "production", "1"),
    ]
    for attempt in attempts:
        with pytest.raises(MlflowException):
            attempt()
        assert_in_production(client, name, 1)


def test_a_prompt_has_aliases_and_no_stage(stack: Deployment, admin: Login, client: MlflowClient) -> None:
    name = f"prompt{time.time_ns()}"
    mlflow.genai.register_prompt(name=name, template="Say {{what}}")
    mlflow.genai.set_prompt_alias(name, "production", 1)
    assert mlflow.genai.load_prompt(f"prompts:/{name}@production").version == 1
    found = stack.ask("/api/2.0/mlflow/model-versions/get", admin, params={"name": name, "version": "1"}).json()
    assert found["model_version"]["current_stage"] == "None"
    assert not [tag for tag in found["model_version"]["tags"] if tag["key"].startswith("stack.")]


def test_of_two_promotions_against_the_same_champion_one_wins(
    stack: Deployment, admin: Login, client: MlflowClient
) -> None:
    rounds = 12
    name = make_model(client, 2 * rounds)
    champion = "none"
    for first in range(1, 2 * rounds, 2):
        # (each over a connection of its own, to spread over the workers)
        def claim(version: int, champion: str = champion) -> int:
            body = {"name": name, "alias": "production", "version": str(version)}
            headers = {"X-Stack-Champion": champion}
            return stack.ask(ALIAS_ROUTES[0], admin, "POST", json=body, headers=headers).status_code

        with ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(claim, [first, first + 1]))
        assert sorted(codes) == [200, 409]
        winner = first + codes.index(200)
        assert_in_production(client, name, winner)
        champion = str(winner)
    # Who asks again because the answer was lost has won all the same.
    assert claim(int(champion), "none") == 200


@pytest.fixture
def psql(stack: Deployment) -> Iterator[Callable[[str], str]]:
    """Return a function that asks one session of the database for one line."""
    command = ["docker", "compose", "exec", "-T", "postgres", "psql", "-qtA", "-d", "mlflow"]
    with subprocess.Popen(command, cwd=stack.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None

        def ask(sql: str) -> str:
            print(sql + ";", file=session.stdin, flush=True)
            return str(session.stdout.readline()).strip()  # type: ignore[union-attr]

        yield ask
        session.stdin.close()


def test_what_a_rule_saw_is_still_so_when_mlflow_does_its_work(
    stack: Deployment, client: MlflowClient, make_user: MakeUser, act_as: Act, psql: Callable[[str], str]
) -> None:
    """An editor deletes a version of their own at the moment in which somebody promotes it."""
    editor = make_user("editor")
    act_as(editor)
    name = make_model(client, 1)
    key = f"{LOCK}, hashtext('{name}')"
    psql(f"select pg_advisory_lock({key}) is null")
    with ThreadPoolExecutor(1) as pool:
        path, body = "/api/2.0/mlflow/model-versions/delete", {"name": name, "version": "1"}
        deleting = pool.submit(stack.ask, path, editor, "DELETE", json=body)
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        wait_until(lambda: psql(waiting) == "1", "the request waits for the promotion")
        columns = "(workspace, name, alias, version)"
        added = f"insert into registered_model_aliases {columns} values ('default', '{name}', 'production', 1)"
        assert psql(f"{added} returning version") == "1"
        assert psql(f"select pg_advisory_unlock({key})") == "t"
        assert deleting.result().status_code == 403
    assert client.get_model_version(name, "1").aliases == ["production"]


# ----------------------------------------------------------------------------------------------------------------- tags
def test_the_tags_of_a_promotion_can_not_be_forged(
    client: MlflowClient, make_user: MakeUser, act_as: Act, stack: Deployment
) -> None:
    editor, promoter = make_user("editor"), make_user("promoter")
    name = make_model(client, 1)
    client.set_registered_model_alias(name, "production", "1")
    before = look(client, name).tags["1"]
    own = ["stack.promoted_by", "stack.promoted_at", "stack.promoted_from"]
    for login, keys in ((editor, [*own, "stack.gate", "stack.anything"]), (promoter, own)):
        act_as(login)
        for key in keys:
            with pytest.raises(MlflowException):
                client.set_model_version_tag(name, "1", key, "somebody")
            with pytest.raises(MlflowException):
                client.delete_model_version_tag(name, "1", key)
        with pytest.raises(MlflowException):
            client.set_registered_model_tag(name, "stack.production", "7")
        with pytest.raises(MlflowException):
            client.delete_registered_model_tag(name, "stack.production")
        with pytest.raises(MlflowException):
            client.create_registered_model(f"{name}-forged", tags={"stack.production": "7"})
    client.set_model_version_tag(name, "1", "stack.gate", "passed")  # a promoter's own
    client.set_model_version_tag(name, "1", "release", "2.2.2")
    assert look(client, name).tags["1"] == before | {"stack.gate": "passed", "release": "2.2.2"}
    # A new version has none, though MLflow copies a version with all its tags.
    act_as(editor)
    body = {"name": name, "source": f"models:/{name}/1", "tags": [{"key": key, "value": "x"} for key in [*own, "mine"]]}
    for api in ("api", "ajax-api"):
        made = stack.ask(f"/{api}/2.0/mlflow/model-versions/create", editor, "POST", json=body)
        assert made.ok, made.text
        assert look(client, name).tags[made.json()["model_version"]["version"]] == {"mine": "x"}
    copied = client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
    assert dict(client.get_model_version(f"{name}-copy", copied.version).tags) == {"release": "2.2.2"}


# ------------------------------------------------------------------------------------------------------------- rollback
def test_rollback_goes_back_a_version_each_time(client: MlflowClient) -> None:
    name = make_model(client, 4)
    said: list[str] = []

    def roll_back() -> str:
        reversal.roll_back(client, name, said.append)
        return said[-1]

    with pytest.raises(TrainerError, match="in Production before nobody"):
        roll_back()
    for version in (1, 2, 3):
        client.set_registered_model_alias(name, "production", str(version))
    assert roll_back() == f"Version 2 of {name} is in Production again; version 3 is archived"
    assert assert_in_production(client, name, 2).promoted(2) == ("admin", "3")
    roll_back()
    assert_in_production(client, name, 1)
    with pytest.raises(TrainerError, match=f"no version of {name} was in Production before version 1"):
        roll_back()
    assert_in_production(client, name, 1)
    # What comes after a rollback is remembered from there on; what was deleted is passed over.
    for version in (4, 2, 3):
        client.set_registered_model_alias(name, "production", str(version))
    client.delete_model_version(name, "2")
    roll_back()
    assert_in_production(client, name, 4)
    # Nobody is there: back to the last one that was.
    client.delete_registered_model_alias(name, "production")
    roll_back()
    assert_in_production(client, name, 4)
    roll_back()
    assert_in_production(client, name, 1)


# ----------------------------------------------------------------------------------------------------------------- gate
@dataclass(frozen=True)
class Zoo:
    """A model with versions of all kinds, and rows to compare them on."""

    name: str
    rows: Path
    versions: dict[str, int]

    def order(self, kind: str, reason: str | None = None, **limits: Any) -> Order:
        return Order(self.name, self.versions[kind], Limits(**limits), self.rows, "rows.csv", "y", reason)


def log(name: str, frame: pd.DataFrame, coefficients: list[float], form: str = "skops") -> Any:
    inputs = frame[["a", "b", "c"][: len(coefficients)]]
    model = LinearRegression().fit(inputs, frame["y"])
    model.coef_ = np.array(coefficients)
    model.intercept_ = 0.0
    return mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(inputs, frame["y"].to_numpy()),
        input_example=inputs.head(2),
        pip_requirements=["scikit-learn"],
        serialization_format=form,
        registered_model_name=name,
    )


@pytest.fixture(scope="module")
def zoo(stack: Deployment) -> Iterator[Zoo]:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in stack.login().items():
            patch.setenv(variable, value)
        name, rng = f"zoo{time.time_ns()}", np.random.default_rng(1)
        frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
        frame["y"] = 2 * frame["a"] - frame["b"] + 0.1 * rng.normal(size=60)
        kinds = {"good": [1.8, -1.0], "better": [2.0, -1.0], "worse": [1.0, -1.0], "nan": [float("nan"), -1.0]}
        kinds |= {"signature": [2.0, -1.0, 0.0], "gone": [2.0, -1.0], "pickle": [2.0, -1.0]}
        client, versions = MlflowClient(), {}
        experiment = client.create_experiment(name)
        for kind, coefficients in kinds.items():
            with mlflow.start_run(experiment_id=experiment, run_name=kind):
                mlflow.log_metric("rmse", {"better": 0.1, "good": 0.2}.get(kind, 9.0))
                logged = log(name, frame, coefficients, "cloudpickle" if kind == "pickle" else "skops")
            versions[kind] = int(logged.registered_model_version)
            if kind == "gone":
                folder = logged.artifact_path.removeprefix("mlflow-artifacts:/")
                path = f"/api/2.0/mlflow-artifacts/artifacts/{folder}/model.skops"
                assert stack.ask(path, tuple(stack.login().values())[1:3], "DELETE").ok  # type: ignore[arg-type]
        rows = stack.root / "rows.csv"
        frame.to_csv(rows, index=False)
        yield Zoo(name, rows, versions)


@pytest.fixture
def champion(zoo: Zoo, client: MlflowClient) -> str:
    """The good one is in Production."""
    client.set_registered_model_alias(zoo.name, "production", str(zoo.versions["good"]))
    return str(zoo.versions["good"])


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("worse", {}, r"improvement: Metric root_mean_squared_error .*candidate .*= 0\.9\d+, baseline .*= 0\.2\d+"),
    ("better", {"min_improvement": 0.9}, r"improvement: .*candidate .*= 0\.\d+, baseline .*= 0\.\d+.*threshold = 0\.9"),
    ("better", {"thresholds": {"r2_score": 0.9999}}, r"threshold: .*r2_score = 0\.\d+, r2_score threshold = 0\.9999"),
    ("better", {"max_latency": 0.001}, r"latency: .* takes \d+\.\d+ ms for one row .*, the limit is 0\.001 ms"),
    ("nan", {}, r"prediction: .*input example, answers no finite number for 2 of 2 rows"),
    ("signature", {}, r"signature: version \d of \w+ needs the column 'c', version \d of \w+ has none"),
    ("gone", {}, r"artifact: .*model\.skops"),
    ("pickle", {}, r"format: version \d of \w+ is saved as cloudpickle.*--trust-model"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[f"{r[0]}-{'-'.join(r[1])}" for r in REFUSALS])
def test_a_candidate_that_breaks_a_rule_is_refused_with_both_figures(
    client: MlflowClient, zoo: Zoo, champion: str, refusal: tuple[str, dict[str, Any], str]
) -> None:
    kind, limits, line = refusal
    with pytest.raises(Refused) as raised:
        promotion.promote(client, zoo.order(kind, **limits), print)
    assert re.match(line, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)
    tags = assert_in_production(client, zoo.name, int(champion)).tags[str(zoo.versions[kind])]
    assert tags["stack.gate"] == "refused"
    assert tags["stack.gate_rule"] == str(raised.value)[:1000]
    run = client.get_run(tags["stack.gate_run"])
    assert run.data.tags["stack.gate"] == "refused"
    assert "stack.promoted_by" not in tags


def test_a_better_candidate_goes_to_production_and_the_evaluation_is_a_run(
    client: MlflowClient, zoo: Zoo, champion: str
) -> None:
    assert promotion.find_best(client, zoo.name, "rmse") == (zoo.versions["better"], 0.1)
    limits: dict[str, Any] = {"thresholds": {"r2_score": 0.9}, "min_improvement": 0.1, "max_latency": 1000.0}
    promotion.promote(client, zoo.order("better", **limits), print)
    shown = assert_in_production(client, zoo.name, zoo.versions["better"])
    assert shown.stages[champion] == "Archived"
    tags = shown.tags[str(zoo.versions["better"])]
    assert (tags["stack.gate"], tags["stack.promoted_by"], tags["stack.promoted_from"]) == ("passed", "admin", champion)
    run = client.get_run(tags["stack.gate_run"])
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "Promotions"
    metrics = run.data.metrics
    assert 0 < metrics["root_mean_squared_error"] < metrics["champion_root_mean_squared_error"]
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert [child.info.run_name for child in children] == [f"champion {champion}"]
    assert children[0].data.metrics["root_mean_squared_error"] == metrics["champion_root_mean_squared_error"]


def test_without_a_champion_that_works_the_absolute_rules_decide(client: MlflowClient, zoo: Zoo) -> None:
    client.set_registered_model_alias(zoo.name, "production", "1")
    client.delete_registered_model_alias(zoo.name, "production")
    with pytest.raises(Refused, match="threshold"):
        promotion.promote(client, zoo.order("worse", thresholds={"root_mean_squared_error": 0.5}), print)
    assert_in_production(client, zoo.name, None)
    promotion.promote(client, zoo.order("worse"), print)
    assert_in_production(client, zoo.name, zoo.versions["worse"])
    client.set_registered_model_alias(zoo.name, "production", str(zoo.versions["gone"]))
    said: list[str] = []
    promotion.promote(client, zoo.order("worse"), said.append)
    assert any("absolute rules alone decide" in line for line in said)
    assert_in_production(client, zoo.name, zoo.versions["worse"])


def test_a_format_that_can_run_code_needs_trust(client: MlflowClient, zoo: Zoo, champion: str) -> None:
    promotion.promote(client, zoo.order("pickle", trusts=True), print)
    assert_in_production(client, zoo.name, zoo.versions["pickle"])
    with pytest.raises(
        Refused, match=f"format: version {zoo.versions['pickle']} "
    ):  # nor is it run to be compared with
        promotion.promote(client, zoo.order("worse"), print)
    with pytest.raises(Refused, match="improvement: "):
        promotion.promote(client, zoo.order("worse", trusts=True), print)


def test_who_is_overtaken_while_the_gate_looks_is_refused(client: MlflowClient, zoo: Zoo, champion: str) -> None:
    def overtake(_line: str) -> None:
        client.set_registered_model_alias(zoo.name, "production", str(zoo.versions["pickle"]))

    for reason in (None, "because"):
        client.set_registered_model_alias(zoo.name, "production", champion)
        with pytest.raises(Refused, match=f"champion: .* has version {zoo.versions['pickle']} in Production now"):
            promotion.promote(client, zoo.order("better", reason), overtake)
        assert_in_production(client, zoo.name, zoo.versions["pickle"])


# --------------------------------------------------------------------------------------------------------- the command
@pytest.fixture
def become(admin: Login, make_user: MakeUser, act_as: Act, users: AuthServiceClient) -> Become:
    """Return a function after which every client is a new user of a role."""

    def switch(role: str, password: str = PASSWORD) -> Login:
        act_as(admin)
        name, _ = make_user(role)
        if password != PASSWORD:
            users.update_user_password(name, password)
        act_as((name, password))
        return name, password

    return switch


def count_promotions(client: MlflowClient) -> int:
    return len(client.search_runs([client.get_experiment_by_name("Promotions").experiment_id]))


def test_the_command_refuses_with_3_and_one_line_and_forces_with_a_reason(
    stack: Deployment, client: MlflowClient, zoo: Zoo, champion: str, become: Become
) -> None:
    worse = zoo.versions["worse"]
    # (a file or a shell might read such a password otherwise)
    login = become("promoter", "50%-off {x} $HOME 'q' \\n")
    rows = ["--data", str(zoo.rows), "--target", "y"]
    refused = stack.run("promote", zoo.name, "--version", str(worse), *rows)
    assert refused.returncode == 3, refused.stderr
    assert re.fullmatch(rf"refused: {zoo.name}: improvement: .*= 0\.9\d+.*= 0\.2\d+.*\n", refused.stderr), (
        refused.stderr
    )
    said = stack.check(
        "promote", zoo.name, "--version", str(worse), *rows, "--force", "--reason", "the old one is rude"
    )
    assert "forced: the old one is rude" in said
    shown = assert_in_production(client, zoo.name, worse)
    assert shown.promoted(worse) == (login[0], champion)
    assert shown.tags[str(worse)]["stack.gate"] == "forced"
    assert shown.tags[str(worse)]["stack.gate_reason"] == "the old one is rude"
    assert shown.tags[str(worse)]["stack.gate_rule"].startswith("improvement: ")
    run = client.get_run(shown.tags[str(worse)]["stack.gate_run"])
    assert (run.data.tags["mlflow.user"], run.data.tags["stack.gate_reason"]) == (login[0], "the old one is rude")
    assert "in Production again" in stack.check("rollback", zoo.name)
    assert_in_production(client, zoo.name, int(champion))


def test_without_the_right_to_promote_the_answer_is_one_line(
    stack: Deployment, client: MlflowClient, zoo: Zoo, champion: str, become: Become
) -> None:
    editor = become("editor")
    version = str(zoo.versions["worse"])
    result = stack.run("promote", zoo.name, "--version", version, "--data", str(zoo.rows), "--target", "y")
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.fullmatch(rf"error: .*denies this to {editor[0]} \(403, .*role promoter.*\n", result.stderr), (
        result.stderr
    )
    runs = count_promotions(client)
    attempts: list[tuple[str, Callable[[], None]]] = [
        ("editor", lambda: reversal.roll_back(client, zoo.name, print)),
        ("viewer", lambda: reversal.roll_back(client, zoo.name, print)),
        ("viewer", lambda: promotion.promote(client, zoo.order("worse"), print)),
        ("viewer", lambda: promotion.promote(client, zoo.order("worse", "because"), print)),
    ]
    for role, attempt in attempts:
        login = become(role)
        line = rf"denies this to {login[0]} \(403, "
        with pytest.raises(TrainerError, match=line), gateway.explained(Settings(stack.url)):
            attempt()
    assert count_promotions(client) == runs
    assert_in_production(client, zoo.name, int(champion))


def test_bad_arguments_are_one_line(stack: Deployment, client: MlflowClient) -> None:
    model = registry.read_model(client, WINE)
    with pytest.raises(TrainerError, match=f"{WINE} has no version 99: it has 1, 2"):
        promotion.promote(client, Order(WINE, 99), print)
    with pytest.raises(TrainerError, match=r"no registered model 'Nobody' that"):
        promotion.promote(client, Order("Nobody", 1), print)
    with pytest.raises(TrainerError, match=r"no version of .* has a run with metric 'profit'"):
        promotion.find_best(client, WINE, "profit:max")
    assert registry.read_model(client, WINE) == model
    for arguments, code, part in (
        (("promote", WINE, "--version", "1", "--force"), 2, "--force needs --reason"),
        (("promote", WINE, "--version", "1", "--data", "nowhere.csv"), 1, "'nowhere.csv' is not a file"),
    ):
        result = stack.run(*arguments)
        assert (result.returncode, result.stderr.count("\n")) == (code, 1), result.stderr
        assert part in result.stderr


def test_the_wine_is_compared_on_the_quarter_that_its_seed_held_out(client: MlflowClient) -> None:
    model = registry.read_model(client, WINE)
    other = next(number for number in sorted(model.versions) if number != model.champion)
    said: list[str] = []
    with pytest.raises(Refused):
        promotion.promote(client, Order(model.name, other, Limits(thresholds={"r2_score": 0.999})), said.append)
    run = client.get_run(client.get_model_version(model.name, str(other)).run_id)
    assert f"red wines held out by seed {run.data.params['seed']}" in said[-1]
    gate = client.get_run(client.get_model_version(model.name, str(other)).tags["stack.gate_run"])
    assert gate.data.metrics["root_mean_squared_error"] == pytest.approx(run.data.metrics["rmse"])
