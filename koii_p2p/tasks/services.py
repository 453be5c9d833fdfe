"""What a node does for its task on request: the key-value store, signatures. Runs in the node's process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from koii_p2p.errors import OperatorError
from koii_p2p.limits import Limits
from koii_p2p.tasks.facts import OF_A_ROUND, Fact, encode_fact
from koii_p2p.tasks.frames import FrameError, Request

_log = structlog.get_logger(__name__)

PAYLOAD_CONTEXT = b"koii-p2p/task-payload/1"
"""Starts whatever is signed for a task. No K2 transaction and no COSE structure starts with these bytes, so a
task cannot have its node sign a transfer or a vote."""


_Service = TypeVar("_Service")


class Refused(Exception):
    """A request that the node does not grant; the text goes to the task."""


@dataclass(frozen=True, slots=True)
class TaskServices:
    """What one task is given. Keys are 32 bytes, signatures 64; the store is this task's alone.

    `sign` signs the message that it is given with the staking key: this room adds `PAYLOAD_CONTEXT` and the
    task's id before. The callables may raise `OperatorError`, of which the task sees the text.
    """

    submitter: bytes
    main_account: bytes
    store_get: Callable[[bytes], bytes | None]
    store_set: Callable[[bytes, bytes], None]
    store_delete: Callable[[bytes], None]
    sign: Callable[[bytes], bytes]
    verify: Callable[[bytes, bytes, bytes], bool]
    """message, signature, public key -> whether the signature is good; never raises for bad bytes."""
    fact: Callable[[Fact, int | None], object] | None = None
    """What the node knows of the task, as JSON-ready values (bytes may be in them); None where there is no node."""
    blob_put: Callable[[bytes], Awaitable[str]] | None = None
    """Has bytes kept by several nodes, and says how they are asked for. Raises `OperatorError` or `Refused`."""
    blob_get: Callable[[str], Awaitable[bytes]] | None = None
    """The bytes of a reference in text, at most `Limits.task_blob_bytes`. Raises `OperatorError` or `Refused`."""
    db: Callable[[str, bytes], Awaitable[bytes]] | None = None
    """Does something with a collection of the task: its name and a question in JSON -> the answer in JSON, both of at
    most `Limits.task_db_bytes`. Raises `OperatorError` or `Refused`."""


def signature_is_good(message: bytes, signature: bytes, key: bytes) -> bool:
    """Whether a 32-byte key signed a message (ed25519, 64 bytes). Never raises for bad bytes."""
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def payload_message(task_id: bytes, payload: bytes) -> bytes:
    """The bytes that are signed for a task's payload."""
    return PAYLOAD_CONTEXT + task_id + payload


def answer(
    services: TaskServices, task_id: bytes, what: Request, arguments: list[object], limits: Limits
) -> object:
    """Grant one request; what takes time is answered by an awaitable, which raises as this does.

    Raises `Refused` for what the task may not have, `FrameError` for malformed arguments.
    """
    try:
        match what, arguments:
            case Request.STORE_GET, [str(key)]:
                return services.store_get(_key(key, limits))
            case Request.STORE_SET, [str(key), bytes(value)]:
                if len(value) > limits.task_value_bytes:
                    raise Refused(
                        f"The value has {len(value)} bytes; at most {limits.task_value_bytes} are kept."
                    )
                services.store_set(_key(key, limits), value)
                return None
            case Request.STORE_DELETE, [str(key)]:
                services.store_delete(_key(key, limits))
                return None
            case Request.SIGN, [bytes(payload)]:
                return services.sign(payload_message(task_id, _payload(payload, limits)))
            case Request.VERIFY, [bytes(payload), bytes(signature), bytes(key)]:
                message = payload_message(task_id, _payload(payload, limits))
                return len(signature) == 64 and len(key) == 32 and services.verify(message, signature, key)
            case Request.FACT, [str(name), *rest] if name in Fact.__members__.values():
                return _fact(services, Fact(name), rest, limits)
            case Request.BLOB_PUT, [bytes(data)]:
                if len(data) > limits.task_blob_bytes:
                    raise Refused(
                        f"The blob has {len(data)} bytes; at most {limits.task_blob_bytes} are kept."
                    )
                return _later(_there(services.blob_put, "blobs")(data))
            case Request.BLOB_GET, [str(reference)]:
                return _later(_there(services.blob_get, "blobs")(reference))
            case Request.DB, [str(call), bytes(question)]:
                if len(question) > limits.task_db_bytes:
                    raise Refused(
                        f"The question has {len(question)} bytes of JSON; at most {limits.task_db_bytes} are taken: "
                        "send fewer documents at a time."
                    )
                return _later(_there(services.db, "collections")(call, question))
    except OperatorError as error:
        _log.warning("task_request_failed", request=what.name, error=str(error))
        raise Refused(str(error)) from error
    raise FrameError(f"a {what.name} request has other arguments than it must have")


def _there(service: _Service | None, what: str) -> _Service:
    if service is None:
        raise Refused(
            f"No {what} are kept here: the task runs without a node, or its node has no room for data."
        )
    return service


async def _later(made: Awaitable[object]) -> object:
    try:
        return await made
    except OperatorError as error:
        raise Refused(str(error)) from error


def _fact(services: TaskServices, name: Fact, arguments: list[object], limits: Limits) -> bytes:
    of_a_round = name in OF_A_ROUND
    match arguments:
        case [int(number)] if of_a_round and type(number) is int and number >= 0:
            round_number: int | None = number
        case [] if not of_a_round:
            round_number = None
        case _:
            raise Refused(
                f"{name.value} takes {'a round: a number from 0' if of_a_round else 'no arguments'}."
            )
    if services.fact is None:
        raise Refused(f"Nobody knows the {name.value.replace('_', ' ')} here: the task runs without a node.")
    data = encode_fact(services.fact(name, round_number))
    if len(data) > limits.task_fact_bytes:
        raise Refused(
            f"The {name.value} would be {len(data)} bytes; at most {limits.task_fact_bytes} are handed out."
        )
    return data


def _key(key: str, limits: Limits) -> bytes:
    data = key.encode()
    if not 0 < len(data) <= limits.task_key_bytes:
        raise Refused(f"The key has {len(data)} bytes; 1 to {limits.task_key_bytes} are allowed.")
    return data


def _payload(payload: bytes, limits: Limits) -> bytes:
    if len(payload) > limits.task_payload_bytes:
        raise Refused(
            f"The payload has {len(payload)} bytes; at most {limits.task_payload_bytes} are signed."
        )
    return payload
