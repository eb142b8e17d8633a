"""One spelling for an experiment's id."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException

from tracking import spelling

ODD = ["01", " 1", "1 ", "+1", "-1", "\u0661", "1_0", "1.0", "0x1", "1\n", "abc", True]


@pytest.mark.parametrize("value", ["0", "1", "12345", 7, None, ""])
def test_plain_ids_pass(value: object) -> None:
    spelling.check_plain(value)


@pytest.mark.parametrize("value", ODD)
def test_other_spellings_are_refused(value: object) -> None:
    with pytest.raises(MlflowException, match="write it as MLflow does"):
        spelling.check_plain(value)


def test_ids_are_found_wherever_they_are() -> None:
    body = {
        "experiment_ids": ["1", "2"],
        "locations": [{"mlflow_experiment": {"experimentId": "3"}}],
        "deep": {"list": [{"experiment_id": "4"}]},
        "name": "5",
    }
    assert list(spelling.find_ids(body)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "body",
    [
        {"query": '{a(input:{experimentId:"01"}){b}}'},
        {"query": '{a(input:{experimentId:"\\u0030\\u0031"}){b}}'},
        {"query": '{a(input:{experimentId:"""\n01\n"""}){b}}'},
        {"query": '{a(input:{experimentId:"\\u{30}1"}){b}}'},
        {"query": "query($e: String){a(id:$e){b}}", "variables": {"e": "01"}},
        {"query": "query($e: [String]){a(id:$e){b}}", "variables": {"e": ["1", "+2"]}},
    ],
)
def test_graphql_literals_and_variables_are_read(body: dict[str, object]) -> None:
    with pytest.raises(MlflowException, match="write it as MLflow does"):
        spelling.check_graphql(body)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"query": None}, {"query": ["x"]}, {"query": "{"}])
def test_what_is_no_graphql_request_is_refused(body: object) -> None:
    with pytest.raises(MlflowException, match="GraphQL"):
        spelling.check_graphql(body)


def test_ordinary_graphql_passes() -> None:
    spelling.check_graphql(
        {"query": '{a(input:{experimentId:"1", name:"run 01"}){b}}', "variables": {"n": "x", "k": 1}}
    )


def test_a_body_is_searched_if_it_could_name_an_experiment() -> None:
    assert spelling.may_name_experiments(b'{"experiment_id": "01"}')
    assert spelling.may_name_experiments(b'{"\\u0065xperiment_id": "01"}')
    assert not spelling.may_name_experiments(b'{"metrics": [{"key": "a"}]}')


@pytest.mark.parametrize("value", [{"name": "a\0b"}, ["x", {"a\0": 1}], {"list": ["\0"]}])
def test_a_nul_is_refused(value: object) -> None:
    with pytest.raises(MlflowException, match="NUL"):
        spelling.check_texts(value)


def test_the_header_of_opentelemetry_is_checked() -> None:
    scope = {"headers": [(b"x-mlflow-experiment-id", b"01")]}
    assert not spelling.is_header_plain(scope)
    assert spelling.is_header_plain({"headers": [(b"x-mlflow-experiment-id", b"1")]})
    assert spelling.is_header_plain({"headers": []})
