"""The commands of the trainer's image."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from sweep.cli import add_commands as add_sweep
from tabular.formats import is_parquet
from wine.edge import edge, tell
from wine.errors import show_address
from wine.names import EXPERIMENT, MODEL, RUN_NAME, SEED, TARGET, Filing
from wine.settings import read_settings

# The other modules need libraries that take seconds to import: each command imports what it comes to need.
if TYPE_CHECKING:
    from mlflow import MlflowClient

    from wine.data import Split
    from wine.model import Hyperparameters
    from wine.registry import Candidate
    from wine.tracking import Labels

BOOTSTRAP_PAIRS = ((0.5, 0.5), (0.1, 0.5))  # alpha, l1_ratio: the article's, and one to compare with it

app = typer.Typer(
    help="Train the wine regression and keep its model in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
add_sweep(app)


def _parse_number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def main() -> NoReturn:
    """Run the command line; a usage error is one line and exit 2, as every other expected failure is one line."""
    try:
        code = app(prog_name="./stack", standalone_mode=False)
    except TyperException as error:
        typer.echo(f"error: {error.format_message().rstrip('.')}: --help lists the options", err=True)
        sys.exit(2)
    sys.exit(code)


@app.command()
def train(  # noqa: PLR0913, PLR0917 - each is an option
    alpha: Annotated[
        float | None, typer.Option(parser=_parse_number, help="Weight of the penalty, 0 or more.", show_default="0.5")
    ] = None,
    l1_ratio: Annotated[
        float | None, typer.Option(parser=_parse_number, help="Share of the L1 penalty, 0 to 1.", show_default="0.5")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the test rows.", min=0, max=2**32 - 1)] = SEED,
    data: Annotated[
        str | None, typer.Option(help="CSV or Parquet file or http(s) URL.", show_default="the red wines")
    ] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = TARGET,
    model: Annotated[
        str | None,
        typer.Option(help="Regressor or classifier of scikit-learn.", show_default="the article's elastic net"),
    ] = None,
    params: Annotated[str | None, typer.Option(help="Its parameters, a JSON object; with --model.")] = None,
    run_name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="Sk_ and the model")] = None,
    experiment: Annotated[str, typer.Option(help="Created when missing.")] = EXPERIMENT,
    model_name: Annotated[
        str | None, typer.Option(help="Name of the registered model.", show_default="data and model")
    ] = None,
    register: Annotated[bool, typer.Option(help="Make the model a new version of the registered one.")] = True,
) -> None:
    """Train one model, log it, and register it."""
    elastic = {"alpha": 0.5 if alpha is None else alpha, "l1_ratio": 0.5 if l1_ratio is None else l1_ratio}
    if model is None and params is not None:
        raise typer.BadParameter("--params goes with --model: name one")
    if model is not None and (alpha, l1_ratio) != (None, None):
        raise typer.BadParameter("--alpha and --l1-ratio don't go with --model: write them into --params")
    with edge():
        settings = read_settings()
        if model is not None or is_parquet(data):
            from tabular.command import Request, train_any

            chosen = json.dumps(elastic) if model is None else params or "{}"
            request = Request(model or "ElasticNet", chosen, data, target, seed)
            train_any(settings, request, Filing(experiment, run_name, model_name, register))
            return
        from wine.model import Hyperparameters

        hyperparameters = Hyperparameters(**elastic)
        split = _load_split(data, target, seed)
        from wine import gateway, tracking

        client = gateway.connect(settings)
        tell(f"Reached {show_address(settings.tracking_uri)}")
        with gateway.explained(settings):
            labels = tracking.Labels(experiment, run_name or RUN_NAME, settings.user, settings.git_commit)
            _train(client, labels, split, hyperparameters, (model_name or MODEL) if register else None)
        tell("Done")


@app.command()
def project(
    source: Annotated[str, typer.Argument(help="How the mounted project is called.")],
    entry_point: Annotated[str, typer.Option(help="Of its MLproject.")] = "main",
    param: Annotated[list[str] | None, typer.Option("-P", "--param", help="NAME=VALUE, again for each.")] = None,
    experiment: Annotated[str, typer.Option(help="Created when missing.")] = EXPERIMENT,
    run_name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
) -> None:
    """Run a user's own MLproject, which is mounted at /project."""
    with edge():
        settings = read_settings()
        from project.runner import Project, run_project

        run_project(settings, Project(source, entry_point, param or [], experiment, run_name))


@app.command()
def bootstrap() -> None:
    """Train two models for a new stack, the better for Production; later starts train nothing."""
    with edge():
        settings = read_settings()
        from wine import gateway, registry

        client = gateway.connect(settings)
        with gateway.explained(settings):
            if settled := registry.explain_settled(client):
                tell(f"Already trained: {settled}")
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
                    tell(f"Kept version {candidate.version}, trained earlier with {params}")
                candidates.append(candidate or _train(client, labels, split, chosen))
            tell(f"Put version {registry.promote_better(client, candidates)} in Production")
        tell("Done")


def _load_split(data: str | None, target: str, seed: int) -> "Split":
    from wine.data import load_table, split_table

    table = load_table(data, target)
    tell(f"Read {len(table.frame)} rows, {len(table.inputs)} inputs and the target {target} from {table.source}")
    return split_table(table, seed)


def _train(
    client: "MlflowClient", labels: "Labels", split: "Split", chosen: "Hyperparameters", name: str | None = MODEL
) -> "Candidate":
    from wine import registry, tracking
    from wine.model import fit_model, measure_model

    with tracking.open_run(client, labels) as run_id:
        model = fit_model(split, chosen)
        metrics = measure_model(model, split)
        typer.echo(f"Elasticnet model (alpha={chosen.alpha:f}, l1_ratio={chosen.l1_ratio:f}):")
        for metric, value in asdict(metrics).items():
            typer.echo(f"  {metric.upper()}: {value}")
        model_uri = tracking.log_training(split, chosen, model, metrics)
        tell(f"Logged run {run_id} ({labels.run_name}) in experiment {labels.experiment!r}")
        version = registry.register(client, model_uri, name) if name else ""
        if version:
            tell(f"Registered {name} version {version}")
    return registry.Candidate(version, metrics.rmse)
