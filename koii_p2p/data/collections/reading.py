"""Questions about documents: to all replicas of the shards they concern, so that one that withholds is not enough.

Every replica of a shard is asked, every document that comes back is verified and held against the filter again, and
the newest version of a key counts. A key that some replicas answered with and others did not is asked after by name:
they may have a newer version, which does not match. Where no replica of a shard answers, other stakers that are
connected are asked, who may still have it; if they have not either, the question fails: an answer with holes would be
taken for whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import VerifiedDocument, key_digest
from koii_p2p.data.collections.holding import DOCUMENTS_AT_ONCE, Holding, Watched, in_time
from koii_p2p.data.collections.query import Query, keys_asked, parse_query
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.sharding import shard_of
from koii_p2p.data.collections.values import Json, parse_json
from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed

FULL_READERS: Final = 3
"""Replicas that are asked about a collection that everybody holds."""
PATIENCE_SECONDS: Final = 2.0
"""How long the slowest replicas are waited for once two of each shard have answered, or one has stored."""
ENOUGH: Final = 2
ANSWERS_AT_ONCE: Final = 2
"""Peers' questions that are worked on: each may look at many documents."""
_FALLBACK_PEERS: Final = 8
_PEER_FAULTS: Final = (RequestFailed, DocumentError)

Asker = Callable[[bytes, list[int]], Awaitable[None]]
"""Asks a holder about shards."""


@dataclass(frozen=True, slots=True)
class ReadingStatistics:
    """Counts since start: questions, peers asked, those that failed, documents that no honest peer sends, fallbacks."""

    questions: int
    asked: int
    failed: int
    false: int
    fallbacks: int


@dataclass(slots=True)
class _Gathered:
    """What came back so far: for each replica the versions it told of, and of each key the newest."""

    newest: dict[bytes, VerifiedDocument] = field(default_factory=dict)
    told: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    """Of each holder: digest of a key -> id of the version that it told of."""
    answered: dict[int, set[bytes]] = field(default_factory=dict)
    """Of each shard: the holders that answered."""

    def add(self, key: bytes, shards: Iterable[int], documents: Iterable[VerifiedDocument]) -> None:
        for shard in shards:
            self.answered.setdefault(shard, set()).add(key)
        told = self.told.setdefault(key, {})
        for document in documents:
            told[document.digest] = document.version.id
            held = self.newest.get(document.digest)
            if held is None or held.version < document.version:
                self.newest[document.digest] = document


