"""Documents as signed records, and which of two of one key is the newer.

A document is a COSE_Sign1 like the records of rounds (`records/cose.py`, PROTOCOL §3), signed for its chain and task
with the kind 32, which no record has. Its payload is deterministic CBOR, in CDDL (RFC 8610):

    payload = {
      0: bstr .size 32,        ; collection
      1: tstr .size (1..256),  ; key: the document's _id
      2: uint,                 ; K2 slot when its author signed it
      3: uint,                 ; the author's sequence: higher with each version that it signs
      ? 4: bstr,               ; body: a JSON object in UTF-8, without its _id; a tombstone has none
    }

The newest version of a key wins: the one with the highest (slot, sequence, SHA-256 of the whole record). No two
versions are equal in that order, so nodes that have seen the same versions, in whatever order, hold the same one.
"""

from __future__ import annotations

import json
from dataclasses import InitVar, dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import base58
import cbor2

from koii_p2p.data.collections.definition import COLLECTION_BYTES, Definition
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.values import Json, check_names, json_bytes, parse_json
from koii_p2p.limits import Limits
from koii_p2p.records import cbor, cose
from koii_p2p.records.cose import Signer
from koii_p2p.records.reasons import RecordError

LIMITS: Final = Limits()
"""The bounds of this file are part of the protocol: every node has the same, so they are not a setting."""

DOCUMENT_KIND: Final = 32
"""The last byte of the signing domain; kinds of records are below 24."""
MAX_KEY_BYTES: Final = 256
MAX_SLOT: Final = 2**63 - 1


class Version(NamedTuple):
    """Place of a document among those of its key; the greatest is the newest. `id`: SHA-256 of the whole record."""

    slot: int
    seq: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A version of a document whose signature nobody has checked. `body` is its JSON text, None of a tombstone."""

    raw: bytes = field(repr=False)
    version: Version
    author: bytes
    collection: bytes
    key: str
    body: bytes | None = field(repr=False)
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for the key: its place in shards, stores and reconciliation."""
        return key_digest(self.key)


_MINT: Final = object()  # what proves to VerifiedDocument that this file makes it


