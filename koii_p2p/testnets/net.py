"""A running testnet: a local K2, a funded task, staked nodes; each a real process, all of them ended together."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import trio
from solders.pubkey import Pubkey

from koii_p2p.amounts import ROE_PER_KOII
from koii_p2p.errors import ChainError, CheckFailed, ConfigurationError, raise_operator_error
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.layouts import STAKE_LAYOUT
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.testnets.folder import NetFolder, State
from koii_p2p.testnets.identity import HONEST, NodeIdentity
from koii_p2p.testnets.k2_play import K2Play
from koii_p2p.testnets.network_play import NetworkPlay
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.process_mark import mark_of
from koii_p2p.testnets.processes import KOII_P2P, PYTHON, Child, stop_all
from koii_p2p.testnets.timing import RoundLengths, first_counted_round, lead_slots, round_lengths
from koii_p2p.testnets.topology import FAILED_LISTS, NodePlan, Topology

FEE_MONEY: Final = ROE_PER_KOII
"""Roe in each wallet above its stake, for fees: a transaction costs 5000 to 10000."""
CREATOR_MONEY: Final = 10 * ROE_PER_KOII
K2_READY_SECONDS: Final = 60.0
READY_SECONDS_PER_NODE: Final = 15.0
"""How long a node may take to be ready, for each node that starts: far more than a busy machine needs (2 s)."""
AIRDROP_SECONDS: Final = 60.0
SPARE_ROUNDS: Final = 20
"""Rounds that may pass before every node is ready; their bounty is funded too."""
KEPT_ROUNDS: Final = 10_000
"""Rounds whose bounty is funded when a testnet is to go on after its check."""
NODE_CODE: Final = "import koii_p2p.cli.join, koii_p2p.network.host, koii_p2p.network.gossip_driver"
NODE_NICENESS: Final = 5
"""How far nodes stand behind the local K2 when cores are short. It stands for a network that is elsewhere: fifty nodes
that start on two cores must not be what makes it late."""
NONCE: Final = 1

Note = Callable[[str], None]


@dataclass(slots=True)
class NetNode:
    """One node: who it is, where it lives, its process. `addresses` are what it listened on when it was ready."""

    identity: NodeIdentity
    home: Home
    child: Child | None = None
    addresses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name, such as node-03."""
        return self.identity.name

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.returncode is None

    def client(self) -> NodeClient:
        """A new client of its API. Raises `NetworkError` if it does not run."""
        return NodeClient.of_home(self.home.path, name=self.name)


