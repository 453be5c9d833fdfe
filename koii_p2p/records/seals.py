"""Sealed ballots: a digest that binds an auditor to its votes before anybody can read them."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from koii_p2p.records import cbor
from koii_p2p.records.payload import entry_arrays, read_entries
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import LIMITS, BallotReveal

_DOMAIN: Final = b"koii-p2p/1 seal"


def seal_of(reveal: BallotReveal, task: bytes, round_number: int, auditor: bytes) -> bytes:
    """32 bytes: SHA-256 over a domain, task, round (u64, little-endian), auditor, salt and encoded votes.

    The auditor's key is inside, so that a seal cannot be copied by somebody who reveals after its owner
    (PROTOCOL §6; Swarm's and Bittensor's commit-reveal bind the sender in the same way).
    """
    return sha256(
        _DOMAIN
        + task
        + round_number.to_bytes(8, "little")
        + auditor
        + reveal.salt
        + cbor.encode(entry_arrays(reveal.entries))
    ).digest()


def opens(reveal: BallotReveal, seal: bytes, task: bytes, round_number: int, auditor: bytes) -> bool:
    """Whether a reveal is what this auditor sealed."""
    return seal_of(reveal, task, round_number, auditor) == seal


def encode_opening(reveal: BallotReveal) -> bytes:
    """An opening as its owner keeps it until the reveals: deterministic CBOR [salt, votes]."""
    return cbor.encode([reveal.salt, entry_arrays(reveal.entries)])


def decode_opening(data: bytes) -> BallotReveal:
    """Inverse of `encode_opening`. Raises `RecordError`."""
    try:
        value = cbor.decode(data, max_bytes=LIMITS.record_bytes, max_depth=LIMITS.record_depth)
    except cbor.CborError as error:
        raise RecordError(error.reason, str(error)) from error
    match value:
        case [bytes(salt), list(entries)]:
            return BallotReveal(salt, read_entries(entries))
    raise RecordError(RecordReason.WRONG_TYPE, "An opening is a salt and votes.")
