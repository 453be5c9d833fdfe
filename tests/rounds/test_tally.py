from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import Profile, Weights
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.tally import AuditorStatus, Cast, Finders, Outcome, koii_outcome, outcome, tally
from koii_p2p.rounds.terms import HARDENED
from tests.rounds.net import BLOCKHASH, key, roster

V, I, U = Verdict.VALID, Verdict.INVALID, Verdict.UNAVAILABLE  # noqa: E741
AUTHOR = key(0)
Said = Mapping[bytes, Verdict]
Value = TypeVar("Value")


# --- the outcome of one submission


def decide(votes: list[Verdict | None], stakes: list[int] | None = None, quorum: int = 3) -> Outcome:
    """Outcome for assigned auditors 1, 2, ... with these votes (None: silent) and stakes (1 each)."""
    amounts = stakes or [1] * len(votes)
    members = roster(len(votes) + 1, stakes={index + 1: stake for index, stake in enumerate(amounts)})
    cast = {key(index + 1): vote for index, vote in enumerate(votes) if vote is not None}
    return outcome([key(index + 1) for index in range(len(votes))], cast, members, quorum)


def test_punishing_needs_a_majority_of_the_assigned_stake_and_a_quorum() -> None:
    assert decide([I, I, I, None, None]) is Outcome.REJECTED
    assert decide([I, I, None, None, None]) is Outcome.UNDECIDED  # silence never helps to slash
    assert decide([I, I, I, V, V]) is Outcome.REJECTED
    assert decide([I, I, V, V, V]) is Outcome.APPROVED
    assert decide([I, I, V, V], quorum=1) is Outcome.UNDECIDED  # exactly half is no majority
    assert decide([I, V, V, V, V], [100, 1, 1, 1, 1]) is Outcome.UNDECIDED  # stake without quorum
    assert decide([I, I, I, V, V], [1, 1, 1, 2, 2]) is Outcome.APPROVED  # quorum without stake
    assert decide([I, I, I, V, V], [1, 1, 1, 2, 1]) is Outcome.UNDECIDED  # exactly half either way


def test_with_fewer_auditors_than_the_quorum_all_of_them_must_agree() -> None:
    assert decide([I, I]) is Outcome.REJECTED
    assert decide([I, None]) is Outcome.UNDECIDED
    assert decide([I]) is Outcome.REJECTED


def test_approval_and_unavailability_need_a_majority_of_those_who_voted() -> None:
    assert decide([V, None, None, None, None]) is Outcome.APPROVED
    assert decide([V, U, None, None, None]) is Outcome.UNDECIDED
    assert decide([V, U, U, None, None]) is Outcome.UNAVAILABLE
    assert decide([V, V, U]) is Outcome.APPROVED
    assert decide([U, I, None]) is Outcome.UNDECIDED


def test_nobody_voted_nobody_was_asked_or_nobody_has_stake() -> None:
    assert decide([None, None]) is Outcome.UNDECIDED
    assert decide([]) is Outcome.UNDECIDED
    assert decide([I, I, I], [0, 0, 0]) is Outcome.UNDECIDED
    assert decide([V, V, V], [0, 0, 0]) is Outcome.UNDECIDED


def test_stakes_of_64_bits_do_not_overflow() -> None:
    huge = 2**64 - 1
    assert decide([I, I, I, V, V], [huge] * 5) is Outcome.REJECTED


def test_votes_of_others_do_not_count() -> None:
    members = roster(6)
    assigned = [key(1), key(2), key(3)]
    votes = {key(4): I, key(5): I, key(9): I, key(1): V}
    assert outcome(assigned, votes, members, 3) is Outcome.APPROVED


