"""What one peer does below the protocols - sockets, Noise, Yamux, multistream - costs its stream or its connection.

In every test a witness is served and a newcomer let in afterwards (`victim_and_witness`).
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.identity.identify import ID
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamError

from koii_p2p.network.frames import encode_varint, varint_frame
from koii_p2p.network.network import StreamFailed
from tests.network.attacker import MESHSUB, Attacker, attacker
from tests.network.nets import ECHO, Node, net, until
from tests.network.test_attacks import PATIENT, port_of, victim_and_witness
from tests.network.test_streams import read_out

MULTISTREAM = varint_frame(b"/multistream/1.0.0\n")
DATA, WINDOW_UPDATE, PING = 0, 1, 2
SYN, FIN, RST = 1, 4, 8


def frame(kind: int, flags: int, number: int, value: int, *, version: int = 0, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", version, kind, flags, number, value) + body


def contained(node: Node) -> dict[str, int]:
    return dict(node.network.statistics().contained)


def refused(node: Node) -> dict[str, int]:
    return dict(node.network.statistics().refused)


def muxer(enemy: Attacker) -> Any:
    return enemy.host.get_network().get_connections()[0].muxed_conn


async def push(enemy: Attacker, *frames: bytes) -> None:
    """Write frames past the muxer of the attacker's host."""
    await muxer(enemy)._write_frame(b"".join(frames))


async def gone(victim: Node, enemy: Attacker) -> None:
    await until(lambda: enemy.key not in victim.peers())


# before anybody has said who they are


@pytest.mark.parametrize(
    "line",
    [
        encode_varint(2**32) + bytes(1000),
        encode_varint(2**63) + b"x" * 1000,
        b"\xff" * 1000,
        b"\x00",
        varint_frame(b"/multistream/1.0.0"),
        varint_frame(b"\xff\xfe\xfd\n"),
        MULTISTREAM + varint_frame(b"/\xff\xfe\n") * 100,
        MULTISTREAM + varint_frame(b"/noise\n") + b"\x00\x00" * 10,
        MULTISTREAM + varint_frame(b"/noise\n") + b"\xff\xff" + bytes(70_000),
    ],
    ids=[
        "4 GiB",
        "2^63",
        "endless length",
        "empty",
        "no newline",
        "no text",
        "100 lines",
        "empty noise",
        "noise",
    ],
)
async def test_junk_instead_of_a_handshake_closes_that_socket(line: bytes) -> None:
    async with victim_and_witness() as (victim, witness):
        before = psutil.Process().memory_info().rss
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(victim))
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            await stream.send_all(line)
            while await stream.receive_some(1000):
                pass
        await stream.aclose()
        assert psutil.Process().memory_info().rss - before < 20_000_000
        assert witness.key in victim.peers()
        await until(lambda: any(place.startswith("inbound:") for place in contained(victim)))


async def test_a_handshake_a_byte_at_a_time_meets_its_deadline() -> None:
    limits = replace(PATIENT, negotiation_deadline=0.5)
    async with victim_and_witness(limits) as (victim, _):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(victim))
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            for byte in (MULTISTREAM + varint_frame(b"/noise\n")) * 100:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.05)
        await stream.aclose()


async def test_silent_sockets_make_room_for_those_who_speak() -> None:
    limits = replace(PATIENT, pending_inbound=5, negotiation_deadline=60.0)
    async with victim_and_witness(limits) as (victim, _):
        streams = [await trio.open_tcp_stream("127.0.0.1", port_of(victim)) for _ in range(30)]
        await until(lambda: refused(victim).get("handshake made room", 0) == 25)
        async with attacker(victim) as enemy:
            await until(lambda: enemy.key in victim.peers())
        for stream in streams:
            await stream.aclose()


async def test_one_network_has_a_bounded_number_of_connections() -> None:
    limits = replace(PATIENT, connections_per_private_range=2)
    async with net() as running:
        victim = await running.add(1, limits=limits)
        async with attacker(victim) as first, attacker(victim), attacker(victim, connect=False) as third:
            await until(lambda: len(victim.peers()) == 2)
            with pytest.raises(BaseLibp2pError):
                await third.connect()
            assert refused(victim)["too many of one network"] >= 1  # the library tries again
            assert first.key in victim.peers()
        await until(lambda: not victim.peers())
        async with attacker(victim) as fourth:  # the places were given back
            await until(lambda: fourth.key in victim.peers())


