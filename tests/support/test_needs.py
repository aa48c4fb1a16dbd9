"""A test that needs what is not there is skipped by the package's name, and fails in CI."""

from __future__ import annotations

import pytest

from .needs import need


def test_what_is_there_is_no_reason_to_skip() -> None:
    need("sh", "dash")


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="some-package is not installed"):
        need("no-such-command", "some-package")


def test_in_ci_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="some-package"):
        need("no-such-command", "some-package")
