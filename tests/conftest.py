"""What every test shares: the --soak option, and their order."""

from __future__ import annotations

import pytest

# A file is one process's, the longest first, so that no process works alone at the end. Those with stacks of their own
# come before those that share one, which is idle otherwise.
LONGEST = [
    "test_backup.py",
    "test_fast.py",
    "test_upgrade.py",
    "test_own_stack.py",
    "test_store_migration.py",
    "test_tls.py",
    "test_import.py",
    "test_edge.py",
    "test_external_store.py",
    "test_artifact_own_stack.py",
    "test_artifact_faults.py",
    "test_faults.py",
    "test_sweep.py",
    "test_gc.py",
    "test_restart.py",
    "test_carry.py",
    "test_serving.py",
    "test_ledger.py",
    "test_walk.py",
    "test_users.py",
    "test_prediction_log.py",
    "test_artifact_history.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    # (no stack is there yet while the unit tests run)
    items.sort(key=lambda item: (item.path.parent.name != "unit", rank.get(item.path.name, len(rank))))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run drills with their full counts")


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--soak"))
