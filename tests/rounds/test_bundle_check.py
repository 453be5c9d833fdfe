from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, BallotEntry, BallotReveal, ListVote, Submission, Verdict
from koii_p2p.rounds.bundle_check import check_records
from koii_p2p.rounds.commitment import Bundle
from koii_p2p.rounds.eligibility import FULL_AUDIT
from koii_p2p.rounds.findings import FindingCode as F
from koii_p2p.rounds.round_records import SECTIONS, RoundRecords, section_of, select
from tests.rounds.net import (
    BAD,
    GENESIS,
    GOOD,
    KOII,
    TERMS,
    Round,
    ballot,
    challenge,
    evidence_against,
    key,
    play,
    records_of,
    say,
    sealed,
    secret,
    submission,
    with_rules,
)

V, I = Verdict.VALID, Verdict.INVALID  # noqa: E741
CLOCK = TERMS.clock
OPEN = play(nodes=130, cheaters=(1, 4))
RULES = with_rules(sealed=True, canary_rate=500, witness_seats=2)
OWNED_UP = challenge(secret(2), submission(secret(2), BAD))
SEALED = play(12, (1, 2), RULES, extra=(OWNED_UP,))
Key = bytes | tuple[bytes, int]


def findings(
    played: Round, sections: dict[str, Iterable[bytes]], *, committed: bool = False
) -> list[tuple[F, bytes | None]]:
    """What is wrong with a bundle of these sections; says so if `check_records` calls it good nevertheless."""
    found: list[tuple[F, bytes | None]] = []
    raws = {name: tuple(sections.get(name, played.bundle.sections[name])) for name in SECTIONS}
    records = check_records(
        Bundle(**raws),
        played.terms,
        GENESIS,
        3,
        played.assignment,
        played.commitment if committed else None,
        lambda code, text, subject: found.append((code, subject)),
    )
    assert (records is None) == bool(found)
    return found


def swapped(played: Round, *records: Verified, into: str | None = None) -> dict[str, Iterable[bytes]]:
    """The sections of the bundle with these records in place of their authors' own, or beside them."""
    sections: dict[str, dict[Key, bytes]] = {
        name: {place: record.raw for place, record in held.items()}
        for name, held in played.records.sections.items()
    }
    for record in records:
        section = into or section_of(record)
        challenged = section == "challenges"
        place: Key = (record.author, record.statement.seq) if challenged else record.author
        sections[section][place] = record.raw
    return {name: [held[place] for place in sorted(held)] for name, held in sections.items()}


def without(played: Round, section: str, author: bytes) -> dict[str, Iterable[bytes]]:
    held = played.records.sections[section]
    return {section: [record.raw for record in held.values() if record.author != author]}


@pytest.mark.parametrize("played", [OPEN, SEALED])
def test_what_an_honest_leader_bundles_is_good(played: Round) -> None:
    assert findings(played, {}) == findings(played, {}, committed=True) == []


# --- each record alone


def test_records_that_do_not_belong() -> None:
    slot = CLOCK.submission(3)
    for bad, code in (
        (say(secret(2), Submission(GOOD), 3, slot.closes), F.RECORD_PLACE),
        (submission(secret(2), GOOD, round_number=4), F.RECORD_PLACE),
        (say(secret(2), Submission(GOOD), 3, slot.opens, task=bytes(32)), F.RECORD_PLACE),
        (submission(secret(777), GOOD), F.RECORD_AUTHOR),
    ):
        assert (code, bad.author) in findings(OPEN, swapped(OPEN, bad))


def test_ballots_of_the_wrong_stage_or_number() -> None:
    due = {OPEN.submissions[OPEN.assignment.authors_for(key(2), OPEN.submissions)[0]].id: V}
    early = say(secret(2), Ballot((BallotEntry(*next(iter(due.items()))),)), 3, CLOCK.audit(3).opens, 1)
    third = say(secret(2), Ballot(()), 3, CLOCK.full_audit(3).opens, 2)
    for bad in (early, third):
        assert findings(OPEN, swapped(OPEN, bad)) == [(F.RECORD_PLACE, key(2))]


def test_records_in_a_section_of_another_kind() -> None:
    vote = say(secret(2), ListVote(bytes(32), True, 0), 3, CLOCK.distribution_audit(3).opens)
    full = ballot(secret(2), {bytes(32): V}, stage=FULL_AUDIT)
    for bad, section in (
        (vote, "challenges"),
        (ballot(secret(2), {bytes(32): V}), "submissions"),
        (full, "ballots"),
        (submission(secret(2), GOOD), "evidence"),
    ):
        assert (F.RECORD_KIND, key(2)) in findings(OPEN, swapped(OPEN, bad, into=section))


