"""The node: puts keys, storage, K2, network, tasks and the API together, and keeps them running."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from koii_p2p import __version__
from koii_p2p.errors import raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Settings
from koii_p2p.localk2 import serve as serve_local_k2
from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.node import exchange
from koii_p2p.node.api import create_app, new_token, serve_api
from koii_p2p.node.api_file import remove_api_file, write_api_file
from koii_p2p.node.behaviours import Behaviour
from koii_p2p.node.carriers import ByProgram, CarrierChoice, settlements
from koii_p2p.node.slots import SlotClock
from koii_p2p.node.staking import bring_up_stake
from koii_p2p.node.supervisor import OnFailure, Service, Supervisor
from koii_p2p.node.task_life import say_closed
from koii_p2p.node.task_service import TaskService, TaskSettings, TaskStores
from koii_p2p.node.views import base58, closed_view, life_view, peer_view, plain, round_brief, round_view
from koii_p2p.rounds.engine import SUBMITTER
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
from koii_p2p.storage.record_log import RecordLog
from koii_p2p.storage.task_store import TaskStore
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices

log = structlog.get_logger(__name__)

LOW_BALANCE = 3_000_000
"""Roe below which fees may soon not be paid (Koii's client reserves as much: SAFE_AMOUNT_FOR_FEES)."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task to work on: its 32-byte id on K2 and the folder or file of its code."""

    task: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything a node is told at start. `stake` is what should be staked in each task, in Roe; 0 stakes nothing.

    `url` may hold a provider's key: what is shown of it is `RpcClient.url`.
    """

    home: Home
    url: str = field(repr=False)
    network: NetworkSettings
    tasks: tuple[TaskSpec, ...] = ()
    carrier: CarrierChoice = field(default_factory=ByProgram)
    fees: PriorityFees = field(default_factory=PriorityFees)
    embedded_k2: LocalK2Settings | None = None
    stake: int = 0
    claim_every: int = 10
    behaviour: Behaviour = Behaviour.HONEST
    role: Role = SUBMITTER
    api_host: str = "127.0.0.1"
    api_port: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class NodeReady:
    """What a node says when it runs: base58 keys, its PeerId and addresses, where its API is, what it works on.

    `k2` are the addresses of its RPC nodes, without keys; `carrier_note` is empty if its carrier pays.
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


class Node:
    """One node. `run` does everything; the other methods are what its API shows."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._scope = trio.CancelScope()
        self._supervisor = Supervisor()
        self._services: dict[str, TaskService] = {}
        self._closed: dict[str, ClosedTaskState] = {}
        self._started_at = 0.0

    async def run(self, *, task_status: trio.TaskStatus[NodeReady] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled or `stop` is called. Ready when every service is.

        Raises `OperatorError` subclasses for what the operator can mend: keys, folders, ports, addresses, K2, tasks.
        """
        try:
            await self._run(task_status)
        except BaseExceptionGroup as group:
            raise_operator_error(group)

    async def _run(self, task_status: trio.TaskStatus[NodeReady]) -> None:
        home = self._settings.home
        with self._scope, home.locked():
            self._secret = load_secret(home.staking_key)
            self._wallet = load_secret(home.wallet_key)
            self._started_at = trio.current_time()
            async with trio.open_nursery() as nursery:
                if self._settings.embedded_k2 is not None:
                    await nursery.start(partial(serve_local_k2, self._settings.embedded_k2))
                async with AsyncExitStack() as stack:
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
        chains = settlements(
            settings.carrier,
            (spec.task for spec in settings.tasks),
            rpc,
            self._wallet,
            self._secret,
            settings.limits,
            settings.fees,
        )
        if settings.carrier.note:
            log.warning("the carrier does not pay", carrier=settings.carrier.name, note=settings.carrier.note)
        self._genesis = await rpc.get_genesis_hash()
        database = stack.enter_context(Database.open(home.database_of(self._genesis)))
        journal = SigningJournal(database)
        journal.require_owner(Owner(self._genesis, self._secret.public_key))
        self._stores = TaskStores(RecordLog(database), journal, Artifacts(database, settings.limits))
        self._slots = SlotClock(partial(rpc.get_slot, "processed"))
        self._network = Network(self._secret, settings.network, settings.limits)
        for spec in settings.tasks:
            try:
                service = await self._task_service(spec, chains[spec.task], database)
            except ClosedTask as error:
                say_closed(base58(spec.task), error.state)
                self._closed[base58(spec.task)] = error.state
            else:
                self._services[service.name] = service
        self._serve_peers()
        await self._check_balance()
        async with trio.open_nursery() as nursery:
            await nursery.start(
                self._supervisor.run,
                [
                    Service("slots", self._slots.run),
                    Service("network", self._network.run, OnFailure.STOP),
                    *(Service(f"task {name}", service.run) for name, service in self._services.items()),
                ],
            )
            token = new_token()
            url = await nursery.start(
                serve_api, create_app(self, token), settings.api_host, settings.api_port, settings.limits
            )
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
        )

    # --- tasks

    async def _task_service(self, spec: TaskSpec, chain: Settlement, database: Database) -> TaskService:
        settings = self._settings
        state = await chain.task_state(spec.task)
        stake_later = None
        if settings.stake:
            own, wallet = self._secret.public_key, self._wallet.public_key
            stake = partial(bring_up_stake, chain, spec.task, own, settings.stake, wallet)
            if state.active:
                await stake()
            else:
                stake_later = stake
        name = base58(spec.task)
        store = TaskStore(database, spec.task, settings.limits)
        services = TaskServices(
            submitter=self._secret.public_key,
            main_account=self._wallet.public_key,
            store_get=store.get,
            store_set=store.set,
            store_delete=store.delete,
            sign=self._secret.sign,
            verify=_signature_is_good,
        )
        runner = TaskRunner(
            spec.path,
            spec.task,
            settings.home.tasks / name,
            services,
            settings.limits,
            slash_basis_points=state.terms.slash_basis_points,
        )
        return TaskService(
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
            ),
            random_source=random.Random(),
            limits=settings.limits,
        )

    async def _check_balance(self) -> None:
        balance = await self._rpc.get_balance(self._wallet.public_key)
        if balance < LOW_BALANCE:
            log.warning(
                "the wallet is nearly empty: this node takes part, but cannot pay for anchors or claims",
                wallet=base58(self._wallet.public_key),
                balance=balance,
            )

    # --- peers

    def _serve_peers(self) -> None:
        limits = self._settings.limits

        async def records(_asker: bytes, data: bytes) -> bytes:
            request = exchange.decode_records_request(data, limits)
            return self._service(request.task).records(request)

        async def reconcile(_asker: bytes, data: bytes) -> bytes:
            task, number, question = exchange.decode_reconcile(data, limits)
            return self._service(task).reconcile(number, question)

        async def artifacts(_asker: bytes, data: bytes) -> bytes:
            task, number = exchange.decode_artifacts_request(data, limits)
            return self._service(task).artifacts(number)

        async def presences(_asker: bytes, data: bytes) -> bytes:
            return self._service(exchange.decode_presence_request(data, limits)).presences()

        self._network.serve(exchange.RECONCILE_PROTOCOL, reconcile)
        self._network.serve(exchange.RECORDS_PROTOCOL, records)
        self._network.serve(exchange.ARTIFACTS_PROTOCOL, artifacts)
        self._network.serve(exchange.PRESENCE_PROTOCOL, presences)

    def _service(self, task: bytes) -> TaskService:
        service = self._services.get(base58(task))
        if service is None:
            raise exchange.ExchangeError("We do not work on this task.")
        return service

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
            "behaviour": self._settings.behaviour.value,
            "cluster": {"url": self._rpc.url, "genesis": base58(self._genesis)},
            "carrier": {"name": carrier.name, "settles": carrier.settles, "note": carrier.note},
            "slot": plain(self._slots.statistics()),
            "network": plain(self._network.statistics()),
            "supervisor": plain(self._supervisor.statistics()),
            "tasks": [self._task_view(name, service) for name, service in self._services.items()],
            "closed_tasks": [closed_view(name, state) for name, state in self._closed_tasks().items()],
        }

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
            "period": engine.clock.period(engine.slot),
            "rounds": [
                round_brief(name, engine, found)
                for number in engine.rounds()[-3:]
                if (found := engine.round(number)) is not None
            ],
            "vault": None if state is None else state.vault,
            "records": plain(engine.statistics()),
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

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        """Stored bytes of a round: commitment, bundle or list; None if the node has none."""
        service = self._services.get(task)
        return service.artifact(number, Artifact(name)) if service else None


def _signature_is_good(message: bytes, signature: bytes, key: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True
