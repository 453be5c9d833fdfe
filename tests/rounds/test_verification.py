from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, BallotEntry, Submission, Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.commitment import Bundle, Commitment, Counts, SubmissionOutcome
from koii_p2p.rounds.distribution import DistributionList, Leaf, Submitter
from koii_p2p.rounds.findings import FindingCode as F
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.verification import RoundEvidence, RoundReport, check_round
from tests.rounds.net import (
    BAD,
    GENESIS,
    GOOD,
    TERMS,
    Round,
    ballot,
    conclude,
    key,
    play,
    say,
    secret,
    submission,
    with_commitment,
)

PLAYED = play(nodes=15, cheaters=(1, 4, 9))
SMALL = play(nodes=4)
CLOCK = TERMS.clock


def check(evidence: RoundEvidence, previous: DistributionList | None = None) -> RoundReport:
    return check_round(TERMS, GENESIS, evidence, previous)


def subjects(report: RoundReport, code: F) -> list[bytes | None]:
    return [finding.subject for finding in report.findings if finding.code is code]


def rebundled(submissions: Sequence[bytes] | None = None, ballots: Sequence[bytes] | None = None) -> bytes:
    return Bundle(
        tuple(PLAYED.bundle.submissions if submissions is None else submissions),
        tuple(PLAYED.bundle.ballots if ballots is None else ballots),
    ).encode()


def leader_says(
    submissions: dict[bytes, Verified], ballots: dict[bytes, Verified], **changes: object
) -> RoundEvidence:
    """What a leader anchors who puts these records into the bundle and commits to them, right or wrong."""
    bundle = Bundle(
        tuple(submissions[author].raw for author in sorted(submissions)),
        tuple(ballots[author].raw for author in sorted(ballots)),
    )
    return leader_bundles(bundle, **changes)


def leader_bundles(bundle: Bundle, **changes: object) -> RoundEvidence:
    commitment = replace(
        PLAYED.commitment,
        submissions_root=merkle.root(bundle.submissions),
        ballots_root=merkle.root(bundle.ballots),
        counts=Counts(len(bundle.submissions), len(bundle.ballots)),
        bundle_cid=bundle.cid,
        **changes,  # type: ignore[arg-type]
    )
    return replace(with_commitment(PLAYED, commitment, anchored=True), bundle=bundle.encode())


# --- rounds that are right


@pytest.mark.parametrize(
    ("nodes", "cheaters"), [(1, ()), (2, (0,)), (5, (0,)), (15, (1, 4, 9)), (6, range(6))]
)
def test_an_honest_round_has_no_findings(nodes: int, cheaters: Sequence[int]) -> None:
    played = play(nodes, cheaters)
    report = check(played.evidence)
    assert report.findings == ()
    assert report.ok
    assert report.list == played.list


