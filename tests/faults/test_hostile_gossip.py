"""What one peer may cost a node in memory and open files: case 20, slow loris, churn, bad lines, 200 starts and stops.

`docs/network-cases.md` lists the cases. Where memory counts the node is in a process of its own.
"""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
import trio.testing
from libp2p.exceptions import BaseLibp2pError
from libp2p.pubsub.pb import rpc_pb2

from koii_p2p.conditions import Conditions, Link, encode_conditions
from koii_p2p.network.frames import encode_varint
from koii_p2p.network.settings import NetworkSettings
from tests.faults.victim import MIB, Seen, Victim, victim
from tests.network.attacker import MESHSUB, Attacker, attacker
from tests.network.nets import LOOPBACK, QUICK, TOPIC, Node, net, until
from tests.node.peers import BALLOTS

BOUND = 24 * MIB
"""More memory than before, at most, as in `test_hostile_records.py`."""


async def settled(target: Victim) -> Seen:
    """How a victim is once somebody has been there and has gone: whatever is loaded at first use is loaded."""
    async with attacker(target) as guest:
        await guest.publish(guest.message(b"of no kind"))
        await target.until(lambda seen: sum(seen.judged.values()) == 1)
    return await target.until(lambda seen: not seen.peers)


async def still_serves(target: Victim, before: Seen) -> Seen:
    """A newcomer gets a vote in; afterwards everything is as it was, within the bound."""
    async with attacker(target) as honest:
        await honest.publish(honest.message(BALLOTS[0].raw))
        await target.until(lambda seen: BALLOTS[0].id.hex() in seen.records)
    after = await target.until(lambda seen: not seen.peers and seen.files <= before.files)
    assert after.rss - before.rss < BOUND, (after.rss - before.rss) / MIB
    return after


def control(**fields: Any) -> bytes:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**fields)).SerializeToString()


async def giants(enemy: Attacker, turn: int) -> None:
    """10 000 subscriptions, and the largest IHAVE, IWANT, GRAFT, PRUNE and IDONTWANT that fit into RPCs."""
    names = [
        rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"topic {turn} {number} " + "x" * 40)
        for number in range(10_000)
    ]
    ids = [(turn * 10**6 + number).to_bytes(20, "big") for number in range(20_000)]
    record = rpc_pb2.PeerInfo(peerID=bytes(38), signedPeerRecord=bytes(4000))
    prunes = [rpc_pb2.ControlPrune(topicID=f"{number}", backoff=2**64 - 1) for number in range(10_000)]
    rpcs = [
        rpc_pb2.RPC(subscriptions=names).SerializeToString(),
        control(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=ids)]),
        control(iwant=[rpc_pb2.ControlIWant(messageIDs=ids)]),
        control(graft=[rpc_pb2.ControlGraft(topicID=f"{turn} {number}") for number in range(10_000)]),
        control(
            prune=[*prunes, rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**64 - 1, peers=[record] * 200)]
        ),
        control(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=ids)]),
    ]
    for rpc in rpcs:
        with suppress(BaseLibp2pError):
            await enemy.gossip(rpc)


@pytest.mark.slow
async def test_case_20_giant_subscriptions_and_control_do_not_grow_memory() -> None:
    """20: 10 000 subscriptions, giant IHAVE, IWANT, GRAFT, PRUNE, IDONTWANT, ten times by others: 24 MiB at most."""
    async with victim() as target:
        before = await settled(target)
        for turn in range(10):
            async with attacker(target) as enemy:
                await target.until(lambda seen, enemy=enemy: enemy.key.hex() in seen.peers)  # type: ignore[misc]
                counted = (await target.look()).refused.get("idontwant_ids", 0)
                await giants(enemy, turn)
                with trio.move_on_after(10):  # unless it is thrown out before its last words
                    await target.until(
                        lambda seen, counted=counted: seen.refused.get("idontwant_ids", 0) > counted  # type: ignore[misc]
                    )
        after = await still_serves(target, before)
        refused = after.refused
        assert refused["subscriptions_per_rpc"] >= 5 * (10_000 - 128)
        for reason in ("topics_per_peer", "ihave_ids", "iwant_ids", "idontwant_ids", "control_entries"):
            assert refused[reason] > 0, refused


