"""PSI and KS, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lifecycle import drift

TENS = pd.Series(np.arange(100.0))


def test_the_same_values_have_not_drifted() -> None:
    column = drift.measure_column("x", TENS, TENS.sample(frac=1, random_state=1))
    assert column.psi == 0
    assert (column.ks, column.p) == (0, 1)
    assert (column.reference, column.logged) == (49.5, 49.5)


def test_psi_of_words() -> None:
    """Half a, half b; then 80 and 20 of 100: 0.3 ln 1.6 - 0.3 ln 0.4."""
    found = drift.measure_column("x", pd.Series(["a", "b"] * 50), pd.Series(["a"] * 80 + ["b"] * 20))
    assert found.psi == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4))
    assert found.psi == pytest.approx(0.41589, abs=1e-5)
    assert (found.ks, found.p) == (None, None)


def test_psi_of_numbers_by_the_references_deciles() -> None:
    """A tenth in each bin; then the lower five are empty and the upper five twice as full."""
    empty, twice = (1e-4 - 0.1) * math.log(1e-4 / 0.1), (0.2 - 0.1) * math.log(2)
    assert drift.measure_psi(TENS, TENS[50:]) == pytest.approx(5 * empty + 5 * twice)
    # The reference decides on the bins: the other way round they are others.
    assert drift.measure_psi(TENS[50:], TENS) != pytest.approx(drift.measure_psi(TENS, TENS[50:]))


def test_few_values_are_bins_of_their_own_and_a_new_one_too() -> None:
    constant = pd.Series([5.0] * 100)
    assert drift.measure_psi(constant, constant) == 0
    one_new = (1e-4 - 1) * math.log(1e-4)
    for other in (4.0, 6.0):  # (deciles of a constant would not tell 4 from 5)
        expected = one_new + (1 - 1e-4) * math.log(1 / 1e-4)
        assert drift.measure_psi(constant, pd.Series([other] * 50)) == pytest.approx(expected)


def test_what_is_missing_is_a_bin() -> None:
    half = TENS.where(TENS.index % 2 == 0)
    lost = (0.5 - 1e-4) * math.log(0.5 / 1e-4) + 10 * (0.05 - 0.1) * math.log(0.5)
    assert drift.measure_psi(TENS, half) == pytest.approx(lost)
    assert drift.measure_column("x", TENS, TENS * math.nan).ks is None


def test_ks_is_the_largest_distance_of_the_distribution_functions() -> None:
    """1 to 10 and 6 to 15: at 5 the first has half of its values, the second none."""
    found = drift.measure_column("x", pd.Series(np.arange(1.0, 11)), pd.Series(np.arange(6.0, 16)))
    assert found.ks == pytest.approx(0.5)
    assert found.p == pytest.approx(0.16782, abs=1e-4)


def test_many_columns_of_any_name_are_drawn() -> None:
    generator = np.random.default_rng(1)
    names = ["a $x$ [bold]", "words", "b"]
    frame = pd.DataFrame({names[0]: generator.random(200), names[1]: ["u", "v"] * 100, "b": [1.0, math.nan] * 100})
    found = [drift.measure_column(name, frame[name], frame[name][:100]) for name in names]
    assert len(drift.plot(found, 0.2, frame, frame[:100]).axes) == 3
    assert drift.make_table(found, 0.2).row_count == 3
