from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from koii_p2p.limits import Limits
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.network import Network
from koii_p2p.network.reach import ways_in
from koii_p2p.network.reach.relay_client import RelayFailed
from koii_p2p.network.requests import RequestFailed
from koii_p2p.network.statistics import RelayStatistics
from koii_p2p.network.streams import PeerStream
from koii_p2p.records.keys import SecretKey
from tests.network.nets import ECHO, QUICK, TOPIC, Net, Node, net, until

HOP = "/libp2p/circuit/relay/0.2.0/hop"
BLOB = "/koii-p2p/blob/1"
NOWHERE: tuple[str, ...] = ()
"""Listening on no address: so nobody can dial it, whatever others tell of it."""


def reserve(network: Network, relay: bytes) -> object:
    assert network._ways is not None
    return network._ways.reserve(relay)


def relay_of(node: Node) -> RelayStatistics:
    found = node.network.statistics().relay
    assert found is not None
    return found


def relayed_addresses(node: Node) -> list[str]:
    return [text for text in node.network.addresses if "/p2p-circuit/" in text]


async def reserved(running: Net, limits: Limits = QUICK) -> tuple[Node, Node, Node]:
    """A relay, a node that has a place at it, and one that knows only the address of that place."""
    relay = await running.add(1, relay=True, limits=limits)
    hidden = await running.add(2, bootstrap=(relay.address,), limits=limits, listen=NOWHERE)
    other = await running.add(3, bootstrap=(relay.address,), limits=limits, target_peers=1)
    await until(lambda: relay.knows(hidden) and hidden.knows(relay) and relay.knows(other))
    assert await reserve(hidden.network, relay.key)  # type: ignore[misc]
    assert relay_of(relay).reservations == 1
    other.network.learn(hidden.key, relayed_addresses(hidden))
    return relay, hidden, other


def remote_of(node: Node, other: Node) -> list[str]:
    return [peer.remote for peer in node.network.peers() if peer.key == other.key]


async def test_a_request_and_gossip_go_through_a_relay_both_ways() -> None:
    async with net() as running:
        relay, hidden, other = await reserved(running)
        place = f"/p2p/{relay.network.peer_id}/p2p-circuit"
        assert relayed_addresses(hidden) == [f"{relay.address}/p2p-circuit/p2p/{hidden.network.peer_id}"]
        assert await other.network.request(hidden.key, ECHO, b"over there") == b"over there"
        assert remote_of(other, hidden) == remote_of(hidden, other) == [place]
        assert await hidden.network.request(other.key, ECHO, b"and back") == b"and back"
        assert relay_of(relay).circuits == 1
        await until(lambda: other.knows(hidden) and hidden.knows(other))
        await other.network.publish(TOPIC, b"from other")
        await hidden.network.publish(TOPIC, b"from hidden")
        await until(lambda: b"from other" in hidden.received and b"from hidden" in other.received)
        await other.network.disconnect(hidden.key)
        await until(lambda: relay_of(relay).circuits == 0)
        assert dict(relay_of(relay).ended) == {"closed": 1}


async def test_a_large_message_reaches_a_peer_by_gossip_through_a_relay() -> None:
    async with net() as running:
        _relay, hidden, other = await reserved(running)
        await other.network.request(hidden.key, ECHO, b"")
        await until(lambda: other.knows(hidden) and hidden.knows(other))
        message = b"x" * 200_000
        await other.network.publish(TOPIC, message)
        await until(lambda: message in hidden.received)


async def test_a_large_answer_arrives_whole_and_a_circuit_ends_at_its_bytes() -> None:
    async with net() as running:
        relay, hidden, other = await reserved(running, replace(QUICK, relay_circuit_bytes=400_000))
        blob = bytes(range(256)) * 1000

        async def serve(key: bytes, request: bytes) -> bytes:
            return blob

        hidden.network.serve(BLOB, serve)
        assert await other.network.request(hidden.key, BLOB, b"") == blob
        with pytest.raises(RequestFailed):
            await other.network.request(hidden.key, BLOB, b"", deadline=3.0)
        await until(lambda: ("bytes", 1) in relay_of(relay).ended)
        assert relay_of(relay).bytes <= 400_000 * (1 + relay_of(relay).carried)
        # The relay and its own links are unharmed.
        assert await hidden.network.request(relay.key, ECHO, b"still here") == b"still here"


