from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from koii_p2p.data import protocol
from koii_p2p.data.manifest import Manifest
from koii_p2p.data.placement import holders_of
from koii_p2p.data.putting import PutSettings
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.errors import NetworkError
from koii_p2p.storage.faults import LimitExceeded
from koii_p2p.storage.shards import Place
from tests.data.rooms import FAST, SEED, TASK, DataNet, DataNode, blob, chunks, data_net, read
from tests.network.nets import until

pytestmark = pytest.mark.timeout(180)


async def upkeep(nodes: list[DataNode], nursery: trio.Nursery) -> None:
    for node in nodes:
        scope = trio.CancelScope()
        node.upkeep_scope = scope

        async def run(node: DataNode = node, scope: trio.CancelScope = scope) -> None:
            with scope:
                await node.data.run()

        nursery.start_soon(run)


def live(nodes: list[DataNode], cid: bytes) -> dict[Place, list[bytes]]:
    found: dict[Place, list[bytes]] = {}
    for node in nodes:
        stored = node.store.blob(cid)
        for place in stored.held if stored else ():
            found.setdefault(place, []).append(node.key)
    return found


async def manifest_of(node: DataNode, cid: bytes) -> Manifest:
    return (await node.data.find(cid)).manifest


async def put(net: DataNet, size: int = 300_000, seed: int = 1, by: int = 0) -> tuple[bytes, bytes]:
    data = blob(size, seed)
    result = await net.nodes[by].data.put(TASK, chunks(data))
    return result.reference.manifest, data


async def test_lost_shards_are_made_anew_when_the_margin_is_gone_and_not_by_everybody(tmp_path: Path) -> None:
    async with data_net(tmp_path, 12) as net, trio.open_nursery() as nursery:
        cid, data = await put(net)
        due = holders_of(SEED, (await manifest_of(net.nodes[0], cid)).blocks[0].cid, net.told.members, 8)
        lost = [net.of(key) for key in due[:3]]
        rest = [node for node in net.nodes if node not in lost]
        for node in lost:
            await node.node.stop()
        assert len(live(rest, cid)) == 5, "fewer than k + margin"
        await upkeep(rest, nursery)
        await until(lambda: len(live(rest, cid)) == 8, 40)
        await until(lambda: sum(node.count("shards repaired") for node in rest) >= 3)
        # One node is enough; a machine that stalls for some turns makes a second one think that it is needed.
        assert sum(node.count("shards repaired") > 0 for node in rest) <= 2
        assert await read(rest[-1], cid) == data
        nursery.cancel_scope.cancel()


async def test_what_belongs_to_a_newcomer_is_brought_to_it_and_removed_elsewhere(tmp_path: Path) -> None:
    async with data_net(tmp_path, 8) as net, trio.open_nursery() as nursery:
        found = [await put(net, 50_000, seed) for seed in range(6)]
        newcomers = [await net.add(), await net.add(), await net.add()]
        await net.connect()
        await upkeep(net.nodes, nursery)
        want = {cid: (await manifest_of(net.nodes[0], cid)).blocks[0].cid for cid, _ in found}

        def all_placed() -> bool:
            return all(
                live(net.nodes, cid)
                == {(0, i): [key] for i, key in enumerate(holders_of(SEED, block, net.told.members, 8))}
                for cid, block in want.items()
            )

        await until(all_placed, 40)
        assert sum(len(node.store.blobs()) for node in newcomers) > 0
        for cid, data in found:
            assert await read(newcomers[0], cid) == data
        nursery.cancel_scope.cancel()


async def test_data_ends_with_its_term_unless_it_is_pinned(tmp_path: Path) -> None:
    async with data_net(tmp_path, 8) as net, trio.open_nursery() as nursery:
        kept, data = await put(net, 10_000, 1)
        gone, _ = await put(net, 10_000, 2)
        view = await net.nodes[3].data.pin(kept)
        assert view.pinned
        assert view.until == net.told.round + FAST.data_most_rounds
        await upkeep(net.nodes, nursery)
        net.told.round += 9
        await until(lambda: all(node.store.blob(gone) is None for node in net.nodes), 20)
        assert await read(net.nodes[5], kept) == data
        for _ in range(3):  # the pin renews the term well before it ends, round for round
            net.told.round += FAST.data_most_rounds // 2 + 1
            most = net.told.round + FAST.data_most_rounds
            await until(
                lambda most=most: all(  # type: ignore[misc]
                    node.store.blob(kept) is None or node.store.blob(kept).until == most for node in net.nodes
                ),
                20,
            )
        assert await read(net.nodes[5], kept) == data
        await net.nodes[3].data.unpin(kept)
        net.told.round += FAST.data_most_rounds + 1
        await until(lambda: all(not node.store.blobs() for node in net.nodes), 20)
        assert all(node.store.used() == 0 for node in net.nodes)
        with pytest.raises(DataError) as refused:
            await net.nodes[0].data.find(kept)
        assert refused.value.reason is DataReason.NOT_FOUND
        nursery.cancel_scope.cancel()


async def test_two_liars_are_detected_and_routed_around(tmp_path: Path) -> None:
    async with data_net(tmp_path, 8) as net:
        found = [await put(net, 200_000, seed) for seed in range(4)]
        for liar in net.nodes[1:3]:
            manifest_room = liar.data.room

            async def lie(cid: bytes, place: Place, manifest: Manifest) -> bytes:
                return b"\0" * manifest.shard_length(place[0])

            manifest_room.shard = lie  # type: ignore[method-assign]
        reader = net.nodes[7]
        for cid, data in found:
            assert await read(reader, cid) == data
        statistics = reader.data.statistics()
        assert statistics.holders.liars == 2
        assert dict(statistics.holders.blamed) == {"wrong_hash": 2}, "each is believed once"
        scores = {peer.key: peer.score for peer in reader.network.peers()}
        assert all(scores[liar.key] < 0 for liar in net.nodes[1:3])


