"""The names of the stack's roles in MLflow's own role store, shared by migrate, the server and ./stack user.

What a name alone means (a promoter may promote; who is disabled or has expired may not log in) is enforced at the
login and by the rules at the edge; the grants of a role are MLflow's, and an operator may edit them on MLflow's page.
Nothing but the standard library is imported: the tool's container takes this file alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

# The one that MLflow uses while its workspaces are off.
WORKSPACE = "default"

VIEWER, EDITOR, PROMOTER = "viewer", "editor", "promoter"
# What the container `follower` is: it reads models and the files behind them.
SERVING = "serving"
DISABLED = "disabled"
EXPIRES = "expires-"
# No role, but a flag of MLflow's user.
ADMIN = "admin"

DESCRIPTIONS = {
    VIEWER: "Reads every experiment, run, artifact and model; changes nothing.",
    EDITOR: "Creates experiments, logs runs and artifacts, registers models; does not promote.",
    PROMOTER: "An editor who may also set stages and protected aliases.",
    SERVING: "Reads registered models and their artifacts: the stack's own account that fetches what is served.",
    DISABLED: "Whoever has this role can not log in.",
}
EXPIRY_DESCRIPTION = "Whoever has this role can not log in from that moment on."
# On all resources of a type. Scorers: whoever has less than MANAGE there can not delete an experiment, even their own.
_EDIT = {"experiment": "EDIT", "registered_model": "EDIT", "prompt": "EDIT", "scorer": "MANAGE"}
PERMISSIONS = {VIEWER: dict.fromkeys(_EDIT, "READ"), EDITOR: _EDIT, PROMOTER: _EDIT}  # from the weakest on
# (the files of a model lie in the folder of the experiment that it was trained in)
OWN = {SERVING: {"registered_model": "READ", "experiment": "READ"}}
GRANTS = PERMISSIONS | OWN
# What an operator calls a user's role.
TEAM = (*PERMISSIONS, ADMIN)


def expiry_role(moment: datetime) -> str:
    """Return the name of the role that ends a login at this moment (whole seconds, UTC)."""
    return EXPIRES + moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def find_expiry(names: Iterable[str]) -> datetime | None:
    """Return when the login of a user who has these roles ends, or None for never.

    The earliest counts. A name that can't be read counts as the earliest of all: somebody wanted the login to end.
    """
    ends = []
    for name in names:
        if name.startswith(EXPIRES):
            text = name.removeprefix(EXPIRES)
            try:
                ends.append(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC))
            except ValueError:
                ends.append(datetime.min.replace(tzinfo=UTC))
    return min(ends, default=None)


def is_direct(name: str) -> bool:
    """Return whether this is one of MLflow's hidden roles, one a user, that hold the user's own grants."""
    return re.fullmatch(r"__user_\d+__", name) is not None
