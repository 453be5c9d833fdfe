from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from koii_p2p.network.frames import FrameError
from koii_p2p.network.network import Network
from koii_p2p.network.requests import FrameTooLarge, RequestFailed, RequestReason, read_frame
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.records.keys import SecretKey
from tests.network.nets import ECHO, LOOPBACK, QUICK, Node, net, until

SLOW = "/koii-p2p/slow/1"


async def failing(
    node: Node, other: Node, protocol: str, payload: bytes = b"x", deadline: float = 5.0
) -> RequestReason:
    with pytest.raises(RequestFailed) as caught:
        await node.network.request(other.key, protocol, payload, deadline=deadline)
    return caught.value.reason


async def test_both_ends_can_ask_and_every_size_comes_back() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        for size in (0, 1, 65_535, 65_536, 1_000_000):
            payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
            assert await first.network.request(second.key, ECHO, payload) == payload
            assert await second.network.request(first.key, ECHO, payload) == payload
        statistics = first.network.statistics().requests
        assert (statistics.asked, statistics.answered, statistics.served, statistics.open) == (5, 5, 5, 0)


async def test_tens_of_megabytes_within_the_caps() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        large = b"0123456789abcdef" * (24 * 65_536)  # 24 MiB

        async def bundle(key: bytes, request: bytes) -> bytes:
            return large

        second.network.serve("/koii-p2p/bundle/1", bundle)
        assert await first.network.request(second.key, "/koii-p2p/bundle/1", b"", deadline=40) == large


async def test_caps_both_ways() -> None:
    limits = replace(QUICK, request_bytes=1000, response_bytes=2000)
    async with net() as running:
        first = await running.add(1, limits=limits)
        second = await running.add(2, bootstrap=(first.address,), limits=replace(limits, request_bytes=5000))
        third = await running.add(3, bootstrap=(first.address,), limits=replace(limits, response_bytes=9000))
        await until(lambda: first.knows(second) and first.knows(third))

        async def much(key: bytes, request: bytes) -> bytes:
            return bytes(3000)

        first.network.serve("/much", much)
        third.network.serve("/much", much)
        assert await failing(first, second, ECHO, bytes(1001)) is RequestReason.TOO_LARGE  # not even sent
        assert (
            await failing(second, first, ECHO, bytes(1001)) is RequestReason.BROKEN
        )  # the other end refuses it
        assert await failing(second, first, "/much") is RequestReason.BROKEN  # never leaves the other end
        assert await failing(first, third, "/much") is RequestReason.TOO_LARGE  # refused at its announcement
        assert await second.network.request(first.key, ECHO, bytes(1000)) == bytes(1000)


async def test_an_unknown_protocol_is_refused() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        assert await failing(first, second, "/unknown/1") is RequestReason.REFUSED
        with pytest.raises(ValueError, match="already"):
            first.network.serve(ECHO, _never)


async def _never(key: bytes, request: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_slow_handler_meets_the_deadline_and_holds_nobody_up() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        second.network.serve(SLOW, _never)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing, first, second, SLOW, b"x", 1.0)
            await until(lambda: second.network.statistics().requests.open == 1)
            assert await first.network.request(second.key, ECHO, b"quick") == b"quick"
        assert await failing(first, second, SLOW, deadline=0.1) is RequestReason.TIMED_OUT


async def test_a_handler_that_does_not_finish_is_ended() -> None:
    async with net() as running:
        first = await running.add(1)
        second = await running.add(2, bootstrap=(first.address,), limits=replace(QUICK, respond_deadline=0.3))
        await until(lambda: first.knows(second))
        second.network.serve(SLOW, _never)
        assert await failing(first, second, SLOW) is RequestReason.BROKEN
        assert second.network.statistics().requests.serving_failed == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), trio.TooSlowError(), ExceptionGroup("two", [KeyError("a")])]
)
async def test_a_handler_that_raises_ends_its_stream_only(error: Exception) -> None:
    async with net() as running:
        first, second = await running.chain(2)

        async def broken(key: bytes, request: bytes) -> bytes:
            raise error

        second.network.serve("/broken", broken)
        for _ in range(3):
            assert await failing(first, second, "/broken") is RequestReason.BROKEN
        assert await first.network.request(second.key, ECHO, b"x") == b"x"
        assert (
            sum(count for name, count in second.network.statistics().contained if name.startswith("handler:"))
            == 3
        )


