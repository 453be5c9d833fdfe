from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records import cbor
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import MAX_WITNESS_SEATS, Profile
from koii_p2p.rounds.commitment import (
    NO_PREVIOUS,
    BuiltRound,
    Bundle,
    Commitment,
    CommitmentError,
    build_commitment,
    rebuild_commitment,
)
from koii_p2p.rounds.eligibility import FULL_AUDIT, MAX_CHALLENGES
from koii_p2p.rounds.round_records import SECTIONS, RoundRecords, sort_records
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.terms import TaskTerms
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
    roster,
    secret,
    secrets_by_key,
    submission,
    with_rules,
)

SEALED = with_rules(sealed=True, canary_rate=1000)
PLAYED = play(nodes=9, cheaters=(2,))
SECRETS = secrets_by_key(9)
SPOKEN = [record for section in PLAYED.records.sections.values() for record in section.values()]


def build(records: RoundRecords) -> BuiltRound:
    return build_commitment(TERMS, PLAYED.roster, PLAYED.beacon, NO_PREVIOUS, records)


def of(records: Iterable[Verified]) -> RoundRecords:
    return sort_records(records, TERMS, PLAYED.roster, GENESIS)


def without(section: str, author: bytes) -> list[Verified]:
    """What was said in the round, less the record of one author in one section."""
    gone = getattr(PLAYED.records, section)[author]
    return [record for record in SPOKEN if record.id != gone.id]


def test_what_a_round_with_a_cheater_comes_to() -> None:
    commitment, bundle = PLAYED.commitment, PLAYED.bundle
    assert commitment.outcome_of == {
        key(i): Outcome.REJECTED if i == 2 else Outcome.APPROVED for i in sorted(range(9), key=key)
    }
    assert set(dict(commitment.auditors).values()) == {AuditorStatus.DILIGENT}
    drawn = PLAYED.assignment.auditors_of(key(2))
    assert commitment.counts == (9, 9, 0, 8 - len(drawn), 0, 0)
    assert commitment.roots[0] == merkle.root(
        [PLAYED.submissions[author].raw for author in sorted(PLAYED.submissions)]
    )
    assert commitment.roots == bundle.roots
    assert commitment.roots[2] == commitment.roots[4] == commitment.roots[5] == merkle.EMPTY_ROOT
    assert commitment.bundle_cid == bundle.cid
    assert commitment.roster_root == PLAYED.roster.root
    assert commitment.digest == sha256(commitment.encode()).digest()


def sealed_round() -> Round:
    """Sealed ballots, a canary that was owned up to, a challenge and a conviction: every section has something."""
    cheater = submission(secret(2), BAD)
    return play(
        nodes=9,
        cheaters=(2, 3),
        terms=SEALED,
        extra=(
            challenge(secret(2), cheater),
            challenge(secret(1), submission(secret(0), GOOD)),
            evidence_against(secret(5), submission(secret(4), GOOD), submission(secret(4), "other")),
        ),
    )


def test_every_section_has_its_place() -> None:
    played = sealed_round()
    commitment = played.commitment
    assert commitment.counts == tuple(len(raws) for raws in played.bundle.sections.values())
    assert tuple(played.bundle.sections) == SECTIONS
    assert all(commitment.counts)
    assert merkle.EMPTY_ROOT not in commitment.roots
    assert len(set(commitment.roots)) == len(SECTIONS)
    assert commitment.outcome_of[key(2)] is Outcome.CANARY
    assert commitment.outcome_of[key(3)] is Outcome.REJECTED
    assert commitment.outcome_of[key(4)] is Outcome.EQUIVOCATED
    assert commitment.outcome_of[key(0)] is Outcome.APPROVED
    standings = dict(commitment.auditors)
    assert standings[key(1)] is AuditorStatus.OVERRULED
    assert standings[key(4)] is AuditorStatus.EQUIVOCATED
    assert Commitment.decode(commitment.encode()) == commitment
    assert Bundle.decode(played.bundle.encode()) == played.bundle


@pytest.mark.parametrize(
    "terms", [TERMS, SEALED, KOII, with_rules(profile=Profile.ALL), with_rules(confidence=999_000)]
)
def test_every_profile_survives_its_encoding(terms: TaskTerms) -> None:
    played = play(nodes=8, cheaters=(2,), terms=terms)
    assert played.commitment.outcome_of[key(2)] is Outcome.REJECTED
    assert played.commitment.outcome_of[key(3)] is Outcome.APPROVED
    assert Commitment.decode(played.commitment.encode()) == played.commitment
    assert Bundle.decode(played.bundle.encode()) == played.bundle


