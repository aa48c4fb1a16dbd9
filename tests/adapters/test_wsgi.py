"""What a WSGI server sees of an app is the same with us in between, call by call, except our own headers."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper as WsgirefWrapper
from wsgiref.validate import validator

import pytest
from gunicorn.http.wsgi import FileWrapper as GunicornWrapper
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.wsgi import FileWrapper as WerkzeugWrapper

from canary_middleware import current
from canary_middleware.testing import FakeClock, Outcome, recorded
from canary_middleware.wsgi import ASSIGNMENT_KEY, CanaryMiddleware, apps

from .traces import MODES, Trace, environ_of, make, wsgi_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = [("Content-Type", "text/plain"), ("X-App", "1"), ("X-App", "2")]


class Late(Exception):
    """What the apps below raise."""


class Body:
    """An iterable that is no generator: it notes its end, and who asks for it."""

    def __init__(self, log: list[Any], chunks: Iterator[bytes]) -> None:
        self._log = log
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._log.append("closed")


def whole(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    return [b"a", b"b"]


def in_a_tuple(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    return (b"a",)


def generator(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    yield b"a"
    yield b"b"


def with_empty_chunks(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    return iter([b"", b"a", b"", b"b", b""])


def nothing(environ: Any, start: Any) -> Any:
    start("204 No Content", [])
    return []


def an_empty_iterator(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    return iter(())


def a_body_of_empty_chunks(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    return iter([b"", b""])


def an_object(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    return Body(environ["test.log"], iter([b"a", b"b", b"c"]))


def an_object_whose_end_fails(environ: Any, start: Any) -> Any:
    class Failing(Body):
        def close(self) -> None:
            super().close()
            raise Late

    start("200 OK", list(TEXT))
    return Failing(environ["test.log"], iter([b"a"]))


def writes(environ: Any, start: Any) -> Any:
    write = start("200 OK", list(TEXT))
    write(b"a")
    write(b"")
    write(b"b")
    return []


def writes_and_returns(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))(b"a")
    return iter([b"b"])


def writes_and_fails(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))(b"a")
    raise Late


def writes_an_error(environ: Any, start: Any) -> Any:
    start("404 Not Found", list(TEXT))(b"a")
    return [b"b"]


def begins_again(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    try:
        raise Late
    except Late:
        start("400 Bad Request", [("Content-Type", "text/html")], sys.exc_info())
    return [b"sorry"]


def begins_again_too_late(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    yield b"a"
    try:
        raise Late
    except Late:
        start("500 Oops", [], sys.exc_info())
    yield b"never"


def begins_again_after_a_write(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))(b"a")
    try:
        raise Late
    except Late:
        start("500 Oops", [], sys.exc_info())
    return [b"never"]


def fails_in_the_middle(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    yield b"a"
    raise Late


def asks_who_serves(environ: Any, start: Any) -> Any:
    """All of an app's code runs where ``current()`` answers."""
    log = environ["test.log"]

    def note(where: str) -> None:
        log.append((where, bool(current().version)) if ASSIGNMENT_KEY in environ else (where, True))

    class Asking:
        def __iter__(self) -> Iterator[bytes]:
            note("iter")
            yield b"a"
            note("next")
            yield b"b"

        def close(self) -> None:
            note("close")

    note("call")
    start("200 OK", list(TEXT))
    return Asking()


