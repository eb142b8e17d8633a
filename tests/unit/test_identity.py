"""Reading HTTP Basic credentials (RFC 7617), and how long a right login stays right."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tracking import identity
from tracking.identity import Account, Identity, Verdict, read_basic
from tracking.throttle import PER_USER_AND_ADDRESS


def scope(*values: bytes) -> dict[str, object]:
    return {"type": "http", "headers": [(b"host", b"x"), *((b"authorization", value) for value in values)]}


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize("text", ["admin:secret", "admin:with:colon", "ü:ö", ":", "admin:"])
def test_credentials_are_read(text: str) -> None:
    assert read_basic(scope(basic(text))) == tuple(text.split(":", 1))


@pytest.mark.parametrize(
    "value", [b"", b"Basic", b"Basic !!!", b"Bearer abc", b"Basic " + base64.b64encode(b"\xff:x"), basic("no colon")]
)
def test_anything_else_is_nobody(value: bytes) -> None:
    assert read_basic(scope(value)) is None


def test_two_headers_are_nobody() -> None:
    assert read_basic(scope(basic("a:b"), basic("c:d"))) is None


def test_no_header_is_nobody() -> None:
    assert read_basic(scope()) is None


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def account(*roles: str, password_hash: str = "hash", is_admin: bool = False) -> Account:
    return Account(password_hash, is_admin, frozenset(roles), frozenset())


@pytest.mark.parametrize(
    "roles", [(), ("editor",), ("expires-2026-06-01T12:00:01Z",), ("expires-2027-01-01T00:00:00Z",)]
)
def test_these_may_log_in(roles: tuple[str, ...]) -> None:
    assert account(*roles).may_log_in(NOW)


@pytest.mark.parametrize(
    "roles",
    [
        ("disabled",),
        ("editor", "disabled"),
        ("expires-2026-06-01T12:00:00Z",),
        ("expires-2027-01-01T00:00:00Z", "expires-2026-05-01T00:00:00Z"),
        ("expires-tomorrow",),
        ("expires-",),
    ],
)
def test_these_may_not(roles: tuple[str, ...]) -> None:
    assert not account(*roles).may_log_in(NOW)


class Store:
    """A user store whose answers a test changes, and which counts the questions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.accounts = {"carol": account("editor")}
        self.right = "right"
        self.is_agreed = True  # whether MLflow, asked too, says the same
        self.reads = self.hashes = 0
        self.forgotten: list[str] = []
        self.while_hashing: Callable[[], None] = lambda: None
        monkeypatch.setattr(identity, "read_account", self.read)
        monkeypatch.setattr(identity, "check_password", self.check)
        monkeypatch.setattr(identity, "forget_in_mlflow", self.forgotten.append)
        monkeypatch.setattr(identity, "be_nice", lambda: None)
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def read(self, name: str) -> Account | None:
        self.reads += 1
        return self.accounts.get(name)

    def check(self, credentials: tuple[str, str], password_hash: str) -> bool | None:
        self.hashes += 1
        stored = self.accounts.get(credentials[0])
        assert password_hash == (stored.password_hash if stored else "decoy")
        right = credentials[0] in self.accounts and credentials[1] == self.right
        self.while_hashing()
        return right if self.is_agreed else None


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def ask(known: Identity, password: str = "right", name: str = "carol") -> Verdict:
    return asyncio.run(known.check((name, password), "198.51.100.7"))


