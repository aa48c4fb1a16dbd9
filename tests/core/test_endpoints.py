"""Which template covers a request: the first that does, at a cost that follows the path."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.assignment.endpoints import EndpointTable, validate_template
from canary_middleware.errors import ConfigError


def naive(templates: list[str], method: str, path: str) -> tuple[int, dict[str, str]] | None:
    """The same question, asked of one template after the other."""
    for n, text in enumerate(templates):
        methods, _, template = text.rpartition(" ")
        allowed = set(methods.split(",")) if methods else None
        if allowed is not None and method not in allowed and not (method == "HEAD" and "GET" in allowed):
            continue
        found = fits(template, path)
        if found is not None:
            return n, found
    return None


def fits(template: str, path: str) -> dict[str, str] | None:
    if template in ("*", "/*"):
        return {}
    wanted, given_ = template.split("/")[1:], path.split("/")[1:]
    if wanted[-1] == "*":
        if len(given_) < len(wanted):
            return None
        wanted, given_ = wanted[:-1], given_[: len(wanted) - 1]
    if len(wanted) != len(given_):
        return None
    params = {}
    for want, got in zip(wanted, given_, strict=True):
        if want.startswith("{") and got:
            params[want[1:-1]] = got
        elif not (want == "*" and got) and want != got:
            return None
    return params


segments = st.sampled_from(["a", "b", "{p}", "*", ""])
templates = st.builds(
    lambda methods, parts: (
        methods + "/" + "/".join(f"{{p{n}}}" if part == "{p}" else part for n, part in enumerate(parts))
    ),
    st.sampled_from(["", "GET ", "POST ", "GET,POST "]),
    st.lists(segments, min_size=1, max_size=4),
)
paths = st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(templates, max_size=10), st.sampled_from(["GET", "HEAD", "POST", "PUT"]), paths)
def test_a_table_finds_what_asking_each_template_in_turn_finds(entries: list[str], method: str, path: str) -> None:
    expected = naive(entries, method, path)
    found = EndpointTable([(text, n) for n, text in enumerate(entries)]).match(method, path)

    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.value, found.template) == (expected[0], entries[expected[0]].rpartition(" ")[2])
        assert {name: found.param(name) for name in expected[1]} == expected[1]
        assert found.param("nobody") is None


@pytest.mark.parametrize(
    ("template", "method", "path", "covers"),
    [
        ("GET /a", "HEAD", "/a", True),
        ("GET /a", "POST", "/a", False),
        ("GET,POST /a", "POST", "/a", True),
        ("/a", "PATCH", "/a", True),
        ("/a", "GET", "/a/", False),
        ("/a/*", "GET", "/a/", True),
        ("/a/*", "GET", "/a/b/c", True),
        ("/a/*", "GET", "/a", False),
        ("/a/*/c", "GET", "/a/b/c", True),
        ("/a/{b}", "GET", "/a/", False),
        ("/A", "GET", "/a", False),
        ("*", "GET", "/anything/at/all", True),
        ("/*", "OPTIONS", "*", True),
        ("GET /", "GET", "", True),
    ],
)
def test_the_syntax_means_what_the_guide_says(template: str, method: str, path: str, covers: bool) -> None:
    assert (EndpointTable([(template, 1)]).match(method, path) is not None) == covers


def test_a_whole_path_keeps_its_place_among_patterns() -> None:
    exact_first = EndpointTable([("GET /a/b", "exact"), ("/a/{x}", "pattern")])
    pattern_first = EndpointTable([("/a/{x}", "pattern"), ("GET /a/b", "exact")])

    assert [table.match("GET", "/a/b").value for table in (exact_first, pattern_first)] == ["exact", "pattern"]  # type: ignore[union-attr]
    assert exact_first.match("POST", "/a/b").value == "pattern"  # type: ignore[union-attr]
    assert pattern_first.match("GET", "/a/b").param("x") == "b"  # type: ignore[union-attr]


def test_a_path_that_the_plan_spells_out_is_one_look_up_whatever_stands_before_it() -> None:
    patterns = [(f"GET /{n}/{{id}}/*", n) for n in range(1_000)] + [("POST /{x}/b", 1), ("/{x}/{y}/c", 2)]
    bare, behind = (EndpointTable([*before, ("GET /a/b", 3)]) for before in ([], patterns))

    assert calls_of(behind, "/a/b") == calls_of(bare, "/a/b") < calls_of(behind, "/a/c")


def test_one_path_may_stand_once_for_each_method() -> None:
    texts = ("GET /a/{x}", "POST /a/{x}", "GET,DELETE /a/{x}", "HEAD,POST /a/{x}", "/a/{x}", "PUT /a/{x}")
    table = EndpointTable([(text, n) for n, text in enumerate(texts)])
    found = {method: table.match(method, "/a/b") for method in ("GET", "HEAD", "POST", "DELETE", "PUT")}

    assert {method: match and match.value for method, match in found.items()} == {
        "GET": 0,
        "HEAD": 0,
        "POST": 1,
        "DELETE": 2,
        "PUT": 4,
    }


def test_a_template_said_ten_thousand_times_is_kept_once() -> None:
    once = EndpointTable([("GET /a/*", 0)])
    often = EndpointTable([("GET /a/*", n) for n in range(10_000)])

    assert calls_of(often, "/a/b") == calls_of(once, "/a/b")
    assert [often.match(method, "/a/b") is not None for method in ("GET", "HEAD", "POST")] == [True, True, False]
    assert often.match("GET", "/a/b").value == 0  # type: ignore[union-attr]


RECOMMENDATIONS = (
    "/api/v2/recommend/personalized",
    "/api/v2/recommend/compare",
    "/api/v2/conversations/start",
    "/api/v2/conversations/{session_id}/turn",
    "/api/v2/conversations/{session_id}",
    "/api/v2/conversations/{session_id}/close",
    "/api/v2/conversations",
)


@pytest.mark.parametrize(
    ("path", "template", "session"),
    [
        ("/api/v2/recommend/compare", "/api/v2/recommend/compare", None),
        ("/api/v2/conversations", "/api/v2/conversations", None),
        ("/api/v2/conversations/start", "/api/v2/conversations/start", None),
        ("/api/v2/conversations/s-17", "/api/v2/conversations/{session_id}", "s-17"),
        ("/api/v2/conversations/s-17/turn", "/api/v2/conversations/{session_id}/turn", "s-17"),
        ("/api/v2/conversations/start/close", "/api/v2/conversations/{session_id}/close", "start"),
        ("/api/v2/conversations/s-17/delete", None, None),
        ("/api/v2/conversations//turn", None, None),
        ("/api/v2/recommend", None, None),
    ],
)
def test_a_conversation_is_found_by_its_template_and_knows_its_session(
    path: str, template: str | None, session: str | None
) -> None:
    found = EndpointTable([(text, text) for text in RECOMMENDATIONS]).match("POST", path)

    assert (found and found.template, found and found.param("session_id")) == (template, session)


def calls_of(table: EndpointTable[int], path: str) -> int:
    """How many functions and methods, ours and built in, one look-up calls: work that no machine's speed changes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        table.match("GET", path)
    finally:
        sys.setprofile(before)
    return calls


