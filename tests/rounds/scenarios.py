"""Random nets from a seed: terms, stakes, roles, weather, faults and adversaries. `invariants.play` plays them.

A scenario is a net of 4 to 40 engines. Adversaries hold together at most a third of the stake, and are at most a third
of the stakers. The net loses, delays, doubles and reorders messages, nodes crash and come back, the net falls apart and
heals; K2 can be reached by whoever runs, and answers late.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from koii_p2p.rounds.audit_rules import BASIS_POINTS, AuditRules, Profile, Weights
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds import adversaries as bad
from tests.rounds import liars
from tests.rounds.simulation import TERMS, Maker, Peer, Weather

MINIMUM = TERMS.minimum_stake

ALWAYS: Sequence[Maker] = (
    bad.WrongValue,
    bad.WrongValue,
    bad.Silent,
    bad.Accuser,
    bad.Colluder,
    bad.Colluder,
    bad.late(0, None),
    bad.late(0, 2),
    bad.late(3, 2),
    bad.late(9, 1),
    bad.late(12, None),
    bad.Equivocator,
    bad.BallotEquivocator,
    bad.ListVoteEquivocator,
    bad.NoticeEquivocator,
    bad.ListNoticeEquivocator,
    bad.Objector,
    bad.Garbler,
    bad.Withholder,
    bad.BallotWithholder,
    bad.Spammer,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """From `start` to before `end` these peers (by index) are down, or in a net of their own.

    With `records_lost` they come back with their keys and their journals, and without their records.
    """

    start: int
    end: int
    peers: tuple[int, ...]
    down: bool
    records_lost: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything about one net, drawn from its seed."""

    seed: int
    terms: TaskTerms
    crew: tuple[Maker, ...]
    stakes: tuple[int, ...]
    weather: Weather
    rounds: int
    faults: tuple[Fault, ...]


def scenario_of(seed: int) -> Scenario:
    """The scenario of a seed."""
    draw = random.Random(seed)
    size = 40 if draw.random() < 0.01 else min(40, 4 + int(draw.expovariate(1 / 3)))
    terms = _terms(draw)
    crew, stakes = _crew(draw, size, terms)
    weather = _weather(draw, size)
    rounds = draw.randint(3, 6)
    faults = tuple(_faults(draw, crew, stakes, terms, rounds)) if draw.random() < 0.4 else ()
    return Scenario(seed, terms, crew, stakes, weather, rounds, faults)


def _terms(draw: random.Random) -> TaskTerms:
    rules = _rules(draw)
    audits = (36, 48) if rules.sealed else (24, 30, 36)
    submission, audit, delay = draw.choice((12, 18)), draw.choice(audits), draw.choice((9, 12, 18))
    return replace(
        TERMS,
        starting_slot=draw.randint(50, 150),
        round_time=submission + audit + delay,
        submission_window=submission,
        audit_window=audit,
        audit=rules,
    )


def _rules(draw: random.Random) -> AuditRules:
    profile = draw.choices(list(Profile), (10, 60, 15, 15))[0]
    if profile is Profile.KOII:
        return AuditRules(profile, Weights.EQUAL)
    sealed = draw.random() < 0.35
    return AuditRules(
        profile,
        draw.choice(list(Weights)),
        auditors=draw.choice((3, 5, 5, 8)),
        confidence=draw.choice((0, 0, 900_000)),
        audit_rate=draw.choice((3000, 7000)) if profile is Profile.POSP else BASIS_POINTS,
        sealed=sealed,
        canary_rate=draw.choice((0, 3000)) if sealed else 0,
        reputation_floor=draw.choice((0, 0, 2500)) if profile is not Profile.ALL else 0,
        finders_share=draw.choice((0, 2000, 10_000)),
        witness_seats=draw.choice((0, 0, 2)),
    )


