"""Whom a node should have heard in a round and has not: what an eclipse looks like from inside.

Whoever surrounds a node can keep every record from it, and nothing that comes tells it so. But the roster and the draw
of auditors follow from K2, which is reached in another way: they say who was due to speak.
"""

from __future__ import annotations

from dataclasses import dataclass

from koii_p2p.records.schema import Kind
from koii_p2p.rounds.round_state import RoundState


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of one round: other keys that were due to speak (32 bytes each, sorted), and those that were not heard."""

    round: int
    expected: tuple[bytes, ...]
    unheard: tuple[bytes, ...]

    @property
    def suspicious(self) -> bool:
        """Whether two at least, and half of them, were not heard: more than fail by themselves in one round."""
        return len(self.unheard) >= 2 and 2 * len(self.unheard) >= len(self.expected)


def coverage(state: RoundState, own: bytes) -> Coverage | None:
    """Who was heard of those who were due, once first ballots are over. None while that is not known.

    Due to vote are those drawn for a submission that is held. With no submission of anybody else it is all other
    stakers: that not one of them works is no likelier than that we are cut off. In profile koii nobody has to vote.
    """
    if state.roster is None or state.assignment is None:
        return None
    others = [entry.key for entry in state.roster.entries if entry.key != own]
    submissions = state.submissions()
    if not submissions.keys() - {own}:
        spoke = {author for _place, author in state.held}
        return Coverage(state.round, tuple(others), tuple(key for key in others if key not in spoke))
    drawn = {auditor for author in submissions for auditor in state.assignment.auditors_of(author)}
    due = tuple(key for key in others if key in drawn)
    voted = {record.author for record in state.of_kind(Kind.BALLOT)}
    return Coverage(state.round, due, tuple(key for key in due if key not in voted))
