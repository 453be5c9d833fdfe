"""A whole run: bring a testnet up, watch its rounds, settle what is left open, check everything, say how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio
from solders.pubkey import Pubkey

from koii_p2p.errors import ChainError, CheckFailed, ConfigurationError, NetworkError, raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import DistributionError, DistributionList
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import Distribute, not_at_hand
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.testnets.attempts import final_slot
from koii_p2p.testnets.chaos_service import serve_chaos
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import (
    Evidence,
    RoundCopies,
    fetch_copies,
    load_evidence,
    read_task_chain,
    save_evidence,
)
from koii_p2p.testnets.folder import NetFolder, State
from koii_p2p.testnets.net import RunningNet, running_testnet
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.outcome import Outcome, outcome_of
from koii_p2p.testnets.processes import Child
from koii_p2p.testnets.topology import Topology
from koii_p2p.testnets.watch import Snapshot, Watcher

LOOK_SECONDS: Final = 1.0
CLAIM_SECONDS: Final = 6.0
"""After the last round is final: how long the nodes have to settle by themselves before the runner does the rest."""
SETTLE_ATTEMPTS: Final = 5


ListRule = Callable[[TaskTerms], AbstractAsyncContextManager[Distribute | None]]
"""Brings the rule by which a task with these terms distributes: None for Koii's default, or the task's own function,
which works in other threads while the block lasts. It is handed in, because running a task's code takes the room of
tasks, and a testnet sees nodes and tasks from outside only."""


@asynccontextmanager
async def koiis_rule(terms: TaskTerms) -> AsyncIterator[Distribute | None]:
    """The rule of a task that inherits its distribution."""
    yield None


class Audience(Protocol):
    """Who is told what happens."""

    def note(self, text: str) -> None:
        """One sentence about what was done."""

    def show(self, net: RunningNet, snapshot: Snapshot) -> None:
        """What the testnet looks like now."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. `deaths` names processes that ended by themselves; `seconds` is all of it, checks included.

    `k2` counts what K2 did wrong, by name: restarts, roll-backs, what its faults hit; `network` what was done to the
    network: partitions, heals, nodes killed and back, what became of the links.
    """

    outcome: Outcome
    deaths: tuple[str, ...]
    seconds: float
    k2: Mapping[str, int] = field(default_factory=dict)
    network: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything was verified and as expected, and every node lived."""
        return self.outcome.ok and not self.deaths


async def run_testnet(
    topology: Topology,
    folder: NetFolder,
    environment: Mapping[str, str],
    audience: Audience,
    *,
    keep: Callable[[Run], object] | None = None,
    rule: ListRule = koiis_rule,
) -> Run:
    """Run a testnet until its rounds are settled and checked; `rule` is that of the lists of its task.

    With `keep`, that is called with how it ended, and the testnet goes on until this is cancelled. At the end no
    process is left. Raises `OperatorError` subclasses: K2 or a node does not start, K2 ends, a folder is in use.
    """
    began = trio.current_time()
    async with running_testnet(topology, folder, environment, audience.note, keep=keep is not None) as net:
        audience.note(str(net.lengths))
        deaths = await _play(net, audience)
        audience.note("the last round is final; checking")
        await net.k2_play.end()
        await net.network_play.end()
        async with AsyncExitStack() as stack:
            clients = _clients(net, stack)
            copies, silent = await fetch_copies(clients, net.task_name, range(net.rounds))
        for name, why in silent.items():
            audience.note(f"{name} does not answer: {why}")
        if keep is None:
            await net.stop_nodes()
        await _settle_open_leaves(net, copies, audience)
        outcome = await _check(net, copies, rule)
        seconds = trio.current_time() - began
        run = Run(outcome, tuple(deaths), seconds, net.k2_play.counts, net.network_play.counts)
        if keep is not None:
            keep(run)
            await serve_chaos(net, audience.note)
        return run


async def _play(net: RunningNet, audience: Audience) -> list[str]:
    """Watch the testnet while K2 and the network do what they were told to do wrong; return what died by itself."""
    assert net.terms is not None, "the testnet was started"
    deaths: list[str] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.k2_play.run, net.terms.clock)
            nursery.start_soon(net.network_play.run, net.terms.clock, net.first)
            deaths = await _watch(net, audience)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_operator_error(group)
    return deaths


