"""Command line of the admin container."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from admin import audit, cli_users, gateway, moments, settings, status, trial

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.add_typer(cli_users.app, name="user")


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
        print(f"stack: {gateway.describe_refused_login(chosen)}", file=sys.stderr)


@app.command("status")
def show_status() -> None:
    """Print a table of the services described on standard input (docker compose ps and docker stats, JSON)."""
    chosen = settings.load()
    described = sys.stdin.read()
    services, version = status.read_services(described), gateway.ask_version(chosen)
    models, trouble = status.read_models(described)
    status.print_table(services, version, chosen.url, models, trouble)
    # (no service at all: Docker could not be asked)
    is_well = bool(services) and all(service.is_well for service in services) and all(model.is_well for model in models)
    if backups := status.read_backups(described, datetime.now(UTC)):
        status.print_backups(backups)
        is_well = is_well and backups.is_well
    disks = [*status.read_disks(described), status.measure_disk("audit log", settings.AUDIT)]
    status.print_disks(disks)
    is_well = is_well and all(disk.is_well for disk in disks)
    if version is None or not is_well:
        raise typer.Exit(1)


@app.command("trial", hidden=True)
def try_out() -> None:
    """Try a new version, as ./stack upgrade does before it lets clients in."""
    print(f"A run and an artifact were written, read and deleted ({trial.try_out(settings.load()):.1f} s)")


@app.command("audit")
def show_audit(
    user: Annotated[str | None, typer.Option(help="what this user did")] = None,
    since: Annotated[str | None, typer.Option(help="2h, 7d, 2026-11-25, 2026-11-25T18:00:00Z (UTC)")] = None,
    action: Annotated[str, typer.Option(help="what the action begins with, such as registered-models/")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON lines")] = False,
) -> None:
    """Show who changed what, from where, with what result."""
    search = audit.Search(user, None if since is None else moments.read_since(since), action)
    try:
        if not as_json:
            print(audit.format_line(audit.HEADER))
        for entry in search.find(settings.AUDIT):
            print(audit.format_json(entry) if as_json else audit.format_entry(entry))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        raise typer.Exit from None
    if search.unreadable:
        print(f"stack: lines left out because they can't be read: {search.unreadable}", file=sys.stderr)
