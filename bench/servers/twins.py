"""The same MLflow without the stack's login, for the gateway's twins: mounted by the bench and in no image."""

from __future__ import annotations

from starlette.types import ASGIApp


def create_rights_app() -> ASGIApp:
    """Return MLflow's own application: it looks at the login (which it remembers) and at rights (which it doesn't)."""
    from mlflow.server.auth import create_app

    application: ASGIApp = create_app()
    return application


def create_open_app() -> ASGIApp:
    """Return the application that MLflow's login would be put around."""
    from mlflow.server.fastapi_app import app

    application: ASGIApp = app
    return application
