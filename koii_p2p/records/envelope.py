"""Records in their envelopes: bytes -> `Envelope` (decoded) -> `Verified` (signature good). The form is in `cose.py`.

A function that needs a signature checked takes `Verified`, which only `verify` and `sign` make.
"""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass, field
from typing import Final

from koii_p2p.records import cose
from koii_p2p.records.cose import DOMAIN, GENESIS_BYTES, Signer
from koii_p2p.records.payload import decode_payload, payload_bytes
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import LIMITS, Kind, Statement

__all__ = [
    "DOMAIN",
    "GENESIS_BYTES",
    "Envelope",
    "Signer",
    "Verified",
    "decode_record",
    "external_aad",
    "sign",
    "signing_bytes",
    "verify",
]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded record whose signature nobody has checked.

    `id` is the SHA-256 of `raw`; as encodings and honest signatures are unique, what
    an honest author states has one id.
    `author` is the public key that the record claims; `payload` the bytes that were signed.
    """

    raw: bytes = field(repr=False)
    id: bytes
    author: bytes
    statement: Statement
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def kind(self) -> Kind:
        """What the record states."""
        return self.statement.kind

    @property
    def round(self) -> int:
        """The round that the record belongs to."""
        return self.statement.round


_MINT: Final = object()  # what proves to Verified that this file makes it


@dataclass(frozen=True, slots=True)
class Verified:
    """A record whose author signed it for this chain, task and kind. Made by `verify` and `sign` only."""

    mint: InitVar[object]
    envelope: Envelope

    def __post_init__(self, mint: object) -> None:
        if mint is not _MINT:
            raise TypeError("Only verify() and sign() make a Verified record.")

    @property
    def raw(self) -> bytes:
        """The whole record."""
        return self.envelope.raw

    @property
    def id(self) -> bytes:
        """SHA-256 of the whole record."""
        return self.envelope.id

    @property
    def author(self) -> bytes:
        """The 32-byte key that signed."""
        return self.envelope.author

    @property
    def statement(self) -> Statement:
        """What was signed."""
        return self.envelope.statement

    @property
    def kind(self) -> Kind:
        """What the record states."""
        return self.envelope.statement.kind

    @property
    def round(self) -> int:
        """The round that the record belongs to."""
        return self.envelope.statement.round


def decode_record(raw: bytes) -> Envelope:
    """Decode a record strictly, without looking at its signature. Raises `RecordError` for anything else.

    At most 64 KiB; an equivocation, which carries two records, at most `Limits.equivocation_bytes`.
    """
    signed = cose.take_apart(raw, max_bytes=LIMITS.equivocation_bytes, max_depth=LIMITS.record_depth)
    statement = decode_payload(signed.payload)
    if statement.kind is not Kind.EQUIVOCATION and len(raw) > LIMITS.record_bytes:
        raise RecordError(RecordReason.TOO_LARGE, f"{len(raw)} bytes; {LIMITS.record_bytes} are allowed.")
    return Envelope(
        raw, hashlib.sha256(raw).digest(), signed.author, statement, signed.payload, signed.signature
    )


def verify(envelope: Envelope, genesis: bytes) -> Verified:
    """Check the signature, for the chain with this 32-byte genesis hash.

    Raises `RecordError(BAD_SIGNATURE)`, and `ValueError` for a genesis hash of another length.
    """
    statement = envelope.statement
    cose.check_signature(
        cose.Signed(envelope.author, envelope.payload, envelope.signature),
        external_aad(genesis, statement.task, statement.kind),
    )
    return Verified(_MINT, envelope)


def sign(statement: Statement, genesis: bytes, signer: Signer) -> Verified:
    """Sign a statement, and read and verify the result as every receiver will.

    Raises `RecordError` if the record is too large or if `signer` does not sign with the key it names.
    """
    domain = external_aad(genesis, statement.task, statement.kind)
    raw = cose.put_together(payload_bytes(statement), domain, signer)
    return verify(decode_record(raw), genesis)


def signing_bytes(statement: Statement, genesis: bytes, public_key: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4) that the holder of `public_key` signs."""
    domain = external_aad(genesis, statement.task, statement.kind)
    return cose.to_be_signed(public_key, domain, payload_bytes(statement))


def external_aad(genesis: bytes, task: bytes, kind: Kind) -> bytes:
    """Return what ties a signature to one chain, task and kind. Raises `ValueError` for a short genesis."""
    return cose.domain_of(genesis, task, kind)
