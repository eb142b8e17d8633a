"""What the stack asks of an S3 store, of whichever is there: the stack's own, and one that somebody else runs."""

from __future__ import annotations

import base64
import configparser
import hashlib
import re
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
import requests
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError

from stack.deployment import Deployment
from stack.external import External
from tracking import artifacts
from tracking.reading import SLICE, ChangedError, Reader

MIB = 2**20
NAMES = {
    "plain": "file.txt",
    "spaces": "a  b .txt",
    "leading and trailing space": " c ",
    "plus": "a+b.txt",
    "percent": "100%25 %zz.txt",
    "hash and question": "a#b?c=d&e.txt",
    "quotes": 'it\'s "so".txt',
    "brackets": "x[1]{2}(3)<4>.txt",
    "rest of ASCII": "~!@$^*_=;:,|`.txt",
    "NFC": unicodedata.normalize("NFC", "Grüße é.txt"),
    "NFD": unicodedata.normalize("NFD", "Grüße é.txt"),
    "beyond the BMP": "🙂 日本.txt",
    "leading dots": ".hidden/..data/...",
    "name of 255 bytes": "n" * 255,
    "900 bytes": "/".join(["k" * 179] * 5),
}


@dataclass(frozen=True)
class Contract:
    """A store as MLflow's account sees it, and as its owner does."""

    client: BaseClient
    owner: BaseClient
    stranger: BaseClient
    bucket: str
    verify: str | bool
    prefix: str

    def place(self, name: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}"}

    def sign(self, operation: str, method: str, name: str, **more: Any) -> str:
        """Sign as MLflow's process does for the gateway."""
        return artifacts.sign(self.client, operation, {**self.place(name), **more}, method)

    def ask(self, method: str, url: str, data: bytes | None = None, **headers: str) -> requests.Response:
        """Send as the gateway does: with few headers."""
        fields = {"Accept-Encoding": "", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return requests.request(method, url, data=data, headers=fields, verify=self.verify, timeout=90)

    def put(self, name: str, content: bytes, **headers: str) -> requests.Response:
        return self.ask("PUT", self.sign("put_object", "PUT", name), content, **headers)

    def get(self, name: str, **headers: str) -> requests.Response:
        return self.ask("GET", self.sign("get_object", "GET", name), None, **headers)

    def exists(self, name: str) -> bool:
        try:
            self.client.head_object(**self.place(name))
        except ClientError:
            return False
        return True


def read_own_keys(stack: Deployment, name: str) -> tuple[str, str]:
    command = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "bucket", f"/run/secrets/{name}")
    parser = configparser.ConfigParser()
    parser.read_string(stack.compose(*command))
    return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]


