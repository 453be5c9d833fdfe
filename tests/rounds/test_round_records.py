from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, BallotReveal, ListVote, Presence, Submission, Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.eligibility import FULL_AUDIT, MAX_CHALLENGES
from koii_p2p.rounds.round_records import (
    COMMITTED_KINDS,
    SECTIONS,
    MisplacedRecord,
    RoundRecords,
    cast_in,
    disputed,
    entries_of,
    held_records,
    section_of,
    select,
    select_cast,
    sort_records,
)
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds.net import (
    BAD,
    BLOCKHASH,
    GENESIS,
    GOOD,
    KOII,
    TERMS,
    assignment_of,
    ballot,
    challenge,
    evidence_against,
    key,
    play,
    roster,
    say,
    sealed,
    secret,
    secrets_by_key,
    submission,
    with_rules,
)

V, I, U = Verdict.VALID, Verdict.INVALID, Verdict.UNAVAILABLE  # noqa: E741
NODES = 12
MEMBERS = roster(NODES)
SECRETS = secrets_by_key(NODES)
SUBMISSIONS = {index: submission(secret(index), BAD if index == 0 else GOOD) for index in range(NODES)}
SEALING = with_rules(sealed=True, canary_rate=1000, witness_seats=2)
SEATS = with_rules(witness_seats=2)
CLOCK = TERMS.clock


def drawing(terms: TaskTerms = TERMS) -> AuditAssignment:
    return assignment_of(terms, MEMBERS, BLOCKHASH)


OPEN = drawing()


def sort(records: Iterable[Verified], terms: TaskTerms = TERMS) -> RoundRecords:
    return sort_records(records, terms, MEMBERS, GENESIS)


def of(*records: Verified, terms: TaskTerms = TERMS) -> RoundRecords:
    """What these records and everybody's submissions are when sorted."""
    return sort([*SUBMISSIONS.values(), *records], terms)


def chosen(*records: Verified, terms: TaskTerms = TERMS) -> RoundRecords:
    return select(of(*records, terms=terms), terms, drawing(terms))


def drawn_for(author: int, assignment: AuditAssignment = OPEN) -> list[int]:
    drawn = assignment.auditors_of(key(author))
    return [index for index in range(NODES) if key(index) in drawn]


def not_drawn_for(author: int, assignment: AuditAssignment = OPEN) -> list[int]:
    return [index for index in range(NODES) if index != author and index not in drawn_for(author, assignment)]


def vote(auditor: int, verdicts: Mapping[int, Verdict], stage: int = 0) -> Verified:
    """A ballot on the submissions of these nodes."""
    return ballot(
        secret(auditor), {SUBMISSIONS[index].id: said for index, said in verdicts.items()}, stage=stage
    )


def ids(*records: Verified) -> set[bytes]:
    return {record.id for record in records}


def kept(records: RoundRecords, section: str) -> set[bytes]:
    return ids(*records.sections[section].values())


CONFLICTING = submission(secret(4), "other")
EVIDENCE = evidence_against(secret(5), SUBMISSIONS[4], CONFLICTING)


# --- sorting


def test_each_kind_has_its_section() -> None:
    seal, reveal = sealed(secret(1), {})
    expected = {
        "submissions": SUBMISSIONS[1],
        "ballots": seal,
        "reveals": reveal,
        "full_ballots": vote(1, {0: I}, FULL_AUDIT),
        "challenges": challenge(secret(1), SUBMISSIONS[0], 3),
        "evidence": EVIDENCE,
    }
    assert tuple(expected) == SECTIONS
    for section, record in expected.items():
        assert section_of(record) == section
        assert record.kind in COMMITTED_KINDS
    records = sort(expected.values(), SEALING)
    assert tuple(records.sections) == SECTIONS
    assert records.challenges == {(key(1), 3): expected["challenges"]}
    assert records.evidence == {key(4): EVIDENCE}
    for section in ("submissions", "ballots", "reveals", "full_ballots"):
        assert records.sections[section] == {key(1): expected[section]}


