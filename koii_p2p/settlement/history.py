"""A task's transactions, read back from K2 and checked: signatures, order and completeness.

The node that answers is not trusted. Each transaction's signatures are verified over its bytes, and the
anchors in the list must give, hashed one after the other, the head that the task account holds: so none can
be missing, added, changed or moved. What a transaction did before the account's ring of rounds began is
covered by that head too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import trio
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.settlement.instructions import (
    PROGRAM_ID,
    AnchorCommitment,
    AnchorList,
    CreateTask,
    Fund,
    InstructionError,
    ProgramInstruction,
    Stake,
    Tag,
    decode_instruction,
)
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.layouts import ANCHOR_RECORD_LAYOUT, ROUND_RING
from koii_p2p.settlement.rpc import RpcClient, SignatureInfo, TransactionRecord

PARALLEL_READS: Final = 8
EMPTY_HEAD: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """One instruction of the settlement program in a transaction that touched the task.

    `signature` names the transaction (base58), `err` is its error (JSON) or None, `fee` (Roe) is that of the
    whole transaction and None if it could not be read. `signer` is whose will the instruction is: creator,
    funder, staker; for Settle whoever paid the fee. `fault` says why the entry cannot be believed; then
    `instruction` may be None.
    """

    slot: int
    signature: str
    err: Any
    instruction: ProgramInstruction | None
    signer: bytes | None
    fee: int | None = None
    fault: str | None = None


class HistoryFault(Enum):
    """What is wrong with a history."""

    UNREADABLE = "unreadable"
    """A listed transaction is missing, or its bytes, slot or outcome contradict its name or the list."""
    CHANGED_RECORD = "changed record"
    """The account and the transactions disagree about one round."""
    ANCHORS_MISSING = "anchors missing"
    """The account counts more, or fewer, anchors than the transactions hold."""
    HEAD_DIFFERS = "head differs"
    """The transactions do not give the account's head: an anchor was changed, added, left out or moved."""
    TOTALS_DIFFER = "totals differ"
    """What was paid in does not add up to the account's totals."""


