"""./stack user: the verbs."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from admin import moments, settings, team, users
from admin.faults import FaultError, printable
from admin.gateway import Api
from tracking import roles

app = typer.Typer(no_args_is_help=True, help="Add, change and remove accounts; MLflow's page /admin shows the same.")
tokens = typer.Typer(no_args_is_help=True, help="Accounts for services, which end by themselves.")
app.add_typer(tokens, name="token")

Name = Annotated[str, typer.Argument(help="name of the user")]
Kind = Annotated[str, typer.Argument(help="experiment or model")]
Thing = Annotated[str, typer.Argument(help="its name, or an experiment's id")]
Role = Annotated[str, typer.Option(help=", ".join(roles.TEAM))]
Expires = Annotated[str | None, typer.Option(help="when the login ends: 90d, 2026-12-31, 2026-12-31T18:00:00Z (UTC)")]
PasswordFile = Annotated[
    str | None,
    typer.Option(
        help=f"file with the password (at least {users.MIN_PASSWORD} characters), - for stdin; default: one is made"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def open_store() -> users.Store:
    """Return the user store behind the gateway."""
    return users.Store(Api(settings.load()))


def note(text: str) -> None:
    """Say what an operator should know, beside the answer."""
    print(f"stack: note: {printable(text)}", file=sys.stderr)


def answer(as_json: bool, value: Any, line: str) -> None:
    """Print the result."""
    print(json.dumps(value) if as_json else printable(line))


def answer_user(store: users.Store, name: str, line: str, as_json: bool) -> None:
    """Print the line, or the user as it is now."""
    answer(as_json, store.find(name).describe() if as_json else None, line)


def read_password(file: str | None) -> tuple[str, bool]:
    """Return the password to be set, and whether it was made here. ./stack puts a named file on our stdin."""
    if file is None:
        return users.make_password(), True
    if file != "-":
        raise FaultError(f"--password-file {file!r}: ./stack hands a file over on standard input: write -")
    return users.check_password(sys.stdin.buffer.read(users.MAX_PASSWORD * 4 + 3)), False


def answer_password(as_json: bool, value: dict[str, Any], line: str, password: str, was_made: bool) -> None:
    """Print the result; a password that was made is shown this once, alone on stdout for a script to take."""
    if not was_made:
        answer(as_json, value, line)
    elif as_json:
        print(json.dumps({**value, "password": password}))
    else:
        print(f"{line}; its password is shown this once", file=sys.stderr)
        print(password)


def print_columns(rows: list[tuple[str, ...]]) -> None:
    """Print a table."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def describe_end(expires: datetime | None) -> str:
    """Return half a sentence."""
    return "" if expires is None else f" until {moments.write(expires)}"


