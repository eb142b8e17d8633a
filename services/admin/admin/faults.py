"""What ends a verb with one clear line."""

from __future__ import annotations


class FaultError(Exception):
    """What is wrong, with the value seen and what to do; the message has a line for each fault."""


def printable(text: str) -> str:
    """Return text with everything escaped that could steer a terminal: names and paths are whoever's who sent them."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
