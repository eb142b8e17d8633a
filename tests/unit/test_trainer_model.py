"""The trainer's model: the article's figures, the hyper-parameters' limits, the plots."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from wine.data import Split, load_table, split_table
from wine.errors import TrainerError
from wine.model import Hyperparameters, Metrics, fit_model, measure_model
from wine.plots import plot_coefficients, plot_residuals


@pytest.fixture(scope="module")
def split() -> Split:
    return split_table(load_table(None, "quality"), seed=40)


def measure(split: Split, alpha: float, l1_ratio: float) -> Metrics:
    return measure_model(fit_model(split, Hyperparameters(alpha, l1_ratio)), split)


def test_seed_40_gives_the_figures_that_mlflow_itself_prints_for_these_wines(split: Split) -> None:
    metrics = measure(split, 0.5, 0.5)
    # Another processor's vector units may round the last bit otherwise.
    assert metrics.rmse == pytest.approx(0.7931640229276851, rel=1e-12)
    assert metrics.mae == pytest.approx(0.6271946374319586, rel=1e-12)
    assert metrics.r2 == pytest.approx(0.10862644997792614, rel=1e-12)


def test_the_same_seed_and_hyper_parameters_give_the_same_figures_to_the_last_bit(split: Split) -> None:
    again = split_table(load_table(None, "quality"), seed=40)
    assert measure(split, 0.1, 0.5) == measure(again, 0.1, 0.5)


def test_the_metrics_are_those_of_their_formulas(split: Split) -> None:
    model = fit_model(split, Hyperparameters(0.1, 0.5))
    errors = [truth - guess for truth, guess in zip(split.test_y, model.predict(split.test_x), strict=True)]
    mean = sum(split.test_y) / len(split.test_y)
    squares = sum(error**2 for error in errors)
    metrics = measure_model(model, split)
    assert metrics.rmse == pytest.approx(math.sqrt(squares / len(errors)))
    assert metrics.mae == pytest.approx(sum(abs(error) for error in errors) / len(errors))
    assert metrics.r2 == pytest.approx(1 - squares / sum((truth - mean) ** 2 for truth in split.test_y))


def test_another_seed_gives_other_figures(split: Split) -> None:
    assert measure(split_table(split.table, seed=41), 0.5, 0.5) != measure(split, 0.5, 0.5)


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf, -math.inf])
def test_an_alpha_that_is_no_weight_is_refused(alpha: float) -> None:
    with pytest.raises(TrainerError, match=rf"alpha is {alpha}: give a finite number, 0 or more"):
        Hyperparameters(alpha, 0.5)


@pytest.mark.parametrize("l1_ratio", [-0.01, 1.01, math.nan, math.inf])
def test_an_l1_ratio_that_is_no_share_is_refused(l1_ratio: float) -> None:
    with pytest.raises(TrainerError, match=rf"l1_ratio is {l1_ratio}: give a number from 0 to 1"):
        Hyperparameters(0.5, l1_ratio)


@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_the_ends_of_the_range_are_taken(split: Split, l1_ratio: float) -> None:
    assert measure(split, 0.01, l1_ratio).r2 > 0


def test_the_plots_show_every_test_row_and_every_input(split: Split, tmp_path: Path) -> None:
    model = fit_model(split, Hyperparameters(0.1, 0.5))
    residuals, coefficients = plot_residuals(model, split), plot_coefficients(model, split)
    assert np.shape(residuals.axes[0].collections[0].get_offsets()) == (400, 2)
    assert [label.get_text() for label in coefficients.axes[0].get_yticklabels()] == split.table.inputs
    for figure in (residuals, coefficients):
        figure.savefig(tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