async def test_a_circuit_ends_at_its_seconds() -> None:
    async with net() as running:
        relay, hidden, other = await reserved(running, replace(QUICK, relay_circuit_seconds=1.0))
        await other.network.request(hidden.key, ECHO, b"")
        await until(lambda: ("seconds", 1) in relay_of(relay).ended)
        await until(lambda: relay.key in hidden.peers() and relay.key in other.peers())


async def test_who_has_no_place_is_not_connected_to() -> None:
    async with net() as running:
        relay, _hidden, other = await reserved(running)
        stranger = await running.add(4, bootstrap=(relay.address,), listen=NOWHERE)
        await until(lambda: relay.knows(stranger))
        place = f"{relay.address}/p2p-circuit/p2p/{stranger.network.peer_id}"
        other.network.learn(stranger.key, [place])
        with pytest.raises(RequestFailed):
            await other.network.request(stranger.key, ECHO, b"", deadline=2.0)
        assert ("NO_RESERVATION", 1) in relay_of(relay).refused
        assert stranger.key not in other.peers()


async def test_a_place_is_lost_with_the_connection_and_a_plain_node_gives_none() -> None:
    async with net() as running:
        relay, hidden, other = await reserved(running)
        assert not await reserve(hidden.network, other.key)  # type: ignore[misc]
        await hidden.stop()
        await until(lambda: relay_of(relay).reservations == 0)
        plain = await running.add(5, bootstrap=(other.address,))
        await until(lambda: plain.knows(other))
        assert not await reserve(plain.network, other.key)  # type: ignore[misc]
        assert relayed_addresses(plain) == []


async def test_places_and_circuits_are_bounded() -> None:
    async with net() as running:
        limits = replace(QUICK, relay_reservations=1, relay_circuits_per_peer=1)
        relay, hidden, other = await reserved(running, limits)
        late = await running.add(4, bootstrap=(relay.address,), target_peers=1, limits=limits)
        await until(lambda: relay.knows(late))
        assert not await reserve(late.network, relay.key)  # type: ignore[misc]
        assert await reserve(hidden.network, relay.key)  # type: ignore[misc]
        await other.network.request(hidden.key, ECHO, b"")
        late.network.learn(hidden.key, relayed_addresses(hidden))
        with pytest.raises(RequestFailed):
            await late.network.request(hidden.key, ECHO, b"", deadline=2.0)
        refused = dict(relay_of(relay).refused)
        assert refused["RESERVATION_REFUSED"] == 1
        assert refused["RESOURCE_LIMIT_EXCEEDED"] >= 1


@pytest.mark.parametrize("junk", [b"\xff" * 20, b"\x05junk!", b"", b"\x02\x08\x02", b"\x02\x08\x07"])
async def test_nonsense_costs_its_own_stream_only(junk: bytes) -> None:
    async with net() as running:
        relay, hidden, other = await reserved(running)
        stream = await other.network.open_stream(relay.key, [HOP], deadline=2.0)
        await stream.write(junk)
        await stream.close()
        with trio.fail_after(5):
            while await stream.read_some():
                pass
        assert sum(count for _, count in relay_of(relay).refused) == 1
        assert await other.network.request(hidden.key, ECHO, b"alive") == b"alive"


async def test_no_place_is_given_and_nothing_is_carried_over_a_relayed_connection() -> None:
    async with net() as running:
        relay, hidden, _other = await reserved(running)
        second = await running.add(6, relay=True, bootstrap=(relay.address,), target_peers=1, listen=NOWHERE)
        await until(lambda: relay.knows(second))
        assert await reserve(second.network, relay.key)  # type: ignore[misc]
        hidden.network.learn(second.key, relayed_addresses(second))
        await hidden.network.request(second.key, ECHO, b"")
        assert not await reserve(hidden.network, second.key)  # type: ignore[misc]
        assert dict(relay_of(second).refused) == {"PERMISSION_DENIED": 1}