async def test_one_peer_has_a_bounded_number_of_connections() -> None:
    limits = replace(PATIENT, connections_per_peer=3)
    async with victim_and_witness(limits) as (victim, _), attacker(victim) as enemy:
        for _ in range(6):
            with suppress(BaseLibp2pError):
                await enemy.connect()
        await until(lambda: refused(victim).get("too many of one peer", 0) >= 1)
        assert {peer.key: peer.connections for peer in victim.network.peers()}[enemy.key] == 3


@pytest.mark.slow
async def test_three_hundred_connections_later_a_new_peer_gets_in() -> None:
    async with victim_and_witness(replace(PATIENT, connections_per_peer=64)) as (victim, _):
        async with attacker(victim, connect=False) as enemy:
            for _ in range(300):
                connection = await enemy.connect()
                await connection.muxed_conn.secured_conn.close()
        await gone(victim, enemy)
        host = victim.network._host
        assert host is not None
        await until(lambda: host.swarm.admission.total <= 1)  # the witness
        assert host.swarm.admission.pending == 0


# Noise


async def test_bytes_that_were_not_sealed_with_the_key_end_the_connection() -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        await until(lambda: enemy.key in victim.peers())
        socket = muxer(enemy).secured_conn.conn.read_writer.read_write_closer
        await socket.write(b"\x00\x20" + bytes(32))
        await gone(victim, enemy)
        assert contained(victim)["muxer:NoiseInvalidMessage"] == 1


async def test_sealed_messages_in_any_pieces_are_put_together() -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        stream = trio_stream(enemy)
        whole = stream.send_all

        async def in_pieces(data: bytes) -> None:
            for start in range(0, len(data), 7):
                await whole(data[start : start + 7])

        stream.send_all = in_pieces
        for size in (1, 5, 300, 3000):
            ask = await enemy.stream(ECHO)
            await ask.write(struct.pack("!I", size) + bytes(size))
            answer = b""
            with trio.fail_after(10):
                while len(answer) < size + 4:
                    answer += await ask.read(65_536)
            assert answer == struct.pack("!I", size) + bytes(size)


def trio_stream(enemy: Attacker) -> Any:
    return muxer(enemy).secured_conn.conn.read_writer.read_write_closer.stream.stream


# Yamux


@pytest.mark.parametrize(
    "frames",
    [
        [frame(WINDOW_UPDATE, SYN, 0, 0)],
        [frame(WINDOW_UPDATE, SYN, 2, 0)],
        [frame(WINDOW_UPDATE, SYN, 9001, 0), frame(WINDOW_UPDATE, SYN, 9001, 0)],
        [frame(DATA, SYN, 9001, 300_000, body=bytes(300_000))],
        [frame(DATA, 0, 777_777, 2**31)],
        [frame(WINDOW_UPDATE, SYN, 9001, 2**32 - 1)],
        [frame(DATA, SYN | FIN, 9001, 3, body=b"abc"), frame(DATA, 0, 9001, 3, body=b"def")],
        [frame(7, 0, 0, 0)],
        [frame(PING, SYN, 0, 1, version=1)],
    ],
    ids=[
        "stream 0",
        "our parity",
        "opened twice",
        "first window overrun",
        "2 GiB for an unknown stream",
        "too much credit",
        "data after the end",
        "unknown type",
        "unknown version",
    ],
)
async def test_a_broken_rule_of_yamux_ends_the_connection(frames: list[bytes]) -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        await until(lambda: enemy.key in victim.peers())
        with suppress(IOException):  # the connection may end in the middle of it
            await push(enemy, *frames)
        await gone(victim, enemy)
        assert contained(victim)["muxer:YamuxError"] == 1