def test_forms_of_records_that_the_rules_do_not_know() -> None:
    seal, reveal = sealed(secret(2), {bytes(32): V})
    assert findings(OPEN, swapped(OPEN, reveal)) == [(F.RECORD_NOT_PLAYED, key(2))]
    assert findings(OPEN, swapped(OPEN, seal)) == [(F.RECORD_NOT_PLAYED, key(2))]
    in_the_open = say(secret(2), Ballot(()), 3, CLOCK.seals(3).opens)
    assert (F.RECORD_NOT_PLAYED, key(2)) in findings(SEALED, swapped(SEALED, in_the_open))
    koii = play(12, (1,), KOII)
    accusation = challenge(secret(2), koii.submissions[key(1)])
    assert findings(koii, swapped(koii, accusation)) == [(F.RECORD_NOT_PLAYED, key(2))]


def test_records_out_of_order_or_twice() -> None:
    raws = OPEN.bundle.submissions
    for order in ((raws[1], raws[0], *raws[2:]), (raws[0], raws[0], *raws[1:])):
        assert [code for code, _ in findings(OPEN, {"submissions": order})][:1] == [F.RECORD_ORDER]


def test_challenges_are_sorted_by_author_and_number() -> None:
    one, two = (challenge(secret(2), OPEN.submissions[key(index)], seq) for seq, index in ((0, 5), (1, 6)))
    other = challenge(secret(3), OPEN.submissions[key(7)])
    straight = sorted((one, two, other), key=lambda record: (record.author, record.statement.seq))
    assert findings(OPEN, {"challenges": [record.raw for record in straight]}) == []
    for order in ([two, one], [one, one], straight[::-1]):
        codes = {code for code, _ in findings(OPEN, {"challenges": [record.raw for record in order]})}
        assert codes == {F.RECORD_ORDER}


def test_evidence_is_sorted_by_whom_it_convicts() -> None:
    convicting = {
        key(accused): evidence_against(
            secret(speaker), OPEN.submissions[key(accused)], submission(secret(accused), "twice")
        )
        for speaker, accused in ((3, 5), (2, 6), (2, 7))
    }
    straight = [convicting[accused].raw for accused in sorted(convicting)]
    silent = {
        section: [record.raw for author, record in held.items() if author not in convicting]
        for section, held in (("ballots", OPEN.records.ballots), ("full_ballots", OPEN.records.full_ballots))
    }
    assert findings(OPEN, {"evidence": straight, **silent}) == []
    again = evidence_against(secret(9), OPEN.submissions[key(5)], submission(secret(5), "thrice"))
    for order in (straight[::-1], [*straight, straight[-1]], [convicting[key(5)].raw, again.raw]):
        found = findings(OPEN, {"evidence": order, **silent})
        assert {code for code, _ in found} == {F.RECORD_ORDER}


def test_whoever_is_convicted_has_no_voice() -> None:
    """Of two ballots of one auditor, no leader gets to choose."""
    auditor = next(index for index in range(130) if key(index) in OPEN.records.ballots)
    one, other = OPEN.records.ballots[key(auditor)], ballot(secret(auditor), {bytes(32): I})
    evidence = evidence_against(secret(129), one, other)
    accused = swapped(OPEN, evidence) | {"evidence": [evidence.raw]}
    assert (F.RECORD_OF_CONVICTED, key(auditor)) in findings(OPEN, accused)
    said = replace(OPEN.records, evidence={key(auditor): evidence})
    chosen = select(said, OPEN.terms, OPEN.assignment)
    assert key(auditor) in chosen.submissions
    assert chosen.ballots.keys() == OPEN.records.ballots.keys() - {key(auditor)}
    assert key(auditor) not in chosen.full_ballots


def test_evidence_that_convicts_nobody() -> None:
    in_another_round = evidence_against(
        secret(2), submission(secret(5), "one", 2), submission(secret(5), "two", 2), round_number=3
    )
    of_no_staker = evidence_against(secret(2), submission(secret(777), "one"), submission(secret(777), "two"))
    for idle in (in_another_round, of_no_staker):
        assert findings(OPEN, {"evidence": [idle.raw]}) == [(F.EVIDENCE_IDLE, key(2))]


# --- the records together


