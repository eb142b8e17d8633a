"""Whose an old artifact is, and where it belongs."""

from __future__ import annotations

from pathlib import Path

import yaml

from importer import filestore, locations, objects
from importer.locations import Owner
from importer.objects import Object

RUN, MODEL = "a" * 32, "m-" + "b" * 32
OWNERS = {
    RUN: Owner("run", RUN, f"1/{RUN}/artifacts"),
    MODEL: Owner("model", MODEL, f"1/models/{MODEL}/artifacts"),
}


def test_a_source_is_found_under_whatever_its_root_was_called() -> None:
    for source in (
        f"./mlruns/7/{RUN}/artifacts/model",
        f"file:///home/ann/mlruns/7/{RUN}/artifacts/model/",
        f"s3://bucket/a/b/7/{RUN}/artifacts/model",
        f"mlflow-artifacts://old:5000/7/{RUN}/artifacts/model",
    ):
        assert locations.rewrite_source(source, OWNERS) == f"mlflow-artifacts:/1/{RUN}/artifacts/model"
    assert locations.rewrite_source(f"/x/7/models/{MODEL}/artifacts", OWNERS) == (
        f"mlflow-artifacts:/1/models/{MODEL}/artifacts"
    )
    for kept in (f"runs:/{RUN}/model", f"models:/{MODEL}", "s3://elsewhere/model", "dummy-source", None):
        assert locations.rewrite_source(kept, OWNERS) == kept


def test_each_object_comes_once_and_what_is_nobodys_stays() -> None:
    listed = [
        (f"7/{RUN}/artifacts/a", 1),
        (f"copy/of/7/{RUN}/artifacts/a", 2),
        (f".trash/7/models/{MODEL}/artifacts/x/artifacts/y", 3),
        (f"7/{RUN}/meta.yaml", 4),
        (f"7/{RUN}/artifacts", 5),
    ]
    found, strays = objects.match(listed, OWNERS)
    assert found == [
        Object(f"7/{RUN}/artifacts/a", f"1/{RUN}/artifacts/a", 1),
        Object(f".trash/7/models/{MODEL}/artifacts/x/artifacts/y", f"1/models/{MODEL}/artifacts/x/artifacts/y", 3),
    ]
    assert strays == 3
    assert objects.split_heads(found[0]) == ("7", "1", f"{RUN}/artifacts/a")
    assert objects.split_heads(Object("1/a", "1/a", 0)) == ("", "", "1/a")


def test_a_metric_said_twice_is_there_once_and_the_file_store_is_unchanged(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    for run, lines in (("r1", "1 0.5 0\n1 0.5 0\n2 0.5 0\n"), ("r2", "1 0.5 0\n")):
        folder = root / "7" / run
        (folder / "metrics" / "deep").mkdir(parents=True)
        (folder / "params").mkdir()
        (folder / "params" / "p").write_text("1")
        (folder / "metrics" / "deep" / "m").write_text(lines)
        (folder / "meta.yaml").write_text("{}")
    (root / "7" / "meta.yaml").write_text("{}")
    work = tmp_path / "work"
    work.mkdir()
    mirror = filestore.prepare(root, work)
    assert mirror == work / "mlruns"
    assert (mirror / "7/r1/metrics/deep/m").read_text() == "1 0.5 0\n2 0.5 0\n"
    assert (mirror / "7/r2").is_symlink()
    assert (mirror / "7/r1/params/p").read_text() == "1"
    assert (root / "7/r1/metrics/deep/m").read_text().count("\n") == 3
    (root / "7/r1/metrics/deep/m").write_text("1 0.5 0\n")
    assert filestore.prepare(root, work) == root


def test_the_old_stores_keys_are_in_the_containers_memory_only() -> None:
    compose = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())
    importer = compose["services"]["importer"]
    assert any(objects.CREDENTIALS.is_relative_to(folder) for folder in importer["tmpfs"])
    volumes = [volume.split(":")[1] for volume in importer["volumes"]]
    assert not any(objects.CREDENTIALS.is_relative_to(folder) for folder in volumes)
