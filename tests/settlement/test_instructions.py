"""Instructions: what is encoded is read back, and nothing else is read."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.instruction import Instruction

from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.decoding import decode_instruction
from koii_p2p.settlement.instructions import InstructionError

from .virtual_chain import default_terms

KEYS = st.binary(min_size=32, max_size=32)
U64 = st.integers(0, 2**64 - 1)
TASK, CREATOR, STAKER, OTHER = (bytes([number]) * 32 for number in (1, 2, 3, 4))
EVERY_RULE = AuditRules(
    profile=Profile.POSP,
    weights=Weights.STAKE_TIME,
    auditors=11,
    confidence=999_001,
    dishonest=3001,
    quorum=7,
    audit_rate=2503,
    sealed=True,
    canary_rate=301,
    reputation_floor=1009,
    finders_share=5003,
    witness_seats=1021,
)
"""Every field differs from its default and from every other."""


def decode(instruction: Instruction) -> ix.ProgramInstruction:
    return decode_instruction(bytes(instruction.data), [bytes(one.pubkey) for one in instruction.accounts])


def test_addresses_are_stable() -> None:
    """Written into stakes and wallets for ever: a change here would lose them."""
    assert hashlib.sha256(b"koii_p2p settlement program v1").digest() == ix.PROGRAM_ID
    task = ix.task_address(CREATOR, 7)
    assert task == ix.task_address(CREATOR, 7) != ix.task_address(CREATOR, 8)
    addresses = {task, ix.vault_address(task), ix.stake_address(task, STAKER), ix.stake_address(task, OTHER)}
    assert len(addresses) == 4
    assert ix.task_address(CREATOR, 7, OTHER) != task
    assert addresses.isdisjoint({CREATOR, STAKER, OTHER})


def test_tags_are_those_of_the_protocol() -> None:
    assert [tag.name for tag in sorted(ix.Tag)] == [
        "CREATE_TASK",
        "FUND",
        "SET_ACTIVE",
        "STAKE",
        "REQUEST_UNSTAKE",
        "WITHDRAW",
        "ANCHOR_COMMITMENT",
        "ANCHOR_LIST",
        "VETO",
        "SETTLE",
        "CLOSE",
        "UPDATE_TASK",
        "CLOSE_STAKE",
    ]
    assert sorted(ix.Tag) == list(range(13))


def test_create_task_is_read_back() -> None:
    terms = replace(default_terms(CREATOR), audit=EVERY_RULE)
    assert decode(ix.create_task(terms, 7)) == ix.CreateTask(terms, 7)
    elsewhere = replace(terms, task=OTHER)  # the address is derived, whatever the terms say
    assert decode(ix.create_task(elsewhere, 7)) == ix.CreateTask(terms, 7)


@given(amount=U64, nonce=U64)
@settings(max_examples=25)
def test_amounts_are_read_back(amount: int, nonce: int) -> None:
    assert decode(ix.fund(TASK, CREATOR, amount)) == ix.Fund(TASK, CREATOR, amount)
    stake = ix.stake(TASK, CREATOR, STAKER, OTHER, amount)
    assert decode(stake) == ix.Stake(TASK, CREATOR, STAKER, OTHER, amount)
    terms = default_terms(CREATOR, nonce)
    assert decode(ix.create_task(terms, nonce)) == ix.CreateTask(terms, nonce)


@given(round=U64, digest=KEYS, rewards=U64, slashes=U64, attempt=st.integers(0, 255))
@settings(max_examples=25)
def test_anchors_are_read_back(round: int, digest: bytes, rewards: int, slashes: int, attempt: int) -> None:
    commitment = ix.anchor_commitment(TASK, STAKER, round, digest, attempt=attempt)
    assert decode(commitment) == ix.AnchorCommitment(TASK, STAKER, round, attempt, digest)
    anchored = ix.anchor_list(TASK, STAKER, round, digest, rewards, slashes, attempt=attempt)
    assert decode(anchored) == ix.AnchorList(TASK, STAKER, round, attempt, digest, rewards, slashes)
    veto = ix.veto(TASK, STAKER, round, attempt, OTHER, STAKER)
    assert decode(veto) == ix.Veto(TASK, STAKER, round, attempt)
    assert [one.is_writable for one in veto.accounts] == [False, True, True, True, True, True]
    stakes = [ix.stake_address(TASK, key) for key in (STAKER, OTHER, STAKER)]
    assert [bytes(veto.accounts[place].pubkey) for place in (2, 4, 5)] == stakes
    without_list = ix.veto(TASK, STAKER, round, attempt, OTHER, None)
    assert without_list.accounts[5] == without_list.accounts[4]


@given(round=U64, siblings=st.lists(KEYS, max_size=ix.PROOF_SIBLINGS), active=st.booleans())
@settings(max_examples=25)
def test_leaving_and_ending_are_read_back(round: int, siblings: list[bytes], active: bool) -> None:
    leaf, proof = Leaf(STAKER, 5, 6), Proof(tuple(siblings), 0)
    assert decode(ix.request_unstake(TASK, STAKER)) == ix.RequestUnstake(TASK, STAKER)
    assert decode(ix.withdraw(TASK, STAKER, OTHER)) == ix.Withdraw(TASK, STAKER, OTHER)
    shown = ix.withdraw(TASK, STAKER, OTHER, round, leaf, proof)
    assert decode(shown) == ix.Withdraw(TASK, STAKER, OTHER, round, leaf, proof)
    assert decode(ix.set_active(TASK, CREATOR, active)) == ix.SetActive(TASK, CREATOR, active)
    assert decode(ix.update_task(TASK, CREATOR, "é", OTHER)) == ix.UpdateTask(TASK, CREATOR, "é", OTHER)
    assert decode(ix.update_task(TASK, CREATOR, "")) == ix.UpdateTask(TASK, CREATOR, "", None)
    assert decode(ix.close(TASK, CREATOR)) == ix.Close(TASK, CREATOR)
    stake = ix.stake_address(TASK, STAKER)
    assert decode(ix.close_stake(TASK, STAKER, OTHER)) == ix.CloseStake(TASK, stake, OTHER)


@given(
    round=U64,
    rewards=U64,
    slashes=U64,
    siblings=st.lists(KEYS, max_size=ix.PROOF_SIBLINGS),
    directions=st.integers(0, 2**24 - 1),
)
@settings(max_examples=25)
def test_settlements_are_read_back(
    round: int, rewards: int, slashes: int, siblings: list[bytes], directions: int
) -> None:
    leaf, proof = Leaf(STAKER, rewards, slashes), Proof(tuple(siblings), directions)
    for pay in (True, False):
        instruction = ix.settle(TASK, round, leaf, proof, OTHER, pay=pay)
        assert instruction.accounts[3].is_writable is pay
        assert decode(instruction) == ix.Settle(TASK, round, leaf, proof, OTHER)


@given(data=st.binary(max_size=200), accounts=st.lists(KEYS, max_size=6))
@settings(max_examples=300)
def test_any_bytes_give_an_instruction_or_an_instruction_error(data: bytes, accounts: list[bytes]) -> None:
    try:
        instruction = decode_instruction(data, accounts)
    except InstructionError:
        return
    assert isinstance(instruction, ix.ProgramInstruction)


@pytest.mark.parametrize("tag", sorted(ix.Tag))
def test_truncated_and_extended_instructions_are_refused(tag: ix.Tag) -> None:
    good = {
        ix.Tag.CREATE_TASK: ix.create_task(default_terms(CREATOR), 7),
        ix.Tag.FUND: ix.fund(TASK, CREATOR, 1),
        ix.Tag.STAKE: ix.stake(TASK, CREATOR, STAKER, OTHER, 1),
        ix.Tag.ANCHOR_COMMITMENT: ix.anchor_commitment(TASK, STAKER, 1, OTHER),
        ix.Tag.ANCHOR_LIST: ix.anchor_list(TASK, STAKER, 1, OTHER, 1, 1),
        ix.Tag.VETO: ix.veto(TASK, STAKER, 1, 0, STAKER, None),
        ix.Tag.SETTLE: ix.settle(TASK, 1, Leaf(STAKER, 1, 1), Proof((OTHER,), 1), OTHER),
        ix.Tag.SET_ACTIVE: ix.set_active(TASK, CREATOR, True),
        ix.Tag.REQUEST_UNSTAKE: ix.request_unstake(TASK, STAKER),
        ix.Tag.WITHDRAW: ix.withdraw(TASK, STAKER, OTHER, 1, Leaf(STAKER, 1, 1), Proof((OTHER,), 1)),
        ix.Tag.CLOSE: ix.close(TASK, CREATOR),
        ix.Tag.UPDATE_TASK: ix.update_task(TASK, CREATOR, "about"),
        ix.Tag.CLOSE_STAKE: ix.close_stake(TASK, STAKER, OTHER),
    }
    data, accounts = bytes(good[tag].data), [bytes(one.pubkey) for one in good[tag].accounts]
    assert data[0] == tag
    # The tag alone is a whole instruction for some, and no data at all is none of any kind.
    for wrong in {data[:-1], data + b"\0", data[:1]} - {data, bytes([ix.Tag.WITHDRAW]), b""}:
        with pytest.raises(InstructionError, match=tag.name):
            decode_instruction(wrong, accounts)
    for wrong_accounts in (accounts[:-1], [*accounts, OTHER], []):
        with pytest.raises(InstructionError, match=tag.name):
            decode_instruction(data, wrong_accounts)


def test_values_that_no_instruction_carries_are_refused() -> None:
    terms = default_terms(CREATOR)
    leaf = Leaf(STAKER, 1, 0)
    for name, value in (("name", "n" * 25), ("program", "p" * 65), ("bounty_per_round", 2**64)):
        changed = replace(terms)
        object.__setattr__(changed, name, value)
        with pytest.raises(InstructionError):
            ix.create_task(changed, 7)
    rules = replace(terms.audit)
    object.__setattr__(rules, "confidence", 2**32)
    with pytest.raises(InstructionError, match=r"audit\.confidence does not hold"):
        ix.create_task(replace(terms, audit=rules), 7)
    with pytest.raises(InstructionError):
        ix.fund(TASK, CREATOR, -1)
    with pytest.raises(InstructionError):
        ix.veto(TASK, STAKER, 1, 256, STAKER, None)
    with pytest.raises(InstructionError):
        ix.anchor_commitment(TASK, STAKER, 1, b"short")
    with pytest.raises(InstructionError):
        ix.settle(TASK, 1, leaf, Proof((OTHER,) * 25, 0), OTHER)
    with pytest.raises(InstructionError):
        ix.settle(TASK, 1, leaf, Proof((b"short",), 0), OTHER)
    with pytest.raises(InstructionError, match="at most 24 siblings"):
        ix.withdraw(TASK, STAKER, OTHER, 1, leaf, Proof((OTHER,) * 25, 0))
    with pytest.raises(InstructionError, match="needs its proof"):
        ix.withdraw(TASK, STAKER, OTHER, 1, leaf)
    with pytest.raises(InstructionError, match="at most 64 bytes, not 66"):
        ix.update_task(TASK, CREATOR, "é" * 33)
    with pytest.raises(InstructionError, match="neither 0 nor 1"):
        decode_instruction(bytes([ix.Tag.SET_ACTIVE, 2]), [CREATOR, TASK])
    with pytest.raises(InstructionError):
        decode_instruction(b"", [])
    with pytest.raises(InstructionError):
        decode_instruction(b"\x0d", [])
