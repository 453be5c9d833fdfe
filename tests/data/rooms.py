"""Small nets of data rooms over real networks on loopback, in one process."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import trio

from koii_p2p.data.service import DataRoom
from koii_p2p.data.space import Space
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.storage.shards import ShardStore
from tests.network.nets import QUICK, Net, Node, net, until

TASK = bytes(range(32))
OTHER_TASK = bytes(range(1, 33))
SEED = sha256(b"a beacon").digest()

FAST: Limits = replace(
    QUICK,
    data_upkeep_seconds=0.3,
    data_patience_seconds=1.0,
    data_hedge_seconds=0.2,
    data_repair_bytes_per_second=64 * 1024 * 1024,
    request_deadline=3.0,
)


@dataclass
class Told:
    """What every node of a net is told of the task: everybody finds the same."""

    members: set[bytes] = field(default_factory=set)
    round: int = 10

    def space(self, task: bytes = TASK) -> Space:
        return Space(task, lambda: frozenset(self.members), lambda: self.round, lambda: SEED)


class Listed:
    """A directory for one process: what a DHT does, without its network."""

    def __init__(self, key: bytes, records: dict[bytes, list[bytes]]) -> None:
        self._key = key
        self._records = records

    async def provide(self, key: bytes) -> None:
        providers = self._records.setdefault(key, [])
        if self._key not in providers:
            providers.append(self._key)

    def stop_providing(self, key: bytes) -> None:
        self._records[key].remove(self._key)

    async def find_providers(self, key: bytes, *, count: int, deadline: float) -> tuple[bytes, ...]:
        return tuple(self._records.get(key, ())[:count])


class DataNode:
    """A node of a net with its store and data room."""

    def __init__(self, node: Node, data: DataRoom, store: ShardStore) -> None:
        self.node = node
        self.data = data
        self.store = store
        self.upkeep_scope: trio.CancelScope | None = None

    @property
    def key(self) -> bytes:
        return self.node.key

    @property
    def network(self) -> Network:
        return self.node.network

    def count(self, name: str) -> int:
        return dict(self.data.statistics().events).get(name, 0)


class DataNet:
    def __init__(self, running: Net, folder: Path, stack: ExitStack, limits: Limits) -> None:
        self.told = Told()
        self.nodes: list[DataNode] = []
        self.records: dict[bytes, list[bytes]] = {}
        self._running = running
        self._folder = folder
        self._stack = stack
        self._limits = limits

    async def add(self, limits: Limits | None = None, *, member: bool = True) -> DataNode:
        number = len(self.nodes) + 1
        bootstrap = tuple(one.node.address for one in self.nodes[:1])
        node = await self._running.add(
            number, bootstrap=bootstrap, limits=limits or self._limits, target_peers=32
        )
        folder = self._folder / str(number)
        folder.mkdir()
        store = self._stack.enter_context(ShardStore.open(folder / "data", limits or self._limits))
        data = DataRoom(
            store,
            node.network,
            [self.told.space()],
            limits=limits or self._limits,
            directory=Listed(node.key, self.records),
        )
        made = DataNode(node, data, store)
        self.nodes.append(made)
        if member:
            self.told.members.add(node.key)
        return made

    async def connect(self) -> None:
        """Have everybody know where everybody is."""
        from koii_p2p.network.settings import parse_peer_address

        for one in self.nodes:
            for other in self.nodes:
                if one is not other:
                    one.network.learn(other.key, [parse_peer_address(other.node.address).transport])
        await until(lambda: all(len(one.network.peers()) == len(self.nodes) - 1 for one in self.nodes), 30)

    def of(self, key: bytes) -> DataNode:
        return next(node for node in self.nodes if node.key == key)


@asynccontextmanager
async def data_net(folder: Path, count: int, limits: Limits = FAST) -> AsyncIterator[DataNet]:
    """So many nodes, all members of the task and connected with each other."""
    with ExitStack() as stack:
        async with net() as running:
            made = DataNet(running, folder, stack, limits)
            for _ in range(count):
                await made.add()
            await made.connect()
            yield made


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def chunks(data: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


async def read(node: DataNode, cid: bytes, key: bytes | None = None) -> bytes:
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await node.data.read(await node.data.find(cid), key, take)
    return b"".join(pieces)


Condition = Callable[[], bool]
