"""Links that are slow, lossy or cut: their arithmetic in virtual time, and whole nets over loopback."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import base58
import pytest
import trio
from multiaddr import Multiaddr
from trio.testing import MockClock

from koii_p2p.conditions import HANG, RESET, Conditions, Link, encode_conditions
from koii_p2p.errors import ConfigurationError
from koii_p2p.network import shaping
from koii_p2p.network.containment import Guard
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.network.shaping import MOST_RETRIES, Shaper, ShapingStatistics, held_up, retransmissions
from koii_p2p.network.sockets import ExclusiveTCP, TcpSocket
from tests.network.nets import ECHO, LOOPBACK, QUICK, TOPIC, Node, until

OWN, OTHER = b"\1" * 32, b"\2" * 32
NAMES = tuple(base58.b58encode(key).decode() for key in (OWN, OTHER))


def write(file: Path, conditions: Conditions) -> Path:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(encode_conditions(conditions))
    fresh.replace(file)
    return file


async def pair(shaper: Shaper) -> tuple[TcpSocket, trio.SocketStream]:
    """A shaped socket that knows its peer, and the plain other end of it."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    plain = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    shaped = shaper.shape(await listener.accept())
    await listener.aclose()
    await shaped.meet(OTHER, dialled=False)
    return shaped, plain


