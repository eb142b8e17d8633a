"""An archive is whole, or refused: each kind of damage by itself."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from lifecycle import archive
from wine.errors import TrainerError

HEAD = {"kind": "experiment", "name": "e", "mlflow": "3", "made": "2026-11-26"}


def make(path: Path) -> Path:
    with path.open("wb") as file, archive.writing(file, HEAD) as writer:
        writer.add_document("runs/1.json", {"info": {"run_id": "1"}})
        writer.add("artifacts/runs/1/ü %20.bin", 2000, io.BytesIO(bytes(2000)))
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make(tmp_path / "whole.tar.gz")


def test_what_was_written_is_read(whole: Path) -> None:
    head = archive.verify(whole)
    assert {name: head[name] for name in HEAD} == HEAD
    names = [name for name, _, _ in archive.read_entries(whole)]
    assert names == ["format.json", "runs/1.json", "artifacts/runs/1/ü %20.bin", "manifest.json"]
    assert archive.verify(make(whole.with_name("again.tar.gz")))["digest"] == head["digest"]


def test_every_flipped_byte_is_found(whole: Path, tmp_path: Path) -> None:
    content = gzip.decompress(whole.read_bytes())
    damaged = tmp_path / "damaged.tar.gz"
    accepted = []
    # (a tar has bytes that mean nothing: what is read must be the same then)
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 0x10
        damaged.write_bytes(gzip.compress(bytes(changed), 1))
        try:
            accepted.append(archive.verify(damaged)["digest"])
        except TrainerError:
            continue
    assert set(accepted) <= {archive.verify(whole)["digest"]}


def test_a_file_that_was_cut_off_is_refused(whole: Path, tmp_path: Path) -> None:
    content, cut = whole.read_bytes(), tmp_path / "cut.tar.gz"
    for size in (0, 10, len(content) // 2):
        cut.write_bytes(content[:size])
        with pytest.raises(TrainerError, match=r"cut\.tar\.gz"):
            archive.verify(cut)


def change(whole: Path, target: Path, *, leave: str = "", add: tuple[str, bytes] | None = None) -> Path:
    with tarfile.open(target, "w:gz") as tar:
        entries = [(name, body.read()) for name, _, body in archive.read_entries(whole) if name != leave]
        for name, content in [*entries[:-1], *([add] if add else []), entries[-1]]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return target


def test_an_archive_without_its_manifest_or_with_other_entries_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="has no manifest"):
        archive.verify(change(whole, tmp_path / "a.tar.gz", leave="manifest.json"))
    with pytest.raises(TrainerError, match=r"'runs/1\.json' is not what its manifest says"):
        archive.verify(change(whole, tmp_path / "b.tar.gz", leave="runs/1.json"))
    with pytest.raises(TrainerError, match=r"'runs/2\.json' is not what its manifest says"):
        archive.verify(change(whole, tmp_path / "c.tar.gz", add=("runs/2.json", b"{}")))
    with pytest.raises(TrainerError, match=r"'runs/1\.json' twice"):
        archive.verify(change(whole, tmp_path / "d.tar.gz", add=("runs/1.json", b"{}")))


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FORMAT", 2)
    newer = make(tmp_path / "newer.tar.gz")
    monkeypatch.setattr(archive, "FORMAT", 1)
    with pytest.raises(TrainerError, match="has format 2, this stack reads up to 1"):
        archive.verify(newer)


def test_an_artifact_that_came_in_part_ends_the_export(tmp_path: Path) -> None:
    with (
        pytest.raises(TrainerError, match="came only in part"),
        (tmp_path / "part.tar.gz").open("wb") as file,
        archive.writing(file, HEAD) as writer,
    ):
        writer.add("artifacts/runs/1/a", 10, io.BytesIO(b"123"))