def connect_own(stack: Deployment, keys: tuple[str, str]) -> BaseClient:
    """Return a client for the store in the closed network, which this machine's host can reach."""
    networks = stack.container("objectstore")["NetworkSettings"]["Networks"]
    address = networks[f"{stack.name}_store"]["IPAddress"]
    return boto3.client(
        "s3",
        endpoint_url=f"http://{address}:9000",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


@pytest.fixture(scope="module", params=["own", "external"])
def store(request: pytest.FixtureRequest) -> Iterator[Contract]:
    prefix = f"contract {uuid.uuid4().hex}"
    if request.param == "own":
        stack: Deployment = request.getfixturevalue("stack")
        account = read_own_keys(stack, "client_credentials")
        yield Contract(
            connect_own(stack, account),
            connect_own(stack, read_own_keys(stack, "root_credentials")),
            connect_own(stack, (account[0], "x" * 43)),
            "mlflow-artifacts",
            True,
            prefix,
        )
    else:
        external: External = request.getfixturevalue("external")
        owner = external.connect(external.root)
        external.make_bucket()
        yield Contract(
            external.connect(external.limited),
            owner,
            external.connect(external.stranger),
            external.bucket,
            str(external.authority),
            prefix,
        )


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_an_object_of_any_name_comes_back_by_signed_urls(store: Contract, name: str) -> None:
    content = name.encode() * 3
    assert store.put(name, content).status_code == 200
    answer = store.get(name)
    assert (answer.status_code, answer.content) == (200, content)
    listed = store.client.list_objects_v2(Bucket=store.bucket, Prefix=store.place(name)["Key"])
    assert [item["Key"] for item in listed["Contents"]] == [store.place(name)["Key"]]


def test_names_that_look_alike_are_different_objects(store: Contract) -> None:
    assert store.put(f"alike/{NAMES['NFC']}", b"composed").status_code == 200
    assert store.put(f"alike/{NAMES['NFD']}", b"decomposed").status_code == 200
    assert store.get(f"alike/{NAMES['NFC']}").content == b"composed"
    assert store.get(f"alike/{NAMES['NFD']}").content == b"decomposed"


def test_a_file_may_have_the_name_of_a_folder(store: Contract) -> None:
    assert store.put("k", b"file").status_code == 200
    assert store.put("k/sub", b"below").status_code == 200
    assert [store.get(name).content for name in ("k", "k/sub")] == [b"file", b"below"]


@pytest.mark.parametrize("size", [0, 1, SLICE, SLICE + 1, 2 * SLICE])
def test_an_object_is_read_in_slices(store: Contract, size: int) -> None:
    content, place = (b"0123456789abcde" * (size // 15 + 1))[:size], store.place(f"sliced {size}")
    store.client.put_object(**place, Body=content, ContentType="text/csv")
    with Reader(store.client, **place) as reader:
        assert (reader.size, reader.answer["ContentType"]) == (size, "text/csv")
        assert b"".join(reader.iter_chunks(10 * MIB)) == content


def test_what_is_replaced_between_two_slices_is_not_mixed(store: Contract) -> None:
    place = store.place("replaced")
    store.client.put_object(**place, Body=b"a" * (SLICE + 1))
    with Reader(store.client, **place) as reader:
        assert reader.read(SLICE) == b"a" * SLICE
        store.client.put_object(**place, Body=b"b" * (SLICE + 1))
        with pytest.raises(ChangedError, match="was replaced while it was read"):
            reader.read(1)


@pytest.mark.parametrize("ended_by", ["another", "a marker"])
def test_a_version_is_read_in_slices_whatever_came_after_it(store: Contract, ended_by: str) -> None:
    place = store.place(f"ended by {ended_by}")
    client = store.owner
    if client.get_bucket_versioning(Bucket=store.bucket).get("Status") != "Enabled":
        client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    version = client.put_object(**place, Body=b"a" * (SLICE + 1))["VersionId"]
    if ended_by == "another":
        client.put_object(**place, Body=b"b" * (SLICE + 1))
    else:
        client.delete_object(**place)
    with Reader(client, **place, VersionId=version) as reader:
        assert b"".join(reader.iter_chunks(10 * MIB)) == b"a" * (SLICE + 1)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1, 5 * MIB + 1])
def test_sizes(store: Contract, size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    name = f"size {size}"
    assert store.put(name, content, Content_Type="text/csv").status_code == 200
    answer = store.get(name)
    assert (answer.status_code, len(answer.content)) == (200, size)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(content).digest()
    assert answer.headers["Content-Length"] == str(size)
    head = store.ask("HEAD", store.sign("get_object", "HEAD", name))
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(size))
    assert head.headers["Content-Type"].startswith("text/csv")
    assert head.headers["ETag"] == answer.headers["ETag"]


def test_a_download_is_described_by_its_url(store: Contract) -> None:
    store.put("described.html", b"<script>", Content_Type="text/html")
    described = artifacts.describe_download("é.html")
    answer = store.ask("GET", store.sign("get_object", "GET", "described.html", **described))
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == described["ResponseContentDisposition"]
    assert answer.headers["Content-Type"] == described["ResponseContentType"]


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=3-5", 206, b"345"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-2", 206, b"89"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=10-", 416, None),
    ],
)
def test_ranges(store: Contract, asked: str, status: int, expected: bytes | None) -> None:
    store.put("digits", b"0123456789")
    answer = store.get("digits", Range=asked)
    assert answer.status_code == status
    if expected is not None:
        assert answer.content == expected
        assert answer.headers["Content-Range"].endswith("/10")


def test_conditions(store: Contract) -> None:
    store.put("conditions", b"one")
    tag = store.get("conditions").headers["ETag"]
    assert store.get("conditions", If_None_Match=tag).status_code == 304
    assert store.get("conditions", If_Match='"0123456789abcdef0123456789abcdef"').status_code == 412
    assert store.get("conditions", If_Match=tag).status_code == 200


def flip(url: str) -> str:
    """Change the last digit of the signature."""
    return url[:-1] + ("0" if url[-1] != "0" else "1")


