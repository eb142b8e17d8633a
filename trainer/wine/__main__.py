import gc

# A training allocates little and ends in seconds: collecting cycles would only slow its imports (by a seventh).
gc.disable()

from wine.cli import app  # noqa: E402

app(prog_name="python -m wine")
