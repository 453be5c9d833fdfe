"""Stakers of one round, each with a real network, engine and puller; some of them keep to themselves what they hear."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from koii_p2p.limits import Limits
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.pulling import Puller
from koii_p2p.node.task_service import VERDICTS
from koii_p2p.records.envelope import Verified, decode_record
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from tests.faults.victim import CALM
from tests.network.nets import LOOPBACK, TOPIC, Net, Node
from tests.node.peers import NOW, PLAYED, ROUND, Server, held
from tests.rounds.net import BLOCKHASH, GENESIS, TASK, TERMS, secret

Drops = Callable[[Verified], bool]


class Party:
    """Staker number `index`. What `drops` says yes to it neither takes nor forwards; its own words it says."""

    def __init__(self, index: int, drops: Callable[[bytes], bool], limits: Limits, node: Node) -> None:
        self.index = index
        self.node = node
        self.key = secret(index).public_key
        self.engine = RoundEngine(TERMS, GENESIS, self.key)
        self.dropped = 0
        self.failed: list[Exception] = []
        self.reconciled = 0
        self._drops = drops
        self._puller = Puller(
            TASK,
            self.engine,
            node.network,
            random.Random(index),
            limits,
            keep=lambda record: None,
            handle=lambda event: None,
            failed=lambda name, error: self.failed.append(error),
        )
        Server(node, self.engine, limits=limits)

    def judge(self, _sender: bytes, data: bytes) -> GossipVerdict:
        """Its validator: that of a task, unless it drops the record."""
        if self._drops(data):
            self.dropped += 1
            return GossipVerdict.IGNORE
        return VERDICTS[self.engine.receive(data, Source.GOSSIP)[0]]

    async def slot(self, slot: int) -> None:
        """Let it be a slot, and reconcile if the engine asks for it."""
        actions = self.engine.handle(events.SlotAdvanced(slot))
        actions += self.engine.handle(events.AnchorsRead({}))
        actions += self.engine.handle(events.RosterRead(PLAYED.roster))
        if slot >= TERMS.clock.submission(ROUND).closes:
            actions += self.engine.handle(events.BlockhashRead(ROUND, BLOCKHASH))
        if events.Reconcile(ROUND) in actions:
            await self.reconcile()

    async def reconcile(self) -> int:
        """Ask some peers for what it lacks; how many answered."""
        self.reconciled += 1
        return await self._puller.records(ROUND)

    async def say(self, *records: Verified) -> None:
        """Hold own records and publish them."""
        for record in records:
            self.engine.receive(record.raw, Source.OWN)
            await self.node.network.publish(TOPIC, record.raw)

    def has(self, records: Iterable[Verified]) -> bool:
        """Whether it holds all of these."""
        return {record.id for record in records} <= held(self.engine)


async def party(
    running: Net,
    index: int,
    *,
    peers: Iterable[Party] = (),
    drops: Callable[[bytes], bool] = lambda data: False,
    limits: Limits = CALM,
    slot: int = NOW,
) -> Party:
    """Start a staker that dials these peers, and nobody else."""
    bootstrap = tuple(peer.node.address for peer in peers)
    settings = NetworkSettings(
        listen=LOOPBACK, bootstrap=bootstrap, heartbeat=0.2, target_peers=len(bootstrap), dht="off"
    )
    made: list[Party] = []
    node = Node(100 + index, settings, limits, lambda sender, data: made[0].judge(sender, data))
    made.append(Party(index, drops, limits, node))
    await made[0].slot(slot)
    await running._nursery.start(node.run)
    running.nodes.append(node)
    return made[0]


def about(author: bytes) -> Callable[[bytes], bool]:
    """Drop what one author says."""
    return lambda data: decode_record(data).author == author


def everything(_data: bytes) -> bool:
    """Drop whatever comes."""
    return True
