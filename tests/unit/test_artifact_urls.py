"""Tokens of clients' URLs, and bytes whose length nobody said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from itsdangerous import URLSafeSerializer

from tracking import artifacts

PLACE: dict[str, Any] = {"Bucket": "b", "Key": "0/run/artifacts/ä #?%.txt"}
URLS = artifacts.ClientUrls(URLSafeSerializer("k" * 43, salt="artifact url"), 300)


def make(operation: str = "get_object", seconds: int = 60, urls: artifacts.ClientUrls = URLS) -> str:
    """Return the token of a URL."""
    url = urls.make("https://mlflow.example.org:8443/", operation, PLACE, seconds)
    base, _, token = url.rpartition("/")
    assert base == "https://mlflow.example.org:8443/signed"
    return token


@pytest.mark.parametrize(
    ("operation", "methods"), [("get_object", ["GET", "HEAD"]), ("put_object", ["PUT"]), ("upload_part", ["PUT"])]
)
def test_a_token_is_for_one_object_and_its_operations_methods(operation: str, methods: list[str]) -> None:
    token = make(operation)
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
        if method in methods:
            assert URLS.read(token, method) == (operation, PLACE)
        else:
            with pytest.raises(artifacts.TokenError, match=f"not for {method}"):
                URLS.read(token, method)


def test_a_token_of_somebody_elses_is_refused() -> None:
    for secret, salt in (("x" * 43, "artifact url"), ("k" * 43, "cookie-session")):
        other = artifacts.ClientUrls(URLSafeSerializer(secret, salt=salt), 300)
        with pytest.raises(artifacts.TokenError, match="not signed"):
            URLS.read(make(urls=other), "GET")
    for token in ("", ".", "x", "x.y", make()[:-1], "." + make(), make() + ".x"):
        with pytest.raises(artifacts.TokenError, match="not signed"):
            URLS.read(token, "GET")


@pytest.mark.parametrize(("operation", "asked", "given"), [
    ("get_object", 60, 60), ("get_object", 99999, 300), ("upload_part", 99999, 3600), ("put_object", 99999, 300),
])  # fmt: skip
def test_a_token_ends(monkeypatch: pytest.MonkeyPatch, operation: str, asked: int, given: int) -> None:
    token, method = make(operation, asked), artifacts.METHODS[operation][0]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + given - 2)
    assert URLS.read(token, method)
    monkeypatch.setattr(time, "time", lambda: now + given)
    with pytest.raises(artifacts.TokenError, match="time is over"):
        URLS.read(token, method)


def test_the_store_is_asked_by_its_own_name_and_a_head_as_such() -> None:
    client = boto3.client("s3", endpoint_url="http://objectstore:9000", region_name="us-east-1",
                          aws_access_key_id="x", aws_secret_access_key="y")  # fmt: skip
    urls = {method: artifacts.sign(client, "get_object", PLACE, method) for method in ("GET", "HEAD")}
    assert all(
        url.startswith("http://objectstore:9000/b/0/run/artifacts/%C3%A4%20%23%3F%25.txt?") for url in urls.values()
    )
    assert len({url.rpartition("X-Amz-Signature=")[2] for url in urls.values()}) == 2


@pytest.mark.parametrize(("operation", "seconds"), [("get_object", 86_400), ("put_object", 60)])
def test_a_slow_download_is_not_cut_by_the_stores_clock(operation: str, seconds: int) -> None:
    client = boto3.client(
        "s3",
        endpoint_url="http://objectstore:9000",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=Config(signature_version="s3v4"),
    )
    method = artifacts.METHODS[operation][0]
    assert f"X-Amz-Expires={seconds}&" in artifacts.sign(client, operation, PLACE, method)


async def give(*chunks: bytes, fault: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk
    if fault:
        raise fault


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, -1])
def test_a_reader_gives_what_came_in_pieces_of_any_size(size: int) -> None:
    async def read_all() -> list[bytes]:
        reader = artifacts.Reader(give(b"abc", b"", b"defgh", b"i"))

        def read() -> list[bytes]:
            return list(iter(lambda: reader.read(size), b""))

        return await asyncio.to_thread(read)

    pieces = asyncio.run(read_all())
    assert b"".join(pieces) == b"abcdefghi"
    assert all(len(piece) == size for piece in pieces[:-1])
    assert size > 0 or len(pieces) == 1


def test_a_client_that_goes_away_is_no_end_of_a_file() -> None:
    async def read_all() -> bytes:
        reader = artifacts.Reader(give(b"abc", fault=ConnectionError("gone")))
        return await asyncio.to_thread(lambda: reader.read(10))

    with pytest.raises(ConnectionError):
        asyncio.run(read_all())