async def arrivals(link: Link, sizes: Sequence[int], file: Path) -> list[float]:
    """Virtual seconds at which writes made at once arrive at the other end."""
    shaper = Shaper(OWN, write(file, Conditions(link, seed=7)))
    found = []
    async with shaper.running():
        shaped, plain = await pair(shaper)
        began = trio.current_time()

        async def send() -> None:
            for size in sizes:
                await shaped.write(b"x" * size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for size in sizes:
                left = size
                while left:
                    left -= len(await plain.receive_some(left))
                found.append(trio.current_time() - began)
        await plain.aclose()
    return found


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    # Nothing changes in these tests, and the clock would stop each time that somebody looks.
    monkeypatch.setattr(shaping, "LOOK_SECONDS", 1e6)
    # Bytes pass through the kernel, whose time is not virtual: leave it some before the clock jumps.
    return MockClock(autojump_threshold=0.02)


async def test_all_that_is_written_at_once_is_late_by_the_latency_and_not_by_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    found = await arrivals(Link(latency_ms=3000), [10] * 20, tmp_path / "it.json")
    assert found == [pytest.approx(3.0)] * 20


async def test_jitter_varies_and_keeps_the_order(autojump_clock: MockClock, tmp_path: Path) -> None:
    found = await arrivals(Link(latency_ms=3000, jitter_ms=1000), [10] * 20, tmp_path / "it.json")
    assert found == sorted(found)
    assert 2.0 <= found[0] < found[-1] <= 4.0


async def test_bandwidth_takes_its_time_and_writers_wait_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    found = await arrivals(Link(bandwidth_kib=10), [10 * 1024] * 4, tmp_path / "it.json")
    assert found == [pytest.approx(seconds) for seconds in (1, 2, 3, 4)]


async def test_what_was_lost_holds_up_what_follows(autojump_clock: MockClock, tmp_path: Path) -> None:
    found = await arrivals(Link(latency_ms=1000, loss=0.5), [10] * 30, tmp_path / "it.json")
    assert found == sorted(found)
    # A second when nothing was lost; otherwise a timeout of four seconds, or 12, 28, ... more.
    assert {round(at) for at in found} <= {1 + 4 * (2**retries - 1) for retries in range(MOST_RETRIES + 1)}
    assert len(set(found)) > 1


def test_how_often_something_is_sent_again_is_what_the_loss_says() -> None:
    draw = random.Random(1)
    tries = 20_000
    for size, loss in ((100, 0.1), (14_480, 0.01), (1449, 0.2)):
        rounds = [retransmissions(size, loss, draw) for _ in range(tries)]
        expected = 1 - (1 - loss) ** -(-size // 1448)
        deviation = math.sqrt(expected * (1 - expected) / tries)
        assert abs(sum(map(bool, rounds)) / tries - expected) < 3 * deviation
        assert max(rounds) <= MOST_RETRIES
    assert retransmissions(10**6, 0.0, draw) == 0


def test_a_retransmission_waits_as_tcp_does() -> None:
    assert held_up(0, 500) == 0
    assert held_up(1, 5) == pytest.approx(0.2)
    assert held_up(1, 100) == pytest.approx(0.4)
    assert held_up(3, 100) == pytest.approx(0.4 + 0.8 + 1.6)


async def test_a_cut_holds_both_directions_until_it_heals(tmp_path: Path) -> None:
    file = write(tmp_path / "it.json", Conditions())
    cut = Conditions(groups=tuple(frozenset({name}) for name in NAMES), cut=HANG)
    shaper = Shaper(OWN, file)
    async with shaper.running():
        shaped, plain = await pair(shaper)
        await shaped.write(b"before")
        assert await plain.receive_some(10) == b"before"
        write(file, cut)
        while not shaper.statistics().cut_links:
            await trio.sleep(0.01)
        await plain.send_all(b"in")
        await shaped.write(b"out")
        with trio.move_on_after(0.3):
            raise AssertionError(await shaped.read_some())
        with trio.move_on_after(0.1):
            raise AssertionError(await plain.receive_some(10))
        write(file, Conditions())
        with trio.fail_after(5):
            assert await plain.receive_some(10) == b"out"
        assert shaper.statistics().changes == 2
        await plain.aclose()


async def test_a_cut_by_reset_ends_the_connection(tmp_path: Path) -> None:
    file = write(tmp_path / "it.json", Conditions())
    shaper = Shaper(OWN, file)
    async with shaper.running():
        shaped, plain = await pair(shaper)
        write(file, Conditions(groups=tuple(frozenset({name}) for name in NAMES), cut=RESET))
        with trio.fail_after(5):
            assert await shaped.read_some() == b""
            with pytest.raises(trio.BrokenResourceError):
                await plain.receive_some(10)
        assert shaper.statistics().resets == 1
        await plain.aclose()


async def test_a_change_that_makes_no_sense_is_refused_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "it.json", Conditions(Link(latency_ms=5)))
    shaper = Shaper(OWN, file)
    async with shaper.running():
        file.write_text("{")
        while not shaper.statistics().refused_changes:
            await trio.sleep(0.01)
        file.unlink()
        while shaper.statistics().refused_changes < 2:
            await trio.sleep(0.01)
        assert shaper.conditions.link == Link(latency_ms=5)
        write(file, Conditions(Link(latency_ms=6)))
        while not shaper.statistics().changes:
            await trio.sleep(0.01)
        assert shaper.statistics().conditions == "latency 6 ms"


def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Shaper(OWN, tmp_path / "none.json")


# --- whole nodes


def shaped_node(seed: int, file: Path, *bootstrap: str) -> Node:
    settings = NetworkSettings(listen=LOOPBACK, bootstrap=bootstrap, heartbeat=0.2, conditions=file)
    return Node(seed, settings, replace(QUICK, peer_stall_seconds=6.0), None)


@pytest.mark.parametrize("cut", [HANG, RESET])
async def test_nodes_that_are_cut_off_hear_nothing_and_find_each_other_again(
    tmp_path: Path, cut: str
) -> None:
    file = write(tmp_path / "it.json", Conditions(Link(latency_ms=20)))
    async with trio.open_nursery() as nursery:
        first = shaped_node(1, file)
        await nursery.start(first.run)
        second = shaped_node(2, file, first.address)
        await nursery.start(second.run)
        await until(lambda: first.knows(second) and second.knows(first))
        began = trio.current_time()
        assert await first.network.request(second.key, ECHO, b"hello") == b"hello"
        assert trio.current_time() - began >= 0.04  # there and back; a stream is proposed with its request
        sides = tuple(frozenset({base58.b58encode(node.key).decode()}) for node in (first, second))
        write(file, Conditions(groups=sides, cut=cut))
        await until(lambda: all(_shaping(node).changes == 1 for node in (first, second)))
        await first.network.publish(TOPIC, b"unheard")
        await trio.sleep(0.5)
        assert second.received == []
        write(file, Conditions())
        await until(lambda: first.knows(second) and second.knows(first))
        await until(lambda: _shaping(second).cut_links == 0)
        await first.network.publish(TOPIC, b"heard again")
        await until(lambda: b"heard again" in second.received)
        nursery.cancel_scope.cancel()


def _shaping(node: Node) -> ShapingStatistics:
    found = node.network.statistics().shaping
    assert found is not None
    return found


async def test_a_caller_that_is_gone_before_it_is_looked_at_costs_nobody_anything() -> None:
    def gone(_stream: trio.SocketStream) -> TcpSocket:
        raise OSError(107, "Transport endpoint is not connected")

    async def serve(_socket: object) -> None:
        raise AssertionError("there is no socket to serve")

    guard = Guard()
    listener = ExclusiveTCP(guard, gone).create_listener(serve)
    await listener.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
    port = listener.listeners[0].socket.getsockname()[1]
    for _ in range(2):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with trio.fail_after(5):
                assert await stream.receive_some(1) == b""
    assert guard.statistics() == (("listener:OSError", 2),)
    await listener.close()
