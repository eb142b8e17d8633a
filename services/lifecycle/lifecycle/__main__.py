"""`python -m lifecycle`."""

import atexit
import gc

# As in the trainer: to look for cycles among what the imports make costs more than it frees. (A prediction, which may
# last for long, turns it on again.)
gc.disable()
atexit.register(gc.freeze)

from lifecycle.cli import main  # noqa: E402

main()
