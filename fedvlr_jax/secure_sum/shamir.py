"""Shamir's secret sharing of 32 bytes: any `threshold` shares give the secret, fewer say nothing about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

PRIME = 2**256 + 297
"""The least prime above all secrets of 32 bytes."""

SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, threshold: int, points: Sequence[int], random: Callable[[int], bytes]) -> dict[int, bytes]:
    """One share [33 bytes] for each point: the values of a random polynomial whose constant term is the secret.

    Args:
      secret: 32 bytes.
      threshold: shares that give the secret, at least 1.
      points: distinct whole numbers, at least 1 and below the prime; at least `threshold` of them.
      random: ``(count) -> bytes`` for the other coefficients.
    """
    if not 1 <= threshold <= len(points) or len(set(points)) < len(points) or min(points) < 1:
        raise ValueError(f"expected at least {threshold} distinct points from 1, found {points}")
    # 16 bytes more than the prime has: the rest of the division is uniform up to 2^-128.
    others = [int.from_bytes(random(SHARE_BYTES + 16), "big") % PRIME for _ in range(threshold - 1)]
    coefficients = [int.from_bytes(secret, "big"), *others]
    shares = {}
    for point in points:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * point + coefficient) % PRIME
        shares[point] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def join(shares: Mapping[int, bytes], threshold: int) -> bytes | None:
    """The secret by interpolation at 0; None if there are fewer shares than the threshold, or they do not fit."""
    if len(shares) < threshold:
        return None
    points = sorted(shares)[:threshold]
    total = 0
    for j in points:
        above = below = 1
        for m in points:
            if m != j:
                above, below = above * m % PRIME, below * (m - j) % PRIME
        total += int.from_bytes(shares[j], "big") * above * pow(below, -1, PRIME)
    value = total % PRIME
    return value.to_bytes(SECRET_BYTES, "big") if value < 1 << (8 * SECRET_BYTES) else None
