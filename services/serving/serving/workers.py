"""Processes of versions, as the supervisor sees them.

They are forked from a process that has imported MLflow and scikit-learn (multiprocessing's fork server): a version is
there in a fraction of the time, and all share that memory. The supervisor itself imports none of it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.order import Order

LOAD_SECONDS = 120.0
# Between the swap and the old worker's end: whatever was on its way to its socket has arrived by then, and the gateway
# has ended its idle connections (nginx/gateway: keepalive_timeout 2s).
DRAIN_SECONDS = 4.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["serving.worker"])


def start_worker(order: Order, outcome: Connection) -> None:
    """Run in the new process."""
    from serving import worker

    worker.run(order, outcome)


@dataclass
class Worker:
    """One process.

    Attributes:
        order: what it serves.
        process: as multiprocessing knows it.
        outcome: whence it says whether it can serve.
        started: when it was started, by time.monotonic.
        stop_at: when it is to be told to end, None if it isn't.
    """

    order: Order
    process: BaseProcess
    outcome: Connection
    started: float = field(default_factory=time.monotonic)
    stop_at: float | None = None

    @classmethod
    def start(cls, order: Order) -> Worker:
        """Start a process."""
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=start_worker, args=(order, sender), name=f"{order.name}@{order.version}")
        process.start()
        sender.close()
        return cls(order, process, receiver)

    def find_outcome(self) -> str | None:
        """Return "" once it serves, why it can't once that is clear, None until then."""
        if self.outcome.poll():
            try:
                # (not recv: that would unpickle what a process wrote that has loaded a model)
                return str(json.loads(self.outcome.recv_bytes(65536))["fault"])
            except (EOFError, OSError, ValueError, KeyError, TypeError):
                self.process.join(1)
                return self.describe_end()
        if self.process.exitcode is not None:
            return self.describe_end()
        if time.monotonic() - self.started > LOAD_SECONDS:
            self.kill()
            return f"it was not loaded within {LOAD_SECONDS:.0f} s"
        return None

    def describe_end(self) -> str:
        """Return how the process ended by itself."""
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = " (out of memory: STACK_SERVE_MEMORY)" if -code == signal.SIGKILL else ""
            return f"its process was ended by {name}{memory}"
        return f"its process ended with code {code}"

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self.process.exitcode is None

    def retire(self) -> None:
        """Have it end once nothing is on its way to it any more; what it has begun it finishes."""
        self.send(signal.SIGUSR1)
        self.stop_at = time.monotonic() + DRAIN_SECONDS

    def terminate(self) -> None:
        """Tell it to finish what it has begun."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        if self.send(signal.SIGKILL):
            self.process.join(5)

    def send(self, number: signal.Signals) -> bool:
        """Send a signal, if there is anybody to get it."""
        if not (self.is_alive() and self.process.pid):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return True

    def clear(self) -> None:
        """Remove what it leaves."""
        self.outcome.close()
        Path(self.order.socket).unlink(missing_ok=True)
