"""What the fast path answers is what MLflow's handlers would: the same requests to both, on twin databases."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
import urllib3
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow.server.auth.client import AuthServiceClient

from stack.accounts import PASSWORD, assign
from stack.deployment import QUIET, REVOKED_SECONDS, Deployment, find_end, wait_until

Login = tuple[str, str]
API = "/api/2.0/mlflow/"
EXAMPLES, SOAK_EXAMPLES = 200, 2000
LANES, CALLS = 2, 25  # in an example: each lane has an experiment of its own, and sends its calls one after the other
RUNS, SPARE_LANES = 3, 4  # of a lane; lanes for the tests of races
TURNS = 4  # of a lane: one sequence after the other, on what the one before has left
SINK, DELETED = "1", "2"  # experiments: where runs are created (their ids are random, so it is not searched)
TABLES = {
    "runs": "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
    "source_version, lifecycle_stage, artifact_uri, experiment_id",
    "tags": "run_uuid, key, value",
    "params": "run_uuid, key, value",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
}
# Headers that tell a client something; the others say how and when the answer was sent.
HEADERS = ("Content-Type", "Cache-Control", "Vary", "X-Content-Type-Options", "X-Frame-Options", "WWW-Authenticate")


# ------------------------------------------------------------------------------------------------------ both servers
@dataclass(frozen=True)
class Answer:
    """What came back, as far as it is looked at."""

    status_code: int
    headers: Mapping[str, str]
    text: str

    @property
    def ok(self) -> bool:
        return self.status_code < 400

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Side:
    """One of the two: where it is, and what its random ids and names stand for."""

    url: str
    logins: dict[str, Login]
    tokens: dict[str, str] = field(default_factory=dict)  # of ids and names, as this side has them

    def __post_init__(self) -> None:
        # (requests takes several times the CPU: a tenth of what all tests take)
        self._pool = urllib3.connection_from_url(self.url, maxsize=8, timeout=240, retries=False)
        self._known = {
            user: urllib3.util.make_headers(basic_auth=":".join(login)) for user, login in self.logins.items()
        }

    def send(self, call: Call, lane: Lane) -> Answer:
        """Send a call of a lane."""
        query = urlencode([(name, lane.fill(value)) for name, value in call.query])
        answer = self._pool.request(
            call.method,
            call.prefix + call.path + (f"?{query}" if query else ""),
            body=None if call.body is None else lane.fill(call.body).encode("utf-8", "surrogatepass"),
            headers={**self._known[call.user], **dict(call.headers)},
        )
        return Answer(answer.status, answer.headers, answer.data.decode())

    def name(self, text: str) -> str:
        """Return a text of this side with its ids and random names as both sides call them."""
        return NAMED.sub(lambda found: self.tokens.get(found[0], found[0]), text)


ID, PARAMETERS = re.compile(r"[0-9a-f]{32}"), re.compile(r"\\n\[parameters: .*?\}\]")
SET = re.compile(r"\{('[^']+'(?:, '[^']+')*)\}")  # that a message shows, whose order differs from process to process
NAMED = re.compile(r"[0-9a-f]{32}|[a-z]+-[a-z]+-[0-9]{1,4}")


@dataclass(frozen=True)
class Call:
    """A request; %RUN0% and so on in it are the lane's runs, %EXP% its experiment."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    user: str = "admin"
    prefix: str = API


@dataclass(frozen=True)
class Lane:
    """What the calls of one sequence are about; it was there before the databases were parted."""

    experiment: str
    runs: tuple[str, ...]

    def fill(self, text: str) -> str:
        for number, run in enumerate(self.runs):
            text = text.replace(f"%RUN{number}%", run)
        return text.replace("%EXP%", self.experiment)


def sort_set(found: re.Match[str]) -> str:
    return "{" + ", ".join(sorted(found[1].split(", "))) + "}"


UNORDERED = {"params", "tags", "aliases", "dataset_inputs", "model_outputs", "model_inputs"}


