"""
Canary: the one object an app makes, and the only place where the parts meet.

The request path is ``begin`` → the app → ``Exchange.finish``. It reads attributes that changes swap whole, and does
no I/O.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack
from weakref import WeakSet

from ._core.assignment.bucketing import bucket_of
from ._core.assignment.endpoints import EndpointTable
from ._core.assignment.identity import Anonymous, Client, JsonField, Unreadable, identity_text
from ._core.assignment.override import OverrideReader, sign
from ._core.assignment.policy import Door
from ._core.exchange import Exchange, Uncovered
from ._core.hints import hint
from ._core.lifecycle import transitions
from ._core.lifecycle.rollout import Assignment, Rollout, Router, Variants, entry_weight
from ._core.plan.changes import versions_of
from ._core.plan.schema import parse
from ._core.ports import BodyNotRead
from ._serving.counts import Counts
from ._troubles import Troubles
from .errors import ConfigError, StoreUnavailable, TransitionRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ._core.assignment.bucketing import Draw
    from ._core.assignment.identity import Source
    from ._core.exchange import Failure
    from ._core.plan.changes import Versions
    from ._core.plan.environment import Environment
    from ._core.plan.schema import EnvironmentNames, Plan, RolloutFields, RolloutPlan
    from ._core.ports import Recorder, RequestHead, Store
    from ._core.tallies import Cell, Series
    from ._serving.guards import Guards
    from ._serving.plan_watch import PlanFile, PlanWatch
    from ._serving.recordings import Recordings
    from ._store_link import Sharing
    from .stores.changes import Control

_NOTHING: Final[Mapping[str, str]] = {}


class TelemetryOptions(TypedDict, total=False):
    """What a Canary's telemetry does beyond the defaults; see ``telemetry.recorder``."""

    server_span: Literal["auto", "always", "never"]
    http_metrics: Literal["never", "auto", "always"]
    context_id: bool
    flag_events: bool
    baggage: bool


class _Slot:
    """Where one rollout's door hangs; a change swaps ``door``, and the next request goes through the new one."""

    __slots__ = ("door",)

    def __init__(self, door: Door) -> None:
        self.door = door


class _Map:
    """Which rollout covers a path. Replaced whole when endpoints change."""

    __slots__ = ("only", "table")

    def __init__(self, slots: Sequence[_Slot]) -> None:
        plans = [slot.door.router.plan for slot in slots]
        first = plans[0]
        self.only = slots[0] if len(slots) == 1 and not first.endpoints and not first.exclude else None
        entries: list[tuple[str, _Slot | None]] = [(template, None) for plan in plans for template in plan.exclude]
        for slot, plan in zip(slots, plans, strict=True):
            entries.extend((template, slot) for template in plan.endpoints or ("*",))
        self.table: EndpointTable[_Slot | None] = EndpointTable(entries)


