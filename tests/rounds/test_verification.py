from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records.cid import cid_of
from koii_p2p.records.schema import Ballot
from koii_p2p.rounds.audit_rules import Profile, Weights
from koii_p2p.rounds.commitment import Bundle, Commitment, SubmissionOutcome
from koii_p2p.rounds.distribution import DistributionList, Leaf, Submitter
from koii_p2p.rounds.findings import FindingCode as F
from koii_p2p.rounds.reputation import FLAWLESS, Reputation
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.round_records import SECTIONS
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.verification import RoundEvidence, RoundReport, check_round
from tests.rounds.net import (
    BAD,
    GENESIS,
    GOOD,
    KOII,
    TERMS,
    Round,
    challenge,
    conclude,
    evidence_against,
    key,
    play,
    records_of,
    secret,
    submission,
    with_commitment,
    with_rules,
)

PLAYED = play(nodes=15, cheaters=(1, 4, 9))
SMALL = play(nodes=4)
SHARING = with_rules(finders_share=3000)


def check(evidence: RoundEvidence, previous: DistributionList | None = None) -> RoundReport:
    return check_round(TERMS, GENESIS, evidence, previous)


def recheck(played: Round, **changes: Any) -> RoundReport:
    return check_round(played.terms, GENESIS, replace(played.evidence, **changes), None)


def subjects(report: RoundReport, code: F) -> list[bytes | None]:
    return [finding.subject for finding in report.findings if finding.code is code]


def rebundled(**sections: Sequence[bytes]) -> bytes:
    changed = {name: tuple(raws) for name, raws in sections.items()}
    return replace(PLAYED.bundle, **changed).encode()


def root_of(section: str) -> F:
    return F[f"{section.upper()}_ROOT"]


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


@pytest.mark.parametrize(
    "terms",
    [
        KOII,
        with_rules(profile=Profile.ALL),
        with_rules(profile=Profile.ALL, sealed=True, weights=Weights.EQUAL),
        with_rules(profile=Profile.POSP, audit_rate=3000),
        with_rules(weights=Weights.STAKE_TIME),
        with_rules(sealed=True, canary_rate=100),
        SHARING,
    ],
)
def test_an_honest_round_by_other_rules(terms: Any) -> None:
    played = play(12, (1, 4), terms)
    report = recheck(played)
    assert report.findings == ()
    assert report.list == played.list


def everything() -> Round:
    """A round with a record in every section."""
    terms = with_rules(sealed=True, canary_rate=500, finders_share=3000, witness_seats=2)
    owned_up = challenge(secret(2), submission(secret(2), BAD))
    accused = challenge(secret(5), submission(secret(6), GOOD))
    twice = evidence_against(secret(0), submission(secret(7), GOOD), submission(secret(7), "other"))
    return play(14, (1, 2), terms, extra=(owned_up, accused, twice))


def test_a_round_with_every_kind_of_record() -> None:
    played = everything()
    assert all(played.commitment.counts)
    assert played.commitment.outcome_of == {
        **dict.fromkeys(played.submissions, Outcome.APPROVED),
        key(1): Outcome.REJECTED,
        key(2): Outcome.CANARY,
        key(7): Outcome.EQUIVOCATED,
    }
    statuses = dict(played.commitment.auditors)
    assert statuses[key(5)] is AuditorStatus.OVERRULED
    assert statuses[key(7)] is AuditorStatus.EQUIVOCATED
    report = recheck(played)
    assert report.findings == ()
    assert report.list == played.list


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_left_out_of_the_bundle(section: str) -> None:
    """The leader commits to nothing of this kind: whatever the other records lead to is another commitment."""
    played = everything()
    kept = {name: played.bundle.sections[name] for name in SECTIONS if name != section}
    bundle = Bundle(**kept)
    report = check_round(played.terms, GENESIS, leader_bundles(played, bundle), None)
    effects = {
        "submissions": {F.SUBMISSION_MISSING},
        "ballots": {F.REVEAL_WITHOUT_BALLOT},
        "reveals": {F.BALLOT_UNREVEALED},
        "full_ballots": {F.OUTCOME},
        "challenges": {F.BALLOT_UNDISPUTED},
        "evidence": {F.OUTCOME, F.AUDITOR_STATUS},
    }
    assert effects[section] <= report.codes
    assert not report.codes & {F.BUNDLE_CID, F.COUNTS, root_of(section)}