# --- Koii's rule, number for number (KOII.md 1.4)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([], Outcome.APPROVED),  # no audit was triggered: +1, implicit approval
        ([V], Outcome.APPROVED),
        ([U, U, U], Outcome.APPROVED),  # nobody said no: no trigger
        ([I], Outcome.REJECTED),  # -1: one node is enough, no quorum
        ([I, V], Outcome.UNDECIDED),  # a tie earns nothing and costs nothing
        ([I, V, V], Outcome.APPROVED),
        ([I, I, V], Outcome.REJECTED),
        ([I, U, U, U], Outcome.REJECTED),  # an exception in the audit is no vote at all
        ([I, V, U], Outcome.UNDECIDED),
    ],
)
def test_koii_counts_plus_and_minus_one(votes: list[Verdict], expected: Outcome) -> None:
    assert koii_outcome(votes) is expected


@given(st.lists(st.sampled_from([V, I, U]), max_size=12))
def test_koii_by_its_own_formula(votes: list[Verdict]) -> None:
    triggered = I in votes
    score = sum(1 if vote is V else -1 for vote in votes if vote is not U) if triggered else 1
    expected = Outcome.APPROVED if score > 0 else Outcome.UNDECIDED if score == 0 else Outcome.REJECTED
    assert koii_outcome(votes) is expected


def test_koii_has_one_vote_per_node_and_nobody_is_due() -> None:
    rich = roster(8, stakes={1: 2**60}, weights=Weights.EQUAL)
    assignment = AuditAssignment(
        BLOCKHASH, rich, replace(HARDENED, profile=Profile.KOII, weights=Weights.EQUAL)
    )
    cast = Cast(first={AUTHOR: {key(1): V, key(2): I, key(3): I}, key(4): {key(5): I, key(6): V}})
    counted = tally([AUTHOR, key(4), key(7)], cast, assignment)
    assert counted.outcomes == {
        AUTHOR: Outcome.REJECTED,
        key(4): Outcome.UNDECIDED,
        key(7): Outcome.APPROVED,
    }
    assert counted.auditors == {
        key(1): AuditorStatus.OVERRULED,
        **dict.fromkeys((key(2), key(3), key(5), key(6)), AuditorStatus.DILIGENT),
    }
    assert counted.full_audits == frozenset()
    assert counted.finders == {}


# --- a round by the other rules


def game(nodes: int = 15, stakes: Mapping[int, int] | None = None, **rules: Any) -> AuditAssignment:
    """Auditors of a round: 5 are drawn, all others are on the committee of a full audit."""
    changed = replace(HARDENED, **rules)
    return AuditAssignment(BLOCKHASH, roster(nodes, stakes=stakes or {}, weights=changed.weights), changed)


GAME = game()
DRAWN = GAME.auditors_of(AUTHOR)
REST = tuple(member for member in GAME.committee_of(AUTHOR) if member not in DRAWN)
CALM = dict.fromkeys(DRAWN, V)


def of(keys: Iterable[bytes], said: Value) -> dict[bytes, Value]:
    return dict.fromkeys(keys, said)


def count(
    first: Said, full: Said | None = None, assignment: AuditAssignment = GAME, **cast: Any
) -> tuple[Outcome, dict[bytes, AuditorStatus]]:
    """What becomes of the submission of `AUTHOR`: outcome, and standings of the auditors."""
    counted = tally([AUTHOR], Cast({AUTHOR: first}, {AUTHOR: full or {}}, **cast), assignment)
    return counted.outcomes[AUTHOR], counted.auditors


def decided(
    first: Said, full: Said | None = None, assignment: AuditAssignment = GAME, **cast: Any
) -> Outcome:
    return count(first, full, assignment, **cast)[0]


def test_the_table_of_these_tests() -> None:
    assert (len(DRAWN), len(REST)) == (5, 9)
    assert {*DRAWN, *REST, AUTHOR} == set(GAME.roster.keys)


