"""Whether counts of trials are what a chance lets one expect: with fixed seeds a promise and not a gamble."""

from __future__ import annotations

from fractions import Fraction


def within_three_sigma(hits: int, trials: int, chance: Fraction | float) -> bool:
    """Whether so many of independent trials are within three standard deviations of what is expected; exact."""
    share = Fraction(chance)
    off = abs(hits - trials * share)
    return off * off <= 9 * trials * share * (1 - share)