class Reader:
    """Asks the replicas, and answers as one of them."""

    def __init__(self, holding: Holding, network: Network, limits: Limits) -> None:
        self._holding = holding
        self._network = network
        self._limits = limits
        self._counts: Counter[str] = Counter()
        self._answering = trio.CapacityLimiter(ANSWERS_AT_ONCE)

    # --- asking

    async def find(self, definition: Definition, query: Query) -> list[VerifiedDocument]:
        """The newest versions that match, in the query's order and within its skip and limit.

        Raises `NetworkError` when a shard has nobody that answers, `DocumentError` when it would be too many.
        """
        self._counts["questions"] += 1
        shards = self._shards_asked(definition, query)
        gathered = await self._gather(definition, shards, query)
        found = await _matching(gathered, query, self._limits)
        if query.limit is not None and len(found) < query.skip + query.limit:
            most = query.skip + query.limit
            if any(len(told) >= most for told in gathered.told.values()):
                # What stale replicas told of took the place of others: ask for everything.
                everything = await self._gather(definition, shards, Query(query.filter, query.sort))
                found = await _matching(everything, query, self._limits)
        values = {document.key: document for document in found}
        ordered = await in_time(
            lambda watched: query.ordered((document.value() for document in found), watched), self._limits
        )
        return [values[str(value["_id"])] for value in query.window(ordered)]

    async def get(self, definition: Definition, key: str) -> VerifiedDocument | None:
        """The newest version of a key, which may be a tombstone; None if nobody has any. Raises `NetworkError`."""
        digest = key_digest(key)
        shard = shard_of(definition, digest)
        gathered = _Gathered()
        await self._holding.place(definition)

        async def ask(holder: bytes, shards: list[int]) -> None:
            await self._get_from(definition, holder, shards, {shard: [digest]}, gathered)

        await self._each(self._holders(definition, [shard]), ask)
        if shard not in gathered.answered:
            await self._fall_back(definition, [shard], gathered, ask)
        return gathered.newest.get(digest)

    def _too_many(self) -> str:
        return f"More than {self._limits.query_documents} documents match: narrow the filter, or ask with a limit."

    def _shards_asked(self, definition: Definition, query: Query) -> list[int]:
        keys = keys_asked(query.filter)
        if keys is None:
            return list(range(definition.shards))
        return sorted({shard_of(definition, key_digest(key)) for key in keys})

    async def _gather(self, definition: Definition, shards: Sequence[int], query: Query) -> _Gathered:
        gathered = _Gathered()
        await self._holding.place(definition)

        async def ask(holder: bytes, some: list[int]) -> None:
            await self._find_at(definition, holder, some, query, gathered)

        holders = self._holders(definition, shards)
        asked = Counter(shard for some in holders.values() for shard in some)

        def enough() -> bool:
            return all(len(gathered.answered.get(shard, ())) >= min(ENOUGH, asked[shard]) for shard in shards)

        too_much = await self._each(holders, ask, enough)
        silent = [shard for shard in shards if shard not in gathered.answered]
        if silent and too_much:
            raise too_much[0]  # one that says so alone is not believed
        if silent:
            await self._fall_back(definition, silent, gathered, ask)
        if query.limit is None and len(gathered.newest) > self._limits.query_documents:
            raise DocumentError(DocumentReason.TOO_MUCH, self._too_many())
        await self._settle(definition, gathered)
        return gathered

    def _holders(self, definition: Definition, shards: Iterable[int]) -> dict[bytes, list[int]]:
        """Whom to ask about which shards: all replicas, or us and some where everybody is one."""
        found: dict[bytes, list[int]] = {}
        replicas = self._holding.replicas(definition)
        own, connected = self._holding.own_shards(definition), {peer.key for peer in self._network.peers()}
        for shard in shards:
            keys = set(replicas[shard])
            if definition.full:
                keys = set(sorted(keys & connected)[:FULL_READERS] or sorted(keys)[:FULL_READERS])
            if shard in own:
                keys.add(self._holding.own)
            for key in keys:
                found.setdefault(key, []).append(shard)
        return found

    async def _each(
        self, holders: Mapping[bytes, list[int]], ask: Asker, enough: Callable[[], bool] = lambda: False
    ) -> list[DocumentError]:
        """Ask all of them at once; once there is `enough`, the others have a moment's time.

        What one does wrong costs its answer. Returns what those said to whom the question was too large.
        """
        too_much: list[DocumentError] = []

        async def one(key: bytes, shards: list[int]) -> None:
            self._counts["asked"] += 1
            try:
                await ask(key, shards)
            except _PEER_FAULTS as error:
                self._counts["failed"] += 1
                if isinstance(error, DocumentError) and error.reason is DocumentReason.TOO_MUCH:
                    too_much.append(error)
            if enough():
                ends = trio.current_time() + PATIENCE_SECONDS
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, ends)

        async with trio.open_nursery() as nursery:
            for key, shards in holders.items():
                nursery.start_soon(one, key, shards)
        return too_much

    async def _fall_back(
        self, definition: Definition, shards: list[int], gathered: _Gathered, ask: Asker
    ) -> None:
        """Ask whoever else may have shards of which no replica answered. Raises `NetworkError` if nobody has."""
        self._counts["fallbacks"] += 1
        replicas = {key for shard in shards for key in self._holding.replicas(definition)[shard]}
        connected = [peer.key for peer in self._network.peers() if peer.key not in replicas]
        others = [key for key in connected if self._holding.store.was_staker(key)][:_FALLBACK_PEERS]
        holders = dict.fromkeys(others, shards)
        if self._holding.own not in replicas:
            held = self._holding.store.shard_counts(definition.id)
            ours = [shard for shard in shards if shard in held]
            if ours:
                holders[self._holding.own] = ours
        await self._each(holders, ask)
        # Those who need not hold a shard may have nothing of it: only what they do have counts as an answer.
        told = {digest for key in holders for digest in gathered.told.get(key, {})}
        silent = sorted(set(shards) - {shard_of(definition, digest) for digest in told})
        if silent:
            raise NetworkError(
                f"{len(silent)} of {definition.shards} shards of {definition.name!r} cannot be read.",
                "None of the nodes that hold them answers.",
                "Try again once they are back; `koii-p2p peers` shows who is connected.",
            )

    async def _find_at(
        self, definition: Definition, holder: bytes, shards: list[int], query: Query, gathered: _Gathered
    ) -> None:
        if holder == self._holding.own:
            rows = await self._holding.find(definition, shards, query)
            gathered.add(holder, shards, [self._holding.verify(raw) for raw, _ in rows])
            return
        asked = _as_json(query)
        documents: list[VerifiedDocument] = []
        offset, size, more = 0, 0, True
        while more:
            request = wire.FindRequest(self._holding.task, definition.id, bytes(shards), asked, offset)
            reply = await self._ask(holder, wire.FIND_PROTOCOL, wire.encode_find(request))
            records, more = wire.decode_found(reply, self._limits)
            documents += await self._verified(definition, records, frozenset(shards), holder)
            offset += len(records)
            size += sum(map(len, records))
            endless = offset > self._limits.query_documents or size > self._limits.query_result_bytes
            if endless or (more and not records):
                raise DocumentError(DocumentReason.BAD_MESSAGE, "An answer has no end.")
        gathered.add(holder, shards, documents)

    async def _settle(self, definition: Definition, gathered: _Gathered) -> None:
        """Ask the replicas that did not tell of a key, or of another version, what their newest version is."""
        open_keys: dict[bytes, dict[int, list[bytes]]] = {}
        for digest, document in gathered.newest.items():
            shard = shard_of(definition, digest)
            for holder in gathered.answered.get(shard, ()):
                if gathered.told[holder].get(digest) != document.version.id:
                    open_keys.setdefault(holder, {}).setdefault(shard, []).append(digest)

        async def ask(holder: bytes, shards: list[int]) -> None:
            await self._get_from(definition, holder, shards, open_keys[holder], gathered)

        await self._each({holder: sorted(keys) for holder, keys in open_keys.items()}, ask)

    async def _get_from(
        self,
        definition: Definition,
        holder: bytes,
        shards: list[int],
        keys: Mapping[int, list[bytes]],
        gathered: _Gathered,
    ) -> None:
        for shard in shards:
            for start in range(0, len(keys[shard]), self._limits.documents_per_request):
                digests = tuple(keys[shard][start : start + self._limits.documents_per_request])
                if holder == self._holding.own:
                    found = [self._holding.store.get(definition.id, shard, digest) for digest in digests]
                    records = [raw for raw in found if raw is not None]
                else:
                    request = wire.FetchRequest(self._holding.task, definition.id, shard, digests)
                    reply = await self._ask(holder, wire.FETCH_PROTOCOL, wire.encode_fetch(request))
                    records = wire.decode_strings(reply, len(digests), self._limits)
                documents = await self._verified(definition, records, frozenset([shard]), holder)
                gathered.add(holder, [shard], documents)

    async def _verified(
        self, definition: Definition, records: Sequence[bytes], shards: frozenset[int], sender: bytes
    ) -> list[VerifiedDocument]:
        """Documents that may be in these shards; what else a peer sent is counted and left out.

        Raises `DocumentError` at the first that is no document, or has a wrong signature.
        """
        found: list[VerifiedDocument] = []
        for count, raw in enumerate(records):
            try:
                document = self._holding.verify(raw)
            except DocumentError:
                self._counts["false"] += 1
                raise  # nobody honest sends it, and every further one would cost us a signature
            if shard_of(definition, document.digest) in shards and (
                self._holding.judge(document, definition, sender) in (None, DocumentReason.EXPIRED)
            ):
                found.append(document)
            else:
                self._counts["false"] += 1
            if count % DOCUMENTS_AT_ONCE == DOCUMENTS_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        return found

    async def _ask(self, key: bytes, protocol: str, payload: bytes) -> bytes:
        return await self._network.request(key, protocol, payload, deadline=self._limits.request_deadline)

    # --- answering

    async def answer(self, _asker: bytes, data: bytes) -> bytes:
        """Answer a peer's question from what is here."""
        request = wire.decode_find(data, self._limits)
        definition = self._holding.store.definition(request.collection)
        if definition is None:
            return wire.encode_found((), False)
        try:
            async with self._answering:
                rows = await self._holding.find(definition, request.shards, query_of(request.query))
        except DocumentError as error:
            return wire.encode_refused(error.reason)
        records: list[bytes] = []
        room = self._limits.document_message_bytes - 64
        for raw, _ in rows[request.offset :]:
            room -= wire.record_bytes(raw)
            if room < 0:
                break
            records.append(raw)
        return wire.encode_found(records, request.offset + len(records) < len(rows))

    def statistics(self) -> ReadingStatistics:
        """Return the counts."""
        names = ReadingStatistics.__dataclass_fields__
        return ReadingStatistics(**{name: self._counts[name] for name in names})