async def test_odd_frames_that_break_no_rule_are_borne() -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        await until(lambda: enemy.key in victim.peers())
        await push(
            enemy,
            frame(DATA, 0, 4242, 100_000, body=bytes(100_000)),  # of a stream that was reset meanwhile
            frame(WINDOW_UPDATE, 0, 4242, 5),
            frame(WINDOW_UPDATE, RST, 4242, 0),
            frame(WINDOW_UPDATE, FIN, 4242, 0),
            frame(WINDOW_UPDATE, SYN | RST, 9001, 0),
            frame(DATA, SYN | RST, 9003, 4, body=b"abcd"),
            frame(WINDOW_UPDATE, SYN | FIN, 9005, 0),
            frame(DATA, 0, 9005, 0),
            *(frame(PING, SYN, 0, number) for number in range(100)),
        )
        stream = await enemy.stream(ECHO)
        await stream.write(b"\x00\x00\x00\x02ok")
        assert await stream.read(100) == b"\x00\x00\x00\x02ok"
        assert enemy.key in victim.peers()


async def test_frames_cut_anywhere_are_put_together() -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        secured = muxer(enemy).secured_conn
        whole = secured.write

        async def in_pieces(data: bytes) -> None:
            for start in range(0, len(data), 5):
                await whole(data[start : start + 5])

        secured.write = in_pieces
        for size in (1, 11, 12, 13, 2000):
            stream = await enemy.stream(ECHO)
            await stream.write(struct.pack("!I", size) + bytes(size))
            answer = b""
            with trio.fail_after(10):
                while len(answer) < size + 4:
                    answer += await stream.read(65_536)
            assert answer == struct.pack("!I", size) + bytes(size)


async def test_streams_opened_and_reset_in_a_row_are_bounded() -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        await until(lambda: enemy.key in victim.peers())
        before = psutil.Process().memory_info().rss
        for start in range(9001, 49_001, 4000):
            with suppress(IOException, BaseLibp2pError):
                await push(
                    enemy,
                    *(
                        frame(WINDOW_UPDATE, flags, number, 0)
                        for number in range(start, start + 4000, 2)
                        for flags in (SYN, RST)
                    ),
                )
        host = victim.network._host
        assert host is not None
        await until(
            lambda: all(
                len(host.swarm.muxer_of(connection).streams) < 10
                for connection in host.swarm.get_connections()
            )
        )
        assert contained(victim)["muxer:TooManyStreams"] > 0
        assert psutil.Process().memory_info().rss - before < 50_000_000


async def test_a_peer_that_asks_and_never_reads_is_disconnected() -> None:
    limits = replace(PATIENT, peer_stall_seconds=30.0)
    async with victim_and_witness(limits) as (victim, _), attacker(victim) as enemy:
        await until(lambda: enemy.key in victim.peers())
        stop_reading(enemy)
        pings = b"".join(frame(PING, SYN, 0, number) for number in range(2000))
        with trio.fail_after(20), suppress(IOException, BaseLibp2pError):
            while enemy.key in victim.peers():
                await push(enemy, pings)
        await gone(victim, enemy)
        assert contained(victim)["muxer:ReplyFlood"] == 1


def stop_reading(enemy: Attacker) -> None:
    async def never(n: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    muxer(enemy).secured_conn.read = never


async def test_a_peer_that_answers_no_ping_is_disconnected() -> None:
    async def idle(stream: Any) -> None:
        await trio.sleep_forever()

    limits = replace(PATIENT, peer_stall_seconds=2.0)
    async with victim_and_witness(limits) as (victim, _), attacker(victim, connect=False) as enemy:
        enemy.host.set_stream_handler(MESHSUB, idle)  # type: ignore[arg-type]  # or it is dropped without it
        await enemy.connect()
        gossip = victim.network._gossip
        assert gossip is not None
        await until(lambda: gossip.has_stream(enemy.key))
        stop_reading(enemy)
        await gone(victim, enemy)
        assert contained(victim)["muxer:Silent"] == 1


# multistream on a stream


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff" * 100,
        encode_varint(2**40) + bytes(100),
        MULTISTREAM + varint_frame(b"\xff\xfe\xfd\n") * 40,
        MULTISTREAM + varint_frame(b"x" * 900 + b"\n") * 40,
        varint_frame(b"x" * 100_000 + b"\n"),
    ],
    ids=["endless length", "1 TiB", "not UTF-8", "too many lines", "endless line"],
)
async def test_junk_instead_of_a_protocol_resets_that_stream(junk: bytes) -> None:
    async with victim_and_witness() as (victim, _), attacker(victim) as enemy:
        stream = await enemy.raw_stream()
        with suppress(StreamError):
            await stream.write(junk)
        await read_out(stream)
        assert contained(victim)["stream:NegotiationError"] == 1
        await still_served(enemy)


