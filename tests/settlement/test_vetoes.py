"""Rejected lists and their retries: who counts, what stands afterwards, and that nothing unaudited is ever paid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.layouts import LAST_ATTEMPT, ROUND_RING, STAKE_LAYOUT, TASK_LAYOUT
from koii_p2p.settlement.refusals import ProgramError as E

from .virtual_chain import KOII, TaskChain, address, keypair


@pytest.fixture
def chain() -> TaskChain:
    return TaskChain()


class Lists:
    """Honest lists on a chain: each adds a bounty to the leaves of the newest list that stands."""

    def __init__(self, chain: TaskChain) -> None:
        self.chain = chain
        self.leaves: dict[tuple[int, int], list[Leaf]] = {}

    def anchor(self, round: int, attempt: int = 0, staker: int = 0) -> None:
        """Commit to an attempt and list it, one KOII for each staker."""
        self.chain.commit(round, staker, attempt=attempt)
        newest = self.chain.state().last_list
        before = [] if newest is None else self.leaves[newest.round, newest.attempt]
        totals = {leaf.staker: leaf.reward_total for leaf in before}
        leaves = [Leaf(key, totals.get(key, 0) + KOII, 0) for key in sorted(map(address, self.chain.stakers))]
        self.leaves[round, attempt] = leaves
        self.chain.anchor_list(round, leaves, staker, attempt=attempt)

    def settle(self, round: int, attempt: int = 0, index: int = 0) -> E | None:
        leaves = self.leaves[round, attempt]
        return self.chain.send(self.chain.settle_instruction(round, leaves, index)).error

    def paid(self, index: int = 0) -> int:
        return self.chain.balance(address(self.chain.beneficiaries[index]))


def standing(state: TaskState) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Round and attempt of the newest and of the settled list."""
    newest, settled = state.last_list, state.settled_list
    return (
        None if newest is None else (newest.round, newest.attempt),
        None if settled is None else (settled.round, settled.attempt),
    )


# -- one list


def test_a_majority_rejects_and_the_next_attempt_settles(chain: TaskChain) -> None:
    lists = Lists(chain)
    lists.anchor(0)
    before = chain.state()
    chain.veto(0, 1)
    one = chain.state()
    assert (one.rounds[0].veto_stake, one.rounds[0].rejected, one.head) == (5 * KOII, False, before.head)
    chain.veto(0, 2)
    two = chain.state()
    assert two.rounds[0] == replace(before.rounds[0], veto_stake=10 * KOII, rejected=True)
    assert (standing(before), standing(two)) == (((0, 0), None), (None, None))
    assert (two.anchors, two.head != before.head) == (before.anchors + 1, True)
    assert lists.settle(0) is E.NO_LIST

    lists.anchor(0, 1, staker=2)
    state = chain.state()
    assert standing(state) == ((0, 1), None)
    retried, key = state.rounds[0], address(chain.stakers[0])
    assert (retried.attempt, retried.veto_stake, retried.rejected) == (1, 0, False)
    assert (retried.barred, retried.list_by) == ((key,), address(chain.stakers[2]))
    chain.at(chain.clock.settles_at(0, 1) - 1)
    assert lists.settle(0, 1) is E.SETTLE_EARLY
    chain.settled_slot(0, 1)
    assert lists.settle(0, 1) is None
    assert lists.paid() == KOII


def test_a_second_attempt_begins_without_the_first(chain: TaskChain) -> None:
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([KOII, KOII, KOII]), 1)
    chain.veto(0, 0, 2)
    rejected = chain.state().rounds[0]
    assert (rejected.list_by, rejected.reward_total) == (address(chain.stakers[1]), 3 * KOII)
    chain.commit(0, 2, attempt=1)
    retried = chain.state().rounds[0]
    assert (retried.list_root, retried.list_by, retried.reward_total, retried.list_slot) == (None, None, 0, 0)
    assert retried.barred == rejected.anchorers == (address(chain.stakers[0]), address(chain.stakers[1]))
    assert retried.commitment != rejected.commitment


