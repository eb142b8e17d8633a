"""Triggers of our own on MLflow's tables: what a delete takes away stays in the schema `stack`, for `./stack undo`.

They fire where something is deleted, or marked so, and nowhere else: a trigger on `UPDATE OF column` is not even looked
at by a statement that does not set that column. What one transaction took away is one entry.
"""

from __future__ import annotations

import hashlib

import sqlalchemy

# By table: the event, and which of its rows count. (Another version of these statements is known by its digest.)
Triggers = dict[str, dict[str, str]]
GONE = {"DELETE": ""}
MARKED = {
    "UPDATE OF lifecycle_stage": "NEW.lifecycle_stage = 'deleted' AND OLD.lifecycle_stage IS DISTINCT FROM 'deleted'"
}
TRACKING: Triggers = {
    "experiments": MARKED,
    # Of an experiment that is deleted MLflow marks all runs, those too that were deleted before: their time is new.
    "runs": {"UPDATE OF lifecycle_stage, deleted_time": "NEW.lifecycle_stage = 'deleted'"},
    "logged_models": MARKED,
    "registered_models": GONE,
    "registered_model_tags": GONE,
    "registered_model_aliases": GONE,
    "model_version_tags": GONE,
    "model_versions": {
        **GONE,
        "UPDATE OF current_stage": (
            "NEW.current_stage = 'Deleted_Internal' AND OLD.current_stage IS DISTINCT FROM 'Deleted_Internal'"
        ),
    },
    # MLflow removes what a run said of traces when the run is deleted, and can't bring it back itself.
    "assessments": {"DELETE": "OLD.assessment_metadata LIKE '%\"mlflow.assessment.sourceRunId\"%'"},
}
# (no condition: a migration of MLflow's may then change any column with the trigger in place)
AUTH: Triggers = {"role_permissions": GONE}

TRASH = """
CREATE SCHEMA IF NOT EXISTS stack;
CREATE TABLE IF NOT EXISTS stack.trash (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry xid8 NOT NULL DEFAULT pg_current_xact_id(),
    moment timestamptz NOT NULL DEFAULT clock_timestamp(),
    relation text NOT NULL,
    is_change boolean NOT NULL,
    content jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS trash_entry ON stack.trash (entry);
CREATE OR REPLACE FUNCTION stack.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('stack.trash', true) = 'off' THEN
        RETURN NULL; -- what undo itself does is nothing to be undone
    END IF;
    IF TG_TABLE_NAME = 'assessments' THEN
        IF NOT EXISTS (SELECT FROM public.trace_info WHERE request_id = to_jsonb(OLD) ->> 'trace_id') THEN
            RETURN NULL; -- it went with its trace
        END IF;
    END IF;
    INSERT INTO stack.trash (relation, is_change, content) VALUES (TG_TABLE_NAME, TG_OP = 'UPDATE', to_jsonb(OLD));
    RETURN NULL;
END $$;
"""
# MLflow takes a model's grants away just after the model, which is in the other database. The role `undo` may bring
# these back, and reaches nothing else of the users.
GRANTS = """
DROP FUNCTION IF EXISTS stack.bring_back_grants(text, timestamptz); -- (what it returns can't be replaced)
CREATE FUNCTION stack.bring_back_grants(model text, since timestamptz, OUT wanted bigint, OUT came bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    one xid8;
BEGIN
    SELECT entry, count(*) INTO one, wanted FROM stack.trash WHERE content ->> 'resource_pattern' = model
    AND content ->> 'resource_type' IN ('registered_model', 'prompt')
    AND moment BETWEEN since AND since + INTERVAL '1 minute' GROUP BY entry ORDER BY min(id) LIMIT 1;
    wanted := coalesce(wanted, 0);
    INSERT INTO role_permissions (id, role_id, resource_type, resource_pattern, permission)
    SELECT former.id, former.role_id, former.resource_type, former.resource_pattern, former.permission
    FROM stack.trash AS kept CROSS JOIN LATERAL jsonb_populate_record(NULL::role_permissions, kept.content) AS former
    WHERE kept.entry = one AND former.resource_pattern = model
    AND former.resource_type IN ('registered_model', 'prompt')
    AND EXISTS (SELECT FROM roles WHERE roles.id = former.role_id) ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS came = ROW_COUNT;
END $$;
CREATE OR REPLACE FUNCTION stack.forget(cutoff timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS 'DELETE FROM stack.trash WHERE moment <= cutoff';
REVOKE ALL ON FUNCTION stack.bring_back_grants(text, timestamptz), stack.forget(timestamptz) FROM PUBLIC;
GRANT USAGE ON SCHEMA stack TO undo;
GRANT EXECUTE ON FUNCTION stack.bring_back_grants(text, timestamptz), stack.forget(timestamptz) TO undo;
"""
# What the comment says, and how many there are: they go with a table that is dropped, by whomever.
STATE = """
SELECT obj_description(to_regclass('stack.trash'), 'pg_class'),
    (SELECT count(*) FROM pg_trigger WHERE tgfoid = to_regproc('stack.keep'))
"""


def prepare(triggers: Triggers) -> str:
    """Return the statements that make what they need."""
    return TRASH + (GRANTS if triggers is AUTH else "")


def render(triggers: Triggers) -> str:
    """Return the statements that make them."""
    made = [prepare(triggers)]
    for table, events in triggers.items():
        for event, condition in events.items():
            name = f"stack_keep_{event.split()[0].lower()}d"
            when = f" WHEN ({condition})" if condition else ""
            made.append(
                f"CREATE OR REPLACE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW{when}"
                " EXECUTE FUNCTION stack.keep();"
            )
    return "\n".join(made)


def digest(triggers: Triggers, *, wanted: bool) -> str:
    """Return what the table's comment says when all is as it should be."""
    return hashlib.sha256(render(triggers).encode()).hexdigest() if wanted else "off"


def are_current(engine: sqlalchemy.Engine, triggers: Triggers, *, wanted: bool) -> bool:
    """Return whether they are there, or are not, as wanted."""
    count = sum(len(events) for events in triggers.values()) if wanted else 0
    with engine.connect() as connection:
        return tuple(connection.execute(sqlalchemy.text(STATE)).one()) == (digest(triggers, wanted=wanted), count)


def drop(connection: sqlalchemy.Connection, triggers: Triggers) -> None:
    """Remove them, what they kept stays."""
    for table, events in triggers.items():
        for event in events:
            name = f"stack_keep_{event.split()[0].lower()}d"
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON {table}")
    connection.exec_driver_sql("COMMENT ON TABLE stack.trash IS 'off'")


def suspend(engine: sqlalchemy.Engine, triggers: Triggers) -> None:
    """Remove them before a migration of MLflow's, which is to find no trigger that it doesn't know."""
    with engine.begin() as connection:
        if connection.execute(sqlalchemy.text("SELECT to_regclass('stack.trash')")).scalar():
            drop(connection, triggers)


def make(engine: sqlalchemy.Engine, triggers: Triggers, *, wanted: bool) -> None:
    """Make them, or see that they are not there; the table is there in any case."""
    if are_current(engine, triggers, wanted=wanted):
        return
    with engine.begin() as connection:
        if wanted:
            # (no parameters: a % is one)
            connection.exec_driver_sql(render(triggers), execution_options={"no_parameters": True})
            connection.exec_driver_sql(f"COMMENT ON TABLE stack.trash IS '{digest(triggers, wanted=True)}'")
        else:
            connection.exec_driver_sql(prepare(triggers))
            drop(connection, triggers)