def test_without_a_dispute_those_drawn_decide() -> None:
    assert decided(CALM) is Outcome.APPROVED
    assert decided(of(DRAWN[:1], V)) is Outcome.APPROVED
    assert decided({}) is Outcome.UNDECIDED
    assert decided(of(DRAWN, U)) is Outcome.UNAVAILABLE
    # What the committee says in a full audit that nobody opened is not looked at.
    assert decided(CALM, of(REST, U)) is Outcome.APPROVED


def test_a_single_node_is_undecided_and_nobody_is_due() -> None:
    counted = tally([AUTHOR], Cast(), game(1))
    assert counted.outcomes == {AUTHOR: Outcome.UNDECIDED}
    assert counted.auditors == {}


def test_a_fraud_that_one_auditor_sees_is_rejected_by_the_committee() -> None:
    said = {**CALM, DRAWN[2]: I}
    found, auditors = count(said, of(REST, I))
    assert found is Outcome.REJECTED
    assert {key for key, status in auditors.items() if status is AuditorStatus.OVERRULED} == set(CALM) - {
        DRAWN[2]
    }


def test_a_slash_needs_more_than_half_of_the_committee() -> None:
    # 14 on the committee: 7 against are half, 8 are more. Those drawn need not vote twice.
    accused = of(DRAWN, I)
    assert decided(accused, of(REST[:2], I)) is Outcome.UNDECIDED
    assert decided(accused, of(REST[:2], I) | of(REST[2:], V)) is Outcome.UNDECIDED
    assert decided(accused, of(REST[:3], I)) is Outcome.REJECTED
    assert decided(accused, of(REST[:3], I) | of(REST[3:], V)) is Outcome.REJECTED


def test_even_all_of_those_drawn_cannot_slash_alone() -> None:
    found, auditors = count(of(DRAWN, I))
    assert found is Outcome.UNDECIDED
    assert auditors == of(DRAWN, AuditorStatus.DILIGENT)


def test_a_slash_needs_the_quorum_too() -> None:
    stakes = dict.fromkeys(range(15), 100) | {1: 10_000, 2: 10_000}
    heavy = game(stakes=stakes, quorum=3)
    drawn = heavy.auditors_of(AUTHOR)
    first = {member: I if member in (key(1), key(2)) else V for member in drawn}
    full = {member: I if member in (key(1), key(2)) else V for member in heavy.committee_of(AUTHOR)}
    assert decided(first, full, heavy) is Outcome.UNDECIDED
    assert decided(first, full, game(stakes=stakes, quorum=2)) is Outcome.REJECTED


def test_a_full_audit_counts_with_more_than_half_of_the_weight() -> None:
    said = {**of(DRAWN[:4], V), DRAWN[4]: I}
    for voters, counts in ((2, False), (3, True)):  # with those drawn 7 and 8 of 14
        counted = tally([AUTHOR], Cast({AUTHOR: said}, {AUTHOR: of(REST[:voters], V)}), GAME)
        assert (counted.full_audits == {AUTHOR}) is counts
        assert counted.outcomes[AUTHOR] is Outcome.APPROVED
        # Absent is who was due: the committee, if the full audit counts.
        absent = {key for key, status in counted.auditors.items() if status is AuditorStatus.ABSENT}
        assert absent == (set(REST[3:]) if counts else set())


def test_the_weight_counts_and_not_the_number() -> None:
    stakes = {index: 1 if key(index) in REST else 1000 for index in range(15)}
    light = game(stakes=stakes)
    drawn = light.auditors_of(AUTHOR)
    said = {**of(drawn[:4], V), drawn[4]: I}
    counted = tally([AUTHOR], Cast({AUTHOR: said}), light)
    heavy = sum(light.roster.weight_of(member) for member in drawn)
    total = sum(light.roster.weight_of(member) for member in light.committee_of(AUTHOR))
    assert (counted.full_audits == {AUTHOR}) is (heavy * 2 > total) is True


