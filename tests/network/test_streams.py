"""The streams we offer, with an unmodified py-libp2p host at the other end wherever that is possible."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from libp2p.abc import INetStream
from libp2p.network.stream.exceptions import StreamEOF, StreamError

from koii_p2p.limits import Limits
from koii_p2p.network.muxer import ContainedYamux
from koii_p2p.network.network import (
    LinkDown,
    LinkEvent,
    LinkUp,
    Network,
    NetworkSettings,
    PeerStream,
    StreamFailed,
    StreamReason,
)
from koii_p2p.network.noise import NoiseChannel
from koii_p2p.network.yamux_stream import WINDOW_UPDATE
from koii_p2p.records.keys import SecretKey
from tests.network.attacker import Attacker, attacker
from tests.network.nets import LOOPBACK, QUICK, Node, net, until

BACK = "/koii-p2p/back/1"
# The other host has no gossip, for which it would be disconnected after `peer_stall_seconds`.
PATIENT = replace(QUICK, peer_stall_seconds=60.0, negotiation_deadline=10.0)


async def echo(stream: PeerStream) -> None:
    while data := await stream.read_some():
        await stream.write(data)


async def library_echo(stream: INetStream) -> None:
    try:
        while data := await stream.read(65_536):
            await stream.write(data)
    except StreamEOF:
        await stream.close()


async def read_out(stream: INetStream) -> tuple[bytes, StreamError]:
    """Read a stream to its end; return what came and what the library says of the end."""
    received = b""
    with trio.fail_after(10):
        while True:
            try:
                received += await stream.read(65_536)
            except StreamError as error:
                return received, error


async def our_echo(stream: PeerStream, data: bytes) -> bytes:
    received = bytearray()

    async def send() -> None:
        await stream.write(data)
        await stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await stream.read_some(10_000):
            assert len(piece) <= 10_000
            received += piece
    return bytes(received)


async def their_echo(stream: INetStream, data: bytes) -> bytes:
    async def send() -> None:
        await stream.write(data)
        await stream.muxed_stream.close()  # type: ignore[attr-defined]  # half of it; theirs closes both otherwise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received, end = await read_out(stream)
        assert isinstance(end, StreamEOF)
    return received


@asynccontextmanager
async def ours_and_theirs(
    *, we_dial: bool = False, limits: Limits = PATIENT
) -> AsyncIterator[tuple[Node, Attacker]]:
    """A node of ours and an unmodified host, connected; both give back on `BACK` what they are sent."""
    async with net() as running:
        node = await running.add(1, limits=limits)
        node.network.handle(BACK, echo)
        async with attacker(node, connect=not we_dial) as other:
            other.host.set_stream_handler(BACK, library_echo)  # type: ignore[arg-type]
            if we_dial:
                address = str(other.host.get_addrs()[0]).partition("/p2p/")[0]
                await node.network._dial(other.key, address)
            await until(lambda: other.key in node.peers())
            yield node, other


@pytest.mark.parametrize("we_dial", [False, True])
async def test_every_size_comes_back_whoever_dials_and_opens(we_dial: bool) -> None:
    async with ours_and_theirs(we_dial=we_dial) as (node, other):
        for size in (1, 512, 70_000, 1_500_000):  # the last is several windows
            data = bytes(range(256)) * (size // 256 + 1)
            stream = await node.network.open_stream(other.key, [BACK], deadline=5)
            assert (stream.key, stream.protocol) == (other.key, BACK)
            assert await our_echo(stream, data) == data
            await until(lambda stream=stream: stream.closed)  # type: ignore[misc]
            assert await their_echo(await other.stream(BACK), data) == data


async def test_many_short_streams_leave_nothing_behind() -> None:
    async with ours_and_theirs() as (node, other):
        for number in range(2 * PATIENT.streams_per_connection):
            stream = await node.network.open_stream(other.key, [BACK], deadline=5)
            assert await our_echo(stream, b"%d" % number) == b"%d" % number
        for number in range(2 * PATIENT.streams_per_connection):
            assert await their_echo(await other.stream(BACK), b"%d" % number) == b"%d" % number
        host = node.network._host
        assert host is not None
        connection = host.swarm.get_connections()[0]
        muxer = host.swarm.muxer_of(connection)
        await until(lambda: len(muxer.streams) <= 2)  # the library's pubsub holds one each way
        await until(lambda: len(connection.get_streams()) <= 2)


async def test_many_streams_at_once_share_a_connection() -> None:
    async with ours_and_theirs() as (node, other):
        done: list[int] = []

        async def one(number: int) -> None:
            data = number.to_bytes(4, "big") * 5_000
            stream = await node.network.open_stream(other.key, [BACK], deadline=30)
            assert await our_echo(stream, data) == data
            done.append(number)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(one, number)
        assert sorted(done) == list(range(60))


async def test_a_reset_reaches_the_other_end() -> None:
    async with ours_and_theirs() as (node, other):
        given: list[PeerStream] = []

        async def keep(stream: PeerStream) -> None:
            given.append(stream)
            await trio.sleep_forever()

        node.network.handle("/keep/1", keep)
        theirs = await other.stream("/keep/1")
        await until(lambda: len(given) == 1)
        await theirs.reset()
        with pytest.raises(StreamFailed) as caught:
            await given[0].read_some()
        assert caught.value.reason is StreamReason.BROKEN
        with pytest.raises(StreamFailed):
            await given[0].write(b"x")

        theirs = await other.stream("/keep/1")
        await until(lambda: len(given) == 2)
        await given[1].reset()
        await given[1].reset()
        assert (await read_out(theirs))[0] == b""


async def test_a_closed_half_still_receives() -> None:
    async with ours_and_theirs() as (node, other):
        went_on = trio.Event()

        async def late(stream: INetStream) -> None:
            assert (await read_out(stream))[0] == b"question"
            await went_on.wait()
            await stream.write(b"late")
            await stream.close()

        other.host.set_stream_handler("/late/1", late)  # type: ignore[arg-type]
        stream = await node.network.open_stream(other.key, ["/late/1"], deadline=5)
        await stream.write(b"question")
        await stream.close()
        with pytest.raises(StreamFailed):
            await stream.write(b"more")
        went_on.set()
        with trio.fail_after(5):
            assert await stream.read_some() == b"late"
            assert await stream.read_some() == b""
        await until(lambda: stream.closed)


async def test_why_there_is_no_stream() -> None:
    network = Network(SecretKey.generate(), NetworkSettings())
    with pytest.raises(StreamFailed) as caught:
        await network.open_stream(bytes(32), [BACK], deadline=1)
    assert caught.value.reason is StreamReason.NOT_CONNECTED
    async with ours_and_theirs() as (node, other):

        async def reason(key: bytes, protocols: list[str], deadline: float) -> StreamReason:
            with pytest.raises(StreamFailed) as caught:
                await node.network.open_stream(key, protocols, deadline=deadline)
            return caught.value.reason

        assert await reason(bytes(32), [BACK], 1) is StreamReason.NOT_CONNECTED
        assert await reason(other.key, ["/a/1", "/b/1"], 5) is StreamReason.REFUSED
        chosen = await node.network.open_stream(other.key, ["/a/1", "/b/1", BACK], deadline=5)
        assert await our_echo(chosen, b"third") == b"third"

        async def deaf(stream: INetStream) -> None:
            await trio.sleep_forever()

        other.host.get_network().set_stream_handler(deaf)  # it negotiates nothing any more
        assert await reason(other.key, [BACK], 0.2) is StreamReason.TIMED_OUT
        await other.host.get_network().close_peer(other.victim_id)
        await until(lambda: other.key not in node.peers())
        assert await reason(other.key, [BACK], 1) is StreamReason.NOT_CONNECTED


async def test_a_peer_that_gives_no_credit_costs_one_stream() -> None:
    limits = replace(PATIENT, peer_stall_seconds=1.0)
    async with net() as running:
        first, second = await running.add(1, limits=limits), await running.add(2, limits=PATIENT)

        async def idle(stream: PeerStream) -> None:
            await trio.sleep_forever()

        second.network.handle("/idle/1", idle)
        second.network.handle(BACK, echo)
        first.network.learn(second.key, second.network.addresses)
        await until(lambda: first.knows(second) and second.knows(first))
        stream = await first.network.open_stream(second.key, ["/idle/1"], deadline=5)
        failed = trio.Event()

        async def fill() -> None:
            with suppress(StreamFailed):
                while True:
                    await stream.write(bytes(50_000))
            failed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            while not failed.is_set():
                other = await first.network.open_stream(second.key, [BACK], deadline=5)
                assert await our_echo(other, bytes(1000)) == bytes(1000)
                await trio.sleep(0.05)
        assert dict(first.network.statistics().contained)["muxer:StreamStalled"] == 1
        assert second.key in first.peers()


@asynccontextmanager
async def two_of_ours() -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes of ours, connected; both give back on `BACK` what they are sent."""
    async with net() as running:
        first, second = await running.add(1, limits=PATIENT), await running.add(2, limits=PATIENT)
        for node in (first, second):
            node.network.handle(BACK, echo)
        first.network.learn(second.key, second.network.addresses)
        await until(lambda: first.knows(second) and second.knows(first))
        yield first, second


