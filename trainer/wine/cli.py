"""The two commands, and the edge where every failure becomes one line and an exit code."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from wine.errors import Terminated, TrainerError, show_address
from wine.settings import read_settings, tame_libraries

# The other modules need libraries that take seconds to import: each command imports what it comes to need.
if TYPE_CHECKING:
    from mlflow import MlflowClient

    from wine.data import Split
    from wine.model import Hyperparameters
    from wine.registry import Candidate
    from wine.tracking import Labels

EXPERIMENT, RUN_NAME, TARGET, SEED = "Wine Regression", "Sk_Elasticnet", "quality", 40
BOOTSTRAP_PAIRS = ((0.5, 0.5), (0.1, 0.5))  # alpha, l1_ratio: the article's, and one to compare with it

_BEGIN = perf_counter()

app = typer.Typer(
    help="Train the wine regression and keep its model in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _parse_number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def main() -> NoReturn:
    """Run the command line; a usage error is one line and exit 2, as every other expected failure is one line."""
    try:
        code = app(prog_name="python -m wine", standalone_mode=False)
    except TyperException as error:
        typer.echo(f"error: {error.format_message().rstrip('.')}: --help lists the options", err=True)
        sys.exit(2)
    sys.exit(code)


@app.command()
def train(  # noqa: PLR0913, PLR0917 - each is an option
    alpha: Annotated[float, typer.Option(parser=_parse_number, help="Weight of the penalty, 0 or more.")] = 0.5,
    l1_ratio: Annotated[float, typer.Option(parser=_parse_number, help="Share of the L1 penalty, 0 to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Draws the test rows.", min=0, max=2**32 - 1)] = SEED,
    data: Annotated[str | None, typer.Option(help="CSV file or http(s) URL.", show_default="the red wines")] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = TARGET,
    run_name: Annotated[str, typer.Option(help="Name of the run.")] = RUN_NAME,
    experiment: Annotated[str, typer.Option(help="Created when missing.")] = EXPERIMENT,
    register: Annotated[bool, typer.Option(help="Make the model a new version of the registered one.")] = True,
) -> None:
    """Train one model, log it, and register it."""
    with _edge():
        settings = read_settings()
        from wine.model import Hyperparameters

        chosen = Hyperparameters(alpha, l1_ratio)
        split = _load_split(data, target, seed)
        from wine import gateway, tracking

        client = gateway.connect(settings)
        _tell(f"Reached {show_address(settings.tracking_uri)}")
        with gateway.explained(settings):
            labels = tracking.Labels(experiment, run_name, settings.user, settings.git_commit)
            _train(client, labels, split, chosen, register)
        _tell("Done")


@app.command()
def bootstrap() -> None:
    """Train two models for a new stack, the better for Production; later starts train nothing."""
    with _edge():
        settings = read_settings()
        from wine import gateway, registry

        client = gateway.connect(settings)
        with gateway.explained(settings):
            if settled := registry.explain_settled(client):
                _tell(f"Already trained: {settled}")
                return
            from wine import tracking
            from wine.model import Hyperparameters

            split = _load_split(None, TARGET, SEED)
            labels = tracking.Labels(EXPERIMENT, RUN_NAME, settings.user, settings.git_commit)
            registry.open_bootstrap(client)
            candidates = []
            for chosen in (Hyperparameters(*pair) for pair in BOOTSTRAP_PAIRS):
                params = tracking.list_params(split, chosen)
                candidate = registry.find_candidate(client, params, split.table.digest)
                if candidate:
                    _tell(f"Kept version {candidate.version}, trained earlier with {params}")
                candidates.append(candidate or _train(client, labels, split, chosen))
            _tell(f"Put version {registry.promote_better(client, candidates)} in Production")
        _tell("Done")


def _load_split(data: str | None, target: str, seed: int) -> "Split":
    from wine.data import load_table, split_table

    table = load_table(data, target)
    _tell(f"Read {len(table.frame)} rows, {len(table.inputs)} inputs and the target {target} from {table.source}")
    return split_table(table, seed)


def _train(
    client: "MlflowClient", labels: "Labels", split: "Split", chosen: "Hyperparameters", register: bool = True
) -> "Candidate":
    from wine import registry, tracking
    from wine.model import fit_model, measure_model

    with tracking.open_run(client, labels) as run_id:
        model = fit_model(split, chosen)
        metrics = measure_model(model, split)
        typer.echo(f"Elasticnet model (alpha={chosen.alpha:f}, l1_ratio={chosen.l1_ratio:f}):")
        for name, value in asdict(metrics).items():
            typer.echo(f"  {name.upper()}: {value}")
        model_uri = tracking.log_training(split, chosen, model, metrics)
        _tell(f"Logged run {run_id} ({labels.run_name}) in experiment {labels.experiment!r}")
        version = registry.register(client, model_uri) if register else ""
        if version:
            _tell(f"Registered {registry.MODEL} version {version}")
    return registry.Candidate(version, metrics.rmse)


def _tell(line: str) -> None:
    typer.echo(f"[{perf_counter() - _BEGIN:4.1f} s] {line}")


@contextmanager
def _edge() -> Iterator[None]:
    """End the process with 1 and one line for an expected failure, 130 for Ctrl-C, 143 for SIGTERM, 3 for a bug."""
    signal.signal(signal.SIGTERM, _terminate)
    tame_libraries()
    try:
        yield
    except TrainerError as error:
        _exit(1, f"error: {error}")
    except KeyboardInterrupt:
        _exit(130, "interrupted")
    except Terminated as error:
        _exit(143, f"terminated: {error}")
    except Exception:  # noqa: BLE001 - whatever else it is, it's a bug
        _exit(3, f"{traceback.format_exc()}error: this is a bug in the trainer, please report it")


def _exit(code: int, line: str) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(code) from None


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second must not disturb the clean-up
    raise Terminated("SIGTERM received")