def test_an_accusation_that_the_net_could_not_answer_changes_nothing() -> None:
    """Those drawn decide as without it: a few liars are overruled, most of them gain nothing."""
    for accusers in range(1, 5):
        said = of(DRAWN[accusers:], V) | of(DRAWN[:accusers], I)
        found, auditors = count(said)
        few = accusers * 2 < len(DRAWN)
        assert found is (Outcome.APPROVED if few else Outcome.UNDECIDED)
        assert auditors == {
            **of(DRAWN[accusers:], AuditorStatus.DILIGENT),
            **of(DRAWN[:accusers], AuditorStatus.OVERRULED if few else AuditorStatus.DILIGENT),
        }
    found, auditors = count(CALM, challengers={AUTHOR: [REST[0]]})
    assert found is Outcome.APPROVED
    assert auditors == {**of(DRAWN, AuditorStatus.DILIGENT), REST[0]: AuditorStatus.OVERRULED}


@given(
    st.sets(st.sampled_from(sorted(GAME.roster.keys)), max_size=5),
    st.sets(st.sampled_from(sorted(GAME.roster.keys))),
)
def test_a_third_cannot_keep_an_honest_reward_back(coalition: set[bytes], in_time: set[bytes]) -> None:
    """Whatever they accuse, and whoever of the others answers in time, if most of those drawn are honest."""
    if 2 * len(coalition & set(DRAWN)) >= len(DRAWN):
        return
    said = {member: I if member in coalition else V for member in DRAWN}
    full = {member: I if member in coalition else V for member in (*DRAWN, *REST) if member in in_time}
    challengers = {AUTHOR: coalition - {AUTHOR}}
    assert decided(said, full, challengers=challengers) is Outcome.APPROVED


def test_more_than_a_third_against_it_is_not_few() -> None:
    # Of the committee and the author, 15: 5 against are a third, 6 are more.
    said = {**of(DRAWN, V), DRAWN[0]: I}
    assert decided(said, of(REST[:4], I) | of(REST[4:8], U)) is Outcome.APPROVED
    assert decided(said, of(REST[:5], I) | of(REST[5:9], U)) is Outcome.UNDECIDED


def test_a_false_accuser_is_overruled_by_the_full_audit() -> None:
    found, auditors = count({**CALM, DRAWN[0]: I}, of(REST, V))
    assert found is Outcome.APPROVED
    assert auditors == {**of((*DRAWN, *REST), AuditorStatus.DILIGENT), DRAWN[0]: AuditorStatus.OVERRULED}


def test_a_challenger_stands_by_its_accusation_whatever_it_votes() -> None:
    for challenger in (DRAWN[0], REST[0]):
        for verdict in (V, U):
            votes = of(REST, V) | ({challenger: verdict} if challenger in REST else {})
            found, auditors = count(CALM, votes, challengers={AUTHOR: [challenger]})
            assert found is Outcome.APPROVED
            assert auditors[challenger] is AuditorStatus.OVERRULED
        # Its vote in a full audit that does not count is no way out either.
        assert (
            count(CALM, {REST[0]: I}, challengers={AUTHOR: [REST[0]]})[1][REST[0]] is AuditorStatus.OVERRULED
        )
    found, auditors = count(CALM, of(REST, I), challengers={AUTHOR: [REST[0]]})
    assert found is Outcome.REJECTED
    assert auditors[REST[0]] is AuditorStatus.DILIGENT


def test_calling_data_unavailable_is_never_held_against_an_auditor() -> None:
    for first, full in (
        (of(DRAWN[:3], V) | of(DRAWN[3:], U), {}),
        (of(DRAWN, U), {}),
        ({**of(DRAWN, U), DRAWN[0]: I}, of(REST, I)),
    ):
        found, auditors = count(first, full)
        blamed = {key for key, status in auditors.items() if status is not AuditorStatus.DILIGENT}
        assert not blamed & {key for key, vote in first.items() if vote is U}, found


