"""Sockets that are slow, lossy or cut on purpose: network conditions without privileges.

Bytes are held back by whoever sends them, so that both directions of a connection are shaped, and the round trip takes
twice the latency. A cut holds what arrives as well. TCP hides loss: what an application sees of a lost segment is
that it, and all that follows, comes a retransmission later; that is what is modelled here.

The kernel's netem would do the same below TCP, but needs root, a network namespace for each node, and a module that
many kernels lack.
"""

from __future__ import annotations

import math
import os
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import base58
import structlog
import trio
from libp2p.io.exceptions import ConnectionClosedError
from trio.lowlevel import ParkingLot

from koii_p2p.conditions import PLAIN, RESET, Conditions, Link, ShapingStatistics, read_conditions
from koii_p2p.errors import ConfigurationError
from koii_p2p.network.frames import READ_BYTES
from koii_p2p.network.sockets import TcpSocket

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.1
"""How soon a change of the file is noticed."""
SEGMENT_BYTES: Final = 1448
"""What TCP puts into a packet of 1500 bytes with its timestamps (RFC 9293, RFC 7323)."""
LEAST_TIMEOUT: Final = 0.2
"""Linux's TCP_RTO_MIN in seconds: a retransmission is not sent sooner."""
MOST_RETRIES: Final = 6
BACKLOG_SECONDS: Final = 0.5
"""Writers wait when the link needs longer than this for what it was given, as for a full buffer of the sender."""
QUEUE_BYTES: Final = 4 * 1024 * 1024


