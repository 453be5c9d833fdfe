"""Our node and an unmodified py-libp2p host: each must find in the other what the specifications promise."""

from __future__ import annotations

import trio
from libp2p.host.ping import PingService
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from tests.network.attacker import MESHSUB, attacker
from tests.network.nets import TOPIC, net, until


async def test_gossip_identify_and_ping_with_an_unmodified_host() -> None:
    async with net() as running:
        ours = await running.add(1)
        async with attacker(ours, connect=False) as theirs:
            router = GossipSub([MESHSUB], 6, 4, 12, heartbeat_interval=1)  # type: ignore[list-item]
            pubsub = Pubsub(theirs.host, router)
            async with background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                subscription = await pubsub.subscribe(TOPIC)
                await theirs.connect()
                await until(lambda: any(TOPIC in peer.topics for peer in ours.network.peers()))
                await pubsub.wait_for_subscription(theirs.victim_id, TOPIC)

                for size in (10, 16_384, 200_000):
                    await ours.network.publish(TOPIC, bytes(size))
                    with trio.fail_after(10):
                        while (await subscription.get()).data != bytes(size):
                            await trio.sleep(0)  # it also shows the host its own messages
                    await pubsub.publish(TOPIC, b"theirs" + bytes(size))
                    await until(lambda size=size: b"theirs" + bytes(size) in ours.received)  # type: ignore[misc]

                with trio.fail_after(10):
                    assert len(await PingService(theirs.host).ping(theirs.victim_id, ping_amt=2)) == 2
                await until(lambda: MESHSUB in theirs.host.get_peerstore().get_protocols(theirs.victim_id))
                pubsub.seen_messages.stop()