def leader_bundles(played: Round, bundle: Bundle, **changes: Any) -> RoundEvidence:
    """What a leader anchors who commits to this bundle, and to the outcomes of `played`, right or wrong."""
    commitment = replace(
        played.commitment,
        roots=bundle.roots,
        counts=tuple(len(raws) for raws in bundle.sections.values()),
        bundle_cid=bundle.cid,
        **changes,
    )
    return replace(with_commitment(played, commitment, anchored=True), bundle=bundle.encode())


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
    played = conclude(TERMS, PLAYED.roster, PLAYED.beacon, records_of(TERMS, PLAYED.roster))
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
    other = bytes(31) + b"\x01"
    for change, code in (
        ({"anchored_digest": other}, F.COMMITMENT_DIGEST),
        ({"anchored_root": other}, F.LIST_ROOT),
        ({"anchored_reward_total": 1}, F.REWARD_TOTAL),
        ({"anchored_slash_total": 1}, F.SLASH_TOTAL),
        ({"previous_digest": other}, F.PREVIOUS),
        ({"blockhash": other}, F.BEACON),
    ):
        assert recheck(PLAYED, **change).codes == {code}


def test_a_stake_on_the_chain() -> None:
    first, *rest = PLAYED.roster.entries
    members = Roster(3, (replace(first, stake=first.stake + 1), *rest))
    assert check(replace(PLAYED.evidence, roster=members)).codes == {F.ROSTER}
    assert check(replace(PLAYED.evidence, roster=Roster(3, tuple(rest)))).codes == {F.ROSTER}


@pytest.mark.parametrize("section", ["submissions", "ballots", "full_ballots"])
def test_a_signature_in_the_bundle(section: str) -> None:
    raws = list(PLAYED.bundle.sections[section])
    raws[6] = raws[6][:-1] + bytes([raws[6][-1] ^ 1])
    report = check(replace(PLAYED.evidence, bundle=rebundled(**{section: raws})))
    assert report.codes == {F.RECORD_SIGNATURE, F.BUNDLE_CID, root_of(section)}
    authors = sorted(PLAYED.records.sections[section])
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
    assert "record 3 of 15 in submissions" in report.findings[1].text


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


def test_the_roster_of_another_round_or_other_weights_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="of round 4"):
        check(replace(PLAYED.evidence, roster=Roster(4, PLAYED.roster.entries)))
    with pytest.raises(ValueError, match="weighed by EQUAL"):
        check(replace(PLAYED.evidence, roster=replace(PLAYED.roster, weights=Weights.EQUAL)))


def committed(**changes: object) -> Commitment:
    return replace(PLAYED.commitment, **changes)  # type: ignore[arg-type]


def changed_outcomes() -> tuple[SubmissionOutcome, ...]:
    first, *rest = PLAYED.commitment.outcomes
    return (replace(first, outcome=Outcome.UNDECIDED), *rest)


def other_ids() -> tuple[SubmissionOutcome, ...]:
    first, *rest = PLAYED.commitment.outcomes
    return (replace(first, submission_id=bytes(32)), *rest)


def other_root(section: str) -> Commitment:
    roots = list(PLAYED.commitment.roots)
    roots[SECTIONS.index(section)] = OTHER
    return committed(roots=tuple(roots))


