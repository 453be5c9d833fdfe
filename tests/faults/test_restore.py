"""Nodes come back from older copies of their homes: what their keys have said since is not contradicted."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from solders.pubkey import Pubkey

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.payload import payload_bytes
from koii_p2p.records.schema import Kind
from koii_p2p.storage import Database, SigningJournal
from koii_p2p.storage.home import Home
from koii_p2p.storage.record_log import RecordLog
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import Evidence, fetch_copies, read_task_chain
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.net import NetNode, RunningNet, running_testnet
from koii_p2p.testnets.outcome import outcome_of
from koii_p2p.testnets.topology import load_topology
from tests.faults.test_kill import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LENGTHS = {"round_time": 200, "submission_window": 75, "audit_window": 90}
"""Slots of 100 ms: windows that leave time to come back in the phase in which a home was put back."""
LAST = 2
"""The first round of which neither of the restored homes has said anything before."""


async def kill(node: NetNode) -> None:
    assert node.child is not None
    node.child.signal(signal.SIGKILL)
    await node.child.ended()
    assert node.child.how_it_ended() == "signal SIGKILL"


async def copy_home(net: RunningNet, node: NetNode, older: Path) -> None:
    """Copy a home as it is now, while its node does not run, and go on from it."""
    await kill(node)
    shutil.copytree(node.home.path, older)
    await net.start_node(node)


async def put_back(net: RunningNet, node: NetNode, older: Path, newer: Path) -> None:
    """Kill a node and start it from the older copy of its home; what its home was goes to `newer`."""
    await kill(node)
    node.home.path.rename(newer)
    older.rename(node.home.path)
    await net.start_node(node)


async def until_heard(
    net: RunningNet, hearer: NetNode, number: int, said: Callable[[dict[str, Any]], bool]
) -> None:
    """Wait until another node's view of a round says so; fail when the round's audit ends before."""
    assert net.terms is not None
    async with hearer.client() as client:
        while True:
            view = await client.round(net.task_name, number)
            if view is not None and said(view):
                return
            assert await net.settlement.slot() < net.terms.clock.delay(number).opens
            await trio.sleep(0.1)


def author_of(key: str, name: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a node is among the authors in this part of a view."""
    return lambda view: any(entry["author"] == key for entry in view[name])


def said_in(home: Home, genesis: bytes, task: bytes) -> tuple[dict[Place, bytes], int | None]:
    """What a home's journal holds of a task: payloads by place, and the floor."""
    with Database.open(home.database_of(genesis)) as database:
        journal = SigningJournal(database)
        numbers = journal.rounds(task)
        entries = {place: payload for number in numbers for place, payload in journal.of_round(task, number)}
        return entries, journal.floor_of(task)


def heard_in(home: Home, genesis: bytes, task: bytes) -> list[Verified]:
    """The records of a task that a home's node has admitted."""
    with Database.open(home.database_of(genesis)) as database:
        records = RecordLog(database)
        return [
            verify(decode_record(logged.raw), genesis)
            for number in records.rounds(task)
            for logged in records.of_round(task, number)
        ]


async def test_a_node_from_an_older_home_contradicts_nothing_and_goes_on(tmp_path: Path) -> None:
    topology = load_topology(None, {"nodes": 5, "cheaters": 0, "rounds": LAST + 1, **LENGTHS})
    async with (
        running_testnet(topology, NetFolder(tmp_path / "net"), os.environ, print) as net,
        AsyncExitStack() as stack,
    ):
        assert net.terms is not None
        clock, witness = net.terms.clock, net.nodes[0]
        submitted, voted = net.nodes[1:3]
        for node in (submitted, voted):
            await copy_home(net, node, tmp_path / f"older {node.name}")

        async def rewind(node: NetNode, number: int, part: str, opens: Awaitable[None]) -> None:
            """Put the older home back as soon as others hold what its node has said in this part of a round."""
            await opens
            await until_heard(net, witness, number, author_of(node.identity.key, part))
            await put_back(net, node, tmp_path / f"older {node.name}", tmp_path / f"newer {node.name}")

        await rewind(submitted, 0, "submitted", until(net, clock.submission(0).opens))
        await rewind(voted, 1, "votes", until(net, clock.audit(1).opens))

        await until(net, clock.settles_at(LAST) + 40)
        assert all(node.running for node in net.nodes)
        clients = [await stack.enter_async_context(node.client()) for node in net.nodes]
        rounds = range(LAST + 1)
        copies, silent = await fetch_copies(clients, net.task_name, rounds)
        assert not silent
        identities = tuple(node.identity for node in net.nodes)
        chain = await read_task_chain(net.rpc, net.task, clock, len(rounds), identities, Limits())
        report = check(Evidence(chain, identities, len(rounds), copies))
        assert report.verified, [str(finding) for finding in report.findings]
        assert {row.slash for row in outcome_of(report, identities).nodes} == {0}

        # Nobody saw two records for one place, and both take part again.
        for client in clients:
            for number in rounds:
                view = await client.round(net.task_name, number)
                assert view is not None
                assert (view["equivocations"], view["convicted"]) == ([], {}), (client.name, number)
            assert view is not None
            approved = {entry["author"] for entry in view["submitted"] if entry["outcome"] == "APPROVED"}
            assert approved == {node.identity.key for node in net.nodes}, client.name
            voters = {entry["author"] for entry in view["votes"]}
            assert {submitted.identity.key, voted.identity.key} <= voters, client.name

        genesis = await net.rpc.get_genesis_hash()
        await net.stop_nodes()
        heard = [record for node in net.nodes for record in heard_in(node.home, genesis, net.task)]
        assert Kind.EQUIVOCATION not in {record.kind for record in heard}
        for node, number, kind in ((submitted, 0, Kind.SUBMISSION), (voted, 1, Kind.BALLOT)):
            before, _ = said_in(Home(tmp_path / f"newer {node.name}"), genesis, net.task)
            after, floor = said_in(node.home, genesis, net.task)
            place = Place(net.task, number, kind, 0)
            assert place in before
            assert after[place] == before[place], "learned from peers"
            assert floor is not None
            assert number <= floor < LAST
            assert all(after[place] == before[place] for place in before.keys() & after.keys())
            key = bytes(Pubkey.from_string(node.identity.key))
            for record in heard:
                if record.author == key and (spoken := place_of(record.statement)) is not None:
                    promised = {said[spoken] for said in (before, after) if spoken in said}
                    assert promised == {payload_bytes(record.statement)}
