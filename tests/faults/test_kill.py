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

DOWN_SECONDS = 2.5
PHASES = ("work", "submission", "audit", "delay", "distribution", "distribution_audit")


async def next_moment_in(net: RunningNet, clock: RoundClock, phase: str) -> int:
    """A slot shortly after the next time that some round from 1 on enters this phase."""
    now = await net.settlement.slot()
    rounds = range(1, max(clock.period(now), 0) + 3)
    opens = (getattr(clock, phase)(number).opens + 3 for number in rounds)
    return next(slot for slot in opens if slot > now)


@asynccontextmanager
async def net_of_five(folder: Path) -> AsyncIterator[RunningNet]:
    topology = load_topology(None, {"nodes": 5, "cheaters": 1, "rounds": 5})
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
        for index, phase in enumerate(PHASES):
            await until(net, await next_moment_in(net, clock, phase))
            victim = honest[(index + 1) % len(honest)]
            killed.append((phase, victim.name))
            await kill_and_restart(net, victim)

        last = clock.period(await net.settlement.slot()) + 1  # the first round that all are back for
        rounds = last + 1
        await until(net, clock.settles_at(last) + 40)
        clients = [await stack.enter_async_context(node.client()) for node in net.nodes]
        copies, silent = await fetch_copies(clients, net.task_name, range(rounds))
        assert not silent
        identities = tuple(node.identity for node in net.nodes)
        chain = await read_task_chain(net.rpc, net.task, clock, rounds, identities, Limits())
        report = check(Evidence(chain, identities, rounds, copies))
        assert report.verified, [str(finding) for finding in report.findings]
        slashed = {row.node.name: row.slash for row in outcome_of(report, identities).nodes}
        assert slashed.pop(net.nodes[4].name) == net.topology.stake * 7000 // 10000
        assert set(slashed.values()) == {0}, (slashed, killed)

        # Whoever came back knows the newest round as everybody does, and worked in it.
        views = [await client.round(net.task_name, last) for client in clients]
        for client, view in zip(clients, views, strict=True):
            assert view is not None, (client.name, await client.status())
        assert len({view["commitment"] for view in views if view}) == 1
        seen = views[0]
        assert seen is not None
        approved = {entry["author"] for entry in seen["submitted"] if entry["outcome"] == "APPROVED"}
        assert {node.identity.key for node in honest} <= approved
