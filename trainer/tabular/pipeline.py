"""From a table to a pipeline: gaps filled, numbers scaled, texts one-hot; split into train and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tabular.table import WHOLE, Table
from wine.errors import TrainerError

MAX_CATEGORIES = 50  # of a text column; the rarer ones share a place


@dataclass(frozen=True)
class Split:
    """Three quarters of the rows to train on, one to test on, drawn by the seed; of classes, each in proportion."""

    train_x: pd.DataFrame
    test_x: pd.DataFrame
    train_y: pd.Series
    test_y: pd.Series


def split_table(table: Table, classifies: bool, seed: int) -> Split:
    """Check that the target fits the kind of estimator, and draw the training and test rows.

    Raises:
        TrainerError: A regressor's target is text, a classifier's has fractions or a class with too few rows.
    """
    truth = _name_classes(table) if classifies else _check_numbers(table)
    try:
        parts = train_test_split(table.inputs, truth, random_state=seed, stratify=truth if classifies else None)
    except ValueError as error:  # a quarter of the rows has not one of each class
        raise TrainerError(
            f"column {table.target!r} can't be split into train and test ({error}): merge classes"
        ) from None
    return Split(*parts)


def build_pipeline(estimator: Any, inputs: pd.DataFrame) -> Pipeline:
    """Put the estimator behind the preparation of these columns."""
    numbers = [name for name in inputs.columns if is_numeric_dtype(inputs[name])]
    texts = [name for name in inputs.columns if name not in numbers]
    # Only what is needed: a branch without columns would be in every model.
    branches = []
    if numbers:
        steps = [("impute", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
        branches.append(("numbers", Pipeline(steps), numbers))
    if texts:
        # A gap is a category of its own; a text that was not there counts as a rare one, or as none.
        encode = OneHotEncoder(sparse_output=False, handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES)
        branches.append(("texts", encode, texts))
    return Pipeline([("prepare", ColumnTransformer(branches)), ("model", estimator)])


def _check_numbers(table: Table) -> pd.Series:
    if not is_numeric_dtype(table.truth):
        seen = f"column {table.target!r} is text ({table.truth.iloc[0]!r})"
        raise TrainerError(f"{seen}, and a regressor predicts numbers: choose a classifier, or another --target")
    return table.truth


def _name_classes(table: Table) -> pd.Series:
    truth = table.truth
    if is_numeric_dtype(truth):
        odd = np.flatnonzero((truth % 1 != 0) | (truth.abs() > WHOLE))
        if odd.size:
            seen = f"column {table.target!r} has {truth.iloc[odd[0]]} in row {odd[0] + 1}"
            raise TrainerError(f"{seen}, and a classifier predicts classes: choose a regressor, or another --target")
        truth = truth.astype("int64")
    counts = truth.value_counts()
    if len(counts) == 1:
        raise TrainerError(f"column {table.target!r} has one class only, {counts.index[0]!r}: choose another --target")
    if counts.min() == 1:
        what = f"class {counts.idxmin()!r} of column {table.target!r} has one row"
        raise TrainerError(f"{what}, which can't be in train and test: drop or merge it")
    return truth