@given(st.permutations(SPOKEN))
def test_the_order_of_arrival_does_not_matter(records: list[Verified]) -> None:
    built = build(of(records))
    assert built.commitment.digest == PLAYED.commitment.digest
    assert built.bundle == PLAYED.bundle


def test_a_record_that_came_twice_counts_once() -> None:
    assert build(of(SPOKEN * 2)).commitment == PLAYED.commitment


def test_an_assignment_that_is_handed_on_changes_nothing() -> None:
    drawn = AuditAssignment(PLAYED.beacon, PLAYED.roster, TERMS.audit)
    built = build_commitment(TERMS, PLAYED.roster, PLAYED.beacon, NO_PREVIOUS, PLAYED.records, drawn)
    assert built.commitment == PLAYED.commitment
    assert built.tally == PLAYED.tally


def rebuilt(
    bundle: Bundle, genesis: bytes = GENESIS, held: Mapping[bytes, Verified] | None = None
) -> BuiltRound:
    drawn = AuditAssignment(PLAYED.beacon, PLAYED.roster, TERMS.audit)
    return rebuild_commitment(TERMS, genesis, bundle, PLAYED.beacon, NO_PREVIOUS, drawn, held)


def test_a_bundle_leads_to_its_own_commitment() -> None:
    found = rebuilt(PLAYED.bundle)
    assert (found.commitment, found.bundle, found.records) == (
        PLAYED.commitment,
        PLAYED.bundle,
        PLAYED.records,
    )
    assert found.tally == PLAYED.tally


def test_a_bundle_of_other_records_leads_elsewhere() -> None:
    fewer = replace(PLAYED.bundle, submissions=PLAYED.bundle.submissions[1:])
    assert rebuilt(fewer).commitment.digest != PLAYED.commitment.digest


def test_a_bundle_with_what_is_no_record_of_the_round_leads_nowhere() -> None:
    first = PLAYED.bundle.submissions[0]
    with pytest.raises(CommitmentError, match="end"):
        rebuilt(replace(PLAYED.bundle, submissions=(first[:-1],)))
    with pytest.raises(CommitmentError, match="signature"):
        rebuilt(PLAYED.bundle, genesis=bytes(32))
    another_round = submission(secret(0), "v", round_number=4)
    with pytest.raises(CommitmentError, match="of round 4, not 3"):
        rebuilt(replace(PLAYED.bundle, submissions=(another_round.raw,)))


def test_what_was_verified_before_is_not_verified_again() -> None:
    """Nothing is signed for this genesis hash, so that whatever is verified anew is refused."""
    held = {record.id: record for record in SPOKEN}
    assert rebuilt(PLAYED.bundle, bytes(32), held).commitment == PLAYED.commitment
    del held[SPOKEN[0].id]
    with pytest.raises(CommitmentError, match="signature"):
        rebuilt(PLAYED.bundle, bytes(32), held)


def test_encoding_and_back() -> None:
    assert Commitment.decode(PLAYED.commitment.encode()) == PLAYED.commitment
    assert Bundle.decode(PLAYED.bundle.encode()) == PLAYED.bundle


def test_an_empty_round_has_empty_roots() -> None:
    built = build(RoundRecords())
    commitment = built.commitment
    assert set(commitment.roots) == {merkle.EMPTY_ROOT}
    assert (commitment.outcomes, commitment.auditors, commitment.counts) == ((), (), (0,) * 6)
    assert Commitment.decode(commitment.encode()) == commitment
    assert Bundle.decode(built.bundle.encode()) == built.bundle == Bundle()


def test_a_single_node_stays_undecided() -> None:
    alone = play(nodes=1, cheaters=())
    assert alone.commitment.outcome_of == {key(0): Outcome.UNDECIDED}
    assert alone.commitment.auditors == ()
    assert alone.list.reward_total == alone.list.slash_total == 0


