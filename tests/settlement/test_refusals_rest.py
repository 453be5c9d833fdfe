"""Refused: what one finds by taking each check out of the program, one at a time, and asking which attack misses it."""

from __future__ import annotations

from solders.instruction import Instruction

from koii_p2p.rounds.audit_rules import AuditRules, Profile
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.refusals import ProgramError as E

from .attacks import Attack, Case, Cases, other_task
from .test_refusals_leaving import ended, leaving
from .virtual_chain import KOII, TaskChain, address, changed, default_terms, flagged, keypair

CASES = Cases()
refused = CASES.refused


@refused(E.TERMS_TIMING)
def create_a_task_whose_audit_is_too_short_for_its_stages(chain: TaskChain) -> Attack:
    terms = default_terms(address(chain.payer), 8)
    object.__setattr__(terms, "audit_window", 5)
    assert terms.audit == AuditRules(auditors=5, quorum=3)
    assert terms.audit.profile is not Profile.KOII
    return Attack(ix.create_task(terms, 8))


@refused(E.NOT_WRITABLE)
def close_with_a_read_only_vault(chain: TaskChain) -> Attack:
    chain.set_active(False)
    return Attack(flagged(chain.close_instruction(), 2, writable=False))


@refused(E.WRONG_VAULT_ADDRESS)
def close_with_the_vault_of_another_task(chain: TaskChain) -> Attack:
    """All is as it has to be, but the bounty that would be taken is another task's."""
    other = other_task(chain)
    chain.ok(ix.fund(other, address(chain.payer), KOII))
    chain.set_active(False)
    for index in range(3):
        chain.unstake(index)
    chain.at(chain.slot + 3 * chain.terms.round_time)
    for index in range(3):
        chain.withdraw(index)
    return Attack(changed(chain.close_instruction(), account_2=ix.vault_address(other)))


@refused(E.NOT_WRITABLE)
def close_a_read_only_stake(chain: TaskChain) -> Attack:
    ended(chain)
    return Attack(flagged(_close_stake(chain), 1, writable=False))


@refused(E.NOT_WRITABLE)
def close_a_stake_to_a_read_only_beneficiary(chain: TaskChain) -> Attack:
    ended(chain)
    return Attack(flagged(_close_stake(chain), 2, writable=False))


@refused(E.WRONG_OWNER)
def close_a_stake_with_a_wallet_for_its_task(chain: TaskChain) -> Attack:
    ended(chain)
    return Attack(changed(_close_stake(chain), account_0=address(chain.rich("wallet"))))


@refused(E.NOT_WRITABLE)
def unstake_in_a_read_only_task(chain: TaskChain) -> Attack:
    return Attack(flagged(chain.unstake_instruction(0), 1, writable=False), [chain.stakers[0]])


@refused(E.WRONG_TASK_ADDRESS)
def unstake_in_a_copy_of_the_task(chain: TaskChain) -> Attack:
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.task))
    return Attack(changed(chain.unstake_instruction(0), account_1=copy), [chain.stakers[0]])


def _withdraw(chain: TaskChain) -> Attack:
    """A Withdraw that would be good."""
    return Attack(chain.withdraw_instruction(2, 2, leaving(chain)), [chain.stakers[2]])


def _withdraw_with(chain: TaskChain, **accounts: bytes) -> Attack:
    good = _withdraw(chain)
    return Attack(changed(good.instruction, **accounts), good.signers)


@refused(E.NOT_WRITABLE)
def withdraw_from_a_read_only_task(chain: TaskChain) -> Attack:
    good = _withdraw(chain)
    return Attack(flagged(good.instruction, 1, writable=False), good.signers)


@refused(E.WRONG_TASK_ADDRESS)
def withdraw_against_a_copy_of_the_task(chain: TaskChain) -> Attack:
    copy = address(keypair("copy"))
    attack = _withdraw_with(chain, account_1=copy)
    chain.forge(copy, chain.data(chain.task))
    return attack


@refused(E.WRONG_STAKE_ADDRESS)
def withdraw_out_of_a_copy_of_the_stake(chain: TaskChain) -> Attack:
    """The account that was paid already would be paid once more."""
    copy = address(keypair("copy"))
    attack = _withdraw_with(chain, account_3=copy)
    chain.forge(copy, chain.data(chain.stake_address(2)), lamports=100 * KOII)
    return attack


@refused(E.STAKE_OF_ANOTHER_TASK)
def withdraw_out_of_a_stake_of_another_task(chain: TaskChain) -> Attack:
    """It is locked there: it was only just asked back."""
    other, staker = other_task(chain), chain.stakers[2]
    keys = address(staker), address(chain.beneficiaries[2])
    chain.ok(ix.stake(other, address(chain.payer), *keys, 90 * KOII), signers=[staker])
    chain.ok(ix.request_unstake(other, keys[0]), signers=[staker])
    return _withdraw_with(chain, account_3=ix.stake_address(other, keys[0]))


def _close_stake(chain: TaskChain) -> Instruction:
    return ix.close_stake(chain.task, address(chain.stakers[0]), address(chain.beneficiaries[0]))


@CASES.parametrize()
def test_refused_with_its_own_code(error: E, case: Case) -> None:
    chain = TaskChain()
    assert case(chain).send(chain).error is error