def test_whoever_did_not_vote_on_what_was_due_is_absent() -> None:
    found, auditors = count(of(DRAWN[1:], V))
    assert found is Outcome.APPROVED
    assert auditors == {**of(DRAWN, AuditorStatus.DILIGENT), DRAWN[0]: AuditorStatus.ABSENT}


def test_the_worst_standing_of_a_round_stays() -> None:
    everybody = game(5)
    authors = [key(0), key(1)]
    cast = Cast(
        first={
            key(0): {key(1): V, key(2): V, key(4): I},
            key(1): {key(0): I, key(2): I, key(3): I, key(4): V},
        }
    )
    counted = tally(authors, cast, everybody, equivocators=[key(2), key(9)])
    assert counted.outcomes == {key(0): Outcome.APPROVED, key(1): Outcome.REJECTED}
    assert counted.auditors == {
        key(0): AuditorStatus.DILIGENT,
        key(1): AuditorStatus.DILIGENT,
        key(2): AuditorStatus.EQUIVOCATED,
        key(3): AuditorStatus.ABSENT,
        key(4): AuditorStatus.OVERRULED,
    }
    assert list(counted.auditors) == sorted(counted.auditors)
    assert counted.equivocators == {key(2)}


# --- equivocators


def test_a_submitter_who_signed_two_is_convicted_whatever_auditors_said() -> None:
    for first in ({}, CALM, of(DRAWN, I)):
        counted = tally([AUTHOR], Cast({AUTHOR: first}, {AUTHOR: of(REST, I)}), GAME, [AUTHOR])
        assert counted.outcomes == {AUTHOR: Outcome.EQUIVOCATED}
        # What was due on it is due no more, and nobody found it.
        assert counted.auditors == {AUTHOR: AuditorStatus.EQUIVOCATED}
        assert (counted.finders, counted.full_audits) == ({}, frozenset())


def test_an_equivocator_who_handed_nothing_in_is_convicted_too() -> None:
    counted = tally([], Cast(), GAME, [key(3)])
    assert counted.outcomes == {}
    assert counted.equivocators == {key(3)}


# --- canaries


def test_a_canary_that_is_found() -> None:
    said = of(DRAWN[:4], I) | of(DRAWN[4:], V)
    found, auditors = count(said, of(REST, I), canaries=[AUTHOR])
    assert found is Outcome.CANARY
    assert auditors[DRAWN[4]] is AuditorStatus.OVERRULED
    assert set(auditors.values()) == {AuditorStatus.DILIGENT, AuditorStatus.OVERRULED}
    assert tally([AUTHOR], Cast({AUTHOR: said}, {AUTHOR: of(REST, I)}, {}, [AUTHOR]), GAME).finders == {}


@pytest.mark.parametrize("full", [{}, of(REST[:2], I), of(REST, V), of(REST, U)])
def test_a_canary_that_is_not_found_is_undecided_and_blames_nobody(full: Said) -> None:
    found, auditors = count(CALM, full, canaries=[AUTHOR])
    assert found is Outcome.UNDECIDED
    assert AuditorStatus.OVERRULED not in auditors.values()


def test_owning_up_opens_the_full_audit_by_itself() -> None:
    assert decided(of(DRAWN, U), of(REST, I), canaries=[AUTHOR]) is Outcome.CANARY
    assert decided(CALM, of(REST, I)) is Outcome.APPROVED


# --- finders


def test_who_found_a_fraud() -> None:
    said = {**CALM, DRAWN[1]: I, DRAWN[3]: I}
    full = of(REST[:8], I) | of(REST[8:], V)
    cast = Cast({AUTHOR: said}, {AUTHOR: full}, {AUTHOR: [REST[2]]})
    accusers = {DRAWN[1], DRAWN[3], REST[2]}
    assert tally([AUTHOR], cast, GAME).finders == {
        AUTHOR: Finders(tuple(sorted(accusers)), tuple(sorted(set(REST[:8]) - accusers)))
    }
    calm = Cast({AUTHOR: said}, {AUTHOR: of(REST, V)}, {AUTHOR: [REST[2]]})
    assert tally([AUTHOR], calm, GAME).finders == {}