def sort_lists(value: Any, *, in_run: bool = False) -> Any:
    """Return a JSON value with the lists sorted that have no order in the database."""
    if isinstance(value, list):
        return [sort_lists(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    sorted_inner = {key: sort_lists(inner, in_run=key == "data") for key, inner in value.items()}
    return {
        key: sorted(inner, key=json.dumps)
        if isinstance(inner, list) and (key in UNORDERED or (in_run and key == "metrics"))
        else inner
        for key, inner in sorted_inner.items()
    }


def sort_history(metrics: list[dict[str, Any]], *, is_part: bool) -> list[dict[str, Any]]:
    """Return a history with that sorted which its order leaves open.

    It is by time, step and value, and NaN is kept as 0: of both at one time and step either comes first. A part of the
    history may end between them, so that there they are one.
    """
    if is_part:
        metrics = [{**each, "value": 0.0 if each["value"] == "NaN" else each["value"]} for each in metrics]

    def find_place(metric: dict[str, Any]) -> tuple[Any, ...]:
        return metric["timestamp"], metric["step"], 0.0 if metric["value"] == "NaN" else metric["value"]

    return [each for _, tied in itertools.groupby(metrics, find_place) for each in sorted(tied, key=json.dumps)]


def describe(side: Side, response: Answer, call: Call) -> tuple[object, ...]:
    """Return what a client sees of an answer."""
    text = side.name(response.text)
    if not response.ok:
        # MLflow's own on both sides: the statement that failed, with an id that never came to be, values in any order
        text = SET.sub(sort_set, PARAMETERS.sub("", ID.sub("(id)", text)))
    try:
        content = sort_lists(json.loads(text))
        if response.ok and call.path == "metrics/get-history" and "metrics" in content:
            is_part = any(name in ("max_results", "page_token") for name, _ in call.query)
            content["metrics"] = sort_history(content["metrics"], is_part=is_part)
    except ValueError:
        content = text
    return response.status_code, content, {name: response.headers.get(name) for name in HEADERS}


# --------------------------------------------------------------------------------------------------------- requests
def mostly(plain: st.SearchStrategy[Any], odd: list[Any], times: int = 19) -> st.SearchStrategy[Any]:
    """Return what clients send, and once in a while what is odd, at the edge of a limit, or wrong."""
    return st.integers(0, times).flatmap(lambda number: st.sampled_from(odd) if number == 0 else plain)


def choose(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


ODD_KEYS = [
    "",
    ".",
    "..",
    "a/../b",
    "a//b",
    "/a",
    "a/",
    "m\u00e9trique",
    "me\u0301trique",
    "\U0001f600",
    "k\n",
    "k" * 250,
]
ODD_KEYS += ["k" * 251, "mlflow.runName", "mlflow.note.content", "a\0b", "a'b", 'a"b', "%", "M"]
KEYS = mostly(choose("m", "loss", "val/loss", "acc", "a b", "a.b-c_d:e", "p", "t"), ODD_KEYS)
ODD_NUMBERS: list[Any] = [None, True, "1.5", "abc", "", [], {}, 10**400, "nan", -(2**63), 2**63, 1.0e16]
NUMBERS = mostly(
    st.one_of(
        choose(0.0, -0.0, 1.0, 1.5, -2.0, 1e308, 5e-324, 3, 10**15),
        st.floats(allow_nan=False, allow_infinity=False),
        choose("NaN", "Infinity", "-Infinity"),
    ),
    ODD_NUMBERS,
    39,
)
ODD_INTEGERS = [-1, 2**63 - 1, 2**63, -(2**63), "5", "x", 1.0, 1.5, None, True, 1700000000000]
INTEGERS = mostly(st.integers(0, 3), ODD_INTEGERS, 39)
ODD_TEXTS: list[Any] = [
    "",
    "y" * 6000,
    "y" * 6001,
    "y" * 8000,
    "y" * 8001,
    "nul\0",
    "\ud800",
    "line\nfeed",
    "\u2028",
    None,
    1,
    True,
    [],
]
TEXTS = mostly(choose("1", "2", "x", "value with blanks", "gr\u00fc\u00df", '{"json": true}', "'"), ODD_TEXTS)
RUN_IDS = choose(*(f"%RUN{number}%" for number in range(RUNS)))
SOME_RUN = mostly(RUN_IDS, ["", "0" * 32, "nothing", "%RUN0% ", "%RUN0%x", "a/b", None, 5, "run\0"])
ODD_EXPERIMENT_IDS = [DELETED, "999999", "", "01", "x", " 1", "-1", 1, None]
EXPERIMENT_IDS = mostly(st.just("%EXP%"), ODD_EXPERIMENT_IDS, 9)
USERS = choose(*["admin"] * 9, *["editor"] * 5, "own", "own", "viewer", "nobody", "denied")


def spell(name: str) -> str:
    """Return a field's other name in JSON (protocol buffers take both)."""
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


@st.composite
def messages(draw: st.DrawFn, required: dict[str, Any], optional: dict[str, Any], times: int = 49) -> dict[str, Any]:
    """Return fields: the required ones and some others, seldom one less, an unknown one or another spelling."""
    fields = {name: draw(value) for name, value in required.items()}
    fields |= {name: draw(value) for name, value in optional.items() if draw(st.booleans())}
    change = draw(st.integers(0, times))
    if change == 1 and fields:
        del fields[draw(st.sampled_from(sorted(fields)))]
    elif change == 2:
        fields["unknown"] = 1
    elif change == 3:
        fields = {spell(name): value for name, value in fields.items()}
    elif change == 4 and "run_id" in fields:
        fields["run_uuid"] = draw(SOME_RUN)
    elif change == 5 and "run_id" in fields:
        fields["run_uuid"] = fields.pop("run_id")
    return fields


PAIRS = mostly(st.lists(messages({"key": KEYS, "value": TEXTS}, {}, 199), max_size=3), [None, {}, "x", [1], [{}]])
METRIC = {"key": KEYS, "value": NUMBERS, "timestamp": INTEGERS}
MANY = [{"key": f"n{number}", "value": number, "timestamp": 1} for number in range(1001)]
METRICS = mostly(
    st.lists(messages(METRIC, {"step": INTEGERS}, 499), max_size=8), [None, {}, "x", [None], [{}], MANY, MANY[:1000]]
)
ODD_FILTERS = ["datasets.name = 'd'", "nonsense", "metrics.m >", "params.p > '1'", "metrics.m > 0 OR metrics.m < 0"]
ODD_FILTERS += [
    "metrics.m = 'x'",
    "params.p = 5",
    "attributes.created > 0",
    "metrics.nan > 0",
    'tags.t = "q"',
    "tags.t IS NULL",
]
FILTERS = mostly(
    choose(
        *("", "metrics.m > 0", "metrics.m != 1", "metric.loss <= 1.5", "params.p = '1'", "params.p != '1'"),
        *("tags.t LIKE '%a%'", "tags.t ILIKE 'X'", "attributes.status = 'RUNNING'", "status != 'FINISHED'"),
        *("run_name = 'first'", "run_name LIKE 'f%'", "attributes.start_time > 1", "end_time <= 3", "user_id = 'u'"),
        *("params.`a b` = 'x'", "metrics.`val/loss` >= 0", "metrics.m > 0 AND params.p = '1'", "params.p IS NOT NULL"),
        *("metrics.m > 0 and tags.t = 'x' and status = 'RUNNING'", "run_id IN ('%RUN0%', '%RUN1%')"),
        *("attributes.run_id = '%RUN0%'", "artifact_uri LIKE '%artifacts'"),
    ),
    ODD_FILTERS,
)
ORDER = mostly(
    choose(
        *("metrics.m", "metrics.m DESC", "metrics.loss ASC", "params.p", "params.p DESC", "tags.t", "start_time"),
        *("end_time DESC", "attributes.start_time ASC", "run_name", "attribute.status", "run_id", "created DESC"),
    ),
    ["nonsense", "metrics.m XX", "", None, 1],
)
TOKENS = mostly(choose("", "eyJvZmZzZXQiOiAxfQ=="), ["eyJvZmZzZXQiOiAwfQ==", "x", "e30=", "\u00e9", None], 9)
COUNTS = mostly(choose("1", "2", "3", "1000", "2500"), ["0", "-1", "x", "", "50001", "2501", " 2", "02", "1.0"], 9)
STEPS = mostly(choose("0", "1", "2", "3", "-1"), ["x", "", "1.0", "99999999999999999999", "+1"], 9)
RUN_NAMES = mostly(choose("first", "second", "a" * 250), ["", "a" * 251, None, 1, "nul\0"])
STATUSES = mostly(choose("RUNNING", "FINISHED", "FAILED", "KILLED", "SCHEDULED"), ["BOGUS", "", 3, None])
POSTS: dict[str, st.SearchStrategy[Any]] = {
    "runs/log-metric": messages(
        {"run_id": SOME_RUN, **METRIC}, {"step": INTEGERS, "model_id": mostly(st.just(""), ["m-1", None], 4)}
    ),
    "runs/log-batch": messages({"run_id": SOME_RUN}, {"metrics": METRICS, "params": PAIRS, "tags": PAIRS}),
    "runs/log-parameter": messages({"run_id": SOME_RUN, "key": KEYS}, {"value": TEXTS}),
    "runs/set-tag": messages({"run_id": SOME_RUN, "key": KEYS}, {"value": TEXTS}),
    "runs/update": messages({"run_id": SOME_RUN}, {"status": STATUSES, "end_time": INTEGERS, "run_name": RUN_NAMES}),
    "runs/create": messages(
        {"experiment_id": mostly(st.just(SINK), ODD_EXPERIMENT_IDS, 9)},
        {
            "user_id": mostly(choose("u", ""), ["u" * 257, None]),
            "start_time": INTEGERS,
            "run_name": RUN_NAMES,
            "tags": PAIRS,
        },
    ),
    "runs/search": messages(
        {"experiment_ids": mostly(st.lists(EXPERIMENT_IDS, min_size=1, max_size=2), [None, "0", [[]], []])},
        {
            "filter": FILTERS,
            "run_view_type": mostly(choose("ACTIVE_ONLY", "DELETED_ONLY", "ALL"), ["BOGUS", 1, None]),
            "max_results": mostly(choose(1, 2, 3, 10, 1000), [0, -1, 50000, 50001, "2", None]),
            "order_by": st.lists(ORDER, max_size=3),
            "page_token": TOKENS,
        },
    ),
    # MLflow's alone; they change what the others meet.
    "runs/delete": messages({"run_id": RUN_IDS}, {}),
    "runs/restore": messages({"run_id": RUN_IDS}, {}),
}
GETS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "experiments/get": {"experiment_id": EXPERIMENT_IDS},
    "experiments/get-by-name": {
        "experiment_name": st.sampled_from(["Default", "other", "deleted", "nobody's", "", "x\0", "OTHER"])
    },
    "runs/get": {"run_id": SOME_RUN},
    "metrics/get-history": {"run_id": SOME_RUN, "metric_key": KEYS},
    "metrics/get-history-bulk-interval": {"run_ids": SOME_RUN, "metric_key": KEYS},
    "registered-models/alias": {
        "name": mostly(st.just("Model"), ["none", "", "M/x"], 9),
        "alias": mostly(choose("best", "other"), ["latest", "none", "v1", ""], 9),
    },
    "model-versions/get-download-uri": {
        "name": mostly(st.just("Model"), ["none", ""], 9),
        "version": mostly(choose("1", "2"), ["9", "x", "", "01"], 9),
    },
}
OPTIONAL_GETS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "runs/get": {"run_uuid": SOME_RUN},
    "metrics/get-history": {"max_results": COUNTS, "page_token": TOKENS, "run_uuid": SOME_RUN},
    "metrics/get-history-bulk-interval": {
        "run_ids": SOME_RUN,
        "max_results": COUNTS,
        "start_step": STEPS,
        "end_step": STEPS,
    },
}
WEIGHTS = {"runs/log-metric": 6, "runs/log-batch": 8, "runs/search": 8, "runs/delete": 1, "runs/restore": 2}
PATHS = [path for path in (*POSTS, *GETS) for _ in range(WEIGHTS.get(path, 2))]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Return a request to one of the routes."""
    path = draw(st.sampled_from(PATHS))
    prefix = draw(st.sampled_from([API, API, API, "/ajax-api/2.0/mlflow/"]))
    user = draw(USERS)
    if path in GETS:
        fields = [(name, draw(value)) for name, value in GETS[path].items()]
        fields += [(name, draw(value)) for name, value in OPTIONAL_GETS.get(path, {}).items() if draw(st.booleans())]
        if draw(st.integers(0, 29)) == 1:
            fields = draw(st.sampled_from([fields[1:], [*fields, fields[0]], [*fields, ("unknown", "1")], []]))
        query = tuple((name, "" if value is None else str(value)) for name, value in fields)
        return Call("GET", path, query, user=user, prefix=prefix)
    message = draw(POSTS[path])
    body = json.dumps(message)
    kind = "application/json"
    odd = draw(st.integers(3, 99))
    if odd == 10:
        body = draw(st.sampled_from(["", "{", "null", "[]", "1", json.dumps(body), body + "x", "\ufeff" + body]))
    elif odd == 11:
        kind = draw(
            st.sampled_from(
                [
                    "text/plain",
                    "application/json; charset=utf-8",
                    "application/x-www-form-urlencoded",
                    "Application/JSON",
                ]
            )
        )
    elif odd == 12 and isinstance(message, dict) and message:
        body = body[:-1] + ", " + json.dumps(next(iter(message))) + ": 1}"  # a field twice
    return Call("POST", path, (), body, (("Content-Type", kind),), user, prefix)


SINK_RUN = {"experiment_id": SINK, "start_time": 1, "run_name": "first"}
LANE = st.lists(calls(), min_size=CALLS, max_size=CALLS)


# ------------------------------------------------------------------------------------------------------------ the twins
@dataclass
class Twins:
    """Two servers: one with the fast path, one without, whose databases were the same."""

    deployment: Deployment
    fast: Side
    slow: Side
    lanes: Iterator[Lane]
    spare: Iterator[Lane]
    sent: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def send(self, call: Call, lane: Lane) -> str | None:
        """Send a call to both; return what differed."""
        answers = [side.send(call, lane) for side in (self.fast, self.slow)]
        self.sent += 1
        if call.path == "runs/create" and all(answer.ok for answer in answers):
            number = next(self.numbers)
            for side, answer in zip((self.fast, self.slow), answers, strict=True):
                info = answer.json()["run"]["info"]
                side.tokens |= {info["run_id"]: f"run {number}"}
                if NAMED.fullmatch(info["run_name"]):
                    side.tokens |= {info["run_name"]: f"name {number}"}
        both = zip((self.fast, self.slow), answers, strict=True)
        fast, slow = (describe(side, answer, call) for side, answer in both)
        return None if fast == slow else f"{call}\n  fast: {str(fast)[:1500]}\n  slow: {str(slow)[:1500]}"

    def query(self, service: str, statement: str) -> list[str]:
        """Return the lines of a table."""
        options = ("exec", "-T", service, "psql", "-qtAd", "mlflow", "-v", "ON_ERROR_STOP=1", "-c", statement)
        return self.deployment.compose(*options).splitlines()


def ask(deployment: Deployment, login: Login, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = deployment.ask(API + path, login, "POST", json=body)
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def make_lane(deployment: Deployment, login: Login, number: int) -> Lane:
    """Make an experiment with a few runs."""
    experiment = ask(deployment, login, "experiments/create", {"name": f"lane {number}"})["experiment_id"]
    bodies = [
        {"experiment_id": experiment, "start_time": start, "run_name": name, "user_id": "u"}
        for start, name in ((1, "first"), (2, "second"), (2, "third"))
    ]
    made = [ask(deployment, login, "runs/create", body)["run"]["info"]["run_id"] for body in bodies[:RUNS]]
    if number % 10 == 0:
        dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}", "schema": "{}"}
        inputs = [{"tags": [{"key": "mlflow.data.context", "value": "training"}], "dataset": dataset}]
        ask(deployment, login, "runs/log-inputs", {"run_id": made[0], "datasets": inputs})
        model = ask(deployment, login, "logged-models", {"experiment_id": experiment, "source_run_id": made[0]})
        model_id = model["model"]["info"]["model_id"]
        ask(deployment, login, "runs/outputs", {"run_id": made[0], "models": [{"model_id": model_id, "step": 1}]})
    return Lane(experiment, tuple(made))


def make_users(deployment: Deployment, admin: Login) -> dict[str, Login]:
    """Make a user for each role, one without any, and two whose roles are about some experiments only."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.login().items():
            patch.setenv(name, value)
        users = AuthServiceClient(deployment.url)
        for name in ("editor", "viewer", "nobody", "denied", "own"):
            users.create_user(name, PASSWORD)
        for name in ("editor", "viewer"):
            assign(users, name, name)
        assign(users, "denied", "viewer")
        for name in ("denied", "own"):
            assign(users, name, f"only-{name}")
    grants = (
        "INSERT INTO role_permissions (role_id, resource_type, resource_pattern, permission) SELECT id, 'experiment',"
    )
    numbers = "number::text, {level} FROM roles, generate_series({start}, 10000, 2) AS number WHERE name = '{name}'"
    for name, level, start in (("only-denied", "'DENY'", 11), ("only-own", "'EDIT'", 10)):
        statement = f"{grants} {numbers.format(level=level, start=start, name=name)}"
        deployment.compose("exec", "-T", "postgres", "psql", "-qd", "auth", "-v", "ON_ERROR_STOP=1", "-c", statement)
    return {"admin": admin, **{name: (name, PASSWORD) for name in ("editor", "viewer", "nobody", "denied", "own")}}


@pytest.fixture(scope="module")
def twins(make_deployment: Callable[..., Deployment], soak: bool) -> Twins:
    deployment = make_deployment("twins", COMPOSE_FILE=f"{QUIET}:tests/stack/compose.twin.yml")
    deployment.check("up", "--no-train")
    login = deployment.login()
    admin = login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]
    for name in ("sink", "deleted", "other"):
        ask(deployment, admin, "experiments/create", {"name": name})
    ask(deployment, admin, "experiments/delete", {"experiment_id": DELETED})
    ask(deployment, admin, "experiments/set-experiment-tag", {"experiment_id": "3", "key": "k", "value": "v"})
    with ThreadPoolExecutor(4) as pool:
        amount = (SOAK_EXAMPLES if soak else EXAMPLES) * LANES // TURNS + SPARE_LANES
        lanes = list(pool.map(lambda number: make_lane(deployment, admin, number), range(amount)))
    make_model(deployment, admin, lanes[0])
    logins = make_users(deployment, admin)
    part(deployment)
    # (the twin has none of these; no call is about files)
    deployment.compose("stop", "objectstore", "serving", "follower", "backup")
    port = deployment.compose("port", "twin-nginx", "5000").strip().rpartition(":")[2]
    slow = f"http://127.0.0.1:{port}"
    wait_until(lambda: is_there(deployment.url, admin) and is_there(slow, admin), "both servers")
    taken, spare = itertools.cycle(lanes[SPARE_LANES:]), iter(lanes[:SPARE_LANES])
    return Twins(deployment, Side(deployment.url, logins), Side(slow, logins), taken, spare)


