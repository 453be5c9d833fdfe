"""Small nets of real hosts over loopback, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from koii_p2p.limits import Limits
from koii_p2p.network.address_book import AddressFile
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import Network
from koii_p2p.network.settings import DhtMode, NetworkSettings
from koii_p2p.records.keys import SecretKey

TOPIC = "koii/test"
ECHO = "/koii-p2p/echo/1"
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)

QUICK = replace(
    Limits(),
    dial_backoff_first=0.1,
    dial_backoff_longest=0.5,
    dial_deadline=3.0,
    peer_stall_seconds=3.0,
    negotiation_deadline=2.0,
    stop_deadline=2.0,
)

Judge = Callable[[bytes, bytes], GossipVerdict]


class Node:
    """A network with a topic whose messages it collects, and a protocol that echoes."""

    def __init__(
        self,
        seed: int,
        settings: NetworkSettings,
        limits: Limits,
        judge: Judge | None,
        address_file: AddressFile | None = None,
    ) -> None:
        secret = SecretKey.from_seed(seed.to_bytes(32, "big"))
        self.network = Network(secret, settings, limits, address_file)
        self.received: list[bytes] = []
        self.senders: list[bytes] = []
        self._judge = judge
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self.network.serve(ECHO, self._echo)

    async def _echo(self, key: bytes, request: bytes) -> bytes:
        return request

    def _validate(self, key: bytes, data: bytes) -> GossipVerdict:
        verdict = GossipVerdict.ACCEPT if self._judge is None else self._judge(key, data)
        if verdict is GossipVerdict.ACCEPT:
            self.received.append(data)
            self.senders.append(key)
        return verdict

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            try:
                await self.network.join_topic(TOPIC, self._validate)
                await self.network.run(task_status=task_status)
            finally:
                self._stopped.set()

    @property
    def key(self) -> bytes:
        return self.network.key

    @property
    def address(self) -> str:
        return self.network.addresses[0]

    def knows(self, other: Node) -> bool:
        """Whether gossip can go to the other."""
        gossip = self.network._gossip
        return (
            gossip is not None and gossip.has_stream(other.key) and TOPIC in gossip.subscriptions(other.key)
        )

    def peers(self) -> set[bytes]:
        return {peer.key for peer in self.network.peers()}

    async def stop(self) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._stopped.wait()


class Net:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.nodes: list[Node] = []

    async def add(
        self,
        seed: int,
        *,
        bootstrap: tuple[str, ...] = (),
        limits: Limits = QUICK,
        judge: Judge | None = None,
        listen: tuple[str, ...] = LOOPBACK,
        max_peers: int = 64,
        target_peers: int = 8,
        heartbeat: float = 0.2,
        relay: bool = False,
        dht: DhtMode = "auto",
        address_file: AddressFile | None = None,
    ) -> Node:
        settings = NetworkSettings(
            listen=listen,
            bootstrap=bootstrap,
            heartbeat=heartbeat,
            max_peers=max_peers,
            target_peers=target_peers,
            relay=relay,
            dht=dht,
        )
        node = Node(seed, settings, limits, judge, address_file)
        await self._nursery.start(node.run)
        self.nodes.append(node)
        return node

    async def chain(self, count: int) -> list[Node]:
        """Start nodes that all bootstrap from the first one."""
        first = await self.add(1)
        others = [await self.add(seed, bootstrap=(first.address,)) for seed in range(2, count + 1)]
        await until(lambda: all(first.knows(node) and node.knows(first) for node in others))
        return [first, *others]


@asynccontextmanager
async def net() -> AsyncIterator[Net]:
    async with trio.open_nursery() as nursery:
        yield Net(nursery)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition; fail when it does not come true."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.01)
        return  # without asking again: a moment later it need not hold
    raise AssertionError(f"It did not come true within {seconds:g} s.")
