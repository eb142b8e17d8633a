"""./stack upgrade on a stack of its own: from the previous code, from MLflow 2.22's schema, failing, and killed."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from mlflow import MlflowClient

from stack.clients import schema_2_22
from stack.deployment import CHECKOUT, PROBE, Deployment, copy_checkout, wait_until

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
OLD_CLIENT = "/opt/mlflow-2.22/bin/python"
VERSION = re.search(r"^version=(.+)$", (CHECKOUT / "stack").read_text(), re.MULTILINE)[1]  # type: ignore[index]
SERVERS = ("backup", "follower", "mlflow", "nginx", "objectstore", "postgres", "serving")
KEPT = (".git", ".env", ".upgrade")


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@dataclass
class Releases:
    """A stack whose checkout is a repository with releases, as tags.

    Attributes:
        stack: the stack.
        run: a run that clients write to all the time.
        acknowledged: the steps of its metric that somebody was told are there.
        seconds: what an upgrade takes on this machine.
    """

    stack: Deployment
    run: str = ""
    acknowledged: list[int] = field(default_factory=list)
    seconds: float = 25

    @property
    def root(self) -> Path:
        return self.stack.root

    @property
    def login(self) -> tuple[str, str]:
        known = self.stack.login()
        return known["MLFLOW_TRACKING_USERNAME"], known["MLFLOW_TRACKING_PASSWORD"]

    def make(self, tag: str, version: str = "", change: Callable[[Path], None] | None = None) -> None:
        """Make a release of what is in the folder, under a version of its own; the folder has it then."""
        if version:
            for path in (self.root / "stack", *self.root.glob("*.yml")):
                path.write_text(re.sub(r"(?m)(^version=|:)0\.\d+\.\d+$", rf"\g<1>{version}", path.read_text()))
        if change:
            change(self.root)
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--allow-empty", "--message", tag)
        git(self.root, "tag", tag)

    def upgrade(self, *options: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
        return self.stack.run("upgrade", *options, timeout=timeout)

    def wait_until_well(self) -> None:
        """Return when each server says what its health check wants to hear: else nothing is upgraded."""

        def is_well(service: str) -> bool:
            container = self.stack.container(service)
            _, *check = container["Config"].get("Healthcheck", {}).get("Test", ["CMD", "true"])
            asked = self.stack.execute("docker", "exec", f"{self.stack.name}-{service}-1", *" ".join(check).split())
            return bool(container["State"]["Status"] == "running" and asked.returncode == 0)

        wait_until(lambda: all(map(is_well, SERVERS)), "every server is well")

    def find_versions(self) -> set[str]:
        """Return the tags of the images of what runs, each of which is that image still."""
        found = set()
        for service in SERVERS:
            container = self.stack.container(service)
            image = container["Config"]["Image"]
            named = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
            assert (
                subprocess.run(named, check=False, capture_output=True, text=True).stdout.strip() == container["Image"]
            ), service
            assert container["State"]["Running"], service
            found.add(image.rsplit(":", 1)[1])
        return found

    def ask_postgres(self, database: str, statement: str) -> str:
        command = [
            "exec",
            "-T",
            "postgres",
            "psql",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--set",
            "ON_ERROR_STOP=1",
        ]
        return self.stack.compose(*command, "--dbname", database, "--command", statement).strip()

    def check_whole(self, version: str) -> None:
        """Fail unless all of the stack is of this version, nothing is left of an upgrade, and no write is lost."""
        assert self.find_versions() == {version}
        assert f"version={version}\n" in (self.root / "stack").read_text()
        databases = self.ask_postgres("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate").split()
        assert sorted(databases) == ["auth", "mlflow", "postgres"]
        assert not (self.root / ".upgrade" / self.stack.name / "journal").exists()
        images = [
            "docker",
            "image",
            "ls",
            "--filter",
            f"reference={self.stack.name}*/*",
            "--format",
            "{{.Repository}}:{{.Tag}}",
        ]
        names = subprocess.run(images, check=True, capture_output=True, text=True).stdout.split()
        assert {name for name in names if not re.fullmatch(rf"{self.stack.name}/[a-z-]+:{version}", name)} == set()
        wait_until(lambda: self.stack.is_served(self.login), "the stack serves")
        assert set(self.acknowledged) <= self.read_steps()
        assert self.ask_postgres("mlflow", "SELECT name FROM experiments WHERE name LIKE 'stack-upgrade-%'") == ""
        answer = self.stack.ask(f"{ARTIFACTS}/0/{self.run}/artifacts/kept.txt", self.login)
        assert (answer.status_code, answer.text) == (200, "kept")

    def read_steps(self) -> set[int]:
        steps: set[int] = set()
        token = ""
        while True:
            page = self.stack.ask(
                f"{API}/metrics/get-history?run_id={self.run}&metric_key=step&max_results=10000&page_token={token}",
                self.login,
            ).json()
            steps |= {int(each["step"]) for each in page.get("metrics", [])}
            if not (token := page.get("next_page_token", "")):
                return steps


@dataclass
class Writer:
    """A client that logs a metric through the gateway all along, four times a second, and doesn't try again."""

    releases: Releases
    answers: list[tuple[float, int, str]] = field(default_factory=list)  # when, status or 0, Retry-After
    over: threading.Event = field(default_factory=threading.Event)

    def write(self) -> None:
        step = max(self.releases.acknowledged, default=0)
        login = self.releases.login
        while not self.over.is_set():
            step += 1
            body = {"run_id": self.releases.run, "key": "step", "value": step, "step": step, "timestamp": step}
            try:
                answer = self.releases.stack.ask(f"{API}/runs/log-metric", login, "POST", json=body)
                status, retry = answer.status_code, answer.headers.get("Retry-After", "")
            except requests.RequestException:
                status, retry = 0, ""
            self.answers.append((time.monotonic(), status, retry))
            if status == 200:
                self.releases.acknowledged.append(step)
            time.sleep(0.25)

    @property
    def longest_gap(self) -> float:
        """Seconds between two answers of 200, the longest."""
        good = [moment for moment, status, _ in self.answers if status == 200]
        return max(later - earlier for earlier, later in itertools.pairwise(good))

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.write)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(1)
        self.over.set()
        self._thread.join(120)


