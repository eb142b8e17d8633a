"""Users that tests make, and their roles."""

from __future__ import annotations

from mlflow.server.auth.client import AuthServiceClient

from tracking import roles

PASSWORD = "a-password-of-their-own-1"


def assign(users: AuthServiceClient, name: str, role: str) -> None:
    known = {found.name: found.id for found in users.list_roles(roles.WORKSPACE)}
    if role not in known:
        known[role] = users.create_role(roles.WORKSPACE, role).id
    users.assign_role(name, known[role])
