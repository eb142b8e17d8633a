"""`./stack gc`: what is to go, and its going."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy

from artifacts import catalog, removal, trash
from artifacts.catalog import EXPERIMENT, MODEL, RUN
from artifacts.objects import Bucket
from artifacts.plan import Kept, Plan, Unit, make_plan
from artifacts.settings import Settings
from artifacts.survey import Survey, Tally, make_survey

KINDS = {RUN: "runs", MODEL: "logged models", EXPERIMENT: "experiments"}


@dataclass(frozen=True)
class Limits:
    """How old what goes must be.

    Attributes:
        rows: deleted in MLflow at this moment or before, in milliseconds; ./stack undo brings it back until then.
        versions: replaced or deleted at this moment or before, or None to keep them for ever.
        uploads: begun at this moment or before.
    """

    rows: int
    versions: datetime | None
    uploads: datetime


@dataclass(frozen=True)
class Line:
    """A line of the summary."""

    what: str
    rows: int | None
    tally: Tally | None


@dataclass
class Result:
    """What would be removed, or was.

    Attributes:
        applied: whether it was.
        units: the rows.
        kept: what was deleted long ago and stays.
        survey: of the bucket, before anything was removed.
        unfinished: units that somebody began to remove who was killed.
        versions: old versions.
        uploads: unfinished uploads.
        entries: of what ./stack undo could bring back until now.
    """

    applied: bool
    units: list[Unit]
    kept: list[Kept]
    survey: Survey
    unfinished: int
    versions: Tally
    uploads: int
    entries: int
    lines: list[Line] = field(init=False)

    def __post_init__(self) -> None:
        things = [thing for unit in self.units for thing in unit.things]
        self.lines = []
        for kind, name in KINDS.items():
            of_kind = [thing for thing in things if thing.kind == kind]
            total = Tally()
            for thing in of_kind:
                tally = self.survey.going.get((kind, thing.identifier), Tally())
                total.objects += tally.objects
                total.versions += tally.versions
                total.size += tally.size
            self.lines.append(Line(name, len(of_kind), total))
        if self.unfinished:
            self.lines.append(Line("begun before", self.unfinished, None))
        self.lines.append(Line("old versions", None, self.versions))
        self.lines.append(Line("unfinished uploads", self.uploads, None))
        self.lines.append(Line("entries of ./stack trash", self.entries, None))

    @property
    def has_work(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.units or self.unfinished or self.versions.versions or self.uploads or self.entries)

    def describe(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "applied": self.applied,
            "summary": [{"what": line.what, "rows": line.rows, **asdict(line.tally or Tally())} for line in self.lines],
            **{
                name.replace(" ", "_"): [
                    {
                        "id": thing.identifier,
                        **asdict(self.survey.going.get((kind, thing.identifier), Tally())),
                    }
                    for unit in self.units
                    for thing in unit.things
                    if thing.kind == kind
                ]
                for kind, name in KINDS.items()
            },
            "begun_before": self.unfinished,
            "forgotten": self.entries,
            "kept": [asdict(kept) for kept in self.kept],
            "orphans": [{"folder": o.folder, "kind": o.kind, **asdict(o.tally)} for o in self.survey.orphans],
            "missing": [asdict(missing) for missing in self.survey.missing],
        }


def prepare(engine: sqlalchemy.Engine, bucket: Bucket, limits: Limits) -> tuple[Plan, Survey]:
    """Return what is to go and what the bucket holds."""
    known = catalog.read_catalog(engine, limits.rows)
    plan = make_plan(known, bucket.name, limits.rows)
    return plan, make_survey(bucket, engine, known, plan, limits.versions)


def look(engine: sqlalchemy.Engine, bucket: Bucket, limits: Limits) -> Result:
    """Return what would be removed."""
    entries = trash.forget(engine, limits.rows, apply=False)
    plan, survey = prepare(engine, bucket, limits)
    uploads = sum(upload.time <= limits.uploads for upload in bucket.find_uploads())
    unfinished = len(removal.Notes(bucket).find())
    return Result(False, plan.units, plan.kept, survey, unfinished, survey.expired, uploads, entries)


def apply(chosen: Settings, engine: sqlalchemy.Engine, bucket: Bucket, limits: Limits) -> Result:
    """Remove it; return what was removed."""
    with removal.lock(engine):
        # First what could be brought back: what that is made from may go with it.
        entries = trash.forget(engine, limits.rows, apply=True)
        trash.forget_grants(sqlalchemy.create_engine(chosen.undo_database_uri), limits.rows)
        finished, kept = removal.finish(engine, bucket)
        plan, survey = prepare(engine, bucket, limits)
        kept += plan.kept
        gone: list[Unit] = []
        if plan.units:
            remover = removal.Remover(engine, chosen.database_uri, bucket)
            for unit in plan.units:
                if remover.remove(unit, limits.rows):
                    gone.append(unit)
                else:
                    kept.append(Kept(unit.kind, unit.identifier, "it was restored, changed or registered meanwhile"))
        versions = Tally(0, 0, survey.expired.size)
        if limits.versions is not None:
            versions.versions = removal.remove_expired(bucket, limits.versions)
        uploads = removal.remove_stale_uploads(bucket, limits.uploads)
        entries += trash.forget(engine, limits.rows, apply=True)
    return Result(True, gone, kept, survey, finished, versions, uploads, entries)


def forget(chosen: Settings, engine: sqlalchemy.Engine, bucket: Bucket, prefix: str) -> None:
    """Remove the deleted experiments whose names begin so, and nothing else."""
    named = sqlalchemy.text(
        "SELECT CAST(experiment_id AS varchar) FROM experiments WHERE starts_with(name, :prefix)"
        " AND lifecycle_stage = 'deleted'"
    )
    with removal.lock(engine):
        with engine.connect() as connection:
            names = {identifier for (identifier,) in connection.execute(named, {"prefix": prefix})}
        now = int(datetime.now(UTC).timestamp() * 1000)
        units = make_plan(catalog.read_catalog(engine), bucket.name, now).units
        going = [unit for unit in units if unit.kind == EXPERIMENT and unit.identifier in names]
        if going:
            remover = removal.Remover(engine, chosen.database_uri, bucket)
            for unit in going:
                remover.remove(unit, now)