def put_previous_code(root: Path) -> None:
    """Make the folder what the commit before has; where that is not there, or has no backups yet, what this one has."""
    status = subprocess.run(["git", "status", "--porcelain"], cwd=CHECKOUT, check=False, capture_output=True, text=True)
    commit = "HEAD" if status.stdout.strip() else "HEAD~1"
    archive = subprocess.run(["git", "archive", commit], cwd=CHECKOUT, check=False, capture_output=True)
    if archive.returncode == 0:
        empty(root)
        subprocess.run(["tar", "-x"], cwd=root, check=True, input=archive.stdout)
    if not (root / "services/backup").exists():  # (from there one upgrades by --no-backup)
        empty(root)
        copy_checkout(root)


def empty(root: Path) -> None:
    for path in root.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def releases(make_deployment: Callable[..., Deployment]) -> Releases:
    """A stack of the previous code, as its ./stack makes it, and the present code in the folder as the next release."""
    stack = make_deployment("upgraded")
    put_previous_code(stack.root)
    git(stack.root, "init", "--quiet")
    releases = Releases(stack)
    releases.make("previous")
    stack.check("up", "--no-train")
    shutil.rmtree(stack.root / ".upgrade", ignore_errors=True)  # (as after an `up` of code that knew no upgrade)
    made = stack.ask(f"{API}/runs/create", releases.login, "POST", json={"experiment_id": "0"})
    releases.run = made.json()["run"]["info"]["run_id"]
    kept = stack.ask(f"{ARTIFACTS}/0/{releases.run}/artifacts/kept.txt", releases.login, "PUT", data=b"kept")
    assert kept.status_code == 200
    empty(stack.root)
    copy_checkout(stack.root)
    releases.make("v0.99.1", "0.99.1")
    return releases


