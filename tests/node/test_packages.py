from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node import packages as wire
from koii_p2p.node.package_store import DATA, PackageStore
from koii_p2p.node.packages import NotToBeHad, PackageProtocolError, Packages, Part
from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.tasks.package import MOST_BYTES, PackageError, pack
from tests.network.nets import QUICK, Net, Node, net, until

PACKAGE = pack(
    {"config-task.yml": b"task_name: t\n", "task.py": b"pass\n", "big.bin": bytes(range(256)) * 20}
)
LIMITS = replace(QUICK, package_part_bytes=1000, package_fetch_seconds=0.8, package_retry_seconds=0.2)

Answer = Callable[[bytes, int], Awaitable[bytes]]


def at(node: Node, folder: Path, limits: Limits = LIMITS) -> Packages:
    return Packages(PackageStore(folder), node.network, limits)


def instead(node: Node, answer: Answer) -> list[int]:
    """Have a node answer in another way; returns the starts that it is asked for."""
    asked: list[int] = []

    async def serve(_asker: bytes, data: bytes) -> bytes:
        cid, start = wire.decode_question(data)
        asked.append(start)
        return await answer(cid, start)

    node.network.serve(wire.PROTOCOL, serve)
    return asked


async def two(running: Net) -> tuple[Node, Node]:
    """A node and one that knows it."""
    first = await running.add(1)
    second = await running.add(2, bootstrap=(first.address,))
    await until(lambda: second.peers() == {first.key})
    return first, second


