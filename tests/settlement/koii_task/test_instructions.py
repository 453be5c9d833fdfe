"""The encodings, against the tables and wire sizes that were read out of Koii's public clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from solders.instruction import Instruction

from koii_p2p.settlement.koii_task.instructions import (
    CLOCK,
    EncodingError,
    KoiiInstructions,
    NewTask,
    TokenAccounts,
    pieces_of,
)
from koii_p2p.settlement.koii_task.readings import KPL, NATIVE, Readings, UploadForm
from koii_p2p.settlement.sending import signed

from ..virtual_chain import address, keypair

PAYER, SUBMITTER, DATA, TASK_KEY = (keypair(name) for name in ("payer", "submitter", "data", "task"))
TASK, POT, OTHER = b"t" * 32, b"p" * 32, b"o" * 32
ME = address(SUBMITTER)
TOKENS = TokenAccounts(b"a" * 32, b"m" * 32, b"u" * 32, b"s" * 32)
NEW = NewTask("name", "text", "cid", "IPFS", 10**10, 10**9, 1200, 400, 400, 5 * 10**9, "meta", "vars", 3)

RAW = replace(NATIVE, upload=UploadForm.RAW_512)
PLAIN = replace(NATIVE, stake_names_address=False)


def encoder(readings: Readings) -> KoiiInstructions:
    return KoiiInstructions(readings, readings.program)


Make = Callable[[KoiiInstructions], Instruction]
MAKE: dict[str, Make] = {
    "create": lambda one: one.create_task(address(PAYER), address(TASK_KEY), POT, NEW, TOKENS),
    "submit": lambda one: one.submit_task(TASK, ME, 7, b"value"),
    "audit": lambda one: one.audit_submission(TASK, ME, OTHER, 7, valid=True),
    "audit list": lambda one: one.audit_distribution(TASK, ME, OTHER, 7, valid=False),
    "payout": lambda one: one.payout(TASK, OTHER, 7),
    "active": lambda one: one.set_active(TASK, ME, active=True),
    "claim": lambda one: one.claim_reward(TASK, ME, POT, OTHER, TOKENS),
    "claim to the payer": lambda one: one.claim_reward(TASK, ME, POT, address(PAYER), TOKENS),
    "fund": lambda one: one.fund_task(TASK, ME, POT, 5, TOKENS),
    "stake": lambda one: one.stake(TASK, ME, POT, 5, "http://a", TOKENS),
    "withdraw": lambda one: one.withdraw(TASK, ME),
    "upload": lambda one: one.upload_list(TASK, ME, 7, 2, b"{}"),
    "submit list": lambda one: one.submit_list(TASK, ME, ME, 7),
}

# Data bytes, tag, and the accounts' flags (w writable, s signer), account by account.
TABLE: list[tuple[str, Readings, int, int, str]] = [
    ("create", NATIVE, 401, 0, "sw sw w -"),
    ("create", KPL, 433, 0, "sw w sw sw w - - - - -"),
    ("submit", NATIVE, 521, 1, "w sw -"),
    ("submit", KPL, 521, 1, "w sw -"),
    ("audit", NATIVE, 17, 2, "w sw w -"),
    ("audit", replace(NATIVE, audit_writes_candidate=False), 17, 2, "w sw - -"),
    ("audit", KPL, 10, 2, "w sw w -"),
    ("audit list", NATIVE, 17, 3, "w sw w -"),
    ("audit list", KPL, 10, 3, "w sw w -"),
    ("payout", NATIVE, 9, 4, "w - w"),
    ("payout", KPL, 9, 4, "w - w"),
    ("active", NATIVE, 9, 6, "w s -"),
    ("active", KPL, 2, 6, "w sw -"),
    ("claim", NATIVE, 1, 7, "w sw w w"),
    ("claim", KPL, 1, 7, "w sw w w - -"),
    ("fund", NATIVE, 9, 8, "w sw w - -"),
    ("fund", KPL, 9, 8, "w sw w w -"),
    ("stake", NATIVE, 73, 9, "w sw w -"),
    ("stake", PLAIN, 9, 9, "w sw w -"),
    ("stake", KPL, 73, 9, "w sw w w -"),
    ("withdraw", NATIVE, 1, 10, "w sw -"),
    ("upload", NATIVE, 521, 11, "w sw"),
    ("upload", replace(NATIVE, upload_writes_task=False), 521, 11, "- sw"),
    ("upload", RAW, 513, 11, "w sw"),
    ("upload", KPL, 521, 11, "w sw"),
    ("submit list", NATIVE, 9, 12, "w sw sw -"),
]


@pytest.mark.parametrize(("name", "readings", "size", "tag", "flags"), TABLE)
def test_the_table(name: str, readings: Readings, size: int, tag: int, flags: str) -> None:
    made = MAKE[name](encoder(readings))
    assert (len(bytes(made.data)), bytes(made.data)[0]) == (size, tag)
    found = ["s" * one.is_signer + "w" * one.is_writable or "-" for one in made.accounts]
    assert found == flags.split()
    assert bytes(made.program_id) == readings.program


# Whole transactions, the main wallet paying: bytes, signatures. The first column of figures is older than this code.
WIRE: list[tuple[str, Readings, int, int]] = [
    ("submit", NATIVE, 854, 2),
    ("audit", NATIVE, 382, 2),
    ("audit", KPL, 375, 2),
    ("audit list", NATIVE, 382, 2),
    ("upload", RAW, 813, 2),
    ("upload", NATIVE, 821, 2),
    ("submit list", NATIVE, 342, 2),
    ("payout", NATIVE, 277, 1),
    ("claim to the payer", NATIVE, 334, 2),
    ("claim", NATIVE, 366, 2),
    ("withdraw", NATIVE, 333, 2),
]


@pytest.mark.parametrize(("name", "readings", "size", "signatures"), WIRE)
def test_wire_sizes(name: str, readings: Readings, size: int, signatures: int) -> None:
    wire = signed([MAKE[name](encoder(readings))], PAYER, [SUBMITTER] if signatures == 2 else [], bytes(32))
    assert (len(wire), wire[0]) == (size, signatures)


def test_a_separate_data_account_signs_too() -> None:
    made = encoder(NATIVE).submit_list(TASK, ME, address(DATA), 7)
    wire = signed([made], PAYER, [SUBMITTER, DATA], bytes(32))
    assert wire[0] == 3
    assert len(wire) in range(438, 441)


def test_numbers_and_texts_are_where_the_layout_says() -> None:
    one = encoder(NATIVE)
    submit = bytes(one.submit_task(TASK, ME, 7, b"value").data)
    assert submit == b"\1" + b"value".ljust(512) + (7).to_bytes(8, "little")
    assert bytes(one.audit_submission(TASK, ME, OTHER, 7, valid=True).data) == b"\2" + b"\1" + bytes(
        7
    ) + b"\7" + bytes(7)
    assert bytes(encoder(KPL).audit_submission(TASK, ME, OTHER, 7, valid=True).data) == b"\2\1\7" + bytes(7)
    create = bytes(MAKE["create"](one).data)
    assert create[1:25] == b"name".ljust(24)
    assert create[217:225] == (10**10).to_bytes(8, "little")
    assert create[265:329] == b"meta".ljust(64)
    assert create[393:] == (3).to_bytes(8, "little")
    upload = bytes(one.upload_list(TASK, ME, 7, 258, b"{}").data)
    assert upload[:7] == b"\x0b\2\1\xfc\1{}"
    assert upload[-8:] == (7).to_bytes(8, "little")
    assert bytes(encoder(RAW).upload_list(TASK, ME, 7, 258, b"{}").data) == b"\x0b" + b"{}".ljust(512, b"\0")
    assert [bytes(meta.pubkey) for meta in one.submit_task(TASK, ME, 7, b"v").accounts] == [TASK, ME, CLOCK]


BAD: dict[str, Make] = {
    "long submission": lambda one: one.submit_task(TASK, ME, 7, b"v" * 513),
    "trailing space": lambda one: one.submit_task(TASK, ME, 7, b"v "),
    "negative round": lambda one: one.submit_task(TASK, ME, -1, b"v"),
    "huge round": lambda one: one.payout(TASK, OTHER, 2**63),
    "no round": lambda one: one.payout(TASK, OTHER, True),
    "long piece": lambda one: one.upload_list(TASK, ME, 7, 0, b"x" * 509),
    "empty piece": lambda one: one.upload_list(TASK, ME, 7, 0, b""),
    "piece number": lambda one: one.upload_list(TASK, ME, 7, 2**16, b"x"),
    "long name": lambda one: one.create_task(ME, ME, POT, replace(NEW, task_name="n" * 25)),
    "long address": lambda one: one.stake(TASK, ME, POT, 5, "a" * 65),
    "short key": lambda one: one.withdraw(b"t", ME),
}


@pytest.mark.parametrize("make", BAD.values(), ids=list(BAD))
def test_what_cannot_be_carried_is_refused(make: Make) -> None:
    with pytest.raises(EncodingError):
        make(encoder(NATIVE))


@pytest.mark.parametrize("name", ["create", "claim", "fund", "stake"])
def test_kpl_needs_token_accounts(name: str) -> None:
    one = encoder(KPL)
    calls: dict[str, Callable[[], Instruction]] = {
        "create": lambda: one.create_task(ME, ME, POT, NEW),
        "claim": lambda: one.claim_reward(TASK, ME, POT, OTHER),
        "fund": lambda: one.fund_task(TASK, ME, POT, 5),
        "stake": lambda: one.stake(TASK, ME, POT, 5),
    }
    with pytest.raises(EncodingError, match="token accounts"):
        calls[name]()


def test_pieces_of_a_list() -> None:
    assert [len(one) for one in pieces_of(b"x" * 1017, UploadForm.NUMBERED_508)] == [508, 508, 1]
    assert [len(one) for one in pieces_of(b"x" * 1024, UploadForm.RAW_512)] == [512, 512]
    with pytest.raises(EncodingError):
        pieces_of(b"x" * (508 * 65536 + 1), UploadForm.NUMBERED_508)
