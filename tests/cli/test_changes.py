"""The verbs that change a rollout: one transition, one audit line, and the wait for the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.records import Worker
from canary_middleware._views import acknowledged
from canary_middleware._views.acknowledged import wait_for_workers
from canary_middleware.testing import FakeClock
from tests.support.fake_store import FakeStore

if TYPE_CHECKING:
    from .conftest import Terminal


def test_the_whole_plan_by_hand(terminal: Terminal) -> None:
    terminal.beat()
    seen = [
        terminal.json("start")["weight"],
        terminal.json("stage", "next")["weight"],
        terminal.json("approve")["weight"],
        terminal.json("promote", "--yes")["weight"],
        terminal.json("next")["phase"],
        terminal.json("next")["phase"],
    ]

    assert seen == [10, 50, 50, 100, "baking", "completed"]
    assert [row["verb"] for row in terminal.json("history")] == [
        *("promote", "promote", "promote", "approve", "promote", "start", "register"),
    ]


def test_a_staged_rollback_goes_one_stage_down_at_a_time(terminal: Terminal) -> None:
    terminal.json("set", "100", "--yes")

    weights = [terminal.json("rollback", "--to-previous")["weight"] for _ in range(3)]

    assert weights == [50, 10, 0]
    assert terminal.run("status").exit_code == 1


def test_who_why_and_from_where_are_in_the_audit(terminal: Terminal) -> None:
    terminal.ok("set", "25", "--actor", "grace", "--reason", "looks good")

    row = terminal.json("history", "--limit", "1")[0]

    assert (row["actor"], row["verb"], row["from"], row["to"], row["reason"]) == ("grace", "set", 0, 25, "looks good")


@pytest.mark.parametrize(
    ("words", "weight"),
    [(["25"], 25), (["25%"], 25), (["0.5", "checkout"], 0.5), (["checkout", "12.3456"], 12.3456), (["0"], 0)],
)
def test_a_weight_and_a_name_in_either_order(terminal: Terminal, words: list[str], weight: float) -> None:
    assert terminal.json("set", *words)["weight"] == weight


@pytest.mark.parametrize("weight", ["abc", "-1", "101", "nan", "inf", "1e9", "0.00001", ""])
def test_a_weight_that_is_none_changes_nothing_and_is_named(terminal: Terminal, weight: str) -> None:
    result = terminal.run("set", weight)

    assert result.exit_code == 2
    assert "weight" in result.stderr
    assert terminal.json("status")["revision"] == 0


def test_a_jump_of_half_the_users_is_asked_about(terminal: Terminal) -> None:
    refused = terminal.run("set", "60")

    assert refused.exit_code == 3
    assert "checkout jumps from 0 % to 60 %" in refused.stderr
    assert "--yes" in refused.stderr
    assert terminal.json("set", "60", "--yes")["weight"] == 60
    assert terminal.json("set", "100")["weight"] == 100


def test_a_person_at_a_terminal_may_say_no(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canary_middleware.cli.session._is_terminal", lambda: True)

    assert terminal.run("set", "80", answer="n\n").exit_code == 3
    assert terminal.json("status")["weight"] == 0
    assert terminal.run("set", "80", answer="y\n").exit_code == 0
    assert terminal.json("status", code=3)["weight"] == 80


def test_a_rollback_latches_until_a_retry(terminal: Terminal) -> None:
    terminal.ok("set", "30")
    assert terminal.json("abort", "--reason", "too slow")["phase_reason"] == "too slow"

    refused = terminal.run("set", "5")

    assert (refused.exit_code, terminal.run("status").exit_code) == (3, 1)
    assert "`canary retry`" in refused.stderr
    assert terminal.json("retry")["weight"] == 10


def test_pause_and_resume_stand_alone_and_under_stage(terminal: Terminal) -> None:
    terminal.ok("start")

    phases = [terminal.json(*words)["phase"] for words in (["pause"], ["resume"], ["stage", "pause"])]

    assert phases == ["paused", "progressing", "paused"]
    assert terminal.json("stage", "resume", "checkout")["phase"] == "progressing"


def test_stage_n_enters_it_and_list_marks_it(terminal: Terminal) -> None:
    terminal.json("stage", "2", "--yes")

    listed = terminal.ok("stage", "list")

    assert [stage["status"] for stage in terminal.json("stage")] == ["completed", "in_progress", "pending"]
    assert "until promoted, then approval" in listed
    assert terminal.run("stage", "4").exit_code == 3
    assert terminal.run("stage", "0").exit_code == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage", "nxt"], "did you mean 'next'"),
        (["stage", "1", "2"], "pass one of list, next"),
        (["stage", "list", "a", "b"], "pass one of list, next"),
        (["set"], "pass a weight in percent"),
        (["statsu"], "did you mean 'status'"),
        (["abrt"], "did you mean 'abort'"),
        (["xyzzy"], "No such command 'xyzzy'"),
        (["set", "5", "chekout"], "did you mean 'checkout'"),
    ],
)
def test_a_mistyped_line_is_told_what_was_meant(terminal: Terminal, words: list[str], said: str) -> None:
    result = terminal.run(*words)

    assert result.exit_code == 2
    assert said in result.stderr


def test_emergency_stops_every_rollout_and_off_leaves_them_rolled_back(terminal: Terminal) -> None:
    terminal.declare("search")
    terminal.ok("set", "40", "checkout")
    stopped = terminal.json("emergency", "--reason", "fire")

    assert {result["rollout"]: result["phase"] for result in stopped} == {"checkout": "locked", "search": "locked"}
    assert terminal.run("status").exit_code == 1
    assert "already" in terminal.ok("emergency", "on")
    assert {result["phase"] for result in terminal.json("emergency", "off")} == {"rolled_back"}
    assert terminal.json("emergency", "off") == []


def test_a_worker_that_hangs_delays_no_emergency_by_more_than_one_wait(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        terminal.declare(f"feature-{n}")
    terminal.beat(revision=0)
    monkeypatch.setattr("canary_middleware.cli.changes.TIMEOUT_S", 0.1)

    results = terminal.json("emergency", code=4)

    assert {result["phase"] for result in results} == {"locked"}
    assert sum(result["workers"]["seconds"] for result in results) < 1.0


def test_a_record_that_cannot_be_read_does_not_save_the_others_from_the_emergency(terminal: Terminal) -> None:
    terminal.declare("search")
    broken = {"schema": 99, "name": "future", "revision": 1, "plan": {}}
    event = terminal.control.event(terminal.control.rollout("search"), terminal.control.rollout("search"), "x", "x")
    terminal.store.write(broken, expect=None, event=event)

    result = terminal.run("emergency")

    assert result.exit_code == 2
    assert "future: the state has schema 99" in result.stderr
    assert {terminal.control.rollout(name).phase for name in ("checkout", "search")} == {"locked"}


def test_two_operators_at_once_one_wins_and_the_other_is_told_who(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile() -> bool:
        change = lambda r: transitions.set_weight(r, 700_000)  # noqa: E731 - a transition
        terminal.control.change("checkout", "set", change, actor="grace", reason="launch")
        return True

    monkeypatch.setattr("canary_middleware.cli.session._is_terminal", meanwhile)

    result = terminal.run("set", "60", answer="y\n")

    assert result.exit_code == 3
    assert "changed by grace (set: launch)" in result.stderr
    assert terminal.control.rollout("checkout").weight_ppm == 700_000


# -- the wait for the workers -------------------------------------------------------------------------------------


def beat(store: FakeStore, worker_id: str, revision: int, *, seen_s: float | None = None, pinned: bool = False) -> None:
    store.alive[worker_id] = Worker(
        id=worker_id,
        host="host",
        pid=1,
        seen_s=store.now() if seen_s is None else seen_s,
        revisions={"checkout": revision},
        pinned={"checkout": 100_000} if pinned else {},
    )


def test_it_returns_when_the_last_live_worker_has_acknowledged() -> None:
    store, clock = FakeStore(), FakeClock()
    beat(store, "a", 15)
    beat(store, "b", 14)
    beat(store, "elsewhere", 15, pinned=True)

    def later(seconds: float) -> None:
        clock.advance(seconds)
        if clock() > 0.3:
            beat(store, "b", 15)

    found = wait_for_workers(store, "checkout", 15, clock=clock, sleep=later)

    assert set(found.served) == {"a", "b", "elsewhere"}
    assert found.pinned == ("elsewhere",)
    assert found.sentence(15) == "3 of 3 workers at revision 15 after 0.35 s"


def test_it_names_who_is_missing_when_time_is_over() -> None:
    store, clock = FakeStore(), FakeClock()
    beat(store, "a", 15)
    beat(store, "b", 14)

    found = wait_for_workers(store, "checkout", 15, clock=clock, sleep=clock.advance)

    assert found.missing == ("b",)
    assert found.seconds >= acknowledged.TIMEOUT_S
    assert found.sentence(15).startswith("1 of 2 workers at revision 15")
    assert found.sentence(15).endswith("missing: b")


def test_nobody_waits_for_a_worker_that_was_killed() -> None:
    store, clock = FakeStore(), FakeClock()
    beat(store, "dead", 14, seen_s=store.now() - 11)

    found = wait_for_workers(store, "checkout", 15, clock=clock, sleep=clock.advance)

    assert (found.seconds, found.silent) == (0.0, ("dead",))
    assert found.sentence(15).startswith("revision 15 is stored; no worker is running; silent for over 10 s")


def test_a_missing_worker_is_a_timeout(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canary_middleware.cli.changes.TIMEOUT_S", 0.0)
    terminal.beat("host:7:late", revision=0)

    result = terminal.run("set", "5")

    assert result.exit_code == 4
    assert "0 of 1 workers at revision 1" in result.stdout
    assert "missing: host:7:late" in result.stdout


def test_a_worker_whose_environment_pins_the_weight_is_named(terminal: Terminal) -> None:
    terminal.beat("host:8:pinned", pinned={"checkout": 100_000})

    assert "the environment pins the weight in host:8:pinned" in terminal.ok("set", "5")
    assert "its environment pins the weight to 10 %" in terminal.run("status").stdout
