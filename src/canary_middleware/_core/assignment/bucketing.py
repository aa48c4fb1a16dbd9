"""
The hash contract: which point of the ring an identity stands on, the same in every process and release.

Fields are length-prefixed, so that ("ab", "c") and ("a", "bc") differ. Weights are compared on the raw digest: no
float, no modulo, and no integer conversion on the request path.
"""

from __future__ import annotations

from hashlib import blake2b, md5
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKETS: Final = 1_000_000
"""Size of the ring: a bucket is one part per million of all identities."""

DIGEST_BYTES: Final = 8
_DOMAIN: Final = b"canary1"
# Greater than every 8-byte digest in lexicographic order: weight 100 % takes all of them.
_EVERYBODY: Final = b"\xff" * (DIGEST_BYTES + 1)
# An identity longer than this is hashed from scratch; shorter ones start from a state that already holds their length.
_PREPARED_LENGTHS: Final = 72


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def encode(identity: str) -> bytes:
    """UTF-8 of *identity*; a lone surrogate (legal in JSON) is kept as its own three bytes instead of failing."""
    try:
        return identity.encode()
    except UnicodeEncodeError:
        return identity.encode("utf-8", "surrogatepass")


class Draw:
    """
    One independent draw over identities: a salt and a draw name, hashed once and reused for every request.

    Args:
        salt: the rollout's salt; other salts give independent draws.
        draw: ``"rollout"`` (in or out) or ``"version"`` (which of several canaries).
    """

    __slots__ = ("_prefix", "prepared")

    def __init__(self, salt: str, draw: str) -> None:
        self._prefix = _field(_DOMAIN) + _field(encode(salt)) + _field(encode(draw))
        # Copying a hash state that already took the constant fields and the length is cheaper than hashing them again.
        self.prepared: tuple[Callable[[], blake2b], ...] = tuple(
            blake2b(self._prefix + n.to_bytes(4, "big"), digest_size=DIGEST_BYTES).copy
            for n in range(_PREPARED_LENGTHS)
        )

    def point(self, identity: str) -> bytes:
        """The eight digest bytes of *identity* (any text); big endian, so that byte order is numeric order."""
        try:
            data = identity.encode()
            state = self.prepared[len(data)]()
        except (UnicodeEncodeError, IndexError):
            return blake2b(self._prefix + _field(encode(identity)), digest_size=DIGEST_BYTES).digest()
        state.update(data)
        return state.digest()


def bucket_of(point: bytes) -> int:
    """The bucket, 0 … 999 999, of a digest: ``(h * 1_000_000) >> 64``."""
    return (int.from_bytes(point, "big") * BUCKETS) >> 64


def threshold(weight_ppm: int) -> bytes:
    """
    The bytes that split the ring at *weight_ppm*: ``point < threshold(w)`` exactly when ``bucket_of(point) < w``.

    Args:
        weight_ppm: 0 … 1 000 000; 0 is exactly nobody, 1 000 000 exactly everybody.
    """
    if weight_ppm <= 0:
        return b""
    if weight_ppm >= BUCKETS:
        return _EVERYBODY
    # floor(h*N / 2^64) < w  <=>  h*N < w*2^64  <=>  h < ceil(w*2^64 / N)
    return (-((-weight_ppm << 64) // BUCKETS)).to_bytes(DIGEST_BYTES, "big")


def bucket(identity: str, *, salt: str, draw: str = "rollout") -> int:
    """
    Place *identity* on the ring of 1,000,000 buckets.

    The same identity, salt and draw give the same bucket in every process and release; the vectors in
    tests/core/test_bucketing.py are a promise. Raising a weight only ever adds identities.

    Args:
        identity: what must not flip (user id, session id). Any text; never logged, never stored.
        salt: the rollout's salt, by default its name.
        draw: ``"rollout"`` or ``"version"``.
    Returns:
        0 ≤ bucket < 1_000_000.
    """
    fields = _field(_DOMAIN) + _field(encode(salt)) + _field(encode(draw)) + _field(encode(identity))
    return bucket_of(blake2b(fields, digest_size=DIGEST_BYTES).digest())


class Md5Draw:
    """
    ``int(md5(identity).hexdigest(), 16) % 100``, for teams that already split that way.

    A weight of 2.5 % takes 0, 1 and 2 of the hundred values: the ring has only hundred places. The salt plays no part.
    """

    __slots__ = ()
    prepared: tuple[Callable[[], blake2b], ...] = ()

    def point(self, identity: str) -> bytes:
        """The value 0 … 99 as the smallest digest of its bucket, so that one comparison serves both hashes."""
        value = int(md5(encode(identity), usedforsecurity=False).hexdigest(), 16) % 100
        return threshold(value * (BUCKETS // 100)) if value else bytes(DIGEST_BYTES)
