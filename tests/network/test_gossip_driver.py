"""The driver of the gossip router over real links: streams that break, peers that flood, whom to trust."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from libp2p.pubsub.pb import rpc_pb2
from multiaddr import Multiaddr

from koii_p2p.limits import Limits
from koii_p2p.network.gossip import GossipStatistics, GossipVerdict
from koii_p2p.network.gossip_driver import TURN, GossipDriver
from koii_p2p.network.gossip_settings import address_group, gossip_parameters
from koii_p2p.network.identity import peer_id_bytes
from koii_p2p.network.network import Network
from koii_p2p.network.peer_records import BadPeerRecord, recorded_addresses
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.network.streams import PeerStream
from koii_p2p.records.keys import SecretKey
from tests.network.attacker import MESHSUB, Attacker, attacker
from tests.network.nets import LOOPBACK, QUICK, TOPIC, Node, net, until


def driver(node: Node) -> GossipDriver:
    gossip = node.network._gossip
    assert gossip is not None
    return gossip


def numbers(node: Node | Network) -> GossipStatistics:
    network = node if isinstance(node, Network) else node.network
    gossip = network.statistics().gossip
    assert gossip is not None
    return gossip


# streams


@pytest.mark.parametrize("attempt", range(2))
async def test_a_stream_that_is_cut_is_opened_again_and_own_messages_arrive(attempt: int) -> None:
    async with net() as running:
        first, second = await running.chain(2)
        cutter = (first, second)[attempt]  # either end may cut it
        for round_ in range(2):
            if cutter is first:
                stream = driver(first)._peers[peer_id_bytes(second.key)].stream
                assert stream is not None
                await stream.reset()
            else:
                reader = driver(second)._peers[peer_id_bytes(first.key)].reader
                assert reader is not None
                reader.cancel()
            await until(lambda: not driver(first).has_stream(second.key))
            for number in range(5):
                assert await first.network.publish(TOPIC, b"%d/%d" % (round_, number)) == 1
            await until(lambda: driver(first).has_stream(second.key))
            await until(lambda round_=round_: len(second.received) == 5 * (round_ + 1))  # type: ignore[misc]
        assert second.received == [b"%d/%d" % (round_, number) for round_ in range(2) for number in range(5)]
        assert second.key in first.peers()


async def test_of_two_streams_of_a_peer_the_newer_one_counts() -> None:
    async with net() as running:
        victim = await running.add(1)
        async with attacker(victim) as enemy:
            older = await enemy.publish(enemy.message(b"1"))
            await until(lambda: victim.received == [b"1"])
            newer = await enemy.publish(enemy.message(b"2"))
            await until(lambda: victim.received == [b"1", b"2"])
            with pytest.raises(StreamError), trio.fail_after(5):
                await older.read(1)
            frame = rpc_pb2.RPC(publish=[enemy.message(b"3")]).SerializeToString()
            await newer.write(bytes([len(frame)]) + frame)
            await until(lambda: victim.received == [b"1", b"2", b"3"])


async def test_messages_that_a_full_queue_kept_back_arrive_after_all() -> None:
    async with net() as running:
        # Neither end seeks peers, so that all the last one has came through the middle.
        first = await running.add(1, target_peers=1, dht="off")
        middle = await running.add(
            2, bootstrap=(first.address,), limits=replace(QUICK, gossip_queue=2), dht="off"
        )
        last = await running.add(3, bootstrap=(middle.address,), target_peers=1, dht="off")
        await until(lambda: middle.knows(first) and middle.knows(last) and first.knows(middle))
        await until(lambda: numbers(middle).topics[0].mesh == 2)
        sent = {b"%d" % number + bytes(2000) for number in range(200)}
        for data in sent:
            await first.network.publish(TOPIC, data)
        await until(lambda: set(last.received) == sent, 30)
        assert first.key not in last.peers()
        assert numbers(middle).forwards_dropped > 0


# batches


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    def __init__(self) -> None:
        self.count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_what_comes_together_leaves_in_one_write_to_each_peer_and_starts_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[tuple[bytes, int]] = []
    plain = PeerStream.write_nowait

    def counted(stream: PeerStream, data: bytes) -> bool:
        written.append((stream.key, len(data)))
        return plain(stream, data)

    monkeypatch.setattr(PeerStream, "write_nowait", counted)
    messages, size = 50, 200
    async with net() as running:
        victim = await running.add(1)
        witnesses = [
            await running.add(number, bootstrap=(victim.address,), target_peers=1) for number in (2, 3)
        ]
        await until(lambda: numbers(victim).topics[0].mesh == 2)
        async with attacker(victim) as enemy:
            stream = await enemy.publish(enemy.message(b"first"))
            await until(lambda: all(witness.received == [b"first"] for witness in witnesses))
            frames = [
                rpc_pb2.RPC(publish=[enemy.message(bytes([number]) * size)]).SerializeToString()
                for number in range(messages)
            ]
            written.clear()
            spawned = Spawned()
            trio.lowlevel.add_instrument(spawned)
            await stream.write(
                b"".join(bytes([len(frame) & 0x7F | 0x80, len(frame) >> 7]) + frame for frame in frames)
            )
            await until(lambda: all(len(witness.received) == messages + 1 for witness in witnesses))
            trio.lowlevel.remove_instrument(spawned)
    for witness in witnesses:
        sizes = [length for key, length in written if key == witness.key and length > size]
        # All at once, unless the socket gave them to us in pieces.
        assert len(sizes) <= 5
        assert sum(sizes) > messages * size
    assert spawned.count < messages // 2


# turns


async def test_a_flooding_peer_leaves_others_their_turn() -> None:
    async with net() as running:
        # Nobody is given up for being slow: how fast this goes is the machine's business.
        patient = replace(QUICK, peer_stall_seconds=60.0, gossip_queue_bytes=1)
        victim = await running.add(1, limits=patient)
        witness = await running.add(2, bootstrap=(victim.address,), limits=patient)
        await until(lambda: victim.knows(witness) and witness.knows(victim))
        async with attacker(victim) as enemy:
            flood = [
                rpc_pb2.RPC(
                    publish=[enemy.message(b"%d/%d" % (part, number)) for number in range(4000)]
                ).SerializeToString()
                for part in range(5)
            ]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: enemy.gossip(*flood))
                await until(lambda: len(victim.received) > TURN)
                assert len(victim.received) < 4000  # not even the first RPC has been dealt with as a whole
                await witness.network.publish(TOPIC, b"from the witness")
                await until(lambda: b"from the witness" in victim.received)
                await until(lambda: len(victim.received) == 20_001, 60)
            assert victim.received.index(b"from the witness") < 12_000


# scores


async def test_the_nodes_opinion_of_a_peer_is_part_of_its_score_before_and_after_it_connects() -> None:
    async with net() as running:
        first = await running.add(1)
        second = Network(SecretKey.from_seed(bytes([2]) * 32), NetworkSettings(listen=LOOPBACK), QUICK)
        first.network.set_application_score(second.key, 40.0)
        await running._nursery.start(second.run)
        second.learn(first.key, first.network.addresses)
        await until(lambda: [round(peer.score) for peer in first.network.peers()] == [40])
        first.network.set_application_score(second.key, -70.0)
        assert [round(peer.score) for peer in first.network.peers()] == [-70]
        first.network.set_application_score(second.key, 0.0)
        assert [round(peer.score) for peer in first.network.peers()] == [0]


async def test_a_peer_far_below_zero_is_banned() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        first.network.set_application_score(second.key, -2000.0)
        await until(lambda: not first.peers())
        assert dict(first.network.statistics().disconnects) == {"banned": 1}
        assert first.network.statistics().bans == 1


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("/ip4/203.0.113.7/tcp/4001", bytes([203, 0, 113, 7])),
        ("/ip6/2001:db8:1:2:3:4:5:6/tcp/4001", bytes.fromhex("20010db800010002")),
        ("/ip6/::ffff:203.0.113.7/tcp/1", bytes([203, 0, 113, 7])),
        ("/ip4/127.0.0.1/tcp/4001", None),
        ("/ip6/::1/tcp/4001", None),
        ("/ip6/::ffff:127.0.0.1/tcp/4001", None),
    ],
)
def test_peers_behind_one_address_are_one_group(address: str, group: bytes | None) -> None:
    assert address_group(address) == group


def test_the_router_keeps_to_the_limits_of_the_node() -> None:
    limits = replace(Limits(), gossip_topics_per_peer=3, own_messages_held=7, gossip_seen_seconds=9.0)
    parameters = gossip_parameters(NetworkSettings(expected_peers=30, heartbeat=0.5), limits)
    assert (parameters.heartbeat, parameters.seen, parameters.degrees.wanted) == (500, 9000, 5)
    bounds = parameters.bounds
    assert (bounds.topics_per_peer, bounds.held, bounds.rpc_bytes) == (3, 7, limits.gossip_rpc_bytes)


# peer exchange


def signed_record(seed: int, *addresses: str) -> tuple[bytes, bytes]:
    """The key of a peer, and a record of its addresses under that key."""
    pair = create_new_key_pair(bytes([seed]) * 32)
    envelope = create_signed_peer_record(
        ID.from_pubkey(pair.public_key), [Multiaddr(address) for address in addresses], pair.private_key
    )
    return pair.public_key.to_bytes(), envelope.marshal_envelope()


def test_a_record_is_believed_under_the_key_of_its_peer_only() -> None:
    key, record = signed_record(7, "/ip4/203.0.113.7/tcp/4001", "/ip4/203.0.113.8/tcp/4002")
    assert recorded_addresses(key, record) == ("/ip4/203.0.113.7/tcp/4001", "/ip4/203.0.113.8/tcp/4002")
    other, _ = signed_record(8, "/ip4/203.0.113.7/tcp/4001")
    for of, bad in (
        (other, record),
        (key, record[:-1] + bytes([record[-1] ^ 1])),
        (key, b""),
        (key, b"\xff" * 100),
    ):
        with pytest.raises(BadPeerRecord):
            recorded_addresses(of, bad)


async def prune(enemy: Attacker, key: bytes, record: bytes) -> None:
    peers = [rpc_pb2.PeerInfo(peerID=peer_id_bytes(key), signedPeerRecord=record)]
    entry = rpc_pb2.ControlPrune(topicID=TOPIC, backoff=60, peers=peers)
    await enemy.gossip(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=[entry])).SerializeToString())


async def test_a_recommended_peer_is_dialled_if_a_good_peer_says_so_with_a_good_record() -> None:
    async with net() as running:
        victim, third = await running.add(1), await running.add(2)
        async with attacker(victim) as enemy:
            transport = third.address.partition("/p2p/")[0]
            own = third.network._secret.seed
            pair = create_new_key_pair(own)
            record = create_signed_peer_record(
                ID.from_pubkey(pair.public_key), [Multiaddr(transport)], pair.private_key
            ).marshal_envelope()
            await until(lambda: enemy.key in victim.peers())

            await prune(enemy, third.key, record)
            await until(lambda: dict(numbers(victim).refused).get("px_score") == 1)

            victim.network.set_application_score(enemy.key, 50.0)
            _, forged = signed_record(9, transport)
            await prune(enemy, third.key, forged)
            await until(lambda: dict(victim.network.statistics().contained).get("gossip:BadPeerRecord") == 1)
            assert victim.network.statistics().discovery.known_peers == 0
            assert numbers(victim).recommended == 0

            await prune(enemy, third.key, record)
            await until(lambda: third.key in victim.peers())
            assert numbers(victim).recommended == 1


@pytest.mark.slow
async def test_nodes_pruned_by_a_full_mesh_hear_of_each_other() -> None:
    async with trio.open_nursery() as nursery:

        async def start(seed: int, target: int, bootstrap: tuple[str, ...]) -> Network:
            settings = NetworkSettings(
                listen=LOOPBACK, bootstrap=bootstrap, target_peers=target, expected_peers=2, heartbeat=0.3
            )
            network = Network(SecretKey.from_seed(bytes([seed]) * 32), settings, QUICK)
            await network.join_topic(TOPIC, lambda key, data: GossipVerdict.ACCEPT)
            await nursery.start(network.run)
            return network

        hub = await start(1, 0, ())
        others = [await start(seed, 1, hub.addresses) for seed in range(2, 12)]
        for other in others:
            other.set_application_score(hub.key, 50.0)
        await until(lambda: any(numbers(other).recommended for other in others), 40)
        told = next(other for other in others if numbers(other).recommended)
        assert told.statistics().discovery.known_peers > 1
        nursery.cancel_scope.cancel()


# policy


async def test_a_peer_without_gossip_is_let_go() -> None:
    async with net() as running:
        victim = await running.add(1, limits=replace(QUICK, peer_stall_seconds=1.0))
        async with attacker(victim, connect=False) as enemy:
            enemy.host.remove_stream_handler(MESHSUB)  # type: ignore[arg-type]
            await enemy.connect()
            await until(lambda: enemy.key in victim.peers())
            await until(lambda: enemy.key not in victim.peers())
            assert dict(victim.network.statistics().disconnects) == {"no gossip": 1}
