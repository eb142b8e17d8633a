"""A folder mlruns, made fit for `mlflow migrate-filestore` without a change to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from admin.faults import FaultError
from importer.settings import DATABASE, Order

TRASH = ".trash"
METADATA = "meta.yaml"
ARTIFACTS = "artifacts"


def find_root(order: Order) -> Path:
    """Return the folder that has the experiments. Raises FaultError."""
    folder = DATABASE / str(order.file)
    for root in (folder / "mlruns", folder):
        if any(find_experiments(root)):
            return root
    raise FaultError(
        f"--backend-store-uri {order.uri!r} is no file store of MLflow: a folder mlruns has folders of experiments "
        "(0, 1, ...), each with a meta.yaml"
    )


def find_experiments(root: Path) -> Iterator[Path]:
    """Yield the folders of experiments, deleted ones too."""
    for parent in (root, root / TRASH):
        if parent.is_dir():
            for folder in sorted(parent.iterdir()):
                if folder.name.isdigit() and (folder / METADATA).is_file():
                    yield folder


def find_runs(experiment: Path) -> Iterator[Path]:
    """Yield the folders of runs."""
    for folder in experiment.iterdir():
        if (folder / METADATA).is_file() and (folder / "metrics").is_dir():
            yield folder


def count_runs(root: Path) -> int:
    """Return how many runs there are."""
    return sum(1 for experiment in find_experiments(root) for _ in find_runs(experiment))


def find_repeated(experiment: Path) -> list[Path]:
    """Return the runs with a metric that has the same line twice: to a database the second is nothing new."""
    return [
        run
        for run in find_runs(experiment)
        if any(len(lines) != len(set(lines)) for _, lines in read_metrics(run / "metrics"))
    ]


def read_metrics(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each metric's file and its lines."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_text().splitlines()


def prepare(root: Path, work: Path) -> Path:
    """Return the root, or one of links in its place where runs have lines that a database takes for the same.

    Raises FaultError.
    """
    mirror = work / "mlruns"
    if mirror.exists():
        shutil.rmtree(mirror)
    try:
        repeated = {run for experiment in find_experiments(root) for run in find_repeated(experiment)}
    except (OSError, UnicodeDecodeError) as error:
        raise FaultError(f"the file store can't be read: {error}") from None
    if not repeated:
        return root
    copied = {run.parent for run in repeated}
    link_all(root, mirror, copied | {root / TRASH})
    if (root / TRASH).is_dir():
        link_all(root / TRASH, mirror / TRASH, copied)
    for experiment in copied:
        copy = mirror / experiment.relative_to(root)
        link_all(experiment, copy, repeated)
        for run in repeated:
            if run.parent == experiment:
                copy_run(run, copy / run.name)
    return mirror


def link_all(folder: Path, mirror: Path, without: set[Path]) -> None:
    """Make a folder of links to what is in another."""
    mirror.mkdir()
    for entry in folder.iterdir():
        if entry not in without:
            (mirror / entry.name).symlink_to(entry)


def copy_run(run: Path, copy: Path) -> None:
    """Copy what a run's folder says, without its artifacts, each line of a metric once."""
    copy.mkdir()
    for entry in run.iterdir():
        if entry.name not in (ARTIFACTS, "metrics"):
            (copy / entry.name).symlink_to(entry)
    for path, lines in read_metrics(run / "metrics"):
        target = copy / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
