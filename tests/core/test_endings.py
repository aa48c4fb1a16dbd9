"""What a raised error says of a request, on every front door."""

from __future__ import annotations

from asyncio import CancelledError

import pytest

from canary_middleware._core.endings import ending_of


@pytest.mark.parametrize("is_cancelled", [True, False])
@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (ValueError(), "failed"),
        (SystemExit(1), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (GeneratorExit(), "left"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "failed"),
        (BaseExceptionGroup("two", [ValueError(), KeyboardInterrupt()]), "interrupted"),
        (BaseExceptionGroup("two", [GeneratorExit(), BaseExceptionGroup("in it", [SystemExit()])]), "failed"),
    ],
)
def test_an_error_says_the_same_whether_or_not_the_task_is_cancelled(
    error: BaseException, ending: str, is_cancelled: bool
) -> None:
    assert ending_of(error, is_cancelled=is_cancelled) == ending


@pytest.mark.parametrize("error", [CancelledError(), BaseExceptionGroup("one", [CancelledError()])])
def test_a_cancellation_is_a_leavers_only_where_this_task_was_cancelled(error: BaseException) -> None:
    assert ending_of(error, is_cancelled=True) == "left"
    assert ending_of(error, is_cancelled=False) == "failed"
