from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.tally import AuditorStatus, Outcome, outcome, tally
from tests.rounds.net import BLOCKHASH, key, roster

V, I, U = Verdict.VALID, Verdict.INVALID, Verdict.UNAVAILABLE  # noqa: E741


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


def test_a_single_node_is_undecided_and_nobody_is_due() -> None:
    members = roster(1)
    counted = tally([key(0)], {}, AuditAssignment(BLOCKHASH, members, 5), members, 3)
    assert counted.outcomes == {key(0): Outcome.UNDECIDED}
    assert counted.auditors == {}


def test_the_standing_of_auditors() -> None:
    members = roster(5)
    assignment = AuditAssignment(BLOCKHASH, members, 5)  # everybody audits everybody else
    authors = [key(0), key(1)]
    votes = {
        key(0): {key(1): V, key(2): V, key(3): V, key(4): I},
        key(1): {key(0): I, key(2): I, key(3): I, key(4): V},
    }
    votes[key(0)].pop(key(3))
    counted = tally(authors, votes, assignment, members, 3, equivocators=[key(2), key(9)])
    assert counted.outcomes == {key(0): Outcome.APPROVED, key(1): Outcome.REJECTED}
    assert counted.auditors == {
        key(0): AuditorStatus.DILIGENT,
        key(1): AuditorStatus.DILIGENT,
        key(2): AuditorStatus.EQUIVOCATED,
        key(3): AuditorStatus.ABSENT,
        key(4): AuditorStatus.OVERRULED,
    }
    assert list(counted.auditors) == sorted(counted.auditors)


def test_calling_data_unavailable_is_never_held_against_an_auditor() -> None:
    members = roster(4)
    votes = {key(0): {key(1): V, key(2): V, key(3): U}}
    counted = tally([key(0)], votes, AuditAssignment(BLOCKHASH, members, 3), members, 3)
    assert set(counted.auditors.values()) == {AuditorStatus.DILIGENT}


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
    members = Roster(3, tuple(RosterEntry(entry.key, 5, 0, bytes(32)) for entry in roster(6).entries))
    assignment = AuditAssignment(BLOCKHASH, members, 3)
    votes = {key(i): dict.fromkeys(assignment.auditors_of(key(i)), V) for i in order}
    counted = tally([key(i) for i in order], votes, assignment, members, 3)
    straight = tally([key(i) for i in range(6)], votes, assignment, members, 3)
    assert list(counted.outcomes.items()) == list(straight.outcomes.items())
    assert list(counted.auditors.items()) == list(straight.auditors.items())
