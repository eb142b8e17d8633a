"""What a worker is told to serve. Nothing but the standard library: the supervisor makes it."""

from __future__ import annotations

from dataclasses import dataclass

from serving import copies
from serving.settings import Settings


@dataclass(frozen=True)
class Order:
    """What a worker is to serve.

    Attributes:
        name, version: what it is called.
        copy: folder in copies.COPIES.
        former: copy of the version that is served until now, whose requests it has to answer too; "" for none.
        pickle: whether it may run code of its own when it is loaded.
        memory: bytes that it may have.
        memory_text: the same as the operator wrote it.
        rows: the most rows of one request.
        socket: where to listen.
        log: whether predictions are logged.
        sample: of which share of their rows.
    """

    name: str
    version: str
    copy: str
    former: str
    pickle: bool
    memory: int
    memory_text: str
    rows: int
    socket: str
    log: bool
    sample: float


def make_order(name: str, copy: str, former: str, settings: Settings, socket: str) -> Order:
    """Return the order to serve this copy."""
    return Order(
        name=name,
        version=copies.find_version(copy),
        copy=copy,
        former=former,
        pickle=settings.pickle,
        memory=settings.memory,
        memory_text=settings.memory_text,
        rows=settings.rows,
        socket=socket,
        log=settings.log,
        sample=settings.sample,
    )
