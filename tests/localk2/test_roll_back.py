"""Rolling back slots that are not finalized: state, history, statuses, blockhashes, heights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.faults import Faults
from koii_p2p.localk2.ledger import BLOCKHASH_SLOTS, Ledger
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.skipped import SkippedSlots
from koii_p2p.localk2.transactions import decode
from tests.localk2.chain import KOII, funded, memo_wire, open_ledger, transfer_wire


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path, finality=8)
    yield opened
    opened.close()


def balance(ledger: Ledger, key: Pubkey) -> int:
    account = ledger.account(key, "processed")
    return 0 if account is None else account.lamports


def kept_of(ledger: Ledger) -> tuple[int, int, int]:
    """How many transactions, older account states and statuses are kept."""
    found = ledger.statistics()
    return found.transactions, found.recent_changes, found.recent_statuses


def pay(ledger: Ledger, payer: Keypair, to: Pubkey, amount: int) -> bytes:
    wire = transfer_wire(payer, to, amount, ledger.latest_blockhash("confirmed")[0])
    assert ledger.submit(decode(wire)) is None
    return wire


def test_state_and_history_become_those_of_before_and_the_numbers_go_on(ledger: Ledger) -> None:
    payer, to = funded(ledger), Keypair().pubkey()
    kept = pay(ledger, payer, to, KOII)
    ledger.seal()
    before = (balance(ledger, to), balance(ledger, payer.pubkey()), kept_of(ledger))
    base, height = ledger.slot_at("confirmed"), ledger.skipped.height(ledger.slot)
    undone = []
    for amount in (2, 3):
        undone.append(pay(ledger, payer, to, amount * KOII))
        ledger.seal()
    undone.append(pay(ledger, payer, Keypair().pubkey(), KOII))
    at = ledger.slot
    finalized = ledger.slot_at("finalized")

    assert ledger.roll_back(2) == undone

    assert (balance(ledger, to), balance(ledger, payer.pubkey()), kept_of(ledger)) == before
    assert (ledger.slot, ledger.slot_at("confirmed"), ledger.slot_at("finalized")) == (at, base, finalized)
    assert ledger.status(decode(kept).signature) is not None
    for wire in undone:
        assert ledger.status(decode(wire).signature) is None
        assert ledger.store.transaction(decode(wire).signature) is None
    lines = ledger.store.history(bytes(to), 10**6, 10, before=None, until=None)
    assert [line.signature for line in lines] == [decode(kept).signature]
    # The next block follows the last that stands; the undone numbers stay without a block.
    sealed = ledger.seal()
    assert (sealed.slot, sealed.parent) == (at, base)
    assert ledger.store.slots_between(base, at, 10) == [base, at]
    assert ledger.skipped.height(at) == height


def test_what_was_undone_may_land_again_unless_its_blockhash_is_gone(ledger: Ledger) -> None:
    payer, to = funded(ledger), Keypair().pubkey()
    ledger.seal()
    ledger.seal()
    early = ledger.latest_blockhash("confirmed")[0]
    ledger.seal()
    late = ledger.latest_blockhash("confirmed")[0]
    survivor, orphan = transfer_wire(payer, to, KOII, early), transfer_wire(payer, to, 2 * KOII, late)
    assert ledger.submit(decode(survivor)) is None
    assert ledger.submit(decode(orphan)) is None
    ledger.seal()
    node = RpcNode(ledger)
    assert node.roll_back(2, 1.0) == (2, 1)
    assert balance(ledger, to) == KOII
    assert ledger.submit(decode(orphan)) == "BlockhashNotFound"
    assert ledger.submit(decode(survivor)) == "AlreadyProcessed"


def test_the_share_that_lands_again_is_drawn_from_the_seed(tmp_path: Path) -> None:
    outcomes = []
    payer, to = Keypair.from_seed(bytes(32)), Pubkey.from_bytes(bytes([7] * 32))
    for run in range(2):
        ledger = open_ledger(tmp_path / str(run), finality=8)
        ledger.airdrop(payer.pubkey(), 20 * KOII)
        ledger.seal()
        ledger.seal()
        for index in range(12):
            pay(ledger, payer, to, KOII + index)
        ledger.seal()
        _, again = RpcNode(ledger, Faults(seed=5)).roll_back(1, 0.5)
        outcomes.append((again, balance(ledger, to)))
        ledger.close()
    assert outcomes[0] == outcomes[1]
    assert 0 < outcomes[0][0] < 12


def test_finalized_slots_and_those_of_before_the_start_stay(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, finality=3)
    for _ in range(10):
        ledger.seal()
    with pytest.raises(ConfigurationError, match="cannot be rolled back") as caught:
        ledger.roll_back(4)
    assert "at most 3" in caught.value.remedy
    assert ledger.roll_back(3) == []
    ledger.close()
    again = open_ledger(tmp_path, finality=3)
    with pytest.raises(ConfigurationError, match="before this start"):
        again.roll_back(1)
    again.close()


def test_a_rolled_back_chain_survives_kill_9_with_its_numbers_heights_and_blockhashes(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    payer = funded(first)
    for _ in range(3):
        first.seal()
    blockhash, last_valid = first.latest_blockhash("confirmed")
    for _ in range(4):
        first.seal()
    first.roll_back(4)
    slot, height = first.slot, first.skipped.height(first.slot)
    assert height == slot - 4
    first.store.close()  # as after kill -9, right after the roll-back

    second = open_ledger(tmp_path)
    assert (second.slot, second.skipped.height(second.slot)) == (slot, height)
    assert second.latest_blockhash("confirmed") == (blockhash, last_valid)
    # A blockhash lives for 150 blocks, not 150 numbers.
    while second.skipped.height(second.slot) < last_valid:
        second.seal()
    assert second.slot - slot == BLOCKHASH_SLOTS - 1
    assert second.submit(decode(memo_wire(payer, b"in time", blockhash))) is None
    second.seal()
    assert second.submit(decode(memo_wire(payer, b"late", blockhash))) == "BlockhashNotFound"
    second.close()


def test_a_reader_at_finalized_sees_nothing_of_a_roll_back(ledger: Ledger) -> None:
    key = funded(ledger, KOII).pubkey()
    for _ in range(9):
        ledger.seal()
    ledger.airdrop(key, KOII)
    ledger.seal()
    before = ledger.account(key, "finalized")
    ledger.roll_back(2)
    assert ledger.account(key, "finalized") == before
    for _ in range(10):
        ledger.seal()
    assert ledger.account(key, "finalized") == ledger.account(key, "processed") == before


def test_skipped_ranges_count_and_merge() -> None:
    skipped = SkippedSlots().with_range(5, 7).with_range(10, 12)
    assert [skipped.height(slot) for slot in (4, 5, 7, 8, 9, 12, 13)] == [4, 4, 4, 5, 6, 6, 7]
    assert [skipped.block_at_or_before(slot) for slot in (4, 6, 8, 11, 13)] == [4, 4, 8, 9, 13]
    assert skipped.with_range(9, 20).ranges == ((5, 7), (9, 20))
    assert skipped.with_range(4, 20).ranges == ((4, 20),)
    assert SkippedSlots.decode(skipped.encode()) == skipped
    assert SkippedSlots.decode(None) == SkippedSlots()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("pay"), st.integers(1, 9)),
        st.tuples(st.just("seal"), st.integers(1, 4)),
        st.tuples(st.just("roll back"), st.integers(0, 6)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(OPERATIONS)
def test_any_mix_of_payments_seals_roll_backs_and_restarts_is_the_chain_of_what_stands(
    operations: list[tuple[str, int]],
) -> None:
    """Against a model: the blocks that stand, and what was paid in each."""
    to = Pubkey.from_bytes(bytes([7] * 32))
    with TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder), finality=4)
        payer = funded(ledger, 1000 * KOII)
        ledger.seal()
        blocks = [(slot, 0) for slot in range(ledger.slot)]  # (slot, paid)
        opened_after = 0
        paid = 0
        for name, count in operations:
            match name:
                case "pay":
                    blockhash, _ = ledger.latest_blockhash("confirmed")
                    wire = transfer_wire(payer, to, count * KOII, blockhash)
                    paid += 0 if ledger.submit(decode(wire)) else count
                case "seal":
                    for _ in range(count):
                        blocks.append((ledger.slot, paid))
                        ledger.seal()
                        paid = 0
                case "roll back":
                    oldest = max(ledger.slot_at("finalized"), opened_after)
                    possible = sum(slot > oldest for slot, _ in blocks)
                    if count > possible:
                        with pytest.raises(ConfigurationError):
                            ledger.roll_back(count)
                        continue
                    ledger.roll_back(count)
                    blocks = blocks[: len(blocks) - count]
                    paid = 0
                case "restart":
                    blocks.append((ledger.slot, paid))
                    ledger.close()
                    ledger = open_ledger(Path(folder), finality=4)
                    opened_after = ledger.slot_at("confirmed")
                    paid = 0
            assert balance(ledger, to) == KOII * (sum(one for _, one in blocks) + paid)
            assert ledger.store.slots_between(0, 10**6, 10**6) == [slot for slot, _ in blocks]
            assert ledger.slot_at("confirmed") == blocks[-1][0]
            assert ledger.skipped.height(ledger.slot) == len(blocks)
            finalized = ledger.slot_at("finalized")
            assert finalized in [slot for slot, _ in blocks]
        ledger.close()
