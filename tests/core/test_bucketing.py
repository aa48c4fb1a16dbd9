"""The hash contract: a promise across processes and releases."""

from __future__ import annotations

from hashlib import md5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canary_middleware._core.assignment.bucketing import BUCKETS, Draw, Md5Draw, bucket, bucket_of, threshold

IDENTITIES = (
    "", "a", "user-1", "user-42", "42", "0", "Ünïcödé", "日本語", "🦜", "\ud800", "a" * 71, "a" * 72, "a" * 73,
    "x" * 10_000, "alice@example.com", "550e8400-e29b-41d4-a716-446655440000", " spaced ", "\n", "true",
    "test_canary_user",
)  # fmt: skip

# Never change a number here: it would move somebody's user to another version.
GOLDEN = {
    ("checkout", "rollout"): (
        358905, 558331, 565321, 243609, 378979, 326342, 802160, 945589, 590435, 766313, 1421, 957636, 407778,
        907576, 592793, 834883, 671211, 279545, 264178, 644315,
    ),
    ("checkout", "version"): (
        617835, 737568, 91464, 39933, 451128, 969010, 905434, 117497, 808845, 874071, 944143, 429482, 759712,
        380709, 775249, 946145, 258947, 972293, 927863, 324218,
    ),
    ("a", "rollout"): (
        277772, 402398, 58970, 831301, 889995, 660319, 884385, 488991, 515120, 791366, 935053, 621262, 680513,
        921160, 185890, 381838, 780561, 363223, 641815, 934998,
    ),
    ("", "rollout"): (
        342557, 221600, 773005, 561093, 151949, 191186, 191432, 200543, 819882, 677495, 216884, 88458, 880434,
        560107, 114366, 577545, 186615, 732404, 853764, 496505,
    ),
}  # fmt: skip

points = st.binary(min_size=8, max_size=8)
weights = st.integers(0, BUCKETS)
identities = st.text(max_size=120)


@pytest.mark.parametrize(("salt", "draw"), GOLDEN)
def test_the_golden_vectors_hold(salt: str, draw: str) -> None:
    prepared = Draw(salt, draw)

    for identity, expected in zip(IDENTITIES, GOLDEN[salt, draw], strict=True):
        assert bucket(identity, salt=salt, draw=draw) == expected
        assert bucket_of(prepared.point(identity)) == expected


@given(identities, st.text(max_size=20), st.sampled_from(["rollout", "version"]))
def test_a_prepared_draw_gives_what_the_contract_gives(identity: str, salt: str, draw: str) -> None:
    assert bucket_of(Draw(salt, draw).point(identity)) == bucket(identity, salt=salt, draw=draw)


@given(points, weights)
@example(bytes(8), 0)
@example(b"\xff" * 8, BUCKETS)
@example(b"\xff" * 8, BUCKETS - 1)
def test_comparing_bytes_decides_as_comparing_buckets_does(point: bytes, weight: int) -> None:
    assert (point < threshold(weight)) == (bucket_of(point) < weight)


@given(st.integers(1, BUCKETS - 1))
def test_the_threshold_is_exact_to_the_last_hash_value(weight: int) -> None:
    border = int.from_bytes(threshold(weight), "big")

    assert bucket_of(border.to_bytes(8, "big")) == weight
    assert bucket_of((border - 1).to_bytes(8, "big")) == weight - 1


@given(identities, weights, weights)
def test_raising_a_weight_only_ever_adds(identity: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    point = Draw("checkout", "rollout").point(identity)

    assert not point < threshold(low) or point < threshold(high)


def test_0_is_exactly_nobody_and_a_million_exactly_everybody() -> None:
    everyone = [Draw("s", "rollout").point(str(n)) for n in range(2_000)]

    assert not any(point < threshold(0) for point in everyone)
    assert all(point < threshold(BUCKETS) for point in everyone)


def test_field_borders_matter() -> None:
    assert bucket("c", salt="ab") != bucket("bc", salt="a")


def test_a_thousand_identities_at_10_percent_give_about_a_hundred() -> None:
    on_canary = sum(bucket(f"user-{n}", salt="checkout") < 100_000 for n in range(1_000))

    assert 70 <= on_canary <= 130  # three standard deviations


def test_the_two_draws_are_independent() -> None:
    cells = [0, 0, 0, 0]
    for n in range(20_000):
        user = f"user-{n}"
        first = bucket(user, salt="s", draw="rollout") < BUCKETS // 2
        second = bucket(user, salt="s", draw="version") < BUCKETS // 2
        cells[2 * first + second] += 1

    assert sum((cell - 5_000) ** 2 / 5_000 for cell in cells) < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


@given(identities)
def test_md5_100_is_the_hash_that_teams_split_by_already(identity: str) -> None:
    value = int(md5(identity.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest(), 16) % 100
    point = Md5Draw().point(identity)

    assert bucket_of(point) == value * 10_000
    for percentage in range(101):
        assert (point < threshold(percentage * 10_000)) == (value < percentage)
