"""Artifacts come back byte for byte: any size, any name, any client, by the one URL."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from mlflow import MlflowClient

from stack.deployment import Deployment
from stack.transfers import (
    ARTIFACTS,
    MIB,
    Place,
    begin_parts,
    begin_upload,
    digest_file,
    digest_folder,
    frame,
    list_names,
    make_blocks,
    make_bytes,
    write_file,
)

Login = tuple[str, str]
# MLflow's own settings: from which size on a client sends parts, and how large they are.
THRESHOLD, PART, PIECE = (
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE",
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE",
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE",
)
SMALL = (0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 17 * MIB + 7)
LARGE = (500 * MIB - 1, 500 * MIB, 500 * MIB + 1, 3_000_000_000)
OLD_CLIENT = "/opt/mlflow-2.22/bin/python"


def find_etag(stack: Deployment, admin: Login, path: str) -> str:
    answer = stack.ask(ARTIFACTS + quote(path), admin, "HEAD")
    assert answer.status_code == 200, (path, answer.status_code)
    return answer.headers["ETag"].strip('"')


# ------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["parts from 5 MiB on", "MLflow's own sizes"])
def test_a_file_of_any_size_comes_back_byte_for_byte(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak: bool, kind: str
) -> None:
    client, run = place.client, place.run
    sizes: tuple[int, ...] = LARGE if soak else (10 * MIB,)
    threshold, part = 500 * MIB, 10 * MIB
    if kind != "MLflow's own sizes":
        sizes, threshold, part = SMALL, 5 * MIB, 5 * MIB
        for name, value in ((THRESHOLD, threshold), (PART, part), (PIECE, 3 * MIB)):
            monkeypatch.setenv(name, str(value))
    for size in sizes:
        file = tmp_path / f"{size}.bin"
        digest = write_file(file, size)
        client.log_artifact(run, str(file), "sizes")
        # S3 marks what came in parts by their number.
        etag = find_etag(place.stack, place.login, f"{place.folder}/sizes/{file.name}")
        assert etag.partition("-")[2] == (str(math.ceil(size / part)) if size >= threshold else ""), size
        file.unlink()
        found = Path(client.download_artifacts(run, f"sizes/{file.name}", str(tmp_path)))
        assert (found.stat().st_size, digest_file(found)) == (size, digest), size
        found.unlink()
    listed = {item.path: item.file_size for item in client.list_artifacts(run, "sizes")}
    # (MLflow's answer leaves a size of 0 out, and its client says None)
    assert listed == {f"sizes/{size}.bin": size or None for size in sizes}


def test_a_client_fetches_in_pieces_what_is_more_than_one(place: Place, tmp_path: Path) -> None:
    """To a client a size means pieces, and those cost a small file more than its bytes."""
    told = {}
    for size in (1, 100 * MIB, 100 * MIB + 1):
        file = tmp_path / f"{size}.bin"
        digest = write_file(file, size)
        place.client.log_artifact(place.run, str(file), "pieces")
        file.unlink()
        signed = place.stack.ask(f"/api/2.0/mlflow-artifacts/presigned/{place.folder}/pieces/{file.name}", place.login)
        told[size] = signed.json().get("file_size")
        found = Path(place.client.download_artifacts(place.run, f"pieces/{file.name}", str(tmp_path)))
        assert digest_file(found) == digest
        found.unlink()
    assert told == {1: None, 100 * MIB: None, 100 * MIB + 1: 100 * MIB + 1}


@pytest.mark.timeout(3600)
def test_a_folder_of_many_files_comes_back_whole(client: MlflowClient, run: str, tmp_path: Path, soak: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    for number in range(10_000 if soak else 200):
        file = source / f"{number % 7}" / f"{number % 3}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_bytes(number * 37 % 5000, number))
    client.log_artifacts(run, str(source), "many")
    client.download_artifacts(run, "many", str(target))
    assert digest_folder(target / "many") == digest_folder(source)


def test_many_clients_at_once_get_their_own_bytes(
    stack: Deployment, client: MlflowClient, run: str, tmp_path: Path, soak: bool
) -> None:
    count = 64 if soak else 8
    mixed = (0, 10_000, MIB + 1, 9 * MIB)

    def move(number: int) -> list[str]:
        """Return what did not come back as it went."""
        wrong = []
        for size in mixed:
            file = tmp_path / f"{number}-{size}.bin"
            digest = write_file(file, size, seed=number)
            client.log_artifact(run, str(file), f"client-{number}")
            file.unlink()
            (target := tmp_path / f"{number}-{size}").mkdir()
            found = Path(client.download_artifacts(run, f"client-{number}/{file.name}", str(target)))
            if digest_file(found) != digest:
                wrong.append(file.name)
            found.unlink()
        return wrong

    with ThreadPoolExecutor(count) as pool:
        assert [wrong for wrong in pool.map(move, range(count)) if wrong] == []


# ------------------------------------------------------------------------------------------------------------- names
NAMES = {
    "space": "a space .txt",
    "plus": "plus+plus.txt",
    "per cent": "100% 5%.txt",
    "question mark": "what?why=x.txt",
    "and": "this&that.txt",
    "semicolon, equals": "a;b=c.txt",
    "quotes": 'it\'s "quoted".txt',
    "colon, at, dollar": "a:b@c$d,e!f(g)*.txt",
    "brackets": "[a]{b}^`|~<>.txt",
    "NFC": unicodedata.normalize("NFC", "Übergröße é.txt"),
    "NFD": unicodedata.normalize("NFD", "Übergröße é.txt"),
    "other scripts": "данные 数据 🙂.txt",
    "leading dot": ".hidden",
    "leading dots": "...hidden",
    "trailing dots": "dots...",
    "long": "n" * 236 + ".bin",
}
REFUSED = {
    # by MLflow (validate_path_is_safe)
    "hash": "a#b.txt",
    "absolute on Windows": "c:/x.txt",
    # by the stack: SeaweedFS makes / of it
    "backslash": "a\\b.txt",
}
# What MLflow's server makes another name of, in every request alike: it decodes a name until nothing changes any more,
# and takes it for a URL.
READ_AS_ANOTHER = {"a%41.txt": "aA.txt", "what?": "what", "tab\t.txt": "tab.txt"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_kept_as_it_is(stack: Deployment, admin: Login, folder: str, name: str) -> None:
    content = make_bytes(1000, seed=len(name))
    path = ARTIFACTS + folder + "/" + quote(NAMES[name], safe="")
    put = stack.ask(path, admin, "PUT", data=content)
    assert put.status_code == 200, put.text
    assert stack.ask(path, admin).content == content
    assert list_names(stack, admin, folder) == {NAMES[name]}
    deleted = stack.ask(path, admin, "DELETE")
    assert deleted.ok, deleted.text
    assert list_names(stack, admin, folder) == set()


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_mlflow_refuses_is_refused_and_not_stored_as_another(
    stack: Deployment, admin: Login, folder: str, name: str
) -> None:
    target = ARTIFACTS + (folder + "/" if "/" not in REFUSED[name] else "") + quote(REFUSED[name], safe="")
    put = stack.ask(target, admin, "PUT", data=b"x")
    assert put.status_code == 400, put.text
    assert put.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert list_names(stack, admin, folder) == set()


@pytest.mark.parametrize("name", READ_AS_ANOTHER)
def test_a_name_that_mlflow_reads_as_another_comes_back_by_both(
    stack: Deployment, admin: Login, folder: str, name: str
) -> None:
    path = ARTIFACTS + folder + "/"
    assert stack.ask(path + quote(name, safe=""), admin, "PUT", data=name.encode()).ok
    assert list_names(stack, admin, folder) == {READ_AS_ANOTHER[name]}
    for spelling in (name, READ_AS_ANOTHER[name]):
        assert stack.ask(path + quote(spelling, safe=""), admin).content == name.encode()


def test_two_names_that_look_alike_stay_two(stack: Deployment, admin: Login, folder: str) -> None:
    names = {NAMES["NFC"], NAMES["NFD"], NAMES["NFC"].upper(), "a b", "a+b", "a_b", "A b"}
    for name in names:
        assert stack.ask(f"{ARTIFACTS}{folder}/{quote(name)}", admin, "PUT", data=name.encode()).ok
    assert list_names(stack, admin, folder) == names
    for name in names:
        assert stack.ask(f"{ARTIFACTS}{folder}/{quote(name)}", admin).content == name.encode()


def test_a_path_of_900_bytes_is_kept_and_one_beyond_s3s_1024_is_refused_in_words(
    stack: Deployment, admin: Login, folder: str
) -> None:
    steps = "/".join(["ü" * 50] * 8)
    path = f"{folder}/{steps}/" + "x" * (900 - len(f"{folder}/{steps}/".encode()))
    assert len(path.encode()) == 900
    assert stack.ask(ARTIFACTS + quote(path), admin, "PUT", data=b"deep").ok
    assert stack.ask(ARTIFACTS + quote(path), admin).content == b"deep"
    too_long = stack.ask(f"{ARTIFACTS}{folder}/{'n' * 1024}", admin, "PUT", data=b"x")
    assert too_long.status_code == 400
    assert "name is too long" in too_long.json()["message"]


# What stock clients make another name of, on their own side: they put names into URLs as they are.
CHANGED_BY_CLIENT = {"question mark"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHANGED_BY_CLIENT])
def test_a_clients_file_keeps_its_name(client: MlflowClient, run: str, tmp_path: Path, name: str) -> None:
    (source := tmp_path / "source").mkdir()
    (target := tmp_path / "target").mkdir()
    digest = write_file(source / NAMES[name], 1000)
    client.log_artifact(run, str(source / NAMES[name]), "named")
    assert [item.path for item in client.list_artifacts(run, "named")] == [f"named/{NAMES[name]}"]
    client.download_artifacts(run, "named", str(target))
    assert digest_folder(target / "named") == {NAMES[name]: digest}


# -------------------------------------------------------------------------------------------------------------- HTTP
def test_put_and_get_say_what_http_says(stack: Deployment, admin: Login, folder: str) -> None:
    content = make_bytes(300_001)
    # (MLflow's types: text of any kind is plain text)
    for name, kind in (("a.json", "text/plain"), ("b.png", "image/png"), ("c.bin", "application/octet-stream")):
        path = f"{ARTIFACTS}{folder}/{name}"
        assert stack.ask(path, admin, "PUT", data=content).status_code == 200
        got, head = stack.ask(path, admin), stack.ask(path, admin, "HEAD")
        assert (got.status_code, got.content) == (200, content)
        assert (head.status_code, head.content) == (200, b"")
        for answer in (got, head):
            assert answer.headers["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
            assert answer.headers["Content-Length"] == str(len(content))
            assert answer.headers["Accept-Ranges"] == "bytes"
        assert got.headers["Content-Type"].partition(";")[0] == kind, name
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert "attachment" in got.headers["Content-Disposition"]
        assert name in got.headers["Content-Disposition"]


def test_head_and_get_at_once_are_not_mixed_up(stack: Deployment, admin: Login, folder: str) -> None:
    """The gateway sends the next request on a connection of its own as soon as a HEAD's answer begins."""
    url = f"{stack.url}{ARTIFACTS}{folder}/at-once.txt"
    assert requests.put(url, data=b"content", auth=admin, timeout=90).ok

    def ask_in_turn(_client: int) -> set[tuple[int, bytes]]:
        with requests.Session() as session:
            session.auth = admin
            answers = [
                session.request(method, url, headers=headers, timeout=90)
                for _ in range(25)
                for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-3"}))
            ]
        return {(answer.status_code, answer.content) for answer in answers}

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(ask_in_turn, range(8)):
            assert found == {(200, b"content"), (200, b""), (206, b"cont")}


