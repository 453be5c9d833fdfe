from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records import cbor
from koii_p2p.records.schema import Ballot, Presence, Submission, Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.commitment import (
    NO_PREVIOUS,
    Bundle,
    Commitment,
    CommitmentError,
    Counts,
    build_commitment,
)
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from tests.rounds.net import BAD, GOOD, TERMS, ballot, key, play, roster, say, secret, submission

PLAYED = play(nodes=7, cheaters=(2,))
SUBMISSIONS, BALLOTS = tuple(PLAYED.submissions.values()), tuple(PLAYED.ballots.values())


def build(submissions=SUBMISSIONS, ballots=BALLOTS):  # type: ignore[no-untyped-def]
    return build_commitment(TERMS, PLAYED.roster, PLAYED.beacon, NO_PREVIOUS, submissions, ballots)


def test_what_a_round_with_a_cheater_comes_to() -> None:
    commitment = PLAYED.commitment
    assert commitment.outcome_of == {
        key(i): Outcome.REJECTED if i == 2 else Outcome.APPROVED for i in sorted(range(7), key=key)
    }
    assert set(dict(commitment.auditors).values()) == {AuditorStatus.DILIGENT}
    assert commitment.counts == Counts(7, 7)
    assert commitment.submissions_root == merkle.root(
        [PLAYED.submissions[author].raw for author in sorted(PLAYED.submissions)]
    )
    assert commitment.challenges_root == commitment.evidence_root == merkle.EMPTY_ROOT
    assert commitment.bundle_cid == PLAYED.bundle.cid
    assert commitment.digest == sha256(commitment.encode()).digest()


@given(st.permutations(SUBMISSIONS), st.permutations(BALLOTS))
def test_the_order_of_arrival_does_not_matter(submissions, ballots) -> None:  # type: ignore[no-untyped-def]
    commitment, bundle = build(submissions, ballots)
    assert commitment.digest == PLAYED.commitment.digest
    assert bundle == PLAYED.bundle


def test_a_record_that_came_twice_counts_once() -> None:
    assert build(SUBMISSIONS * 2, BALLOTS * 2)[0] == PLAYED.commitment


def test_encoding_and_back() -> None:
    assert Commitment.decode(PLAYED.commitment.encode()) == PLAYED.commitment
    assert Bundle.decode(PLAYED.bundle.encode()) == PLAYED.bundle


def test_an_empty_round_has_empty_roots() -> None:
    commitment, bundle = build((), ())
    assert commitment.submissions_root == commitment.ballots_root == merkle.EMPTY_ROOT
    assert (commitment.outcomes, commitment.auditors, commitment.counts) == ((), (), Counts(0, 0))
    assert Commitment.decode(commitment.encode()) == commitment
    assert Bundle.decode(bundle.encode()) == bundle == Bundle((), ())


def test_a_single_node_stays_undecided() -> None:
    alone = play(nodes=1, cheaters=())
    assert alone.commitment.outcome_of == {key(0): Outcome.UNDECIDED}
    assert alone.commitment.auditors == ()
    assert alone.list.reward_total == alone.list.slash_total == 0


def test_ballots_that_do_not_belong_are_left_out() -> None:
    auditor = next(a for a in PLAYED.ballots if len(PLAYED.assignment.authors_for(a, PLAYED.submissions)) < 6)
    others = [record for record in BALLOTS if record.author != auditor]
    signer = next(secret(i) for i in range(7) if key(i) == auditor)
    due = PLAYED.assignment.authors_for(auditor, PLAYED.submissions)
    not_due = next(a for a in PLAYED.submissions if a not in due)
    stranger = submission(signer, "late one")
    for verdicts in (
        {},
        {stranger.id: Verdict.VALID},
        {PLAYED.submissions[not_due].id: Verdict.VALID},
        {PLAYED.submissions[auditor].id: Verdict.VALID},
    ):
        commitment, bundle = build(SUBMISSIONS, [*others, ballot(signer, verdicts)])
        assert len(bundle.ballots) == 6
        assert dict(commitment.auditors)[auditor] is AuditorStatus.ABSENT


