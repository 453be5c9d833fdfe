"""What each reason costs who brought a record, and what it is decided from: REJECT only where no view can differ."""

from __future__ import annotations

from enum import Enum, auto

import pytest

from koii_p2p.gossip.effects import Verdict
from koii_p2p.limits import Limits
from koii_p2p.node.task_service import VERDICTS
from koii_p2p.records.schema import Kind
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.reasons import Action, Reason
from koii_p2p.rounds.record_book import RecordBook
from tests.rounds.net import GENESIS, TERMS, key, secret, submission


class Judged(Enum):
    """What a reason is decided from."""

    BYTES = auto()
    """The record alone."""
    TERMS = auto()
    """The record and the task's terms, which never change."""
    CHAIN = auto()
    """Also rosters and beacons, which every node reads from blocks that K2 has confirmed."""
    CLOCK = auto()
    """Our slot, or when the record got here."""
    HELD = auto()
    """What we hold by now, or have read by now."""
    TASKS = auto()
    """Which tasks we work on, and which version we are."""


TABLE = {
    Reason.UNKNOWN_TASK: (Action.IGNORE, Judged.TASKS),
    Reason.UNSPOKEN_KIND: (Action.IGNORE, Judged.TASKS),
    Reason.NOT_PLAYED: (Action.REJECT, Judged.TERMS),
    Reason.FUTURE: (Action.IGNORE, Judged.CLOCK),
    Reason.EARLY: (Action.IGNORE, Judged.CLOCK),
    Reason.LATE: (Action.IGNORE, Judged.CLOCK),
    Reason.SLOT_OUTSIDE_WINDOW: (Action.REJECT, Judged.TERMS),
    Reason.BAD_ATTEMPT: (Action.REJECT, Judged.TERMS),
    Reason.DUPLICATE: (Action.IGNORE, Judged.HELD),
    Reason.ROSTER_UNKNOWN: (Action.IGNORE, Judged.HELD),
    Reason.NOT_IN_ROSTER: (Action.REJECT, Judged.CHAIN),
    Reason.EMPTY_BALLOT: (Action.REJECT, Judged.BYTES),
    Reason.BEACON_UNKNOWN: (Action.IGNORE, Judged.HELD),
    Reason.NOT_ASSIGNED: (Action.REJECT, Judged.CHAIN),
    Reason.OWN_SUBMISSION: (Action.REJECT, Judged.TERMS),
    Reason.BALLOT_UNKNOWN: (Action.IGNORE, Judged.HELD),
    Reason.SEAL_BROKEN: (Action.REJECT, Judged.BYTES),
    Reason.SEATS_TAKEN: (Action.IGNORE, Judged.HELD),
    Reason.BAD_EVIDENCE: (Action.REJECT, Judged.CHAIN),
    Reason.CONVICTED: (Action.IGNORE, Judged.HELD),
    Reason.BAD_SIGNATURE: (Action.REJECT, Judged.BYTES),
    Reason.EQUIVOCATION: (Action.IGNORE, Judged.HELD),
    Reason.SUBMISSION_UNKNOWN: (Action.IGNORE, Judged.HELD),
    Reason.STALE_PRESENCE: (Action.IGNORE, Judged.CLOCK),
}

SHARED = {Judged.BYTES, Judged.TERMS, Judged.CHAIN}
"""What an honest relayer sees as we do, so that it would not have sent the record on."""


def test_the_table_has_every_reason() -> None:
    assert set(TABLE) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_costs_what_the_table_says(reason: Reason) -> None:
    action, judged = TABLE[reason]
    assert reason.action is action
    assert (action is Action.REJECT) == (judged in SHARED)
    assert not (reason.parked and judged in SHARED)


def test_each_judgement_is_the_verdict_of_the_same_name() -> None:
    assert {action: verdict.name for action, verdict in VERDICTS.items()} == {
        action: action.name for action in Action
    }
    assert set(VERDICTS.values()) == set(Verdict)


def test_what_is_found_before_and_after_admission_costs_by_the_same_rule() -> None:
    book = RecordBook(TERMS, GENESIS, Limits())
    record = submission(secret(1), "value")
    now = TERMS.clock.submission(3).opens + 1
    garbage = book.receive(b"\xa1", Source.GOSSIP, now)
    elsewhere = book.receive(record.raw, Source.GOSSIP, now, kinds={Kind.BALLOT})
    unkept = book.receive(record.raw, Source.GOSSIP, now)
    assert [one for one, _ in (garbage, elsewhere, unkept)] == [Action.REJECT, Action.REJECT, Action.IGNORE]
    assert key(1) == record.author
