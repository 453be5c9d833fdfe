"""What nodes ask each other about task data: five questions, each with one bounded answer, in deterministic CBOR.

    find       {0: cid}                                      -> {0: [* manifest]}        of this manifest or content CID
    fetch      {0: cid, 1: [* [block, shard]]}               -> {0: [* shard / null]}    in the order asked for
    store      {0: task, 1: cid, 2: until, 3: [* [block, shard, bytes]], ? 4: manifest}  -> {0: Stored, 1: text}
    census     {0: task, 1: [* [cid, until]]}                -> {0: [* bits / null]}     which shards of each are there
    challenge  {0: cid, 1: block, 2: shard, 3: leaf}         -> {? 0: answer}            see `challenge.py`

A cid is the 36 bytes of a manifest's; `until` is the round that the asker wants it kept to at least, so that whoever of
the task's roster takes a census renews what it asks after. Task 0 is for who does not know whose a blob is. Bits are
one for each shard, block by block, the lowest bit of a byte first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from koii_p2p.data.challenge import MAX_ANSWER_BYTES
from koii_p2p.data.manifest import BLOCK_BYTES, MAX_MANIFEST_BYTES
from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.records.cid import is_cid
from koii_p2p.storage.round_key import TASK_BYTES
from koii_p2p.storage.shards import Place

FIND: Final = "/koii-p2p/data-find/1"
FETCH: Final = "/koii-p2p/data-fetch/1"
STORE: Final = "/koii-p2p/data-store/1"
CENSUS: Final = "/koii-p2p/data-census/1"
CHALLENGE: Final = "/koii-p2p/data-challenge/1"

MOST_MANIFESTS: Final = 4
"""Of blobs with the same content, in one answer: they were put with other seeds or codes."""
_ENVELOPE_BYTES: Final = 4096
_MOST_TEXT: Final = 512
_U32: Final = 2**32
_U16: Final = 2**16
_U63: Final = 2**63


class ProtocolError(ValueError):
    """Bytes that are no such question or answer."""


class Stored(IntEnum):
    """What became of shards that a node was asked to store."""

    DONE = 0
    """They are there, durably."""
    NO_ROOM = 1
    """The quota of the task or of the node is full, or its disk."""
    NOT_A_MEMBER = 2
    """Only who is on the roster of a task may have its data stored."""
    MANIFEST_WANTED = 3
    """The blob is not known: send its manifest along."""
    WRONG = 4
    """The bytes are not what the manifest says, or it is no manifest."""
    TOO_LATE = 5
    """Its term ended before now."""
    NOT_OURS = 6
    """The node does not work on this task."""
    SHARE_FULL = 7
    """The asker has brought as much to this node as one may, or too much is there under seeds that are no beacons."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """Shards of a blob to be kept to a round, with the manifest if the holder may not know it."""

    task: bytes
    cid: bytes
    until: int
    shards: tuple[tuple[Place, bytes], ...] = field(repr=False)
    manifest: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StoreReply:
    """What became of them; `text` is for a person."""

    stored: Stored
    text: str = ""


def encode_find(cid: bytes) -> bytes:
    """The question for manifests."""
    return cbor.encode({0: cid})


def decode_find(data: bytes) -> bytes:
    """The CID that is looked for. Raises `ProtocolError`."""
    return _cid(_map(data, _ENVELOPE_BYTES).get(0))


def encode_manifests(manifests: Iterable[bytes]) -> bytes:
    """Encoded manifests."""
    return cbor.encode({0: list(manifests)})


def decode_manifests(data: bytes) -> tuple[bytes, ...]:
    """Encoded manifests, still to be judged. Raises `ProtocolError`."""
    found = _map(data, MOST_MANIFESTS * MAX_MANIFEST_BYTES + _ENVELOPE_BYTES).get(0)
    if not isinstance(found, list) or len(found) > MOST_MANIFESTS:
        raise ProtocolError("the manifests are not a short list")
    if not all(isinstance(one, bytes) and len(one) <= MAX_MANIFEST_BYTES for one in found):
        raise ProtocolError("a manifest is not a byte string of bounded length")
    return tuple(found)


def encode_fetch(cid: bytes, places: Iterable[Place]) -> bytes:
    """The question for shards."""
    return cbor.encode({0: cid, 1: [list(place) for place in places]})


def decode_fetch(data: bytes, limits: Limits) -> tuple[bytes, tuple[Place, ...]]:
    """The blob and the shards asked for. Raises `ProtocolError`."""
    fields = _map(data, _ENVELOPE_BYTES)
    places = fields.get(1)
    if not isinstance(places, list) or not 0 < len(places) <= limits.data_message_shards:
        raise ProtocolError(f"other than 1 to {limits.data_message_shards} shards are asked for")
    return _cid(fields.get(0)), tuple(_place(place) for place in places)


def encode_shards(shards: Iterable[bytes | None]) -> bytes:
    """Shards in the order asked for; None for one that is not there."""
    return cbor.encode({0: list(shards)})


def decode_shards(data: bytes, count: int, limits: Limits) -> tuple[bytes | None, ...]:
    """As many shards as were asked for, still to be judged. Raises `ProtocolError`."""
    found = _map(data, limits.data_message_bytes + BLOCK_BYTES + _ENVELOPE_BYTES).get(0)
    if not isinstance(found, list) or len(found) != count:
        raise ProtocolError("it has another number of shards than were asked for")
    if not all(one is None or isinstance(one, bytes) for one in found):
        raise ProtocolError("a shard is not a byte string")
    return tuple(found)


def encode_store(request: StoreRequest) -> bytes:
    """The request to keep shards."""
    value: dict[int, object] = {
        0: request.task,
        1: request.cid,
        2: request.until,
        3: [[block, shard, data] for (block, shard), data in request.shards],
    }
    if request.manifest is not None:
        value[4] = request.manifest
    return cbor.encode(value)


def decode_store(data: bytes, limits: Limits) -> StoreRequest:
    """Inverse of `encode_store`; the bytes are still to be judged. Raises `ProtocolError`."""
    fields = _map(data, limits.request_bytes)
    shards, manifest = fields.get(3), fields.get(4)
    if not isinstance(shards, list) or len(shards) > limits.data_message_shards:
        raise ProtocolError(f"more than {limits.data_message_shards} shards are to be stored")
    if not all(isinstance(one, list) and len(one) == 3 and isinstance(one[2], bytes) for one in shards):
        raise ProtocolError("a shard is not two numbers and bytes")
    if manifest is not None and not (isinstance(manifest, bytes) and len(manifest) <= MAX_MANIFEST_BYTES):
        raise ProtocolError("the manifest is not a byte string of bounded length")
    return StoreRequest(
        _task(fields.get(0)),
        _cid(fields.get(1)),
        _number(fields.get(2), _U63),
        tuple((_place(one[:2]), one[2]) for one in shards),
        manifest,
    )


def encode_stored(reply: StoreReply) -> bytes:
    """The answer to a request to keep shards."""
    return cbor.encode({0: int(reply.stored), 1: reply.text[:_MOST_TEXT]})


def decode_stored(data: bytes) -> StoreReply:
    """Inverse of `encode_stored`. Raises `ProtocolError`."""
    fields = _map(data, _ENVELOPE_BYTES)
    code, text = _number(fields.get(0), len(Stored)), fields.get(1)
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise ProtocolError("what it says is no short text")
    return StoreReply(Stored(code), text)


def encode_census(task: bytes, blobs: Iterable[tuple[bytes, int]]) -> bytes:
    """The question what is there of some blobs of a task."""
    return cbor.encode({0: task, 1: [list(blob) for blob in blobs]})


def decode_census(data: bytes, limits: Limits) -> tuple[bytes, tuple[tuple[bytes, int], ...]]:
    """The task, and each blob's CID with the round it is wanted to. Raises `ProtocolError`."""
    fields = _map(data, limits.request_bytes)
    blobs = fields.get(1)
    if not isinstance(blobs, list) or len(blobs) > limits.data_message_blobs:
        raise ProtocolError(f"more than {limits.data_message_blobs} blobs are asked after")
    if not all(isinstance(one, list) and len(one) == 2 for one in blobs):
        raise ProtocolError("a blob is not a CID and a round")
    return _task(fields.get(0)), tuple((_cid(one[0]), _number(one[1], _U63)) for one in blobs)


