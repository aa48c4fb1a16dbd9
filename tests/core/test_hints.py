"""A mistyped name is answered with the one that was meant, and with what there is where none is near."""

from __future__ import annotations

from canary_middleware._core.hints import hint, nearest


def test_the_name_that_was_meant_is_named() -> None:
    assert nearest("chekout", ["search", "checkout"]) == "checkout"
    assert hint("chekout", ["search", "checkout"], "there are search, checkout") == "did you mean 'checkout'?"


def test_where_no_name_is_near_something_else_is_said() -> None:
    assert nearest("x", ["search", "checkout"]) is None
    assert hint("x", ["search", "checkout"], "there are search, checkout") == "there are search, checkout"


def test_what_begins_so_is_meant_before_what_is_spelt_like_it() -> None:
    assert nearest("stat", ["start", "status", "stage"]) == "status"
    assert nearest("s", ["start"]) is None