def test_the_round_pays_and_slashes_as_koii_does() -> None:
    for index in range(15):
        leaf = PLAYED.list.leaf(key(index))
        reward, slash = (0, 1_330_000_000) if index in (1, 4, 9) else (100_000_000 // 12, 0)
        assert leaf == Leaf(key(index), reward, slash)


def test_a_chain_of_rounds_in_which_a_cheater_is_slashed_once() -> None:
    previous: DistributionList | None = None
    digest = bytes(32)
    for number in (3, 4, 5):
        played = play(5, (0,), previous=previous, previous_digest=digest, round_number=number)
        report = check(played.evidence, previous)
        assert report.ok
        previous, digest = report.list, played.commitment.digest
    assert previous is not None
    assert previous.leaf(key(0)) == Leaf(key(0), 0, 1_330_000_000)
    assert previous.leaf(key(1)) == Leaf(key(1), 3 * 25_000_000, 0)


def test_an_empty_round() -> None:
    played = conclude(TERMS, PLAYED.roster, PLAYED.beacon, {}, {})
    assert check(played.evidence).ok


def test_without_an_anchored_list_only_the_commitment_is_checked() -> None:
    report = check(replace(PLAYED.evidence, list=None, anchored_root=None))
    assert report.ok
    assert report.list is None


def test_another_distribution() -> None:
    def all_to_the_first(group: Sequence[Submitter], bounty: int, number: int) -> dict[bytes, int]:
        assert number == 3
        return {group[0].key: bounty}

    report = check_round(TERMS, GENESIS, PLAYED.evidence, None, all_to_the_first)
    assert report.codes == {F.LIST_LEAF, F.REWARD_TOTAL, F.SLASH_TOTAL}
    assert report.list is not None
    assert report.list.reward_total == TERMS.bounty_per_round


def test_a_distribution_that_breaks_the_rules() -> None:
    report = check_round(
        TERMS, GENESIS, PLAYED.evidence, None, lambda group, bounty, _: {group[0].key: bounty + 1}
    )
    assert report.codes == {F.DISTRIBUTION}


# --- one changed thing, one answer


def test_an_anchored_value() -> None:
    evidence = PLAYED.evidence
    other = bytes(31) + b"\x01"
    for change, code in (
        ({"anchored_digest": other}, F.COMMITMENT_DIGEST),
        ({"anchored_root": other}, F.LIST_ROOT),
        ({"anchored_reward_total": 1}, F.REWARD_TOTAL),
        ({"anchored_slash_total": 1}, F.SLASH_TOTAL),
        ({"previous_digest": other}, F.PREVIOUS),
        ({"blockhash": other}, F.BEACON),
    ):
        assert check(replace(evidence, **change)).codes == {code}  # type: ignore[arg-type]


def test_a_stake_on_the_chain() -> None:
    first, *rest = PLAYED.roster.entries
    members = Roster(3, (replace(first, stake=first.stake + 1), *rest))
    assert check(replace(PLAYED.evidence, roster=members)).codes == {F.ROSTER}
    assert check(replace(PLAYED.evidence, roster=Roster(3, tuple(rest)))).codes == {F.ROSTER}


@pytest.mark.parametrize("kind", ["submissions", "ballots"])
def test_a_signature_in_the_bundle(kind: str) -> None:
    raws = list(getattr(PLAYED.bundle, kind))
    raws[6] = raws[6][:-1] + bytes([raws[6][-1] ^ 1])
    report = check(replace(PLAYED.evidence, bundle=rebundled(**{kind: raws})))
    root = F.SUBMISSIONS_ROOT if kind == "submissions" else F.BALLOTS_ROOT
    assert report.codes == {F.RECORD_SIGNATURE, F.BUNDLE_CID, root}
    authors = sorted(PLAYED.submissions if kind == "submissions" else PLAYED.ballots)
    assert subjects(report, F.RECORD_SIGNATURE) == [authors[6]]


def test_a_verdict_in_a_ballot() -> None:
    auditor, record = sorted(PLAYED.ballots.items())[3]
    body = record.statement.body
    assert isinstance(body, Ballot)
    # In the payload an entry is [id, verdict, evidence]: the verdict follows the 32 bytes of the id.
    at = record.raw.index(body.entries[0].submission_id) + 32
    flipped = bytearray(record.raw)
    flipped[at] ^= 3
    raws = [bytes(flipped) if raw == record.raw else raw for raw in PLAYED.bundle.ballots]
    report = check(replace(PLAYED.evidence, bundle=rebundled(ballots=raws)))
    assert report.codes == {F.RECORD_SIGNATURE, F.BUNDLE_CID, F.BALLOTS_ROOT}
    assert subjects(report, F.RECORD_SIGNATURE) == [auditor]


def test_bytes_that_are_no_record() -> None:
    raws = list(PLAYED.bundle.submissions)
    raws[2] = b"\x00" + raws[2][1:]
    report = check(replace(PLAYED.evidence, bundle=rebundled(submissions=raws)))
    assert report.codes == {F.RECORD_MALFORMED, F.BUNDLE_CID, F.SUBMISSIONS_ROOT}
    assert "submission 3 of 15" in report.findings[1].text


def test_bundle_commitment_and_list_bytes() -> None:
    evidence = PLAYED.evidence
    assert check(replace(evidence, bundle=evidence.bundle[:-1])).codes == {F.BUNDLE_CID, F.BUNDLE_MALFORMED}
    assert check(replace(evidence, bundle=b"")).codes == {F.BUNDLE_CID, F.BUNDLE_MALFORMED}
    assert check(replace(evidence, commitment=b"\xff")).codes == {F.COMMITMENT_DIGEST, F.COMMITMENT_MALFORMED}
    assert evidence.list is not None
    assert check(replace(evidence, list=evidence.list[1:])).codes == {F.LIST_MALFORMED}
    assert check(replace(evidence, list=None)).codes == {F.LIST_MALFORMED}


def test_a_total_in_the_list() -> None:
    assert PLAYED.evidence.list is not None
    staker = sorted(key(i) for i in range(15))[5]
    changed = bytearray(PLAYED.evidence.list)
    changed[changed.index(staker) + 32] ^= 1
    report = check(replace(PLAYED.evidence, list=bytes(changed)))
    assert report.codes == {F.LIST_ROOT, F.LIST_LEAF}
    assert subjects(report, F.LIST_LEAF) == [staker]
    assert report.list == PLAYED.list


def test_a_staker_of_the_list() -> None:
    leaves = PLAYED.list.leaves
    fewer = DistributionList(3, leaves[1:])
    report = check(replace(PLAYED.evidence, list=fewer.encode()))
    assert report.codes == {F.LIST_ROOT, F.LIST_LEAF_MISSING}
    assert subjects(report, F.LIST_LEAF_MISSING) == [leaves[0].staker]
    more = DistributionList(3, (Leaf(bytes(32), 0, 0), *leaves))
    assert check(replace(PLAYED.evidence, list=more.encode())).codes == {F.LIST_ROOT, F.LIST_LEAF_EXTRA}
    later = DistributionList(4, leaves)
    assert check(replace(PLAYED.evidence, list=later.encode())).codes == {F.LIST_ROUND}


def test_another_previous_list() -> None:
    report = check(PLAYED.evidence, DistributionList(2, (Leaf(key(0), 5, 0),)))
    assert report.codes == {F.LIST_LEAF, F.REWARD_TOTAL}
    assert subjects(report, F.LIST_LEAF) == [key(0)]
    of_the_future = DistributionList(4, (Leaf(key(0), 0, 0),))
    assert check(PLAYED.evidence, of_the_future).codes == {F.DISTRIBUTION}


def test_the_roster_of_another_round_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError):
        check(replace(PLAYED.evidence, roster=Roster(4, PLAYED.roster.entries)))


