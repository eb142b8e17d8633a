"""Indexes of our own on MLflow's tables, for many runs. They bind nothing, and go before a migration of MLflow's."""

from __future__ import annotations

import sqlalchemy

# Newest runs first, as `mlflow.search_runs` asks for them, and as MLflow's page does (with a CASE that puts runs
# without a start last). Without these all runs are read and sorted for the first hundred: ./stack bench growth
# (An index is known by its name: one whose columns change needs another, and the former is to be dropped.)
INDEXES = {
    "stack_runs_newest": "runs (experiment_id, lifecycle_stage, start_time DESC, run_uuid)",
    "stack_runs_newest_page": (
        "runs (experiment_id, lifecycle_stage, (CASE WHEN start_time IS NULL THEN 1 ELSE 0 END),"
        " start_time DESC, run_uuid)"
    ),
}
COUNT = sqlalchemy.text("SELECT count(*) FROM pg_indexes WHERE schemaname = current_schema() AND indexname IN :names")


def has_all(engine: sqlalchemy.Engine) -> bool:
    """Return whether all are there."""
    counted = COUNT.bindparams(sqlalchemy.bindparam("names", expanding=True))
    with engine.connect() as connection:
        return connection.execute(counted, {"names": list(INDEXES)}).scalar() == len(INDEXES)


def drop(engine: sqlalchemy.Engine) -> None:
    """Remove them: no migration of MLflow's is to find an index that it doesn't know."""
    with engine.begin() as connection:
        for name in INDEXES:
            connection.execute(sqlalchemy.text(f"DROP INDEX IF EXISTS {name}"))


def make(engine: sqlalchemy.Engine) -> None:
    """Make those that are missing."""
    with engine.begin() as connection:
        for name, columns in INDEXES.items():
            connection.execute(sqlalchemy.text(f"CREATE INDEX IF NOT EXISTS {name} ON {columns}"))
