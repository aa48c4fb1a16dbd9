"""The verbs that only look."""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

import pytest

from canary_middleware import Canary
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.tallies import BOUNDS_S
from canary_middleware._views.status import stages_of
from canary_middleware.errors import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Terminal


def counted(
    n: int,
    *,
    rollout: str = "checkout",
    version: str = "v1",
    role: str = "stable",
    error: str | None = None,
    reason: str = "weight",
) -> dict[str, object]:
    """*n* requests of 20 ms in the store's plain form."""
    key = json.dumps([rollout, version, role, reason, "GET", 500 if error else 200, "/", error, False])
    return {key: {"s": 0.02 * n, str(bisect_left(BOUNDS_S, 0.02)): n}}


def test_one_screen_says_where_it_stands(terminal: Terminal) -> None:
    terminal.ok("stage", "2", "--yes")
    revision = terminal.control.rollout("checkout").revision
    terminal.beat("host:1:aa", revision=revision)
    terminal.beat("host:2:bb", revision=0, stale_s=30.0, note="plan.toml is broken")
    now = int(terminal.store.now())
    terminal.store.add_counts("w", 1, now, counted(60))
    terminal.store.add_counts("w", 2, now, counted(39, version="v2", role="canary"))
    terminal.store.add_counts("w", 3, now, counted(1, version="v2", role="canary", error="500"))

    text = terminal.ok("status")
    data = terminal.json("status")

    for part in (
        *("checkout", "progressing", "set 50 %", "actual 40.0 %", "✔ 10 %", "● 50 %", "○ 100 %"),
        *("✔ healthy", "2.50%", "1 of 2 at revision 1"),
        *("host:2:bb: at revision 0", "last in step with the store 30 s before that", "plan.toml is broken", "ada"),
    ):
        assert part in text
    assert (data["weight"], data["actual"], data["revision"]) == (50, 40, 1)
    assert data["versions"]["v2"]["error_rate"] == pytest.approx(0.025)


def test_the_exit_code_is_the_worst_of_all_rollouts(terminal: Terminal) -> None:
    terminal.declare("search")
    codes = [terminal.run("status").exit_code]
    terminal.ok("set", "5", "search")
    codes.append(terminal.run("status").exit_code)
    terminal.ok("rollback", "checkout")
    codes.append(terminal.run("status").exit_code)

    assert codes == [0, 3, 1]
    assert terminal.run("status", "search").exit_code == 3
    assert len(terminal.json("status", code=1)) == 2


def test_limits_stand_beside_the_figures_of_the_moment(terminal: Terminal) -> None:
    terminal.declare(
        "search",
        criteria={"error_rate": {"max": 0.01, "max_increase": 0.005}, "p95": {"max_ratio": 1.1}, "min_requests": 1000},
        guardrails={"p95": {"max": "2s"}, "availability": {"min": 0.99}, "exceptions": {"count": 5, "within": "10s"}},
    )
    before = terminal.json("status", "search")
    now = int(terminal.store.now())
    for n, counts in enumerate(
        (
            counted(98, rollout="search"),
            counted(2, rollout="search", error="500"),
            counted(100, rollout="search", version="v2", role="canary"),
        )
    ):
        terminal.store.add_counts("w", n, now, counts)

    lines = {" ".join(line.split()) for line in terminal.ok("status", "search").splitlines()}

    assert {
        "Criteria error rate ≤ 1 % now 0 % ✔",
        "error rate ≤ v1 + 0.5 points now -2 points ✔",
        "p95 ≤ v1 × 1.1 now × 1.00 ✔",
        "requests ≥ 1,000 now 100 ✖",
        "Guardrails availability ≥ 99 % now 100 % ✔",
        "p95 ≤ 2,000 ms now 19.89 ms ✔",
        "exceptions < 5 within 10s – ?",
    } <= lines
    assert {one["holds"] for one in before["criteria"]} == {None, False}


def test_several_rollouts_are_a_line_each(terminal: Terminal) -> None:
    terminal.declare("search", stages=[])
    terminal.ok("start", "checkout")
    terminal.beat(revision=1)
    terminal.store.add_counts("w", 1, int(terminal.store.now()), counted(10, version="v2", role="canary", error="500"))

    head, checkout, search = terminal.ok("status").splitlines()

    assert head.split()[:3] == ["Rollout", "Phase", "set"]
    assert checkout.split() == [
        *("checkout", "progressing", "10", "%", "100.0", "%", "1", "of", "3", "10", "100.00%", "19.9", "✖", "failing"),
        *("1", "of", "1"),
    ]
    assert search.split() == ["search", "idle", "0", "%", "–", "–", "0", "–", "–", "?", "unknown", "0", "of", "1"]