def test_a_submitter_who_shows_two_submissions_costs_no_auditor_its_ballot() -> None:
    """An auditor who saw another version of one submission still counts for all the others."""
    auditor = max(PLAYED.ballots, key=lambda a: len(PLAYED.assignment.authors_for(a, PLAYED.submissions)))
    others = [record for record in BALLOTS if record.author != auditor]
    signer = next(secret(i) for i in range(7) if key(i) == auditor)
    two_faced = PLAYED.assignment.authors_for(auditor, PLAYED.submissions)[0]
    shown = submission(next(secret(i) for i in range(7) if key(i) == two_faced), "the other version")
    body = PLAYED.ballots[auditor].statement.body
    assert isinstance(body, Ballot)
    verdicts = {entry.submission_id: entry.verdict for entry in body.entries}
    del verdicts[PLAYED.submissions[two_faced].id]
    commitment, bundle = build(
        SUBMISSIONS, [*others, ballot(signer, {**verdicts, shown.id: Verdict.INVALID})]
    )
    assert len(bundle.ballots) == 7
    assert commitment.outcome_of == build(SUBMISSIONS, others)[0].outcome_of
    assert dict(commitment.auditors)[auditor] is AuditorStatus.ABSENT


def test_records_that_cannot_be_committed_to_are_the_callers_mistake() -> None:
    slot = TERMS.clock.submission(3).opens
    for bad in (
        submission(secret(0), BAD),  # a second, different one
        submission(secret(20), GOOD),  # not in the roster
        submission(secret(0), GOOD, round_number=4),
        BALLOTS[0],  # another kind
        say(secret(0), Submission(GOOD), 3, slot, task=bytes(32)),
        say(secret(0), Submission(GOOD), 3, slot - 1),
        say(secret(0), Submission(GOOD), 3, TERMS.clock.submission(3).closes),
        say(secret(0), Presence((), 0, "x", 0), 3, slot),
    ):
        with pytest.raises(CommitmentError):
            build((*SUBMISSIONS, bad), BALLOTS)


def test_a_bundle_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koii_p2p.rounds.commitment.MAX_BUNDLE_BYTES", 100)
    with pytest.raises(CommitmentError):
        build()
    with pytest.raises(CommitmentError):
        Bundle.decode(PLAYED.bundle.encode())


def test_a_commitment_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koii_p2p.rounds.commitment.MAX_COMMITMENT_BYTES", 100)
    with pytest.raises(CommitmentError):
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


@given(st.binary(max_size=80))
def test_any_bytes_are_refused_properly(data: bytes) -> None:
    with pytest.raises(CommitmentError):
        Commitment.decode(data)


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
        (8, bytes(31)),
        (9, 5),
        (9, [[bytes(32), bytes(32), 9]]),
        (9, [[bytes(32), bytes(32)]]),
        (9, [[bytes(32), bytes(31), 1]]),
        (9, [[bytes(32), bytes(32), 1]] * 2),
        (10, [[bytes(32), 7]]),
        (10, [[b"\x01" * 32, 1], [bytes(32), 1]]),
        (11, [1, 2, 3]),
        (11, [1, 2, 3, -4]),
        (12, bytes(36)),
        (13, 0),
    ],
)
def test_other_fields_are_refused(field: int, value: object) -> None:
    with pytest.raises(CommitmentError):
        Commitment.decode(cbor.encode(commitment_map() | {field: value}))


@pytest.mark.parametrize(
    "value", [{}, {0: []}, {0: [], 1: 0}, {0: [b""], 1: []}, {0: ["a"], 1: []}, {0: [], 1: [], 2: []}]
)
def test_other_bundles_are_refused(value: object) -> None:
    with pytest.raises(CommitmentError):
        Bundle.decode(cbor.encode(value))


def test_more_records_than_a_round_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koii_p2p.rounds.commitment.MAX_ENTRIES", 3)
    with pytest.raises(CommitmentError):
        Bundle((b"a",) * 4, ())
    with pytest.raises(CommitmentError):
        Commitment.decode(PLAYED.commitment.encode())


def test_every_input_reaches_the_digest() -> None:
    shuffled = list(SUBMISSIONS)
    random.Random(3).shuffle(shuffled)
    digests = {
        PLAYED.commitment.digest,
        build(shuffled[:-1], ())[0].digest,
        build(SUBMISSIONS, BALLOTS[1:])[0].digest,
        build_commitment(TERMS, PLAYED.roster, PLAYED.beacon, bytes(31) + b"\1", SUBMISSIONS, BALLOTS)[
            0
        ].digest,
        build_commitment(TERMS, PLAYED.roster, bytes(32), NO_PREVIOUS, SUBMISSIONS, ())[0].digest,
        build_commitment(TERMS, roster(8), PLAYED.beacon, NO_PREVIOUS, SUBMISSIONS, ())[0].digest,
    }
    assert len(digests) == 6
