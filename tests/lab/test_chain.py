"""The simulated K2 lets land what the settlement program lets land."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from koii_p2p.lab.chain import COMMITMENT, LIST, SETTLEMENT, VETO, SimulatedChain
from koii_p2p.lab.scenario_file import scenario_of
from koii_p2p.lab.simulation import terms_of
from koii_p2p.lab.work import Truth, Work, looked, read_work
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.rounds.events import AnchorCommitment, AnchorList, RoundSettled, Veto

TERMS = terms_of(scenario_of({}))
KEYS = sorted(sha256(b"%d" % number).digest() for number in range(4))
STAKE = 1_900_000_000


def chain() -> SimulatedChain:
    return SimulatedChain(TERMS, dict.fromkeys(KEYS, STAKE), 1)


def commitment(attempt: int = 0, text: bytes = b"one") -> AnchorCommitment:
    return AnchorCommitment(0, attempt, sha256(text).digest(), b"", b"")


def listing(reward: int = 100, slash: int = 0, attempt: int = 0) -> tuple[AnchorList, DistributionList]:
    listed = DistributionList(0, (Leaf(KEYS[0], reward, 0), Leaf(KEYS[1], 0, slash)))
    return AnchorList(0, attempt, listed.root, reward, slash, listed.encode()), listed


def test_a_round_lands_once_and_in_its_windows() -> None:
    k2, clock = chain(), TERMS.clock
    opens = clock.commitment(0).opens
    assert not k2.commit(opens - 1, KEYS[0], commitment())
    assert not k2.commit(opens, sha256(b"stranger").digest(), commitment())
    assert k2.commit(opens, KEYS[0], commitment())
    assert not k2.commit(opens + 1, KEYS[1], commitment(text=b"two"))
    action, _ = listing()
    assert not k2.list(clock.distribution(0).opens - 1, KEYS[0], action)
    too_much = replace(action, reward_total=TERMS.bounty_per_round + 1)
    assert not k2.list(clock.distribution(0).opens, KEYS[0], too_much)
    assert k2.list(clock.distribution(0).opens, KEYS[0], action)
    assert [one.name for one in k2.landed] == [COMMITMENT, LIST]


def test_most_of_the_stake_rejects_and_the_anchorers_are_barred() -> None:
    k2, clock = chain(), TERMS.clock
    k2.commit(clock.commitment(0).opens, KEYS[0], commitment())
    k2.list(clock.distribution(0).opens, KEYS[0], listing()[0])
    slot = clock.distribution_audit(0).opens
    assert not k2.veto(slot - 1, KEYS[1], Veto(0, 0))
    for number, key in enumerate(KEYS[1:]):
        assert k2.anchored[0].rejected is (number > 2)
        assert k2.veto(slot, key, Veto(0, 0))
        assert not k2.veto(slot, key, Veto(0, 0))
    assert k2.anchored[0].rejected
    assert not k2.commit(slot + 1, KEYS[0], commitment(1))
    assert k2.commit(slot + 1, KEYS[1], commitment(1))
    assert [one.name for one in k2.landed].count(VETO) == 3


def test_slashes_are_taken_once_and_after_the_audit() -> None:
    k2, clock = chain(), TERMS.clock
    k2.commit(clock.commitment(0).opens, KEYS[0], commitment())
    action, listed = listing(slash=1_000_000_000)
    k2.list(clock.distribution(0).opens, KEYS[0], action)
    assert k2.owed(listed)
    settled = RoundSettled(0, listed, 0)
    settles = clock.settles_at(0)
    assert not k2.settle(settles - 1, KEYS[2], settled)
    assert k2.settle(settles, KEYS[2], settled)
    assert not k2.settle(settles + 1, KEYS[2], settled)
    assert not k2.owed(listed)
    assert k2.stake_of(KEYS[1]) == STAKE - 1_000_000_000
    assert (k2.landed[-1].name, k2.landed[-1].leaves) == (SETTLEMENT, 1)
    # Below the minimum: in no roster of a period that begins later.
    later = clock.period(settles) + 1
    assert KEYS[1] not in k2.roster(later)
    assert KEYS[1] in k2.roster(0)


def test_reads_of_the_past_show_the_past() -> None:
    k2, clock = chain(), TERMS.clock
    opens = clock.commitment(0).opens
    k2.commit(opens, KEYS[0], commitment())
    assert 0 not in k2.at(opens - 1)
    assert 0 in k2.at(opens)
    k2.list(clock.distribution(0).opens, KEYS[0], listing()[0])
    assert k2.at(clock.distribution(0).opens - 1)[0].list_root is None
    k2.forget_before(clock.distribution(0).opens)
    assert k2.at(clock.distribution(0).opens)[0].list_root is not None
    assert k2.blockhash(3) == chain().blockhash(3) != k2.blockhash(4)


def test_what_a_value_says_and_what_a_look_finds() -> None:
    for truth, verdict in (
        (Truth.RIGHT, Verdict.VALID),
        (Truth.WRONG, Verdict.INVALID),
        (Truth.CANARY, Verdict.INVALID),
        (Truth.WITHHELD, Verdict.UNAVAILABLE),
    ):
        work = Work(truth, 3, 4)
        assert read_work(work.value()) == work
        assert looked(work.value(), 1, 1) is verdict
    assert read_work("nothing of ours") is None
    assert looked("nothing of ours", 1, 1) is Verdict.INVALID
    subtle = Work(Truth.WRONG, 3, 4, 0.25).value()
    found = sum(looked(subtle, auditor, 1) is Verdict.INVALID for auditor in range(1000))
    assert 250 - 4 * 13.7 < found < 250 + 4 * 13.7  # four standard deviations
    assert looked(subtle, 5, 1) is looked(subtle, 5, 1)