# --- keys without stake


def test_a_witness_has_no_weight_opens_nothing_and_is_judged() -> None:
    seats = game(witness_seats=3)
    witnesses = [key(index) for index in (100, 101)]
    said = {**CALM, witnesses[0]: I, witnesses[1]: V}
    counted = tally([AUTHOR], Cast({AUTHOR: said}), seats)
    assert counted.outcomes == {AUTHOR: Outcome.APPROVED}
    assert counted.full_audits == frozenset()
    assert counted.auditors[witnesses[0]] is AuditorStatus.OVERRULED
    assert counted.auditors[witnesses[1]] is AuditorStatus.DILIGENT
    fraud = {**of(DRAWN, I), witnesses[0]: I, witnesses[1]: V}
    counted = tally([AUTHOR], Cast({AUTHOR: fraud}, {AUTHOR: of(REST, I)}), seats)
    assert counted.finders[AUTHOR].accusers == tuple(sorted(DRAWN))
    assert counted.auditors[witnesses[0]] is AuditorStatus.DILIGENT
    assert counted.auditors[witnesses[1]] is AuditorStatus.OVERRULED


# --- not everything audited, everything audited


def test_what_is_not_audited_is_approved_and_nobody_is_due() -> None:
    posp = game(40, profile=Profile.POSP, audit_rate=3000)
    skipped = [author for author in posp.roster.keys if not posp.is_audited(author)]
    audited = [author for author in posp.roster.keys if posp.is_audited(author)]
    assert skipped
    assert audited
    counted = tally(posp.roster.keys, Cast(), posp)
    assert counted.outcomes == {
        **dict.fromkeys(skipped, Outcome.APPROVED),
        **dict.fromkeys(audited, Outcome.UNDECIDED),
    }
    assert set(counted.auditors) == {auditor for author in audited for auditor in posp.auditors_of(author)}
    # A challenge reaches what no draw does.
    author, challenger = skipped[0], skipped[1]
    full = of(posp.committee_of(author), I)
    counted = tally([author], Cast({}, {author: full}, {author: [challenger]}), posp)
    assert counted.outcomes == {author: Outcome.REJECTED}
    assert counted.finders[author].accusers == (challenger,)


def test_where_all_audit_all_one_ballot_is_first_and_full() -> None:
    everybody = game(9, profile=Profile.ALL)
    others = everybody.auditors_of(AUTHOR)
    assert decided(of(others[:5], I) | of(others[5:], V), {}, everybody) is Outcome.REJECTED
    assert decided(of(others[:4], I) | of(others[4:], V), {}, everybody) is Outcome.UNDECIDED
    assert decided(of(others[:3], I) | of(others[3:], V), {}, everybody) is Outcome.APPROVED


# --- weights


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (Weights.EQUAL, Outcome.APPROVED),
        (Weights.STAKE, Outcome.REJECTED),
        (Weights.STAKE_TIME, Outcome.APPROVED),
    ],
)
def test_what_a_vote_is_worth(weights: Weights, expected: Outcome) -> None:
    # Three newcomers with much stake against five old ones with little.
    entries = [RosterEntry(key(i), 100, 0, bytes(32), 1000) for i in range(1, 6)]
    entries += [RosterEntry(key(i), 300, 0, bytes(32), 300) for i in range(6, 9)]
    members = Roster(3, tuple(sorted(entries, key=lambda entry: entry.key)), weights)
    votes = of([key(i) for i in range(1, 6)], V) | of([key(i) for i in range(6, 9)], I)
    assert outcome(members.keys, votes, members, 3) is expected


# --- properties


