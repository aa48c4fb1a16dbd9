"""Prometheus as the source: counters differenced exactly, and whatever is wrong with it said, never taken for harm."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from canary_middleware._control.prometheus import LARGEST_ANSWER, MOST_STEPS, PrometheusSource, SourceAway, ticks_of
from canary_middleware._core.plan.durations import bucket
from canary_middleware._core.plan.schema import MetricsSource, parse, to_mapping
from canary_middleware.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fake:
    """Answers every query with *body*, and remembers what was asked."""

    def __init__(self) -> None:
        self.body: bytes = b""
        self.status = 200
        self.asked: list[dict[str, list[str]]] = []
        self.tokens: list[str | None] = []
        self.url = ""

    def holds(self, *series: tuple[dict[str, str], list[tuple[float, object]]]) -> None:
        result = [
            {"metric": labels, "values": [[at, str(value)] for at, value in samples]} for labels, samples in series
        ]
        self.body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as found:
        yield found


@contextmanager
def serving() -> Iterator[Fake]:
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append(parse_qs(urlsplit(self.path).query))
            fake.tokens.append(self.headers.get("Authorization"))
            self.send_response(fake.status)
            self.send_header("Content-Length", str(len(fake.body)))
            self.end_headers()
            self.wfile.write(fake.body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def source(fake: Fake, **options: Any) -> PrometheusSource:
    settings = {"step_s": 10.0, "delay_s": 5.0, **options}
    return PrometheusSource(MetricsSource(fake.url, **settings), "shop", {"TOKEN": "secret"})


def labels(version: str, le: str, error: str = "", instance: str = "a") -> dict[str, str]:
    found = {"canary_version": version, "canary_rollout": "shop", "le": le, "instance": instance, "job": "x"}
    return {**found, "error_type": error} if error else found


def test_a_step_holds_what_was_counted_in_it(fake: Fake) -> None:
    fake.holds(
        (labels("v1", "0.1"), [(100, 5), (110, 15)]),
        (labels("v1", "0.25"), [(100, 5), (110, 18)]),
        (labels("v1", "+Inf"), [(100, 5), (110, 20)]),
        (labels("v2", "+Inf", "500"), [(100, 1), (110, 3)]),
        (labels("v2", "+Inf", "TimeoutError"), [(100, 0), (110, 1)]),
    )
    (window,) = source(fake).read(90, 116)

    assert window.begin == 100
    v1, v2 = window.sides["v1"], window.sides["v2"]
    assert (v1.requests, v1.failures) == (15, 0)
    # The geometric middle of each pair of bounds; half of the first, and half as much again as the last.
    assert v1.durations == {bucket(0.05): 10, bucket((0.1 * 0.25) ** 0.5): 3, bucket(0.25 * 1.5): 2}
    assert (v2.requests, v2.failures, v2.unavailable) == (3, 3, 1)


def test_steps_without_traffic_are_there_and_empty(fake: Fake) -> None:
    fake.holds((labels("v1", "+Inf"), [(100, 5), (110, 5), (120, 9)]))
    first, second = source(fake).read(90, 125)

    assert (first.begin, first.sides) == (100, {})
    assert second.sides["v1"].requests == 4


def test_a_counter_that_begins_anew_loses_nothing_and_adds_nothing(fake: Fake) -> None:
    fake.holds((labels("v1", "+Inf"), [(100, 50), (110, 60), (120, 7)]))

    assert [w.sides["v1"].requests for w in source(fake).read(90, 126)] == [10, 7]


def test_a_new_kind_of_outcome_counts_from_nothing_a_new_process_does_not(fake: Fake) -> None:
    fake.holds(
        (labels("v2", "+Inf"), [(100, 5), (110, 8)]),
        (labels("v2", "+Inf", "500"), [(110, 4)]),
        (labels("v2", "+Inf", instance="late"), [(110, 1000)]),
    )
    (window,) = source(fake).read(90, 116)

    assert (window.sides["v2"].requests, window.sides["v2"].failures) == (7, 4)


def test_behind_a_gap_nothing_is_counted_at_once(fake: Fake) -> None:
    fake.holds((labels("v1", "+Inf"), [(100, 5), (130, 500), (140, 501)]))

    assert [sum(s.requests for s in w.sides.values()) for w in source(fake).read(90, 146)] == [0, 0, 0, 1]


@pytest.mark.parametrize("odd", ["NaN", "+Inf", "-3"])
def test_samples_that_are_no_counts_are_passed_over(fake: Fake, odd: str) -> None:
    fake.holds((labels("v1", "+Inf"), [(100, 5), (110, odd), (120, 9)]))

    assert sum(side.requests for w in source(fake).read(90, 126) for side in w.sides.values()) == 0


def test_nothing_is_asked_before_a_step_is_complete(fake: Fake) -> None:
    assert source(fake).read(100, 114) == []
    assert fake.asked == []


def test_it_asks_for_one_rollout_in_bounded_pieces_with_its_token(fake: Fake) -> None:
    fake.holds((labels("v1", "+Inf"), [(1e6, 1)]))
    source(fake, token_env="TOKEN").read(0, 1_000_005)
    (asked,) = fake.asked

    assert 'canary_rollout="shop"' in asked["query"][0]
    assert float(asked["end"][0]) - float(asked["start"][0]) == MOST_STEPS * 10
    assert fake.tokens == ["Bearer secret"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b"out of memory", "answers 500: out of memory"),
        (401, b"", "answers 401"),
        (200, b"<html>", "answers no JSON: is it Prometheus's HTTP API?"),
        (200, b"[]", "its answer cannot be read"),
        (200, b'{"status": "error", "error": "bad query"}', "it answers bad query"),
        (200, b'{"status": "success", "data": {"result": [{"metric": {}, "values": [["x", 1]]}]}}', "cannot be read"),
        (200, b'{"status": "success", "data": {"result": []}}', "let it scrape the service"),
        (200, b" " * (LARGEST_ANSWER + 1), "make `step` longer"),
    ],
)
def test_what_is_wrong_with_it_is_said(fake: Fake, status: int, body: bytes, said: str) -> None:
    fake.status, fake.body = status, body

    with pytest.raises(SourceAway, match=r"^prometheus: ") as error:
        source(fake).read(90, 200)
    assert said in str(error.value)


def test_one_that_does_not_answer_is_named_with_who_must_do_what() -> None:
    with serving() as gone:
        pass

    with pytest.raises(SourceAway, match=r"does not answer .*: start it, or mend `source`"):
        source(gone).read(90, 200)


def test_windows_become_ticks(fake: Fake) -> None:
    fake.holds((labels("v1", "+Inf"), [(100, 5), (110, 15)]), (labels("v2", "+Inf"), [(100, 5), (110, 6)]))
    (tick,) = ticks_of(source(fake).read(90, 116), "v1", "v2", lambda at: at, 10.0)

    assert (tick.at_s, tick.weight_ppm, tick.seconds) == (100, 100, 10.0)
    assert (tick.stable.requests, tick.canary.requests) == (10, 1)


def test_a_bound_that_is_none_counts_as_the_last(fake: Fake) -> None:
    fake.holds((labels("v1", "much"), [(100, 5), (110, 15)]))
    (window,) = source(fake).read(90, 116)

    assert window.sides["v1"].requests == 10


# -- the plan --------------------------------------------------------------------------------------------------------


def test_the_plan_names_the_source_and_keeps_it() -> None:
    table = {"prometheus": "http://prom:9090/", "step": "30s", "delay": "1m", "token_env": "PROM_TOKEN"}
    plan = parse({"rollout": {"shop": {"stages": [10], "source": table}}})

    assert plan.rollouts[0].source == MetricsSource("http://prom:9090", 30.0, 60.0, "PROM_TOKEN")
    assert parse(to_mapping(plan)) == plan


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prometheus": "prom:9090"}, "must be the URL of its HTTP API"),
        ({"prometheus": "http://p", "step": "0s"}, "step"),
        ({"promethus": "http://p"}, "did you mean"),
    ],
)
def test_a_wrong_source_is_named(table: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"rollout": {"shop": {"stages": [10], "source": table}}})


@pytest.mark.parametrize(
    ("criteria", "message"),
    [({"custom": {"cart": {"min": 1}}}, "cannot be with custom limits"), ({"min_identities": 5}, "min_identities")],
)
def test_what_prometheus_cannot_tell_is_refused_in_one_plan_with_it(criteria: dict[str, Any], message: str) -> None:
    stage = {"weight": 10, "criteria": criteria}

    with pytest.raises(ConfigError, match=message):
        parse({"rollout": {"shop": {"stages": [stage], "source": {"prometheus": "http://p"}}}})
