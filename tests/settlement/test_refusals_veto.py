"""Refused: everything about Veto, and about the attempts that follow a rejected list."""

from __future__ import annotations

from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.refusals import ProgramError as E

from .attacks import Attack, Case, Cases, other_task
from .virtual_chain import KOII, TaskChain, address, changed, flagged, keypair

CASES = Cases()
refused = CASES.refused


def listed(chain: TaskChain) -> None:
    """Round 0, committed and listed by staker 0, in the first slot of its list's audit."""
    chain.commit(0)
    chain.anchor_list(0, chain.earn([KOII, KOII, 0]))
    chain.at(chain.clock.distribution_audit(0).opens)


def rejected(chain: TaskChain) -> None:
    """The same, committed by staker 1, and rejected by 1 and 2."""
    chain.commit(0, 1)
    chain.anchor_list(0, chain.earn([KOII, KOII, 0]))
    chain.veto(0, 1, 2)


# -- Veto


def _veto(chain: TaskChain, round: int = 0, staker: int = 0, attempt: int = 0) -> Attack:
    return Attack(chain.veto_instruction(round, staker, attempt), [chain.stakers[staker]])


@refused(E.VETO_EARLY)
def veto_one_slot_early(chain: TaskChain) -> Attack:
    listed(chain)
    chain.at(chain.clock.distribution_audit(0).opens - 1)
    return _veto(chain)


@refused(E.VETO_LATE)
def veto_one_slot_late(chain: TaskChain) -> Attack:
    listed(chain)
    chain.at(chain.clock.distribution_audit(0).closes)
    return _veto(chain)


@refused(E.VETO_EARLY)
def veto_of_an_attempt_that_cannot_be_listed_yet(chain: TaskChain) -> Attack:
    listed(chain)
    return _veto(chain, attempt=1)


@refused(E.ARITHMETIC)
def veto_of_a_round_beyond_numbers(chain: TaskChain) -> Attack:
    listed(chain)
    return _veto(chain, U64_MAX - 1)


@refused(E.ARITHMETIC)
def veto_of_a_round_whose_slots_wrap_to_those_of_round_0(chain: TaskChain) -> Attack:
    listed(chain)
    return _veto(chain, 1 << 63)


@refused(E.NO_COMMITMENT)
def veto_of_a_round_without_anything(chain: TaskChain) -> Attack:
    chain.at(chain.clock.distribution_audit(0).opens)
    return _veto(chain)


@refused(E.NO_COMMITMENT)
def veto_of_a_round_in_the_place_of_another(chain: TaskChain) -> Attack:
    """Round 16 has the place of round 0 in the ring, and round 0 has a list."""
    listed(chain)
    chain.at(chain.clock.distribution_audit(16).opens)
    return _veto(chain, 16)


