"""Has each wanted version served by a process, and changes from one to the next without a gap.

A model's socket for the gateway is a link to the socket of the process that serves it. The link is turned when the next
version has loaded and predicted its example; what can't leaves everything as it is, and the state says why.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from serving import copies
from serving.order import make_order
from serving.settings import Settings
from serving.workers import Worker

SOCKETS = copies.STATE.parent
STEP_SECONDS = 0.1
BEAT_SECONDS = 2.0
# A version that could not be served is tried again after this long: memory may be free by then.
RETRY_SECONDS, RETRY_SOON_SECONDS = 300.0, 15.0  # (soon: when nothing is served)
# A process that served and ended by itself is started again, later each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STOP_SECONDS = 8.0  # Docker waits 10
NUMBERS = itertools.count(1)  # of sockets


@dataclass
class Model:
    """One served model.

    Attributes:
        choice: what the operator wrote.
        settings: limits.
        wanted: what `follower` found.
        serving: the process behind the link.
        loading: the process that may be next.
        retiring: those that finish what they have begun.
        good: copy and version that were served last, also before a restart.
        faults: why copies could not be served, and when that was.
        reason: why what is served is not what is wanted.
        pause: how long to wait before what has ended is started again.
        not_before: when that is over.
    """

    choice: copies.Choice
    settings: Settings
    wanted: copies.Wanted | None = None
    serving: Worker | None = None
    loading: Worker | None = None
    retiring: list[Worker] = field(default_factory=list)
    good: tuple[str, str] = ("", "")
    faults: dict[str, tuple[str, float]] = field(default_factory=dict)
    reason: str = ""
    pause: float = FIRST_PAUSE
    not_before: float = 0.0

    @property
    def link(self) -> Path:
        """The socket that the gateway knows."""
        return SOCKETS / f"{self.choice.name}.sock"

    def step(self, wanted: copies.Wanted | None, may_load: bool) -> None:
        """Do what is to be done now; `may_load`: whether no other model is being loaded."""
        self.wanted = wanted
        self.end_retired()
        if self.serving and not self.serving.is_alive():
            self.lose()
        if self.loading:
            self.watch_loading()
        elif wanted and not wanted.version:
            self.stop_serving(wanted.reason)
        elif may_load and time.monotonic() >= self.not_before:
            self.load_next()

    def load_next(self) -> None:
        """Start a process for what is to be served next, if that is not what is served."""
        if copy := self.find_next():
            former = self.serving.order.copy if self.serving and not self.choice.version else ""
            socket = SOCKETS / "workers" / f"{next(NUMBERS)}.sock"
            self.loading = Worker.start(make_order(self.choice.name, copy, former, self.settings, str(socket)))
        else:
            self.explain()

    def find_next(self) -> str:
        """Return the copy to be loaded now, "" for none."""
        served = self.serving.order.copy if self.serving else ""
        # What was served before a restart comes first: it is known to be good.
        candidates = ([] if served else [self.good[0]]) + ([self.wanted.copy] if self.wanted else [])
        return next((copy for copy in candidates if copy and copy != served and self.may_try(copy)), "")

    def may_try(self, copy: str) -> bool:
        """Return whether this copy was not found unfit lately."""
        fault = self.faults.get(copy)
        pause = RETRY_SECONDS if self.serving else RETRY_SOON_SECONDS
        return fault is None or time.monotonic() - fault[1] > pause

    def explain(self) -> None:
        """Note why what is wanted is not served, if it isn't."""
        wanted = self.wanted
        if wanted is None:
            self.reason = "" if self.serving else "what is to be served is not known yet"
        elif self.serving and self.serving.order.copy == wanted.copy:
            self.reason = ""
        elif not wanted.copy:
            self.reason = wanted.reason
        elif wanted.copy in self.faults:
            self.reason = self.faults[wanted.copy][0]

    def watch_loading(self) -> None:
        """Swap if the next process serves by now; note why if it can't."""
        worker = self.loading
        if worker is None:
            return
        if self.serving and self.wanted and self.wanted.copy not in ("", worker.order.copy):
            self.loading = None  # something else is wanted by now
            worker.kill()
            worker.clear()
            return
        if (outcome := worker.find_outcome()) is None:
            return
        self.loading = None
        if outcome:
            self.faults[worker.order.copy] = (outcome, time.monotonic())
            print(f"serving: {self.choice.name} version {worker.order.version}: {outcome}", flush=True)
            worker.kill()
            worker.clear()
            self.explain()
            return
        self.swap(worker)

    def swap(self, worker: Worker) -> None:
        """Turn the link to this process; the former one gets nothing new from now on."""
        temporary = self.link.with_name(f".{self.link.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(worker.order.socket).relative_to(SOCKETS))
        temporary.replace(self.link)
        if self.serving:
            self.serving.retire()
            self.retiring.append(self.serving)
        self.serving = worker
        self.faults.pop(worker.order.copy, None)
        self.good = (worker.order.copy, worker.order.version)
        self.pause = FIRST_PAUSE
        self.explain()
        print(f"serving: {self.choice.name} version {worker.order.version} is served", flush=True)

    def lose(self) -> None:
        """The process that served has ended by itself: another is started."""
        worker = self.serving
        if worker is None:
            return
        print(f"serving: {self.choice.name} version {worker.order.version}: {worker.describe_end()}", flush=True)
        self.reason = f"{worker.describe_end()}; it is started again"
        self.link.unlink(missing_ok=True)
        worker.clear()
        self.serving = None
        self.not_before = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def stop_serving(self, reason: str) -> None:
        """Serve no version."""
        self.reason = reason
        self.good = ("", "")
        self.faults.clear()
        if self.serving:
            self.link.unlink(missing_ok=True)
            self.serving.retire()
            self.retiring.append(self.serving)
            self.serving = None
            print(f"serving: {self.choice.name}: no version is served any more: {reason}", flush=True)

    def end_retired(self) -> None:
        """Tell the former processes to end when it is time, and forget those that have."""
        for worker in list(self.retiring):
            if not worker.is_alive():
                worker.clear()
                self.retiring.remove(worker)
            elif worker.stop_at is not None and time.monotonic() >= worker.stop_at:
                worker.stop_at = None
                worker.terminate()

    def describe(self) -> dict[str, Any]:
        """Return its part of the state."""
        wanted = self.wanted or copies.Wanted(self.choice.name)
        served = self.serving.order.version if self.serving else ""
        if self.loading:
            state = "loading"
        elif self.serving and not self.reason:
            state = "served"
        else:
            state = "kept" if self.serving else "not served"
        return {
            "name": self.choice.name,
            "pinned": bool(self.choice.version),
            "wanted": wanted.version,
            "served": served,
            "state": state,
            "reason": self.reason,
            "copy": wanted.copy,
            "served_copy": self.serving.order.copy if self.serving else self.good[0],
            "served_version": served or self.good[1],
        }


@dataclass
class Supervisor:
    """All models."""

    settings: Settings
    models: list[Model] = field(default_factory=list)
    is_stopping: bool = False
    written: str = ""
    beat: float = 0.0

    def run(self) -> None:
        """Serve until SIGTERM."""
        signal.signal(signal.SIGTERM, self.stop)
        self.models = [Model(choice, self.settings) for choice in self.settings.choices]
        self.recall()
        desired: copies.Desired | None = None
        seen = None
        while not self.is_stopping:
            if (now := find_change(copies.DESIRED)) != seen:
                seen, desired = now, copies.read_desired(copies.DESIRED) or desired
            for model in self.models:
                is_free = not any(other.loading for other in self.models)
                model.step(desired.models.get(model.choice.name) if desired else None, is_free)
            self.write_state(desired.trouble if desired else "")
            time.sleep(STEP_SECONDS)
        self.end_all()

    def recall(self) -> None:
        """Begin where a former container has ended: with what it served, which may be all that works."""
        former = {model.get("name"): model for model in copies.read_json(copies.STATE).get("models", [])}
        folder = SOCKETS / "workers"
        folder.mkdir(mode=0o750, exist_ok=True)
        for left in [*folder.iterdir(), *SOCKETS.glob("*.sock"), *SOCKETS.glob(".*.new")]:
            left.unlink()
        for model in self.models:
            known = former.get(model.choice.name, {})
            model.good = (known.get("served_copy", ""), known.get("served_version", ""))

    def write_state(self, trouble: str) -> None:
        """Say how things are, when they have changed; and every other second that this process lives."""
        content = {"models": [model.describe() for model in self.models], "trouble": trouble}
        if (text := json.dumps(content, indent=1)) != self.written:
            copies.write_file(copies.STATE, text)
            self.written = text
        if time.monotonic() - self.beat >= BEAT_SECONDS:
            os.utime(copies.STATE)
            self.beat = time.monotonic()

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """End the loop."""
        self.is_stopping = True

    def end_all(self) -> None:
        """Let every process finish what it has begun, for as long as Docker waits."""
        workers = [
            worker for model in self.models for worker in (model.serving, model.loading, *model.retiring) if worker
        ]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(worker.is_alive() for worker in workers):
            time.sleep(STEP_SECONDS)
        for worker in workers:
            worker.kill()


def find_change(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced, None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