def test_what_can_not_be_upgraded_is_said_in_one_line(releases: Releases) -> None:
    stack = releases.stack

    def refuse(*options: str, environment: dict[str, str] | None = None) -> str:
        stack.environment = environment or {}
        result = releases.upgrade(*options)
        stack.environment = {}
        assert result.returncode in (1, 2), result.stderr
        lines = [line for line in result.stderr.splitlines() if "nothing was changed" not in line]
        assert len(lines) == 1, result.stderr
        return lines[0]

    assert "it is not known which release runs here: say --from TAG" in refuse()
    assert "--from 'nowhere' is no folder and no commit" in refuse("--from", "nowhere")
    assert "--to 'v9' is no tag, branch or commit" in refuse("--to", "v9")
    assert "--to 'previous' is a release that knows no upgrade" in refuse("--to", "previous") or has_upgrade(releases)
    assert "not '--force'" in refuse("--force")
    assert "MB are free" in refuse("--from", "previous", environment={"STACK_MIN_FREE_MB": "99999999"})
    (releases.root / "stack").write_text((releases.root / "stack").read_text() + "\n")
    assert "changes that no commit has" in refuse("--from", "previous")
    git(releases.root, "checkout", "--quiet", "stack")
    subprocess.run(["docker", "pause", f"{stack.name}-follower-1"], check=True, capture_output=True)
    said = refuse("--from", "previous")
    subprocess.run(["docker", "unpause", f"{stack.name}-follower-1"], check=True, capture_output=True)
    assert f"stack '{stack.name}' is not well: follower:" in said
    releases.wait_until_well()
    with (releases.root / ".upgrade" / stack.name / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.write(f"upgrade {os.getpid()}\n")
        turn.flush()
        assert f"./stack upgrade runs at the moment (process {os.getpid()})" in refuse("--from", "previous")
        for command in (["backup"], ["restore"], ["gc"], ["up"], ["down"], ["undo", "1"], ["artifacts", "migrate"]):
            result = stack.run(*command)
            assert result.returncode == 1, command
            assert "./stack upgrade runs at the moment" in result.stderr, (command, result.stderr)
    in_backup = ["docker", "exec", "--interactive", f"{stack.name}-backup-1", "flock"]
    with subprocess.Popen([*in_backup, "/backups/lock", "cat"], stdin=subprocess.PIPE) as holder:
        taken = [*in_backup, "--nonblock", "/backups/lock", "true"]
        wait_until(lambda: subprocess.run(taken, check=False).returncode == 1, "somebody has the lock of backups")
        assert "a backup is being made or removed at the moment" in refuse("--from", "previous")
        assert holder.stdin is not None
        holder.stdin.close()


def forget_setting(root: Path) -> None:
    path = root / ".env.example"
    path.write_text(re.sub(r"(?m)^#?STACK_TRASH_DAYS=.*\n", "", path.read_text()))


def test_a_release_that_does_not_take_the_settings_leaves_the_folder_as_it_was(releases: Releases) -> None:
    with (releases.root / ".env").open("a") as file:
        file.write("STACK_TRASH_DAYS=30\n")
    settings = (releases.root / ".env").read_text()
    releases.make("v0.99.0", "0.99.0", forget_setting)
    git(releases.root, "checkout", "--quiet", "v0.99.1")
    result = releases.upgrade("--from", "previous", "--to", "v0.99.0")
    assert result.returncode == 1
    assert "STACK_TRASH_DAYS is not a setting" in result.stderr
    assert "The files in this folder are again those that run." in result.stderr
    assert git(releases.root, "rev-parse", "HEAD") == git(releases.root, "rev-parse", "previous")
    assert (releases.root / ".env").read_text() == settings
    assert not (releases.root / ".upgrade" / releases.stack.name / "journal").exists()
    git(releases.root, "checkout", "--quiet", "v0.99.1")


def has_upgrade(releases: Releases) -> bool:
    return "\nupgrade() {" in git(releases.root, "show", "previous:stack")


def test_the_previous_code_becomes_this_one_while_a_client_goes_on(releases: Releases) -> None:
    releases.wait_until_well()
    with Writer(releases) as writer:
        begun = time.monotonic()
        result = releases.upgrade("--from", "previous")
        seconds = releases.seconds = time.monotonic() - begun
    assert result.returncode == 0, result.stderr
    print(f"upgrade: {seconds:.1f} s, without service {writer.longest_gap:.1f} s")
    releases.check_whole("0.99.1")
    assert "0.99.1" in result.stderr
    assert "in the backup 20" in result.stderr
    # Until the new release was tried, nobody got in: refused connections, or to be tried again.
    between = [(status, retry) for _, status, retry in writer.answers if status != 200]
    assert {retry for status, retry in between if status == 503} == {"15"}
    assert {status for status, _ in between} <= {0, 502, 503}
    # (docs/upgrading.md has what was seen)


def test_an_up_to_date_stack_has_nothing_to_do(releases: Releases) -> None:
    releases.wait_until_well()
    before = {service: releases.stack.container(service)["Id"] for service in SERVERS}
    result = releases.upgrade()
    assert result.returncode == 0, result.stderr
    assert "nothing that runs had to change" in result.stderr
    # What something else than ./stack started is not taken for what is noted.
    noted = releases.root / ".upgrade" / releases.stack.name / "running"
    former = noted.read_text()
    noted.write_text(re.sub("(?m)^image=sha256:.*$", "image=sha256:another", former))
    assert "what runs was not started by the ./stack that noted it: say --from TAG" in releases.upgrade().stderr
    noted.write_text(former)
    assert {service: releases.stack.container(service)["Id"] for service in SERVERS} == before


def add_failing_index(root: Path) -> None:
    """Let the release's migration do what fails on a row: a division by zero, for a run that is called so."""
    path = root / "services/migrate/indexes.py"
    made = '    "stack_runs_failing": "runs ((1 / nullif(length(name) - 7, length(name))))",\n}\nCOUNT'
    path.write_text(path.read_text().replace("}\nCOUNT", made))


def test_a_migration_that_fails_leads_back_to_the_old_data_and_images(releases: Releases) -> None:
    releases.stack.ask(f"{API}/runs/create", releases.login, "POST", json={"experiment_id": "0", "run_name": "7 signs"})
    releases.make("v0.99.2", "0.99.2", add_failing_index)
    # Its files were unpacked over the former ones, in a folder that is no git checkout, and somebody's own are there.
    repository = (releases.root / ".git").rename(releases.root.parent / "repository")
    (releases.root / "docs/mine.md").write_text("mine")
    images = {service: releases.stack.container(service)["Image"] for service in SERVERS}
    before = count_rows(releases)
    releases.wait_until_well()
    with Writer(releases) as writer:
        result = releases.upgrade()
    assert result.returncode == 1
    repository.rename(releases.root / ".git")
    assert "why: the databases were not migrated" in result.stderr
    assert "division by zero" in result.stderr
    print(f"back: without service {writer.longest_gap:.1f} s")
    releases.check_whole("0.99.1")
    assert {service: releases.stack.container(service)["Image"] for service in SERVERS} == images
    assert count_rows(releases) == before
    assert (
        releases.ask_postgres("mlflow", "SELECT count(*) FROM pg_indexes WHERE indexname = 'stack_runs_failing'") == "0"
    )
    may = "has_database_privilege('{}', 'mlflow', 'CONNECT')"
    privileges = (
        f"SELECT {may.format('backup')}, {may.format('auth')}, has_database_privilege('undo', 'auth', 'CONNECT')"
    )
    assert releases.ask_postgres("postgres", privileges) == "t|f|t"
    assert git(releases.root, "diff", "v0.99.1", "--stat") == ""
    aside = releases.root / ".upgrade" / releases.stack.name / "aside"
    assert (aside / "docs/mine.md").read_text() == "mine"
    git(releases.root, "reset", "--quiet", "--hard", "v0.99.1")
    releases.stack.check("backup")


def count_rows(releases: Releases) -> dict[str, int]:
    """Return the rows of each table but that which the client writes to."""
    found: dict[str, int] = {}
    for database in ("mlflow", "auth"):
        query = """SELECT relname, (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I', relname),
            false, true, '')))[1] FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE relkind = 'r' AND nspname = 'public'"""
        for line in releases.ask_postgres(database, " ".join(query.split())).splitlines():
            table, rows = line.split("|")
            if table not in ("metrics", "latest_metrics"):
                found[f"{database}.{table}"] = int(rows)
    return found


def break_follower(root: Path) -> None:
    (root / "services/follower/follower/__main__.py").write_text('raise SystemExit("follower: broken")\n')


def test_a_server_that_does_not_come_up_in_the_end_is_mended_and_the_upgrade_goes_on(
    releases: Releases, soak: bool
) -> None:
    if not soak:
        pytest.skip("--soak: two upgrades more")
    releases.wait_until_well()
    releases.make("v0.99.4", "0.99.4", break_follower)
    result = releases.upgrade()
    assert result.returncode == 1
    assert "follower is not ready" in result.stderr
    assert "follower: broken" in result.stderr
    # Clients are in: there is no way but on.
    assert releases.stack.is_served(releases.login)
    refused = releases.stack.run("backup")
    assert "an upgrade to 0.99.4" in refused.stderr
    assert "./stack upgrade goes on with it" in refused.stderr
    git(releases.root, "checkout", "--quiet", "v0.99.1", "services/follower")
    git(releases.root, "commit", "--quiet", "--all", "--message", "mended")
    releases.make("v0.99.5")
    result = releases.upgrade()
    assert result.returncode == 0, result.stderr
    releases.check_whole("0.99.4")
    assert releases.stack.run("status").returncode == 0


def is_retried(releases: Releases, how: str, when: float | str, finish: list[str]) -> str:
    """Begin an upgrade to the other release, kill something then; return which runs in the end.

    `when` is after so many seconds, or as soon as it says that; `finish` is the command after a kill of ./stack itself.
    """
    ends = {"0.99.4": "0.99.1", "0.99.1": "0.99.3", "0.99.3": "0.99.1"}
    [old] = releases.find_versions()
    log = releases.root.parent / "upgrade.log"
    releases.wait_until_well()
    with Writer(releases), log.open("w") as said_to:
        command = ["./stack", "upgrade", "--to", f"v{ends[old]}"]
        upgrade = subprocess.Popen(command, cwd=releases.root, stdin=subprocess.DEVNULL, stderr=said_to)
        if isinstance(when, str):
            wait_until(lambda: when in log.read_text(), when, 900)
        else:
            time.sleep(when)
        if how in ("./stack", "terminal"):
            upgrade.send_signal(signal.SIGKILL if how == "./stack" else signal.SIGHUP)
            upgrade.wait(1800)
            if how == "terminal":  # (it goes back by itself, or on if clients are in already)
                journal = releases.root / ".upgrade" / releases.stack.name / "journal"
                assert not journal.exists() or "step=open\n" in journal.read_text()
            result = releases.stack.run(*finish)
            print(f"killed {how} at {when}; {finish[0]}: {log.read_text()} {result.stderr}")
            # (killed before it had begun, the files are the old ones, and no upgrade is to be finished)
            assert result.returncode == 0, result.stderr
        else:
            name = ["docker", "container", "inspect", "--format", "{{.State.Pid}}", f"{releases.stack.name}-{how}-1"]
            if pid := int(subprocess.run(name, check=False, capture_output=True, text=True).stdout or 0):
                os.kill(pid, signal.SIGKILL)
            upgrade.wait(1800)
            said = log.read_text()
            print(f"killed {how} at {when}: {upgrade.returncode} {said}")
            assert upgrade.returncode in (0, 1)
            if upgrade.returncode == 1:
                assert "runs as before" in said or "runs on" in said or "goes on with it" in said, said
                if "goes on with it" in said:
                    releases.stack.check("upgrade")
    [version] = releases.find_versions()
    return version


def test_killed_at_any_moment_it_ends_old_or_new(releases: Releases, soak: bool) -> None:
    git(releases.root, "checkout", "--quiet", "v0.99.1")
    releases.make("v0.99.3", "0.99.3")
    git(releases.root, "checkout", "--quiet", "v0.99.1")
    victims = [
        "./stack",
        "nginx",
        "./stack",
        "mlflow",
        "./stack",
        "postgres",
        "./stack",
        "objectstore",
        "./stack",
        "backup",
        "terminal",
        "terminal",
    ]
    seed = time.time_ns()
    chance = random.Random(seed)
    print(f"seed {seed}")
    for how in victims if soak else victims[:1]:
        # (without --soak in its middle each time)
        when = chance.uniform(1, releases.seconds) if soak else "==> Changing to "
        finish = chance.choice((["upgrade"], ["up", "--no-train"])) if soak else ["upgrade"]
        version = is_retried(releases, how, when, finish)
        releases.check_whole(version)
        wait_until(lambda: releases.stack.run("status").returncode == 0, "every service is well")


def test_mlflow_2_22_is_upgraded_with_its_data(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both databases as MLflow 2.22 made them; the server has not touched them. The last test: it replaces all rows."""
    stack = releases.stack
    releases.wait_until_well()
    for name in ("mlflow", "auth"):
        releases.ask_postgres(name, f"drop schema public cascade; create schema public authorization {name}")
    address = next(
        network["IPAddress"]
        for name, network in stack.container("postgres")["NetworkSettings"]["Networks"].items()
        if name.endswith("_database")
    )
    passwords = dict(
        line.split(":")[3:5]
        for line in stack.compose("exec", "-T", "mlflow", "cat", "/run/secrets/pgpass").splitlines()
    )
    uris = {
        name: f"postgresql+psycopg2://{name}:{password}@{address}:5432/{name}" for name, password in passwords.items()
    }
    script = Path(schema_2_22.__file__)
    command = [OLD_CLIENT, str(script), uris["mlflow"], uris["auth"], releases.login[1]]
    made = subprocess.run(command, cwd="/tmp", capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    wanted = json.loads(made.stdout)
    old = releases.ask_postgres("mlflow", "SELECT version_num FROM alembic_version")
    with (stack.root / "CHANGELOG.md").open("a") as file:
        file.write("\n")
    [version] = releases.find_versions()
    git(releases.root, "commit", "--quiet", "--all", "--message", "from 2.22")
    result = releases.upgrade("--no-backup")  # (the user store of 2.22 notes no schema that a set could name)
    assert result.returncode == 0, result.stderr
    assert f"database mlflow: schema {old} to " in result.stderr
    assert releases.ask_postgres("mlflow", "SELECT version_num FROM alembic_version") != old
    for name, value in stack.login().items():
        monkeypatch.setenv(name, value)
    found: dict[str, Any] = json.loads(json.dumps(schema_2_22.read(MlflowClient())))
    assert found == wanted
    assert stack.ask(PROBE, releases.login).status_code == 200
    asked = f"{API}/experiments/get?experiment_id={wanted['experiment'][0]}"
    assert stack.ask(asked, ("ann", schema_2_22.ANN)).status_code == 200
    assert releases.find_versions() == {version}