def reads_its_input(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    yield environ["wsgi.input"].read(4)
    yield environ["wsgi.input"].readline()


ANSWERING = (
    whole,
    in_a_tuple,
    generator,
    with_empty_chunks,
    nothing,
    an_empty_iterator,
    a_body_of_empty_chunks,
    an_object,
    an_object_whose_end_fails,
    writes,
    writes_and_returns,
    writes_and_fails,
    writes_an_error,
    begins_again,
    begins_again_too_late,
    begins_again_after_a_write,
    fails_in_the_middle,
    asks_who_serves,
    reads_its_input,
)
"""Apps whose first byte goes out: they answer alike however we are set up."""


def raises_at_once(environ: Any, start: Any) -> Any:
    raise Late


def raises_before_its_first_chunk(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    raise Late
    yield b""  # a generator


def says_500(environ: Any, start: Any) -> Any:
    start("500 Oops", list(TEXT))
    return [b"oops"]


def writes_503(environ: Any, start: Any) -> Any:
    start("503 Busy", list(TEXT))(b"bu")
    return [b"sy"]


def never_starts(environ: Any, start: Any) -> Any:
    return [b"a"]


def never_starts_nor_says(environ: Any, start: Any) -> Any:
    return iter(())


def forgets_to_return(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))


def starts_twice(environ: Any, start: Any) -> Any:
    start("200 OK", list(TEXT))
    start("200 OK", list(TEXT))
    return [b"a"]


def breaks_when_iterated(environ: Any, start: Any) -> Any:
    class Broken(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise Late

    start("200 OK", list(TEXT))
    return Broken(environ["test.log"], iter(()))


FAILING = (
    raises_at_once,
    raises_before_its_first_chunk,
    says_500,
    writes_503,
    never_starts,
    never_starts_nor_says,
    forgets_to_return,
    starts_twice,
    breaks_when_iterated,
)
"""Apps that fail before their first byte: stable answers for them, where it may."""


def by_name(app: Callable[..., Any]) -> str:
    return app.__name__


def seen(app: Any, mode: str, **options: Any) -> tuple[Trace, list[Outcome]]:
    """What the server sees of *app* behind us, and what we noted of it."""
    canary = MODES[mode]()
    with recorded(canary) as outcomes:
        trace = wsgi_trace(CanaryMiddleware(app, canary=canary), **options)
    return trace, outcomes


def assert_same(bare: Trace, ours: Trace, *, is_guarded: bool) -> None:
    """*ours* is *bare*; where the start is held back, calls that leave no byte on the wire may be missing."""
    assert ours.wire == bare.wire
    assert ours.log == bare.log
    assert ours.error == bare.error
    if not is_guarded:
        assert ours.calls == bare.calls


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("app", ANSWERING, ids=by_name)
def test_the_server_sees_what_it_sees_without_us(app: Any, mode: str) -> None:
    bare = wsgi_trace(app, environ=environ_of("GET", body=b"abcdef\ng"))

    ours, outcomes = seen(app, mode, environ=environ_of("GET", body=b"abcdef\ng"))

    assert_same(bare, ours, is_guarded=mode == "guarded")
    assert len(outcomes) == (mode != "uncovered")
    assert ours.ours == (set() if mode == "uncovered" else {"x-canary-version", "vary"})


@pytest.mark.parametrize("mode", ["unguarded", "stable", "uncovered"])
@pytest.mark.parametrize("app", FAILING, ids=by_name)
def test_a_failure_reaches_the_server_as_it_is(app: Any, mode: str) -> None:
    bare = wsgi_trace(app)

    ours, outcomes = seen(app, mode)

    assert_same(bare, ours, is_guarded=False)
    assert [o.status >= 500 for o in outcomes] == [True] * (mode != "uncovered")


@pytest.mark.parametrize("app", FAILING, ids=by_name)
def test_stable_answers_for_a_failure_before_the_first_byte(app: Any) -> None:
    canary = make()
    with recorded(canary) as outcomes:
        ours = wsgi_trace(CanaryMiddleware(apps(generator, app), canary=canary))

    assert ours.wire == wsgi_trace(generator).wire
    assert (ours.error, ours.ours) == (None, {"x-canary-version", "x-canary-fallback", "vary"})
    assert [(o.fell_back, o.served_by, o.is_aborted) for o in outcomes] == [(True, "v1", False)]
    assert ours.log.count("closed") == (app is breaks_when_iterated)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_body_is_closed_once_when_the_client_leaves(mode: str, read: int) -> None:
    bare = wsgi_trace(an_object, read=read)

    ours, outcomes = seen(an_object, mode, read=read)

    assert_same(bare, ours, is_guarded=mode == "guarded")
    assert ours.log == ["closed"]
    assert [o.is_aborted for o in outcomes] == [True] * (mode != "uncovered")


def test_a_generator_that_is_closed_before_its_first_chunk_ends_the_exchange() -> None:
    for mode in ("guarded", "unguarded", "stable"):
        _, outcomes = seen(generator, mode, read=0)

        assert [o.is_aborted for o in outcomes] == [True], mode


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("app", [generator, whole, an_object, writes_and_returns, begins_again], ids=by_name)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_both_sides_keep_to_the_protocol(app: Any, mode: str, method: str) -> None:
    checked = validator(CanaryMiddleware(validator(app), canary=MODES[mode]()))
    trace = wsgi_trace(checked, environ=environ_of(method, body=b"" if method == "GET" else b"x"))

    assert trace.error is None
    assert trace.wire == wsgi_trace(app).wire


@pytest.mark.parametrize("app", FAILING, ids=by_name)
def test_a_fallback_keeps_to_the_protocol(app: Any) -> None:
    checked = validator(CanaryMiddleware(apps(validator(generator), app), canary=make()))

    assert wsgi_trace(checked).data == b"ab"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrapper", [WsgirefWrapper, GunicornWrapper, WerkzeugWrapper])
def test_a_servers_file_wrapper_comes_back_as_the_object_it_made(mode: str, wrapper: Any) -> None:
    made: list[Any] = []

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", list(TEXT))
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"content"), 3))
        return made[0]

    canary = MODES[mode]()
    with recorded(canary) as outcomes:
        trace = wsgi_trace(CanaryMiddleware(app, canary=canary), environ=environ_of(**{"wsgi.file_wrapper": wrapper}))

    assert trace.body is made[0]
    assert isinstance(trace.body, wrapper)
    assert trace.data == b"content"
    assert made[0].filelike.closed if hasattr(made[0], "filelike") else made[0].file.closed
    assert [o.is_aborted for o in outcomes] == [False] * (mode != "uncovered")