def test_a_right_login_is_hashed_once_and_read_every_two_seconds(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    for store.now in (0.0, 0.5, 1.9, 2.5, 3.0, 4.6):
        assert ask(known).known
    assert store.hashes == 1
    assert store.reads == 2 + 2  # before and after the hash; then at 2.5 and 4.6


def test_that_mlflow_lost_its_database_under_a_right_login_is_not_remembered(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    store.is_agreed = False
    assert ask(known) == Verdict(known=False, wait=1)
    store.is_agreed = True
    assert ask(known).known


@pytest.mark.parametrize(
    "changed",
    [
        None,
        account("editor", password_hash="new"),
        account("editor", "disabled"),
        account("expires-2020-01-01T00:00:00Z"),
    ],
)
def test_a_changed_account_ends_within_two_seconds(store: Store, changed: Account | None) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    assert ask(known).known
    if changed is None:
        del store.accounts["carol"]
    else:
        store.accounts["carol"] = changed
    store.right = "other"
    store.now = 2.0
    assert not ask(known).known
    assert store.forgotten == ["carol"]


def test_a_password_changed_while_it_is_checked_is_not_remembered(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    store.while_hashing = lambda: store.accounts.update(carol=account(password_hash="new"))
    assert not ask(known).known


def test_a_right_password_is_not_counted_as_a_guess_nor_stopped_by_others(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    assert ask(known).known
    for number in range(20):
        ask(known, f"wrong{number}")
    assert ask(known, "wrong again").wait > 0
    assert ask(known).known


def test_an_old_password_sent_again_and_again_is_one_guess(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    verdicts = [ask(known, "old") for _ in range(100)]
    assert verdicts == [Verdict(known=False)] * 100
    assert store.hashes == 1
    assert ask(known).known


def test_a_password_that_was_wrong_is_right_once_it_was_set(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    assert not ask(known, "next").known
    store.accounts["carol"] = account(password_hash="new")
    store.right = "next"
    store.now = 2.0
    assert ask(known, "next").known


def test_a_disabled_user_who_goes_on_asking_is_let_in_when_enabled(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    store.accounts["carol"] = account("editor", "disabled")
    assert [ask(known).known for _ in range(50)] == [False] * 50
    store.accounts["carol"] = account("editor")
    store.now = 2.0
    assert ask(known).known


def test_a_store_that_can_not_be_asked_lets_nobody_in(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    assert ask(known).known

    def fail(_name: str) -> Account | None:
        raise OSError("away")

    monkeypatch.setattr(identity, "read_account", fail)
    store.now = 2.0
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            ask(known)


def test_guesses_are_not_hashed_once_there_were_too_many(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    for number in range(50):
        ask(known, f"wrong{number}", "nobody")
    assert store.hashes == PER_USER_AND_ADDRESS.burst


def test_a_new_administrator_is_one_at_once_for_the_rules(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)
    ask(known)
    store.accounts["carol"] = account(is_admin=True)
    store.now = 2.0
    assert ask(known).known
    assert known.find_account("carol").is_admin


def test_guesses_that_come_together_are_not_all_hashed(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)

    async def guess_at_once() -> list[Verdict]:
        guesses = (known.check((f"user{n}", "wrong"), f"198.51.100.{n}") for n in range(100))
        return await asyncio.gather(*guesses)

    verdicts = asyncio.run(guess_at_once())
    assert store.hashes == identity.MAX_WAITING
    assert verdicts.count(Verdict(known=False, wait=1)) == 100 - identity.MAX_WAITING


def test_a_wrong_login_is_answered_no_sooner_whoever_it_is_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    known = Identity(decoy="decoy", seconds_for_wrong=0.3)
    store.while_hashing = lambda: setattr(store, "now", store.now + 0.1)
    for name, password in (("carol", "wrong"), ("nobody", "right"), ("carol", "right")):
        ask(known, password, name)
    assert slept == [pytest.approx(0.2), pytest.approx(0.2)]


def test_one_login_that_comes_many_times_at_once_is_hashed_once(store: Store) -> None:
    known = Identity(decoy="decoy", seconds_for_wrong=0)

    async def ask_at_once(password: str) -> set[Verdict]:
        asked = (known.check(("carol", password), "198.51.100.7") for _ in range(100))
        return set(await asyncio.gather(*asked))

    assert asyncio.run(ask_at_once("right")) == {Verdict(known=True)}
    assert asyncio.run(ask_at_once("wrong")) == {Verdict(known=False)}
    assert store.hashes == 2
    assert ask(known, "right").known