def test_what_is_said_about_a_commitment_is_in_no_commitment() -> None:
    slot = CLOCK.distribution_audit(3).opens
    for body in (ListVote(bytes(32), True, 0), Presence((), 0, "", 0)):
        record = say(secret(1), body, 3, slot)
        with pytest.raises(MisplacedRecord, match="no commitment has those"):
            section_of(record)
        with pytest.raises(MisplacedRecord):
            of(record)


def test_records_that_cannot_be_committed_to_are_the_callers_mistake() -> None:
    opens, closes = CLOCK.submission(3).opens, CLOCK.submission(3).closes
    one, other = (submission(secret(20), value) for value in (GOOD, BAD))
    stranger = evidence_against(secret(1), one, other)
    cases: dict[str, Verified] = {
        "two different SUBMISSION": CONFLICTING,
        "not_in_roster": submission(secret(20), GOOD),
        "of round 4": submission(secret(1), GOOD, round_number=4),
        "unknown_task": say(secret(1), Submission(GOOD), 3, opens, task=bytes(32)),
        "slot_outside_window": say(secret(1), Submission(GOOD), 3, opens - 1),
        "slot_outside_window.?": say(secret(1), Submission(GOOD), 3, closes),
        "bad_attempt": challenge(secret(1), SUBMISSIONS[0], MAX_CHALLENGES),
        "not_played": sealed(secret(1), {})[0],
        "bad_evidence": stranger,
    }
    for why, record in cases.items():
        with pytest.raises(MisplacedRecord, match=why):
            of(record)


def test_two_different_records_for_one_place() -> None:
    pairs = {
        "BALLOT records": (vote(1, {0: I}), vote(1, {0: V})),
        "BALLOT records of": (vote(1, {0: I}, FULL_AUDIT), vote(1, {0: V}, FULL_AUDIT)),
        "CHALLENGE": (challenge(secret(1), SUBMISSIONS[0]), challenge(secret(1), SUBMISSIONS[2])),
    }
    for why, pair in pairs.items():
        with pytest.raises(MisplacedRecord, match=why):
            of(*pair)
    # The same one twice, one of each stage, and challenges of two numbers are no contradiction.
    one, other = pairs["CHALLENGE"]
    second = challenge(secret(1), SUBMISSIONS[2], 1)
    records = of(vote(1, {0: I}), vote(1, {0: I}), vote(1, {0: I}, FULL_AUDIT), one, one, second)
    assert len(records.ballots) == len(records.full_ballots) == 1
    assert records.challenges == {(key(1), 0): one, (key(1), 1): second}
    assert other.id not in kept(records, "challenges")


def test_of_several_pieces_of_evidence_the_smallest_id_stays_whatever_came_first() -> None:
    pairs = [(SUBMISSIONS[4], CONFLICTING), (SUBMISSIONS[4], submission(secret(4), "third"))]
    found = [evidence_against(secret(shower), *pair) for pair in pairs for shower in (1, 2)]
    smallest = min(found, key=lambda record: record.id)
    for order in (found, found[::-1], found[1:] + found[:1]):
        assert sort(order).evidence == {key(4): smallest}
    other = evidence_against(secret(1), SUBMISSIONS[5], submission(secret(5), BAD))
    assert sort([*found, other]).evidence == {key(4): smallest, key(5): other}


SPOKEN = [
    record
    for section in play(nodes=NODES, cheaters=(0, 1)).records.sections.values()
    for record in section.values()
]


@given(st.permutations(SPOKEN))
def test_the_order_of_arrival_does_not_matter(records: list[Verified]) -> None:
    ordered, first = sort(records), sort(SPOKEN)
    assert ordered == first
    for name, section in ordered.sections.items():
        places: list[Any] = list(section)
        assert places == sorted(places)
        assert places == list(first.sections[name])


def test_what_a_node_holds_is_what_sorting_would_make_of_it() -> None:
    played = play(
        nodes=NODES,
        terms=SEALING,
        cheaters=(0,),
        extra=(EVIDENCE, challenge(secret(3), SUBMISSIONS[1], 1), challenge(secret(3), SUBMISSIONS[2])),
    )
    everything = [record for section in played.records.sections.values() for record in section.values()]
    held = [record for record in everything if record.id != EVIDENCE.id]
    vote_on_list = say(secret(1), ListVote(bytes(32), True, 0), 3, CLOCK.distribution_audit(3).opens)
    assert held_records([*reversed(held), vote_on_list], {key(4): EVIDENCE}) == played.records
    assert held_records([], {}) == RoundRecords()


