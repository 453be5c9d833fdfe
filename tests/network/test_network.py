from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest
import trio
import trio.testing

from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import Network
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.reach import outgoing_address
from koii_p2p.records.keys import SecretKey
from tests.network.nets import ECHO, LOOPBACK, QUICK, TOPIC, Node, net, until


@pytest.mark.parametrize("count", [2, 5, 10])
async def test_every_message_reaches_every_node(count: int) -> None:
    async with net() as running:
        nodes = await running.chain(count)
        for number, node in enumerate(nodes):
            for part in range(4):
                await node.network.publish(TOPIC, b"%d/%d" % (number, part))
        everything = {b"%d/%d" % (number, part) for number in range(count) for part in range(4)}
        own = [{b"%d/%d" % (number, part) for part in range(4)} for number in range(count)]
        await until(
            lambda: all(set(node.received) == everything - own[i] for i, node in enumerate(nodes)),
        )
        assert all(len(node.received) == len(set(node.received)) for node in nodes)


async def test_a_burst_of_everybody_loses_nothing() -> None:
    async with net() as running:
        nodes = await running.chain(5)

        async def publish(node: Node, number: int) -> None:
            for part in range(100):
                await node.network.publish(TOPIC, b"%d/%d" % (number, part))

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(publish, node, number)
        await until(lambda: all(len(set(node.received)) == 400 for node in nodes), 30)
        for node in nodes:
            gossip = node.network.statistics().gossip
            assert gossip is not None
            assert gossip.own_dropped == 0
            assert gossip.topics[0].published == 100


async def test_a_late_joiner_gets_the_newest_messages_and_all_later_ones() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        await first.network.publish(TOPIC, b"before")
        late = await running.add(3, bootstrap=(second.address,))
        await until(lambda: b"before" in late.received)
        await until(lambda: second.knows(late) and late.knows(second))
        await first.network.publish(TOPIC, b"after")
        await until(lambda: b"after" in late.received)


async def test_a_message_published_alone_reaches_the_first_neighbour() -> None:
    async with net() as running:
        first = await running.add(1)
        assert await first.network.publish(TOPIC, b"alone") == 0
        second = await running.add(2, bootstrap=(first.address,))
        await until(lambda: second.received == [b"alone"])
        gossip = first.network.statistics().gossip
        assert gossip is not None
        assert gossip.own_waiting == 0


async def test_messages_held_for_nobody_are_bounded_and_counted() -> None:
    async with net() as running:
        first = await running.add(1, limits=replace(QUICK, own_messages_held=3))
        for number in range(5):
            await first.network.publish(TOPIC, b"%d" % number)
        gossip = first.network.statistics().gossip
        assert gossip is not None
        assert (gossip.own_waiting, gossip.own_dropped) == (3, 2)


async def test_publishing_without_a_topic_or_too_much_is_refused() -> None:
    async with net() as running:
        first = await running.add(1)
        with pytest.raises(ValueError, match="not joined"):
            await first.network.publish("other", b"x")
        with pytest.raises(ValueError, match="at most"):
            await first.network.publish(TOPIC, bytes(QUICK.gossip_message_bytes + 1))
        with pytest.raises(ValueError, match="already"):
            await first.network.join_topic(TOPIC, lambda key, data: GossipVerdict.ACCEPT)
    network = Network(SecretKey.generate(), NetworkSettings())
    with pytest.raises(NetworkError, match="does not run"):
        await network.publish(TOPIC, b"x")


async def test_a_topic_joined_while_running_works() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        got: list[bytes] = []

        def take(key: bytes, data: bytes) -> GossipVerdict:
            got.append(data)
            return GossipVerdict.ACCEPT

        await first.network.join_topic("late", take)
        await second.network.join_topic("late", take)
        await until(
            lambda: all("late" in peer.topics for node in (first, second) for peer in node.network.peers())
        )
        assert await first.network.publish("late", b"x") == 1
        await until(lambda: got == [b"x"])


async def test_ignored_messages_are_not_forwarded_and_cost_nothing() -> None:
    async with net() as running:
        first = await running.add(1)
        middle = await running.add(
            2, bootstrap=(first.address,), judge=lambda key, data: GossipVerdict.IGNORE
        )
        last = await running.add(3, bootstrap=(middle.address,))
        await until(lambda: middle.knows(first) and middle.knows(last) and first.knows(middle))
        for number in range(QUICK.rejects_before_disconnect + 5):
            await first.network.publish(TOPIC, b"%d" % number)
        await middle.network.publish(TOPIC, b"mark")  # behind whatever middle would have forwarded
        await until(lambda: b"mark" in last.received)
        await until(lambda: _ignored(middle) >= QUICK.rejects_before_disconnect + 5)
        assert last.received == [b"mark"]
        assert first.key in middle.peers()
        assert middle.network.statistics().bans == 0


def _ignored(node: Node) -> int:
    gossip = node.network.statistics().gossip
    return 0 if gossip is None else gossip.topics[0].ignored


