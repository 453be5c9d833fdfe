"""What one hostile peer sends over a real socket must not end the victim, nor keep it from serving a witness."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import psutil
import pytest
import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IOException
from libp2p.pubsub.pb import rpc_pb2

from koii_p2p.gossip.effects import Effect
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.wire import Message
from koii_p2p.limits import Limits
from koii_p2p.network.frames import encode_varint, varint_frame
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import PeerStream
from tests.network.attacker import MESHSUB, Attacker, attacker
from tests.network.nets import ECHO, QUICK, TOPIC, Judge, Node, net, until

Attack = Callable[[Attacker], Awaitable[None]]

IDLE = "/koii-p2p/idle/1"


async def reads_nothing(stream: PeerStream) -> None:
    await trio.sleep_forever()


# A peer that attacks over and over would be banned, which is another test's subject.
PATIENT = replace(QUICK, rejects_before_disconnect=1_000_000)


@asynccontextmanager
async def victim_and_witness(
    limits: Limits = PATIENT, judge: Judge | None = None
) -> AsyncIterator[tuple[Node, Node]]:
    async with net() as running:
        victim = await running.add(1, limits=limits, judge=judge)
        witness = await running.add(2, bootstrap=(victim.address,))
        await until(lambda: victim.knows(witness) and witness.knows(victim))
        yield victim, witness
        # The victim lives: it answers the witness, takes its messages and sends its own, and lets a newcomer
        # in.
        assert await witness.network.request(victim.key, ECHO, b"alive?", deadline=10) == b"alive?"
        await witness.network.publish(TOPIC, b"from the witness")
        await victim.network.publish(TOPIC, b"from the victim")
        await until(lambda: b"from the victim" in witness.received)
        if judge is None:
            await until(lambda: b"from the witness" in victim.received)
        newcomer = await running.add(3, bootstrap=(victim.address,))
        await until(lambda: newcomer.knows(victim))


async def garbage_rpc(enemy: Attacker) -> None:
    for junk in (b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"not protobuf at all", bytes(500)):
        await enemy.gossip(junk)
        await enemy.thrown_out()


async def garbage_key(enemy: Attacker) -> None:
    # an author whose id carries no key, so that a careless reader parses the garbage in `key`
    author = b"\x12\x20" + bytes(32)
    await enemy.publish(
        enemy.signed(b"1", from_id=author, key=b"\xff\xff\xff"),
        enemy.signed(b"2", from_id=author, key=b"\x08\x63\x12\x02ab"),
        enemy.signed(b"3", from_id=author, key=b"\x08\x00\x12\x02ab"),  # "RSA"
        enemy.signed(b"4", from_id=author, key=b"\x08\x02\x12\x02ab"),  # "secp256k1"
        enemy.signed(b"5", from_id=b"", key=b""),
        enemy.signed(b"6", from_id=b"\x00\x24\x08\x01\x12\x20" + b"\xff" * 32),
    )


async def author_fields(enemy: Attacker) -> None:
    await enemy.publish(
        enemy.signed(b"1"),
        enemy.signed(b"2", signature=bytes(64)),
        enemy.message(b"3", signature=b"short"),
        enemy.message(b"4", seqno=b""),
        enemy.message(b"5", from_id=enemy.host.get_id().to_bytes()),
    )


async def odd_messages(enemy: Attacker) -> None:
    none = enemy.message(b"no topic")
    none.ClearField("topicIDs")
    many = enemy.message(b"many topics")
    many.topicIDs.extend([TOPIC] * 1000)
    await enemy.publish(none, many, enemy.message(b"x", topic="unknown"), enemy.message(b""))
    await enemy.gossip(b"\x12\x06\x22\x04\xff\xfe\xfd\xfc")  # a topic that is not UTF-8


async def endless_length(enemy: Attacker) -> None:
    stream = await enemy.stream(MESHSUB)
    await stream.write(b"\xff" * 200)
    await enemy.thrown_out()


async def too_large_frame(enemy: Attacker) -> None:
    stream = await enemy.stream(MESHSUB)
    with suppress(BaseLibp2pError):
        await stream.write(encode_varint(10_000_000) + bytes(100_000))
    await enemy.thrown_out()


async def cut_frame(enemy: Attacker) -> None:
    for end in ("close", "reset"):
        stream = await enemy.stream(MESHSUB)
        await stream.write(varint_frame(bytes(1000))[:500])
        await getattr(stream, end)()


async def junk_sender_record(enemy: Attacker) -> None:
    for record in (b"", b"\xff\xff", bytes(1000)):
        await enemy.gossip(rpc_pb2.RPC(senderRecord=record).SerializeToString())


def control(**fields: object) -> bytes:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**fields)).SerializeToString()


async def graft_flood(enemy: Attacker) -> None:
    grafts = [rpc_pb2.ControlGraft(topicID=f"topic {number}") for number in range(2000)]
    await enemy.gossip(control(graft=[*grafts, *[rpc_pb2.ControlGraft(topicID=TOPIC)] * 500]))


async def prune_junk(enemy: Attacker) -> None:
    peers = [rpc_pb2.PeerInfo(peerID=b"junk", signedPeerRecord=b"\xff\xff")] * 50
    prunes = [rpc_pb2.ControlPrune(topicID=f"{n}", backoff=2**63, peers=peers) for n in range(200)]
    await enemy.gossip(
        control(prune=[*prunes, rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**64 - 1, peers=peers)])
    )


async def ihave_flood(enemy: Attacker) -> None:
    ids = [number.to_bytes(20, "big") for number in range(5000)]
    await enemy.gossip(
        *[
            control(ihave=[rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids)])
            for topic in (TOPIC, "a", "b")
        ],
        control(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"abc", b"zz", b"", b"\xff"])] * 100),
    )


async def subscription_flood(enemy: Attacker) -> None:
    names = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"topic {number}") for number in range(6000)]
    long = rpc_pb2.RPC.SubOpts(subscribe=True, topicid="x" * 100_000)
    await enemy.gossip(rpc_pb2.RPC(subscriptions=[*names, long]).SerializeToString())
    toggles = [rpc_pb2.RPC.SubOpts(subscribe=bool(number % 2), topicid=TOPIC) for number in range(60)]
    for _ in range(50):
        await enemy.gossip(rpc_pb2.RPC(subscriptions=toggles).SerializeToString())


async def multistream_junk(enemy: Attacker) -> None:
    for junk in (
        b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n",
        b"\x05\xff\xff\xff\xff\n",
        b"\xff" * 50,
        b"\x00",
        varint_frame(b"x" * 100_000),
    ):
        stream = await enemy.raw_stream()
        await stream.write(junk)


async def identify_push_junk(enemy: Attacker) -> None:
    for junk in (
        b"\xff\xff\xff",
        varint_frame(b"\xff\xff\xff"),
        varint_frame(bytes(5000)),
        encode_varint(2**40),
    ):
        stream = await enemy.stream("/ipfs/id/push/1.0.0")
        await stream.write(junk)
        await stream.close()


async def ping_fragments(enemy: Attacker) -> None:
    stream = await enemy.stream("/ipfs/ping/1.0.0")
    for size in (1, 5, 31, 33):
        await stream.write(bytes(size))
    await stream.close()


async def request_junk(enemy: Attacker) -> None:
    for junk in (
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x05hello more",
        b"\x00",
        b"\x00\x10\x00\x00" + bytes(1000),
    ):
        stream = await enemy.stream(ECHO)
        await stream.write(junk)
        await stream.close()


async def many_streams(enemy: Attacker) -> None:
    connection = enemy.host.get_network().get_connections()[0]
    for number in range(3001, 6001, 2):
        await connection.muxed_conn._write_frame(struct.pack("!BBHII", 0, 1, 1, number, 0))  # type: ignore[attr-defined]


async def yamux_junk(enemy: Attacker) -> None:
    for frame in (
        struct.pack("!BBHII", 0, 9, 0, 1, 0),  # no such type
        struct.pack("!BBHII", 7, 0, 0, 1, 0),  # no such version
        struct.pack("!BBHII", 0, 1, 0, 999, 2**32 - 1),  # credit for a stream that is not there
        struct.pack("!BBHII", 0, 1, 15, 1, 2**32 - 1),  # every flag at once
        struct.pack("!BBHII", 0, 3, 0, 0, 77),  # goodbye for an unknown reason
        struct.pack("!BBHII", 0, 0, 0, 1, 2**32 - 1),  # a frame of 4 GiB
        b"\xff" * 100,
    ):
        connection = await enemy.connect()
        with trio.move_on_after(1):
            await connection.muxed_conn._write_frame(frame)


@pytest.mark.parametrize(
    "attack",
    [
        garbage_rpc,
        garbage_key,
        author_fields,
        odd_messages,
        endless_length,
        too_large_frame,
        cut_frame,
        junk_sender_record,
        graft_flood,
        prune_junk,
        ihave_flood,
        subscription_flood,
        multistream_junk,
        identify_push_junk,
        ping_fragments,
        request_junk,
        many_streams,
        yamux_junk,
    ],
    ids=lambda attack: attack.__name__,
)
async def test_the_victim_lives(attack: Attack) -> None:
    async with victim_and_witness() as (victim, witness), attacker(victim) as enemy:
        await attack(enemy)
        # Its last word is a good message: what came before on other streams has then been dealt with or is
        # ignored.
        if attack not in (yamux_junk, many_streams):  # these leave the attacker without a stream
            await enemy.publish(enemy.message(b"last"))
            await until(lambda: b"last" in victim.received)
        assert witness.key in victim.peers()


def refused(node: Node) -> dict[str, int]:
    gossip = node.network.statistics().gossip
    assert gossip is not None
    return dict(gossip.refused)


async def test_garbage_ends_the_link_and_gets_its_sender_banned() -> None:
    limits = replace(QUICK, rejects_before_disconnect=4)
    async with victim_and_witness(limits) as (victim, _), attacker(victim) as enemy:
        for number in range(4):
            await enemy.gossip(b"\xff\xff\xff")
            await until(lambda: enemy.key not in victim.peers())
            assert victim.network.statistics().bans == (number == 3)
            with suppress(BaseLibp2pError), trio.move_on_after(2):
                await enemy.connect()
        await until(lambda: dict(victim.network.statistics().refused).get("banned", 0) == 1)
        assert enemy.key not in victim.peers()
        assert refused(victim)["malformed_rpc"] == 4


async def test_messages_with_an_author_graylist_their_sender_who_is_banned() -> None:
    async with victim_and_witness() as (victim, witness), attacker(victim) as enemy:
        await enemy.publish(*[enemy.signed(b"%d" % number) for number in range(20)])
        await until(lambda: victim.network.statistics().bans == 1)
        await until(lambda: enemy.key not in victim.peers())
        assert refused(victim)["signature_policy"] == 20
        assert not victim.received
        assert witness.key in victim.peers()


async def test_a_validator_that_raises_costs_neither_node_nor_sender() -> None:
    def judge(key: bytes, data: bytes) -> GossipVerdict:
        raise ZeroDivisionError

    async with victim_and_witness(judge=judge) as (victim, witness):
        for number in range(3):
            await witness.network.publish(TOPIC, b"%d" % number)
        await until(
            lambda: dict(victim.network.statistics().contained).get("validator:ZeroDivisionError") == 3
        )
        assert victim.network.statistics().bans == 0


async def test_asking_for_the_same_message_20000_times_brings_it_once() -> None:
    async with victim_and_witness() as (victim, witness), attacker(victim) as enemy:
        large = bytes(100_000)
        await witness.network.publish(TOPIC, large)
        await until(lambda: large in victim.received)
        gossip = victim.network._gossip
        assert gossip is not None
        mid = content_id(Message(TOPIC, large))
        before = psutil.Process().memory_info().rss
        await enemy.gossip(control(iwant=[rpc_pb2.ControlIWant(messageIDs=[mid] * 20_000)]))
        await enemy.publish(enemy.message(b"mark"))
        await until(lambda: b"mark" in victim.received)
        assert psutil.Process().memory_info().rss - before < 50_000_000
        # The witness may have asked for the mark meanwhile.
        assert gossip._router.statistics().iwant_answers in (1, 2)


async def test_a_peer_that_overruns_its_window_is_disconnected() -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        victim.network.handle(IDLE, reads_nothing)
        connection = enemy.host.get_network().get_connections()[0]
        stream = await enemy.stream(IDLE)
        number = stream.muxed_stream.stream_id  # type: ignore[attr-defined]
        frame = struct.pack("!BBHII", 0, 0, 0, number, 60_000) + bytes(60_000)
        sent = 0
        with trio.move_on_after(5), suppress(IOException):
            while not connection.is_closed:
                await connection.muxed_conn._write_frame(frame)  # type: ignore[attr-defined]
                sent += len(frame)
        await until(lambda: enemy.key not in victim.peers())
        assert dict(victim.network.statistics().contained)["muxer:YamuxError"] == 1
        assert sent > 256 * 1024  # the window was not taken for smaller than it is


async def test_bytes_that_nobody_reads_are_bounded() -> None:
    limits = replace(PATIENT, connection_buffer_bytes=1_000_000)
    async with victim_and_witness(limits) as (victim, _), attacker(victim) as enemy:
        victim.network.handle(IDLE, reads_nothing)
        with trio.move_on_after(5), suppress(IOException, BaseLibp2pError):
            while True:
                stream = await enemy.stream(IDLE)
                await stream.write(bytes(250_000))  # within its window
        await until(lambda: enemy.key not in victim.peers())
        assert dict(victim.network.statistics().contained)["muxer:BufferFull"] == 1


async def test_streams_of_one_connection_are_bounded() -> None:
    limits = replace(PATIENT, streams_per_connection=16)
    async with victim_and_witness(limits) as (victim, _), attacker(victim) as enemy:
        await many_streams(enemy)
        await until(lambda: dict(victim.network.statistics().contained).get("muxer:TooManyStreams", 0) > 1000)


async def test_a_peer_that_reads_nothing_is_dropped_and_holds_nobody_up() -> None:
    async def deaf(stream: INetStream) -> None:
        await trio.sleep_forever()

    async with victim_and_witness() as (victim, witness), attacker(victim, connect=False) as enemy:
        enemy.host.set_stream_handler(MESHSUB, deaf)  # type: ignore[arg-type]
        await enemy.connect()
        await enemy.gossip(
            rpc_pb2.RPC(
                subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)]
            ).SerializeToString()
        )
        gossip = victim.network._gossip
        assert gossip is not None
        await until(lambda: gossip.has_stream(enemy.key) and TOPIC in gossip.subscriptions(enemy.key))
        connection = enemy.host.get_network().get_connections()[0]

        async def never(n: int | None = None) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        connection.muxed_conn.secured_conn.read = never  # type: ignore[attr-defined, method-assign]
        sent = 0
        slowest = 0.0
        with trio.fail_after(20):
            while enemy.key in victim.peers():
                started = trio.current_time()
                await victim.network.publish(TOPIC, sent.to_bytes(4, "big") + bytes(60_000))
                slowest = max(slowest, trio.current_time() - started)
                sent += 1
                await trio.sleep(0.02)
        assert slowest < PATIENT.publish_patience + 1
        await until(lambda: len(witness.received) == sent)
        reasons = dict(victim.network.statistics().disconnects)
        contained = dict(victim.network.statistics().contained)
        assert (
            reasons.get("stalled", 0) + reasons.get("silent", 0) + contained.get("muxer:WriteStalled", 0) >= 1
        )


async def test_inbound_places_are_given_back() -> None:
    async with net() as running:
        victim = await running.add(1, max_peers=6, limits=PATIENT)
        for _ in range(14):
            async with attacker(victim) as enemy:
                await until(lambda enemy=enemy: enemy.key in victim.peers())  # type: ignore[misc]
            await until(lambda enemy=enemy: enemy.key not in victim.peers())  # type: ignore[misc]
        witness = await running.add(2, bootstrap=(victim.address,))
        await until(lambda: victim.knows(witness))


def port_of(node: Node) -> int:
    return int(node.address.split("/")[4])


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 5000, b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff" * 900],
)
async def test_raw_junk_on_the_port(junk: bytes) -> None:
    async with victim_and_witness() as (victim, _):
        for _ in range(5):
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(victim))
            await stream.send_all(junk)
            await stream.aclose()


async def test_half_open_connections_let_others_in() -> None:
    limits = replace(PATIENT, negotiation_deadline=1.0)
    async with victim_and_witness(limits) as (victim, _):
        streams = [await trio.open_tcp_stream("127.0.0.1", port_of(victim)) for _ in range(300)]
        await until(
            lambda: dict(victim.network.statistics().contained).get("inbound:SwarmException", 0) >= 30
        )
        for stream in streams:
            await stream.aclose()


async def test_plaintext_is_not_spoken() -> None:
    async with victim_and_witness() as (victim, _):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(victim))
        await stream.send_all(b"\x13/multistream/1.0.0\n\x11/plaintext/2.0.0\n")
        answer = b""
        with trio.move_on_after(3):
            while b"na" not in answer and (data := await stream.receive_some(1000)):
                answer += data
        assert b"\x03na\n" in answer
        assert b"/plaintext" not in answer
        await stream.aclose()


async def test_an_identity_without_an_ed25519_key_is_refused() -> None:
    async with victim_and_witness() as (victim, _):
        async with attacker(victim, keys=create_secp256k1_key_pair(), connect=False) as enemy:
            with trio.move_on_after(3):
                connection = await enemy.connect()
                await until(lambda: connection.is_closed)
        await until(lambda: dict(victim.network.statistics().refused).get("not an ed25519 identity", 0) >= 1)


async def test_our_own_identity_from_outside_is_refused() -> None:
    async with victim_and_witness() as (victim, _):
        own = create_new_key_pair(victim.network._secret.seed)
        async with attacker(victim, keys=own, connect=False) as enemy:
            with trio.move_on_after(3):
                connection = await enemy.connect()
                await until(lambda: connection.is_closed)
        await until(lambda: dict(victim.network.statistics().refused).get("own identity", 0) >= 1)


async def test_a_heartbeat_that_fails_is_followed_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with victim_and_witness() as (victim, _):
        gossip = victim.network._gossip
        assert gossip is not None
        beats: list[int] = []
        original = gossip._router.heartbeat

        def failing(now: int) -> list[Effect]:
            beats.append(1)
            if len(beats) <= 2:
                raise RuntimeError("a bad beat")
            return original(now)

        monkeypatch.setattr(gossip._router, "heartbeat", failing)
        await until(lambda: len(beats) >= 4)
        assert dict(victim.network.statistics().contained)["heartbeat:RuntimeError"] == 2
