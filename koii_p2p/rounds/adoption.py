"""Reading an anchored commitment and rebuilding its round from its own bundle: what K2 vouches for, and no more."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from koii_p2p.records.cid import cid_of
from koii_p2p.rounds.commitment import BuiltRound, Bundle, Commitment, CommitmentError, rebuild_commitment
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.terms import TaskTerms


class ReadCommitment(NamedTuple):
    """A commitment and the bundle that it names, decoded."""

    commitment: Commitment
    bundle: Bundle


def read_commitment(digest: bytes, commitment: bytes, bundle: bytes) -> ReadCommitment | ListObjection | None:
    """Decode the bytes of the commitment with this digest on K2.

    None: they are not what K2 and the commitment name, and another peer may have the right ones. An objection: they
    are, so that nobody has better ones, and they can't be read.
    """
    if sha256(commitment).digest() != digest:
        return None
    try:
        read = Commitment.decode(commitment)
    except CommitmentError:
        return ListObjection.WRONG_OUTCOME
    if cid_of(bundle) != read.bundle_cid:
        return None
    try:
        return ReadCommitment(read, Bundle.decode(bundle))
    except CommitmentError:
        return ListObjection.INVALID_RECORD


def rebuild(
    read: ReadCommitment, state: RoundState, previous: bytes, terms: TaskTerms, genesis: bytes
) -> BuiltRound | ListObjection:
    """The round that follows from the bundle's own records, whatever our view is; an objection if it is another one.

    `previous` is the digest of the commitment before. Beacon and auditors of `state` have to be known; raises
    ValueError otherwise.
    """
    if state.beacon is None or state.assignment is None:
        raise ValueError(f"round {state.round} can't be rebuilt before its auditors are known")
    try:
        rebuilt = rebuild_commitment(
            terms, genesis, read.bundle, state.beacon, previous, state.assignment, held=state.by_id
        )
    except CommitmentError:
        return ListObjection.INVALID_RECORD
    if rebuilt.bundle != read.bundle:
        return ListObjection.INVALID_RECORD
    if rebuilt.commitment.digest != read.commitment.digest:
        return ListObjection.WRONG_OUTCOME
    return rebuilt