def committed(**changes: object) -> Commitment:
    return replace(PLAYED.commitment, **changes)  # type: ignore[arg-type]


def changed_outcomes() -> tuple[SubmissionOutcome, ...]:
    first, *rest = PLAYED.commitment.outcomes
    return (replace(first, outcome=Outcome.UNDECIDED), *rest)


def other_ids() -> tuple[SubmissionOutcome, ...]:
    first, *rest = PLAYED.commitment.outcomes
    return (replace(first, submission_id=bytes(32)), *rest)


OTHER = bytes(31) + b"\x01"
CHANGES: list[tuple[Callable[[], Commitment], set[F]]] = [
    (lambda: committed(task=OTHER), {F.COMMITMENT_TASK}),
    (lambda: committed(round=9), {F.COMMITMENT_ROUND}),
    (lambda: committed(previous=OTHER), {F.PREVIOUS}),
    (lambda: committed(beacon=OTHER), {F.BEACON}),
    (lambda: committed(roster_root=OTHER), {F.ROSTER}),
    (lambda: committed(submissions_root=OTHER), {F.SUBMISSIONS_ROOT}),
    (lambda: committed(ballots_root=OTHER), {F.BALLOTS_ROOT}),
    (lambda: committed(challenges_root=OTHER), {F.CHALLENGES_ROOT}),
    (lambda: committed(evidence_root=OTHER), {F.EVIDENCE_ROOT}),
    (lambda: committed(outcomes=changed_outcomes()), {F.OUTCOME}),
    (lambda: committed(outcomes=PLAYED.commitment.outcomes[1:]), {F.SUBMISSION_UNLISTED}),
    (lambda: committed(outcomes=other_ids()), {F.SUBMISSION_DIFFERS}),
    (lambda: committed(auditors=PLAYED.commitment.auditors[1:]), {F.AUDITOR_STATUS}),
    (lambda: committed(counts=Counts(15, 14)), {F.COUNTS}),
    (lambda: committed(bundle_cid=cid_of(b"")), {F.BUNDLE_CID}),
]