class RunningNet:
    """Made by `running_testnet`. `rpc` talks to its K2; `settlement` is that of the task's creator."""

    def __init__(
        self, topology: Topology, folder: NetFolder, environment: Mapping[str, str], note: Note
    ) -> None:
        self.topology = topology
        self.folder = folder
        self.lengths: RoundLengths = round_lengths(topology)
        self.nodes: list[NetNode] = []
        self.task = b""
        self.terms: TaskTerms | None = None
        self.first = 0
        self.k2: Child | None = None
        self.k2_url = ""
        self.k2_play = K2Play(self, note)
        self.network_play = NetworkPlay(self, note)
        self._shaped = topology.network.any
        self._k2_ports: tuple[int, int | None] = (topology.k2_port, None)
        self._rehearsal: Child | None = None
        self._environment = environment
        self._note = note
        own = mark_of(os.getpid())
        assert own is not None, "this process has an entry in /proc"
        code = str(topology.task.resolve())
        self._state = State(supervisor=own, rounds=topology.rounds, expect=topology.expect, code=code)
        self._rpc: RpcClient | None = None
        self._settlement: ProgramSettlement | None = None

    @property
    def task_name(self) -> str:
        """The task's id in base58."""
        return str(Pubkey(self.task))

    @property
    def rpc(self) -> RpcClient:
        """The client of the local K2."""
        assert self._rpc is not None, "the testnet was started"
        return self._rpc

    @property
    def settlement(self) -> ProgramSettlement:
        """K2 with the creator's wallet."""
        assert self._settlement is not None, "the testnet was started"
        return self._settlement

    @property
    def rounds(self) -> int:
        """How many rounds are to be settled: those that count, and those before them."""
        return self.first + self.topology.rounds

    @property
    def children(self) -> list[Child]:
        """Every process that was started, the local K2 last. Some may have ended."""
        children = [node.child for node in self.nodes] + [self._rehearsal, self.k2]
        return [child for child in children if child is not None]

    # --- start

    async def start(self, stack: AsyncExitStack, *, keep: bool) -> None:
        """Bring everything up. Raises `OperatorError` subclasses; what was started is ended by `stop`."""
        self._save()
        # A testnet that goes on may be told to change its links later, for which its nodes have to watch the file.
        self._shaped = self.topology.network.any or keep
        node_seconds = await self._start_k2()
        self._rpc = await stack.enter_async_context(RpcClient(self.k2_url))
        creator = SecretKey.generate()
        save_secret(self.folder.creator_key, creator)
        self._settlement = ProgramSettlement(self._rpc, creator)
        secrets = [self._make_node(index, plan) for index, plan in enumerate(self.topology.plan())]
        rounds = KEPT_ROUNDS if keep else self.topology.rounds + SPARE_ROUNDS
        await self._airdrop(creator, secrets, self.topology.bounty * rounds)
        await self._create_task(lead_slots(self.topology, node_seconds, os.cpu_count() or 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settlement.fund, self.task, self.topology.bounty * rounds)
            for node, (staker, wallet) in zip(self.nodes, secrets, strict=True):
                if node.identity.stake:
                    nursery.start_soon(self._stake, staker, wallet)
        staked = sum(node.identity.stake > 0 for node in self.nodes)
        self._note(f"the task is funded and {staked} nodes are staked")
        await self._open_books(secrets)
        await self.k2_play.begin()
        self.network_play.begin()
        await self._start_nodes()

    async def _start_k2(self) -> float:
        """Start the local K2, and meanwhile load a node's code once; return how many seconds that took.

        After an installation that also compiles it, once instead of in every node at the same time.
        """
        began = trio.current_time()
        self._rehearsal = Child("rehearsal", [*PYTHON, "-c", NODE_CODE], self.folder.logs, self._environment)
        ready = await self._open_k2()
        self.k2_url = str(ready["url"])
        ports = (urlsplit(str(ready[name])).port for name in ("url", "ws"))
        self._k2_ports = (next(ports) or 0, next(ports))
        self._save()
        self._note(f"local K2 at {self.k2_url} (WebSocket {ready['ws']})")
        await self._rehearsal.ended()
        return trio.current_time() - began

    async def _open_k2(self, *more: str) -> dict[str, Any]:
        port, ws_port = self._k2_ports
        command = [
            *(*PYTHON, "-m", "koii_p2p.localk2", "--path", str(self.folder.k2)),
            *("--port", str(port), "--slot-ms", str(self.topology.slot_ms)),
            *(("--ws-port", str(ws_port)) if ws_port else ()),
            *(("--allow-faults",) if self.topology.k2.any else ()),
            *more,
        ]
        self.k2 = Child("k2", command, self.folder.logs, self._environment)
        self._save()
        return await self.k2.ready(K2_READY_SECONDS)

    async def restart_k2(self) -> None:
        """Kill the local K2, whatever it is doing, and start it from its ledger, with its faults, on the same ports."""
        assert self.k2 is not None, "the testnet was started"
        killed, self.k2 = self.k2, None
        killed.kill()
        await killed.ended()
        await self._open_k2("--faults", json.dumps(self.topology.k2.faults.as_json()))

    def _make_node(self, index: int, plan: NodePlan) -> tuple[SecretKey, SecretKey]:
        name = f"node-{index:02d}"
        home = self.folder.home(name)
        home.prepare()
        staker, wallet = SecretKey.generate(), SecretKey.generate()
        save_secret(home.staking_key, staker)
        save_secret(home.wallet_key, wallet)
        identity = NodeIdentity(
            name,
            str(Pubkey(staker.public_key)),
            str(Pubkey(wallet.public_key)),
            plan.behaviour,
            self.topology.stake if plan.staked else 0,
            0,
            plan.witness,
            self.topology.patrols if plan.behaviour == HONEST else 0,
            plan.canaries,
        )
        self.nodes.append(NetNode(identity, home))
        return staker, wallet

    async def _airdrop(
        self, creator: SecretKey, secrets: list[tuple[SecretKey, SecretKey]], bounty: int
    ) -> None:
        rent = await self.rpc.get_minimum_balance_for_rent_exemption(STAKE_LAYOUT.size)
        wanted = {wallet.public_key: self.topology.stake + rent + FEE_MONEY for _, wallet in secrets}
        wanted[creator.public_key] = bounty + CREATOR_MONEY
        for address, amount in wanted.items():
            await self.rpc.request_airdrop(address, amount)
        with trio.move_on_after(AIRDROP_SECONDS):
            while True:
                accounts = await self.rpc.get_multiple_accounts(list(wanted))
                if all(account is not None for account in accounts):
                    return
                await trio.sleep(self.topology.slot_ms / 1000)
        raise ChainError(
            "The local K2's faucet did not pay.",
            "The wallets are still empty.",
            f"Look into {self.folder.log('k2')}.",
        )

    async def _create_task(self, lead: int) -> None:
        lengths = self.lengths
        terms = TaskTerms(
            task=bytes(32),
            creator=self.settlement.payer,
            name=self.topology.task.name.removesuffix(".py")[:24],
            starting_slot=await self.settlement.slot() + lead,
            round_time=lengths.round_time,
            submission_window=lengths.submission_window,
            audit_window=lengths.audit_window,
            bounty_per_round=self.topology.bounty,
            minimum_stake=self.topology.stake // 2,  # a lost bond ejects nobody, a slash does
            allowed_failed_distributions=FAILED_LISTS,
            audit=self.topology.audit,
            program=self.topology.task.name[:64],
        )
        created = await self.settlement.create_task(terms, NONCE)
        self.task = created.task
        self.terms = dataclasses.replace(terms, task=created.task)
        total = lengths.slots_until_settled(self.topology.rounds)
        self._note(
            f"task {self.task_name}, starting in {lengths.seconds(lead):.0f} s; its first "
            f"{self.topology.rounds} rounds are settled {lengths.seconds(total):.0f} s later"
        )

    async def _stake(self, staker: SecretKey, wallet: SecretKey) -> None:
        settlement = ProgramSettlement(self.rpc, wallet, staker)
        await settlement.stake(self.task, self.topology.stake, wallet.public_key)

    async def _open_books(self, secrets: list[tuple[SecretKey, SecretKey]]) -> None:
        """Note what each wallet holds before its node can spend anything: the check counts from here."""
        accounts = await self.rpc.get_multiple_accounts([wallet.public_key for _, wallet in secrets])
        for node, account in zip(self.nodes, accounts, strict=True):
            balance = 0 if account is None else account.lamports
            node.identity = dataclasses.replace(node.identity, opening_balance=balance)
        self._save()

    async def _start_nodes(self) -> None:
        began = trio.current_time()
        await self.start_node(self.nodes[0])
        limiter = trio.CapacityLimiter(os.cpu_count() or 1)

        async def start(node: NetNode) -> None:
            async with limiter:
                await self.start_node(node)

        async with trio.open_nursery() as nursery:
            for node in self.nodes[1:]:
                nursery.start_soon(start, node)
        self._note(f"{len(self.nodes)} nodes are ready after {trio.current_time() - began:.1f} s")
        assert self.terms is not None, "the task was created"
        self.first = first_counted_round(self.terms.clock, await self.settlement.slot())
        if self.first > SPARE_ROUNDS:
            raise CheckFailed(
                "The nodes were not ready in time.",
                f"{self.first} rounds had passed before the last one was.",
                "Use fewer nodes, or a machine that is less busy.",
            )
        if self.first:
            self._note(f"nodes were slow to start: the rounds before round {self.first} are not counted")
        self._save()

    async def start_node(self, node: NetNode) -> None:
        """Start, or start again, one node from its home, and wait until it is ready.

        Its bootstrap is a node that runs, the first one if possible. Raises `OperatorError` subclasses.
        """
        others = [other for other in self.nodes if other is not node and other.running and other.addresses]
        command = [
            *KOII_P2P,
            *("--home", str(node.home.path), "--url", self.k2_url, "--output", "json"),
            *("join", "--task", f"{self.task_name}={self.topology.task.resolve()}"),
            *("--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--expected-peers", str(self.topology.nodes)),
            *("--claim-every", "1", "--behaviour", node.identity.behaviour, "--api-port", "0"),
        ]
        command += ["--witness"] if node.identity.witness else []
        command += ["--patrols", str(node.identity.patrols)] if node.identity.patrols else []
        command += ["--conditions", str(self.folder.conditions)] if self._shaped else []
        command += ["--canaries"] if node.identity.canaries else []
        command += ["--task-port", "0"]
        command += ["--task-network"] if self.topology.task_network else []
        command += ["--trace", str(self.folder.trace(node.name))] if self.topology.trace else []
        for address in others[0].addresses[:1] if others else ():
            command += ["--bootstrap", address]
        node.child = Child(node.name, command, self.folder.logs, self._environment, NODE_NICENESS)
        self._save()
        ready = await node.child.ready(READY_SECONDS_PER_NODE * max(4, len(self.nodes)))
        node.addresses = tuple(str(address) for address in ready["addresses"])

    async def kill_node(self, node: NetNode) -> None:
        """Kill one node, whatever it is doing; `start_node` brings it back. Nothing happens if it does not run."""
        killed, node.child, node.addresses = node.child, None, ()
        if killed is not None:
            killed.kill()
            await killed.ended()

    def listens(self, host: str, port: int, token: str) -> None:
        """Write down where `testnet chaos` is heard."""
        self._state = dataclasses.replace(self._state, control=(host, port, token))
        self._save()

    # --- end

    async def stop_nodes(self) -> None:
        """End the nodes and leave the local K2 running: the chain is then at rest."""
        await stop_all([node.child for node in self.nodes if node.child is not None])

    async def stop(self) -> None:
        """End every process. Nothing of it is left when this returns, or is cancelled."""
        await self.stop_nodes()
        await stop_all(self.children)

    def kill(self) -> None:
        """End every process at once."""
        for child in self.children:
            child.kill()

    def _save(self) -> None:
        """Write down which processes there are, so that another shell can end them."""
        identities = tuple(node.identity for node in self.nodes)
        self._state = dataclasses.replace(
            self._state,
            processes={child.name: child.mark for child in self.children},
            k2_url=self.k2_url or None,
            task=self.task_name if self.task else None,
            first=self.first,
            nodes=identities,
        )
        self.folder.write(self._state)


@asynccontextmanager
async def running_testnet(
    topology: Topology,
    folder: NetFolder,
    environment: Mapping[str, str],
    note: Note,
    *,
    keep: bool = False,
) -> AsyncIterator[RunningNet]:
    """A testnet that is up inside the block; at its end, however that comes, no process of it is left.

    Call from the main thread. `environment` is that of the processes. Raises `OperatorError` subclasses, never
    in a group.
    """
    net = RunningNet(topology, folder, environment, note)
    with folder.held():
        _end_leftovers(folder)
        if folder.clear():
            note(f"removed the testnet that was in {folder.path}")
        async with AsyncExitStack() as stack:
            try:
                try:
                    await net.start(stack, keep=keep)
                except BaseExceptionGroup as group:
                    raise_operator_error(group)
                yield net
            finally:
                with trio.CancelScope(shield=True):
                    await net.stop()


def _end_leftovers(folder: NetFolder) -> None:
    """Kill what an earlier run's `testnet.json` names and still runs. There is nothing: the kernel ended it then."""
    try:
        state = folder.read()
    except ConfigurationError:
        return  # of another version, or damaged: it is about to be removed
    for mark in state.processes.values() if state else ():
        mark.send(signal.SIGKILL, group=True)
