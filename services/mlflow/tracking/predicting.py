"""Who may ask a served model: the gateway asks for every prediction, and is told by MLflow's permission USE."""

from __future__ import annotations

import asyncio

from mlflow.server import auth, handlers

from tracking.identity import Account

# The gateway believes a granted right for two seconds, and, while it can't ask, for a minute more: a restart of this
# server ends no prediction. (403 and 404 may count as failures to ask for nginx, so a refusal is neither.)
GRANTED = {"cache-control": "max-age=2, stale-if-error=60"}
REFUSED_HEADER = "x-stack-refused"


def find_permission(name: str, model: str) -> bool:
    """Return whether the user has USE, or more, on the registered model. Raises MlflowException."""
    find_role = auth._role_permission_for(
        username=name,
        resource_type="registered_model",
        resource_key=model,
        workspace_lookup_id=model,
        workspace_fetcher=handlers._get_model_registry_store().get_registered_model,
        workspace_label="registered model",
    )
    return bool(auth._get_role_permission_or_default(find_role).can_use)


async def may_use(name: str, account: Account, model: str) -> bool:
    """Return whether the user may send the model something to predict. Raises MlflowException."""
    return account.is_admin or await asyncio.to_thread(find_permission, name, model)