def test_a_rollout_that_waits_for_approval_needs_a_human(terminal: Terminal) -> None:
    terminal.ok("start")
    terminal.control.change("checkout", "hold", lambda r: transitions.hold(r, "approval"), actor="controller")

    assert terminal.run("status").exit_code == 3


def test_wait_for_returns_when_the_phase_is_reached(terminal: Terminal) -> None:
    terminal.ok("start")
    pause = threading.Timer(0.3, lambda: terminal.control.change("checkout", "pause", transitions.pause, actor="grace"))
    pause.start()

    result = terminal.run("status", "--wait-for", "paused", "--timeout", "20s")
    pause.join()

    assert result.exit_code == 3
    assert "paused (manual)" in result.stdout


def test_wait_for_ends_with_4_when_time_is_over_and_1_when_it_cannot_come(terminal: Terminal) -> None:
    late = terminal.run("status", "--wait-for", "completed", "--timeout", "0s")
    terminal.ok("rollback")
    never = terminal.run("status", "--wait-for", "completed")

    assert (late.exit_code, never.exit_code) == (4, 1)
    assert "still idle after 0 s" in late.stderr
    assert "will not become completed" in never.stderr


def test_a_timeout_that_is_no_duration_is_named(terminal: Terminal) -> None:
    result = terminal.run("status", "--wait-for", "completed", "--timeout", "soon")

    assert result.exit_code == 2
    assert "--timeout" in result.stderr


def test_history_is_newest_first_and_of_one_rollout_when_asked(terminal: Terminal) -> None:
    terminal.declare("search")
    terminal.ok("set", "5", "checkout", "--reason", "first step")

    every, one = terminal.json("history"), terminal.json("history", "search")

    assert [row["verb"] for row in every] == ["set", "register", "register"]
    assert [row["rollout"] for row in one] == ["search"]
    assert "0 → 5 %" in terminal.ok("history")
    assert "first step" in terminal.ok("history")
    assert terminal.run("history", "serch").exit_code == 2


def test_what_people_wrote_is_shown_as_they_wrote_it_and_moves_no_cursor(terminal: Terminal) -> None:
    terminal.ok("set", "5", "--reason", "see [/docs] and [red]this[/] :smile: \x1b[2J\x1b[H gone")
    terminal.ok("pause", "--reason", "[/]")
    text = terminal.ok("history") + terminal.run("status").stdout

    assert "see [/docs] and [red]this[/] :smile: ?[2J?[H gone" in text
    assert "paused ([/])" in text
    assert "\x1b" not in text


def test_explain_agrees_with_what_a_server_would_do(terminal: Terminal, url: str) -> None:
    terminal.ok("set", "50", "--yes")
    canary = Canary("checkout", stages=[10, 50, 100], environ={})
    canary.serve(terminal.control.rollout("checkout"))

    said = [terminal.json("explain", f"user-{n}") for n in range(20)]

    assert [one["version"] for one in said] == [canary.version_for(f"user-{n}") for n in range(20)]
    assert {one["version"] for one in said} == {"v1", "v2"}
    assert all((one["version"] == "v2") == (one["enters_at"] <= 50) for one in said)
    assert "Bucket" in terminal.ok("explain", "user-1")
    assert terminal.run("explain", "").exit_code == 3


def test_export_is_plan_and_state_in_one_document(terminal: Terminal) -> None:
    terminal.ok("stage", "2", "--yes")

    document = json.loads(terminal.ok("export"))

    assert document["rollout"]["checkout"]["stages"][0]["weight"] == 10
    assert document["state"]["weight"] == 50
    assert [stage["status"] for stage in document["state"]["stages"]] == ["completed", "in_progress", "pending"]
    Canary.load({"rollout": document["rollout"]}, environ={})


def test_a_rollout_that_was_rolled_back_has_no_stage_in_progress(terminal: Terminal) -> None:
    rolled_back = transitions.roll_back(transitions.start(terminal.control.rollout("checkout")), "x")

    assert {stage["status"] for stage in stages_of(rolled_back)} == {"pending"}


def test_a_plan_without_stages_says_what_moves_it(terminal: Terminal) -> None:
    terminal.declare("flat", stages=[])

    assert "`canary set` moves its weight" in terminal.ok("stage", "list", "flat")


# -- which store ----------------------------------------------------------------------------------------------------


