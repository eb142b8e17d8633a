"""Backup and restore on real stacks: under writers and deleters, into another stack, to a moment before an accident."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from botocore.exceptions import ClientError

from stack.accounts import PASSWORD
from stack.deployment import QUIET, Deployment, wait_until
from stack.external import BACKUPS, External

Login = tuple[str, str]
WINE = "Wine_Elasticnet_Sklearn_Regressor"
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
URL = f"s3://{BACKUPS}/of/the-tests"
SLOW = 900  # seconds, on a machine that others keep busy
PASSPHRASE = "what the backups of the tests are encrypted with"


@dataclass
class Client:
    """Who uses a stack by plain requests, on connections that are kept."""

    stack: Deployment
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        login = self.stack.login()
        self.session.auth = login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.stack.url + path, timeout=120, **options)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.ask("POST", f"{API}/{path}", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def make_run(self, experiment: str = "0") -> str:
        run: str = self.post("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        return run

    def find_runs(self, experiment: str = "0") -> dict[str, dict[str, str]]:
        """Return the tags of all runs of an experiment."""
        found: dict[str, dict[str, str]] = {}
        token = ""
        while True:
            page = self.post("runs/search", experiment_ids=[experiment], max_results=500, page_token=token)
            for run in page.get("runs", []):
                tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
                found[run["info"]["run_id"]] = tags
            if not (token := page.get("next_page_token", "")):
                return found

    def locate(self, run: str, name: str, experiment: str = "0") -> str:
        return f"{ARTIFACTS}/{experiment}/{run}/artifacts/{name}"


def make_content(name: str, run: str) -> bytes:
    """Return an artifact's bytes: those that an earlier version of the backup ended a file at are among them."""
    return f"{name} of {run}\r\n--stack-backup--\r\nand the rest".encode()


@dataclass
class Writers:
    """One who writes runs with a file, and one who deletes files; a tag names the file as long as it is there."""

    stack: Deployment
    pause: float = 0.2  # what a backup has to copy is to stay small
    ledger: list[tuple[float, float, str]] = field(default_factory=list)  # begun, acknowledged, run
    held: int = 0
    faults: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def write(self) -> None:
        client = Client(self.stack)
        while not self.over.is_set():
            begun = time.time()
            run = client.make_run()
            for name in ("kept", "passing"):
                answer = client.ask("PUT", client.locate(run, name), data=make_content(name, run))
                if answer.status_code != 200:
                    self.faults.append(f"PUT {answer.status_code}")
            client.post("runs/set-tag", run_id=run, key="passing", value="there")
            client.post("runs/set-tag", run_id=run, key="kept", value="there")
            self.ledger.append((begun, time.time(), run))
            self.over.wait(self.pause)

    def delete(self) -> None:
        client = Client(self.stack)
        done = 0
        while not self.over.is_set():
            if done >= len(self.ledger):
                time.sleep(0.02)
                continue
            run = self.ledger[done][2]
            client.post("runs/delete-tag", run_id=run, key="passing")
            while (status := client.ask("DELETE", client.locate(run, "passing")).status_code) == 503:
                self.held += 1
                time.sleep(0.05)
                if self.over.is_set():
                    return
            if status != 200:
                self.faults.append(f"DELETE {status}")
            done += 1

    def go(self, work: Callable[[], None]) -> None:
        """Work until it is over; then the stack may go away under a request."""
        try:
            work()
        except requests.ConnectionError:
            if not self.over.is_set():
                raise

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self.go, args=(work,)) for work in (self.write, self.delete)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(60)


@dataclass
class Scene:
    """A stack with encrypted backups in a folder, one of them made while others wrote and deleted.

    Attributes:
        source: the stack.
        client: its administrator.
        folder: of the backups.
        carried: a folder that has the set too.
        passphrase: the file.
        writers: what they did.
        name: the set.
        moment: of the set.
    """

    source: Deployment
    client: Client
    folder: Path
    carried: Path
    passphrase: Path
    writers: Writers
    name: str
    moment: float


