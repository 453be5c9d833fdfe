"""What misbehaving nodes say and anchor: pure rules, for cheaters of testnets and of simulations.

Nothing here is of use to an honest node. Everything follows from what an engine knows.
"""

from __future__ import annotations

from dataclasses import replace

from koii_p2p.records.schema import ListVote, Statement, Submission
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.commitment import BuiltRound, build_commitment
from koii_p2p.rounds.distribution import DistributionList, next_list
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.events import AnchorCommitment, AnchorList
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.round_state import RoundState

HASTE = 3
"""Slots after the window opens at which a lying leader anchors: K2 may be a slot or two behind a node's clock."""


def bad_value(value: str | bytes | None) -> str | bytes | None:
    """A value that a task did not produce, of the same type and a size that is allowed."""
    if value is None:
        return None
    return f"not {value}"[:512] if isinstance(value, str) else b"not " + value[:508]


def contradiction(statement: Statement) -> Statement | None:
    """Another submission for the same place; None for a statement of another kind."""
    body = statement.body
    if not isinstance(body, Submission):
        return None
    return replace(statement, body=Submission(bad_value(body.value) or ""))


def agreeing(statement: Statement) -> Statement:
    """A list vote that agrees, whatever it said; other statements as they are."""
    body = statement.body
    if not isinstance(body, ListVote):
        return statement
    return replace(statement, body=ListVote(body.root, True, int(ListObjection.NONE)))


def hasty_commitments(engine: RoundEngine) -> list[AnchorCommitment]:
    """What a lying leader anchors before the first leader's turn: K2 takes the first commitment in its window.

    Once in each round: whoever is late is told so by K2, and has its own turn later.
    """
    found = []
    for number in engine.rounds():
        state, window = engine.round(number), engine.clock.commitment(number)
        if state is None or state.proposal is not None or engine.anchored(number) is not None:
            continue
        if state.roster is None or state.beacon is None or state.assignment is None:
            continue
        if engine.slot in Window(window.opens + HASTE, window.closes):
            previous = engine.previous_digest(number)
            state.proposal = build_commitment(
                engine.terms, state.roster, state.beacon, previous, state.records(), state.assignment
            )
            built = state.proposal
            digest, commitment = built.commitment.digest, built.commitment.encode()
            found.append(AnchorCommitment(number, 0, digest, commitment, built.bundle.encode()))
    return found


def hasty_lists(engine: RoundEngine, key: bytes) -> list[AnchorList]:
    """What a leader that pays itself anchors before the first leader's turn: K2 takes the first list in its window.

    Tried from a little before the window opens, in every slot, since an honest leader is ready then as well. It goes by
    its own list from then on, as if it were right. In the next attempt it is barred.
    """
    found = []
    for number in engine.rounds():
        state, anchored, window = (
            engine.round(number),
            engine.anchored(number),
            engine.clock.distribution(number),
        )
        if state is None or state.built is None or anchored is None or anchored.list_root is not None:
            continue
        if state.attempt or anchored.rejected or not window.opens - HASTE <= engine.slot < window.closes:
            continue
        state.list = self_paying(state, state.built, engine, key)
        totals = (state.list.reward_total, state.list.slash_total)
        found.append(AnchorList(number, 0, state.list.root, *totals, state.list.encode()))
    return found


def self_paying(state: RoundState, built: BuiltRound, engine: RoundEngine, key: bytes) -> DistributionList:
    """The list of a round in which one key gets the whole bounty, and the others what they had."""
    assert state.roster is not None, "the round was committed to"
    held = (engine.list_of(number) for number in engine.rounds() if number < state.round)
    before = [listed for listed in held if listed is not None]
    amounts = {key: engine.terms.bounty_per_round}
    return next_list(before[-1] if before else None, state.roster, amounts, engine.terms, built.tally)