@pytest.mark.parametrize("mode", ["guarded", "unguarded", "stable"])
def test_a_file_that_is_its_own_wrapper_comes_back_as_it_is(mode: str, tmp_path: Any) -> None:
    (tmp_path / "f").write_bytes(b"content")
    opened = (tmp_path / "f").open("rb")

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](opened)

    # uWSGI's wrapper is a function that gives the file back, whose close cannot be replaced.
    trace, outcomes = seen(app, mode, environ=environ_of(**{"wsgi.file_wrapper": lambda file, size=0: file}))

    assert trace.body is opened
    assert opened.closed
    assert len(outcomes) == 1


def test_a_files_end_is_the_requests_end_and_its_close_knows_the_version() -> None:
    clock = FakeClock()
    canary = make(clock=clock)
    asked: list[str] = []

    class File(io.BytesIO):
        def close(self) -> None:
            if not self.closed:
                asked.append(current().version)
            super().close()

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](File(b"content"))

    environ = environ_of(**{"wsgi.file_wrapper": WsgirefWrapper})
    with recorded(canary) as outcomes:
        body = CanaryMiddleware(app, canary=canary)(environ, lambda *_: lambda data: None)
        clock.advance(2.0)
        body.close()  # type: ignore[attr-defined]

    assert asked == ["v2"]
    assert [o.duration_s for o in outcomes] == [2.0]


@pytest.mark.parametrize("mode", ["unguarded", "stable", "uncovered"])
def test_a_body_that_knows_its_length_still_does(mode: str) -> None:
    class Sized:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a"])

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", list(TEXT))
        return Sized()

    trace, _ = seen(app, mode)

    assert len(trace.body) == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_unsized_body_claims_no_length(mode: str) -> None:
    trace, _ = seen(generator, mode)

    assert not hasattr(trace.body, "__len__")


@pytest.mark.parametrize("mode", MODES)
def test_an_apps_list_of_headers_stays_its_own(mode: str) -> None:
    headers = list(TEXT)

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", headers)
        return [b"a"]

    seen(app, mode)

    assert headers == TEXT


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [tuple, iter])
def test_headers_may_be_any_iterable_that_the_server_takes(mode: str, kind: Any) -> None:
    def app(environ: Any, start: Any) -> Any:
        start("200 OK", kind(TEXT))
        return [b"a"]

    trace, _ = seen(app, mode)

    assert trace.wire == [("head", "200 OK", TEXT), ("data", b"a")]


