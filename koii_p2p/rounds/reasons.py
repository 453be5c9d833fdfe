"""Why a record is not admitted: one member per rule, with what it means and what it costs the sender."""

from __future__ import annotations

from enum import Enum

from koii_p2p.records.meanings import Meaning


class Action(Enum):
    """What becomes of a record. IGNORE costs the sender nothing, REJECT is counted against it."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Reason(Meaning):
    """Why a decoded record is not admitted. The value is the portable name used by vectors and counters.

    `Reason.X.__doc__` says what the member means and what it costs the sender, `.action` is IGNORE or
    REJECT, and `.parked` tells that the same bytes may be admitted later, so that they are worth keeping
    for a bounded time. Honest peers differ in clock, progress and chain view, so whatever these can explain
    is an IGNORE.
    """

    action: Action
    parked: bool

    def __init__(self, code: str, action: Action, meaning: str, parked: bool = False) -> None:
        """Say what the reason costs, and whether the record is kept."""
        super().__init__(code, meaning)
        self.action = action
        self.parked = parked

    UNKNOWN_TASK = (
        "unknown_task",
        Action.IGNORE,
        "About a task that this view does not work on. Free: the sender may work on more tasks than we do.",
    )
    UNSPOKEN_KIND = (
        "unspoken_kind",
        Action.IGNORE,
        "A kind that belongs to no window of a round. Free: the sender may be newer.",
    )
    NOT_PLAYED = (
        "not_played",
        Action.REJECT,
        "A form of record that the task's audit rules do not know, such as an open ballot where they are sealed. "
        "Penalised: the rules are fixed.",
    )
    FUTURE = (
        "future",
        Action.IGNORE,
        "For a window that opens much later than any difference of clocks explains. Free, and not parked.",
    )
    EARLY = (
        "early",
        Action.IGNORE,
        "For a window that is about to open: our slot may lag. Free; parked.",
        True,
    )
    LATE = (
        "late",
        Action.IGNORE,
        "Received after its window closed (from reconciliation: after commitments closed). Free: the sender "
        "may have received it in time.",
    )
    SLOT_OUTSIDE_WINDOW = (
        "slot_outside_window",
        Action.REJECT,
        "Its own slot is not in the window of its kind and round. Penalised: everybody can see that.",
    )
    BAD_ATTEMPT = (
        "bad_attempt",
        Action.REJECT,
        "A ballot, challenge, notice or list vote with a number that the terms do not allow. Penalised: terms are "
        "fixed.",
    )
    DUPLICATE = (
        "duplicate",
        Action.IGNORE,
        "We hold the same statement of the same author. Free: gossip repeats itself.",
    )
    ROSTER_UNKNOWN = (
        "roster_unknown",
        Action.IGNORE,
        "The roster of its round is not read yet. Free; parked.",
        True,
    )
    NOT_IN_ROSTER = (
        "not_in_roster",
        Action.REJECT,
        "Its author has no active stake in its round. Penalised: the roster follows from K2.",
    )
    EMPTY_BALLOT = (
        "empty_ballot",
        Action.REJECT,
        "A ballot without votes. Penalised: who has nothing to vote on sends nothing.",
    )
    BEACON_UNKNOWN = (
        "beacon_unknown",
        Action.IGNORE,
        "The auditors of its round cannot be computed yet. Free; parked.",
        True,
    )
    NOT_ASSIGNED = (
        "not_assigned",
        Action.REJECT,
        "A vote on a submission that its author is not due to audit. Penalised: the draw is public.",
    )
    OWN_SUBMISSION = (
        "own_submission",
        Action.REJECT,
        "A challenge of its author's own submission, when no canary may be owned up to. Penalised: rules and slots "
        "are public.",
    )
    BALLOT_UNKNOWN = (
        "ballot_unknown",
        Action.IGNORE,
        "The reveal of a sealed ballot that we do not hold. Free; parked until reconciliation brings it.",
        True,
    )
    SEAL_BROKEN = (
        "seal_broken",
        Action.REJECT,
        "A reveal that is not what its author sealed. Penalised: everybody can compute that.",
    )
    SEATS_TAKEN = (
        "seats_taken",
        Action.IGNORE,
        "A ballot of a key without stake, of which enough are held. Free: the sender may have seen it first.",
    )
    BAD_EVIDENCE = (
        "bad_evidence",
        Action.REJECT,
        "An equivocation that convicts nobody in its round. Penalised: it can be checked before it is sent.",
    )
    CONVICTED = (
        "convicted",
        Action.IGNORE,
        "Evidence against somebody against whom there is evidence already. Free: one is enough, and the one with "
        "the smallest id is kept everywhere.",
    )
    BAD_SIGNATURE = (
        "bad_signature",
        Action.REJECT,
        "Not signed by its author for this chain, task and kind. Penalised: checked before forwarding.",
    )
    EQUIVOCATION = (
        "equivocation",
        Action.IGNORE,
        "Properly signed, but its author signed something else for the same place, and that stays. Free: the "
        "sender may have seen this one first. The pair is evidence against the author.",
    )
    SUBMISSION_UNKNOWN = (
        "submission_unknown",
        Action.IGNORE,
        "A ballot on, or challenge of, a submission that we do not hold. Free; parked until reconciliation brings it.",
        True,
    )
    STALE_PRESENCE = (
        "stale_presence",
        Action.IGNORE,
        "A presence with a slot too far from now. Free: it may have travelled long.",
    )
