"""The way back; it needs none of the libraries that a promotion needs, and so is there in seconds."""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient

from lifecycle import registry
from wine.errors import TrainerError


def roll_back(client: MlflowClient, name: str, tell: Callable[[str], None]) -> None:
    """Put the version back that was in Production before; a second time, the one before that.

    Raises:
        TrainerError: There was none, or it has been deleted.
        Refused: Another version came to Production meanwhile.
    """
    model = registry.read_model(client, name)
    champion, earlier = model.champion, list(model.history)
    if earlier and earlier[-1] == champion:
        earlier.pop()
    target = next((number for number in reversed(earlier) if number in model.versions and number != champion), None)
    if target is None:
        now = "nobody" if champion is None else f"version {champion}"
        raise TrainerError(
            f"no version of {name} was in Production before {now}: promote one with ./stack promote {name}"
        )
    registry.move_production(name, target, champion, is_rollback=True)
    after = "nobody was there before" if champion is None else f"version {champion} is archived"
    tell(f"Version {target} of {name} is in Production again; {after}")