@pytest.mark.parametrize(
    ("mine", "others", "rejected"),
    [(4, 4, False), (4, 3, True), (5, 4, True), (4, 5, False)],
)
def test_more_than_half_of_all_stake_is_needed(mine: int, others: int, rejected: bool) -> None:
    """To the Roe: `mine` and `others` are added to two stakes of 10^9."""
    chain = TaskChain(stakers=0, minimum_stake=KOII)
    chain.stakers = [keypair("one"), keypair("two")]
    chain.beneficiaries = chain.stakers
    chain.add_stake(0, KOII + mine)
    chain.add_stake(1, KOII + others)
    chain.commit(0)
    chain.anchor_list(0, [], staker=1)
    chain.veto(0, 0)
    assert chain.state().rounds[0].rejected is rejected
    assert chain.state().rounds[0].veto_stake == KOII + mine


def test_stakes_as_large_as_numbers_hold_do_not_overflow(chain: TaskChain) -> None:
    Lists(chain).anchor(0)
    half = U64_MAX // 2  # 2^63 - 1: exactly half of the total, which is odd

    def forged(address: bytes, data: bytes, offset: int, value: int) -> None:
        chain.forge(address, data[:offset] + value.to_bytes(8, "little") + data[offset + 8 :])

    total = TASK_LAYOUT.field("total_stake").offset
    forged(chain.task, chain.data(chain.task), total, U64_MAX)
    amount = STAKE_LAYOUT.field("amount").offset
    for index, stake in enumerate((half, 2 * KOII, U64_MAX)):
        forged(chain.stake_address(index), chain.data(chain.stake_address(index)), amount, stake)
    chain.veto(0, 0)
    assert not chain.state().rounds[0].rejected
    refused = chain.send(chain.veto_instruction(0, 2), signers=[chain.stakers[2]])
    assert refused.error is E.ARITHMETIC
    chain.veto(0, 1)
    assert chain.state().rounds[0].rejected
    assert chain.state().rounds[0].veto_stake == half + 2 * KOII


def test_the_bounds_of_a_veto_are_half_open(chain: TaskChain) -> None:
    Lists(chain).anchor(0)
    window = chain.clock.distribution_audit(0)
    for slot, staker in ((window.opens, 0), (window.closes - 1, 1)):
        chain.at(slot)
        chain.veto(0, staker)
    assert chain.state().rounds[0].rejected


def test_a_stake_counts_as_it_is_when_it_vetoes(chain: TaskChain) -> None:
    Lists(chain).anchor(0)
    chain.at(chain.clock.distribution_audit(0).opens)
    chain.add_stake(0, 6 * KOII)
    chain.veto(0, 0)
    assert chain.state().rounds[0].rejected  # 11 of 21


def test_a_stake_that_was_slashed_since_the_roster_counts_less(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [0, 0, 0], [0, 0, 2 * KOII])
    chain.commit(1)
    chain.anchor_list(1, chain.earn([1, 1, 1]))
    chain.ok(chain.settle_instruction(0, leaves, 2))
    chain.veto(1, 2)
    assert chain.state().rounds[1].veto_stake == 3 * KOII


def test_the_same_stake_vetoes_every_list_once(chain: TaskChain) -> None:
    """Attempt 1 of round 0 and round 1 in one window, then round 2 in the next: three vetoes of one stake."""
    lists = Lists(chain)
    lists.anchor(0)
    chain.veto(0, 1, 2)
    lists.anchor(0, 1, staker=2)
    lists.anchor(1)
    chain.veto(0, 1, attempt=1)
    chain.veto(1, 1)
    lists.anchor(2)
    chain.veto(2, 1)
    state = chain.state()
    assert [state.rounds[number].veto_stake for number in range(3)] == [5 * KOII] * 3
    assert standing(state)[0] == (2, 0)


# -- chains of retried rounds


def retried(chain: TaskChain) -> Lists:
    """Round 0 settled. Round 1 was rejected and listed again, late; round 2 was listed on top, in the next slots.
    Both are in the first slot of the audit that they share."""
    lists = Lists(chain)
    lists.anchor(0)
    lists.anchor(1)
    chain.veto(1, 1, 2)
    chain.at(chain.clock.distribution(1, 1).closes - 1)
    lists.anchor(1, 1, staker=2)
    lists.anchor(2)
    chain.at(chain.clock.distribution_audit(2).opens)
    assert chain.clock.distribution_audit(2) == chain.clock.distribution_audit(1, 1)
    assert standing(chain.state()) == ((2, 0), (0, 0))
    return lists


