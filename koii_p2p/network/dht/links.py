"""What the DHT asks of the network, and the connections it makes for its searches alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from koii_p2p.limits import Limits
from koii_p2p.network.streams import PeerStream, StreamHandler


@dataclass(frozen=True, slots=True)
class DhtNetwork:
    """What the DHT needs of the network; peers are named by their 32-byte keys."""

    open_stream: Callable[[bytes, Sequence[str]], Awaitable[PeerStream]]
    dial: Callable[[bytes], Awaitable[bool]]
    """Dial a peer at the addresses known of it; return whether it is connected."""
    disconnect: Callable[[bytes, str], None]
    serve: Callable[[str, StreamHandler], None]
    withdraw: Callable[[str], None]
    """Serve a protocol no longer."""
    learn: Callable[[bytes, tuple[str, ...]], None]
    """Hear where a peer may be dialled."""
    addresses_of: Callable[[bytes], tuple[str, ...]]
    """Return where a peer can be dialled, as far as known."""
    own_addresses: Callable[[], tuple[str, ...]]
    recorded: Callable[[bytes], tuple[str, ...]]
    """Return where a connected peer says, signed, that it can be dialled; empty while it has not."""
    in_use: Callable[[bytes], bool]
    """Whether something goes on with a peer that is neither the DHT nor gossip."""
    misbehaved: Callable[[bytes, str], None]
    """Count something nobody honest does."""


class Visits:
    """Connections made for searches: bounded in number, and closed when they were not used for a while.

    So a search can ask anybody, and the net does not become one where everybody is connected with everybody. As long
    as the node has fewer peers than it wants, such a connection is kept as any other.
    """

    def __init__(self, network: DhtNetwork, limits: Limits, linked: Callable[[bytes], bool]) -> None:
        self._network = network
        self._limits = limits
        self._linked = linked
        self._used: dict[bytes, float] = {}
        self._asking: dict[bytes, int] = {}
        self._dials = trio.CapacityLimiter(limits.dht_dials_at_once)

    def __len__(self) -> int:
        return len(self._used)

    async def reach(self, key: bytes, addresses: tuple[str, ...]) -> bool:
        """Connect with a peer; return whether it is connected. It may be said to be at further addresses."""
        if self._linked(key):
            return True
        if not self._make_room():
            return False
        if addresses:
            self._network.learn(key, addresses)
        self._used[key] = trio.current_time()
        try:
            async with self._dials:
                connected = self._linked(key) or await self._network.dial(key)
        finally:
            if not self._linked(key):
                self._used.pop(key, None)
        return connected

    def begin(self, key: bytes) -> None:
        """Note that a question to a peer begins, while which its connection is not closed."""
        self._asking[key] = self._asking.get(key, 0) + 1

    def end(self, key: bytes) -> None:
        """Note that it has ended; once for each `begin`."""
        self._asking[key] -= 1
        if not self._asking[key]:
            del self._asking[key]
        if key in self._used:
            self._used[key] = trio.current_time()

    def gone(self, key: bytes) -> None:
        """Note that a peer is not connected any more."""
        self._used.pop(key, None)

    def close_idle(self, links: int, wanted: int) -> None:
        """Close what was not used for a while, of `links` links of which `wanted` are wanted."""
        now = trio.current_time()
        for key, used in sorted(self._used.items(), key=lambda item: item[1]):
            if now - used < self._limits.dht_connection_seconds:
                break
            if key in self._asking:
                continue
            del self._used[key]
            if links > wanted and not self._network.in_use(key):
                links -= 1
                self._network.disconnect(key, "search over")

    def _make_room(self) -> bool:
        """Close the connection that was not used for longest, if there are too many; return whether one more may be."""
        if len(self._used) < self._limits.dht_connections:
            return True
        idle = [
            key
            for key in self._used
            if key not in self._asking and self._linked(key) and not self._network.in_use(key)
        ]
        if not idle:
            return False
        oldest = min(idle, key=self._used.__getitem__)
        del self._used[oldest]
        self._network.disconnect(oldest, "search over")
        return True
