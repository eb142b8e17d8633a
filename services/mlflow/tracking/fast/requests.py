"""What a handler gets, and how it reads it: strictly, since whatever is unusual is MLflow's to judge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec

from tracking.fast.database import Database
from tracking.fast.rights import Rights

# Names that mean one file only, in every version of MLflow's rule: no empty, dotted or absolute part (and ASCII).
NAME = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9_.: -]*(?:/[A-Za-z0-9_:-][A-Za-z0-9_.: -]*)*")
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
MAX_ID = 2**31 - 1
MAX_NAME = 250
MAX_TEXT = 8000
MAX_BIGINT = 2**63 - 1

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_BIGINT)]
Integer = Annotated[int, msgspec.Meta(ge=-MAX_BIGINT, le=MAX_BIGINT)]


class ReplayError(Exception):
    """This request is for MLflow's handler; nothing was written."""


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request: known fields under their own names, of their own types."""


class Pair(Message):
    """A parameter or tag of a request that has several."""

    key: str
    value: Text = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to be answered.

    Attributes:
        query: the query string.
        body: the whole body.
        rights: of the user who asks.
        database: MLflow's.
    """

    query: str
    body: bytes
    rights: Rights
    database: Database

    def read_query(self, *names: str) -> dict[str, str]:
        """Return the query's parameters, each given once and one of these. Raises ReplayError."""
        pairs = self.read_pairs()
        fields = dict(pairs)
        if not pairs or len(fields) != len(pairs) or not fields.keys() <= set(names):
            raise ReplayError
        return fields

    def read_pairs(self) -> list[tuple[str, str]]:
        """Return the query's parameters in turn. Raises ReplayError."""
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, strict_parsing=True, errors="strict")
        except ValueError:
            raise ReplayError from None
        if self.body or any("\0" in value for _, value in pairs):
            raise ReplayError
        return pairs

    def read_body[T: Message](self, kind: type[T]) -> T:
        """Return the body as a message of this kind. Raises ReplayError."""
        if self.query or b"\\u0000" in self.body:
            raise ReplayError
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ReplayError from None


def need(*conditions: bool) -> None:
    """Raise ReplayError unless all are true."""
    if not all(conditions):
        raise ReplayError


def need_run(run_id: str, run_uuid: str | msgspec.UnsetType) -> None:
    """Raise ReplayError unless a request names one run, by `run_id` or by both fields."""
    need(bool(run_id), run_uuid in (msgspec.UNSET, run_id))


def need_name(name: str) -> None:
    """Raise ReplayError unless this is a plain name of a metric, parameter or tag."""
    need(len(name) <= MAX_NAME, NAME.fullmatch(name) is not None)


def read_id(text: str) -> int:
    """Return the number of an experiment or version. Raises ReplayError unless it is written as MLflow does."""
    number = read_number(text)
    need(0 <= number <= MAX_ID)
    return number


def read_number(text: str) -> int:
    """Return a whole number. Raises ReplayError unless it is plainly written."""
    need(NUMBER.fullmatch(text) is not None)
    return int(text)
