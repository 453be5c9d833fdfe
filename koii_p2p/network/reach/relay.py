"""A relay: carries connections to peers that nobody can dial (circuit relay v2, the hop side), within bounds.

A peer reserves over a direct connection, and keeps its place as long as that connection lives. Who wants to reach it
asks the relay to connect; the relay opens a stream to it and carries bytes between the two, which are encrypted from
end to end. What a circuit may carry is told to both ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

import structlog
import trio
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Reservation, Status, StopMessage
from multiaddr import Multiaddr

from koii_p2p.limits import Limits
from koii_p2p.network.admission import address_range
from koii_p2p.network.containment import at_most
from koii_p2p.network.dht.addresses import encoded, group_of
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes, peer_id_text
from koii_p2p.network.reach.relay_wire import (
    CLOSE_SECONDS,
    STOP,
    BadMessage,
    MessageStream,
    circuit_limit,
    hop_status,
)
from koii_p2p.network.statistics import RelayStatistics
from koii_p2p.network.streams import PeerStream, StreamFailed

log = structlog.get_logger(__name__)

#: `open_stream(key, protocols)`; raises `StreamFailed`.
OpenStream = Callable[[bytes, Sequence[str]], Awaitable[PeerStream]]

OK = Status.OK


@dataclass(slots=True)
class _Place:
    """A reservation: until when (`trio.current_time()`), and the network it came from."""

    until: float
    network: str


class _Refused(Exception):
    """A request is turned down with this status."""

    def __init__(self, status: Status.ValueType) -> None:
        super().__init__(Status.Name(status))
        self.status = status


class Relay:
    """Takes reservations and carries circuits."""

    def __init__(
        self, own_key: bytes, open_stream: OpenStream, addresses: Callable[[], Sequence[str]], limits: Limits
    ) -> None:
        self._own_key = own_key
        self._open_stream = open_stream
        self._addresses = addresses
        self._limits = limits
        self._places: dict[bytes, _Place] = {}
        self._circuits: Counter[Hashable] = Counter()
        """Circuits by each of their two ends, by both, and by the network of the end that asked."""
        self._carrying = 0
        self._carried = self._bytes = 0
        self._refused: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    async def serve(self, stream: PeerStream) -> None:
        """Answer what a peer asks on a stream of the hop protocol."""
        messages = MessageStream(stream)
        asked = HopMessage()
        try:
            with trio.fail_after(self._limits.negotiation_deadline):
                await messages.receive(asked)
            if stream.link.relayed:
                raise _Refused(Status.PERMISSION_DENIED)
            if asked.type == HopMessage.RESERVE:
                await messages.send(self._reserve(stream))
            elif asked.type == HopMessage.CONNECT:
                await self._connect(messages, asked)
            else:
                raise _Refused(Status.UNEXPECTED_MESSAGE)
        except BadMessage:
            await self._refuse(messages, Status.MALFORMED_MESSAGE)
        except _Refused as refused:
            await self._refuse(messages, refused.status)

    def lost(self, key: bytes) -> None:
        """Note that a peer is gone, and its reservation with it."""
        self._places.pop(key, None)

    def statistics(self) -> RelayStatistics:
        """Return the counters."""
        return RelayStatistics(
            reservations=len(self._places),
            circuits=self._carrying,
            carried=self._carried,
            bytes=self._bytes,
            refused=tuple(sorted(self._refused.items())),
            ended=tuple(sorted(self._ended.items())),
        )

    async def _refuse(self, messages: MessageStream, status: Status.ValueType) -> None:
        self._refused[Status.Name(status)] += 1
        await messages.send(hop_status(status))

    def _reserve(self, stream: PeerStream) -> HopMessage:
        remote = stream.link.get_remote_address()
        if remote is None:
            raise _Refused(Status.PERMISSION_DENIED)
        now = trio.current_time()
        for key in [key for key, place in self._places.items() if place.until < now]:
            del self._places[key]
        network = address_range(remote[0])
        if stream.key not in self._places:
            neighbours = sum(place.network == network for place in self._places.values())
            if (
                len(self._places) >= self._limits.relay_reservations
                or neighbours >= self._limits.relay_reservations_per_range
            ):
                raise _Refused(Status.RESERVATION_REFUSED)
            log.info("relay_reserved", peer_id=peer_id_text(stream.key))
        seconds = self._limits.relay_reservation_seconds
        self._places[stream.key] = _Place(now + seconds, network)
        return HopMessage(
            type=HopMessage.STATUS,
            status=OK,
            reservation=Reservation(
                expire=int(time.time() + seconds),
                addrs=[Multiaddr(text).to_bytes() for text in self._addresses()],
            ),
            limit=circuit_limit(self._limits),
        )

    async def _connect(self, source: MessageStream, asked: HopMessage) -> None:
        try:
            wanted = key_of_peer_id(asked.peer.id)
        except ValueError:
            raise _Refused(Status.MALFORMED_MESSAGE) from None
        asker = source.stream.key
        place = self._places.get(wanted)
        if wanted in (asker, self._own_key) or place is None or place.until < trio.current_time():
            raise _Refused(Status.NO_RESERVATION)
        limits = self._limits
        bounds: dict[Hashable, int] = {
            asker: limits.relay_circuits_per_peer,
            wanted: limits.relay_circuits_per_peer,
            (asker, wanted): limits.relay_circuits_per_pair,
        }
        if (network := group_of(encoded(source.stream.link.place))) is not None:
            bounds[network] = limits.relay_circuits_per_range
        if self._carrying >= limits.relay_circuits or any(
            self._circuits[one] >= most for one, most in bounds.items()
        ):
            raise _Refused(Status.RESOURCE_LIMIT_EXCEEDED)
        self._carrying += 1
        self._circuits.update(bounds.keys())
        try:
            target = await self._far_end(wanted, asker)
            try:
                await source.send(hop_status(OK, limit=circuit_limit(self._limits)))
                self._carried += 1
                self._ended[await self._carry(source, target)] += 1
            finally:
                # Whoever still reads learns that it is over; what is closed both ways is not harmed.
                with at_most(CLOSE_SECONDS):
                    await target.stream.reset()
                    await source.stream.reset()
        finally:
            self._carrying -= 1
            self._circuits.subtract(bounds.keys())
            self._circuits += Counter()

    async def _far_end(self, wanted: bytes, asker: bytes) -> MessageStream:
        """Open the stream to the far end and let it agree. Raises `_Refused`."""
        target: MessageStream | None = None
        agreed = False
        try:
            with trio.move_on_after(self._limits.negotiation_deadline):
                target = MessageStream(await self._open_stream(wanted, [STOP]))
                await target.send(
                    StopMessage(
                        type=StopMessage.CONNECT,
                        peer=PeerId(id=peer_id_bytes(asker)),
                        limit=circuit_limit(self._limits),
                    )
                )
                answer = StopMessage()
                await target.receive(answer)
                agreed = answer.type == StopMessage.STATUS and answer.status == OK
        except (BadMessage, StreamFailed):
            pass
        finally:
            if target is not None and not agreed:
                with at_most(CLOSE_SECONDS):
                    await target.stream.reset()
        if target is None or not agreed:
            raise _Refused(Status.CONNECTION_FAILED)
        return target

    async def _carry(self, one: MessageStream, other: MessageStream) -> str:
        """Carry bytes both ways until both ends have closed, one is cut, or a bound is reached; return which."""
        left = self._limits.relay_circuit_bytes
        why = "closed"

        async def pump(source: MessageStream, target: PeerStream) -> None:
            nonlocal left, why
            try:
                data = source.rest() or await source.stream.read_some()
                while data:
                    left -= len(data)
                    if left < 0:
                        why = "bytes"
                        nursery.cancel_scope.cancel()
                        return
                    self._bytes += len(data)
                    await target.write(data)
                    data = await source.stream.read_some()
                await target.close()
            except StreamFailed:
                why = "cut"
                nursery.cancel_scope.cancel()

        with trio.move_on_after(self._limits.relay_circuit_seconds) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, one, other.stream)
                nursery.start_soon(pump, other, one.stream)
        return "seconds" if scope.cancelled_caught else why
