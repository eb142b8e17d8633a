"""`python -m follower`: the container's program."""

from follower import following, settings
from follower.registry import Registry

chosen = settings.load()
following.run(Registry(chosen.gateway), chosen.choices)
