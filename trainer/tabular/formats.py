"""Formats of a table's file, told by its name."""

from urllib.parse import urlsplit


def is_parquet(source: str | None) -> bool:
    """Return whether a file's or URL's name says Parquet."""
    return source is not None and urlsplit(source).path.lower().endswith((".parquet", ".pq"))
