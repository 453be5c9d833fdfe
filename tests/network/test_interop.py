"""Our node and an unmodified py-libp2p host: each must find in the other what the specifications promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p.host.ping import PingService
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.wire import Message
from tests.network.attacker import MESHSUB, Attacker, attacker
from tests.network.nets import TOPIC, Node, net, until


def message_id(message: rpc_pb2.Message) -> bytes:
    return content_id(Message(message.topicIDs[0], message.data))


@asynccontextmanager
async def their_gossip(theirs: Attacker) -> AsyncIterator[tuple[Pubsub, GossipSub]]:
    """GossipSub as py-libp2p has it, without signatures and with our message ids."""
    router = GossipSub(
        [MESHSUB],  # type: ignore[list-item]
        3,
        2,
        6,
        heartbeat_interval=1,
        spam_protection_enabled=False,  # it forwards 10 messages a second
    )
    pubsub = Pubsub(theirs.host, router, strict_signing=False, msg_id_constructor=message_id)
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        yield pubsub, router
        pubsub.seen_messages.stop()


async def meshed(ours: Node, theirs: Attacker, pubsub: Pubsub, router: GossipSub) -> None:
    """Wait until each has the other in the mesh of the topic."""
    await until(lambda: any(TOPIC in peer.topics for peer in ours.network.peers()))
    await pubsub.wait_for_subscription(theirs.victim_id, TOPIC)
    await until(lambda: theirs.victim_id in router.mesh[TOPIC])
    await until(lambda: _mesh_size(ours) == 1)


def _mesh_size(node: Node) -> int:
    gossip = node.network.statistics().gossip
    assert gossip is not None
    return gossip.topics[0].mesh


async def test_gossip_identify_and_ping_with_an_unmodified_host() -> None:
    async with net() as running:
        ours = await running.add(1)
        async with attacker(ours, connect=False) as theirs, their_gossip(theirs) as (pubsub, router):
            subscription = await pubsub.subscribe(TOPIC)
            await theirs.connect()
            await meshed(ours, theirs, pubsub, router)

            # `Pubsub.publish` writes an author and a number even where nothing is signed. Below it there is `push_msg`,
            # once: `GossipSub` takes a second message without author and number for an equivocation of the first.
            await pubsub.push_msg(pubsub.my_id, rpc_pb2.Message(data=b"theirs", topicIDs=[TOPIC]))
            await until(lambda: ours.received == [b"theirs"])

            received: set[bytes] = set()
            payloads = [b"%d" % number + bytes(512) for number in range(100)]
            payloads += [b"large %d" % number + bytes(60 * 1024) for number in range(5)] + [bytes(200_000)]
            for payload in payloads:
                await ours.network.publish(TOPIC, payload)
                with trio.fail_after(10):
                    while payload not in received:
                        received.add((await subscription.get()).data)

            with trio.fail_after(10):
                assert len(await PingService(theirs.host).ping(theirs.victim_id, ping_amt=2)) == 2
            await until(lambda: MESHSUB in theirs.host.get_peerstore().get_protocols(theirs.victim_id))


async def test_messages_that_name_an_author_are_refused() -> None:
    async with net() as running:
        ours = await running.add(1)
        async with attacker(ours, connect=False) as theirs, their_gossip(theirs) as (pubsub, router):
            await pubsub.subscribe(TOPIC)
            await theirs.connect()
            await meshed(ours, theirs, pubsub, router)
            await pubsub.publish(TOPIC, b"by me")

            def refused() -> dict[str, int]:
                gossip = ours.network.statistics().gossip
                assert gossip is not None
                return dict(gossip.refused)

            await until(lambda: refused().get("signature_policy") == 1)
            assert not ours.received
