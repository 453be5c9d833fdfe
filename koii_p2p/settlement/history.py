"""A task's transactions, read back from K2 and checked: signatures, order and completeness.

The node that answers is not trusted. Each transaction's signatures are verified over its bytes, and the
anchors in the list must give, hashed one after the other, the head that the task account holds: so none can
be missing, added, changed or moved. What a transaction did before the account's ring of rounds began is
covered by that head too. A veto is in it if it rejected a list; which one did follows from the stakes, so that
these are replayed as well.

A transaction of a version that a node does not give is one of which only the list tells. Whether it changed what is
checked here is provable without it: then the rest does not give the account. So alone it is no fault, or anybody
could spoil every history for a fee; where something is missing, it is named as what may hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

import trio
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.settlement.decoding import decode_instruction
from koii_p2p.settlement.instructions import (
    PROGRAM_ID,
    AnchorCommitment,
    AnchorList,
    Close,
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
from koii_p2p.settlement.interface import AnchoredList, TaskState
from koii_p2p.settlement.jsonrpc import VERSION_NOT_SUPPORTED
from koii_p2p.settlement.layouts import ANCHOR_RECORD_LAYOUT, NOBODY, ROUND_RING, bond
from koii_p2p.settlement.rpc import RpcClient, RpcError, SignatureInfo, TransactionRecord

PARALLEL_READS: Final = 8
EMPTY_HEAD: Final = bytes(32)

Anchor: TypeAlias = AnchorCommitment | AnchorList | Veto
"""What the chain of heads is made of: of the vetoes those that rejected a list."""


class LaterVersion(Enum):
    """In the place of a transaction of a later version than 0, which the node does not give."""

    LATER_VERSION = "later version"


Fetched: TypeAlias = TransactionRecord | Literal[LaterVersion.LATER_VERSION] | None
"""A listed transaction; None if the node does not have it."""


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """One instruction of the settlement program in a transaction that touched the task.

    `signature` names the transaction (base58), `err` is its error (JSON) or None, `fee` (Roe) is that of the
    whole transaction and None if it could not be read. `signer` is whose will the instruction is: creator,
    funder, staker; for Settle, Withdraw and CloseStake whoever paid the fee. `fault` says why the entry cannot be
    believed; then `instruction` may be None. Of a transaction of a `later_version` nothing else is known.
    """

    slot: int
    signature: str
    err: Any
    instruction: ProgramInstruction | None
    signer: bytes | None
    fee: int | None = None
    fault: str | None = None
    later_version: bool = False


class HistoryFault(Enum):
    """What is wrong with a history."""

    UNREADABLE = "unreadable"
    """A listed transaction is missing, or its bytes, slot or outcome contradict its name or the list; or it is of a
    later version, and the others do not make up for it."""
    CHANGED_RECORD = "changed record"
    """The account and the transactions disagree about one round, or about the newest list."""
    ANCHORS_MISSING = "anchors missing"
    """The account counts more, or fewer, anchors and rejections than the transactions hold."""
    HEAD_DIFFERS = "head differs"
    """The transactions do not give the account's head: an anchor was changed, added, left out or moved."""
    TOTALS_DIFFER = "totals differ"
    """What was paid in does not add up to the account's totals."""


@dataclass(frozen=True, slots=True)
class HistoryFinding:
    """One thing that is wrong; `text` names the round or transaction and the values."""

    fault: HistoryFault
    text: str