# --- what is left out


def test_a_round_without_disputes_keeps_all_ballots_and_no_votes_of_a_full_audit() -> None:
    ballots = [
        vote(index, {a: V for a in range(1, NODES) if index in drawn_for(a)}) for index in range(NODES)
    ]
    ballots = [record for record in ballots if entries_of(record)]
    full = vote(not_drawn_for(1)[0], {1: V}, FULL_AUDIT)
    records = chosen(*ballots, full)
    assert kept(records, "ballots") == ids(*ballots)
    assert records.full_ballots == {}
    assert disputed(of(*ballots, full), OPEN) == {}


def test_one_accusation_of_somebody_drawn_opens_a_full_audit() -> None:
    accuser, voter = vote(drawn_for(0)[0], {0: I}), vote(not_drawn_for(0)[0], {0: I}, FULL_AUDIT)
    records = chosen(accuser, voter)
    assert disputed(records, OPEN) == {SUBMISSIONS[0].id: key(0)}
    assert kept(records, "full_ballots") == ids(voter)


def test_one_challenge_opens_a_full_audit() -> None:
    challenger = not_drawn_for(0)[0]
    voter = vote(drawn_for(0)[0], {0: V}, FULL_AUDIT)
    records = chosen(challenge(secret(challenger), SUBMISSIONS[0]), voter)
    assert disputed(records, OPEN) == {SUBMISSIONS[0].id: key(0)}
    assert kept(records, "full_ballots") == ids(voter)
    assert not kept(chosen(voter), "full_ballots")


def test_calling_it_unavailable_opens_nothing() -> None:
    records = of(*(vote(index, {0: U}) for index in drawn_for(0)))
    assert disputed(records, OPEN) == {}


def test_votes_in_full_audits_of_what_is_not_disputed_count_only_beside_others() -> None:
    accuser = vote(drawn_for(0)[0], {0: I})
    voter = not_drawn_for(0)[0]
    only_others = vote(voter, {2: V}, FULL_AUDIT)
    both = vote(voter, {0: I, 2: V}, FULL_AUDIT)
    assert not chosen(accuser, only_others).full_ballots
    records = chosen(accuser, both)
    assert kept(records, "full_ballots") == ids(both)
    assert set(cast_in(records).full) == {key(0), key(2)}
    assert not chosen(accuser, vote(0, {0: V}, FULL_AUDIT)).full_ballots  # its author


def test_ballots_with_faulty_votes_are_left_out() -> None:
    auditor, stranger = drawn_for(0)[0], submission(secret(20), GOOD).id
    outside = next(a for a in range(1, NODES) if auditor not in drawn_for(a) and a != auditor)
    cases = {
        "nothing": vote(auditor, {}),
        "not due": vote(auditor, {0: V, outside: V}),
        "its own": vote(auditor, {0: V, auditor: V}),
        "unknown": ballot(secret(auditor), {stranger: V}),
    }
    for record in cases.values():
        assert not chosen(record).ballots
    beside = ballot(secret(auditor), {stranger: V, SUBMISSIONS[0].id: V})
    assert kept(chosen(beside), "ballots") == ids(beside)
    assert cast_in(chosen(beside)).first == {key(0): {key(auditor): V}}


def test_a_faulty_accusation_opens_nothing() -> None:
    accuser = drawn_for(0)[0]
    outside = next(a for a in range(1, NODES) if accuser not in drawn_for(a) and a != accuser)
    records = chosen(vote(accuser, {0: I, outside: I}), vote(not_drawn_for(0)[0], {0: I}, FULL_AUDIT))
    assert not records.ballots
    assert not records.full_ballots


