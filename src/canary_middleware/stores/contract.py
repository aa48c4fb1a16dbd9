"""
What every store promises, as tests: subclass it to prove your own.

::

    from canary_middleware.testing import StoreContract


    class TestMine(StoreContract):
        def open(self) -> Store:
            return MyStore(...)  # a new, empty one

Any test runner that collects methods called ``test_…`` will do; nothing here imports one.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._core.lifecycle.records import Event, Lease, Worker
from ..errors import LeaseLost, StaleRevision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._core.ports import Store

_DEADLINE_S = 10.0
_HOUR_S = 3600


def a_record(name: str = "checkout", revision: int = 0, **further: Any) -> dict[str, Any]:
    """A rollout's record as a store sees it: a name, a revision, and what else there is."""
    return {"schema": 1, "name": name, "revision": revision, "plan": {"stages": [10, 50]}, **further}


def an_event(name: str = "checkout", revision: int = 0, **further: Any) -> Event:
    """The line of the audit trail that goes with it."""
    plain: dict[str, Any] = {
        "actor": "ada",
        "verb": "set",
        "before": {"weight_ppm": 0},
        "after": {"weight_ppm": 100_000},
        "reason": "more traffic · größer",
        "evidence": {"p95_s": 0.25, "n": [1, 2]},
        "at_s": 1_700_000_000.25,
        **further,
    }
    return Event(rollout=name, revision=revision, **plain)


def a_worker(worker_id: str = "host:1:ab", **further: Any) -> Worker:
    """A worker as it reports itself."""
    plain: dict[str, Any] = {"host": "host", "pid": 1, "seen_s": 0.0, "revisions": {"checkout": 3}, **further}
    return Worker(id=worker_id, **plain)


def put(store: Store, name: str = "checkout", revision: int = 0) -> None:
    """Put *revision* in place of the one before it."""
    expect = None if revision == 0 else revision - 1
    store.write(a_record(name, revision), expect=expect, event=an_event(name, revision))


def _until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + _DEADLINE_S
    idle = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {_DEADLINE_S:g} s: {what}"
        idle.wait(0.01)
    return value


def _lost_race(write: Callable[[], None]) -> str:
    try:
        write()
    except StaleRevision as error:
        return str(error)
    raise AssertionError("a write on an outdated revision went through")


def _is_refused(store: Store, lease: Lease, *, record: dict[str, Any], expect: int, event: Event) -> bool:
    """Whether a write is refused for its lease."""
    try:
        store.write(record, expect=expect, event=event, lease=lease)
    except LeaseLost:
        return True
    return False


