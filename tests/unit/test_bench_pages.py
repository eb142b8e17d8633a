"""What `./stack bench ui` computes and shows."""

from __future__ import annotations

from bench.pages import PAGES, TITLES, Load, Loaded, Pair, choose_middle, trust
from bench.report import Machine

FIRST = {"plain": 2000.0, "tls": 2500.0, "stock": 8000.0}


def make_loaded() -> Loaded:
    def make_pair(milliseconds: float) -> Pair:
        return Load(milliseconds, 21, 1189.4), Load(milliseconds / 2, 7, 3.4)

    return Loaded(Machine(2, 0.1), {name: {page: make_pair(FIRST[name]) for page in PAGES} for name in TITLES})


def test_the_ratios_are_stock_to_this_stack() -> None:
    found = {each.name: (each.value, each.is_reached) for each in make_loaded().compare()}
    assert len(found) == 2 * 2 * len(PAGES)
    for page in PAGES:
        for turn in ("first", "second"):
            assert found[f"plain {page} {turn}"] == (4.0, True)
            assert found[f"tls {page} {turn}"] == (3.2, True)


def test_the_table_has_every_page_of_every_server() -> None:
    lines = make_loaded().to_text().splitlines()
    for page in PAGES:
        for name, title in TITLES.items():
            (line,) = [each for each in lines if each.startswith(f"{page}: {title}  ")]
            first = FIRST[name] / 1000
            assert line.split()[-6:] == [f"{first:.2f}", "21", "1189", f"{first / 2:.2f}", "7", "3"]
    data = make_loaded().to_data()["pages"]
    assert data["figures"]["stock"]["first page"][1]["requests"] == 7
    assert data["comparisons"][0]["is_reached"] is True


def test_of_several_loads_each_figure_is_the_middle_one() -> None:
    assert choose_middle([Load(3, 1, 10), Load(1, 2, 30), Load(2, 3, 20)]) == Load(2, 2, 20)


def test_no_certificate_is_trusted_where_there_is_none() -> None:
    assert trust("http://127.0.0.1:1") == ()