@pytest.mark.parametrize(("change", "codes"), CHANGES)
def test_a_field_of_the_stored_commitment(change: Callable[[], Commitment], codes: set[F]) -> None:
    """The chain has the right digest, the stored bytes were changed."""
    report = check(with_commitment(PLAYED, change(), anchored=False))
    assert report.codes == codes | {F.COMMITMENT_DIGEST}


@pytest.mark.parametrize(("change", "codes"), [row for row in CHANGES if F.BEACON not in row[1]])
def test_a_field_of_a_lying_leaders_commitment(change: Callable[[], Commitment], codes: set[F]) -> None:
    """The chain vouches for a wrong commitment. The list was made from the right outcomes."""
    report = check(with_commitment(PLAYED, change(), anchored=True))
    assert codes <= report.codes
    assert F.COMMITMENT_DIGEST not in report.codes


def test_a_leader_who_used_another_beacon() -> None:
    report = check(with_commitment(PLAYED, committed(beacon=OTHER), anchored=True))
    assert F.BEACON in report.codes


def test_a_lying_outcome_names_the_submitter() -> None:
    report = check(with_commitment(PLAYED, committed(outcomes=changed_outcomes()), anchored=True))
    assert report.codes == {F.OUTCOME}
    assert subjects(report, F.OUTCOME) == [PLAYED.commitment.outcomes[0].author]
    status = (PLAYED.commitment.auditors[0][0], AuditorStatus.ABSENT)
    report = check(
        with_commitment(PLAYED, committed(auditors=(status, *PLAYED.commitment.auditors[1:])), anchored=True)
    )
    assert report.codes == {F.AUDITOR_STATUS}
    assert subjects(report, F.AUDITOR_STATUS) == [status[0]]


# --- leaders who put the wrong records into a bundle


def test_a_submission_that_was_replaced_in_the_bundle() -> None:
    again = submission(secret(2), BAD)
    raws = [again.raw if raw == PLAYED.submissions[key(2)].raw else raw for raw in PLAYED.bundle.submissions]
    report = check(replace(PLAYED.evidence, bundle=rebundled(submissions=raws)))
    assert report.codes == {F.BUNDLE_CID, F.SUBMISSION_DIFFERS, F.SUBMISSIONS_ROOT}
    assert subjects(report, F.SUBMISSION_DIFFERS) == [key(2)]


def test_a_submission_that_was_left_out_of_the_bundle() -> None:
    raws = [raw for raw in PLAYED.bundle.submissions if raw != PLAYED.submissions[key(2)].raw]
    report = check(replace(PLAYED.evidence, bundle=rebundled(submissions=raws)))
    assert report.codes == {F.BUNDLE_CID, F.SUBMISSION_MISSING, F.SUBMISSIONS_ROOT}
    assert subjects(report, F.SUBMISSION_MISSING) == [key(2)]


def test_records_that_do_not_belong() -> None:
    slot = CLOCK.submission(3)
    for index, bad, code in (
        (2, say(secret(2), Submission(GOOD), 3, slot.closes), F.RECORD_PLACE),
        (2, submission(secret(2), GOOD, round_number=4), F.RECORD_PLACE),
        (2, say(secret(2), Submission(GOOD), 3, slot.opens, task=bytes(32)), F.RECORD_PLACE),
        (2, ballot(secret(2), {bytes(32): Verdict.VALID}), F.RECORD_KIND),
        (77, submission(secret(77), GOOD), F.RECORD_AUTHOR),
    ):
        report = check(leader_says(PLAYED.submissions | {key(index): bad}, PLAYED.ballots))
        assert subjects(report, code) == [key(index)]
        assert report.codes - {code} <= {F.SUBMISSION_MISSING}