async def test_one_task_writes_at_a_time() -> None:
    async with two_of_ours() as (first, second):
        stream = await first.network.open_stream(second.key, [BACK], deadline=5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, bytes(3_000_000))  # its echo is not read, so it comes to a stop
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(trio.BusyResourceError):
                await stream.write(b"x")
            nursery.cancel_scope.cancel()
        await stream.reset()


async def test_a_cancelled_write_does_not_break_the_connection() -> None:
    async with two_of_ours() as (first, second):
        for _ in range(20):
            stream = await first.network.open_stream(second.key, [BACK], deadline=5)
            with trio.move_on_after(0.001) as scope:
                await stream.write(bytes(5_000_000))
            assert scope.cancelled_caught
            await stream.reset()
        good = await first.network.open_stream(second.key, [BACK], deadline=5)
        assert await our_echo(good, bytes(1_000_000)) == bytes(1_000_000)


async def test_small_writes_leave_in_batches_and_credit_for_half_a_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sealed: list[int] = []
    credits: list[int] = []
    write, reply = NoiseChannel.write, ContainedYamux.reply

    async def counting(self: NoiseChannel, data: bytes) -> None:
        sealed.append(len(data))
        await write(self, data)

    def replying(self: ContainedYamux, kind: int, flags: int, number: int, value: int) -> None:
        if kind == WINDOW_UPDATE and not flags:
            credits.append(value)
        reply(self, kind, flags, number, value)

    async with two_of_ours() as (first, second):
        received = 0

        async def sink(stream: PeerStream) -> None:
            nonlocal received
            while data := await stream.read_some(1000):
                received += len(data)

        second.network.handle("/sink/1", sink)
        stream = await first.network.open_stream(second.key, ["/sink/1"], deadline=5)
        monkeypatch.setattr(NoiseChannel, "write", counting)
        monkeypatch.setattr(ContainedYamux, "reply", replying)
        for _ in range(4000):
            await stream.write(bytes(512))
        await until(lambda: received == 4000 * 512)
    assert sum(sealed) > 4000 * 512
    assert len(sealed) < 200
    assert len(credits) <= 4000 * 512 // (128 * 1024)
    assert min(credits) >= 128 * 1024