@dataclass(slots=True)
class ReplayedStake:
    """One stake as its transactions make it: Roe left, slashes settled, bonds lost, Roe withdrawn; and whether it was
    asked back.

    `points` has after each change, by slot, what a roster may count and the slashes settled: of each period the last
    one is a checkpoint of the stake's account.
    """

    amount: int = 0
    slash_total: int = 0
    bonds_lost: int = 0
    withdrawn: int = 0
    unstaking: bool = False
    points: dict[int, tuple[int, int]] = field(default_factory=dict)

    def note(self, slot: int) -> None:
        """Remember it after a change."""
        self.points[slot] = (0 if self.unstaking else self.amount, self.slash_total)

    def take(self, leaf: Leaf, slot: int) -> None:
        """Take what the leaf slashes beyond the last time."""
        due = leaf.slash_total - self.slash_total
        if due > 0:
            self.amount -= min(self.amount, due)
            self.slash_total = leaf.slash_total
            self.note(slot)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a task account must hold after a list of transactions. `last_list` is the newest that stands.

    `staked` is what was ever paid into stakes, `stakes` what is left of it by staker, `withdrawn` what was paid
    back and `bonds` what was lost by those who anchored rejected attempts: all in Roe.
    """

    head: bytes
    anchors: int
    rounds: dict[int, AnchoredRound]
    last_list: AnchoredList | None
    funded: int
    staked: int
    stakes: dict[bytes, ReplayedStake]
    withdrawn: int
    bonds: int

    @property
    def total_stake(self) -> int:
        """What all stakes hold together."""
        return sum(stake.amount for stake in self.stakes.values())


async def read_history(
    rpc: RpcClient, task: bytes, *, limit: int, program_id: bytes = PROGRAM_ID
) -> tuple[ChainEntry, ...]:
    """Read the newest `limit` transactions that name the task; the program's instructions, oldest first."""
    lines = (await rpc.get_address_history(task, limit=limit))[::-1]
    records: dict[str, Fetched] = {}
    await fetch_transactions(rpc, lines, lambda line, record: records.update({line.signature: record}))
    return tuple(
        entry for line in lines for entry in read_entries(line, records[line.signature], task, program_id)
    )


async def fetch_transactions(
    rpc: RpcClient, lines: Iterable[SignatureInfo], take: Callable[[SignatureInfo, Fetched], None]
) -> None:
    """Hand over each listed transaction as it comes, in any order. The first `ChainError`, also of `take`, ends it."""
    failures: list[ChainError] = []
    waiting = iter(lines)

    async def fetch_next(scope: trio.CancelScope) -> None:
        try:
            for line in waiting:
                take(line, await _fetch(rpc, line.signature))
        except ChainError as error:
            failures.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(PARALLEL_READS):
            nursery.start_soon(fetch_next, nursery.cancel_scope)
    if failures:
        raise failures[0]


async def _fetch(rpc: RpcClient, signature: str) -> Fetched:
    try:
        return await rpc.get_transaction(signature)
    except RpcError as error:
        if error.code == VERSION_NOT_SUPPORTED:
            return LaterVersion.LATER_VERSION
        raise


def read_entries(
    line: SignatureInfo, record: Fetched, task: bytes, program_id: bytes = PROGRAM_ID
) -> tuple[ChainEntry, ...]:
    """The program's instructions for `task` in one transaction; one with a fault if it cannot be trusted."""

    def faulty(why: str, fee: int | None = None) -> tuple[ChainEntry, ...]:
        return (ChainEntry(line.slot, line.signature, line.err, None, None, fee, why),)

    if record is LaterVersion.LATER_VERSION:
        return (ChainEntry(line.slot, line.signature, line.err, None, None, later_version=True),)
    if record is None:
        return faulty("the node lists the transaction but does not have it")
    if record.slot != line.slot:
        return faulty(f"the list says slot {line.slot}, the transaction slot {record.slot}", record.fee)
    if (record.err is None) != (line.err is None):
        return faulty("the list and the transaction disagree about whether it succeeded", record.fee)
    try:
        transaction = VersionedTransaction.from_bytes(record.wire)
    except ValueError as error:
        return faulty(f"its bytes are not a transaction: {error}", record.fee)
    if not is_genuine(transaction, record.wire, line.signature):
        return faulty("a signature does not verify: its bytes were changed", record.fee)
    return tuple(_instructions(line, record, transaction, task, program_id))


def is_genuine(transaction: VersionedTransaction, wire: bytes, name: str) -> bool:
    """Whether `wire` is this transaction, whole and alone, with all its signatures valid and `name` the first."""
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
    signed = [bytes(key) for key in message.account_keys]
    # An address from a lookup table is not in what was signed. The node's word for it is enough: if it makes this
    # task's what is another's, or the reverse, the rest does not give the account.
    keys = [*signed, *record.loaded]
    for compiled in message.instructions:
        place = compiled.program_id_index
        if place >= len(signed) or signed[place] != program_id:
            continue  # a program is never looked up in a table
        # A node that does not say what was looked up cannot hide an instruction with it: it counts as this task's.
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
        case Stake() | RequestUnstake() | AnchorCommitment() | AnchorList() | Veto():
            return instruction.staker
        case SetActive() | UpdateTask() | Close():
            return instruction.creator
    return fee_payer