class StoreContract:
    """The promises of ``_core.ports.Store``, one per method."""

    def open(self) -> Store:
        """A new store with nothing in it. Closed by the contract."""
        raise NotImplementedError

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """``open()``, and closed again."""
        store = self.open()
        try:
            yield store
        finally:
            store.close()

    # -- state ------------------------------------------------------------------------------------------------------

    def test_a_new_store_holds_nothing(self) -> None:
        """A new store holds nothing."""
        with self.opened() as store:
            found = store.read()

            assert found is not None
            assert dict(found[1]) == {}
            assert list(store.history()) == []
            assert list(store.workers()) == []
            assert list(store.counts()) == []

    def test_what_was_written_is_read(self) -> None:
        """What was written is read, whole, by name."""
        with self.opened() as store:
            record = a_record(note="größer ✓", weight_ppm=0, resume_to=None, nested={"a": [1, 2.5, True, None]})
            store.write(record, expect=None, event=an_event())
            put(store, "search")

            found = store.read()

            assert found is not None
            assert dict(found[1]) == {"checkout": record, "search": a_record("search")}

    def test_a_reader_that_is_current_is_told_so(self) -> None:
        """A reader with the current generation gets None; after a write it gets the new one, and the new state."""
        with self.opened() as store:
            put(store)
            first = store.read()
            assert first is not None
            assert store.read(first[0]) is None

            put(store, revision=1)
            second = store.read(first[0])

            assert second is not None
            assert second[0] != first[0]
            assert second[1]["checkout"]["revision"] == 1
            assert store.read(second[0]) is None

    def test_only_a_write_changes_the_generation(self) -> None:
        """Beats, counts, log lines, leases and lost races leave the generation alone."""
        with self.opened() as store:
            put(store)
            found = store.read()
            assert found is not None

            store.beat(a_worker())
            store.log(an_event(verb="answer"))
            store.add_counts("w", 1, int(store.now()), {"a": {"s": 1.0}})
            store.acquire("judge", "w", 5)
            _lost_race(lambda: put(store))

            assert store.read(found[0]) is None

    def test_the_generation_fits_64_bits(self) -> None:
        """A generation is an integer from 0 on that fits 64 bits, whatever language reads it."""
        with self.opened() as store:
            put(store)
            found = store.read()

            assert found is not None
            assert 0 <= found[0] < 2**63

    def test_a_write_on_another_revision_is_refused(self) -> None:
        """A write on an outdated revision changes nothing, and says which is in place and who wrote it."""
        with self.opened() as store:
            put(store)
            store.write(a_record(revision=1), expect=0, event=an_event(revision=1, actor="grace", verb="rollback"))

            said = _lost_race(lambda: put(store, revision=1))

            assert "'checkout'" in said
            assert "revision 1" in said
            assert "grace" in said
            assert "rollback" in said
            assert [event.actor for event in store.history()] == ["grace", "ada"]

    def test_a_rollout_is_registered_once(self) -> None:
        """A rollout that exists cannot be put there as new, and one that does not cannot be changed."""
        with self.opened() as store:
            put(store)

            assert "exists already" in _lost_race(lambda: put(store))
            assert "not in the store" in _lost_race(lambda: put(store, "search", revision=4))
            found = store.read()
            assert found is not None
            assert set(found[1]) == {"checkout"}

    def test_a_state_may_be_put_back_with_a_lower_or_much_higher_revision(self) -> None:
        """The revision in place is what the record says: a restore may jump."""
        with self.opened() as store:
            put(store)
            store.write(a_record(revision=41), expect=0, event=an_event(revision=41))

            put(store, revision=42)

            assert "revision 42" in _lost_race(lambda: put(store, revision=42))

    def test_of_many_writers_one_wins_each_revision(self) -> None:
        """Of threads that write the same revision exactly one wins, and the trail has exactly its line."""
        with self.opened() as store:
            put(store)
            won: list[str] = []
            together = threading.Barrier(8)

            def compete(actor: str) -> None:
                together.wait()
                try:
                    store.write(a_record(revision=1), expect=0, event=an_event(revision=1, actor=actor))
                except StaleRevision:
                    return
                won.append(actor)

            threads = [threading.Thread(target=compete, args=(f"w{n}",)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(_DEADLINE_S)

            assert len(won) == 1
            assert [event.actor for event in store.history()] == [won[0], "ada"]

    def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(self) -> None:
        """A record or an event that is not plain data raises TypeError before anything is changed."""
        with self.opened() as store:
            for record, event in ((a_record(odd={1, 2}), an_event()), (a_record(), an_event(evidence={"odd": {1}}))):
                try:
                    store.write(record, expect=None, event=event)
                except TypeError:
                    continue
                raise AssertionError("a set went through JSON")

            found = store.read()
            assert found is not None
            assert dict(found[1]) == {}
            assert list(store.history()) == []

    # -- audit trail ------------------------------------------------------------------------------------------------

    def test_events_come_back_as_they_were_newest_first(self) -> None:
        """An event keeps every field; the newest comes first, whatever the clocks of their writers said."""
        with self.opened() as store:
            put(store)
            late = an_event(revision=1, at_s=5.5, evidence={"trip": {"p95_s": 2.25}})
            store.write(a_record(revision=1), expect=0, event=late)

            assert list(store.history()) == [late, an_event()]

    def test_history_of_one_rollout_and_of_few_lines(self) -> None:
        """History can be narrowed to a rollout and to a number of lines."""
        with self.opened() as store:
            put(store)
            put(store, "search")
            put(store, revision=1)

            assert [event.revision for event in store.history("checkout")] == [1, 0]
            assert [event.rollout for event in store.history("search")] == ["search"]
            assert [(event.rollout, event.revision) for event in store.history(limit=2)] == [
                ("checkout", 1),
                ("search", 0),
            ]
            assert list(store.history("nobody")) == []
            assert list(store.history(limit=0)) == []

    def test_a_line_without_a_change(self) -> None:
        """A logged line stands in the trail of its rollout, and changes no state."""
        with self.opened() as store:
            put(store)
            store.log(an_event(verb="check", reason="a person said yes"))
            store.log(an_event(verb="check", reason="a person said yes"))

            assert [event.verb for event in store.history("checkout")] == ["check", "check", "set"]

    # -- workers ----------------------------------------------------------------------------------------------------

    def test_a_worker_is_known_from_its_beat_until_it_leaves(self) -> None:
        """A worker is listed with what it said last, seen now by the store's clock; once it has left it is not."""
        with self.opened() as store:
            store.beat(a_worker(note="first"))
            store.beat(a_worker("other:2:cd", pid=2))
            said = a_worker(revisions={"checkout": 4}, stale_s=1.5, note="größer")
            store.beat(said)

            by_id = {worker.id: worker for worker in store.workers()}
            assert set(by_id) == {said.id, "other:2:cd"}
            assert replace(by_id[said.id], seen_s=0.0) == said
            assert abs(by_id[said.id].seen_s - store.now()) < 5

            store.leave(said.id)
            store.leave("never seen")
            assert [worker.id for worker in store.workers()] == ["other:2:cd"]

    # -- counts -----------------------------------------------------------------------------------------------------

    def test_counts_of_workers_add_up(self) -> None:
        """Counts of one window are added under equal keys; windows come oldest first."""
        with self.opened() as store:
            now_s = int(store.now())
            store.add_counts("a", 1, now_s, {"x": {"s": 0.5, "3": 2}, "y": {"s": 1.0, "0": 1}})
            store.add_counts("b", 1, now_s, {"x": {"s": 0.25, "3": 1, "4": 5}})
            store.add_counts("a", 2, now_s - 1, {"x": {"s": 2.0, "3": 1}})

            found = [(begin, {key: dict(numbers) for key, numbers in plain.items()}) for begin, plain in store.counts()]

            assert found == [
                (now_s - 1, {"x": {"s": 2.0, "3": 1}}),
                (now_s, {"x": {"s": 0.75, "3": 3, "4": 5}, "y": {"s": 1.0, "0": 1}}),
            ]

    def test_counts_of_the_bounds_of_keys(self) -> None:
        """A key may hold any text: it is a JSON list with whatever a client put into a route."""
        with self.opened() as store:
            key = '["checkout","v1","stable","hash","GET",200,"/a b/ü:\\"{x}\\" \\u0000|\\u001f",null]'
            store.add_counts("a", 1, int(store.now()), {key: {"s": 0.125, "17": 1}})

            assert [dict(plain) for _, plain in store.counts()] == [{key: {"s": 0.125, "17": 1}}]

    def test_a_repeated_flush_counts_once(self) -> None:
        """A flush whose answer was lost may be sent again: the same worker and sequence count once."""
        with self.opened() as store:
            now_s = int(store.now())
            for worker_id, sequence in (("a", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 1)):
                store.add_counts(worker_id, sequence, now_s, {"x": {"s": 1.0, "3": 1}})

            assert [dict(plain) for _, plain in store.counts()] == [{"x": {"s": 3.0, "3": 3}}]

    def test_counts_since(self) -> None:
        """Counts can be asked from a second on; a window that began before it is left out."""
        with self.opened() as store:
            now_s = int(store.now())
            for sequence, window_s in enumerate((now_s - 2, now_s - 1, now_s)):
                store.add_counts("a", sequence, window_s, {"x": {"3": 1}})

            assert [begin for begin, _ in store.counts(now_s - 1)] == [now_s - 1, now_s]
            assert list(store.counts(now_s + 1)) == []

    def test_old_counts_are_kept_by_the_hour(self) -> None:
        """What is older than an hour is kept by the hour, and nothing of it is lost."""
        with self.opened() as store:
            now_s = int(store.now())
            hour_s = now_s - now_s % _HOUR_S - 3 * _HOUR_S
            for sequence, offset_s in enumerate((0, 1, 1800, 3599, 3600)):
                store.add_counts("a", sequence, hour_s + offset_s, {"x": {"s": 0.5, "3": 1}})

            assert [(begin, dict(plain)) for begin, plain in store.counts()] == [
                (hour_s, {"x": {"s": 2.0, "3": 4}}),
                (hour_s + _HOUR_S, {"x": {"s": 0.5, "3": 1}}),
            ]

    def test_counts_expire(self) -> None:
        """What is older than eight days is not kept, what is seven days old is."""
        with self.opened() as store:
            now_s = int(store.now())
            store.add_counts("a", 1, now_s - 9 * 86_400, {"x": {"3": 1}})
            store.add_counts("a", 2, now_s - 7 * 86_400, {"x": {"3": 2}})

            assert [dict(plain) for _, plain in store.counts()] == [{"x": {"3": 2}}]

    # -- leases -----------------------------------------------------------------------------------------------------

    def test_a_lease_has_one_holder(self) -> None:
        """A lease is its holder's, under one token, until it is given back; names are apart."""
        with self.opened() as store:
            token = store.acquire("judge", "a", 30)
            assert token is not None

            assert store.acquire("judge", "b", 30) is None
            assert store.acquire("judge", "a", 30) == token
            assert store.acquire("sweep", "b", 30) is not None

            store.release("judge", "b")
            assert store.acquire("judge", "b", 30) is None
            store.release("judge", "a")
            assert store.acquire("judge", "b", 30) is not None

    def test_a_token_grows_with_every_holder(self) -> None:
        """Each holder's token is greater than the one before it, so that a late write can be refused."""
        with self.opened() as store:
            tokens = []
            for holder in ("a", "b", "a"):
                tokens.append(store.acquire("judge", holder, 30))
                store.release("judge", holder)

            assert all(token is not None for token in tokens)
            assert tokens == sorted(set(tokens), key=lambda token: token or 0)

    def test_a_lease_ends_by_itself(self) -> None:
        """A holder that has died loses the lease after its time, and not before."""
        with self.opened() as store:
            begun = time.monotonic()
            first = store.acquire("judge", "a", 0.2)
            second = _until(lambda: store.acquire("judge", "b", 30), "the lease of 0.2 s ended")

            assert first is not None
            assert second > first
            assert time.monotonic() - begun >= 0.19
            assert store.acquire("judge", "a", 30) is None

    def test_a_write_under_a_lease_needs_that_lease(self) -> None:
        """Whoever was paused past the end of their lease writes nothing, even where nobody has changed anything."""
        with self.opened() as store:
            put(store)
            token = store.acquire("judge", "a", 30) or 0
            store.write(a_record(revision=1), expect=0, event=an_event(revision=1), lease=Lease("judge", "a", token))

            store.release("judge", "a")
            second = store.acquire("judge", "b", 30) or 0
            second_write: dict[str, Any] = {"record": a_record(revision=2), "expect": 1, "event": an_event(revision=2)}

            assert _is_refused(store, Lease("judge", "a", token), **second_write)
            assert _is_refused(store, Lease("judge", "b", second + 1), **second_write)
            assert _is_refused(store, Lease("sweep", "b", second), **second_write)
            assert [event.revision for event in store.history()] == [1, 0]
            assert not _is_refused(store, Lease("judge", "b", second), **second_write)

    def test_a_write_under_a_lease_that_has_run_out_is_refused(self) -> None:
        """Time ends a lease for its holder too, not only for the others."""
        with self.opened() as store:
            put(store)
            lease = Lease("judge", "a", store.acquire("judge", "a", 0.05) or 0)
            # Taken later and for as long: when somebody else gets this one, the other has ended, too.
            assert store.acquire("probe", "a", 0.05) is not None
            _until(lambda: store.acquire("probe", "b", 30), "the lease of 0.05 s ended")

            assert _is_refused(store, lease, record=a_record(revision=1), expect=0, event=an_event(revision=1))

    # -- notes ------------------------------------------------------------------------------------------------------

    def test_notes_are_what_was_kept_last(self) -> None:
        """Whoever takes over finds what the one before has written down, numbers to the last digit."""
        with self.opened() as store:
            assert store.kept("judge") is None
            store.keep("judge", {"e": 1})
            store.keep("judge", {"e": 0.1 + 0.2, "text": "größer", "list": [1, None]})
            store.keep("other", {})

            assert store.kept("judge") == {"e": 0.1 + 0.2, "text": "größer", "list": [1, None]}
            assert store.kept("other") == {}

    def test_notes_under_a_lost_lease_are_not_taken(self) -> None:
        """A holder that was paused past its end does not overwrite what the next one has kept."""
        with self.opened() as store:
            token = store.acquire("judge", "a", 30) or 0
            store.keep("judge", {"by": "a"}, lease=Lease("judge", "a", token))
            store.release("judge", "a")
            second = store.acquire("judge", "b", 30) or 0
            store.keep("judge", {"by": "b"}, lease=Lease("judge", "b", second))
            try:
                store.keep("judge", {"by": "a"}, lease=Lease("judge", "a", token))
            except LeaseLost:
                assert store.kept("judge") == {"by": "b"}
                return
            raise AssertionError("notes under a lost lease were taken")

    # -- the whole --------------------------------------------------------------------------------------------------

    def test_two_hundred_rollouts(self) -> None:
        """Two hundred rollouts live side by side, each with its own revision and trail."""
        with self.opened() as store:
            for n in range(200):
                put(store, f"r{n}")
            put(store, "r7", 1)

            found = store.read()

            assert found is not None
            assert {name: record["revision"] for name, record in found[1].items()} == {
                f"r{n}": int(n == 7) for n in range(200)
            }
            assert len(store.history("r7")) == 2
            assert len(store.history(limit=1000)) == 201

    def test_it_works_again_after_close(self) -> None:
        """``close`` may be called twice, and the next call opens it again."""
        with self.opened() as store:
            put(store)
            store.close()
            store.close()

            found = store.read()

            assert found is not None
            assert set(found[1]) == {"checkout"}

    def test_its_time_is_unix_time(self) -> None:
        """The store's clock is in Unix seconds and does not stand still."""
        with self.opened() as store:
            first = store.now()

            assert abs(first - time.time()) < 60
            _until(lambda: store.now() > first, "the store's clock went on")

    def test_it_says_where_it_is(self) -> None:
        """The URL names its scheme."""
        with self.opened() as store:
            assert ":" in store.url