def test_a_body_of_unknown_length_is_stored_whole(stack: Deployment, admin: Login, folder: str) -> None:
    for number, size in enumerate((0, 1, 5 * MIB - 1, 5 * MIB, 8 * MIB + 1, 30 * MIB + 3)):
        path = f"{ARTIFACTS}{folder}/{number}.bin"
        answer = stack.ask(path, admin, "PUT", data=make_blocks(size, seed=number))
        assert answer.status_code == 200, answer.text
        got = stack.ask(path, admin)
        assert got.headers["Content-Length"] == str(size)
        assert got.content == make_bytes(size, seed=number)


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=99990-", 99_990, 100_000),
        ("bytes=-5", 99_995, 100_000),
        ("bytes=99999-200000", 99_999, 100_000),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_a_range_is_that_range(place: Place, wanted: str, start: int, end: int, signed: bool) -> None:
    stack, admin, folder = place.stack, place.login, place.folder
    content = make_bytes(100_000)
    path = f"{ARTIFACTS}{folder}/ranges.bin"
    assert stack.ask(path, admin, "PUT", data=content).ok
    login: Login | None = admin
    if signed:
        url = stack.ask(path.replace("/artifacts/", "/presigned/", 1), admin).json()["url"]
        path, login = url.removeprefix(stack.url), None
    got = stack.ask(path, login, headers={"Range": wanted})
    assert (got.status_code, got.content) == (206, content[start:end])
    assert got.headers["Content-Range"] == f"bytes {start}-{end - 1}/100000"
    etag = stack.ask(path, login).headers["ETag"]
    same = stack.ask(path, login, headers={"Range": wanted, "If-Range": etag})
    assert (same.status_code, same.content) == (206, content[start:end])


