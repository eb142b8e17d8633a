"""docs/walk.md shows every page of the walk, by pictures that `./stack screenshots` has made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from stack.walk import HEIGHT, PAGES, WIDTH

DOCS = Path(__file__).parents[2] / "docs"


def test_the_manual_shows_every_page_and_no_picture_of_another() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(images/([a-z-]+)\.png\)", (DOCS / "walk.md").read_text())
    assert sorted(shown) == sorted(PAGES)
    assert sorted(path.stem for path in (DOCS / "images").iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_picture_is_a_whole_page_and_small(name: str) -> None:
    path = DOCS / "images" / f"{name}.png"
    with Image.open(path) as picture:
        assert picture.size == (WIDTH, HEIGHT)
    assert path.stat().st_size < 150_000
