"""What gc may remove, by what the database says; whose a folder is; which versions are too old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from admin.faults import FaultError
from artifacts import settings
from artifacts.catalog import EXPERIMENT, MODEL, RUN, Catalog, ModelVersion, Thing
from artifacts.objects import order
from artifacts.places import find_ancestors, find_folder, guess_owner
from artifacts.plan import Plan, make_plan
from artifacts.survey import split_expired

RUN_ID, OTHER_ID, MODEL_ID = "a" * 32, "b" * 32, "m-" + "c" * 32
OLD, CUTOFF, YOUNG = 10, 20, 30
NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def thing(kind: str, identifier: str, deleted: int | None, location: str = "", experiment: int = 1) -> Thing:
    places = {
        RUN: f"mlflow-artifacts:/{experiment}/{identifier}/artifacts",
        MODEL: f"mlflow-artifacts:/{experiment}/models/{identifier}/artifacts",
        EXPERIMENT: f"mlflow-artifacts:/{identifier}",
    }
    return Thing(kind, identifier, experiment, location or places[kind], deleted)


def version(run: str | None = None, source: str | None = None, location: str | None = None) -> ModelVersion:
    return ModelVersion("wine", 3, run, source, location)


def plan(*things: Thing, versions: tuple[ModelVersion, ...] = ()) -> Plan:
    return make_plan(Catalog(list(things), list(versions)), "bucket", CUTOFF)


def gone(made: Plan) -> list[str]:
    return [unit.identifier for unit in made.units]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("mlflow-artifacts:/1/abc/artifacts", "1/abc/artifacts/"),
        ("mlflow-artifacts:/1/abc/artifacts/", "1/abc/artifacts/"),
        ("mlflow-artifacts://host:5000/1/abc", "1/abc/"),
        ("s3://bucket/1/abc", "1/abc/"),
        ("s3://other/1/abc", None),
        ("s3://bucket", None),
        ("mlflow-artifacts:/", None),
        ("mlflow-artifacts:/1/../2", None),
        ("mlflow-artifacts:/1//2", None),
        ("file:///tmp/x", None),
        ("models:/wine/1", None),
        ("dummy-source", None),
        ("", None),
        (None, None),
    ],
)
def test_a_location_means_a_folder_of_the_bucket_and_never_the_whole(
    location: str | None, expected: str | None
) -> None:
    assert find_folder(location, "bucket") == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f"1/{RUN_ID}/artifacts/a/b", ("run", RUN_ID, f"1/{RUN_ID}/artifacts/")),
        (f"1/models/{MODEL_ID}/artifacts/x", ("model", MODEL_ID, f"1/models/{MODEL_ID}/artifacts/")),
        ("1/traces/tr-1/artifacts/x", ("trace", "tr-1", "1/traces/tr-1/artifacts/")),
        ("deep/1/traces/tr-1/artifacts/x", ("trace", "tr-1", "deep/1/traces/tr-1/artifacts/")),
        ("some/where/else/x", ("unknown", "", "some/where/")),
        ("x", ("unknown", "", "")),
    ],
)
def test_whose_a_folder_was_is_seen_from_its_name(key: str, expected: tuple[str, str, str]) -> None:
    assert guess_owner(key) == expected


def test_ancestors_come_deepest_first() -> None:
    assert find_ancestors("1/ab/c") == ["1/ab/", "1/"]


def test_only_what_was_deleted_long_ago_goes() -> None:
    made = plan(
        thing(EXPERIMENT, "1", None),
        thing(RUN, RUN_ID, OLD),
        thing(RUN, OTHER_ID, YOUNG),
        thing(RUN, "d" * 32, None),
        thing(MODEL, MODEL_ID, CUTOFF),
    )
    assert gone(made) == [RUN_ID, MODEL_ID]
    assert made.kept == []
    assert made.units[0].folders == (f"1/{RUN_ID}/artifacts/",)


@pytest.mark.parametrize(
    "user",
    [
        version(run=RUN_ID),
        version(source=f"runs:/{RUN_ID}/model"),
        version(source=f"mlflow-artifacts:/1/{RUN_ID}/artifacts/model"),
        version(location=f"s3://bucket/1/{RUN_ID}/artifacts"),
        version(location=f"mlflow-artifacts:/1/{RUN_ID}"),
    ],
)
def test_a_run_that_a_version_of_a_model_is_made_from_stays(user: ModelVersion) -> None:
    made = plan(thing(RUN, RUN_ID, OLD), thing(RUN, OTHER_ID, OLD), versions=(user,))
    assert gone(made) == [OTHER_ID]
    assert [(kept.identifier, kept.reason) for kept in made.kept] == [(RUN_ID, "wine version 3 is made from it")]


def test_a_logged_model_that_is_registered_stays() -> None:
    for user in (version(source=f"models:/{MODEL_ID}"), version(location=thing(MODEL, MODEL_ID, OLD).location)):
        assert gone(plan(thing(MODEL, MODEL_ID, OLD), versions=(user,))) == []


def test_an_experiment_goes_whole() -> None:
    made = plan(thing(EXPERIMENT, "1", OLD), thing(RUN, RUN_ID, OLD), thing(MODEL, MODEL_ID, None))
    (unit,) = made.units
    assert [each.identifier for each in unit.things] == ["1", RUN_ID, MODEL_ID]
    assert unit.folders == ("1/",)


@pytest.mark.parametrize("deleted", [None, YOUNG])
def test_an_experiment_with_a_run_that_stays_stays_too_and_its_other_runs_go(deleted: int | None) -> None:
    made = plan(thing(EXPERIMENT, "1", OLD), thing(RUN, RUN_ID, OLD), thing(RUN, OTHER_ID, deleted))
    assert gone(made) == [RUN_ID]
    assert [kept.identifier for kept in made.kept] == ["1"]


def test_an_experiment_whose_model_is_registered_stays() -> None:
    made = plan(
        thing(EXPERIMENT, "1", OLD), thing(MODEL, MODEL_ID, None), versions=(version(source=f"models:/{MODEL_ID}"),)
    )
    assert gone(made) == []
    assert "wine version 3" in made.kept[0].reason


def test_what_lies_elsewhere_stays() -> None:
    made = plan(thing(RUN, RUN_ID, OLD, "s3://other/1/x"))
    assert gone(made) == []
    assert "not in this stack's store" in made.kept[0].reason


def test_what_has_the_folder_of_another_in_its_own_stays() -> None:
    inside = thing(RUN, OTHER_ID, None, f"mlflow-artifacts:/1/{RUN_ID}/artifacts/inside", experiment=2)
    assert gone(plan(thing(RUN, RUN_ID, OLD), inside)) == []
    # Experiment 1 has no folder in common with 10, whose name begins the same.
    made = plan(thing(EXPERIMENT, "1", OLD), thing(EXPERIMENT, "10", None, experiment=10))
    assert gone(made) == ["1"]
    # One that stays keeps the next.
    chain = (
        thing(RUN, RUN_ID, OLD, "mlflow-artifacts:/x"),
        thing(RUN, OTHER_ID, OLD, "mlflow-artifacts:/x/y"),
        thing(RUN, "d" * 32, None, "mlflow-artifacts:/x/y/z"),
    )
    assert gone(plan(*chain)) == []


def item(seconds_ago: int, identifier: str, *, latest: bool = False, marker: bool = False) -> dict[str, Any]:
    time = NOW - timedelta(seconds=seconds_ago)
    return {"Key": "k", "VersionId": identifier, "LastModified": time, "IsLatest": latest, "Size": 1, "marker": marker}


def test_a_version_ends_when_the_next_begins() -> None:
    versions = order([item(9, "deleted", latest=True, marker=True), item(40, "old"), item(20, "new")])
    assert [(v.identifier, v.state) for v in versions] == [
        ("deleted", "current"),
        ("new", "deleted"),
        ("old", "replaced"),
    ]
    assert [v.ended for v in versions[1:]] == [NOW - timedelta(seconds=9), NOW - timedelta(seconds=20)]


def test_a_version_expires_by_its_end_and_a_marker_after_all_it_hides() -> None:
    def split(seconds: int, *items: dict[str, Any]) -> tuple[list[str], list[str]]:
        expired, markers = split_expired(order(list(items)), NOW - timedelta(seconds=seconds))
        return [v.identifier for v in expired], [v.identifier for v in markers]

    marker, new, old = item(9, "deleted", latest=True, marker=True), item(20, "new"), item(40, "old")
    assert split(30, marker, new, old) == ([], [])
    assert split(15, marker, new, old) == (["old"], [])
    assert split(5, marker, new, old) == (["new", "old"], ["deleted"])
    assert split(5, marker) == ([], ["deleted"])
    assert split(10, marker) == ([], [])
    # By a clock that went back, the marker is older than what it hides.
    assert split(10, item(99, "deleted", latest=True, marker=True), item(5, "new"), old) == (["new"], [])
    assert split(0, item(99, "current", latest=True)) == ([], [])
    assert split(0, item(9, "current", latest=True), item(20, "gone", marker=True)) == (["gone"], [])


GOOD = {
    "STACK_DATABASE_URI": "postgresql+psycopg2://mlflow@postgres/mlflow",
    "STACK_UNDO_DATABASE_URI": "postgresql+psycopg2://undo@postgres/auth",
    "STACK_OBJECTSTORE": "seaweedfs",
    "STACK_S3_ENDPOINT": "http://objectstore:9000",
    "STACK_S3_REGION": "us-east-1",
    "STACK_S3_STYLE": "path",
    "STACK_BUCKET": "mlflow-artifacts",
    "STACK_VERSION_DAYS": "0",
    "STACK_UPLOAD_DAYS": "7",
    "STACK_TRASH_DAYS": "0",
}


def test_faults_of_the_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert settings.load().keep_versions is settings.load().keep_rows is None
    assert settings.load().store.bucket == "mlflow-artifacts"
    bad = {"STACK_DATABASE_URI": "", "STACK_S3_STYLE": "x", "STACK_VERSION_DAYS": "-1", "STACK_UPLOAD_DAYS": "0"}
    bad["STACK_TRASH_DAYS"] = "a week"
    for name, value in bad.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FaultError) as caught:
        settings.load()
    lines = str(caught.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(bad)