@dataclass(frozen=True, slots=True)
class HistoryFinding:
    """One thing that is wrong; `text` names the round or transaction and the values."""

    fault: HistoryFault
    text: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What a task account must hold after a list of transactions."""

    head: bytes
    anchors: int
    rounds: dict[int, AnchoredRound]
    funded: int
    staked: int


async def read_history(
    rpc: RpcClient, task: bytes, *, limit: int, program_id: bytes = PROGRAM_ID
) -> tuple[ChainEntry, ...]:
    """Read the newest `limit` transactions that name the task; the program's instructions, oldest first."""
    lines = (await rpc.get_address_history(task, limit=limit))[::-1]
    records: dict[str, TransactionRecord | None] = {}
    failures: list[ChainError] = []
    waiting = iter(lines)

    async def read_next(scope: trio.CancelScope) -> None:
        try:
            for line in waiting:
                records[line.signature] = await rpc.get_transaction(line.signature)
        except ChainError as error:
            failures.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(PARALLEL_READS):
            nursery.start_soon(read_next, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return tuple(
        entry for line in lines for entry in read_entries(line, records[line.signature], task, program_id)
    )


def read_entries(
    line: SignatureInfo, record: TransactionRecord | None, task: bytes, program_id: bytes = PROGRAM_ID
) -> tuple[ChainEntry, ...]:
    """The program's instructions for `task` in one transaction; one with a fault if it cannot be trusted."""

    def faulty(why: str) -> tuple[ChainEntry, ...]:
        fee = None if record is None else record.fee
        return (ChainEntry(line.slot, line.signature, line.err, None, None, fee, why),)

    if record is None:
        return faulty("the node lists the transaction but does not have it")
    if record.slot != line.slot:
        return faulty(f"the list says slot {line.slot}, the transaction slot {record.slot}")
    if (record.err is None) != (line.err is None):
        return faulty("the list and the transaction disagree about whether it succeeded")
    try:
        transaction = VersionedTransaction.from_bytes(record.wire)
    except ValueError as error:
        return faulty(f"its bytes are not a transaction: {error}")
    if not _is_genuine(transaction, record.wire, line.signature):
        return faulty("a signature does not verify: its bytes were changed")
    return tuple(_instructions(line, record, transaction, task, program_id))


def _is_genuine(transaction: VersionedTransaction, wire: bytes, name: str) -> bool:
    # solders ignores bytes behind the transaction, and verifies only as many signatures as there are.
    return (
        bytes(transaction) == wire
        and len(transaction.signatures) == transaction.message.header.num_required_signatures
        and all(transaction.verify_with_results())
        and str(transaction.signatures[0]) == name
    )


def _instructions(
    line: SignatureInfo,
    record: TransactionRecord,
    transaction: VersionedTransaction,
    task: bytes,
    program_id: bytes,
) -> Iterable[ChainEntry]:
    message = transaction.message
    keys = [bytes(key) for key in message.account_keys]
    for compiled in message.instructions:
        place = compiled.program_id_index
        if place >= len(keys) or keys[place] != program_id:
            continue  # a program is never looked up in a table
        # An address from a lookup table is not in the transaction. It can hide which task an instruction is
        # for, so such an instruction counts as this task's: the head then shows whether it was.
        accounts = [keys[one] if one < len(keys) else task for one in compiled.accounts]
        try:
            instruction = decode_instruction(bytes(compiled.data), accounts)
        except InstructionError as error:
            if record.err is None:
                yield ChainEntry(
                    line.slot, line.signature, line.err, None, None, record.fee, f"it succeeded, but {error}"
                )
            continue
        if _task_of(instruction) == task:
            signer = _signer_of(instruction, fee_payer=keys[0])
            yield ChainEntry(line.slot, line.signature, record.err, instruction, signer, record.fee)


def _task_of(instruction: ProgramInstruction) -> bytes:
    return instruction.terms.task if isinstance(instruction, CreateTask) else instruction.task


def _signer_of(instruction: ProgramInstruction, fee_payer: bytes) -> bytes:
    match instruction:
        case CreateTask():
            return instruction.terms.creator
        case Fund():
            return instruction.funder
        case Stake() | AnchorCommitment() | AnchorList():
            return instruction.staker
    return fee_payer


def replay(entries: Iterable[ChainEntry]) -> Replay:
    """Apply the instructions that succeeded, oldest first."""
    head, anchors, funded, staked = EMPTY_HEAD, 0, 0, 0
    rounds: dict[int, AnchoredRound] = {}
    for entry in entries:
        if entry.err is not None:
            continue
        match entry.instruction:
            case Fund(amount=amount):
                funded += amount
            case Stake(amount=amount):
                staked += amount
            case AnchorCommitment() | AnchorList() as anchor:
                head = next_head(head, anchor, entry.slot)
                anchors += 1
                rounds[anchor.round] = _anchored(rounds.get(anchor.round), anchor, entry.slot)
    return Replay(head, anchors, rounds, funded, staked)


def next_head(head: bytes, anchor: AnchorCommitment | AnchorList, slot: int) -> bytes:
    """The head after an anchor: SHA-256(head || record), the record as `ANCHOR_RECORD_LAYOUT` says."""
    if isinstance(anchor, AnchorCommitment):
        tag, digest, rewards, slashes = Tag.ANCHOR_COMMITMENT, anchor.digest, 0, 0
    else:
        tag, digest, rewards, slashes = Tag.ANCHOR_LIST, anchor.root, anchor.reward_total, anchor.slash_total
    values: dict[str, int | bytes] = {
        "tag": tag,
        "attempt": anchor.attempt,
        "round": anchor.round,
        "slot": slot,
        "by": anchor.staker,
        "digest": digest,
        "reward_total": rewards,
        "slash_total": slashes,
    }
    return hashlib.sha256(head + ANCHOR_RECORD_LAYOUT.pack(values)).digest()


def _anchored(
    before: AnchoredRound | None, anchor: AnchorCommitment | AnchorList, slot: int
) -> AnchoredRound:
    if isinstance(anchor, AnchorCommitment):
        return AnchoredRound(anchor.round, anchor.attempt, anchor.digest, slot, anchor.staker)
    # The program takes no list without a commitment. If the list lacks it, the head will not fit, and says
    # so.
    commitment = (
        (b"", 0, b"") if before is None else (before.commitment, before.commitment_slot, before.commitment_by)
    )
    return AnchoredRound(
        anchor.round,
        anchor.attempt,
        *commitment,
        list_root=anchor.root,
        reward_total=anchor.reward_total,
        slash_total=anchor.slash_total,
        list_slot=slot,
        list_by=anchor.staker,
    )


def check_history(entries: Sequence[ChainEntry], state: TaskState) -> tuple[HistoryFinding, ...]:
    """Compare a history with the account, both read at rest. Empty: complete, in order, unaltered."""
    findings = [
        HistoryFinding(
            HistoryFault.UNREADABLE, f"Transaction {entry.signature} in slot {entry.slot}: {entry.fault}."
        )
        for entry in entries
        if entry.fault is not None
    ]
    replayed = replay(entries)
    findings += _compare_rounds(replayed, state)
    if replayed.anchors != state.anchors:
        text = f"The account counts {state.anchors} anchors; its transactions hold {replayed.anchors}."
        findings.append(HistoryFinding(HistoryFault.ANCHORS_MISSING, text))
    if replayed.head != state.head:
        text = f"The anchors hash to {replayed.head.hex()}; the account's head is {state.head.hex()}."
        findings.append(HistoryFinding(HistoryFault.HEAD_DIFFERS, text))
    if replayed.funded != state.funded:
        text = f"The transactions fund {replayed.funded} Roe; the account says {state.funded}."
        findings.append(HistoryFinding(HistoryFault.TOTALS_DIFFER, text))
    if replayed.staked - state.slashed != state.total_stake:
        text = (
            f"The transactions stake {replayed.staked} Roe, of which {state.slashed} were slashed; "
            f"the account says {state.total_stake} are staked."
        )
        findings.append(HistoryFinding(HistoryFault.TOTALS_DIFFER, text))
    return tuple(findings)


def _compare_rounds(replayed: Replay, state: TaskState) -> list[HistoryFinding]:
    # A round leaves the ring when a later one takes its place.
    newest = {number % ROUND_RING: number for number in sorted(replayed.rounds)}
    findings = []
    for number in sorted(set(newest.values()) | set(state.rounds)):
        told, held = replayed.rounds.get(number), state.rounds.get(number)
        if told is None or held is None:
            where = (
                "the account, but no transaction" if told is None else "a transaction, but not the account"
            )
            text = f"Round {number} is anchored according to {where}."
            findings.append(HistoryFinding(HistoryFault.CHANGED_RECORD, text))
            continue
        for name in AnchoredRound.__dataclass_fields__:
            one, other = getattr(told, name), getattr(held, name)
            if one != other:
                said = f"the transactions say {_shown(one)}, the account {_shown(other)}"
                text = f"Round {number}, {name}: {said}."
                findings.append(HistoryFinding(HistoryFault.CHANGED_RECORD, text))
    return findings


def _shown(value: bytes | int | None) -> str:
    if not isinstance(value, bytes):
        return "nothing" if value is None else str(value)
    return value.hex() if value else "nothing"
