"""What changes in a collection, as it changes: subscribers are told of each document's newest version.

Every holder numbers its changes; a document that changes again moves to the end. So a reader that was away reads on
from its last number, and is told of what changed since, each document once. Shards that this node does not hold are
followed at each of their replicas, so that one that withholds or stops is not enough; what two tell is passed on once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import VerifiedDocument, Version
from koii_p2p.data.collections.holding import DOCUMENTS_AT_ONCE, Holding
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.sharding import shard_of
from koii_p2p.data.collections.values import Json
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed

_REMEMBERED: Final = 65_536
_WAITING: Final = 64
RETRY_SECONDS: Final = 1.0
ANSWERS_AT_ONCE: Final = 2
"""Peers for whom changes are looked through at a time."""


@dataclass(frozen=True, slots=True)
class Change:
    """A document as it is now; `value` is None if it was removed."""

    key: str
    value: dict[str, Json] | None
    author: bytes
    version: Version


class Feed:
    """Tells subscribers of this node, and peers, what changes."""

    def __init__(self, holding: Holding, network: Network, limits: Limits) -> None:
        self._holding = holding
        self._network = network
        self._limits = limits
        self.readers = 0
        self.told = 0
        self._answering = trio.CapacityLimiter(ANSWERS_AT_ONCE)

    @asynccontextmanager
    async def subscribe(
        self, definition: Definition, *, from_start: bool = False
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        """Changes from now on, or from the first; a reader that is slow is waited for, and loses nothing.

        Replicas tell in different orders: a reader may be told of a version after a newer one, but only if more than
        65 536 other documents changed in between. Raises `DocumentError` when there are too many readers.
        """
        if self.readers >= self._limits.document_readers:
            raise DocumentError(
                DocumentReason.TOO_MANY_READERS,
                f"{self.readers} subscribers follow changes at this node; that is as many as it serves.",
            )
        send, receive = trio.open_memory_channel[Change](_WAITING)
        self.readers += 1
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._follow, definition, from_start, send)
                yield receive
                nursery.cancel_scope.cancel()
        finally:
            self.readers -= 1

    async def _follow(
        self,
        definition: Definition,
        from_start: bool,
        send: trio.MemorySendChannel[Change],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Follow ourselves, and each peer that holds a shard which we do not; peers come and go with the stakers."""
        latest = _Latest(send)
        await self._holding.place(definition)
        following: dict[bytes, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            since = 0 if from_start else self._holding.store.last_ordinal(definition.id)
            nursery.start_soon(self._follow_own, definition, since, latest)
            started = False
            while True:
                wanted = self._peers_to_follow(definition)
                for key in following.keys() - wanted.keys():
                    following.pop(key).cancel()
                new = wanted.keys() - following.keys()
                for key in new:
                    following[key] = trio.CancelScope()
                async with trio.open_nursery() as first:
                    for key in sorted(new):
                        # The first time, a reader that wants what comes from now on is not told of what was before.
                        first.start_soon(
                            nursery.start,
                            self._follow_peer,
                            definition,
                            key,
                            from_start or started,
                            latest,
                            following[key],
                        )
                if not started:
                    started = True
                    task_status.started()
                await trio.sleep(RETRY_SECONDS)

    def _peers_to_follow(self, definition: Definition) -> dict[bytes, list[int]]:
        own = self._holding.own_shards(definition)
        found: dict[bytes, list[int]] = {}
        for shard, keys in enumerate(self._holding.replicas(definition)):
            for key in keys if shard not in own else ():
                found.setdefault(key, []).append(shard)
        return found

    async def _follow_own(self, definition: Definition, since: int, latest: _Latest) -> None:
        while True:
            found = list(
                self._holding.store.changes(definition.id, since, self._limits.documents_per_request)
            )
            for change in found:
                await latest.tell(self._holding.verify(change.raw))
                self.told += 1
                since = change.ordinal
            if not found:
                await self._holding.wait_for_change()

    async def _follow_peer(
        self,
        definition: Definition,
        key: bytes,
        from_start: bool,
        latest: _Latest,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Ask a peer for its changes again and again. Ready once it said where its changes begin, or did not answer."""
        since: int | None = 0 if from_start else None
        ready = False
        with scope:
            while True:
                shards = self._peers_to_follow(definition).get(key)
                told, began = self.told, trio.current_time()
                try:
                    if shards:
                        since = await self._ask(definition, key, shards, since, latest)
                        # One that has nothing to tell lets us wait; if it does not, we do.
                        if self.told == told and trio.current_time() - began < RETRY_SECONDS and ready:
                            shards = None
                except (RequestFailed, DocumentError):
                    shards = None
                if not ready:
                    ready = True
                    task_status.started()
                if shards is None:
                    await trio.sleep(RETRY_SECONDS)
        if not ready:
            task_status.started()

    async def _ask(
        self, definition: Definition, key: bytes, shards: list[int], since: int | None, latest: _Latest
    ) -> int:
        request = wire.ChangesRequest(self._holding.task, definition.id, bytes(shards), since)
        reply = await self._network.request(
            key,
            wire.CHANGES_PROTOCOL,
            wire.encode_changes(request),
            deadline=self._limits.request_deadline + self._limits.change_wait_seconds,
        )
        ordinal, records = wire.decode_changed(reply, self._limits)
        for count, raw in enumerate(records):
            if count % DOCUMENTS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            document = self._holding.verify(raw)
            wrong = self._holding.judge(document, definition, key)
            if wrong is None and shard_of(definition, document.digest) in shards:
                await latest.tell(document)
                self.told += 1
        return ordinal

    async def answer(self, _asker: bytes, data: bytes) -> bytes:
        """Answer a peer with what changed, or, after a while, that nothing did."""
        request = wire.decode_changes(data, self._limits)
        definition = self._holding.store.definition(request.collection)
        last = 0 if definition is None else self._holding.store.last_ordinal(request.collection)
        if request.since is None:
            return wire.encode_changed(last, ())
        # A number that was never given out is from before this node lost its disk: begin anew.
        since = request.since if request.since <= last else 0
        async with self._answering:
            records, since = await self._changes(request, since)
        if not records:
            with trio.move_on_after(self._limits.change_wait_seconds):
                await self._holding.wait_for_change()
            async with self._answering:
                records, since = await self._changes(request, since)
        return wire.encode_changed(since, records)

    async def _changes(self, request: wire.ChangesRequest, since: int) -> tuple[list[bytes], int]:
        """Records of the shards asked about after an ordinal, and up to which ordinal these are all."""
        records: list[bytes] = []
        room = self._limits.document_message_bytes - 64
        wanted = frozenset(request.shards)
        changes = self._holding.store.changes(request.collection, since, self._limits.query_scan)
        for count, change in enumerate(changes):
            if change.shard in wanted:
                room -= wire.record_bytes(change.raw)
                if room < 0 or len(records) == self._limits.documents_per_request:
                    break
                records.append(change.raw)
            since = change.ordinal
            if count % 256 == 255:
                await trio.lowlevel.checkpoint()
        return records, since


class _Latest:
    """Passes on each version once, and none that is older than one passed on."""

    def __init__(self, send: trio.MemorySendChannel[Change]) -> None:
        self._send = send
        self._versions: OrderedDict[bytes, Version] = OrderedDict()

    async def tell(self, document: VerifiedDocument) -> None:
        held = self._versions.get(document.digest)
        if held is not None and held >= document.version:
            await trio.lowlevel.checkpoint()
            return
        self._versions[document.digest] = document.version
        self._versions.move_to_end(document.digest)
        while len(self._versions) > _REMEMBERED:
            self._versions.popitem(last=False)
        value = None if document.deleted else document.value()
        await self._send.send(Change(document.key, value, document.author, document.version))
