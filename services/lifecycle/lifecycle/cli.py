"""The commands, and the edge where every failure becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from lifecycle import settings
from lifecycle.refusals import Refused
from wine.errors import TrainerError
from wine.settings import read_settings, tame_libraries

# The other modules need libraries that take seconds to import: each command imports what it comes to need.
if TYPE_CHECKING:
    from mlflow import MlflowClient

FAILED, REFUSED, BUG, INTERRUPTED = 1, 3, 4, 130

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The registered model's name.")]
Trust = Annotated[
    bool, typer.Option("--trust-model", help="Load formats that can run their author's code (pickle and others), too.")
]

app = typer.Typer(
    help="Compare, promote, roll back and use registered models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> NoReturn:
    """Run the command line; a usage error is one line and exit 2, as every other expected failure is one line."""
    try:
        code = app(prog_name="./stack", standalone_mode=False)
    except TyperException as error:
        typer.echo(f"error: {error.format_message().rstrip('.')}: --help lists the options", err=True)
        sys.exit(2)
    sys.stdout.flush()
    sys.exit(code)


@app.command()
def promote(  # noqa: PLR0913, PLR0917 - each is an option
    model: Model,
    version: Annotated[int | None, typer.Option(min=1, help="The candidate.")] = None,
    best: Annotated[
        str | None, typer.Option(metavar="METRIC", help="The version whose run has the best METRIC.")
    ] = None,
    to: Annotated[str, typer.Option(help="Where to; there is no other place than production.")] = "production",
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file of rows to compare on.")] = None,
    target: Annotated[str | None, typer.Option(help="Its column to predict.")] = None,
    metric: Annotated[str | None, typer.Option(help="Compared by it, such as rmse, mae, r2, accuracy, f1.")] = None,
    min_improvement: Annotated[float, typer.Option(min=0, max=1, help="0.01: at least 1 % better.")] = 0.0,
    threshold: Annotated[list[str] | None, typer.Option(metavar="METRIC=VALUE", help="No worse than VALUE.")] = None,
    max_latency: Annotated[float | None, typer.Option(min=0, help="Milliseconds for one row (95 of 100).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote even if refused; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; recorded with your name.")] = None,
    trust_model: Trust = False,
) -> None:
    """Put a version in Production if it is no worse than what is there; exit 3 if it is refused."""
    if (version is None) == (best is None):
        raise typer.BadParameter("give one of --version N and --best METRIC")
    if to != "production":
        raise typer.BadParameter(f"--to {to!r}: production is the only place")
    if force != bool(reason and reason.strip()):
        raise typer.BadParameter("--force needs --reason TEXT, and --reason needs --force")
    if target is not None and data is None:
        raise typer.BadParameter("--target needs --data FILE")
    with _edge(model) as client:
        from lifecycle import metrics, promotion
        from lifecycle.gate import Limits

        thresholds = dict(metrics.read_threshold(text) for text in threshold or [])
        if metric is not None:
            metrics.is_more_better(metric)
        if version is None:
            version, value = promotion.find_best(client, model, str(best))
            _tell(f"The best {str(best).partition(':')[0]} has version {version}: {value:.6g}")
        promotion.promote(
            client,
            promotion.Order(
                name=model,
                version=version,
                limits=Limits(metric, min_improvement, thresholds, max_latency, trust_model),
                data=data,
                shown=str(data.name) if data else "",
                target=target,
                reason=reason.strip() if reason else None,
            ),
            _tell,
        )


@app.command()
def rollback(model: Model) -> None:
    """Put back what was in Production before; a second time, what was there before that."""
    with _edge(model) as client:
        from lifecycle import reversal

        reversal.roll_back(client, model, _tell)


@app.command()
def compare(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids of two or more runs.")] = None,
    experiment: Annotated[str | None, typer.Option(help="All runs of this experiment.")] = None,
    output: Annotated[str | None, typer.Option(help="HTML file for a report with plots.", show_default="none")] = None,
) -> None:
    """Show runs side by side: metrics, and the params in which they differ."""
    if bool(runs) == bool(experiment):
        raise typer.BadParameter("give runs by their ids, or --experiment NAME")
    with _edge("compare") as client:
        from rich.console import Console

        from lifecycle import comparison

        found = comparison.compare(comparison.read_runs(client, runs or [], experiment))
        # With a report the output is that file.
        columns = settings.read_terminal().columns
        comparison.print_table(found, Console(stderr=bool(output), width=columns or 10_000), columns)
        if output:
            sys.stdout.write(comparison.render_report(found, experiment or f"{len(found.rows)} runs"))


@app.command()
def predict(  # noqa: PLR0913, PLR0917 - each is an option
    model: Annotated[str, typer.Argument(help="NAME@alias, NAME/3, NAME/Production; also after models:/.")],
    source: Annotated[Path, typer.Option("--input", help="File: .csv, .json, .jsonl, .parquet.")],
    output: Annotated[
        str | None, typer.Option(help="File of the same kinds.", show_default="CSV to the terminal")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Column of the input to put before the predictions.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Compare with a script of pandas; writes nothing.")
    ] = False,
    trust_model: Trust = False,
) -> None:
    """Predict every row of a file."""
    with _edge(model) as client, tempfile.TemporaryDirectory() as folder:
        from lifecycle import models, prediction, registry, schema

        form = prediction.find_format(output) if output else prediction.CSV
        prediction.find_format(source.name)
        registered, version = registry.find_version(client, model)
        files = models.fetch(registered.name, version, Path(folder))
        if not trust_model:
            models.check_format(files)
        columns = schema.read_columns(models.read_card(files), str(files))
        loaded = models.load(files)
        _say(f"Predicting with {files}")
        rows = prediction.Source(source, source.name, columns, keep or [])
        if measure:
            ours, script, alone = prediction.measure(loaded, rows)
            _tell(
                f"predict {ours:.0f} rows a second, a script {script:.0f}: {ours / script:.2f} times; model {alone:.0f}"
            )
            return
        summary = prediction.predict(loaded, rows, sys.stdout.buffer, form, settings.read_terminal())
        speed = summary.rows / summary.seconds
        _say(
            f"Predicted {summary.rows} rows in {summary.seconds:.2f} s ({speed:.0f} a second); "
            f"peak memory {summary.peak_megabytes} MB"
        )


@app.command()
def drift(
    model: Model,
    since: Annotated[str, typer.Option(help="From when on: 2h, 7d, 2026-11-25.")] = "7d",
    reference: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file to compare with.", show_default="the training data")
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="A column whose PSI is above it has drifted.")] = 0.2,
) -> None:
    """Compare the logged inputs of the version in Production with its training data; exit 3 if a column has drifted."""
    drifted: list[str] = []
    with _edge(model) as client:
        from admin import moments
        from admin.faults import FaultError
        from lifecycle import drift as comparing

        try:
            moment = moments.read_since(since)
        except FaultError as error:
            raise TrainerError(str(error)) from None
        order = comparing.Order(model, moment, reference, limit)
        drifted = comparing.examine(client, order, _tell, settings.read_terminal().columns)
    if drifted:
        _exit(REFUSED, f"drifted: {model}: the PSI of {', '.join(drifted)} is above {limit:g}")


@app.command("export")
def export_archive(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT|MODEL", help="Its name.")],
    output: Annotated[str, typer.Option(help="The archive.")],
    kind: Annotated[str | None, typer.Option(help="experiment or model, where both bear the name.")] = None,
) -> None:
    """Write an experiment, or a registered model with its runs, into an archive."""
    if kind not in (None, "experiment", "model"):
        raise typer.BadParameter(f"--kind {kind!r}: choose experiment or model")
    with _edge(name) as client:
        from lifecycle import exporting
        from lifecycle.server import Server

        exporting.export(Server(client), name, kind, sys.stdout.buffer, _say)
        _say(f"Written to {output}")


@app.command("import")
def import_archive(
    source: Annotated[Path, typer.Option("--input", help="Archive of ./stack export.")],
    name: Annotated[str | None, typer.Option(help="What it is to be called here.", show_default="as there")] = None,
) -> None:
    """Make again what an archive holds."""
    with _edge(source.name) as client:
        from lifecycle import importing
        from lifecycle.server import Server

        importing.import_archive(Server(client), source, name, _tell)


def _tell(line: str) -> None:
    typer.echo(line)


def _say(line: str) -> None:
    """Print beside the output, which is a program's."""
    typer.echo(line, err=True)


@contextmanager
def _edge(what: str) -> Iterator[MlflowClient]:
    """Yield a client; end the process with one line for whatever goes wrong."""
    tame_libraries()
    try:
        settings.take_login()
        chosen = read_settings()
        from wine import gateway

        client = gateway.connect(chosen)
        with gateway.explained(chosen):
            yield client
    except Refused as error:
        _exit(REFUSED, f"refused: {what}: {error}")
    except TrainerError as error:
        _exit(FAILED, f"error: {error}")
    except KeyboardInterrupt:
        _exit(INTERRUPTED, "interrupted")
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except typer.Exit:
        raise
    except Exception:  # noqa: BLE001 - whatever else it is, it's a bug
        _exit(BUG, f"{traceback.format_exc()}error: this is a bug in the stack, please report it")


def _exit(code: int, line: str) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(code) from None
