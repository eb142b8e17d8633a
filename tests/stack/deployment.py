"""A stack of the tests' own: a copy of the checkout in a scratch folder, with a name and a port that nobody has."""

from __future__ import annotations

import configparser
import contextlib
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from stack.tool import Tool

CHECKOUT = Path(__file__).parents[2]
QUIET = "docker-compose.yml:tests/stack/compose.quiet.yml"  # a COMPOSE_FILE
# Limits are there against hanging, and wide: a machine that others keep busy takes several times as long.
WAIT_SECONDS = 240.0
OK = 200
RETRY_SECONDS = "15"  # what a client is told while something is away (nginx.conf)
REVOKED_SECONDS = 5.0  # in which a login or right that is taken away ends
# Needs a login, the server and its database.
PROBE = "/api/2.0/mlflow/experiments/get?experiment_id=0"


def count_ports() -> Iterator[int]:
    """Yield ports of this process of the tests, each once, from where another run hardly begins.

    None is one that the system gives to a client's connection (from 32768): it is taken long before a stack listens.
    """
    worker, begin = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 12, random.randrange(1000)
    for number in itertools.count(begin):
        yield 20_000 + 1000 * worker + number % 1000


PORTS = count_ports()


def find_free_port() -> int:
    """Return a port that nobody listens on, and that no other stack of this process was given."""
    for port in itertools.islice(PORTS, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def copy_checkout(target: Path) -> None:
    """Copy what git knows or would add: what a clone of this tree has."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)


@dataclass
class Deployment:
    """A checkout and the stack that it makes; `run` is what a user types."""

    name: str
    root: Path
    port: int = field(default_factory=find_free_port)
    environment: dict[str, str] = field(default_factory=dict)
    known_login: dict[str, str] = field(default_factory=dict)
    scheme: str = "http"
    authority: Path | None = None  # certificate of the authority that a client is to know
    tools: dict[str, Tool] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def prepare(self, **settings: str) -> None:
        """Copy the checkout and write its .env."""
        copy_checkout(self.root)
        chosen = {"STACK_NAME": self.name, "STACK_PORT": str(self.port), **preset_choices(), **settings}
        (self.root / ".env").write_text("".join(f"{name}={value}\n" for name, value in chosen.items()))

    def execute(
        self, *command: str, timeout: float = 900, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout; it never raises for an exit code."""
        return subprocess.run(
            command,
            cwd=self.root,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin if stdin is not None else "",
            check=False,
        )

    def run(self, *arguments: str, timeout: float = 900, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ./stack with these arguments."""
        return self.execute("./stack", *arguments, timeout=timeout, stdin=stdin)

    def check(self, *arguments: str, timeout: float = 900, stdin: str | None = None) -> str:
        """Run ./stack; fail the test with its output if it fails. Returns stdout."""
        result = self.run(*arguments, timeout=timeout, stdin=stdin)
        assert result.returncode == 0, f"./stack {shlex.join(arguments)}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def compose(self, *arguments: str, timeout: float = 900) -> str:
        """Run plain `docker compose` in the checkout, as a user would after ./stack. Returns stdout."""
        result = self.execute(*self._shorten(arguments), timeout=timeout)
        assert result.returncode == 0, f"docker compose {shlex.join(arguments)}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def _shorten(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the whole command, without compose where that would only find the container's name."""
        match arguments:
            case ("exec", "-T", "--user", user, service, *words):
                return "docker", "exec", "--user", user, f"{self.name}-{service}-1", *words
            case ("exec", "-T", service, *words) if not service.startswith("-"):
                return "docker", "exec", f"{self.name}-{service}-1", *words
            case ("top", service):
                return "docker", "top", f"{self.name}-{service}-1"
        return "docker", "compose", *arguments

    def tool(self, service: str) -> Tool:
        """Return the container of a service of profile `tools`, which is started once."""
        if service not in self.tools or not self.tools[service].is_there:
            self.tools[service] = Tool(service, self.root, {**os.environ, **self.environment})
        return self.tools[service]

    def close_tools(self) -> None:
        """End those containers: nobody is to find them among the stack's own."""
        for tool in self.tools.values():
            tool.close()

    def login(self) -> dict[str, str]:
        """Return the variables that `./stack env` prints; they are read once."""
        if not self.known_login:
            self.known_login = read_exports(self.check("env")) if self.authority else self._read_login()
        return self.known_login

    def _read_login(self) -> dict[str, str]:
        """Return them from where `./stack env` has them, whose container takes seconds."""
        shown = ["docker", "run", "--rm", "--network", "none", "--volume", f"{self.name}_secrets-admin:/login:ro"]
        shown += ["--entrypoint", "cat", self.image("secrets"), "/login/credentials"]
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(subprocess.run(shown, check=True, capture_output=True, text=True).stdout)
        return {"MLFLOW_TRACKING_URI": self.url, **{name.upper(): value for name, value in parser["mlflow"].items()}}

    def container(self, service: str) -> dict[str, Any]:
        """Return `docker inspect` of a service's container."""
        # (by the name that compose gives it: to ask compose takes ten times as long)
        named = ["docker", "container", "inspect", f"{self.name}-{service}-1"]
        inspected = subprocess.run(named, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(inspected.stdout)[0]
        return result

    @contextlib.contextmanager
    def locked(self, table: str, mode: str) -> Iterator[None]:
        """Keep a table of MLflow's locked: who needs more of it than the mode allows is in the middle until the end."""
        session = ["docker", "exec", "--interactive", f"{self.name}-postgres-1", "psql", "-qAtd", "mlflow"]
        with subprocess.Popen(session, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as psql:
            assert psql.stdin
            assert psql.stdout
            print(f"BEGIN; LOCK TABLE {table} IN {mode} MODE; SELECT 'locked';", file=psql.stdin, flush=True)
            assert psql.stdout.readline() == "locked\n"
            try:
                yield
            finally:
                psql.stdin.close()

    def find_process(self, service: str) -> int:
        """Return the id of a server's first process, as soon as it has one: to kill 0 is to kill the tests."""
        found = 0

        def is_found() -> bool:
            nonlocal found
            found = int(self.container(service)["State"]["Pid"])
            return found > 0

        wait_until(is_found, f"{service} runs")
        return found

    def kill(self, *services: str) -> dict[str, int]:
        """Kill servers at once; return which processes they were. (Docker starts them again.)"""
        processes = {service: self.find_process(service) for service in services}
        for pid in processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return processes

    def image(self, service: str) -> str:
        """Return the name of a service's image."""
        name: str = self.container(service)["Config"]["Image"]
        return name

    def logs(self, service: str, newest: str = "all") -> str:
        """Return the lines of a service, or so many."""
        command = ["docker", "logs", "--tail", newest, f"{self.name}-{service}-1"]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

    def is_served(self, login: tuple[str, str]) -> bool:
        """Return whether a logged-in question that needs the database is answered."""
        try:
            return self.ask(PROBE, login).status_code == OK
        except requests.RequestException:
            return False

    def ask(self, path: str, login: tuple[str, str] | None, method: str = "GET", **options: Any) -> requests.Response:
        """Send one request to the gateway."""
        verify = str(self.authority) if self.authority else True
        return requests.request(method, self.url + path, auth=login, timeout=90, verify=verify, **options)

    def destroy(self) -> None:
        self.close_tools()
        # What ends at once has nothing to wait for. (That ./stack destroy ends servers that run: test_own_stack.py)
        label = f"label=com.docker.compose.project={self.name}"
        # (one may end by itself meanwhile, and is "already in progress" of being removed)
        for _ in range(3):
            listing = ["docker", "ps", "-aq", "--filter", label]
            if not (found := subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()):
                break
            subprocess.run(["docker", "rm", "--force", "--volumes", *found], check=False, capture_output=True)
        # (images go at the end of all: ./stack)
        for kind in ("volume", "network"):
            listed = subprocess.run(
                ["docker", kind, "ls", "--quiet", "--filter", label], check=True, capture_output=True, text=True
            )
            if found := listed.stdout.split():
                subprocess.run(["docker", kind, "rm", *found], check=False, capture_output=True)


def read_exports(text: str) -> dict[str, str]:
    """Return the variables that lines for a shell's eval set."""
    lines = [line.removeprefix("export ") for line in text.splitlines()]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def preset_choices() -> dict[str, str]:
    """Return what `./stack test` chose already, so that no stack has to ask the registry again."""
    names = {"STACK_OBJECTSTORE": "STACK_TEST_OBJECTSTORE", "BASE_IMAGE": "STACK_TEST_BASE_IMAGE"}
    return {setting: os.environ[variable] for setting, variable in names.items() if os.environ.get(variable)}


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> float:
    """Return after how many seconds `condition` became true; fail the test when it doesn't."""
    start = time.monotonic()
    while (asked := time.monotonic()) - start < seconds:
        if condition():
            return time.monotonic() - start
        time.sleep(max(0.2, min(2.0, 2 * (time.monotonic() - asked))))  # (what is slow to ask is asked less often)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def find_end(is_still: Callable[[], bool], what: str, *, quiet: float = 0, times: int = 1) -> float:
    """Return after how many seconds the last question began that was still answered as before.

    By its beginning, since how long an answer takes is the machine's. It has ended when so many answers in a row, for
    so many seconds, were other ones.
    """
    start = last = time.monotonic()
    others = 0

    def has_ended() -> bool:
        nonlocal last, others
        begun = time.monotonic()
        if is_still():
            last, others = begun, 0
        else:
            others += 1
        return others >= times and begun - last >= quiet

    wait_until(has_ended, what)
    return last - start
