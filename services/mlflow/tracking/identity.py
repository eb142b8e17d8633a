"""Who is asking: MLflow's own user store, asked often and hashed seldom.

To check a password costs scrypt (about 95 ms), to read the stored hash a millisecond. So a login that was right is
remembered together with the hash that it was right for, and the hash is read again every two seconds: a removed,
disabled or changed account ends within that time on every worker, and scrypt runs again only for a hash that is new.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy
from cachetools import LRUCache
from starlette.types import Scope

from tracking import roles
from tracking.throttle import Throttle

Credentials = tuple[str, str]

REREAD_SECONDS = 2.0
NEVER = float("-inf")
MAX_REMEMBERED = 10_000  # accounts, and answers of scrypt
# A wrong login is answered no sooner: what was done for it, for whom, is over by then, and its time tells nothing.
SECONDS_FOR_WRONG = 0.3
MAX_WAITING = 16  # logins that wait for scrypt; more are told to come again, so that nobody waits for long
ACCOUNT = sqlalchemy.text("""
    SELECT users.password_hash, users.is_admin,
        array_remove(array_agg(DISTINCT roles.name), NULL),
        array_remove(array_agg(DISTINCT grants.resource_type)
            FILTER (WHERE grants.resource_pattern = '*' AND grants.permission IN ('EDIT', 'MANAGE')), NULL),
        jsonb_agg(DISTINCT jsonb_build_array(grants.resource_type, grants.resource_pattern, grants.permission))
            FILTER (WHERE roles.workspace = :workspace AND grants.id IS NOT NULL)
    FROM users
    LEFT JOIN user_role_assignments AS assigned ON assigned.user_id = users.id
    LEFT JOIN roles ON roles.id = assigned.role_id
    LEFT JOIN role_permissions AS grants ON grants.role_id = roles.id
    WHERE users.username = :name
    GROUP BY users.id