def test_conditions_are_kept(stack: Deployment, admin: Login, folder: str) -> None:
    path = f"{ARTIFACTS}{folder}/conditions.bin"
    assert stack.ask(path, admin, "PUT", data=b"content").ok
    whole = stack.ask(path, admin)
    etag, moment = whole.headers["ETag"], whole.headers["Last-Modified"]
    for headers, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": '"another"'}, 200),
        ({"If-Match": etag}, 200),
        ({"If-Match": '"another"'}, 412),
        ({"If-Modified-Since": moment}, 304),
        ({"Range": "bytes=7-"}, 416),
    ):
        answer = stack.ask(path, admin, headers=headers)
        assert answer.status_code == status, (headers, answer.text)
        assert answer.content == (b"content" if status == 200 else answer.content)
        assert "mlflow-artifacts" not in answer.text, "the store speaks of its own names"


def test_an_upload_with_a_wrong_checksum_is_refused_and_nothing_is_stored(
    stack: Deployment, admin: Login, folder: str
) -> None:
    path = f"{ARTIFACTS}{folder}/sum.bin"
    content = make_bytes(2 * MIB)
    right, wrong = (base64.b64encode(hashlib.md5(data).digest()).decode() for data in (content, b"other"))
    refused = stack.ask(path, admin, "PUT", data=content, headers={"Content-MD5": wrong})
    assert refused.status_code == 400, refused.text
    assert "Content-MD5" in refused.json()["message"]
    assert stack.ask(path, admin).status_code == 404
    assert list_names(stack, admin, folder) == set()
    assert stack.ask(path, admin, "PUT", data=content, headers={"Content-MD5": right}).status_code == 200
    # And what is there already stays as it is.
    assert stack.ask(path, admin, "PUT", data=b"x" * 99, headers={"Content-MD5": wrong}).status_code == 400
    assert stack.ask(path, admin).content == content


