"""What a database says that takes no writes, because its disk is nearly full (services/postgres/space.sh)."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import OperationalError

READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction


class FullError(OperationalError):
    """MLflow answers 503 to an OperationalError, and to what Postgres's driver makes of it 400."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(None, None, reason)

    def __str__(self) -> str:
        return "the disk of the database is nearly full, and takes no writes: ./stack status shows how full"


def name_cause(context: ExceptionContext) -> None:
    """Raise FullError for a write that was refused; SQLAlchemy asks this for every error of a statement."""
    if getattr(context.original_exception, "pgcode", None) == READ_ONLY:
        raise FullError(context.original_exception)


def register() -> None:
    """Do so for all engines of the process."""
    sqlalchemy.event.listen(Engine, "handle_error", name_cause)
