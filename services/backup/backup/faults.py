"""What is said of a file that can't be read or written."""

from __future__ import annotations


def describe(error: OSError) -> str:
    """Return what is wrong, and with which file, if the error names one."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
