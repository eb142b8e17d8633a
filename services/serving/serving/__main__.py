"""`python -m serving`: the container's program, which each worker imports again."""

import sys

from serving import settings
from serving.supervisor import Supervisor

if __name__ == "__main__":
    try:
        chosen = settings.load()
    except settings.SettingsError as error:
        sys.exit("\n".join(f"serving: {line}" for line in str(error).splitlines()))
    Supervisor(chosen).run()
