"""Every route with every role: real requests about real things, and what came of them.

A route's answer to a role is only ever "refused" (401, 403, 429, or closed) or not: what else MLflow says is not the
edge's business. Requests carry the ids of things that exist, under every name that MLflow uses for them, so that a
check that looks one up finds it. What a request may have destroyed is made again before the next.
"""

from __future__ import annotations

import csv
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from stack.deployment import Deployment

REVIEWED = Path(__file__).with_name("routes.csv")
# From the least to the most that a client may be; "closed" is for nobody.
ROLES = ("anonymous", "wrong", "stranger", "viewer", "editor", "promoter", "admin")
CLOSED = "closed"
PASSWORD = "a-password-for-tests-only-1"
WORKSPACE = "default"  # the only one
DESTRUCTIVE = re.compile(r"delete|rename|restore|remove|experiments/update|^DELETE")
KEEPS = re.compile(r"tags?(/<\w+>)?$|/records$|scorers/delete$")  # what they remove is not there
AT_ONCE = 8
Login = tuple[str, str]
Answers = dict[str, requests.Response]


@dataclass(frozen=True)
class Expected:
    """A reviewed row: `needs` is the least role that is let in, or "closed"."""

    method: str
    path: str
    needs: str

    def lets_in(self, role: str) -> bool:
        return self.needs != CLOSED and ROLES.index(role) >= ROLES.index(self.needs)


def read_reviewed() -> list[Expected]:
    with REVIEWED.open() as file:
        return [Expected(row["method"], row["path"], row["needs"]) for row in csv.DictReader(file)]


# The gateway's own, for served models.
QUESTIONS = ("ping", "health", "version", "metrics")
SERVING = [("POST", "/serve/<name>/invocations"), *[("GET", f"/serve/<name>/{question}") for question in QUESTIONS]]


def read_routes(stack: Deployment) -> list[tuple[str, str]]:
    """Return (method, path) of every route of the running server, as it says itself, and of served models."""
    lines = stack.compose("exec", "-T", "mlflow", "python", "-m", "tracking.routes").splitlines()
    return [(method, path) for method, _, path in (line.partition(" ") for line in lines)] + SERVING


def is_refused(answer: requests.Response) -> bool:
    if answer.status_code == 404 and "is closed in this stack" in answer.text:
        return True
    return answer.status_code in (401, 403, 429)


