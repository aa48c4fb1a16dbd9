"""A plan file that is edited while the service runs: what is seen, what is taken, and what a broken edit leaves."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary
from canary_middleware._serving.plan_watch import Edits, PlanFile, PlanWatch, _watch
from canary_middleware.errors import ConfigError
from tests.core.heads import Head
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from weakref import ref

BASE = 'stages = [10, 50, 100]\nkey = ["header:x-user"]\n'


def text(body: str = BASE, name: str = "checkout", top: str = "") -> str:
    return f"{top}\n[rollout.{name}]\n{body}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "canary.toml"
    path.write_text(text())
    return path


def replace(path: Path, content: str) -> None:
    """As editors and configuration tools save: a new file takes the old one's name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    fresh.replace(path)


class Watched:
    """A Canary of a plan file, without a store and without its thread: looked after by hand."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.canary = Canary.load(path, **{"environ": {}, **options})
        assert self.canary._watch is not None
        self.watch = self.canary._watch

    def look(self) -> None:
        # An edit is taken when it looks the same twice.
        self.watch.tick()
        self.watch.tick()

    def edit(self, content: str) -> Canary:
        replace(self.path, content)
        self.look()
        return self.canary

    @property
    def problem(self) -> str:
        return self.canary.plan_problem or ""


@pytest.fixture
def watched(path: Path) -> Watched:
    return Watched(path)


# -- the file ------------------------------------------------------------------------------------------------------


def test_a_file_that_stays_the_same_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PlanFile(path)
    monkeypatch.setattr("canary_middleware._serving.plan_watch.read_plan", lambda _: pytest.fail("it was read"))

    assert [file.look() for _ in range(3)] == [None] * 3


def test_a_file_that_is_being_written_is_left_alone_until_it_rests(path: Path) -> None:
    file = PlanFile(path)
    for n in range(5):
        # Valid so far, and yet not what the author meant.
        path.write_text(text(f"stages = [{', '.join(str(10 * (m + 1)) for m in range(n + 1))}]\n"))
        assert file.look() is None
    found = file.look()

    assert found is not None
    assert len(found.rollouts[0].stages) == 5


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    from canary_middleware._serving import plan_file as planfile
    from canary_middleware._serving import plan_watch as module

    file = PlanFile(path)
    original = planfile.read_plan

    def read(where: Path) -> Any:
        found = original(where)
        replace(path, text("stages = [20]\n"))
        if is_broken:
            raise ConfigError("half of it")
        return found

    replace(path, text("stages = [15]\n"))
    file.look()
    with monkeypatch.context() as patched:
        patched.setattr(module, "read_plan", read)
        assert file.look() is None
    assert file.problem is None
    file.look()
    found = file.look()
    assert found is not None
    assert found.rollouts[0].stages[0].weight_ppm == 200_000


def test_an_edit_that_says_the_same_is_no_other_plan(path: Path) -> None:
    file = PlanFile(path)
    replace(path, "# a comment\n" + text())

    assert [file.look() for _ in range(3)] == [None] * 3


def test_an_edit_of_equal_length_with_its_time_set_back_is_seen(path: Path) -> None:
    file = PlanFile(path)
    before = path.stat()
    path.write_text(text().replace("50", "60"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    file.look()

    assert file.look() is not None


def test_an_exchanged_link_is_seen(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap so: canary.toml → ..data/canary.toml, ..data → the present version's folder."""
    for version, stages in (("one", "[10]"), ("two", "[20]")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "canary.toml").write_text(text(f"stages = {stages}\n"))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "canary.toml").symlink_to("..data/canary.toml")
    file = PlanFile(tmp_path / "canary.toml")
    (tmp_path / "fresh").symlink_to("two")
    (tmp_path / "fresh").replace(tmp_path / "..data")
    file.look()
    found = file.look()

    assert found is not None
    assert found.rollouts[0].stages[0].weight_ppm == 200_000