async def test_only_a_relay_that_was_asked_may_bring_strangers() -> None:
    async with net() as running:
        relay, _hidden, other = await reserved(running)
        stream = await other.network.open_stream(
            relay.key, ["/libp2p/circuit/relay/0.2.0/stop"], deadline=2.0
        )
        said = await answer_to_connect(stream, other.key)
        assert said == 202  # PERMISSION_DENIED
        assert peer_id_text(other.key) in {peer.peer_id for peer in relay.network.peers()}


async def answer_to_connect(stream: PeerStream, key: bytes) -> int:
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId, StopMessage

    from koii_p2p.network.identity import peer_id_bytes
    from koii_p2p.network.reach.relay_wire import MessageStream

    messages = MessageStream(stream)
    await messages.send(StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=peer_id_bytes(key))))
    answer = StopMessage()
    await messages.receive(answer)
    return int(answer.status)


async def test_one_peer_does_not_take_all_the_connections_to_another() -> None:
    async with net() as running:
        relay, hidden, other = await reserved(running)
        ways = other.network._ways
        assert ways is not None
        sockets = [await ways._client.connect(relay.key, hidden.key) for _ in range(2)]
        with pytest.raises(RelayFailed, match="RESOURCE_LIMIT_EXCEEDED"):
            await ways._client.connect(relay.key, hidden.key)
        assert relay_of(relay).circuits == 2
        for socket in sockets:
            await socket.close()
        await until(lambda: relay_of(relay).circuits == 0)
        await (await ways._client.connect(relay.key, hidden.key)).close()


async def test_a_relay_that_was_dialled_for_a_peer_is_left_when_that_comes_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways_in, "IDLE_SECONDS", 0.1)
    limits = replace(QUICK, dial_deadline=1.0, relays_dialled=1)
    async with net() as running:
        relays = [await running.add(seed, relay=True) for seed in (1, 2)]
        node = await running.add(3, limits=limits, listen=NOWHERE, target_peers=0)
        nobody = SecretKey.from_seed((9).to_bytes(32, "big")).public_key
        node.network.learn(nobody, [f"{relay.address}/p2p-circuit" for relay in relays])
        with pytest.raises(RequestFailed):
            await node.network.request(nobody, ECHO, b"", deadline=2.0)
        assert len(node.peers()) == 1  # only so many at a time
        await until(lambda: not node.peers())
        assert node.network._ways is not None
        assert not node.network._ways._through


async def test_a_node_of_the_internet_is_not_sent_to_its_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with net() as running:
        node = await running.add(1)
        ways = node.network._ways
        assert ways is not None
        inside = ("/ip4/127.0.0.1/tcp/8899", "/ip4/0.0.0.0/tcp/22", "/ip4/10.0.0.1/tcp/80", "/ip6/::1/tcp/1")
        assert all(map(ways.within_reach, inside))  # it listens on loopback only
        own = node.address
        for place, allowed in (("/ip4/192.168.1.5/tcp/1", {inside[2]}), ("/ip4/45.0.0.1/tcp/1", set[str]())):
            with monkeypatch.context() as patched:  # nobody else runs meanwhile, so nobody is told of it
                patched.setattr(ways_in, "advertised", lambda host, place=place: (place,))
                assert set(filter(ways.within_reach, inside)) == allowed
                assert ways.within_reach("/ip4/8.8.8.8/tcp/4001")
                assert not ways.within_reach(f"{own}/p2p-circuit")
        other = await running.add(2, bootstrap=(own,))
        await until(lambda: node.knows(other))
        with monkeypatch.context() as patched:
            patched.setattr(ways_in, "advertised", lambda host: ("/ip4/45.0.0.1/tcp/4001",))
            assert ways.within_reach("/ip4/127.0.0.1/tcp/8899")  # a peer of ours is there
