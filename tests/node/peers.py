"""Peers of a node over real connections on loopback: they answer out of engines, as nodes do, or do wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

from koii_p2p.limits import Limits
from koii_p2p.node import exchange
from koii_p2p.node.pulling import Puller
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Presence
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.reconcile import Reconciler
from tests.network.nets import Net, Node, net, until
from tests.rounds.net import BLOCKHASH, GENESIS, TASK, TERMS, play, say, secret

ROUND = 3
PLAYED = play(nodes=9, round_number=ROUND)
SUBMISSIONS = tuple(PLAYED.submissions.values())
BALLOTS = tuple(PLAYED.ballots.values())
NOW = TERMS.clock.audit(ROUND).opens + 2
PRESENCES = tuple(
    say(secret(index), Presence((f"/ip4/127.0.0.1/tcp/{index + 1}",), 0, "", 0), 4, NOW, NOW)
    for index in range(3)
)

Answer = Callable[[bytes], Awaitable[bytes]]


def engine_with(records: Iterable[Verified]) -> RoundEngine:
    """An engine in the audit of the round that knows all there is to judge its records by, and has these."""
    engine = RoundEngine(TERMS, GENESIS, secret(0).public_key)
    engine.handle(events.SlotAdvanced(NOW))
    engine.handle(events.AnchorsRead({}))
    engine.handle(events.RosterRead(PLAYED.roster))
    engine.handle(events.BlockhashRead(ROUND, BLOCKHASH))
    for record in records:
        engine.receive(record.raw, Source.SYNC)
    return engine


def held(engine: RoundEngine) -> set[bytes]:
    state = engine.round(ROUND)
    assert state is not None
    return set(state.by_id)


class Server:
    """A peer that answers out of an engine, as nodes do, and counts what it is asked."""

    def __init__(
        self,
        node: Node,
        engine: RoundEngine,
        instead: Mapping[str, Answer] = MappingProxyType({}),
        *,
        limits: Limits | None = None,
    ) -> None:
        """`instead` are other answers, by the middle of the protocol's name."""
        self.engine = engine
        self.asked: list[tuple[str, bytes]] = []
        self._limits = limits or Limits()
        answers = {
            exchange.RECONCILE_PROTOCOL: self._reconcile,
            exchange.RECORDS_PROTOCOL: self._records,
            exchange.ARTIFACTS_PROTOCOL: self._artifacts,
            exchange.PRESENCE_PROTOCOL: self._presences,
        }
        for protocol, answer in answers.items():
            name = protocol.split("/")[2]
            node.network.serve(protocol, self._counted(name, instead.get(name, answer)))

    def _counted(self, name: str, answer: Answer) -> Callable[[bytes, bytes], Awaitable[bytes]]:
        async def serve(_asker: bytes, data: bytes) -> bytes:
            self.asked.append((name, data))
            return await answer(data)

        return serve

    def ids_asked_for(self) -> list[tuple[bytes, ...]]:
        """The ids in each request for records so far."""
        wanted = [data for name, data in self.asked if name == "records"]
        return [exchange.decode_records_request(data, self._limits).ids for data in wanted]

    async def _reconcile(self, data: bytes) -> bytes:
        task, number, question = exchange.decode_reconcile(data, self._limits)
        assert task == TASK
        return Reconciler(self.engine.item_set(number), self._limits).respond(question)

    async def _records(self, data: bytes) -> bytes:
        wanted = exchange.decode_records_request(data, self._limits)
        return exchange.encode_records(self.engine.records_of(wanted.round, wanted.ids), self._limits)

    async def _artifacts(self, data: bytes) -> bytes:
        assert exchange.decode_artifacts_request(data, self._limits) == (TASK, ROUND)
        return exchange.encode_artifacts(exchange.Artifacts(b"commitment", b"bundle", None))

    async def _presences(self, data: bytes) -> bytes:
        assert exchange.decode_presence_request(data, self._limits) == TASK
        return exchange.encode_records((one.raw for one in (*PRESENCES, *SUBMISSIONS)), self._limits)

    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.asked)


class Asker:
    """A node that pulls; what its puller hands on is kept here."""

    def __init__(self, node: Node, engine: RoundEngine, limits: Limits) -> None:
        self.engine = engine
        self.network = node.network
        self.kept: list[Verified] = []
        self.handled: list[events.Event] = []
        self.failed: list[tuple[str, Exception]] = []
        self.puller = Puller(
            TASK,
            engine,
            node.network,
            random.Random(1),
            limits,
            keep=self.kept.append,
            handle=self.handled.append,
            failed=lambda name, error: self.failed.append((name, error)),
        )


@asynccontextmanager
async def asking(
    peers: int, has: Iterable[Verified] = (), limits: Limits | None = None
) -> AsyncIterator[tuple[Asker, list[Node]]]:
    """A node connected to some peers, which answer nothing yet."""
    async with net() as running:
        node, others = await connected(running, peers)
        yield Asker(node, engine_with(has), limits or Limits()), others


async def connected(running: Net, peers: int) -> tuple[Node, list[Node]]:
    node = await running.add(1)
    others = [await running.add(seed + 2, bootstrap=(node.address,)) for seed in range(peers)]
    await until(lambda: len(node.network.peers()) == peers)
    return node, others