def test_two_lists_of_one_audit_both_settle(chain: TaskChain) -> None:
    lists = retried(chain)
    chain.at(chain.clock.settles_at(2) - 1)
    assert lists.settle(1, 1) is lists.settle(2) is E.SETTLE_EARLY
    assert lists.settle(0) is None  # the settled list bounds it
    chain.settled_slot(2)
    assert lists.settle(1, 1) is None
    assert lists.paid() == 2 * KOII
    assert lists.settle(2) is None
    assert lists.paid() == 3 * KOII


def test_a_list_on_top_of_a_rejected_one_stands_for_itself(chain: TaskChain) -> None:
    """Whoever rejects a list should reject what was built on it too; if they do not, it is good and settles."""
    lists = retried(chain)
    chain.veto(1, 0, 1, attempt=1)
    assert standing(chain.state()) == ((2, 0), (0, 0))
    chain.settled_slot(2)
    assert lists.settle(1, 1) is E.NO_LIST
    assert lists.settle(2) is None
    assert lists.paid() == chain.state().paid == 3 * KOII


def test_the_first_of_two_lists_stands_when_the_second_is_rejected(chain: TaskChain) -> None:
    lists = retried(chain)
    chain.veto(2, 0, 1)
    assert standing(chain.state()) == ((1, 1), (0, 0))
    lists.anchor(2, 1, staker=2)  # before the audit of the list that it builds on is over
    assert standing(chain.state()) == ((2, 1), (0, 0))
    chain.settled_slot(1, 1)
    assert lists.settle(1, 1) is None  # though neither the newest list nor the settled one bounds it
    assert lists.paid() == 2 * KOII
    assert lists.settle(2, 1) is E.SETTLE_EARLY
    chain.veto(2, 0, 1, attempt=1)
    assert standing(chain.state())[0] == (1, 1)
    assert lists.settle(1, 1, index=1) is None
    assert lists.settle(2, 1) is E.NO_LIST


@pytest.mark.parametrize("order", [((1, 1), (2, 0)), ((2, 0), (1, 1))])
def test_both_of_two_lists_are_rejected(chain: TaskChain, order: tuple[tuple[int, int], ...]) -> None:
    lists = retried(chain)
    for round, attempt in order:
        chain.veto(round, 0, 1, attempt=attempt)
    assert standing(chain.state()) == ((0, 0), (0, 0))
    assert lists.settle(0) is None
    lists.anchor(1, 2, staker=0)
    lists.anchor(2, 1, staker=1)
    chain.at(chain.clock.settles_at(2, 1) - 1)
    assert lists.settle(1, 2) is lists.settle(2, 1) is E.SETTLE_EARLY
    chain.settled_slot(2, 1)
    for index in range(3):
        assert lists.settle(2, 1, index=index) is None
    assert lists.paid() == 3 * KOII
    assert chain.state().paid == 9 * KOII


def test_a_later_round_that_was_listed_again_first_shuts_the_earlier_out(chain: TaskChain) -> None:
    lists = retried(chain)
    chain.veto(1, 0, 1, attempt=1)
    chain.veto(2, 0, 1)
    lists.anchor(2, 1, staker=2)
    chain.commit(1, 0, attempt=2)
    late = chain.list_instruction(1, lists.leaves[1, 1], 0, attempt=2)
    assert chain.send(late, signers=[chain.stakers[0]]).error is E.LIST_ORDER
    assert standing(chain.state())[0] == (2, 1)


def test_settlement_keeps_up_though_every_round_fails_once(chain: TaskChain) -> None:
    """Each list is anchored before the one it builds on is past its audit: the header never holds a settled one."""
    lists = Lists(chain)
    for round in range(6):
        lists.anchor(round)
        chain.veto(round, 0, 1)
        lists.anchor(round, 1, staker=2)
        if round:
            assert chain.slot < chain.clock.settles_at(round - 1, 1)
            chain.settled_slot(round - 1, 1)
            assert lists.settle(round - 1, 1) is None
        assert lists.paid() == round * KOII


