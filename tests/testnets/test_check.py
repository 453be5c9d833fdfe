from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.rounds.commitment import Bundle
from koii_p2p.settlement.layouts import CHECKPOINT_LAYOUT, ROUND_LAYOUT, STAKE_LAYOUT, TASK_LAYOUT
from koii_p2p.settlement.rpc import Account
from koii_p2p.testnets.chain_record import RecordUnreadable, decode_record, encode_record
from koii_p2p.testnets.check import CheckFinding, CheckReport, check
from koii_p2p.testnets.evidence import Evidence, RoundCopies, load_evidence, save_evidence
from koii_p2p.testnets.outcome import outcome_json, outcome_of
from tests.testnets.played import BOUNTY, STAKE, game, played

NAMES = [f"node-{index:02d}" for index in range(5)]


def codes(report: CheckReport) -> set[str]:
    return {finding.code for finding in report.findings}


def findings(report: CheckReport, code: str) -> list[CheckFinding]:
    return [finding for finding in report.findings if finding.code == code]


def flipped(data: bytes, place: int, mask: int = 1) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def with_copies(name: str, number: int, change: Callable[[bytes], bytes], holders: list[str]) -> Evidence:
    evidence = played()
    copies = evidence.copies[number]
    changed = {
        holder: change(data) if holder in holders else data for holder, data in copies.of(name).items()
    }
    return replace(evidence, copies={**evidence.copies, number: replace(copies, **{name: changed})})


def with_chain(**changes: object) -> Evidence:
    return replace(played(), chain=replace(played().chain, **changes))  # type: ignore[arg-type]


# --- a testnet that is right


def test_a_testnet_in_which_all_is_right_has_no_findings() -> None:
    report = check(played())
    assert report.findings == ()
    assert report.verified
    assert [checked.number for checked in report.rounds] == [0, 1, 2, 3]


