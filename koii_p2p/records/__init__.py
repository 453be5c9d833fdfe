"""What nodes say: strict CBOR, COSE_Sign1 envelopes, and the schema of every record. Pure."""

from __future__ import annotations

from koii_p2p.records.cbor import CborError
from koii_p2p.records.envelope import Envelope, Signer, Verified, decode_record, sign, signing_bytes, verify
from koii_p2p.records.equivocation import Place, check_equivocation, conflict, equivocation_of, place_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.payload import decode_payload, payload_bytes
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Equivocation,
    Kind,
    ListNotice,
    ListVote,
    Presence,
    Statement,
    Submission,
    Verdict,
)

__all__ = [
    "Ballot",
    "BallotEntry",
    "BallotReveal",
    "Body",
    "CborError",
    "Challenge",
    "CommitmentNotice",
    "Envelope",
    "Equivocation",
    "Kind",
    "ListNotice",
    "ListVote",
    "Place",
    "Presence",
    "RecordError",
    "RecordReason",
    "SecretKey",
    "Signer",
    "Statement",
    "Submission",
    "Verdict",
    "Verified",
    "check_equivocation",
    "conflict",
    "decode_payload",
    "decode_record",
    "equivocation_of",
    "payload_bytes",
    "place_of",
    "sign",
    "signing_bytes",
    "verify",
]
