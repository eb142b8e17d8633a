"""The ASGI application of one version: MLflow's scoring protocol, a bounded queue, and which version it was."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlflow.version import VERSION
from starlette.types import Receive, Scope, Send

from serving.answers import JSON, Answerer, RequestError
from serving.counts import Counts

if TYPE_CHECKING:  # (it takes memory, and most stacks have no log)
    from serving.log import Log

OK = 200
INLINE_BYTES = 16 * 1024  # a larger request takes long enough to be worth a thread
THREADS = 2
MAX_WAITING = 32  # that are predicted or wait for it; more are told to come again
SECONDS = 60.0
QUESTIONS = {"/invocations": "POST", "/ping": "GET", "/health": "GET", "/version": "GET", "/metrics": "GET"}
TEXT = "text/plain; version=0.0.4; charset=utf-8"
Answer = tuple[int, str, str]  # status, content type, body


def refuse(status: int, code: str, message: str) -> Answer:
    """Return an error as MLflow's clients know it."""
    return status, JSON, json.dumps({"error_code": code, "message": message})


def read_header(scope: Scope, wanted: bytes) -> str:
    """Return a header of the request, "" if there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


class ModelApp:
    """Answers for one version of a model."""

    def __init__(self, answerer: Answerer, name: str, version: str, log: Log | None = None) -> None:
        self.answerer = answerer
        self.log = log
        self.counts = Counts(name, version)
        self.headers = [(b"x-model-name", name.encode()), (b"x-model-version", version.encode())]
        self.threads = ThreadPoolExecutor(THREADS, "predict")
        self.is_leaving = False

    def leave(self) -> None:
        """Have each connection end with its next answer: the next version gets what comes after it."""
        if not self.is_leaving:
            self.is_leaving = True
            self.headers.append((b"connection", b"close"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of the gateway."""
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, kind, text = await self.answer(scope, bytes(body))
        content = text.encode()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode()), *self.headers]
        if status == 503:  # noqa: PLR2004
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def live(self, receive: Receive, send: Send) -> None:
        """Have the log written from the beginning to the end of the server, after its last answer."""
        await receive()
        if self.log:
            self.log.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self.log:
            await asyncio.to_thread(self.log.end)
        await send({"type": "lifespan.shutdown.complete"})

    async def answer(self, scope: Scope, body: bytes) -> Answer:
        """Return the answer to one question."""
        path = scope["path"]
        if scope["method"] != QUESTIONS.get(path) and not (scope["method"] == "HEAD" and path != "/invocations"):
            return refuse(405, "BAD_REQUEST", f"{path} takes {QUESTIONS.get(path, 'no request')}")
        if path == "/invocations":
            started = time.perf_counter()
            kind = read_header(scope, b"content-type")
            result = await self.predict(body, kind)
            seconds = time.perf_counter() - started
            self.counts.add(result[0], seconds)
            if self.log and result[0] == OK:
                self.log.add(read_header(scope, b"x-request-id"), body, kind, result[2], seconds)
            return result
        if path == "/version":
            return 200, JSON, VERSION
        if path == "/metrics":
            return 200, TEXT, self.counts.render() + (self.log.render(self.counts.labels) if self.log else "")
        return 200, JSON, "\n"

    async def predict(self, body: bytes, content_type: str) -> Answer:
        """Return the predictions: at once if that is quick, else when a thread has made them."""
        try:
            if content_type == JSON and len(body) <= INLINE_BYTES and not self.answerer.is_slow:
                short = self.answer_shortly(body)
                if short is not None:
                    return 200, JSON, short
            if self.counts.waiting >= MAX_WAITING:
                return refuse(503, "TEMPORARILY_UNAVAILABLE", f"{MAX_WAITING} requests wait already: try again")
            self.counts.waiting += 1
            future = asyncio.get_running_loop().run_in_executor(self.threads, self.answer_in_thread, body, content_type)
            future.add_done_callback(lambda _: self.forget_one())
            return 200, JSON, await asyncio.wait_for(asyncio.shield(future), SECONDS)
        except RequestError as error:
            return refuse(error.status, error.code, error.reason)
        except MemoryError:
            return refuse(
                413, "REQUEST_LIMIT_EXCEEDED", "the model has not enough memory for this: send fewer rows at once"
            )
        except TimeoutError:
            return refuse(504, "TEMPORARILY_UNAVAILABLE", f"the model took longer than {SECONDS:.0f} s")

    def forget_one(self) -> None:
        """Count a request that a thread is done with, whether or not anybody waited so long."""
        self.counts.waiting -= 1

    def answer_shortly(self, body: bytes) -> str | None:
        """Return the answer by the short way, if there is one. Raises RequestError, MemoryError."""
        try:
            request = json.loads(body)
        except ValueError:
            return None
        short = self.answerer.answer_shortly(request)
        self.counts.short += short is not None
        return short

    def answer_in_thread(self, body: bytes, content_type: str) -> str:
        """Return the answer, by the short way if it can. Raises RequestError, MemoryError."""
        if content_type == JSON and (short := self.answer_shortly(body)) is not None:
            return short
        return self.answerer.answer_by_mlflow(body, content_type)
