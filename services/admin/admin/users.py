"""Accounts in MLflow's own user store, through its REST API: what is changed here is seen on its page, and back."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from admin import moments
from admin.faults import FaultError
from admin.gateway import Api, AwayError, RejectedError
from tracking import roles

USERS, ROLES = "/api/2.0/mlflow/users", "/api/3.0/mlflow/roles"
GRANTS = "/api/3.0/mlflow/users/permissions"
EXPERIMENTS, MODELS = "/api/2.0/mlflow/experiments", "/api/2.0/mlflow/registered-models"
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"

MAX_NAME = 128
MIN_PASSWORD, MAX_PASSWORD = 12, 256  # MLflow's minimum; the maximum keeps a login in one header
PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE")
# Kind as an operator says it: MLflow's resource types, a prompt being a model to the registry.
KINDS = {"experiment": ("experiment",), "model": ("registered_model", "prompt")}
# The stack's own accounts: the secret that each one's password is, and who can't work without it.
TRAINER, SERVING = "trainer", "serving"
SECRETS = {"admin": "admin_password", TRAINER: "trainer_password", SERVING: "serving_password"}


@dataclass(frozen=True)
class Grant:
    """What a user may do on one thing.

    Attributes:
        number: of the grant in MLflow's store.
        resource_type: MLflow's word for the thing's kind.
        identifier: id of an experiment, name of anything else, or * for all.
        permission: READ, USE, EDIT, MANAGE or DENY.
    """

    number: int
    resource_type: str
    identifier: str
    permission: str

    @property
    def kind(self) -> str:
        """The kind as an operator says it."""
        return "model" if self.resource_type == "registered_model" else self.resource_type


@dataclass(frozen=True)
class User:
    """One account.

    Attributes:
        name: as it logs in.
        is_admin: MLflow's flag.
        assigned: names of its roles and their numbers in MLflow's store, the hidden one for direct grants excepted.
        grants: its own, beside those of its roles.
    """

    name: str
    is_admin: bool
    assigned: dict[str, int]
    grants: tuple[Grant, ...]

    @property
    def role(self) -> str | None:
        """The strongest of the stack's roles."""
        held = [name for name in roles.GRANTS if name in self.assigned]
        return roles.ADMIN if self.is_admin else held[-1] if held else None

    @property
    def other_roles(self) -> list[str]:
        """Roles that somebody made on MLflow's page."""
        known = {*roles.GRANTS, roles.DISABLED}
        return sorted(name for name in self.assigned if name not in known and not name.startswith(roles.EXPIRES))

    @property
    def is_disabled(self) -> bool:
        """Whether somebody shut it out."""
        return roles.DISABLED in self.assigned

    @property
    def expires(self) -> datetime | None:
        """When its login ends, or None."""
        return roles.find_expiry(self.assigned)

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= datetime.now(UTC)

    def describe(self) -> dict[str, Any]:
        """Return what --json shows."""
        return {
            "name": self.name,
            "role": self.role,
            "other_roles": self.other_roles,
            "disabled": self.is_disabled,
            "expired": self.is_expired,
            "expires": None if self.expires is None else moments.write(self.expires),
            "grants": [
                {"kind": grant.kind, "id": grant.identifier, "permission": grant.permission} for grant in self.grants
            ],
        }


def read_user(value: dict[str, Any]) -> User:
    """Return a user as MLflow's list shows it."""
    assigned = {role["name"]: role["id"] for role in value["roles"] if not roles.is_direct(role["name"])}
    grants = [
        Grant(entry["id"], entry["resource_type"], entry["resource_pattern"], entry["permission"])
        for role in value["roles"]
        if roles.is_direct(role["name"])
        for entry in role["permissions"]
    ]
    grants.sort(key=lambda grant: (grant.resource_type, grant.identifier))
    return User(value["username"], bool(value["is_admin"]), assigned, tuple(grants))


