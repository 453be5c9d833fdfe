"""Equivocations as evidence: which round carries it, and whom it convicts (PROTOCOL §5)."""

from __future__ import annotations

from koii_p2p.records.envelope import Verified
from koii_p2p.records.equivocation import Place, check_equivocation, place_of
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Equivocation, Kind

_AFTER_THE_COMMITMENT = frozenset({Kind.COMMITMENT_NOTICE, Kind.LIST_NOTICE, Kind.LIST_VOTE})


def carrying_round(place: Place) -> int:
    """The round whose commitment may carry evidence of two records in this place.

    What is said before a round is committed to convicts in that round. Notices and list votes come later: those of
    the first attempt convict in the next round, whose commitment is built right after the list votes end; and each
    further attempt is voted on a period later. One offence has one such round, so that nobody is punished twice for it
    and nothing has to be remembered.
    """
    return place.round + (place.attempt + 1 if place.kind in _AFTER_THE_COMMITMENT else 0)


def offender_of(evidence: Verified, genesis: bytes) -> bytes | None:
    """Who is convicted by an equivocation record in the round that it is of, or None if it proves nothing there.

    Verifies both inner signatures.
    """
    body = evidence.statement.body
    if not isinstance(body, Equivocation):
        return None
    try:
        first, _second = check_equivocation(body, genesis)
    except RecordError:
        return None
    place = place_of(first.statement)
    if place is None or place.task != evidence.statement.task or carrying_round(place) != evidence.round:
        return None
    return first.author
