"""One of the tool's containers that stays: its image, account and networks, without a start for every question.

`./stack gc` and its like start a container each and import their libraries, which takes seconds. What the tests ask for
on their way runs here instead: the same module in the same container, in a fork of a process that has imported it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import ClassVar

# What a command imports before it can do anything, and (of MLflow) when it removes rows.
IMPORTS = {
    "admin": ["admin.cli"],
    "artifacts": ["artifacts.cli", "mlflow.store.tracking.sqlalchemy_store"],
}
SERVER = """
import gc, importlib, json, os, runpy, sys, tempfile
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.freeze()  # (else each fork looks for cycles among all that at its end, for most of a second)
print("ready", flush=True)
while line := sys.stdin.readline():
    asked = json.loads(line)
    files = [tempfile.TemporaryFile() for _ in range(3)]
    files[0].write(asked["stdin"].encode())
    files[0].seek(0)
    if (child := os.fork()) == 0:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.argv = ["-c", *asked["arguments"]]
        break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = [file.seek(0) or file.read().decode() for file in files[1:]]
    print(json.dumps([code, *said]), flush=True)
else:
    os._exit(0)
# (at the end of the program, where exceptions and exit codes are what they are in one of its own)
if "module" in asked:
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
else:
    exec(asked["script"], {"__name__": "__main__"})
"""


class Tool:
    """The container of a service of profile `tools`."""

    started: ClassVar[list[Tool]] = []

    def __init__(self, service: str, root: Path, environment: dict[str, str]) -> None:
        self.service = service
        self.started.append(self)
        command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", "python", service, "-c"]
        self._process = subprocess.Popen(
            [*command, SERVER, *IMPORTS[service]],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n", f"the container of {service} did not start"

    @property
    def is_there(self) -> bool:
        return self._process.poll() is None

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run what ./stack runs in this container, with these arguments."""
        return self._ask(arguments, stdin, module=self.service)

    def check(self, *arguments: str, stdin: str = "") -> str:
        """Run it; fail the test with what it said if it fails. Returns its stdout."""
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, f"{self.service} {arguments}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def execute(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python."""
        return self._ask(arguments, "", script=script)

    def close(self) -> None:
        """End the container, if it is there."""
        if self.is_there:
            try:
                self._process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                self._process.kill()  # (what is left of it goes with its stack)
                self._process.communicate()

    def _ask(self, arguments: tuple[str, ...], stdin: str, **what: str) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"arguments": arguments, "stdin": stdin, **what}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the container of {self.service} has ended"
        return subprocess.CompletedProcess([self.service, *arguments], *json.loads(answer))