def peak_bytes(table: EndpointTable[int], path: str) -> int:
    """The most memory that one look-up holds at a time."""
    tracemalloc.start()
    try:
        table.match("GET", path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", ["/", "/a", "/%2e", "/a/b", "//a"])
def test_a_path_of_a_million_pieces_costs_what_a_path_of_ten_costs(piece: str) -> None:
    table = EndpointTable([("/a/{b}/c", 1), ("/{x}/a/*/a", 2), ("/a/a/a/b", 3)])

    assert 0 < calls_of(table, piece * 1_000_000) <= calls_of(table, piece * 10)
    # One copy of what is left of the path, and no list with a place for each piece.
    assert peak_bytes(table, piece * 1_000_000) < 1_000_000 * len(piece) + 10_000


def test_ten_thousand_templates_cost_what_ten_cost() -> None:
    few, many = (
        EndpointTable([(f"/api/{n}/{{id}}/{n}", n) for n in range(count)] + [("/api/*", -1)]) for count in (10, 10_000)
    )

    assert calls_of(many, "/api/7/x/7") == calls_of(few, "/api/7/x/7")
    assert calls_of(many, "/api/7/x/nobody") == calls_of(few, "/api/7/x/nobody")


def test_a_path_that_forks_everywhere_visits_no_part_of_the_plan_twice() -> None:
    depth = 40  # 2 ** 40 ways, if each fork were walked anew
    straight = ["/a" * n + "/{x}" + "/a" * (depth - n - 1) for n in range(depth)]
    table = EndpointTable([(text, n) for n, text in enumerate(straight)])
    nodes = {tuple(text.replace("{x}", "*").split("/")[: n + 1]) for text in straight for n in range(depth + 1)}

    # Per part of the plan: a look-up, a fork remembered and taken up again, the endings there.
    assert depth < calls_of(table, "/a" * depth) <= 4 * len(nodes) + 10


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a", 'must begin with /, as "GET /posts/{id}"'),
        ("", 'must begin with /, as "GET /posts/{id}"'),
        ("GET", 'must begin with /, as "GET /posts/{id}"'),
        ("get /a", "write them in capitals"),
        ("GET, /a", "as GET,POST"),
        ("GET POST /a", 'write for example "GET,POST /posts/{id}"'),
        ("/a?b", "leave the query string out"),
        ("/a#b", "leave the query string out"),
        ("/{a", "a parameter is a whole segment, as /posts/{id}"),
        ("/x{a}", "a parameter is a whole segment, as /posts/{id}"),
        ("/{}", "write for example {session_id}"),
        ("/{1a}", "write for example {session_id}"),
        ("/{a b}", 'must begin with /, as "GET /posts/{id}"'),
        ("/{a}/{a}", "give each parameter its own name"),
        ("/a*", "* stands for a whole segment"),
        ("/a/**", "* stands for a whole segment"),
    ],
)
def test_a_wrong_template_is_named_with_the_remedy(template: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate_template(template)

    assert said in str(error.value)
    assert repr(template) in str(error.value)
