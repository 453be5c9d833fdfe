"""Refused: everything about Settle, calls by other programs; and that no error code lacks an attack."""

from __future__ import annotations

from pathlib import Path

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.layouts import VAULT_LAYOUT
from koii_p2p.settlement.refusals import ProgramError as E
from scripts.build_program import compile_and_link, compiler_missing

from . import test_refusals_anchors as anchors
from . import test_refusals_leaving as leaving
from . import test_refusals_tasks as tasks
from . import test_refusals_veto as vetoes
from .attacks import Attack, Case, Cases, other_task, poor_list
from .virtual_chain import KOII, TaskChain, address, changed, flagged, keypair, with_data

CASES = Cases()
refused = CASES.refused


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
    attack = poor_list(chain, 0)
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


@refused(E.WRONG_TASK_ADDRESS)
def settle_against_a_copy_of_the_task(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    copy = address(keypair("copy"))
    chain.forge(copy, chain.data(chain.task))
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_0=copy))


@refused(E.DATA_LENGTH)
def settle_without_data(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    return Attack(with_data(chain.settle_instruction(0, leaves, 0), bytes([ix.Tag.SETTLE])))


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
    other = ix.vault_address(other_task(chain))
    return Attack(changed(chain.settle_instruction(0, leaves, 0), account_1=other))


@refused(E.STAKE_OF_ANOTHER_TASK)
def settle_into_a_stake_of_another_task(chain: TaskChain) -> Attack:
    leaves = chain.run_round(0, [KOII, 0, 0])
    other, staker = other_task(chain), chain.stakers[0]
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


@CASES.parametrize()
def test_refused_with_its_own_code(error: E, case: Case) -> None:
    chain = TaskChain()
    assert case(chain).send(chain).error is error


def test_every_code_has_an_attack() -> None:
    modules = (tasks, anchors, vetoes, leaving)
    attacks = [*CASES.values(), *(one for module in modules for one in module.CASES.values())]
    covered = {error for error, _ in attacks}
    # SYSCALL is for services that the runtime never refuses without ending the program itself.
    assert set(E) - covered == {E.CALLED_BY_PROGRAM, E.SYSCALL}
    assert len(attacks) >= 150


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