def test_challenges_of_what_is_not_there_are_left_out() -> None:
    good = challenge(secret(1), SUBMISSIONS[0])
    unknown = challenge(secret(1), submission(secret(20), GOOD), 1)
    own = challenge(secret(2), SUBMISSIONS[2], 0, CLOCK.first_ballots(3).opens)
    records = chosen(good, unknown, own)
    assert kept(records, "challenges") == ids(good)
    assert cast_in(records).challengers == {key(0): {key(1)}}


def test_several_challenges_of_one_submission_stay() -> None:
    """They change no count; but which one counted would otherwise hang on their numbers."""
    several = [challenge(secret(1), SUBMISSIONS[0], number) for number in range(MAX_CHALLENGES)]
    records = chosen(*several)
    assert kept(records, "challenges") == ids(*several)
    assert cast_in(records).challengers == {key(0): {key(1)}}


def test_evidence_is_kept_whether_or_not_its_offender_submitted() -> None:
    assert kept(chosen(EVIDENCE), "evidence") == ids(EVIDENCE)
    alone = select(sort([EVIDENCE]), TERMS, OPEN)
    assert kept(alone, "evidence") == ids(EVIDENCE)


# --- sealed ballots and canaries


def seals(auditor: int, verdicts: Mapping[int, Verdict]) -> tuple[Verified, Verified]:
    return sealed(secret(auditor), {SUBMISSIONS[index].id: said for index, said in verdicts.items()})


def test_a_seal_counts_with_its_reveal_and_a_reveal_with_its_seal() -> None:
    auditor = drawn_for(0, drawing(SEALING))[0]
    seal, reveal = seals(auditor, {0: I})
    whole = chosen(seal, reveal, terms=SEALING)
    assert (kept(whole, "ballots"), kept(whole, "reveals")) == (ids(seal), ids(reveal))
    assert cast_in(whole).first == {key(0): {key(auditor): I}}
    for half in (seal, reveal):
        records = chosen(half, terms=SEALING)
        assert not records.ballots
        assert not records.reveals
        assert cast_in(records).first == {}


def test_a_seal_is_opened_by_nothing_else() -> None:
    auditor = drawn_for(0, drawing(SEALING))[0]
    seal, reveal = seals(auditor, {0: I})
    body = reveal.statement.body
    assert isinstance(body, BallotReveal)
    slot = CLOCK.reveals(3).opens
    for other in (replace(body, salt=bytes(32)), replace(body, entries=())):
        records = chosen(seal, say(secret(auditor), other, 3, slot), terms=SEALING)
        assert not records.ballots
        assert not records.reveals


def test_revealed_votes_are_judged_as_open_ones() -> None:
    assignment = drawing(SEALING)
    auditor = drawn_for(0, assignment)[0]
    outside = next(a for a in range(1, NODES) if auditor not in drawn_for(a, assignment) and a != auditor)
    for verdicts in ({}, {outside: V}, {0: I, outside: V}, {auditor: V}):
        records = chosen(*seals(auditor, verdicts), terms=SEALING)
        assert not records.ballots
        assert not records.reveals


def test_owning_up_to_a_canary_opens_a_full_audit_and_is_no_challenge() -> None:
    confession = challenge(secret(0), SUBMISSIONS[0])
    voter = vote(not_drawn_for(0)[0], {0: I}, FULL_AUDIT)
    records = chosen(confession, voter, terms=SEALING)
    assert disputed(records, drawing(SEALING)) == {SUBMISSIONS[0].id: key(0)}
    assert kept(records, "full_ballots") == ids(voter)
    cast = cast_in(records)
    assert cast.canaries == {key(0)}
    assert cast.challengers == {}
    # Where no canaries are played it is nothing, and out of its time either.
    plain = with_rules(sealed=True)
    assert not chosen(confession, terms=plain).challenges
    late = challenge(secret(0), SUBMISSIONS[0], slot=CLOCK.openings(3).closes)
    assert not chosen(late, terms=SEALING).challenges


# --- keys without stake


