"""Refused: wrong accounts and data of every kind, and everything about CreateTask and Fund."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from solders.instruction import AccountMeta
from solders.rent import Rent
from solders.system_program import ID as SYSTEM_PROGRAM

from koii_p2p.rounds.terms import MAX_ROUND_TIME, MAX_STARTING_SLOT, U64_MAX
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.refusals import ProgramError as E

from .attacks import Attack, Case, Cases, other_address, replaced
from .virtual_chain import KOII, TaskChain, address, changed, default_terms, flagged, keypair, with_data

CASES = Cases()
refused = CASES.refused


# -- the ground: accounts, data, tags


@refused(E.UNKNOWN_TAG)
def unknown_tag(chain: TaskChain) -> Attack:
    return Attack(with_data(chain.commit_instruction(0), b"\x0d"), [chain.stakers[0]])


@refused(E.DATA_LENGTH)
def no_data_at_all(chain: TaskChain) -> Attack:
    return Attack(with_data(chain.commit_instruction(0), b""), [chain.stakers[0]])


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
        "veto": Attack(chain.veto_instruction(1), [first]),
        "settle": Attack(chain.settle_instruction(0, leaves, 0)),
    }


KINDS = ("create_task", "fund", "stake", "anchor_commitment", "anchor_list", "veto", "settle")


def _of_each_kind(error: E, name: str, change: Callable[[Attack], Attack]) -> None:
    for kind in KINDS:
        CASES[f"{name}_{kind}"] = (error, lambda chain, kind=kind: change(_good(chain)[kind]))


_of_each_kind(
    E.ACCOUNT_COUNT,
    "one_account_too_few",
    lambda one: replaced(one, list(one.instruction.accounts)[:-1]),
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
_of_each_kind(
    E.DATA_LENGTH,
    "one_byte_too_few",
    lambda one: Attack(with_data(one.instruction, bytes(one.instruction.data)[:-1]), one.signers),
)


@refused(E.ACCOUNT_COUNT)
def far_too_many_accounts(chain: TaskChain) -> Attack:
    return replaced(Attack(chain.commit_instruction(0)), [AccountMeta(SYSTEM_PROGRAM, False, False)] * 40)


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
    ("too_many_failures_allowed", E.TERMS_AUDIT, {"allowed_failed_distributions": 256}),
    ("no_name", E.TERMS_NAME, {"name": ""}),
):
    CASES[f"create_task_{_name}"] = (_error, _task_with(**_values))


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
    other = other_address((b"task", payer, struct.pack("<Q", 8)))
    return Attack(changed(ix.create_task(default_terms(payer, 8), 8), account_1=other))


@refused(E.WRONG_VAULT_ADDRESS)
def create_task_with_the_vault_of_another_task(chain: TaskChain) -> Attack:
    new = ix.create_task(default_terms(address(chain.payer), 8), 8)
    return Attack(changed(new, account_2=address(keypair("own vault"))))


@refused(E.WRONG_SYSTEM_PROGRAM)
def create_task_with_a_false_system_program(chain: TaskChain) -> Attack:
    new = ix.create_task(default_terms(address(chain.payer), 8), 8)
    return Attack(changed(new, account_3=address(keypair("false system"))))


@refused(E.ALREADY_EXISTS)
def create_task_over_a_vault(chain: TaskChain) -> Attack:
    new = default_terms(address(chain.payer), 8)
    chain.forge(ix.vault_address(new.task), chain.data(chain.vault))
    return Attack(ix.create_task(new, 8))


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


@refused(E.NOT_WRITABLE)
def fund_a_read_only_vault(chain: TaskChain) -> Attack:
    return Attack(flagged(ix.fund(chain.task, address(chain.payer), KOII), 2, writable=False))


@refused(E.NOT_WRITABLE)
def fund_from_a_read_only_wallet(chain: TaskChain) -> Attack:
    donor = chain.rich("donor")
    return Attack(flagged(ix.fund(chain.task, address(donor), KOII), 0, writable=False), [donor])


@refused(E.WRONG_SYSTEM_PROGRAM)
def fund_through_a_false_system_program(chain: TaskChain) -> Attack:
    fund = ix.fund(chain.task, address(chain.payer), KOII)
    return Attack(changed(fund, account_3=address(keypair("false system"))))


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


@CASES.parametrize()
def test_refused_with_its_own_code(error: E, case: Case) -> None:
    chain = TaskChain()
    assert case(chain).send(chain).error is error


@pytest.mark.parametrize("kind", KINDS)
def test_the_transactions_that_attacks_are_made_of_are_good(kind: str) -> None:
    chain = TaskChain()
    attack = _good(chain)[kind]
    if kind in ("anchor_list", "veto"):  # need round 1's commitment, its list, and their own window
        chain.commit(1)
        chain.at(chain.clock.distribution(1).opens)
    if kind == "veto":
        chain.anchor_list(1, chain.earn([1, 1, 1]))
        chain.at(chain.clock.distribution_audit(1).opens)
    assert attack.send(chain).err is None
