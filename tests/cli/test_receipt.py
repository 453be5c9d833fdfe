from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from koii_p2p.cli import receipt as receipt_command
from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.main import run
from koii_p2p.cli.receipt import MAX_DUMP_BYTES
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.receipt import MAX_RECEIPT_BYTES, Receipt
from koii_p2p.settlement.instructions import PROGRAM_ID
from koii_p2p.settlement.layouts import (
    ROUND_COMMITTED,
    ROUND_LAYOUT,
    ROUND_LISTED,
    ROUND_REJECTED,
    ROUND_RING,
    TASK_LAYOUT,
    TASK_MAGIC,
)
from koii_p2p.testnets.evidence import save_evidence
from tests.cli.receipt_by_the_page import verify as by_the_page
from tests.cli.test_explain import GameRpc, key_of
from tests.rounds.test_receipt import EVERYTHING, anchored, made
from tests.testnets.played import GENESIS, game, played, played_with

TASK = text_of(game().task)
DOCUMENT = Path(__file__).parents[2] / "docs" / "explain.md"
SETTLED = game().terms.clock.settles_at(0)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Commands send logs to the standard error of their test, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder that the played testnet left."""
    save_evidence(played(), tmp_path / "evidence")
    return tmp_path / "evidence"


@pytest.fixture
def exported(left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The receipt of the cheater, which lost its stake in round 0."""
    out = tmp_path / "cheater.receipt"
    assert run(["receipt", "export", "0", key_of(4), "--evidence", str(left), "--out", str(out)]) == 0
    capsys.readouterr()
    return out


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """The task's account as raw bytes."""
    file = tmp_path / "task.bin"
    file.write_bytes(played().chain.task_account.data)
    return file


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be asked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this command has no business with a network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.socket.connect_ex", refuse)
    monkeypatch.setattr(receipt_command, "RpcClient", refuse)


def rewritten(file: Path, **changes: Any) -> None:
    file.write_bytes(replace(Receipt.decode(file.read_bytes()), **changes).encode())


# --- export


