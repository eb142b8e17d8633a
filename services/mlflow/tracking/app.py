"""The ASGI application: MLflow's own, and before it the login, what is closed, and two routes of the stack's own."""

from __future__ import annotations

import functools
import importlib
import json
import os
from typing import TYPE_CHECKING, Any

import flask
from botocore.exceptions import BotoCoreError
from itsdangerous import URLSafeSerializer
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.s3_artifact_repo import _get_s3_client
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from tracking.fast.paths import Fast
    from tracking.identity import Account
    from tracking.places import Places

from tracking import artifacts, closed, identity, readiness, settings, spelling, targets, throttle

AUTH_PATH = "/_stack/auth"
READY_PATH = "/_stack/ready"
SERVE_PATH = "/_stack/serve/"  # followed by the name of a model
UPLOAD_PATH = "/_stack/upload"  # followed by the path of the upload that is asked about
SIGNED_PATH = "/_stack/signed/"  # followed by a token
MAX_DRAINED = 1024 * 1024
RETRY_HEADER = "x-stack-retry-after"

Answer = tuple[int, dict[str, Any] | None, dict[str, str]]  # status, body, headers


async def respond(send: Send, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
    """Send a whole answer: JSON, or no body for None."""
    await send_body(send, status, b"" if body is None else json.dumps(body).encode(), headers or {})


async def send_body(send: Send, status: int, content: bytes, headers: dict[str, str]) -> None:
    """Send a whole answer whose body is JSON already, or empty."""
    fields = {"content-length": str(len(content)), "content-type": "application/json", **headers}
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


UNKNOWN: Answer = (
    401,
    {
        "error_code": "UNAUTHENTICATED",
        "message": "log in with a user name and password of this MLflow: "
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    },
    {"www-authenticate": 'Basic realm="mlflow", charset="UTF-8"'},
)
UNAVAILABLE: Answer = (
    503,
    {
        "error_code": "TEMPORARILY_UNAVAILABLE",
        "message": "the tracking server can not reach its database at the moment: try again",
    },
    {},  # (when to try again, the gateway says)
)


class StackApp:
    """Answers the stack's own routes, refuses who is not known and what is closed, and hands the rest to MLflow."""

    def __init__(
        self, mlflow_app: ASGIApp, chosen: settings.Settings, urls: artifacts.ClientUrls, asked: Places
    ) -> None:
        self.mlflow_app = mlflow_app
        self.settings = chosen
        self.urls = urls
        self.places = asked
        self.closed = closed.Closed(chosen.opened)

    @functools.cached_property
    def identity(self) -> identity.Identity:
        """What this worker knows of its users (its threads are its own: so it is made after the fork)."""
        return identity.Identity(throttle.Throttle(self.settings.workers))

    @functools.cached_property
    def fast(self) -> Fast | None:
        """The fast path of this worker, None if it is off."""
        if not self.settings.fast_path:
            return None
        from tracking.fast.paths import Fast

        return Fast(self.settings.database_uri, settings.share_connections(self.settings.workers).fast)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route by path; the gateway lets no client reach the paths of the stack."""
        if scope["type"] == "lifespan":
            await self.mlflow_app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
        elif scope["path"] == READY_PATH:
            faults = await readiness.find_faults(self.settings)
            await respond(send, 503 if faults else 200, {"faults": faults})
        elif scope["path"].startswith(SIGNED_PATH):
            await respond(send, *self.find_signed(scope))
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
        elif scope["path"].startswith((UPLOAD_PATH, SERVE_PATH)):
            find = self.find_upload if scope["path"].startswith(UPLOAD_PATH) else self.find_use
            await respond(send, *await find(scope))
        else:
            await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the hot path, or let MLflow."""
        name, _ = identity.read_basic(scope) or ("", "")
        account = self.identity.find_account(name)
        if (found := await self.find_download(scope, name, account)) is not None:
            await respond(send, *found)
            return
        if self.fast is None or (route := self.fast.find(scope)) is None:
            await self.mlflow_app(read_head(scope), receive, send)
            return
        from tracking.fast.database import LostError

        try:
            body, headers, receive = await self.fast.answer(route, scope, receive, account)
        except LostError:
            await respond(send, *UNAVAILABLE)
            return
        if body is None:
            await self.mlflow_app(read_head(scope), receive, send)
        else:
            await send_body(send, 200, body, headers)

    def find_signed(self, scope: Scope) -> Answer:
        """Return where the object of a signed URL is; 403 for one that is no good."""
        try:
            method = find_header(scope, b"x-stack-method")
            operation, parameters = self.urls.read(scope["path"].removeprefix(SIGNED_PATH), method)
        except artifacts.TokenError:
            return 403, None, {}
        return 204, None, {artifacts.OBJECT_HEADER: artifacts.sign(_get_s3_client(), operation, parameters, method)}

    async def find_upload(self, scope: Scope) -> Answer:
        """Return where an upload goes; 403 if MLflow has something else to say of it, and is to be asked."""
        name, _ = identity.read_basic(scope) or ("", "")
        upload = {**scope, "path": scope["path"].removeprefix(UPLOAD_PATH)}
        place = await self.places.find_place(upload, name, self.identity.find_account(name))
        return (204, None, {artifacts.OBJECT_HEADER: place}) if place else (403, None, {})

    async def find_download(self, scope: Scope, name: str, account: Account) -> Answer | None:
        """Return what MLflow's client asks before each download; None if MLflow has something else to say."""
        try:
            found = await self.places.find_download(scope, name, account)
        except BotoCoreError as error:
            return artifacts.describe_store_fault(error)
        return None if found is None else (200, found, {"vary": "Origin"})

    async def find_use(self, scope: Scope) -> Answer:
        """Return whether the user may ask this model: 204, or 401 with a header that says that the login is right."""
        from tracking import predicting

        name, _ = identity.read_basic(scope) or ("", "")
        try:
            model = scope["path"].removeprefix(SERVE_PATH)
            if await predicting.may_use(name, self.identity.find_account(name), model):
                return 204, None, predicting.GRANTED
        except (SQLAlchemyError, MlflowException):
            return UNAVAILABLE
        return 401, None, {predicting.REFUSED_HEADER: "use"}

    async def find_refusal(self, scope: Scope) -> Answer | None:
        """Return None for a known login, else the answer: 401 not known, 429 too many guesses, 503 can't tell."""
        credentials = identity.read_basic(scope)
        verdict = identity.Verdict(known=False)
        if credentials is not None:
            try:
                verdict = await self.identity.check(credentials, find_header(scope, b"x-real-ip"))
            except (SQLAlchemyError, MlflowException):  # MLflow's sessions turn the one into the other
                return UNAVAILABLE
        if verdict.known:
            return None
        if not verdict.wait:
            return UNKNOWN
        if scope["path"].startswith(SERVE_PATH):  # (tracking/predicting.py)
            return 401, {}, {RETRY_HEADER: str(verdict.wait)}
        if scope["path"].startswith((AUTH_PATH, UPLOAD_PATH)):  # auth_request passes on 401 and 403 only
            return 403, {}, {RETRY_HEADER: str(verdict.wait)}
        message = f"too many wrong logins from your address: try again in {verdict.wait} s"
        return 429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": message}, {"retry-after": str(verdict.wait)}


def read_head(scope: Scope) -> Scope:
    """Return the GET that a HEAD is about, any other request as it is.

    MLflow has rights for GET only, and so lets none but administrators ask for a HEAD. (The server sends no body: its
    own scope is as it was.)
    """
    # Set for every request: one that comes on a kept connection before the answer to a HEAD is whole is begun by
    # uvicorn from within the HEAD's own context.
    is_head = scope["method"] == "HEAD"
    artifacts.is_head.set(is_head)
    return {**scope, "method": "GET"} if is_head else scope


def find_header(scope: Scope, name: bytes) -> str:
    """Return a header that the gateway sets, "" without it."""
    return next((value.decode("latin-1") for header, value in scope["headers"] if header == name), "")


def answer_unavailable(_error: SQLAlchemyError) -> flask.Response:
    """Answer where MLflow asks its database outside of a session: it makes a worker's store at the first request."""
    status, body, headers = UNAVAILABLE
    return flask.Response(json.dumps(body), status, headers, mimetype="application/json")


def create_app() -> ASGIApp:
    """Return the application that gunicorn serves; gunicorn.conf.py has applied the settings by then."""
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app as create_mlflow_app

    from tracking import places, production, rules, space

    chosen = settings.load()
    if chosen.fast_path:
        importlib.import_module("tracking.fast.paths")  # before the fork: the workers share its memory
    key = os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    urls = artifacts.ClientUrls(URLSafeSerializer(key, salt="artifact url"), chosen.url_seconds)
    artifacts.register(flask_app, chosen.tls, urls, chosen.database_uri)
    space.register()
    for fault in (OperationalError, InterfaceError):
        flask_app.register_error_handler(fault, answer_unavailable)
    app = StackApp(create_mlflow_app(), chosen, urls, places.Places())
    rules.register(flask_app, lambda: app.identity)
    spelling.register(flask_app)
    targets.register(flask_app)
    production.register(flask_app)  # the last one follows MLflow first
    return app