def test_records_out_of_order_or_twice() -> None:
    raws = PLAYED.bundle.submissions
    for order in ((raws[1], raws[0], *raws[2:]), (raws[0], raws[0], *raws[1:])):
        assert F.RECORD_ORDER in check(leader_bundles(Bundle(order, PLAYED.bundle.ballots))).codes


def test_ballots_that_do_not_belong() -> None:
    auditor = key(0)
    due = PLAYED.assignment.authors_for(auditor, PLAYED.submissions)
    not_due = next(author for author in sorted(PLAYED.submissions) if author not in due)
    for entries, code in (
        ((), F.BALLOT_EMPTY),
        ((BallotEntry(PLAYED.submissions[not_due].id, Verdict.VALID),), F.BALLOT_NOT_ASSIGNED),
        ((BallotEntry(PLAYED.submissions[auditor].id, Verdict.VALID),), F.BALLOT_NOT_ASSIGNED),
        ((BallotEntry(bytes(32), Verdict.VALID),), F.BALLOT_UNKNOWN_SUBMISSION),
    ):
        bad = say(secret(0), Ballot(entries), 3, CLOCK.audit(3).opens)
        report = check(leader_says(PLAYED.submissions, PLAYED.ballots | {auditor: bad}))
        assert report.codes == {code}
        assert subjects(report, code) == [auditor]


def test_a_leader_who_drops_ballots_has_to_commit_to_what_follows() -> None:
    fewer = {auditor: record for auditor, record in PLAYED.ballots.items() if auditor != key(0)}
    report = check(leader_says(PLAYED.submissions, fewer))
    assert F.AUDITOR_STATUS in report.codes
    assert subjects(report, F.AUDITOR_STATUS) == [key(0)]


def test_a_list_that_does_not_follow_from_the_outcomes() -> None:
    leaf = PLAYED.list.leaves[0]
    greedy = DistributionList(3, (replace(leaf, reward_total=leaf.reward_total + 1), *PLAYED.list.leaves[1:]))
    evidence = replace(
        PLAYED.evidence,
        list=greedy.encode(),
        anchored_root=greedy.root,
        anchored_reward_total=greedy.reward_total,
    )
    report = check(evidence)
    assert report.codes == {F.LIST_LEAF, F.REWARD_TOTAL}
    assert subjects(report, F.LIST_LEAF) == [leaf.staker]


# --- any byte at all


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["commitment", "bundle", "list"]), st.data())
def test_any_changed_byte_is_found(name: str, data: st.DataObject) -> None:
    changed = bytearray(getattr(SMALL.evidence, name))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    report = check(replace(SMALL.evidence, **{name: bytes(changed)}))
    expected = {
        "commitment": {F.COMMITMENT_DIGEST},
        "bundle": {F.BUNDLE_CID},
        "list": {F.LIST_ROOT, F.LIST_MALFORMED, F.LIST_ROUND},
    }[name]
    assert report.codes & expected
    if name == "list":
        assert report.list == SMALL.list


def test_a_thousand_nodes() -> None:
    # Signing and checking two thousand records; the point is that nothing grows with the square of the net.
    nodes = 1000
    entries = sorted(
        (
            RosterEntry(key(i), TERMS.minimum_stake * random.Random(i).randint(1, 9), 0, bytes(32))
            for i in range(nodes)
        ),
        key=lambda entry: entry.key,
    )
    played: Round = play(nodes, range(0, nodes, 10), members=Roster(3, tuple(entries)))
    report = check(played.evidence)
    assert report.ok
    assert set(played.commitment.outcome_of.values()) == {Outcome.APPROVED, Outcome.REJECTED}


def test_every_finding_has_a_meaning() -> None:
    assert all(code.__doc__ and code.value == code.name.lower() for code in F)