class Canary:
    """
    One or several rollouts, and everything an app asks of them.

    Args:
        name: the rollout's name.
        attributes: makes a mapping of the framework's request, for segment rules on what the app knows of it.
        clock: monotonic seconds; handed in by tests.
        now: Unix seconds; handed in by tests.
        environ: where the variables that the plan names are read, once, here; by default ``os.environ``.
        telemetry: see ``TelemetryOptions``.
        fields: the keys of ``[rollout.<name>]`` in a plan file: ``endpoints``, ``key``, ``weight``, ``stages`` …
    Raises:
        ConfigError: what is wrong with the plan or the environment, key by key.
    """

    def __init__(
        self,
        name: str,
        *,
        attributes: Callable[[Any], Mapping[str, str]] | None = None,  # Any: the framework's own request
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
        environ: Mapping[str, str] | None = None,
        telemetry: TelemetryOptions | None = None,
        store: Store | str | None = None,
        **fields: Unpack[RolloutFields],
    ) -> None:
        plan = parse({"schema": 1, "rollout": {name: dict(fields)}})
        self._setup(plan, attributes, clock, now, environ, telemetry, store)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any],  # Any: a plan's values are checked one by one
        *,
        attributes: Callable[[Any], Mapping[str, str]] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
        environ: Mapping[str, str] | None = None,
        telemetry: TelemetryOptions | None = None,
        store: Store | str | None = None,
    ) -> Canary:
        """
        The Canary of a plan: the path of a ``.toml``, ``.json`` or ``pyproject.toml`` file, or a mapping.

        A file is followed: about a second after an edit its plan is in force, as docs/plan.md says.
        """
        canary = cls.__new__(cls)
        options = (attributes, clock, now, environ, telemetry, store)
        if isinstance(source, (str, os.PathLike)):
            from ._serving.plan_watch import PlanFile

            file = PlanFile(source)
            canary._setup(file.plan, *options, file=file)  # noqa: SLF001 - a constructor
        else:
            canary._setup(parse(source), *options)  # noqa: SLF001
        return canary

    def _setup(
        self,
        plan: Plan,
        attributes: Callable[[Any], Mapping[str, str]] | None,
        clock: Callable[[], float],
        now: Callable[[], float],
        environ: Mapping[str, str] | None,
        telemetry: TelemetryOptions | None,
        store: Store | str | None,
        file: PlanFile | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.plan = plan
        self._environ = environ
        self.counts = Counts()
        self.troubles = Troubles()
        self._attributes = attributes
        self._region = environ.get("CANARY_REGION")
        self.clock = clock
        self._now = now
        self._telemetry_options: TelemetryOptions = telemetry or {}
        self._recorder: Recorder | None = None
        self._observers: tuple[Callable[[Exchange], None], ...] = ()
        self._variants = Variants()
        self._draws: dict[tuple[str, str], Draw] = {}
        self._make_locks()
        self._pid = -1
        self._is_started = False
        self._is_closed = False
        self._since = clock()
        self._forced: Mapping[str, str] = _NOTHING
        self._slots: dict[str, _Slot] = {}
        self._sources: dict[str, tuple[Source, ...]] = {}
        self._overrides: dict[str, OverrideReader | None] = {}
        self._tokens: dict[str, str] = {}
        self._declared: dict[str, RolloutPlan] = {}
        self._last_declared: dict[str, RolloutPlan] = {}
        self._pins: dict[str, Environment] = {}
        self._pinned_for: dict[str, Versions] = {}
        self._env: dict[str, EnvironmentNames] = {}
        self._plan_notes: tuple[str, ...] = ()
        self._watch: PlanWatch | None = None
        self._sharing: Sharing | None = None
        self._guards: Guards | None = None
        self._recordings: Recordings | None = None
        place = environ.get("CANARY_STORE") or store or plan.store
        self._load_plan(plan, is_shared=place is not None)
        if place is not None:
            from ._store_link import Sharing
            from .stores import open_store

            self._sharing = Sharing(self, open_store(place), file, decides=_decides(environ))
        elif file is not None:
            from ._serving.plan_watch import Edits, PlanWatch

            self._watch = PlanWatch(self, Edits(file))

    # -- setting up ------------------------------------------------------------------------------------------------

    def _load_plan(self, plan: Plan, *, is_shared: bool) -> None:
        from ._core.plan.environment import read_environment

        pins = read_environment(plan, self._environ)
        if any(stage.advance for rollout_plan in plan.rollouts for stage in rollout_plan.stages):
            from ._control.timezones import require_zones

            require_zones(plan)
        for rollout_plan in plan.rollouts:
            if is_shared and rollout_plan.weight_ppm:
                raise ConfigError(
                    f"rollout.{rollout_plan.name}.weight is for a Canary without a store: leave it out, and steer the "
                    f"rollout with `canary set` or the stages of its plan"
                )
        for rollout_plan in plan.rollouts:
            if rollout_plan.name not in self._slots:
                self._hang(self._first(rollout_plan, pins[rollout_plan.name], is_shared=is_shared))
        self._declared = {rollout_plan.name: rollout_plan for rollout_plan in plan.rollouts}
        self._last_declared |= self._declared
        # In the plan's order: the first rollout that covers a request gets it.
        self._slots = {name: self._slots[name] for name in (*self._declared, *self._slots)}
        self._remap()

    def _first(self, plan: RolloutPlan, pin: Environment, *, is_shared: bool) -> Rollout:
        """The rollout of *plan* before anybody steers it."""
        declared = ""
        if is_shared:
            from ._core.plan.changes import fingerprint

            declared = fingerprint(plan)
        self._pins[plan.name] = pin
        self._pinned_for[plan.name] = versions_of(plan)
        self._env[plan.name] = plan.env
        return Rollout(
            plan=plan,
            weight_ppm=plan.weight_ppm,
            pinned_ppm=pin.weight_ppm,
            enabled=pin.enabled is not False,
            stable_enabled=pin.stable_enabled is not False,
            is_known=not is_shared,
            declared=declared,
        )

    def _hang(self, rollout: Rollout) -> None:
        """Let the next request of *rollout* go through a door of its present state."""
        slot = self._slots.get(rollout.name)
        plan = rollout.plan
        before = None if slot is None else slot.door.router.plan
        if before is None or (plan.key, plan.json_cap) != (before.key, before.json_cap):
            self._sources[plan.name] = tuple(self._bound(source, self.plan, plan.json_cap) for source in plan.key)
        if before is None or plan.overrides != before.overrides:
            self._overrides[plan.name] = self._override_reader(plan.name, self._environ, plan.overrides)
        door = self._door(rollout)
        if slot is None:
            # Replaced, not added to: another thread may be going through it.
            self._slots = {**self._slots, plan.name: _Slot(door)}
            return
        slot.door = door
        if before is None or (plan.endpoints, plan.exclude, plan.stable) != (
            before.endpoints,
            before.exclude,
            before.stable,
        ):
            self._remap()

    # -- the plan, edited while we run ------------------------------------------------------------------------------

    @property
    def plan_problem(self) -> str | None:
        """What is wrong with the plan file, or why it is not the plan in force; None where all is well."""
        owner = self._watch if self._sharing is None else self._sharing
        void = [rollout.name for rollout in self.rollouts() if self._is_pin_void(rollout)]
        problems = [*self._plan_notes, *(() if owner is None else owner.edits.problems())]
        if void:
            problems.append(
                f"what the environment pins of {', '.join(void)} was said of other versions: restart to pin"
            )
        return "; ".join(problems) or None

    def declared(self, name: str) -> RolloutPlan:
        """The rollout's plan as this process's own file or code says it; the store may go by another."""
        return self._declared[name]

    def is_declared(self, name: str) -> bool:
        """Whether the plan (still) holds that rollout. One that was taken out gets stable, and keeps its state."""
        return name in self._declared

    def redeclare(self, plan: Plan) -> dict[str, RolloutPlan]:
        """
        Take what the plan file says now: new rollouts appear, and those that it no longer holds are served by stable.

        Returns:
            the plans, until now, of rollouts whose plan is another now. They are served as before; see ``change_plan``.
        Raises:
            ConfigError: the plan cannot be followed, and nothing of it is.
        """
        with self._changing:
            before, boot = dict(self._last_declared), self.plan
            # What is bound at start: cookies, proxies and connections that exist already.
            lasting = plan._replace(store=boot.store, trusted_proxies=boot.trusted_proxies, anonymous=boot.anonymous)
            self._load_plan(lasting, is_shared=self._sharing is not None)
            self.plan = lasting
            self._plan_notes = tuple(self._notes_on(plan, lasting))
            for slot in self._slots.values():
                rollout = slot.door.router.rollout
                pin = self._pins[rollout.name]
                is_enabled = self.is_declared(rollout.name) and pin.enabled is not False
                if rollout.enabled != is_enabled:
                    self._hang(rollout._replace(enabled=is_enabled))
            if self._sharing is not None:
                self._sharing.renamed()
            return {name: old for name, old in before.items() if self._declared.get(name, old) != old}

    def _notes_on(self, written: Plan, plan: Plan) -> Iterator[str]:
        names = [
            name for name in ("store", "trusted_proxies", "anonymous") if getattr(written, name) != getattr(plan, name)
        ]
        names += [f"rollout.{r.name}.env" for r in plan.rollouts if r.env != self._env[r.name]]
        if names:
            yield f"{', '.join(names)} changed in the plan file: read at start only, so restart to go by it"
        gone = [name for name in self._slots if not self.is_declared(name)]
        if gone:
            yield f"the plan file no longer holds {', '.join(gone)}: stable serves there, and the state is kept"

    def _remap(self) -> None:
        slots = tuple(self._slots.values())
        stable = slots[0].door.router.plan.stable
        self.uncovered = Uncovered(Assignment(self._variants.get("", stable, "stable", "uncovered"), 0))
        self._map = _Map(slots)

    def _bound(self, source: Source, plan: Plan, json_cap: int) -> Source:
        """*source* with what the rest of the plan and the environment say about it."""
        if isinstance(source, JsonField):
            return source.capped(json_cap)
        if isinstance(source, Client) and source.trusted is None:
            return Client(plan.trusted_proxies)
        if isinstance(source, Anonymous) and not source.is_bound:
            options = plan.anonymous
            return Anonymous(
                options.cookie,
                secret=self._environ.get(options.secret_env or "") or None,
                max_age_s=int(options.max_age_s),
                path=options.path,
                domain=options.domain,
                secure=options.secure,
                httponly=options.httponly,
                same_site=options.same_site,
            )
        return source

    def _override_reader(self, name: str, environ: Mapping[str, str], options: Any) -> OverrideReader | None:
        token = environ.get(options.token_env, "") if options.token_env else ""
        if not token or not (options.header or options.cookie):
            return None
        self._tokens[name] = token
        return OverrideReader(options.header, options.cookie, token)

    def _door(self, rollout: Rollout) -> Door:
        door = Door(
            Router(rollout, self._variants, self._draws),
            self._sources[rollout.name],
            self._overrides[rollout.name],
            _random_id,
            self._now,
            self.troubles.report,
            self._end,
        )
        if rollout.plan.guardrails.limits or self._guards is not None:
            door.guard = self._guarding().of(rollout)
        version = self._forced.get(rollout.name)
        return door if version is None else door.forced(version)

    def _guarding(self) -> Guards:
        if self._guards is None:
            from ._serving.guards import Guards

            self._guards = Guards(self)
        return self._guards

    # -- the request path ------------------------------------------------------------------------------------------

    def begin(self, head: RequestHead, started: float | None = None) -> Exchange | None:
        """
        Decide a request.

        Args:
            head: the request.
            started: reading of the clock when the request came in, where the door has waited for the body since.
        Returns:
            its Exchange, or None where no rollout covers it: the app then runs as if we were not there.
        Raises:
            BodyNotRead: the identity is in a body that the door must read first.
        """
        if not self._is_started:
            self._start_process()
        if started is None:
            started = self.clock()
        slot = self._map.only
        if slot is None:
            match = self._map.table.match(head.method, head.path)
            if match is None or match.value is None:
                return None
            slot = match.value
            head.match = match
        else:
            match = None
        door = slot.door
        try:
            assignment = door.decide(head)
        except BodyNotRead:
            raise
        except Exception as error:  # noqa: BLE001 - whatever failed, the request must be served
            self.troubles.report("assignment", error, "stable serves that request")
            assignment = door.error
        exchange = head.exchange(assignment, door, started)
        if match is not None and "*" not in match.template:
            exchange.route = match.template
        self.counts.begin(assignment[0], exchange)
        if self._recorder is not None:
            try:
                self._recorder.begin(exchange, head)
            except Exception as error:  # noqa: BLE001
                self.troubles.report("telemetry", error, "that request's telemetry is incomplete")
        return exchange

    def _end(self, exchange: Exchange) -> None:
        try:
            now = self.clock()
            if exchange.odd is not None and exchange.answered_at is not None:
                elapsed = exchange.answered_at - exchange.started
            else:
                elapsed = now - exchange.started
            # A clock handed in by somebody else may jump or give NaN; a duration is never negative.
            exchange.duration = elapsed if 0.0 <= elapsed < 1e9 else 0.0
            self.counts.end(exchange)
            guard = exchange.door.guard
            if guard is not None:
                try:
                    trip = guard.observe(exchange, now)
                    if trip is not None:
                        self._guarding().act(exchange.variant.rollout, trip)
                except Exception as error:  # noqa: BLE001 - the rest of the accounting must go on
                    self.troubles.report("guardrail", error, "that outcome was not watched")
            if self._recorder is not None:
                self._recorder.end(exchange)
            if self._observers:
                self._show(exchange)
        except Exception as error:  # noqa: BLE001 - the answer is on its way already
            self.troubles.report("accounting", error, "that request is not counted in full")

    def _show(self, exchange: Exchange) -> None:
        for observe in self._observers:
            observe(exchange)

    def fell_back(self, exchange: Exchange, failure: Failure) -> None:
        """The canary failed before its first byte, and stable is about to serve the same request."""
        version = exchange.assignment.version
        exchange.fall_back(failure)
        rollout = exchange.variant.rollout
        self.troubles.tell(
            ("fallback", rollout, version, failure.error_type),
            f"canary {version} of {rollout} failed with {failure.error_type}; stable answers this request",
            failure.exception,
        )
        if self._recorder is not None:
            try:
                self._recorder.fallback(exchange)
            except Exception as error:  # noqa: BLE001
                self.troubles.report("telemetry", error, "that request's telemetry is incomplete")
        # Its traceback holds the request's frames, and they hold the exchange: a cycle that only a collection ends.
        failure.exception = None

    def record_db(self, seconds: float, system: str, operation: str, error_type: str | None = None) -> None:
        """One database operation of the request in hand; see ``telemetry.record_db``. Nothing without telemetry."""
        if self._recorder is not None:
            from . import telemetry

            telemetry.record_db(seconds, system, operation, error_type)

    def record(
        self, name: str, value: float | None = None, *, identity: str | None = None, rollout: str | None = None
    ) -> None:
        """
        Record a figure of the app's own, which the plan may limit as ``custom.<name>``. Never raises.

        Inside a request it counts for the version that serves it. Only users whom the hash has assigned count.

        Args:
            name: letters, digits, dots, dashes, underscores; 50 names at most in one process.
            value: a finite number, of which the mean is judged; None counts how often, judged per request.
            identity: for whom, outside a request: in jobs and consumers.
            rollout: for *identity*, where there are several.
        """
        if identity is not None and not self._is_started:
            self._start_process()
        recordings = self._recordings
        if recordings is None:
            recordings = self._make_recordings()
        recordings.record(name, value, identity, rollout)

    def _make_recordings(self) -> Recordings:
        from ._serving.recordings import Recordings

        with self._changing:
            if self._recordings is None:
                self._recordings = Recordings(self)
            return self._recordings

    @property
    def recordings(self) -> Recordings | None:
        """What ``record`` has recorded in this process; None where nothing was."""
        return self._recordings

    @property
    def recorder(self) -> Recorder | None:
        """Where spans go, or None without telemetry."""
        return self._recorder

    def attributes_of(self, native: object) -> Mapping[str, str]:
        """What the app's ``attributes`` function says of a request; empty where it has none or fails."""
        if self._attributes is None:
            return _NOTHING
        try:
            return self._attributes(native)
        except Exception as error:  # noqa: BLE001 - a function of the app's
            self.troubles.report("attributes", error, "segment rules on attributes do not match that request")
            return _NOTHING

    @property
    def region(self) -> str | None:
        """The region this process runs in (``CANARY_REGION``), for segment rules where the app names none."""
        return self._region

    def _start_process(self) -> None:
        """First request of this process, of this fork, or after ``close``: what runs beside requests begins to run."""
        pid = os.getpid()
        if self._pid == pid and not self._is_closed:
            return
        with self._starting:
            if self._pid == pid and not self._is_closed:
                return
            try:
                self._start_parts(is_fork=self._pid not in (-1, pid))
            finally:
                # Last: until then other threads wait too, or they would serve before the state is known.
                self._pid, self._is_closed = pid, False
            _running.add(self)
            # uWSGI forks in C, where Python's hooks do not run: there each request compares process ids.
            self._is_started = "uwsgi" not in sys.modules

    def _start_parts(self, *, is_fork: bool) -> None:
        if is_fork:
            self.counts.forked()
            self._renew_guards()
            if self._recordings is not None:
                self._recordings.forked()
        try:
            from . import telemetry

            self._recorder = telemetry.recorder(self, **self._telemetry_options)
        except Exception as error:  # noqa: BLE001
            self._recorder = None
            self.troubles.report("telemetry", error, "this process sends no telemetry of its own")
        if self._sharing is not None:
            self._sharing.start(is_fork=is_fork)
        if self._watch is not None:
            self._watch.start()

    def _renew_guards(self) -> None:
        """What the parent saw is the parent's, and a thread of its may have held a guard's lock at the fork."""
        if self._guards is not None:
            with self._changing:
                self._guards = None
                self._hang_doors(self._forced)

    def forked(self) -> None:
        """Called in a child process: its next request starts it."""
        self._is_started = False
        # Another thread of the parent may have held the parent's locks at the fork.
        self._make_locks()

    def _make_locks(self) -> None:
        # Two: whoever starts waits for the follower, which changes what is served. Never taken in the other order.
        self._starting = threading.RLock()
        self._changing = threading.RLock()

    def close(self, timeout_s: float = 5.0) -> None:
        """
        Hand over what is counted and stop our threads; at most *timeout_s* seconds. Servers call it at shutdown.

        A request that comes all the same starts them again: a test client may be entered twice.
        """
        deadline = time.monotonic() + timeout_s
        if self._sharing is not None:
            self._sharing.stop(timeout_s / 2)
        if self._watch is not None:
            self._watch.stop(max(0.0, deadline - time.monotonic()) / 2)
        if self._recorder is not None:
            from . import telemetry

            telemetry.farewell(max(0.0, deadline - time.monotonic()))
        self._is_started, self._is_closed = False, True

    # -- questions -------------------------------------------------------------------------------------------------

    def rollouts(self) -> tuple[Rollout, ...]:
        """All rollouts as they stand, in the plan's order."""
        return tuple(slot.door.router.rollout for slot in self._slots.values())

    def versions(self) -> frozenset[str]:
        """The names of all versions of all rollouts."""
        plans = [rollout.plan for rollout in self.rollouts()]
        return frozenset(name for plan in plans for name in (plan.stable, *(canary for canary, _ in plan.canaries)))

    def rollout(self, name: str | None = None) -> Rollout:
        """One rollout; *name* may be left out where there is only one."""
        return self._slot(name).door.router.rollout

    def _slot(self, name: str | None) -> _Slot:
        if name is None:
            if len(self._slots) > 1:
                raise ConfigError(f"which rollout? This Canary holds {', '.join(self._slots)}: pass rollout=…")
            return next(iter(self._slots.values()))
        try:
            return self._slots[name]
        except KeyError:
            meant = hint(name, self._slots, f"there are {', '.join(self._slots)}")
            raise ConfigError(f"there is no rollout {name!r}: {meant}") from None

    def assign(
        self, identity: str | int | None, *, rollout: str | None = None, attributes: Mapping[str, str] = _NOTHING
    ) -> Assignment:
        """The Assignment of *identity* outside a request: in jobs, consumers, or for a second rollout inside one."""
        return self._slot(rollout).door.router.assign(identity_text(identity) or None, None, attributes)

    def version_for(self, identity: str | int | None, *, rollout: str | None = None) -> str:
        """The version's name that *identity* gets; stable's for None or ``""``."""
        return self.assign(identity, rollout=rollout).version

    def is_canary(self, identity: str | int | None, *, rollout: str | None = None) -> bool:
        """Whether *identity* gets a canary."""
        return self.assign(identity, rollout=rollout).role == "canary"

    def explain(self, identity: str | int, *, rollout: str | None = None) -> dict[str, Any]:
        """
        Why *identity* gets what it gets, as plain data for people and tools.

        Returns:
            rollout, version, role, reason, bucket (0 … 999 999), weight now (percent), and ``enters_at``: the lowest
            weight in percent at which the hash gives it the canary.
        """
        slot = self._slot(rollout)
        router = slot.door.router
        identity = identity_text(identity) or ""
        assignment = router.assign(identity or None)
        bucket = bucket_of(router.point(identity)) if identity else None
        return {
            "rollout": router.plan.name,
            "version": assignment.version,
            "role": assignment.role,
            "reason": assignment.reason,
            "bucket": bucket,
            "weight": router.rollout.effective_ppm / 10_000,
            "enters_at": None if bucket is None else entry_weight(bucket),
            "canary": router.canary_version(identity) if identity else None,
            "revision": router.revision,
        }

    def metrics_summary(self, rollout: str | None = None, *, raw: bool = True) -> dict[str, Any]:
        """
        Requests, errors and durations of both sides and their comparison, under the names of the metrics endpoint.

        With a store these are the figures of every worker since the rollout was last started (eight days at most), and
        the store is read; while it is away, and without one, they are this process's own since it started.

        Args:
            raw: plain numbers (rates as fractions, times in ms); False formats them as text, as the endpoint does.
        """
        from ._views.summary import summarise

        plan = self._slot(rollout).door.router.plan
        series, elapsed_s = self._counted(plan.name)
        return summarise(series, plan, elapsed_s, raw=raw)

    def endpoint_metrics(self, rollout: str | None = None, *, raw: bool = True) -> dict[str, dict[str, Any]]:
        """The same per endpoint: route template → summary. Requests without a route stand under ``""``."""
        from ._views.summary import by_endpoint

        plan = self._slot(rollout).door.router.plan
        series, elapsed_s = self._counted(plan.name)
        return by_endpoint(series, plan, elapsed_s, raw=raw)

    def _counted(self, name: str) -> tuple[Mapping[Series, Cell], float]:
        """Series of the rollout *name*, and the seconds in which its requests came."""
        if self._sharing is not None:
            try:
                return self._sharing.counted(name)
            except StoreUnavailable as error:
                self.troubles.report("store", error, "figures are this process's own until it is back")
        return self.counts.snapshot().series, self.clock() - self._since

    def internal_errors(self) -> Mapping[tuple[str, str], int]:
        """(component, error class) → dynamic failures of ours so far."""
        return self.troubles.counts()

    def snapshot_age_s(self) -> float:
        """Seconds since the served state was last known to be current; 0 while this process owns it."""
        return 0.0 if self._sharing is None else self._sharing.stale_s

    def override(self, wanted: str, *, expires_in_s: float = 3600.0, rollout: str | None = None) -> str:
        """
        A signed value for the override header or cookie.

        Args:
            wanted: ``always``, ``never`` or a version's name.
            expires_in_s: seconds from now on that it is good for.
        Raises:
            ConfigError: no token is configured.
        """
        plan = self._slot(rollout).door.router.plan
        token = self._tokens.get(plan.name)
        if token is None:
            raise ConfigError(f"overrides of {plan.name!r} are off: set {plan.overrides.token_env} in the environment")
        return sign(wanted, token=token, until_s=int(self._now() + expires_in_s))

    # -- changes ---------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store | None:
        """Where the rollouts live; None where they live in this process."""
        return None if self._sharing is None else self._sharing.store

    @property
    def sharing(self) -> Sharing | None:
        """This process's side of the store, or None without one."""
        return self._sharing

    @property
    def control(self) -> Control | None:
        """The rollouts of the store, for whoever steers them; None without one."""
        return None if self._sharing is None else self._sharing.control

    @property
    def variants(self) -> Variants:
        """The interning table of this process."""
        return self._variants

    def serve(self, rollout: Rollout) -> None:
        """
        Let the next request see *rollout*, as a store holds it.

        Who is asked, the secrets and what the environment pins stay this process's own.
        """
        with self._changing:
            slot = self._slots.get(rollout.name)
            if slot is None:
                return
            mine = slot.door.router.rollout
            plan = rollout.plan._replace(key=self._key(rollout), env=self._env[rollout.name])
            changed = self._pinned(rollout._replace(plan=plan, enabled=mine.enabled, is_known=True))
            if changed != mine:
                self._hang(changed)

    def _pinned(self, rollout: Rollout) -> Rollout:
        """
        *rollout* with what the environment said at start of its weight and its stable version.

        Nothing, where it has other versions since: "everybody on the canary" was said of another canary.
        """
        pin = self._pins[rollout.name]
        if self._is_pin_void(rollout):
            return rollout._replace(pinned_ppm=None, stable_enabled=True)
        return rollout._replace(pinned_ppm=pin.weight_ppm, stable_enabled=pin.stable_enabled is not False)

    def _is_pin_void(self, rollout: Rollout) -> bool:
        pin = self._pins[rollout.name]
        is_pinned = pin.weight_ppm is not None or pin.stable_enabled is False
        return is_pinned and versions_of(rollout.plan) != self._pinned_for[rollout.name]

    def _key(self, rollout: Rollout) -> tuple[Source, ...]:
        """
        The identity sources of *rollout*: those that all workers agree on, as this process can read them.

        Key functions are code, and only their names are in a store: where one is not ours, our own key is asked.
        """
        own = self._last_declared[rollout.name].key
        if not rollout.declared:  # written by a release that kept no keys
            return own
        by_spec = {source.spec: source for source in own}
        key = tuple(by_spec.get(source.spec, source) for source in rollout.plan.key)
        return own if any(isinstance(source, Unreadable) for source in key) else key

    def change(
        self,
        verb: str,
        transition: Callable[[Rollout], Rollout],
        *,
        rollout: str | None = None,
        actor: str = "app",
        reason: str = "",
        expect: int | None = None,
    ) -> Rollout:
        """
        Apply one of ``_core.lifecycle.transitions``.

        The next request sees it, and with a store every worker within a second.

        Args:
            expect: the revision that the decision was made on; None takes the one in force.
        Raises:
            TransitionRefused: the rollout's phase does not allow it.
            StaleRevision: somebody else changed it first.
            StoreUnavailable: nothing was changed; a rollback is in force here all the same, and told later.
        """
        name = self._slot(rollout).door.router.plan.name
        if self._sharing is not None:
            return self._sharing.change(name, verb, transition, actor, reason, expect)
        with self._changing:
            before = self._slots[name].door.router.rollout
            if expect not in (None, before.revision):
                from ._core.lifecycle.records import stale

                raise stale(name, before.revision, expect, None)
            changed = self._pinned(transition(before))
            self._hang(changed)
            return changed

    def set_weight(self, weight: float, *, actor: str = "app", reason: str = "", rollout: str | None = None) -> Rollout:
        """
        Set the weight by hand, in percent with up to four decimals; the plan pauses there.

        Raises:
            TransitionRefused: the rollout is latched, or the environment pins its weight.
            ConfigError: *weight* is no percentage.
        """
        from ._core.plan.schema import parse_percent

        ppm = parse_percent(weight, "weight")
        self._require_unpinned(rollout)
        return self.change(
            "set", lambda current: transitions.set_weight(current, ppm), rollout=rollout, actor=actor, reason=reason
        )

    def _require_unpinned(self, name: str | None) -> None:
        rollout = self.rollout(name)
        if rollout.pinned_ppm is not None:
            raise TransitionRefused(
                f"cannot set the weight of {rollout.name!r}: {rollout.plan.env.weight} in the environment pins it to "
                f"{rollout.pinned_ppm / 10_000:g} %; change or remove that variable and restart"
            )

    def start(self, *, actor: str = "app", reason: str = "", rollout: str | None = None) -> Rollout:
        """Enter the first stage."""
        return self.change("start", transitions.start, rollout=rollout, actor=actor, reason=reason)

    def advance(self, *, actor: str = "app", reason: str = "", rollout: str | None = None) -> Rollout:
        """Enter the next stage."""
        return self.change("advance", transitions.advance, rollout=rollout, actor=actor, reason=reason)

    def approve(self, *, actor: str = "app", reason: str = "", rollout: str | None = None) -> Rollout:
        """Let the stage in force end, where the plan asks a person for that."""
        return self.change("approve", transitions.approve, rollout=rollout, actor=actor, reason=reason)

    def pause(self, *, actor: str = "app", reason: str = "manual", rollout: str | None = None) -> Rollout:
        """Stop at the present weight until resumed."""
        return self.change(
            "pause", lambda current: transitions.pause(current, reason), rollout=rollout, actor=actor, reason=reason
        )

    def resume(self, *, actor: str = "app", reason: str = "", rollout: str | None = None) -> Rollout:
        """Go on after a pause."""
        return self.change("resume", transitions.resume, rollout=rollout, actor=actor, reason=reason)

    def roll_back(self, *, actor: str = "app", reason: str = "manual", rollout: str | None = None) -> Rollout:
        """Weight 0 from the next request on, until somebody retries."""
        return self.change(
            "rollback",
            lambda current: transitions.roll_back(current, reason),
            rollout=rollout,
            actor=actor,
            reason=reason,
        )

    def retry(self, *, actor: str = "app", reason: str = "", rollout: str | None = None) -> Rollout:
        """Begin anew after a rollback."""
        return self.change("retry", transitions.retry, rollout=rollout, actor=actor, reason=reason)

    def emergency(self, on: bool = True, *, actor: str = "app", reason: str = "") -> None:
        """Every rollout and override off (or, with ``on=False``, the latch lifted: all stay rolled back)."""
        if on and self._sharing is not None:
            # None waits for the store to hear of another's stop.
            self._sharing.insist(tuple(self._slots), "emergency", transitions.lock, actor, reason)
            return
        transition = transitions.lock if on else transitions.unlock
        for name in self._slots:
            self.change("emergency", transition, rollout=name, actor=actor, reason=reason)

    def add_endpoint(
        self, template: str, *, actor: str = "app", reason: str = "", rollout: str | None = None
    ) -> Rollout:
        """Cover one more endpoint, for example ``"POST /api/v2/recommend/compare"``."""
        return self.change(
            "add-endpoint",
            lambda current: transitions.add_endpoint(current, template),
            rollout=rollout,
            actor=actor,
            reason=reason,
        )

    def remove_endpoint(
        self, template: str, *, actor: str = "app", reason: str = "", rollout: str | None = None
    ) -> Rollout:
        """Cover an endpoint no longer: stable serves it, uncounted."""
        return self.change(
            "remove-endpoint",
            lambda current: transitions.remove_endpoint(current, template),
            rollout=rollout,
            actor=actor,
            reason=reason,
        )

    # -- for tests -------------------------------------------------------------------------------------------------

    def force(self, version: str, rollout: str | None = None) -> Callable[[], None]:
        """Give every covered request *version* until the returned function is called. See ``testing.force``."""
        with self._changing:
            slots = [self._slot(rollout)] if rollout is not None else list(self._slots.values())
            forced = {s.door.router.plan.name: version for s in slots if version in s.door.router.versions}
            if not forced:
                raise ConfigError(f"cannot force {version!r}: the versions are {', '.join(sorted(self.versions()))}")
            before = self._forced
            self._hang_doors({**before, **forced})

        def undo() -> None:
            with self._changing:
                self._hang_doors(before)

        return undo

    def _hang_doors(self, forced: Mapping[str, str]) -> None:
        self._forced = forced
        for slot in self._slots.values():
            slot.door = self._door(slot.door.router.rollout)

    def observe(self, observer: Callable[[Exchange], None]) -> Callable[[], None]:
        """Call *observer* with every exchange that ends, until the returned function is called."""
        with self._changing:
            self._observers = (*self._observers, observer)

        def stop() -> None:
            with self._changing:
                self._observers = tuple(o for o in self._observers if o is not observer)

        return stop

    def __repr__(self) -> str:
        state = ", ".join(f"{r.name} {r.effective_ppm / 10_000:g} % {r.phase}" for r in self.rollouts())
        return f"<Canary {state}>"


_running: WeakSet[Canary] = WeakSet()


def _forked() -> None:
    """In a child of ``os.fork``: what the parent counted and the threads it ran are the parent's."""
    for canary in _running:
        canary.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _decides(environ: Mapping[str, str]) -> bool:
    """Whether this process may decide for all; off where ``canary run`` does."""
    value = environ.get("CANARY_CONTROLLER", "on").strip().lower()
    if value not in ("on", "off"):
        raise ConfigError(f"CANARY_CONTROLLER is {value!r}: must be on, or off where `canary run` decides")
    return value == "on"


def _random_id() -> str:
    return os.urandom(16).hex()