def test_the_newest_list_falls_back_to_one_that_the_ring_forgot(chain: TaskChain) -> None:
    """Round 3 is still in the ring when round 4, the settled one, had to leave it."""
    lists = Lists(chain)
    for round in (3, 4):
        lists.anchor(round)
    lists.anchor(20)
    assert list(chain.state().rounds) == [3, 20]
    chain.veto(20, 0, 1)
    assert standing(chain.state()) == ((4, 0), (4, 0))
    assert lists.settle(4) is None
    assert lists.settle(3) is None


def test_a_settled_list_that_leaves_the_ring_is_kept(chain: TaskChain) -> None:
    """Round 1, listed again late, is neither the newest list nor the one before when round 17 takes its place."""
    lists = retried(chain)
    for round in range(3, 16):
        chain.commit(round)
    assert standing(chain.state()) == ((2, 0), (2, 0))
    chain.commit(17)
    assert 1 not in chain.state().rounds
    assert lists.settle(2) is None
    assert lists.settle(1, 1) is E.NO_LIST


def test_no_attempt_outlives_its_place_in_the_ring() -> None:
    """Sixteen attempts, whatever the terms say: a list whose place is another round's could not be vetoed."""
    chain = TaskChain(
        5, 1000 * KOII, bounty_per_round=5 * KOII, allowed_failed_distributions=15, minimum_stake=KOII
    )
    lists = Lists(chain)
    for attempt in range(LAST_ATTEMPT + 1):
        lists.anchor(0, attempt, staker=attempt % 2)
        if attempt < LAST_ATTEMPT:
            chain.veto(0, 2, 3, 4, attempt=attempt)
    early = chain.commit_instruction(ROUND_RING, 2)
    chain.at(chain.clock.commitment(ROUND_RING).opens - 1)
    assert chain.send(early, signers=[chain.stakers[2]]).error is E.COMMITMENT_EARLY
    chain.veto(0, 2, 3, attempt=LAST_ATTEMPT)  # still possible in the last slot before
    further = chain.commit_instruction(0, 2, attempt=LAST_ATTEMPT + 1)
    assert chain.send(further, signers=[chain.stakers[2]]).error is E.ATTEMPTS_USED_UP
    chain.commit(ROUND_RING, 2)
    state = chain.state()
    assert (list(state.rounds), standing(state)) == ([ROUND_RING], ((0, LAST_ATTEMPT), (0, LAST_ATTEMPT)))
    assert lists.settle(0, LAST_ATTEMPT) is None


def test_a_round_without_a_list_is_rejected_and_tried_again(chain: TaskChain) -> None:
    lists = Lists(chain)
    lists.anchor(0)
    chain.commit(1)
    chain.at(chain.clock.distribution_audit(1).opens)
    before = chain.state()
    chain.veto(1, 1, 2)
    state = chain.state()
    assert (state.rounds[1].rejected, state.rounds[1].list_root) == (True, None)
    assert (standing(state), state.anchors) == (standing(before), before.anchors + 1)
    lists.anchor(1, 1, staker=2)
    assert chain.state().rounds[1].barred == (address(chain.stakers[0]),)
    chain.at(chain.clock.settles_at(1, 1))
    assert lists.settle(1, 1) is None
    assert lists.paid() == 2 * KOII


def test_a_task_that_allows_no_failure_has_one_attempt() -> None:
    chain = TaskChain(allowed_failed_distributions=0)
    lists = Lists(chain)
    lists.anchor(0)
    chain.veto(0, 0, 1)
    again = chain.commit_instruction(0, 2, attempt=1)
    assert chain.send(again, signers=[chain.stakers[2]]).error is E.ATTEMPTS_USED_UP
    lists.anchor(1)  # the next round is not held up
    chain.settled_slot(1)
    assert lists.settle(1) is None


def test_retries_need_no_pause_between_the_windows() -> None:
    """Submission and audit fill the period: the retry has the slots of the audit, and no more."""
    chain = TaskChain(submission_window=94, audit_window=6, audit=AuditRules())
    lists = Lists(chain)
    lists.anchor(0)
    chain.veto(0, 0, 1)
    lists.anchor(0, 1, staker=2)
    assert chain.clock.distribution(0, 1) == chain.clock.distribution_audit(0)
    chain.settled_slot(0, 1)
    assert lists.settle(0, 1) is None