async def test_a_protocol_a_byte_at_a_time_meets_its_deadline() -> None:
    limits = replace(PATIENT, negotiation_deadline=0.5)
    async with victim_and_witness(limits) as (victim, _), attacker(victim) as enemy:
        stream = await enemy.raw_stream()
        with trio.fail_after(10), suppress(StreamError):
            for byte in MULTISTREAM * 100:
                await stream.write(bytes([byte]))
                await trio.sleep(0.04)
        assert contained(victim)["stream:TooSlowError"] == 1
        await still_served(enemy)


async def still_served(enemy: Attacker) -> None:
    """The connection lives on: another stream of it is served."""
    assert enemy.key in enemy.victim.peers()
    stream = await enemy.stream(ECHO)
    await stream.write(b"\x00\x00\x00\x02ok")
    with trio.fail_after(5):
        assert await stream.read(100) == b"\x00\x00\x00\x02ok"


# a host that answers us with junk


Answer = Callable[[Any], Awaitable[None]]


async def _answer_junk(stream: Any) -> None:
    await stream.write(MULTISTREAM + varint_frame(b"\xff\xfe\n"))


async def _answer_endless(stream: Any) -> None:
    await stream.write(b"\xff" * 1000)


async def _answer_reset(stream: Any) -> None:
    await stream.reset()


@pytest.mark.parametrize("answer", [_answer_junk, _answer_endless, _answer_reset])
async def test_junk_in_answer_to_our_stream_costs_that_stream(answer: Answer) -> None:
    limits = replace(PATIENT, peer_stall_seconds=30.0)
    async with victim_and_witness(limits) as (victim, _), attacker(victim, connect=False) as enemy:
        enemy.host.get_network().set_stream_handler(answer)
        await enemy.connect()
        await until(lambda: enemy.key in victim.peers())
        for _ in range(5):
            with pytest.raises(StreamFailed):
                await victim.network.open_stream(enemy.key, ["/some/1"], deadline=5)
        assert enemy.key in victim.peers()
        assert contained(victim).get("muxer:YamuxError", 0) == 0


async def _identify_garbage(stream: Any) -> None:
    await stream.write(varint_frame(b"\xff\xff\xff"))
    await stream.close()


async def _identify_large(stream: Any) -> None:
    said = Identify(
        public_key=b"\xff" * 36,
        listen_addrs=[b"\xff\xfe"] * 2000,
        protocols=[f"/p/{number}" for number in range(20_000)],
        observed_addr=b"\x00\x01",
        signedPeerRecord=b"junk",
    )
    await stream.write(varint_frame(said.SerializeToString()))
    await stream.close()


async def _identify_endless(stream: Any) -> None:
    await stream.write(encode_varint(2**40) + bytes(100_000))


async def _identify_never(stream: Any) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "answer", [_identify_garbage, _identify_large, _identify_endless, _identify_never, _answer_reset]
)
async def test_junk_in_answer_to_identify_is_borne_and_forgotten(answer: Answer) -> None:
    async with victim_and_witness() as (victim, _), attacker(victim, connect=False) as enemy:
        asked = trio.Event()

        async def answering(stream: Any) -> None:
            asked.set()
            await answer(stream)

        enemy.host.set_stream_handler(ID, answering)
        await enemy.connect()
        with trio.fail_after(5):
            await asked.wait()
        await still_served(enemy)
        host = victim.network._host
        assert host is not None
        own = len(host.swarm.peerstore.peer_ids())
        await victim.network.disconnect(enemy.key)
        await gone(victim, enemy)
        await until(lambda: enemy.host.get_id() not in host.swarm.peerstore.peer_ids())
        assert len(host.swarm.peerstore.peer_ids()) <= own
        assert host.get_id() in host.swarm.peerstore.peer_ids()
