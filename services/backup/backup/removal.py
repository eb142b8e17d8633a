"""Removing a set, with what no other set needs."""

from __future__ import annotations

from admin.faults import FaultError
from backup import pgbackrest
from backup.repository import BEGUN, OBJECTS, SETS, Repository


def remove(repository: Repository, name: str) -> int:
    """Remove a set; return how many bytes of copies went. Raises FaultError for the last one that is whole."""
    sets = repository.find_sets()
    if name in repository.find_begun():
        repository.shelf.remove(f"{BEGUN}/{name}")
    elif name not in sets:
        repository.read(name)  # says what is wrong
    elif len(sets) == 1:
        raise FaultError(f"set {name} is the only one: make another before it is removed")
    else:
        # The manifest first: a set that is half gone is none.
        repository.shelf.remove(f"{SETS}/{name}")
    rest = [repository.read(each) for each in repository.find_sets()]
    needed = {item.name for manifest in rest for item in manifest.objects if item.name}
    freed = 0
    for path, size in repository.shelf.list(OBJECTS).items():
        copy = path if path.startswith(f"{OBJECTS}/") else f"{OBJECTS}/{path}"
        if copy not in needed:
            repository.shelf.remove(copy)
            freed += size
    if not rest:
        return freed
    labels = {label for manifest in rest for label in pgbackrest.find_chain(manifest.label)}
    for backup in reversed(pgbackrest.find_backups()):  # those that need others come after them
        if backup["label"] not in labels:
            pgbackrest.run("expire", f"--set={backup['label']}")
    fulls = sum(backup["type"] == "full" for backup in pgbackrest.find_backups())
    pgbackrest.run("expire", f"--repo1-retention-full={fulls}")  # the WAL before the first of them
    return freed
