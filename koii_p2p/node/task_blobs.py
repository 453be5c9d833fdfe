"""Blobs for a task's own code: what `ctx.data` asks of the node's data room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from koii_p2p.data.manifest import Reference
from koii_p2p.data.reasons import DataError
from koii_p2p.data.service import DataRoom
from koii_p2p.tasks.services import Refused

RoomNow = Callable[[], DataRoom | str | None]
"""The node's data room; why it has none, or None while the node starts."""


async def put_blob(room_now: RoomNow, task: bytes, data: bytes) -> str:
    """Store bytes for a task; the text of their reference. Raises `Refused`, and `StorageError` for a full disk."""
    room = _room(room_now)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    try:
        return (await room.put(task, chunks())).reference.to_text()
    except DataError as error:
        raise Refused(f"The blob could not be put: {error}") from error


async def get_blob(room_now: RoomNow, most: int, text: str) -> bytes:
    """The bytes of a reference, at most `most`. Raises `Refused`."""
    room = _room(room_now)
    try:
        return await room.get(Reference.from_text(text), most)
    except DataError as error:
        raise Refused(f"The blob could not be had: {error}") from error


def _room(room_now: RoomNow) -> DataRoom:
    room = room_now()
    if isinstance(room, DataRoom):
        return room
    raise Refused(f"This node keeps no data: {room or 'it has just started'}.")
