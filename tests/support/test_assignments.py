"""The checker of assignments finds what it is there to find."""

from __future__ import annotations

import time

import pytest

from .assignments import Asked, InForce, ask, wrong


@pytest.mark.parametrize(
    ("version", "bucket", "allowed", "is_wrong"),
    [
        ("v2", 299_999, (300_000, 300_000), False),
        ("v2", 300_000, (300_000, 300_000), True),
        ("v1", 300_000, (300_000, 300_000), False),
        ("v1", 299_999, (300_000, 300_000), True),
        ("v2", 0, (0, 0), True),
        ("v1", 999_999, (1_000_000, 1_000_000), True),
        ("v2", 499_999, (300_000, 500_000), False),
        ("v1", 300_000, (300_000, 500_000), False),
        ("v2", 500_000, (300_000, 500_000), True),
        ("v1", 299_999, (300_000, 500_000), True),
        ("v3", 0, (0, 1_000_000), True),
    ],
)
def test_a_version_is_right_only_where_a_weight_in_force_gives_it(
    version: str, bucket: int, allowed: tuple[int, int], is_wrong: bool
) -> None:
    assert (wrong(Asked(b"", "shop", bucket), version, allowed) is not None) == is_wrong


def test_the_old_weight_is_possible_until_the_new_one_is_acknowledged_and_no_longer() -> None:
    shop = InForce()
    before = time.monotonic()
    shop.changing_to(30)
    during = time.monotonic()
    shop.acknowledged()
    after = time.monotonic()

    assert shop.between(before - 2, before - 1) == (0, 0)
    assert shop.between(during, during) == (0, 300_000)
    assert shop.between(after + 1e-6, after + 1) == (300_000, 300_000)
    assert shop.between(before - 1, after + 1) == (0, 300_000)


def test_a_change_that_was_refused_was_never_possible() -> None:
    shop = InForce()
    shop.changing_to(30)
    shop.refused()

    assert shop.between(time.monotonic(), time.monotonic()) == (0, 0)


def test_a_request_carries_the_bucket_of_the_hash_contract() -> None:
    asked = ask("user-42", rollout="checkout")

    assert b"x-user-id: user-42\r\n" in asked.data
    assert asked.bucket == ask("user-42", rollout="checkout", path="/other").bucket
    assert asked.bucket != ask("user-42", rollout="shop").bucket
