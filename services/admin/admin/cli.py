"""Command line of the admin container."""

from __future__ import annotations

import shlex
import sys

import typer

from admin import gateway, settings, status

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Administer a running stack."""


@app.command()
def env() -> None:
    """Print what an MLflow client needs, for eval."""
    chosen = settings.load()
    for name, value in (
        ("MLFLOW_TRACKING_URI", chosen.url),
        ("MLFLOW_TRACKING_USERNAME", chosen.username),
        ("MLFLOW_TRACKING_PASSWORD", chosen.password),
    ):
        print(f"export {name}={shlex.quote(value)}")
    if gateway.ask_version(chosen) is None and gateway.is_alive(chosen):
        print(
            f"stack: the login of {chosen.username} is refused: its password was changed in MLflow: "
            "./stack secrets set admin_password makes a new one known to both",
            file=sys.stderr,
        )


@app.command("status")
def show_status() -> None:
    """Print a table of the services described on standard input (docker compose ps and docker stats, JSON)."""
    chosen = settings.load()
    services, version = status.read_services(sys.stdin.read()), gateway.ask_version(chosen)
    status.print_table(services, version, chosen.url)
    if version is None or any(not service.is_well for service in services):
        raise typer.Exit(1)
