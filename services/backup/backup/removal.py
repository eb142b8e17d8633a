"""Removing a set, with what no other set needs."""

from __future__ import annotations

from pathlib import Path

from admin.faults import FaultError
from backup import pgbackrest
from backup.manifest import Item, Manifest
from backup.repository import BEGUN, OBJECTS, PASSES, SETS, Repository


def remove(repository: Repository, names: list[str]) -> int:
    """Remove sets; return how many bytes of copies went. Raises FaultError if none would be left."""
    sets, begun = repository.find_sets(), repository.find_begun()
    for name in names:
        if name not in sets and name not in begun:
            repository.read(name)  # says what is wrong
    if sets and not set(sets) - set(names):
        raise FaultError(f"{', '.join(sets)} is all there is: make another set before it is removed")
    whole, damaged = repository.sort_sets()
    untrue = repository.find_damaged()
    good = {each.name for each in whole} - untrue
    if good and not good - set(names):
        raise FaultError(
            f"{', '.join(sorted(good))} is all there is that is whole: make another set before it is removed"
        )
    if damaged := [name for name in damaged if name not in names]:
        raise FaultError(f"{', '.join(damaged)} can't be read, so it is not known what they need: remove them too")
    rest = [each for each in whole if each.name not in names]
    passed = repository.read_passes(rest[0].name) if rest else []
    for name in names:
        # The manifest first: a set that is half gone is none.
        repository.shelf.remove(f"{SETS}/{name}")
        repository.shelf.remove(f"{BEGUN}/{name}")
        if name in untrue:
            repository.note(name, "")
    freed = remove_copies(repository, rest, passed)
    if rest:
        remove_files(rest)
    return freed


def remove_copies(repository: Repository, rest: list[Manifest], passed: list[Item]) -> int:
    """Remove the copies of objects that no set needs, and no moment between sets; return how many bytes they had."""
    items = [*(item for manifest in rest for item in manifest.copies), *passed]
    if rest:
        for path in repository.shelf.list(PASSES):
            if Path(path).name <= rest[0].name:
                repository.shelf.remove(path)
    needed = {item.name for item in items}
    freed = 0
    for path, size in repository.shelf.list(OBJECTS).items():
        if path not in needed:
            repository.shelf.remove(path)
            freed += size
    return freed


def remove_files(rest: list[Manifest]) -> None:
    """Let pgBackRest remove the backups that no set needs, and the WAL before the first of them."""
    labels = {label for manifest in rest for label in pgbackrest.find_chain(manifest.label)}
    for backup in reversed(pgbackrest.find_backups()):  # those that need others come after them
        if backup["label"] not in labels:
            pgbackrest.run("expire", f"--set={backup['label']}")
    fulls = sum(backup["type"] == "full" for backup in pgbackrest.find_backups())
    pgbackrest.run("expire", f"--repo1-retention-full={fulls}")