@app.command()
def add(
    name: Name,
    role: Role,
    password_file: PasswordFile = None,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Add a user; prints the password that was made, once."""
    users.check_name(name)
    users.check_role(role)
    end = None if expires is None else moments.read_expiry(expires)
    password, was_made = read_password(password_file)
    store = open_store()
    store.add(name, password, role, end)
    value = {"name": name, "role": role, "expires": end and moments.write(end)}
    answer_password(as_json, value, f"{name} was added as {role}{describe_end(end)}", password, was_made)


@app.command("list")
def show_all(
    name: Annotated[str | None, typer.Argument(help="one user, with its own grants")] = None, as_json: Json = False
) -> None:
    """List the users."""
    store = open_store()
    found = store.list_all() if name is None else [store.find(name)]
    if as_json:
        print(json.dumps([user.describe() for user in found]))
        return
    rows: list[tuple[str, ...]] = [("NAME", "ROLE", "LOGIN", "EXPIRES", "OWN GRANTS")]
    for user in found:
        held = [user.role or "-", *(f"({other})" for other in user.other_roles)]
        login = "disabled" if user.is_disabled else "expired" if user.is_expired else "yes"
        ends = "-" if user.expires is None else moments.write(user.expires)
        rows.append((user.name, " ".join(held), login, ends, str(len(user.grants))))
    print_columns(rows)
    if name is not None and found[0].grants:
        names = store.find_experiment_names() if any(g.kind == "experiment" for g in found[0].grants) else {}
        grants = [
            (g.kind, g.identifier, names.get(g.identifier, "") if g.kind == "experiment" else "", g.permission)
            for g in found[0].grants
        ]
        print()
        print_columns([("KIND", "ID", "NAME", "PERMISSION"), *grants])


@app.command("role")
def set_role(
    name: Name, role: Annotated[str, typer.Argument(help=", ".join(roles.TEAM))], as_json: Json = False
) -> None:
    """Give a user another role."""
    users.check_role(role)
    store = open_store()
    store.set_role(store.find(name), role)
    answer_user(store, name, f"{name} is {role}", as_json)


@app.command()
def grant(
    name: Name,
    kind: Kind,
    thing: Thing,
    permission: Annotated[str, typer.Argument(help=", ".join(users.PERMISSIONS))],
    as_json: Json = False,
) -> None:
    """Give a user rights on one experiment or model, beside those of the role."""
    change_grant(name, users.check_kind(kind), thing, users.check_permission(permission), as_json)


@app.command()
def deny(name: Name, kind: Kind, thing: Thing, as_json: Json = False) -> None:
    """Take all rights on one experiment or model from a user, whatever the role gives."""
    change_grant(name, users.check_kind(kind), thing, "DENY", as_json)


def change_grant(name: str, kind: str, thing: str, permission: str, as_json: bool) -> None:
    """Set one grant."""
    store = open_store()
    user = store.find(name)
    store.grant(user, kind, thing, permission)
    if user.is_admin:
        note(f"{name} is admin, whom no grant or denial holds back")
    answer_user(store, name, f"{name} has {permission} on {kind} {thing}", as_json)


@app.command()
def revoke(name: Name, kind: Kind, thing: Thing, as_json: Json = False) -> None:
    """Take back what grant or deny gave."""
    users.check_kind(kind)
    store = open_store()
    store.revoke(store.find(name), kind, thing)
    answer_user(store, name, f"{name} has what the role gives on {kind} {thing}", as_json)


@app.command("passwd")
def set_password(name: Name, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Set another password; prints the one that was made, once."""
    password, was_made = read_password(password_file)
    store = open_store()
    store.set_password(store.find(name), password)
    answer_password(as_json, {"name": name}, f"{name} has another password", password, was_made)


@app.command("expire")
def set_expiry(
    name: Name,
    when: Annotated[str, typer.Argument(help="90d, 2026-12-31, 2026-12-31T18:00:00Z or never")],
    as_json: Json = False,
) -> None:
    """Set when a user's login ends."""
    end = None if when == "never" else moments.read_expiry(when)
    store = open_store()
    store.set_expiry(store.find(name), end)
    line = f"{name} can log in{describe_end(end)}" if end else f"{name}'s login does not expire"
    answer_user(store, name, line, as_json)


@app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Shut a user out; all that is theirs stays."""
    store = open_store()
    user = store.find(name)
    store.disable(user)
    note_what_follows(store, name)
    answer_user(store, name, f"{name} can't log in", as_json)


@app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Let a disabled user in again."""
    store = open_store()
    user = store.find(name)
    store.enable(user)
    if user.is_expired:
        note(f"{name}'s login has expired: ./stack user expire {name} 90d")
    answer_user(store, name, f"{name} is not disabled", as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a user; what it made stays."""
    store = open_store()
    store.remove(store.find(name))
    note_what_follows(store, name)
    answer(as_json, {"name": name, "removed": True}, f"{name} was removed")


def note_what_follows(store: users.Store, name: str) -> None:
    """Say who or what can't work, or still can log in, now that this user can't."""
    if name == users.TRAINER:
        note(
            "./stack train and ./stack up log in as trainer, and will fail: "
            "./stack user enable trainer, or ./stack secrets rotate trainer_password if it was removed"
        )
    if name == users.SERVING:
        note(
            "what is served stays as it is, new versions are not fetched: "
            "./stack user enable serving, or ./stack secrets rotate serving_password if it was removed"
        )
    left = [user.name for user in store.list_all() if user.name.startswith(f"{name}-") and user.expires]
    if left:
        note(f"accounts that may be {name}'s services still log in: {', '.join(left)}")


@app.command("import")
def add_team(
    file: Annotated[str, typer.Argument(help="CSV file with the columns name,role[,expires], - for stdin")],
    as_json: Json = False,
) -> None:
    """Add a whole team, or nobody; prints names and passwords as CSV, once."""
    if file != "-":
        raise FaultError(f"{file!r}: ./stack hands a file over on standard input: write -")
    content = sys.stdin.buffer.read()
    store = open_store()
    members = team.read_team(content, {user.name for user in store.list_all()})
    made = store.add_all([(member.name, users.make_password(), member.role, member.expires) for member in members])
    if as_json:
        print(json.dumps([{"name": name, "password": password} for name, password in made]))
        return
    print(f"{len(made)} users were added; their passwords are shown this once", file=sys.stderr)
    print("name,password")
    for name, password in made:
        print(f"{name},{password}")


@tokens.command("add")
def add_token(
    name: Name,
    service: Annotated[str, typer.Option("--for", help="what the account is for; it is called NAME-SERVICE")],
    expires: Annotated[str, typer.Option(help="when the login ends: 90d, 2026-12-31, 2026-12-31T18:00:00Z (UTC)")],
    role: Annotated[str | None, typer.Option(help="default: the role of NAME")] = None,
    as_json: Json = False,
) -> None:
    """Add an account for a service of NAME's; prints its password, once."""
    account = users.check_name(f"{name}-{service}")
    end = moments.read_expiry(expires)
    if role is not None:
        users.check_role(role)
    store = open_store()
    owner = store.find(name)
    if role is None:
        if owner.role in (None, roles.ADMIN):
            raise FaultError(
                f"{name}'s role is {owner.role or 'none of the stack'}: choose the service's own with --role"
            )
        role = owner.role
    password = users.make_password()
    store.add(account, password, role, end)
    value = {"name": account, "role": role, "expires": moments.write(end)}
    answer_password(as_json, value, f"{account} was added as {role}{describe_end(end)}", password, was_made=True)
