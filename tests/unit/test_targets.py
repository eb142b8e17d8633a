"""What the audit log is told of a request: names and ids, never a value."""

from __future__ import annotations

import json

from tracking import targets


def test_names_and_ids_are_kept_and_nothing_else() -> None:
    body = {
        "name": "m",
        "version": "3",
        "password": "hidden",
        "value": "hidden",
        "tags": [{"key": "k", "value": "hidden"}],
    }
    rendered = targets.render([body])
    assert json.loads(rendered) == {"name": "m", "version": "3"}
    assert "hidden" not in rendered


def test_what_was_created_is_found_in_the_answer() -> None:
    answer = {"run": {"info": {"run_id": "abc", "experiment_id": "1", "run_name": "x"}, "data": {"params": []}}}
    assert json.loads(targets.render([{"experiment_id": "1"}, answer])) == {"experiment_id": "1", "run_id": "abc"}


def test_the_request_counts_before_the_answer() -> None:
    assert json.loads(targets.render([{"name": "asked"}, {"name": "answered"}])) == {"name": "asked"}


def test_the_header_is_ascii_and_short() -> None:
    rendered = targets.render([{"name": "ä\r\nX-Evil: 1" * 1000, "new_name": "\u4e2d" * 5000, "alias": "a"}])
    assert rendered.isascii()
    assert "\r" not in rendered
    assert "\n" not in rendered
    assert len(rendered) <= targets.MAX_HEADER
    assert json.loads(rendered)["alias"] == "a"


def test_odd_bodies_are_no_trouble() -> None:
    assert targets.render([None, [], "x", 7, {"name": {"name": ["x"]}}]) == "{}"