# ----------------------------------------------------------------------------------------------------------- clients
@pytest.mark.parametrize(("python", "version"), [(sys.executable, "3.17."), (OLD_CLIENT, "2.22.")])
def test_clients_of_several_versions_log_list_download_and_load(
    stack: Deployment, admin: Login, tmp_path: Path, python: str, version: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    target.mkdir()
    sizes = {"small.bin": 1000, "empty.bin": 0, "parts.bin": 11 * MIB + 1, "below/a name.bin": 17}
    digests = {name: write_file(source / name, size) for name, size in sizes.items()}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    # 2.22 sends parts only if it is told to, 3.17 by itself.
    settings = {THRESHOLD: str(10 * MIB), PART: str(5 * MIB), PIECE: str(5 * MIB)}
    if version == "2.22.":
        settings |= dict.fromkeys(
            ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"), "true"
        )
    script = Path(__file__).parent / "clients/round_trip.py"
    result = subprocess.run(
        [python, str(script), str(source), str(target)],
        env={**clean, **stack.login(), **settings},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["version"].startswith(version)
    assert digest_folder(target / "data") == digests
    assert sorted(map(tuple, told["listed"])) == [
        ("data/below", True, None),
        ("data/empty.bin", False, None),
        ("data/parts.bin", False, sizes["parts.bin"]),
        ("data/small.bin", False, 1000),
    ]
    assert told["prediction"] == pytest.approx(5.0)
    experiment, run_id = told["run"]
    assert find_etag(stack, admin, f"{experiment}/{run_id}/artifacts/data/parts.bin").endswith("-3")


def test_a_client_without_parts_moves_the_same_bytes(
    stack: Deployment, client: MlflowClient, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"):
        monkeypatch.setenv(name, "false")
    monkeypatch.setenv(THRESHOLD, str(5 * MIB))
    file = tmp_path / "plain.bin"
    digest = write_file(file, 12 * MIB + 5)
    client.log_artifact(run, str(file))
    file.unlink()
    assert digest_file(Path(client.download_artifacts(run, file.name, str(tmp_path)))) == digest


def test_parts_come_in_any_order_and_twice(stack: Deployment, admin: Login, folder: str) -> None:
    """What a client does that tries again."""
    upload, urls = begin_parts(stack, admin, folder, "parts.bin", 3)
    contents = [make_bytes(5 * MIB, 1), make_bytes(5 * MIB, 2), make_bytes(7, 3)]
    etags = {}
    for number in (2, 0, 1, 0, 2):
        # (a first attempt that ended in the middle)
        with begin_upload(stack, urls[number].removeprefix(stack.url), None, len(contents[number])) as connection:
            connection.sendall(contents[number][: len(contents[number]) // 2])
        answer = requests.put(urls[number], data=contents[number], timeout=90)
        assert answer.status_code == 200, answer.text
        etags[number] = answer.headers["ETag"]
    complete = stack.ask(
        f"/api/2.0/mlflow-artifacts/mpu/complete/{folder}",
        admin,
        "POST",
        json={
            "path": "parts.bin",
            "upload_id": upload,
            "parts": [{"part_number": number + 1, "etag": etags[number]} for number in range(3)],
        },
    )
    assert complete.ok, complete.text
    assert stack.ask(f"{ARTIFACTS}{folder}/parts.bin", admin).content == b"".join(contents)


def test_a_chunked_upload_by_hand(stack: Deployment, admin: Login, folder: str) -> None:
    """Chunks of one byte and of many."""
    pieces = [b"a", make_bytes(100_000), b"b" * 7]
    with begin_upload(stack, f"{ARTIFACTS}{folder}/chunks.bin", admin, None) as connection:
        connection.sendall(b"".join(frame(piece) for piece in pieces) + b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert stack.ask(f"{ARTIFACTS}{folder}/chunks.bin", admin).content == b"".join(pieces)
