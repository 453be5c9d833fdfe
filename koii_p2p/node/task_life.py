"""What its creator does with a task while nodes work on it: pauses it, names another that takes over, closes it."""

from __future__ import annotations

import structlog
from solders.pubkey import Pubkey

from koii_p2p.records.schema import Kind
from koii_p2p.rounds import events
from koii_p2p.rounds.coverage import Coverage
from koii_p2p.rounds.events import Action
from koii_p2p.settlement.interface import ClosedTaskState, TaskState

log = structlog.get_logger(__name__)


def is_idle(state: TaskState | None, number: int) -> bool:
    """Whether a round's work begins, or would, while the task is inactive: K2 takes no commitment to it.

    Once K2 has reached the round's period, that is final: pausing a task and going on with it both count from the
    next round on (docs/settlement.md; `TaskState.idle`).
    """
    if state is None or state.idle is None:
        return False
    first, end = state.idle
    return first <= number and (end is None or number < end)


def rests(state: TaskState | None, action: Action) -> bool:
    """Whether an action is not carried out because its round is idle.

    Without its roster a round asks for nothing else, so this mostly holds back `ReadRoster`, which is asked for again.
    What is known already is kept, and a node goes on saying where it is.
    """
    match action:
        case events.KeepRecord() | events.KeepArtifacts():
            return False
        case events.SignAndPublish(statement=statement):
            return statement.kind is not Kind.PRESENCE and is_idle(state, statement.round)
    return is_idle(state, action.round)


def say_changes(task: str, before: TaskState | None, now: TaskState) -> None:
    """Log, once each, that a task was paused, goes on, or names a successor. `before` is None at the first look."""
    was_active = before is None or before.active
    if was_active and not now.active:
        log.warning(
            "the task is inactive: no work, stakes or anchors until its creator goes on",
            task=task,
            from_round=now.idle[0] if now.idle else None,
        )
    elif now.active and not was_active:
        log.info("the task is active again", task=task, from_round=now.idle[1] if now.idle else None)
    if now.successor is not None and (before is None or before.successor != now.successor):
        log.warning(
            "the task's creator names a task that takes over: stakes do not move by themselves",
            task=task,
            successor=str(Pubkey(now.successor)),
        )


def say_unheard(task: str, seen: Coverage | None) -> None:
    """Log that most of those who were due to speak in a round were not heard."""
    if seen is not None and seen.suspicious:
        log.warning(
            "expected voters were never seen: this node may be eclipsed",
            task=task,
            round=seen.round,
            unheard=len(seen.unheard),
            expected=len(seen.expected),
        )


def say_closed(task: str, state: ClosedTaskState) -> None:
    """Log that a task is closed for good, and what is left to do for who had a stake in it."""
    log.warning(
        "the task is closed: this node does not work on it",
        task=task,
        closed_slot=state.closed_slot,
        successor=None if state.successor is None else str(Pubkey(state.successor)),
        remedy=closed_remedy(task, state),
    )


def closed_remedy(task: str, state: ClosedTaskState) -> str:
    """What the operator of a node can do about a closed task."""
    over = "" if state.successor is None else f", and join {Pubkey(state.successor)}, which takes over"
    return f"`koii-p2p withdraw {task}` pays the rent of a stake account back; then leave the task out{over}."
