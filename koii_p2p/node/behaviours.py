"""Deliberate misbehaviour of a real node, for local clusters only: what a testnet's cheaters do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum

import structlog
import trio

from koii_p2p.errors import ChainError
from koii_p2p.node.slots import SlotClock
from koii_p2p.records.schema import Ballot, BallotEntry, Kind, Statement, Verdict
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.commitment import build_commitment
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.events import Action, AnchorCommitment, SignAndPublish
from koii_p2p.rounds.misconduct import bad_value as bad_value
from koii_p2p.rounds.misconduct import contradiction, hasty_commitments, hasty_lists
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.settlement.layouts import newest_settled
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.refusals import ProgramError, ProgramRefused

log = structlog.get_logger(__name__)

FLEE_AGAIN_SLOTS = 10
"""Slots between two tries of a fleeing cheater to get its stake out."""


class Behaviour(Enum):
    """How a node behaves. Everything but HONEST is refused outside local clusters."""

    HONEST = "honest"
    """Does what its task says."""
    WRONG_VALUE = "wrong-value"
    """Submits a value that its task did not produce, and does all else as an honest node."""
    EQUIVOCATING = "equivocating"
    """Signs two submissions in every round, neither of which its task produced."""
    LATE_ACCUSER = "late-accuser"
    """Calls somebody's good work invalid, so late in the audit that hardly anybody can answer."""
    OMITTING_LEADER = "omitting-leader"
    """Commits to every round without one submission that everybody has received, and does not wait for its turn."""
    PAYING_ITSELF = "paying-itself"
    """Anchors lists that give the whole bounty to itself, before anybody else's turn; its commitments are right."""
    FLEEING = "fleeing"
    """Submits a wrong value, and asks its stake back before anybody can have looked at it."""
    FLEEING_LATE = "fleeing-late"
    """Submits a wrong value, and asks its stake back when a list that slashes it is on K2."""


_CHEATING = (Behaviour.WRONG_VALUE, Behaviour.EQUIVOCATING, Behaviour.FLEEING, Behaviour.FLEEING_LATE)
_FLEEING = (Behaviour.FLEEING, Behaviour.FLEEING_LATE)
_HASTY = (Behaviour.OMITTING_LEADER, Behaviour.PAYING_ITSELF)


def submitted_value(behaviour: Behaviour, value: str | bytes | None) -> str | bytes | None:
    """The value that a node with this behaviour submits when its task produced `value`."""
    return bad_value(value) if behaviour in _CHEATING else value


def second_statement(behaviour: Behaviour, statement: Statement) -> Statement | None:
    """What an equivocating node signs as well, for the same place."""
    return contradiction(statement) if behaviour is Behaviour.EQUIVOCATING else None


def withholds(behaviour: Behaviour, action: Action) -> bool:
    """Whether a node with this behaviour does not do what its engine asks for."""
    if behaviour is not Behaviour.LATE_ACCUSER or not isinstance(action, SignAndPublish):
        return False
    return action.statement.kind is Kind.BALLOT and action.statement.seq == 0


def late_accusations(behaviour: Behaviour, engine: RoundEngine, key: bytes) -> list[Statement]:
    """The false ballots that are due now: in the last sixth of the time for first ballots, one in each round."""
    if behaviour is not Behaviour.LATE_ACCUSER:
        return []
    found = []
    for number in engine.rounds():
        state = engine.round(number)
        clock = engine.clock
        koii = engine.terms.audit.profile is Profile.KOII
        window = clock.audit(number) if koii else clock.first_ballots(number)
        late = window.closes - (window.closes - window.opens) // 6
        if state is None or not late <= engine.slot < window.closes:
            continue
        victim = _victim(state, key)
        if victim is not None and state.of_author(Kind.BALLOT, key) is None:
            ballot = Ballot((BallotEntry(victim, Verdict.INVALID),))
            found.append(Statement(engine.terms.task, number, engine.slot, 0, ballot))
    return found


def _victim(state: RoundState, key: bytes) -> bytes | None:
    """The submission of the first author, by key, whom this auditor may vote on."""
    if state.assignment is None:
        return None
    for author, record in sorted(state.submissions().items()):
        if author != key and state.assignment.may_vote(key, author, 0):
            return record.id
    return None


def hasty_anchors(behaviour: Behaviour, engine: RoundEngine, key: bytes) -> list[Action]:
    """What a lying leader anchors before the first leader's turn: see `rounds.misconduct`."""
    commitments = hasty_commitments(engine) if behaviour in _HASTY else []
    lists = hasty_lists(engine, key) if behaviour is Behaviour.PAYING_ITSELF else []
    return [*commitments, *lists]


