"""Which template covers a request: the first that does, at a cost that follows the path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware.core.endpoints import EndpointTable, validate_template
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


def test_a_whole_path_is_found_at_once_unless_a_pattern_stands_before_it() -> None:
    exact_first = EndpointTable([("GET /a/b", "exact"), ("/a/{x}", "pattern")])
    pattern_first = EndpointTable([("/a/{x}", "pattern"), ("GET /a/b", "exact")])

    assert [table.match("GET", "/a/b").value for table in (exact_first, pattern_first)] == ["exact", "pattern"]  # type: ignore[union-attr]
    assert exact_first.match("POST", "/a/b").value == "pattern"  # type: ignore[union-attr]


def test_a_path_of_a_million_slashes_is_cut_at_the_depth_of_the_plan() -> None:
    table = EndpointTable([("/a/{b}/c", 1), ("/x/*", 2)])

    assert table.match("GET", "/" * 1_000_000) is None
    assert table.match("GET", "/x" + "/y" * 100_000).value == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a", "must begin with /"),
        ("", "must begin with /"),
        ("GET", "must begin with /"),
        ("get /a", "write them in capitals"),
        ("GET, /a", "is no method"),
        ("GET POST /a", "a space too many"),
        ("/a?b", "leave the query string out"),
        ("/a#b", "leave the query string out"),
        ("/{a", "a parameter is a whole segment"),
        ("/x{a}", "a parameter is a whole segment"),
        ("/{}", "is no parameter"),
        ("/{1a}", "is no parameter"),
        ("/{a b}", "must begin with /"),
        ("/{a}/{a}", "stands twice"),
        ("/a*", "mixes * with text"),
    ],
)
def test_a_wrong_template_says_what_is_wrong(template: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate_template(template)

    assert said in str(error.value)
    assert repr(template) in str(error.value)
