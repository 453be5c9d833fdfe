from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from solders.compute_budget import set_compute_unit_price
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import BLOCKHASH_SLOTS, Ledger, SlotFull
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.localk2.transactions import MalformedTransaction, decode
from tests.localk2.chain import KOII, funded, memo_wire, open_ledger, transfer_wire


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def balance(ledger: Ledger, key: Pubkey, commitment: str = "processed") -> int:
    account = ledger.account(key, commitment)  # type: ignore[arg-type]
    return 0 if account is None else account.lamports


def test_a_transfer_moves_lamports_and_pays_the_fee(ledger: Ledger) -> None:
    payer, to = funded(ledger), Keypair().pubkey()
    blockhash, _ = ledger.latest_blockhash("confirmed")
    assert ledger.submit(decode(transfer_wire(payer, to, KOII, blockhash))) is None
    assert balance(ledger, to) == KOII
    assert balance(ledger, payer.pubkey()) == 9 * KOII - 5000


def test_a_place_costs_what_the_dearest_account_cost_the_one_who_got_it_cheapest(ledger: Ledger) -> None:
    payers = [funded(ledger) for _ in range(3)]
    blockhash, _ = ledger.latest_blockhash("confirmed")
    ledger.seal()
    for payer, price in zip(payers, (5, 400, 70), strict=True):
        payment = transfer(
            TransferParams(from_pubkey=payer.pubkey(), to_pubkey=payers[0].pubkey(), lamports=1)
        )
        message = Message.new_with_blockhash(
            [payment, set_compute_unit_price(price)], payer.pubkey(), Hash(blockhash)
        )
        assert ledger.submit(decode(bytes(VersionedTransaction(message, [payer])))) is None
    slot = ledger.slot
    ledger.seal()

    def price_for(*keys: Pubkey) -> int:
        return dict(ledger.least_prices(frozenset(keys), slot))[slot]

    first, second, third = (payer.pubkey() for payer in payers)
    assert price_for() == price_for(Keypair().pubkey()) == price_for(first) == 5
    assert price_for(second) == price_for(second, third) == 400
    assert price_for(first, third) == 70


def test_a_duplicate_is_refused_in_its_slot_and_for_as_long_as_its_blockhash_lives(ledger: Ledger) -> None:
    payer, to = funded(ledger), Keypair().pubkey()
    blockhash, last_valid = ledger.latest_blockhash("confirmed")
    wire = transfer_wire(payer, to, KOII, blockhash)
    assert ledger.submit(decode(wire)) is None
    assert ledger.submit(decode(wire)) == "AlreadyProcessed"
    while ledger.slot < last_valid:
        ledger.seal()
    assert ledger.submit(decode(wire)) == "AlreadyProcessed"
    assert balance(ledger, to) == KOII


def test_a_blockhash_is_accepted_in_150_slots_and_not_in_the_151st(ledger: Ledger) -> None:
    payer = funded(ledger)
    blockhash, last_valid = ledger.latest_blockhash("confirmed")
    first = ledger.slot
    while ledger.slot < last_valid:
        ledger.seal()
    assert ledger.slot - first == BLOCKHASH_SLOTS - 1
    assert ledger.submit(decode(memo_wire(payer, b"in time", blockhash))) is None
    ledger.seal()
    assert ledger.submit(decode(memo_wire(payer, b"too late", blockhash))) == "BlockhashNotFound"


def test_a_failing_transaction_is_recorded_and_pays_while_one_that_cannot_pay_leaves_no_trace(
    ledger: Ledger,
) -> None:
    payer, poor = funded(ledger), Keypair()
    blockhash, _ = ledger.latest_blockhash("confirmed")
    failing = decode(transfer_wire(payer, Keypair().pubkey(), 10**15, blockhash))
    assert ledger.submit(failing) == {"InstructionError": [0, {"Custom": 1}]}
    status = ledger.status(failing.signature)
    assert status is not None
    assert status.err == {"InstructionError": [0, {"Custom": 1}]}
    assert balance(ledger, payer.pubkey()) == 10 * KOII - 5000
    unpaid = decode(memo_wire(poor, b"x", blockhash))
    assert ledger.submit(unpaid) == "AccountNotFound"
    assert ledger.status(unpaid.signature) is None