async def test_a_package_is_had_from_a_peer_in_parts_and_given_on(tmp_path: Path) -> None:
    async with net() as running:
        first, second = await two(running)
        author, reader = at(first, tmp_path / "1"), at(second, tmp_path / "2")
        await author.offer(PACKAGE)
        assert await reader.get(PACKAGE.cid) == PACKAGE
        assert author.counts["parts given"] == -(-len(PACKAGE.data) // 1000)
        assert (reader.folder(PACKAGE.cid) / "big.bin").read_bytes() == PACKAGE.files["big.bin"]
        assert await reader.get(PACKAGE.cid) == PACKAGE
        assert reader.counts == {"fetched": 1}, "the second time it was here"
        question = wire.encode_question(PACKAGE.cid, 0)
        silent = await first.network.request(second.key, wire.PROTOCOL, question)
        assert wire.decode_part(silent, LIMITS) is None, "what is not offered is not given"
        await reader.offer(PACKAGE)
        given = wire.decode_part(await first.network.request(second.key, wire.PROTOCOL, question), LIMITS)
        assert given == Part(len(PACKAGE.data), PACKAGE.data[:1000])
        assert reader.view()["offered"] == [PACKAGE.name]


async def test_a_package_is_found_by_way_of_the_dht(tmp_path: Path) -> None:
    async with net() as running:
        middle = await running.add(1, dht="server")
        author = await running.add(2, bootstrap=(middle.address,), dht="server")
        await until(lambda: author.peers() == {middle.key})
        await at(author, tmp_path / "a").offer(PACKAGE)
        at(middle, tmp_path / "m")
        stranger = await running.add(3, bootstrap=(middle.address,), dht="client", target_peers=1)
        await until(lambda: middle.key in stranger.peers())
        reader = at(stranger, tmp_path / "s", replace(LIMITS, package_fetch_seconds=15.0))
        assert await reader.get(PACKAGE.cid) == PACKAGE


async def test_bytes_with_another_hash_are_not_even_decoded(tmp_path: Path) -> None:
    other = pack({"config-task.yml": b"", "task.py": b"evil\n"})

    async def wrong(_cid: bytes, start: int) -> bytes:
        return wire.encode_part(Part(len(other.data), other.data[start:]))

    async with net() as running:
        first, second = await two(running)
        asked = instead(first, wrong)
        reader = at(second, tmp_path)
        with pytest.raises(NotToBeHad, match="1 sent something else"):
            await reader.get(PACKAGE.cid)
        assert asked == [0], "a liar is not asked again"
        assert list(tmp_path.iterdir()) == []
        right = await running.add(3, bootstrap=(second.address,))
        await until(lambda: right.key in second.peers())
        await at(right, tmp_path / "3").offer(PACKAGE)
        assert await reader.get(PACKAGE.cid) == PACKAGE, "others are believed, by the hash"


@pytest.mark.parametrize(
    "answer",
    [
        wire.encode_part(Part(MOST_BYTES, b"x" * 1001)),
        cbor.encode({0: MOST_BYTES + 1, 1: b"x"}),
        cbor.encode({0: 5, 1: b"too much"}),
        cbor.encode({0: 5, 1: b""}),
        cbor.encode({0: 5}),
        cbor.encode({0: "5", 1: b"x"}),
        cbor.encode({0: True, 1: b"x"}),
        cbor.encode([]),
        b"",
        b"\xff" * 50,
    ],
)
async def test_an_answer_that_is_none_ends_the_talk(answer: bytes, tmp_path: Path) -> None:
    async def say(_cid: bytes, _start: int) -> bytes:
        return answer

    async with net() as running:
        first, second = await two(running)
        asked = instead(first, say)
        with pytest.raises(NotToBeHad, match="1 sent something else"):
            await at(second, tmp_path).get(PACKAGE.cid)
        assert asked == [0]


async def test_a_peer_that_changes_its_mind_or_stops_is_left(tmp_path: Path) -> None:
    async def growing(_cid: bytes, start: int) -> bytes:
        return wire.encode_part(Part(5000 + start, b"x"))

    async def ending(_cid: bytes, start: int) -> bytes:
        return wire.encode_part(Part(5000, b"x") if start == 0 else None)

    async with net() as running:
        first, second = await two(running)
        third = await running.add(3, bootstrap=(second.address,))
        await until(lambda: len(second.peers()) == 2)
        asked = [instead(first, growing), instead(third, ending)]
        reader = at(second, tmp_path)
        with pytest.raises(NotToBeHad, match=r"Of 2 peers .* 2 sent something else"):
            await reader.get(PACKAGE.cid)
        assert asked == [[0, 1], [0, 1]]


async def test_who_takes_too_long_does_not_hold_up_another(tmp_path: Path) -> None:
    async def never(_cid: bytes, _start: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with net() as running:
        first, second = await two(running)
        third = await running.add(3, bootstrap=(second.address,))
        await until(lambda: len(second.peers()) == 2)
        instead(first, never)
        await at(third, tmp_path / "3").offer(PACKAGE)
        assert await at(second, tmp_path / "2").get(PACKAGE.cid) == PACKAGE


async def test_a_package_that_nobody_has_or_that_is_unknown_is_said(tmp_path: Path) -> None:
    async with net() as running:
        lonely = await running.add(1)
        with pytest.raises(NotToBeHad, match="No peer was there to be asked") as refused:
            await at(lonely, tmp_path / "1").get(PACKAGE.cid)
        assert refused.value.exit_code == 4
        assert "--task ID=PATH" in refused.value.remedy
        second = await running.add(2, bootstrap=(lonely.address,))
        await until(lambda: second.peers() == {lonely.key})
        reader = at(second, tmp_path / "2")
        with pytest.raises(NotToBeHad, match=r"Of 1 peers that were asked in 0\.8 s none had it\."):
            await reader.get(cid_of(b"nothing"))


async def test_who_has_nothing_now_is_asked_again_later(tmp_path: Path) -> None:
    async with net() as running:
        first, second = await two(running)
        author = at(first, tmp_path / "1")
        reader = at(second, tmp_path / "2", replace(LIMITS, package_fetch_seconds=20.0))

        async def later() -> None:
            await until(lambda: author.counts["not here"] > 1)
            await author.offer(PACKAGE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            assert await reader.get(PACKAGE.cid) == PACKAGE


async def test_bytes_that_have_the_cid_and_are_no_package_are_refused(tmp_path: Path) -> None:
    junk = b"not a package" * 100

    async def say(_cid: bytes, start: int) -> bytes:
        return wire.encode_part(Part(len(junk), junk[start : start + 1000]))

    async with net() as running:
        first, second = await two(running)
        instead(first, say)
        with pytest.raises(PackageError):
            await at(second, tmp_path).get(cid_of(junk))
        assert list(tmp_path.iterdir()) == []


async def test_questions_of_peers_are_bounded_and_a_damaged_package_is_not_given(tmp_path: Path) -> None:
    async with net() as running:
        first, second = await two(running)
        author = at(first, tmp_path)
        await author.offer(PACKAGE)

        async def ask(data: bytes) -> bytes:
            return await second.network.request(first.key, wire.PROTOCOL, data)

        for start in (len(PACKAGE.data), MOST_BYTES):
            assert wire.decode_part(await ask(wire.encode_question(PACKAGE.cid, start)), LIMITS) is None
        for data in (b"", bytes(200), cbor.encode({0: PACKAGE.cid, 1: -1}), cbor.encode({0: b"x", 1: 0})):
            with pytest.raises(RequestFailed):
                await ask(data)
        (tmp_path / PACKAGE.name / DATA).unlink()
        with pytest.raises(RequestFailed):
            await ask(wire.encode_question(PACKAGE.cid, 0))
        assert (await second.network.request(first.key, "/koii-p2p/echo/1", b"alive")) == b"alive"


async def test_what_is_given_to_one_peer_and_to_all_is_bounded_for_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    size = len(PACKAGE.data)
    bounded = replace(
        LIMITS, package_given_peer_bytes=2 * size, package_given_bytes=3 * size, package_given_seconds=600.0
    )
    network = Network(SecretKey.generate(), NetworkSettings(listen=()), bounded)
    author = Packages(PackageStore(tmp_path), network, bounded)
    await author.offer(PACKAGE)

    async def given(asker: bytes) -> int:
        """Bytes that a peer gets when it asks for every part."""
        total = 0
        for start in range(0, size, 1000):
            answer = await author._answer(asker, wire.encode_question(PACKAGE.cid, start))
            part = wire.decode_part(answer, bounded)
            total += 0 if part is None else len(part.data)
        return total

    assert [await given(b"1") for _ in range(3)] == [size, size, 0]
    assert [await given(b"2"), await given(b"2"), await given(b"3")] == [size, 0, 0]
    assert author.counts["too much asked for"] == 3 * -(-size // 1000)
    await trio.sleep(601)
    assert [await given(b"1"), await given(b"3")] == [size, size]


def test_questions_and_parts_are_read_as_they_were_written() -> None:
    assert wire.decode_question(wire.encode_question(PACKAGE.cid, 7)) == (PACKAGE.cid, 7)
    assert wire.decode_part(wire.encode_part(Part(9, b"abc")), LIMITS) == Part(9, b"abc")
    assert wire.decode_part(wire.encode_part(None), LIMITS) is None
    with pytest.raises(PackageProtocolError):
        wire.decode_question(cbor.encode({0: PACKAGE.cid, 1: MOST_BYTES + 1}))