def test_the_outcome_is_exact() -> None:
    outcome = outcome_of(check(played()), played().nodes)
    assert outcome.failures == ()
    assert outcome.ok
    assert outcome.settled == 4
    for row in outcome.nodes[:4]:
        assert row.verdicts == ("APPROVED",) * 4
        assert (row.paid, row.taken, row.stake) == (4 * (BOUNTY // 4), 0, STAKE)
        assert (row.submitted, row.audited, row.audits_due) == (4, 4, 4)
    cheater = outcome.nodes[4]
    slash = STAKE * 7000 // 10000
    assert (cheater.paid, cheater.taken, cheater.stake) == (0, slash, STAKE - slash)
    # Its slash lands after the start of period 2: it takes part in three rounds, and is slashed once.
    assert cheater.verdicts == ("REJECTED", "REJECTED", "REJECTED", None)
    assert (cheater.submitted, cheater.in_roster) == (3, 3)


def test_who_joined_from_outside_claims_when_it_likes() -> None:
    report = check(played())
    key = next(key for key, stake in report.stakes.items() if stake.reward_total)
    unclaimed = replace(report, stakes={**report.stakes, key: replace(report.stakes[key], reward_total=0)})
    others = [node for node in played().nodes if bytes(Pubkey.from_string(node.key)) != key]
    assert outcome_of(unclaimed, others).settled == 4
    assert outcome_of(unclaimed, played().nodes).settled == 0


def test_each_round_has_one_commitment_one_list_and_settlements() -> None:
    shown = outcome_json(outcome_of(check(played()), played().nodes))
    assert [entry["transactions"] for entry in shown["rounds"]] == [
        {"commitment": 1, "list": 1, "veto": 0, "settle": 5}
    ] * 4
    assert shown["verified"] is True
    assert all(line["fee"] in (5000, 10000) for line in shown["transactions"])


def test_evidence_survives_the_disk(tmp_path: Path) -> None:
    save_evidence(played(), tmp_path / "evidence")
    loaded = load_evidence(tmp_path / "evidence", Limits())
    assert loaded == played()
    assert check(loaded).verified


# --- one changed byte, one answer


def test_a_byte_of_the_bundle_at_one_node() -> None:
    report = check(with_copies("bundle", 1, lambda data: flipped(data, len(data) // 2), ["node-02"]))
    assert codes(report) == {"copy_differs"}
    (finding,) = report.findings
    assert (finding.round, finding.subject) == (1, "node-02")
    assert "bundle at node-02" in finding.text


def test_a_byte_of_the_bundle_at_every_node() -> None:
    vote = Bundle.decode(played().copies[1].bundle["node-00"]).ballots[-1]

    def spoil(data: bytes) -> bytes:
        return flipped(data, data.index(vote) + len(vote) - 1)

    report = check(with_copies("bundle", 1, spoil, NAMES))
    assert "bundle_cid" in codes(report)
    assert {finding.round for finding in report.findings} == {1}
    signed = findings(report, "record_signature")
    assert len(signed) == 1
    assert signed[0].subject in NAMES


def test_a_bundle_that_cannot_be_read() -> None:
    report = check(with_copies("bundle", 1, lambda data: data[:-1], NAMES))
    assert codes(report) == {"bundle_cid", "bundle_malformed"}


def test_a_byte_of_a_vote() -> None:
    bundle = Bundle.decode(played().copies[0].bundle["node-00"])
    vote = bundle.ballots[2]

    def spoil(data: bytes) -> bytes:
        place = data.index(vote) + len(vote) - 10  # within the signature
        return flipped(data, place)

    report = check(with_copies("bundle", 0, spoil, NAMES))
    assert {"record_signature", "bundle_cid", "ballots_root"} == codes(report)
    assert "ballot 3 of 5" in findings(report, "record_signature")[0].text
    assert findings(report, "record_signature")[0].subject in NAMES


@pytest.mark.parametrize("name", ["commitment", "list"])
def test_a_byte_of_a_stored_artifact(name: str) -> None:
    report = check(with_copies(name, 2, lambda data: flipped(data, len(data) - 3), NAMES))
    assert not report.verified
    assert {finding.round for finding in report.findings} == {2}
    assert codes(report) & {"commitment_digest", "list_root"}


def test_a_bundle_that_nobody_holds() -> None:
    evidence = played()
    copies = {**evidence.copies, 3: replace(evidence.copies[3], bundle={})}
    report = check(replace(evidence, copies=copies))
    assert [str(finding) for finding in report.findings] == ["round 3: No node holds the bundle. [missing]"]


def test_no_copies_at_all() -> None:
    empty = RoundCopies({}, {}, {})
    report = check(replace(played(), copies=dict.fromkeys(range(4), empty)))
    assert codes(report) == {"missing"}


def test_a_byte_of_an_anchor_in_the_tasks_account() -> None:
    place = (
        TASK_LAYOUT.field("rounds").offset + 1 * ROUND_LAYOUT.size + ROUND_LAYOUT.field("commitment").offset
    )
    account = played().chain.task_account
    report = check(with_chain(task_account=replace(account, data=flipped(account.data, place))))
    assert codes(report) == {"history_changed_record"}
    assert report.findings[0].text.startswith("Round 1, commitment: the transactions say ")


def test_a_byte_of_the_head() -> None:
    account = played().chain.task_account
    place = TASK_LAYOUT.field("head").offset
    report = check(with_chain(task_account=replace(account, data=flipped(account.data, place))))
    assert codes(report) == {"history_head_differs"}


def test_a_byte_of_a_transaction() -> None:
    transactions = list(played().chain.transactions)
    place = next(i for i, (line, _) in enumerate(transactions) if line.slot > game().terms.starting_slot)
    line, record = transactions[place]
    assert record is not None
    transactions[place] = (line, replace(record, wire=flipped(record.wire, len(record.wire) - 5)))
    report = check(with_chain(transactions=tuple(transactions)))
    assert report.findings[0].code == "history_unreadable"
    assert line.signature in report.findings[0].text
    assert "a signature does not verify" in report.findings[0].text


def test_a_transaction_that_the_node_hides() -> None:
    transactions = [
        pair
        for pair in played().chain.transactions
        if pair[0].slot != game().terms.clock.distribution(1).opens + 2
    ]
    report = check(with_chain(transactions=tuple(transactions)))
    assert {"history_anchors_missing", "history_head_differs", "history_changed_record"} <= codes(report)
    assert any("Round 1, list_root" in finding.text for finding in report.findings)


def test_a_blockhash() -> None:
    blocks = dict(played().chain.blocks)
    slot, blockhash = blocks[2]
    blocks[2] = (slot, flipped(blockhash, 7))
    report = check(with_chain(blocks=blocks))
    assert [(finding.code, finding.round) for finding in report.findings] == [("beacon", 2)]
    early = check(with_chain(blocks={**blocks, 2: (slot - 1, blockhash)}))
    assert (early.findings[0].code, early.findings[0].round) == ("blockhash", 2)


def test_a_byte_of_a_stake_account() -> None:
    address, account = played().chain.stakes[1]
    place = STAKE_LAYOUT.field("checkpoints").offset + CHECKPOINT_LAYOUT.field("stake").offset
    changed = replace(account, data=flipped(account.data, place))
    stakes = tuple((one, changed if one == address else held) for one, held in played().chain.stakes)
    report = check(with_chain(stakes=stakes))
    assert {"stake_account", "roster"} == codes(report)
    assert report.findings[0].subject in NAMES
    assert "at slot 1: the transactions lead to a stake of 1900000000" in report.findings[0].text


def test_a_stake_account_with_another_balance() -> None:
    (address, account), *rest = played().chain.stakes
    report = check(with_chain(stakes=((address, replace(account, lamports=account.lamports - 1)), *rest)))
    assert codes(report) == {"stake_account"}


def test_the_vault_and_a_wallet() -> None:
    vault = played().chain.vault
    assert vault is not None
    assert codes(check(with_chain(vault=replace(vault, lamports=vault.lamports + 1)))) == {"vault"}
    balances = dict(played().chain.balances)
    wallet = next(iter(balances))
    balances[wallet] -= 1
    report = check(with_chain(balances=balances))
    assert codes(report) == {"balance"}
    assert "wallet of node-00" in report.findings[0].text


def test_the_genesis_hash_is_in_every_signature() -> None:
    report = check(with_chain(genesis=flipped(played().chain.genesis, 0)))
    assert "record_signature" in codes(report)


def test_accounts_that_are_something_else() -> None:
    nobody = Account(0, bytes(32), b"", False)
    report = check(with_chain(task_account=nobody))
    assert codes(report) == {"task_account"}
    assert report.rounds == ()
    assert "task_account" in codes(check(with_chain(vault=None)))
    (address, _), *rest = played().chain.stakes
    assert "stake_account" in codes(check(with_chain(stakes=((address, nobody), *rest))))


def test_an_unexpected_end_is_told() -> None:
    nodes = tuple(replace(node, behaviour="honest") for node in played().nodes)
    outcome = outcome_of(check(played()), nodes)
    assert outcome.report.verified
    assert not outcome.ok
    assert any("node-04 is honest and was not approved in round 0" in text for text in outcome.failures)


def test_rounds_that_did_not_happen() -> None:
    outcome = outcome_of(check(replace(played(), rounds=5)), played().nodes)
    assert "Round 4 has no commitment on K2." in outcome.failures
    assert outcome.settled == 4


# --- files that are something else


def test_a_chain_file_that_is_damaged(tmp_path: Path) -> None:
    save_evidence(played(), tmp_path)
    (tmp_path / "chain.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        load_evidence(tmp_path, Limits())
    with pytest.raises(ConfigurationError):
        load_evidence(tmp_path / "nothing", Limits())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"rents": [1]}', b"\xff"])
def test_bytes_that_are_no_chain_record(data: bytes) -> None:
    with pytest.raises(RecordUnreadable):
        decode_record(data)


def test_a_chain_record_is_written_the_same_every_time() -> None:
    data = encode_record(played().chain)
    assert encode_record(decode_record(data)) == data
