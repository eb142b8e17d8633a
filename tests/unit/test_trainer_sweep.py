"""The search of hyper-parameters without containers: its three steps, who does which trial, what is refused."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner, Result

from sweep import folder as folders
from sweep.cli import EARLY, UNENDED
from sweep.study import Study
from unit.trainer_store import open_store
from wine import cli
from wine.names import MODEL

FAST = ["--model", "Ridge", "--trials", "4", "--folds", "2"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    monkeypatch.setenv("STACK_SWEEPS", str(tmp_path / "sweeps"))
    with open_store(tmp_path) as uri:
        yield uri


def run(step: str, *arguments: str) -> Result:
    commands = {"open": "sweep", "work": "sweep-work", "close": "sweep-close"}
    return CliRunner().invoke(cli.app, [commands[step], *arguments])


def begin(*arguments: str) -> str:
    result = run("open", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def complete(sweep: str) -> str:
    for step in ("work", "close"):
        result = run(step, sweep)
        assert result.exit_code == 0, result.output
    return result.stdout


def list_children(sweep: str) -> list[Run]:
    parent = MlflowClient().get_run(sweep)
    query = f"tags.`mlflow.parentRunId` = '{sweep}'"
    return list(MlflowClient().search_runs([parent.info.experiment_id], query, order_by=["start_time"]))


def list_trials(sweep: str) -> list[FrozenTrial]:
    folder = folders.open_folder(sweep)
    return Study(folder, folder.read_plan()).optuna.trials


def test_a_sweep_from_its_begin_to_its_registered_model() -> None:
    sweep = begin("--trials", "6", "--no-prune", "--folds", "3")
    printed = complete(sweep)
    client = MlflowClient()
    parent = client.get_run(sweep)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "Sweep ElasticNet")
    assert parent.data.params == {"model": "ElasticNet", "metric": "rmse", "folds": "3", "seed": "40", "trials": "6"}
    assert [parent.data.metrics[f"trials_{state}"] for state in ("complete", "pruned", "fail")] == [6, 0, 0]
    plots = {f"sweep/{name}.png" for name in ("history", "parallel-coordinates", "importance", "contour")}
    assert {item.path for item in client.list_artifacts(sweep, "sweep")} == plots | {"sweep/trials.csv"}

    best, *trials = sorted(list_children(sweep), key=lambda child: "sweep.trial" in child.data.tags)
    assert [trial.data.tags["sweep.state"] for trial in trials] == ["COMPLETE"] * 6
    assert all(trial.data.params.keys() == {"model", "alpha", "l1_ratio"} for trial in trials)
    errors = [trial.data.metrics["cv_rmse"] for trial in trials]
    assert parent.data.metrics["best_cv_rmse"] == best.data.metrics["cv_rmse"] == min(errors) < max(errors)
    winner = next(trial for trial in trials if trial.data.metrics["cv_rmse"] == min(errors))
    assert {name: best.data.params[name] for name in ("alpha", "l1_ratio")} == {
        name: winner.data.params[name] for name in ("alpha", "l1_ratio")
    }
    (version,) = client.search_model_versions(f"name = '{MODEL}'")
    assert (version.run_id, version.current_stage) == (best.info.run_id, "None")
    assert client.get_registered_model(MODEL).aliases == {}
    assert f"Registered {MODEL} version 1 (not promoted)" in printed
    assert run("close", sweep).exit_code == 1  # it has ended: nothing is left of it but what is in MLflow


def test_the_mean_over_the_folds_is_what_is_compared() -> None:
    sweep = begin(*FAST, "--no-prune")
    complete(sweep)
    trial = next(child for child in list_children(sweep) if child.data.tags.get("sweep.trial") == "0")
    folds = MlflowClient().get_metric_history(trial.info.run_id, "fold_rmse")
    assert [point.step for point in folds] == [0, 1]
    assert trial.data.metrics["cv_rmse"] == pytest.approx(sum(point.value for point in folds) / 2)


def test_a_pruned_trial_shows_no_mean_that_could_be_taken_for_one_of_all_folds() -> None:
    sweep = begin("--trials", "16", "--folds", "3")
    complete(sweep)
    pruned = [child for child in list_children(sweep) if child.data.tags.get("sweep.state") == "PRUNED"]
    assert pruned
    assert not any(name.startswith("cv_") for child in pruned for name in child.data.metrics)
    assert {child.info.status for child in pruned} == {"KILLED"}
    parent = MlflowClient().get_run(sweep).data.metrics
    assert (parent["trials_complete"] + parent["trials_pruned"], parent["trials_pruned"]) == (16, len(pruned))


def test_the_same_seed_gives_the_same_trials_and_another_gives_others() -> None:
    def search(seed: str) -> list[tuple[dict[str, object], list[float] | None]]:
        sweep = begin("--trials", "12", "--folds", "2", "--seed", seed, "--no-register")
        assert run("work", sweep).exit_code == 0
        return [(trial.params, trial.values) for trial in list_trials(sweep)]

    assert search("7") == search("7") != search("8")


def test_a_dead_workers_trial_is_done_again_as_it_would_have_been() -> None:
    whole = begin(*FAST, "--no-prune")
    assert run("work", whole).exit_code == 0
    sweep = begin(*FAST, "--no-prune")
    folder = folders.open_folder(sweep)
    study = Study(folder, folder.read_plan())
    with folder.hold_life("one that dies"):
        trial = study.claim("one that dies", lambda _: None)
        assert trial
    MlflowClient().create_run(
        folder.read_plan().experiment_id, tags={"mlflow.parentRunId": sweep, "sweep.trial": str(trial.number)}
    )
    result = run("work", sweep)
    assert result.exit_code == 0, result.output
    lost, *others = list_trials(sweep)
    assert lost.state == TrialState.FAIL
    assert [(trial.params, trial.values) for trial in others] == [
        (trial.params, trial.values) for trial in list_trials(whole)
    ]
    dead, *alive = list_children(sweep)
    assert dead.info.status == "FAILED"
    assert "its worker ended" in dead.data.tags["failure.reason"]
    assert [child.info.status for child in alive] == ["FINISHED"] * 4


def test_never_more_trials_are_under_way_than_are_missing_and_a_waiting_worker_takes_over() -> None:
    sweep = begin(*FAST, "--trials", "1")
    folder = folders.open_folder(sweep)
    study = Study(folder, folder.read_plan())
    life = folder.hold_life("first")
    assert study.claim("first", lambda _: None)
    claimed: list[object] = []

    def wait() -> None:
        with folder.hold_life("second"):
            claimed.append(Study(folder, folder.read_plan()).claim("second", lambda _: None))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(1.2)
    assert claimed == []
    life.close()  # the first one dies
    waiting.join(10)
    assert len(claimed) == 1
    assert [trial.state for trial in list_trials(sweep)] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_sweep_without_all_its_trials_is_not_closed_and_goes_on() -> None:
    sweep = begin(*FAST)
    result = run("close", sweep)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "the workers ended after 0 of 4 trials: ./stack sweep --resume goes on" in result.stderr
    assert MlflowClient().get_run(sweep).info.status == "KILLED"
    resumed = run("open", "--resume", "--trials", "3")
    assert resumed.stdout.strip() == sweep
    assert MlflowClient().get_run(sweep).info.status == "RUNNING"
    complete(sweep)
    assert MlflowClient().get_run(sweep).data.metrics["trials_complete"] == 3


def test_the_worker_that_opens_a_sweep_ends_it_if_it_is_the_last_and_one_that_comes_late_says_nothing() -> None:
    result = run("open", *FAST, "--call", "first")
    assert result.exit_code == 0, result.output
    assert "Registered Wine_Ridge version 1" in result.stdout
    assert not [path for path in Path("sweeps").iterdir() if path.exists()]
    late = [run("work", "first", "--wait"), run("close", "first", "--unless-ended")]
    assert [(result.exit_code, result.output) for result in late] == [(0, ""), (0, "")]


def test_a_worker_that_is_not_the_last_does_not_end_the_sweep() -> None:
    folder = folders.open_folder(begin(*FAST))
    folders.answer("call", folder)
    with folder.hold_life("another"):
        first = run("work", "call", "--wait")
    assert (first.exit_code, folder.path.exists()) == (0, True)
    assert "4/4" in first.stdout
    last = run("work", "call", "--wait", "--number", "2")
    assert (last.exit_code, folder.path.exists()) == (0, False), last.output
    assert "Registered Wine_Ridge version 1" in last.stdout


def test_a_worker_waits_for_its_sweep_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[folders.Folder | None] = []
    waiting = threading.Thread(target=lambda: found.append(folders.await_folder("call")))
    waiting.start()
    folder = folders.open_folder(begin(*FAST))
    assert found == []
    folders.answer("call", folder)
    waiting.join(10)
    assert [seen and seen.run_id for seen in found] == [folder.run_id]
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    result = run("work", "another call", "--wait")
    assert (result.exit_code, result.stdout) == (EARLY, "")
    assert result.stderr == "error: no sweep has begun within 0 s: look above for the reason, or try again\n"


def test_a_last_worker_that_can_not_end_the_sweep_says_so_by_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.study.Study.find_best", lambda _: None)
    result = run("open", *FAST, "--call", "first")
    assert result.exit_code == UNENDED
    assert "none of 4 trials is complete" in result.stderr


def test_links_to_sweeps_that_ended_long_ago_go() -> None:
    folder = folders.open_folder(begin(*FAST))
    links = [Path("sweeps", name) for name in ("old", "young")]
    for link in links:
        link.symlink_to("ended")
    os.utime(links[0], (1, 1), follow_symlinks=False)
    folders.answer("call", folder)
    assert [link.is_symlink() for link in links] == [False, True]


def test_when_the_time_is_up_the_best_so_far_is_registered_and_the_sweep_can_go_on() -> None:
    sweep = begin(*FAST, "--timeout", "1h")
    folder = folders.open_folder(sweep)
    study = Study(folder, folder.read_plan())
    with folder.hold_life("one"):
        trial = study.claim("one", lambda _: None)
        assert trial
        study.optuna.tell(trial, 0.7)
    plan = json.loads((folder.path / "plan.json").read_text())
    (folder.path / "plan.json").write_text(json.dumps(plan | {"deadline": time.time()}))
    assert "The time was up after 1 of 4 trials: ./stack sweep --resume goes on" in complete(sweep)
    assert len(list_trials(sweep)) == 1
    folders.answer("call", folder)
    late = [run("work", "call", "--wait"), run("close", "call", "--unless-ended")]
    assert [(result.exit_code, result.output) for result in late] == [(0, ""), (0, "")]
    again = run("open", "--resume")
    assert not folder.rests
    assert again.stdout.strip() == sweep
    complete(sweep)
    versions = MlflowClient().search_model_versions("name = 'Wine_Ridge'")
    best = {version.tags["sweep.trial"] for version in versions}
    assert len(best) == len(versions) == 2


def test_an_end_that_was_killed_registers_no_second_version(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = begin(*FAST)
    assert run("work", sweep).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(folders.Folder, "remove", lambda _: None)  # as if it had died just before
        assert run("close", sweep).exit_code == 0
    assert run("close", sweep).exit_code == 0
    assert len(MlflowClient().search_model_versions("name = 'Wine_Ridge'")) == 1


def test_trials_that_the_estimator_refuses_end_the_search_with_the_reason() -> None:
    sweep = begin("--model", "Ridge", "--space", '{"alpha": [-1, -2]}', "--trials", "20", "--folds", "2")
    result = run("work", sweep)
    assert result.exit_code == EARLY
    assert "5 of 5 trials failed, the last since Ridge refuses this: The 'alpha' parameter" in result.stderr
    assert [child.info.status for child in list_children(sweep)] == ["FAILED"] * 5


def test_a_classifier_is_searched_by_its_own_metric() -> None:
    sweep = begin("--model", "KNeighborsClassifier", "--metric", "f1", "--trials", "3", "--folds", "2", "--no-register")
    assert "cv f1" in complete(sweep)
    parent = MlflowClient().get_run(sweep)
    values = [child.data.metrics["cv_f1"] for child in list_children(sweep) if "cv_f1" in child.data.metrics]
    assert parent.data.metrics["best_cv_f1"] == max(values)


def test_a_space_of_every_kind() -> None:
    space = {
        "n_estimators": {"low": 2, "high": 5},
        "min_samples_split": {"low": 0.1, "high": 0.5},
        "criterion": ["squared_error", "friedman_mse"],
        "max_depth": [None, 3],
        "bootstrap": [True, False],
    }
    options = ["--model", "RandomForestRegressor", "--trials", "4", "--folds", "2"]
    sweep = begin(*options, "--space", json.dumps(space), "--params", '{"max_features": 0.5}')
    assert run("work", sweep).exit_code == 0
    for trial in list_trials(sweep):
        assert trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
        assert trial.params.keys() == space.keys()
        assert isinstance(trial.params["n_estimators"], int)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--model", "ARDRegression"], "no search space is known for ARDRegression: give one by --space"),
        (["--space", "{"], "--space is '{', no JSON"),
        (["--space", "{}"], "--space has nothing to search"),
        (["--space", '{"alfa": [1]}'], "--space has 'alfa', which ElasticNet doesn't take: did you mean alpha?"),
        (["--space", '{"alpha": 3}'], "--space has 3 for alpha: write a list of values"),
        (["--space", '{"alpha": {"low": 2, "high": 1}}'], "for alpha: low is to be less than high"),
        (["--space", '{"alpha": {"low": 0, "high": 1, "log": true}}'], "and with log above 0"),
        (["--space", '{"alpha": [1]}', "--params", '{"alpha": 1}'], "alpha is in --space and in --params"),
        (["--params", '{"alpha": 1, "l1_ratio": 0}'], "--space has nothing to search"),
        (["--metric", "f1"], "--metric is 'f1', but ElasticNet is a regressor: choose rmse, mae, r2"),
        (["--model", "Ridg"], "--model is 'Ridg', no regressor or classifier"),
        (["--model", "SVC", "--folds", "20"], "a class has 8 rows to train on, fewer than --folds 20"),
        (["--resume"], "no sweep is unfinished: start one by ./stack sweep"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options: list[str], complaint: str) -> None:
    result = run("open", *options)
    assert result.exit_code == 1, result.output
    assert complaint in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stdout == ""
    assert list(Path("sweeps").iterdir()) == []
    assert MlflowClient().get_experiment_by_name("Wine Regression") is None


@pytest.mark.parametrize(
    "options",
    [["--trials", "0"], ["--timeout", "5"], ["--timeout", "0m"], ["--folds", "1"], ["--resume", "--seed", "1"], ["x"]],
)
def test_bad_usage_exits_with_2(options: list[str]) -> None:
    assert run("open", *options).exit_code == 2


def test_a_sweep_under_way_is_not_resumed_by_another() -> None:
    folder = folders.open_folder(begin(*FAST))
    with folder.hold_life("worker-1"):
        result = run("open", "--resume")
    assert result.exit_code == 1
    assert "is under way with 1 workers" in result.stderr


def test_a_sweep_goes_on_with_the_table_that_it_began_with(tmp_path: Path) -> None:
    source = Path(cli.__file__).parents[1] / "data" / "winequality-red.csv"
    (tmp_path / "mine.csv").write_text(source.read_text())
    sweep = begin(*FAST, "--data", str(tmp_path / "mine.csv"))
    (tmp_path / "mine.csv").unlink()
    complete(sweep)
    assert MlflowClient().search_model_versions("name = 'mine_Ridge'")