OPERATIONS = {"GET": "get_object", "PUT": "put_object"}
OTHERS = {"GET": "PUT", "PUT": "GET"}
# What a request is sent with, to read or to change the object "secret".
REFUSED: dict[str, Callable[[Contract, str], str]] = {
    "no signature": lambda store, method: store.sign(OPERATIONS[method], method, "secret").partition("?")[0],
    "forged": lambda store, method: flip(store.sign(OPERATIONS[method], method, "secret")),
    "for another key": lambda store, method: store.sign(OPERATIONS[method], method, "other").replace(
        "/other?", "/secret?"
    ),
    "for another verb": lambda store, method: store.sign(OPERATIONS[OTHERS[method]], OTHERS[method], "secret"),
    "of somebody who may not": lambda store, method: artifacts.sign(
        store.stranger, OPERATIONS[method], store.place("secret"), method
    ),
    "for longer": lambda store, method: re.sub(
        r"X-Amz-Expires=\d+", "X-Amz-Expires=99999", store.sign(OPERATIONS[method], method, "secret")
    ),
}


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("how", REFUSED)
def test_what_is_not_signed_for_this_is_refused(store: Contract, how: str, method: str) -> None:
    store.client.put_object(**store.place("secret"), Body=b"the bytes")
    store.client.put_object(**store.place("other"), Body=b"other")
    answer = store.ask(method, REFUSED[how](store, method), b"changed" if method == "PUT" else None)
    assert answer.status_code == 403
    assert b"secret" not in answer.content.replace(b"/secret", b"").replace(b"SecretAccessKey", b"").replace(
        b"secret</", b""
    )
    assert store.get("secret").content == b"the bytes"


@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_a_url_is_for_no_other_verb(store: Contract, method: str) -> None:
    store.client.put_object(**store.place("kept"), Body=b"kept")
    for operation, signed in (("get_object", "GET"), ("put_object", "PUT")):
        answer = store.ask(method, store.sign(operation, signed, "kept"))
        assert 400 <= answer.status_code < 500
    assert store.get("kept").content == b"kept"


def test_a_url_ends(store: Contract) -> None:
    store.client.put_object(**store.place("short"), Body=b"short")
    urls = {
        method: store.client.generate_presigned_url(operation, Params=store.place("short"), ExpiresIn=6)
        for method, operation in (("GET", "get_object"), ("PUT", "put_object"))
    }
    assert store.ask("GET", urls["GET"]).status_code == 200
    time.sleep(7.5)
    assert store.ask("GET", urls["GET"]).status_code == 403
    assert store.ask("PUT", urls["PUT"], b"late").status_code == 403
    assert store.get("short").content == b"short"


def test_the_account_reaches_its_bucket_only(store: Contract) -> None:
    other = f"other-{uuid.uuid4().hex[:8]}"
    store.owner.create_bucket(Bucket=other)
    store.owner.put_object(Bucket=other, Key="k", Body=b"theirs")
    try:
        for attempt in (
            lambda: store.client.get_object(Bucket=other, Key="k"),
            lambda: store.client.put_object(Bucket=other, Key="k", Body=b"mine"),
            lambda: store.client.list_objects_v2(Bucket=other),
            lambda: store.client.create_bucket(Bucket=f"{other}-2"),
            lambda: store.client.delete_bucket(Bucket=store.bucket),
            lambda: store.client.put_bucket_versioning(
                Bucket=store.bucket, VersioningConfiguration={"Status": "Suspended"}
            ),
        ):
            with pytest.raises(ClientError) as refusal:
                attempt()
            assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        copied = {"Bucket": other, "Key": "k"}
        with pytest.raises(ClientError):
            store.client.copy_object(**store.place("copied"), CopySource=copied)
        assert not store.exists("copied")
        assert store.owner.get_object(Bucket=other, Key="k")["Body"].read() == b"theirs"
    finally:
        store.owner.delete_object(Bucket=other, Key="k")
        store.owner.delete_bucket(Bucket=other)


def begin(store: Contract, name: str) -> str:
    upload: str = store.client.create_multipart_upload(**store.place(name))["UploadId"]
    return upload


def send_part(store: Contract, name: str, upload: str, number: int, content: bytes) -> requests.Response:
    url = store.sign("upload_part", "PUT", name, UploadId=upload, PartNumber=number)
    return store.ask("PUT", url, content)


def test_an_upload_in_parts_is_whole_or_not_there(store: Contract) -> None:
    parts = {1: b"1" * 5 * MIB, 2: b"2" * 5 * MIB, 3: b"3" * 7}
    upload = begin(store, "parts")
    tags = {}
    for number in (2, 3, 1):  # they come as they come
        answer = send_part(store, "parts", upload, number, parts[number])
        assert answer.status_code == 200
        tags[number] = answer.headers["ETag"]
    assert not store.exists("parts")
    listed = store.client.list_parts(**store.place("parts"), UploadId=upload)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [(n, len(parts[n])) for n in (1, 2, 3)]
    # A client sends a part again if it saw no answer. (SeaweedFS then lists both, and takes the one that is named.)
    again = send_part(store, "parts", upload, 2, parts[2])
    assert (again.status_code, again.headers["ETag"]) == (200, tags[2])
    done = [{"PartNumber": number, "ETag": tags[number]} for number in (1, 2, 3)]
    store.client.complete_multipart_upload(**store.place("parts"), UploadId=upload, MultipartUpload={"Parts": done})
    content = b"".join(parts.values())
    answer = store.get("parts")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(content).digest()
    assert store.get("parts", Range=f"bytes={5 * MIB - 1}-{5 * MIB}").content == b"12"