@refused(E.WRONG_ATTEMPT)
def veto_of_an_attempt_that_nobody_began(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.at(chain.clock.distribution_audit(0, 1).opens)
    return _veto(chain, attempt=1)


@refused(E.ALREADY_VETOED)
def veto_twice(chain: TaskChain) -> Attack:
    listed(chain)
    chain.veto(0, 0)
    return _veto(chain)


@refused(E.ALREADY_VETOED)
def veto_twice_with_a_veto_of_another_list_between(chain: TaskChain) -> Attack:
    """Attempt 1 of round 0 is audited together with round 1: a stake must count once against each."""
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    chain.anchor_list(0, chain.earn([0, 0, 0]), 2, attempt=1)
    chain.commit(1)
    chain.anchor_list(1, chain.earn([1, 1, 1]))
    chain.veto(1, 1)
    chain.veto(0, 1, attempt=1)
    return _veto(chain, 1, 1)


@refused(E.ALREADY_VETOED)
def veto_again_with_more_stake(chain: TaskChain) -> Attack:
    listed(chain)
    chain.veto(0, 0)
    chain.add_stake(0, 100 * KOII)
    return _veto(chain)


@refused(E.ALREADY_REJECTED)
def veto_of_a_rejected_list(chain: TaskChain) -> Attack:
    rejected(chain)
    return _veto(chain)


@refused(E.ALREADY_REJECTED)
def veto_of_a_rejected_list_after_the_next_commitment(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    return _veto(chain)


@refused(E.MISSING_SIGNATURE)
def veto_in_the_name_of_another(chain: TaskChain) -> Attack:
    listed(chain)
    return Attack(flagged(chain.veto_instruction(0), 0, signer=False))


@refused(E.NOT_THE_STAKER)
def veto_with_the_stake_of_another(chain: TaskChain) -> Attack:
    listed(chain)
    outsider = keypair("outsider")
    mine = chain.veto_by(outsider, 0)
    return Attack(changed(mine, account_2=chain.stake_address(0)), [outsider])


@refused(E.WRONG_OWNER)
def veto_without_a_stake(chain: TaskChain) -> Attack:
    listed(chain)
    outsider = keypair("outsider")
    return Attack(chain.veto_by(outsider, 0), [outsider])


@refused(E.STAKE_OF_ANOTHER_TASK)
def veto_with_a_stake_in_another_task(chain: TaskChain) -> Attack:
    listed(chain)
    other, staker = other_task(chain), chain.stakers[0]
    keys = address(staker), address(chain.beneficiaries[0])
    chain.ok(ix.stake(other, address(chain.payer), *keys, 90 * KOII), signers=[staker])
    rich = ix.stake_address(other, address(staker))
    return Attack(changed(chain.veto_instruction(0), account_2=rich), [staker])


@refused(E.WRONG_STAKE_ADDRESS)
def veto_with_a_forged_stake(chain: TaskChain) -> Attack:
    listed(chain)
    key = address(keypair("forged stake"))
    chain.forge(key, chain.data(chain.stake_address(0)))
    return Attack(changed(chain.veto_instruction(0), account_2=key), [chain.stakers[0]])


@refused(E.WRONG_TASK_ADDRESS)
def veto_on_a_copy_of_the_task(chain: TaskChain) -> Attack:
    listed(chain)
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.task))
    return Attack(changed(chain.veto_instruction(0), account_1=copy), [chain.stakers[0]])


@refused(E.ANCHORER_BELOW_MINIMUM)
def veto_by_a_slashed_staker(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [0, 0, 0], [0, 0, 3 * KOII + 1])
    chain.commit(1)
    chain.anchor_list(1, chain.earn([1, 1, 1]))
    chain.ok(chain.settle_instruction(0, leaves, 2))
    chain.at(chain.clock.distribution_audit(1).opens)
    return _veto(chain, 1, 2)


@refused(E.NOT_WRITABLE)
def veto_without_a_mark(chain: TaskChain) -> Attack:
    listed(chain)
    # Staker 0 anchored, so that its stake is passed twice: one that is not is needed here.
    return Attack(flagged(chain.veto_instruction(0, 1), 2, writable=False), [chain.stakers[1]])


@refused(E.NOT_WRITABLE)
def veto_on_a_read_only_task(chain: TaskChain) -> Attack:
    listed(chain)
    return Attack(flagged(chain.veto_instruction(0), 1, writable=False), [chain.stakers[0]])


# -- AnchorCommitment of a later attempt


def _commit(chain: TaskChain, staker: int, attempt: int, round: int = 0) -> Attack:
    return Attack(chain.commit_instruction(round, staker, attempt), [chain.stakers[staker]])


@refused(E.WRONG_ATTEMPT)
def second_attempt_of_a_round_without_a_first(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0, 1).opens)
    return _commit(chain, 2, 1)


@refused(E.WRONG_ATTEMPT)
def second_attempt_while_the_list_stands(chain: TaskChain) -> Attack:
    listed(chain)
    chain.veto(0, 1)
    return _commit(chain, 2, 1)