def _crew(draw: random.Random, size: int, terms: TaskTerms) -> tuple[tuple[Maker, ...], tuple[int, ...]]:
    """Makers and stakes. Adversaries hold at most a third of the stake, and are at most a third of the stakers."""
    rules = terms.audit
    same = rules.weights is Weights.EQUAL and draw.random() < 0.5
    stakes = [MINIMUM + (0 if same else draw.randint(0, 2 * MINIMUM)) for _ in range(size)]
    crew: list[Maker] = [_honest(draw, rules) for _ in range(size)]
    kinds = list(ALWAYS)
    lies_in = _some_rounds(draw)
    kinds += [liars.liar(lie, lies_in) for lie in liars.Lie if lie is not liars.Lie.NOTHING]
    if rules.profile is Profile.KOII:
        kinds += [bad.LoneAccuser] * 4
    if rules.sealed:
        kinds += [bad.RevealWithholder, bad.RevealWithholder, bad.RevealEquivocator]
    if rules.canary_rate:
        kinds += [bad.fake_canary(0, None), bad.fake_canary(3, 1), bad.fake_canary(6, None)]
        early = draw.randint(1, terms.audit_window // 6 + 1)
        kinds += [bad.fake_canary(-early, size // 2)] * 2
    held = chosen = 0
    wanted = 0 if draw.random() < 0.15 else draw.randint(1, max(1, size // 3))
    for index in draw.sample(range(size), size):
        if chosen < min(wanted, size // 3) and (held + stakes[index]) * 3 <= sum(stakes):
            crew[index] = draw.choice(kinds)
            held, chosen = held + stakes[index], chosen + 1
    for _ in range(draw.randint(0, 2) if rules.witness_seats else 0):
        crew.append(draw.choice((bad.Bystander, bad.UnstakedLiar)))
        stakes.append(0)
    return tuple(crew), tuple(stakes)


def _some_rounds(draw: random.Random) -> Callable[[int, int], bool]:
    """Every third round, in its first attempt; in one net of four in its second and third as well."""
    chosen, attempts = draw.randrange(3), draw.choice((1, 1, 1, 3))
    return lambda number, attempt: attempt < attempts and number % 3 == chosen


def _honest(draw: random.Random, rules: AuditRules) -> Maker:
    chance = draw.random()
    if chance < 0.1:
        return bad.Bystander
    if chance < 0.25 and rules.profile is not Profile.KOII:
        return bad.Patroller
    if chance < 0.3:
        return bad.Slow
    if chance < 0.5 and rules.canary_rate:
        return bad.CanaryPlayer
    return Peer


def _weather(draw: random.Random, size: int) -> Weather:
    return Weather(
        loss=draw.choice((0.0, 0.0, 0.0, 0.1, 0.4)),
        duplication=draw.choice((0.0, 0.1)),
        delay=draw.choice((0, 1, 2)),
        lag=draw.choice((0, 0, 1, 3)),
        pace=draw.choice((1.0, 0.7, 0.5)),
        read_every=draw.choice((2, 3)),
        reconcile_peers=None if size <= 10 else 4,
    )


def _faults(
    draw: random.Random, crew: Sequence[Maker], stakes: Sequence[int], terms: TaskTerms, rounds: int
) -> Iterator[Fault]:
    """Crashes of honest peers with at most a seventh of the stake at a time, and a net that falls in two."""
    first, last = terms.starting_slot, terms.clock.settles_at(rounds - 1)
    for _ in range(draw.randint(1, 3)):
        start = draw.randint(first, last)
        end = start + draw.randint(3, terms.round_time)
        if draw.random() < 0.5:
            down, held = [], 0
            for index in draw.sample(range(len(crew)), len(crew)):
                if (held + stakes[index]) * 7 <= sum(stakes):
                    down.append(index)
                    held += stakes[index]
            yield Fault(start, end, tuple(down[: draw.randint(1, 3)]), True, draw.random() < 0.3)
        else:
            apart = draw.sample(range(len(crew)), draw.randint(1, len(crew) // 2))
            yield Fault(start, end, tuple(apart), False)
        first = end + 1
        if first >= last:
            return