@pytest.fixture(scope="module")
def scene(make_deployment: Callable[..., Deployment], external: External) -> Iterator[Scene]:
    source = make_deployment("saved", STACK_SERVE=WINE, COMPOSE_FILE=QUIET)
    external.make_bucket(BACKUPS)
    external.join(f"{source.name}_beyond", source.name, "beyond")
    folder, carried, passphrase = (source.root.parent / name for name in ("backups", "carried", "passphrase"))
    folder.mkdir()
    carried.mkdir()
    passphrase.write_text(f"{PASSPHRASE}\n")
    passphrase.chmod(0o600)
    with (source.root / ".env").open("a") as file:
        file.write(f"STACK_BACKUP_TO={folder}\nSTACK_BACKUP_PASSPHRASE={passphrase}\nSTACK_BACKUP_S3_TO={URL}\n")
        file.write(f"STACK_BACKUP_S3_ENDPOINT={external.url}\nSTACK_BACKUP_S3_CA={external.authority}\n")
        file.write("STACK_BACKUP_S3_CREDENTIALS=./bucket\nSTACK_BACKUP_NOTIFY=./notify\n")
    external.write_credentials(external.appender, source.root / "bucket")
    (source.root / "notify").write_text("# who gets messages\njson://receiver:8000/?format=text\n")
    (source.root / "notify").chmod(0o600)
    source.check("up")
    client = Client(source)
    for name, role in (("ann", "editor"), ("bob", "viewer")):
        source.tool("admin").check("user", "add", name, "--role", role, "--password-file", "-", stdin=f"{PASSWORD}\n")
    with Writers(source) as writers:
        wait_until(lambda: len(writers.ledger) >= 10, "runs")
        said = source.check("backup", "--to", str(carried))
        count = len(writers.ledger)
        wait_until(lambda: len(writers.ledger) >= count + 5, "more runs")
    assert writers.faults == []
    [listed] = json.loads(source.check("backup", "list", "--json"))["sets"]
    assert (
        said.splitlines()[-1] == f"Bring it back: ./stack restore {carried}/{listed['name']} --into NAME, or --replace"
    )
    yield Scene(source, client, folder, carried, passphrase, writers, listed["name"], listed["moment"])
    external.leave(f"{source.name}_beyond")
    subprocess.run(["docker", "rm", "--force", f"{source.name}-receiver"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def copy(make_deployment: Callable[..., Deployment], scene: Scene, external: External) -> Deployment:
    """A checkout on what might be another machine; its disk for backups of its own is too small."""
    made = make_deployment("brought", STACK_SERVE=WINE, COMPOSE_FILE=f"{QUIET}:small.yml")
    small = "{type: tmpfs, device: tmpfs, o: size=3m}"
    (made.root / "small.yml").write_text(f"volumes:\n  backups:\n    driver: local\n    driver_opts: {small}\n")
    external.write_credentials(external.appender, made.root / "bucket")
    with (made.root / ".env").open("a") as file:
        file.write(f"STACK_BACKUP_S3_ENDPOINT={external.url_by_address}\nSTACK_BACKUP_S3_CA={external.authority}\n")
        file.write("STACK_BACKUP_S3_CREDENTIALS=./bucket\n")
    return made


def test_nothing_of_the_backup_is_readable_without_the_passphrase(scene: Scene) -> None:
    # (an artifact's bytes, a run's id, the administrator's name: a set without encryption has them all somewhere)
    words = [scene.writers.ledger[0][2].encode(), b"kept of ", b"mlflow-artifacts"]
    for path in scene.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(word in content for word in words), path


DAMAGE = """
import contextlib, json, shutil, sys
from pathlib import Path
import msgspec
from admin.faults import FaultError
from backup import manifest, pgbackrest, repository, settings, verification

key = settings.read_passphrase()
folder = Path("/tmp/copy")

def attempt(change, key=key):
    former = change()
    pgbackrest.configure(folder, key)
    try:
        with repository.opened(folder, "copy", key) as found:
            verification.verify(found, found.read(found.choose(None)))
    except FaultError as fault:
        return str(fault)
    finally:
        for path, content in former:
            path.write_bytes(content)
    return "accepted"

def copy(source, target):
    # (what is being written has another name soon)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)

passing = shutil.ignore_patterns("*.new", "*.partial", "*.tmp")
shutil.copytree("/backups", folder, symlinks=True, ignore=passing, copy_function=copy)
pgbackrest.configure(folder, key)
with repository.opened(folder, "copy", key) as found:
    [whole] = found.read_sets()

def pick(pattern):
    # (of WAL and objects what the set needs: more has come since)
    named = [folder / file.path for file in whole.files if Path(file.path).match(pattern)]
    copies = {item.name for item in whole.copies}
    named += [path for path in folder.glob(pattern) if f"objects/{path.parent.name}/{path.stem}" in copies]
    return sorted(named or [path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size > 2])[-1]

def flip(pattern, where):
    def change():
        path = pick(pattern)
        content = path.read_bytes()
        place = int(len(content) * where)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        return [(path, content)]
    return change

def cut(pattern):
    def change():
        path = pick(pattern)
        content = path.read_bytes()
        path.write_bytes(content[:-2])
        return [(path, content)]
    return change

def lose(pattern):
    def change():
        path = pick(pattern)
        content = path.read_bytes()
        path.unlink()
        return [(path, content)]
    return change

def rewrite(**changes):
    def change():
        path = pick("files/sets/*")
        content = path.read_bytes()
        with repository.opened(folder, "copy", key) as found:
            found.shelf.write(f"sets/{whole.name}", [manifest.encode(msgspec.structs.replace(whole, **changes))])
        return [(path, content)]
    return change

def edit(**changes):
    def change():
        path = folder / "repository.json"
        content = path.read_bytes()
        path.write_text(json.dumps({**json.loads(content), **changes}))
        return [(path, content)]
    return change

kinds = {
    "the manifest": "files/sets/*", "an object": "files/objects/*/*", "the check": "files/check*",
    "WAL": "postgres/archive/main/17-1/*/*.zst", "a bundle": "postgres/backup/main/*F/bundle/*",
    "pgBackRest's manifest": "postgres/backup/main/*F/backup.manifest",
}
said = {"nothing": attempt(list)}
for kind, pattern in kinds.items():
    said[f"flipped at the end of {kind}"] = attempt(flip(pattern, 0.99))
    said[f"flipped in the middle of {kind}"] = attempt(flip(pattern, 0.5))
    said[f"truncated {kind}"] = attempt(cut(pattern))
    said[f"lost {kind}"] = attempt(lose(pattern))
said["a wrong passphrase"] = attempt(list, "some other passphrase")
said["no passphrase"] = attempt(list, "")
said["a newer set"] = attempt(rewrite(format=99))
said["a newer folder"] = attempt(edit(format=99))
said["a foreign set"] = attempt(rewrite(repository="of somebody else"))
said["a foreign folder"] = attempt(edit(id="of somebody else"))
def look():
    with repository.opened(folder, "copy", key) as found:
        items, damaged = found.sort_passes(whole.name)
        try:
            found.read_passes(whole.name)
        except FaultError as fault:
            return [len(items), damaged, str(fault)]
    return [len(items), damaged, ""]

passes = sorted(folder.glob("files/passes/*"), key=lambda path: path.stat().st_size)
content, looks = passes[-1].read_bytes(), [look()]
for change in (content[:-1] + bytes([content[-1] ^ 1]), content[:-2], b""):
    passes[-1].write_bytes(change)
    looks.append(look())
print(json.dumps([said, looks]))
"""


def test_whatever_is_damaged_lost_foreign_or_newer_is_refused_with_a_reason(scene: Scene) -> None:
    # (of what was looked at since nothing new may have come: then there is no more than a moment's name)
    passes = scene.folder / "files/passes"
    wait_until(
        lambda: max((path.stat().st_size for path in passes.glob("*")), default=0) > 500, "a look at objects", SLOW
    )
    command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "backup", "-c", DAMAGE]
    result = scene.source.execute(*command)
    assert result.returncode == 0, result.stderr
    said, [whole, *damaged] = json.loads(result.stdout)
    # A damaged look is in nobody's way but a restore's to a moment after it.
    assert whole[0] > 0
    assert whole[1:] == [[], ""]
    assert len(damaged) == 3
    for count, names, fault in damaged:
        assert count < whole[0]
        assert fault.startswith(f"what was copied at {names[0]} is damaged, and no set was made since: ")
    assert said.pop("nothing") == "accepted"
    assert len(said) == 30
    assert [what for what, answer in said.items() if answer == "accepted"] == []
    for what, part in {
        "flipped in the middle of an object": "damaged: it is '",
        "truncated an object": "it is '",
        "lost an object": "is missing: it is '",
        "flipped in the middle of WAL": "is damaged: its SHA-256 is another",
        "truncated a bundle": "bytes instead of",
        "lost WAL": ".zst is missing",
        "a wrong passphrase": "the passphrase does not open copy",
        "no passphrase": "is encrypted, and there is no passphrase",
        "a newer set": "has format 99, this stack reads up to 1",
        "a newer folder": "has format 99, this stack reads up to 1",
        "a foreign set": "belongs to another folder",
    }.items():
        assert part in said[what], f"{what}: {said[what]}"


def is_untouched(stack: Deployment) -> bool:
    """Return whether no database was made."""
    volume = f"{stack.name}_postgres-data:/data:ro"
    looked = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--volume",
        volume,
        "--entrypoint",
        "ls",
        f"{stack.name}/secrets:0.1.0",
        "-A",
        "/data",
    ]
    return subprocess.run(looked, check=True, capture_output=True, text=True).stdout == ""


