"""Our node and an unmodified py-libp2p host: each must find in the other what the specifications promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.wire import Message
from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.network.reach.relay_wire import HOP
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


@asynccontextmanager
async def their_relay_client(theirs: Attacker) -> AsyncIterator[CircuitV2Transport]:
    """Circuit relay v2 as py-libp2p has it: it reserves, dials and is dialled through relays."""
    protocol = CircuitV2Protocol(theirs.host)
    async with background_trio_service(protocol):
        await protocol.event_started.wait()
        yield CircuitV2Transport(theirs.host, protocol, RelayConfig(roles=RelayRole.CLIENT | RelayRole.STOP))


async def test_an_unmodified_host_goes_through_our_relay_both_ways() -> None:
    async with net() as running, trio.open_nursery() as nursery:
        relay = await running.add(1, relay=True)
        ours = await running.add(2, bootstrap=(relay.address,))
        await until(lambda: relay.knows(ours))
        assert ours.network._ways is not None
        assert await ours.network._ways.reserve(relay.key)
        place = next(text for text in ours.network.addresses if "/p2p-circuit/" in text)
        our_id = ID.from_string(ours.network.peer_id)

        async with attacker(relay) as caller, their_relay_client(caller) as transport:
            with trio.fail_after(20):
                await transport.dial(Multiaddr(place))
                assert len(await PingService(caller.host).ping(our_id, ping_amt=2)) == 2

        async with attacker(relay) as hidden, their_relay_client(hidden) as transport:
            stream = await hidden.host.new_stream(hidden.victim_id, [TProtocol(HOP)])
            with trio.fail_after(20):
                assert await transport.reserve(stream, hidden.victim_id, nursery)
            key = key_of_peer_id(hidden.host.get_id().to_bytes())
            ours.network.learn(key, [f"{relay.address}/p2p-circuit"])
            assert await ours.network._connector.dial_now(key)
            (peer,) = [peer for peer in ours.network.peers() if peer.key == key]
            assert peer.remote == f"/p2p/{relay.network.peer_id}/p2p-circuit"
        nursery.cancel_scope.cancel()