def replay(entries: Iterable[ChainEntry]) -> Replay:
    """Apply the instructions that succeeded, oldest first."""
    books = _Books()
    for entry in entries:
        if entry.err is None and entry.instruction is not None:
            books.apply(entry.instruction, entry.slot)
    standing = [one for one in books.rounds.values() if one.list_root is not None and not one.rejected]
    newest = max(standing, key=lambda one: one.round, default=None)
    last_list = None
    if newest is not None and newest.list_root is not None:
        totals = (newest.reward_total, newest.slash_total)
        last_list = AnchoredList(newest.round, newest.attempt, newest.list_root, *totals, newest.list_slot)
    return Replay(
        books.head,
        books.anchors,
        books.rounds,
        last_list,
        books.funded,
        books.staked,
        books.stakes,
        books.withdrawn,
        books.bonds,
    )


@dataclass(slots=True)
class _Books:
    """The program's accounts as its instructions make them, as far as the anchors and vetoes need it."""

    head: bytes = EMPTY_HEAD
    anchors: int = 0
    rounds: dict[int, AnchoredRound] = field(default_factory=dict)
    funded: int = 0
    staked: int = 0
    stakes: dict[bytes, ReplayedStake] = field(default_factory=dict)
    withdrawn: int = 0
    bonds: int = 0
    bond: int = 0

    def apply(self, instruction: ProgramInstruction, slot: int) -> None:
        match instruction:
            case CreateTask(terms=terms):
                self.bond = bond(terms.minimum_stake)
            case Fund(amount=amount):
                self.funded += amount
            case Stake(staker=staker, amount=amount):
                self.staked += amount
                stake = self._stake(staker)
                stake.amount += amount
                stake.unstaking = False
                stake.note(slot)
            case RequestUnstake(staker=staker):
                stake = self._stake(staker)
                stake.unstaking = True
                stake.note(slot)
            case Settle(leaf=leaf):
                self._stake(leaf.staker).take(leaf, slot)
            case Withdraw(staker=staker, leaf=shown):
                stake = self._stake(staker)
                if shown is not None:
                    stake.take(shown, slot)
                self.withdrawn += stake.amount
                stake.withdrawn += stake.amount
                stake.amount, stake.unstaking = 0, False
                stake.note(slot)
            case AnchorCommitment():
                self._append(instruction, slot, instruction.digest)
                self.rounds[instruction.round] = self._committed(instruction, slot)
            case AnchorList():
                self._append(instruction, slot, instruction.root)
                self.rounds[instruction.round] = self._listed(instruction, slot)
            case Veto():
                self._veto(instruction, slot)

    def _stake(self, staker: bytes) -> ReplayedStake:
        return self.stakes.setdefault(staker, ReplayedStake())

    def _append(self, anchor: Anchor, slot: int, digest: bytes) -> None:
        self.head = next_head(self.head, anchor, slot, digest)
        self.anchors += 1

    def _committed(self, anchor: AnchorCommitment, slot: int) -> AnchoredRound:
        rejected = self.rounds.get(anchor.round) if anchor.attempt else None
        barred = () if rejected is None else rejected.anchorers
        return AnchoredRound(anchor.round, anchor.attempt, anchor.digest, slot, anchor.staker, barred=barred)

    def _listed(self, anchor: AnchorList, slot: int) -> AnchoredRound:
        # The program takes no list without a commitment. If that one is missing, the head will not fit, and says so.
        committed = self.rounds.get(anchor.round, AnchoredRound(anchor.round, anchor.attempt, b"", 0, b""))
        return replace(
            committed,
            attempt=anchor.attempt,
            list_root=anchor.root,
            reward_total=anchor.reward_total,
            slash_total=anchor.slash_total,
            list_slot=slot,
            list_by=anchor.staker,
        )

    def _veto(self, veto: Veto, slot: int) -> None:
        anchored = self.rounds.get(veto.round)
        if anchored is None:
            return  # as above: something is missing
        against = anchored.veto_stake + self._stake(veto.staker).amount
        rejected = 2 * against > sum(stake.amount for stake in self.stakes.values())
        self.rounds[veto.round] = replace(anchored, veto_stake=against, rejected=rejected)
        if rejected:
            self._append(veto, slot, anchored.list_root or NOBODY)
            # Who anchored both the commitment and the list loses two bonds.
            for key in (anchored.commitment_by, anchored.list_by):
                if key is not None:
                    self._take_bond(self._stake(key), slot)

    def _take_bond(self, stake: ReplayedStake, slot: int) -> None:
        lost = min(self.bond, stake.amount)
        stake.amount -= lost
        stake.bonds_lost += lost
        self.bonds += lost
        stake.note(slot)


