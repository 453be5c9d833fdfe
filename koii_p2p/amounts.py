"""Amounts of money: written in KOII, kept in whole Roe."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

ROE_PER_KOII: Final = 10**9


def roe(amount: str | int | Decimal) -> int:
    """An amount in KOII as Roe. Raises ValueError for less than 1 Roe of precision, a sign or no number."""
    try:
        exact = Decimal(amount) * ROE_PER_KOII
    except InvalidOperation:
        raise ValueError(f"{amount!r} is not an amount in KOII") from None
    if not exact.is_finite() or exact < 0 or exact != exact.to_integral_value() or exact > 2**64:
        raise ValueError(f"{amount} KOII is not a whole number of Roe (1 KOII = 10^9 Roe)")
    return int(exact)
