"""Every reason that there is for being paid or not, each in a round that was really played."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import CommitmentNotice, ListNotice, ListVote, Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.beacon import beacon as beacon_of
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.rounds.eligibility import FULL_AUDIT
from koii_p2p.rounds.explain import Explanation, RoundFacts, Seen, explain
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.reputation import FLAWLESS, Reputation
from koii_p2p.rounds.roster import Checkpoint, Roster, StakeHistory
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.why import APPROVED, About, Why, why_table
from tests.rounds.net import (
    BAD,
    BLOCKHASH,
    GENESIS,
    GOOD,
    KOII,
    STAKE,
    TASK,
    TERMS,
    Round,
    assignment_of,
    ballot,
    challenge,
    conclude,
    evidence_against,
    key,
    play,
    records_of,
    roster,
    say,
    secret,
    submission,
    with_rules,
)

CLOCK = TERMS.clock
SETTLED = CLOCK.settles_at(3)
VALID, INVALID, LOST = Verdict.VALID, Verdict.INVALID, Verdict.UNAVAILABLE
DOCUMENT = Path(__file__).parents[2] / "docs" / "explain.md"


# --- facts as they are after a round


def stake_of(index: int, *points: Checkpoint, paid: int = 0, **changes: Any) -> StakeHistory:
    return StakeHistory(
        key(index), bytes(32), points or (Checkpoint(1, STAKE, 0),), reward_paid=paid, **changes
    )


def anchored(played: Round, **changes: Any) -> AnchoredRound:
    listed = played.list
    found = AnchoredRound(
        round=played.roster.round,
        attempt=0,
        commitment=played.commitment.digest,
        commitment_slot=CLOCK.commitment(3).opens + 5,
        commitment_by=key(1),
        list_root=listed.root,
        reward_total=listed.reward_total,
        slash_total=listed.slash_total,
        list_slot=CLOCK.distribution(3).opens + 3,
        list_by=key(2),
    )
    return replace(found, **changes)


def facts(played: Round, index: int = 0, **changes: Any) -> RoundFacts:
    """What is known once the round is settled and before anybody has claimed anything."""
    found = RoundFacts(
        terms=played.terms,
        genesis=GENESIS,
        round=played.roster.round,
        slot=SETTLED,
        roster=played.roster,
        stake=stake_of(index),
        anchored=anchored(played),
        beacon=played.beacon,
        commitment=played.evidence.commitment,
        bundle=played.evidence.bundle,
        list=played.list,
        reputations=played.evidence.reputations,
    )
    return replace(found, **changes)


def explained(played: Round, index: int = 0, **changes: Any) -> Explanation:
    return explain(facts(played, index, **changes), key(index))


def before(slot: int, index: int = 0, **changes: Any) -> Explanation:
    """Of a round of which nothing is anchored."""
    found = RoundFacts(TERMS, GENESIS, 3, slot, roster(5), stake=stake_of(index))
    return explain(replace(found, **changes), key(index))


# --- rounds in which somebody says something particular about the work of node 0


def voted(
    first: Mapping[int, Verdict],
    full: Mapping[int, Verdict] | None = None,
    *,
    nodes: int = 5,
    terms: TaskTerms = TERMS,
    stakes: Mapping[int, int] | None = None,
    challengers: tuple[int, ...] = (),
    value: str = GOOD,
) -> Round:
    """Only node 0 hands in work. `first` and `full` are what the others say of it, by their numbers."""
    members = roster(nodes, stakes=stakes, weights=terms.audit.weights)
    work = submission(secret(0), value)
    said = [work, *(ballot(secret(index), {work.id: verdict}) for index, verdict in first.items())]
    said += [challenge(secret(index), work) for index in challengers]
    for index, verdict in (full or {}).items():
        said.append(ballot(secret(index), {work.id: verdict}, stage=FULL_AUDIT))
    beacon = beacon_of(BLOCKHASH, TASK, 3)
    return conclude(terms, members, beacon, records_of(terms, members, said))


def drawn_in(nodes: int, terms: TaskTerms = TERMS) -> list[int]:
    """Who is drawn to audit node 0, by number."""
    assignment = assignment_of(
        terms, roster(nodes, weights=terms.audit.weights), beacon_of(BLOCKHASH, TASK, 3)
    )
    auditors = assignment.auditors_of(key(0))
    return [index for index in range(nodes) if key(index) in auditors]


POSP = with_rules(profile=Profile.POSP, audit_rate=1)
PEACE = play(5, ())
FRAUD = play(5, (0,))
SHARED = play(5, (0,), with_rules(finders_share=3000))
CANARIES = with_rules(sealed=True, canary_rate=100)
WITNESS = 90


def full_audit(verdicts: Mapping[int, Verdict]) -> Round:
    """Among twenty, one of those drawn accuses node 0, and these others vote in the full audit."""
    accuser, *peaceful = drawn_in(20)
    return voted({accuser: INVALID, **dict.fromkeys(peaceful, VALID)}, verdicts, nodes=20)


def others(count: int, verdict: Verdict, more: int = 0, another: Verdict = VALID) -> dict[int, Verdict]:
    """So many of the twenty who were not drawn, and so many more who say something else."""
    free = [index for index in range(1, 20) if index not in drawn_in(20)]
    return dict.fromkeys(free[:count], verdict) | dict.fromkeys(free[count : count + more], another)


def drawn(*verdicts: Verdict | None) -> dict[int, Verdict]:
    """What those drawn among twenty say, in the order of their numbers."""
    return {
        index: verdict for index, verdict in zip(drawn_in(20), verdicts, strict=True) if verdict is not None
    }


def canary(nodes: int, *, found: bool) -> Round:
    owned_up = challenge(secret(0), submission(secret(0), BAD if found else GOOD))
    return play(nodes, (0,) if found else (), CANARIES, extra=(owned_up,))


def twice() -> Round:
    work, other = submission(secret(0), GOOD), submission(secret(0), "another")
    return play(5, (), extra=(evidence_against(secret(1), work, other),))


def ejected() -> Explanation:
    """Slashed in round 3, and again at work in round 4, before K2 has taken the slash."""
    after = play(5, (), previous=FRAUD.list, previous_digest=FRAUD.commitment.digest, round_number=4)
    late = CLOCK.settles_at(4)
    return explained(after, previous=FRAUD.list, slot=late, anchored=anchored(after, round=4))


def without_work(*audits: int) -> Round:
    """Nodes 1 to 4 hand in work, node 0 does not; it votes on the work of these."""
    members, beacon = roster(5), beacon_of(BLOCKHASH, TASK, 3)
    work = {index: submission(secret(index), GOOD) for index in range(1, 5)}
    said: list[Verified] = list(work.values())
    for index in range(1, 5):
        verdicts = {record.id: VALID for other, record in work.items() if other != index}
        said.append(ballot(secret(index), verdicts))
    if audits:
        said.append(ballot(secret(0), {work[index].id: VALID for index in audits}))
    return conclude(TERMS, members, beacon, records_of(TERMS, members, said))


def witnessed() -> Round:
    """A key without stake votes on a seat that the task has for those."""
    work = submission(secret(0), GOOD)
    vote = ballot(secret(WITNESS), {work.id: VALID})
    return play(5, (), with_rules(witness_seats=2), extra=(vote,))


def held(timely: bool) -> tuple[Seen, ...]:
    return (Seen(submission(secret(0), GOOD), timely),)


def forged() -> Explanation:
    """A leader commits to an outcome that its own records do not lead to."""
    first, *rest = PEACE.commitment.outcomes
    wrong = replace(PEACE.commitment, outcomes=(replace(first, outcome=Outcome.UNDECIDED), *rest))
    return explained(PEACE, commitment=wrong.encode(), anchored=anchored(PEACE, commitment=wrong.digest))


def other_stakes() -> Roster:
    first, *rest = PEACE.roster.entries
    return Roster(3, (replace(first, stake=first.stake + 1), *rest))


def all_to_the_first(index: int) -> tuple[Round, DistributionList]:
    """The task gives the whole bounty to one node."""
    leaves = tuple(
        Leaf(leaf.staker, TERMS.bounty_per_round if leaf.staker == key(index) else 0, 0)
        for leaf in PEACE.list.leaves
    )
    return PEACE, DistributionList(3, leaves)


def gave_nothing() -> Explanation:
    played, listed = all_to_the_first(1)
    return explained(played, list=listed, anchored=anchored(played, list_root=listed.root))


def with_retries(**changes: Any) -> AnchoredRound:
    return anchored(PEACE, rejected=True, veto_stake=3 * STAKE, **changes)


PLAYED: dict[Why, Callable[[], Explanation]] = {
    # who may take part
    Why.NOT_BEGUN: lambda: before(CLOCK.work(3).opens - 1, roster=None),
    Why.NO_STAKE: lambda: before(CLOCK.work(3).opens, WITNESS, stake=None),
    Why.STAKED_LATER: lambda: before(
        SETTLED, WITNESS, stake=stake_of(WITNESS, Checkpoint(CLOCK.work(3).opens, STAKE, 0))
    ),
    Why.BELOW_MINIMUM: lambda: before(SETTLED, WITNESS, stake=stake_of(WITNESS, Checkpoint(1, STAKE - 1, 0))),
    Why.UNSTAKING: lambda: before(SETTLED, WITNESS, stake=stake_of(WITNESS, unstake_slot=2)),
    Why.WITNESSED_WITHOUT_STAKE: lambda: explained(witnessed(), WITNESS, stake=None),
    # a round on its way
    Why.WORKING: lambda: before(CLOCK.work(3).opens),
    Why.SUBMITTING: lambda: before(CLOCK.submission(3).opens),
    Why.AUDITING: lambda: before(CLOCK.audit(3).opens),
    Why.AWAITING_COMMITMENT: lambda: before(CLOCK.commitment(3).closes - 1),
    Why.NO_COMMITMENT: lambda: before(CLOCK.commitment(3).closes),
    # the commitment
    Why.COMMITMENT_UNREAD: lambda: explained(PEACE, commitment=None),
    Why.COMMITMENT_FALSE: forged,
    Why.UNVERIFIABLE: lambda: explained(PEACE, bundle=None),
    # the work
    Why.EJECTED: ejected,
    Why.EQUIVOCATED: lambda: explained(twice()),
    Why.SUBMISSION_OMITTED: lambda: explained(without_work(), seen=held(True)),
    Why.SUBMISSION_LATE: lambda: explained(without_work(), seen=held(False)),
    Why.AUDITED_ONLY: lambda: explained(without_work(1, 2, 3, 4)),
    Why.NOTHING_SUBMITTED: lambda: explained(without_work()),
    Why.KOII_UNOPPOSED: lambda: explained(play(5, (), KOII)),
    Why.KOII_APPROVED: lambda: explained(voted({1: INVALID, 2: VALID, 3: VALID}, terms=KOII)),
    Why.KOII_TIED: lambda: explained(voted({1: INVALID, 2: VALID}, terms=KOII)),
    Why.KOII_REJECTED: lambda: explained(voted({1: INVALID}, terms=KOII)),
    Why.CANARY_FOUND: lambda: explained(canary(6, found=True)),
    Why.CANARY_NOT_FOUND: lambda: explained(canary(6, found=False)),
    Why.NOT_AUDITED: lambda: explained(voted({}, terms=POSP)),
    Why.APPROVED_BY_DRAWN: lambda: explained(PEACE),
    Why.UNAVAILABLE_TO_DRAWN: lambda: explained(voted({1: LOST, 2: LOST, 3: VALID})),
    Why.UNDECIDED_ALONE: lambda: explained(voted({}, nodes=1)),
    Why.UNDECIDED_SILENCE: lambda: explained(voted({})),
    Why.UNDECIDED_TIE: lambda: explained(voted({1: VALID, 2: LOST})),
    Why.APPROVED_BY_FULL_AUDIT: lambda: explained(full_audit(others(10, VALID))),
    Why.REJECTED_BY_FULL_AUDIT: lambda: explained(full_audit(others(10, INVALID))),
    Why.UNAVAILABLE_IN_FULL_AUDIT: lambda: explained(
        voted(drawn(INVALID, LOST, LOST, LOST, LOST), others(7, LOST), nodes=20)
    ),
    Why.UNDECIDED_QUORUM: lambda: explained(
        voted({1: INVALID, 2: VALID, 3: VALID, 4: VALID}, stakes={1: 9 * STAKE})
    ),
    Why.APPROVED_FEW_AGAINST: lambda: explained(
        voted(drawn(INVALID, VALID, VALID, VALID, VALID), others(5, INVALID, 5, LOST), nodes=20)
    ),
    Why.UNAVAILABLE_FEW_AGAINST: lambda: explained(
        voted(drawn(INVALID, LOST, LOST, LOST, VALID), others(4, VALID, 2, INVALID), nodes=20)
    ),
    Why.UNDECIDED_FULL_AUDIT: lambda: explained(
        voted(
            drawn(INVALID, INVALID, INVALID, VALID, VALID),
            others(3, VALID, 6, INVALID),
            nodes=20,
        )
    ),
    Why.APPROVED_ACCUSATION_LAPSED: lambda: explained(full_audit({})),
    Why.UNAVAILABLE_ACCUSATION_LAPSED: lambda: explained(
        voted(drawn(INVALID, LOST, LOST, LOST, LOST), nodes=20)
    ),
    Why.UNDECIDED_ACCUSATION_LAPSED: lambda: explained(
        voted(drawn(INVALID, INVALID, INVALID, INVALID, VALID), nodes=20)
    ),
    # the list
    Why.AWAITING_LIST: lambda: explained(
        PEACE, slot=CLOCK.distribution(3).closes - 1, anchored=anchored(PEACE, list_root=None), list=None
    ),
    Why.LIST_OVERDUE: lambda: explained(
        PEACE, slot=SETTLED - 1, anchored=anchored(PEACE, list_root=None), list=None
    ),
    Why.NO_LIST: lambda: explained(PEACE, slot=SETTLED, anchored=anchored(PEACE, list_root=None), list=None),
    Why.LIST_REJECTED: lambda: explained(
        PEACE, slot=CLOCK.commitment(3, 1).closes - 1, anchored=with_retries()
    ),
    Why.FORFEITED: lambda: explained(PEACE, slot=CLOCK.commitment(3, 1).closes, anchored=with_retries()),
    Why.LIST_IN_AUDIT: lambda: explained(PEACE, slot=SETTLED - 1),
    Why.LIST_UNREAD: lambda: explained(PEACE, list=None),
    Why.NOT_LISTED: lambda: explained(PEACE, WITNESS, stake=None),
    Why.AMOUNT_UNKNOWN: lambda: explained(PEACE, previous_known=False),
    # the amount
    Why.GAVE_NOTHING: gave_nothing,
    Why.NOTHING_DUE: lambda: explained(without_work()),
    Why.UNCLAIMED: lambda: explained(PEACE, stake=stake_of(0, paid=19_999_999)),
    Why.PAID: lambda: explained(PEACE, stake=stake_of(0, paid=20_000_000)),
    Why.SLASH_PENDING: lambda: explained(FRAUD),
    Why.SLASH_TAKEN: lambda: explained(FRAUD, stake=stake_of(0, Checkpoint(1400, STAKE, 1_330_000_000))),
}
"""A played round for every reason there is."""


@pytest.mark.parametrize("why", Why, ids=lambda why: why.value)
def test_every_reason_is_that_of_a_played_round(why: Why) -> None:
    """Fails with KeyError for a reason that nobody played."""
    found = PLAYED[why]()
    assert why is (found.work if why.about is About.WORK else found.money)


def test_a_round_has_one_reason_of_each_kind() -> None:
    assert set(PLAYED) == set(Why)
    for why, made in PLAYED.items():
        found = made()
        assert found.work.about is About.WORK
        assert (found.money is None) == (found.anchors is None)
        assert found.money is None or found.money.about is About.MONEY
        if found.work in APPROVED:
            assert found.outcome is Outcome.APPROVED, why


MEANS = {
    "Approved": Outcome.APPROVED,
    "Rejected": Outcome.REJECTED,
    "Undecided": Outcome.UNDECIDED,
    "Unavailable": Outcome.UNAVAILABLE,
}


@settings(max_examples=150)
@given(st.data())
def test_the_reason_is_of_the_outcome_whatever_is_said(data: st.DataObject) -> None:
    """Any votes of anybody who may vote: the sentence begins with the outcome that the count came to."""
    nodes = data.draw(st.integers(1, 9))
    terms = data.draw(st.sampled_from([TERMS, KOII, POSP, with_rules(auditors=2, quorum=2)]))
    stakes = {index: data.draw(st.integers(1, 4)) * STAKE for index in range(1, nodes)}
    members = roster(nodes, stakes=stakes, weights=terms.audit.weights)
    assignment = assignment_of(terms, members, beacon_of(BLOCKHASH, TASK, 3))
    anybody = range(1, nodes)
    first = [one for one in anybody if terms is KOII or key(one) in assignment.auditors_of(key(0))]
    full = [one for one in anybody if one not in first and key(one) in assignment.committee_of(key(0))]
    verdicts = st.sampled_from([VALID, INVALID, LOST, None])

    def said(voters: list[int]) -> dict[int, Verdict]:
        drawn_verdicts = {one: data.draw(verdicts) for one in voters}
        return {one: verdict for one, verdict in drawn_verdicts.items() if verdict is not None}

    challengers = tuple(one for one in anybody if terms is not KOII and data.draw(st.integers(0, 5)) == 0)
    played = voted(said(first), said(full), nodes=nodes, terms=terms, stakes=stakes, challengers=challengers)
    found = explained(played)
    assert found.outcome is MEANS[str(found.work.__doc__).partition(":")[0]]
    assert (found.work in APPROVED) == (found.outcome is Outcome.APPROVED)


def test_the_page_has_every_reason() -> None:
    assert all(re.fullmatch(r"[a-z_]+", why.value) and why.value == why.name.lower() for why in Why)
    assert why_table() in DOCUMENT.read_text()


# --- what comes with the reason


def test_an_approval_names_the_auditors_and_the_amount() -> None:
    found = explained(PEACE)
    assert found.audit is not None
    assert {vote.auditor for vote in found.audit.drawn} == {key(index) for index in range(1, 5)}
    assert [vote.first for vote in found.audit.drawn] == [VALID] * 4
    assert (found.audit.missing, found.audit.accusers, found.audit.full) == ((), (), None)
    assert found.submission is not None
    assert found.submission.id == PEACE.submissions[key(0)].id
    assert found.outcome is Outcome.APPROVED
    assert found.status is AuditorStatus.DILIGENT
    assert {duty.author for duty in found.duties} == {key(index) for index in range(1, 5)}
    assert found.amounts is not None
    assert (found.amounts.reward, found.amounts.distributed, found.amounts.slash) == (
        20_000_000,
        20_000_000,
        0,
    )
    assert (found.amounts.bounty, found.amounts.approved, found.amounts.equal_split) == (100_000_000, 5, True)
    assert found.proof is not None
    assert merkle.verify(PEACE.list.root, found.proof.leaf.encode(), found.proof.proof)


@pytest.mark.parametrize(("against", "work"), [(5, Why.APPROVED_FEW_AGAINST), (6, Why.UNDECIDED_FULL_AUDIT)])
def test_a_third_against_is_few(against: int, work: Why) -> None:
    """Of 20 stakers of equal weight, one of those drawn and 5 more are no more than a third; 7 are."""
    first = drawn(INVALID, VALID, VALID, VALID, VALID)
    assert explained(voted(first, others(against, INVALID, 7, LOST), nodes=20)).work is work


def test_silence_names_who_was_silent() -> None:
    found = explained(voted({1: VALID, 2: LOST}))
    assert found.audit is not None
    assert set(found.audit.missing) == {key(3), key(4)}
    assert explained(voted({1: VALID, 2: LOST}), 3).duties[0].verdict is None
    assert explained(voted({1: VALID, 2: LOST}), 3).status is AuditorStatus.ABSENT


def test_a_full_audit_shows_its_weights() -> None:
    accuser = drawn_in(20)[0]
    found = explained(full_audit(others(10, INVALID)))
    assert found.audit is not None
    assert found.audit.accusers == (key(accuser),)
    audit = found.audit.full
    assert audit is not None
    assert (audit.committee_weight, audit.voted_weight, audit.against_weight) == (
        19 * STAKE,
        15 * STAKE,
        11 * STAKE,
    )
    assert (audit.against, audit.quorum, audit.counted) == (11, 3, True)
    assert len(found.audit.missing) == 4
    lapsed = explained(full_audit(others(3, VALID))).audit
    assert lapsed is not None
    assert lapsed.full is not None
    assert not lapsed.full.counted
    assert lapsed.full.voted_weight == 8 * STAKE


def test_a_challenge_of_work_that_was_not_due_for_audit_lapses() -> None:
    found = explained(voted({}, terms=POSP, challengers=(1,)))
    assert found.work is Why.APPROVED_ACCUSATION_LAPSED
    assert found.audit is not None
    assert not found.audit.audited


def test_a_challenger_is_an_accuser() -> None:
    free = next(index for index in range(1, 20) if index not in drawn_in(20))
    found = explained(
        voted(drawn(VALID, VALID, VALID, VALID, VALID), others(10, VALID), nodes=20, challengers=(free,))
    )
    assert found.work is Why.APPROVED_BY_FULL_AUDIT
    assert found.audit is not None
    assert found.audit.accusers == (key(free),)
    assert [vote.auditor for vote in found.audit.votes if vote.challenged] == [key(free)]
    accuser = explained(
        voted(drawn(VALID, VALID, VALID, VALID, VALID), others(10, VALID), nodes=20, challengers=(free,)),
        free,
    )
    assert accuser.status is AuditorStatus.OVERRULED


def test_koii_counts_votes_for_less_votes_against() -> None:
    found = explained(voted({1: INVALID, 2: VALID, 3: VALID}, terms=KOII))
    assert found.audit is not None
    assert found.audit.score == 1
    assert found.audit.drawn == ()
    assert found.audit.missing == ()
    assert found.audit.full is None


def test_a_slash_is_a_share_of_the_stake_at_risk() -> None:
    found = explained(FRAUD).amounts
    assert found is not None
    assert (found.slash, found.reward, found.taken) == (1_330_000_000, 0, 0)
    assert (found.effective_stake, found.slash_basis_points, found.default_slash) == (STAKE, 7000, True)


def test_finding_a_fraud_pays_its_finders() -> None:
    found = explained(SHARED, 1).amounts
    assert found is not None
    (share,) = found.found
    assert (share.author, share.accused) == (key(0), True)
    assert share.share == 1_330_000_000 * 3000 // 10000 // 4
    assert found.reward == found.bounty // 4 + share.share
    assert found.equal_split
    thief = explained(SHARED, 0).amounts
    assert thief is not None
    assert thief.found == ()


def test_the_shares_of_a_full_audit_add_up_to_what_the_list_gives() -> None:
    shared = with_rules(finders_share=5000)
    accuser = drawn_in(20)[0]
    first = {accuser: INVALID, **dict.fromkeys(drawn_in(20)[1:], VALID)}
    played = voted(first, others(10, INVALID), nodes=20, terms=shared)
    assert played.commitment.outcome_of[key(0)] is Outcome.REJECTED
    for index in range(20):
        amounts = explained(played, index).amounts
        assert amounts is not None
        assert amounts.reward == sum(share.share for share in amounts.found)
        assert [share.accused for share in amounts.found] in ([], [index == accuser])


def test_an_equivocation_shows_both_records() -> None:
    work, other = submission(secret(0), GOOD), submission(secret(0), "another")
    found = explained(twice())
    assert found.equivocation is not None
    assert set(found.equivocation) == {work.id, other.id}
    assert (found.outcome, found.status) == (Outcome.EQUIVOCATED, AuditorStatus.EQUIVOCATED)
    assert found.money is Why.SLASH_PENDING


def test_a_trusted_submitter_sees_its_audit_rate() -> None:
    terms = with_rules(reputation_floor=100)
    trusted = {key(index): Reputation(FLAWLESS, 0) for index in range(30)}
    played = play(30, (), terms, reputations=trusted)
    audited = [index for index in range(30) if played.assignment.is_audited(key(index))]
    spared = next(index for index in range(30) if index not in audited)
    found = explained(played, spared)
    assert found.work is Why.NOT_AUDITED
    assert found.audit is not None
    assert found.audit.rate == 100
    unknown = explained(played, spared, reputations=None)
    assert unknown.work is Why.UNVERIFIABLE
    assert unknown.outcome is Outcome.APPROVED
    assert explained(played, spared, reputations={}).work is Why.COMMITMENT_FALSE


def test_who_said_what_of_the_list_and_the_transactions() -> None:
    root = PEACE.list.root
    window = CLOCK.distribution_audit(3).opens + 1

    def vote(index: int, agree: bool, reason: int, seq: int = 0) -> Seen:
        return Seen(say(secret(index), ListVote(root, agree, reason), 3, window, seq), True)

    def notice(index: int) -> tuple[Seen, Seen]:
        anchor = CommitmentNotice(PEACE.commitment.digest, PEACE.commitment.bundle_cid, bytes([index]) * 64)
        listing = ListNotice(root, PEACE.list.cid, 1, 0, bytes([index]) * 64)
        slot = CLOCK.distribution(3).opens + 1
        return Seen(say(secret(index), anchor, 3, slot), True), Seen(
            say(secret(index), listing, 3, slot), True
        )

    seen = (vote(1, True, 0), vote(2, False, 2), vote(3, True, 0, seq=1), vote(WITNESS, True, 0))
    found = explained(PEACE, seen=(*seen, *notice(1), *notice(2), *notice(3)))
    assert {(one.author, one.agree, one.objection) for one in found.opinions} == {
        (key(1), True, ListObjection.NONE),
        (key(2), False, ListObjection.WRONG_LIST),
    }
    assert {one.stake for one in found.opinions} == {STAKE}
    assert found.anchors is not None
    # Only whom K2 names as the anchorer can say which transaction it was.
    assert found.anchors.commitment_signature == bytes([1]) * 64
    assert found.anchors.list_signature == bytes([2]) * 64


def test_a_rejected_attempt_says_when_the_next_is() -> None:
    found = explained(PEACE, slot=CLOCK.commitment(3, 1).opens, anchored=with_retries())
    assert found.anchors is not None
    window = CLOCK.commitment(3, 1)
    assert found.anchors.next_attempt == (window.opens, window.closes)
    last = explained(
        PEACE,
        slot=CLOCK.commitment(3, 1).opens,
        anchored=with_retries(attempt=TERMS.allowed_failed_distributions),
    )
    assert last.money is Why.FORFEITED
    assert last.anchors is not None
    assert last.anchors.next_attempt is None


def test_the_second_attempt_has_windows_of_its_own() -> None:
    retried = anchored(PEACE, attempt=1)
    assert explained(PEACE, anchored=retried).money is Why.LIST_IN_AUDIT
    assert explained(PEACE, anchored=retried, slot=CLOCK.settles_at(3, 1)).money is Why.UNCLAIMED


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"commitment": b"other"}, Why.COMMITMENT_UNREAD),
        ({"beacon": bytes(32)}, Why.COMMITMENT_FALSE),
        ({"beacon": None}, Why.APPROVED_BY_DRAWN),
        ({"roster": other_stakes()}, Why.UNVERIFIABLE),
        ({"bundle": b"other"}, Why.UNVERIFIABLE),
        ({"terms": replace(TERMS, task=bytes(32))}, Why.COMMITMENT_FALSE),
        ({"genesis": bytes(32)}, Why.COMMITMENT_FALSE),
    ],
)
def test_what_is_not_as_k2_says_is_no_explanation(changes: dict[str, Any], why: Why) -> None:
    found = explained(PEACE, **changes)
    assert found.work is why
    assert (found.doubt is None) == (why is Why.APPROVED_BY_DRAWN)


def test_bytes_that_are_no_commitment_were_anchored() -> None:
    digest = sha256(b"junk").digest()
    found = explained(PEACE, commitment=b"junk", anchored=anchored(PEACE, commitment=digest))
    assert found.work is Why.COMMITMENT_FALSE


def test_a_list_that_is_not_the_anchored_one_is_not_looked_at() -> None:
    found = explained(PEACE, list=FRAUD.list)
    assert found.money is Why.LIST_UNREAD
    assert (found.amounts, found.proof) == (None, None)


def test_a_list_before_that_cannot_be_the_one_before_tells_nothing() -> None:
    more = DistributionList(2, (Leaf(key(0), 10**12, 0),))
    assert explained(PEACE, previous=more).money is Why.AMOUNT_UNKNOWN


def test_nothing_was_ever_added_to_totals_of_nothing() -> None:
    assert explained(without_work(), previous_known=False).money is Why.NOTHING_DUE


def test_a_roster_of_another_round_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="of round 4"):
        explained(PEACE, roster=roster(5, 4))
