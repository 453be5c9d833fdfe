"""Random nets, and what must hold in each of them; `scripts/soak_rounds.py` plays as many more as one has time for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from koii_p2p.rounds import anchoring
from koii_p2p.rounds.audit_rules import Profile, Weights
from tests.rounds import adversaries, liars
from tests.rounds.invariants import play
from tests.rounds.scenarios import scenario_of
from tests.rounds.simulation import Maker, Net, Peer, records_read_once


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with records_read_once():
        yield


SHOWN = (535, 1683, 2072)
"""Seeds that once showed a bug: a restart late in the audit, auditors known only when ballots were about to close, and
two who accuse and vote when honest ballots are closed."""


@pytest.mark.parametrize("seed", [*range(24), *SHOWN])
def test_invariants_hold_in_random_nets(seed: int) -> None:
    assert play(seed).violations == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_invariants_hold_in_many_random_nets(block: int) -> None:
    first = 1000 + 30 * block
    violations = [violation for seed in range(first, first + 30) for violation in play(seed).violations]
    assert violations == []


def test_a_seed_is_always_the_same_play() -> None:
    one, other = play(7), play(7)
    assert one.net.chain.transactions == other.net.chain.transactions
    assert one.net.chain.anchored == other.net.chain.anchored
    assert (one.outcomes, one.notes) == (other.outcomes, other.notes)


def test_scenarios_meet_every_rule_and_every_adversary() -> None:
    scenarios = [scenario_of(seed) for seed in range(1500)]
    rules = [scenario.terms.audit for scenario in scenarios]
    assert {rule.profile for rule in rules} == set(Profile)
    assert {rule.weights for rule in rules} == set(Weights)
    for profile in (Profile.HARDENED, Profile.ALL, Profile.POSP):
        assert {rule.sealed for rule in rules if rule.profile is profile} == {False, True}
    for name in ("canary_rate", "reputation_floor", "finders_share", "witness_seats", "confidence"):
        assert len({getattr(rule, name) for rule in rules}) > 1, name
    sizes = [sum(stake > 0 for stake in scenario.stakes) for scenario in scenarios]
    assert (min(sizes), max(sizes)) == (4, 40)
    faults = [fault for scenario in scenarios for fault in scenario.faults]
    assert {(fault.down, fault.records_lost) for fault in faults} == {
        (True, False),
        (True, True),
        (False, False),
    }
    weathers = [scenario.weather for scenario in scenarios]
    for name in ("loss", "duplication", "delay", "lag", "pace"):
        assert len({getattr(weather, name) for weather in weathers}) > 1, name
    met = Counter(kind(maker) for scenario in scenarios for maker in set(scenario.crew))
    wanted = {
        name
        for name, found in vars(adversaries).items()
        if isinstance(found, type) and issubclass(found, Peer) and found.__module__ == adversaries.__name__
    } - {"Adversary"}
    lies = {f"LyingLeader {lie.name}" for lie in liars.Lie if lie is not liars.Lie.NOTHING}
    assert met.keys() >= wanted | lies


def test_adversaries_hold_at_most_a_third() -> None:
    for seed in range(300):
        scenario = scenario_of(seed)
        stakes = [
            (stake, peer.honest)
            for stake, peer in zip(scenario.stakes, crew_of(scenario.crew), strict=True)
            if stake
        ]
        assert sum(not honest for _stake, honest in stakes) * 3 <= len(stakes)
        assert sum(stake for stake, honest in stakes if not honest) * 3 <= sum(stake for stake, _ in stakes)


def test_what_is_checked_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = next(seed for seed in range(1000, 9999) if is_told_of_an_omission(seed))
    assert play(seed).violations == []
    monkeypatch.setattr(anchoring, "omitted_from", lambda *_: ())
    assert any("(d) nobody vetoed a leader" in violation for violation in play(seed).violations)


def is_told_of_an_omission(seed: int) -> bool:
    """Whether a small net without loss or faults has one adversary, which leaves out a submission."""
    scenario = scenario_of(seed)
    if scenario.weather.loss or scenario.faults or len(scenario.crew) > 8:
        return False
    return [kind(maker) for maker in scenario.crew if not crew_of([maker])[0].honest] == [
        "LyingLeader OMIT_SUBMISSION"
    ]


def crew_of(crew: tuple[Maker, ...] | list[Maker]) -> list[Peer]:
    return Net(0, crew=crew).peers


def kind(maker: Maker) -> str:
    peer = crew_of([maker])[0]
    name = type(peer).__name__
    return f"{name} {peer.lie.name}" if isinstance(peer, liars.LyingLeader) else name
