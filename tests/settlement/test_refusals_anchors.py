"""Refused: everything about Stake, and about AnchorCommitment and AnchorList of a round's first attempt."""

from __future__ import annotations

from solders.instruction import Instruction
from solders.keypair import Keypair

from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.refusals import ProgramError as E

from .attacks import Attack, Case, Cases, other_address, other_task, poor_list
from .virtual_chain import KOII, TaskChain, address, changed, flagged, keypair

CASES = Cases()
refused = CASES.refused


# -- Stake


def _new_stake(chain: TaskChain, amount: int = 2 * KOII) -> tuple[Instruction, Keypair]:
    staker = keypair("new staker")
    key = address(staker)
    return ix.stake(chain.task, address(chain.payer), key, key, amount), staker


@refused(E.ZERO_AMOUNT)
def stake_nothing(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain, 0)
    return Attack(instruction, [staker])


@refused(E.STAKE_BELOW_MINIMUM)
def stake_too_little(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain, 2 * KOII - 1)
    return Attack(instruction, [staker])


@refused(E.STAKE_BELOW_MINIMUM)
def top_up_too_little_after_a_slash(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [0, 0, 0], [0, 0, 4 * KOII])
    chain.ok(chain.settle_instruction(0, leaves, 2))
    keys = address(chain.stakers[2]), address(chain.beneficiaries[2])
    return Attack(ix.stake(chain.task, address(chain.payer), *keys, KOII - 1), [chain.stakers[2]])


@refused(E.ARITHMETIC)
def stake_more_than_numbers_hold(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain, U64_MAX)
    return Attack(instruction, [staker])


@refused(E.NOT_WRITABLE)
def stake_into_a_read_only_account(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain)
    return Attack(flagged(instruction, 3, writable=False), [staker])


@refused(E.WRONG_SYSTEM_PROGRAM)
def stake_through_a_false_system_program(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain)
    return Attack(changed(instruction, account_4=address(keypair("false system"))), [staker])


@refused(E.WRONG_TASK_ADDRESS)
def stake_in_a_copy_of_the_task(chain: TaskChain) -> Attack:
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.task))
    staker = keypair("new staker")
    key = address(staker)
    return Attack(ix.stake(copy, address(chain.payer), key, key, 2 * KOII), [staker])


@refused(E.ARITHMETIC)
def top_up_more_than_numbers_hold(chain: TaskChain) -> Attack:
    keys = address(chain.stakers[0]), address(chain.beneficiaries[0])
    return Attack(ix.stake(chain.task, address(chain.payer), *keys, U64_MAX), [chain.stakers[0]])


@refused(E.BENEFICIARY_EMPTY)
def stake_for_nobody(chain: TaskChain) -> Attack:
    staker = keypair("new staker")
    return Attack(ix.stake(chain.task, address(chain.payer), address(staker), bytes(32), 2 * KOII), [staker])


@refused(E.BENEFICIARY_CHANGED)
def top_up_for_another_beneficiary(chain: TaskChain) -> Attack:
    staker = chain.stakers[0]
    thief = address(keypair("thief"))
    return Attack(ix.stake(chain.task, address(chain.payer), address(staker), thief, KOII), [staker])


@refused(E.MISSING_SIGNATURE)
def stake_for_a_key_that_did_not_agree(chain: TaskChain) -> Attack:
    instruction, _ = _new_stake(chain)
    return Attack(flagged(instruction, 1, signer=False))


@refused(E.MISSING_SIGNATURE)
def stake_out_of_a_foreign_wallet(chain: TaskChain) -> Attack:
    victim, staker = chain.rich("victim"), keypair("new staker")
    stake = ix.stake(chain.task, address(victim), address(staker), address(staker), 2 * KOII)
    return Attack(flagged(stake, 0, signer=False), [staker])


@refused(E.NOT_THE_STAKER)
def stake_into_the_account_of_another(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain)
    return Attack(changed(instruction, account_3=chain.stake_address(0)), [staker])


@refused(E.WRONG_STAKE_ADDRESS)
def stake_at_an_address_of_ones_own(chain: TaskChain) -> Attack:
    instruction, staker = _new_stake(chain)
    return Attack(changed(instruction, account_3=address(keypair("own account"))), [staker])


@refused(E.WRONG_STAKE_ADDRESS)
def second_stake_account_by_another_bump(chain: TaskChain) -> Attack:
    """With two accounts, every leaf of this staker would be paid twice."""
    staker = chain.stakers[0]
    keys = address(staker), address(chain.beneficiaries[0])
    second = other_address((b"stake", chain.task, keys[0]))
    stake = ix.stake(chain.task, address(chain.payer), *keys, 2 * KOII)
    return Attack(changed(stake, account_3=second), [staker])


