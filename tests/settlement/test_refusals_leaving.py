"""Refused: what goes beyond the rules of unstaking, bonds, and the end of a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from solders.instruction import AccountMeta
from solders.system_program import ID as SYSTEM_PROGRAM

from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.refusals import ProgramError as E

from .attacks import Attack, Case, Cases, other_task, replaced
from .virtual_chain import (
    KOII,
    TaskChain,
    address,
    changed,
    flagged,
    keypair,
    use_every_instruction,
    with_data,
)

CASES = Cases()
refused = CASES.refused

LAST = 4  # the last attempt that the terms of these chains allow


def leaving(chain: TaskChain, slashes: tuple[int, int, int] = (0, 0, 0)) -> list[Leaf]:
    """Staker 2 asks its stake back in period 2 and is unlocked: rounds 0 to 2 are settled, three round times over."""
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)  # in the settled slot of round 0, which is in period 2
    chain.run_round(1, [1, 1, 1])
    return _later(chain, chain.run_round(2, [1, 1, 1], slashes))


def _later(chain: TaskChain, leaves: list[Leaf]) -> list[Leaf]:
    asked = chain.stake_of(2).history.unstake_slot
    assert asked is not None
    chain.at(asked + 3 * chain.terms.round_time)
    return leaves


def _withdraw(chain: TaskChain, round: int = 2, leaves: list[Leaf] | None = None) -> Attack:
    return Attack(chain.withdraw_instruction(2, round, leaves), [chain.stakers[2]])


def ended(chain: TaskChain) -> None:
    """The task is closed; its stake accounts are not."""
    chain.set_active(False)
    for index in range(3):
        chain.unstake(index)
    chain.at(chain.slot + 3 * chain.terms.round_time)
    for index in range(3):
        chain.withdraw(index)
    chain.ok(chain.close_instruction())


# -- RequestUnstake


@refused(E.ALREADY_UNSTAKING)
def unstake_twice(chain: TaskChain) -> Attack:
    chain.unstake(0)
    chain.at(chain.slot + 1)
    return Attack(chain.unstake_instruction(0), [chain.stakers[0]])


@refused(E.NOTHING_STAKED)
def unstake_what_was_withdrawn(chain: TaskChain) -> Attack:
    _withdraw(chain, 2, leaving(chain)).send(chain)
    return Attack(chain.unstake_instruction(2), [chain.stakers[2]])


@refused(E.MISSING_SIGNATURE)
def unstake_for_somebody_else(chain: TaskChain) -> Attack:
    return Attack(flagged(chain.unstake_instruction(0), 0, signer=False))


@refused(E.NOT_THE_STAKER)
def unstake_the_stake_of_another(chain: TaskChain) -> Attack:
    one = changed(chain.unstake_instruction(0), account_2=chain.stake_address(1))
    return Attack(one, [chain.stakers[0]])


@refused(E.STAKE_OF_ANOTHER_TASK)
def unstake_a_stake_of_another_task(chain: TaskChain) -> Attack:
    return Attack(changed(chain.unstake_instruction(0), account_1=other_task(chain)), [chain.stakers[0]])


@refused(E.WRONG_OWNER)
def unstake_a_stake_that_is_a_wallet(chain: TaskChain) -> Attack:
    rich = chain.rich("rich")
    return Attack(changed(chain.unstake_instruction(0), account_2=address(rich)), [chain.stakers[0]])


@refused(E.NOT_WRITABLE)
def unstake_read_only(chain: TaskChain) -> Attack:
    return Attack(flagged(chain.unstake_instruction(0), 2, writable=False), [chain.stakers[0]])


# -- Withdraw


@refused(E.NOT_UNSTAKING)
def withdraw_without_asking(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [1, 1, 1])
    return _withdraw(chain, 0, leaves)


@refused(E.NOT_UNSTAKING)
def withdraw_twice(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    assert _withdraw(chain, 2, leaves).send(chain).err is None
    return _withdraw(chain, 2, leaves)


@refused(E.NOT_UNSTAKING)
def withdraw_after_taking_the_request_back(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    chain.add_stake(2, 1)
    return _withdraw(chain, 2, leaves)


@refused(E.STILL_LOCKED)
def withdraw_a_slot_early(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    chain.at(chain.slot - 1)
    return _withdraw(chain, 2, leaves)


@refused(E.STILL_LOCKED)
def withdraw_with_the_list_before_ones_last_round(chain: TaskChain) -> Attack:
    """Asked in period 2, but the list of round 2 has not come: it may slash, and may come for four more periods."""
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    leaves = _later(chain, chain.run_round(1, [1, 1, 1]))
    chain.at(chain.clock.settles_at(2, LAST) - 1)
    return _withdraw(chain, 1, leaves)


@refused(E.STILL_LOCKED)
def withdraw_when_caught(chain: TaskChain) -> Attack:
    """Asks the stake back in the slot in which its fraud is listed, and has a leaf that does not know of it."""
    before = chain.run_round(0, [1, 1, 1])
    chain.commit(1)
    chain.anchor_list(1, chain.earn([1, 1, 0], [0, 0, 7 * KOII // 2]))
    chain.unstake(2)
    return _withdraw(chain, 0, before)


@refused(E.NOT_THE_NEWEST_LIST)
def withdraw_with_a_leaf_from_before_the_slash(chain: TaskChain) -> Attack:
    before = chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.run_round(1, [1, 1, 1])
    _later(chain, chain.run_round(2, [1, 1, 0], [0, 0, 7 * KOII // 2]))
    return _withdraw(chain, 0, before)


@refused(E.PROOF_INVALID)
def withdraw_with_a_leaf_without_the_slash(chain: TaskChain) -> Attack:
    leaves = leaving(chain, (0, 0, 7 * KOII // 2))
    innocent = [Leaf(leaf.staker, leaf.reward_total, 0) for leaf in leaves]
    return _withdraw(chain, 2, innocent)


@refused(E.LEAF_OF_ANOTHER_STAKER)
def withdraw_with_the_leaf_of_another(chain: TaskChain) -> Attack:
    leaves = leaving(chain, (0, 0, 7 * KOII // 2))
    key, beneficiary = address(chain.stakers[2]), address(chain.beneficiaries[2])
    place = next(place for place, leaf in enumerate(leaves) if leaf.staker != key)
    proof = merkle.prove([leaf.encode() for leaf in leaves], place)
    return Attack(ix.withdraw(chain.task, key, beneficiary, 2, leaves[place], proof), [chain.stakers[2]])


@refused(E.LEAF_NEEDED)
def withdraw_without_a_leaf(chain: TaskChain) -> Attack:
    leaving(chain)
    return _withdraw(chain)


@refused(E.LEAF_NEEDED)
def withdraw_without_a_leaf_a_slot_before_the_escape(chain: TaskChain) -> Attack:
    leaving(chain)
    newest = chain.state().last_list
    assert newest is not None
    chain.at(newest.slot + 64 * chain.terms.round_time - 1)
    return _withdraw(chain)


@refused(E.VETO_STILL_OPEN)
def withdraw_while_ones_veto_counts(chain: TaskChain) -> Attack:
    """The same stake could come back under another key, and veto again."""
    leaves = leaving(chain)
    chain.commit(4)
    chain.anchor_list(4, chain.earn([1, 1, 1]))
    chain.veto(4, 2)
    return _withdraw(chain, 2, leaves)


@refused(E.BOND_STILL_LOCKED)
def withdraw_the_bond_of_a_commitment(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    chain.commit(4, 2)
    return _withdraw(chain, 2, leaves)


@refused(E.BOND_STILL_LOCKED)
def withdraw_the_bond_of_a_list(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    chain.commit(4, 0)
    chain.anchor_list(4, chain.earn([1, 1, 1]), 2)
    chain.at(chain.clock.settles_at(4) - 1)
    return _withdraw(chain, 2, leaves)


@refused(E.NOT_THE_STAKER)
def withdraw_the_stake_of_another(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    mine = changed(chain.withdraw_instruction(2, 2, leaves), account_0=address(chain.stakers[0]))
    return Attack(mine, [chain.stakers[0]])


@refused(E.WRONG_BENEFICIARY)
def withdraw_to_a_thief(chain: TaskChain) -> Attack:
    """Who has the staking key only: what is paid goes to the main wallet all the same."""
    leaves = leaving(chain)
    thief = changed(chain.withdraw_instruction(2, 2, leaves), account_4=address(chain.rich("thief")))
    return Attack(thief, [chain.stakers[2]])


@refused(E.WRONG_VAULT_ADDRESS)
def withdraw_with_the_slash_to_another_vault(chain: TaskChain) -> Attack:
    leaves = leaving(chain, (0, 0, KOII))
    other = ix.vault_address(other_task(chain))
    return Attack(changed(chain.withdraw_instruction(2, 2, leaves), account_2=other), [chain.stakers[2]])


@refused(E.NOT_WRITABLE)
def withdraw_with_a_read_only_vault(chain: TaskChain) -> Attack:
    leaves = leaving(chain, (0, 0, KOII))
    return Attack(flagged(chain.withdraw_instruction(2, 2, leaves), 2, writable=False), [chain.stakers[2]])


@refused(E.PROOF_SHAPE)
def withdraw_with_directions_without_siblings(chain: TaskChain) -> Attack:
    leaves = leaving(chain)
    good = chain.withdraw_instruction(2, 2, leaves)
    data = bytearray(bytes(good.data))
    data[60] = 0xFF
    return Attack(with_data(good, bytes(data)), [chain.stakers[2]])


@refused(E.DATA_LENGTH)
def withdraw_with_half_a_leaf(chain: TaskChain) -> Attack:
    good = chain.withdraw_instruction(2, 2, leaving(chain))
    return Attack(with_data(good, bytes(good.data)[:40]), [chain.stakers[2]])


@refused(E.BENEFICIARY_BELOW_RENT)
def withdraw_too_little_for_an_account(chain: TaskChain) -> Attack:
    leaves = leaving(chain, (0, 0, 5 * KOII - 890_879))
    return _withdraw(chain, 2, leaves)


@refused(E.SLASHES_ABOVE_LIST)
def withdraw_with_a_slash_above_the_total(chain: TaskChain) -> Attack:
    """A lying list whose leaves sum up to more than the totals that were anchored with it."""
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.run_round(1, [1, 1, 1])
    chain.commit(2)
    leaves = chain.earn([1, 1, 1], [0, 0, KOII])
    chain.at(chain.clock.distribution(2).opens)
    chain.ok(chain.list_instruction(2, leaves, slashes=-1), signers=[chain.stakers[0]])
    return _withdraw(chain, 2, _later(chain, leaves))


# -- bonds


@refused(E.WRONG_ANCHORER)
def veto_with_the_bond_of_another_committer(chain: TaskChain) -> Attack:
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 1)
    chain.at(chain.clock.distribution_audit(0).opens)
    key = address(chain.stakers[2])
    one = ix.veto(chain.task, key, 0, 0, address(chain.stakers[2]), address(chain.stakers[1]))
    return Attack(one, [chain.stakers[2]])


@refused(E.WRONG_ANCHORER)
def veto_without_the_bond_of_the_lister(chain: TaskChain) -> Attack:
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 1)
    chain.at(chain.clock.distribution_audit(0).opens)
    one = ix.veto(chain.task, address(chain.stakers[2]), 0, 0, address(chain.stakers[0]), None)
    return Attack(one, [chain.stakers[2]])


@refused(E.WRONG_ANCHORER)
def veto_with_a_forged_stake_of_the_committer(chain: TaskChain) -> Attack:
    """A copy of the stake account elsewhere: the bond would be taken from it."""
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 1)
    chain.at(chain.clock.distribution_audit(0).opens)
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.stake_address(0)))
    return Attack(changed(chain.veto_instruction(0, 2), account_4=copy), [chain.stakers[2]])


@refused(E.NOT_WRITABLE)
def veto_with_a_read_only_bond(chain: TaskChain) -> Attack:
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 1)
    chain.at(chain.clock.distribution_audit(0).opens)
    return Attack(flagged(chain.veto_instruction(0, 2), 4, writable=False), [chain.stakers[2]])


@refused(E.WRONG_VAULT_ADDRESS)
def veto_with_the_bond_to_another_vault(chain: TaskChain) -> Attack:
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 1)
    chain.at(chain.clock.distribution_audit(0).opens)
    other = ix.vault_address(other_task(chain))
    return Attack(changed(chain.veto_instruction(0, 2), account_3=other), [chain.stakers[2]])


# -- SetActive and UpdateTask


@refused(E.NOT_THE_CREATOR)
def end_the_task_of_another(chain: TaskChain) -> Attack:
    thief = chain.rich("thief")
    return Attack(ix.set_active(chain.task, address(thief), False), [thief])


@refused(E.MISSING_SIGNATURE)
def end_a_task_without_its_creator(chain: TaskChain) -> Attack:
    creator = chain.rich("creator")
    return Attack(flagged(ix.set_active(chain.task, address(creator), False), 0, signer=False))


@refused(E.NOT_A_FLAG)
def neither_active_nor_inactive(chain: TaskChain) -> Attack:
    good = ix.set_active(chain.task, address(chain.payer), True)
    return Attack(with_data(good, bytes([ix.Tag.SET_ACTIVE, 2])))


@refused(E.TASK_INACTIVE)
def stake_in_an_inactive_task(chain: TaskChain) -> Attack:
    chain.set_active(False)
    late = keypair("new staker")
    stake = ix.stake(chain.task, address(chain.payer), address(late), address(late), 2 * KOII)
    return Attack(stake, [late])


@refused(E.TASK_INACTIVE)
def commit_to_a_round_of_an_inactive_task(chain: TaskChain) -> Attack:
    """Inactive in period 0: round 0 was worked on and is paid, round 1 is not begun."""
    chain.at(chain.terms.starting_slot)
    chain.set_active(False)
    chain.commit(0)
    chain.at(chain.clock.commitment(1).opens)
    return Attack(chain.commit_instruction(1), [chain.stakers[0]])


@refused(E.TASK_INACTIVE)
def commit_to_a_round_that_nobody_could_work_in(chain: TaskChain) -> Attack:
    chain.at(chain.terms.starting_slot)
    chain.set_active(False)
    chain.at(chain.terms.starting_slot + chain.terms.round_time)
    chain.set_active(True)
    chain.at(chain.clock.commitment(1).opens)
    return Attack(chain.commit_instruction(1), [chain.stakers[0]])


@refused(E.NOT_THE_CREATOR)
def update_the_task_of_another(chain: TaskChain) -> Attack:
    thief = chain.rich("thief")
    return Attack(ix.update_task(chain.task, address(thief), "send me your stake"), [thief])


@refused(E.WRONG_SUCCESSOR)
def name_a_wallet_as_successor(chain: TaskChain) -> Attack:
    return Attack(ix.update_task(chain.task, address(chain.payer), "", address(chain.rich("wallet"))))


@refused(E.WRONG_SUCCESSOR)
def name_a_copy_of_a_task_as_successor(chain: TaskChain) -> Attack:
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.task))
    return Attack(ix.update_task(chain.task, address(chain.payer), "", copy))


# -- Close and CloseStake


@refused(E.TASK_ACTIVE)
def close_an_active_task(chain: TaskChain) -> Attack:
    return Attack(chain.close_instruction())


@refused(E.STAKES_REMAIN)
def close_with_stakes_in_it(chain: TaskChain) -> Attack:
    chain.set_active(False)
    return Attack(chain.close_instruction())


@refused(E.NOT_THE_CREATOR)
def close_the_task_of_another(chain: TaskChain) -> Attack:
    thief = chain.rich("thief")
    return Attack(ix.close(chain.task, address(thief)), [thief])


@refused(E.ROUNDS_OPEN)
def close_while_a_round_is_open(chain: TaskChain) -> Attack:
    """A stake slashed to nothing leaves the totals at once, but the last round's list can still be rejected."""
    chain.at(chain.clock.commitment(0).opens)
    leaves = chain.run_round(0, [0, 0, 0], [5 * KOII] * 3)
    for index in range(3):
        chain.ok(chain.settle_instruction(0, leaves, index))
    chain.set_active(False)
    assert chain.state().total_stake == 0
    return Attack(chain.close_instruction())