def copy_if_there(source: str, target: str) -> None:
    """Copy a file of a folder in use: what is being written has another name soon."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


def test_a_damaged_set_and_a_wrong_passphrase_change_nothing(scene: Scene, copy: Deployment, tmp_path: Path) -> None:
    damaged = copy.root.parent / "damaged"
    passing = shutil.ignore_patterns("*.new", "*.partial", "*.tmp")
    shutil.copytree(scene.folder, damaged, symlinks=True, ignore=passing, copy_function=copy_if_there)
    for path in (damaged, *damaged.rglob("*")):
        if not path.is_symlink():
            shutil.chown(path, 10012, 10012)
    # (one of them the set may not need: its object was removed in the second in which the backup began)
    oldest = sorted(damaged.glob("files/objects/*/*"), key=lambda path: path.stat().st_mtime)[:10]
    for path in oldest:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    result = copy.run("restore", str(damaged), "--passphrase-file", str(scene.passphrase))
    assert result.returncode == 1
    assert "is damaged: it is '" in result.stderr
    assert "nothing was changed" in result.stderr
    wrong = copy.root.parent / "wrong"
    wrong.write_text("another passphrase than theirs\n")
    result = copy.run("restore", str(scene.folder), "--passphrase-file", str(wrong))
    assert result.returncode == 1
    assert f"the passphrase does not open {scene.folder}" in result.stderr
    assert is_untouched(copy)


def predict(stack: Deployment, client: Client) -> Any:
    columns = ["fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide"]
    columns += ["total sulfur dioxide", "density", "pH", "sulphates", "alcohol"]
    row = [7.4, 0.7, 0.0, 1.9, 0.076, 11.0, 34.0, 0.9978, 3.51, 0.56, 9.4]
    asked = {"dataframe_split": {"columns": columns, "data": [row]}}
    answer = client.ask("POST", f"/serve/{WINE}/invocations", json=asked)
    return answer.json() if answer.status_code == 200 else None


def check_ledger(client: Client, writers: Writers, moment: float) -> dict[str, dict[str, str]]:
    """Fail unless all that was acknowledged before a moment is there, with its files, and nothing later."""
    runs = client.find_runs()
    acknowledged = {run for _, at, run in writers.ledger if at < moment}
    later = {run for begun, _, run in writers.ledger if begun > moment}
    assert acknowledged - runs.keys() == set()
    assert later & runs.keys() == set()
    assert min(len(acknowledged), len(later)) >= 5
    for run, tags in runs.items():
        for name in ("kept", "passing"):
            if tags.get(name) == "there":
                answer = client.ask("GET", client.locate(run, name))
                assert (answer.status_code, answer.content) == (200, make_content(name, run)), (run, name)
    return runs


def is_served(client: Client) -> bool:
    return client.ask("GET", f"{API}/experiments/get?experiment_id=0").status_code == 200


HOLD = "from backup import database\nwith database.held():\n    print('held', flush=True)\n    input()"


def test_nobody_removes_artifacts_while_a_backup_takes_down_what_there_is(scene: Scene) -> None:
    run = scene.client.make_run()
    path = scene.client.locate(run, "file")
    assert scene.client.ask("PUT", path, data=b"it").status_code == 200
    command = ["docker", "compose", "exec", "-T", "backup", "python", "-c", HOLD]
    with subprocess.Popen(
        command, cwd=scene.source.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as held:
        assert held.stdout
        assert held.stdout.readline() == "held\n"
        answer = scene.client.ask("DELETE", path)
        assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert "a backup is being made" in answer.json()["message"]
        assert scene.client.ask("GET", path).content == b"it"
        refused = scene.source.run("gc", "--apply")
        assert (refused.returncode, refused.stderr) == (1, "stack: a backup is being made: wait for its end\n")
        assert scene.client.ask("PUT", path, data=b"writers go on").status_code == 200
        held.communicate("\n", timeout=300)
    assert scene.client.ask("DELETE", path).status_code == 200


MOMENT = """
from backup import database
moment = database.take_moment("looked")
database.close(moment.connections)
print(moment.exact)
"""


def test_a_commit_on_its_way_is_not_taken_for_none(scene: Scene) -> None:
    """Its record is in the WAL, so a restore has its rows, which nobody else sees yet."""

    def ask(*statements: str) -> str:
        user = ["exec", "-T", "postgres", "psql", "-qtAd", "mlflow", "-v", "ON_ERROR_STOP=1"]
        return scene.source.compose(*user, *[f"--command={statement}" for statement in statements])

    def take() -> str:
        return scene.source.compose("exec", "-T", "backup", "python", "-c", MOMENT).strip()

    assert take() == "True"
    # It is written, and waits for a standby before it is over.
    ask("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
    with ThreadPoolExecutor(1) as pool:
        commit = pool.submit(ask, "SELECT pg_logical_emit_message(true, 'a commit', 'on its way')")
        try:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            wait_until(lambda: ask(waiting).strip() == "1", "the commit waits")
            assert take() == "False"
        finally:
            ask("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
        commit.result(300)
    assert take() == "True"


def test_what_holds_runs_is_not_replaced_unless_told_to(scene: Scene) -> None:
    result = scene.source.run("restore", scene.name)
    assert result.returncode == 1
    assert "runs" in result.stderr
    assert "--replace it (a backup of it is made first)" in result.stderr
    # A restore, or up, holds the stack: nothing else begins.
    lock = f".env.lock-{scene.source.name}"
    for command in (["backup"], ["gc"], ["restore", "--replace"], ["up"]):
        result = scene.source.execute("flock", lock, "./stack", *command)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1] == (
            f"stack: another ./stack command of stack '{scene.source.name}' is at work: wait for its end"
        )
    # And it does not begin while a training of the stack's own runs.
    training = ["docker", "run", "--detach", "--rm", "--label", f"com.docker.compose.project={scene.source.name}"]
    training += ["--label", "com.docker.compose.service=trainer", "--entrypoint", "sleep"]
    training += [f"{scene.source.name}/secrets:0.1.0", "3600"]
    name = subprocess.run(training, check=True, capture_output=True, text=True).stdout.strip()
    result = scene.source.run("restore", "--replace")
    assert (result.returncode, "./stack train or sweep runs at the moment" in result.stderr) == (1, True)
    subprocess.run(["docker", "kill", name], check=True, capture_output=True)
    assert scene.source.is_served(scene.client.session.auth)  # type: ignore[arg-type]


def test_of_two_backups_at_once_one_is_made(scene: Scene) -> None:
    both = [
        subprocess.Popen(
            ["./stack", "backup", "--json"],
            cwd=scene.source.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [each.communicate(timeout=900) for each in both]
    assert sorted(each.returncode for each in both) == [0, 1]
    [refused] = [error for each, (_, error) in zip(both, answers, strict=True) if each.returncode]
    assert "another backup to " in refused


def test_an_accidental_delete_is_undone_to_the_second(scene: Scene) -> None:
    client, source = scene.client, scene.source
    experiment = client.post("experiments/create", name="precious")["experiment_id"]
    before = client.make_run(experiment)
    assert client.ask("PUT", client.locate(before, "file", experiment), data=b"precious").status_code == 200
    # WAL that nobody takes is kept over a start, which sets passwords before it knows of an archive.
    source.compose("stop", "backup")
    source.compose("restart", "postgres")
    source.compose("start", "backup")
    wait_until(lambda: is_served(client), "the server")
    with Writers(source) as writers:
        wait_until(lambda: len(writers.ledger) >= 8, "runs")
        time.sleep(1.1)
        now = datetime.now(UTC)
        count = len(writers.ledger)
        wait_until(lambda: len(writers.ledger) >= count + 8, "more runs")
        time.sleep(1.1)
    moment = now.isoformat(timespec="milliseconds")
    after = client.make_run(experiment)
    assert client.ask("DELETE", client.locate(before, "file", experiment)).status_code == 200
    client.post("experiments/delete", experiment_id=experiment)
    check_nothing_starts_after_an_end_in_the_middle(source, moment)
    # (the second one has nothing to keep: what is there is half of this, and half of what there is a backup of)
    result = source.run("restore", "--at", moment)
    assert result.returncode == 0, result.stderr
    assert "is half of what it was and half of set" in result.stderr
    answer = client.ask("GET", f"{API}/experiments/get?experiment_id={experiment}").json()
    assert answer["experiment"]["lifecycle_stage"] == "active"
    runs = client.find_runs(experiment)
    assert before in runs
    assert after not in runs
    assert client.ask("GET", client.locate(before, "file", experiment)).content == b"precious"
    check_ledger(client, writers, now.timestamp())


def check_nothing_starts_after_an_end_in_the_middle(source: Deployment, moment: str) -> None:
    """End a restore when the database is the restored one and the objects are not: nobody is to see that mixture."""
    command = ["./stack", "restore", "--at", moment, "--replace"]
    label = f"label=com.docker.compose.project={source.name}"
    named = ["docker", "ps", "--filter", label, "--format", '{{.Label "com.docker.compose.service"}}']

    def list_services() -> list[str]:
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.split()

    said = ""
    with subprocess.Popen(
        command, cwd=source.root, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as ended:
        assert ended.stderr is not None
        for line in ended.stderr:
            said += line
            if line.startswith("==> Bringing back the database"):
                wait_until(lambda: "postgres" in list_services(), "the database comes back")
                ended.terminate()
    assert ended.returncode == 130, said
    assert "the restore has not come to its end: the same ./stack restore again" in said
    assert "Starting the servers" not in said
    for command in (["up"], ["status"], ["backup"], ["undo", "1"], ["upgrade"]):
        refused = source.run(*command)
        assert refused.returncode == 1, command
        assert "has not come to its end" in refused.stderr or "is not running" in refused.stderr, refused.stderr
    assert set(list_services()) & {"postgres", "backup", "mlflow", "nginx", "serving", "follower"} == set()


def test_a_database_that_does_not_fit_is_refused_and_takes_no_room(scene: Scene, tmp_path: Path) -> None:
    [label] = [each["label"] for each in list_sets(scene.source) if each["name"] == scene.name]
    place = "/var/lib/postgresql/data"
    command = ["docker", "run", "--rm", "--interactive", "--user", "postgres", "--network", "none"]
    command += ["--tmpfs", f"{place}:size=100m,uid=10001", "--tmpfs", "/tmp", "--volume", f"{scene.folder}:/from:ro"]
    command += ["--entrypoint", "sh", scene.source.image("postgres"), "-c"]
    script = f"/etc/postgres/restore.sh {label} immediate '' 1; echo $?; ls {place}"
    with scene.passphrase.open() as passphrase:
        done = subprocess.run([*command, script], stdin=passphrase, check=False, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
    assert re.fullmatch(
        rf"postgres: only \d+ MB are free for the database, and the one of backup {label} needs \d+ MB beside it: "
        r"free space: the former database is untouched\n",
        done.stderr,
    )


def list_sets(stack: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.check("backup", "list", "--json"))["sets"]
    return found


def find_sets(stack: Deployment) -> list[str]:
    return [each["name"] for each in list_sets(stack)]


def damage(scene: Scene, name: str) -> None:
    """Flip a bit of what only that set has, and let somebody read it."""
    [label] = [each["label"] for each in list_sets(scene.source) if each["name"] == name]
    path = next(path for path in (scene.folder / "postgres/backup/main" / label).rglob("bundle/*"))
    content, was = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # (so disks do: nothing that looks at times sees it)
    result = scene.source.run("backup", "verify")
    assert result.returncode == 1
    assert f"set {name}: {path.relative_to(scene.folder)} is damaged" in result.stderr
    assert json.loads(scene.source.check("backup", "list", "--json"))["damaged"] == [name]
    assert "incremental, DAMAGED" in scene.source.check("backup", "list")
    whole = [each for each in find_sets(scene.source) if each != name]
    result = scene.source.run("backup", "rm", *whole)
    assert result.returncode == 1
    assert f"{', '.join(whole)} is all there is that is whole" in result.stderr


def test_a_schedule_makes_sets_and_removes_what_is_not_to_be_kept(scene: Scene) -> None:
    before = find_sets(scene.source)
    assert len(before) >= 3
    hurry(scene.source)
    wait_until(lambda: carried_after(scene), "the bucket has them", SLOW)
    scene.source.check("backup", "rm", before[0])
    assert find_sets(scene.source) == before[1:]
    run = scene.client.make_run()
    scene.client.post("runs/update", run_id=run, status="FINISHED", end_time=1795600000000)
    started = time.time()
    damage(scene, before[-1])
    scene.source.check("backup", "schedule", "00:00", "--keep", "1d")

    def list_files() -> list[str]:
        return [path.name.removesuffix(".bin") for path in (scene.folder / "files/sets").glob("*Z*")]

    wait_until(lambda: len(sets := list_files()) == 1 and sets[0] > before[-1], "one set, a new one", SLOW)
    [backup] = find_sets(scene.source)
    assert list_sets(scene.source)[0]["label"].endswith("F")  # it copied all again
    # The first set of a schedule is brought back on trial by itself, then the newest one each week.
    wait_until(lambda: read_state(scene).get("trial", 0) > started, "the trial", SLOW)
    wait_until(lambda: backup in read_state(scene).get("sizes", {}).get("sets", {}), "its size", SLOW)
    assert read_state(scene)["untrue"] == ""
    # When a run had ended is in the backup too.
    asked = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "--volume", f"{scene.folder}:/from:ro", "backup"]
    asked += ["find-run", run, "--from", "there", "--passphrase-stdin"]
    result = scene.source.execute(*asked, stdin=f"{PASSPHRASE}\n")
    assert result.stdout == "2026-11-25T09:46:41Z\n", result.stderr
    assert "Its database was brought back on trial, with " in scene.source.logs("backup")
    assert not (scene.folder / "trial").exists()
    # (the damage may have been told, to nobody yet, which it says as well)
    [shown] = [line for line in scene.source.run("status").stdout.splitlines() if line.startswith("Backups: ")]
    assert re.match(
        rf"Backups: 1 backup, the newest {backup} \([0-9.]+ h old, [0-9.]+ MB\), [0-9.]+ MB in all; ", shown
    )
    assert "each day at 00:00 UTC" in shown
    assert f"in {URL} too, as of " in shown
    assert "brought back on trial 0.0 days ago" in shown
    result = scene.source.run("backup", "rm", backup)
    assert result.returncode == 1
    assert "is all there is" in result.stderr
    labels = [path.name for path in (scene.folder / "postgres/backup/main").iterdir() if path.is_dir()]
    assert len([label for label in labels if label.endswith("F")]) == 1


@pytest.mark.timeout(3600)
def test_round_after_round_is_what_was_there(scene: Scene, copy: Deployment, soak: bool) -> None:
    if not soak:
        pytest.skip("--soak: the tests above are such a round")
    chance = random.Random(9)
    folder = scene.carried.with_name("rounds")
    folder.mkdir()
    for number in range(20):
        with Writers(scene.source) as writers:
            wait_until(lambda: len(writers.ledger) >= 8, "runs")
            time.sleep(chance.uniform(0, 2))
            said = scene.source.check("backup", "--to", str(folder))
            count = len(writers.ledger)
            wait_until(lambda: len(writers.ledger) >= count + 8, "more runs")  # noqa: B023
        name = said.split()[1]
        [moment] = [each["moment"] for each in list_sets(scene.source) if each["name"] == name]
        copy.check("destroy", "--yes")
        copy.known_login.clear()
        copy.check("restore", str(folder), "--passphrase-file", str(scene.passphrase))
        runs = check_ledger(Client(copy), writers, moment)
        print(f"round {number}: {len(runs)} runs, of which {len(writers.ledger)} came while set {name} was made")
    copy.check("destroy", "--yes")


# ----------------------------------------------------------------------------------------------------------- bucket
def read_state(scene: Scene) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((scene.folder / "schedule.json").read_text())
    return state


def hurry(stack: Deployment) -> None:
    """Let the next round begin at once, which comes every 40 s."""
    subprocess.run(["docker", "kill", "--signal", "HUP", f"{stack.name}-backup-1"], check=True, capture_output=True)


def wait_for_note(scene: Scene) -> None:
    """Return when the container has written down something once more."""
    path = scene.folder / "schedule.json"
    former = path.stat().st_mtime_ns
    hurry(scene.source)
    wait_until(lambda: path.stat().st_mtime_ns > former, "the end of a round", SLOW)


def carried_after(scene: Scene, moment: float | None = None) -> bool:
    """Return whether the bucket has all sets, as of a moment or later."""
    try:
        carried = json.loads((scene.folder / "carried.json").read_text())
    except FileNotFoundError:
        return False
    newest = max(path.name for path in (scene.folder / "files/sets").iterdir())
    return bool(carried["newest"] == newest and carried["begun"] > (moment or 0))


def find_carried_moment(scene: Scene) -> float:
    """Return the last moment of which the bucket has rows and objects, 0 for none."""

    def read_times(pattern: str) -> dict[str, float]:
        return {path.name: path.stat().st_mtime for path in scene.folder.glob(pattern)}

    begun = json.loads((scene.folder / "carried.json").read_text())["begun"]
    archived = max((at for at in read_times("postgres/archive/**/*.zst").values() if at < begun), default=0)
    looks = [name[:16] for name, at in read_times("files/passes/*Z.bin").items() if at < begun]
    moments = [datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() for name in looks]
    return max((moment for moment in moments if moment <= archived), default=0)


RECEIVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), file=sys.stderr, flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""


def read_messages(stack: Deployment) -> list[dict[str, str]]:
    command = ["docker", "logs", f"{stack.name}-receiver"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    return [json.loads(line) for line in lines]


def test_a_bucket_that_is_away_is_told_once_and_that_it_is_back_too(scene: Scene, external: External) -> None:
    source = scene.source
    run = ["docker", "run", "--detach", "--name", f"{source.name}-receiver", "--network", f"{source.name}_beyond"]
    run += ["--network-alias", "receiver", "--entrypoint", "python", f"{source.name}/secrets:0.1.0", "-c", RECEIVER]
    subprocess.run(run, check=True, capture_output=True)
    assert source.check("backup", "notify") == "Messages go to 1 URLs: number 1 (json://)\n"
    wait_until(lambda: source.run("backup", "notify", "--test").returncode == 0, "the receiver", SLOW)
    assert [each["title"] for each in read_messages(source)] == [f"{source.name}: test"]
    subprocess.run(["docker", "stop", "--time", "1", f"{external.name}-1"], check=True, capture_output=True)
    hurry(source)
    wait_until(lambda: len(read_messages(source)) == 2, "a message", SLOW)
    told = read_messages(source)[1]
    assert told["title"] == f"{source.name}: backups need you"
    assert f"bucket: {URL} can't be used: " in told["message"]
    shown = source.run("status")
    assert shown.returncode == 1
    assert f"bucket: {URL} can't be used: " in shown.stdout
    # (that it was told is written down, then the end of a round and, once it is known whether to tell, of the next)
    for _ in range(3):
        wait_for_note(scene)
    assert len(read_messages(source)) == 2
    external.restart()
    hurry(source)
    wait_until(lambda: len(read_messages(source)) == 3, "a message", SLOW)
    told = read_messages(source)[2]
    assert told["title"] == f"{source.name}: backups are well again"
    assert f"over: bucket: {URL} can't be used: " in told["message"]
    assert "receiver" not in json.dumps(source.container("backup")["Config"])


def test_the_stacks_key_can_neither_remove_nor_overwrite_and_the_operators_expires(
    scene: Scene, copy: Deployment, external: External
) -> None:
    thief = external.connect(external.appender)
    sets = f"{URL.removeprefix(f's3://{BACKUPS}/')}/files/sets/"
    versions = thief_lists(external, sets)
    assert len(versions) >= 4  # (the schedule removed all but one in the folder)
    for each in versions:
        for place in ({"Key": each["Key"]}, {"Key": each["Key"], "VersionId": each["VersionId"]}):
            with pytest.raises(ClientError, match="AccessDenied"):
                thief.delete_object(Bucket=BACKUPS, **place)
    for change in (
        lambda: thief.put_bucket_versioning(Bucket=BACKUPS, VersioningConfiguration={"Status": "Suspended"}),
        lambda: thief.delete_bucket(Bucket=BACKUPS),
        lambda: thief.put_bucket_lifecycle_configuration(
            Bucket=BACKUPS,
            LifecycleConfiguration={
                "Rules": [{"ID": "x", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 1}}]
            },
        ),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            change()
    expire = ["backup", "expire", URL, "--passphrase-file", str(scene.passphrase), "--keep", "1d"]
    owner = copy.root / "owner"
    external.write_credentials(external.root, owner)
    refused = copy.run(*expire, "--credentials", str(copy.root / "bucket"), "--apply")
    assert refused.returncode == 1
    assert f"{URL} can't be expired by that key (AccessDenied): --credentials names the operator's" in refused.stderr
    assert thief_lists(external, sets) == versions
    said = copy.check(*expire, "--credentials", str(owner))
    assert said.startswith(f"{len(versions) - 1} sets (")
    assert said.endswith("--apply removes them\n")
    assert thief_lists(external, sets) == versions
    said = copy.check(*expire, "--credentials", str(owner), "--apply")
    assert said.endswith(": removed\n")
    [left] = thief_lists(external, sets)
    assert Path(left["Key"]).name.removesuffix(".bin") == find_sets(scene.source)[-1]


def thief_lists(external: External, prefix: str) -> list[dict[str, Any]]:
    listed = external.connect(external.root).list_object_versions(Bucket=BACKUPS, Prefix=prefix)
    assert not listed.get("DeleteMarkers")
    return [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in listed["Versions"]]


def lose(scene: Scene) -> tuple[Writers, float, float]:
    """Lose a stack with its backups while others write; return these, since when nothing was safe, and the moment."""
    with Writers(scene.source, pause=0.6) as writers:
        wait_until(lambda: len(writers.ledger) >= 8, "runs", SLOW)
        safe = time.time()
        # (by a round that comes by itself)
        wait_until(lambda: find_carried_moment(scene) > safe, "the bucket has them", SLOW)
        count = len(writers.ledger)
        wait_until(lambda: len(writers.ledger) >= count + 3, "more runs", SLOW)
        label = f"label=com.docker.compose.project={scene.source.name}"
        listed = subprocess.run(["docker", "ps", "-q", "--filter", label], check=True, capture_output=True, text=True)
        writers.over.set()
        print(f"a round took {read_state(scene)['took']:.1f} s")
        dead = time.time()
        subprocess.run(["docker", "rm", "--force", *listed.stdout.split()], check=True, capture_output=True)
    shutil.rmtree(scene.folder)
    return writers, safe, dead


def test_a_stack_that_is_gone_with_its_backups_comes_from_the_bucket_as_it_was_a_minute_ago(
    scene: Scene, copy: Deployment, external: External
) -> None:
    source = scene.source
    models = [scene.client.ask("GET", f"{API}/registered-models/get?name={WINE}").json(), predict(source, scene.client)]
    writers, safe, dead = lose(scene)
    # Whoever has the stack's key writes over what is there. It stays as an older version.
    time.sleep(1.1)
    whole = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    time.sleep(1.1)
    thief = external.connect(external.appender)
    begin = URL.removeprefix(f"s3://{BACKUPS}/")
    for folder in ("sets", "objects"):
        [key, *_] = [each["Key"] for each in thief_lists(external, f"{begin}/files/{folder}/")]
        thief.put_object(Bucket=BACKUPS, Key=key, Body=b"nothing")
    restore = ["restore", URL, "--at", "latest", "--passphrase-file", str(scene.passphrase)]
    refused = copy.run(*restore)
    assert refused.returncode == 1
    assert f"{URL} has no set that is whole" in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert is_untouched(copy)
    # (to look at former versions takes the operator's key)
    external.write_credentials(external.root, copy.root / "bucket")
    result = copy.run(*restore, "--bucket-at", whole)
    assert result.returncode == 0, result.stderr
    assert "DIFFERENT" not in result.stdout
    client = Client(copy)
    runs = client.find_runs()
    known = [(at, run) for _, at, run in writers.ledger]
    lost = [at for at, run in known if run not in runs]
    kept = [at for at, run in known if run in runs]
    print(f"lost: {dead - min(lost):.1f} s of rows" if lost else "nothing was lost")
    assert kept
    # (a minute at most, by rounds of 40 s: on a machine that has time)
    assert [at for at in lost if at <= safe] == []
    for run, tags in runs.items():
        for name in ("kept", "passing"):
            if tags.get(name) == "there":
                answer = client.ask("GET", client.locate(run, name))
                assert (answer.status_code, answer.content) == (200, make_content(name, run)), (run, name)
    # Who did what; users with their passwords and roles, models with versions and alias, and what is served.
    entries = [json.loads(line) for line in copy.check("audit", "--json").splitlines()]
    assert [entry for entry in entries if "ann" in json.dumps(entry.get("targets"))], entries[:3]
    for name, status in (("ann", 200), ("bob", 403)):
        answer = copy.ask(f"{API}/experiments/create", (name, PASSWORD), "POST", json={"name": f"by {name}"})
        assert answer.status_code == status, answer.text
    assert client.ask("GET", f"{API}/registered-models/get?name={WINE}").json() == models[0]
    assert models[0]["registered_model"]["aliases"]
    wait_until(lambda: predict(copy, client) is not None, "a prediction", SLOW)
    assert predict(copy, client) == models[1]


def test_a_full_disk_of_backups_ends_the_backup_with_one_line_and_users_go_on(scene: Scene, copy: Deployment) -> None:
    result = copy.run("backup")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("stack: ")
    assert re.search("space left|disk space|free space there", last), last
    assert "Traceback" not in result.stderr
    listed = json.loads(copy.check("backup", "list", "--json"))
    assert listed["sets"] == []
    assert len(listed["incomplete"]) == 1
    refused = copy.run("backup", "verify", listed["incomplete"][0])
    assert "is incomplete: its backup did not end" in refused.stderr
    client = Client(copy)
    run = client.make_run()
    assert client.ask("PUT", client.locate(run, "after"), data=b"it").status_code == 200