@refused(E.STAKE_OF_ANOTHER_TASK)
def top_up_a_stake_of_another_task(chain: TaskChain) -> Attack:
    staker, other = chain.stakers[0], other_task(chain)
    keys = address(staker), address(chain.beneficiaries[0])
    stake = ix.stake(other, address(chain.payer), *keys, 2 * KOII)
    return Attack(changed(stake, account_3=chain.stake_address(0)), [staker])


# -- AnchorCommitment


@refused(E.COMMITMENT_EARLY)
def commitment_one_slot_early(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens - 1)
    return Attack(chain.commit_instruction(0), [chain.stakers[0]])


@refused(E.COMMITMENT_LATE)
def commitment_one_slot_late(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).closes)
    return Attack(chain.commit_instruction(0), [chain.stakers[0]])


@refused(E.COMMITMENT_EARLY)
def commitment_of_a_round_far_ahead(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    return Attack(chain.commit_instruction(10**6), [chain.stakers[0]])


@refused(E.ARITHMETIC)
def commitment_of_a_round_beyond_numbers(chain: TaskChain) -> Attack:
    return Attack(chain.commit_instruction(U64_MAX), [chain.stakers[0]])


@refused(E.ARITHMETIC)
def commitment_of_a_round_whose_slots_wrap_to_those_of_round_0(chain: TaskChain) -> Attack:
    """2^63 rounds of 100 slots are 50 times 2^64 slots."""
    chain.at(chain.clock.commitment(0).opens)
    return Attack(chain.commit_instruction(1 << 63), [chain.stakers[0]])


@refused(E.ARITHMETIC)
def commitment_of_a_round_whose_start_wraps_below_the_first(chain: TaskChain) -> Attack:
    """Its window would be [954, 1014), although every product still fits."""
    chain.at(960)
    return Attack(chain.commit_instruction((1 << 64) // 100 - 2), [chain.stakers[0]])


@refused(E.COMMITMENT_EXISTS)
def second_commitment_by_another_staker(chain: TaskChain) -> Attack:
    chain.commit(0)
    other = ix.anchor_commitment(chain.task, address(chain.stakers[1]), 0, bytes(32))
    return Attack(other, [chain.stakers[1]])


@refused(E.COMMITMENT_EXISTS)
def the_same_commitment_again(chain: TaskChain) -> Attack:
    chain.commit(0)
    return Attack(chain.commit_instruction(0), [chain.stakers[0]])


@refused(E.COMMITMENT_EXISTS)
def commitment_after_its_list(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.anchor_list(0, chain.earn([1, 1, 1]))
    return Attack(chain.commit_instruction(0), [chain.stakers[0]])


@refused(E.MISSING_SIGNATURE)
def commitment_in_the_name_of_another(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    return Attack(flagged(chain.commit_instruction(0), 0, signer=False))


@refused(E.NOT_THE_STAKER)
def commitment_with_the_stake_of_another(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    outsider = keypair("outsider")
    mine = ix.anchor_commitment(chain.task, address(outsider), 0, bytes(32))
    return Attack(changed(mine, account_2=chain.stake_address(0)), [outsider])


@refused(E.WRONG_OWNER)
def commitment_without_a_stake(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    outsider = keypair("outsider")
    return Attack(ix.anchor_commitment(chain.task, address(outsider), 0, bytes(32)), [outsider])


@refused(E.STAKE_OF_ANOTHER_TASK)
def commitment_with_a_stake_in_another_task(chain: TaskChain) -> Attack:
    other = other_task(chain)
    chain.at(chain.clock.commitment(0).opens)
    mine = ix.anchor_commitment(other, address(chain.stakers[0]), 0, bytes(32))
    return Attack(changed(mine, account_2=chain.stake_address(0)), [chain.stakers[0]])


@refused(E.ANCHORER_BELOW_MINIMUM)
def commitment_by_a_slashed_staker(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [0, 0, 0], [0, 0, 3 * KOII + 1])
    chain.ok(chain.settle_instruction(0, leaves, 2))
    return Attack(chain.commit_instruction(1, 2), [chain.stakers[2]])


@refused(E.WRONG_STAKE_ADDRESS)
def commitment_with_a_forged_stake(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    key = address(keypair("forged stake"))
    chain.forge(key, chain.data(chain.stake_address(0)))
    return Attack(changed(chain.commit_instruction(0), account_2=key), [chain.stakers[0]])


@refused(E.WRONG_MAGIC)
def commitment_with_a_stake_of_a_later_version(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    data = chain.data(chain.stake_address(0))
    chain.forge(chain.stake_address(0), data[:8] + b"\x02" + data[9:])
    return Attack(chain.commit_instruction(0), [chain.stakers[0]])


@refused(E.WRONG_TASK_ADDRESS)
def commitment_on_a_copy_of_the_task(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.task))
    return Attack(changed(chain.commit_instruction(0), account_1=copy), [chain.stakers[0]])


@refused(E.NOT_WRITABLE)
def commitment_on_a_read_only_task(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    return Attack(flagged(chain.commit_instruction(0), 1, writable=False), [chain.stakers[0]])


# -- AnchorList


@refused(E.LIST_EARLY)
def list_one_slot_early(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens - 1)
    return Attack(chain.list_instruction(0, chain.earn([1, 1, 1])), [chain.stakers[0]])


@refused(E.LIST_LATE)
def list_one_slot_late(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.at(chain.clock.distribution(0).closes)
    return Attack(chain.list_instruction(0, chain.earn([1, 1, 1])), [chain.stakers[0]])


@refused(E.NO_COMMITMENT)
def list_without_a_commitment(chain: TaskChain) -> Attack:
    chain.at(chain.clock.distribution(0).opens)
    return Attack(chain.list_instruction(0, chain.earn([1, 1, 1])), [chain.stakers[0]])


@refused(E.NO_COMMITMENT)
def list_on_a_commitment_sixteen_rounds_old(chain: TaskChain) -> Attack:
    """Round 16 has the place of round 0 in the ring, and round 0 has a commitment."""
    chain.commit(0)
    chain.at(chain.clock.distribution(16).opens)
    return Attack(chain.list_instruction(16, chain.earn([1, 1, 1])), [chain.stakers[0]])


@refused(E.LIST_EXISTS)
def second_list_by_another_staker(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.anchor_list(0, chain.earn([1, 1, 1]))
    return Attack(chain.list_instruction(0, chain.earn([1, 0, 0]), 1), [chain.stakers[1]])


@refused(E.ARITHMETIC)
def list_of_a_round_beyond_numbers(chain: TaskChain) -> Attack:
    return Attack(chain.list_instruction(U64_MAX - 1, chain.earn([1, 1, 1])), [chain.stakers[0]])


def _second_list(chain: TaskChain, **lie: int) -> Attack:
    """Round 0 paid 3 and slashed 2 KOII; round 1 pays nothing more, and lies about a total."""
    chain.run_round(0, [KOII, KOII, KOII], [0, 0, 2 * KOII])
    chain.commit(1)
    chain.at(chain.clock.distribution(1).opens)
    return Attack(chain.list_instruction(1, chain.earn([0, 0, 0]), **lie), [chain.stakers[0]])


@refused(E.TOTALS_DECREASE)
def list_with_fewer_rewards_than_the_last(chain: TaskChain) -> Attack:
    return _second_list(chain, rewards=-1)


@refused(E.TOTALS_DECREASE)
def list_with_fewer_slashes_than_the_last(chain: TaskChain) -> Attack:
    return _second_list(chain, slashes=-1)


@refused(E.REWARDS_ABOVE_BOUNTY)
def list_one_roe_above_the_bounty(chain: TaskChain) -> Attack:
    return _second_list(chain, rewards=3 * KOII + 1)


@refused(E.REWARDS_ABOVE_BOUNTY)
def list_one_roe_above_bounty_and_slashes(chain: TaskChain) -> Attack:
    return _second_list(chain, rewards=4 * KOII + 1, slashes=KOII)


@refused(E.REWARDS_ABOVE_BOUNTY)
def list_of_all_the_roe_there_can_be(chain: TaskChain) -> Attack:
    return _second_list(chain, rewards=U64_MAX - 3 * KOII)


@refused(E.ARITHMETIC)
def list_with_slashes_that_overflow_the_bounty(chain: TaskChain) -> Attack:
    return _second_list(chain, slashes=U64_MAX - 2 * KOII)


@refused(E.SLASHES_ABOVE_STAKES)
def list_that_slashes_one_roe_more_than_all_stakes(chain: TaskChain) -> Attack:
    return _second_list(chain, slashes=13 * KOII + 1)


@refused(E.SLASHES_ABOVE_STAKES)
def list_that_slashes_as_much_as_numbers_hold(chain: TaskChain) -> Attack:
    """Later lists may not announce less: unchecked, this one would be the task's last."""
    return _second_list(chain, slashes=U64_MAX - 5 * KOII)


@refused(E.REWARDS_ABOVE_VAULT)
def list_one_roe_above_the_vault(chain: TaskChain) -> Attack:
    return poor_list(chain, 2 * KOII + 1)


@refused(E.WRONG_VAULT_ADDRESS)
def list_against_a_richer_vault(chain: TaskChain) -> Attack:
    attack = poor_list(chain, 3 * KOII)
    rich = ix.vault_address(chain.terms.task)
    return Attack(changed(attack.instruction, account_3=rich), attack.signers)


@refused(E.MISSING_SIGNATURE)
def list_in_the_name_of_another(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    return Attack(flagged(chain.list_instruction(0, chain.earn([1, 1, 1])), 0, signer=False))


@refused(E.WRONG_OWNER)
def list_without_a_stake(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    outsider = keypair("outsider")
    return Attack(ix.anchor_list(chain.task, address(outsider), 0, bytes(32), 3 * KOII, 0), [outsider])


@CASES.parametrize()
def test_refused_with_its_own_code(error: E, case: Case) -> None:
    chain = TaskChain()
    assert case(chain).send(chain).error is error
