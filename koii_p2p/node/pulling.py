"""What a node asks its peers for: records it lacks, artifacts of anchored rounds, where the others are."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import trio

from koii_p2p.errors import OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed
from koii_p2p.node import exchange
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Kind
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.events import Event
from koii_p2p.rounds.range_messages import ReconcileError
from koii_p2p.rounds.reconcile import Reconciler

RECONCILE_PEERS = 3
ARTIFACT_PEERS = 4

PEER_FAULTS = (OperatorError, RequestFailed, ReconcileError, exchange.ExchangeError)
"""What may go wrong with a peer, the chain or a task, and costs no more than what was being done."""


class Puller:
    """Asks a few peers, chosen at random; what one of them does wrong costs no more than its answer.

    `keep` takes a record that was admitted, `handle` an event for the engine, `failed` what went wrong.
    """

    def __init__(
        self,
        task: bytes,
        engine: RoundEngine,
        network: Network,
        random_source: random.Random,
        limits: Limits,
        *,
        keep: Callable[[Verified], None],
        handle: Callable[[Event], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._task = task
        self._engine = engine
        self._network = network
        self._random = random_source
        self._limits = limits
        self._keep = keep
        self._handle = handle
        self._failed = failed

    async def records(self, number: int) -> int:
        """Find out what of a round some peers have and we lack, and get it. Returns how many of them answered."""
        return await self._ask_peers(RECONCILE_PEERS, partial(self._pull_records, number))

    async def artifacts(self, number: int) -> None:
        """Get commitment, bundle and list of an anchored round from some peers; the engine checks them."""
        await self._ask_peers(ARTIFACT_PEERS, partial(self._pull_artifacts, number))

    async def presences(self) -> None:
        """Learn from one peer where the others are."""
        await self._ask_peers(1, self._pull_presences)

    async def _ask_peers(self, count: int, ask: Callable[[bytes], Coroutine[Any, Any, None]]) -> int:
        keys = sorted(peer.key for peer in self._network.peers())
        answered = 0

        async def ask_one(key: bytes) -> None:
            nonlocal answered
            try:
                await ask(key)
                answered += 1
            except PEER_FAULTS as error:
                self._failed("ask peer", error)

        async with trio.open_nursery() as nursery:
            for key in self._random.sample(keys, min(count, len(keys))):
                nursery.start_soon(ask_one, key)
        return answered

    async def _request(self, key: bytes, protocol: str, payload: bytes) -> bytes:
        return await self._network.request(key, protocol, payload, deadline=self._limits.request_deadline)

    async def _pull_records(self, number: int, key: bytes) -> None:
        reconciler = Reconciler(self._engine.item_set(number), self._limits)
        question: bytes | None = reconciler.initiate()
        while question is not None:
            payload = exchange.encode_reconcile(self._task, number, question)
            step = reconciler.receive(await self._request(key, exchange.RECONCILE_PROTOCOL, payload))
            for start in range(0, len(step.have), self._limits.records_per_request):
                await self._fetch_records(
                    number, key, step.have[start : start + self._limits.records_per_request]
                )
            question = step.message

    async def _fetch_records(self, number: int, key: bytes, ids: tuple[bytes, ...]) -> None:
        # Another peer may have sent some of them meanwhile.
        lacking = tuple(record_id for record_id in ids if self._engine.lacks(number, record_id))
        if not lacking:
            return
        wanted = exchange.RecordsRequest(self._task, number, lacking)
        reply = await self._request(key, exchange.RECORDS_PROTOCOL, exchange.encode_records_request(wanted))
        for count, raw in enumerate(exchange.decode_records(reply, self._limits)):
            _judgement, record = self._engine.receive(raw, Source.SYNC)
            if record is not None:
                self._keep(record)
            if count % 64 == 63:
                await trio.lowlevel.checkpoint()

    async def _pull_artifacts(self, number: int, key: bytes) -> None:
        payload = exchange.encode_artifacts_request(self._task, number)
        reply = await self._request(key, exchange.ARTIFACTS_PROTOCOL, payload)
        found = exchange.decode_artifacts(reply, self._limits)
        self._handle(events.ArtifactsRead(number, found.commitment, found.bundle, found.list))

    async def _pull_presences(self, key: bytes) -> None:
        payload = exchange.encode_presence_request(self._task)
        reply = await self._request(key, exchange.PRESENCE_PROTOCOL, payload)
        for raw in exchange.decode_records(reply, self._limits):
            _judgement, record = self._engine.receive(raw, Source.SYNC, kinds=frozenset({Kind.PRESENCE}))
            if record is not None:
                self._keep(record)