async def test_a_holder_that_lost_what_it_claims_is_found_by_challenges(tmp_path: Path) -> None:
    async with (
        data_net(tmp_path, 10, replace(FAST, data_upkeep_seconds=0.2)) as net,
        trio.open_nursery() as nursery,
    ):
        found = [await put(net, 20_000, seed) for seed in range(12)]
        empty = net.nodes[4]

        async def nothing(cid: bytes, place: Place, manifest: Manifest) -> None:
            return None

        empty.data.room.shard = nothing  # type: ignore[method-assign, assignment]
        others = [node for node in net.nodes if node is not empty]
        await upkeep(others, nursery)
        await until(lambda: any(node.data.statistics().holders.suspects for node in others), 40)
        for cid, data in found:
            assert await read(others[-1], cid) == data
        nursery.cancel_scope.cancel()


async def test_who_is_not_on_the_roster_stores_nothing(tmp_path: Path) -> None:
    async with data_net(tmp_path, 5) as net:
        stranger = await net.add(member=False)
        await net.connect()
        result = await stranger.data.put(TASK, chunks(blob(5000)))
        assert result.placed.placed == 0
        assert result.placed.waiting == 8
        assert stranger.count("turned away: not_a_member") > 0
        assert all(not node.store.blobs() for node in net.nodes[:5])


async def test_full_holders_are_passed_over(tmp_path: Path) -> None:
    async with data_net(tmp_path, 6) as net:
        full = await net.add(replace(FAST, data_bytes=1000))
        await net.connect()
        data = blob(400_000)
        result = await net.nodes[0].data.put(TASK, chunks(data))
        assert result.placed.waiting == 0 or result.placed.placed >= 6
        assert net.nodes[0].count("turned away: no_room") > 0
        assert await read(full, result.reference.manifest) == data


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", protocol.STORE),
        (b"\xff" * 100, protocol.FETCH),
        (b"\xa0", protocol.CENSUS),
        (b"\xa0", protocol.CHALLENGE),
    ],
)
async def test_malformed_questions_end_with_their_stream(tmp_path: Path, payload: bytes, kind: str) -> None:
    from koii_p2p.network.requests import RequestFailed

    async with data_net(tmp_path, 2) as net:
        cid, data = await put(net, 1000)
        with pytest.raises(RequestFailed):
            await net.nodes[0].network.request(net.nodes[1].key, kind, payload)
        assert await read(net.nodes[1], cid) == data


async def test_bad_requests_have_clear_reasons(tmp_path: Path) -> None:
    async with data_net(tmp_path, 3) as net:
        node = net.nodes[0]
        for settings, reason in (
            (PutSettings(rounds=2), DataReason.BAD_TERM),
            (PutSettings(rounds=1000), DataReason.BAD_TERM),
            (PutSettings(block_bytes=10), DataReason.BAD_BLOCK_SIZE),
        ):
            with pytest.raises(DataError) as refused:
                await node.data.put(TASK, chunks(b"x"), settings)
            assert refused.value.reason is reason
        with pytest.raises(DataError) as refused:
            await node.data.put(bytes(32), chunks(b"x"))
        assert refused.value.reason is DataReason.NO_SPACE
        assert node.store.used() == 0


class Failing:
    """A directory that cannot be reached."""

    async def provide(self, key: bytes) -> None:
        raise NetworkError("Nobody was asked.", "The DHT is off.", "Switch it on.")

    def stop_providing(self, key: bytes) -> None:
        raise AssertionError("nothing was provided")

    async def find_providers(self, key: bytes, *, count: int, deadline: float) -> tuple[bytes, ...]:
        raise NetworkError("Nobody was asked.", "The DHT is off.", "Switch it on.")


async def test_a_directory_that_fails_costs_nothing_but_itself(tmp_path: Path) -> None:
    async with data_net(tmp_path, 3) as net, trio.open_nursery() as nursery:
        for node in net.nodes:
            node.data.room.directory = Failing()
        cid, data = await put(net, 5000)
        await upkeep(net.nodes, nursery)
        await until(lambda: sum(node.count("announcements failed") for node in net.nodes) > 0)
        assert await read(net.nodes[2], cid) == data
        nursery.cancel_scope.cancel()


async def test_who_is_on_no_roster_finds_a_blob_by_the_directory(tmp_path: Path) -> None:
    async with data_net(tmp_path, 6) as net, trio.open_nursery() as nursery:
        cid, data = await put(net, 5000)
        await upkeep(net.nodes, nursery)
        await until(lambda: cid in net.records)
        stranger = await net.add(member=False)
        await net.connect()
        stranger.data.room.spaces.clear()
        assert await read(stranger, cid) == data
        assert len(net.records[cid]) <= 3
        nursery.cancel_scope.cancel()


async def test_room_is_made_of_what_is_over(tmp_path: Path) -> None:
    async with data_net(tmp_path, 1, replace(FAST, data_bytes=60_000)) as net:
        node = net.nodes[0]
        await put(net, 20_000, 1)
        with pytest.raises(LimitExceeded):
            await put(net, 20_000, 2)
        net.told.round += 9
        cid, data = await put(net, 20_000, 2)
        assert await read(node, cid) == data
        assert node.store.statistics().expired == 1
