"""What a node and a task's worker process say to each other, over two pipes.

A frame is four bytes of length (big-endian), then one deterministic CBOR array whose first item is a `Frame`
number. Both sides decode strictly; the node treats the worker as hostile.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from koii_p2p.records import cbor

HEADER_BYTES = 4

_HEADER = struct.Struct(">I")


class Frame(IntEnum):
    """The first item of every frame; the items that follow it are in the docstring of each member."""

    START = 0
    """node -> worker, once: path, task id, submitter, main account (bytes), slash basis points."""

    CALL = 1
    """node -> worker: call number, `Function`, arguments (a list)."""

    CANCEL = 2
    """node -> worker: number and `Function` of a call whose time is up; the worker ends it: RAISED."""

    ANSWER = 3
    """node -> worker: request number, True, value; or request number, False, text of the refusal."""

    LOADED = 4
    """worker -> node, once: name of the task's class, what the kernel holds it to (a list of `Protection`), whether it
    has routes."""

    UNUSABLE = 5
    """worker -> node, instead of LOADED: what, why, remedy."""

    RESULT = 6
    """worker -> node: call number, value."""

    RAISED = 7
    """worker -> node: call number, name of the exception's class, text."""

    REQUEST = 8
    """worker -> node: request number, `Request`, arguments (a list)."""

    LOG = 9
    """worker -> node: severity as in `logging` (10..50), text."""


class Function(IntEnum):
    """The functions of a task that a node calls."""

    SETUP = 0
    TASK = 1
    SUBMISSION = 2
    AUDIT = 3
    DISTRIBUTION = 4
    ROUTES = 5
    """One HTTP request to the task's routes (`koii_p2p.tasks.routes`)."""

    DESCRIBE = 9
    """None of the task's: what its functions are like (`inspection.described`)."""


class Request(IntEnum):
    """What a task may ask of its node."""

    STORE_GET = 0
    STORE_SET = 1
    STORE_DELETE = 2
    SIGN = 3
    VERIFY = 4
    FACT = 5
    """Its name (`Fact`), and the round where it is of one: what the node knows of the task, in JSON."""

    BLOB_PUT = 6
    """Bytes to be kept by several nodes; answered with the text of a reference."""

    BLOB_GET = 7
    """A reference in text; answered with the bytes."""

    DB = 8
    """What to do with a collection, and JSON that says with which and the rest; answered with JSON."""

    CLOCK = 9
    """No arguments; answered with the slot that the node saw last, and the task's period in it."""


class FrameError(ValueError):
    """Bytes that are not a frame, or a message too large to be one."""


def encode_frame(frame: Frame, *items: object, max_bytes: int) -> bytes:
    """Encode one frame with its length. Raises `FrameError` beyond `max_bytes`, or if CBOR cannot say it."""
    try:
        body = cbor.encode([int(frame), *items])
    except cbor.CborError as error:
        raise FrameError(f"the message cannot be encoded: {error}") from error
    if len(body) > max_bytes:
        raise FrameError(f"the message has {len(body)} bytes where at most {max_bytes} are allowed")
    return _HEADER.pack(len(body)) + body


def body_length(header: bytes, *, max_bytes: int) -> int:
    """Read a frame's header (4 bytes). Raises `FrameError` for an empty or too large body."""
    length: int = _HEADER.unpack(header)[0]
    if not 0 < length <= max_bytes:
        raise FrameError(f"a frame declares {length} bytes where 1 to {max_bytes} are allowed")
    return length


def decode_body(body: bytes, *, max_bytes: int) -> tuple[Frame, list[object]]:
    """Decode a frame's body into its kind and items. Raises `FrameError`, and nothing else, for any bytes."""
    try:
        message = cbor.decode(body, max_bytes=max_bytes)
    except cbor.CborError as error:
        raise FrameError(f"a frame is not deterministic CBOR: {error}") from error
    if not isinstance(message, list) or not message or type(message[0]) is not int:
        raise FrameError("a frame is not a list that starts with a number")
    try:
        return Frame(message[0]), message[1:]
    except ValueError:
        raise FrameError(f"{message[0]} is not a kind of frame") from None
