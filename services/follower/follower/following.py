"""Asks again and again which versions are wanted, fetches them, and removes copies that nobody needs any more."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from follower.registry import AwayError, FetchError, MissingError, Registry, Version
from serving import copies
from serving.copies import Choice, Desired, Wanted

PAUSE = 1.0
# After how long the absence of a version counts: whoever moves an alias may delete it first.
GRACE_SECONDS = 5.0
RETRY_SECONDS = 15.0  # after a version's files could not be had
KEPT = 2  # copies of a model, the newest, beside those that are in use: for the way back
BEAT = Path("/tmp/beat")
PARTS = copies.ROOT / "parts"


@dataclass
class Follower:
    """What is known by now.

    Attributes:
        registry: who is asked.
        choices: which models are to be served.
        desired: what was said last.
        missing: since when a model has had no version.
        faults: versions whose files could not be had: why, and when that was.
    """

    registry: Registry
    choices: tuple[Choice, ...]
    desired: Desired
    missing: dict[str, float] = field(default_factory=dict)
    faults: dict[str, tuple[str, float]] = field(default_factory=dict)

    def step(self) -> None:
        """Ask once, and do what follows from it."""
        models, trouble = {}, ""
        for choice in self.choices:
            known = self.desired.models.get(choice.name, Wanted(choice.name, reason="it was not asked for yet"))
            try:
                models[choice.name] = self.find(choice, known)
            except AwayError as error:
                models[choice.name], trouble = known, str(error)
        if (desired := Desired(models, trouble)) != self.desired:
            copies.write_desired(copies.DESIRED, desired)
            self.desired = desired
            if trouble:
                print(f"follower: {trouble}", file=sys.stderr, flush=True)
        self.tidy()

    def find(self, choice: Choice, known: Wanted) -> Wanted:
        """Return what is wanted of a model by now. Raises AwayError."""
        try:
            version = self.registry.find(choice)
        except MissingError as error:
            since = self.missing.setdefault(choice.name, time.monotonic())
            if known.version and time.monotonic() - since < GRACE_SECONDS:
                return known
            return Wanted(choice.name, reason=str(error))
        self.missing.pop(choice.name, None)
        copy = copies.name_copy(version.name, version.version, version.created)
        return Wanted(choice.name, version.version, copy if self.has(version, copy) else "", self.explain(copy))

    def explain(self, copy: str) -> str:
        """Return why there is no such copy, "" if there is."""
        return self.faults.get(copy, ("", 0.0))[0]

    def has(self, version: Version, copy: str) -> bool:
        """Return whether the copy is there, by now. Raises AwayError."""
        if (copies.COPIES / copy).exists():
            return True
        fault = self.faults.get(copy)
        if fault and time.monotonic() - fault[1] < RETRY_SECONDS:
            return False
        try:
            self.fetch(version, copy)
        except (FetchError, OSError) as error:
            self.faults[copy] = (f"it can't be fetched: {error}", time.monotonic())
            print(f"follower: {version.name} version {version.version}: {error}", file=sys.stderr, flush=True)
            return False
        self.faults.pop(copy, None)
        return True

    def fetch(self, version: Version, copy: str) -> None:
        """Make a copy; it gets its name when it is complete. Raises AwayError, FetchError, OSError."""
        started = time.monotonic()
        shutil.rmtree(PARTS, ignore_errors=True)
        part = PARTS / copy
        (part / copies.FILES).mkdir(parents=True)
        try:
            self.registry.fetch(version, part / copies.FILES)
            copies.write_manifest(part)
            os.sync()
            part.rename(copies.COPIES / copy)
        finally:
            shutil.rmtree(PARTS, ignore_errors=True)
        print(f"follower: fetched {copy} in {time.monotonic() - started:.1f} s", flush=True)

    def tidy(self) -> None:
        """Remove copies that are neither wanted, nor in use, nor among a model's newest."""
        served = copies.find_served(copies.STATE)
        if served is None:
            return
        needed = served | {wanted.copy for wanted in self.desired.models.values()}
        others: dict[str, list[Path]] = {}
        for path in copies.COPIES.iterdir():
            if path.name not in needed:
                others.setdefault(path.name.rpartition("@")[0], []).append(path)
        listed = {choice.name for choice in self.choices}
        for name, paths in others.items():
            paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in paths[KEPT if name in listed else 0 :]:
                shutil.rmtree(path, ignore_errors=True)

    def drop_broken(self) -> None:
        """Remove wanted copies that are not as they were fetched: the next step fetches them again."""
        for wanted in self.desired.models.values():
            path = copies.COPIES / wanted.copy
            if wanted.copy and path.exists() and (fault := copies.find_fault(path)):
                print(f"follower: {wanted.copy}: {fault}", file=sys.stderr, flush=True)
                shutil.rmtree(path, ignore_errors=True)


def run(registry: Registry, choices: tuple[Choice, ...]) -> None:
    """Follow until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    copies.COPIES.mkdir(exist_ok=True)
    former = copies.read_desired(copies.DESIRED) or Desired({})
    names = {choice.name for choice in choices}
    follower = Follower(
        registry,
        choices,
        Desired({name: wanted for name, wanted in former.models.items() if name in names}, former.trouble),
    )
    follower.drop_broken()
    while True:
        try:
            follower.step()
        except OSError as error:  # the disk is full, for one
            print(f"follower: {error}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            BEAT.touch()
        time.sleep(PAUSE)
