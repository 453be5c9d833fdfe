"""What nodes ask each other directly: how their records of a round differ, records, artifacts, known presences.

Each message is one deterministic CBOR map on its own stream. Replies are untrusted: records go through admission,
artifacts are checked against the chain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from koii_p2p.limits import Limits
from koii_p2p.records.cbor import CborError, decode, encode

RECONCILE_PROTOCOL = "/koii-p2p/reconcile/1"
RECORDS_PROTOCOL = "/koii-p2p/records/1"
ARTIFACTS_PROTOCOL = "/koii-p2p/artifacts/1"
PRESENCE_PROTOCOL = "/koii-p2p/presence/1"

TASK_BYTES = 32
ID_BYTES = 32
MAP_BYTES = 64
"""More than the fields around a question take."""


class ExchangeError(ValueError):
    """A message of a peer that does not have the form of its protocol."""


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    """Send me the records of this round with these ids (SHA-256, 32 bytes)."""

    task: bytes
    round: int
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Bytes of a round's commitment, bundle and list; each None where the peer has none."""

    commitment: bytes | None
    bundle: bytes | None
    list: bytes | None


def encode_reconcile(task: bytes, round: int, question: bytes) -> bytes:
    """Encode as {0: task, 1: round, 2: question of `rounds.reconcile`}; the answer goes back as it is."""
    return encode({0: task, 1: round, 2: question})


def decode_reconcile(data: bytes, limits: Limits) -> tuple[bytes, int, bytes]:
    """Decode a peer's (task, round, question). Raises `ExchangeError`."""
    fields = _map(data, limits.reconcile_message_bytes + MAP_BYTES)
    question = fields.get(2)
    if not isinstance(question, bytes):
        raise ExchangeError("The question is not a byte string.")
    return _task(fields), _round(fields), question


def encode_records_request(request: RecordsRequest) -> bytes:
    """Encode as {0: task, 1: round, 2: [ids]}."""
    return encode({0: request.task, 1: request.round, 2: list(request.ids)})


def decode_records_request(data: bytes, limits: Limits) -> RecordsRequest:
    """Decode a peer's request. Raises `ExchangeError`."""
    fields = _map(data, limits.request_bytes)
    ids = fields.get(2)
    if not isinstance(ids, list) or len(ids) > limits.records_per_request:
        raise ExchangeError("The ids are not a list of bounded length.")
    if not all(isinstance(item, bytes) and len(item) == ID_BYTES for item in ids):
        raise ExchangeError("An id is not 32 bytes.")
    return RecordsRequest(_task(fields), _round(fields), tuple(ids))


def encode_records(records: Iterable[bytes], limits: Limits) -> bytes:
    """Encode as {0: [record, ...]}, as many as fit into a response; a peer asks again for the rest."""
    chosen: list[bytes] = []
    room = limits.response_bytes - 16
    for raw in records:
        room -= len(raw) + 5
        if room < 0 or len(chosen) == limits.round_records:
            break
        chosen.append(raw)
    return encode({0: chosen})


def decode_records(data: bytes, limits: Limits) -> tuple[bytes, ...]:
    """Decode a peer's records; each is still untrusted bytes. Raises `ExchangeError`."""
    records = _map(data, limits.response_bytes).get(0)
    if not isinstance(records, list) or len(records) > limits.round_records:
        raise ExchangeError("The records are not a list of bounded length.")
    if not all(isinstance(raw, bytes) and len(raw) <= limits.equivocation_bytes for raw in records):
        raise ExchangeError("A record is not a byte string of bounded length.")
    return tuple(records)


def encode_artifacts_request(task: bytes, round: int) -> bytes:
    """Encode as {0: task, 1: round}."""
    return encode({0: task, 1: round})


def decode_artifacts_request(data: bytes, limits: Limits) -> tuple[bytes, int]:
    """Decode a peer's request for (task, round). Raises `ExchangeError`."""
    fields = _map(data, limits.request_bytes)
    return _task(fields), _round(fields)


def encode_artifacts(artifacts: Artifacts) -> bytes:
    """Encode as {0: commitment, 1: bundle, 2: list}, leaving out what is missing."""
    parts = enumerate((artifacts.commitment, artifacts.bundle, artifacts.list))
    return encode({key: part for key, part in parts if part is not None})


def decode_artifacts(data: bytes, limits: Limits) -> Artifacts:
    """Decode a peer's artifacts; still untrusted bytes. Raises `ExchangeError`."""
    fields = _map(data, limits.response_bytes)
    parts = [fields.get(key) for key in range(3)]
    for part in parts:
        if part is not None and not isinstance(part, bytes):
            raise ExchangeError("An artifact is not a byte string.")
    commitment, bundle, distribution = (part if isinstance(part, bytes) else None for part in parts)
    return Artifacts(commitment, bundle, distribution)


def encode_presence_request(task: bytes) -> bytes:
    """Encode as {0: task}; the answer has the form of records."""
    return encode({0: task})


def decode_presence_request(data: bytes, limits: Limits) -> bytes:
    """Decode a peer's request for the presences of a task. Raises `ExchangeError`."""
    return _task(_map(data, limits.request_bytes))


def _map(data: bytes, max_bytes: int) -> dict[int, object]:
    try:
        value = decode(data, max_bytes=max_bytes)
    except CborError as error:
        raise ExchangeError(str(error)) from error
    if not isinstance(value, dict):
        raise ExchangeError("The message is not a map.")
    return value


def _task(fields: dict[int, object]) -> bytes:
    task = fields.get(0)
    if not isinstance(task, bytes) or len(task) != TASK_BYTES:
        raise ExchangeError("The task is not 32 bytes.")
    return task


def _round(fields: dict[int, object]) -> int:
    round = fields.get(1)
    if not isinstance(round, int) or isinstance(round, bool) or round < 0:
        raise ExchangeError("The round is not an unsigned integer.")
    return round
