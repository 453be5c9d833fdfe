"""The 98-byte record: one text for each, nothing else accepted, and what a transaction says by whom."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction, VersionedTransaction

from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.memo.records import (
    MARK,
    MEMO_PROGRAM,
    RECORD,
    TEXT_BYTES,
    MemoRecord,
    RecordError,
    instructions,
    may_hold_record,
    records_in,
)

from ..virtual_chain import address, keypair
from .memo_world import TASK, commitment, listing

AUTHOR, PAYER = keypair("author"), keypair("payer")
LINK = b"k" * 16

u64 = st.integers(0, 2**64 - 1)
records = st.builds(
    MemoRecord,
    st.just(Tag.ANCHOR_LIST),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=24, max_size=24),
    u64,
    u64,
)


@given(records)
def test_a_record_is_98_bytes_and_comes_back(record: MemoRecord) -> None:
    text = record.encode()
    assert len(base64.b64decode(text)) == RECORD.size == 98
    assert len(text) == TEXT_BYTES == 132
    assert text.decode().startswith(MARK)
    assert MemoRecord.decode(text) == record


@given(records, st.integers(0, 131), st.binary(min_size=1, max_size=1))
def test_any_other_text_is_another_record_or_none(record: MemoRecord, place: int, byte: bytes) -> None:
    text = record.encode()
    changed = text[:place] + byte + text[place + 1 :]
    try:
        found = MemoRecord.decode(changed)
    except RecordError:
        return
    assert (found == record) == (changed == text)


@pytest.mark.parametrize(
    "change",
    [{"round": 2**32}, {"attempt": 256}, {"digest": b"short"}, {"link": b""}, {"task": b"t" * 32}],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        replace(commitment(1, LINK), **change).encode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [b"", b"SzJB" * 33, b"SzJB" * 32 + b"SzI=", b"\xff" * 132, b"=" * 132], ids=str
)
def test_what_looks_like_a_record_is_refused_in_order(text: bytes) -> None:
    with pytest.raises(RecordError):
        MemoRecord.decode(text)


def test_only_a_list_has_totals() -> None:
    with pytest.raises(RecordError, match="totals"):
        replace(commitment(1, LINK), reward_total=1).encode()
    assert MemoRecord.decode(listing(1, LINK, 5, 6).encode()).slash_total == 6


def _signed(*built: Instruction, keys: tuple[Keypair, ...] = (PAYER, AUTHOR)) -> VersionedTransaction:
    message = Message(list(built), keys[0].pubkey())
    blank = Transaction.new_unsigned(message)
    blank.partial_sign(list(keys), message.recent_blockhash)
    return VersionedTransaction.from_bytes(bytes(blank))


def test_author_and_record_are_found() -> None:
    record = commitment(3, LINK)
    transaction = _signed(*instructions(record, address(AUTHOR), address(PAYER), TASK))
    assert records_in(transaction, TASK) == ((address(AUTHOR), record),)


def test_a_record_of_another_task_is_not_ours() -> None:
    other = replace(commitment(3, LINK), task=b"o" * 24)
    assert records_in(_signed(*instructions(other, address(AUTHOR), address(PAYER), TASK)), TASK) == ()


def test_without_the_reference_nobody_else_would_find_it() -> None:
    memo, _ = instructions(commitment(3, LINK), address(AUTHOR), address(PAYER), TASK)
    assert records_in(_signed(memo), TASK) == ()


def test_the_author_must_have_signed() -> None:
    memo, reference = instructions(commitment(3, LINK), address(AUTHOR), address(PAYER), TASK)
    unsigned = Instruction(
        Pubkey(MEMO_PROGRAM),
        bytes(memo.data),
        [AccountMeta(AUTHOR.pubkey(), is_signer=False, is_writable=False)],
    )
    assert records_in(_signed(unsigned, reference, keys=(PAYER,)), TASK) == ()


def test_a_memo_of_nobody_is_nobodys() -> None:
    memo, reference = instructions(commitment(3, LINK), address(AUTHOR), address(PAYER), TASK)
    nobodys = Instruction(Pubkey(MEMO_PROGRAM), bytes(memo.data), [])
    assert records_in(_signed(nobodys, reference, keys=(PAYER,)), TASK) == ()


def test_another_programs_data_is_no_memo() -> None:
    memo, reference = instructions(commitment(3, LINK), address(AUTHOR), address(PAYER), TASK)
    other = Instruction(Pubkey(b"p" * 32), bytes(memo.data), memo.accounts)
    assert records_in(_signed(other, reference), TASK) == ()


def test_several_records_of_one_transaction_keep_their_order() -> None:
    first, second = commitment(3, LINK), listing(3, LINK, 1)
    memo, reference = instructions(first, address(AUTHOR), address(PAYER), TASK)
    another, _ = instructions(second, address(PAYER), address(PAYER), TASK)
    transaction = _signed(another, memo, reference)
    assert records_in(transaction, TASK) == ((address(PAYER), second), (address(AUTHOR), first))


def test_history_lines_without_a_record_are_not_fetched() -> None:
    text = commitment(1, LINK).encode().decode()
    assert may_hold_record(f"[132] {text}")
    assert may_hold_record(f"[4] spam; [132] {text}")
    assert may_hold_record(None), "a node that tells no memos must not make the chain look empty"
    assert not may_hold_record("[9] spam spam")
