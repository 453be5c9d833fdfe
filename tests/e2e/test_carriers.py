"""Nets of real `koii-p2p join` processes that hold their rounds by memos, and by the stand-in of Koii's program.

With both, everybody's list of every round is the one whose root is on the chain, and a cheater is in it with its slash.
Nothing is paid. The stand-in is not Koii's program: see docs/carriers.md.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.amounts import ROE_PER_KOII
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds import merkle
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.history import replay
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.koii_task.readings import NATIVE
from koii_p2p.settlement.koii_task.settlement import KoiiTaskSettings, KoiiTaskSettlement
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.sending import keypair_of
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.processes import KOII_P2P, PYTHON, Child, stop_all
from scripts.deploy_program import Deployment
from scripts.koii_standin.state import ELF, account_bytes, decode, local_vars, render
from tests.e2e.shell import environment, koii_p2p, running
from tests.e2e.test_documents import ROOT, shown_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SLOT_MS = 100
ROUND_TIME, WINDOW = 200, 75
STAKE = 19 * ROE_PER_KOII // 10
BOUNTY = ROE_PER_KOII
SECRET = "sesame"
"""A provider's key, as in the URLs of public RPC nodes."""
PAGE = ROOT / "docs" / "carriers.md"


@dataclass
class Node:
    """One node: its keys, home and process. The last of a net cheats."""

    staker: SecretKey
    wallet: SecretKey
    home: Home
    behaviour: str = "honest"
    child: Child | None = None

    @property
    def cheats(self) -> bool:
        return self.behaviour != "honest"

    async def ask(self, question: Callable[[NodeClient], Awaitable[Any]]) -> Any:
        async with NodeClient.of_home(self.home.path) as client:
            return await question(client)


class Net:
    """A local K2 and nodes, each a process. `folder` has their homes and logs."""

    def __init__(self, folder: Path, rpc: RpcClient, url: str) -> None:
        self.folder, self.rpc, self.url = folder, rpc, url
        self.creator = SecretKey.generate()
        self.nodes: list[Node] = []
        self.addresses: list[str] = []

    async def make_nodes(self, count: int) -> None:
        for index in range(count):
            home = Home(self.folder / f"node-{index}")
            home.prepare()
            node = Node(SecretKey.generate(), SecretKey.generate(), home)
            save_secret(home.staking_key, node.staker)
            save_secret(home.wallet_key, node.wallet)
            self.nodes.append(node)
        self.nodes[-1].behaviour = "wrong-value"
        for key in (self.creator, *(node.wallet for node in self.nodes)):
            await self.rpc.request_airdrop(key.public_key, 1000 * ROE_PER_KOII)
        while not all([await self.rpc.get_balance(node.wallet.public_key) for node in self.nodes]):
            await trio.sleep(SLOT_MS / 1000)

    async def join(self, flags: Sequence[str], url: str) -> None:
        """Start every node with these flags of `join`, and wait until it is ready."""
        for index, node in enumerate(self.nodes):
            command = [
                *(*KOII_P2P, "--home", str(node.home.path), "--url", url, "--output", "json"),
                *("join", *flags, "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"),
                *("--behaviour", node.behaviour, "--expected-peers", str(len(self.nodes))),
                *(("--bootstrap", self.addresses[0]) if self.addresses else ()),
            ]
            node.child = Child(f"node-{index}", command, self.folder / "logs", environment())
            ready = await node.child.ready(60)
            assert SECRET not in json.dumps(ready)
            self.addresses.append(ready["addresses"][0])

    def log(self, node: Node) -> str:
        assert node.child is not None
        return node.child.log.read_text()


@asynccontextmanager
async def net_of(count: int, folder: Path) -> AsyncIterator[Net]:
    """A net whose nodes are yet to be started; at the end no process of it is left."""
    command = [*PYTHON, "-m", "koii_p2p.localk2", "--path", str(folder / "k2")]
    command += ["--port", "0", "--slot-ms", str(SLOT_MS)]
    k2 = Child("k2", command, folder / "logs", dict(os.environ))
    net = None
    try:
        url = str((await k2.ready(60))["url"])
        async with RpcClient(url) as rpc:
            net = Net(folder, rpc, url)
            await net.make_nodes(count)
            yield net
    finally:
        with trio.CancelScope(shield=True):
            children = [node.child for node in net.nodes if node.child is not None] if net else []
            await stop_all(children)
            await stop_all([k2])


def terms(creator: bytes, starting_slot: int) -> TaskTerms:
    return TaskTerms(
        task=bytes(32),
        creator=creator,
        name="hello",
        program="examples.hello_world",
        starting_slot=starting_slot,
        round_time=ROUND_TIME,
        submission_window=WINDOW,
        audit_window=WINDOW,
        bounty_per_round=BOUNTY,
        minimum_stake=STAKE // 2,
        allowed_failed_distributions=2,
    )


