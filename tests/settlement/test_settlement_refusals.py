"""Attacks and mistakes: each is refused with its own error code, and changes nothing but the sender's fee.

`VirtualChain.send` compares every account of a refused transaction with what it was before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rent import Rent
from solders.system_program import ID as SYSTEM_PROGRAM

from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.terms import MAX_ROUND_TIME, MAX_STARTING_SLOT, U64_MAX, TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.layouts import STAKE_LAYOUT, TASK_LAYOUT, VAULT_LAYOUT
from koii_p2p.settlement.refusals import ProgramError
from scripts.build_program import BuildError, compile_and_link, compiler_missing

from .virtual_chain import (
    KOII,
    Result,
    TaskChain,
    address,
    changed,
    default_terms,
    flagged,
    keypair,
    with_data,
)

E = ProgramError


@dataclass(frozen=True)
class Attack:
    """A transaction to be refused: one instruction and who signs besides the payer."""

    instruction: Instruction
    signers: Sequence[Keypair] = ()


Case = Callable[[TaskChain], Attack]
CASES: dict[str, tuple[ProgramError, Case]] = {}


def refused(error: ProgramError) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES[case.__name__] = (error, case)
        return case

    return add


# -- the ground: accounts, data, tags


@refused(E.UNKNOWN_TAG)
def unknown_tag(chain: TaskChain) -> Attack:
    return Attack(with_data(chain.commit_instruction(0), b"\x0c"), [chain.stakers[0]])


@refused(E.DATA_LENGTH)
def no_data_at_all(chain: TaskChain) -> Attack:
    return Attack(with_data(chain.commit_instruction(0), b""), [chain.stakers[0]])


for _tag in sorted(ix.RESERVED_TAGS):
    CASES[f"reserved_{_tag.name.lower()}"] = (
        E.RESERVED_TAG,
        lambda chain, tag=_tag: Attack(
            with_data(chain.commit_instruction(0), bytes([tag])), [chain.stakers[0]]
        ),
    )


def _good(chain: TaskChain) -> dict[str, Attack]:
    """One good transaction of each kind, of a chain in the settled slot of round 0 and the windows of round 1."""
    leaves = chain.run_round(0, [KOII, KOII, 0])
    payer, first = address(chain.payer), chain.stakers[0]
    late = keypair("new staker")
    return {
        "create_task": Attack(ix.create_task(default_terms(payer, 8), 8)),
        "fund": Attack(ix.fund(chain.task, payer, KOII)),
        "stake": Attack(ix.stake(chain.task, payer, address(late), address(late), 2 * KOII), [late]),
        "anchor_commitment": Attack(chain.commit_instruction(1), [first]),
        "anchor_list": Attack(chain.list_instruction(1, leaves), [first]),
        "settle": Attack(chain.settle_instruction(0, leaves, 0)),
    }


KINDS = ("create_task", "fund", "stake", "anchor_commitment", "anchor_list", "settle")


def _of_each_kind(error: ProgramError, name: str, change: Callable[[Attack], Attack]) -> None:
    for kind in KINDS:
        CASES[f"{name}_{kind}"] = (error, lambda chain, kind=kind: change(_good(chain)[kind]))


def _replaced(attack: Attack, accounts: Sequence[AccountMeta]) -> Attack:
    old = attack.instruction
    signers = {bytes(meta.pubkey) for meta in accounts if meta.is_signer}
    return Attack(
        Instruction(old.program_id, bytes(old.data), list(accounts)),
        [one for one in attack.signers if address(one) in signers],
    )


_of_each_kind(
    E.ACCOUNT_COUNT,
    "one_account_too_few",
    lambda one: _replaced(one, list(one.instruction.accounts)[:-1]),
)
_of_each_kind(
    E.ACCOUNT_COUNT,
    "one_account_too_many",
    lambda one: _replaced(one, [*one.instruction.accounts, AccountMeta(SYSTEM_PROGRAM, False, False)]),
)
_of_each_kind(
    E.DATA_LENGTH,
    "one_byte_too_many",
    lambda one: Attack(with_data(one.instruction, bytes(one.instruction.data) + b"\0"), one.signers),
)
_of_each_kind(
    E.DATA_LENGTH,
    "one_byte_too_few",
    lambda one: Attack(with_data(one.instruction, bytes(one.instruction.data)[:-1]), one.signers),
)


@refused(E.ACCOUNT_COUNT)
def far_too_many_accounts(chain: TaskChain) -> Attack:
    return _replaced(Attack(chain.commit_instruction(0)), [AccountMeta(SYSTEM_PROGRAM, False, False)] * 40)


# -- CreateTask


def _task_with(**values: int | str) -> Case:
    """A CreateTask whose terms no honest client would even encode."""

    def case(chain: TaskChain) -> Attack:
        terms = default_terms(address(chain.payer), 8)
        for name, value in values.items():
            object.__setattr__(terms, name, value)
        return Attack(ix.create_task(terms, 8))

    return case


for _name, _error, _values in (
    ("round_time_zero", E.TERMS_TIMING, {"round_time": 0}),
    ("round_time_huge", E.TERMS_TIMING, {"round_time": MAX_ROUND_TIME + 1}),
    ("start_huge", E.TERMS_TIMING, {"starting_slot": MAX_STARTING_SLOT + 1}),
    ("submission_window_zero", E.TERMS_TIMING, {"submission_window": 0}),
    ("submission_window_huge", E.TERMS_TIMING, {"submission_window": U64_MAX}),
    ("audit_window_zero", E.TERMS_TIMING, {"audit_window": 0}),
    ("windows_longer_than_round", E.TERMS_TIMING, {"submission_window": 50, "audit_window": 51}),
    ("windows_overflow", E.TERMS_TIMING, {"submission_window": 2, "audit_window": U64_MAX}),
    ("minimum_stake_zero", E.TERMS_STAKE, {"minimum_stake": 0}),
    ("slash_above_everything", E.TERMS_STAKE, {"slash_basis_points": 10_001}),
    ("no_auditors", E.TERMS_AUDIT, {"auditors": 0}),
    ("too_many_auditors", E.TERMS_AUDIT, {"auditors": 256}),
    ("no_quorum", E.TERMS_AUDIT, {"quorum": 0}),
    ("quorum_too_high", E.TERMS_AUDIT, {"quorum": 256}),
    ("too_many_failures_allowed", E.TERMS_AUDIT, {"allowed_failed_distributions": 256}),
    ("unknown_profile", E.TERMS_AUDIT, {"profile": 2}),
    ("no_name", E.TERMS_NAME, {"name": ""}),
):
    CASES[f"create_task_{_name}"] = (_error, _task_with(**_values))  # type: ignore[arg-type]


@refused(E.ALREADY_EXISTS)
def create_task_twice(chain: TaskChain) -> Attack:
    return Attack(ix.create_task(chain.terms, 7))


@refused(E.MISSING_SIGNATURE)
def create_task_for_somebody_else(chain: TaskChain) -> Attack:
    other = default_terms(address(keypair("somebody")), 8)
    return Attack(flagged(ix.create_task(other, 8), 0, signer=False))


@refused(E.WRONG_TASK_ADDRESS)
def create_task_at_an_address_of_another_nonce(chain: TaskChain) -> Attack:
    payer = address(chain.payer)
    return Attack(changed(ix.create_task(default_terms(payer, 8), 8), account_1=ix.task_address(payer, 9)))


@refused(E.WRONG_TASK_ADDRESS)
def create_task_with_another_bump(chain: TaskChain) -> Attack:
    """An address that is derived from the right seeds, but is not the canonical one."""
    payer = address(chain.payer)
    other = _other_address((b"task", payer, struct.pack("<Q", 8)))
    return Attack(changed(ix.create_task(default_terms(payer, 8), 8), account_1=other))


def _other_address(seeds: tuple[bytes, ...]) -> bytes:
    program = Pubkey(ix.PROGRAM_ID)
    _, bump = Pubkey.find_program_address(list(seeds), program)
    for lower in range(bump - 1, -1, -1):
        try:
            return bytes(Pubkey.create_program_address([*seeds, bytes([lower])], program))
        except Exception:  # noqa: BLE001 - PubkeyError, which solders does not export
            continue
    raise AssertionError("no second address for these seeds")


@refused(E.WRONG_VAULT_ADDRESS)
def create_task_with_the_vault_of_another_task(chain: TaskChain) -> Attack:
    new = ix.create_task(default_terms(address(chain.payer), 8), 8)
    return Attack(changed(new, account_2=address(keypair("own vault"))))


@refused(E.WRONG_SYSTEM_PROGRAM)
def create_task_with_a_false_system_program(chain: TaskChain) -> Attack:
    new = ix.create_task(default_terms(address(chain.payer), 8), 8)
    return Attack(changed(new, account_3=address(keypair("false system"))))


@refused(E.NOT_WRITABLE)
def create_task_read_only(chain: TaskChain) -> Attack:
    return Attack(flagged(ix.create_task(default_terms(address(chain.payer), 8), 8), 1, writable=False))


@refused(E.RENT_UNSUPPORTED)
def create_task_under_another_rent(chain: TaskChain) -> Attack:
    chain.svm.set_rent(Rent(3480, 3.0, 50))
    return Attack(ix.create_task(default_terms(address(chain.payer), 8), 8))


# -- Fund


@refused(E.ZERO_AMOUNT)
def fund_nothing(chain: TaskChain) -> Attack:
    return Attack(ix.fund(chain.task, address(chain.payer), 0))


@refused(E.ARITHMETIC)
def fund_more_than_numbers_hold(chain: TaskChain) -> Attack:
    return Attack(ix.fund(chain.task, address(chain.payer), U64_MAX))


@refused(E.MISSING_SIGNATURE)
def fund_from_a_foreign_wallet(chain: TaskChain) -> Attack:
    rich = chain.rich("victim")
    return Attack(flagged(ix.fund(chain.task, address(rich), KOII), 0, signer=False))


@refused(E.WRONG_VAULT_ADDRESS)
def fund_the_vault_of_another_task(chain: TaskChain) -> Attack:
    other = default_terms(address(chain.payer), 8)
    chain.ok(ix.create_task(other, 8))
    fund = ix.fund(chain.task, address(chain.payer), KOII)
    return Attack(changed(fund, account_2=ix.vault_address(other.task)))


@refused(E.WRONG_OWNER)
def fund_a_vault_that_is_a_wallet(chain: TaskChain) -> Attack:
    fund = ix.fund(chain.task, address(chain.payer), KOII)
    return Attack(changed(fund, account_2=address(chain.rich("thief"))))


@refused(E.WRONG_OWNER)
def fund_a_task_of_another_program(chain: TaskChain) -> Attack:
    key = address(keypair("false task"))
    chain.forge(key, chain.data(chain.task), owner=address(keypair("false program")))
    return Attack(changed(ix.fund(chain.task, address(chain.payer), KOII), account_1=key))


@refused(E.WRONG_SIZE)
def fund_with_the_vault_as_task(chain: TaskChain) -> Attack:
    return Attack(changed(ix.fund(chain.task, address(chain.payer), KOII), account_1=chain.vault))


@refused(E.WRONG_MAGIC)
def fund_a_task_of_another_kind(chain: TaskChain) -> Attack:
    key = address(keypair("other kind"))
    chain.forge(key, b"K2OTHER!" + chain.data(chain.task)[8:])
    return Attack(changed(ix.fund(chain.task, address(chain.payer), KOII), account_1=key))


@refused(E.WRONG_MAGIC)
def fund_a_task_of_a_later_version(chain: TaskChain) -> Attack:
    key = address(keypair("later"))
    data = chain.data(chain.task)
    chain.forge(key, data[:8] + b"\x02" + data[9:])
    return Attack(changed(ix.fund(chain.task, address(chain.payer), KOII), account_1=key))


@refused(E.WRONG_TASK_ADDRESS)
def fund_a_copy_of_the_task(chain: TaskChain) -> Attack:
    key = address(keypair("copy"))
    chain.forge(key, chain.data(chain.task))
    return Attack(changed(ix.fund(chain.task, address(chain.payer), KOII), account_1=key))


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
    second = _other_address((b"stake", chain.task, keys[0]))
    stake = ix.stake(chain.task, address(chain.payer), *keys, 2 * KOII)
    return Attack(changed(stake, account_3=second), [staker])


@refused(E.STAKE_OF_ANOTHER_TASK)
def top_up_a_stake_of_another_task(chain: TaskChain) -> Attack:
    staker, other = chain.stakers[0], _other_task(chain)
    keys = address(staker), address(chain.beneficiaries[0])
    stake = ix.stake(other, address(chain.payer), *keys, 2 * KOII)
    return Attack(changed(stake, account_3=chain.stake_address(0)), [staker])


def _other_task(chain: TaskChain) -> bytes:
    terms: TaskTerms = default_terms(address(chain.payer), 8)
    chain.ok(ix.create_task(terms, 8))
    return terms.task


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
def commitment_of_a_round_whose_slot_wraps_into_the_window(chain: TaskChain) -> Attack:
    """Chosen so that the wrapped product would be near zero."""
    chain.at(chain.clock.commitment(0).opens)
    return Attack(chain.commit_instruction((1 << 64) // 100), [chain.stakers[0]])


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


@refused(E.WRONG_ATTEMPT)
def commitment_of_a_second_attempt(chain: TaskChain) -> Attack:
    chain.at(chain.clock.commitment(0).opens)
    staker = chain.stakers[0]
    return Attack(ix.anchor_commitment(chain.task, address(staker), 0, bytes(32), attempt=1), [staker])


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
    other = _other_task(chain)
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


@refused(E.WRONG_ATTEMPT)
def list_of_a_second_attempt(chain: TaskChain) -> Attack:
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    staker = chain.stakers[0]
    return Attack(ix.anchor_list(chain.task, address(staker), 0, bytes(32), 0, 0, attempt=1), [staker])


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


@refused(E.REWARDS_ABOVE_VAULT)
def list_one_roe_above_the_vault(chain: TaskChain) -> Attack:
    return _poor_list(chain, 2 * KOII + 1)


def _poor_list(chain: TaskChain, reward: int) -> Attack:
    poor = TaskTerms(**{name: getattr(chain.terms, name) for name in TaskTerms.__dataclass_fields__})
    task = ix.task_address(address(chain.payer), 8)
    chain.ok(ix.create_task(poor, 8))
    chain.ok(ix.fund(task, address(chain.payer), 2 * KOII))
    chain.task, chain.vault = task, ix.vault_address(task)
    for index in range(3):
        chain.add_stake(index, 5 * KOII)
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    return Attack(chain.list_instruction(0, chain.earn([reward, 0, 0])), [chain.stakers[0]])


@refused(E.WRONG_VAULT_ADDRESS)
def list_against_a_richer_vault(chain: TaskChain) -> Attack:
    attack = _poor_list(chain, 3 * KOII)
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


# -- Settle


@refused(E.SETTLE_EARLY)
def settle_one_slot_early(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    chain.at(chain.clock.settles_at(0) - 1)
    return Attack(chain.settle_instruction(0, leaves, 0))


@refused(E.NO_LIST)
def settle_a_round_without_a_list(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    chain.commit(1)
    chain.settled_slot(1)
    return Attack(chain.settle_instruction(1, leaves, 0))


@refused(E.NO_LIST)
def settle_a_round_that_was_forgotten(chain: TaskChain) -> Attack:
    first = chain.run_round(0, [KOII, KOII, 0])
    for round in range(1, 17):
        chain.run_round(round, [0, 0, 0])
    return Attack(chain.settle_instruction(0, first, 0))


@refused(E.NO_LIST)
def settle_a_round_beyond_numbers(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    return Attack(chain.settle_instruction(U64_MAX, leaves, 0))


@refused(E.PROOF_INVALID)
def settle_a_better_leaf_than_anchored(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    better = [Leaf(one.staker, one.reward_total + 1, 0) for one in leaves]
    return Attack(chain.settle_instruction(0, better, 0))


@refused(E.PROOF_INVALID)
def settle_with_one_changed_sibling(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    good = chain.settle_instruction(0, leaves, 0)
    data = bytearray(good.data)
    data[-1] ^= 1
    return Attack(with_data(good, bytes(data)))


@refused(E.PROOF_INVALID)
def settle_with_other_directions(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    good = chain.settle_instruction(0, leaves, 0)
    data = bytearray(good.data)
    data[57] ^= 1
    return Attack(with_data(good, bytes(data)))


@refused(E.PROOF_INVALID)
def settle_without_siblings(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    leaf = next(one for one in leaves if one.staker == address(chain.stakers[0]))
    proof = merkle.Proof((), 0)
    return Attack(ix.settle(chain.task, 0, leaf, proof, address(chain.beneficiaries[0])))


@refused(E.PROOF_SHAPE)
def settle_with_a_direction_without_a_sibling(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    good = chain.settle_instruction(0, leaves, 0)
    data = bytearray(good.data)
    data[60] |= 0x80
    return Attack(with_data(good, bytes(data)))


@refused(E.PROOF_SHAPE)
def settle_with_25_siblings(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, KOII, 0])
    good = chain.settle_instruction(0, leaves, 0)
    data = bytes(good.data)[:61] + bytes([25]) + bytes(25 * 32)
    return Attack(with_data(good, data))


@refused(E.LEAF_OF_ANOTHER_STAKER)
def settle_the_leaf_of_another_into_ones_own_stake(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    good = chain.settle_instruction(0, leaves, 0)
    stolen = changed(good, account_2=chain.stake_address(1), account_3=address(chain.beneficiaries[1]))
    return Attack(stolen)


@refused(E.WRONG_BENEFICIARY)
def settle_to_the_callers_wallet(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_3=address(chain.payer)))


@refused(E.REWARDS_ABOVE_LIST)
def settle_leaves_that_add_up_to_more_than_the_list_said(chain: TaskChain) -> Attack:
    leaves = _lying_list(chain, [2 * KOII, 2 * KOII, 0], [0, 0, 0], rewards=-KOII)
    chain.ok(chain.settle_instruction(0, leaves, 0))
    return Attack(chain.settle_instruction(0, leaves, 1))


@refused(E.SLASHES_ABOVE_LIST)
def settle_slashes_that_add_up_to_more_than_the_list_said(chain: TaskChain) -> Attack:
    leaves = _lying_list(chain, [0, 0, 0], [0, 2 * KOII, 2 * KOII], slashes=-KOII)
    chain.ok(chain.settle_instruction(0, leaves, 1))
    return Attack(chain.settle_instruction(0, leaves, 2))


@refused(E.ARITHMETIC)
def settle_a_slash_beyond_numbers(chain: TaskChain) -> Attack:
    leaves = _lying_list(chain, [0, 0, 0], [0, KOII, U64_MAX], slashes=-U64_MAX)
    chain.ok(chain.settle_instruction(0, leaves, 1))
    return Attack(chain.settle_instruction(0, leaves, 2))


@refused(E.VAULT_SHORT)
def settle_rewards_that_only_untrue_slashes_back(chain: TaskChain) -> Attack:
    """The list announces slashes that no leaf has, to promise more than the vault holds."""
    attack = _poor_list(chain, 0)
    leaves = chain.earn([3 * KOII, 0, 0])
    chain.ok(chain.list_instruction(0, leaves, slashes=KOII), signers=attack.signers)
    chain.settled_slot(0)
    return Attack(chain.settle_instruction(0, leaves, 0))


def _lying_list(chain: TaskChain, earned: list[int], lost: list[int], **lie: int) -> list[Leaf]:
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    leaves = chain.earn(earned, lost)
    chain.ok(chain.list_instruction(0, leaves, **lie), signers=[chain.stakers[0]])
    chain.settled_slot(0)
    return leaves


@refused(E.BENEFICIARY_BELOW_RENT)
def settle_less_than_an_account_must_hold(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [890_879, 0, 0])
    return Attack(chain.settle_instruction(0, leaves, 0))


@refused(E.NOT_WRITABLE)
def settle_a_reward_to_a_read_only_beneficiary(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    return Attack(chain.settle_instruction(0, leaves, 0, pay=False))


@refused(E.NOT_WRITABLE)
def settle_with_a_read_only_vault(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    return Attack(flagged(chain.settle_instruction(0, leaves, 0), 1, writable=False))


@refused(E.WRONG_VAULT_ADDRESS)
def settle_out_of_the_vault_of_another_task(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    other = ix.vault_address(_other_task(chain))
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_1=other))


@refused(E.STAKE_OF_ANOTHER_TASK)
def settle_into_a_stake_of_another_task(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    other, staker = _other_task(chain), chain.stakers[0]
    keys = address(staker), address(chain.beneficiaries[0])
    chain.ok(ix.stake(other, address(chain.payer), *keys, 2 * KOII), signers=[staker])
    stolen = ix.stake_address(other, address(staker))
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_2=stolen))


@refused(E.WRONG_STAKE_ADDRESS)
def settle_into_a_forged_stake(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    key = address(keypair("forged stake"))
    chain.forge(key, chain.data(chain.stake_address(0)))
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_2=key))


@refused(E.WRONG_SIZE)
def settle_with_the_vault_as_stake(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_2=chain.vault))


@refused(E.WRONG_VAULT_ADDRESS)
def settle_with_a_forged_vault(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    key = address(keypair("forged vault"))
    chain.forge(key, chain.data(chain.vault), lamports=chain.rent(VAULT_LAYOUT.size) + 5 * KOII)
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_1=key))


@pytest.mark.parametrize("name", CASES)
def test_refused_with_its_own_code(name: str) -> None:
    error, case = CASES[name]
    chain = TaskChain()
    attack = case(chain)
    assert _send(chain, attack).error is error


def _send(chain: TaskChain, attack: Attack) -> Result:
    return chain.send(attack.instruction, signers=attack.signers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_transactions_that_attacks_are_made_of_are_good(kind: str) -> None:
    chain = TaskChain()
    attack = _good(chain)[kind]
    if kind == "anchor_list":  # needs round 1's commitment, and its own window
        chain.commit(1)
        chain.at(chain.clock.distribution(1).opens)
    assert _send(chain, attack).err is None


def test_every_code_has_an_attack() -> None:
    covered = {error for error, _ in CASES.values()}
    # SYSCALL is for services that the runtime never refuses without ending the program itself.
    assert set(ProgramError) - covered == {E.CALLED_BY_PROGRAM, E.SYSCALL}
    assert len(CASES) >= 35


def test_a_payer_without_money_fails_in_the_system_program() -> None:
    chain = TaskChain()
    poor = chain.rich("poor", KOII)
    result = chain.send(ix.fund(chain.task, address(poor), 5 * KOII), payer=poor)
    assert result.err == {"InstructionError": [1, {"Custom": 1}]}
    assert result.error is None  # the codes of the two programs never meet


PROXY = """
typedef unsigned char u8; typedef unsigned long long u64;
typedef struct { u8 *key; u64 *lamports; u64 data_length; u8 *data; u8 *owner; u64 rent; u8 s, w, x; } Account;
typedef struct { u8 *key; u8 is_writable, is_signer; } Meta;
typedef struct { u8 *program; Meta *metas; u64 count; u8 *data; u64 length; } Call;
typedef struct { Account accounts[6]; Meta metas[6]; Call call; } Scratch;
#define S ((Scratch *)0x300000000ULL)
extern u64 sol_invoke_signed_c(const void *, const void *, u64, const void *, u64);
/* Passes its own accounts and data on to the program in its last account. */
__attribute__((section(".text"))) u64 entrypoint(u8 *in) {
  u64 n = *(u64 *)in;
  in += 8;
  for (u64 i = 0; i < n; i++) {
    Account *a = &S->accounts[i];
    a->s = in[1]; a->w = in[2]; a->x = in[3]; a->key = in + 8; a->owner = in + 40; a->lamports = (u64 *)(in + 72);
    a->data_length = *(u64 *)(in + 80); a->data = in + 88;
    S->metas[i].key = a->key; S->metas[i].is_signer = a->s; S->metas[i].is_writable = a->w;
    in = (u8 *)(((u64)in + 88 + a->data_length + 10240 + 7) & ~7ULL);
    a->rent = *(u64 *)in;
    in += 8;
  }
  S->call.program = S->accounts[n - 1].key;
  S->call.metas = S->metas; S->call.count = n - 1; S->call.length = *(u64 *)in; S->call.data = in + 8;
  return sol_invoke_signed_c(&S->call, S->accounts, n, 0, 0);
}
"""


def test_a_call_by_another_program_is_refused(tmp_path: Path) -> None:
    missing = compiler_missing()
    if missing is not None:
        print(missing)
        pytest.skip(missing)
    chain = TaskChain()
    source = tmp_path / "proxy.c"
    source.write_text(PROXY)
    proxy = Pubkey(address(keypair("proxy program")))
    chain.svm.add_program(proxy, compile_and_link(source))
    fund = ix.fund(chain.task, address(chain.payer), KOII)
    accounts = [*fund.accounts, AccountMeta(Pubkey(ix.PROGRAM_ID), False, False)]
    assert chain.send(Instruction(proxy, bytes(fund.data), accounts)).error is E.CALLED_BY_PROGRAM
    assert chain.ok(fund).err is None


def test_the_compiler_names_what_it_cannot_build(tmp_path: Path) -> None:
    if compiler_missing() is not None:
        pytest.skip(str(compiler_missing()))
    source = tmp_path / "bad.c"
    source.write_text(
        'int written = 1; __attribute__((section(".text"))) int entrypoint(void) { return written++; }'
    )
    with pytest.raises(BuildError, match="writable data"):
        compile_and_link(source)
    source.write_text("not C")
    with pytest.raises(BuildError, match="failed"):
        compile_and_link(source)


def test_sizes_that_attacks_rely_on() -> None:
    assert len({TASK_LAYOUT.size, VAULT_LAYOUT.size, STAKE_LAYOUT.size}) == 3
