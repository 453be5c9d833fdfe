"""Why a staker disagrees with an anchored list or the commitment under it (PROTOCOL §7)."""

from __future__ import annotations

from enum import IntEnum


class ListObjection(IntEnum):
    """The `reason` of a list vote. Costs the sender nothing; who anchored the list is who is judged by it."""

    NONE = 0
    """No objection: the list is what our own recomputation gives."""
    OMITTED_RECORD = 1
    """The committed bundle lacks a record that we received inside its window."""
    WRONG_LIST = 2
    """The anchored root is not the root of the list that follows from the committed outcomes."""
    INVALID_RECORD = 3
    """The committed bundle includes a record that does not belong: unsigned, misplaced, twice, or a canary that was
    not owned up to in time."""
    WRONG_OUTCOME = 4
    """The committed records lead to another commitment: other outcomes, standings, beacon, roster or roots."""
    DATA_WITHHELD = 5
    """Nobody hands out the bytes of the commitment, its bundle or the list."""
    NO_LIST = 6
    """Nobody anchored a list in time."""