OTHER = bytes(31) + b"\x01"
CHANGES: list[tuple[Callable[[], Commitment], set[F]]] = [
    (lambda: committed(task=OTHER), {F.COMMITMENT_TASK}),
    (lambda: committed(round=9), {F.COMMITMENT_ROUND}),
    (lambda: committed(previous=OTHER), {F.PREVIOUS}),
    (lambda: committed(beacon=OTHER), {F.BEACON}),
    (lambda: committed(roster_root=OTHER), {F.ROSTER}),
    *((lambda name=name: other_root(name), {root_of(name)}) for name in SECTIONS),
    (lambda: committed(outcomes=changed_outcomes()), {F.OUTCOME}),
    (lambda: committed(outcomes=PLAYED.commitment.outcomes[1:]), {F.SUBMISSION_UNLISTED}),
    (lambda: committed(outcomes=other_ids()), {F.SUBMISSION_DIFFERS}),
    (lambda: committed(auditors=PLAYED.commitment.auditors[1:]), {F.AUDITOR_STATUS}),
    (lambda: committed(counts=(15, 15, 0, 14, 0, 1)), {F.COUNTS}),
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


def test_a_leader_who_drops_ballots_has_to_commit_to_what_follows() -> None:
    fewer = tuple(record.raw for auditor, record in PLAYED.ballots.items() if auditor != key(0))
    report = check(leader_bundles(PLAYED, replace(PLAYED.bundle, ballots=fewer)))
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


# --- what can be said without the records


def lied() -> DistributionList:
    leaf = PLAYED.list.leaves[0]
    return replace(
        PLAYED.list, leaves=(replace(leaf, reward_total=leaf.reward_total + 1), *PLAYED.list.leaves[1:])
    )


def test_a_list_follows_from_the_committed_outcomes_when_the_bundle_is_lost() -> None:
    report = recheck(PLAYED, bundle=b"", list=lied().encode(), anchored_root=lied().root)
    assert report.codes == {F.BUNDLE_CID, F.BUNDLE_MALFORMED, F.LIST_LEAF}
    assert report.list == PLAYED.list


def test_an_equivocator_is_punished_by_the_committed_standing_alone() -> None:
    twice = evidence_against(secret(0), submission(secret(7), GOOD), submission(secret(7), "other"))
    played = play(10, (1,), extra=(twice,))
    assert played.list.leaf(key(7)) == Leaf(key(7), 0, 1_330_000_000)
    report = recheck(played, bundle=b"")
    assert report.codes == {F.BUNDLE_CID, F.BUNDLE_MALFORMED}
    assert report.list == played.list


def test_who_found_a_fraud_is_in_the_records_alone() -> None:
    """With finders paid, the list of a round with a fraud cannot be recomputed without its bundle."""
    played = play(10, (1,), SHARING)
    assert played.tally.finders
    other = replace(played.list, leaves=tuple(replace(leaf, reward_total=0) for leaf in played.list.leaves))
    report = recheck(
        played, bundle=b"", list=other.encode(), anchored_root=other.root, anchored_reward_total=0
    )
    assert report.codes == {F.BUNDLE_CID, F.BUNDLE_MALFORMED}
    assert report.list == other  # what the chain has, and nobody can refute
    peaceful = play(10, (), SHARING)
    assert recheck(peaceful, bundle=b"").list == peaceful.list


def test_with_the_chains_word_against_the_roster_nothing_is_recomputed() -> None:
    first, *rest = PLAYED.roster.entries
    members = Roster(3, (replace(first, stake=first.stake + 1), *rest))
    raws = list(PLAYED.bundle.ballots)
    raws[0] = raws[0][:-1] + bytes([raws[0][-1] ^ 1])
    report = recheck(PLAYED, roster=members, bundle=rebundled(ballots=raws))
    assert report.codes == {F.ROSTER, F.BUNDLE_CID, F.RECORD_SIGNATURE, F.BALLOTS_ROOT}
    assert report.list == PLAYED.list


# --- reputation


def test_trusted_submitters_are_audited_less_and_the_check_draws_alike() -> None:
    terms = with_rules(reputation_floor=100)
    trusted = {key(index): Reputation(FLAWLESS, 0) for index in range(5, 30)}
    played = play(30, (), terms, reputations=trusted)
    audited = {author for author in played.submissions if played.assignment.is_audited(author)}
    assert {key(index) for index in range(5)} <= audited
    assert len(audited) < 10
    assert recheck(played).ok
    # Whoever knows nobody's reputation takes everybody for due.
    assert {F.OUTCOME, F.AUDITOR_STATUS} <= recheck(played, reputations={}).codes


def test_without_a_floor_reputation_changes_nothing() -> None:
    assert recheck(PLAYED, reputations={key(0): Reputation(FLAWLESS, 0)}).ok


# --- any byte at all


@settings(max_examples=60)
@given(st.sampled_from(["commitment", "bundle", "list"]), st.data())
def test_any_changed_byte_is_found(name: str, data: st.DataObject) -> None:
    changed = bytearray(getattr(SMALL.evidence, name))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    report = recheck(SMALL, **{name: bytes(changed)})
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