async def test_windows_grow_within_the_bound_of_the_connection() -> None:
    limits = replace(PATIENT, connection_buffer_bytes=900_000)
    async with ours_and_theirs(limits=limits) as (node, other):
        host = node.network._host
        assert host is not None
        muxer = host.swarm.muxer_of(host.swarm.get_connections()[0])
        for _ in range(3):
            stream = await other.stream(BACK)
            assert await their_echo(stream, bytes(2_000_000)) == bytes(2_000_000)
        assert not dict(node.network.statistics().contained).get("muxer:BufferFull")
        assert muxer.unread == 0


@pytest.mark.parametrize(
    "error", [ValueError("x"), trio.TooSlowError(), ExceptionGroup("g", [KeyError("x")])]
)
async def test_a_handler_that_raises_costs_its_stream_only(error: Exception) -> None:
    async with ours_and_theirs() as (node, other):

        async def broken(stream: PeerStream) -> None:
            await stream.read_some()
            raise error

        node.network.handle("/broken/1", broken)
        stream = await other.stream("/broken/1")
        await stream.write(b"x")
        assert (await read_out(stream))[0] == b""
        assert await their_echo(await other.stream(BACK), b"still here") == b"still here"
        assert other.key in node.peers()
        name = "KeyError" if isinstance(error, ExceptionGroup) else type(error).__name__
        assert dict(node.network.statistics().contained)[f"stream:{name}"] == 1


async def test_a_handler_that_returns_leaves_a_closed_stream() -> None:
    async with ours_and_theirs() as (node, other):

        async def greet(stream: PeerStream) -> None:
            await stream.write(b"hello")

        node.network.handle("/greet/1", greet)
        stream = await other.stream("/greet/1")
        received, end = await read_out(stream)
        assert received == b"hello"
        assert isinstance(end, StreamEOF)


