"""What nodes ask each other about collections: deterministic CBOR maps, one question and one answer on a stream each.

Every question begins with {0: task}. Answers are untrusted: a document counts once its signature was checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from koii_p2p.data.collections.definition import (
    COLLECTION_BYTES,
    MAX_DEFINITION_BYTES,
    MAX_SHARDS,
    Definition,
    decode_definition,
)
from koii_p2p.data.collections.document import MAX_SLOT
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.limits import Limits
from koii_p2p.records.cbor import CborError, decode, encode

COLLECTIONS_PROTOCOL: Final = "/koii-p2p/collections/1"
PUT_PROTOCOL: Final = "/koii-p2p/documents/put/1"
DIFFER_PROTOCOL: Final = "/koii-p2p/documents/differ/1"
FETCH_PROTOCOL: Final = "/koii-p2p/documents/fetch/1"
FIND_PROTOCOL: Final = "/koii-p2p/documents/find/1"
CHANGES_PROTOCOL: Final = "/koii-p2p/documents/changes/1"

TASK_BYTES: Final = 32
DIGEST_BYTES: Final = 32
_TASK_HEAD: Final = bytes((0x00, 0x58, TASK_BYTES))
_HEAD_BYTES: Final = 8  # of a byte string in an array, and then some

STORED: Final = "stored"
OLDER: Final = "older"


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Keep these records, which are for a collection of this definition."""

    task: bytes
    definition: Definition
    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DifferRequest:
    """How do our versions in these shards differ? Questions are those of `rounds.reconcile`, one for each shard.

    With a `digest`, the answer may be that nothing differs: SHA-256 of the questions, which are then left out.
    """

    task: bytes
    collection: bytes
    shards: bytes
    questions: tuple[bytes, ...] = ()
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Send me the newest versions of the keys of a shard whose digests begin so."""

    task: bytes
    collection: bytes
    shard: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FindRequest:
    """Send me what a query, in JSON, finds in these shards, from the result at `offset` on."""

    task: bytes
    collection: bytes
    shards: bytes
    query: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class ChangesRequest:
    """Send me what changed in these shards after an ordinal of yours; None asks what the last ordinal is."""

    task: bytes
    collection: bytes
    shards: bytes
    since: int | None


def task_of(data: bytes, limits: Limits) -> bytes:
    """The task that any of these questions is about; the rest is not looked at. Raises `DocumentError`."""
    # Encodings are deterministic: field 0 comes first, behind the head of the map.
    if len(data) > limits.document_message_bytes or data[1:4] != _TASK_HEAD or len(data) < 4 + TASK_BYTES:
        raise _bad("It does not begin with a task.")
    return data[4 : 4 + TASK_BYTES]


def encode_collections(task: bytes, digest: bytes) -> bytes:
    """Which collections do you keep? {0: task, 1: SHA-256 over the ids that we keep}."""
    return encode({0: task, 1: digest})


def decode_collections(data: bytes, limits: Limits) -> bytes:
    """The digest of such a question. Raises `DocumentError`."""
    return _octets(_map(data, limits.query_bytes), 1, DIGEST_BYTES)


def encode_definitions(definitions: Iterable[Definition], limits: Limits) -> bytes:
    """{0: [definition, ...]}, as many as fit."""
    return encode({0: _fitting((one.encoded for one in definitions), limits)})


def decode_definitions(data: bytes, limits: Limits) -> list[Definition]:
    """Definitions that a peer keeps. Raises `DocumentError`."""
    found = _strings(_map(data, limits.document_message_bytes), 0, limits.collections, MAX_DEFINITION_BYTES)
    return [decode_definition(item) for item in found]


def encode_put(request: PutRequest) -> bytes:
    """{0: task, 1: definition, 2: [record, ...]}."""
    return encode({0: request.task, 1: request.definition.encoded, 2: list(request.records)})


def decode_put(data: bytes, limits: Limits) -> PutRequest:
    """Raises `DocumentError`."""
    fields = _map(data, limits.document_message_bytes)
    records = _strings(fields, 2, limits.documents_per_request, limits.document_record_bytes)
    return PutRequest(_octets(fields, 0, TASK_BYTES), decode_definition(_octets(fields, 1)), tuple(records))


def encode_outcomes(outcomes: Sequence[DocumentReason | bool]) -> bytes:
    """{0: [outcome, ...]}: "stored", "older", or the reason, for each record that was put."""
    return encode({0: [_outcome(one) for one in outcomes]})


def decode_outcomes(data: bytes, count: int, limits: Limits) -> list[DocumentReason | bool]:
    """Inverse of `encode_outcomes`. Raises `DocumentError`."""
    outcomes = _map(data, limits.query_bytes).get(0)
    if not isinstance(outcomes, list) or len(outcomes) != count:
        raise _bad("There is not one outcome for each record.")
    found: list[DocumentReason | bool] = []
    for outcome in outcomes:
        if outcome in (STORED, OLDER):
            found.append(outcome == STORED)
        elif isinstance(outcome, str) and outcome in _REASONS:
            found.append(_REASONS[outcome])
        else:
            raise _bad("An outcome is not known.")
    return found


def encode_differ(request: DifferRequest) -> bytes:
    """{0: task, 1: collection, 2: shards, 3: [question, ...], 4: digest}."""
    return encode(
        {
            0: request.task,
            1: request.collection,
            2: request.shards,
            3: list(request.questions),
            4: request.digest,
        }
    )


def decode_differ(data: bytes, limits: Limits) -> DifferRequest:
    """Raises `DocumentError`."""
    fields = _map(data, limits.document_message_bytes)
    shards = _shards(fields, 2)
    questions = _strings(fields, 3, len(shards), limits.reconcile_message_bytes)
    if questions and len(questions) != len(shards):
        raise _bad("There is not one question for each shard.")
    return DifferRequest(
        _octets(fields, 0, TASK_BYTES),
        _octets(fields, 1, COLLECTION_BYTES),
        shards,
        tuple(questions),
        b"" if questions else _octets(fields, 4, DIGEST_BYTES),
    )


def encode_strings(strings: Iterable[bytes], limits: Limits) -> bytes:
    """{0: [byte string, ...]}, as many as fit: records, or the answers to questions of reconciliation."""
    return encode({0: _fitting(strings, limits)})


def decode_strings(data: bytes, most: int, limits: Limits) -> list[bytes]:
    """Inverse of `encode_strings`, of at most so many. Raises `DocumentError`."""
    return _strings(_map(data, limits.document_message_bytes), 0, most, limits.document_message_bytes)


def encode_fetch(request: FetchRequest) -> bytes:
    """{0: task, 1: collection, 2: shard, 3: [digest or its beginning, ...]}."""
    return encode({0: request.task, 1: request.collection, 2: request.shard, 3: list(request.digests)})


def decode_fetch(data: bytes, limits: Limits) -> FetchRequest:
    """Raises `DocumentError`."""
    fields = _map(data, limits.document_message_bytes)
    digests = _strings(fields, 3, limits.documents_per_request, DIGEST_BYTES)
    if any(len(digest) < DIGEST_BYTES // 2 for digest in digests):
        raise _bad("A digest is shorter than half of one.")
    return FetchRequest(
        _octets(fields, 0, TASK_BYTES),
        _octets(fields, 1, COLLECTION_BYTES),
        _whole(fields, 2, MAX_SHARDS - 1),
        tuple(digests),
    )


def encode_find(request: FindRequest) -> bytes:
    """{0: task, 1: collection, 2: shards, 3: query in JSON, 4: offset}."""
    return encode(
        {0: request.task, 1: request.collection, 2: request.shards, 3: request.query, 4: request.offset}
    )


def decode_find(data: bytes, limits: Limits) -> FindRequest:
    """Raises `DocumentError`."""
    fields = _map(data, limits.query_bytes + 1024)
    return FindRequest(
        _octets(fields, 0, TASK_BYTES),
        _octets(fields, 1, COLLECTION_BYTES),
        _shards(fields, 2),
        _octets(fields, 3),
        _whole(fields, 4, limits.query_documents),
    )


def encode_found(records: Sequence[bytes], more: bool) -> bytes:
    """{0: [record, ...], 1: whether there is more}."""
    return encode({0: list(records), 1: more})


def encode_refused(reason: DocumentReason) -> bytes:
    """{2: reason}: why a question is not answered."""
    return encode({2: reason.value})


def decode_found(data: bytes, limits: Limits) -> tuple[list[bytes], bool]:
    """Inverse of `encode_found`. Raises `DocumentError`: that of the peer, if the question was refused."""
    fields = _map(data, limits.document_message_bytes)
    refused = fields.get(2)
    if isinstance(refused, str) and refused in _REASONS:
        raise DocumentError(_REASONS[refused])
    more = fields.get(1)
    if not isinstance(more, bool):
        raise _bad("It does not say whether there is more.")
    return _strings(fields, 0, limits.query_documents, limits.document_record_bytes), more


def encode_changes(request: ChangesRequest) -> bytes:
    """{0: task, 1: collection, 2: shards, ? 3: ordinal}."""
    fields: dict[int, object] = {0: request.task, 1: request.collection, 2: request.shards}
    return encode(fields if request.since is None else fields | {3: request.since})


def decode_changes(data: bytes, limits: Limits) -> ChangesRequest:
    """Raises `DocumentError`."""
    fields = _map(data, limits.query_bytes)
    return ChangesRequest(
        _octets(fields, 0, TASK_BYTES),
        _octets(fields, 1, COLLECTION_BYTES),
        _shards(fields, 2),
        _whole(fields, 3, MAX_SLOT) if 3 in fields else None,
    )


def encode_changed(ordinal: int, records: Sequence[bytes]) -> bytes:
    """{0: ordinal up to which this tells, 1: [record, ...]}."""
    return encode({0: ordinal, 1: list(records)})


def decode_changed(data: bytes, limits: Limits) -> tuple[int, list[bytes]]:
    """Inverse of `encode_changed`. Raises `DocumentError`."""
    fields = _map(data, limits.document_message_bytes)
    records = _strings(fields, 1, limits.documents_per_request, limits.document_record_bytes)
    return _whole(fields, 0, MAX_SLOT), records


def record_bytes(raw: bytes) -> int:
    """Bytes that a record takes in a message."""
    return len(raw) + _HEAD_BYTES


_REASONS: Final = {reason.value: reason for reason in DocumentReason}


def _outcome(outcome: DocumentReason | bool) -> str:
    return outcome.value if isinstance(outcome, DocumentReason) else STORED if outcome else OLDER


def _fitting(strings: Iterable[bytes], limits: Limits) -> list[bytes]:
    chosen: list[bytes] = []
    room = limits.document_message_bytes - 64
    for item in strings:
        room -= record_bytes(item)
        if room < 0:
            break
        chosen.append(item)
    return chosen


def _map(data: bytes, max_bytes: int) -> dict[int, object]:
    try:
        value = decode(data, max_bytes=max_bytes, max_depth=2)
    except CborError as error:
        raise _bad(str(error)) from error
    if not isinstance(value, dict):
        raise _bad("The message is not a map.")
    return value


def _octets(fields: dict[int, object], number: int, length: int | None = None) -> bytes:
    value = fields.get(number)
    if not isinstance(value, bytes) or (length is not None and len(value) != length):
        raise _bad(f"Field {number} is not a byte string of its length.")
    return value


def _shards(fields: dict[int, object], number: int) -> bytes:
    """Numbers of shards, one byte each, ascending."""
    shards = _octets(fields, number)
    if not shards or any(one >= two for one, two in pairwise(shards)):
        raise _bad("Shards do not ascend, or there are none.")
    return shards


def _strings(fields: dict[int, object], number: int, most: int, longest: int) -> list[bytes]:
    value = fields.get(number)
    if not isinstance(value, list) or len(value) > most:
        raise _bad(f"Field {number} is not a list of bounded length.")
    found = [item for item in value if isinstance(item, bytes) and len(item) <= longest]
    if len(found) != len(value):
        raise _bad(f"Field {number} has something else than byte strings of bounded length.")
    return found


def _whole(fields: dict[int, object], number: int, most: int) -> int:
    value = fields.get(number)
    if type(value) is not int or not 0 <= value <= most:
        raise _bad(f"Field {number} is not a number that there is.")
    return value


def _bad(why: str) -> DocumentError:
    return DocumentError(DocumentReason.BAD_MESSAGE, why)
