"""Names, passwords, what MLflow's list means, and what happens when the gateway says no."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from mlflow.server.auth import routes
from mlflow.utils.validation import _validate_password
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from admin import gateway, users
from admin.faults import FaultError, printable
from admin.settings import Settings
from tracking import roles


@pytest.mark.parametrize("name", ["ann", "ann.b@example.org", "A", "7of9", "ann-ci_2", "a" * 128])
def test_a_good_name_is_taken(name: str) -> None:
    assert users.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ":", "a:b", " ann", "ann ", "an n", "ann\n", "a\x1b[2J", "-ann", "@ann", "änn", "ann/../x", "a" * 129, "=ann"],
)
def test_a_name_that_would_break_a_login_or_a_line_is_refused(name: str) -> None:
    with pytest.raises(FaultError) as caught:
        users.check_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"exactly-12-ch", "exactly-12-ch"),
        (b"twelve-chars\n", "twelve-chars"),
        (b"twelve-chars\r\n", "twelve-chars"),
        (b" pass:word mit Raum ", " pass:word mit Raum "),
    ],
)
def test_a_password_is_read_as_it_stands_in_the_file(content: bytes, password: str) -> None:
    assert users.check_password(content) == password


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has 0 characters: choose one of 12 to 256"),
        (b"11-chars-at\n", "has 11 characters"),
        (b"x" * 257, "has 257 characters"),
        (b"first-line-is-long\nsecond", "control characters or more than one line"),
        (b"twelve-chars\n\n", "control characters or more than one line"),
        (b"twelve\x00chars-and", "control characters"),
        (b"\xff" * 20, "not UTF-8"),
        ("p\u00e4ssword-of-mine-1".encode(), "not ASCII"),
    ],
)
def test_an_unfit_password_is_refused_and_not_shown(content: bytes, fault: str) -> None:
    with pytest.raises(FaultError, match=fault) as caught:
        users.check_password(content)
    assert "chars" not in str(caught.value).replace("characters", "")


def test_the_minimum_is_mlflows_own() -> None:
    _validate_password("x" * users.MIN_PASSWORD)
    with pytest.raises(Exception, match="at least"):
        _validate_password("x" * (users.MIN_PASSWORD - 1))


def test_made_passwords_are_long_and_never_the_same() -> None:
    made = {users.make_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 24 and password.isascii() and password.isalnum() for password in made)


def test_the_paths_are_mlflows() -> None:
    paths = {
        f"{users.USERS}/list": routes.LIST_USERS,
        f"{users.USERS}/create": routes.CREATE_USER,
        f"{users.USERS}/delete": routes.DELETE_USER,
        f"{users.USERS}/update-password": routes.UPDATE_USER_PASSWORD,
        f"{users.USERS}/update-admin": routes.UPDATE_USER_ADMIN,
        f"{users.ROLES}/list": routes.LIST_ROLES,
        f"{users.ROLES}/create": routes.CREATE_ROLE,
        f"{users.ROLES}/delete": routes.DELETE_ROLE,
        f"{users.ROLES}/assign": routes.ASSIGN_ROLE,
        f"{users.ROLES}/unassign": routes.UNASSIGN_ROLE,
        f"{users.ROLES}/users/list": routes.LIST_ROLE_USERS,
        f"{users.ROLES}/permissions/update": routes.UPDATE_ROLE_PERMISSION,
        f"{users.GRANTS}/grant": routes.GRANT_USER_PERMISSION,
        f"{users.GRANTS}/revoke": routes.REVOKE_USER_PERMISSION,
    }
    assert list(paths) == list(paths.values())
    assert roles.WORKSPACE == DEFAULT_WORKSPACE_NAME


def role(number: int, name: str, *permissions: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "name": name, "workspace": "default", "permissions": list(permissions)}


def test_a_user_is_what_its_roles_say() -> None:
    grant = {"id": 9, "role_id": 4, "resource_type": "registered_model", "resource_pattern": "m", "permission": "DENY"}
    listed = {
        "id": 1,
        "username": "ann",
        "is_admin": False,
        "roles": [
            role(1, "viewer"),
            role(2, "editor"),
            role(3, "chemists"),
            role(4, "__user_1__", grant),
            role(5, "disabled"),
            role(6, "expires-2020-12-31T00:00:00Z"),
        ],
    }
    assert users.read_user(listed).describe() == {
        "name": "ann",
        "role": "editor",
        "other_roles": ["chemists"],
        "disabled": True,
        "expired": True,
        "expires": "2020-12-31T00:00:00Z",
        "grants": [{"kind": "model", "id": "m", "permission": "DENY"}],
    }
    assert users.read_user({**listed, "is_admin": True}).role == "admin"
    assert users.read_user({**listed, "roles": []}).role is None


def test_a_role_called_admin_makes_no_administrator() -> None:
    listed = {"id": 1, "username": "ann", "is_admin": False, "roles": [role(1, "admin")]}
    assert users.read_user(listed).role is None
    assert users.read_user(listed).other_roles == ["admin"]


class FakeApi:
    """Answers as MLflow does, and fails at one path: a real one can't be made to fail between two steps."""

    def __init__(self, failing: str, error: BaseException, undeletable: bool = False) -> None:
        self.failing, self.error, self.undeletable = failing, error, undeletable
        self.settings = Settings("http://gateway", "http://url", "admin", "")
        self.names: list[str] = []

    def ask(self, _method: str, path: str, **fields: Any) -> dict[str, Any]:
        if path == self.failing and (path != users.USERS + "/create" or len(self.names) == 2):
            raise self.error
        if path == users.USERS + "/create":
            self.names.append(fields["username"])
        if path == users.USERS + "/delete":
            if self.undeletable:
                raise gateway.AwayError("away")
            self.names.remove(fields["username"])
        if path == users.ROLES + "/list":
            return {"roles": [role(1, "viewer")]}
        return {}