def make_model(deployment: Deployment, login: Login, lane: Lane) -> None:
    """Make a registered model with two versions, tags and aliases."""
    ask(deployment, login, "registered-models/create", {"name": "Model"})
    source = f"mlflow-artifacts:/{lane.experiment}/{lane.runs[0]}/artifacts/model"
    for tag in ("1", "2"):
        tags = [{"key": "k", "value": tag}]
        version = {"name": "Model", "source": source, "run_id": lane.runs[0], "description": "d", "tags": tags}
        ask(deployment, login, "model-versions/create", version)
    for alias in ("best", "other"):
        ask(deployment, login, "registered-models/alias", {"name": "Model", "alias": alias, "version": "2"})


def part(deployment: Deployment) -> None:
    """Give the twin a copy of the database, and start all."""
    deployment.compose("stop", "postgres")
    deployment.compose("create", "twin-postgres", "twin-mlflow", "twin-nginx")
    copy = ("run", "--rm", "--no-deps", "--user", "0", "--volume", f"{deployment.name}_postgres-data:/from:ro")
    deployment.compose(
        *copy, "--volume", f"{deployment.name}_twin-data:/to", "--entrypoint", "cp", "secrets", "-a", "/from/.", "/to"
    )
    deployment.compose("start", "postgres", "twin-postgres", "twin-mlflow", "twin-nginx")


