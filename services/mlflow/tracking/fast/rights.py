"""What a user may do, by MLflow's own rules over the grants that were read with the account.

`tracking/identity.py` reads an account again every two seconds: a right that was taken away ends within that time.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.server import auth
from mlflow.server.auth.permissions import (
    DENY,
    RESOURCE_TYPE_EXPERIMENT,
    RESOURCE_TYPE_REGISTERED_MODEL,
    RESOURCE_TYPE_REGISTERED_MODEL_VERSION,
    RESOURCE_TYPE_RUN,
    RESOURCE_TYPE_WORKSPACE,
    get_permission,
)
from mlflow.server.auth.requirements import (
    ACTION_NOT_DENIED,
    Requirement,
    fold_grants_for_key,
    requirement_satisfied,
    requirements_to_grant_load_keys,
)

from tracking.identity import Account


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of one account."""

    account: Account

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return self.account.is_admin

    @property
    def is_plain(self) -> bool:
        """Whether grants only allow, and none is for a workspace: else MLflow takes fields out of answers, too."""
        return self.is_admin or not any(
            grant.permission == DENY.name or grant.resource_type == RESOURCE_TYPE_WORKSPACE
            for grant in self.account.grants
        )

    def allow(self, requirements: list[Requirement]) -> bool:
        """Return whether all of these are met, as mlflow.server.auth.authorize would."""
        if self.is_admin:
            return True
        default = auth.auth_config.default_permission
        grants = {
            key: fold_grants_for_key(self.account.grants, key) for key in requirements_to_grant_load_keys(requirements)
        }
        absent = get_permission(default)
        return all(requirement_satisfied(requirement, grants, default, absent) for requirement in requirements)

    def may_read_experiment(self, experiment_id: int) -> bool:
        """Return whether the experiment itself may be read."""
        return self.allow([Requirement(RESOURCE_TYPE_EXPERIMENT, str(experiment_id), "read")])

    def may_create_run(self, experiment_id: int) -> bool:
        """Return whether a run may be created in the experiment."""
        return self.allow(
            [
                Requirement(RESOURCE_TYPE_EXPERIMENT, str(experiment_id), "update"),
                Requirement(RESOURCE_TYPE_RUN, "*", ACTION_NOT_DENIED),
            ]
        )

    def may_use_run(self, experiment_id: int, action: str) -> bool:
        """Return whether "read" or "update" is allowed on the runs of the experiment."""
        experiment = (RESOURCE_TYPE_EXPERIMENT, str(experiment_id))
        return self.allow(
            [
                Requirement(*experiment, "read"),
                Requirement(RESOURCE_TYPE_RUN, "*", action, fallback_if_no_grant=(experiment,)),
            ]
        )

    def may_search_runs(self, experiment_id: int) -> bool:
        """Return whether a search shows the runs of the experiment."""
        return self.allow(
            [
                Requirement(
                    RESOURCE_TYPE_EXPERIMENT,
                    str(experiment_id),
                    "read",
                    fallback_if_no_grant=((RESOURCE_TYPE_WORKSPACE, "*"),),
                ),
                Requirement(RESOURCE_TYPE_RUN, "*", ACTION_NOT_DENIED),
            ]
        )

    def may_read_model(self, name: str) -> bool:
        """Return whether the versions of a registered model (no prompt) may be read."""
        return self.allow(
            [
                Requirement(RESOURCE_TYPE_REGISTERED_MODEL, name, "read"),
                Requirement(RESOURCE_TYPE_REGISTERED_MODEL_VERSION, "*", ACTION_NOT_DENIED),
            ]
        )