async def test_one_peer_cannot_hold_more_than_its_share() -> None:
    async with net() as running:
        first = await running.add(1, limits=replace(QUICK, streams_per_peer=64))
        second = await running.add(2, bootstrap=(first.address,), limits=replace(QUICK, streams_per_peer=4))
        await until(lambda: first.knows(second))
        second.network.serve(SLOW, _never)
        reasons: list[RequestReason] = []

        async def ask() -> None:
            reasons.append(await failing(first, second, SLOW, deadline=1.5))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
            await until(lambda: second.network.statistics().requests.refused == 8)
            assert second.network.statistics().requests.open == 4
        assert reasons.count(RequestReason.TIMED_OUT) == 4
        await until(lambda: second.network.statistics().requests.open == 0)
        assert await first.network.request(second.key, ECHO, b"x") == b"x"


async def test_many_requests_at_once_wait_for_their_turn() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await first.network.request(second.key, ECHO, b"%d" % number, deadline=20))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert sorted(answers) == sorted(b"%d" % number for number in range(100))


async def test_a_peer_that_vanishes_mid_request() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        second.network.serve(SLOW, _never)
        reasons: list[RequestReason] = []

        async def ask() -> None:
            reasons.append(await failing(first, second, SLOW, deadline=10))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: second.network.statistics().requests.open == 1)
                await second.stop()
        assert reasons == [RequestReason.BROKEN]
        await until(lambda: not first.peers())
        assert await failing(first, second, ECHO, deadline=1) is RequestReason.NOT_CONNECTED


async def test_an_asker_that_vanishes_does_not_end_the_answerer() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        second.network.serve(SLOW, _never)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing, first, second, SLOW, b"x", 10)
            await until(lambda: second.network.statistics().requests.open == 1)
            nursery.cancel_scope.cancel()
        third = await running.add(3, bootstrap=(second.address,))
        assert await third.network.request(second.key, ECHO, b"x", deadline=5) == b"x"


async def test_a_known_peer_is_dialled_for_a_request() -> None:
    async with net() as running:
        first, second = await running.add(1, target_peers=0), await running.add(2, target_peers=0)
        assert await failing(first, second, ECHO) is RequestReason.NOT_CONNECTED
        first.network.learn(second.key, second.network.addresses)
        assert await first.network.request(second.key, ECHO, b"x") == b"x"


async def test_handlers_given_before_and_after_a_restart_of_the_network() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        assert await second.network.request(first.key, ECHO, b"1") == b"1"
        await first.stop()
        assert await failing(first, second, ECHO, deadline=0.5) is RequestReason.NOT_CONNECTED
        listen = NetworkSettings(listen=LOOPBACK)
        network = Network(SecretKey.from_seed(bytes(32)), listen, QUICK)
        network.serve(ECHO, _echo)
        for _ in range(2):  # the same object can run again
            async with trio.open_nursery() as nursery:
                await nursery.start(network.run)
                second.network.learn(network.key, network.addresses)
                assert await second.network.request(network.key, ECHO, b"2") == b"2"
                nursery.cancel_scope.cancel()
            await until(lambda: network.key not in second.peers())


async def _echo(key: bytes, request: bytes) -> bytes:
    return request


class Pieces:
    """A stream that returns given pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read_some(self, max_bytes: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def read(self, n: int | None = None) -> bytes:
        return await self.read_some(n or 0)

    async def write(self, data: bytes) -> None:
        raise AssertionError


async def test_frames_in_any_pieces() -> None:
    whole = (5).to_bytes(4, "big") + b"hello"
    for cut in range(len(whole) + 1):
        assert await read_frame(Pieces(*(part for part in (whole[:cut], whole[cut:]) if part)), 5) == b"hello"
    with pytest.raises(FrameTooLarge):
        await read_frame(Pieces(whole), 4)
    with pytest.raises(FrameError):
        await read_frame(Pieces(whole + b"!"), 100)
    for cut in range(len(whole)):
        with pytest.raises(FrameError):
            await read_frame(Pieces(whole[:cut]), 100)