@pytest.mark.parametrize("mode", ["guarded", "unguarded", "stable"])
def test_an_environ_gains_one_documented_key_and_its_input_is_the_servers(mode: str) -> None:
    environ = environ_of()
    before = {**environ, "test.log": []}
    keys: list[set[str]] = []

    def app(given: Any, start: Any) -> Any:
        keys.append(set(given))
        start("200 OK", list(TEXT))
        return [b"a"]

    trace, _ = seen(app, mode, environ=environ)

    assert trace.error is None
    assert keys == [{*before, ASSIGNMENT_KEY}]
    assert {key: value for key, value in environ.items() if key != ASSIGNMENT_KEY} == before


def test_stable_finds_the_environ_as_the_server_made_it() -> None:
    def canary_app(environ: Any, start: Any) -> Any:
        environ["canary.only"] = 1
        environ["PATH_INFO"] = "/changed"
        raise Late

    found: list[Any] = []

    def stable(environ: Any, start: Any) -> Any:
        found.append((environ.get("canary.only"), environ["PATH_INFO"], environ[ASSIGNMENT_KEY].version))
        start("200 OK", [])
        return []

    wsgi_trace(CanaryMiddleware(apps(stable, canary_app), canary=make()))

    assert found == [(None, "/", "v1")]


def test_an_event_streams_empty_chunk_sends_its_headers_before_the_first_event() -> None:
    def events(environ: Any, start: Any) -> Any:
        start("200 OK", [("Content-Type", "text/event-stream; charset=utf-8")])
        yield b""
        yield b"data: 1\n\n"

    started: list[str] = []
    body = iter(
        CanaryMiddleware(events, canary=make())(environ_of(), lambda status, *_: started.append(status))  # type: ignore[arg-type,return-value]
    )

    assert next(body) == b""
    assert started == ["200 OK"]
    assert next(body) == b"data: 1\n\n"


def test_a_stream_is_passed_on_chunk_by_chunk() -> None:
    made: list[int] = []

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", list(TEXT))
        for n in range(100):
            made.append(n)
            yield b"x"

    for mode in MODES:
        made.clear()
        seen(app, mode, read=3)

        assert len(made) == 3, mode


def test_a_failure_after_the_first_byte_is_counted_as_one_that_stable_could_not_mend() -> None:
    for app in (fails_in_the_middle, writes_and_fails, begins_again_too_late, begins_again_after_a_write):
        _, outcomes = seen(app, "guarded")

        assert [(o.missed, o.fell_back, o.error_type) for o in outcomes] == [("started", False, "Late")], app


def test_what_a_failing_canary_wrote_is_not_lost_when_its_body_cannot_be_replayed() -> None:
    def app(environ: Any, start: Any) -> Any:
        write = start("503 Busy", list(TEXT))
        write(b"first ")
        environ["wsgi.input"].read()
        return [b"second"]

    canary = make(fallback="idempotent", body_cap=10)
    with recorded(canary) as outcomes:
        trace = wsgi_trace(
            CanaryMiddleware(apps(whole, app), canary=canary), environ=environ_of("PUT", body=b"x" * 100)
        )

    assert (trace.data, trace.wire[0][1]) == (b"first second", "503 Busy")
    assert [o.missed for o in outcomes] == ["body"]


def test_a_dropped_body_is_closed_once_though_stable_fails_too() -> None:
    def canary_app(environ: Any, start: Any) -> Any:
        def fail() -> Iterator[bytes]:
            raise Late
            yield b""

        start("200 OK", list(TEXT))
        return Body(environ["test.log"], fail())

    canary = make()
    with recorded(canary) as outcomes:
        trace = wsgi_trace(CanaryMiddleware(apps(raises_at_once, canary_app), canary=canary))

    assert trace.error is Late
    assert trace.log == ["closed"]
    assert len(outcomes) == 1


def test_a_dropped_body_that_fails_to_close_does_not_stop_stable() -> None:
    def canary_app(environ: Any, start: Any) -> Any:
        body = an_object_whose_end_fails(environ, start)
        start("503 Busy", [], (Late, Late(), None))
        return body

    trace = wsgi_trace(CanaryMiddleware(apps(generator, canary_app), canary=make()))

    assert (trace.data, trace.error, trace.log) == (b"ab", None, ["closed"])


