"""The ASGI application: MLflow's own, and before it the login, what is closed, and two routes of the stack's own."""

from __future__ import annotations

import functools
import json

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from tracking import artifacts, closed, identity, readiness, settings, spelling, targets

AUTH_PATH = "/_stack/auth"
READY_PATH = "/_stack/ready"
MAX_DRAINED = 1024 * 1024
RETRY_HEADER = "x-stack-retry-after"

Refusal = tuple[int, dict[str, str], dict[str, str]]  # status, body, headers


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


async def drain(receive: Receive) -> None:
    """Read the request's body before it is refused, unless it is large.

    The gateway passes a body on while it comes, and ends the connection of a client whose answer came before its end.
    """
    size, more = 0, True
    while more and size < MAX_DRAINED:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)


UNKNOWN: Refusal = (
    401,
    {
        "error_code": "UNAUTHENTICATED",
        "message": "log in with a user name and password of this MLflow: "
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    },
    {"www-authenticate": 'Basic realm="mlflow", charset="UTF-8"'},
)
UNAVAILABLE: Refusal = (
    503,
    {
        "error_code": "TEMPORARILY_UNAVAILABLE",
        "message": "the tracking server can not reach its database at the moment: try again",
    },
    {"retry-after": "2"},
)


class StackApp:
    """Answers the stack's own routes, refuses who is not known and what is closed, and hands the rest to MLflow."""

    def __init__(self, mlflow_app: ASGIApp, chosen: settings.Settings) -> None:
        self.mlflow_app = mlflow_app
        self.settings = chosen
        self.closed = closed.Closed(chosen.opened)

    @functools.cached_property
    def identity(self) -> identity.Identity:
        """What this worker knows of its users (its threads are its own: so it is made after the fork)."""
        return identity.Identity()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route by path; the gateway lets no client reach the paths of the stack."""
        if scope["type"] == "lifespan":
            await self.mlflow_app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
        elif scope["path"] == READY_PATH:
            faults = await readiness.find_faults(self.settings)
            await respond(send, 503 if faults else 200, {"faults": faults})
        # The gateway has asked already, another worker perhaps and up to two seconds ago: here the answer is fresh, and
        # keeps this worker's caches so.
        elif refusal := await self.find_refusal(scope):
            await drain(receive)
            await respond(send, *refusal)
        elif scope["path"] == AUTH_PATH:
            await respond(send, 204)
        elif not spelling.is_header_plain(scope):
            await drain(receive)
            await respond(send, 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": spelling.HEADER_FAULT})
        elif reason := self.closed.find_reason(scope["path"]):
            await drain(receive)
            await respond(send, 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": reason})
        else:
            await self.mlflow_app(scope, receive, send)

    async def find_refusal(self, scope: Scope) -> Refusal | None:
        """Return None for a known login, else the answer: 401 not known, 429 too many guesses, 503 can't tell."""
        credentials = identity.read_basic(scope)
        verdict = identity.Verdict(known=False)
        if credentials is not None:
            try:
                verdict = await self.identity.check(credentials, find_address(scope))
            except (SQLAlchemyError, MlflowException):  # MLflow's sessions turn the one into the other
                return UNAVAILABLE
        if verdict.known:
            return None
        if not verdict.wait:
            return UNKNOWN
        if scope["path"] == AUTH_PATH:  # auth_request passes on 401 and 403 only
            return 403, {}, {RETRY_HEADER: str(verdict.wait)}
        message = f"too many wrong logins from your address: try again in {verdict.wait} s"
        return 429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": message}, {"retry-after": str(verdict.wait)}


def find_address(scope: Scope) -> str:
    """Return the client's address, as the gateway says it."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-real-ip"), "")


def create_app() -> ASGIApp:
    """Return the application that gunicorn serves; gunicorn.conf.py has applied the settings by then."""
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app as create_mlflow_app

    from tracking import rules

    chosen = settings.load()
    artifacts.register(chosen.tls)
    app = StackApp(create_mlflow_app(), chosen)
    rules.register(flask_app, lambda: app.identity)
    spelling.register(flask_app)
    targets.register(flask_app)
    return app