def test_ballots_that_do_not_belong_are_left_out() -> None:
    auditor = next(a for a in PLAYED.ballots if len(PLAYED.assignment.authors_for(a, PLAYED.submissions)) < 8)
    others, signer = without("ballots", auditor), SECRETS[auditor]
    due = PLAYED.assignment.authors_for(auditor, PLAYED.submissions)
    not_due = next(a for a in PLAYED.submissions if a not in due and a != auditor)
    stranger = submission(signer, "late one")
    for verdicts in (
        {},
        {stranger.id: Verdict.VALID},
        {PLAYED.submissions[not_due].id: Verdict.VALID},
        {PLAYED.submissions[auditor].id: Verdict.VALID},
        {PLAYED.submissions[due[0]].id: Verdict.VALID, PLAYED.submissions[not_due].id: Verdict.VALID},
    ):
        built = build(of([*others, ballot(signer, verdicts)]))
        assert len(built.bundle.ballots) == 8
        assert dict(built.commitment.auditors)[auditor] is AuditorStatus.ABSENT


def test_a_full_ballot_without_a_dispute_is_left_out() -> None:
    good = next(author for author in PLAYED.submissions if author != key(2))
    auditor = next(
        a for a in PLAYED.submissions if a not in (good, key(2)) and a not in PLAYED.records.full_ballots
    )
    vote = ballot(SECRETS[auditor], {PLAYED.submissions[good].id: Verdict.VALID}, stage=FULL_AUDIT)
    assert build(of([*SPOKEN, vote])).commitment == PLAYED.commitment


def test_a_submitter_who_shows_two_submissions_costs_no_auditor_its_ballot() -> None:
    """An auditor who saw another version of one submission still counts for all the others."""
    auditor = max(PLAYED.ballots, key=lambda a: len(PLAYED.assignment.authors_for(a, PLAYED.submissions)))
    others = without("ballots", auditor)
    two_faced = next(a for a in PLAYED.assignment.authors_for(auditor, PLAYED.submissions) if a != key(2))
    shown = submission(SECRETS[two_faced], "the other version")
    body = PLAYED.ballots[auditor].statement.body
    assert isinstance(body, Ballot)
    verdicts = {entry.submission_id: entry.verdict for entry in body.entries}
    del verdicts[PLAYED.submissions[two_faced].id]
    built = build(of([*others, ballot(SECRETS[auditor], {**verdicts, shown.id: Verdict.INVALID})]))
    assert len(built.bundle.ballots) == 9
    assert built.commitment.outcome_of == PLAYED.commitment.outcome_of
    assert dict(built.commitment.auditors)[auditor] is AuditorStatus.ABSENT


def test_a_bundle_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = PLAYED.bundle.encode()
    monkeypatch.setattr("koii_p2p.rounds.commitment.MAX_BUNDLE_BYTES", 100)
    with pytest.raises(CommitmentError, match="bundle"):
        build(PLAYED.records)
    with pytest.raises(CommitmentError, match="bundle"):
        Bundle.decode(encoded)


def test_a_commitment_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koii_p2p.rounds.commitment.MAX_COMMITMENT_BYTES", 100)
    with pytest.raises(CommitmentError, match="allowed"):
        replace(PLAYED.commitment, round=4).encode()


@given(st.data())
def test_a_changed_byte_is_another_commitment_or_none(data: st.DataObject) -> None:
    encoded = bytearray(PLAYED.commitment.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = Commitment.decode(bytes(encoded))
    except CommitmentError:
        return
    assert changed.digest != PLAYED.commitment.digest
    assert changed != PLAYED.commitment


@given(st.data())
def test_a_changed_byte_is_another_bundle_or_none(data: st.DataObject) -> None:
    encoded = bytearray(PLAYED.bundle.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = Bundle.decode(bytes(encoded))
    except CommitmentError:
        return
    assert changed.cid != PLAYED.bundle.cid
    assert changed != PLAYED.bundle


@given(st.binary(max_size=80))
def test_any_bytes_are_refused_properly(data: bytes) -> None:
    with pytest.raises(CommitmentError):
        Commitment.decode(data)
    with pytest.raises(CommitmentError):
        Bundle.decode(data)


def commitment_map() -> dict[int, object]:
    value = cbor.decode(PLAYED.commitment.encode(), max_bytes=10**6)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, b"short"),
        (1, -1),
        (1, True),
        (2, None),
        (4, bytes(31)),
        (5, 5),
        (5, [bytes(32)] * 5),
        (5, [bytes(32)] * 7),
        (5, [bytes(32)] * 5 + [bytes(31)]),
        (6, [1, 2, 3, 4, 5]),
        (6, [1, 2, 3, 4, 5, -6]),
        (6, [1, 2, 3, 4, 5, True]),
        (7, 5),
        (7, [[bytes(32), bytes(32), 9]]),
        (7, [[bytes(32), bytes(32), 0]]),
        (7, [[bytes(32), bytes(32)]]),
        (7, [[bytes(32), bytes(31), 1]]),
        (7, [[bytes(32), bytes(32), 1]] * 2),
        (8, [[bytes(32), 7]]),
        (8, [[b"\x01" * 32, 1], [bytes(32), 1]]),
        (9, bytes(36)),
        (10, 0),
    ],
)
def test_other_fields_are_refused(field: int, value: object) -> None:
    with pytest.raises(CommitmentError):
        Commitment.decode(cbor.encode(commitment_map() | {field: value}))