@dataclass
class World:
    """Things that belong to the administrator, to ask about."""

    stack: Deployment
    admin: Login
    session: requests.Session = field(default_factory=requests.Session)
    ids: dict[str, Any] = field(default_factory=dict)

    def send(self, method: str, path: str, body: dict[str, Any], version: str = "2.0") -> dict[str, Any]:
        options: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        url = f"{self.stack.url}/api/{version}/mlflow/{path}"
        answer = self.session.request(method, url, auth=self.admin, timeout=90, **options)
        assert answer.ok, (path, answer.text)
        result: dict[str, Any] = answer.json()
        return result

    def make_users(self) -> None:
        """Make a user and a role to ask about (each password costs a tenth of a second)."""
        tag = uuid.uuid4().hex[:10]
        self.send("POST", "users/create", {"username": f"subject-{tag}", "password": PASSWORD})
        role = self.send("POST", "roles/create", {"name": f"role-{tag}", "workspace": WORKSPACE}, "3.0")["role"]["id"]
        self.ids |= {"username": f"subject-{tag}", "role_id": role}

    def make(self) -> None:
        """Make a new set of everything else."""
        tag = uuid.uuid4().hex[:10]
        experiment = self.send("POST", "experiments/create", {"name": f"e-{tag}"})["experiment_id"]
        run = self.send("POST", "runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]["run_id"]
        model = self.send("POST", "registered-models/create", {"name": f"m-{tag}"})["registered_model"]["name"]
        source = {"source": f"runs:/{run}/model", "run_id": run}
        self.send("POST", "model-versions/create", {"name": model, **source})
        self.send("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "1"})
        logged = self.send("POST", "logged-models", {"experiment_id": experiment, "name": "logged"})["model"]["info"]
        dataset = self.send("POST", "datasets/create", {"name": f"d-{tag}", "experiment_ids": [experiment]}, "3.0")
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        info = {
            "trace_id": f"tr-{uuid.uuid4().hex}",
            "trace_location": location,
            "request_time": "2026-01-01T00:00:00Z",
            "state": "OK",
        }
        self.send("POST", "traces", {"trace": {"trace_info": info}}, "3.0")
        about = {"experiment_id": experiment, "name": f"x-{tag}", "description": "d"}
        form = {"type": "FEEDBACK", "input": {"text": {}}}
        schema = self.send("POST", "label-schemas/create", about | form, "3.0")["label_schema"]["schema_id"]
        kind = {"queue_type": "CUSTOM"}
        queue = self.send("POST", "review-queues/create", about | kind, "3.0")["review_queue"]["queue_id"]
        issue = self.send("POST", "issues", about, "3.0")["issue"]["issue_id"]
        judged = {
            "assessment": {
                "trace_id": info["trace_id"],
                "assessment_name": "a",
                "source": {"source_type": "HUMAN", "source_id": "admin"},
                "feedback": {"value": 1},
            }
        }
        assessed = self.send("POST", f"traces/{info['trace_id']}/assessments", judged, "3.0")["assessment"]
        file = f"{experiment}/{run}/artifacts/x.txt"
        url = f"{self.stack.url}/api/2.0/mlflow-artifacts/artifacts/{file}"
        assert self.session.put(url, data=b"x", auth=self.admin, timeout=90).ok
        self.ids |= {
            "experiment_id": experiment,
            "experiment_ids": [experiment],
            "experiment_name": f"e-{tag}",
            "run_id": run,
            "run_uuid": run,
            "run_ids": [run],
            "name": model,
            "model_name": model,
            "version": "1",
            "alias": "production",
            "stage": "Staging",
            "new_name": f"n-{tag}",
            "model_id": logged["model_id"],
            "dataset_id": dataset["dataset"]["dataset_id"],
            "trace_id": info["trace_id"],
            "trace_ids": [info["trace_id"]],
            "request_id": info["trace_id"],
            "request_ids": [info["trace_id"]],
            "assessment_id": assessed["assessment_id"],
            "schema_id": schema,
            "queue_id": queue,
            "issue_id": issue,
            "trace": {"trace_info": info | {"trace_id": f"tr-{uuid.uuid4().hex}"}},
            "password": PASSWORD + "2",
            "is_admin": False,
            "workspace": WORKSPACE,
            "resource_type": "experiment",
            "resource_id": experiment,
            "resource_pattern": experiment,
            "permission": "READ",
            "key": "k",
            "value": "v",
            "path": "x.txt",
            "artifact_path": file,
            "metric_key": "k",
            "timestamp": 1,
            "source": f"runs:/{run}/model",
            "locations": [location],
            "max_results": 10,
            "tag_key": "k",
        }

    def request(self, method: str, path: str, login: Login | None) -> requests.Response:
        """Send a request for this route about these things."""
        values = {name: value for name, value in self.ids.items() if isinstance(value, str | int)}
        if "/experiments/" in path:
            values["name"] = self.ids["experiment_name"]
        filled = re.sub(r"<(\w+)>", lambda match: str(values.get(match[1], "x")), path)
        body = {**self.ids, **values}
        if "/roles/" in path or "users/create" in path:
            body |= {"name": self.ids["new_name"]}
        if "users/create" in path:
            body |= {"username": self.ids["new_name"]}
        if path.endswith("/presigned-upload-url"):
            del body["model_id"]  # a run's or a model's
        options: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        if path == "/graphql":
            options = {
                "json": {
                    "query": f'{{mlflowGetRun(input: {{runId: "{self.ids["run_id"]}"}}) {{run {{info {{runId}}}}}}}}'
                }
            }
        elif path.endswith("/upload-artifact"):
            options = {"params": body, "data": b"x"}
        elif path == "/v1/traces":
            options = {"data": b"", "headers": {"x-mlflow-experiment-id": self.ids["experiment_id"]}}
            options["headers"]["content-type"] = "application/x-protobuf"
        elif path.endswith("/mlflow-artifacts/artifacts"):
            options = {"params": {"path": self.ids["artifact_path"].removesuffix("/x.txt")}}
        return self.session.request(
            method, self.stack.url + filled, auth=login, timeout=60, allow_redirects=False, **options
        )


def make_logins(world: World) -> dict[str, Login | None]:
    """Make an account for each role; return the logins."""
    roles = {
        role["name"]: role["id"] for role in world.send("GET", "roles/list", {"workspace": WORKSPACE}, "3.0")["roles"]
    }
    logins: dict[str, Login | None] = {"anonymous": None, "wrong": ("admin", "wrong"), "admin": world.admin}
    for role in ("stranger", "viewer", "editor", "promoter"):
        name = f"matrix-{role}"
        world.send("POST", "users/create", {"username": name, "password": PASSWORD})
        if role in roles:
            world.send("POST", "roles/assign", {"username": name, "role_id": roles[role]}, "3.0")
        logins[role] = (name, PASSWORD)
    return logins


def ask_all(
    world: World, routes: list[tuple[str, str]], logins: dict[str, Login | None]
) -> Iterator[tuple[str, str, Answers]]:
    """Yield (method, path, {role: answer}) for every route."""
    world.make_users()
    world.make()
    own = threading.local()

    def ask(route: tuple[str, str]) -> Answers:
        return {role: world.request(*route, logins[role]) for role in ROLES}

    def ask_and_make_again(route: tuple[str, str]) -> Answers:
        """What one thread destroys, another does not ask about."""
        if not hasattr(own, "world"):
            own.world = World(world.stack, world.admin)
            own.world.make_users()
            own.world.make()
        answers = {}
        for role in ROLES:
            answers[role] = own.world.request(*route, logins[role])
            if not is_refused(answers[role]):
                if "/users/" in route[1] or "/roles/" in route[1]:
                    own.world.make_users()
                else:
                    own.world.make()
        return answers

    def is_destructive(route: tuple[str, str]) -> bool:
        return route[0] != "GET" and bool(DESTRUCTIVE.search(" ".join(route))) and not KEEPS.search(route[1])

    # What only reads comes first.
    ordered = sorted(set(routes), key=lambda route: (route[0] != "GET", route))
    destructive = [route for route in ordered if is_destructive(route)]
    harmless = [route for route in ordered if not is_destructive(route)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for some, way in ((harmless, ask), (destructive, ask_and_make_again)):
            for route, answers in zip(some, pool.map(way, some), strict=True):
                yield *route, answers


def find_needs(answers: Answers) -> str:
    """Return the least role that was let in, for the reviewed list; "odd" if a greater one was refused."""
    let_in = [role for role in ROLES if not is_refused(answers[role])]
    if not let_in:
        return CLOSED
    return let_in[0] if tuple(let_in) == ROLES[ROLES.index(let_in[0]) :] else "odd"