def encode_holdings(holdings: Iterable[bytes | None]) -> bytes:
    """Bits for each blob asked after; None for one that is not known."""
    return cbor.encode({0: list(holdings)})


def decode_holdings(data: bytes, count: int, limits: Limits) -> tuple[bytes | None, ...]:
    """Inverse of `encode_holdings` for as many blobs as were asked after. Raises `ProtocolError`."""
    found = _map(data, limits.response_bytes).get(0)
    if not isinstance(found, list) or len(found) != count:
        raise ProtocolError("it has another number of blobs than were asked after")
    if not all(one is None or isinstance(one, bytes) for one in found):
        raise ProtocolError("what is there of a blob is not a byte string")
    return tuple(found)


def bits_of(places: Iterable[Place], blocks: int, shards: int) -> bytes:
    """Which of the shards of so many blocks of so many shards are there."""
    bits = bytearray(-(-blocks * shards // 8))
    for block, shard in places:
        at = block * shards + shard
        if block < blocks and shard < shards:
            bits[at // 8] |= 1 << at % 8
    return bytes(bits)


def places_of(bits: bytes, blocks: int, shards: int) -> frozenset[Place]:
    """Inverse of `bits_of`. Raises `ProtocolError` for another number of bytes."""
    if len(bits) != -(-blocks * shards // 8):
        raise ProtocolError("what is there of a blob has another length than the blob")
    return frozenset(divmod(at, shards) for at in range(blocks * shards) if bits[at // 8] >> at % 8 & 1)


def encode_challenge(cid: bytes, place: Place, leaf: int) -> bytes:
    """The question for one leaf of a shard."""
    return cbor.encode({0: cid, 1: place[0], 2: place[1], 3: leaf})


def decode_challenge(data: bytes) -> tuple[bytes, Place, int]:
    """The blob, the shard and the leaf. Raises `ProtocolError`."""
    fields = _map(data, _ENVELOPE_BYTES)
    return _cid(fields.get(0)), _place([fields.get(1), fields.get(2)]), _number(fields.get(3), _U32)


def encode_shown(answer: bytes | None) -> bytes:
    """The encoded answer to a challenge, or that there is none."""
    return cbor.encode({} if answer is None else {0: answer})


def decode_shown(data: bytes) -> bytes | None:
    """Inverse of `encode_shown`; the answer is still to be judged. Raises `ProtocolError`."""
    found = _map(data, MAX_ANSWER_BYTES + _ENVELOPE_BYTES).get(0)
    if found is not None and not isinstance(found, bytes):
        raise ProtocolError("the answer is not a byte string")
    return found


def batches(sizes: Sequence[int], limits: Limits) -> list[range]:
    """Runs of items that fit one message: by their number, and their bytes unless one alone is larger."""
    found: list[range] = []
    start = total = 0
    for index, size in enumerate(sizes):
        full = total + size > limits.data_message_bytes or index - start == limits.data_message_shards
        if full and index > start:
            found.append(range(start, index))
            start, total = index, 0
        total += size
    if len(sizes) > start:
        found.append(range(start, len(sizes)))
    return found


def _map(data: bytes, most: int) -> dict[int, object]:
    try:
        value = cbor.decode(data, max_bytes=most)
    except cbor.CborError as error:
        raise ProtocolError(str(error)) from error
    if not isinstance(value, dict):
        raise ProtocolError("it is not a map")
    return value


def _cid(value: object) -> bytes:
    if not isinstance(value, bytes) or not is_cid(value):
        raise ProtocolError("a CID is not the 36 bytes of one")
    return value


def _task(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != TASK_BYTES:
        raise ProtocolError("the task is not 32 bytes")
    return value


def _number(value: object, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise ProtocolError(f"a number is not from 0 to {below - 1}")
    return value


def _place(value: object) -> Place:
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError("a shard is not named by two numbers")
    return _number(value[0], _U32), _number(value[1], _U16)
