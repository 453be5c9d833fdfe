"""Two different records where an author may make one: what counts as the same place, and the proof of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import Equivocation, Kind, Statement

ONCE_PER_ROUND: Final = frozenset({Kind.SUBMISSION, Kind.BALLOT_REVEAL})
ONCE_PER_ATTEMPT: Final = frozenset(
    {Kind.BALLOT, Kind.CHALLENGE, Kind.COMMITMENT_NOTICE, Kind.LIST_NOTICE, Kind.LIST_VOTE}
)


class Place(NamedTuple):
    """Where an author may state one thing only. `attempt` is 0 for what is stated once per round."""

    task: bytes
    round: int
    kind: Kind
    attempt: int


def place_of(statement: Statement) -> Place | None:
    """Return the place that a statement occupies, or None for kinds that may be stated again and again.

    Submissions and reveals: one per round, whatever their `seq`. Ballots: one per stage of the audit; challenges:
    one per number; notices and list votes: one per attempt: all of these are their `seq`. Equivocations and
    presences occupy none.
    """
    if statement.kind in ONCE_PER_ROUND:
        return Place(statement.task, statement.round, statement.kind, 0)
    if statement.kind in ONCE_PER_ATTEMPT:
        return Place(statement.task, statement.round, statement.kind, statement.seq)
    return None


def conflict(one: Verified, other: Verified) -> bool:
    """Tell whether two different records of one author stand in one place.

    Whole records are compared: ed25519 has one honest signature for a payload, so a second one is made to split
    the net's view just as a second payload is.
    """
    place = place_of(one.statement)
    return (
        place is not None
        and place == place_of(other.statement)
        and one.author == other.author
        and one.raw != other.raw
    )


def equivocation_of(one: Verified, other: Verified) -> Equivocation:
    """Return the evidence against the author of two conflicting records, the same whichever is named first.

    Raises `RecordError(NOT_A_CONFLICT)` if they do not conflict.
    """
    if not conflict(one, other):
        raise RecordError(RecordReason.NOT_A_CONFLICT)
    first, second = sorted((one.raw, other.raw))
    return Equivocation(first, second)


def check_equivocation(body: Equivocation, genesis: bytes) -> tuple[Verified, Verified]:
    """Return the two records of an equivocation, both verified.

    Raises `RecordError`: the reason of the faulty inner record, or NOT_A_CONFLICT if they do not contradict
    each other or are not in ascending order of their bytes.
    """
    first, second = (verify(decode_record(raw), genesis) for raw in (body.first, body.second))
    if body.first >= body.second or not conflict(first, second):
        raise RecordError(RecordReason.NOT_A_CONFLICT)
    return first, second
