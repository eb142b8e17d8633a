"""The same MLflow without its login, for the gateway's twin: it is mounted by the bench and in no image."""

from __future__ import annotations

from starlette.types import ASGIApp


def create_app() -> ASGIApp:
    """Return the application that MLflow's login would be put around."""
    from mlflow.server.fastapi_app import app

    application: ASGIApp = app
    return application
