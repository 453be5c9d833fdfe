"""The outgoing gossip queue of one peer: bounded, counted, and written in batches."""

from __future__ import annotations

from collections import deque

import trio
from trio.lowlevel import ParkingLot

BATCH_BYTES = 64 * 1024


class PeerQueue:
    """Frames waiting for one peer.

    Forwarded messages are refused when the queue is full. Own messages are always taken: the publisher paces itself
    by `wait_for_room`, and a peer that takes nothing for long is disconnected. Control goes first.
    """

    def __init__(self, *, frames: int, size: int) -> None:
        self._limit_frames = frames
        self._limit_bytes = size
        self._urgent: deque[bytes] = deque()
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._wake = trio.Event()
        #: Whoever waits for room.
        self._waiters = ParkingLot()
        #: Whether the writer waits for something to write.
        self.idle = False
        #: `trio.current_time()` when the peer last took something, or when something began to wait for it.
        self.moved_at = trio.current_time()
        #: The batch that was taken last and whose writing has not been confirmed by the next `take`.
        self._batch = b""

    def __len__(self) -> int:
        return len(self._urgent) + len(self._frames)

    @property
    def size(self) -> int:
        """How many bytes are queued."""
        return self._bytes

    @property
    def waiting(self) -> bool:
        """Whether something is queued or being written."""
        return bool(self._batch) or len(self) > 0

    def push(self, frame: bytes, *, urgent: bool = False, own: bool = False) -> bool:
        """Queue a frame; return False when it was refused because the queue is full or closed."""
        if self._closed:
            return False
        if not own and (len(self) >= self._limit_frames or self._bytes + len(frame) > self._limit_bytes):
            return False
        if not self.waiting:
            self.moved_at = trio.current_time()
        (self._urgent if urgent else self._frames).append(frame)
        self._bytes += len(frame)
        return True

    def wake(self) -> None:
        """Let the writer know that something was queued: once for all that is queued together."""
        self._wake.set()

    async def take(self) -> bytes | None:
        """Wait for frames and return a batch of them joined; None when the queue was closed."""
        self._batch = b""
        while not len(self):
            if self._closed:
                return None
            self._wake = trio.Event()
            self.idle = True
            try:
                await self._wake.wait()
            finally:
                self.idle = False
        return None if self._closed else self.take_nowait()

    def take_nowait(self) -> bytes:
        """Return a batch of frames joined; nothing if there are none."""
        batch: list[bytes] = []
        size = 0
        while (frames := self._urgent or self._frames) and (not batch or size < BATCH_BYTES):
            batch.append(frames.popleft())
            size += len(batch[-1])
        self._bytes -= size
        self._batch = batch[0] if len(batch) == 1 else b"".join(batch)
        self.moved_at = trio.current_time()
        if self._waiters:
            self._waiters.unpark_all()
        return self._batch

    def sent(self) -> None:
        """Note that the batch that was taken last has gone out."""
        self._batch = b""

    def put_back(self) -> None:
        """Queue the batch that was taken last again, before everything else: nobody knows what of it arrived."""
        if self._batch and not self._closed:
            self._urgent.appendleft(self._batch)
            self._bytes += len(self._batch)
        self._batch = b""

    async def wait_for_room(self, frames: int) -> None:
        """Return when fewer than `frames` are waiting, or when the queue is closed."""
        while len(self) >= frames and not self._closed:
            await self._waiters.park()

    def stalled_for(self, now: float) -> float:
        """Return for how many seconds something has waited without the peer taking anything."""
        return now - self.moved_at if self.waiting else 0.0

    def close(self) -> list[bytes]:
        """Wake everybody who waits and return what has not been sent for certain, in order."""
        rest = [frame for frame in (self._batch, *self._urgent, *self._frames) if frame]
        self._batch = b""
        self._closed = True
        self._urgent.clear()
        self._frames.clear()
        self._bytes = 0
        self._wake.set()
        self._waiters.unpark_all()
        return rest
