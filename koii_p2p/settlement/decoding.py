"""The settlement program's instructions, read back out of transactions."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.instructions import (
    ANCHOR_COMMITMENT_FORMAT,
    ANCHOR_LIST_FORMAT,
    CREATE_TASK_FORMAT,
    FUND_FORMAT,
    PROOF_SIBLINGS,
    SET_ACTIVE_FORMAT,
    SETTLE_FORMAT,
    STAKE_FORMAT,
    TAG_FORMAT,
    UPDATE_TASK_FORMAT,
    VETO_FORMAT,
    AnchorCommitment,
    AnchorList,
    Close,
    CloseStake,
    CreateTask,
    Fund,
    InstructionError,
    ProgramInstruction,
    RequestUnstake,
    SetActive,
    Settle,
    Stake,
    Tag,
    UpdateTask,
    Veto,
    Withdraw,
)
from koii_p2p.settlement.layouts import decode_audit


def decode_instruction(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    """Read back an instruction from its data and account addresses.

    Raises `InstructionError` for an unknown tag, a wrong length, or a wrong number of accounts.
    """
    try:
        tag = Tag(data[0])
    except (IndexError, ValueError) as error:
        raise InstructionError(f"The instruction {data[:1].hex() or 'without data'} is not known.") from error
    try:
        return _DECODERS[tag](data, accounts)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise InstructionError(f"This is not a {tag.name} instruction: {error}") from error


def _decode_create_task(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    creator, task, _, _ = accounts
    _, nonce, name, program, s0, rt, sw, aw, bounty, minimum, bps, failed, audit = CREATE_TASK_FORMAT.unpack(
        data
    )
    terms = TaskTerms(
        task=task,
        creator=creator,
        name=name.rstrip(b"\0").decode(),
        program=program.rstrip(b"\0").decode(),
        starting_slot=s0,
        round_time=rt,
        submission_window=sw,
        audit_window=aw,
        bounty_per_round=bounty,
        minimum_stake=minimum,
        slash_basis_points=bps,
        allowed_failed_distributions=failed,
        audit=decode_audit(audit),
    )
    return CreateTask(terms, nonce)


def _decode_fund(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    funder, task, _, _ = accounts
    _, amount = FUND_FORMAT.unpack(data)
    return Fund(task, funder, amount)


def _decode_stake(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    payer, staker, task, _, _ = accounts
    _, amount, beneficiary = STAKE_FORMAT.unpack(data)
    return Stake(task, payer, staker, beneficiary, amount)


def _decode_anchor_commitment(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _ = accounts
    _, attempt, round, digest = ANCHOR_COMMITMENT_FORMAT.unpack(data)
    return AnchorCommitment(task, staker, round, attempt, digest)


def _decode_anchor_list(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _, _ = accounts
    _, attempt, round, root, reward_total, slash_total = ANCHOR_LIST_FORMAT.unpack(data)
    return AnchorList(task, staker, round, attempt, root, reward_total, slash_total)


def _decode_veto(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _, _, _, _ = accounts
    _, attempt, round = VETO_FORMAT.unpack(data)
    return Veto(task, staker, round, attempt)


def _decode_settle(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    task, _, _, beneficiary = accounts
    return Settle(task, *_leaf_of(data), beneficiary)


def _decode_request_unstake(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _ = accounts
    TAG_FORMAT.unpack(data)
    return RequestUnstake(task, staker)


def _decode_withdraw(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _, _, beneficiary = accounts
    if len(data) == TAG_FORMAT.size:
        return Withdraw(task, staker, beneficiary)
    return Withdraw(task, staker, beneficiary, *_leaf_of(data))


def _decode_set_active(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    creator, task = accounts
    _, active = SET_ACTIVE_FORMAT.unpack(data)
    if active > 1:
        raise InstructionError("active is neither 0 nor 1")
    return SetActive(task, creator, active == 1)


def _decode_update_task(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    creator, task, successor = accounts
    _, metadata = UPDATE_TASK_FORMAT.unpack(data)
    # The program does not ask for UTF-8: text that is none must not hide an instruction that K2 accepted.
    text = metadata.rstrip(b"\0").decode(errors="replace")
    return UpdateTask(task, creator, text, None if successor == task else successor)


def _decode_close(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    creator, task, _ = accounts
    TAG_FORMAT.unpack(data)
    return Close(task, creator)


def _decode_close_stake(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    task, stake, beneficiary = accounts
    TAG_FORMAT.unpack(data)
    return CloseStake(task, stake, beneficiary)


def _leaf_of(data: bytes) -> tuple[int, Leaf, Proof]:
    _, round, leaf, directions, count = SETTLE_FORMAT.unpack_from(data)
    siblings = data[SETTLE_FORMAT.size :]
    if len(siblings) != 32 * count or count > PROOF_SIBLINGS:
        raise InstructionError("the siblings do not have the length they claim")
    proof = Proof(tuple(siblings[32 * i : 32 * i + 32] for i in range(count)), directions)
    return round, Leaf.decode(leaf), proof


_DECODERS: Final[dict[Tag, Callable[[bytes, Sequence[bytes]], ProgramInstruction]]] = {
    Tag.CREATE_TASK: _decode_create_task,
    Tag.FUND: _decode_fund,
    Tag.STAKE: _decode_stake,
    Tag.ANCHOR_COMMITMENT: _decode_anchor_commitment,
    Tag.ANCHOR_LIST: _decode_anchor_list,
    Tag.VETO: _decode_veto,
    Tag.SETTLE: _decode_settle,
    Tag.REQUEST_UNSTAKE: _decode_request_unstake,
    Tag.WITHDRAW: _decode_withdraw,
    Tag.SET_ACTIVE: _decode_set_active,
    Tag.UPDATE_TASK: _decode_update_task,
    Tag.CLOSE: _decode_close,
    Tag.CLOSE_STAKE: _decode_close_stake,
}