@refused(E.REWARDS_OWED)
def close_before_everybody_is_paid(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [1, 1, KOII])
    chain.set_active(False)
    for index in range(3):
        chain.unstake(index)
    chain.at(chain.clock.settles_at(chain.clock.period(chain.slot), LAST))
    for index in range(3):
        chain.withdraw(index, 0, leaves)
    return Attack(chain.close_instruction())


@refused(E.TASK_CLOSED)
def close_twice(chain: TaskChain) -> Attack:
    ended(chain)
    return Attack(chain.close_instruction())


@refused(E.TASK_CLOSED)
def fund_a_closed_task(chain: TaskChain) -> Attack:
    ended(chain)
    return Attack(ix.fund(chain.task, address(chain.payer), KOII))


@refused(E.ALREADY_EXISTS)
def create_a_closed_task_again(chain: TaskChain) -> Attack:
    """Leaves of the old one would be paid by the new one."""
    ended(chain)
    return Attack(ix.create_task(chain.terms, 7))


@refused(E.TASK_NOT_CLOSED)
def close_the_stake_of_a_living_task(chain: TaskChain) -> Attack:
    return Attack(ix.close_stake(chain.task, address(chain.stakers[0]), address(chain.beneficiaries[0])))


@refused(E.WRONG_BENEFICIARY)
def close_a_stake_to_a_thief(chain: TaskChain) -> Attack:
    ended(chain)
    return Attack(ix.close_stake(chain.task, address(chain.stakers[0]), address(chain.rich("thief"))))


