"""Who carries files: a client inside the stack's networks, so that the store itself can be reached as well.

Run by bench/transfers.py as `python -m bench.carrier`, in a container of its own, with one line of JSON on stdin and
one on stdout for each measurement: [way, what, bytes, seconds].
"""

from __future__ import annotations

import filecmp
import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import requests
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

CHUNK = 1024 * 1024
SMALL_FILE = 10_000  # bytes
# What takes milliseconds is measured more often.
SMALL, SMALL_ROUNDS = 1_000_000, 5
FOLDER = "0/bench/artifacts"
Login = tuple[str, str]


@dataclass(frozen=True)
class Way:
    """How files go up and come down.

    Attributes:
        name: as the tables know it.
        upload: stores a local file below a name.
        download: fetches a name into a file that is there already, or beside it; returns where it is.
        upload_folder: stores all files of a folder, if this way knows folders.
    """

    name: str
    upload: Callable[[Path, str], object]
    download: Callable[[str, Path], Path]
    upload_folder: Callable[[Path, str], object] | None = None


def make_raw_way(endpoint: str, bucket: str) -> Way:
    """Return boto3's own transfers, as its users get them, with the store's keys: the limit of what can be had."""
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/run/secrets/aws_credentials"
    # (boto3's own number: a part that the store refused once is no reason to end a run of a quarter of an hour)
    retries = {"mode": "standard", "total_max_attempts": 5}
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=10, retries=retries)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)
    transfer = TransferConfig()

    def upload(file: Path, name: str) -> None:
        client.upload_file(str(file), bucket, f"raw/{name}", Config=transfer)

    def download(name: str, target: Path) -> Path:
        with target.open("r+b") as file:
            client.download_fileobj(bucket, f"raw/{name}", file, Config=transfer)
        return target

    def upload_folder(folder: Path, path: str) -> None:
        for file in folder.iterdir():
            upload(file, f"{path}/{file.name}")

    return Way("raw", upload, download, upload_folder)


def make_rest_way(name: str, url: str, login: Login) -> Way:
    """Return plain PUT and GET, as curl and clients of MLflow 2 send them."""
    session = requests.Session()
    session.auth = login
    base = f"{url}/api/2.0/mlflow-artifacts/artifacts/{FOLDER}"

    def upload(file: Path, path: str) -> None:
        with file.open("rb") as data:
            session.put(f"{base}/{path}", data=data, timeout=600).raise_for_status()

    def download(path: str, target: Path) -> Path:
        with session.get(f"{base}/{path}", stream=True, timeout=600) as answer, target.open("r+b") as file:
            answer.raise_for_status()
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
        return target

    return Way(f"{name}_rest", upload, download)


def make_client_way(name: str, url: str) -> Way:
    """Return MLflow's own client: signed URLs for downloads, parts for large uploads."""
    address = url.partition("://")[2]
    repository = MlflowArtifactsRepository(f"mlflow-artifacts://{address}/{FOLDER}", tracking_uri=url)

    def upload(file: Path, _path: str) -> None:
        repository.log_artifact(str(file))

    def download(path: str, target: Path) -> Path:
        return Path(repository.download_artifacts(path, str(target.parent)))

    def upload_folder(folder: Path, path: str) -> None:
        repository.log_artifacts(str(folder), path)

    return Way(f"{name}_client", upload, download, upload_folder)


def time_it(work: Callable[[], object]) -> float:
    """Return the seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(ways: list[Way], sizes: list[int], rounds: int, files: int, scratch: Path) -> Iterator[list[object]]:
    """Measure every way with every size, by turns; then folders of small files."""
    for size in sizes:
        source = scratch / f"{size}.bin"
        with source.open("wb") as file:
            for start in range(0, size, CHUNK):
                file.write(os.urandom(min(CHUNK, size - start)))
        for _ in range(rounds if size > SMALL else rounds * SMALL_ROUNDS):
            for way in ways:
                yield [way.name, "up", size, time_it(functools.partial(way.upload, source, source.name))]
                # A fresh file's memory takes a virtual machine 0.2 to 1.4 s a GB to find, as it happens: a file that is
                # there already takes what comes. (MLflow's own client makes its own.)
                target = scratch / "target" / "there.bin"
                target.parent.mkdir()
                with target.open("wb") as file:
                    for start in range(0, size, CHUNK):
                        file.write(bytes(min(CHUNK, size - start)))
                started = time.perf_counter()
                found = way.download(source.name, target)
                yield [way.name, "down", size, time.perf_counter() - started]
                if not filecmp.cmp(source, found, shallow=False):
                    sys.exit(f"bench.carrier: {way.name} brought another file than it took, of {size} bytes")
                shutil.rmtree(target.parent)
        source.unlink()
    folder = scratch / "small"
    folder.mkdir()
    for number in range(files):
        (folder / f"{number}.bin").write_bytes(os.urandom(SMALL_FILE))
    for way in ways:
        if way.upload_folder:
            yield [
                way.name,
                "folder",
                files * SMALL_FILE,
                time_it(functools.partial(way.upload_folder, folder, "small")),
            ]


def main() -> None:
    """Read the order, measure, write what was seen as it is seen."""
    order = json.loads(sys.stdin.readline())
    login = tuple(order["login"])
    os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = login
    ways = [make_raw_way(order["store"], order["bucket"])]
    for name, url in order["servers"].items():
        ways += [make_rest_way(name, url, (login[0], login[1])), make_client_way(name, url)]
    with tempfile.TemporaryDirectory() as scratch:
        for seen in measure(ways, order["sizes"], order["rounds"], order["files"], Path(scratch)):
            print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
