"""Questions of the DHT and their answers on streams: varint-framed messages, several on one stream one after another.

Source: libp2p specifications, kad-dht, "RPC messages": a stream is read until it is closed, so it can be used again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from koii_p2p.limits import Limits
from koii_p2p.network.containment import at_most
from koii_p2p.network.dht.links import DhtNetwork
from koii_p2p.network.frames import FrameError, varint_frame
from koii_p2p.network.streams import PeerStream, StreamFailed, StreamReason, read_message

PROTOCOL = "/ipfs/kad/1.0.0"
KEPT = 2
"""Unused streams kept for one peer."""
BURST_SECONDS = 2.0
"""How much of its rate a peer may use at once."""
REMEMBERED = 1024
"""Peers whose use of their rate is remembered, old and new."""


class Questions:
    """Asks peers; a stream that has brought an answer is kept for the next question for a while."""

    def __init__(self, network: DhtNetwork, limits: Limits) -> None:
        self._network = network
        self._limits = limits
        self._kept: dict[bytes, list[tuple[PeerStream, float]]] = {}

    async def ask(self, key: bytes, question: bytes, *, answered: bool = True) -> bytes:
        """Send a question to a connected peer; return its answer, or nothing if it is one that is not `answered`.

        Without an answer the peer has at least closed the stream after it, so it has read it. Raises `StreamFailed`.
        """
        frame = varint_frame(question)
        kept = self._take(key)
        if kept is not None:
            try:
                return await self._exchange(kept, frame, answered)
            except StreamFailed:
                pass  # it may have been closed for idleness just now: that is no fault of the peer
        stream = await self._network.open_stream(key, (PROTOCOL,))
        return await self._exchange(stream, frame, answered)

    async def _exchange(self, stream: PeerStream, frame: bytes, answered: bool) -> bytes:
        done = False
        try:
            if not stream.write_nowait(frame):
                await stream.write(frame)
            if not answered:
                await stream.close()
            rest = bytearray()
            answer = await read_message(stream, self._limits.dht_message_bytes, rest)
            if answered and (answer is None or rest):
                raise StreamFailed(StreamReason.BROKEN, "It gave no answer, or more than one.")
            done = True
        except FrameError as error:
            raise StreamFailed(StreamReason.BROKEN, str(error)) from error
        finally:
            if done and answered:
                self._keep(stream)
            elif not stream.closed:
                with at_most(1.0):
                    await stream.reset()
        return answer or b""

    def _take(self, key: bytes) -> PeerStream | None:
        kept = self._kept.get(key, [])
        while kept:
            stream, _since = kept.pop()
            if not stream.closed:
                return stream
        return None

    def _keep(self, stream: PeerStream) -> None:
        self._kept.setdefault(stream.key, []).append((stream, trio.current_time()))

    async def close_idle(self) -> None:
        """Close streams that were not used for `Limits.dht_idle_seconds`, and those beyond what is kept."""
        now = trio.current_time()
        unused: list[PeerStream] = []
        for key, kept in list(self._kept.items()):
            old = [one for one in kept if now - one[1] > self._limits.dht_idle_seconds or one[0].closed]
            left = [one for one in kept if one not in old][-KEPT:]
            unused += [one[0] for one in kept if one not in left]
            if left:
                self._kept[key] = left
            else:
                del self._kept[key]
        # Only now, for peers come and go while one is waited for.
        for stream in unused:
            with at_most(1.0):
                await stream.close()

    def forget(self, key: bytes) -> None:
        """Drop the streams of a peer that went away."""
        self._kept.pop(key, None)


class Answers:
    """Answers peers, each at a bounded rate and on a bounded number of streams."""

    def __init__(
        self,
        answer: Callable[[bytes, bytes], bytes | None],
        limits: Limits,
        refused: Callable[[bytes, str], None],
    ) -> None:
        """`answer(key, request)` returns the answer or None, or raises `ValueError`; `refused(key, why)` is told."""
        self._answer = answer
        self._limits = limits
        self._refused = refused
        self._open: Counter[bytes] = Counter()
        self._due: dict[bytes, float] = {}

    async def serve(self, stream: PeerStream) -> None:
        """Answer the requests on a stream until it ends or is idle. A request that is refused resets it."""
        key = stream.key
        if self._open[key] >= self._limits.dht_streams_per_peer:
            self._refused(key, "streams")
            await stream.reset()
            return
        self._open[key] += 1
        try:
            await self._serve(stream)
        except FrameError:
            self._refused(key, "frame")
            await stream.reset()
        except ValueError:
            await stream.reset()
        except StreamFailed:
            pass
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    async def _serve(self, stream: PeerStream) -> None:
        rest = bytearray()
        patience = self._limits.dht_idle_seconds + self._limits.dht_ask_deadline
        while True:
            request: bytes | None = None
            with trio.move_on_after(patience):
                request = await read_message(stream, self._limits.dht_message_bytes, rest)
            if request is None:
                return
            await self._pace(stream.key, more=bool(rest))
            response = self._answer(stream.key, request)
            if response is None or stream.write_nowait(frame := varint_frame(response)):
                continue
            with trio.move_on_after(patience) as scope:
                await stream.write(frame)
            if scope.cancelled_caught:
                await stream.reset()
                return

    async def _pace(self, key: bytes, *, more: bool) -> None:
        """Wait until a peer has not asked more than its rate allows (ITU-T I.371, the generic cell rate algorithm).

        If `more` has come already, others get a turn first: reading it will not wait.
        """
        now = trio.current_time()
        if len(self._due) > REMEMBERED:  # requests that came before their peer went are answered after it
            self._due = {one: at for one, at in self._due.items() if at > now - BURST_SECONDS}
        due = max(self._due.get(key, 0.0), now - BURST_SECONDS) + 1 / self._limits.dht_requests_per_second
        self._due[key] = due
        if due > now:
            await trio.sleep_until(due)
        elif more:
            await trio.lowlevel.checkpoint()

    def forget(self, key: bytes) -> None:
        """Drop what is known of a peer that went away."""
        self._due.pop(key, None)
