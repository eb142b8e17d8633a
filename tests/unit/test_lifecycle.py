"""Logins that come by standard input, metrics and their directions, runs side by side."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow.utils.credentials import read_mlflow_creds
from rich.console import Console

from lifecycle import comparison, metrics, promotion, registry, settings
from lifecycle.comparison import Row
from tracking import production
from wine import registry as trained
from wine.errors import TrainerError


@pytest.mark.parametrize("password", ["plain", "50%-off", "%(x)s", "a=b;c#d", "'q' \"r\"", "[mlflow]", "back\\slash"])
def test_a_login_reaches_mlflow_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(settings, "HOME", tmp_path / "home")
    monkeypatch.setenv("STACK_LOGIN", "stdin")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"ann\n{password}\n"))
    settings.take_login()
    assert tuple(read_mlflow_creds()) == ("ann", password)
    file = tmp_path / "home" / ".mlflow" / "credentials"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("login", ["ann\n\n", "\nx\n", "ann\n x\n", "ann\nx\x07\n"])
def test_a_login_that_a_file_can_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    monkeypatch.setattr(settings, "HOME", tmp_path / "home")
    monkeypatch.setenv("STACK_LOGIN", "stdin")
    monkeypatch.setattr("sys.stdin", io.StringIO(login))
    with pytest.raises(TrainerError, match="MLFLOW_TRACKING_"):
        settings.take_login()


@pytest.mark.parametrize(
    ("name", "more"), [("rmse", False), ("r2", True), ("RMSE", False), ("profit:max", True), ("cost:min", False)]
)
def test_a_metric_says_which_way_is_better(name: str, more: bool) -> None:
    assert metrics.is_more_better(name) is more


@pytest.mark.parametrize("name", ["profit", "rmse:up", ""])
def test_a_metric_of_unknown_direction_is_asked_for(name: str) -> None:
    with pytest.raises(TrainerError, match="is not known"):
        metrics.is_more_better(name)


def test_thresholds_are_read() -> None:
    assert metrics.read_threshold("rmse=0.75") == ("root_mean_squared_error", 0.75)
    for text in ("rmse", "rmse=", "rmse=x", "rmse=nan", "rmse=inf"):
        with pytest.raises(TrainerError, match="metric=value"):
            metrics.read_threshold(text)


HOSTILE = "<script>alert(1)</script> [red]x[/] $x"
ROWS = [
    Row(
        "a" * 32,
        "one",
        "ann",
        "2026-11-25",
        "FINISHED",
        {"rmse": 0.5, "nan": float("nan")},
        {"alpha": "0.1", "kind": "x"},
    ),
    Row("b" * 32, HOSTILE, "bob", "2026-11-25", "FAILED", {"rmse": 0.25}, {"alpha": "0.2", "kind": "x", "$o": "1"}),
    Row("c" * 32, "three", "bob", "2026-11-25", "FINISHED", {}, {"alpha": "0.3", "kind": "x"}),
]


def test_the_table_marks_the_best_and_shows_what_differs() -> None:
    output = io.StringIO()
    comparison.print_table(comparison.compare(ROWS), Console(file=output, width=400), None)
    lines = output.getvalue().splitlines()
    assert "alpha =" in lines[0]
    assert "kind" not in lines[0]
    assert "0.25*" in lines[2]
    assert HOSTILE[:20] in lines[2]
    assert "0.5*" not in lines[1]


def test_a_narrow_terminal_has_less_of_the_table_and_says_so() -> None:
    output = io.StringIO()
    comparison.print_table(comparison.compare(ROWS[::2]), Console(file=output, width=40), 40)
    assert "No room for" in output.getvalue()
    assert all(len(line) <= 40 for line in output.getvalue().splitlines()[:3])


def test_the_report_needs_nothing_else_and_runs_nothing() -> None:
    report = comparison.render_report(comparison.compare(ROWS), HOSTILE)
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Collector(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Collector().feed(report)
    names = [tag for tag, _ in tags]
    assert "script" not in names
    assert names.count("svg") == 2  # parallel coordinates; rmse over alpha
    for _, attributes in tags:
        for name, value in attributes.items():
            assert name not in {"src", "onload"}
            assert not (name.endswith("href") and not str(value).startswith("#")), value
    assert re.search(r'class="n best">0.25<', report)
    assert "-0.25" in report
    assert len(report) < 200_000


@pytest.mark.parametrize("name", ["ALIAS", "HISTORY", "CHAMPION_HEADER", "ROLLBACK_HEADER", "NOBODY"])
def test_server_and_command_write_the_same_names(name: str) -> None:
    assert getattr(registry, name) == getattr(production, name)


def test_the_trainer_sets_the_alias_that_the_server_watches() -> None:
    assert trained.ALIAS == production.ALIAS


def test_the_gates_tags_are_a_promoters_and_none_that_only_the_server_writes() -> None:
    tags = {promotion.OUTCOME, promotion.RUN, promotion.RULE, promotion.REASON}
    assert len(tags) == 4
    assert all(tag.startswith(production.RESERVED) for tag in tags)
    assert not tags & production.OWN