@refused(E.WRONG_ATTEMPT)
def second_attempt_of_a_round_without_a_list(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.at(chain.clock.commitment(0, 1).opens)
    return _commit(chain, 2, 1)


@refused(E.WRONG_ATTEMPT)
def third_attempt_before_the_second(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.at(chain.clock.commitment(0, 2).opens)
    return _commit(chain, 2, 2)


@refused(E.WRONG_ATTEMPT)
def second_attempt_on_a_rejection_sixteen_rounds_old(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.at(chain.clock.commitment(16, 1).opens)
    return _commit(chain, 2, 1, round=16)


@refused(E.COMMITMENT_EXISTS)
def first_attempt_once_more_after_the_rejection(chain: TaskChain) -> Attack:
    """Half-open windows keep both apart, so the slot is one that only a chain without order could have."""
    rejected(chain)
    chain.at(chain.clock.commitment(0).closes - 1)
    return _commit(chain, 2, 0)


@refused(E.COMMITMENT_EXISTS)
def second_commitment_of_the_second_attempt(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    chain.stakers.append(keypair("staker 3"))
    chain.beneficiaries.append(keypair("beneficiary 3"))
    chain.add_stake(3, 2 * KOII)
    return _commit(chain, 3, 1)


@refused(E.COMMITMENT_LATE)
def first_attempt_in_the_window_of_the_second(chain: TaskChain) -> Attack:
    rejected(chain)
    return _commit(chain, 2, 0)


@refused(E.COMMITMENT_EARLY)
def second_attempt_one_slot_before_the_audit(chain: TaskChain) -> Attack:
    listed(chain)
    chain.at(chain.clock.commitment(0, 1).opens - 1)
    return _commit(chain, 2, 1)


@refused(E.COMMITMENT_LATE)
def second_attempt_one_slot_late(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.at(chain.clock.commitment(0, 1).closes)
    return _commit(chain, 2, 1)


@refused(E.BARRED)
def second_commitment_by_the_rejected_committer(chain: TaskChain) -> Attack:
    rejected(chain)
    return _commit(chain, 1, 1)


@refused(E.BARRED)
def second_commitment_by_the_rejected_lister(chain: TaskChain) -> Attack:
    rejected(chain)
    return _commit(chain, 0, 1)


@refused(E.ATTEMPTS_USED_UP)
def fifth_retry_of_four(chain: TaskChain) -> Attack:
    for attempt in range(5):
        chain.commit(0, attempt % 3, attempt=attempt)
        chain.anchor_list(0, chain.earn([0, 0, 0]), attempt % 3, attempt=attempt)
        chain.veto(0, 0, 1, attempt=attempt)
    chain.at(chain.clock.commitment(0, 5).opens)
    return _commit(chain, 2, 5)


# -- AnchorList of a later attempt


def _list(chain: TaskChain, staker: int, attempt: int, round: int = 0) -> Attack:
    leaves = chain.earn([0, 0, 0])
    return Attack(chain.list_instruction(round, leaves, staker, attempt), [chain.stakers[staker]])


@refused(E.LIST_EXISTS)
def list_of_the_second_attempt_without_its_commitment(chain: TaskChain) -> Attack:
    """As above: only a chain without order could have this slot."""
    rejected(chain)
    chain.at(chain.clock.distribution(0).closes - 1)
    return _list(chain, 2, 0)


@refused(E.WRONG_ATTEMPT)
def list_of_an_attempt_that_nobody_began(chain: TaskChain) -> Attack:
    rejected(chain)
    return _list(chain, 2, 1)


@refused(E.LIST_EXISTS)
def second_list_of_the_second_attempt(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    chain.anchor_list(0, chain.earn([0, 0, 0]), 2, attempt=1)
    return _list(chain, 2, 1)


@refused(E.LIST_LATE)
def list_of_the_second_attempt_in_the_next_period(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    chain.at(chain.clock.distribution(0, 1).closes)
    return _list(chain, 2, 1)


@refused(E.LIST_EARLY)
def list_of_the_second_attempt_one_slot_before_the_audit(chain: TaskChain) -> Attack:
    listed(chain)
    chain.at(chain.clock.distribution(0, 1).opens - 1)
    return _list(chain, 2, 1)


@refused(E.BARRED)
def second_list_by_the_rejected_committer(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    return _list(chain, 1, 1)


@refused(E.BARRED)
def second_list_by_the_rejected_lister(chain: TaskChain) -> Attack:
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    return _list(chain, 0, 1)


@refused(E.LIST_ORDER)
def list_of_a_retried_round_below_one_that_stands(chain: TaskChain) -> Attack:
    """Round 0 fails twice, round 1 stands on its second list: the third must not go below round 1's totals."""
    rejected(chain)
    chain.commit(0, 2, attempt=1)
    chain.anchor_list(0, chain.earn([0, 0, 0]), 2, attempt=1)
    chain.commit(1)
    chain.anchor_list(1, chain.earn([1, 1, 1]))
    chain.veto(0, 0, 1, attempt=1)
    chain.commit(0, 0, attempt=2)
    return _list(chain, 1, 2)


@CASES.parametrize()
def test_refused_with_its_own_code(error: E, case: Case) -> None:
    chain = TaskChain()
    assert case(chain).send(chain).error is error
