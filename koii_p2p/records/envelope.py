"""COSE_Sign1 envelopes (RFC 9052 section 4): bytes -> `Envelope` (decoded) -> `Verified` (signature good).

A function that needs a signature checked takes `Verified`, which only `verify` and `sign` make. PyNaCl
verifies: its rule (it refuses small-order and non-canonical keys, and signatures with S >= L) is part of the
protocol, because libraries disagree.
"""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass, field
from typing import Final, Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from koii_p2p.records import cbor
from koii_p2p.records.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from koii_p2p.records.payload import decode_payload, payload_bytes
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import LIMITS, Kind, Statement

DOMAIN: Final = b"koii-p2p/1"
GENESIS_BYTES: Final = 32

# The protected header is {1: -8, 4: key}: algorithm EdDSA (RFC 9053 section 2.2) and key identifier.
_HEADER_PREFIX: Final = bytes.fromhex("a20127045820")


class Signer(Protocol):
    """Whatever can sign as one identity: a `SecretKey`, or a door to one in another process."""

    @property
    def public_key(self) -> bytes:
        """The 32-byte ed25519 public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        ...


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
    try:
        message = cbor.decode(
            raw, max_bytes=LIMITS.equivocation_bytes, max_depth=LIMITS.record_depth, tag=cbor.COSE_SIGN1_TAG
        )
    except cbor.CborError as error:
        raise RecordError(error.reason, str(error)) from error
    match message:
        case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)] if not unprotected:
            pass
        case _:
            raise RecordError(RecordReason.NOT_COSE)
    author = protected[len(_HEADER_PREFIX) :]
    if not protected.startswith(_HEADER_PREFIX) or len(author) != PUBLIC_KEY_BYTES:
        raise RecordError(RecordReason.BAD_HEADER)
    if len(signature) != SIGNATURE_BYTES:
        raise RecordError(RecordReason.NOT_COSE, f"A signature of {len(signature)} bytes.")
    statement = decode_payload(payload)
    if statement.kind is not Kind.EQUIVOCATION and len(raw) > LIMITS.record_bytes:
        raise RecordError(RecordReason.TOO_LARGE, f"{len(raw)} bytes; {LIMITS.record_bytes} are allowed.")
    return Envelope(raw, hashlib.sha256(raw).digest(), author, statement, payload, signature)


def verify(envelope: Envelope, genesis: bytes) -> Verified:
    """Check the signature, for the chain with this 32-byte genesis hash.

    Raises `RecordError(BAD_SIGNATURE)`, and `ValueError` for a genesis hash of another length.
    """
    statement = envelope.statement
    message = _sig_structure(
        _protected(envelope.author), external_aad(genesis, statement.task, statement.kind), envelope.payload
    )
    try:
        crypto_sign_open(envelope.signature + message, envelope.author)
    except CryptoError as error:
        raise RecordError(RecordReason.BAD_SIGNATURE) from error
    return Verified(_MINT, envelope)


def sign(statement: Statement, genesis: bytes, signer: Signer) -> Verified:
    """Sign a statement, and read and verify the result as every receiver will.

    Raises `RecordError` if the record is too large or if `signer` does not sign with the key it names.
    """
    payload, protected = payload_bytes(statement), _protected(signer.public_key)
    aad = external_aad(genesis, statement.task, statement.kind)
    signature = signer.sign(_sig_structure(protected, aad, payload))
    raw = cbor.encode([protected, {}, payload, signature], tag=cbor.COSE_SIGN1_TAG)
    return verify(decode_record(raw), genesis)


def signing_bytes(statement: Statement, genesis: bytes, public_key: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4) that the holder of `public_key` signs."""
    aad = external_aad(genesis, statement.task, statement.kind)
    return _sig_structure(_protected(public_key), aad, payload_bytes(statement))


def external_aad(genesis: bytes, task: bytes, kind: Kind) -> bytes:
    """Return what ties a signature to one chain, task and kind. Raises `ValueError` for a short genesis."""
    if len(genesis) != GENESIS_BYTES:
        raise ValueError(f"A genesis hash has {GENESIS_BYTES} bytes, not {len(genesis)}.")
    return DOMAIN + genesis + task + bytes((kind,))


def _protected(public_key: bytes) -> bytes:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"A public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}.")
    return _HEADER_PREFIX + public_key


def _sig_structure(protected: bytes, aad: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, aad, payload])