async def _matching(gathered: _Gathered, query: Query, limits: Limits) -> list[VerifiedDocument]:
    """Documents whose newest version matches."""

    def work(watched: Watched) -> list[VerifiedDocument]:
        matching = []
        for document in gathered.newest.values():
            watched()
            if not document.deleted and query.matches(document.value()):
                matching.append(document)
        return matching

    return await in_time(work, limits)


def query_of(data: bytes) -> Query:
    """A query from JSON: an object with `filter`, `sort`, `skip`, `limit` and `projection`. Raises `DocumentError`."""
    try:
        value = parse_json(data)
    except ValueError as error:
        raise DocumentError(DocumentReason.BAD_QUERY, f"The question is not JSON: {error}.") from error
    if not isinstance(value, dict) or not value.keys() <= {"filter", "sort", "skip", "limit", "projection"}:
        raise DocumentError(
            DocumentReason.BAD_QUERY, "A question has filter, sort, skip, limit and projection."
        )
    return parse_query(
        value.get("filter", {}),
        sort=value.get("sort"),
        skip=value.get("skip", 0),
        limit=value.get("limit"),
        projection=value.get("projection"),
    )


def _as_json(query: Query) -> bytes:
    """A query for a replica: it tells of the first that there are up to the end of what is wanted."""
    found: dict[str, Json] = {"filter": query.filter}
    if query.sort:
        found["sort"] = dict(query.sort)
    if query.limit is not None:
        found["limit"] = query.skip + query.limit
    return json.dumps(found, ensure_ascii=False).encode()  # in this order: that of the sort's fields matters
