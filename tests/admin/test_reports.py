"""What people report by the admin API: recorded, judged, and acted on where the plan says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware.admin import create_app

from .conftest import TOKEN, ask, make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUARDED: dict[str, Any] = {
    "criteria": {"feedback": {"min": 1}},
    "guardrails": {"severe_bugs": {"max": 0}},
}


class Desk:
    """Somebody with the token."""

    def __init__(self, url: str, **fields: Any) -> None:
        self.canary = make(store=url, **{**GUARDED, **fields})
        self._app = create_app(self.canary, token=TOKEN)
        self.canary.start()

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return ask(self._app, "POST", path, body)

    def trail(self) -> list[str]:
        return [row["verb"] for row in ask(self._app, "GET", "/history")[1]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/canary.db"


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    found = Desk(url)
    yield found
    found.canary.close()


def test_feedback_is_recorded_and_says_which_limit_it_meets(desk: Desk) -> None:
    status, said = desk.post("/feedback", text="nobody complains")

    assert (status, said["text"], said["change"]) == (200, "nobody complains", None)
    assert [(test["name"], test["verdict"]) for test in said["tests"]] == [("feedback min 1", "pass")]
    assert desk.trail()[0] == "feedback"


def test_a_severe_bug_rolls_back_before_the_answer(desk: Desk) -> None:
    status, said = desk.post("/bug", severity="severe", text="no total")
    again = desk.post("/bug", severity="severe", text="no tax")[1]

    assert (status, said["change"]["phase"], said["change"]["weight"]) == (200, "rolled_back", 0)
    assert (desk.canary.rollout().phase_reason, desk.canary.is_canary("u1")) == ("severe bug: no total", False)
    assert (again["change"], again["note"]) == (None, "no rollback: checkout is rolled back already")
    assert desk.trail()[:3] == ["bug", "rollback", "bug"]


def test_a_minor_bug_is_only_recorded(desk: Desk) -> None:
    said = desk.post("/bug", severity="minor", text="a typo")[1]

    assert (said["tests"], said["change"], desk.canary.rollout().phase) == ([], None, "progressing")


def test_a_severe_bug_may_only_pause_and_not_what_is_rolled_back(url: str) -> None:
    desk = Desk(url, guardrails={"severe_bugs": {"max": 0, "action": "pause"}})
    paused = desk.post("/bug", severity="severe", text="no total")[1]
    desk.canary.roll_back()
    refused = desk.post("/bug", severity="severe", text="no total")[1]
    desk.canary.close()

    assert paused["change"]["phase"] == "paused"
    assert refused["note"] == "no pause: checkout is rolled back already"


def test_a_pause_that_the_phase_does_not_allow_is_told(url: str) -> None:
    desk = Desk(url, guardrails={"severe_bugs": {"max": 0, "action": "pause"}})
    for _ in range(4):
        desk.canary.advance()
    assert desk.canary.rollout().phase == "completed"

    said = desk.post("/bug", severity="severe", text="no total")[1]
    desk.canary.close()

    assert said["change"] is None
    assert said["note"].startswith("no pause: cannot pause")


def test_without_a_store_there_is_nowhere_to_record_it() -> None:
    status, said = ask(create_app(make(), token=TOKEN), "POST", "/feedback", {"text": "fine"})

    assert (status, "no audit trail" in said["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/bug", {"text": "no total"}, "severity must be there: severe or minor"),
        ("/bug", {"text": "no total", "severity": "grave"}, "severity is 'grave': must be one of severe, minor"),
        ("/bug", {"severity": "minor"}, "text must be there"),
        ("/feedback", {}, "text must be there"),
        ("/feedback", {"text": " "}, "say in a sentence"),
        ("/feedback", {"text": "x" * 1001}, "1000 at most"),
        ("/feedback", {"text": "fine", "severity": "minor"}, "severity = 'minor' is not known"),
        ("/feedback", {"text": "fine", "rollout": "chekout"}, "did you mean 'checkout'?"),
    ],
)
def test_what_is_wrong_with_a_report_is_named(desk: Desk, path: str, body: dict[str, Any], said: str) -> None:
    status, problem = desk.post(path, **body)

    assert status == 400
    assert said in problem["detail"]
    assert desk.trail() == ["start", "register"]