ballots = st.lists(st.tuples(st.sampled_from([V, I, U, None]), st.integers(0, 2**64 - 1)), max_size=9)


@given(ballots, st.integers(1, 5))
def test_what_each_outcome_requires(cast: list[tuple[Verdict | None, int]], quorum: int) -> None:
    found = decide([vote for vote, _ in cast], [stake for _, stake in cast] or None, quorum)
    total = sum(stake for _, stake in cast)
    stake_of = {verdict: sum(stake for vote, stake in cast if vote is verdict) for verdict in (V, I, U)}
    voted = sum(stake_of.values())
    rejected = stake_of[I] * 2 > total and sum(vote is I for vote, _ in cast) >= min(quorum, len(cast))
    assert (found is Outcome.REJECTED) == rejected
    assert (found is Outcome.APPROVED) == (stake_of[V] * 2 > voted)
    assert (found is Outcome.UNAVAILABLE) == (stake_of[U] * 2 > voted)


@given(ballots, st.integers(1, 5), st.integers(0, 8))
def test_an_honest_vote_never_turns_into_its_opposite(
    cast: list[tuple[Verdict | None, int]], quorum: int, index: int
) -> None:
    """Turning any one vote into VALID never leads to REJECTED where it was not, and INVALID never to APPROVED."""
    if index >= len(cast):
        return
    votes, amounts = [vote for vote, _ in cast], [stake for _, stake in cast]
    before = decide(votes, amounts, quorum)
    if before is not Outcome.REJECTED:
        assert decide([*votes[:index], V, *votes[index + 1 :]], amounts, quorum) is not Outcome.REJECTED
    if before is not Outcome.APPROVED:
        assert decide([*votes[:index], I, *votes[index + 1 :]], amounts, quorum) is not Outcome.APPROVED


@given(st.permutations(range(6)))
def test_the_order_of_authors_and_votes_does_not_matter(order: list[int]) -> None:
    assignment = game(6, auditors=3)
    votes = {key(i): of(assignment.auditors_of(key(i)), V) for i in order}
    counted = tally([key(i) for i in order], Cast(votes), assignment)
    straight = tally([key(i) for i in range(6)], Cast(votes), assignment)
    assert list(counted.outcomes.items()) == list(straight.outcomes.items())
    assert list(counted.auditors.items()) == list(straight.auditors.items())


said_by = st.dictionaries(st.sampled_from((*DRAWN, *REST)), st.sampled_from([V, I, U]))


@given(said_by, said_by, st.sets(st.sampled_from(REST), max_size=3), st.booleans())
def test_what_a_rejection_and_a_finder_require(
    first: dict[bytes, Verdict], full: dict[bytes, Verdict], challengers: set[bytes], canary: bool
) -> None:
    said = {member: verdict for member, verdict in first.items() if member in DRAWN}
    cast = Cast({AUTHOR: said}, {AUTHOR: full}, {AUTHOR: challengers}, [AUTHOR] if canary else ())
    counted = tally([AUTHOR], cast, GAME)
    against = {member for member, verdict in {**full, **said}.items() if verdict is I}
    accused = I in said.values() or challengers
    found_bad = bool(canary or accused) and len(against) * 2 > len((*DRAWN, *REST))
    assert (counted.outcomes[AUTHOR] in (Outcome.REJECTED, Outcome.CANARY)) == found_bad
    if AUTHOR in counted.finders:
        finders = counted.finders[AUTHOR]
        assert counted.outcomes[AUTHOR] is Outcome.REJECTED
        assert not set(finders.accusers) & set(finders.voters)
        assert set(finders.accusers) | set(finders.voters) == against | challengers
    assert set(counted.auditors) >= set(DRAWN)
    assert (AuditorStatus.OVERRULED in counted.auditors.values()) <= (
        counted.outcomes[AUTHOR] in (Outcome.REJECTED, Outcome.CANARY, Outcome.APPROVED)
    )
