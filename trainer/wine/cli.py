"""The two commands, and the edge where every failure becomes one line and an exit code."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wine.errors import Terminated, TrainerError, show_address
from wine.settings import Settings, quiet_libraries, read_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from wine.data import Split, Table
    from wine.model import Hyperparameters
    from wine.registry import Candidate

EXPERIMENT, RUN_NAME, TARGET, SEED = "Wine Regression", "Sk_Elasticnet", "quality", 40
BOOTSTRAP_PAIRS = ((0.5, 0.5), (0.1, 0.5))  # alpha, l1_ratio: the article's first, and one to compare it with

app = typer.Typer(
    help="Train the wine regression and keep its model in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Narrator:
    """Prints what has been done and how many seconds it took since the line before."""

    def __init__(self) -> None:
        self.begin = self.last = perf_counter()

    def tell(self, line: str) -> None:
        now = perf_counter()
        typer.echo(f"{line} ({now - self.last:.1f} s)")
        self.last = now

    def end(self) -> None:
        typer.echo(f"Done in {perf_counter() - self.begin:.1f} s")


@app.command()
def train(
    alpha: Annotated[float, typer.Option(help="Weight of the penalty, 0 or more.")] = 0.5,
    l1_ratio: Annotated[float, typer.Option(help="Share of the L1 penalty, 0 to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Draws the test rows.", min=0, max=2**32 - 1)] = SEED,
    data: Annotated[str | None, typer.Option(help="CSV file or http(s) URL.", show_default="red wines")] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = TARGET,
    run_name: Annotated[str, typer.Option(help="Name of the run.")] = RUN_NAME,
    experiment: Annotated[str, typer.Option(help="Created when missing.")] = EXPERIMENT,
    register: Annotated[bool, typer.Option(help="Make the model a new version of the registered one.")] = True,
) -> None:
    """Train one model, log it, and register it."""
    with _edge():
        settings, narrator = read_settings(), Narrator()
        from wine import gateway
        from wine.model import Hyperparameters

        chosen = Hyperparameters(alpha, l1_ratio)
        split = _prepare(narrator, data, target, seed)
        client = gateway.connect(settings)
        narrator.tell(f"Reached {show_address(settings.tracking_uri)}")
        with gateway.explained(settings):
            names = {"experiment": experiment, "run_name": run_name}
            _train(client, settings, narrator, split, chosen, register=register, **names)
        narrator.end()


@app.command()
def bootstrap() -> None:
    """Fill a new stack: train two models and put the better in Production. Later starts train nothing."""
    with _edge():
        settings, narrator = read_settings(), Narrator()
        from wine import gateway, registry

        client = gateway.connect(settings)
        with gateway.explained(settings):
            if settled := registry.explain_settled(client):
                typer.echo(f"Already trained: {settled}")
                return
            from wine import tracking
            from wine.model import Hyperparameters

            split = _prepare(narrator, None, TARGET, SEED)
            registry.open_bootstrap(client)
            candidates = []
            for chosen in (Hyperparameters(*pair) for pair in BOOTSTRAP_PAIRS):
                params = tracking.list_params(split, chosen)
                candidate = registry.find_candidate(client, params, split.table.digest)
                if candidate:
                    narrator.tell(f"Kept version {candidate.version}, trained earlier with {params}")
                else:
                    candidate = _train(client, settings, narrator, split, chosen)
                candidates.append(candidate)
            narrator.tell(f"Put version {registry.promote_better(client, candidates)} in Production")
        narrator.end()


def _prepare(narrator: Narrator, data: str | None, target: str, seed: int) -> "Split":
    from wine.data import load_table, split_table

    narrator.tell("Loaded the libraries")
    table = load_table(data, target)
    narrator.tell(f"Read {len(table.frame)} rows, {len(table.inputs)} inputs, target {target}: {table.source}")
    return split_table(table, seed)


def _train(
    client: "MlflowClient",
    settings: Settings,
    narrator: Narrator,
    split: "Split",
    chosen: "Hyperparameters",
    *,
    experiment: str = EXPERIMENT,
    run_name: str = RUN_NAME,
    register: bool = True,
) -> "Candidate":
    from wine import registry, tracking
    from wine.model import fit_model, measure_model

    experiment_id = tracking.find_experiment(client, experiment)
    with tracking.open_run(client, experiment_id, run_name, settings) as run_id:
        model = fit_model(split, chosen)
        metrics = measure_model(model, split)
        # These four lines are the article's.
        typer.echo(f"Elasticnet model (alpha={chosen.alpha:f}, l1_ratio={chosen.l1_ratio:f}):")
        for name, value in asdict(metrics).items():
            typer.echo(f"  {name.upper()}: {value}")
        model_uri = tracking.log_training(split, chosen, model, metrics)
        narrator.tell(f"Logged run {run_id} ({run_name}) in experiment {experiment!r}")
        version = registry.register(client, model_uri) if register else ""
        if register:
            narrator.tell(f"Registered {registry.MODEL} version {version}")
    return registry.Candidate(version, metrics.rmse)


@contextmanager
def _edge() -> Iterator[None]:
    """End the process with 1 and one line for an expected failure, 130 for Ctrl-C, 143 for SIGTERM, 3 for a bug."""
    signal.signal(signal.SIGTERM, _terminate)
    quiet_libraries()
    try:
        yield
    except TrainerError as error:
        _exit(1, f"error: {error}")
    except KeyboardInterrupt:
        _exit(130, "interrupted")
    except Terminated:
        _exit(143, "terminated")
    except Exception:
        _exit(3, f"{traceback.format_exc()}error: this is a bug in the trainer, please report it")


def _exit(code: int, line: str) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(code) from None


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; a second must not disturb the clean-up
    raise Terminated