async def test_a_peer_that_sends_rejected_messages_is_banned_for_a_while() -> None:
    def judge(key: bytes, data: bytes) -> GossipVerdict:
        return GossipVerdict.REJECT if data.startswith(b"bad") else GossipVerdict.ACCEPT

    async with net() as running:
        limits = replace(QUICK, ban_seconds=2.0, rejects_before_disconnect=5)
        victim = await running.add(1, judge=judge, limits=limits)
        sinner = await running.add(2, bootstrap=(victim.address,))
        honest = await running.add(3, bootstrap=(victim.address,))
        await until(lambda: victim.knows(sinner) and victim.knows(honest) and sinner.knows(victim))
        for number in range(5):
            await sinner.network.publish(TOPIC, b"bad%d" % number)
        await until(lambda: victim.network.statistics().bans == 1)
        await until(lambda: sinner.key not in victim.peers())
        assert honest.key in victim.peers()
        assert ("banned", 1) in victim.network.statistics().disconnects
        await until(lambda: dict(victim.network.statistics().refused).get("banned", 0) > 0)
        await until(lambda: victim.knows(sinner) and sinner.knows(victim))  # forgiven when the ban is over
        shown = {peer.key: (peer.bans, peer.rejects) for peer in victim.network.peers()}
        assert shown == {sinner.key: (1, 0), honest.key: (0, 0)}
        await sinner.network.publish(TOPIC, b"good")
        await until(lambda: b"good" in victim.received)


async def test_a_peer_is_shown_with_the_other_end_of_its_connection() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        [out], [came] = second.network.peers(), first.network.peers()
        assert f"{out.remote}/p2p/{first.network.peer_id}" == first.address
        assert came.remote.startswith("/ip4/127.0.0.1/tcp/")
        assert came.remote not in second.address
        assert (first.network.statistics().inbound, second.network.statistics().inbound) == (1, 0)
        await until(lambda: first.network.statistics().pending_inbound == 0)
        assert first.network.observed == (), "loopback says nothing about where a node is"
        await second.stop()
        assert second.network.observed == ()


async def test_a_node_hears_from_peers_where_they_see_it() -> None:
    own = outgoing_address()
    if own is None:
        pytest.skip("this machine has no address but loopback")
    async with net() as running:
        first = await running.add(1, listen=(f"/ip4/{own}/tcp/0",))
        second = await running.add(2, bootstrap=(first.address,), listen=(f"/ip4/{own}/tcp/0",))
        await until(lambda: bool(second.network.observed))
        assert all(address.startswith(f"/ip4/{own}/tcp/") for address in second.network.observed)


async def test_own_messages_are_never_shown_to_the_validator() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        await first.network.publish(TOPIC, b"x")
        await until(lambda: second.received == [b"x"])
        assert second.senders == [first.key]
        assert first.received == []


async def test_a_restart_with_the_same_identity_and_port_reconnects() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        listen = (first.address.partition("/p2p/")[0],)
        for _ in range(2):
            await first.stop()
            await until(lambda: not second.peers())
            first = await running.add(1, listen=listen)
            again = first
            await until(lambda again=again: again.knows(second) and second.knows(again))  # type: ignore[misc]
        await second.network.publish(TOPIC, b"back")
        await until(lambda: b"back" in first.received)
        assert await second.network.request(first.key, ECHO, b"hello") == b"hello"