@refused(E.WRONG_TASK_ADDRESS)
def close_a_stake_with_a_forged_closed_task(chain: TaskChain) -> Attack:
    """The bytes of another task's end, at an address of the attacker's."""
    other = TaskChain(nonce=9)
    ended(other)
    forged = address(keypair("forged"))
    chain.forge(forged, other.data(other.task))
    one = ix.close_stake(chain.task, address(chain.stakers[0]), address(chain.beneficiaries[0]))
    return Attack(changed(one, account_0=forged))


@refused(E.STAKE_OF_ANOTHER_TASK)
def close_a_stake_of_a_living_task_with_a_closed_one(chain: TaskChain) -> Attack:
    closed = ix.task_address(address(chain.payer), 9)
    other = TaskChain(nonce=9)
    ended(other)
    chain.forge(closed, other.data(closed))
    one = ix.close_stake(chain.task, address(chain.stakers[0]), address(chain.beneficiaries[0]))
    return Attack(changed(one, account_0=closed))


# -- of every kind


def _good(chain: TaskChain) -> dict[str, Callable[[], Attack]]:
    payer, first = address(chain.payer), chain.stakers[0]
    beneficiary = address(chain.beneficiaries[2])
    return {
        "request_unstake": lambda: Attack(chain.unstake_instruction(0), [first]),
        "withdraw": lambda: _withdraw(chain, 2, leaving(chain)),
        "set_active": lambda: Attack(ix.set_active(chain.task, payer, False)),
        "update_task": lambda: Attack(ix.update_task(chain.task, payer, "about")),
        "close": lambda: Attack(chain.close_instruction()),
        "close_stake": lambda: Attack(ix.close_stake(chain.task, address(chain.stakers[2]), beneficiary)),
    }


