"""The record that a memo holds, and the transaction around it.

98 bytes, little-endian, written as 132 characters of base64 because a memo is UTF-8:
"K2A1" | kind u8 | attempt u8 | round u32 | digest 32 | link 16 | reward_total u64 | slash_total u64 | task 24.

`kind` is the tag of the settlement program's instruction of the same meaning. `link` of a commitment or list is the
first half of the chain's head before it; of a veto the first half of the vetoed round's commitment. `task` are the
first bytes of the task's address, so that no record can be read as another task's.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import Final

import base58
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.settlement.instructions import Tag

MEMO_PROGRAM: Final = bytes(base58.b58decode("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"))
MAGIC: Final = b"K2A1"
LINK_BYTES: Final = 16
TASK_BYTES: Final = 24
NO_LINK: Final = bytes(LINK_BYTES)
KINDS: Final = frozenset({Tag.CREATE_TASK, Tag.ANCHOR_COMMITMENT, Tag.ANCHOR_LIST, Tag.VETO})
RECORD: Final = struct.Struct(f"<4sBBI32s{LINK_BYTES}sQQ{TASK_BYTES}s")
TEXT_BYTES: Final = 4 * -(-RECORD.size // 3)
MARK: Final = base64.b64encode(MAGIC)[:5].decode()
"""What the text of every record begins with: five characters are the first 30 of the magic's 32 bits."""
MAX_ROUND: Final = (1 << 32) - 1


class RecordError(ValueError):
    """Bytes that are no record, or values that a record cannot hold."""


@dataclass(frozen=True, slots=True)
class MemoRecord:
    """One statement about a task. Amounts in Roe, 0 unless it is a list; `task` is a prefix of the address."""

    kind: Tag
    round: int
    attempt: int
    digest: bytes
    link: bytes
    task: bytes
    reward_total: int = 0
    slash_total: int = 0

    def encode(self) -> bytes:
        """The memo: 132 characters of base64. Raises RecordError."""
        try:
            packed = RECORD.pack(
                MAGIC,
                self.kind,
                self.attempt,
                self.round,
                self.digest,
                self.link,
                self.reward_total,
                self.slash_total,
                self.task,
            )
        except struct.error as error:
            raise RecordError(f"a value does not fit into its place: {error}") from error
        text = base64.b64encode(packed)
        if MemoRecord.decode(text) != self:
            raise RecordError("a key or digest does not have its length")
        return text

    @classmethod
    def decode(cls, text: bytes) -> MemoRecord:
        """Inverse of `encode`; every record has one text only. Raises RecordError."""
        if len(text) != TEXT_BYTES:
            raise RecordError(f"a record has {TEXT_BYTES} characters, not {len(text)}")
        try:
            packed = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise RecordError("it is not base64") from error
        if len(packed) != RECORD.size or base64.b64encode(packed) != text:
            raise RecordError("its last characters are not those of 98 bytes")
        magic, kind, attempt, round, digest, link, rewards, slashes, task = RECORD.unpack(packed)
        if magic != MAGIC or kind not in KINDS:
            raise RecordError("it does not begin like a record")
        if kind != Tag.ANCHOR_LIST and (rewards or slashes):
            raise RecordError("only a list has totals")
        return cls(Tag(kind), round, attempt, digest, link, task, rewards, slashes)


def instructions(
    record: MemoRecord, author: bytes, payer: bytes, task: bytes
) -> tuple[Instruction, Instruction]:
    """The memo, signed by `author`, and the reference by which it is found.

    The memo program takes no accounts but signers, so the task's address stands in a transfer of nothing from the
    payer to itself: a system instruction ignores accounts beyond its own.
    """
    memo = Instruction(
        Pubkey(MEMO_PROGRAM),
        record.encode(),
        [AccountMeta(Pubkey(author), is_signer=True, is_writable=False)],
    )
    wallet = Pubkey(payer)
    nothing = transfer(TransferParams(from_pubkey=wallet, to_pubkey=wallet, lamports=0))
    reference = AccountMeta(Pubkey(task), is_signer=False, is_writable=False)
    return memo, Instruction(nothing.program_id, bytes(nothing.data), [*nothing.accounts, reference])


def records_in(transaction: VersionedTransaction, task: bytes) -> tuple[tuple[bytes, MemoRecord], ...]:
    """Author and record of each of the task's memos, in order; none if the transaction does not name the task.

    The author is the first account of the memo instruction and must have signed. Keys from lookup tables are not
    in the transaction: they neither sign nor count as the reference.
    """
    message = transaction.message
    keys = [bytes(key) for key in message.account_keys]
    if task not in keys:
        return ()
    found = []
    for compiled in message.instructions:
        place, accounts = compiled.program_id_index, list(compiled.accounts)
        if place >= len(keys) or keys[place] != MEMO_PROGRAM or not accounts:
            continue
        if accounts[0] >= message.header.num_required_signatures:
            continue
        try:
            record = MemoRecord.decode(bytes(compiled.data))
        except RecordError:
            continue
        if record.task == task[:TASK_BYTES]:
            found.append((keys[accounts[0]], record))
    return tuple(found)


def may_hold_record(memo: str | None) -> bool:
    """Whether a transaction with this line in an address's history is worth fetching.

    Nodes that do not list memos give None for all of them.
    """
    return memo is None or MARK in memo