class Shaper:
    """Shapes the sockets of one node by a file of `Conditions` that it watches."""

    def __init__(self, own_key: bytes, file: Path) -> None:
        """Read the file. Raises `ConfigurationError` if it cannot be used."""
        self.own = base58.b58encode(own_key).decode()
        self._file = file
        self._mark: tuple[int, int, int] | None = None
        self.conditions = self._read()
        self.random = random.Random(f"{self.conditions.seed}:{self.own}")
        self.counts: Counter[str] = Counter()
        self.changed = ParkingLot()
        self._sockets: set[ShapedSocket] = set()
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the file and carry bytes for the length of the block; sockets that are open at its end are closed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch)
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def shape(self, stream: trio.SocketStream) -> TcpSocket:
        """A socket under these conditions."""
        made = ShapedSocket(stream, self)
        if self._nursery is not None:
            self._sockets.add(made)
            self._nursery.start_soon(made.carry)
        else:
            made.end()
        return made

    def forget(self, closed: ShapedSocket) -> None:
        """Drop a socket that is closed."""
        self._sockets.discard(closed)

    def statistics(self) -> ShapingStatistics:
        """Return the counters."""
        return ShapingStatistics(
            conditions=str(self.conditions.link),
            changes=self.counts["changes"],
            refused_changes=self.counts["refused_changes"],
            delayed_writes=self.counts["delayed_writes"],
            retransmissions=self.counts["retransmissions"],
            resets=self.counts["resets"],
            cut_links=sum(one.cut for one in self._sockets),
        )

    async def _watch(self) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            if self._mark_now() == self._mark:
                continue
            try:
                self.conditions = self._read()
            except ConfigurationError as error:
                self.counts["refused_changes"] += 1
                log.warning("the network conditions stay as they are", why=error.why)
                continue
            self.counts["changes"] += 1
            log.info(
                "the network conditions changed",
                link=str(self.conditions.link),
                groups=len(self.conditions.groups),
            )
            for one in tuple(self._sockets):
                one.heed()
            self.changed.unpark_all()

    def _read(self) -> Conditions:
        self._mark = self._mark_now()
        return read_conditions(self._file)

    def _mark_now(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None when it is gone."""
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class ShapedSocket(TcpSocket):
    """A socket whose bytes leave late. `Shaper.shape` makes it and runs `carry`."""

    def __init__(self, stream: trio.SocketStream, shaper: Shaper) -> None:
        super().__init__(stream)
        self._shaper = shaper
        self._peer: str | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._free_at = -math.inf
        self._newest = -math.inf
        self._written = ParkingLot()
        self._room = ParkingLot()
        self._scope = trio.CancelScope()
        self._over = False

    @property
    def link(self) -> Link:
        """What it is like now."""
        return self._shaper.conditions.between(self._shaper.own, self._peer)

    @property
    def cut(self) -> bool:
        """Whether its two ends are cut off from each other."""
        return self._shaper.conditions.separates(self._shaper.own, self._peer)

    async def meet(self, key: bytes, *, dialled: bool) -> None:
        """Learn whose socket it is; who dialled it also waits for the round trip that TCP's handshake takes."""
        self._peer = base58.b58encode(key).decode()
        self.heed()
        if dialled:
            await trio.sleep(2 * self.link.latency_ms / 1000)

    def heed(self) -> None:
        """Act on conditions that changed: reset what is cut, if that is the way of it."""
        if self.cut and self._shaper.conditions.cut == RESET and not self._over:
            self._shaper.counts["resets"] += 1
            # Closing with a linger time of 0 sends RST instead of FIN (socket(7)).
            with suppress(OSError):  # it may be closed already
                self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.end()

    async def read_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, as `TcpSocket` does, as soon as nothing cuts the two ends off."""
        data = await super().read_some(max_bytes)
        await self._until_it_passes()
        return data

    async def write(self, data: bytes) -> None:
        """Hand over all of `data`, waiting while the link has too much. Raises `ConnectionClosedError`."""
        if not self._queue and self.link == PLAIN and not self.cut and not self._over:
            await super().write(data)
            return
        while not self._over and (wait := self._free_at - trio.current_time() - BACKLOG_SECONDS) > 0:
            await trio.sleep(wait)
        while not self._over and self._queued >= QUEUE_BYTES:
            await self._room.park()
        if self._over:
            raise ConnectionClosedError("The connection is gone.", transport="tcp")
        self._shaper.counts["delayed_writes"] += 1
        self._queue.append((self._arrival(len(data)), data))
        self._queued += len(data)
        self._written.unpark_all()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Close the socket at once; what has not left yet is lost, as when a machine is switched off."""
        self.end()
        await super().close()

    async def carry(self) -> None:
        """Deliver what was written when it is due, until the socket is closed."""
        try:
            with self._scope:
                while True:
                    while not self._queue:
                        await self._written.park()
                    due, data = self._queue[0]
                    await trio.sleep_until(due)
                    await self._until_it_passes()
                    await self._stream.send_all(data)
                    self._queue.popleft()
                    self._queued -= len(data)
                    self._room.unpark_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a shaped connection broke", peer=self._peer)
        finally:
            self.end()
            self._shaper.forget(self)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    def end(self) -> None:
        """Let nobody wait for it any more; `carry` then closes it."""
        self._over = True
        self._room.unpark_all()
        self._scope.cancel()

    async def _until_it_passes(self) -> None:
        while self.cut and not self._over:
            await self._shaper.changed.park()

    def _arrival(self, size: int) -> float:
        """When bytes that are written now arrive (trio's time)."""
        link, draw = self.link, self._shaper.random
        now = trio.current_time()
        takes = 0.0 if link.bandwidth_kib is None else size / (1024 * link.bandwidth_kib)
        self._free_at = max(now, self._free_at) + takes
        late = link.latency_ms + (draw.uniform(-link.jitter_ms, link.jitter_ms) if link.jitter_ms else 0)
        retries = retransmissions(size, link.loss, draw)
        self._shaper.counts["retransmissions"] += retries
        self._newest = max(self._newest, self._free_at + late / 1000 + held_up(retries, link.latency_ms))
        return self._newest


def retransmissions(size: int, loss: float, draw: random.Random) -> int:
    """How often something of `size` bytes has to be sent again, in rounds that each resend all that was lost.

    One round if any of its segments is lost; from then on as many as its last segment needs, six at most.
    """
    if not loss:
        return 0
    segments = -(-size // SEGMENT_BYTES)
    if draw.random() >= 1 - (1 - loss) ** segments:
        return 0
    rounds = 1
    while rounds < MOST_RETRIES and draw.random() < loss:
        rounds += 1
    return rounds


def held_up(retries: int, latency_ms: int) -> float:
    """Seconds that so many retransmissions take: a timeout each, twice as long each time (RFC 6298, section 5.5)."""
    timeout = max(LEAST_TIMEOUT, 2 * 2 * latency_ms / 1000)
    return timeout * ((1 << retries) - 1)