KINDS = ("request_unstake", "withdraw", "set_active", "update_task", "close", "close_stake")


def _changed(chain: TaskChain, kind: str, change: Callable[[Attack], Attack]) -> Attack:
    return change(_good(chain)[kind]())


def _of_each_kind(error: E, name: str, change: Callable[[Attack], Attack]) -> None:
    for kind in KINDS:
        CASES[f"{name}_{kind}"] = (error, partial(_changed, kind=kind, change=change))


_of_each_kind(
    E.ACCOUNT_COUNT, "one_account_too_few", lambda one: replaced(one, list(one.instruction.accounts)[:-1])
)
_of_each_kind(
    E.ACCOUNT_COUNT,
    "one_account_too_many",
    lambda one: replaced(one, [*one.instruction.accounts, AccountMeta(SYSTEM_PROGRAM, False, False)]),
)
_of_each_kind(
    E.DATA_LENGTH,
    "one_byte_too_many",
    lambda one: Attack(with_data(one.instruction, bytes(one.instruction.data) + b"\0"), one.signers),
)


@CASES.parametrize()
def test_refused_with_its_own_code(error: E, case: Case) -> None:
    chain = TaskChain()
    assert case(chain).send(chain).error is error


@pytest.mark.parametrize("kind", KINDS[:4])
def test_the_transactions_that_attacks_are_made_of_are_good(kind: str) -> None:
    chain = TaskChain()
    assert _good(chain)[kind]().send(chain).err is None


def test_the_whole_life_of_a_task_is_good() -> None:
    """What `close` and `close_stake` attacks are made of: at its end they are accepted, and all Roe is paid back."""
    chain = TaskChain()
    use_every_instruction(chain)
    assert chain.balance(chain.vault) == 0
    assert all(chain.owner(chain.stake_address(index)) is None for index in range(3))
