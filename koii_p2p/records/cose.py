"""COSE_Sign1 (RFC 9052 section 4) as every signed thing here uses it: ed25519, the key in the header, one form only.

What a payload says is the business of whoever signs; `envelope.py` does so for the records of rounds. PyNaCl
verifies: its rule (it refuses small-order and non-canonical keys, and signatures with S >= L) is part of the
protocol, because libraries disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from koii_p2p.records import cbor
from koii_p2p.records.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from koii_p2p.records.reasons import RecordError, RecordReason

DOMAIN: Final = b"koii-p2p/1"
GENESIS_BYTES: Final = 32
_DEPTH: Final = 2

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
class Signed:
    """A message taken apart, whose signature nobody has checked: the key it claims, what was signed, how."""

    author: bytes
    payload: bytes
    signature: bytes


def domain_of(genesis: bytes, task: bytes, kind: int) -> bytes:
    """Return what ties a signature to one chain, task and kind. Raises `ValueError` for a short genesis."""
    if len(genesis) != GENESIS_BYTES:
        raise ValueError(f"A genesis hash has {GENESIS_BYTES} bytes, not {len(genesis)}.")
    return DOMAIN + genesis + task + bytes((kind,))


def take_apart(raw: bytes, *, max_bytes: int, max_depth: int = _DEPTH) -> Signed:
    """Decode a message of at most `max_bytes` strictly. Raises `RecordError` for anything else."""
    try:
        message = cbor.decode(raw, max_bytes=max_bytes, max_depth=max_depth, tag=cbor.COSE_SIGN1_TAG)
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
    return Signed(author, payload, signature)


def put_together(payload: bytes, domain: bytes, signer: Signer) -> bytes:
    """Sign a payload for a domain (`domain_of`) and return the message."""
    protected = _protected(signer.public_key)
    signature = signer.sign(_sig_structure(protected, domain, payload))
    return cbor.encode([protected, {}, payload, signature], tag=cbor.COSE_SIGN1_TAG)


def check_signature(signed: Signed, domain: bytes) -> None:
    """Raises `RecordError(BAD_SIGNATURE)` unless the author signed this payload for this domain."""
    message = to_be_signed(signed.author, domain, signed.payload)
    try:
        crypto_sign_open(signed.signature + message, signed.author)
    except CryptoError as error:
        raise RecordError(RecordReason.BAD_SIGNATURE) from error


def to_be_signed(public_key: bytes, domain: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4) that the holder of `public_key` signs."""
    return _sig_structure(_protected(public_key), domain, payload)


def _protected(public_key: bytes) -> bytes:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"A public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}.")
    return _HEADER_PREFIX + public_key


def _sig_structure(protected: bytes, aad: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, aad, payload])