def test_commitment_levels_follow_the_seals(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, finality=3)
    for _ in range(4):
        ledger.seal()
    key = funded(ledger, KOII).pubkey()
    slot = ledger.slot
    levels = []
    for _ in range(5):
        at = [balance(ledger, key, level) for level in ("processed", "confirmed", "finalized")]
        levels.append((ledger.commitment_of(slot), *(value // KOII for value in at)))
        ledger.seal()
    assert levels == [
        ("processed", 1, 0, 0),
        ("confirmed", 1, 1, 0),
        ("confirmed", 1, 1, 0),
        ("confirmed", 1, 1, 0),
        ("finalized", 1, 1, 1),
    ]
    assert ledger.statistics().recent_changes <= 4
    ledger.close()


def test_program_accounts_are_read_at_their_commitment(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, finality=2)
    ledger.seal()
    key = funded(ledger).pubkey()
    now = {one for one, _ in ledger.program_accounts(SYSTEM_PROGRAM, "processed")}
    before = {one for one, _ in ledger.program_accounts(SYSTEM_PROGRAM, "confirmed")}
    assert now - before == {key}
    ledger.close()


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\x01\x02",
        bytes(300),
        bytes(1233),
        memo_wire(Keypair(), b"x" * 1200, bytes(32)),
        memo_wire(Keypair(), b"x", bytes(32)) + b"\x00",
    ],
    ids=["empty", "garbage", "no signature", "zeros beyond a packet", "beyond a packet", "trailing byte"],
)
def test_bytes_that_are_not_one_transaction_are_refused(wire: bytes) -> None:
    with pytest.raises(MalformedTransaction):
        decode(wire)


def test_reopening_gives_the_same_chain_and_still_refuses_duplicates(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    payer, to = funded(first), Keypair().pubkey()
    blockhash, _ = first.latest_blockhash("confirmed")
    wire = transfer_wire(payer, to, KOII, blockhash)
    assert first.submit(decode(wire)) is None
    first.seal()
    facts = (first.genesis, bytes(first.faucet), first.slot, first.statistics().transactions)
    first.store.close()  # as after kill -9: what was sealed is on disk, nothing else is done

    second = open_ledger(tmp_path)
    assert (second.genesis, bytes(second.faucet), second.slot, second.statistics().transactions) == facts
    assert balance(second, to) == KOII
    assert second.submit(decode(wire)) == "AlreadyProcessed"
    assert second.submit(decode(memo_wire(payer, b"same blockhash", blockhash))) is None
    assert [line.slot for line in second.store.history(bytes(to), 99, 10, before=None, until=None)] == [1]
    second.close()


def test_a_full_slot_takes_no_more_until_it_is_sealed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, Limits(localk2_slot_transactions=2))
    payer = funded(ledger)
    blockhash, _ = ledger.latest_blockhash("confirmed")
    assert ledger.submit(decode(memo_wire(payer, b"1", blockhash))) is None
    third = decode(memo_wire(payer, b"2", blockhash))
    with pytest.raises(SlotFull):
        ledger.submit(third)
    assert ledger.statistics().full_slots == 1
    ledger.seal()
    assert ledger.submit(third) is None
    ledger.close()


def test_old_slots_are_forgotten_with_their_history(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, Limits(localk2_history_slots=20))
    key = funded(ledger).pubkey()
    for _ in range(60):
        ledger.seal()
    assert ledger.store.first_slot() >= ledger.slot - 22
    assert ledger.store.history(bytes(key), ledger.slot, 10, before=None, until=None) == []
    assert balance(ledger, key) == 10 * KOII
    ledger.close()


def test_a_second_ledger_on_the_same_folder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    with pytest.raises(ConfigurationError, match="in use") as caught:
        open_ledger(tmp_path)
    assert "process with id" in caught.value.why
    first.close()
    open_ledger(tmp_path).close()


@pytest.mark.parametrize("damage", ["not a database", "truncated"])
def test_a_damaged_database_is_a_clear_message(tmp_path: Path, damage: str) -> None:
    ledger = open_ledger(tmp_path)
    for _ in range(200):
        funded(ledger)
        ledger.seal()
    ledger.close()
    file = tmp_path / "ledger.sqlite"
    content = file.read_bytes()
    file.write_bytes(b"hello" * 2000 if damage == "not a database" else content[: len(content) // 2])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_ledger(tmp_path)


def test_a_disk_that_fails_stops_the_ledger_with_a_clear_message(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    payer = funded(ledger)
    # SQLite itself reports the full disk: its file may not grow any more.
    pages = ledger.store._database.execute("pragma page_count").fetchone()[0]
    ledger.store._database.execute(f"pragma max_page_count = {pages}")
    blockhash, _ = ledger.latest_blockhash("confirmed")
    for index in range(100):
        assert ledger.submit(decode(memo_wire(payer, bytes([65]) * 400 + b"%d" % index, blockhash))) is None
    with pytest.raises(ChainError, match="cannot write its ledger") as caught:
        ledger.seal()
    assert "full" in caught.value.why
    with pytest.raises(ChainError, match="has stopped"):
        ledger.submit(decode(memo_wire(payer, b"later", blockhash)))
    sealed = ledger.slot
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.slot == sealed
    again.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1},
        {"port": 65535},
        {"slot_ms": 0},
        {"finality": -1},
        {"port": 80, "ws_port": 70000},
        {"rpc_nodes": 0},
        {"port": 65530, "rpc_nodes": 9},
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LocalK2Settings(tmp_path, **wrong)
