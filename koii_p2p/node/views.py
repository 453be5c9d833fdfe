"""A node's state as JSON-ready values for the HTTP API: keys in base58, digests in hex, Roe and slots as integers."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from solders.pubkey import Pubkey

from koii_p2p.network.gossip import PeerScore
from koii_p2p.network.network import PeerInfo
from koii_p2p.node.task_life import closed_remedy
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, Challenge, Kind, Submission
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.coverage import Coverage
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.round_records import entries_of
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.settlement.interface import ClosedTaskState, TaskState

SHOWN_VALUE = 80
"""Characters of a submission value that are shown; the bundle has all of it."""


def base58(key: bytes) -> str:
    """A 32-byte key as K2 tools write it."""
    return str(Pubkey(key))


def plain(value: object) -> Any:
    """Any statistics dataclass, however nested, as JSON-ready values: bytes in hex, and None for what is no number.

    Text that UTF-8 cannot say, such as a file's name that is none, gets question marks.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def peer_view(peer: PeerInfo) -> dict[str, Any]:
    """One connected peer."""
    return {**plain(peer), "key": base58(peer.key)}


def score_view(peer: PeerScore) -> dict[str, Any]:
    """What gossip thinks of a peer: the terms of its score, the score, and where it is in each topic."""
    return {"key": base58(peer.key), **plain(peer.parts), "topics": plain(peer.topics)}


def life_view(state: TaskState | None, closed: ClosedTaskState | None) -> dict[str, Any]:
    """Whether a task goes on: `active`, `inactive` or `closed`, its idle rounds [first, end), and its successor.

    `state` is what K2 last held of it; while that was not read yet, nothing is known to stand in the way.
    """
    successor = closed.successor if closed is not None else None if state is None else state.successor
    inactive = state is not None and not state.active
    return {
        "state": "closed" if closed is not None else "inactive" if inactive else "active",
        "idle": None if state is None or state.idle is None else list(state.idle),
        "successor": None if successor is None else base58(successor),
    }


def closed_view(task: str, state: ClosedTaskState) -> dict[str, Any]:
    """A closed task: since when (slot), what takes over, and what its stakers can do."""
    return {
        "task": task,
        "closed_slot": state.closed_slot,
        "successor": None if state.successor is None else base58(state.successor),
        "remedy": closed_remedy(task, state),
    }


def coverage_view(seen: Coverage | None) -> dict[str, Any] | None:
    """Who was due to speak in the newest round that is over, and was not heard; `eclipsed` if that is suspicious."""
    if seen is None:
        return None
    return {
        "round": seen.round,
        "expected": len(seen.expected),
        "unheard": [base58(key) for key in seen.unheard],
        "eclipsed": seen.suspicious,
    }


def round_brief(task: str, engine: RoundEngine, state: RoundState) -> dict[str, Any]:
    """One round in one line: where it stands and what K2 holds of it."""
    anchored = engine.anchored(state.round)
    votes = [vote.agree for vote in state.list_votes().values()]
    return {
        "task": task,
        "round": state.round,
        "phase": engine.clock.phase(state.round, engine.slot).value,
        "roster": None if state.roster is None else len(state.roster),
        "submissions": sum(1 for _ in state.of_kind(Kind.SUBMISSION)),
        "ballots": sum(1 for _ in state.of_kind(Kind.BALLOT)),
        "outcomes": _outcome_counts(state),
        "commitment": None if anchored is None else anchored.commitment.hex(),
        "list_root": None if anchored is None or anchored.list_root is None else anchored.list_root.hex(),
        "list_votes": {"agree": votes.count(True), "disagree": votes.count(False)},
        "settled": state.settled,
    }


