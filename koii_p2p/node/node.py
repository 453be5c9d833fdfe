"""The node: puts keys, storage, K2, network, tasks and the API together, and keeps them running."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from koii_p2p import __version__
from koii_p2p.data.collections.service import Collections
from koii_p2p.errors import raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Settings
from koii_p2p.localk2 import serve as serve_local_k2
from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.network.task_bootstrap import bootstrap_in
from koii_p2p.node.answering import serve_rounds
from koii_p2p.node.api import create_app, metrics_token, new_token, serve_api
from koii_p2p.node.api_file import remove_api_file, write_api_file
from koii_p2p.node.arrivals import Arrivals
from koii_p2p.node.behaviours import Behaviour
from koii_p2p.node.carriers import ByProgram, CarrierChoice, settlements
from koii_p2p.node.chain_checkup import LOW_BALANCE
from koii_p2p.node.collections import TaskCollections, collections_of, open_collections
from koii_p2p.node.dht import NodeDht
from koii_p2p.node.metric_sections import About, Snapshot, TaskNumbers
from koii_p2p.node.metrics import NodeMetrics
from koii_p2p.node.package_store import PackageStore
from koii_p2p.node.packages import Packages
from koii_p2p.node.peer_standing import PeerStandings
from koii_p2p.node.record_trace import RecordTrace
from koii_p2p.node.resources import (
    Usage,
    folder_bytes,
    limit_uses,
    process_statistics,
    queue_lengths,
    task_use,
)
from koii_p2p.node.rooms import admit, dismiss, open_data, space_of
from koii_p2p.node.slots import SlotClock
from koii_p2p.node.staking import bring_up_stake
from koii_p2p.node.supervisor import OnFailure, Service, Supervisor
from koii_p2p.node.task_blobs import get_blob, put_blob
from koii_p2p.node.task_db import TaskDb
from koii_p2p.node.task_facts import TaskFacts
from koii_p2p.node.task_life import say_closed
from koii_p2p.node.task_server import TaskHttpPlace, TaskServer
from koii_p2p.node.task_service import TaskService, TaskSettings, TaskStores
from koii_p2p.node.trust import Consent, TrustList
from koii_p2p.node.views import (
    base58,
    closed_view,
    coverage_view,
    life_view,
    peer_view,
    plain,
    round_brief,
    round_view,
    score_view,
)
from koii_p2p.rounds.engine import SUBMITTER, RoundEngine
from koii_p2p.rounds.role import Role
from koii_p2p.settlement.interface import ClosedTaskState, Settlement
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.refusals import ClosedTask
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.database import Database
from koii_p2p.storage.home import Home
from koii_p2p.storage.journal import Owner, SigningJournal
from koii_p2p.storage.keyfile import load_secret
from koii_p2p.storage.private_file import PrivateFile
from koii_p2p.storage.record_log import RecordLog
from koii_p2p.storage.task_store import TaskStore
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices, signature_is_good
from koii_p2p.tasks.task_network import may_reach_internet

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task to work on: its 32-byte id on K2 and the folder or file of its code."""

    task: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything a node is told at start. `stake` is what should be staked in each task, in Roe; 0 stakes nothing.

    `url` may hold a provider's key: what is shown of it is `RpcClient.url`. With `task_network` the workers of tasks
    that ask for the internet may reach it; `task_http` is where their REST is served, None for nowhere. `by_package`
    are tasks whose code is had from peers, by the CID in their terms, and run if `consent` is given. `trace` is the
    file that gets a line for each record; None for none.
    """

    home: Home
    url: str = field(repr=False)
    network: NetworkSettings
    tasks: tuple[TaskSpec, ...] = ()
    by_package: tuple[bytes, ...] = ()
    consent: Consent = field(default_factory=Consent)
    carrier: CarrierChoice = field(default_factory=ByProgram)
    fees: PriorityFees = field(default_factory=PriorityFees)
    embedded_k2: LocalK2Settings | None = None
    stake: int = 0
    claim_every: int = 10
    behaviour: Behaviour = Behaviour.HONEST
    role: Role = SUBMITTER
    task_network: bool = False
    task_http: TaskHttpPlace | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 0
    trace: Path | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class NodeReady:
    """What a node says when it runs: base58 keys, its PeerId and addresses, where its API is, what it works on.

    `k2` are the addresses of its RPC nodes, without keys; `carrier_note` is empty if its carrier pays, `task_url` if it
    serves no REST of tasks.
    """

    key: str
    wallet: str
    peer_id: str
    addresses: tuple[str, ...]
    api_url: str
    tasks: tuple[str, ...]
    k2: str
    carrier: str
    carrier_note: str
    task_url: str = ""


class Node:
    """One node. `run` does everything; the other methods are what its API shows."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._scope = trio.CancelScope()
        self._supervisor = Supervisor()
        self._services: dict[str, TaskService] = {}
        self._closed: dict[str, ClosedTaskState] = {}
        self._started_at = 0.0
        self._task_stores: dict[str, TaskStore] = {}
        self._collections: dict[str, TaskCollections] = {}
        self._metrics = NodeMetrics(self._snapshot)

    async def run(self, *, task_status: trio.TaskStatus[NodeReady] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled or `stop` is called. Ready when every service is.

        Raises `OperatorError` subclasses for what the operator can mend: keys, folders, ports, addresses, K2, tasks.
        """
        try:
            await self._run(task_status)
        except BaseExceptionGroup as group:
            raise_operator_error(group)

    async def _run(self, task_status: trio.TaskStatus[NodeReady]) -> None:
        settings, home = self._settings, self._settings.home
        with self._scope, home.locked():
            self._secret = load_secret(home.staking_key)
            self._wallet = load_secret(home.wallet_key)
            self._started_at = trio.current_time()
            async with trio.open_nursery() as nursery:
                if self._settings.embedded_k2 is not None:
                    await nursery.start(partial(serve_local_k2, self._settings.embedded_k2))
                async with AsyncExitStack() as stack:
                    traced = RecordTrace(settings.trace, self._secret.public_key, settings.limits)
                    self._trace = stack.enter_context(traced)
                    rpc = await stack.enter_async_context(
                        RpcClient(self._settings.url, limits=self._settings.limits)
                    )
                    await self._serve(rpc, stack, task_status)
                nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """End the node; `run` returns."""
        self._scope.cancel()

    async def _serve(
        self, rpc: RpcClient, stack: AsyncExitStack, task_status: trio.TaskStatus[NodeReady]
    ) -> None:
        settings, home = self._settings, self._settings.home
        self._rpc = rpc
        chains = self._chains([*(spec.task for spec in settings.tasks), *settings.by_package])
        if settings.carrier.note:
            log.warning("the carrier does not pay", carrier=settings.carrier.name, note=settings.carrier.note)
        self._genesis = await rpc.get_genesis_hash()
        database = self._database = stack.enter_context(Database.open(home.database_of(self._genesis)))
        journal = SigningJournal(database)
        journal.require_owner(Owner(self._genesis, self._secret.public_key))
        self._stores = TaskStores(RecordLog(database), journal, Artifacts(database, settings.limits))
        self._slots = SlotClock(partial(rpc.get_slot, "processed"))
        self._network = Network(
            self._secret,
            settings.network,
            settings.limits,
            PrivateFile(home.peers, settings.limits.address_book_file_bytes),
        )
        self._packages = Packages(PackageStore(home.packages), self._network, settings.limits)
        self._arrivals = Arrivals(
            self._network,
            self._packages,
            settings.consent,
            TrustList(home, settings.limits),
            services=self._services,
            closed=self._closed,
            chain_of=lambda task: self._chains([task])[task],
            add=self._add_task,
            own={spec.task: spec.path for spec in settings.tasks},
            limits=settings.limits,
        )
        self._task_server = TaskServer(
            settings.task_http,
            self._secret,
            self._services,
            lambda: self._network.addresses,
            lambda: self._slots.now() if self._slots.trusted else None,
            settings.limits,
        )
        for spec in settings.tasks:
            try:
                service = await self._task_service(spec, chains[spec.task], database)
            except ClosedTask as error:
                say_closed(base58(spec.task), error.state)
                self._closed[base58(spec.task)] = error.state
            else:
                self._services[service.name] = service
        serve_rounds(self._network, self._services, settings.limits)
        standings = PeerStandings(self._open_engines, self._network)
        dht = NodeDht(self._network, self._genesis, self._open_engines)
        folder, services = home.data_of(self._genesis), self._services.values()
        self._data = open_data(stack, folder, self._network, services, settings.limits, standings.note)
        self._collections = open_collections(
            map(space_of, services),
            self._genesis,
            self._secret,
            database,
            self._network,
            self._slots,
            settings.limits,
        )
        await self._check_balance()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(
                self._supervisor.run,
                [
                    Service("record trace", self._trace.run),
                    Service("slots", self._slots.run),
                    Service("network", self._network.run, OnFailure.STOP),
                    *(Service(f"task {name}", service.run) for name, service in self._services.items()),
                    Service("peer standings", standings.run),
                    Service("dht presence", dht.run),
                    *(Service(f"collections {name}", one.run) for name, one in self._collections.items()),
                    *([] if isinstance(self._data, str) else [Service("task data", self._data.run)]),
                    Service("arrivals", self._arrivals.run),
                ],
            )
            for task in settings.by_package:
                await self._join_by_package(task)
            await nursery.start(self._task_server.run, settings.carrier.name, self._genesis)
            token = new_token()
            app = self._api = create_app(
                self,
                token,
                metrics_token(home.metrics_token),
                lambda: self._data,
                lambda: {name: one.collections for name, one in self._collections.items()},
                lambda: dht,
            )
            url = await nursery.start(serve_api, app, settings.api_host, settings.api_port, settings.limits)
            write_api_file(home.api, url, token, os.getpid())
            # What start-up made lives as long as the node: keeping it out of every collection halves the pauses.
            gc.collect()
            gc.freeze()
            try:
                task_status.started(self._ready(url))
                await trio.sleep_forever()
            finally:
                remove_api_file(home.api)

    def _ready(self, url: str) -> NodeReady:
        return NodeReady(
            key=base58(self._secret.public_key),
            wallet=base58(self._wallet.public_key),
            peer_id=self._network.peer_id,
            addresses=self._network.addresses,
            api_url=url,
            tasks=tuple(self._services),
            k2=self._rpc.url,
            carrier=self._settings.carrier.name,
            carrier_note=self._settings.carrier.note,
            task_url=self._task_server.url,
        )

    # --- tasks

    def _chains(self, tasks: Iterable[bytes]) -> Mapping[bytes, Settlement]:
        """What holds the rounds of some tasks on K2."""
        settings = self._settings
        payer, staker = self._wallet, self._secret
        return settlements(settings.carrier, tasks, self._rpc, payer, staker, settings.limits, settings.fees)

    async def _join_by_package(self, task: bytes) -> None:
        try:
            await self._arrivals.join(task)
        except ClosedTask as error:
            say_closed(base58(task), error.state)
            self._closed[base58(task)] = error.state

    async def _add_task(self, task: bytes, path: Path) -> None:
        """Work on one more task from now on. Raises as `run` does for a task that cannot be started."""
        limits = self._settings.limits
        service = await self._task_service(TaskSpec(task, path), self._chains([task])[task], self._database)
        name, space, database = service.name, space_of(service), self._database
        room = collections_of(
            space, self._genesis, self._secret, database, self._network, self._slots, limits
        )
        admit(self._data, service, space, limits)
        self._services[name], self._collections[name] = service, room
        try:
            await self._nursery.start(
                self._supervisor.run,
                [Service(f"task {name}", service.run), Service(f"collections {name}", room.run)],
            )
        except BaseException as error:
            del self._services[name], self._collections[name]
            dismiss(self._data, task)
            if isinstance(error, BaseExceptionGroup):
                raise_operator_error(error)
            raise

    async def _task_service(self, spec: TaskSpec, chain: Settlement, database: Database) -> TaskService:
        settings = self._settings
        state = await chain.task_state(spec.task)
        if (peer := bootstrap_in(state.metadata)) is not None:
            self._network.add_bootstrap(peer)
        stake_later = None
        if settings.stake:
            own, wallet = self._secret.public_key, self._wallet.public_key
            stake = partial(bring_up_stake, chain, spec.task, own, settings.stake, wallet)
            if state.active:
                await stake()
            else:
                stake_later = stake
        name = base58(spec.task)
        store = self._task_stores[name] = TaskStore(database, spec.task, settings.limits)
        services = TaskServices(
            submitter=self._secret.public_key,
            main_account=self._wallet.public_key,
            store_get=store.get,
            store_set=store.set,
            store_delete=store.delete,
            sign=self._secret.sign,
            verify=signature_is_good,
            fact=(facts := TaskFacts()),
            blob_put=partial(put_blob, lambda: self._data, spec.task),
            blob_get=partial(get_blob, lambda: self._data, settings.limits.task_blob_bytes),
            db=TaskDb(partial(self._collections_of, name), settings.limits),
        )
        runner = TaskRunner(
            spec.path,
            spec.task,
            settings.home.tasks / name,
            services,
            settings.limits,
            slash_basis_points=state.terms.slash_basis_points,
            network=may_reach_internet(base58(spec.task), spec.path, settings.task_network),
            serves=self._task_server.on,
        )
        service = TaskService(
            state.terms,
            genesis=self._genesis,
            secret=self._secret,
            settlement=chain,
            network=self._network,
            runner=runner,
            stores=self._stores,
            slots=self._slots,
            settings=TaskSettings(
                settings.behaviour,
                settings.role,
                settings.claim_every,
                settles=settings.carrier.settles,
                commits_late=settings.carrier.commits_late,
                stake=stake_later,
                also_at=self._task_server.announced,
                trace=self._trace.note,
            ),
            random_source=random.Random(),
            limits=settings.limits,
        )
        facts.use(service.engine, lambda: service.state, lambda: self._slots.slot_seconds)
        return service

    def _collections_of(self, name: str) -> Collections | None:
        """The collections of a task by its id in base58; None while the node starts."""
        one = self._collections.get(name)
        return None if one is None else one.collections

    async def _check_balance(self) -> None:
        balance = await self._rpc.get_balance(self._wallet.public_key)
        if balance < LOW_BALANCE:
            log.warning(
                "the wallet is nearly empty: this node takes part, but cannot pay for anchors or claims",
                wallet=base58(self._wallet.public_key),
                balance=balance,
            )

    # --- what the API shows

    def status(self) -> Mapping[str, Any]:
        """The node as a whole."""
        carrier = self._settings.carrier
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(trio.current_time() - self._started_at, 1),
            "key": base58(self._secret.public_key),
            "wallet": base58(self._wallet.public_key),
            "peer_id": self._network.peer_id,
            "addresses": list(self._network.addresses),
            "observed": list(self._network.observed),
            "behaviour": self._settings.behaviour.value,
            "cluster": {"url": self._rpc.url, "genesis": base58(self._genesis)},
            "carrier": {"name": carrier.name, "settles": carrier.settles, "note": carrier.note},
            "slot": plain(self._slots.statistics()),
            "network": plain(self._network.statistics()),
            "supervisor": plain(self._supervisor.statistics()),
            "tasks": [self._task_view(name, service) for name, service in self._services.items()],
            "task_http": self._task_server.statistics(),
            "data": plain({"fault": self._data} if isinstance(self._data, str) else self._data.statistics()),
            "collections": {
                name: plain(one.collections.statistics()) for name, one in self._collections.items()
            },
            "closed_tasks": [closed_view(name, state) for name, state in self._closed_tasks().items()],
            "packages": self._packages.view(),
        }

    def _open_engines(self) -> dict[str, RoundEngine]:
        return {name: service.engine for name, service in self._services.items() if service.closed is None}

    def _closed_tasks(self) -> dict[str, ClosedTaskState]:
        """The tasks that were closed before this node started, and since."""
        since = {name: service.closed for name, service in self._services.items()}
        return self._closed | {name: state for name, state in since.items() if state is not None}

    def _task_view(self, name: str, service: TaskService) -> dict[str, Any]:
        engine, state = service.engine, service.state
        return {
            "task": name,
            "name": service.terms.name,
            **life_view(state, service.closed),
            "succession": self._arrivals.view(name),
            "period": engine.clock.period(engine.slot),
            "rounds": [
                round_brief(name, engine, found)
                for number in engine.rounds()[-3:]
                if (found := engine.round(number)) is not None
            ],
            "vault": None if state is None else state.vault,
            "records": plain(engine.statistics()),
            "heard": coverage_view(engine.coverage()),
            "actions": plain(service.statistics()),
            "worker": plain(service.worker_statistics()),
        }

    def rounds(self) -> list[Mapping[str, Any]]:
        """The rounds in memory, of every task, oldest first."""
        return [
            round_brief(name, service.engine, state)
            for name, service in self._services.items()
            for number in service.engine.rounds()
            if (state := service.engine.round(number)) is not None
        ]

    def round(self, task: str, number: int) -> Mapping[str, Any] | None:
        """One round in full, or None if the node does not know it."""
        service = self._services.get(task)
        state = service.engine.round(number) if service else None
        return round_view(task, service.engine, state) if service and state else None

    def peers(self) -> list[Mapping[str, Any]]:
        """Connected peers."""
        return [peer_view(peer) for peer in self._network.peers()]

    def reach(self) -> Mapping[str, Any]:
        """How others get at it: addresses, dial-backs, relays."""
        return plain(self._network.reach()) or {}

    def mesh(self) -> Mapping[str, Any]:
        """Gossip: its topics, neighbours, meshes and counters."""
        gossip: Mapping[str, Any] = plain(self._network.statistics().gossip) or {"topics": []}
        return gossip

    def scores(self) -> list[Mapping[str, Any]]:
        """What gossip thinks of each connected peer, and why."""
        return [score_view(peer) for peer in self._network.scores()]

    def resources(self) -> Mapping[str, Any]:
        """What the process uses, what waits, and every limit with its use."""
        usage = self._usage()
        return {
            "process": plain(process_statistics()),
            "database_bytes": folder_bytes(self._settings.home.database),
            "queues": queue_lengths(usage),
            "limits": plain(limit_uses(self._settings.limits, usage)),
        }

    def unready(self) -> list[str]:
        """Why the node cannot work now, in sentences; empty if it can."""
        slot = self._slots.statistics()
        found = [] if slot.trusted else [f"K2 was not heard for {slot.age:.0f} s: the node stands still."]
        return found if self._network.listening else [*found, "The network does not listen."]

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Its numbers for Prometheus, and their content type."""
        return self._metrics.exposition(accept)

    def _usage(self) -> Usage:
        return Usage(
            self._network.statistics(),
            self._rpc.statistics(),
            self._api.state.connections.statistics(),
            tuple(
                task_use(service.engine, service.worker_statistics(), self._task_stores[name].statistics())
                for name, service in self._services.items()
            ),
            None if isinstance(self._data, str) else self._data.statistics(),
            tuple(one.collections.statistics() for one in self._collections.values()),
            self._task_server.statistics(),
        )

    def _snapshot(self) -> Snapshot:
        usage = self._usage()
        return Snapshot(
            about=About(
                __version__,
                base58(self._secret.public_key),
                self._network.peer_id,
                trio.current_time() - self._started_at,
                folder_bytes(self._settings.home.database),
            ),
            process=process_statistics(),
            network=usage.network,
            slot=self._slots.statistics(),
            supervisor=self._supervisor.statistics(),
            rpc=usage.rpc,
            rpc_nodes=self._rpc.nodes(),
            database=self._database.statistics(),
            journal=self._stores.journal.statistics(),
            records=self._stores.records.statistics(),
            api=usage.api,
            tasks=tuple(
                TaskNumbers(
                    name,
                    service.engine.clock.period(service.engine.slot),
                    service.statistics(),
                    use,
                    documents,
                )
                for (name, service), use, documents in zip(
                    self._services.items(), usage.tasks, usage.collections, strict=True
                )
            ),
            limits=limit_uses(self._settings.limits, usage),
            data=usage.data,
        )

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        """Stored bytes of a round: commitment, bundle or list; None if the node has none."""
        service = self._services.get(task)
        return service.artifact(number, Artifact(name)) if service else None
