"""What a node tells its own task about the task: the answers to `koii_p2p.tasks.facts.Fact`."""

from __future__ import annotations

from collections.abc import Callable

from koii_p2p.node.views import base58
from koii_p2p.records.schema import Kind, Presence, Submission
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.roster import Roster
from koii_p2p.settlement.interface import TaskState
from koii_p2p.tasks.facts import Fact
from koii_p2p.tasks.services import Refused

FactReader = Callable[[Fact, int | None], object]


class TaskFacts:
    """Answers for one task, once `use` has said from what: a worker may ask while its node still starts."""

    def __init__(self) -> None:
        self._engine: RoundEngine | None = None
        self._state: Callable[[], TaskState | None] = lambda: None
        self._slot_seconds: Callable[[], float] = lambda: 0.0

    def use(
        self,
        engine: RoundEngine,
        state: Callable[[], TaskState | None],
        slot_seconds: Callable[[], float],
    ) -> None:
        """Answer from this engine, the newest state read from K2, and the measured length of a slot."""
        self._engine, self._state, self._slot_seconds = engine, state, slot_seconds

    def __call__(self, name: Fact, number: int | None) -> object:
        """One answer, JSON-ready. Raises `Refused` while the node does not know yet."""
        engine = self._engine
        if engine is None:
            raise Refused("The node has just started and knows nothing of the task yet; ask again later.")
        match name, number:
            case Fact.TASK_STATE, None:
                return self._task_state(engine)
            case Fact.SUBMISSIONS, int(one):
                return submissions(engine, one)
            case Fact.RESULTS, int(one):
                return results(engine, one)
            case Fact.LIST, int(one):
                return distribution_list(engine, one)
        return nodes(engine)

    def _task_state(self, engine: RoundEngine) -> dict[str, object]:
        state = self._state()
        if state is None:
            raise Refused("K2 has not been read yet; ask again later.")
        return task_state(engine, state, self._slot_seconds())


def task_state(engine: RoundEngine, state: TaskState, slot_seconds: float) -> dict[str, object]:
    """The fields of `koii_p2p.tasks.facts.TaskState`."""
    terms, roster = state.terms, _newest_roster(engine)
    return {
        "task_id": base58(terms.task),
        "task_name": terms.name,
        "task_manager": base58(terms.creator),
        "is_active": state.active,
        "task_audit_program": terms.program,
        "task_metadata": state.metadata,
        "starting_slot": terms.starting_slot,
        "round_time": terms.round_time,
        "submission_window": terms.submission_window,
        "audit_window": terms.audit_window,
        "total_bounty_amount": state.vault,
        "bounty_amount_per_round": terms.bounty_per_round,
        "total_stake_amount": state.total_stake,
        "minimum_stake_amount": terms.minimum_stake,
        "allowed_failed_distributions": terms.allowed_failed_distributions,
        "slash_basis_points": terms.slash_basis_points,
        "current_round": max(terms.clock.period(engine.slot), 0),
        "roster_round": None if roster is None else roster.round,
        "stake_list": {} if roster is None else {base58(one.key): one.stake for one in roster.entries},
        "migrated_to": None if state.successor is None else base58(state.successor),
        "slot_ms": slot_seconds * 1000,
    }


def submissions(engine: RoundEngine, number: int) -> list[tuple[str, str | bytes, int]]:
    """Author, value and slot of every submission held of a round, by author."""
    state = engine.round(number)
    if state is None:
        return []
    return [
        (base58(record.author), record.statement.body.value, record.statement.slot)
        for record in state.of_kind(Kind.SUBMISSION)
        if isinstance(record.statement.body, Submission)
    ]


def results(engine: RoundEngine, number: int) -> list[tuple[str, str | bytes, int]] | None:
    """Author, value and outcome of every submission of a round that the commitment behind its anchored list names.

    None without such a list, and for a round that is no longer kept.
    """
    state = engine.round(number)
    if state is None or state.built is None or engine.list_of(number) is None:
        return None
    outcomes = state.built.tally.outcomes
    return [
        (base58(author), record.statement.body.value, outcomes[author].value)
        for author, record in sorted(state.built.records.submissions.items())
        if isinstance(record.statement.body, Submission)
    ]


def distribution_list(engine: RoundEngine, number: int) -> list[tuple[str, int, int]] | None:
    """Staker and totals of each leaf of the anchored list of a round; None if it is not held."""
    found = engine.list_of(number)
    if found is None:
        return None
    return [(base58(leaf.staker), leaf.reward_total, leaf.slash_total) for leaf in found.leaves]


def nodes(engine: RoundEngine) -> list[tuple[str, tuple[str, ...], str]]:
    """Key, addresses and software of everybody whose presence is known, by key."""
    return [
        (base58(record.author), record.statement.body.addresses, record.statement.body.software)
        for record in engine.presences()
        if isinstance(record.statement.body, Presence)
    ]


def _newest_roster(engine: RoundEngine) -> Roster | None:
    for number in reversed(engine.rounds()):
        state = engine.round(number)
        if state is not None and state.roster is not None:
            return state.roster
    return None
