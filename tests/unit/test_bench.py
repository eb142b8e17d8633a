"""What `./stack bench` computes and shows; what it measures is measured nowhere else."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from bench import clients, effort, floors, gateway, guesser, guesses, metadata, usage, user
from bench.clients import Done, Toured
from bench.floors import Floors
from bench.latency import Sample, Summary, find_percentile
from bench.report import Comparison, Machine, Report, Server, render
from bench.usage import Usage

TEMPLATE = (Path(__file__).parents[2] / "nginx/conf/nginx.conf").read_text()


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_a_percentile_is_a_value_that_was_seen(percent: float, expected: float) -> None:
    values = list(range(1, 101))
    random.Random(1).shuffle(values)
    assert find_percentile(values, percent) == expected


def test_a_percentile_of_few_values() -> None:
    assert find_percentile([7.0], 50) == find_percentile([7.0], 99) == 7.0
    assert find_percentile([3.0, 1.0], 50) == 1.0
    with pytest.raises(ValueError, match="no request was answered"):
        find_percentile([], 50)


def test_samples_of_several_turns_add_up() -> None:
    sample = Sample([1.0, 2.0], Counter({200: 2}), 0.5)
    sample.add(Sample([9.0, 4.0], Counter({200: 1, 503: 1}), 1.5))
    assert sample.statuses == {200: 3, 503: 1}
    assert sample.summarize() == Summary(p50=2.0, p99=9.0, per_second=2.0, requests=4)
    assert guesses.count_refused(sample) == {"503": 1}


def make_report() -> Report:
    servers = [
        Server(name, f"title of {name}", Summary(p50, p50 * 2, 1000 / p50, 100), Summary(p50, p50, 4000 / p50, 400))
        for name, p50 in {"login": 5.0, "rights": 4.5, "open": 4.0, "stock_login": 250.0, "stock_open": 50.0}.items()
    ]
    flood = guesses.Flood(
        servers[0].one, Summary(9.0, 40.0, 90.0, 90), {"503": 2}, {"401": 30, "429": 1970, "0": 1}, 2001, 10.0
    )
    return Report(
        Machine(2, 0.1), servers, flood, guesses.Timing(100.0, 5.0, 1e-9, 1.0, (40, 39), {"401": 79, "429": 1})
    )


def test_the_ratios_are_of_the_right_servers() -> None:
    found = {comparison.name: (comparison.value, comparison.is_reached) for comparison in make_report().compare()}
    assert found == {
        "login_cost": (0.5, True),
        "rights_cost": (1.0, None),
        "login_ratio": (pytest.approx(5 / 4), None),
        "faster_than_stock": (50.0, True),
        "more_than_stock": (50.0, None),
        "faster_than_open_stock": (10.0, None),
        "guessed_p99": (4.0, False),
        "known_to_unknown": (20.0, None),
        "timing_chance": (1e-9, False),
    }


def test_the_tables_have_every_server_and_every_comparison() -> None:
    report = make_report()
    text = report.to_text()
    for server in report.servers:
        assert f"{server.title} " in text
    for comparison in report.compare():
        assert f"\n{comparison.title} " in text
    assert "guesses meant: 2001, answered: no answer: 1, 401: 30, 429: 1970" in text
    assert "refused: 503: 2" in text
    assert any(line.split()[-6:] == ["4.00", "x", "≤", "3", "x", "NO"] for line in text.splitlines())
    assert report.to_data()["comparisons"][0]["is_reached"] is True
    assert report.to_data()["servers"][3]["one"]["p50"] == 250.0


def test_a_busy_machine_is_named() -> None:
    assert "NOT QUIET" not in Machine(2, 0.4).describe()
    assert (
        Machine(2, 0.5, "P", "day").describe().startswith("day, P, 2 cores, load 0.5 when the bench began: NOT QUIET")
    )


def test_small_numbers_are_shown() -> None:
    assert Comparison("", "p", 1e-9, "").to_row() == ["p", "1e-09", "", ""]
    assert Comparison("", "p", 0.5, "", "≥", 0.01).to_row() == ["p", "0.50", "≥ 0.01", "yes"]


def test_guesses_that_were_all_throttled_are_no_measurement() -> None:
    with pytest.raises(guesses.GuessError, match=r"can be timed: 401: 1, 429: 4"):
        guesses.compare([], [1.0], {"429": 4, "401": 1})


def test_a_goal_is_reached_at_its_bound() -> None:
    assert Comparison("", "", 30, "x", "≥", 30).is_reached
    assert not Comparison("", "", 29.99, "x", "≥", 30).is_reached
    assert Comparison("", "", 1, "ms", "≤", 1).is_reached
    assert not Comparison("", "", 1.01, "ms", "≤", 1).is_reached


def test_columns_stand_below_each_other() -> None:
    assert render(["a", "b"], [["long", "1"], ["x", "100"]]) == "a       b\nlong    1\nx     100"


def test_another_twin_has_a_place_more() -> None:
    changed = gateway.add_empty(TEMPLATE).splitlines()
    added = [line for line in changed if line not in TEMPLATE.splitlines()]
    assert added == ["location = /empty { proxy_pass http://mlflow/_stack/auth; }"]
    assert len(changed) == len(TEMPLATE.splitlines()) + 1
    with pytest.raises(gateway.TemplateError, match=r"has 'location / \{' 0 times"):
        gateway.add_empty("")


def test_the_twin_of_the_gateway_lacks_one_line() -> None:
    changed = gateway.drop_login(TEMPLATE)
    assert "auth_request /_stack/auth" not in changed
    dropped = [line for line in TEMPLATE.splitlines() if line not in changed.splitlines()]
    assert [line.strip() for line in dropped] == ["auth_request /_stack/auth;"]
    assert len(TEMPLATE.splitlines()) == len(changed.splitlines()) + 1


@pytest.mark.parametrize(
    "template", ["", "    # auth_request /_stack/auth;\n", TEMPLATE.replace("/_stack/auth;", "/x;"), TEMPLATE * 2]
)
def test_a_template_that_is_not_known_is_refused(template: str) -> None:
    with pytest.raises(gateway.TemplateError, match=r"not once: make bench/gateway\.py follow it"):
        gateway.drop_login(template)


def test_guesses_take_turns_between_users_and_nobodies() -> None:
    names = list(itertools.islice(guesser.make_names(["a", "b"]), 6))
    assert names[::2] == ["a", "b", "a"]
    assert len(set(names[1::2])) == 3
    assert all(name.startswith("nobody-") for name in names[1::2])


def test_the_same_times_are_told_from_different_ones() -> None:
    source = random.Random(7)
    known, unknown = ([source.gauss(5, 1) for _ in range(200)] for _ in range(2))
    same = guesses.compare(known, unknown, {})
    different = guesses.compare([value + 1 for value in known], unknown, {})
    assert same.chance > 0.01 > different.chance
    assert same.distance < different.distance


def make_toured() -> Toured:
    times = {"fast": 2.0, "replay": 6.0, "stock_open": 10.0, "stock_login": 300.0}
    done = {
        server: {task: Done(p50, p50, 10, 1.5, dict.fromkeys(clients.SERVICES[server], 0.4)) for task in clients.TASKS}
        for server, p50 in times.items()
    }
    idle = {
        server: {service: Usage(1.0, 160.0 if server == "fast" else 960.0) for service in services}
        for server, services in clients.SERVICES.items()
    }
    return Toured(Machine(2, 0.1), done, idle, idle)


def test_what_clients_wait_for_is_compared_with_stock_and_with_what_they_take_themselves() -> None:
    found = {comparison.name: (comparison.value, comparison.is_reached) for comparison in make_toured().compare()}
    assert found["log_metric"] == (5.0, True)
    assert found["search_runs"] == (5.0, True)
    assert found["autolog"] == (5.0, None)
    assert found["most log_batch"] == (10 / 1.5, None)
    assert found["idle"] == (640.0, False)
    assert found["idle_stock"] == (3.0, None)


def test_the_table_of_clients_has_every_task_and_service() -> None:
    toured = make_toured()
    text = toured.to_text()
    for title, _ in clients.TASKS.values():
        assert text.count(f"\n{title} ") == 4
    for server in ("fast", "stock_open"):
        for service in clients.SERVICES[server]:
            assert f"\n{metadata.TITLES[server]}: {service} " in text
    assert toured.to_data()["clients"]["done"]["replay"]["autolog"]["p50"] == 6.0


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (1, 1), (3, 3), (7, 7), (1000, 1000)])
def test_calls_are_shared_out_to_all_rounds(count: int, expected: int) -> None:
    shares = clients.share(count, 5)
    assert sum(shares) == expected
    assert max(shares) - min(shares) <= 1


def test_calls_are_summarized() -> None:
    assert clients.summarize([1.0, 9.0, 2.0, 4.0], 0.01, {"nginx": 0.002}) == Done(2.0, 0.016, 4, 2.5, {"nginx": 0.5})


def test_a_plot_of_what_clients_wait_for(tmp_path: Path) -> None:
    make_toured().plot(tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert all(title in text for title in ("<!-- this stack -->", "<!-- autolog of a forest of 100 trees -->"))


def test_a_client_that_ends_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("PYTHONPATH", "tests")  # as ./stack sets it
    with pytest.raises(clients.ClientError, match=r"the client ended in 'log_metric':\n(.*\n)*.*[Rr]efused"):
        clients.User(("nobody", ""), "http://127.0.0.1:9", tmp_path / "log")


def test_what_is_done_is_what_is_shown() -> None:
    assert list(user.TASKS) == list(clients.TASKS)
    assert set(clients.GOALS) <= set(clients.TASKS)
    assert set(clients.SERVICES) == set(metadata.SERVICES) == set(metadata.TITLES)
    assert effort.QUICK.client_divisor > effort.USUAL.client_divisor == 1


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "memory.stat": "anon 3000000\nfile 7\n"},
        {"cpuacct/cpuacct.usage": "2500000000\n", "memory/memory.stat": "cache 7\nrss 1\ntotal_rss 3000000\n"},
    ],
)
def test_usage_is_read_from_either_kind_of_cgroup(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert usage.read(tmp_path) == Usage(2.5, 3.0)


def test_a_floor_is_an_empty_request_and_its_statement() -> None:
    empty = {name: (Summary(0.5, 1.0, 2000.0, 100), Summary(2.0, 4.0, 4000.0, 400)) for name in floors.EMPTY}
    found = Floors(empty, {"log-metric": 4000.0})
    assert found.find("log-metric") == 2000.0
    row = next(line.split() for line in found.to_text({"log-metric": 1500.0}).splitlines() if "log-metric" in line)
    assert row == ["log-metric", "4000", "2000", "1500", "0.75"]


def test_every_floor_is_of_a_question_that_is_asked() -> None:
    statements = floors.write_statements(metadata.EXPERIMENT, metadata.RUN, metadata.FOUND)
    assert set(statements) <= set(metadata.QUESTIONS)
    assert all(";" not in statement for statement in statements.values())
    assert floors.RATE.findall("tps = 812.5 (without initial connection time)\n") == ["812.5"]