def test_numbers_beyond_64_bits_are_refused() -> None:
    for change in ({"round": 2**64}, {"counts": (2**64, 0, 0, 0, 0, 0)}):
        with pytest.raises(CommitmentError):
            replace(PLAYED.commitment, **change)


EMPTY: dict[int, object] = {number: [] for number in range(len(SECTIONS))}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {0: [], 1: []},
        EMPTY | {1: 0},
        EMPTY | {0: [b""]},
        EMPTY | {5: ["a"]},
        EMPTY | {6: []},
        EMPTY | {0: [bytes(64 * 1024 + 1)]},
        EMPTY | {5: [bytes(2 * 64 * 1024 + 1025)]},
    ],
)
def test_other_bundles_are_refused(value: object) -> None:
    with pytest.raises(CommitmentError):
        Bundle.decode(cbor.encode(value))


def test_evidence_may_be_as_long_as_two_records() -> None:
    assert len(Bundle(evidence=(bytes(64 * 1024 + 1),)).evidence) == 1
    assert Bundle.decode(cbor.encode(EMPTY | {5: [bytes(64 * 1024 + 1)]})).evidence


def test_more_records_than_a_round_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stakers speak in every section, challenge four times, and keys without stake have their seats."""
    monkeypatch.setattr("koii_p2p.rounds.commitment.MAX_ENTRIES", 3)
    most = {
        "submissions": 3,
        "ballots": 3 + MAX_WITNESS_SEATS,
        "reveals": 3 + MAX_WITNESS_SEATS,
        "full_ballots": 3,
        "challenges": 3 * MAX_CHALLENGES,
        "evidence": 3,
    }
    for section, count in most.items():
        assert len(Bundle(**{section: (b"a",) * count}).sections[section]) == count
        with pytest.raises(CommitmentError, match=section):
            Bundle(**{section: (b"a",) * (count + 1)})
    with pytest.raises(CommitmentError):
        Commitment.decode(PLAYED.commitment.encode())


def test_every_input_reaches_the_digest() -> None:
    records, terms, members, beacon = PLAYED.records, TERMS, PLAYED.roster, PLAYED.beacon
    fewer = of(record for record in SPOKEN if record.id != records.submissions[key(2)].id)
    silent = of(without("ballots", next(iter(PLAYED.ballots))))
    unanswered = replace(records, full_ballots={})
    accused = of([*SPOKEN, challenge(secret(1), PLAYED.submissions[key(0)])])
    convicted = of(
        [*SPOKEN, evidence_against(secret(5), PLAYED.submissions[key(0)], submission(secret(0), "other"))]
    )
    digests = {
        build_commitment(*given).commitment.digest
        for given in (
            (terms, members, beacon, NO_PREVIOUS, records),
            (terms, members, beacon, NO_PREVIOUS, fewer),
            (terms, members, beacon, NO_PREVIOUS, silent),
            (terms, members, beacon, NO_PREVIOUS, unanswered),
            (terms, members, beacon, NO_PREVIOUS, accused),
            (terms, members, beacon, NO_PREVIOUS, convicted),
            (terms, members, beacon, bytes(31) + b"\1", records),
            (terms, members, bytes(32), NO_PREVIOUS, records),
            (terms, roster(10), beacon, NO_PREVIOUS, records),
            (replace(terms, task=bytes(32)), members, beacon, NO_PREVIOUS, records),
        )
    }
    assert len(digests) == 10
