"""What the two keys of a home are for, against a real local K2 process: who pays, who signs, who is paid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from koii_p2p.cli.key_names import text_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.storage.locked_key import PASSPHRASE_FILE
from koii_p2p.storage.private_file import create_private
from tests.cli.spender import KOII, TERMS, Spender
from tests.localk2.chain import K2Process, k2_process


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Commands send logs to the stderr of their test: afterwards, logs go where they went before."""
    yield
    structlog.reset_defaults()
    logging.basicConfig(level=logging.WARNING, force=True)


@pytest.fixture(scope="module")
def k2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2Process]:
    with k2_process(tmp_path_factory.mktemp("k2") / "k2", "--slot-ms", "20", "--finality", "8") as running:
        yield running


@pytest.fixture
def spender(k2: K2Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Spender:
    return Spender(k2.address["url"], tmp_path / "home", capsys).paid("100")


def change(path: Path, key: SecretKey) -> SecretKey:
    """Put another key into a key file."""
    path.unlink()
    save_secret(path, key)
    return key


def held_by(spender: Spender) -> tuple[int, int]:
    """What the wallet and the staking key hold, in Roe."""
    found = spender.found("balance")
    return found["wallet"]["balance"], found["staking"]["balance"]


def withdrawn(spender: Spender, task: str) -> dict[str, int]:
    """Ask a stake back, wait until its lock is over, and have it paid out."""
    spender.wait_for_slot(spender.found("unstake", task, "--yes")["unlock_slot"] + 1)
    paid: dict[str, int] = spender.found("withdraw", task, "--yes")
    return paid


def test_the_wallet_pays_and_is_paid_and_the_staking_key_needs_no_money(spender: Spender) -> None:
    task = spender.create()
    before = held_by(spender)
    assert before[1] == 0
    made = spender.found("stake", task, "3", "--yes")
    assert made["staker"] == text_of(spender.staker.public_key)
    assert made["beneficiary"] == text_of(spender.wallet.public_key)
    assert held_by(spender) == (before[0] - made["cost"]["total"], 0)
    paid = withdrawn(spender, task)
    assert (paid["paid"], paid["beneficiary"]) == (3 * KOII, made["beneficiary"])
    assert held_by(spender)[1] == 0, "neither fees nor what comes back touch it"


def test_one_key_in_both_roles_works_and_signs_once(spender: Spender) -> None:
    change(spender.home.staking_key, spender.wallet)
    task = spender.create()
    made = spender.found("stake", task, "3", "--yes")
    assert made["staker"] == made["beneficiary"] == text_of(spender.wallet.public_key)
    assert made["cost"]["fee"] == 5000, "a fee for one signature"
    paid = withdrawn(spender, task)
    assert (paid["paid"], paid["beneficiary"]) == (3 * KOII, made["beneficiary"])


def test_a_new_wallet_pays_from_then_on_and_old_stakes_still_pay_the_old_one(spender: Spender) -> None:
    task, other = spender.create(), spender.create()
    old = text_of(spender.wallet.public_key)
    spender.found("stake", task, "3", "--yes")
    new = change(spender.home.wallet_key, SecretKey.generate())
    spender.wallet = new
    spender.paid("50")
    made = spender.found("stake", other, "2", "--yes")
    assert made["beneficiary"] == text_of(new.public_key)
    added = spender.found("stake", task, "1", "--yes")
    assert (added["beneficiary"], added["stake"]) == (old, 4 * KOII)
    assert f"paid to {old}" in " ".join(added["notes"])
    before = held_by(spender)[0]
    paid = withdrawn(spender, task)
    assert (paid["paid"], paid["beneficiary"]) == (4 * KOII, old)
    assert before - held_by(spender)[0] == 3 * 5000, (
        "the new wallet pays: of its signatures and the staking key's"
    )


def test_without_its_staking_key_a_stake_cannot_be_asked_back(spender: Spender) -> None:
    task = spender.create()
    spender.found("stake", task, "3", "--yes")
    change(spender.home.staking_key, SecretKey.generate())
    code, error = spender.refused("unstake", task, "--yes")
    assert (code, "has no stake" in error["why"] + error["what"]) == (5, True), error
    change(spender.home.staking_key, spender.staker)
    assert withdrawn(spender, task)["paid"] == 3 * KOII, "with the key it can"


def test_locked_keys_pay_and_sign(spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_FILE, raising=False)
    for path, key in (
        (spender.home.wallet_key, spender.wallet),
        (spender.home.staking_key, spender.staker),
    ):
        path.unlink()
        save_secret(path, key, "a long passphrase")
    code, error = spender.refused("task", "create", *TERMS, "--yes")
    assert (code, "locked with a passphrase" in error["why"]) == (3, True), error
    create_private(tmp_path / "passphrase", b"a long passphrase\n")
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    made = spender.found("stake", spender.create(), "2", "--yes")
    assert made["staker"] == text_of(spender.staker.public_key)