@pytest.mark.parametrize("attempt", range(3))
async def test_two_nodes_that_dial_each_other_at_once_survive_losing_one_connection(attempt: int) -> None:
    async with net() as running:
        first, second = await running.add(1), await running.add(2)
        gate = trio.Event()

        async def dial(one: Node, other: Node) -> None:
            await gate.wait()
            await one.network._dial(other.key, other.address.partition("/p2p/")[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, first, second)
            nursery.start_soon(dial, second, first)
            await trio.testing.wait_all_tasks_blocked(0.01)
            gate.set()
        await until(lambda: first.knows(second) and second.knows(first))
        host = first.network._host
        assert host is not None
        connections = host.swarm.get_connections()
        assert len(connections) == 2
        await connections[attempt % 2].close()
        await until(lambda: [peer.connections for peer in second.network.peers()] == [1])

        async def publish_until_heard(one: Node, other: Node) -> None:
            mark = b"from " + one.key
            with trio.fail_after(10):
                while mark not in other.received:  # what is sent into the closing connection may be lost
                    await one.network.publish(TOPIC, mark)
                    with trio.move_on_after(0.5):
                        await until(lambda: mark in other.received)

        await publish_until_heard(first, second)
        await publish_until_heard(second, first)


async def test_learned_peers_are_dialled_up_to_the_target() -> None:
    async with net() as running:
        nodes = [await running.add(seed, target_peers=3) for seed in range(1, 7)]
        for node in nodes:
            for other in nodes:
                node.network.learn(other.key, other.network.addresses)
        await until(lambda: all(len(node.peers()) >= 3 for node in nodes))
        assert all(node.key not in node.peers() for node in nodes)
        host = nodes[0].network._host
        assert host is not None
        assert sum(peer.connections for peer in nodes[0].network.peers()) == len(nodes[0].peers())


async def test_hostile_addresses_are_counted_and_left_out() -> None:
    async with net() as running:
        first, second = await running.add(1), await running.add(2)
        other = await running.add(3)
        first.network.learn(second.key, ["junk", "/ip4/1.2.3.4/udp/5", "x" * 1000, other.address])
        assert first.network.statistics().discovery.addresses_refused == 4
        assert first.network.statistics().discovery.known_peers == 0
        first.network.learn(second.key, [other.address.partition("/p2p/")[0]])  # somebody else's address
        await until(lambda: first.network.statistics().discovery.dials_failed > 0)
        assert not first.peers()


async def test_an_unreachable_bootstrap_is_retried_and_seen() -> None:
    async with net() as running:
        first = await running.add(1)
        address, gone = first.address, first
        await gone.stop()
        second = await running.add(2, bootstrap=(address,))
        await until(lambda: second.network.statistics().discovery.bootstrap[0].attempts >= 2)
        status = second.network.statistics().discovery.bootstrap[0]
        assert (status.address, status.connected) == (address, False)
        assert "refused" in status.last_error.lower()
        again = await running.add(1, listen=(address.partition("/p2p/")[0],))
        await until(lambda: second.knows(again))
        assert second.network.statistics().discovery.bootstrap[0].connected


async def test_a_full_node_refuses_and_still_serves() -> None:
    async with net() as running:
        first = await running.add(1, max_peers=2)
        for seed in (2, 3, 4):
            await running.add(seed, bootstrap=(first.address,))
        await until(lambda: len(first.peers()) == 2)
        await until(lambda: any(not node.peers() for node in running.nodes[1:]))
        inside = next(node for node in running.nodes[1:] if node.key in first.peers())
        assert await inside.network.request(first.key, ECHO, b"x") == b"x"


async def test_a_port_in_use_is_one_clear_error() -> None:
    async with net() as running:
        first = await running.add(1)
        taken = first.address.partition("/p2p/")[0]
        network = Network(SecretKey.generate(), NetworkSettings(listen=(taken,)), QUICK)
        with pytest.raises(NetworkError) as caught:
            await network.run()
        assert taken in caught.value.what
        assert "in use" in caught.value.why
        second = await running.add(2, bootstrap=(first.address,))
        await until(lambda: first.knows(second))  # the first one is none the worse


async def test_an_address_of_another_machine_is_one_clear_error() -> None:
    network = Network(SecretKey.generate(), NetworkSettings(listen=("/ip4/192.0.2.1/tcp/0",)), QUICK)
    with pytest.raises(NetworkError) as caught:
        await network.run()
    assert "192.0.2.1" in caught.value.what


@pytest.mark.parametrize(
    "settings",
    [
        NetworkSettings(listen=("nonsense",)),
        NetworkSettings(listen=("/dns4/example.org/tcp/4001",)),
        NetworkSettings(bootstrap=("/ip4/127.0.0.1/tcp/4001",)),
        NetworkSettings(
            bootstrap=("/ip4/127.0.0.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",)
        ),
        NetworkSettings(announce=("/ip4/127.0.0.1/udp/4001/quic-v1",)),
    ],
)
def test_an_address_that_cannot_be_used_is_a_configuration_error(settings: NetworkSettings) -> None:
    with pytest.raises(ConfigurationError):
        Network(SecretKey.generate(), settings)


async def test_announced_addresses_replace_the_listened_ones() -> None:
    settings = NetworkSettings(listen=LOOPBACK, announce=("/ip4/203.0.113.7/tcp/4001",))
    network = Network(SecretKey.generate(), settings, QUICK)
    assert network.addresses == ()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        assert network.addresses == (f"/ip4/203.0.113.7/tcp/4001/p2p/{network.peer_id}",)
        nursery.cancel_scope.cancel()


async def test_a_wildcard_address_is_advertised_as_real_ones() -> None:
    network = Network(SecretKey.generate(), NetworkSettings(listen=("/ip4/0.0.0.0/tcp/0",)), QUICK)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        assert network.addresses
        assert not any("/0.0.0.0/" in address for address in network.addresses)
        nursery.cancel_scope.cancel()


async def test_twenty_starts_and_stops_leak_nothing() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def once() -> None:
        async with net() as running:
            first, second = await running.chain(2)
            await first.network.publish(TOPIC, b"x")
            await until(lambda: second.received == [b"x"])

    await once()
    await trio.testing.wait_all_tasks_blocked(0.05)
    files, threads, tasks = open_files(), threading.active_count(), _tasks()
    for _ in range(20):
        await once()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert open_files() <= files
    assert threading.active_count() <= threads
    assert _tasks() <= tasks


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_stopping_with_many_peers_is_quick() -> None:
    async with net() as running:
        nodes = await running.chain(8)
        started = trio.current_time()
        await nodes[0].stop()
        assert trio.current_time() - started < QUICK.stop_deadline + 1


async def test_cancellation_while_starting_passes() -> None:
    network = Network(SecretKey.generate(), NetworkSettings(listen=LOOPBACK), Limits())
    with trio.CancelScope() as scope:
        scope.cancel()
        await network.run()
    assert scope.cancelled_caught
