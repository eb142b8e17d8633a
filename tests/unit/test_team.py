"""A team's CSV file: every fault with its line."""

from __future__ import annotations

import pytest

from admin import team
from admin.faults import FaultError


def faults_of(content: bytes, *present: str) -> list[str]:
    with pytest.raises(FaultError) as caught:
        team.read_team(content, set(present))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "content",
    [
        b"name,role\nann,editor\nbob,viewer\n",
        b"name,role,expires\nann,editor,\nbob,viewer,\n",
        b"\xef\xbb\xbfname,role\r\nann,editor\r\n\r\nbob,viewer",
        b'name,role\n"ann","editor"\nbob,viewer\n\n',
    ],
)
def test_a_team_is_read(content: bytes) -> None:
    assert [(member.name, member.role, member.expires) for member in team.read_team(content, {"carol"})] == [
        ("ann", "editor", None),
        ("bob", "viewer", None),
    ]


def test_an_expiry_is_read() -> None:
    (member,) = team.read_team(b"name,role,expires\nann,editor,2999-12-31\n", set())
    assert member.expires is not None
    assert member.expires.isoformat() == "2999-12-31T00:00:00+00:00"


def test_every_fault_of_every_row_is_named() -> None:
    content = (
        b"name,role,expires\n"
        b"ann,editor,\n"
        b"b:ob,edtor,2020-01-01\n"
        b"\n"
        b"ann,viewer,\n"
        b"carol,viewer\n"
        b"dave,,soon\n"
        b" eve,viewer,\n"
        b"fred,viewer,\n"
    )
    assert faults_of(content, "fred", "unused") == [
        "line 3: name 'b:ob' is unfit: use A-Z a-z 0-9 . _ @ -, beginning with a letter or digit",
        "line 3: there is no role 'edtor': choose viewer, editor, promoter, admin",
        "line 3: expiry '2020-01-01' is past: choose a moment to come",
        "line 5: 'ann' stands in line 2 already",
        "line 6: 2 fields: there are 3 columns",
        "line 7: there is no role '': choose viewer, editor, promoter, admin",
        "line 7: expiry 'soon' is no moment: write 90d, 12h, 2026-12-31 or 2026-12-31T18:00:00Z",
        "line 8: name ' eve' is unfit: use A-Z a-z 0-9 . _ @ -, beginning with a letter or digit",
        "line 9: there is a user 'fred' already",
        "nobody was added",
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "line 1: the columns are ''"),
        (b"name;role\nann;editor\n", "line 1: the columns are 'name;role'"),
        (b"ann,editor\n", "line 1: the columns are 'ann,editor'"),
        (b"name,role,password\nann,editor,x\n", "line 1: the columns are 'name,role,password'"),
        (b"name,role\n", "no row"),
        (b"name,role\n\xff,editor\n", "line 2: not UTF-8"),
        (b"PK\x03\x04\xff\n", "line 1: not UTF-8"),
        (b'name,role\n"ann,editor\n', "line 2: unexpected end of data"),
        (b'name,role\n"ann"x,editor\n', "line 2: ',' expected"),
        (b"name,role\na\x00n,editor\n", "line 2: name 'a\\x00n' is unfit"),
    ],
)
def test_a_file_that_is_no_team_is_refused(content: bytes, fault: str) -> None:
    found = faults_of(content)
    assert found[0].startswith(fault)
    assert found[-1] == "nobody was added"
