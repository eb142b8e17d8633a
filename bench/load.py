"""Eight clients at once: wrk's, since a client in Python would be what is measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.client import EXPERIMENT, TIMEOUT_SECONDS, Login, Question, make_header
from bench.latency import Summary

CLIENTS = 8


class LoadError(Exception):
    """Not every request was answered well, so that the figures would mean nothing."""


class SlowError(LoadError):
    """No request was answered in time."""


def measure(url: str, login: Login, seconds: int, scratch: Path, question: Question = EXPERIMENT) -> Summary:
    """Ask with all clients for a while. Raises LoadError."""
    header = scratch / "authorization"
    header.touch(mode=0o600)
    header.write_text(make_header(login) + "\n")
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
    command += ["-s", str(Path(__file__).with_name("load.lua")), url + question.path, "--", str(header)]
    if question.body:
        body = scratch / "body"
        body.write_text(question.body)
        command += [str(body), question.headers["Content-Type"]]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 120)
    finally:
        header.unlink()
    if result.returncode != 0:
        raise LoadError(f"wrk on {url}: {(result.stderr or result.stdout).strip()}")
    figures = json.loads(result.stdout.splitlines()[-1])
    if not figures["requests"]:
        raise SlowError(f"{url}: not one of {CLIENTS} clients had an answer within {seconds} s: measure for longer")
    if figures["failed"]:
        raise LoadError(f"{url}: {figures['failed']} of {figures['requests']} requests failed")
    return Summary(
        p50=figures["p50"],
        p99=figures["p99"],
        per_second=figures["requests"] / figures["seconds"],
        requests=figures["requests"],
    )
