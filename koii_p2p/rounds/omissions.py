"""What a commitment leaves out that it should have, and takes in that it should not have, in one node's eyes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TypeVar

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Challenge, Kind
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.round_records import RoundRecords, select
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.terms import TaskTerms

_Place = TypeVar("_Place", bytes, tuple[bytes, int])


def omitted_from(committed: RoundRecords, state: RoundState, terms: TaskTerms) -> tuple[bytes, ...]:
    """Ids of records that we received in time, that the bundle lacks, and that would have counted in it.

    Whether a record counts is asked of the bundle with all that it lacks filled in. A place that the bundle fills
    with another record of its author is no omission, nor is a record of somebody whom it convicts: who signs two
    records has no right to either. (Evidence is no statement that could be made twice: it may never be left out, or
    two who are convicted could hide each other.) Ballots of keys without stake decide nothing, and may be left out.
    """
    if state.assignment is None or state.roster is None:
        return ()
    ours, convicted = state.records(), committed.evidence.keys()
    late = set(_owned_up_after(_middle(terms.clock.openings(state.round)), ours, state))
    timely = {
        record_id
        for record_id in state.timely
        if (record := state.by_id[record_id]).author in state.roster
        and (record.kind is not Kind.CHALLENGE or (record.author, record.statement.seq) not in late)
    }

    def filled(theirs: Mapping[_Place, Verified], held: Mapping[_Place, Verified]) -> dict[_Place, Verified]:
        return {
            place: record
            for place, record in held.items()
            if record.id in timely and record.author not in convicted
        } | dict(theirs)

    union = RoundRecords(
        filled(committed.submissions, ours.submissions),
        filled(committed.ballots, ours.ballots),
        filled(committed.reveals, ours.reveals),
        filled(committed.full_ballots, ours.full_ballots),
        filled(committed.challenges, ours.challenges),
        _timely_evidence(ours, timely) | dict(committed.evidence),
    )
    included = _ids(committed)
    return tuple(sorted(_ids(select(union, terms, state.assignment)) - included))


def reveals_at(terms: TaskTerms, number: int) -> int:
    """The slot at which an honest node reveals its ballot: where there are canaries, in the middle of the reveals.

    Whether one was owned up to in time is judged by when it was seen, and nodes must not fall apart over who saw it
    last. So there are three times, a twelfth of the audit apart, in which those who saw it tell the others: what was
    seen by the middle of its window must be in, a leader takes in what it saw by its end, and nobody takes in what
    was not seen when honest votes are revealed.
    """
    window = terms.clock.reveals(number)
    return _middle(window) if terms.audit.canary_rate else window.opens


def unseen_canaries(
    committed: RoundRecords, state: RoundState, terms: TaskTerms
) -> tuple[tuple[bytes, int], ...]:
    """Places of challenges that own up to a canary, if we watched for that and saw none before votes were revealed.

    An author who could own up later would do so when votes against it are seen.
    """
    return _owned_up_after(reveals_at(terms, state.round), committed, state)


def without_late_canaries(state: RoundState, terms: TaskTerms) -> RoundRecords:
    """The records held, less owning up that others may not have seen in time: what a leader commits to."""
    held = state.records()
    late = _owned_up_after(terms.clock.openings(state.round).closes, held, state)
    if not late:
        return held
    seen = {place: record for place, record in held.challenges.items() if place not in late}
    return replace(held, challenges=seen)


def _owned_up_after(slot: int, records: RoundRecords, state: RoundState) -> tuple[tuple[bytes, int], ...]:
    if not state.watched_openings:
        return ()
    authors = records.authors
    return tuple(
        (challenger, seq)
        for (challenger, seq), record in records.challenges.items()
        if authors.get(_challenged(record)) == challenger and state.challenged_at.get(record.id, slot) >= slot
    )


def _middle(window: Window) -> int:
    return (window.opens + window.closes) // 2


def _timely_evidence(ours: RoundRecords, timely: Container[bytes]) -> dict[bytes, Verified]:
    return {offender: record for offender, record in ours.evidence.items() if record.id in timely}


def _challenged(record: Verified) -> bytes:
    body = record.statement.body
    return body.submission_id if isinstance(body, Challenge) else b""


def _ids(records: RoundRecords) -> set[bytes]:
    return {record.id for section in records.sections.values() for record in section.values()}
