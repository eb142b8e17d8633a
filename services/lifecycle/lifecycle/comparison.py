"""Runs side by side: a table for the terminal, a report as one HTML file that needs nothing else."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import matplotlib as mpl
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.table import Table

from lifecycle.metrics import is_more_better
from wine.errors import TrainerError

MAX_RUNS = 500
MAX_SCATTERS = 12
MAX_AXES = 10
SHORT_ID = 8
MIN_RUNS = 2
MAX_CELL = 60


@dataclass(frozen=True)
class Row:
    """A run, as it is compared."""

    run_id: str
    name: str
    user: str
    start: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return f"{self.name} {self.run_id[:SHORT_ID]}"


@dataclass(frozen=True)
class Comparison:
    """Runs, the metrics that they have, and the params in which they differ."""

    rows: list[Row]
    metrics: list[str]
    params: list[str]
    """All of them."""
    differing: list[str]
    """Those with more than one value."""

    def find_best(self, metric: str) -> float | None:
        """Return the best value of a metric, None where more may be worse."""
        try:
            choose = max if is_more_better(metric) else min
        except TrainerError:
            return None
        values = [row.metrics[metric] for row in self.rows if math.isfinite(row.metrics.get(metric, math.nan))]
        return choose(values) if values else None

    def find_axes(self) -> list[str]:
        """Return the params that differ and are numbers in every run."""
        return [
            name for name in self.differing if all(to_number(row.params.get(name)) is not None for row in self.rows)
        ]


def read_runs(client: MlflowClient, run_ids: list[str], experiment: str | None) -> list[Row]:
    """Return the runs that are named, or those of an experiment, newest first.

    Raises:
        TrainerError: One is not there, or there are fewer than two.
    """
    if experiment is not None:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise TrainerError(f"there is no experiment {experiment!r} that this account may see: check the name")
        runs = list(client.search_runs([found.experiment_id], max_results=MAX_RUNS))
        if len(runs) < MIN_RUNS:
            raise TrainerError(f"the experiment {experiment!r} has {len(runs)} runs: two or more can be compared")
    else:
        if len(set(run_ids)) < MIN_RUNS:
            raise TrainerError("one run can't be compared: name two or more, or --experiment NAME")
        runs = [read_run(client, run_id) for run_id in dict.fromkeys(run_ids)]
    return [to_row(run) for run in runs]


def read_run(client: MlflowClient, run_id: str) -> Run:
    """Return a run. Raises TrainerError if there is none."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        raise TrainerError(f"there is no run {run_id!r}: copy its id from its page") from None


def to_row(run: Run) -> Row:
    """Return what of a run is compared."""
    start = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(" ", "minutes").replace("+00:00", "Z")
    user = run.data.tags.get("mlflow.user", "")
    return Row(
        run.info.run_id,
        run.info.run_name or "",
        user,
        start,
        run.info.status,
        dict(run.data.metrics),
        dict(run.data.params),
    )


def compare(rows: list[Row]) -> Comparison:
    """Return what the runs have, and in what they differ."""
    params = sorted({name for row in rows for name in row.params})
    return Comparison(
        rows=rows,
        metrics=sorted({name for row in rows for name in row.metrics}),
        params=params,
        differing=[name for name in params if len({row.params.get(name) for row in rows}) > 1],
    )