def test_keys_without_stake_have_as_many_seats_as_the_task_gives() -> None:
    witnesses = {index: ballot(secret(index), {SUBMISSIONS[0].id: I}) for index in range(50, 56)}
    staker = vote(drawn_for(0, drawing(SEATS))[0], {0: I})
    records = chosen(staker, *witnesses.values(), terms=SEATS)
    seated = drawing(SEATS).seated(record.author for record in witnesses.values())
    assert len(seated) == 2
    assert set(records.ballots) == {staker.author, *seated}
    assert len(chosen(*list(witnesses.values())[:2], terms=SEATS).ballots) == 2
    for record in witnesses.values():
        with pytest.raises(MisplacedRecord, match="not_in_roster"):
            of(record)


def test_keys_without_stake_open_no_full_audit() -> None:
    witness = ballot(secret(50), {SUBMISSIONS[0].id: I})
    records = chosen(witness, vote(not_drawn_for(0)[0], {0: I}, FULL_AUDIT), terms=SEATS)
    assert kept(records, "ballots") == ids(witness)
    assert cast_in(records).accusers(key(0)) == {key(50)}
    assert disputed(records, drawing(SEATS)) == {}
    assert not records.full_ballots


# --- profiles


def test_in_profile_koii_there_is_no_full_audit_whatever_is_voted() -> None:
    records = chosen(*(vote(index, {0: I}) for index in range(1, NODES)), terms=KOII)
    assert len(records.ballots) == NODES - 1
    assert not records.full_ballots


def test_where_all_audit_all_there_is_one_stage() -> None:
    terms = with_rules(profile=Profile.ALL)
    records = chosen(*(vote(index, {0: I}) for index in range(1, NODES)), terms=terms)
    assert len(records.ballots) == NODES - 1
    assert disputed(records, drawing(terms)) == {SUBMISSIONS[0].id: key(0)}
    with pytest.raises(MisplacedRecord, match="bad_attempt"):
        of(vote(1, {0: I}, FULL_AUDIT), terms=terms)


# --- the same facts, the same records


def pool() -> list[Verified]:
    """Useful and useless records, one for each place."""
    found: list[Verified] = []
    for auditor in range(NODES):
        due = {a: (I if a == 0 else V) for a in range(NODES) if auditor in drawn_for(a)}
        noise = {} if auditor % 3 else {(auditor + 1) % NODES: V}
        found.append(vote(auditor, due | noise))
        found.append(vote(auditor, {a: I for a in range(3) if a != auditor}, FULL_AUDIT))
        found.append(challenge(secret(auditor), SUBMISSIONS[(auditor * 5 + 1) % NODES], auditor % 4))
    found.append(challenge(secret(1), submission(secret(20), GOOD), 3))
    found.append(EVIDENCE)
    return found


POOL = pool()


@settings(max_examples=150)
@given(st.sets(st.integers(0, len(POOL) - 1)), st.sets(st.integers(0, NODES - 1)))
def test_what_is_chosen_is_chosen_again_and_nothing_is_added(numbers: set[int], silent: set[int]) -> None:
    submissions = [record for index, record in SUBMISSIONS.items() if index not in silent]
    records = sort([*submissions, *(POOL[number] for number in numbers)])
    once = select(records, TERMS, OPEN)
    assert select(once, TERMS, OPEN) == once
    assert select_cast(records, TERMS, OPEN) == (once, cast_in(once))
    for name, section in once.sections.items():
        assert section.items() <= records.sections[name].items()
    assert once.submissions == records.submissions
    assert once.evidence == records.evidence
    assert disputed(once, OPEN) == disputed(replace(once, full_ballots={}), OPEN)
    authors = set(once.authors.values())
    cast = cast_in(once)
    assert {*cast.first, *cast.full, *cast.challengers, *cast.canaries} <= authors


def test_a_ballot_that_is_sealed_shows_no_votes() -> None:
    seal, reveal = seals(1, {0: I})
    assert isinstance(seal.statement.body, Ballot)
    assert entries_of(seal) == ()
    assert [entry.verdict for entry in entries_of(reveal)] == [I]
    assert entries_of(SUBMISSIONS[0]) == ()
    assert RoundRecords(ballots={key(1): seal}).votes_of(key(1)) == ()
    assert RoundRecords(ballots={key(1): seal}, reveals={key(1): reveal}).votes_of(key(1)) == entries_of(
        reveal
    )
    assert RoundRecords().votes_of(key(1)) == ()