def is_there(url: str, login: Login) -> bool:
    try:
        return requests.get(f"{url}{API}experiments/get?experiment_id=0", auth=login, timeout=5).ok
    except requests.RequestException:
        return False


# ------------------------------------------------------------------------------------------------------------ the tests
@pytest.mark.timeout(3600)
def test_generated_requests_are_answered_as_by_mlflow(twins: Twins, soak: bool) -> None:
    faults: list[str] = []
    started = time.monotonic()

    def follow(lane: Lane, sequence: list[Call]) -> list[str]:
        return [fault for call in sequence if (fault := twins.send(call, lane)) is not None]

    @settings(
        max_examples=SOAK_EXAMPLES if soak else EXAMPLES,
        phases=[Phase.generate],
        derandomize=not soak,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(*[LANE] * LANES))
    def send_all(sequences: tuple[list[Call], ...]) -> None:
        with ThreadPoolExecutor(LANES) as pool:
            for found in pool.map(follow, [next(twins.lanes) for _ in sequences], sequences):
                faults.extend(found)

    send_all()
    print(f"{twins.sent} requests to each in {time.monotonic() - started:.0f} s")
    assert twins.sent >= (SOAK_EXAMPLES if soak else EXAMPLES) * LANES * CALLS
    assert not faults, f"{len(faults)} of {twins.sent} answers differ:\n" + "\n".join(faults[:10])