def test_open_ballots_that_change_nothing() -> None:
    due = OPEN.assignment.authors_for(key(0), OPEN.submissions)
    not_due = next(author for author in sorted(OPEN.submissions) if author not in due)
    for verdicts, code in (
        ({}, F.BALLOT_EMPTY),
        ({OPEN.submissions[not_due].id: V}, F.BALLOT_NOT_ASSIGNED),
        ({OPEN.submissions[key(0)].id: V}, F.BALLOT_NOT_ASSIGNED),
        ({bytes(32): V}, F.BALLOT_UNKNOWN_SUBMISSION),
    ):
        bad = ballot(secret(0), verdicts)
        assert findings(OPEN, swapped(OPEN, bad), committed=True) == [(code, key(0))]


def test_full_ballots_that_change_nothing() -> None:
    outside = next(
        key(index)
        for index in range(130)
        if not OPEN.assignment.may_vote(key(index), key(1), FULL_AUDIT) and key(index) != key(1)
    )
    signer = next(secret(index) for index in range(130) if key(index) == outside)
    for bad, code in (
        (ballot(secret(0), {}, stage=FULL_AUDIT), F.BALLOT_EMPTY),
        (ballot(signer, {OPEN.submissions[key(1)].id: I}, stage=FULL_AUDIT), F.BALLOT_NOT_ASSIGNED),
        (ballot(secret(0), {OPEN.submissions[key(7)].id: V}, stage=FULL_AUDIT), F.BALLOT_UNDISPUTED),
        (ballot(secret(0), {bytes(32): V}, stage=FULL_AUDIT), F.BALLOT_UNDISPUTED),
    ):
        assert findings(OPEN, swapped(OPEN, bad), committed=True) == [(code, bad.author)]


def test_challenges_that_change_nothing() -> None:
    own, unknown = OPEN.submissions[key(2)], submission(secret(5), "never handed in")
    slot = CLOCK.openings(3).opens
    for bad, code in (
        (challenge(secret(2), own), F.CHALLENGE_OWN_SUBMISSION),
        (challenge(secret(2), unknown), F.CHALLENGE_UNKNOWN_SUBMISSION),
    ):
        assert findings(OPEN, swapped(OPEN, bad), committed=True) == [(code, key(2))]
    for late in (CLOCK.seals(3).opens, slot - 1, CLOCK.openings(3).closes):
        bad = challenge(secret(2), SEALED.submissions[key(2)], slot=late)
        assert (F.CHALLENGE_OWN_SUBMISSION, key(2)) in findings(SEALED, swapped(SEALED, bad))


def test_seals_that_are_not_opened() -> None:
    auditor = next(a for a in SEALED.ballots if SEALED.records.reveals[a].statement.body.entries)  # type: ignore[union-attr]
    signer = next(secret(index) for index in range(12) if key(index) == auditor)
    body = SEALED.records.reveals[auditor].statement.body
    assert isinstance(body, BallotReveal)
    slot = CLOCK.reveals(3).opens
    for opening in (
        replace(body, salt=bytes(32)),
        replace(body, entries=(replace(body.entries[0], verdict=Verdict.UNAVAILABLE), *body.entries[1:])),
        replace(body, entries=()),
    ):
        assert (F.SEAL_BROKEN, auditor) in findings(SEALED, swapped(SEALED, say(signer, opening, 3, slot)))
    assert (F.BALLOT_UNREVEALED, auditor) in findings(SEALED, without(SEALED, "reveals", auditor))
    assert (F.REVEAL_WITHOUT_BALLOT, auditor) in findings(SEALED, without(SEALED, "ballots", auditor))


def test_what_was_sealed_has_to_be_due_as_well() -> None:
    due = SEALED.assignment.authors_for(key(0), SEALED.submissions)
    not_due = next(author for author in sorted(SEALED.submissions) if author not in due)
    pair = sealed(secret(0), {SEALED.submissions[not_due].id: V})
    assert findings(SEALED, swapped(SEALED, *pair)) == [(F.BALLOT_NOT_ASSIGNED, key(0))]


def test_keys_without_stake_beyond_the_seats() -> None:
    target = SEALED.submissions[key(5)].id
    witnesses = [sealed(secret(index), {target: V}) for index in (100, 101, 102)]
    seated = SEALED.assignment.seated(key(index) for index in (100, 101, 102))
    assert len(seated) == 2
    two = [record for pair in witnesses if pair[0].author in seated for record in pair]
    assert findings(SEALED, swapped(SEALED, *two)) == []
    three = [record for pair in witnesses for record in pair]
    left = next(key(index) for index in (100, 101, 102) if key(index) not in seated)
    assert findings(SEALED, swapped(SEALED, *three)) == [(F.BALLOT_WITHOUT_SEAT, left)]


