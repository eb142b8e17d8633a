"""`python -m serving`: the container's program. (It is imported again in each worker.)"""

import sys

from serving import settings
from serving.supervisor import Supervisor

if __name__ == "__main__":
    try:
        chosen = settings.load()
    except settings.SettingsError as error:
        sys.exit("\n".join(f"serving: {line}" for line in str(error).splitlines()))
    Supervisor(chosen).run()
