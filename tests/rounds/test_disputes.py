"""One dispute each, and what it comes to: objections to anchors, withheld data, contradictions, late words, spam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from koii_p2p.records.cid import cid_of
from koii_p2p.records.equivocation import Place
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    Challenge,
    CommitmentNotice,
    Kind,
    ListNotice,
    Statement,
    Verdict,
)
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.eligibility import FULL_AUDIT, MAX_CHALLENGES
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds import adversaries as bad
from tests.rounds.liars import Lie, LyingLeader, liar
from tests.rounds.simulation import BOUNTY, STAKE, TERMS, Maker, Net, Peer, records_read_once

SLASH = STAKE * 7000 // 10000


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with records_read_once():
        yield


def with_rules(**changes: Any) -> TaskTerms:
    return replace(TERMS, audit=AuditRules(**changes))


def outcome_of(net: Net, peer: Peer, number: int = 0) -> Outcome | None:
    state = net.peers[0].engine.round(number)
    assert state is not None
    assert state.commitment is not None
    return state.commitment.outcome_of.get(peer.key)


def status_of(net: Net, peer: Peer, number: int = 0) -> AuditorStatus | None:
    state = net.peers[0].engine.round(number)
    assert state is not None
    assert state.commitment is not None
    return dict(state.commitment.auditors).get(peer.key)


def reasons(net: Net, number: int = 0, attempt: int = 0) -> set[ListObjection]:
    """What honest stakers said of one attempt, on the wire."""
    found = set()
    for peer in net.peers:
        vote = net.vote_of(peer, number, attempt)
        if peer.honest and vote is not None:
            found.add(ListObjection(vote.reason))
    return found


def slashed(net: Net) -> list[str]:
    return sorted(type(peer).__name__ for peer in net.peers if peer.staked and net.stake_of(peer) < STAKE)


def assert_honest_were_paid(net: Net, number: int = 0) -> None:
    honest = [peer for peer in net.peers if peer.honest and peer.role.submits]
    assert all(outcome_of(net, peer, number) is Outcome.APPROVED for peer in honest)
    assert all(net.chain.stakes[peer.key].reward_paid > 0 for peer in honest)
    assert all(net.stake_of(peer) == STAKE for peer in honest)


def only_first(number: int, attempt: int) -> bool:
    return (number, attempt) == (0, 0)


# --- objections to what a leader anchored

LIES = [
    (Lie.OMIT_SUBMISSION, (), ListObjection.OMITTED_RECORD),
    (Lie.OMIT_ACCUSATION, (bad.WrongValue,), ListObjection.OMITTED_RECORD),
    (Lie.OMIT_EVIDENCE, (bad.Equivocator,), ListObjection.OMITTED_RECORD),
    (Lie.TWICE, (), ListObjection.INVALID_RECORD),
    (Lie.MISPLACED, (), ListObjection.INVALID_RECORD),
    (Lie.OUTCOME, (), ListObjection.WRONG_OUTCOME),
    (Lie.WITHHOLD_COMMITMENT, (), ListObjection.DATA_WITHHELD),
    (Lie.PAY_ITSELF, (), ListObjection.WRONG_LIST),
    (Lie.WITHHOLD_LIST, (), ListObjection.WRONG_LIST),
]


@pytest.mark.parametrize(("lie", "friends", "reason"), LIES)
def test_a_lie_is_vetoed_for_what_it_is_and_the_next_attempt_settles(
    lie: Lie, friends: tuple[Maker, ...], reason: ListObjection
) -> None:
    net = Net(7, crew=[liar(lie, only_first), *friends])
    net.run_until_settled(0, attempt=1)
    culprit = net.peers[7]
    assert isinstance(culprit, LyingLeader)
    assert [told.lie for told in culprit.told] == [lie]
    assert reasons(net) == {reason}
    anchored = net.chain.anchored[0]
    assert (anchored.attempt, anchored.rejected) == (1, False)
    assert culprit.key not in anchored.anchorers
    assert anchored.barred == (culprit.key,)
    assert reasons(net, attempt=1) == {ListObjection.NONE}
    assert len({peer.settled[0] for peer in net.peers}) == 1
    assert_honest_were_paid(net)
    assert slashed(net) == sorted(maker.__name__ for maker in friends)
    # The next round did not wait for it.
    assert net.chain.anchored[1].list_root is not None


def test_whoever_commits_and_lists_nothing_is_overtaken_by_the_next_leader() -> None:
    net = Net(5, crew=[liar(Lie.NO_LIST, only_first)])
    net.run_until_settled(0)
    anchored = net.chain.anchored[0]
    assert anchored.commitment_by == net.peers[5].key
    assert anchored.list_by != net.peers[5].key
    assert (anchored.attempt, anchored.rejected) == (0, False)
    assert_honest_were_paid(net)


def test_a_list_that_nobody_anchors_in_time_opens_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    anchor_list = Peer.anchor_list

    def refused_at_first(peer: Peer, action: events.AnchorList) -> None:
        if action.round or action.attempt:
            anchor_list(peer, action)

    monkeypatch.setattr(Peer, "anchor_list", refused_at_first)
    net = Net(5)
    net.run_until_settled(0, attempt=1)
    assert reasons(net) == {ListObjection.NO_LIST}
    assert net.chain.anchored[0].attempt == 1
    assert net.chain.anchored[0].list_root is not None
    assert_honest_were_paid(net)


def let_liars_be_quicker(monkeypatch: pytest.MonkeyPatch, number: int, attempts: range) -> None:
    """In these attempts at a round no honest peer gets its transactions in before a liar does."""
    anchor_commitment, anchor_list = Peer.anchor_commitment, Peer.anchor_list

    def commit(peer: Peer, action: events.AnchorCommitment) -> None:
        if action.round != number or action.attempt not in attempts:
            anchor_commitment(peer, action)

    def list_(peer: Peer, action: events.AnchorList) -> None:
        anchored = peer.net.chain.anchored[action.round]
        by_liar = anchored.commitment_by in bad.friends_of(peer)
        if action.round != number or action.attempt not in attempts or not by_liar:
            anchor_list(peer, action)

    monkeypatch.setattr(Peer, "anchor_commitment", commit)
    monkeypatch.setattr(Peer, "anchor_list", list_)


def test_lies_in_successive_attempts_end_with_the_first_honest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    let_liars_be_quicker(monkeypatch, 1, range(3))
    lies = [
        liar(lie, lambda number, attempt, turn=turn: number == 1 and attempt == turn)  # type: ignore[misc]
        for turn, lie in enumerate((Lie.OUTCOME, Lie.PAY_ITSELF, Lie.OMIT_SUBMISSION))
    ]
    net = Net(8, crew=lies)
    net.run_until_settled(4, attempt=1)
    told = [peer.told for peer in net.peers if isinstance(peer, LyingLeader)]
    assert [[one.attempt for one in found] for found in told] == [[0], [1], [2]]
    anchored = net.chain.anchored[1]
    assert (anchored.attempt, anchored.rejected) == (3, False)
    assert anchored.list_root is not None
    for number in range(5):
        assert net.chain.anchored[number].list_root is not None
        assert not net.chain.anchored[number].rejected
    # Each round's bounty once, whatever was anchored in between.
    newest = net.peers[0].engine.newest_list()
    assert newest is not None
    assert {leaf.reward_total for leaf in newest.leaves} == {BOUNTY // 11 * (newest.round + 1)}
    assert slashed(net) == []


def test_liars_in_all_attempts_cost_the_round_and_nobody_s_stake(monkeypatch: pytest.MonkeyPatch) -> None:
    let_liars_be_quicker(monkeypatch, 0, range(4))
    always = [liar(Lie.OUTCOME, lambda number, _attempt: number == 0) for _ in range(4)]
    net = Net(9, crew=always)
    net.run_until_settled(0, attempt=3)
    anchored = net.chain.anchored[0]
    assert (anchored.attempt, anchored.rejected) == (TERMS.allowed_failed_distributions, True)
    assert not any(0 in peer.settled for peer in net.peers)
    net.run_until_settled(4)
    assert net.chain.anchored[4].list_root is not None
    assert not net.chain.anchored[4].rejected
    assert slashed(net) == []


def test_a_net_in_pieces_that_reaches_k2_still_vetoes_a_plain_lie() -> None:
    net = Net(8, crew=[liar(Lie.OUTCOME, only_first)])
    net.run_until(TERMS.clock.distribution(0).closes - 1)
    for index, peer in enumerate(net.peers):
        peer.group = index % 3
    net.run_until_settled(0)
    assert reasons(net) == {ListObjection.WRONG_OUTCOME}
    assert net.chain.anchored[0].attempt + net.chain.anchored[0].rejected == 1
    assert not any(0 in peer.settled for peer in net.peers)


def test_a_third_that_objects_to_everything_changes_nothing() -> None:
    net = Net(6, crew=[bad.Objector] * 3)
    net.run_until_settled(1)
    assert [name for name, _number in net.chain.transactions].count("veto") >= 3
    for number in range(2):
        anchored = net.chain.anchored[number]
        assert (anchored.attempt, anchored.rejected) == (0, False)
        assert anchored.veto_stake == 3 * STAKE
    assert_honest_were_paid(net)


# --- contradictions


def twice(kind: Kind) -> Maker:
    def make(net: Net, secret: Any) -> Peer:
        peer = bad.Equivocator(net, secret)
        peer.twice = kind
        return peer

    return make


ON_THEIR_OWN = [
    (Kind.SUBMISSION, TERMS, 0),
    (Kind.BALLOT, TERMS, 0),
    (Kind.BALLOT, with_rules(sealed=True), 0),
    (Kind.BALLOT_REVEAL, with_rules(sealed=True), 0),
    (Kind.LIST_VOTE, TERMS, 1),
]


@pytest.mark.parametrize(("kind", "terms", "carried_by"), ON_THEIR_OWN)
def test_whoever_signs_twice_is_convicted_once(kind: Kind, terms: TaskTerms, carried_by: int) -> None:
    net = Net(5, crew=[twice(kind)], terms=terms)
    net.run_until_settled(carried_by)
    assert_convicted(net, net.peers[5], carried_by)


def assert_convicted(net: Net, culprit: Peer, number: int) -> None:
    assert status_of(net, culprit, number) is AuditorStatus.EQUIVOCATED
    assert outcome_of(net, culprit, number) in (Outcome.EQUIVOCATED, None)
    assert net.stake_of(culprit) == STAKE - SLASH
    listed = net.peers[0].engine.list_of(number)
    assert listed is not None
    leaf = listed.leaf(culprit.key)
    assert leaf is not None
    assert leaf.slash_total == SLASH
    assert leaf.reward_total == number * (BOUNTY // 6)
    assert slashed(net) == [type(culprit).__name__]
    assert net.chain.anchored[number].attempt == 0


def say_twice(net: Net, peer: Peer, statement: Statement) -> None:
    """Sign a statement and one that contradicts it, and show each to half of the net."""
    assert isinstance(peer, bad.Adversary)
    for raw, half in zip(
        (peer.sign_anew(statement).raw, peer.sign_anew(bad.contradiction(statement)).raw),
        peer.half(),
        strict=True,
    ):
        net.publish(peer, raw, half)


def submission_of(net: Net, author: Peer) -> bytes:
    state = net.peers[0].engine.round(0)
    assert state is not None
    return state.submissions()[author.key].id


def challenge_twice(net: Net, peer: Peer) -> Statement:
    net.run_until(TERMS.clock.first_ballots(0).opens + 2)
    return Statement(TERMS.task, 0, net.slot, 3, Challenge(submission_of(net, net.peers[1]), b"\x00" * 32))


def announce_a_commitment_twice(net: Net, peer: Peer) -> Statement:
    net.run_until(TERMS.clock.commitment(0).opens + 2)
    return Statement(TERMS.task, 0, net.slot, 0, CommitmentNotice(b"\x02" * 32, cid_of(b""), b"\x03" * 64))


def announce_a_list_twice(net: Net, peer: Peer) -> Statement:
    net.run_until(TERMS.clock.distribution(0).opens + 2)
    return Statement(TERMS.task, 0, net.slot, 0, ListNotice(b"\x02" * 32, cid_of(b""), 1, 0, b"\x03" * 64))


SAID_BY_HAND = [(challenge_twice, 0), (announce_a_commitment_twice, 1), (announce_a_list_twice, 1)]


@pytest.mark.parametrize(("said", "carried_by"), SAID_BY_HAND)
def test_a_contradiction_of_any_kind_convicts(
    said: Callable[[Net, Peer], Statement], carried_by: int
) -> None:
    net = Net(5, crew=[bad.Adversary])
    culprit = net.peers[5]
    say_twice(net, culprit, said(net, culprit))
    net.run_until_settled(carried_by)
    assert_convicted(net, culprit, carried_by)


def test_two_ballots_in_a_full_audit_convict() -> None:
    net = Net(7, crew=[bad.Silent, bad.WrongValue], terms=with_rules(auditors=2))
    culprit, cheater = net.peers[7], net.peers[8]
    net.run_until(TERMS.clock.full_audit(0).opens + 1)
    ballot = Ballot((BallotEntry(submission_of(net, cheater), Verdict.VALID),))
    say_twice(net, culprit, Statement(TERMS.task, 0, net.slot, FULL_AUDIT, ballot))
    net.run_until_settled(0)
    assert status_of(net, culprit) is AuditorStatus.EQUIVOCATED
    assert outcome_of(net, cheater) is Outcome.REJECTED
    assert slashed(net) == ["Silent", "WrongValue"]


# --- canaries

CANARIES = with_rules(sealed=True, canary_rate=10_000)


def test_a_canary_that_was_owned_up_to_costs_its_maker_nothing() -> None:
    net = Net(5, crew=[bad.CanaryPlayer], terms=CANARIES)
    net.run_until_settled(0)
    assert outcome_of(net, net.peers[5]) is Outcome.CANARY
    assert slashed(net) == []
    assert net.chain.stakes[net.peers[5].key].reward_paid == 0


@pytest.mark.parametrize("audience", [None, 1])
def test_owning_up_once_votes_are_seen_is_no_insurance(audience: int | None) -> None:
    net = Net(5, crew=[bad.fake_canary(0, audience)], terms=CANARIES)
    net.run_until_settled(0)
    assert outcome_of(net, net.peers[5]) is Outcome.REJECTED
    assert net.stake_of(net.peers[5]) == STAKE - SLASH
    assert net.chain.anchored[0].attempt == 0


def test_a_leader_that_takes_in_a_late_owning_up_is_vetoed() -> None:
    net = Net(6, crew=[bad.fake_canary(0, None), liar(Lie.NOTHING, only_first)], terms=CANARIES)
    leader = net.peers[7]
    # It takes the late words for good ones: they are in what it commits to.
    net.run_until(CANARIES.clock.delay(0).opens)
    state = leader.engine.round(0)
    assert state is not None
    state.watched_openings = False
    net.run_until_settled(0, attempt=1)
    assert reasons(net) == {ListObjection.INVALID_RECORD}
    assert net.chain.anchored[0].attempt == 1
    assert outcome_of(net, net.peers[6]) is Outcome.REJECTED


@pytest.mark.parametrize("early", range(1, 9))
def test_a_canary_shown_to_half_of_the_net_at_any_time_does_not_split_it(early: int) -> None:
    net = Net(6, crew=[bad.fake_canary(-early, 3), bad.Objector], terms=CANARIES)
    net.run_until_settled(0)
    anchored = net.chain.anchored[0]
    assert (anchored.attempt, anchored.rejected) == (0, False)
    assert outcome_of(net, net.peers[6]) in (Outcome.CANARY, Outcome.REJECTED)
    assert_honest_were_paid(net)


# --- accusations


@pytest.mark.parametrize("profile", [Profile.HARDENED, Profile.ALL, Profile.POSP])
@pytest.mark.parametrize("lateness", [0, 3, 9, 12])
@pytest.mark.parametrize("audience", [1, None])
def test_a_late_false_accusation_changes_nothing(
    profile: Profile, lateness: int, audience: int | None
) -> None:
    rules = {"audit_rate": 7000} if profile is Profile.POSP else {}
    net = Net(6, crew=[bad.late(lateness, audience)], terms=with_rules(profile=profile, **rules))
    net.run_until_settled(0)
    assert net.chain.anchored[0].attempt == 0
    assert_honest_were_paid(net)
    assert slashed(net) == []


def test_under_profile_koii_one_late_vote_slashes_an_honest_submitter() -> None:
    """The weakness of the client that this profile copies, and why it is not the default."""
    net = Net(6, crew=[bad.LoneAccuser], terms=with_rules(profile=Profile.KOII, weights=Weights.EQUAL))
    net.run_until_settled(0)
    rejected = [peer for peer in net.peers if outcome_of(net, peer) is Outcome.REJECTED]
    assert len(rejected) == 1
    assert rejected[0].honest
    assert net.stake_of(rejected[0]) == STAKE - SLASH


@pytest.mark.parametrize("profile", [Profile.HARDENED, Profile.ALL])
def test_accusers_in_time_are_overruled(profile: Profile) -> None:
    net = Net(6, crew=[bad.Accuser] * 2, terms=with_rules(profile=profile))
    net.run_until_settled(0)
    assert_honest_were_paid(net)
    for peer in net.peers[6:]:
        assert status_of(net, peer) is AuditorStatus.OVERRULED


def test_spam_of_challenges_is_bounded_and_overruled() -> None:
    net = Net(6, crew=[bad.Spammer])
    net.run_until(TERMS.clock.delay(0).opens)
    spammer = net.peers[6]
    for peer in net.peers[:6]:
        state = peer.engine.round(0)
        assert state is not None
        assert state.challenges_of(spammer.key) <= MAX_CHALLENGES
        assert len(state.disputed(TERMS)) <= MAX_CHALLENGES
        assert peer.engine.statistics().refused["BAD_ATTEMPT"] == 2
    net.run_until_settled(0)
    assert status_of(net, spammer) is AuditorStatus.OVERRULED
    assert_honest_were_paid(net)


def test_a_key_without_stake_opens_no_full_audit() -> None:
    net = Net(5, crew=[bad.UnstakedLiar], stakes=[*[STAKE] * 5, 0], terms=with_rules(witness_seats=2))
    net.run_until_settled(0)
    assert status_of(net, net.peers[5]) is AuditorStatus.OVERRULED
    assert all(status_of(net, peer) is AuditorStatus.DILIGENT for peer in net.peers[:5])
    assert_honest_were_paid(net)


# --- withheld words


def test_withheld_ballots_are_absent() -> None:
    net = Net(5, crew=[bad.BallotWithholder])
    net.run_until_settled(0)
    assert status_of(net, net.peers[5]) is AuditorStatus.ABSENT
    assert_honest_were_paid(net)


def test_withheld_reveals_are_absent_and_their_ballots_left_out() -> None:
    net = Net(5, crew=[bad.RevealWithholder], terms=with_rules(sealed=True))
    net.run_until_settled(0)
    assert status_of(net, net.peers[5]) is AuditorStatus.ABSENT
    state = net.peers[0].engine.round(0)
    assert state is not None
    assert state.of_author(Kind.BALLOT, net.peers[5].key) is not None
    assert state.built is not None
    assert net.peers[5].key not in state.built.records.ballots
    assert_honest_were_paid(net)


def test_a_submission_shown_to_one_peer_is_reconciled_and_counts() -> None:
    net = Net(5, crew=[bad.Withholder])
    net.run_until_settled(0)
    assert outcome_of(net, net.peers[5]) is Outcome.APPROVED
    assert net.chain.anchored[0].attempt == 0


def test_a_submission_kept_for_oneself_is_no_omission() -> None:
    net = Net(5, crew=[bad.Silent])
    hermit = net.peers[5]
    net.run_until(TERMS.clock.audit(0).opens)
    state = hermit.engine.round(0)
    assert state is not None
    assert state.of_author(Kind.SUBMISSION, hermit.key) is None
    net.run_until_settled(0)
    assert outcome_of(net, hermit) is None
    assert reasons(net) == {ListObjection.NONE}


# --- bytes


def test_garbled_records_are_refused_and_stop_nobody() -> None:
    net = Net(5, crew=[bad.Garbler])
    net.run_until_settled(0)
    for peer in net.peers[:5]:
        refused = peer.engine.statistics().refused
        assert refused["UNKNOWN_TASK"] > 0
        assert sum(refused.values()) > 3
    assert_honest_were_paid(net)


def test_late_accusations_are_answered_with_a_verdict_or_not_at_all() -> None:
    """An auditor whose task had no time for an accusation leaves it out: UNAVAILABLE would count as a vote."""
    net = Net(4, crew=[bad.late(0, 0)], terms=with_rules(auditors=3))
    accuser, window = net.peers[4], TERMS.clock.full_audit(0)
    net.run_until(window.closes - 2)
    state = accuser.engine.round(0)
    assert state is not None
    held = state.of_author(Kind.BALLOT, accuser.key)
    assert held is not None
    for peer in net.peers[:4]:
        peer.hear(held.raw, Source.SYNC)
    net.run_until_settled(0)
    said = [
        entry.verdict
        for peer in net.peers[:4]
        if (ballot := peer.signed.get(Place(TERMS.task, 0, Kind.BALLOT, FULL_AUDIT))) is not None
        for entry in getattr(ballot.body, "entries", ())
    ]
    assert Verdict.UNAVAILABLE not in said
    assert_honest_were_paid(net)