def committed_instead(
    behaviour: Behaviour, action: AnchorCommitment, engine: RoundEngine, key: bytes
) -> AnchorCommitment:
    """What a node with this behaviour anchors when the records lead to `action`."""
    state = engine.round(action.round)
    if behaviour is not Behaviour.OMITTING_LEADER or state is None or state.proposal is None:
        return action
    if state.roster is None or state.beacon is None:
        return action
    records = state.proposal.records
    victim = next((author for author in records.submissions if author != key), None)
    kept = {author: record for author, record in records.submissions.items() if author != victim}
    state.proposal = build_commitment(
        engine.terms,
        state.roster,
        state.beacon,
        state.proposal.commitment.previous,
        replace(records, submissions=kept),
        state.assignment,
    )
    built = state.proposal
    return replace(
        action,
        digest=built.commitment.digest,
        commitment=built.commitment.encode(),
        bundle=built.bundle.encode(),
    )


def excuse_own_lies(behaviour: Behaviour, engine: RoundEngine, key: bytes) -> None:
    """A node that anchored a false commitment does not object to it, and goes on to anchor its list."""
    if behaviour is not Behaviour.OMITTING_LEADER:
        return
    for number in engine.rounds():
        state, anchored = engine.round(number), engine.anchored(number)
        if state is not None and anchored is not None and anchored.commitment_by == key:
            state.objection, state.omitted = ListObjection.NONE, ()


def asks_back(behaviour: Behaviour, engine: RoundEngine, key: bytes) -> bool:
    """Whether a fleeing cheater asks its stake back now.

    Not before it is in a roster: what nobody can slash nobody has to flee with.
    """
    if behaviour is Behaviour.FLEEING_LATE:
        held = (engine.list_of(number) for number in engine.rounds())
        leaves = (listed.leaf(key) for listed in held if listed is not None)
        return any(leaf is not None and leaf.slash_total for leaf in leaves)
    states = (engine.round(number) for number in engine.rounds())
    return behaviour is Behaviour.FLEEING and any(
        state is not None and state.roster is not None and key in state.roster for state in states
    )


async def flee(
    behaviour: Behaviour,
    engine: RoundEngine,
    chain: object,
    key: bytes,
    slots: SlotClock,
    failed: Callable[[str, Exception], None],
) -> None:
    """Ask the stake back as early as the behaviour wants it, and try to get it out from then on, until K2 pays it.

    `failed` is told of each refusal. Only the settlement program holds stakes to flee with.
    """
    if behaviour not in _FLEEING:
        return
    if not isinstance(chain, ProgramSettlement):
        log.warning("there is no stake to flee with", carrier=type(chain).__name__)
        return
    while not asks_back(behaviour, engine, key):
        await trio.sleep(slots.slot_seconds)
    asked = False
    while True:
        try:
            if not asked:
                await _ask_back(chain, engine.terms.task)
                asked = True
                log.info("asked the stake back", slot=engine.slot)
            await _take_out(chain, engine, key)
            log.info("took the stake out", slot=engine.slot)
            return
        except ChainError as error:
            failed("take out the stake" if asked else "ask the stake back", error)
        await trio.sleep(FLEE_AGAIN_SLOTS * slots.slot_seconds)


async def _ask_back(chain: ProgramSettlement, task: bytes) -> None:
    try:
        await chain.unstake(task)
    except ProgramRefused as refusal:
        if refusal.error is not ProgramError.ALREADY_UNSTAKING:
            raise


async def _take_out(chain: ProgramSettlement, engine: RoundEngine, key: bytes) -> None:
    """Withdraw with the leaf of the newest settled list that we hold, or without one. Raises `ChainError`."""
    task = engine.terms.task
    state, slot = await chain.task_state(task), await chain.slot()
    # Without a stake K2 names the reason; who would be paid does not matter then.
    beneficiary = next((one.beneficiary for one in await chain.stakes(task) if one.staker == key), key)
    newest = newest_settled(state, slot)
    listed = None if newest is None else engine.list_of(newest.round)
    leaf = None if listed is None else listed.leaf(key)
    if listed is None or leaf is None:
        await chain.withdraw(task, key, beneficiary)
    else:
        await chain.withdraw(task, key, beneficiary, listed.round, leaf, listed.proof(key))
