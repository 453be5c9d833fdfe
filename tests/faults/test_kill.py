"""`kill -9` of honest nodes in every phase of a round, in a net of real processes; each comes back to the same home."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from koii_p2p.limits import Limits
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import Evidence, fetch_copies, read_task_chain
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.net import NetNode, RunningNet, running_testnet
from koii_p2p.testnets.outcome import outcome_of
from koii_p2p.testnets.topology import load_topology

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROUNDS = 5
DOWN_SECONDS = 2.5


def moments(clock: RoundClock) -> dict[str, int]:
    """A slot inside each phase of round 1, in order of time."""
    return {
        "work": clock.work(1).opens + 10,
        "submission": clock.submission(1).opens + 10,
        "audit": clock.audit(1).opens + 10,
        "delay": clock.delay(1).opens + 3,
        "distribution": clock.distribution(1).opens + 3,
        "distribution audit": clock.distribution_audit(1).opens + 10,
    }


@asynccontextmanager
async def net_of_five(folder: Path) -> AsyncIterator[RunningNet]:
    topology = load_topology(None, {"nodes": 5, "cheaters": 1, "rounds": ROUNDS})
    async with running_testnet(topology, NetFolder(folder), os.environ, print) as net:
        yield net


async def until(net: RunningNet, slot: int) -> None:
    while await net.settlement.slot() < slot:
        await trio.sleep(0.1)


async def kill_and_restart(net: RunningNet, node: NetNode) -> None:
    assert node.child is not None
    node.child.signal(signal.SIGKILL)
    await node.child.ended()
    assert node.child.how_it_ended() == "signal SIGKILL"
    await trio.sleep(DOWN_SECONDS)
    await net.start_node(node)


async def test_rounds_go_on_and_nobody_honest_is_slashed(tmp_path: Path) -> None:
    async with net_of_five(tmp_path / "net") as net, AsyncExitStack() as stack:
        assert net.terms is not None
        clock = net.terms.clock
        honest = net.nodes[:4]
        killed: list[tuple[str, str]] = []
        for index, (phase, slot) in enumerate(moments(clock).items()):
            await until(net, slot)
            victim = honest[(index + 1) % len(honest)]
            killed.append((phase, victim.name))
            await kill_and_restart(net, victim)
        assert [phase for phase, _ in killed] == list(moments(clock))

        await until(net, clock.settles_at(ROUNDS - 1) + 40)
        clients = [await stack.enter_async_context(node.client()) for node in net.nodes]
        copies, silent = await fetch_copies(clients, net.task_name, range(ROUNDS))
        assert not silent
        identities = tuple(node.identity for node in net.nodes)
        chain = await read_task_chain(net.rpc, net.task, clock, ROUNDS, identities, Limits())
        report = check(Evidence(chain, identities, ROUNDS, copies))
        assert report.verified, [str(finding) for finding in report.findings]
        slashed = {row.node.name: row.slash for row in outcome_of(report, identities).nodes}
        assert slashed.pop(net.nodes[4].name) == net.topology.stake * 7000 // 10000
        assert set(slashed.values()) == {0}, (slashed, killed)

        # Whoever came back knows the last round as everybody does, and worked in it.
        views = [await client.round(net.task_name, ROUNDS - 1) for client in clients]
        for client, view in zip(clients, views, strict=True):
            assert view is not None, (client.name, await client.status())
        assert len({view["commitment"] for view in views if view}) == 1
        last = views[0]
        assert last is not None
        approved = {entry["author"] for entry in last["submitted"] if entry["outcome"] == "APPROVED"}
        assert {node.identity.key for node in honest} <= approved
