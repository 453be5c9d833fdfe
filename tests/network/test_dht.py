"""The DHT on real hosts over loopback: storing, finding, churn, becoming connected, and hostile peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
from libp2p.abc import INetStream

from koii_p2p.errors import NetworkError
from koii_p2p.kademlia.parameters import Bounds
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.wire import Message, MessageType, Peer, Record, decode, encode
from koii_p2p.network.dht.addresses import encoded
from koii_p2p.network.dht.asking import milliseconds
from koii_p2p.network.dht.presence import NAMESPACE, PresenceRules, presence_key
from koii_p2p.network.dht.streams import BURST_SECONDS
from koii_p2p.network.frames import encode_varint, varint_frame
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes, peer_id_text
from koii_p2p.records.envelope import sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Presence, Statement
from tests.network.attacker import Attacker, attacker
from tests.network.nets import QUICK, Node, net, until

GENESIS = bytes(range(32))
DHT_QUICK = replace(
    QUICK,
    dial_deadline=10.0,
    dht_ask_deadline=10.0,
    dht_deadline=30.0,
    dht_first_walk_seconds=1.0,
    dht_connection_seconds=4.0,
)


def secret(seed: int) -> SecretKey:
    return SecretKey.from_seed(seed.to_bytes(32, "big"))


def presence(seed: int, slot: int, addresses: Sequence[str] = ("/ip4/127.0.0.1/tcp/1",)) -> bytes:
    body = Presence(tuple(addresses), roles=0, software="test", free_bytes=0)
    return sign(Statement(bytes(32), 0, slot, slot, body), GENESIS, secret(seed)).raw


@asynccontextmanager
async def nodes(count: int, *, line: bool = False, target: int = 4) -> AsyncIterator[list[Node]]:
    """A net whose nodes know the first one only, or in a line each the one before."""
    async with net() as running:
        found: list[Node] = []
        for seed in range(1, count + 1):
            known = () if not found else (found[-1 if line else 0].address,)
            found.append(await running.add(seed, bootstrap=known, limits=DHT_QUICK, target_peers=target))
            found[-1].network.dht.add_namespace(NAMESPACE, PresenceRules(GENESIS))
        yield found


async def tables(found: Sequence[Node], least: int) -> None:
    await until(lambda: all(len(node.network.dht.table()) >= least for node in found), seconds=60)


async def test_twelve_nodes_store_and_find_and_a_third_of_them_may_go() -> None:
    async with nodes(12) as found:
        await tables(found, 8)
        first, last = found[0].network, found[-1].network

        assert await last.dht.put(presence_key(last.key), presence(12, 1)) == 11
        assert await found[5].network.dht.get(presence_key(last.key)) == presence(12, 1)
        assert await first.dht.get(presence_key(first.key)) is None

        await found[3].network.provide(b"a key")
        await found[4].network.provide(b"a key")
        providers = await first.find_providers(b"a key", count=5, deadline=5)
        assert sorted(providers) == sorted([found[3].key, found[4].key])
        assert await found[3].network.find_providers(b"a key", count=5, deadline=5) == (found[4].key,)
        assert len(await first.find_providers(b"a key", count=1, deadline=5)) == 1
        assert await first.find_providers(b"another key", count=5, deadline=5) == ()

        for node in (found[1], found[6], found[8], found[9]):
            await node.stop()
        left = [node for node in found if node.network._host is not None]
        assert len(left) == 8
        for node in left:
            assert await node.network.dht.get(presence_key(last.key)) == presence(12, 1)
            assert set(await node.network.find_providers(b"a key", count=5, deadline=5)) == {
                found[3].key,
                found[4].key,
            } - {node.key}
        assert await last.dht.put(presence_key(last.key), presence(12, 2)) == 7
        assert await first.dht.get(presence_key(last.key)) == presence(12, 2)


async def test_a_line_becomes_well_connected_and_not_a_full_mesh() -> None:
    async with nodes(10, line=True, target=3) as found:
        await tables(found, 8)
        await until(lambda: all(len(node.peers()) >= 3 for node in found), seconds=60)
        # What was dialled for searches is let go again: nobody needs to be connected with everybody.
        await until(lambda: sum(len(node.peers()) for node in found) <= 10 * 6, seconds=60)
        assert all(node.network.statistics().dht.table >= 8 for node in found)
        assert await found[0].network.dht.find_peer(found[9].key) == (found[9].address.partition("/p2p/")[0],)
        assert found[9].key in found[0].peers()


async def test_a_peer_nobody_is_connected_with_is_found_by_its_presence() -> None:
    async with nodes(4) as found:
        await tables(found, 3)
        async with net() as elsewhere:
            hermit = await elsewhere.add(77)
            # It has never met the net; somebody has brought its signed presence there.
            where = (hermit.address.partition("/p2p/")[0],)
            await found[1].network.dht.put(presence_key(hermit.key), presence(77, 5, where))
            assert await found[3].network.dht.find_peer(hermit.key, deadline=20) == where
            assert hermit.key in found[3].peers()
        assert await found[0].network.dht.find_peer(secret(78).public_key, deadline=5) == ()


async def test_a_newer_value_reaches_those_who_had_an_older_one() -> None:
    async with nodes(5) as found:
        await tables(found, 4)
        key, node = presence_key(secret(9).public_key), found[2].network
        await node.dht.put(key, presence(9, 1))
        # The other two were away when the newer one was stored.
        for one in (found[0], found[1], found[3]):
            one.network.dht._node.values.put(key, presence(9, 2), b"somebody", 0, milliseconds())
        assert await found[4].network.dht.get(key) == presence(9, 2)
        assert await node.dht.get(key) == presence(9, 2)
        await until(lambda: all(held(one, key) == presence(9, 2) for one in found))
        with pytest.raises(Refused) as raised:
            await node.dht.put(key, presence(9, 1))
        assert raised.value.refusal is Refusal.OLDER_VALUE
        with pytest.raises(Refused):
            await node.dht.put(key, b"not signed")
        with pytest.raises(Refused):
            await node.dht.put(presence_key(node.key), presence(9, 3))


def held(node: Node, key: bytes) -> bytes | None:
    found = node.network.dht._node.values.get(key, milliseconds())
    return None if found is None else found[0]


async def test_clients_use_the_dht_and_are_in_nobodys_table() -> None:
    async with nodes(4) as found, net() as more:
        await tables(found, 3)
        client = await more.add(50, bootstrap=(found[0].address,), limits=DHT_QUICK, dht="client")
        client.network.dht.add_namespace(NAMESPACE, PresenceRules(GENESIS))
        await tables([client], 4)
        assert await client.network.dht.put(presence_key(client.key), presence(50, 1)) == 4
        assert await found[3].network.dht.get(presence_key(client.key)) == presence(50, 1)
        await client.network.provide(b"key")
        assert await found[2].network.find_providers(b"key", count=3, deadline=5) == (client.key,)
        assert all(client.network.peer_id not in node.network.dht.table() for node in found)
        assert not client.network.statistics().dht.server
        off = await more.add(51, bootstrap=(found[0].address,), limits=DHT_QUICK, dht="off")
        await until(lambda: found[0].key in off.peers())
        with pytest.raises(NetworkError):
            await off.network.find_providers(b"key", count=1, deadline=1)
        with pytest.raises(NetworkError):
            await off.network.provide(b"key")


async def test_what_was_provided_before_there_was_anybody_is_told_later() -> None:
    limits = replace(DHT_QUICK)
    async with net() as running:
        first = await running.add(1, limits=limits)
        await first.network.provide(b"key")
        second = await running.add(2, bootstrap=(first.address,), limits=limits)
        third = await running.add(3, bootstrap=(first.address,), limits=limits)
        await tables([first, second, third], 2)
        with trio.fail_after(20):
            while not second.network.statistics().dht.providers + third.network.statistics().dht.providers:
                await trio.sleep(0.1)
        assert await third.network.find_providers(b"key", count=1, deadline=5) == (first.key,)


# --- hostile peers

LIE = "/ipfs/kad/1.0.0"


async def answers(hostile: Attacker, *requests: bytes) -> list[bytes]:
    """Send raw bytes on a stream of their own and return what comes back until it ends."""
    got = []
    with trio.move_on_after(3), suppress(Exception):
        stream = await hostile.stream(LIE)
        for data in requests:
            await stream.write(data)
        while data := await stream.read(65_536):
            got.append(data)
    return got


def framed(message: Message) -> bytes:
    return varint_frame(encode(message))


async def test_hostile_requests_end_their_stream_and_nothing_else() -> None:
    async with nodes(3) as found:
        await tables(found, 2)
        victim = found[0]
        value = presence(1, 1)
        async with attacker(victim) as hostile:
            for data in (
                b"\xff" * 20,
                encode_varint(10 * 1024 * 1024),
                encode_varint(2**63),
                varint_frame(bytes(200_000)),
                varint_frame(b"\x08\x09"),
                varint_frame(b""),
                framed(Message(MessageType.PUT_VALUE, b"/koii/x", Record(b"/koii/x", b"junk"))),
                framed(Message(MessageType.PUT_VALUE, b"/z/x", Record(b"/z/x", b"junk"))),
                framed(Message(MessageType.PUT_VALUE, presence_key(victim.key))),
                framed(Message(MessageType.PUT_VALUE, presence_key(victim.key), Record(b"other", value))),
                framed(Message(MessageType.GET_VALUE)),
                framed(Message(MessageType.FIND_NODE, bytes(500))),
            ):
                if victim.key in found[1].peers() and hostile.key not in victim.peers():
                    break
                assert await answers(hostile, data) == []
            many = framed(Message(MessageType.PING)) * 50
            assert b"".join(await answers(hostile, many[: len(many) - 1]))
            refused = dict(victim.network.statistics().dht.refused)
            assert refused["malformed"] == refused["unknown_type"] == 1
            assert refused["invalid_value"] == refused["namespace"] == 1
            assert (refused["no_record"], refused["key"]) == (2, 3)
            assert dict(victim.network.statistics().contained)["dht:frame"] == 3
            assert victim.network.statistics().dht.values == 0
        await found[1].network.provide(b"key")
        assert await found[2].network.find_providers(b"key", count=1, deadline=5) == (found[1].key,)
        assert await victim.network.find_providers(b"key", count=1, deadline=5) == (found[1].key,)


async def test_a_server_that_lies_is_followed_nowhere() -> None:
    async with nodes(5) as found:
        await tables(found, 4)
        victim = found[0]
        fakes = tuple(
            Peer(peer_id_bytes(secret(1000 + number).public_key), (encoded("/ip4/127.0.0.1/tcp/9"),))
            for number in range(40)
        )
        ourselves = Peer(peer_id_bytes(victim.key), (encoded("/ip4/127.0.0.1/tcp/9"),))
        asked = 0

        async def lie(stream: INetStream) -> None:
            nonlocal asked
            while len(request := await stream.read(65_536)) > 2:
                asked += 1
                question = decode(request[1 if request[0] < 0x80 else 2 :], Bounds())
                answer = Message(
                    question.type, question.key, closer=(ourselves, *fakes), providers=(ourselves, *fakes[:3])
                )
                if question.type is MessageType.GET_VALUE:
                    answer = replace(answer, record=Record(question.key, presence(8, 1)))
                await stream.write(framed(answer))

        async with attacker(victim, connect=False) as hostile:
            hostile.host.set_stream_handler(LIE, lie)  # type: ignore[arg-type]
            await hostile.connect()
            liar = peer_id_text(hostile.key)
            await until(lambda: liar in victim.network.dht.table())
            key = presence_key(secret(7).public_key)
            await found[3].network.dht.put(key, presence(7, 1))
            assert await victim.network.dht.get(key) == presence(7, 1)
            assert await victim.network.dht.get(presence_key(secret(6).public_key)) is None
            await found[2].network.provide(b"key")
            providers = await victim.network.find_providers(b"key", count=20, deadline=10)
            assert found[2].key in providers
            assert victim.key not in providers
            assert asked >= 3
            statistics = victim.network.statistics()
            refused = dict(statistics.dht.refused)
            assert refused["own_id"] >= 1
            assert refused["bad_value"] >= 1
            assert refused["cut"] >= 8
            # Few of the forty that do not exist were dialled, and none is in the table.
            assert statistics.discovery.dials_failed <= 4 * statistics.dht.searches
            names = {peer_id_text(key_of_peer_id(fake.id)) for fake in fakes}
            assert not names & set(victim.network.dht.table())


async def test_who_asks_too_much_waits_and_who_opens_too_many_streams_gets_no_more() -> None:
    limits = replace(DHT_QUICK, dht_requests_per_second=20, dht_streams_per_peer=3)
    async with net() as running:
        victim = await running.add(1, limits=limits, dht="server")
        async with attacker(victim) as hostile:
            began = trio.current_time()
            ping = framed(Message(MessageType.PING))
            stream = await hostile.stream(LIE)
            await stream.write(ping * 60)
            got = b""
            while len(got) < 60 * len(ping):
                got += await stream.read(65_536)
            assert trio.current_time() - began >= 60 / 20 - BURST_SECONDS - 0.1
            kept = [stream, *[await hostile.stream(LIE) for _ in range(2)]]
            assert await answers(hostile, ping) == []
            for one in kept:
                await one.reset()
            await until(lambda: dict(victim.network.statistics().contained).get("dht:streams") == 1)
            assert await answers(hostile, ping) == [ping]
