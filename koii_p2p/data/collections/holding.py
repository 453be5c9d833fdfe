"""What a node holds of a task's collections: which shards are its, what is admitted to them, what is found there."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, TypeVar

import trio

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import (
    VerifiedDocument,
    decode_document,
    judge,
    key_digest,
    stored_value,
    verify_document,
)
from koii_p2p.data.collections.query import Query, Row, bounds_of, keys_asked
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.sharding import Placement, placement_of, shard_of
from koii_p2p.data.collections.store import TASK_CODE, DocumentStore
from koii_p2p.limits import Limits
from koii_p2p.rounds.item_set import ItemSet, item_of

Found = TypeVar("Found")

Watched = Callable[[], None]
"""Raises when work is no longer wanted."""

Outcome = DocumentReason | bool
"""True if a version is the newest now, False if it is not, or why it is refused."""

DOCUMENTS_AT_ONCE: Final = 32
"""Documents that are checked, or looked at, before other work of the node gets its turn."""
_VIEWS: Final = 512
_PLACEMENTS: Final = 5
"""For so many times as many collections as may be kept, it is known who holds them: peers tell of others."""
_HASHES_AT_ONCE: Final = 8192
_UNPLACED: Final[tuple[int, Placement]] = (-1, ())
_FORGED: Final = DocumentReason.BAD_RECORD
TOKEN_HALF: Final = 16


def token_of(digest: bytes, record_id: bytes) -> bytes:
    """What stands for a version in reconciliation: 16 bytes of its key's digest, then 16 of its record's id."""
    return digest[:TOKEN_HALF] + record_id[:TOKEN_HALF]


class Holding:
    """Admits, keeps and finds documents of one task. It asks nobody: `replication` and `reading` do.

    `slot` tells K2's slot. `full`: hold every shard of every collection, whatever is due.
    """

    def __init__(
        self,
        task: bytes,
        genesis: bytes,
        own: bytes,
        store: DocumentStore,
        slot: Callable[[], int],
        limits: Limits,
        *,
        full: bool = False,
    ) -> None:
        self.task = task
        self.own = own
        self.store = store
        self.full = full
        self.limits = limits
        self.slot = slot
        self.refused: Counter[str] = Counter()
        self.stored = 0
        self._genesis = genesis
        self._stakers: frozenset[bytes] = frozenset()
        self._dealt = 0
        self._placement: OrderedDict[bytes, tuple[int, Placement]] = OrderedDict()
        self._views: OrderedDict[tuple[bytes, int], ItemSet] = OrderedDict()
        self._changed = trio.Event()

    # --- who holds what

    @property
    def stakers(self) -> frozenset[bytes]:
        """The stakers among whom shards are dealt out."""
        return self._stakers

    def set_stakers(
        self, keys: Collection[bytes], placement: Mapping[bytes, Placement] | None = None
    ) -> bool:
        """Deal the shards out anew if the stakers are others now; returns whether they are. Raises `StorageError`.

        `placement` is what `placed` found for these keys.
        """
        keys = frozenset(keys)
        if keys == self._stakers:
            return False
        self._stakers = keys
        self._dealt += 1
        for collection, found in (placement or {}).items():
            self._remember_placement(collection, found)
        self.store.note_stakers(keys)
        return True

    async def placed(self, keys: frozenset[bytes]) -> dict[bytes, Placement]:
        """Who would hold the shards of the collections that are kept, if these were the stakers."""
        definitions = self.store.definitions()
        return {one.id: await _placed(one, keys) for one in definitions}

    async def place(self, definition: Definition) -> None:
        """Find out who holds the shards of a collection, in a thread if that takes long: `replicas` has it then.

        Takes one hash for each staker and shard, seconds with the most of both.
        """
        while not self._is_placed(definition):
            dealt = self._dealt
            found = await _placed(definition, self._stakers)
            if dealt == self._dealt:
                self._remember_placement(definition.id, found)

    def _is_placed(self, definition: Definition) -> bool:
        dealt, _ = self._placement.get(definition.id, _UNPLACED)
        return dealt == self._dealt

    def _remember_placement(self, collection: bytes, found: Placement) -> None:
        self._placement[collection] = (self._dealt, found)
        self._placement.move_to_end(collection)
        # Anybody may ask about collections that are not kept here, and make up any number of them.
        while len(self._placement) > _PLACEMENTS * self.limits.collections:
            self._placement.popitem(last=False)

    def replicas(self, definition: Definition) -> Placement:
        """The keys of those who hold each shard of a collection, as far as `place` has found out.

        Between a change of many stakers and the end of what `place` works out, they are those from before, or nobody.
        """
        if not self._is_placed(definition) and _is_quick(definition, self._stakers):
            self._remember_placement(definition.id, placement_of(definition, self._stakers))
        _, found = self._placement.get(definition.id, _UNPLACED)
        if not found:
            return ((),) * definition.shards
        self._placement.move_to_end(definition.id)
        return found

    def own_shards(self, definition: Definition) -> frozenset[int]:
        """The shards that this node is to hold."""
        if self.full:
            return frozenset(range(definition.shards))
        replicas = self.replicas(definition)
        return frozenset(shard for shard, keys in enumerate(replicas) if self.own in keys)

    # --- admission

    def verify(self, raw: bytes) -> VerifiedDocument:
        """A record whose author signed it for this chain and task. Raises `DocumentError`."""
        return verify_document(decode_document(raw), self._genesis, self.task)

    def judge(
        self, document: VerifiedDocument, definition: Definition, sender: bytes
    ) -> DocumentReason | None:
        """Why a document has no place in a collection now; None if it has.

        In a collection without a list of authors, a staker vouches for what it sends: nobody can tell any more whether
        an author who left long ago was a staker, and whoever is one can write there anyway.
        """
        return judge(
            document,
            definition,
            is_staker=sender in self._stakers or self.store.was_staker(document.author),
            now=self.slot(),
            early=self.limits.early_slots,
            kept=self.limits.tombstone_slots,
        )

    async def receive(self, definition: Definition, records: Sequence[bytes], sender: bytes) -> list[Outcome]:
        """Admit records that anybody sent and keep the newest. Raises `StorageError`.

        Opens the collection for the author of the first document that is admitted, if it is not kept yet.
        """
        outcomes: list[Outcome] = []
        await self.place(definition)
        own = self.own_shards(definition)
        forged = False
        for start in range(0, len(records), DOCUMENTS_AT_ONCE):
            admitted: list[VerifiedDocument] = []
            places: list[int] = []
            for raw in records[start : start + DOCUMENTS_AT_ONCE]:
                # After a forged one nothing that came with it is worth a signature's time.
                found = _FORGED if forged else self._admit(definition, raw, own, sender)
                forged = found is _FORGED
                if isinstance(found, VerifiedDocument):
                    places.append(len(outcomes))
                    admitted.append(found)
                    outcomes.append(False)
                else:
                    outcomes.append(found)
            for place, outcome in zip(places, self.keep(definition, admitted), strict=True):
                outcomes[place] = outcome
            await trio.lowlevel.checkpoint()
        self.refused.update(outcome.value for outcome in outcomes if isinstance(outcome, DocumentReason))
        return outcomes

    def keep(self, definition: Definition, documents: Sequence[VerifiedDocument]) -> list[Outcome]:
        """Store what was admitted, in one write; tells subscribers. Raises `StorageError`."""
        if not documents:
            return []
        author = documents[0].author
        own = author == self.own and self.store.brought_by(definition.id) != TASK_CODE
        try:
            self.store.open(definition, author, own=own)
        except DocumentError as error:
            return [error.reason] * len(documents)
        outcomes: list[Outcome] = list(self.store.put(definition, documents))
        for document, outcome in zip(documents, outcomes, strict=True):
            if outcome is True:
                self.stored += 1
                self._views.pop((definition.id, shard_of(definition, document.digest)), None)
        if True in outcomes:
            self.tell()
        return outcomes

    def _admit(
        self, definition: Definition, raw: bytes, own: frozenset[int], sender: bytes
    ) -> VerifiedDocument | Outcome:
        try:
            document = decode_document(raw)
            shard = shard_of(definition, document.digest)
            if shard not in own:
                return DocumentReason.NOT_HERE
            head = self.store.head(definition.id, shard, document.digest)
            if head is not None and head.version >= document.version:
                return False  # whoever signed it
            verified = verify_document(document, self._genesis, self.task)
        except DocumentError as error:
            return error.reason
        return self.judge(verified, definition, sender) or verified

    # --- what there is

    def view(self, definition: Definition, shard: int) -> ItemSet:
        """The versions of a shard as a set for reconciliation: (shard, digest of the key, `token_of`)."""
        place = (definition.id, shard)
        found = self._views.get(place)
        if found is None:
            found = ItemSet(
                item_of(shard, head.digest, token_of(head.digest, head.version.id))
                for head in self.store.heads(definition.id, shard)
            )
            self._views[place] = found
            while len(self._views) > _VIEWS:
                self._views.popitem(last=False)
        else:
            self._views.move_to_end(place)
        return found

    def forget_view(self, collection: bytes, shard: int) -> None:
        """A shard's rows were taken out of the store."""
        self._views.pop((collection, shard), None)

    def has(self, definition: Definition, shard: int, token: bytes) -> bool:
        """Whether a version is the newest of its key here."""
        heads = self.store.heads(definition.id, shard, token[:TOKEN_HALF])
        return any(head.version.id.startswith(token[TOKEN_HALF:]) for head in heads)

    def newest(self, definition: Definition, shard: int, begin: bytes) -> list[bytes]:
        """Records of the newest versions of the keys of a shard whose digests begin so."""
        found = (
            self.store.get(definition.id, shard, head.digest)
            for head in self.store.heads(definition.id, shard, begin)
        )
        return [raw for raw in found if raw is not None]

    async def find(
        self, definition: Definition, shards: Iterable[int], query: Query
    ) -> list[tuple[bytes, Row]]:
        """Records and documents in these shards that match, in the query's order, from the first.

        The query's limit counts behind its skip, and its projection is not applied. Takes an index if the filter allows
        for one. Works in a thread: what a filter costs is up to whoever wrote it and the documents. Raises
        `DocumentError(TOO_MUCH)` when too many would be looked at, when too many or too large ones match and are all
        asked for, and when it takes longer than a question may wait for its answer.
        """
        wanted = frozenset(shards)
        return await in_time(lambda watched: self._find(definition, wanted, query, watched), self.limits)

    def _find(
        self, definition: Definition, wanted: frozenset[int], query: Query, watched: Watched
    ) -> list[tuple[bytes, Row]]:
        matching: dict[str, tuple[bytes, Row]] = {}
        limits, size = self.limits, 0
        end = limits.query_documents if query.limit is None else query.skip + query.limit
        end = min(end, limits.query_documents)

        def first() -> dict[str, tuple[bytes, Row]]:
            ordered = query.ordered((value for _, value in matching.values()), watched)[:end]
            return {str(value["_id"]): matching[str(value["_id"])] for value in ordered}

        for count, raw in enumerate(self._candidates(definition, wanted, query)):
            if count >= limits.query_scan:
                raise DocumentError(
                    DocumentReason.TOO_MUCH,
                    f"More than {limits.query_scan} documents to look at: narrow the filter, or index a field.",
                )
            watched()
            value = stored_value(raw)
            if value is None or not query.matches(value):
                continue
            matching[str(value["_id"])] = (raw, value)
            size += len(raw)
            if query.limit is not None and (len(matching) > 2 * end or size > limits.query_result_bytes):
                matching = first()  # what is behind the end is not kept
                size = sum(len(one) for one, _ in matching.values())
            if query.limit is None and len(matching) > end:
                raise DocumentError(
                    DocumentReason.TOO_MUCH,
                    f"More than {end} documents match: narrow the filter, or ask with a limit.",
                )
            if size > limits.query_result_bytes:
                raise DocumentError(
                    DocumentReason.TOO_MUCH,
                    f"More than {limits.query_result_bytes} bytes match: narrow the filter, or ask for fewer.",
                )
        return list(first().values())

    def _candidates(self, definition: Definition, shards: frozenset[int], query: Query) -> Iterable[bytes]:
        keys = keys_asked(query.filter)
        if keys is not None:
            digests = (key_digest(key) for key in keys)
            named = [(shard_of(definition, digest), digest) for digest in digests]
            return self._records(definition, shards, named)
        for path in sorted(self.store.indexes(definition.id)):
            bounds = bounds_of(query.filter, path)
            if bounds is not None:
                found = self.store.candidates(definition.id, path, bounds)
                if found is not None:
                    places = dict.fromkeys(islice(found, self.limits.query_scan + 1))
                    return self._records(definition, shards, places)
        return (raw for shard in sorted(shards) for raw in self.store.records(definition.id, shard))

    def _records(
        self, definition: Definition, shards: frozenset[int], places: Iterable[tuple[int, bytes]]
    ) -> Iterable[bytes]:
        for shard, digest in places:
            if shard in shards:
                raw = self.store.get(definition.id, shard, digest)
                if raw is not None:
                    yield raw

    # --- changes

    def tell(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_change(self) -> None:
        """Return when something was stored after this was called."""
        await self._changed.wait()


async def in_time(work: Callable[[Watched], Found], limits: Limits) -> Found:
    """Work in a thread that calls what it is given now and then, so as to end with its caller and in time.

    Raises `DocumentError(TOO_MUCH)` when it takes longer than a question may wait for its answer.
    """
    ends = time.monotonic() + limits.request_deadline

    def watched() -> None:
        trio.from_thread.check_cancelled()
        if time.monotonic() > ends:
            raise DocumentError(
                DocumentReason.TOO_MUCH, "It takes too long: narrow the filter, or index a field."
            )

    return await trio.to_thread.run_sync(work, watched)


def _is_quick(definition: Definition, stakers: frozenset[bytes]) -> bool:
    return definition.full or definition.shards * len(stakers) < _HASHES_AT_ONCE


async def _placed(definition: Definition, stakers: frozenset[bytes]) -> Placement:
    if _is_quick(definition, stakers):
        return placement_of(definition, stakers)
    return await trio.to_thread.run_sync(placement_of, definition, stakers)