@dataclass(frozen=True, slots=True)
class VerifiedDocument:
    """A document whose author signed it for this chain and task. Made by `verify_document` and `sign_document` only."""

    mint: InitVar[object]
    document: Document

    def __post_init__(self, mint: object) -> None:
        if mint is not _MINT:
            raise TypeError("Only verify_document() and sign_document() make a VerifiedDocument.")

    @property
    def raw(self) -> bytes:
        """The whole record."""
        return self.document.raw

    @property
    def version(self) -> Version:
        """Its place among the versions of its key."""
        return self.document.version

    @property
    def author(self) -> bytes:
        """The 32-byte key that signed."""
        return self.document.author

    @property
    def key(self) -> str:
        """The document's `_id`."""
        return self.document.key

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for the key."""
        return self.document.digest

    @property
    def deleted(self) -> bool:
        """Whether it is a tombstone."""
        return self.document.body is None

    def value(self) -> dict[str, Json]:
        """The document as its readers get it, with its `_id`. Raises `ValueError` for a tombstone."""
        return value_of(self.document)


def key_digest(key: str) -> bytes:
    """32 bytes that stand for a key."""
    return sha256(key.encode()).digest()


def value_of(document: Document) -> dict[str, Json]:
    """The document with its `_id`. Raises `ValueError` for a tombstone."""
    if document.body is None:
        raise ValueError("a tombstone has no value")
    value = parse_json(document.body)
    assert isinstance(value, dict)  # decode_document saw to it
    return {"_id": document.key, **value}


def check_key(key: object) -> str:
    """Return a key that may be one. Raises `DocumentError`."""
    if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY_BYTES:
        raise DocumentError(DocumentReason.BAD_KEY, f"An _id is a text of 1 to {MAX_KEY_BYTES} bytes.")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(DocumentReason.BAD_KEY, "An _id has no UTF-8 form.") from error
    return key


def body_of(value: dict[str, Json]) -> bytes:
    """The JSON text of a document that is to be signed, without its `_id`. Raises `DocumentError`."""
    try:
        body = json_bytes({name: inner for name, inner in value.items() if name != "_id"})
        _check_body(body)
    except DocumentError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise DocumentError(DocumentReason.BAD_BODY, f"The document has no JSON form: {error}.") from error
    return body


def sign_document(
    collection: bytes,
    key: str,
    body: bytes | None,
    *,
    slot: int,
    seq: int,
    genesis: bytes,
    task: bytes,
    signer: Signer,
) -> VerifiedDocument:
    """Sign a version, and read and verify it as every receiver will; without a body, a tombstone.

    Raises `DocumentError`.
    """
    fields: dict[int, object] = {0: collection, 1: check_key(key), 2: slot, 3: seq}
    if body is not None:
        fields[4] = body
    domain = cose.domain_of(genesis, task, DOCUMENT_KIND)
    return verify_document(
        decode_document(cose.put_together(cbor.encode(fields), domain, signer)), genesis, task
    )


def decode_document(raw: bytes) -> Document:
    """Decode a document strictly, without looking at its signature. Raises `DocumentError` for anything else."""
    try:
        signed = cose.take_apart(raw, max_bytes=LIMITS.document_record_bytes)
        fields = cbor.decode(signed.payload, max_bytes=LIMITS.document_record_bytes, max_depth=1)
    except (RecordError, cbor.CborError) as error:
        raise DocumentError(DocumentReason.BAD_RECORD, str(error)) from error
    if not isinstance(fields, dict) or not {0, 1, 2, 3} <= fields.keys() <= {0, 1, 2, 3, 4}:
        raise DocumentError(DocumentReason.BAD_RECORD, "Its payload has not the fields of a document.")
    collection, key, slot, seq, body = (fields.get(number) for number in range(5))
    if not isinstance(collection, bytes) or len(collection) != COLLECTION_BYTES:
        raise DocumentError(DocumentReason.BAD_RECORD, "Its collection is not 32 bytes.")
    for number in (slot, seq):
        if type(number) is not int or not 0 <= number <= MAX_SLOT:
            raise DocumentError(DocumentReason.BAD_RECORD, "Its slot or sequence is no number that there is.")
    assert type(slot) is int
    assert type(seq) is int
    if 4 in fields:
        if not isinstance(body, bytes):
            raise DocumentError(DocumentReason.BAD_RECORD, "Its body is not a byte string.")
        try:
            _check_body(body)
        except (ValueError, RecursionError) as error:
            raise DocumentError(DocumentReason.BAD_BODY, f"Its body is refused: {error}.") from error
    return Document(
        raw,
        Version(slot, seq, sha256(raw).digest()),
        signed.author,
        collection,
        check_key(key),
        body if isinstance(body, bytes) else None,
        signed.payload,
        signed.signature,
    )


def verify_document(document: Document, genesis: bytes, task: bytes) -> VerifiedDocument:
    """Check the signature for a chain and task. Raises `DocumentError(BAD_RECORD)`."""
    signed = cose.Signed(document.author, document.payload, document.signature)
    try:
        cose.check_signature(signed, cose.domain_of(genesis, task, DOCUMENT_KIND))
    except RecordError as error:
        raise DocumentError(DocumentReason.BAD_RECORD, str(error)) from error
    return VerifiedDocument(_MINT, document)


def judge(
    document: VerifiedDocument, definition: Definition, *, is_staker: bool, now: int, early: int, kept: int
) -> DocumentReason | None:
    """Why a version is not admitted to a collection at slot `now`; None if it is.

    `early`: slots that a clock may be ahead of ours; whoever signs a later slot, so as to win over what others write
    until then, is not heard before that slot has come. `kept`: slots for which tombstones are kept. `is_staker`:
    whether the author passes for a staker of the task, which matters in collections without a list of authors.
    """
    if document.document.collection != definition.id:
        return DocumentReason.WRONG_COLLECTION
    allowed = document.author in definition.authors if definition.authors else is_staker
    if not allowed or (definition.own_keys and not _is_own(document)):
        return DocumentReason.NOT_AN_AUTHOR
    if document.version.slot > now + early:
        return DocumentReason.TOO_EARLY
    if document.deleted and document.version.slot + kept < now:
        return DocumentReason.EXPIRED
    return None


def stored_value(raw: bytes) -> dict[str, Json] | None:
    """What `decode_document(raw)` has for readers, of a record that was verified before; None of a tombstone."""
    fields = cbor2.loads(cbor2.loads(raw).value[2])
    body = fields.get(4)
    return None if body is None else {"_id": fields[1], **json.loads(body)}


def _is_own(document: VerifiedDocument) -> bool:
    own = base58.b58encode(document.author).decode("ascii")
    return document.key == own or document.key.startswith(own + "/")


def _check_body(body: bytes) -> None:
    if len(body) > LIMITS.document_bytes:
        raise ValueError(f"{len(body)} bytes, and {LIMITS.document_bytes} are allowed")
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    if "_id" in value:
        raise ValueError("it has an _id, which is the key beside it")
    check_names(value)
