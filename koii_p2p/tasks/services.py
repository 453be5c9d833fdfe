"""What a node does for its task on request: the key-value store, signatures. Runs in the node's process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from koii_p2p.errors import OperatorError
from koii_p2p.limits import Limits
from koii_p2p.tasks.frames import FrameError, Request

_log = structlog.get_logger(__name__)

PAYLOAD_CONTEXT = b"koii-p2p/task-payload/1"
"""Starts whatever is signed for a task. No K2 transaction and no COSE structure starts with these bytes, so a
task cannot have its node sign a transfer or a vote."""


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


def payload_message(task_id: bytes, payload: bytes) -> bytes:
    """The bytes that are signed for a task's payload."""
    return PAYLOAD_CONTEXT + task_id + payload


def answer(
    services: TaskServices, task_id: bytes, what: Request, arguments: list[object], limits: Limits
) -> object:
    """Grant one request.

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
    except OperatorError as error:
        _log.warning("task_request_failed", request=what.name, error=str(error))
        raise Refused(str(error)) from error
    raise FrameError(f"a {what.name} request has other arguments than it must have")


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
