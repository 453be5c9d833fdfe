"""Nets of real processes on a local K2 that drops transactions, lags, is killed, and takes blocks back."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from koii_p2p.amounts import roe
from koii_p2p.limits import Limits
from koii_p2p.localk2.faults import Faults
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import Evidence, fetch_copies, read_task_chain
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.k2_troubles import Troubles
from koii_p2p.testnets.net import RunningNet, running_testnet
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.outcome import outcome_of
from koii_p2p.testnets.topology import load_topology
from tests.e2e.shell import LONG, koii_p2p, running
from tests.faults.test_kill import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FILES = Path(__file__).parents[2] / "testnet"
STAKE = roe("1.9")
SLASH = STAKE * 7000 // 10000


@pytest.mark.parametrize(
    ("name", "hits"),
    [
        ("k2-drop", ["dropped_transactions"]),
        ("k2-lag", []),
        ("k2-restart", ["restarts"]),
        ("k2-rollback", ["roll_backs", "undone_transactions"]),
    ],
)
def test_rounds_are_settled_and_nobody_honest_is_slashed(tmp_path: Path, name: str, hits: list[str]) -> None:
    where = ("--dir", str(tmp_path / "net"))
    file = str(FILES / f"{name}.toml")
    with running("testnet", "up", "--file", file, "--output", "json", *where) as net:
        net.end(LONG)
    found = json.loads("\n".join(net.out)) if net.out else {}
    told = {key: found.get(key) for key in ("findings", "failures", "deaths", "k2", "remarks")}
    assert found.get("verified") is True, (told, net.err[-40:])
    assert found["settled"] >= 2, (told, net.err[-40:])
    assert found["deaths"] == []
    *honest, cheater = found["nodes"]
    assert [node["taken"] for node in honest] == [0] * 4, told
    assert cheater["taken"] == SLASH
    assert all(found["k2"][hit] >= 2 for hit in hits), found["k2"]
    assert any("K2 from now on: " in line for line in net.err)
    checked = koii_p2p("testnet", "check", "--output", "json", *where)
    assert json.loads(checked.stdout)["verified"] is True


# --- the worst moments to take a block back


async def views(clients: list[NodeClient], net: RunningNet, number: int) -> list[Mapping[str, Any]]:
    found = [await client.round(net.task_name, number) for client in clients]
    assert all(view is not None for view in found)
    return [view for view in found if view is not None]


async def roll_back_behind(net: RunningNet, slot: int) -> int:
    """Take back every block from `slot` on, and perhaps a few before; returns how many transactions went with them."""
    back = await net.settlement.slot() - slot + 3  # it goes on while we ask
    found = await net.rpc.ask("rollBack", [back], lambda value: value, retry=False)
    assert found["slot"] < slot
    return int(found["undone"])


async def patiently(net: RunningNet, last: int, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds; fail when it does not before slot `last`."""
    while not await holds():
        assert await net.settlement.slot() < last
        await trio.sleep(0.05)


async def test_a_beacon_and_a_commitment_that_forks_take_back(tmp_path: Path) -> None:
    topology = load_topology(None, {"nodes": 5, "cheaters": 1, "rounds": 2})
    topology = replace(topology, k2=Troubles(Faults(seed=1)))  # nothing by itself, and faults are allowed
    async with (
        running_testnet(topology, NetFolder(tmp_path / "net"), os.environ, print) as net,
        AsyncExitStack() as stack,
    ):
        assert net.terms is not None
        clock, first = net.terms.clock, net.first
        second = first + 1
        clients = [await stack.enter_async_context(node.client()) for node in net.nodes]
        ends = clock.submission(first).closes
        await until(net, ends)

        async def all_have_a_beacon() -> bool:
            return all(view["beacon"] for view in await views(clients, net, first))

        await patiently(net, ends + 25, all_have_a_beacon)
        lost = {view["beacon"] for view in await views(clients, net, first)}
        assert len(lost) == 1
        await roll_back_behind(net, ends)

        async def all_have_another() -> bool:
            return not lost & {view["beacon"] for view in await views(clients, net, first)}

        await patiently(net, clock.audit(first).closes, all_have_another)
        assert len({view["beacon"] for view in await views(clients, net, first)}) == 1

        await until(net, clock.commitment(second).opens)

        async def is_committed_to() -> bool:
            return second in (await net.settlement.task_state(net.task)).rounds

        await patiently(net, clock.commitment(second).closes, is_committed_to)
        anchored = (await net.settlement.task_state(net.task)).rounds[second]
        assert await roll_back_behind(net, anchored.commitment_slot) >= 1
        assert not await is_committed_to()
        await patiently(net, clock.commitment(second).closes, is_committed_to)
        again = (await net.settlement.task_state(net.task)).rounds[second]
        assert again.commitment == anchored.commitment
        assert again.commitment_slot > anchored.commitment_slot

        rounds = second + 1
        await until(net, clock.settles_at(second) + 40)
        copies, silent = await fetch_copies(clients, net.task_name, range(rounds))
        assert not silent
        identities = tuple(node.identity for node in net.nodes)
        chain = await read_task_chain(net.rpc, net.task, clock, rounds, identities, Limits())
        report = check(Evidence(chain, identities, rounds, copies, first))
        assert report.verified, [str(finding) for finding in report.findings]
        outcome = outcome_of(report, identities, first)
        assert [row.slash for row in outcome.nodes] == [0] * 4 + [SLASH]
        assert all(checked.list is not None for checked in report.rounds[first:])
