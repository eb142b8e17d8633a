"""`train --model`: one training of any estimator."""

from dataclasses import dataclass

import typer

from tabular.estimators import parse_object
from tabular.table import load_table
from tabular.training import Task, fit, log_fit, name_model, open_task
from wine import gateway, registry, tracking
from wine.edge import tell
from wine.names import Filing
from wine.settings import Settings


@dataclass(frozen=True)
class Request:
    """What is to be trained, as the command line says it."""

    model: str
    params: str
    data: str | None
    target: str
    seed: int


def prepare(request: Request, err: bool = False) -> Task:
    """Read the table and check all of the request against it.

    Raises:
        TrainerError: Something doesn't fit.
    """
    params = parse_object("--params", request.params)
    table = load_table(request.data, request.target)
    inputs = len(table.frame.columns) - 1
    tell(f"Read {len(table.frame)} rows, {inputs} inputs and the target {table.target} from {table.source}", err=err)
    return open_task(table, request.model, params, request.seed)


def train_any(settings: Settings, request: Request, filing: Filing) -> None:
    """Train, log and register.

    Raises:
        TrainerError: The request doesn't fit, or the gateway can't be reached or refuses.
    """
    task = prepare(request)
    client = gateway.connect(settings)
    pipeline, metrics = fit(task)
    typer.echo(f"{task.model} model:")
    for name, value in metrics.items():
        typer.echo(f"  {name.upper()}: {value}")
    run_name = filing.run_name or f"Sk_{task.model}"
    with gateway.explained(settings):
        labels = tracking.Labels(filing.experiment, run_name, settings.user, settings.git_commit, task.tags)
        with tracking.open_run(client, labels) as run_id:
            model_uri = log_fit(task, pipeline, metrics, {})
            tell(f"Logged run {run_id} ({run_name}) in experiment {filing.experiment!r}")
            if filing.register:
                name = filing.model_name or name_model(task.table, task.model)
                tell(f"Registered {name} version {registry.register(client, model_uri, name)}")
    tell("Done")