# --- what follows from a finding is no second finding


def broken(record: Verified) -> bytes:
    return record.raw[:-1] + bytes([record.raw[-1] ^ 1])


def test_a_broken_submission_is_the_only_finding() -> None:
    """Not: that the commitment misses it, that ballots and challenges are of nothing, that no audit was opened."""
    accused = challenge(secret(2), OPEN.submissions[key(7)])
    played = play(nodes=130, cheaters=(1, 4), extra=(accused,))
    for author in (key(1), key(7)):
        raws = [
            broken(record) if record.author == author else record.raw
            for record in played.submissions.values()
        ]
        assert findings(played, {"submissions": raws}, committed=True) == [(F.RECORD_SIGNATURE, author)]


def test_a_missing_submission_is_the_only_finding() -> None:
    """The votes on it are not their authors' fault: the commitment says that it was there."""
    assert findings(OPEN, without(OPEN, "submissions", key(1)), committed=True) == [
        (F.SUBMISSION_MISSING, key(1))
    ]


@pytest.mark.parametrize("section", ["ballots", "reveals"])
def test_half_of_a_sealed_ballot_broken_is_the_only_finding(section: str) -> None:
    held = SEALED.records.sections[section]
    for author in (key(0), key(5)):
        raws = [broken(record) if record.author == author else record.raw for record in held.values()]
        assert findings(SEALED, {section: raws}) == [(F.RECORD_SIGNATURE, author)]


def test_a_broken_accusation_is_the_only_finding() -> None:
    """The full audit that it opened is not also one that nobody opened."""
    accused = challenge(secret(2), OPEN.submissions[key(7)])
    played = play(nodes=130, cheaters=(), extra=(accused,))
    assert played.records.full_ballots
    assert findings(played, {"challenges": [broken(accused)]}) == [(F.RECORD_SIGNATURE, key(2))]


# --- the check and the selection are the same rule


def pool() -> dict[str, list[Verified]]:
    """Records of each section for the sealed task, useful and useless, several of each author."""
    submissions = [submission(secret(index), value) for index in range(12) for value in (GOOD, BAD)]
    assignment = SEALED.assignment
    ids = {record.author: record.id for record in submissions if record in SEALED.submissions.values()}
    found: dict[str, list[Verified]] = {name: [] for name in SECTIONS}
    found["submissions"] = submissions
    for index in (*range(12), 100, 101, 102):
        auditor = key(index)
        due = {ids[author]: I for author in assignment.authors_for(auditor, ids)}
        for verdicts in (due, {}, {ids[key(3)]: I}, {bytes(32): V} | due):
            seal, reveal = sealed(secret(index), verdicts)
            found["ballots"].append(seal)
            found["reveals"].append(reveal)
    for index in range(12):
        for verdicts in ({}, {ids[key(1)]: I}, {ids[key(2)]: I, ids[key(9)]: V}, {bytes(32): V}):
            found["full_ballots"].append(ballot(secret(index), verdicts, stage=FULL_AUDIT))
        found["challenges"] += [challenge(secret(index), record, 1) for record in submissions[:6]]
        found["challenges"].append(challenge(secret(index), submissions[2 * index]))
        found["evidence"].append(
            evidence_against(secret(index), submissions[2 * index], submissions[2 * index + 1])
        )
    return found


POOL = pool()


@settings(max_examples=150)
@given(
    st.fixed_dictionaries(
        {name: st.lists(st.integers(0, len(records) - 1), max_size=14) for name, records in POOL.items()}
    ),
    st.booleans(),
)
def test_a_bundle_is_good_exactly_if_nothing_would_be_left_out_of_it(
    drawn: dict[str, list[int]], honest: bool
) -> None:
    """Of any records that belong to the round, what `select` leaves is good, and anything more is a finding."""
    chosen: dict[object, Verified] = {}
    if honest:
        chosen = {(name, at): r for name, held in SEALED.records.sections.items() for at, r in held.items()}
    for name, numbers in drawn.items():
        for record in (POOL[name][number] for number in numbers):
            at = (record.author, record.statement.seq) if name == "challenges" else record.author
            chosen[name, record.id if name == "evidence" else at] = record
    records = records_of(RULES, SEALED.roster, chosen.values())
    selected = select(records, RULES, SEALED.assignment)
    for bundled in (records, selected):
        bad = findings(SEALED, {name: _raws(bundled, name) for name in SECTIONS})
        assert (bad == []) == (bundled == selected), bad


def _raws(records: RoundRecords, section: str) -> list[bytes]:
    return [record.raw for record in records.sections[section].values()]