def test_no_store_says_how_to_name_one(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    result = terminal.run("status", CANARY_STORE="")

    assert result.exit_code == 2
    assert "--store sqlite:///var/canary.db, set CANARY_STORE" in result.stderr


def test_the_plan_in_the_current_directory_names_the_store(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    (tmp_path / "canary.toml").write_text('store = "sqlite:///canary.db"\n[rollout.checkout]\nstages = [10]\n')

    assert "checkout" in terminal.ok("status", CANARY_STORE="")
    assert "checkout" in terminal.ok("status", "--plan", "canary.toml", CANARY_STORE="")


def test_a_file_that_is_not_there_is_not_made(terminal: Terminal, tmp_path: Path) -> None:
    result = terminal.run("status", "--store", f"sqlite:///{tmp_path}/typo.db")

    assert result.exit_code == 5
    assert "there is no such file" in result.stderr
    assert not (tmp_path / "typo.db").exists()


@pytest.mark.parametrize(
    ("store", "code", "said"),
    [
        ("memory:", 2, "inside the service's process"),
        ("mysql://x", 2, "no store is called 'mysql'"),
        ("redis://127.0.0.1:1/0", 5, "127.0.0.1:1"),
    ],
)
def test_a_store_that_cannot_be_reached_says_why(terminal: Terminal, store: str, code: int, said: str) -> None:
    result = terminal.run("status", "--store", store)

    assert result.exit_code == code
    assert said in result.stderr


def test_an_error_is_json_too(terminal: Terminal) -> None:
    assert terminal.json("status", "nope", code=2)["exit_code"] == 2


def test_an_empty_store_says_what_fills_it(terminal: Terminal, tmp_path: Path) -> None:
    from canary_middleware import open_store

    empty = f"sqlite:///{tmp_path}/empty.db"
    store = open_store(empty)
    store.read()
    store.close()

    result = terminal.run("status", "--store", empty)

    assert result.exit_code == 2
    assert "start the service that declares one" in result.stderr


def test_several_rollouts_need_a_name_to_be_changed(terminal: Terminal) -> None:
    terminal.declare("search")

    result = terminal.run("set", "5")

    assert result.exit_code == 2
    assert "There are checkout, search" in result.stderr


# -- what a terminal sees -------------------------------------------------------------------------------------------


def test_off_a_terminal_there_is_no_colour_and_no_line_is_folded(terminal: Terminal) -> None:
    long = "a reason that is far longer than the eighty columns of a terminal " * 3
    terminal.ok("set", "5", "--reason", long.strip())

    text = terminal.ok("history", COLUMNS="80")

    assert "\x1b" not in text
    assert long.strip() in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion_script(terminal: Terminal, shell: str) -> None:
    assert "_CANARY_COMPLETE" in terminal.ok("completion", shell)
    assert "_CANARY_COMPLETE" in terminal.ok("completion", SHELL=f"/bin/{shell}")
    assert terminal.run("completion", SHELL="/bin/tcsh").exit_code == 2


def test_completion_knows_the_rollouts(terminal: Terminal) -> None:
    said = terminal.run(_CANARY_COMPLETE="bash_complete", COMP_WORDS="canary status che", COMP_CWORD="2")
    away = terminal.run(
        _CANARY_COMPLETE="bash_complete", COMP_WORDS="canary status c", COMP_CWORD="2", CANARY_STORE="memory:"
    )

    assert said.stdout.split() == ["plain,checkout"]
    assert away.stdout.strip() == ""


def test_without_a_user_name_the_actor_is_the_user_id(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)

    terminal.ok("set", "5", CANARY_ACTOR="")

    assert terminal.json("history")[0]["actor"] == f"uid {os.getuid()}"


def test_watching_goes_on_while_the_store_is_away(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def sleep(_seconds: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            monkeypatch.setattr(terminal.store.__class__, "read", away)
        if len(looks) == 4:
            raise KeyboardInterrupt

    def away(*_: object) -> None:
        raise StoreUnavailable("the store is on holiday")

    monkeypatch.setattr("canary_middleware.cli.views._sleep", sleep)

    result = terminal.run("status", "--watch", FORCE_COLOR="1", TERM="xterm")

    assert "idle" in result.stdout
    assert "the store is on holiday" in result.stdout
    assert result.exit_code == 0


def test_watching_in_json_prints_a_line_per_change(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def sleep(_seconds: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            terminal.control.change("checkout", "start", transitions.start, actor="grace")
        if len(looks) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("canary_middleware.cli.views._sleep", sleep)

    lines = terminal.run("status", "--watch", "--json").stdout.splitlines()

    assert [json.loads(line)["weight"] for line in lines] == [0, 10]
