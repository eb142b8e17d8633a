"""Which versions a model remembers as having been in Production."""

from __future__ import annotations

import pytest

from tracking.production import MAX_HISTORY, extend_history, read_history


@pytest.mark.parametrize(
    ("known", "before", "champion", "is_rollback", "grown"),
    [
        ([], None, 1, False, [1]),
        ([1], 1, 2, False, [1, 2]),
        ([1, 2], 2, 1, False, [1, 2, 1]),
        ([1, 2], None, 2, False, [1, 2]),  # taken away, and put back
        ([], 4, 5, False, [4, 5]),  # it was there before this was kept
        ([1, 2, 3], 3, 2, True, [1, 2]),
        ([1, 2, 1, 3], 3, 1, True, [1, 2, 1]),
        ([1, 2, 1], 1, 2, True, [1, 2]),
        ([1, 2], 2, 7, True, [1, 2, 7]),  # never there: no way back, but a promotion
    ],
)
def test_a_promotion_is_appended_and_a_rollback_forgets(
    known: list[int], before: int | None, champion: int, is_rollback: bool, grown: list[int]
) -> None:
    assert extend_history(known, before, champion, is_rollback=is_rollback) == grown


def test_the_memory_is_bounded_and_fits_a_tag() -> None:
    history: list[int] = []
    for version in range(1, 2 * MAX_HISTORY):
        history = extend_history(history, None, 100_000 + version, is_rollback=False)
    assert history[-1] == 100_000 + 2 * MAX_HISTORY - 1
    assert len(",".join(map(str, history))) < 5000
    assert read_history(",".join(map(str, history))) == history
