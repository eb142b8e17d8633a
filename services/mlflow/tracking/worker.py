"""The gunicorn worker: uvicorn's, without the headers that the gateway sets too."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):
    """Runs the application on uvloop; Date and Server are the gateway's."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "date_header": False,
        "server_header": False,
    }
