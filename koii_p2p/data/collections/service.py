"""One task's collections at one node: NeDB's everyday operations over signed, sharded, replicated documents."""

from __future__ import annotations

import random
import secrets
import string
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import VerifiedDocument, Version, body_of, check_key, sign_document
from koii_p2p.data.collections.feed import Change, Feed
from koii_p2p.data.collections.holding import DOCUMENTS_AT_ONCE, Holding, Outcome
from koii_p2p.data.collections.query import parse_query
from koii_p2p.data.collections.reading import PATIENCE_SECONDS, Reader, ReadingStatistics
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.replication import PEER_FAULTS, SYNC_SECONDS, ReplicationStatistics, Replicator
from koii_p2p.data.collections.sharding import shard_of
from koii_p2p.data.collections.store import TASK_CODE, DocumentStore
from koii_p2p.data.collections.update import check_update, inserted_by, updated
from koii_p2p.data.collections.values import Json
from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.records.cose import Signer
from koii_p2p.storage.database import Database

WRITERS: Final = 8
"""Replicas that a write is sent to in a collection that everybody holds; the rest is left to reconciliation."""
_KEY_CHARACTERS: Final = string.ascii_letters + string.digits
_KEY_LENGTH: Final = 16  # as NeDB's


@dataclass(frozen=True, slots=True)
class Written:
    """A version that was written, and how many of its replicas have it: `stored` of the `asked`."""

    key: str
    version: Version
    stored: int
    asked: int


@dataclass(frozen=True, slots=True)
class CollectionStatistics:
    """One collection at this node: keys with documents and tombstones, bytes, shards that are its and that it has."""

    name: str
    id: str
    shards: int
    replicas: int
    full: bool
    own_shards: int
    held_shards: int
    documents: int
    tombstones: int
    bytes: int
    indexes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectionsStatistics:
    """All collections of a task at this node. `refused`: documents not admitted, by reason."""

    collections: tuple[CollectionStatistics, ...]
    stakers: int
    stored: int
    refused: tuple[tuple[str, int], ...]
    written: int
    readers: int
    changes_told: int
    reading: ReadingStatistics
    replication: ReplicationStatistics


@dataclass(slots=True)
class _Sending:
    """What became of one version at its replicas."""

    document: VerifiedDocument
    asked: int = 0
    stored: int = 0
    older: int = 0
    refusals: list[DocumentReason] = field(default_factory=list)

    def note(self, outcome: Outcome) -> None:
        if isinstance(outcome, DocumentReason):
            self.refusals.append(outcome)
        elif outcome:
            self.stored += 1
        else:
            self.older += 1


