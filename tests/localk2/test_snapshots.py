"""Saving and restoring a whole chain."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from solders.keypair import Keypair

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.snapshots import restore, save
from koii_p2p.localk2.transactions import decode
from tests.localk2.chain import KOII, funded, memo_wire, open_ledger, transfer_wire


def busy_chain(folder: Path) -> tuple[bytes, bytes]:
    """A closed ledger with transfers, memos, a failure and a roll-back; one wire and one address of it."""
    ledger = open_ledger(folder, finality=8)
    payer, to = funded(ledger), Keypair().pubkey()
    wire = b""
    for index in range(5):
        blockhash, _ = ledger.latest_blockhash("confirmed")
        wire = transfer_wire(payer, to, KOII + index, blockhash)
        assert ledger.submit(decode(wire)) is None
        ledger.submit(decode(memo_wire(payer, b"%d" % index, blockhash, version_0=True)))
        ledger.submit(decode(transfer_wire(payer, to, 10**15, blockhash)))
        ledger.seal()
    ledger.seal()
    ledger.seal()
    ledger.roll_back(1)
    ledger.close()
    return wire, bytes(to)


def test_a_restored_chain_is_the_chain_and_goes_on(tmp_path: Path) -> None:
    wire, to = busy_chain(tmp_path / "one")
    summary = save(tmp_path / "one", tmp_path / "file")
    assert restore(tmp_path / "file", tmp_path / "two") == summary
    one, two = open_ledger(tmp_path / "one"), open_ledger(tmp_path / "two")
    for ledger in (one, two):
        assert ledger.genesis == summary.genesis
        assert ledger.slot == summary.slot + 1
        assert ledger.submit(decode(wire)) == "AlreadyProcessed"
    assert one.skipped == two.skipped
    assert one.statistics() == two.statistics()
    assert summary.transactions == two.statistics().transactions == 16
    lines = [one.store.history(to, 99, 99, before=None, until=None) for one in (one, two)]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 10
    assert two.airdrop(Keypair().pubkey(), KOII)[1] is None  # the faucet's key came along
    one.close()
    two.close()


def test_the_same_chain_gives_the_same_bytes(tmp_path: Path) -> None:
    busy_chain(tmp_path / "one")
    save(tmp_path / "one", tmp_path / "a")
    save(tmp_path / "one", tmp_path / "b")
    restore(tmp_path / "a", tmp_path / "two")
    save(tmp_path / "two", tmp_path / "c")
    contents = [(tmp_path / name).read_bytes() for name in "abc"]
    assert contents[0] == contents[1] == contents[2]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_running_chain_is_saved_as_of_its_last_seal(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "one")
    to = funded(ledger).pubkey()
    ledger.seal()
    ledger.airdrop(to, KOII)  # in the open slot: not in the snapshot
    summary = save(tmp_path / "one", tmp_path / "file")
    assert (summary.slot, summary.transactions) == (ledger.slot - 1, 1)
    ledger.close()
    restore(tmp_path / "file", tmp_path / "two")
    second = open_ledger(tmp_path / "two")
    account = second.account(to, "processed")
    assert account is not None
    assert account.lamports == 10 * KOII
    second.close()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "not there", "text"])
def test_a_damaged_file_is_refused_and_makes_no_chain(tmp_path: Path, damage: str) -> None:
    busy_chain(tmp_path / "one")
    file = tmp_path / "file"
    save(tmp_path / "one", file)
    content = bytearray(file.read_bytes())
    match damage:
        case "cut":
            file.write_bytes(content[:-100])
        case "flipped":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "empty":
            file.write_bytes(b"")
        case "not there":
            file.unlink()
        case "text":
            file.write_bytes(b"hello" * 100)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        restore(file, tmp_path / "two")
    assert not (tmp_path / "two" / "ledger.sqlite").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    busy_chain(tmp_path / "one")
    save(tmp_path / "one", tmp_path / "file")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        save(tmp_path / "one", tmp_path / "file")
    with pytest.raises(ConfigurationError, match="cannot be restored"):
        restore(tmp_path / "file", tmp_path / "one")
    with pytest.raises(ConfigurationError, match="no local K2"):
        save(tmp_path / "nothing", tmp_path / "other")
    assert not (tmp_path / "other").exists()