@pytest.mark.parametrize("error", [gateway.AwayError("the gateway does not answer"), KeyboardInterrupt()])
def test_a_half_made_user_is_removed(error: BaseException) -> None:
    api = FakeApi(users.ROLES + "/assign", error)
    with pytest.raises(type(error)):
        users.Store(api).add("ann", "x" * 12, "viewer", None)  # type: ignore[arg-type]
    assert api.names == []


def test_a_half_made_user_that_can_not_be_removed_is_named() -> None:
    api = FakeApi(users.USERS + "/update-admin", FaultError("refused"), undeletable=True)
    with pytest.raises(FaultError, match=r"refused\nann is half-made and still there: \./stack user remove ann"):
        users.Store(api).add("ann", "x" * 12, "admin", None)  # type: ignore[arg-type]


def test_a_team_is_made_whole_or_not_at_all() -> None:
    api = FakeApi(users.USERS + "/create", FaultError("refused"))
    team = [(name, "x" * 12, "viewer", None) for name in ("ann", "bob", "carol", "dave")]
    with pytest.raises(FaultError, match="refused"):
        users.Store(api).add_all(list(team))  # type: ignore[arg-type]
    assert api.names == []
    api = FakeApi("", FaultError())
    assert users.Store(api).add_all(list(team)) == [(name, "x" * 12) for name, *_ in team]  # type: ignore[arg-type]
    assert api.names == ["ann", "bob", "carol", "dave"]


@pytest.fixture
def ask_server() -> Iterator[Callable[..., BaseException]]:
    """Return a function that asks a server with this answer, and returns what was raised."""
    answers: list[tuple[int, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = answers.pop()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    def ask(status: int, content: object = "", headers: dict[str, str] | None = None) -> BaseException:
        answers.append((status, headers or {}, json.dumps(content).encode() if content else b""))
        with pytest.raises(FaultError) as caught:
            gateway.Api(Settings(url, url, "admin", "x")).ask("GET", "/x")
        return caught.value

    yield ask
    server.shutdown()
    server.server_close()


def test_what_the_gateway_says_becomes_one_line(ask_server: Callable[..., BaseException]) -> None:
    refusal = ask_server(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no\nsuch \x1b[2Jthing"})
    assert isinstance(refusal, gateway.RejectedError)
    assert refusal.code == "INVALID_PARAMETER_VALUE"
    for raised, words in (
        (refusal, r"MLflow refuses it: no\nsuch \x1b[2Jthing"),
        (ask_server(500), "HTTP 500"),
        (ask_server(401), "./stack secrets rotate admin_password"),
        (ask_server(403, {"message": "Permission denied"}), "admin may not do this"),
        (ask_server(429, {}, {"Retry-After": "17"}), "try again in 17 s"),
        (ask_server(503, {"message": "x"}), "the server is starting or its database is away"),
    ):
        assert words in str(raised)
        assert "\n" not in str(raised)


def test_a_gateway_that_is_away_is_one_line() -> None:
    with pytest.raises(gateway.AwayError, match=r"the gateway does not answer: \./stack status"):
        gateway.Api(Settings("http://127.0.0.1:1", "", "admin", "x")).ask("GET", "/x")


def test_nothing_steers_the_terminal() -> None:
    assert printable("ann\x1b[2J\r\n\u202e\udc80é") == "ann\\x1b[2J\\r\\n\\u202e\\udc80é"
