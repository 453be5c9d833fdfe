"""Disputed testnets, played in the virtual machine: what the check and the expectations say about them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from solders.pubkey import Pubkey

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.commitment import Bundle
from koii_p2p.rounds.round_records import cast_in
from koii_p2p.rounds.tally import AuditorStatus
from koii_p2p.settlement.instructions import Veto
from koii_p2p.settlement.layouts import bond
from koii_p2p.testnets.check import CheckReport, check
from koii_p2p.testnets.evidence import Evidence
from koii_p2p.testnets.identity import (
    EQUIVOCATING,
    FLEEING,
    FLEEING_LATE,
    HONEST,
    LATE_ACCUSER,
    OMITTING_LEADER,
    PAYING_ITSELF,
    WRONG_VALUE,
)
from koii_p2p.testnets.outcome import NodeOutcome, Outcome, outcome_json, outcome_of
from tests.testnets.played import BOUNTY, KOII_RULES, SLASH, STAKE, Role, played_with

SEALED = AuditRules(sealed=True, finders_share=3000, witness_seats=1, canary_rate=2500)


def ended(evidence: Evidence, **behaviours: str) -> Outcome:
    """The outcome; nodes named in `behaviours` (node_04) are said to have been told to behave otherwise."""
    told = {name.replace("_", "-"): behaviour for name, behaviour in behaviours.items()}
    nodes = tuple(replace(node, behaviour=told.get(node.name, node.behaviour)) for node in evidence.nodes)
    return outcome_of(check(evidence), nodes, evidence.first)


def money(row: NodeOutcome) -> tuple[int, int, int]:
    return row.paid, row.taken, row.stake


def key_of(outcome: Outcome, name: str) -> str:
    return next(row.node.key for row in outcome.nodes if row.node.name == name)


# --- a late false accusation


def test_under_koiis_rules_a_lone_late_lie_costs_an_honest_node_its_stake() -> None:
    outcome = ended(played_with(LATE_ACCUSER, audit=KOII_RULES))
    assert outcome.report.findings == ()
    assert outcome.failures == ()
    slashed = [row for row in outcome.nodes if row.taken]
    assert [row.node.behaviour for row in slashed] == [HONEST]
    assert money(slashed[0]) == (0, SLASH, STAKE - SLASH)
    assert all(money(row) == (2 * (BOUNTY // 4), 0, STAKE) for row in outcome.nodes if row not in slashed)
    assert (
        f"round 0: {slashed[0].node.name} did its work and is REJECTED: the vote of node-04 against it was answered "
        "by nobody; as Koii's client codes it"
    ) in outcome.remarks


def test_under_hardened_rules_it_changes_nothing_and_the_liar_is_overruled() -> None:
    outcome = ended(played_with(LATE_ACCUSER))
    assert outcome.ok
    assert all(money(row) == (2 * (BOUNTY // 5), 0, STAKE) for row in outcome.nodes)
    for checked in outcome.report.rounds:
        assert checked.played is not None
        assert AuditorStatus.OVERRULED in checked.played.tally.auditors.values()
        assert len(checked.played.tally.full_audits) == 1
    assert all("node-04 is OVERRULED" in remark for remark in outcome.remarks)
    assert len(outcome.remarks) == 2
    liar = key_of(outcome, "node-04")
    assert [entry["auditors"][liar] for entry in outcome_json(outcome)["rounds"]] == ["OVERRULED"] * 2


@pytest.mark.parametrize("audit", [None, KOII_RULES])
def test_an_honest_node_that_calls_good_work_invalid_is_no_liar_but_a_failure(
    audit: AuditRules | None,
) -> None:
    outcome = ended(played_with(LATE_ACCUSER, audit=audit), node_04=HONEST)
    assert outcome.report.verified
    assert not any("OVERRULED" in remark or "as Koii's client" in remark for remark in outcome.remarks)
    # Where the lie changed nothing, there is nothing to complain about.
    assert outcome.ok == (audit is None)


def test_a_liar_that_lied_to_nobody_shows_nothing() -> None:
    outcome = ended(played_with(audit=KOII_RULES), node_04=LATE_ACCUSER)
    assert outcome.failures == (
        "node-04 was to accuse somebody falsely, and no commitment has a vote of it.",
    )


# --- frauds


def test_who_signs_twice_is_convicted_by_it_and_slashed_once() -> None:
    outcome = ended(played_with(EQUIVOCATING, rounds=3))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    guilty = outcome.nodes[4]
    assert guilty.verdicts == ("EQUIVOCATED",) * 3
    assert money(guilty) == (0, SLASH, STAKE - SLASH)
    assert all(money(row) == (3 * (BOUNTY // 4), 0, STAKE) for row in outcome.nodes[:4])
    assert (
        "round 0: node-04 is convicted: it signed two submissions, and both are in the bundle"
        in outcome.remarks
    )


def test_a_byte_of_the_evidence() -> None:
    evidence = played_with(EQUIVOCATING)
    copies = evidence.copies[0]
    proof = Bundle.decode(copies.bundle["node-00"]).evidence[0]

    def spoiled(data: bytes) -> bytes:
        place = data.index(proof) + len(proof) - 5
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    changed = replace(copies, bundle={name: spoiled(data) for name, data in copies.bundle.items()})
    report = check(replace(evidence, copies={**evidence.copies, 0: changed}))
    assert {"record_signature", "bundle_cid", "evidence_root"} <= {
        finding.code for finding in report.findings
    }
    assert {finding.round for finding in report.findings} == {0}


def test_a_conviction_of_a_node_that_was_told_to_be_honest_is_a_failure() -> None:
    outcome = ended(played_with(EQUIVOCATING), node_04=HONEST)
    assert outcome.report.verified
    assert "node-04 is honest and was not approved in round 0 (EQUIVOCATED)." in outcome.failures


def test_a_wrong_value_where_two_signatures_were_expected_is_a_failure() -> None:
    outcome = ended(played_with(WRONG_VALUE), node_04=EQUIVOCATING)
    assert "node-04 cheats and was REJECTED, not EQUIVOCATED, in round 0." in outcome.failures


def test_a_fraud_among_many_is_found_by_those_drawn_and_confirmed_by_all_others() -> None:
    outcome = ended(played_with(WRONG_VALUE, nodes=9))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    played = outcome.report.rounds[0].played
    assert played is not None
    finders = next(iter(played.tally.finders.values()))
    assert (len(finders.accusers), len(finders.voters)) == (5, 3)
    assert all(row.verdicts[0] == "APPROVED" for row in outcome.nodes[:8])
    assert any("node-08 is REJECTED: accused by" in remark for remark in outcome.remarks)


def test_a_false_challenge_costs_nobody_anything_but_the_challenger_its_name() -> None:
    outcome = ended(played_with(nodes=9, more=(Role(challenges=True),)))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    played = outcome.report.rounds[0].played
    assert played is not None
    assert len(played.tally.full_audits) == 1
    assert list(played.tally.auditors.values()).count(AuditorStatus.OVERRULED) == 1


# --- sealed ballots, witnesses, canaries


def test_witnesses_do_no_work_and_earn_from_a_slash() -> None:
    more = (Role(witness=True), Role(witness=True, staked=False))
    outcome = ended(played_with(WRONG_VALUE, nodes=7, audit=SEALED, more=more))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    rows = {row.node.name: row for row in outcome.nodes}
    witness, unstaked, cheater = (rows[name] for name in ("node-04", "node-05", "node-06"))
    assert money(cheater) == (0, SLASH, STAKE - SLASH)
    # Six stakers: all five others were drawn, and accused it.
    share = SLASH * 3000 // 10000 // 5
    assert money(witness) == (share, 0, STAKE)
    assert money(unstaked) == (0, 0, 0)
    assert all(
        money(rows[f"node-{index:02d}"]) == (2 * (BOUNTY // 4) + share, 0, STAKE) for index in range(4)
    )
    for row in (witness, unstaked):
        assert (row.node.role, row.submitted, row.verdicts) == ("witness", 0, (None, None))
        assert row.audited == row.audits_due == 2


def test_a_canary_earns_nothing_and_costs_nothing() -> None:
    outcome = ended(played_with(audit=SEALED, more=(Role(canaries=True),)))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    canary = outcome.nodes[4]
    assert canary.verdicts == ("CANARY", "CANARY")
    assert money(canary) == (0, 0, STAKE)
    assert any("node-04 handed in a canary" in remark for remark in outcome.remarks)


# --- vetoes


def omitting() -> Evidence:
    return played_with(OMITTING_LEADER)


def rejected_copies_removed(evidence: Evidence) -> Evidence:
    """Without what the lying leader still holds of its own attempts."""
    return replace(
        evidence,
        copies={
            number: replace(
                copies,
                **{
                    name: {holder: data for holder, data in copies.of(name).items() if holder != "node-04"}
                    for name in ("commitment", "bundle", "list")
                },
            )
            for number, copies in evidence.copies.items()
        },
    )


def test_a_leader_that_leaves_somebody_out_loses_its_list_and_everybody_is_paid() -> None:
    outcome = ended(omitting())
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    *others, leader = outcome.nodes
    assert all(money(row) == (2 * (BOUNTY // 5), 0, STAKE) for row in others)
    bonds = 4 * bond(STAKE * 2 // 5)  # of two commitments and two lists
    assert money(leader) == (2 * (BOUNTY // 5), 0, STAKE - bonds)
    assert outcome.remarks == (
        "round 0: attempt 0 by node-04 was rejected: vetoed by node-00, node-01, node-02",
        "round 0: attempt 1 by node-00 stands",
        "round 1: attempt 0 by node-04 was rejected: vetoed by node-00, node-01, node-02",
        "round 1: attempt 1 by node-00 stands",
    )
    shown = outcome_json(outcome)["rounds"][0]
    assert shown["transactions"] == {"commitment": 2, "list": 2, "veto": 3, "settle": 5}
    assert [one["rejected"] for one in shown["attempts"]] == [True, False]


def test_whoever_holds_a_rejected_attempt_holds_nothing_wrong() -> None:
    held = omitting().copies[0]
    assert held.commitment["node-04"] != held.commitment["node-00"]
    assert check(omitting()).verified
    assert check(rejected_copies_removed(omitting())).verified


def test_a_copy_that_belongs_to_no_attempt_is_still_told() -> None:
    evidence = omitting()
    copies = evidence.copies[0]
    strange = replace(copies, bundle={**copies.bundle, "node-04": b"nothing that was ever anchored"})
    report = check(replace(evidence, copies={**evidence.copies, 0: strange}))
    told = [(finding.code, finding.subject) for finding in report.findings]
    assert told == [("copy_differs", "node-04")]


def test_an_honest_attempt_that_was_vetoed_is_a_failure() -> None:
    outcome = ended(omitting(), node_04=HONEST)
    assert outcome.report.verified
    assert "node-04 anchored attempt 0 at round 0 honestly, and it was rejected." in outcome.failures


def test_an_omission_that_stands_is_a_failure() -> None:
    outcome = ended(played_with(), node_00=OMITTING_LEADER)
    assert outcome.report.verified
    assert "node-00 left a submission out of attempt 0 at round 0, and it stands." in outcome.failures


def test_a_leader_that_left_nobody_out_shows_nothing() -> None:
    outcome = ended(played_with(), node_04=OMITTING_LEADER)
    assert outcome.failures == ("node-04 was to leave a submission out, and anchored no commitment.",)


def _without(evidence: Evidence, report: CheckReport, kind: type, place: int) -> Evidence:
    """Without one transaction of a kind, as a node that hides it would tell it."""
    hidden = [entry.signature for entry in report.entries if isinstance(entry.instruction, kind)][place]
    transactions = tuple(pair for pair in evidence.chain.transactions if pair[0].signature != hidden)
    return replace(evidence, chain=replace(evidence.chain, transactions=transactions))


def test_a_veto_that_the_node_hides() -> None:
    evidence = omitting()
    report = check(_without(evidence, check(evidence), Veto, 0))
    assert "history_head_differs" in {finding.code for finding in report.findings}


# --- a leader that pays itself


def test_a_leader_that_pays_itself_loses_its_bonds_and_who_committed_with_it_one() -> None:
    """The list of round 0 was to its own commitment, that of round 1 to an honest one."""
    outcome = ended(played_with(PAYING_ITSELF))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    one = bond(STAKE * 2 // 5)
    lost = {"node-01": one, "node-04": 3 * one}
    for row in outcome.nodes:
        assert money(row) == (2 * (BOUNTY // 5), 0, STAKE - lost.get(row.node.name, 0)), row.node.name
    assert outcome.report.state is not None
    assert outcome.report.state.bonds == 4 * one
    assert [[attempt.rejected for attempt in checked.attempts] for checked in outcome.report.rounds] == [
        [True, False]
    ] * 2


def test_a_list_that_pays_its_anchorer_and_stands_is_a_failure() -> None:
    outcome = ended(played_with(), node_00=PAYING_ITSELF)
    assert outcome.report.verified
    assert "node-00 paid itself by the list of attempt 0 at round 0, and it stands." in outcome.failures


def test_a_leader_that_anchored_no_list_shows_nothing() -> None:
    outcome = ended(played_with(), node_04=PAYING_ITSELF)
    assert outcome.failures == ("node-04 was to pay itself, and anchored no list.",)


def test_a_round_that_is_settled_before_the_end_without_being_checked_is_nobodys_fault() -> None:
    """As where the last round to be checked is tried again, and the one after it is not."""
    outcome = ended(replace(played_with(WRONG_VALUE, rounds=3), rounds=2))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    assert [row.paid for row in outcome.nodes] == [3 * (BOUNTY // 4)] * 4 + [0]
    assert [row.reward for row in outcome.nodes] == [2 * (BOUNTY // 4)] * 4 + [0]


# --- cheaters that flee


def test_who_asks_its_stake_back_before_or_after_it_is_slashed_loses_the_same() -> None:
    outcome = ended(played_with(FLEEING, FLEEING_LATE, nodes=7, rounds=4))
    assert outcome.ok, (outcome.report.findings, outcome.failures)
    for row in outcome.nodes[5:]:
        assert money(row) == (0, SLASH, 0)
        assert outcome.report.replayed[key_bytes(row)].withdrawn == STAKE - SLASH
    assert [row.in_roster for row in outcome.nodes[5:]] == [1, 3]
    assert outcome.remarks[-2:] == (
        f"node-05 asked its stake of {STAKE} Roe back in period 0, and took out {STAKE - SLASH} in period 3: "
        f"{SLASH} were slashed before",
        f"node-06 asked its stake of {STAKE} Roe back in period 2, and took out {STAKE - SLASH} in period 5: "
        f"{SLASH} were slashed before",
    )


def test_what_was_withdrawn_is_in_the_wallet_or_it_is_told() -> None:
    evidence = played_with(FLEEING, FLEEING_LATE, nodes=7, rounds=4)
    wallet = key_bytes(ended(evidence).nodes[5], wallet=True)
    balances = {**evidence.chain.balances, wallet: evidence.chain.balances[wallet] - 1}
    report = check(replace(evidence, chain=replace(evidence.chain, balances=balances)))
    (found,) = report.findings
    assert (found.code, found.subject) == ("balance", "node-05")
    assert f"stake paid back {STAKE - SLASH}" in found.text


def test_a_flight_that_did_not_take_place_shows_nothing() -> None:
    outcome = ended(played_with(WRONG_VALUE), node_04=FLEEING)
    assert outcome.failures == ("node-04 was to flee, and did not ask its stake back.",)


def key_bytes(row: NodeOutcome, *, wallet: bool = False) -> bytes:
    return bytes(Pubkey.from_string(row.node.wallet if wallet else row.node.key))


# --- expectations and what votes say


def test_the_lie_is_in_the_records() -> None:
    report = check(played_with(LATE_ACCUSER))
    played = report.rounds[0].played
    assert played is not None
    against = [
        auditor
        for votes in cast_in(played.records).first.values()
        for auditor, verdict in votes.items()
        if verdict is Verdict.INVALID
    ]
    assert len(against) == 1