async def listed_rounds(
    net: Net, task: bytes, read: Callable[[bytes], Awaitable[TaskState]], count: int
) -> list[AnchoredRound]:
    """The first rounds with a list whose audit is over and in which the cheater was caught, as K2 holds them."""
    while True:
        state = await read(task)
        slot = await net.rpc.get_slot()
        found = [
            one
            for one in state.rounds.values()
            if one.list_root is not None
            and one.slash_total
            and slot >= state.terms.clock.settles_at(one.round)
        ]
        if len(found) >= count:
            return found[:count]
        assert all(node.child is not None and node.child.returncode is None for node in net.nodes)
        await trio.sleep(0.5)


async def check_lists(net: Net, task: bytes, rounds: Sequence[AnchoredRound]) -> None:
    """Every node holds the lists that K2 has the roots of, and every node's leaf is in them."""
    name = str(Pubkey(task))
    for anchored in rounds:
        for holder in net.nodes:
            number = anchored.round
            data = await holder.ask(lambda client, number=number: client.artifact(name, number, "list"))
            listed = DistributionList.decode(data)
            assert (listed.round, listed.root) == (anchored.round, anchored.list_root)
            totals = (listed.reward_total, listed.slash_total)
            assert totals == (anchored.reward_total, anchored.slash_total)
        for node in net.nodes:
            key = node.staker.public_key
            leaf = listed.leaf(key)
            assert leaf is not None
            assert merkle.verify(anchored.list_root, leaf.encode(), listed.proof(key))
            if node.cheats:
                # Once: what it has left is below the minimum, whether anybody has taken the rest or not.
                assert (leaf.reward_total, leaf.slash_total) == (0, STAKE * 7000 // 10_000)
            else:
                assert leaf.slash_total == 0
                assert leaf.reward_total > 0


def check_nothing_is_shown(net: Net) -> None:
    """No node's words have the key in the URL of its RPC node: logs, and what it keeps for its operator."""
    for node in net.nodes:
        assert SECRET not in net.log(node)
        assert SECRET not in node.home.api.read_text()


async def test_rounds_by_memos(tmp_path: Path) -> None:
    with trio.fail_after(350):
        async with net_of(4, tmp_path) as net:
            genesis = Genesis.make(
                terms(net.creator.public_key, await net.rpc.get_slot() + 250),
                [GenesisStake(one.staker.public_key, STAKE, one.wallet.public_key) for one in net.nodes],
                pledged=100 * BOUNTY,
            )
            task, file = genesis.terms.task, tmp_path / "genesis.json"
            file.write_text(genesis.to_json())
            flags = ("--carrier", "memo", "--genesis", str(file))
            code = f"{Pubkey(task)}={ROOT / 'examples' / 'hello_world'}"
            await net.join((*flags, "--task", code), f"{net.url}/?api-key={SECRET}")

            chain = MemoSettlement(net.rpc, genesis, SecretKey.generate())
            rounds = await listed_rounds(net, task, chain.task_state, 2)
            await check_lists(net, task, rounds)

            # Whoever reads the memos alone, from the first one on, comes to the same rounds.
            fresh = MemoSettlement(net.rpc, genesis, SecretKey.generate())
            state, entries = await fresh.task_state(task), await fresh.history(task)
            assert [state.rounds[one.round] for one in rounds] == rounds
            assert replay(entries).head == state.head
            counted = [one for one in await fresh.judged(task) if one.refusal is None]
            assert len(counted) == state.anchors >= 4
            assert {one.entry.author for one in counted} <= {one.staker.public_key for one in net.nodes}

            for node in net.nodes:
                found = await node.ask(lambda client: client.status())
                assert (found["carrier"]["name"], found["carrier"]["settles"]) == ("memo", False)
                assert "not paid" in found["carrier"]["note"]
                (shown,) = found["tasks"]
                assert (shown["state"], shown["actions"]["not_carried"]) == ("active", {})
                assert "RoundSettled" not in shown["actions"]["failed"]
                assert SECRET not in json.dumps(found)
                assert net.log(node).count("the carrier does not pay") == 1
            check_nothing_is_shown(net)
            await trio.to_thread.run_sync(every_command_of_the_page, net, str(Pubkey(task)), file)


def every_command_of_the_page(net: Net, task: str, file: Path) -> None:
    """Run what docs/carriers.md shows, from another home, beside the net."""
    left = shown_commands([PAGE])
    place = {"KOII_P2P_HOME": str(net.folder / "other"), "KOII_P2P_URL": net.url}
    names = {
        "TASK=examples/hello_world": f"{task}={ROOT / 'examples' / 'hello_world'}",
        "ADDRESS": net.addresses[0],
        "genesis.json": str(file),
    }

    def take(*words: str) -> list[str]:
        start = " ".join(("koii-p2p", *words))
        command = next(command for command in left if command.startswith(start))
        left.remove(command)
        return [names.get(word, word) for word in shlex.split(command)[1:]]

    with running(*take("join", "--carrier", "memo"), **place) as node:
        node.wait_for("memo: Rewards and slashes are recorded, not paid")
        status = koii_p2p(*take("status"), **place)
        assert (status.returncode, "memo: Rewards and" in status.stdout) == (0, True), status.stderr
        shown = koii_p2p(*take("config", "show"), KOII_P2P_CARRIER="memo", **place)
        assert (shown.returncode, "environment KOII_P2P_CARRIER" in shown.stdout) == (0, True)
        node.signal(signal.SIGTERM)
        assert node.end() == 0
    refused = koii_p2p(*take("join", "--carrier", "koii-task"), **place)
    assert refused.returncode == 5
    assert f"There is no task {task} on this cluster." in refused.stderr
    assert left == []


# --- koii-task


class KoiisForm(BaseHTTPRequestHandler):
    """Passes calls on to K2, and shows the stand-in's task accounts as Koii's program would keep them: as JSON text."""

    k2: ClassVar[httpx.Client]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = self.k2.post("/", content=body, headers={"content-type": "application/json"})
        told = answer.content
        if json.loads(body)["method"] == "getAccountInfo":
            reply = answer.json()
            held = (reply.get("result") or {}).get("value")
            if held and base64.b64decode(held["data"][0][:12]).startswith(b"KSTANDIN"):
                held["data"][0] = in_koiis_form(held["data"][0])
                told = json.dumps(reply).encode()
        self.send_response(answer.status_code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:
        pass


@lru_cache(maxsize=4)
def in_koiis_form(data: str) -> str:
    """Account data in base64, and again as base64."""
    return base64.b64encode(render(decode(base64.b64decode(data)), NATIVE)).decode()


@contextmanager
def koiis_form(url: str) -> Iterator[str]:
    """The URL of a K2 on which the stand-in's state looks like Koii's."""
    with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=30) as k2:
        handler = type("Handler", (KoiisForm,), {"k2": k2})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


def readings_file(folder: Path, program: bytes) -> Path:
    """The native readings, each written out, and where the stand-in is."""
    lines = [f"program = {json.dumps(str(Pubkey(program)))}"]
    for name in NATIVE.__dataclass_fields__:
        value = getattr(NATIVE, name)
        lines.append(f"{name} = {json.dumps(value if isinstance(value, bool) else value.value)}")
    path = folder / "readings.toml"
    path.write_text("\n".join(lines))
    return path


async def test_rounds_by_the_stand_in(tmp_path: Path) -> None:
    with trio.fail_after(350):
        async with net_of(4, tmp_path) as net:
            program = Keypair()
            deployment = Deployment(net.rpc, keypair_of(net.creator), program, Keypair(), ELF.read_bytes())
            await deployment.run(len(ELF.read_bytes()))
            deployed_in = await net.rpc.get_slot()
            while await net.rpc.get_slot() <= deployed_in:  # it can be called from the next slot on
                await trio.sleep(SLOT_MS / 1000)
            with koiis_form(net.url) as url:
                async with RpcClient(url) as rpc:
                    await _rounds_by_the_stand_in(net, rpc, url, bytes(program.pubkey()))


async def _rounds_by_the_stand_in(net: Net, rpc: RpcClient, url: str, program: bytes) -> None:
    settings = KoiiTaskSettings(
        NATIVE,
        task_space=account_bytes(100),
        local_vars=local_vars(NATIVE),
        total_bounty=100 * BOUNTY,
        program=program,
    )
    creator = KoiiTaskSettlement(rpc, settings, net.creator)
    task = (await creator.create_task(terms(bytes(32), 0), nonce=1)).task
    async with trio.open_nursery() as nursery:
        for node in net.nodes:
            staking = KoiiTaskSettlement(rpc, settings, node.wallet, node.staker)
            nursery.start_soon(staking.stake, task, STAKE, node.wallet.public_key)
    flags = ("--carrier", "koii-task", "--readings", str(readings_file(net.folder, program)))
    code = f"{Pubkey(task)}={ROOT / 'examples' / 'hello_world'}"
    await net.join((*flags, "--task", code), f"{url}/?api-key={SECRET}")
    rounds = await listed_rounds(net, task, creator.task_state, 2)
    await check_lists(net, task, rounds)
    for node in net.nodes:
        found = await node.ask(lambda client: client.status())
        assert (found["carrier"]["name"], found["carrier"]["settles"]) == ("koii-task", False)
        actions = found["tasks"][0]["actions"]
        # By this reading a key has one submission, so that whoever anchored a commitment leaves the list to others.
        assert set(actions["not_carried"]) <= {"AnchorList"}
        assert net.log(node).count("not carried") == len(actions["not_carried"])
        assert not {"AnchorCommitment", "RoundSettled"} & set(actions["failed"])
    check_nothing_is_shown(net)