@pytest.mark.parametrize("table", TABLES)
def test_the_rows_are_the_same_after_them(twins: Twins, table: str) -> None:
    statement = f"SELECT {TABLES[table]} FROM {table}"
    fast, slow = (
        sorted(side.name(line) for line in twins.query(service, statement))
        for side, service in ((twins.fast, "postgres"), (twins.slow, "twin-postgres"))
    )
    assert len(fast) > EXAMPLES
    assert fast == slow


def test_most_plain_requests_took_the_fast_path(twins: Twins) -> None:
    """A fast path that replays everything would pass the tests above."""
    taken: dict[str, list[bool]] = {}
    for line in twins.deployment.logs("nginx").splitlines():
        # (compose puts characters for a terminal before a line)
        entry = json.loads(line[line.index("{") :]) if '"path_taken"' in line else {}
        if entry.get("status") == 200 and (name := str(entry.get("path")).partition("/mlflow/")[2]) in {*POSTS, *GETS}:
            taken.setdefault(name, []).append(entry["path_taken"] == "fast")
    shares = {name: sum(found) / len(found) for name, found in taken.items()}
    own = {name: share for name, share in shares.items() if name not in ("runs/delete", "runs/restore")}
    assert own.keys() == {*POSTS, *GETS} - {"runs/delete", "runs/restore"}
    # (which odd values are drawn differs from version to version of hypothesis)
    assert min(own.values()) > 0, shares
    assert sum(own.values()) / len(own) > 0.6, shares
    assert shares["runs/delete"] == 0