def make_password() -> str:
    """Return 24 random letters and digits (142 bits): nothing that a shell or a spreadsheet would take for its own."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(24))


def check_password(content: bytes) -> str:
    """Return the password that a file holds, without the end of its line. Raises FaultError if it is unfit."""
    try:
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise FaultError("the password is not UTF-8 text: choose another") from None
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise FaultError(f"the password has {len(password)} characters: choose one of {MIN_PASSWORD} to {MAX_PASSWORD}")
    if not password.isprintable():
        raise FaultError("the password holds control characters or more than one line: choose one without")
    if not password.isascii():  # tracking/rules.py says why, to other clients
        raise FaultError("the password holds a character that is not ASCII: MLflow's artifact routes can't read it")
    return password


def check_name(name: str) -> str:
    """Return a name that a new user may have. Raises FaultError."""
    if len(name) > MAX_NAME:
        raise FaultError(f"name {name[:20]!r}... has {len(name)} characters: {MAX_NAME} are the most")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]*", name):
        raise FaultError(f"name {name!r} is unfit: use A-Z a-z 0-9 . _ @ -, beginning with a letter or digit")
    return name


def check_kind(kind: str) -> str:
    """Return a kind of thing that one can have grants on. Raises FaultError."""
    if kind not in KINDS:
        raise FaultError(f"there is no kind {kind!r}: choose {' or '.join(KINDS)}")
    return kind


def check_permission(permission: str) -> str:
    """Return a permission that can be granted. Raises FaultError."""
    if permission not in PERMISSIONS:
        raise FaultError(f"there is no permission {permission!r}: choose {', '.join(PERMISSIONS)}")
    return permission


def check_role(role: str) -> str:
    """Return a role that a user may be given. Raises FaultError."""
    if role not in roles.TEAM:
        raise FaultError(f"there is no role {role!r}: choose {', '.join(roles.TEAM)}")
    return role


class Store:
    """MLflow's user store, as the administrator of the stack sees it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.own_name = api.settings.username

    def list_all(self) -> list[User]:
        """Return all users by name."""
        users = [read_user(value) for value in self.api.ask("GET", f"{USERS}/list")["users"]]
        return sorted(users, key=lambda user: user.name)

    def find(self, name: str) -> User:
        """Return one user. Raises FaultError if there is none."""
        for user in self.list_all():
            if user.name == name:
                return user
        raise FaultError(f"there is no user {name!r}: ./stack user list shows them")

    def find_role_numbers(self) -> dict[str, int]:
        """Return the numbers of all roles by name."""
        listed = self.api.ask("GET", f"{ROLES}/list", workspace=roles.WORKSPACE)["roles"]
        return {role["name"]: role["id"] for role in listed}

    def need_role(self, name: str) -> int:
        """Return the number of a role; one that ends logins is made when it is first needed."""
        numbers = self.find_role_numbers()
        if name in numbers:
            return numbers[name]
        if not name.startswith(roles.EXPIRES):
            raise FaultError(f"role {name!r} was removed from MLflow: ./stack up makes it anew")
        made = self.api.ask(
            "POST", f"{ROLES}/create", workspace=roles.WORKSPACE, name=name, description=roles.EXPIRY_DESCRIPTION
        )
        number: int = made["role"]["id"]
        return number

    def assign(self, name: str, number: int) -> None:
        """Give a role; one that the user has already is no fault."""
        try:
            self.api.ask("POST", f"{ROLES}/assign", username=name, role_id=number)
        except RejectedError as error:
            if error.code != EXISTS:
                raise

    def unassign(self, name: str, number: int) -> None:
        """Take a role; one that the user has not is no fault."""
        try:
            self.api.ask("DELETE", f"{ROLES}/unassign", username=name, role_id=number)
        except RejectedError as error:
            if error.code != MISSING:
                raise

    def set_admin(self, name: str, is_admin: bool) -> None:
        """Set MLflow's flag."""
        self.api.ask("PATCH", f"{USERS}/update-admin", username=name, is_admin=is_admin)

    def add(self, name: str, password: str, role: str, expires: datetime | None) -> None:
        """Make a user, whole or not at all: it has no rights until the last step, and is removed if one fails."""
        number = None if role == roles.ADMIN else self.need_role(role)
        try:
            self.api.ask("POST", f"{USERS}/create", username=name, password=password)
        except RejectedError as error:
            if error.code == EXISTS:
                raise FaultError(
                    f"there is a user {name!r} already: ./stack user role and user passwd change it"
                ) from None
            raise
        except AwayError as error:
            raise FaultError(f"{error}; ./stack user list shows then whether {name!r} was made") from None
        with self.undone(name):
            if expires is not None:
                self.assign(name, self.need_role(roles.expiry_role(expires)))
            if number is None:
                self.set_admin(name, is_admin=True)
            else:
                self.assign(name, number)

    def add_all(self, wanted: list[tuple[str, str, str, datetime | None]]) -> list[tuple[str, str]]:
        """Make all of these users or none; returns names and passwords."""
        with ExitStack() as made:
            for name, password, role, expires in wanted:
                self.add(name, password, role, expires)
                made.enter_context(self.undone(name))
        return [(name, password) for name, password, _, _ in wanted]

    @contextmanager
    def undone(self, name: str) -> Iterator[None]:
        """Remove a user if what follows fails or is interrupted."""
        try:
            yield
        except BaseException as error:
            try:
                self.api.ask("DELETE", f"{USERS}/delete", username=name)
            except FaultError:
                if isinstance(error, FaultError):
                    raise FaultError(
                        f"{error}\n{name} is half-made and still there: ./stack user remove {name}"
                    ) from None
            raise

    def refuse_own(self, name: str, doing: str) -> None:
        """Raise FaultError for the account that ./stack itself logs in with: there is always one administrator so."""
        if name == self.own_name:
            raise FaultError(
                f"{name} can't be {doing}: ./stack itself logs in with it, and a stack needs one administrator"
            )

    def set_role(self, user: User, role: str) -> None:
        """Give the role and take the stack's others; in between the user has both, never neither."""
        if role == roles.ADMIN:
            self.set_admin(user.name, is_admin=True)
        else:
            self.refuse_own(user.name, f"made a {role}")
            self.assign(user.name, self.need_role(role))
        for name, number in user.assigned.items():
            if name in roles.PERMISSIONS and name != role:
                self.unassign(user.name, number)
        if user.is_admin and role != roles.ADMIN:
            self.set_admin(user.name, is_admin=False)

    def set_expiry(self, user: User, expires: datetime | None) -> None:
        """Set when the login ends, or None for never."""
        wanted = None
        if expires is not None:
            self.refuse_own(user.name, "made to expire")
            wanted = roles.expiry_role(expires)
            self.assign(user.name, self.need_role(wanted))
        old = {name: number for name, number in user.assigned.items() if name.startswith(roles.EXPIRES)}
        old.pop(wanted or "", None)
        for number in old.values():
            self.unassign(user.name, number)
        self.remove_unused(old)

    def remove_unused(self, expiries: dict[str, int]) -> None:
        """Remove roles of moments that nobody has any more."""
        for number in expiries.values():
            try:
                if not self.api.ask("GET", f"{ROLES}/users/list", role_id=number)["assignments"]:
                    self.api.ask("DELETE", f"{ROLES}/delete", role_id=number)
            except RejectedError as error:  # somebody else was quicker
                if error.code != MISSING:
                    raise

    def disable(self, user: User) -> None:
        """Shut a user out; everything that is theirs stays."""
        self.refuse_own(user.name, "disabled")
        self.assign(user.name, self.need_role(roles.DISABLED))

    def enable(self, user: User) -> None:
        """Let a disabled user in again."""
        if user.is_disabled:
            self.unassign(user.name, user.assigned[roles.DISABLED])

    def remove(self, user: User) -> None:
        """Remove a user; what it made stays."""
        self.refuse_own(user.name, "removed")
        self.api.ask("DELETE", f"{USERS}/delete", username=user.name)
        self.remove_unused({name: number for name, number in user.assigned.items() if name.startswith(roles.EXPIRES)})

    def set_password(self, user: User, password: str) -> None:
        """Set another password. Raises FaultError for the stack's own accounts, whose passwords are in files."""
        if user.name in SECRETS:
            raise FaultError(
                f"{user.name}'s password is a secret of the stack: ./stack secrets rotate {SECRETS[user.name]} makes a "
                "new one known to all who need it"
            )
        self.api.ask("PATCH", f"{USERS}/update-password", username=user.name, password=password)

    def find_thing(self, kind: str, text: str) -> tuple[str, str]:
        """Return MLflow's (resource type, identifier) of an experiment or model. Raises FaultError if there is none."""
        asked = [(f"{MODELS}/get", "name")]
        if kind == "experiment":
            asked = [(f"{EXPERIMENTS}/get-by-name", "experiment_name")]
            if re.fullmatch(r"[0-9]{1,9}", text):
                asked.append((f"{EXPERIMENTS}/get", "experiment_id"))
        for path, field in asked:
            try:
                found = self.api.ask("GET", path, **{field: text})
            except RejectedError as error:
                if error.code != MISSING:
                    raise
                continue
            if kind == "experiment":
                return "experiment", str(found["experiment"]["experiment_id"])
            model = found["registered_model"]
            is_prompt = any(tag["key"] == "mlflow.prompt.is_prompt" for tag in model.get("tags", []))
            return ("prompt" if is_prompt else "registered_model"), model["name"]
        raise FaultError(f"there is no {kind} {text!r}: write its name{' or its id' if kind == 'experiment' else ''}")

    def grant(self, user: User, kind: str, text: str, permission: str) -> None:
        """Set what a user may do on one thing; what it had there is replaced in one step."""
        resource_type, identifier = self.find_thing(kind, text)
        for grant in user.grants:
            if (grant.resource_type, grant.identifier) == (resource_type, identifier):
                path = f"{ROLES}/permissions/update"
                self.api.ask("PATCH", path, role_permission_id=grant.number, permission=permission)
                return
        self.api.ask(
            "POST",
            f"{GRANTS}/grant",
            username=user.name,
            resource_type=resource_type,
            resource_id=identifier,
            permission=permission,
        )

    def revoke(self, user: User, kind: str, text: str) -> None:
        """Take back a grant or a denial; also of a thing that is no longer there."""
        try:
            identifier = self.find_thing(kind, text)[1]
        except FaultError:
            identifier = text
        found = [g for g in user.grants if g.resource_type in KINDS[kind] and g.identifier == identifier]
        if not found:
            raise FaultError(f"{user.name} has no grant of its own on {kind} {text!r}: ./stack user list {user.name}")
        for grant in found:
            self.api.ask(
                "POST",
                f"{GRANTS}/revoke",
                username=user.name,
                resource_type=grant.resource_type,
                resource_id=grant.identifier,
            )

    def find_experiment_names(self) -> dict[str, str]:
        """Return the names of the experiments by id, of the first thousand."""
        found = self.api.ask("POST", f"{EXPERIMENTS}/search", max_results=1000, view_type="ALL")
        return {entry["experiment_id"]: entry["name"] for entry in found.get("experiments", [])}