def test_an_upload_that_is_aborted_leaves_nothing(store: Contract) -> None:
    upload = begin(store, "aborted")
    assert send_part(store, "aborted", upload, 1, b"x" * MIB).status_code == 200

    def find_uploads() -> list[str]:
        listed = store.owner.list_multipart_uploads(Bucket=store.bucket, Prefix=store.place("aborted")["Key"])
        return [found["UploadId"] for found in listed.get("Uploads", [])]

    assert find_uploads() == [upload]
    store.client.abort_multipart_upload(**store.place("aborted"), UploadId=upload)
    assert find_uploads() == []
    assert not store.exists("aborted")
    assert send_part(store, "aborted", upload, 1, b"late").status_code == 404


def test_a_parts_url_is_for_its_number_and_upload(store: Contract) -> None:
    upload = begin(store, "numbered")
    url = store.sign("upload_part", "PUT", "numbered", UploadId=upload, PartNumber=1)
    assert store.ask("PUT", url.replace("partNumber=1", "partNumber=2"), b"x").status_code == 403
    assert store.ask("PUT", url.replace(upload, begin(store, "numbered")), b"x").status_code == 403
    assert store.ask("GET", url).status_code == 403
    assert "Parts" not in store.client.list_parts(**store.place("numbered"), UploadId=upload)


def test_parts_that_were_not_sent_are_not_completed(store: Contract) -> None:
    upload = begin(store, "incomplete")
    assert send_part(store, "incomplete", upload, 1, b"x" * 10).status_code == 200
    for parts in ([{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}], [{"PartNumber": 2, "ETag": '"' + "0" * 32 + '"'}]):
        with pytest.raises(ClientError) as refusal:
            store.client.complete_multipart_upload(
                **store.place("incomplete"), UploadId=upload, MultipartUpload={"Parts": parts}
            )
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert not store.exists("incomplete")


def digest(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def test_bytes_that_do_not_fit_their_checksum_are_refused(store: Contract) -> None:
    assert store.put("checked", b"right", Content_MD5=digest(b"right")).status_code == 200
    assert store.put("checked", b"wrong", Content_MD5=digest(b"right")).status_code == 400
    assert store.get("checked").content == b"right"
    assert store.put("unchecked", b"wrong", Content_MD5=digest(b"right")).status_code == 400
    assert not store.exists("unchecked")


def test_what_was_replaced_or_deleted_is_kept(store: Contract) -> None:
    for content in (b"first", b"second"):
        assert store.put("versions", content).status_code == 200
    store.client.delete_object(**store.place("versions"))
    assert store.get("versions").status_code == 404
    found = store.owner.list_object_versions(Bucket=store.bucket, Prefix=store.place("versions")["Key"])
    kept = [
        store.owner.get_object(**store.place("versions"), VersionId=version["VersionId"])["Body"].read()
        for version in found["Versions"]
    ]
    assert kept == [b"second", b"first"]
    [marker] = found["DeleteMarkers"]
    assert marker["IsLatest"]
    store.owner.delete_object(**store.place("versions"), VersionId=marker["VersionId"])
    assert store.get("versions").content == b"second"


def test_folders_are_listed_in_pages(store: Contract) -> None:
    names = {f"list/{folder}/{name}" for folder in ("a b", "ü", "z%") for name in ("1", "2+3", "#4")}
    for name in names | {"list/file"}:
        store.put(name, b"x")
    prefix = f"{store.prefix}/list/"
    top = store.client.list_objects_v2(Bucket=store.bucket, Prefix=prefix, Delimiter="/")
    assert {found["Prefix"].removeprefix(prefix) for found in top["CommonPrefixes"]} == {"a b/", "ü/", "z%/"}
    assert [found["Key"].removeprefix(prefix) for found in top["Contents"]] == ["file"]
    pages = store.client.get_paginator("list_objects_v2").paginate(
        Bucket=store.bucket, Prefix=prefix, PaginationConfig={"PageSize": 2}
    )
    keys = [found["Key"].removeprefix(f"{store.prefix}/") for page in pages for found in page.get("Contents", [])]
    assert len(keys) == len(set(keys))
    assert set(keys) == names | {"list/file"}