def next_head(head: bytes, anchor: Anchor, slot: int, digest: bytes) -> bytes:
    """The head after an anchor: SHA-256(head || record), the record as `ANCHOR_RECORD_LAYOUT` says.

    `digest` is that of the commitment, or the root of the anchored or rejected list (32 zero bytes if a
    round was rejected for having none).
    """
    totals = (anchor.reward_total, anchor.slash_total) if isinstance(anchor, AnchorList) else (0, 0)
    values: dict[str, int | bytes] = {
        "tag": _TAGS[type(anchor)],
        "attempt": anchor.attempt,
        "round": anchor.round,
        "slot": slot,
        "by": anchor.staker,
        "digest": digest,
        "reward_total": totals[0],
        "slash_total": totals[1],
    }
    return hashlib.sha256(head + ANCHOR_RECORD_LAYOUT.pack(values)).digest()


_TAGS: Final[dict[type, Tag]] = {
    AnchorCommitment: Tag.ANCHOR_COMMITMENT,
    AnchorList: Tag.ANCHOR_LIST,
    Veto: Tag.VETO,
}


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
    if replayed.last_list != state.last_list:
        text = (
            f"The newest list that stands is {_list_shown(replayed.last_list)} according to the transactions, "
            f"{_list_shown(state.last_list)} according to the account."
        )
        findings.append(HistoryFinding(HistoryFault.CHANGED_RECORD, text))
    if replayed.anchors != state.anchors:
        text = f"The account counts {state.anchors} anchors; its transactions hold {replayed.anchors}."
        findings.append(HistoryFinding(HistoryFault.ANCHORS_MISSING, text))
    if replayed.head != state.head:
        text = f"The anchors hash to {replayed.head.hex()}; the account's head is {state.head.hex()}."
        findings.append(HistoryFinding(HistoryFault.HEAD_DIFFERS, text))
    if replayed.funded != state.funded:
        text = f"The transactions fund {replayed.funded} Roe; the account says {state.funded}."
        findings.append(HistoryFinding(HistoryFault.TOTALS_DIFFER, text))
    if replayed.total_stake != state.total_stake:
        text = (
            f"The transactions stake {replayed.staked} Roe, of which {replayed.total_stake} are left; "
            f"the account says {state.total_stake} are staked."
        )
        findings.append(HistoryFinding(HistoryFault.TOTALS_DIFFER, text))
    if (replayed.withdrawn, replayed.bonds) != (state.withdrawn, state.bonds):
        text = (
            f"The transactions withdraw {replayed.withdrawn} Roe and take {replayed.bonds} in bonds; "
            f"the account says {state.withdrawn} and {state.bonds}."
        )
        findings.append(HistoryFinding(HistoryFault.TOTALS_DIFFER, text))
    if findings:
        findings += [
            HistoryFinding(
                HistoryFault.UNREADABLE,
                f"Transaction {entry.signature} in slot {entry.slot} is of a version that this software does not "
                "know, and may hold what is missing.",
            )
            for entry in entries
            if entry.later_version and entry.err is None
        ]
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


def _shown(value: tuple[bytes, ...] | bytes | int | None) -> str:
    match value:
        case bytes():
            return value.hex() or "nothing"
        case tuple():
            return ", ".join(one.hex() for one in value) or "nothing"
    return "nothing" if value is None else str(value)


def _list_shown(listed: AnchoredList | None) -> str:
    if listed is None:
        return "none"
    name = f"that of round {listed.round}, attempt {listed.attempt}, in slot {listed.slot}"
    return f"{name} with root {listed.root.hex()}, rewards {listed.reward_total}, slashes {listed.slash_total} Roe"