def test_an_export_says_what_is_in_the_file(
    left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.receipt"
    line = ["receipt", "export", "0", key_of(1), "--evidence", str(left), "--out", str(out)]
    assert run([*line, "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["key"], found["round"], found["bytes"]) == (key_of(1), 0, out.stat().st_size)
    assert (found["leaf"], found["records"], found["list_votes"]) == (True, ["submissions", "ballots"], 0)
    assert run(line) == 3
    assert "There is a file of this name." in capsys.readouterr().err
    assert run([*line[:-1], str(tmp_path / "no" / "such" / "folder")]) == 3


@pytest.mark.parametrize(
    ("number", "key", "why"),
    [
        ("99", key_of(0), "K2 has no commitment to this round."),
        ("0", text_of(bytes(31) + b"s"), "Neither the commitment nor the list says anything of this key."),
    ],
)
def test_there_is_no_receipt_of_nothing(
    left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str, key: str, why: str
) -> None:
    out = tmp_path / "none"
    assert run(["receipt", "export", number, key, "--evidence", str(left), "--out", str(out)]) == 1
    assert why in capsys.readouterr().err
    assert not out.exists()


# --- verify


@pytest.mark.usefixtures("offline")
def test_a_receipt_holds_against_a_dump_without_any_network(
    exported: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["receipt", "verify", str(exported), "--account", str(dump)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "The receipt holds."
    text = "\n".join(lines)
    short = f"{key_of(4)[:8]}…"
    assert f"  The outcome of the work of {short} in this round is REJECTED." in lines
    assert f"the anchored list gives {short} 0 KOII and takes 1.33 KOII from it, in total." in text
    assert "a dump does not say which chain it is from" in text
    assert f"The list is final from slot {SETTLED} on; a dump does not say which slot it is of." in text
    assert key_of(4) in text
    assert (
        run(["receipt", "verify", str(exported), "--account", str(dump), "--genesis", text_of(GENESIS)]) == 0
    )
    assert "does not say which chain" not in capsys.readouterr().out


def shapes() -> list[tuple[str, Callable[[dict[str, Any]], object]]]:
    wrapped = {"jsonrpc": "2.0", "id": 1}
    return [
        (
            "getAccountInfo",
            lambda account: wrapped | {"result": {"context": {"slot": 1200}, "value": account}},
        ),
        ("solana account", lambda account: {"pubkey": TASK, "account": account}),
        ("account alone", lambda account: account),
    ]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("shape", [shape for _, shape in shapes()], ids=[name for name, _ in shapes()])
def test_dumps_have_many_shapes(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shape: Callable[[dict[str, Any]], object],
) -> None:
    data = base64.b64encode(played().chain.task_account.data).decode()
    account = {"data": [data, "base64"], "owner": text_of(PROGRAM_ID), "lamports": 1}
    file = tmp_path / "dump.json"
    file.write_text(json.dumps(shape(account)))
    assert run(["receipt", "verify", str(exported), "--account", str(file), "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"] is True
    assert found["source"] == str(file)
    assert found["receipt"]["key"] == key_of(4)
    in_time = any(
        f"may still be vetoed until slot {SETTLED}; it is slot 1200" in note for note in found["notes"]
    )
    assert in_time == ("result" in json.loads(file.read_text()))


@pytest.mark.usefixtures("offline")
def test_a_receipt_holds_against_what_a_testnet_left(
    exported: Path, left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["receipt", "verify", str(exported), "--evidence", str(left)]) == 0
    assert f"The list is final since slot {SETTLED}." in capsys.readouterr().out
    other = tmp_path / "other"
    evidence = played_with()
    save_evidence(replace(evidence, chain=replace(evidence.chain, task=bytes(32))), other)
    assert run(["receipt", "verify", str(exported), "--evidence", str(other)]) == 1
    assert "the evidence in" in capsys.readouterr().err


def test_a_receipt_holds_against_k2(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(receipt_command, "RpcClient", lambda url, limits: GameRpc(game()))
    line = ["receipt", "verify", str(exported), "--url", "http://k2.example"]
    assert run([*line, "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["holds"], found["source"], found["findings"]) == (True, "http://k2.example", [])
    assert run([*line, "--genesis", text_of(bytes(32))]) == 3
    assert "is not the chain that is meant" in capsys.readouterr().err
    rewritten(exported, genesis=bytes(32))
    assert run(line) == 1
    assert "It is of the chain 1111" in capsys.readouterr().err


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"round": 9}, "K2 has nothing of the receipt's round."),
        ({"attempt": 1}, "K2 holds another attempt at the round than the receipt is of."),
        ({"commitment": b""}, "The commitment does not hash to the digest on K2."),
        ({"key": bytes(32)}, "The leaf is another key's."),
    ],
)
def test_a_wrong_receipt_says_what_is_wrong_and_fails(
    exported: Path, dump: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    rewritten(exported, **changes)
    assert run(["receipt", "verify", str(exported), "--account", str(dump)]) == 1
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "The receipt does not hold."
    assert any(line.startswith(f"  {says}") for line in lines)
    assert not any("gives" in line for line in lines)


def test_a_receipt_of_another_program_is_not_judged(
    exported: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten(exported, program=bytes(32))
    assert run(["receipt", "verify", str(exported), "--account", str(dump)]) == 1
    assert "Check it with the software of that program." in capsys.readouterr().err


def test_a_receipt_of_another_task_is_not_held_against_this_account(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "foreign.receipt"
    file.write_bytes(replace(made(), program=PROGRAM_ID).encode())
    assert run(["receipt", "verify", str(file), "--account", str(dump)]) == 3
    assert "It is not the account of task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [
        (b"", 1, "Not a receipt:"),
        (b"junk", 1, "Not a receipt:"),
        (b"\xa0", 1, "Not a receipt: it does not begin as one."),
        (b"\x81" * 5000, 1, "Not a receipt:"),
        (bytes(MAX_RECEIPT_BYTES + 1), 1, "are allowed"),
        (None, 3, "No such file or directory"),
    ],
)
def test_files_that_are_no_receipts(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, code: int, why: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    assert run(["receipt", "verify", str(file), "--account", str(dump)]) == code
    printed = capsys.readouterr().err
    assert why in printed
    assert ".." not in printed


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither a task account's bytes nor JSON"),
        (b"[" * 100_000, "neither a task account's bytes nor JSON"),
        (b"null", "neither a task account's bytes nor JSON"),
        (b'{"data": ["AAAA", "base58"]}', "neither a task account's bytes nor JSON"),
        (b'{"result": {"value": null}}', "neither a task account's bytes nor JSON"),
        (b'{"data": ["AAAA", "base64"]}', "It is not the account of task"),
        (b'{"data": ["AAAA", "base64"], "owner": "somebody"}', "Its account belongs to somebody"),
        (b'{"pubkey": "another", "account": {"data": ["AAAA", "base64"]}}', "It is the account another"),
        (bytes(MAX_DUMP_BYTES + 1), "It has more than"),
        (None, "No such file or directory"),
    ],
)
def test_files_that_are_no_dumps(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, why: str
) -> None:
    file = tmp_path / "dump"
    if content is not None:
        file.write_bytes(content)
    assert run(["receipt", "verify", str(exported), "--account", str(file)]) == 3
    printed = capsys.readouterr().err
    assert why in printed
    assert f"solana account {TASK} --output json" in printed


def test_a_dump_is_too_young_for_a_round_that_left_the_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After as many rounds as an account keeps, and one, the first is gone."""
    evidence = played_with(rounds=ROUND_RING + 1, nodes=3)
    save_evidence(evidence, tmp_path / "evidence")
    out, account = tmp_path / "old.receipt", tmp_path / "task.bin"
    account.write_bytes(evidence.chain.task_account.data)
    key, folder = evidence.nodes[0].key, str(tmp_path / "evidence")
    assert run(["receipt", "export", "0", key, "--evidence", folder, "--out", str(out)]) == 0
    assert run(["receipt", "verify", str(out), "--evidence", folder]) == 0
    capsys.readouterr()
    assert run(["receipt", "verify", str(out), "--account", str(account)]) == 1
    assert "round 0 left it" in capsys.readouterr().err


def test_one_thing_to_hold_it_against_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["receipt", "verify", "file", "--account", "a", "--evidence", "b"]) == 2
    assert "exclude each other" in capsys.readouterr().err


# --- the page


def account_with(anchored: AnchoredRound) -> bytes:
    """A task's account, as far as a verifier reads it."""
    held: dict[str, int | bytes] = {field.name: bytes(field.size) for field in ROUND_LAYOUT}
    held |= {
        "number": anchored.round,
        "attempt": anchored.attempt,
        "state": ROUND_LISTED,
        "list_root": anchored.list_root or b"",
        "commitment": anchored.commitment,
    }
    data = bytearray(TASK_LAYOUT.size)
    data[: len(TASK_MAGIC)] = TASK_MAGIC
    at = TASK_LAYOUT.field("rounds").offset + anchored.round % ROUND_RING * ROUND_LAYOUT.size
    data[at : at + ROUND_LAYOUT.size] = ROUND_LAYOUT.pack(held)
    return bytes(data)


def test_other_software_verifies_by_the_page_alone() -> None:
    account, sections = account_with(anchored(EVERYTHING)), set()
    for index in range(10):
        receipt = made(EVERYTHING, index)
        found = by_the_page(receipt.encode(), account)
        leaf = EVERYTHING.list.leaf(receipt.key)
        assert leaf is not None
        assert found["key"] == text_of(receipt.key)
        assert found["outcome"] == EVERYTHING.commitment.outcome_of[receipt.key].name
        assert found["totals"] == (leaf.reward_total, leaf.slash_total)
        assert found["votes"] == 3
        sections |= set(found["sections"])
    assert sections == set(range(6))


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 4},
        {"attempt": 1},
        {"commitment": replace(EVERYTHING.commitment, round=4).encode()},
        {"leaf": made(EVERYTHING, 1).leaf},
        {"records": made(EVERYTHING, 1).records},
        {"roster": made(EVERYTHING).roster[1:]},
        {"votes": made(EVERYTHING).votes[:1] * 2},
        {"genesis": bytes(32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_software_refuses_by_the_page_alone(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        by_the_page(replace(made(EVERYTHING), **changes).encode(), account_with(anchored(EVERYTHING)))


@pytest.mark.usefixtures("offline")
def test_other_software_reads_the_account_that_the_program_wrote(exported: Path) -> None:
    found = by_the_page(exported.read_bytes(), played().chain.task_account.data)
    assert (found["outcome"], found["totals"]) == ("REJECTED", (0, 1_330_000_000))


def test_the_page_says_where_a_round_is_in_the_account() -> None:
    text = DOCUMENT.read_text()
    ring = TASK_LAYOUT.field("rounds").offset
    assert f"has {TASK_LAYOUT.size} bytes and begins with `{TASK_MAGIC.decode()}`" in text
    assert f"{ring} + {ROUND_LAYOUT.size} * (r mod {ROUND_RING})" in text
    for name in ("number", "list_root", "list_by", "commitment", "commitment_slot", "commitment_by"):
        field = ROUND_LAYOUT.field(name)
        assert f"| {field.offset}..{field.offset + field.size} |" in text
    for name in ("attempt", "state"):
        assert f"| {ROUND_LAYOUT.field(name).offset} | {name}" in text
    assert f"{ROUND_COMMITTED} committed, {ROUND_LISTED} listed, {ROUND_REJECTED} rejected" in text
