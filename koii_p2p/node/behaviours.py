"""Deliberate misbehaviour of a real node, for local clusters only: what a testnet's cheaters do."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from koii_p2p.records.schema import Ballot, BallotEntry, Kind, Statement, Submission, Verdict
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.commitment import build_commitment
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.events import Action, AnchorCommitment, SignAndPublish
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.round_state import RoundState

HASTE = 3
"""Slots after the window opens at which an omitting leader commits: K2 may be a slot or two behind a node's clock."""


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


def bad_value(value: str | bytes | None) -> str | bytes | None:
    """A value that a task did not produce, of the same type and a size that is allowed."""
    if value is None:
        return None
    return f"not {value}"[:512] if isinstance(value, str) else b"not " + value[:508]


def submitted_value(behaviour: Behaviour, value: str | bytes | None) -> str | bytes | None:
    """The value that a node with this behaviour submits when its task produced `value`."""
    wrong = behaviour in (Behaviour.WRONG_VALUE, Behaviour.EQUIVOCATING)
    return bad_value(value) if wrong else value


def second_statement(behaviour: Behaviour, statement: Statement) -> Statement | None:
    """What an equivocating node signs as well, for the same place."""
    body = statement.body
    if behaviour is not Behaviour.EQUIVOCATING or not isinstance(body, Submission):
        return None
    return replace(statement, body=Submission(bad_value(body.value) or ""))


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


def hasty_commitments(behaviour: Behaviour, engine: RoundEngine) -> list[AnchorCommitment]:
    """What an omitting leader anchors before the first leader's turn: K2 takes the first commitment in its window.

    Once in each round: whoever is late is told so by K2, and has its own turn later.
    """
    if behaviour is not Behaviour.OMITTING_LEADER:
        return []
    found = []
    for number in engine.rounds():
        state, window = engine.round(number), engine.clock.commitment(number)
        if state is None or state.proposal is not None or engine.anchored(number) is not None:
            continue
        if state.roster is None or state.beacon is None or state.assignment is None:
            continue
        if window.opens + HASTE <= engine.slot < window.closes:
            previous = engine.previous_digest(number)
            state.proposal = build_commitment(
                engine.terms, state.roster, state.beacon, previous, state.records(), state.assignment
            )
            built = state.proposal
            digest, commitment = built.commitment.digest, built.commitment.encode()
            found.append(AnchorCommitment(number, 0, digest, commitment, built.bundle.encode()))
    return found


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
