"""Whether the inputs that a served version gets are still as its training data: by PSI and KS, column by column."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import matplotlib as mpl
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.utils.credentials import read_mlflow_creds
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import stats

from admin import moments
from lifecycle import evaluation, registry
from lifecycle.models import first_line
from serving import batches
from wine import data as wines
from wine.errors import TrainerError
from wine.tracking import find_experiment

EXPERIMENT = "Drift"
MIN_ROWS = 100  # PSI of fewer is chance: some (bins - 1) / rows where nothing has changed
MAX_ROWS = 100_000  # the newest
BINS = 10
FLOOR = 1e-4  # of a share that is none, whose logarithm is none either
THREADS = 8
MAX_PLOTS = 24


@dataclass(frozen=True)
class Order:
    """What the operator asks for.

    Attributes:
        model: the registered model, NAME or NAME/3.
        since: the moment from which on predictions count.
        reference: rows to compare with, None for the version's training data.
        limit: the PSI above which a column has drifted.
    """

    model: str
    since: datetime
    reference: Path | None
    limit: float


@dataclass(frozen=True)
class Column:
    """How far one column has moved.

    Attributes:
        name: the input.
        psi: population stability index.
        ks: Kolmogorov-Smirnov's statistic, the largest distance of the two distribution functions; None for no numbers.
        p: how probable such a distance is if nothing has changed.
        reference, logged: means; None for no numbers.
    """

    name: str
    psi: float
    ks: float | None
    p: float | None
    reference: float | None
    logged: float | None


# ------------------------------------------------------------------------------------------------------------ measures
def measure_psi(reference: pd.Series[Any], logged: pd.Series[Any]) -> float:
    """Return the population stability index: the sum over bins of (a - e) * ln(a / e), shares of logged and reference.

    The formula is in N. Siddiqi, "Credit Risk Scorecards" (2006), which reads below 0.1 as no change and above 0.25
    as a large one; its statistics are in B. Yurdakul, "Statistical Properties of Population Stability Index" (2018).
    Bins are the deciles of the reference, for few values the values; what is missing is a bin too.
    """
    expected, actual = count_bins(reference, logged)
    e, a = np.maximum(expected / expected.sum(), FLOOR), np.maximum(actual / actual.sum(), FLOOR)
    return float(np.sum((a - e) * np.log(a / e)))


def count_bins(reference: pd.Series[Any], logged: pd.Series[Any]) -> tuple[Any, Any]:
    """Return how many values of each lie in each bin."""
    known = reference.dropna()
    if not (is_numeric(reference) and is_numeric(logged)) or known.nunique() <= BINS:
        values = list(dict.fromkeys([*known, *logged.dropna()]))
        places = [pd.Categorical(side, categories=values).codes for side in (reference, logged)]
        bins = len(values)
    else:
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS))
        bins = len(edges) + 1
        places = [
            np.where(side.isna(), -1, np.searchsorted(edges, side.to_numpy(float), side="left"))
            for side in (reference, logged)
        ]
    # (-1: missing)
    expected, actual = (np.bincount(np.asarray(side) + 1, minlength=bins + 1) for side in places)
    return expected, actual


def measure_column(name: str, reference: pd.Series[Any], logged: pd.Series[Any]) -> Column:
    """Return how far a column has moved."""
    psi = measure_psi(reference, logged)
    if not (is_numeric(reference) and is_numeric(logged)):
        return Column(name, psi, None, None, None, None)
    numbers, others = reference.dropna().to_numpy(float), logged.dropna().to_numpy(float)
    if not (len(numbers) and len(others)):
        return Column(name, psi, None, None, None, None)
    ks = stats.ks_2samp(numbers, others)
    return Column(name, psi, float(ks.statistic), float(ks.pvalue), float(numbers.mean()), float(others.mean()))


def is_numeric(values: pd.Series[Any]) -> bool:
    """Return whether a column is one of numbers."""
    return bool(pd.api.types.is_numeric_dtype(values)) and not pd.api.types.is_bool_dtype(values)


# ----------------------------------------------------------------------------------------------------------------- rows
def read_logged(client: MlflowClient, name: str, version: int, since: datetime) -> pd.DataFrame:
    """Return the inputs that were logged of a version since a moment, the newest if there are very many.

    Raises:
        TrainerError: There are none, or too few.
    """
    what = f"version {version} of {name}"
    experiment = client.get_experiment_by_name(batches.EXPERIMENT)
    if experiment is None:
        raise TrainerError(f"no prediction of {what} was logged: set STACK_PREDICTION_LOG=on in .env, then ./stack up")
    found = find_files(client, experiment.experiment_id, name, str(version), since)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(THREADS) as pool:
        frames = list(pool.map(lambda place: read_file(client, place[0], place[1], Path(folder)), found))
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"time": []})
    if len(rows):
        rows = rows[rows["time"] >= since]
    if len(rows) < MIN_ROWS:
        raise TrainerError(
            f"{len(rows)} rows of {what} were logged since {moments.write(since)}, and {MIN_ROWS} are needed: "
            "predict more, or look back further by --since"
        )
    inputs = [column for column in rows.columns if column.startswith(batches.INPUT)]
    if not inputs:
        raise TrainerError(f"{what} takes no table of plain columns: there is nothing to compare")
    return rows[inputs].rename(columns=lambda column: column.removeprefix(batches.INPUT)).reset_index(drop=True)


def find_files(
    client: MlflowClient, experiment: str, name: str, version: str, since: datetime
) -> list[tuple[str, str]]:
    """Return (run, file) of what was logged, the newest first, no more than MAX_ROWS need."""
    files = []
    token = None
    while True:
        runs = client.search_runs([experiment], page_token=token)
        for run in runs:
            if run.data.tags.get("model") == name and run.data.tags.get("day", "") >= since.date().isoformat():
                for file in client.list_artifacts(run.info.run_id):
                    batch = batches.read_name(PurePosixPath(file.path).name)
                    if batch and (batch.model, batch.version) == (name, version) and batch.moment >= since:
                        files.append((batch.moment, batch.rows, run.info.run_id, file.path))
        token = runs.token
        if not token:
            break
    chosen: list[tuple[str, str]] = []
    rows = 0
    for _, count, run_id, path in sorted(files, reverse=True):
        if rows >= MAX_ROWS:
            break
        chosen.append((run_id, path))
        rows += count
    return chosen


def read_file(client: MlflowClient, run_id: str, path: str, folder: Path) -> pd.DataFrame:
    """Return one file of the log. Raises TrainerError if it is none."""
    local = Path(client.download_artifacts(run_id, path, str(folder)))
    try:
        return pq.read_table(local).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrainerError(f"{path} of run {run_id} can't be read ({first_line(error)}): remove it") from None
    finally:
        local.unlink(missing_ok=True)


def read_reference(client: MlflowClient, version: Any, path: Path | None) -> tuple[pd.DataFrame, str]:
    """Return the rows to compare with, and what they are called.

    Raises:
        TrainerError: The file can't be read, or nobody knows what the version was trained on.
    """
    if path is not None:
        return evaluation.read_table(path, path.name), path.name
    table = wines.load_table(None, evaluation.WINE_TARGET)
    seed = evaluation.find_seed(client, version, table.digest)
    if seed is None:
        raise TrainerError(
            f"version {version.version} of {version.name} was not trained on the red wines with a seed: "
            "give the rows that it was trained on by --reference FILE"
        )
    return wines.split_table(table, seed).train_x, f"the rows that it was trained on (seed {seed})"


# --------------------------------------------------------------------------------------------------------------- report
def examine(client: MlflowClient, order: Order, tell: Callable[[str], None], columns: int | None) -> list[str]:
    """Compare, print a table and log it as a run; return the names of the columns that have drifted.

    Raises:
        TrainerError: There is nothing to compare, or nothing to compare with.
    """
    model, number = registry.find_version(client, order.model)
    logged = read_logged(client, model.name, number, order.since)
    reference, shown = read_reference(client, model.find(number), order.reference)
    missing = [name for name in logged.columns if name not in reference.columns]
    if missing:
        raise TrainerError(f"{shown} has no column {missing[0]!r}, it has {', '.join(map(str, reference.columns))}")
    found = [measure_column(name, reference[name], logged[name]) for name in logged.columns]
    found.sort(key=lambda column: column.psi, reverse=True)
    tell(
        f"{model.name} version {number}: {len(logged)} logged rows since {moments.write(order.since)} beside "
        f"{len(reference)}: {shown}"
    )
    Console(width=columns or 200).print(make_table(found, order.limit), crop=False)
    run_id = log_report(client, order, model.name, number, shown, found, reference, logged)
    tell(f"Run {run_id} in the experiment {EXPERIMENT!r} has it")
    return [column.name for column in found if column.psi > order.limit]


def make_table(found: list[Column], limit: float) -> Table:
    """Return a line for each column, what has moved most first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("COLUMN", no_wrap=True)
    for name in ("PSI", "KS", "P", "TRAINED", "LOGGED"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for column in found:
        numbers = [column.psi, column.ks, column.p, column.reference, column.logged]
        name = escape("".join(sign if sign.isprintable() else "?" for sign in column.name))
        verdict = "drifted" if column.psi > limit else ""
        table.add_row(name, *("" if number is None else f"{number:.4g}" for number in numbers), verdict)
    return table


def log_report(  # noqa: PLR0913, PLR0917 - what the report is about
    client: MlflowClient,
    order: Order,
    name: str,
    version: int,
    shown: str,
    found: list[Column],
    reference: pd.DataFrame,
    logged: pd.DataFrame,
) -> str:
    """Log the comparison as a run: metrics, a table, a plot. Returns its id."""
    tags = {
        "mlflow.user": read_mlflow_creds().username or "nobody",
        "mlflow.source.name": "./stack drift",
        "model": name,
    }
    experiment = find_experiment(client, EXPERIMENT)
    with mlflow.start_run(experiment_id=experiment, run_name=f"{name} {version}", tags=tags) as run:
        mlflow.log_params(
            {
                "version": version,
                "since": moments.write(order.since),
                "limit": order.limit,
                "reference": shown,
                "reference rows": len(reference),
                "logged rows": len(logged),
            }
        )
        metrics: dict[str, float] = {"psi_max": max(column.psi for column in found)}
        for column in found:
            plain = re.sub(r"[^\w. /-]", "_", column.name, flags=re.ASCII)
            metrics[f"psi {plain}"] = column.psi
            if column.ks is not None:
                metrics[f"ks {plain}"] = column.ks
        mlflow.log_metrics(metrics)
        mlflow.log_table(pd.DataFrame([asdict(column) for column in found]), "drift.json")
        with mpl.rc_context({"text.parse_math": False}):  # names and words are whoever's who chose them
            mlflow.log_figure(plot(found, order.limit, reference, logged), "drift.png")
        return str(run.info.run_id)


def plot(found: list[Column], limit: float, reference: pd.DataFrame, logged: pd.DataFrame) -> Figure:
    """Plot both distributions of each column, what has moved most first."""
    shown = found[:MAX_PLOTS]
    rows = -(-len(shown) // 3)
    figure = Figure(figsize=(12, 2.8 * rows), layout="constrained")
    for place, column in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, 3, place)
        sides = reference[column.name], logged[column.name]
        if column.ks is not None:
            values = np.concatenate([side.dropna().to_numpy(float) for side in sides])
            bins = list(np.histogram_bin_edges(values[np.isfinite(values)], 30))
            for side, label in zip(sides, ("trained on", "logged"), strict=True):
                axes.hist(side.dropna(), bins=bins, density=True, alpha=0.5, label=label)
        else:
            shares = [side.astype(str).value_counts(normalize=True).head(20) for side in sides]
            for share, label in zip(shares, ("trained on", "logged"), strict=True):
                axes.bar(list(share.index), list(share), alpha=0.5, label=label)
        axes.set_title(f"{column.name}: PSI {column.psi:.3f}", color="red" if column.psi > limit else "black")
        axes.legend()
    return figure
