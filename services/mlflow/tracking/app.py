"""The ASGI application: MLflow's own, and before it the two routes that only the gateway and Docker ask."""

from __future__ import annotations

import json

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from tracking import artifacts, identity, readiness, settings

AUTH_PATH = "/_stack/auth"
READY_PATH = "/_stack/ready"


async def respond(send: Send, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
    """Send a whole answer: JSON, or no body for None."""
    content = b"" if body is None else json.dumps(body).encode()
    fields = {"content-length": str(len(content)), "content-type": "application/json", **(headers or {})}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})


class StackApp:
    """Answers the stack's own routes and hands everything else to MLflow."""

    def __init__(self, mlflow_app: ASGIApp, chosen: settings.Settings) -> None:
        self.mlflow_app = mlflow_app
        self.settings = chosen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route by path; the gateway lets no client reach the paths of the stack."""
        path = scope.get("path")
        if scope["type"] == "http" and path == AUTH_PATH:
            await self.authenticate(scope, send)
        elif scope["type"] == "http" and path == READY_PATH:
            faults = await readiness.find_faults(self.settings)
            await respond(send, 503 if faults else 200, {"faults": faults})
        else:
            await self.mlflow_app(scope, receive, send)

    async def authenticate(self, scope: Scope, send: Send) -> None:
        """Answer the gateway's question: 204 known, 401 not, 503 can't tell."""
        credentials = identity.read_basic(scope)
        try:
            known = credentials is not None and await identity.is_known(credentials)
        except (SQLAlchemyError, MlflowException):  # MLflow's sessions turn the one into the other
            await respond(send, 503)
            return
        if known:
            await respond(send, 204)
        else:
            await respond(send, 401, headers={"www-authenticate": 'Basic realm="mlflow", charset="UTF-8"'})


def create_app() -> ASGIApp:
    """Return the application that gunicorn serves; gunicorn.conf.py has applied the settings by then."""
    from mlflow.server.auth import create_app as create_mlflow_app

    chosen = settings.load()
    artifacts.register(chosen.tls)
    return StackApp(create_mlflow_app(), chosen)