""")


class Grant(NamedTuple):
    """A permission of a role, as mlflow.server.auth.requirements reads it."""

    resource_type: str
    resource_pattern: str
    permission: str


@dataclass(frozen=True)
class Account:
    """What the user store says of a user.

    Attributes:
        password_hash: as werkzeug writes it.
        is_admin: MLflow's flag.
        roles: names of the roles that the user has.
        edits: resource types of which these roles may edit all.
        grants: all that these roles allow or deny.
    """

    password_hash: str
    is_admin: bool
    roles: frozenset[str]
    edits: frozenset[str]
    grants: tuple[Grant, ...] = ()

    def may_log_in(self, now: datetime) -> bool:
        """Return whether the account is neither disabled nor expired."""
        end = roles.find_expiry(self.roles)
        return roles.DISABLED not in self.roles and (end is None or now < end)


@dataclass(frozen=True)
class Checked:
    """What scrypt said of a password; it holds as long as the stored hash is the same.

    That it was wrong is remembered too: a script with an old password, which asks again and again, is no guesser.

    Attributes:
        is_right: what it said.
        password_hash: that the account had, None for no such user.
    """

    is_right: bool
    password_hash: str | None


@dataclass(frozen=True)
class Verdict:
    """The answer to a login.

    Attributes:
        known: whether it is right.
        wait: seconds after which to try again, if it was not looked at.
    """

    known: bool
    wait: int = 0


def read_basic(scope: Scope) -> Credentials | None:
    """Return (user name, password) of the request's HTTP Basic header (RFC 7617, UTF-8), or None."""
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(headers) != 1:
        return None
    scheme, _, encoded = headers[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (username, password) if colon and "\0" not in username else None


def read_account(name: str) -> Account | None:
    """Return the user's account, or None. Raises SQLAlchemyError."""
    from mlflow.server.auth import store

    with store.engine.connect() as connection:
        row = connection.execute(ACCOUNT, {"name": name, "workspace": roles.WORKSPACE}).one_or_none()
    if row is None:
        return None
    grants = tuple(sorted(Grant(*grant) for grant in row[4] or ()))
    return Account(row[0], bool(row[1]), frozenset(row[2] or ()), frozenset(row[3] or ()), grants)


def find_hash(account: Account | None) -> str | None:
    """Return the stored hash, None for no such user."""
    return account.password_hash if account is not None else None


def may_log_in(account: Account | None) -> bool:
    """Return whether there is such an account, and it may log in now."""
    return account is not None and account.may_log_in(datetime.now(UTC))


def make_decoy() -> str:
    """Return a hash that no password fits, as costly to check as a real one."""
    from werkzeug.security import generate_password_hash

    return generate_password_hash(secrets.token_hex())


def check_password(credentials: Credentials, password_hash: str) -> bool | None:
    """Return whether this is the password of the hash, by the same steps whoever's it is.

    A right one is shown to MLflow too, which hashes it again and then remembers it. None: MLflow has another opinion.
    It says the same where the account is gone by now and where it lost its database in between: nothing is known.
    """
    from mlflow.server.auth import _authenticate_cached
    from werkzeug.security import check_password_hash

    if not check_password_hash(password_hash, credentials[1]):
        return False
    return True if _authenticate_cached(*credentials) is not None else None


def forget_in_mlflow(name: str) -> None:
    """Drop what MLflow remembers of a user: its own cache would go on for auth_cache_ttl_seconds."""
    from mlflow.server.auth import _invalidate_user_auth_cache

    _invalidate_user_auth_cache(name)


def be_nice() -> None:
    """Let other threads go first (on Linux nice values are a thread's own)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


@dataclass
class Identity:
    """What one worker knows of its users; made after the fork, used by its event loop."""

    throttle: Throttle = field(default_factory=Throttle)
    accounts: LRUCache[str, tuple[Account | None, float]] = field(default_factory=lambda: LRUCache(MAX_REMEMBERED))
    checked: LRUCache[tuple[str, bytes], Checked] = field(default_factory=lambda: LRUCache(MAX_REMEMBERED))
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    decoy: str = field(default_factory=make_decoy)
    seconds_for_wrong: float = SECONDS_FOR_WRONG
    asked: dict[tuple[str, bytes], asyncio.Future[Checked | None]] = field(default_factory=dict)
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "account"))
    hasher: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "scrypt", be_nice))

    async def check(self, credentials: Credentials, address: str) -> Verdict:
        """Return whether the login is right. Raises SQLAlchemyError, MlflowException if the store can't be asked."""
        name, password = credentials
        digest = hmac.new(self.key, password.encode(), hashlib.sha256).digest()
        if (checked := self.checked.get((name, digest))) is not None:
            account = await self.read(name)
            if find_hash(account) == checked.password_hash:
                return Verdict(known=checked.is_right and may_log_in(account))
        if wait := self.throttle.find_wait(name, address, time.monotonic()):
            return Verdict(known=False, wait=wait)
        started = time.monotonic()
        # Clients of one user come back together after a restart, say: what one waits for is the others' answer too.
        question = self.asked.get((name, digest))
        if is_first := question is None:
            if len(self.asked) >= MAX_WAITING:
                return Verdict(known=False, wait=1)
            question = self.asked[name, digest] = asyncio.ensure_future(self.ask(credentials, digest))
            question.add_done_callback(lambda _: self.asked.pop((name, digest)))
        checked = await asyncio.shield(question)
        if checked is None:
            return Verdict(known=False, wait=1)
        if not checked.is_right:
            now = time.monotonic()
            if is_first:
                self.throttle.count_failure(name, address, now)
            await asyncio.sleep(started + self.seconds_for_wrong - now)
        return Verdict(known=checked.is_right and may_log_in(await self.read(name)))

    async def ask(self, credentials: Credentials, digest: bytes) -> Checked | None:
        """Ask scrypt, and remember the answer. Raises as `check`.

        None if there is nothing to remember: the stored hash is another by then, or MLflow has another opinion.
        """
        name, _ = credentials
        before = await self.read(name, fresh=True)
        # (an unknown user costs as much as a wrong password)
        password_hash = find_hash(before) or self.decoy
        is_right = await self.run(self.hasher, lambda: check_password(credentials, password_hash))
        after = await self.read(name, fresh=True)
        if is_right is None or find_hash(after) != find_hash(before):
            return None
        checked = self.checked[name, digest] = Checked(is_right, find_hash(after))
        return checked

    async def read(self, name: str, *, fresh: bool = False) -> Account | None:
        """Return the account as it was at most REREAD_SECONDS ago; `fresh`: as it is."""
        known, since = self.accounts.get(name, (None, NEVER))
        now = time.monotonic()
        if not fresh and now - since < REREAD_SECONDS:
            return known
        if since != NEVER:
            self.accounts[name] = (known, now)  # requests that come meanwhile need not ask too
        try:
            account = await self.run(self.readers, lambda: read_account(name))
        except Exception:
            self.accounts[name] = (known, NEVER)
            raise
        if known is not None and account != known:
            forget_in_mlflow(name)
        self.accounts[name] = (account, now)
        return account

    def find_account(self, name: str) -> Account:
        """Return the account of a user whose request is being answered. Raises KeyError for anybody else."""
        account, _ = self.accounts[name]
        if account is None:
            raise KeyError(name)
        return account

    @staticmethod
    async def run[T](executor: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        """Run `function` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(executor, function)
