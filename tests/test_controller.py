"""Who decides for all: by evidence, one stage at a time, under a lease, through weeks that a clock only simulates."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware._control.controller import CLOSED_S, LEASE, Controller, ControllerThread
from canary_middleware._control.docket import Case
from canary_middleware._control.people import keep, report_of
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.records import Worker
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.durations import bucket
from canary_middleware._core.plan.schema import parse
from canary_middleware._core.tallies import BOUNDS_S
from canary_middleware.errors import StoreUnavailable
from canary_middleware.stores.changes import Control
from canary_middleware.stores.memory import MemoryStore

from .support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN_S = 1_800_000_000.0
"""A Friday, 08:00 UTC."""


class Traffic:
    """What both versions do: error rates and a factor on durations, until told otherwise."""

    def __init__(self, rps: int = 2000, *, stable: float = 0.002, canary: float = 0.002, slow: float = 1.0) -> None:
        self.rps, self.stable, self.canary, self.slow = rps, stable, canary, slow
        self.stable_slow = 1.0
        self._random = random.Random(7)

    def counts(self, weight_ppm: int, seconds: float) -> dict[str, Any]:
        total = self.rps * seconds
        canary = round(total * weight_ppm / 1_000_000)
        plain: dict[str, Any] = {}
        self._add(plain, "v1", "stable", round(total) - canary, self.stable, self.stable_slow)
        self._add(plain, "v2", "canary", canary, self.canary, self.slow)
        return plain

    def _add(self, plain: dict[str, Any], version: str, role: str, requests: int, rate: float, slow: float) -> None:
        failed = (
            sum(self._random.random() < rate for _ in range(requests)) if requests < 5000 else round(requests * rate)
        )
        for n, status, error in ((requests - failed, 200, None), (failed, 500, "500")):
            if n:
                name = json.dumps(["checkout", version, role, "weight", "GET", status, "/checkout", error, False])
                plain[name] = {"s": 0.05 * n, **_spread(n, slow)}


def _spread(n: int, slow: float) -> dict[str, int]:
    """Durations around 50 ms: the same shape for every number of requests."""
    found: dict[str, int] = {}
    for k in range(20):
        share = n * (k + 1) // 20 - n * k // 20
        index = next(i for i, bound in enumerate(BOUNDS_S) if bound >= 0.02 * 1.15**k * slow)
        if share:
            found[str(index)] = found.get(str(index), 0) + share
    return found


class World:
    """A store, a clock and controllers; nothing in it waits."""

    def __init__(self, traffic: Traffic | None = None, **fields: Any) -> None:
        self.now_s = BEGIN_S
        self.store = MemoryStore(clock=lambda: self.now_s)
        self.control = Control(self.store)
        self.traffic = traffic or Traffic()
        self.complaints: list[tuple[str, str]] = []
        self.moves: list[tuple[str, str, str]] = []
        plan = parse({"schema": 1, "rollout": {"checkout": {"duration": "1m", **fields}}}).rollouts[0]
        self.control.register(Rollout(plan=plan), actor="test", reason="first seen")
        self.controller = self.another("a")
        self._sequence = 0

    def another(self, holder: str, **options: Any) -> Controller:
        return Controller(
            self.control,
            holder,
            complain=lambda component, error, consequence: self.complaints.append((component, str(error))),
            told=lambda *move: self.moves.append(move),
            clock=lambda: self.now_s,
            **options,
        )

    @property
    def rollout(self) -> Rollout:
        return self.control.rollout("checkout")

    def change(self, verb: str, transition: Callable[[Rollout], Rollout]) -> None:
        self.control.change("checkout", verb, transition, actor="anna", reason="")

    def start(self) -> None:
        self.run(30)
        self.change("start", transitions.start)

    def run(self, seconds: float, *, step: float = 1.0, until: str = "", by: Controller | None = None) -> None:
        """Let time pass; ends early in phase *until*."""
        end = self.now_s + seconds
        while self.now_s < end and self.rollout.phase != (until or "nowhere"):
            counts = self.traffic.counts(self.rollout.effective_ppm, step)
            if counts:
                self._sequence += 1
                self.store.add_counts("w", self._sequence, int(self.now_s), counts)
            self.now_s += step
            (by or self.controller).round()

    def trail(self) -> list[str]:
        """Verbs of the audit trail, oldest first."""
        return [event.verb for event in reversed(self.store.history("checkout", 1000))]


def test_a_good_canary_climbs_stage_by_stage_bakes_and_completes() -> None:
    world = World(stages=[10, 50, 100], bake="2m")
    world.start()
    world.run(3600, until="completed")

    assert world.trail() == ["register", "start", "advance", "advance", "advance", "complete"]
    assert world.complaints == []
    advance = world.store.history("checkout", 3)[2]
    assert advance.actor == "controller"
    assert "shown after" in advance.reason
    assert advance.evidence["e"]["safe_errors"] >= advance.evidence["promotion_threshold"]


def test_a_stage_lasts_as_long_as_the_plan_says_however_good_the_evidence() -> None:
    world = World(stages=[10, 50], duration="10m")
    world.start()
    world.run(599)

    assert world.rollout.stage == 0
    world.run(10)
    assert world.rollout.stage == 1


@pytest.mark.parametrize(("canary", "slow", "word"), [(0.3, 1.0, "fails more often"), (0.002, 3.0, "is slower")])
def test_a_bad_canary_is_rolled_back_within_seconds_with_its_reason(canary: float, slow: float, word: str) -> None:
    world = World(Traffic(canary=canary, slow=slow), stages=[10, 50, 100])
    world.start()
    world.run(60, until="rolled_back")

    assert world.rollout.phase == "rolled_back"
    assert world.now_s - BEGIN_S - 30 <= CLOSED_S + 4
    event = world.store.history("checkout", 1)[0]
    assert (event.verb, event.actor) == ("rollback", "controller")
    assert word in event.reason
    assert event.evidence["e"]["rollback"] >= event.evidence["threshold"] == 100.0
    assert world.moves == [("checkout", "rollback", event.reason)]


def test_nothing_moves_after_a_rollback_until_a_person_retries_and_then_it_begins_anew() -> None:
    world = World(Traffic(canary=0.3), stages=[10, 100])
    world.start()
    world.run(60, until="rolled_back")
    world.run(600)
    assert world.trail()[-1] == "rollback"

    world.traffic.canary = 0.002
    world.change("retry", transitions.retry)
    world.run(1200, until="completed")

    assert world.trail()[-4:] == ["retry", "advance", "advance", "complete"]


def test_what_a_canary_did_before_a_retry_is_not_held_against_the_mended_one() -> None:
    world = World(Traffic(canary=0.3), stages=[10, 50], duration="5m")
    world.start()
    world.run(60, until="rolled_back")
    world.traffic.canary = 0.002
    world.change("retry", transitions.retry)
    world.run(120)

    assert world.trail()[-1] == "retry"
    assert world.rollout.phase == "progressing"


def test_a_canary_that_turns_bad_after_a_good_hour_is_found_as_fast() -> None:
    world = World(stages=[10, 50], duration="2h")
    world.start()
    world.run(3600, step=5)
    world.traffic.canary = 0.2
    turned_s = world.now_s
    world.run(60, until="rolled_back")

    assert world.rollout.phase == "rolled_back"
    assert world.now_s - turned_s <= CLOSED_S + 4


def test_too_little_traffic_holds_says_what_is_missing_and_goes_on_when_it_is_there() -> None:
    world = World(Traffic(rps=20), stages=[10, 50], criteria={"min_requests": 5000})
    world.start()
    world.run(120)
    held = world.store.history("checkout", 1)[0]

    assert (world.rollout.phase, world.rollout.phase_reason) == ("holding", "inconclusive")
    assert "more canary requests for min_requests = 5,000" in held.reason
    assert len(held.evidence["missing"]) >= 1
    world.traffic.rps = 2000
    world.run(120)

    assert world.rollout.stage == 1
    assert world.trail()[:4] == ["register", "start", "hold", "advance"]


def test_no_traffic_at_all_neither_promotes_nor_rolls_back() -> None:
    world = World(Traffic(rps=0), stages=[10, 50])
    world.start()
    world.run(300)

    assert (world.rollout.phase, world.rollout.stage) == ("holding", 0)


def test_traffic_that_ends_promotes_nobody() -> None:
    world = World(stages=[10, 50], duration="20m")
    world.start()
    world.run(300, step=5)
    world.traffic.rps = 0
    world.run(1000, step=5)

    assert world.rollout.phase == "holding"
    assert "no requests for" in world.store.history("checkout", 1)[0].reason


def test_a_stage_waits_for_approval_and_for_the_calendar() -> None:
    stages = [{"weight": 10, "approve": True}, {"weight": 50, "advance": "Sat 10:00-11:00 Europe/Berlin"}, 100]
    world = World(stages=stages)
    world.start()
    world.run(120)
    assert world.rollout.phase_reason == "approval"

    world.change("approve", transitions.approve)
    world.run(30)
    assert world.rollout.stage == 1
    world.run(120)
    assert world.rollout.phase_reason == "schedule"
    world.run(86_400 + 2 * 3600, step=60, until="baking")
    moved = next(event for event in world.store.history("checkout") if event.verb == "advance")
    # 09:00 UTC is 10:00 in Berlin in winter.
    assert 0 <= (moved.at_s - (BEGIN_S + 86_400 + 3600)) < 120


def test_the_calendar_freezes_no_rollback() -> None:
    world = World(stages=[{"weight": 10, "advance": "Sun 03:00-03:01"}, 50])
    world.start()
    world.run(120)
    world.traffic.canary = 0.5
    world.run(30, until="rolled_back")

    assert world.rollout.phase == "rolled_back"


def test_what_a_person_paused_is_not_moved_and_yet_stopped_when_it_fails() -> None:
    world = World(stages=[10, 50])
    world.start()
    world.change("pause", lambda rollout: transitions.pause(rollout, "manual"))
    world.run(600)
    assert world.trail()[-1] == "pause"

    world.traffic.canary = 0.5
    world.run(30, until="rolled_back")
    assert world.trail()[-1] == "rollback"


def test_a_dry_run_goes_by_time_and_tells_what_it_would_have_done_once() -> None:
    world = World(Traffic(canary=0.3), stages=[10, 50], enforce=False)
    world.start()
    world.run(90)

    assert world.rollout.stage == 1
    told = [event for event in world.store.history("checkout") if event.verb == "dry-run"]
    assert [event.reason.startswith("would rollback: v2 fails more often") for event in told] == [True, True]
    assert [event.before for event in told] == [event.after for event in told]


def test_a_limit_that_only_warns_is_told_once_in_a_stage() -> None:
    criteria = {"error_rate": {"max": 0.01, "action": "warn"}}
    world = World(Traffic(stable=0.05, canary=0.05), stages=[10, 50], criteria=criteria, duration="10m")
    world.start()
    world.run(300)

    warned = [event for event in world.store.history("checkout") if event.verb == "warn"]
    assert world.trail() == ["register", "start", "warn"]
    assert "error_rate max 1 % does not hold" in warned[0].reason


def test_a_stage_waits_for_feedback_and_a_severe_bug_rolls_back() -> None:
    world = World(stages=[10, 50, 100], criteria={"feedback": {"min": 1}, "severe_bugs": {"max": 0}})
    world.start()
    world.run(120)
    assert (world.rollout.stage, world.rollout.phase_reason) == (0, "inconclusive")
    assert "canary report feedback" in world.store.history("checkout", 1)[0].reason

    keep(world.control, world.rollout, report_of("feedback", "looks good"), "ada")
    world.run(30)
    assert world.rollout.stage == 1
    keep(world.control, world.rollout, report_of("bug", "totals are wrong", "severe"), "ada")
    world.run(10, until="rolled_back")
    rollback = world.store.history("checkout", 1)[0]
    assert (rollback.verb, rollback.actor) == ("rollback", "controller")
    assert "totals are wrong" in rollback.reason


def users(world: World, canary_share: float) -> None:
    """Ten identities a second, each new, of which the canary gets that share once there is one."""
    usual, made = world.traffic.counts, iter(range(1_000_000))

    def counts(weight_ppm: int, seconds: float) -> dict[str, Any]:
        plain = usual(weight_ppm, seconds)
        for n in range(10):
            version = "v2" if weight_ppm and n < 10 * canary_share else "v1"
            name = json.dumps(["#users", "checkout", version], separators=(",", ":"))
            plain.setdefault(name, {})[str(next(made))] = 1
        return plain

    world.traffic.counts = counts  # type: ignore[method-assign]


def test_a_stage_waits_for_so_many_identities() -> None:
    world = World(stages=[10, 50], criteria={"min_identities": 100})
    users(world, 0.1)
    world.start()
    world.run(95)
    held = world.store.history("checkout", 1)[0]
    assert "more canary users for min_identities = 100" in held.reason

    world.run(15)
    assert world.rollout.stage == 1


def test_identities_that_do_not_split_as_the_weight_says_hold_the_rollout() -> None:
    world = World(stages=[10, 50], duration="1h")
    users(world, 0.3)
    world.start()
    world.run(60, until="holding")

    assert world.rollout.phase_reason == "sample-ratio mismatch"
    assert "new identities where" in world.store.history("checkout", 1)[0].reason


@pytest.mark.parametrize(("canary_mean", "ends"), [(12.0, "completed"), (6.0, "rolled_back")])
def test_a_figure_of_the_app_s_own_holds_or_rolls_back(canary_mean: float, ends: str) -> None:
    world = World(stages=[10, 50, 100], criteria={"custom": {"cart_value": {"min": 10}}})
    usual = world.traffic.counts

    def counts(weight_ppm: int, seconds: float) -> dict[str, Any]:
        carts = {}
        for version, mean in (("v1", 12.0), ("v2", canary_mean)):
            moments = {"n": 20, "sum": 20 * mean, "sq": 20 * (mean * mean + 1)}
            carts[json.dumps(["#custom", "checkout", version, "cart_value"], separators=(",", ":"))] = moments
        return {**usual(weight_ppm, seconds), **carts}

    world.traffic.counts = counts  # type: ignore[method-assign]
    world.start()
    world.run(900, until=ends)

    assert world.rollout.phase == ends
    if ends == "rolled_back":
        assert "custom.cart_value min 10 does not hold" in world.store.history("checkout", 1)[0].reason


def test_sixty_four_workers_with_fifty_thousand_requests_a_second_are_judged_like_one() -> None:
    world = World(Traffic(rps=50_000 // 64), stages=[10, 50, 100], duration="10s")
    world.start()
    for second in range(15):
        for n in range(64):
            world.store.add_counts(
                f"w{n}", second, int(world.now_s), world.traffic.counts(world.rollout.effective_ppm, 1)
            )
        world.now_s += 1
        world.controller.round()
    judged = world.store.kept("judge:checkout")

    assert world.rollout.stage == 1
    assert world.complaints == []
    assert judged is not None
    assert judged["judges"]["v2"]["seen"] > 64 * 781 * 0.1 * 9


def test_another_takes_over_when_the_leader_dies_and_goes_on_where_it_was() -> None:
    world = World(Traffic(rps=200), stages=[10, 50], duration="1h")
    world.start()
    world.run(300)
    other = world.another("b")
    other.round()
    seen = _seen(world)
    assert [one.is_leading for one in (world.controller, other)] == [True, False]

    world.store.release(LEASE, "a")  # as it runs out
    world.run(10, by=other)

    assert other.is_leading
    assert _seen(world) >= seen
    assert not any(event.verb in ("hold", "rollback") for event in world.store.history("checkout"))


def _seen(world: World) -> int:
    notes = world.store.kept("judge:checkout")
    assert notes is not None
    return int(notes["judges"]["v2"]["seen"])


def test_a_leader_that_was_paused_past_its_lease_writes_nothing() -> None:
    world = World(Traffic(canary=0.5), stages=[10, 50])
    world.start()
    world.run(3)
    # While it was stopped another took the lease: its next move is refused by the store.
    late = world.controller
    acquire = world.store.acquire

    def pausing(name: str, holder: str, ttl_s: float) -> int | None:
        token = acquire(name, holder, ttl_s)
        if holder == "a":
            world.store.release(LEASE, "a")
            taken.append(acquire(LEASE, "b", 60.0))
        return token

    taken: list[int | None] = []
    world.store.acquire = pausing  # type: ignore[method-assign]
    before = world.rollout.revision
    world.now_s += 10
    world.run(1, by=late)

    assert None not in taken
    assert taken
    assert world.complaints == []
    assert world.rollout.revision == before
    assert not late.is_leading


def test_a_leader_hands_over_at_once_when_it_ends() -> None:
    world = World(stages=[10, 50])
    world.start()
    world.run(5)
    world.controller.rest()
    other = world.another("b")
    other.round()

    assert other.is_leading


def test_without_anything_to_watch_the_store_is_left_in_peace() -> None:
    world = World(stages=[10, 50])
    asked: list[str] = []
    world.store.acquire = lambda name, holder, ttl_s: asked.append(name)  # type: ignore[method-assign]
    quiet = world.another("c", mine=lambda: [world.rollout])
    quiet.round()
    assert asked == []

    world.change("start", transitions.start)
    quiet.round()
    assert asked == [LEASE]


def test_a_store_that_is_away_stops_nothing_but_the_advance() -> None:
    world = World(stages=[10, 50], duration="5m")
    world.start()
    world.run(60)
    counts = world.store.counts

    def away(since_s: int = 0) -> Any:
        raise StoreUnavailable("away")

    world.store.counts = away  # type: ignore[method-assign]
    world.run(400)
    assert (world.rollout.phase, world.rollout.stage) == ("progressing", 0)
    assert ("controller", "away") in world.complaints

    world.store.counts = counts  # type: ignore[method-assign]
    world.run(20)
    assert world.rollout.stage == 1


def test_counts_that_cannot_be_read_are_left_out_and_told() -> None:
    world = World(stages=[10, 50])
    world.start()
    world.run(10)
    world.store.add_counts("odd", 1, int(world.now_s), {"no json": {"s": 1.0, "3": 1}})
    world.run(120)

    assert world.rollout.stage == 1
    assert world.complaints[0][0] == "counts"


def test_a_record_that_cannot_be_read_leaves_the_others_judged() -> None:
    world = World(stages=[10, 50])
    world.start()
    with world.store._lock:
        world.store._records["broken"] = (1, '{"schema": 1}')
    world.run(90)

    assert world.rollout.stage == 1
    assert world.complaints[0][0] == "state of broken"


def test_a_weight_that_the_environment_pins_is_not_moved() -> None:
    world = World(stages=[10, 50])
    worker = Worker(id="w", host="h", pid=1, seen_s=0.0, revisions={}, pinned={"checkout": 20_000})
    world.start()
    for _ in range(12):
        world.store.beat(worker)
        world.run(10)

    assert (world.rollout.stage, world.rollout.phase_reason) == (0, "pinned")


def test_a_clock_that_jumps_back_judges_no_second_twice() -> None:
    world = World(stages=[10, 50], duration="1h")
    world.start()
    world.run(120)
    seen = _seen(world)
    world.now_s -= 60
    world.run(10)

    assert _seen(world) == seen
    assert world.rollout.phase == "progressing"


def test_interference_steps_the_weight_down_and_a_recovered_stable_condemns_the_canary() -> None:
    world = World(stages=[10, 50], duration="1h")
    world.run(60)
    world.change("start", transitions.start)
    world.change("stage", lambda rollout: transitions.go_to_stage(rollout, 1))
    world.run(30)
    world.traffic.stable_slow = world.traffic.slow = 2.5
    world.run(120, until="holding")
    assert (world.rollout.phase_reason, world.rollout.weight_ppm) == ("interference", 100_000)

    world.traffic.stable_slow = world.traffic.slow = 1.0
    world.run(300, until="rolled_back")
    assert "recovered" in world.store.history("checkout", 1)[0].reason


def test_of_several_canaries_the_gravest_finding_counts() -> None:
    world = World(stages=[20, 100], canary={"v2": 50, "v3": 50})
    good, bad = Traffic(), Traffic(canary=0.4)

    def counts(weight_ppm: int, seconds: float) -> dict[str, Any]:
        fine, broken = good.counts(weight_ppm // 2, seconds), bad.counts(weight_ppm // 2, seconds)
        return fine | {name.replace('"v2"', '"v3"'): n for name, n in broken.items() if '"v2"' in name}

    world.traffic.counts = counts  # type: ignore[method-assign]
    world.start()
    world.run(60, until="rolled_back")
    event = world.store.history("checkout", 1)[0]

    assert event.reason.startswith("v3 fails more often than v1")
    assert set(event.evidence["versions"]) == {"v2", "v3"}
    assert event.evidence["threshold"] == 200.0


def test_a_week_of_slow_stages_ends_as_the_plan_says_and_the_store_stays_small() -> None:
    world = World(Traffic(rps=10), stages=[10, 50, 100], duration="2d", bake="1d")
    world.start()
    world.run(8 * 86_400, step=300, until="completed")

    assert world.rollout.phase == "completed"
    assert world.trail().count("advance") == 3
    journal = world.store.kept("journal:checkout")
    assert journal is not None
    assert len(journal["points"]) <= 240
    assert [stage["stage"] for stage in journal["stages"]] == [0, 1, 2, 2]
    assert len(json.dumps(world.store.kept("judge:checkout"))) < 60_000
    assert len(world.store.counts(0)) < 700


def test_a_request_a_second_gets_there_in_hours_and_one_an_hour_waits_for_a_person() -> None:
    slow, sparse = (World(Traffic(rps=1), stages=[50, 100], duration="1h") for _ in range(2))
    slow.start()
    slow.run(12 * 3600, step=300, until="completed")
    sparse.traffic.counts = lambda weight_ppm, seconds: Traffic().counts(500_000, 0.001)  # type: ignore[method-assign]
    sparse.change("start", transitions.start)
    sparse.run(4 * 86_400, step=3600)

    assert (slow.rollout.phase, slow.complaints) == ("completed", [])
    assert (sparse.rollout.phase, sparse.rollout.phase_reason, sparse.complaints) == ("holding", "inconclusive", [])


def test_the_thread_runs_a_controller_until_it_is_stopped_and_then_hands_over() -> None:
    world = World(stages=[10, 50])
    world.change("start", transitions.start)
    thread = ControllerThread(world.controller)
    thread.start()
    eventually(lambda: world.controller.is_leading)
    thread.stop(5.0)

    assert not world.controller.is_leading
    assert world.store.acquire(LEASE, "other", 1.0) is not None


def test_a_case_of_another_run_is_begun_anew() -> None:
    world = World(Traffic(canary=0.2), stages=[10, 50])
    world.start()
    world.run(60, until="rolled_back")
    world.change("retry", transitions.retry)
    case = Case("checkout", pytest.fail)
    case.load(world.store, world.rollout, world.store.history("checkout", 1000))

    assert case.cursor == int(world.now_s) - 600


def test_the_grid_of_the_judge_holds_the_buckets_of_the_counts() -> None:
    from canary_middleware._control.ticks import ticks_of

    plain = {json.dumps(["checkout", "v2", "canary", "weight", "GET", 200, "/", None, False]): {"s": 1.0, "100": 2}}
    (tick,) = ticks_of([(5, plain)], "checkout", "v1", "v2", lambda at: 100_000)

    assert tick.canary.requests == 2
    (index,) = tick.canary.durations
    assert bucket(BOUNDS_S[100]) == index