class Collections:
    """The documents of one task. `slot` tells K2's slot, `stakers` the keys among whom shards are dealt out.

    Reading and writing work while `run` does. `full`: this node holds everything, whatever shards are its.
    """

    def __init__(
        self,
        task: bytes,
        genesis: bytes,
        signer: Signer,
        database: Database,
        network: Network,
        *,
        slot: Callable[[], int],
        random_source: random.Random,
        limits: Limits,
        full: bool = False,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        self.task = task
        self.store = DocumentStore(database, task, limits)
        self.holding = Holding(task, genesis, signer.public_key, self.store, slot, limits, full=full)
        self.replicator = Replicator(self.holding, network, random_source, limits, pause=sync_seconds)
        self.reader = Reader(self.holding, network, limits)
        self.feed = Feed(self.holding, network, limits)
        self._genesis = genesis
        self._signer = signer
        self._network = network
        self._limits = limits
        self._written = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep shards in step with their other replicas until cancelled."""
        await self.replicator.run(task_status=task_status)

    def set_stakers(self, keys: Collection[bytes]) -> None:
        """Deal out the shards among these keys from now on; what moves is copied, and dropped where it was."""
        if self.holding.set_stakers(keys):
            self.replicator.placement_changed()

    async def follow_stakers(self, keys: frozenset[bytes]) -> None:
        """As `set_stakers`, having found out in a thread who is to hold what. Raises `StorageError`."""
        if keys != self.holding.stakers and self.holding.set_stakers(keys, await self.holding.placed(keys)):
            self.replicator.placement_changed()

    # --- collections

    def open(self, definition: Definition) -> Definition:
        """Keep a collection from now on, with its indexes. Raises `DocumentError`, `StorageError`."""
        self.store.open(definition, self._signer.public_key, own=True)
        return definition

    def open_for_task(self, definition: Definition) -> Definition:
        """As `open`, for the task's own code, which has a number of collections of its own (`task_db_collections`)."""
        self.store.open(definition, TASK_CODE, own=False)
        return definition

    def named(self, name: str) -> Definition:
        """The collection of a name: the one that was opened at this node, else one that is kept here, else one that
        peers keep, else one with the usual numbers.

        Raises `DocumentError` for no name, and if two of different definitions have it.
        """
        found = [one for one in self.store.definitions() if one.name == name]
        here = (self._signer.public_key, TASK_CODE)
        own = [one for one in found if self.store.brought_by(one.id) in here]
        found = own if len(own) == 1 else found
        found = found or [one for one in self.replicator.heard.values() if one.name == name]
        if len(found) > 1:
            raise DocumentError(
                DocumentReason.BAD_DEFINITION,
                f"{len(found)} collections are called {name!r}; their definitions differ. Name one by its id.",
            )
        return found[0] if found else Definition(name)

    def ensure_index(self, definition: Definition, path: str) -> bool:
        """Index a field at this node; what the definition names is indexed everywhere. False if it was."""
        if self.store.definition(definition.id) is None:
            self.open(definition)
        return self.store.ensure_index(definition.id, path)

    # --- reading

    async def find(
        self,
        definition: Definition,
        filter: Json = None,
        *,
        sort: Json = None,
        skip: int = 0,
        limit: int | None = None,
        projection: Json = None,
    ) -> list[dict[str, Json]]:
        """Documents that match (`query.py`). Raises `DocumentError` for a bad or too large question, `NetworkError`."""
        query = parse_query(
            {} if filter is None else filter, sort=sort, skip=skip, limit=limit, projection=projection
        )
        found = await self.reader.find(definition, query)
        return [query.shown(document.value()) for document in found]

    async def find_one(self, definition: Definition, filter: Json) -> dict[str, Json] | None:
        """The first document that matches, by `_id`; None if none does."""
        found = await self.find(definition, filter, limit=1)
        return found[0] if found else None

    async def get(self, definition: Definition, key: str) -> dict[str, Json] | None:
        """The document of a key; None if there is none, or it was removed."""
        document = await self.reader.get(definition, check_key(key))
        return None if document is None or document.deleted else document.value()

    async def count(self, definition: Definition, filter: Json = None) -> int:
        """How many documents match. Each of them is fetched and verified: a number alone nobody could check."""
        query = parse_query({} if filter is None else filter)
        return len(await self.reader.find(definition, query))

    @asynccontextmanager
    async def watch(
        self, definition: Definition, *, from_start: bool = False
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        """Changes as they happen (`Feed.subscribe`)."""
        async with self.feed.subscribe(definition, from_start=from_start) as changes:
            yield changes

    # --- writing

    async def put(self, definition: Definition, value: Mapping[str, Json]) -> Written:
        """Write one document, whatever its key held; without an `_id` it is given one. Raises as `put_many`."""
        return (await self.put_many(definition, [value]))[0]

    async def put_many(self, definition: Definition, values: Sequence[Mapping[str, Json]]) -> list[Written]:
        """Write documents. Returns once each is stored by at least one replica and the others had a moment's time.

        Raises `DocumentError` for a document that cannot be one, or that all its replicas refuse, and `NetworkError`
        if no replica answers; then nobody knows which documents were stored.
        """
        bodies = [(_key_of(value), body_of(dict(value))) for value in values]
        return await self._write(definition, bodies)

    async def insert(
        self, definition: Definition, values: Sequence[Mapping[str, Json]]
    ) -> list[dict[str, Json]]:
        """Write new documents and return them with their `_id`. Raises `DocumentError(KEY_TAKEN)` if a key has one.

        Two authors who insert the same key at the same time both succeed, and the newest wins.
        """
        rows = [{"_id": _key_of(value), **{n: v for n, v in value.items() if n != "_id"}} for value in values]
        given: list[Json] = [
            str(row["_id"]) for row, value in zip(rows, values, strict=True) if "_id" in value
        ]
        if len(set(map(str, given))) != len(given):
            raise DocumentError(DocumentReason.KEY_TAKEN, "Two of the documents have the same _id.")
        for start in range(0, len(given), self._limits.query_conditions // 2):
            some = given[start : start + self._limits.query_conditions // 2]
            taken = await self.find(definition, {"_id": {"$in": some}}, limit=1)
            if taken:
                raise DocumentError(
                    DocumentReason.KEY_TAKEN, f"The key {taken[0]['_id']!r} has a document already."
                )
        await self.put_many(definition, rows)
        return rows

    async def update(
        self, definition: Definition, filter: Json, change: Json, *, multi: bool = False, upsert: bool = False
    ) -> int:
        """Change the first document that matches, or with `multi` all; returns how many. With `upsert`, insert if none.

        Each document is read, changed and written: of two who change it at the same time, the newest wins whole.
        Raises `DocumentError`, `NetworkError`.
        """
        operators = check_update(change)
        if multi and operators and not all(name.startswith("$") for name in operators):
            raise DocumentError(DocumentReason.BAD_UPDATE, "With multi, an update consists of operators.")
        query = parse_query({} if filter is None else filter, limit=None if multi else 1)
        found = await self.reader.find(definition, query)
        if not found:
            if upsert:
                await self.insert(definition, [inserted_by(query.filter, change)])
                return 1
            return 0
        await self.put_many(definition, [updated(document.value(), change) for document in found])
        return len(found)

    async def remove(self, definition: Definition, filter: Json, *, multi: bool = False) -> int:
        """Remove the first document that matches, or with `multi` all: write tombstones. Returns how many.

        Raises `DocumentError`, `NetworkError`.
        """
        query = parse_query({} if filter is None else filter, limit=None if multi else 1)
        found = await self.reader.find(definition, query)
        await self._write(definition, [(document.key, None) for document in found])
        return len(found)

    async def _write(
        self, definition: Definition, bodies: Sequence[tuple[str, bytes | None]]
    ) -> list[Written]:
        """Sign versions and send them to the replicas of their shards.

        Where a replica has a newer version, of an author whose clock is ahead or who wrote in the same slot, it is
        signed once more for a slot behind that one.
        """
        sendings = await self._sign(definition, [(key, body, -1) for key, body in bodies])
        await self._spread(definition, sendings)
        late = [number for number, sending in enumerate(sendings) if sending.older]
        again: list[tuple[str, bytes | None, int]] = []
        for number in late:
            newest = await self.reader.get(definition, bodies[number][0])
            again.append((*bodies[number], -1 if newest is None else newest.version.slot))
        second = await self._sign(definition, again)
        await self._spread(definition, second)
        for number, sending in zip(late, second, strict=True):
            sendings[number] = sending
        for sending in sendings:
            if not sending.stored:
                raise _not_stored(definition, sending)
        self._written += len(sendings)
        return [Written(one.document.key, one.document.version, one.stored, one.asked) for one in sendings]

    async def _sign(
        self, definition: Definition, bodies: Sequence[tuple[str, bytes | None, int]]
    ) -> list[_Sending]:
        sendings: list[_Sending] = []
        for count, (key, body, after) in enumerate(bodies):
            slot, seq = self.store.next_stamp(self.holding.slot(), after)
            document = sign_document(
                definition.id, key, body, slot=slot, seq=seq, genesis=self._genesis, task=self.task, signer=self._signer
            )  # fmt: skip
            sendings.append(_Sending(document))
            if count % DOCUMENTS_AT_ONCE == DOCUMENTS_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        return sendings

    async def _spread(self, definition: Definition, sendings: Sequence[_Sending]) -> None:
        await self.holding.place(definition)
        replicas, own = self.holding.replicas(definition), self.holding.own_shards(definition)
        by_holder: dict[bytes, list[_Sending]] = {}
        for sending in sendings:
            shard = shard_of(definition, sending.document.digest)
            keys = [key for key in replicas[shard] if key != self.holding.own]
            if definition.full:
                connected = {peer.key for peer in self._network.peers()}
                keys = [key for key in keys if key in connected][:WRITERS]
            sending.asked = len(keys) + (shard in own)
            if shard in own:
                by_holder.setdefault(self.holding.own, []).append(sending)
            for key in keys:
                by_holder.setdefault(key, []).append(sending)

        async def send(key: bytes, some: list[_Sending]) -> None:
            await self._send(definition, key, some)
            if all(sending.stored for sending in sendings):
                ends = trio.current_time() + PATIENCE_SECONDS
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, ends)

        async with trio.open_nursery() as nursery:
            for key, some in by_holder.items():
                nursery.start_soon(send, key, some)

    async def _send(self, definition: Definition, key: bytes, sendings: list[_Sending]) -> None:
        for some in _chunks(sendings, self._limits):
            records = tuple(one.document.raw for one in some)
            if key == self.holding.own:
                outcomes = await self.holding.receive(definition, records, key)
            else:
                request = wire.PutRequest(self.task, definition, records)
                try:
                    answer = await self._network.request(key, wire.PUT_PROTOCOL, wire.encode_put(request))
                    outcomes = wire.decode_outcomes(answer, len(records), self._limits)
                except PEER_FAULTS:
                    return  # reconciliation brings them; whether anybody has them is counted by document
            for one, outcome in zip(some, outcomes, strict=True):
                one.note(outcome)

    def statistics(self) -> CollectionsStatistics:
        """Return what is held and the counts since start."""
        return CollectionsStatistics(
            tuple(self._collection_statistics(one) for one in self.store.definitions()),
            len(self.holding.stakers),
            self.holding.stored,
            tuple(sorted(self.holding.refused.items())),
            self._written,
            self.feed.readers,
            self.feed.told,
            self.reader.statistics(),
            self.replicator.statistics(),
        )

    def _collection_statistics(self, definition: Definition) -> CollectionStatistics:
        totals = self.store.totals(definition.id)
        return CollectionStatistics(
            definition.name,
            definition.id.hex(),
            definition.shards,
            definition.replicas,
            definition.full,
            len(self.holding.own_shards(definition)),
            len(self.store.shard_counts(definition.id)),
            totals.documents,
            totals.tombstones,
            totals.bytes,
            tuple(sorted(self.store.indexes(definition.id))),
        )


def _key_of(value: Mapping[str, Json]) -> str:
    if "_id" in value:
        return check_key(value["_id"])
    return "".join(secrets.choice(_KEY_CHARACTERS) for _ in range(_KEY_LENGTH))


def _chunks(sendings: list[_Sending], limits: Limits) -> Iterable[list[_Sending]]:
    """What fits into one request each, beside the largest definition."""
    chunk: list[_Sending] = []
    size = 0
    for one in sendings:
        length = wire.record_bytes(one.document.raw)
        full = len(chunk) == limits.documents_per_request
        if chunk and (full or size + length > limits.document_message_bytes - 128 * 1024):
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += length
    if chunk:
        yield chunk


def _not_stored(definition: Definition, sending: _Sending) -> Exception:
    if sending.older:
        return DocumentError(
            DocumentReason.TOO_EARLY,
            f"Somebody else writes {sending.document.key!r} at this moment: try again.",
        )
    if sending.refusals:
        reason = sending.refusals[0]
        return DocumentError(reason, f"The document {sending.document.key!r} is refused: {reason.__doc__}")
    return NetworkError(
        f"The document {sending.document.key!r} of {definition.name!r} is stored nowhere.",
        f"None of the {sending.asked} nodes that hold its shard answers.",
        "Try again once they are connected; `koii-p2p peers` shows who is.",
    )