async def _watch(net: RunningNet, audience: Audience) -> list[str]:
    """Show the testnet every second until its last round is final and claimed; return what died meanwhile."""
    terms = net.terms
    assert terms is not None, "the testnet was started"
    watcher = Watcher(terms, net.settlement, net.rounds)
    deaths: dict[str, str] = {}
    claiming_since: float | None = None
    async with AsyncExitStack() as stack:
        clients: dict[str, tuple[Child, NodeClient]] = {}
        while True:
            _renew(clients, net, stack)
            for child in _dead(net, deaths):
                deaths[child.name] = f"{child.name} ended ({child.how_it_ended()}): {child.last_words()}"
                audience.note(deaths[child.name])
                if child is net.k2:
                    raise ChainError("The local K2 ended.", deaths[child.name], f"Look into {child.log}.")
            alive = [client for name, (_, client) in clients.items() if name not in deaths]
            if not alive:
                raise CheckFailed(
                    "Every node ended.", f"The last one: {list(deaths.values())[-1]}", "Look into the logs."
                )
            snapshot = await watcher.look(alive)
            audience.show(net, snapshot)
            if snapshot.slot > snapshot.final:
                claiming_since = claiming_since or trio.current_time()
                if trio.current_time() - claiming_since > CLAIM_SECONDS or _all_claimed(net, snapshot):
                    return list(deaths.values())
            await trio.sleep(LOOK_SECONDS)