@pytest.mark.parametrize("how", ["returns", "raises", "resets"])
async def test_what_a_handler_leaves_unread_is_let_go(how: str) -> None:
    limits = replace(PATIENT, connection_buffer_bytes=1_000_000)
    async with ours_and_theirs(limits=limits) as (node, other):

        async def careless(stream: PeerStream) -> None:
            await stream.read_some(1)
            await trio.sleep(0.01)  # the rest arrives
            if how == "raises":
                raise ValueError("enough")
            if how == "resets":
                await stream.reset()

        node.network.handle("/careless/1", careless)
        for _ in range(30):
            stream = await other.stream("/careless/1")
            with suppress(StreamError):
                await stream.write(bytes(150_000))
                await stream.muxed_stream.close()  # type: ignore[attr-defined]
            await read_out(stream)
        host = node.network._host
        assert host is not None
        muxer = host.swarm.muxer_of(host.swarm.get_connections()[0])
        await until(lambda: muxer.unread == 0 and len(muxer.streams) <= 2)
        assert await their_echo(await other.stream(BACK), b"still here") == b"still here"


async def test_a_protocol_has_one_handler() -> None:
    network = Network(SecretKey.generate(), NetworkSettings(listen=LOOPBACK))
    network.handle(BACK, echo)
    with pytest.raises(ValueError, match="already"):
        network.handle(BACK, echo)


async def test_links_come_and_go_once_for_each_peer() -> None:
    async with net() as running:
        first = await running.add(1, limits=PATIENT)
        events: list[LinkEvent] = []

        def broken(event: LinkEvent) -> None:
            raise ValueError("a watcher of somebody else")

        first.network.watch_links(broken)
        first.network.watch_links(events.append)
        second = await running.add(2, bootstrap=(first.address,))
        await until(lambda: len(events) == 1)
        up = events[0]
        assert isinstance(up, LinkUp)
        assert (up.key, up.outgoing) == (second.key, False)
        assert up.address.startswith("/ip4/127.0.0.1/tcp/")
        await first.network._dial(second.key, second.address.partition("/p2p/")[0])  # a second connection
        await until(lambda: [peer.connections for peer in first.network.peers()] == [2])
        assert len(events) == 1
        await second.stop()
        await until(lambda: events[1:] == [LinkDown(second.key)])
        third = await running.add(3)
        first.network.learn(third.key, third.network.addresses)
        await until(lambda: len(events) == 3)
        assert events[2] == LinkUp(third.key, True, third.address.partition("/p2p/")[0])
        await first.stop()
        assert events[3:] == [LinkDown(third.key)]
        assert dict(first.network.statistics().contained)["link_watcher:ValueError"] == 4


async def test_of_two_connections_one_is_preferred_and_the_idle_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("koii_p2p.network.host.SURPLUS_SECONDS", 0.0)
    async with net() as running:
        first, second = await running.add(1, limits=PATIENT), await running.add(2, limits=PATIENT)
        async with trio.open_nursery() as nursery:
            for one, other in ((first, second), (second, first)):
                nursery.start_soon(one.network._dial, other.key, other.address.partition("/p2p/")[0])
        for node, other in ((first, second), (second, first)):
            host = node.network._host
            assert host is not None
            preferred = host.swarm.connections_to(host.swarm.get_connections()[0].muxed_conn.peer_id)[0]
            dialled = host.swarm.muxer_of(preferred).is_initiator
            assert dialled == (node.key < other.key)
            node.network.handle(BACK, echo)
        for _ in range(3):
            stream = await first.network.open_stream(second.key, [BACK], deadline=5)
            assert await our_echo(stream, b"x") == b"x"
            stream = await second.network.open_stream(first.key, [BACK], deadline=5)
            assert await our_echo(stream, b"y") == b"y"
        # The library's gossip may hold a stream on each for good; without such streams one connection stays.
        for node in (first, second):
            host = node.network._host
            assert host is not None
            for connection in host.swarm.get_connections():
                if host.swarm.connections_to(connection.muxed_conn.peer_id)[0] is not connection:
                    for held in connection.get_streams():
                        await held.reset()
        await until(lambda: [peer.connections for peer in first.network.peers()] == [1])
        await until(lambda: [peer.connections for peer in second.network.peers()] == [1])
        assert first.knows(second) or await _soon(lambda: first.knows(second))


async def _soon(condition: object) -> bool:
    assert callable(condition)
    await until(condition)
    return True
