"""Bodies that are read twice: what was read of them comes back byte by byte, in memory or on disk, up to the cap."""

from __future__ import annotations

import io
import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._serving.bodies import SPOOL_BYTES, Recording, Replay, Tape


def recorded(*pieces: bytes, cap: int = 10_000_000) -> Tape:
    tape = Tape(cap)
    for piece in pieces:
        tape.record(piece)
    return tape


@pytest.mark.parametrize("size", [0, 1, SPOOL_BYTES, SPOOL_BYTES + 1, 3 * SPOOL_BYTES])
def test_a_tape_gives_back_what_it_recorded(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    tape = recorded(*[data[n : n + 10_000] for n in range(0, size, 10_000)])

    assert (tape.size, tape.is_over, tape.rewound().read()) == (size, False, data)
    tape.drop()


@pytest.mark.parametrize(("size", "is_on_disk"), [(SPOOL_BYTES, False), (SPOOL_BYTES + 1, True)])
def test_a_body_above_64_kib_goes_to_disk_and_its_file_is_closed_at_the_end(size: int, is_on_disk: bool) -> None:
    tape = recorded(b"x" * (size - 1), b"x")

    file = tape.rewound()
    tape.drop()

    assert isinstance(file, io.BytesIO) != is_on_disk
    assert file.closed


@pytest.mark.parametrize(("size", "is_over"), [(99, False), (100, False), (101, True)])
def test_a_body_over_the_cap_is_not_kept(size: int, is_over: bool) -> None:
    tape = recorded(*[b"x"] * size, cap=100)

    assert tape.is_over == is_over


def test_a_full_disk_ends_the_recording_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)

    tape = recorded(b"x" * (SPOOL_BYTES + 1), b"more")

    assert tape.is_over


READS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline", "read1"]), st.sampled_from([0, 1, 3, 7, 100])),
        st.tuples(st.sampled_from(["readlines", "next", "readinto", "readinto1"]), st.sampled_from([1, 5])),
    ),
    max_size=8,
)
BODIES = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"def\n", b"ghijkl"]), max_size=12).map(b"".join)


def does(source: Any, reads: list[tuple[str, int]]) -> bytes:
    """What *reads* get of *source*, all together."""
    got = b""
    for name, size in reads:
        if name == "next":
            got += next(iter(source), b"")
        elif name == "readlines":
            got += b"".join(source.readlines(size))
        elif name.startswith("readinto"):
            buffer = bytearray(size)
            got += bytes(buffer[: getattr(source, name)(buffer)])
        else:
            got += getattr(source, name)(size)
    return got


@given(body=BODIES, first=READS, second=READS, cut=st.sampled_from([None, 0, 2]))
def test_however_two_apps_read_both_get_the_body_from_its_first_byte(
    body: bytes, first: list[Any], second: list[Any], cut: int | None
) -> None:
    source = io.BytesIO(body)
    tape = Tape(1_000)

    got = does(Recording(source, tape), first)
    replay = Replay(tape.rewound(), source)
    again = does(replay, second)
    rest = replay.read() if cut is None else replay.read(cut) + replay.read()

    assert body.startswith(got)
    assert again + rest == body


@given(body=BODIES, size=st.sampled_from([-1, 0, 1, 2, 4, 50]))
def test_lines_end_where_they_end_in_the_original(body: bytes, size: int) -> None:
    for split in range(len(body) + 1):
        bare, replay = io.BytesIO(body), Replay(io.BytesIO(body[:split]), io.BytesIO(body[split:]))

        assert [replay.readline(size) for _ in range(5)] == [bare.readline(size) for _ in range(5)]


def test_none_asks_for_everything_as_it_does_of_a_file() -> None:
    source: Any = io.BytesIO(b"a\nb")
    tape = Tape(100)
    recording: Any = Recording(source, tape)

    assert (recording.readline(None), recording.read(None)) == (b"a\n", b"b")
    replay: Any = Replay(tape.rewound(), source)
    assert (replay.readline(None), replay.read(None)) == (b"a\n", b"b")


def test_text_and_buffers_on_top_of_an_input_read_all_of_it() -> None:
    body = "größe\nzwei\n".encode() * 5_000
    source = io.BytesIO(body)
    tape = Tape(1_000_000)

    as_text = io.TextIOWrapper(Recording(source, tape), encoding="utf-8").read(100)  # type: ignore[type-var]
    into = io.BytesIO()
    shutil.copyfileobj(io.BufferedReader(Replay(tape.rewound(), source)), into)  # type: ignore[type-var]

    assert body.decode().startswith(as_text)
    assert into.getvalue() == body


def test_an_input_that_only_has_what_pep_3333_asks_for_is_enough() -> None:
    class Least:
        def __init__(self, data: bytes) -> None:
            self._file = io.BytesIO(data)
            self.read = self._file.read
            self.readline = self._file.readline

    source = Least(b"abcdef")
    tape = Tape(100)

    assert Recording(source, tape).read1(2) == b"ab"
    replay = Replay(tape.rewound(), source)
    assert (replay.read1(5), replay.read1(5), replay.read1(0)) == (b"ab", b"cdef", b"")


@pytest.mark.parametrize("name", ["seek", "tell", "peek", "getvalue"])
def test_nobody_can_go_around_what_was_read(name: str) -> None:
    recording = Recording(io.BytesIO(b"abc"), Tape(100))

    assert not recording.seekable()
    assert not hasattr(recording, name)


def test_what_else_a_servers_input_offers_is_still_there() -> None:
    assert Recording(io.BytesIO(b""), Tape(1)).closed is False