def round_view(task: str, engine: RoundEngine, state: RoundState) -> dict[str, Any]:
    """One round in full: roster, records, outcomes, amounts and anchors."""
    submissions = list(state.of_kind(Kind.SUBMISSION))
    authors = {record.id: record.author for record in submissions}
    outcomes = state.commitment.outcome_of if state.commitment else {}
    return {
        **round_brief(task, engine, state),
        "windows": {
            name: [window.opens, window.closes]
            for name, window in (
                ("work", engine.clock.work(state.round)),
                ("submission", engine.clock.submission(state.round)),
                ("audit", engine.clock.audit(state.round)),
                ("delay", engine.clock.delay(state.round)),
                ("distribution", engine.clock.distribution(state.round)),
                ("distribution audit", engine.clock.distribution_audit(state.round)),
            )
        },
        "settles_at": engine.clock.settles_at(state.round),
        "beacon": None if state.beacon is None else state.beacon.hex(),
        "stakes": {} if state.roster is None else {base58(e.key): e.stake for e in state.roster.entries},
        "submitted": [
            {**_record(record), "value": _value(record), "outcome": _name(outcomes.get(record.author))}
            for record in submissions
        ],
        "votes": [_ballot(record, authors) for record in _ballots(state, DRAWN)],
        "full_audit": {
            "accused": sorted(base58(author) for author in state.disputed(engine.terms).values()),
            "votes": [_ballot(record, authors) for record in _ballots(state, FULL_AUDIT)],
        },
        "challenges": [
            {**_record(record), "of": _challenged(record, authors)}
            for record in state.of_kind(Kind.CHALLENGE)
        ],
        "auditors": {}
        if state.commitment is None
        else {base58(key): status.name for key, status in state.commitment.auditors},
        "amounts": None
        if state.amounts is None
        else {base58(key): amount for key, amount in sorted(state.amounts.items())},
        "anchors": _anchors(engine.anchored(state.round)),
        "attempt": state.attempt,
        "objection": state.objection.name,
        "list_objections": {
            base58(author): ListObjection(vote.reason).name
            for author, vote in sorted(state.list_votes().items())
            if not vote.agree and vote.reason in set(ListObjection)
        },
        "omitted": [record_id.hex() for record_id in state.omitted],
        "equivocations": sorted({base58(author) for _place, author in state.equivocations}),
        "convicted": {
            base58(offender): record.id.hex() for offender, record in sorted(state.evidence.items())
        },
        "signed": [
            {"raw": base64.b64encode(record.raw).decode(), "timely": record.id in state.timely}
            for record in _signed(state)
        ],
    }


def _signed(state: RoundState) -> Iterator[Verified]:
    """What is said outside the bundle, for whoever wants to prove or explain it: notices, list votes, and submissions
    that the commitment lacks; all of them while there is none."""
    for kind in (Kind.COMMITMENT_NOTICE, Kind.LIST_NOTICE, Kind.LIST_VOTE):
        yield from state.of_kind(kind)
    committed = state.built.records.submissions if state.built else {}
    for record in state.of_kind(Kind.SUBMISSION):
        if record.author not in committed:
            yield record


def _outcome_counts(state: RoundState) -> dict[str, int] | None:
    if state.commitment is None:
        return None
    counts: dict[str, int] = {}
    for outcome in state.commitment.outcome_of.values():
        counts[outcome.name] = counts.get(outcome.name, 0) + 1
    return counts


def _record(record: Verified) -> dict[str, Any]:
    return {"author": base58(record.author), "id": record.id.hex(), "slot": record.statement.slot}


def _value(record: Verified) -> str:
    body = record.statement.body
    value = body.value if isinstance(body, Submission) else ""
    text = value if isinstance(value, str) else value.hex()
    return text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 1] + "…"


def _ballots(state: RoundState, stage: int) -> Iterator[Verified]:
    """What says the votes of one stage: open ballots, the reveals of sealed ones, and sealed ones not yet revealed."""
    for record in state.of_kind(Kind.BALLOT):
        if record.statement.seq == stage:
            reveal = state.of_author(Kind.BALLOT_REVEAL, record.author) if _is_sealed(record) else None
            yield reveal or record


def _is_sealed(record: Verified) -> bool:
    body = record.statement.body
    return isinstance(body, Ballot) and body.seal is not None


def _ballot(record: Verified, authors: Mapping[bytes, bytes]) -> dict[str, Any]:
    verdicts = {
        base58(authors[entry.submission_id])
        if entry.submission_id in authors
        else entry.submission_id.hex(): entry.verdict.name
        for entry in entries_of(record)
    }
    return {**_record(record), "sealed": _is_sealed(record), "verdicts": verdicts}


def _challenged(record: Verified, authors: Mapping[bytes, bytes]) -> str:
    body = record.statement.body
    submission_id = body.submission_id if isinstance(body, Challenge) else b""
    return base58(authors[submission_id]) if submission_id in authors else submission_id.hex()


def _anchors(anchored: AnchoredRound | None) -> dict[str, Any] | None:
    if anchored is None:
        return None
    listed = anchored.list_root is not None
    return {
        "attempt": anchored.attempt,
        "commitment": anchored.commitment.hex(),
        "commitment_slot": anchored.commitment_slot,
        "commitment_by": base58(anchored.commitment_by),
        "list_root": anchored.list_root.hex() if anchored.list_root is not None else None,
        "list_slot": anchored.list_slot if listed else None,
        "list_by": base58(anchored.list_by) if anchored.list_by is not None else None,
        "veto_stake": anchored.veto_stake,
        "rejected": anchored.rejected,
        "barred": [base58(key) for key in anchored.barred],
        "reward_total": anchored.reward_total,
        "slash_total": anchored.slash_total,
    }


def _name(member: Enum | None) -> str | None:
    return None if member is None else member.name
