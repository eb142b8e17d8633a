"""`python -m follower`: the container's program."""

import threading

from follower import following, settings, uploading
from follower.registry import Registry

chosen = settings.load()
if chosen.log:
    # Beside the following, which no slow store is to delay; with a connection of its own.
    uploader = uploading.Uploader(Registry(chosen.gateway))
    threading.Thread(target=uploading.run, args=(uploader,), name="uploading", daemon=True).start()
following.run(Registry(chosen.gateway), chosen.choices)
