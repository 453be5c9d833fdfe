"""Arithmetic in GF(256): bytes as polynomials over GF(2) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d).

The field of zfec, of reedsolo and of most Reed-Solomon codes in use; 2 generates its nonzero elements. Addition and
subtraction are XOR.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

MODULUS: Final = 0x11D
ORDER: Final = 255
"""Nonzero elements; 2 to this power is 1."""


def _powers() -> bytes:
    found = bytearray()
    power = 1
    for _ in range(ORDER):
        found.append(power)
        power <<= 1
        if power > 0xFF:
            power ^= MODULUS
    return bytes(found)


POWERS: Final = _powers()
"""`POWERS[i]` is 2 to the power i, for 0 <= i < 255."""

_LOGARITHMS: Final = {power: exponent for exponent, power in enumerate(POWERS)}


def multiply(first: int, second: int) -> int:
    """Product of two elements, each 0..255."""
    if first == 0 or second == 0:
        return 0
    return POWERS[(_LOGARITHMS[first] + _LOGARITHMS[second]) % ORDER]


def divide(dividend: int, divisor: int) -> int:
    """Quotient of two elements, each 0..255. Raises ZeroDivisionError."""
    if divisor == 0:
        raise ZeroDivisionError("division by zero in GF(256)")
    if dividend == 0:
        return 0
    return POWERS[(_LOGARITHMS[dividend] - _LOGARITHMS[divisor]) % ORDER]


@lru_cache(maxsize=256)
def products(factor: int) -> bytes:
    """The 256 products of `factor` with 0..255: a table for `bytes.translate`, which multiplies a whole shard."""
    return bytes(multiply(factor, element) for element in range(256))
