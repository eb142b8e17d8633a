"""The steps of `./stack sweep`: open, work (in each worker's container), close."""

import gc
import re
from typing import TYPE_CHECKING, Annotated

import typer

from wine.edge import edge
from wine.names import EXPERIMENT, SEED, TARGET, Filing
from wine.settings import read_settings

if TYPE_CHECKING:
    from sweep.folder import Folder
    from wine.settings import Settings

TRIALS, FOLDS, MODEL = 50, 5, "ElasticNet"
MAX_TRIALS = 10_000
_UNITS = {"s": 1, "m": 60, "h": 3600}
# Exit codes that ./stack tells from those of a sweep that could not begin: a worker ended before the trials did (others
# do what it hasn't done), or the last one could not end the sweep.
EARLY, UNENDED = 4, 5


def _parse_duration(text: str | float) -> float:
    found = re.fullmatch(r"([1-9]\d{0,5})([smh])", str(text))
    if not found:
        raise typer.BadParameter(f"{text!r} is no duration: write it as 90s, 10m or 2h")
    return int(found[1]) * _UNITS[found[2]]


def add_commands(app: typer.Typer) -> None:
    """Add the steps; users know the first, and ./stack takes the others."""
    app.command("sweep")(open_sweep)
    app.command("sweep-work", hidden=True)(work)
    app.command("sweep-close", hidden=True)(close)


def open_sweep(  # noqa: PLR0913, PLR0917 - each is an option
    model: Annotated[
        str | None, typer.Option(help="Regressor or classifier of scikit-learn.", show_default=MODEL)
    ] = None,
    params: Annotated[str | None, typer.Option(help="Parameters that stay as they are, a JSON object.")] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help='What is searched, as {"alpha": {"low": 0.001, "high": 1, "log": true}, "tol": [0.1, 0.01]}.',
            show_default="the estimator's own",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="CSV or Parquet file or http(s) URL.", show_default="the red wines")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict.", show_default=TARGET)] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="rmse, mae, r2; accuracy, f1, log_loss, roc_auc.", show_default="rmse or accuracy"),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="How many are to be done.", min=1, max=MAX_TRIALS, show_default=str(TRIALS))
    ] = None,
    workers: Annotated[int, typer.Option(help="Containers that do trials at the same time.", min=1, max=32)] = 2,
    folds: Annotated[
        int | None, typer.Option(help="Of the cross-validation.", min=2, max=20, show_default=str(FOLDS))
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of split, folds, search and model.", min=0, max=2**32 - 1, show_default=str(SEED)),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(parser=_parse_duration, help="No trial begins after it: 90s, 10m, 2h.")
    ] = None,
    prune: Annotated[
        bool | None,
        typer.Option("--prune/--no-prune", help="Give up trials worse than the median.", show_default="prune"),
    ] = None,
    run_name: Annotated[str | None, typer.Option(help="Name of the parent run.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Created when missing.", show_default=EXPERIMENT)] = None,
    model_name: Annotated[
        str | None, typer.Option(help="Of the registered model.", show_default="data and model")
    ] = None,
    register: Annotated[bool | None, typer.Option(help="Register the best model.", show_default="register")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest unfinished sweep.")] = False,
    call: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Search hyper-parameters: trials shared by workers, and the best registered; --resume goes on after a stop."""
    # Checks all and makes the parent run, or opens the newest unfinished sweep again. With a call, for which the other
    # workers wait, it goes on as the first of them (a container more would import all again, for seconds); else it
    # prints the sweep's id.
    fresh = {
        "model": model, "params": params, "space": space, "data": data, "target": target, "metric": metric,
        "folds": folds, "seed": seed, "prune": prune, "run-name": run_name, "experiment": experiment,
        "model-name": model_name, "register": register,
    }  # fmt: skip
    if resume and (given := [name for name, value in fresh.items() if value is not None]):
        raise typer.BadParameter(f"--{given[0]} doesn't go with --resume: a sweep goes on as it began")
    with edge():
        settings = read_settings()
        from sweep import folder as folders
        from sweep import opening
        from tabular.command import Request

        if resume:
            folder = opening.resume(settings, trials, timeout)
        else:
            request = Request(model or MODEL, params or "{}", data, target or TARGET, SEED if seed is None else seed)
            search = opening.Search(
                space, metric, trials or TRIALS, folds or FOLDS, timeout, prune is not False, workers
            )
            filing = Filing(experiment or EXPERIMENT, run_name, model_name, register is not False)
            folder = opening.begin(settings, request, search, filing)
        if call is None:
            typer.echo(folder.run_id)
            return
        folders.answer(call, folder)
    _work(settings, folder, 1, closes=True)


def work(
    sweep: str,
    number: Annotated[int, typer.Option(help="Shown beside its trials.")] = 1,
    wait: Annotated[bool, typer.Option("--wait", help="For a sweep that is being opened; the last ends it.")] = False,
) -> None:
    """Do trials of a sweep until none is left."""
    with edge(EARLY, EARLY):
        settings = read_settings()
        from sweep import folder as folders
        from sweep import worker  # noqa: F401 - imported while the sweep is being opened

        folder = folders.await_folder(sweep) if wait else folders.open_folder(sweep)
    if folder:
        _work(settings, folder, number, closes=wait)


def close(
    sweep: str,
    unless_ended: Annotated[bool, typer.Option("--unless-ended", help="Say nothing if a worker has done it.")] = False,
) -> None:
    """Fit the best of a sweep again, log and register it, and draw how the search went."""
    with edge():
        settings = read_settings()
        from sweep import folder as folders

        if unless_ended and folders.has_ended(sweep):
            return
        from sweep import outcome

        outcome.close(settings, folders.open_folder(sweep))


def _work(settings: "Settings", folder: "Folder", number: int, closes: bool) -> None:
    gc.enable()  # (__main__: off for trainings of seconds)
    with edge(EARLY, EARLY):
        from sweep import outcome, worker

        is_last = worker.work(settings, folder, number)
    if closes and is_last:
        with edge(UNENDED, UNENDED):
            outcome.close(settings, folder)
