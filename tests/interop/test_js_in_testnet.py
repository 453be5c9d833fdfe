"""An unmodified js-libp2p joins a testnet of real processes: it hears the nodes' records, and they hear its own.

The js peer knows the wire only by the documents: libp2p, GossipSub, and `records.cddl`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
from solders.pubkey import Pubkey

from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.records.schema import Kind
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.node_client import NodeClient
from tests.e2e.shell import LONG, koii_p2p, running
from tests.faults.victim import PRESENCE_TOPIC, victim
from tests.interop.js_peer import Peer, js_peer
from tests.network.nets import TOPIC
from tests.node.peers import NOW
from tests.rounds.net import GENESIS, TASK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

NODES = 3
TOPICS = ("submissions", "audits", "presence")


async def until(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 90) -> Any:
    """What a condition came to when it held; fails when it does not."""
    with trio.move_on_after(seconds):
        while not (found := await condition()):
            await trio.sleep(0.2)
        return found
    raise AssertionError(f"waited {seconds} s in vain for {what}")


async def presences(client: NodeClient) -> int:
    [found] = [one for one in (await client.resources())["limits"] if one["name"] == "presences"]
    return int(found["used"])


async def peer_at(client: NodeClient, key: bytes) -> dict[str, Any]:
    [found] = [one for one in await client.peers() if one["key"] == str(Pubkey(key))] or [{}]
    return found


async def test_a_js_peer_hears_a_testnet_and_is_heard_and_refused(tmp_path: Path, js_folder: Path) -> None:
    where = ("--dir", str(tmp_path / "net"))
    files = ("--nodes", str(NODES), "--cheaters", "0", "--rounds", "1")
    with running("testnet", "up", "--keep", *files, *where) as net:
        await trio.to_thread.run_sync(net.wait_for, "the testnet goes on", LONG)
        try:
            await plays_along(NetFolder(tmp_path / "net"), js_folder)
        finally:
            done = await trio.to_thread.run_sync(lambda: koii_p2p("testnet", "down", *where))
        assert done.returncode == 0


async def plays_along(folder: NetFolder, js_folder: Path) -> None:
    state = folder.read()
    assert state is not None
    assert state.task is not None
    task = bytes(Pubkey.from_string(state.task))
    homes = [folder.home(f"node-{number:02d}").path for number in range(NODES)]
    topics = {name: f"/koii-p2p/1/{state.task}/{name}" for name in TOPICS}
    async with (
        NodeClient.of_home(homes[0]) as first,
        NodeClient.of_home(homes[-1]) as last,
    ):
        status = await first.status()
        genesis = bytes(Pubkey.from_string(status["cluster"]["genesis"]))
        async with js_peer(js_folder, "testnet_peer.mjs", genesis.hex(), task.hex()) as (peer, js_id, _):
            await joins(peer, status["addresses"][0], topics.values())
            await hears_the_nodes(peer, first, state.task, task)
            await is_heard(peer, first, last, topics["presence"], key_of_peer_id(js_id))
            await is_refused(peer, first, topics["presence"], key_of_peer_id(js_id))
            assert (await last.status())["network"][
                "peers"
            ] >= NODES - 1  # the others are none the worse for it


async def joins(peer: Peer, address: str, topics: Iterable[str]) -> None:
    """The js peer dials one node, which it knows by identify and pings, and subscribes to the task's topics."""
    assert (await peer.do("dial", address=address))["encryption"] == "/noise"
    assert (await peer.do("ping", address=address))["ms"] >= 0
    for topic in topics:
        await peer.do("subscribe", topic=topic)

    async def identified() -> bool:
        known = await peer.do("known", id=address.rpartition("/")[2])
        return {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.2.0"} <= set(known["protocols"])

    await until(identified, "identify", 20)


async def hears_the_nodes(peer: Peer, node: NodeClient, name: str, task: bytes) -> None:
    """Every submission and ballot of a whole round reaches the js peer, which finds them well signed."""
    start = (
        max(one["round"] for one in await node.rounds()) + 1
    )  # the first that it can hear from its beginning

    async def settled() -> dict[str, Any] | None:
        found = await node.round(name, start)
        return found if found is not None and found["commitment"] is not None else None

    played = await until(settled, f"round {start}")
    heard = (await peer.do("records"))["records"]
    assert all(one["good"] for one in heard)
    assert {one["task"] for one in heard} == {task.hex()}
    of_round = {one["id"]: one for one in heard if one["round"] == start}
    said = [*played["submitted"], *played["votes"]]
    assert len(played["submitted"]) == NODES
    assert len(played["votes"]) >= NODES - 1
    for one in said:
        found = of_round[one["id"]]
        assert found["author"] == bytes(Pubkey.from_string(one["author"])).hex()
        assert found["kind"] in (Kind.SUBMISSION, Kind.BALLOT)


async def is_heard(peer: Peer, first: NodeClient, last: NodeClient, topic: str, key: bytes) -> None:
    """A presence that the js peer signs is admitted by the node it is linked to and by one it is not linked to."""
    before = await presences(last)
    slot = (await first.status())["slot"]["slot"]
    assert (await peer.do("present", topic=topic, slot=slot, round=0))["recipients"] >= 1

    async def everywhere() -> bool:
        return await presences(last) == before + 1 and await presences(first) == before + 1

    await until(everywhere, "the presence at every node", 30)
    assert (await peer_at(first, key))["rejects"] == 0


async def is_refused(peer: Peer, node: NodeClient, topic: str, key: bytes) -> None:
    """Forged presences are counted one by one, cost score, and with the eleventh the js peer is banned."""
    before = await presences(node)
    slot = (await node.status())["slot"]["slot"] + 1
    assert len((await peer.do("forge", topic=topic, slot=slot, round=0, count=3))["sent"]) == 3

    async def counted() -> dict[str, Any] | None:
        found = await peer_at(node, key)
        return found if found.get("rejects") == 3 else None

    assert (await until(counted, "three rejects", 30))["score"] < 0
    await peer.do("forge", topic=topic, slot=slot + 3, round=0, count=12)

    async def gone() -> bool:
        return not await peer_at(node, key) and (await node.status())["network"]["bans"] == 1

    await until(gone, "the ban", 30)
    assert await presences(node) == before
    mesh = json.dumps(await node.mesh())
    assert "rejected" in mesh


async def test_what_a_js_peer_signs_is_admitted_and_what_it_forges_is_not(js_folder: Path) -> None:
    """The same without a testnet, against one node in a process of its own."""
    async with (
        victim() as node,
        js_peer(js_folder, "testnet_peer.mjs", GENESIS.hex(), TASK.hex()) as (peer, js_id, _),
    ):
        await joins(peer, node.address, [PRESENCE_TOPIC, TOPIC])
        await peer.do("present", topic=PRESENCE_TOPIC, slot=NOW, round=0)
        await node.until(lambda seen: seen.presences == 1)
        sent = (await peer.do("forge", topic=PRESENCE_TOPIC, slot=NOW + 1, round=0, count=3))["sent"]
        assert len({one["id"] for one in sent}) == 3
        key = key_of_peer_id(js_id).hex()
        seen = await node.until(lambda seen: seen.rejects.get(key) == 3)
        assert (seen.judged["BAD_SIGNATURE"], seen.presences) == (3, 1)
        await peer.do("forge", topic=PRESENCE_TOPIC, slot=NOW + 4, round=0, count=12)
        seen = await node.until(lambda seen: key not in seen.peers)
        assert (seen.bans, seen.presences) == (1, 1)
        assert seen.judged["BAD_SIGNATURE"] <= 11