def test_the_twin_answers_nothing_by_the_fast_path(twins: Twins) -> None:
    """STACK_FAST_PATH=off; else the comparison would be one of the fast path with itself."""
    assert '"path_taken":"fast"' not in twins.deployment.logs("twin-nginx")
    assert '"path_taken":"fast"' in twins.deployment.logs("nginx")


def test_of_racing_values_of_a_parameter_one_wins(twins: Twins) -> None:
    lane = next(twins.spare)
    for number in range(10):
        start = threading.Barrier(4)

        def log(value: int, key: str = f"race {number}", start: threading.Barrier = start) -> tuple[int, str]:
            body = json.dumps({"run_id": "%RUN0%", "key": key, "value": str(value)})
            start.wait()
            return twins.fast.send(Call("POST", "runs/log-parameter", body=body), lane).status_code, str(value)

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(log, range(4)))
        winners = [value for status, value in answers if status == requests.codes.ok]
        assert len(winners) == 1, answers
        assert all(status in (requests.codes.ok, requests.codes.bad_request) for status, _ in answers)
        stored = twins.query("postgres", f"SELECT value FROM params WHERE key = 'race {number}'")
        assert stored == winners


def test_racing_batches_keep_every_value_and_the_latest(twins: Twins) -> None:
    lane = next(twins.spare)
    keys, steps, writers = ["b", "a", "c"], 20, 4

    def log(writer: int) -> list[int]:
        found = []
        for step in range(writer, steps * writers, writers):
            order = keys if writer % 2 else keys[::-1]  # locks are to be taken in one order all the same
            metrics = [{"key": key, "value": step, "timestamp": 1, "step": step} for key in order]
            body = json.dumps({"run_id": "%RUN1%", "metrics": metrics})
            found.append(twins.fast.send(Call("POST", "runs/log-batch", body=body), lane).status_code)
        return found

    with ThreadPoolExecutor(writers) as pool:
        statuses = [status for found in pool.map(log, range(writers)) for status in found]
    assert set(statuses) == {requests.codes.ok}
    of_run = f"WHERE run_uuid = '{lane.runs[1]}' AND key IN ('a', 'b', 'c')"
    assert twins.query("postgres", f"SELECT count(*) FROM metrics {of_run}") == [str(len(keys) * steps * writers)]
    latest = twins.query("postgres", f"SELECT DISTINCT step, value FROM latest_metrics {of_run}")
    assert latest == [f"{steps * writers - 1}|{steps * writers - 1}"]


def test_a_right_that_is_taken_away_ends_within_five_seconds(twins: Twins) -> None:
    lane = Lane(
        "1", (ask(twins.deployment, twins.fast.logins["admin"], "runs/create", SINK_RUN)["run"]["info"]["run_id"],)
    )
    body = json.dumps({"run_id": "%RUN0%", "key": "m", "value": 1, "timestamp": 1})
    call = Call("POST", "runs/log-metric", body=body, user="editor")
    assert twins.fast.send(call, lane).ok
    statement = "DELETE FROM user_role_assignments USING users WHERE users.id = user_id AND username = 'editor'"
    twins.deployment.compose("exec", "-T", "postgres", "psql", "-qd", "auth", "-v", "ON_ERROR_STOP=1", "-c", statement)

    def may_log() -> bool:
        return twins.fast.send(call, lane).status_code != 403

    assert find_end(may_log, "the right ends") < REVOKED_SECONDS