def test_a_relative_path_is_that_of_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    file = PlanFile("canary.toml")
    monkeypatch.chdir("/")
    replace(path, text("stages = [20]\n"))
    file.look()

    assert file.look() is not None
    assert file.name == "canary.toml"


# -- a Canary that follows it --------------------------------------------------------------------------------------


def test_an_edit_while_nothing_is_in_progress_is_in_force(watched: Watched) -> None:
    canary = watched.edit(text('weight = 100\nkey = ["header:x-account"]\nendpoints = ["GET /new"]\n'))

    exchange = canary.begin(Head(path="/new", headers={"x-account": "u1"}))
    assert exchange is not None
    assert exchange.assignment.version == "v2"
    assert canary.begin(Head(path="/old", headers={"x-account": "u1"})) is None
    assert canary.plan_problem is None
    canary.close()


def test_an_edit_during_a_rollout_pauses_it_where_it_stands(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.canary.start()

    canary = watched.edit(text(BASE + 'salt = "other"\n'))

    rollout = canary.rollout()
    assert (rollout.phase, rollout.phase_reason, rollout.weight_ppm) == ("paused", "config_changed", 100_000)
    assert rollout.plan.salt == "other"
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("canary plan of checkout changed: canary.toml: salt; 1")
    assert said.endswith(" % of identities change version; paused")


def test_an_edit_of_later_stages_is_in_force_without_a_pause(watched: Watched) -> None:
    watched.canary.start()

    canary = watched.edit(text(BASE.replace("50", "60")))

    assert canary.rollout().phase == "progressing"
    assert canary.advance().weight_ppm == 600_000


def test_a_latch_outlives_every_edit(watched: Watched) -> None:
    watched.canary.start()
    watched.canary.roll_back(reason="errors")

    canary = watched.edit(text(BASE + 'salt = "other"\n'))

    assert (canary.rollout().phase, canary.assign("u1").reason) == ("rolled_back", "rolled_back")


def test_a_weight_that_the_environment_pins_is_not_moved_by_an_edit(path: Path) -> None:
    watched = Watched(path, environ={"API_V2_TRAFFIC_PERCENTAGE": "30"})

    canary = watched.edit(text("weight = 100\n"))

    assert canary.rollout().effective_ppm == 300_000


@pytest.mark.parametrize("variable", [("API_V2_TRAFFIC_PERCENTAGE", "100"), ("USE_LEGACY_API_V1", "false")])
def test_what_the_environment_pins_of_one_canary_is_not_said_of_the_next(path: Path, variable: tuple[str, str]) -> None:
    watched = Watched(path, environ=dict([variable]))
    assert watched.canary.version_for("u1") == "v2"

    canary = watched.edit(text('stable = "v2"\ncanary = "v3"\n'))

    assert canary.version_for("u1") == "v2"
    assert watched.problem == "what the environment pins of checkout was said of other versions: restart to pin"
    assert canary.set_weight(0).pinned_ppm is None
    assert canary.version_for("u1") == "v2"


def test_versions_do_not_change_under_way_and_change_once_that_is_over(watched: Watched) -> None:
    watched.canary.start()
    canary = watched.edit(text(BASE + 'canary = "v3"\n'))

    assert canary.rollout().plan.canaries[0][0] == "v2"
    assert "canary.toml is not followed: cannot change the versions of 'checkout': it is progressing" in watched.problem
    canary.roll_back()
    watched.look()
    assert canary.rollout().plan.canaries[0][0] == "v3"
    assert canary.plan_problem is None


def test_what_was_changed_at_run_time_stays_unless_the_edit_is_of_it(path: Path) -> None:
    path.write_text(text('endpoints = ["GET /a"]\n'))
    watched = Watched(path)
    watched.canary.add_endpoint("GET /b")

    canary = watched.edit(text('endpoints = ["GET /a"]\nfallback = "never"\n'))

    assert canary.rollout().plan.endpoints == ("GET /a", "GET /b")
    assert canary.rollout().plan.fallback == "never"


BROKEN = {
    "half": ("[rollout.checkout]\nstages = [10,", "is no TOML"),
    "invalid": (text("weight = 101\n"), "rollout.checkout.weight is 101: must be 0 … 100"),
    "misspelt": (text("stagse = [10]\n"), "did you mean 'stages'?"),
    "empty": ("", "the plan holds no rollout"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_edit_changes_nothing_and_is_told_until_it_is_mended(
    watched: Watched, caplog: pytest.LogCaptureFixture, content: str, said: str
) -> None:
    watched.canary.start()
    before = watched.canary.rollout()
    canary = watched.edit(content)
    watched.look()

    assert canary.rollout() == before
    assert said in watched.problem
    assert str(watched.path) in watched.problem
    assert canary.internal_errors() == {("plan file", "ConfigError"): 1}
    assert len(caplog.records) == 1
    assert "the last good plan stays in force" in caplog.text
    watched.edit(text())
    assert canary.plan_problem is None
    assert canary.rollout() == before


def test_a_file_that_is_gone_is_told_until_it_is_back(watched: Watched) -> None:
    watched.path.unlink()
    watched.look()
    assert "cannot be read: No such file or directory" in watched.problem
    watched.path.write_text(text())
    watched.look()

    assert watched.canary.plan_problem is None
    assert watched.canary.internal_errors() == {("plan file", "ConfigError"): 1}


def test_each_other_thing_that_is_wrong_is_logged_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for content in (text("weight = 101\n"), text("weight = 101\n# still\n"), text("weight = 102\n")):
        watched.edit(content)

    assert [("101" in r.getMessage(), r.levelno) for r in caplog.records] == [
        (True, logging.ERROR),
        (False, logging.ERROR),
    ]
    assert watched.canary.internal_errors() == {("plan file", "ConfigError"): 3}


def test_an_edit_that_the_environment_forbids_is_broken_too(path: Path) -> None:
    watched = Watched(path, environ={"USE_LEGACY_API_V1": "false"})
    watched.edit(text("enabled = false\n"))

    assert "are both false: nobody is left to serve" in watched.problem
    # Saved again as it was: no better than before.
    watched.edit(text("enabled = false\n# again\n"))
    assert "are both false: nobody is left to serve" in watched.problem
    watched.edit(text())
    assert watched.problem == ""


def test_whatever_is_in_the_file_is_not_our_end(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Path) -> Any:
        raise MemoryError("too large")

    with monkeypatch.context() as patched:
        patched.setattr("canary_middleware._serving.plan_watch.read_plan", read)
        watched.edit(text("weight = 5\n"))

    assert watched.problem == f"plan {str(watched.path)!r}: MemoryError: too large"
    assert watched.canary.internal_errors() == {("plan file", "MemoryError"): 1}


def test_a_new_rollout_appears_with_what_the_environment_says_of_it(path: Path) -> None:
    watched = Watched(path, environ={"NEW": "100"})
    second = text('endpoints = ["GET /new"]\nkey = ["header:x-user"]\nenv = { weight = "NEW" }\n', "second")

    canary = watched.edit(second + text())

    assert [rollout.name for rollout in canary.rollouts()] == ["second", "checkout"]
    assert canary.is_canary("u1", rollout="second")
    exchange = canary.begin(Head(path="/new", headers={"x-user": "u1"}))
    assert exchange is not None
    assert exchange.assignment.rollout == "second"
    canary.close()


def test_a_rollout_taken_out_gets_stable_and_comes_back_as_it_was(path: Path) -> None:
    second = text('endpoints = ["GET /new"]\nkey = ["header:x-user"]\n', "second")
    path.write_text(text() + second)
    watched = Watched(path)
    watched.canary.set_weight(100, rollout="checkout")
    canary = watched.edit(second)

    assert (canary.assign("u1", rollout="checkout").version, canary.rollout("checkout").weight_ppm) == ("v1", 1_000_000)
    exchange = canary.begin(Head(path="/old", headers={"x-user": "u1"}))
    assert exchange is not None
    assert (exchange.assignment.version, exchange.assignment.reason) == ("v1", "disabled")
    assert "the plan file no longer holds checkout: stable serves there" in watched.problem
    watched.edit(text(BASE + 'fallback = "never"\n') + second)
    assert canary.is_canary("u1", rollout="checkout")
    assert canary.rollout("checkout").plan.fallback == "never"
    assert canary.plan_problem is None
    canary.close()


def test_what_a_rollout_that_is_gone_would_have_changed_is_forgotten(watched: Watched) -> None:
    watched.canary.start()
    watched.edit(text(BASE + 'canary = "v3"\n'))
    watched.edit(text("", "second"))

    assert watched.problem == "the plan file no longer holds checkout: stable serves there, and the state is kept"


def test_what_is_read_at_start_only_asks_for_a_restart(watched: Watched) -> None:
    top = 'trusted_proxies = ["10.0.0.0/8"]\n[anonymous]\ncookie = "other"\n'
    canary = watched.edit(text(BASE + 'env = { weight = "OTHER" }\n', top=top))

    assert watched.problem == (
        "trusted_proxies, anonymous, rollout.checkout.env changed in the plan file: read at start only, so restart to "
        "go by it"
    )
    assert canary.plan.trusted_proxies == ()
    watched.edit(text())
    assert watched.problem == ""


def test_overrides_are_those_of_the_edited_plan(path: Path) -> None:
    watched = Watched(path, environ={"CANARY_OVERRIDE_TOKEN": "secret"})
    canary = watched.edit(text(BASE + '[rollout.checkout.overrides]\nheader = "X-Other"\n'))
    exchange = canary.begin(Head(headers={"x-user": "u1", "x-other": canary.override("v2")}))

    assert exchange is not None
    assert (exchange.assignment.version, exchange.assignment.reason) == ("v2", "override")
    canary.close()


# -- the thread ----------------------------------------------------------------------------------------------------


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "canary-plan"]


@pytest.fixture
def no_thread() -> Iterator[None]:
    assert threads() == []
    yield
    eventually(lambda: not threads())


@pytest.mark.usefixtures("no_thread")
def test_an_edit_is_in_force_about_a_second_after_it_and_close_ends_the_thread(path: Path) -> None:
    canary = Canary.load(path, environ={})
    assert threads() == []
    canary.begin(Head(headers={"x-user": "u1"}))
    assert len(threads()) == 1
    replace(path, text("weight = 100\n"))

    eventually(lambda: canary.is_canary("u1"), timeout=3)
    canary.close()
    assert threads() == []


@pytest.mark.usefixtures("no_thread")
def test_a_canary_that_is_not_of_a_file_watches_nothing() -> None:
    canary = Canary.load({"rollout": {"checkout": {}}}, environ={})
    canary.begin(Head())

    assert threads() == []
    assert canary.plan_problem is None
    canary.close()


@pytest.mark.usefixtures("no_thread")
def test_a_canary_that_nobody_holds_any_more_ends_its_thread(path: Path) -> None:
    watch = PlanWatch(Canary.load(path, environ={}), Edits(PlanFile(path)))
    gc.collect()
    watch.start()
    watch.tick()

    assert watch.edits.problems() == []
    del watch
    eventually(lambda: not threads())


def test_a_watch_that_is_gone_is_not_waited_for(path: Path) -> None:
    watch = PlanWatch(Canary.load(path, environ={}), Edits(PlanFile(path)))
    watch.stop(1)

    class Gone:
        def __call__(self) -> None:
            return None

    gone: ref[PlanWatch] = Gone()  # type: ignore[assignment]
    _watch(gone, threading.Event())


def test_code_that_is_no_file_is_never_looked_at() -> None:
    edits = Edits(None)
    edits.look(Canary("checkout", environ={}))

    assert (edits.name, edits.problems()) == ("the app's plan", [])
