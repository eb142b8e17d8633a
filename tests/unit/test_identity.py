"""Reading HTTP Basic credentials (RFC 7617)."""

from __future__ import annotations

import base64

import pytest

from tracking.identity import read_basic


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
