"""Closed forms of the audit game, exact: what experiments and the code that draws auditors are held against."""

from __future__ import annotations

from fractions import Fraction
from math import comb


def binomial(trials: int, chance: Fraction, successes: int) -> Fraction:
    """Chance of exactly so many successes."""
    return comb(trials, successes) * chance**successes * (1 - chance) ** (trials - successes)


def binomial_tail(trials: int, chance: Fraction, least: int) -> Fraction:
    """Chance of at least so many successes."""
    return sum((binomial(trials, chance, k) for k in range(least, trials + 1)), Fraction(0))


def hypergeometric(population: int, bad: int, drawn: int, hits: int) -> Fraction:
    """Chance of exactly so many bad ones among those drawn without replacement."""
    if hits > drawn or drawn - hits > population - bad:
        return Fraction(0)
    return Fraction(comb(bad, hits) * comb(population - bad, drawn - hits), comb(population, drawn))


def hypergeometric_tail(population: int, bad: int, drawn: int, least: int) -> Fraction:
    """Chance of at least so many bad ones among those drawn: the capture of a committee by `least` of `drawn`."""
    return sum((hypergeometric(population, bad, drawn, k) for k in range(least, drawn + 1)), Fraction(0))


def looks(submissions: int, sample: int, lookers: int, count: int) -> Fraction:
    """Chance that one submission is looked at so often when each of `lookers` picks `sample` of all by itself."""
    return binomial(lookers, Fraction(min(sample, submissions), submissions), count)


def seen_by_somebody(submissions: int, sample: int, lookers: int) -> Fraction:
    """Chance that one submission is looked at at all: `1 - (1 - k / n) ** h`."""
    return 1 - looks(submissions, sample, lookers, 0)


def caught_by_auditors(others: int, diligent: int, auditors: int) -> Fraction:
    """Chance that at least one of the auditors drawn is diligent: `1 - C(N - aN, m) / C(N, m)`."""
    return 1 - hypergeometric(others, diligent, auditors, 0)


def within_three_sigma(hits: int, trials: int, chance: Fraction) -> bool:
    """Whether a count of independent trials is what the chance lets one expect, in whole numbers."""
    off = abs(hits - trials * chance)
    return off * off <= 9 * trials * chance * (1 - chance)


def majority(seats: int) -> int:
    """The least number of seats that is more than half."""
    return seats // 2 + 1


def two_thirds(seats: int) -> int:
    """The least number of seats that is two thirds or more."""
    return -(-2 * seats // 3)