def to_number(text: str | None) -> float | None:
    """Return the finite number that a param is, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def show_number(value: float | None) -> str:
    """Return a metric as it is shown."""
    return "" if value is None else f"{value:.6g}"


# -------------------------------------------------------------------------------------------------------------- table
def print_table(found: Comparison, console: Console, columns: int | None) -> None:
    """Print a line a run: its metrics, the best of each marked, and the params that differ, as far as there is room.

    Args:
        found: The runs.
        console: Where to.
        columns: The terminal's width, None for no limit.
    """
    best = {name: found.find_best(name) for name in found.metrics}
    cells = {"RUN": [row.label for row in found.rows], "START": [row.start for row in found.rows]}
    for name in found.metrics:
        marks = ["*" if name in row.metrics and row.metrics[name] == best[name] else " " for row in found.rows]
        cells[name] = [show_number(row.metrics.get(name)) + mark for row, mark in zip(found.rows, marks, strict=True)]
    cells |= {f"{name} =": [row.params.get(name, "") for row in found.rows] for name in found.differing}
    table, used = Table(box=None, header_style="bold", pad_edge=False), 0
    lines: list[list[str]] = []
    left: list[str] = []
    for name, texts in cells.items():
        # (as text: names are whoever's who logged them, and no markup)
        shown = [_plain(text[:MAX_CELL]) for text in (name, *texts)]
        used += max(map(len, shown)) + 2
        if columns is not None and used > columns and table.columns:
            left.append(name)
            continue
        table.add_column(shown[0], justify="right" if name in best else "left", no_wrap=True)
        lines.append(shown[1:])
    for line in zip(*lines, strict=True):
        table.add_row(*line)
    console.print(table, crop=False)
    same = len(found.params) - len(found.differing)
    console.print(f"{len(found.rows)} runs; * the best; {same} params are the same in all of them")
    if left:
        console.print(f"No room for {_plain(', '.join(left))}: --output FILE.html has all", soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape("".join(sign if sign.isprintable() else "?" for sign in text))


# ------------------------------------------------------------------------------------------------------------- report
def render_report(found: Comparison, title: str) -> str:
    """Return the report."""
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (Path(__file__).parent / "report.html").read_text()
    )
    first = found.rows[0]
    return template.render(
        title=title,
        made=datetime.now(UTC).isoformat(" ", "minutes").replace("+00:00", "Z"),
        found=found,
        best={name: found.find_best(name) for name in found.metrics},
        changes={
            (row.run_id, name): row.metrics[name] - first.metrics[name]
            for row in found.rows[1:]
            for name in found.metrics
            if name in row.metrics and name in first.metrics
        },
        show=show_number,
        plots=draw(found),
    )


def draw(found: Comparison) -> list[tuple[str, str]]:
    """Return (title, SVG) of each plot: parallel coordinates, and each metric over each param that is a number."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    axes = found.find_axes()
    plots = [("Parallel coordinates", draw_parallel(found, axes))] if axes and found.metrics else []
    pairs = [(param, metric) for metric in found.metrics for param in axes]
    plots += [(f"{metric} over {param}", draw_scatter(found, param, metric)) for param, metric in pairs[:MAX_SCATTERS]]
    return [(title, svg) for title, svg in plots if svg]


def draw_parallel(found: Comparison, axes: list[str]) -> str:
    """Return the runs as lines over params and metrics, coloured by the first metric; each axis has its own scale."""
    from matplotlib.figure import Figure

    counts = {name: sum(math.isfinite(row.metrics.get(name, math.nan)) for row in found.rows) for name in found.metrics}
    metrics = [name for name, count in counts.items() if count >= MIN_RUNS][: max(1, MAX_AXES - len(axes))]
    if not metrics:
        return ""
    names = [*axes[: MAX_AXES - len(metrics)], *metrics]
    rows = [row for row in found.rows if all(math.isfinite(row.metrics.get(name, math.nan)) for name in metrics)]
    if len(rows) < MIN_RUNS:
        return ""
    values = [[float(row.params[n]) if n in axes else row.metrics[n] for n in names] for row in rows]
    low = [min(column) for column in zip(*values, strict=True)]
    high = [max(column) for column in zip(*values, strict=True)]
    figure = Figure(figsize=(max(5, 1.3 * len(names)), 3.6), layout="constrained")
    plot = figure.subplots()
    colour, colours = names.index(metrics[0]), mpl.colormaps["viridis"]
    for line in values:
        places = [(v - lo) / (hi - lo) if hi > lo else 0.5 for v, lo, hi in zip(line, low, high, strict=True)]
        plot.plot(range(len(names)), places, color=colours(places[colour]), alpha=0.8)
    for place, (lo, hi) in enumerate(zip(low, high, strict=True)):
        plot.axvline(place, color="0.6", linewidth=0.8)
        for text, y, side in ((f"{lo:.4g}", -0.03, "top"), (f"{hi:.4g}", 1.03, "bottom")):
            plot.text(place, y, text, ha="center", va=side, fontsize=8)
    plot.set_xticks(range(len(names)), [_cut(name) for name in names], rotation=20)
    plot.set_yticks([])
    plot.set_ylim(-0.12, 1.12)
    plot.spines[["left", "bottom"]].set_visible(False)
    return _to_svg(figure)


def draw_scatter(found: Comparison, param: str, metric: str) -> str:
    """Return a metric over a param, a point a run."""
    from matplotlib.figure import Figure

    points = [(float(row.params[param]), row.metrics[metric]) for row in found.rows if metric in row.metrics]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return ""
    figure = Figure(figsize=(3.6, 2.7), layout="constrained")
    plot = figure.subplots()
    plot.scatter([x for x, _ in points], [y for _, y in points], s=18, alpha=0.8)
    plot.set_xlabel(_cut(param))
    plot.set_ylabel(_cut(metric))
    return _to_svg(figure)


def _cut(name: str) -> str:
    # ($ would begin a formula)
    return (name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$")  # noqa: PLR2004 - a label's width


def _to_svg(figure: mpl.figure.Figure) -> str:
    output = io.StringIO()
    figure.savefig(output, format="svg", metadata={"Date": None})
    text = output.getvalue()
    return text[text.index("<svg") :]