@pytest.mark.slow
async def test_slow_loris_peers_hold_nothing_for_long() -> None:
    """A hundred sockets that say a byte now and then, streams with half a frame: cut off, and newcomers get in."""
    async with victim(negotiation_deadline=4.0) as target:
        before = await settled(target)
        port = int(target.address.split("/")[4])
        async with trio.open_nursery() as nursery:

            async def dribble() -> None:
                with suppress(OSError, trio.BrokenResourceError):
                    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                        for byte in b"\x13/multistream/1.0.0\n\x07/noise\n":
                            await stream.send_all(bytes([byte]))
                            await trio.sleep(0.5)

            for _ in range(100):
                nursery.start_soon(dribble)
            await trio.sleep(1)
            async with attacker(target) as enemy:
                for _ in range(20):
                    with suppress(BaseLibp2pError):
                        stream = await enemy.stream(MESHSUB)
                        await stream.write(encode_varint(900_000) + bytes(100))
                async with attacker(target) as honest:
                    await honest.publish(honest.message(BALLOTS[1].raw))
                    await target.until(lambda seen: BALLOTS[1].id.hex() in seen.records)
            await target.until(lambda seen: seen.files <= before.files + 2)
            nursery.cancel_scope.cancel()
        await still_serves(target, before)


@pytest.mark.slow
async def test_peers_that_come_and_go_leave_nothing_behind() -> None:
    """Sixty nodes connect, gossip and leave, six at a time: files as before, 24 MiB at most, votes are taken."""
    async with victim() as target:
        before = await settled(target)
        for turn in range(10):
            async with net() as running:
                nodes = [
                    await running.add(seed, bootstrap=(target.address,), dht="off", target_peers=1)
                    for seed in range(1000 + 6 * turn, 1006 + 6 * turn)
                ]
                await target.until(lambda seen, nodes=nodes: len(seen.peers) == len(nodes))  # type: ignore[misc]
                vote = BALLOTS[2 + turn % 3]
                await nodes[0].network.publish(TOPIC, vote.raw)
                await target.until(lambda seen, vote=vote: vote.id.hex() in seen.records)  # type: ignore[misc]
        await still_serves(target, before)


async def test_one_percent_loss_and_300_ms_jitter_lose_no_message_and_no_link(tmp_path: Path) -> None:
    """Four nodes whose links take 300 ms, give or take 300, and lose a segment in a hundred."""
    file = tmp_path / "conditions.json"
    file.write_bytes(encode_conditions(Conditions(Link(latency_ms=300, jitter_ms=300, loss=0.01), seed=1)))
    nodes: list[Node] = []
    async with trio.open_nursery() as nursery:
        for seed in range(1, 5):
            settings = NetworkSettings(
                listen=LOOPBACK, bootstrap=tuple(node.address for node in nodes), dht="off", conditions=file
            )
            limits = replace(QUICK, negotiation_deadline=15.0, dial_deadline=20.0, peer_stall_seconds=30.0)
            nodes.append(Node(seed, settings, limits, None))
            await nursery.start(nodes[-1].run)
        await until(lambda: all(one.knows(other) for one in nodes for other in nodes if one is not other), 60)
        said = [b"%d" % number for number in range(60)]
        for number, data in enumerate(said):
            await nodes[number % 4].network.publish(TOPIC, data)
            await trio.sleep(0.05)
        for place, node in enumerate(nodes):
            wanted = {data for number, data in enumerate(said) if number % 4 != place}
            await until(lambda node=node, wanted=wanted: set(node.received) == wanted, 40)  # type: ignore[misc]
        statistics = [node.network.statistics() for node in nodes]
        assert all(len(node.received) == len(set(node.received)) for node in nodes)
        assert all((one.peers, one.bans, one.disconnects) == (3, 0, ()) for one in statistics)
        shaped = [one.shaping for one in statistics]
        assert sum(one.retransmissions for one in shaped if one is not None) >= 1
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_hundred_starts_and_stops_with_gossip_leak_nothing() -> None:
    """Open files, threads and tasks exactly as before, 16 MiB more memory at most, after 200 cycles of two nodes."""

    def now() -> tuple[int, int, int]:
        files = len(os.listdir("/proc/self/fd"))
        # Trio keeps a thread for ten seconds after its work, under this name.
        threads = sum(not thread.name.startswith("Trio thread ") for thread in threading.enumerate())
        return files, threads, trio.lowlevel.current_statistics().tasks_living

    async def once(number: int) -> None:
        async with net() as running:
            first, second = await running.chain(2)
            for node, other in ((first, second), (second, first)):
                data = b"%d" % number
                await node.network.publish(TOPIC, data + node.key)
                await until(lambda other=other, data=data + node.key: data in other.received)  # type: ignore[misc]

    async def quiet() -> tuple[int, int, int]:
        await trio.testing.wait_all_tasks_blocked(0.05)
        gc.collect()
        return now()

    for number in range(20):  # the first ones fill caches
        await once(number)
    before, memory = await quiet(), psutil.Process().memory_info().rss
    for number in range(200):
        await once(number)
    assert await quiet() == before
    assert psutil.Process().memory_info().rss - memory < 16 * MIB
