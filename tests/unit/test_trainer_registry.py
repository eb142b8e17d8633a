"""What the trainer leaves in MLflow: runs, versions, and which of them a bootstrap puts in Production."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from unit.trainer_store import open_store
from wine import gateway, registry, tracking
from wine.data import Split, load_table, split_table
from wine.errors import Terminated, TrainerError
from wine.model import Hyperparameters, fit_model, measure_model
from wine.names import MODEL
from wine.registry import Candidate
from wine.settings import read_settings

LABELS = tracking.Labels("Wine Regression", "Sk_Elasticnet", user="ada", git_commit="c0ffee")
FIRST, SECOND = Hyperparameters(0.5, 0.5), Hyperparameters(0.1, 0.5)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    monkeypatch.chdir(tmp_path)  # where a store without a server puts its artifacts
    with open_store(tmp_path):
        yield gateway.connect(read_settings())


@pytest.fixture(scope="module")
def split() -> Split:
    return split_table(load_table(None, "quality"), seed=40)


def train(client: MlflowClient, split: Split, chosen: Hyperparameters) -> Candidate:
    with tracking.open_run(client, LABELS):
        model = fit_model(split, chosen)
        metrics = measure_model(model, split)
        version = registry.register(client, tracking.log_training(split, chosen, model, metrics))
    return Candidate(version, metrics.rmse)


def find(client: MlflowClient, split: Split, chosen: Hyperparameters) -> Candidate | None:
    return registry.find_candidate(client, tracking.list_params(split, chosen), split.table.digest)


def list_stages(client: MlflowClient) -> dict[str, str]:
    return {str(found.version): found.current_stage for found in registry.list_versions(client)}


def put_in_production(client: MlflowClient, version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(MODEL, version, "Production")


def find_last_run(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name(LABELS.experiment)
    return client.search_runs([experiment.experiment_id], max_results=1)[0]


def test_each_training_becomes_the_next_version_which_names_its_run(client: MlflowClient, split: Split) -> None:
    first, second = train(client, split, FIRST), train(client, split, SECOND)
    assert (first.version, second.version) == ("1", "2")
    assert list_stages(client) == {"1": "None", "2": "None"}
    run = client.get_run(client.get_model_version(MODEL, "2").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"alpha": "0.1", "l1_ratio": "0.5", "seed": "40"}


def test_a_trained_candidate_is_found_again_by_its_params_and_data(client: MlflowClient, split: Split) -> None:
    trained = train(client, split, FIRST)
    assert find(client, split, FIRST) == trained
    assert find(client, split, SECOND) is None
    assert find(client, split_table(split.table, seed=41), FIRST) is None
    assert registry.find_candidate(client, tracking.list_params(split, FIRST), "0" * 16) is None


def test_a_version_whose_run_failed_is_no_candidate(client: MlflowClient, split: Split) -> None:
    train(client, split, FIRST)
    client.set_terminated(client.get_model_version(MODEL, "1").run_id, "FAILED")
    assert find(client, split, FIRST) is None


def test_a_version_whose_run_was_purged_is_no_candidate(client: MlflowClient, split: Split) -> None:
    train(client, split, FIRST)
    client.create_model_version(MODEL, client.get_model_version(MODEL, "1").source, run_id="f" * 32)
    assert find(client, split, SECOND) is None


def test_the_better_candidate_goes_to_production_whatever_the_order(
    client: MlflowClient, split: Split, recwarn: pytest.WarningsRecorder
) -> None:
    better, worse = train(client, split, SECOND), train(client, split, FIRST)
    assert better.rmse < worse.rmse
    assert registry.promote_better(client, [worse, better]) == "1"
    assert list_stages(client) == {"1": "Production", "2": "Archived"}
    assert str(client.get_model_version_by_alias(MODEL, "production").version) == "1"
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_what_settles_it_is_a_version_in_production(client: MlflowClient, split: Split) -> None:
    assert registry.explain_settled(client) is None
    train(client, split, FIRST)
    assert registry.explain_settled(client) is None
    put_in_production(client, "1")
    assert registry.explain_settled(client) == "version 1 is in Production"


def test_what_settles_it_is_an_alias(client: MlflowClient, split: Split) -> None:
    train(client, split, FIRST)
    client.set_registered_model_alias(MODEL, "production", "1")
    assert registry.explain_settled(client) == "version 1 is in Production"


def test_two_versions_of_a_user_settle_it(client: MlflowClient, split: Split) -> None:
    train(client, split, FIRST)
    train(client, split, FIRST)
    assert registry.explain_settled(client) == "2 versions, none in Production: choose one in the UI"


def test_a_bootstrap_that_died_before_its_end_is_not_settled(client: MlflowClient, split: Split) -> None:
    registry.open_bootstrap(client)
    candidates = [train(client, split, FIRST), train(client, split, SECOND)]
    put_in_production(client, "2")
    assert registry.explain_settled(client) is None
    registry.open_bootstrap(client)
    assert registry.promote_better(client, candidates) == "2"
    assert list_stages(client) == {"1": "Archived", "2": "Production"}
    assert registry.explain_settled(client) == "version 2 is in Production"


def test_a_bootstrap_leaves_what_somebody_else_put_in_production(client: MlflowClient, split: Split) -> None:
    registry.open_bootstrap(client)
    candidates = [train(client, split, FIRST), train(client, split, SECOND)]
    train(client, split, Hyperparameters(0.3, 0.3))
    client.set_registered_model_alias(MODEL, "production", "3")
    assert registry.promote_better(client, candidates) == "3"
    assert list_stages(client) == {"1": "None", "2": "None", "3": "None"}
    assert registry.explain_settled(client) == "version 3 is in Production"


def test_a_training_that_raises_ends_its_run_as_failed_with_the_reason(client: MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), tracking.open_run(client, LABELS):
        1 / 0  # noqa: B018
    run = find_last_run(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.reason"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), Terminated("SIGTERM received")])
def test_a_training_that_is_stopped_ends_its_run_as_killed(client: MlflowClient, reason: BaseException) -> None:
    with pytest.raises(type(reason)), tracking.open_run(client, LABELS):
        raise reason
    run = find_last_run(client)
    assert run.info.status == "KILLED"
    assert run.data.tags["failure.reason"].startswith(type(reason).__name__)


def test_an_experiment_is_created_once_and_then_found(client: MlflowClient) -> None:
    assert tracking.find_experiment(client, "New") == tracking.find_experiment(client, "New")


def test_a_deleted_experiment_is_refused_by_name(client: MlflowClient) -> None:
    client.delete_experiment(tracking.find_experiment(client, "Gone"))
    with pytest.raises(TrainerError, match=r"the experiment 'Gone' \(id \d+\) has been deleted: restore it"):
        tracking.find_experiment(client, "Gone")
