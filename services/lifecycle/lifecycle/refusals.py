"""What a gate says no with: not a failure of the tool, and told apart from one by its exit code."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 - a verdict, not an error
    """A rule that the candidate doesn't keep."""

    def __init__(self, rule: str, why: str) -> None:
        """Remember the rule and both figures; line breaks have no place in one line."""
        super().__init__(f"{rule}: {' '.join(why.split())}")
        self.rule = rule