def test_the_duration_ends_with_the_last_byte() -> None:
    clock = FakeClock()
    canary = make(clock=clock)

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", list(TEXT))
        clock.advance(1.0)
        yield b"a"
        clock.advance(2.0)

    with recorded(canary) as outcomes:
        body = iter(CanaryMiddleware(app, canary=canary)(environ_of(), lambda *_: lambda data: None))
        list(body)
        clock.advance(4.0)
        body.close()  # type: ignore[attr-defined]

    assert [o.duration_s for o in outcomes] == [3.0]


# -- every order of events ---------------------------------------------------------------------------------------------

STATUSES = st.sampled_from(["200 OK", "404 Not Found", "500 Oops", "503 Busy"])
DATA = st.sampled_from([b"", b"x", b"yy"])
STEP = st.one_of(
    st.tuples(st.just("start"), STATUSES),
    st.tuples(st.just("again"), STATUSES),
    st.tuples(st.just("write"), DATA),
    st.tuples(st.just("raise"), st.none()),
)
CHUNK = st.one_of(STEP, st.tuples(st.just("yield"), DATA))


class Script:
    """One run of an app that does what it is told."""

    def __init__(self, start: Any) -> None:
        self._start = start
        self._write: Any = None

    def do(self, step: str, value: Any) -> None:
        getattr(self, f"_do_{step}")(value)

    def _do_start(self, status: str) -> None:
        self._write = self._start(status, [("X-App", status)])

    def _do_again(self, status: str) -> None:
        try:
            raise Late
        except Late:
            self._write = self._start(status, [("X-App", status)], sys.exc_info())

    def _do_write(self, data: bytes) -> None:
        if self._write is not None:
            self._write(data)

    def _do_raise(self, _: None) -> None:
        raise Late

    def produce(self, chunks: list[Any]) -> Iterator[bytes]:
        for step, value in chunks:
            if step == "yield":
                yield value
            else:
                self.do(step, value)


def scripted(steps: list[Any], chunks: list[Any], kind: str) -> Any:
    """An app that does *steps* when called, then *chunks* as its body is read."""

    def app(environ: Any, start: Any) -> Any:
        script = Script(start)
        for step, value in steps:
            script.do(step, value)
        if kind == "whole":
            return [value for step, value in chunks if step == "yield"]
        return Body(environ["test.log"], script.produce(chunks))

    return app


@given(
    steps=st.lists(STEP, max_size=4),
    chunks=st.lists(CHUNK, max_size=5),
    kind=st.sampled_from(["whole", "object"]),
    read=st.sampled_from([None, 0, 1, 2]),
    mode=st.sampled_from(sorted(MODES)),
)
def test_in_every_order_of_events_the_exchange_ends_once_and_the_server_sees_the_same(
    steps: list[Any], chunks: list[Any], kind: str, read: int | None, mode: str
) -> None:
    app = scripted(steps, chunks, kind)
    bare = wsgi_trace(app, read=read)

    canary = MODES[mode]()
    with recorded(canary) as outcomes:
        ours = (
            wsgi_trace(CanaryMiddleware(apps(generator, app), canary=canary, owner=app), read=read)
            if (mode == "guarded")
            else wsgi_trace(CanaryMiddleware(app, canary=canary), read=read)
        )

    assert len(outcomes) == (mode != "uncovered")
    assert ours.log.count("closed") <= 1
    if mode != "guarded":
        assert_same(bare, ours, is_guarded=False)
    elif outcomes[0].fell_back:
        assert ours.wire == wsgi_trace(generator, read=read).wire
        assert not bare.wire or bare.wire[0][1][:3] in ("500", "503") or bare.error is not None
    elif read is None:
        assert_same(bare, ours, is_guarded=True)


@pytest.mark.parametrize("tail", ["/a\xff", "/\xc3\xbc", "/a", ""])
def test_behind_a_rewritten_prefix_every_byte_of_the_path_stays(tail: str) -> None:
    found: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        found.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b""]

    ours = CanaryMiddleware(app, canary=make(), rewrite={"v1": "/é1", "v2": "/é2"})
    wsgi_trace(ours, environ=environ_of(path="/\xc3\xa91" + tail))

    assert found == ["/\xc3\xa92" + tail]
