"""The revisions that are read from files are those that alembic finds in MLflow."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import revisions
from alembic.config import Config
from alembic.script import ScriptDirectory


@pytest.mark.parametrize("migrations", ["store/db_migrations", "server/auth/db/migrations"])
def test_they_are_those_that_alembic_finds(migrations: str) -> None:
    folder = Path(mlflow.__file__).parent / migrations
    config = Config()
    config.set_main_option("script_location", str(folder))
    script = ScriptDirectory.from_config(config)
    found = revisions.read(folder)
    assert found.newest == script.get_current_head()
    assert found.known == {each.revision for each in script.walk_revisions()}


def test_two_heads_are_none(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for name in "ab":
        (tmp_path / f"versions/{name}.py").write_text(f'revision = "{name}"\ndown_revision = None\n')
    assert revisions.read(tmp_path).newest is None
    (tmp_path / "versions/c.py").write_text('revision: str = "c"\ndown_revision: tuple[str, ...] = ("a", "b")\n')
    assert revisions.read(tmp_path) == revisions.Revisions(frozenset("abc"), "c")
