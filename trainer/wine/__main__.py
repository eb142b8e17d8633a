"""`python -m wine`."""

import atexit
import gc

# A training lives for seconds and leaves little garbage: collecting cycles among the hundred thousands of objects that
# its imports make would cost half a second on the way, and most of another when the interpreter ends.
gc.disable()
atexit.register(gc.freeze)

from wine.cli import main  # noqa: E402

main()
