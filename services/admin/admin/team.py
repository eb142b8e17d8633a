"""A team as a CSV file: name,role and, if wanted, expires."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from admin import moments, users
from admin.faults import FaultError

COLUMNS = ["name", "role", "expires"]


@dataclass(frozen=True)
class Member:
    """One row.

    Attributes:
        name: of the user to be.
        role: one of the stack's.
        expires: when the login ends, or None.
    """

    name: str
    role: str
    expires: datetime | None


def read_team(content: bytes, present: set[str]) -> list[Member]:
    """Return the rows. Raises FaultError with a line for every fault, names that are `present` already included."""
    team: list[Member] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for line, (name, role, expires) in read_rows(content, faults):
        try:
            team.append(read_member(name, role, expires))
        except FaultError as fault:
            faults += [f"line {line}: {text}" for text in str(fault).splitlines()]
        if name in seen:
            faults.append(f"line {line}: {name!r} stands in line {seen[name]} already")
        elif name in present:
            faults.append(f"line {line}: there is a user {name!r} already")
        seen.setdefault(name, line)
    if not team and not faults:
        faults.append("no row: write a line for each user below name,role,expires")
    if faults:
        raise FaultError("\n".join([*faults, "nobody was added"]))
    return team


def read_rows(content: bytes, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and the three fields of each row; what is no such row becomes a line of `faults`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(f"line {content.count(b'\n', 0, error.start) + 1}: not UTF-8 text: save the file as CSV UTF-8")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if header not in (COLUMNS, COLUMNS[:2]):
            shown = ",".join(header)[:80]
            faults.append(f"line 1: the columns are {shown!r}: write {','.join(COLUMNS)} (expires may be left out)")
            return
        for row in reader:
            if len(row) == len(header):
                yield reader.line_num, [*row, ""][: len(COLUMNS)]
            elif row:
                faults.append(f"line {reader.line_num}: {len(row)} fields: there are {len(header)} columns")
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")


def read_member(name: str, role: str, expires: str) -> Member:
    """Return one row. Raises FaultError with a line for each field that is unfit."""
    faults: list[str] = []
    moment = None
    for check, value in ((users.check_name, name), (users.check_role, role)):
        try:
            check(value)
        except FaultError as fault:
            faults.append(str(fault))
    try:
        moment = moments.read_expiry(expires) if expires else None
    except FaultError as fault:
        faults.append(str(fault))
    if faults:
        raise FaultError("\n".join(faults))
    return Member(name, role, moment)