def _all_claimed(net: RunningNet, snapshot: Snapshot) -> bool:
    """Whether K2 has paid everybody who did its work, and slashed every cheater, what a quiet testnet leads to."""
    sharing = [node.identity for node in net.nodes if not node.identity.cheats and not node.identity.witness]
    share = net.topology.rounds * (net.topology.bounty // len(sharing))
    cheating = [node.identity for node in net.nodes if node.identity.cheats]
    return all(snapshot.paid.get(node.key, 0) >= share for node in sharing) and all(
        snapshot.stakes.get(node.key, 0) < node.stake for node in cheating
    )


def _dead(net: RunningNet, known: Mapping[str, str]) -> list[Child]:
    lasting = [*(node.child for node in net.nodes), net.k2]
    return [child for child in lasting if child and child.returncode is not None and child.name not in known]


def _renew(clients: dict[str, tuple[Child, NodeClient]], net: RunningNet, stack: AsyncExitStack) -> None:
    """Have one client of each node that runs now: one that was killed and is back has another address and token."""
    for node in net.nodes:
        child = node.child
        if child is None or not node.addresses:
            clients.pop(node.name, None)
        elif node.name not in clients or clients[node.name][0] is not child:
            try:
                client = node.client()
            except NetworkError:
                continue  # it has ended: `_dead` tells
            stack.push_async_callback(client.aclose)
            clients[node.name] = child, client


def _clients(net: RunningNet, stack: AsyncExitStack) -> list[NodeClient]:
    clients = []
    for node in net.nodes:
        try:
            client = node.client()
        except NetworkError:
            continue  # it has ended: `_dead` tells
        stack.push_async_callback(client.aclose)
        clients.append(client)
    return clients


# --- settling what nobody settled


async def _settle_open_leaves(net: RunningNet, copies: Mapping[int, RoundCopies], audience: Audience) -> None:
    """Settle every leaf of the last list that its node did not: anyone may, and balances then show everything."""
    state = await net.settlement.task_state(net.task)
    lists = [
        one for one in state.rounds.values() if one.round in copies and one.list_root and not one.rejected
    ]
    newest = max(lists, key=lambda one: one.round, default=None)
    listed = None if newest is None else _anchored_list(copies[newest.round], newest.list_root)
    if listed is None:
        return
    number = listed.round
    open_leaves = 0
    for history in await net.settlement.stakes(net.task):
        leaf = listed.leaf(history.staker)
        taken = history.checkpoints[-1].slash_total if history.checkpoints else 0
        if leaf is None or (leaf.reward_total <= history.reward_paid and leaf.slash_total <= taken):
            continue
        open_leaves += 1
        for attempt in range(1, SETTLE_ATTEMPTS + 1):
            try:
                await net.settlement.settle(
                    net.task, number, leaf, listed.proof(leaf.staker), history.beneficiary
                )
                break
            except ChainError as error:
                audience.note(f"settling {Pubkey(leaf.staker)}, try {attempt}: {error.why}")
                await trio.sleep(LOOK_SECONDS)
    if open_leaves:
        audience.note(f"settled {open_leaves} leaves that their nodes had left open")


def _anchored_list(copies: RoundCopies, root: bytes | None) -> DistributionList | None:
    for data in copies.list.values():
        try:
            listed = DistributionList.decode(data)
        except DistributionError:
            continue
        if listed.root == root:
            return listed
    return None


# --- the check


async def _check(net: RunningNet, copies: Mapping[int, RoundCopies], rule: ListRule) -> Outcome:
    terms = net.terms
    assert terms is not None, "the testnet was started"
    identities = tuple(node.identity for node in net.nodes)
    chain = await read_task_chain(net.rpc, net.task, terms.clock, net.rounds, identities, Limits())
    async with rule(terms) as distribute:
        own = distribute is not None
        evidence = Evidence(chain, identities, net.rounds, copies, net.first, net.topology.expect, own)
        await trio.to_thread.run_sync(save_evidence, evidence, net.folder.evidence)
        return await trio.to_thread.run_sync(outcome_from, evidence, distribute)


def outcome_from(evidence: Evidence, distribute: Distribute | None = None) -> Outcome:
    """Check evidence and say how its testnet ended.

    `distribute` is the task's own distribution. Without it, lists are recomputed by Koii's default, or not at all if
    the evidence says that the task has one of its own.
    """
    if distribute is None and evidence.own_distribution:
        distribute = not_at_hand
    return outcome_of(check(evidence, distribute), evidence.nodes, evidence.first, evidence.expect)


async def read_running(folder: NetFolder, state: State) -> Evidence:
    """The evidence of a testnet that runs, as far as it has come: its rounds that are final.

    Whether its task has a distribution of its own is not known before its end: without the code it is taken for one
    that has. Raises `OperatorError`.
    """
    if state.task is None or state.k2_url is None or not state.nodes:
        raise CheckFailed(
            "There is nothing to check yet.", "The testnet is just starting.", "Try again in a few seconds."
        )
    task = bytes(Pubkey.from_string(state.task))
    async with AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(RpcClient(state.k2_url))
        settlement = ProgramSettlement(rpc, SecretKey.generate())  # only reads
        clock = (await settlement.task_state(task)).terms.clock
        rounds = await _final_rounds(settlement, task)
        if not rounds:
            slot = await settlement.slot()
            raise CheckFailed(
                "There is nothing to check yet.",
                f"No round is final before slot {clock.settles_at(0)}; it is slot {slot}.",
                "Try again later; `koii-p2p testnet status` shows where the rounds are.",
            )
        clients = []
        for node in state.nodes:
            try:
                clients.append(NodeClient.of_home(folder.home(node.name).path, name=node.name))
            except NetworkError:
                continue  # it has ended; the others hold the same
            stack.push_async_callback(clients[-1].aclose)
        copies, _ = await fetch_copies(clients, state.task, range(rounds))
        chain = await read_task_chain(rpc, task, clock, rounds, state.nodes, Limits())
    first = min(state.first, rounds)
    return Evidence(chain, state.nodes, rounds, copies, first, state.expect, own_distribution=True)


async def _final_rounds(settlement: ProgramSettlement, task: bytes) -> int:
    """How many rounds are final, and their rewards claimed: nodes claim in the first slots after a list is final."""
    while True:
        state = await settlement.task_state(task)
        clock, failed_allowed = state.terms.clock, state.terms.allowed_failed_distributions
        slot = await settlement.slot()
        begun = max(0, clock.period(slot) - 1)
        final = [final_slot(clock, n, state.rounds.get(n), failed_allowed) for n in range(begun)]
        rounds = next((n for n in range(begun) if slot < final[n]), begun)
        if not rounds or slot >= max(final[:rounds]) + clock.audit_window // 2:
            return rounds
        await trio.sleep(LOOK_SECONDS)


def read_saved(folder: NetFolder) -> Evidence:
    """The evidence that a testnet left in its folder. Raises `ConfigurationError` if there is none."""
    if not folder.evidence.exists():
        raise ConfigurationError(
            f"There is nothing to check in {folder.path}.",
            "No testnet has come to its end there.",
            "Start one with `koii-p2p testnet up`, or name a folder with --evidence.",
        )
    return load_evidence(folder.evidence, Limits())
