"""The documents of one task on a node's disk: versions, indexes, changes and quotas, in one atomic write each.

Rows of the node's database, behind `documents/` and the task's id; c is a collection's id, s a shard (1 byte), d a
key's digest (32 bytes). Everything else follows from `r`, and is written in the same batch as it:

    D c         definition, behind the key (32 bytes) of who brought it
    r c s d     ordinal (8), then the record of the newest version
    h c s d     slot (8), sequence (8), record id (32), 1 for a tombstone
    x c p v s d of index p (8 bytes of the SHA-256 of its path), for each place v of the field's value
    i c path    an index
    o c n       s d of the document that changed last at ordinal n (8 bytes)
    g c t s d   tombstone of slot t (8 bytes)
    u c key     documents (8) and bytes (8) of an author
    n c         next ordinal, documents, tombstones, bytes (8 each)
    k key       a staker that was seen
    q           the own author's next slot and sequence (8 each)

Integers are big-endian, so that rows are in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from koii_p2p.data.collections.definition import Definition, check_path, decode_definition
from koii_p2p.data.collections.document import VerifiedDocument, Version, stored_value
from koii_p2p.data.collections.index_keys import index_keys, index_ranges
from koii_p2p.data.collections.query import Bounds
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.sharding import shard_of
from koii_p2p.data.collections.values import Json, field_of
from koii_p2p.limits import Limits
from koii_p2p.storage.database import Database, Table

KEY_BYTES: Final = 32
TASK_CODE: Final = bytes(KEY_BYTES)
"""Stands for the task's own code as who opened a collection; nobody's key."""
_NUMBER_BYTES: Final = 8
_LAST: Final = b"\xff" * 40
SEQUENCES_AT_ONCE: Final = 256
"""Sequences are taken in such blocks, each synced to disk: a crash skips the rest of one, and none is used twice."""


class Head(NamedTuple):
    """What is known of a key without reading its document."""

    digest: bytes
    version: Version
    deleted: bool


class Changed(NamedTuple):
    """A document that changed, at its place in the order of changes of this node."""

    ordinal: int
    shard: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Totals:
    """What a collection holds at this node: keys with a document, with a tombstone, bytes of both and their indexes."""

    documents: int = 0
    tombstones: int = 0
    bytes: int = 0
    next_ordinal: int = 1


class DocumentStore:
    """All collections of one task at this node. Methods raise `StorageError`. A write that returned survives `kill -9`.

    It does not check who may write, nor signatures: it is given what was admitted.
    """

    def __init__(self, database: Database, task: bytes, limits: Limits) -> None:
        self._database = database
        self._table = database.prefixed(b"documents/" + task)
        self._limits = limits
        self._definitions: dict[bytes, Definition] = {}
        self._brought: dict[bytes, bytes] = {}
        for key, value in self._table.scan(b"D"):
            definition = decode_definition(value[KEY_BYTES:])
            self._definitions[key[1:]], self._brought[key[1:]] = definition, value[:KEY_BYTES]
        self._indexes = {collection: self._read_indexes(collection) for collection in self._definitions}
        self._totals = {collection: self._read_totals(collection) for collection in self._definitions}
        self._shards = {collection: self._count_shards(collection) for collection in self._definitions}
        self._stakers = {key[1:] for key, _ in self._table.scan(b"k", values=False)}
        own = self._table.get(b"q") or bytes(2 * _NUMBER_BYTES)
        self._slot, self._seq = _number(own[:_NUMBER_BYTES]), _number(own[_NUMBER_BYTES:])
        self._seq_reserved = self._seq

    # --- collections

    def definitions(self) -> tuple[Definition, ...]:
        """The collections that are kept, by name."""
        return tuple(sorted(self._definitions.values(), key=lambda one: (one.name, one.id)))

    def definition(self, collection: bytes) -> Definition | None:
        """A collection by its id, or None."""
        return self._definitions.get(collection)

    def open(self, definition: Definition, brought_by: bytes, *, own: bool) -> bool:
        """Keep a collection from now on; False if it was kept. Raises `DocumentError` when that would be too many.

        `own` is what the operator opens, for whom `Limits.operator_collections` are kept free of what others bring.
        """
        if definition.id in self._definitions:
            if own and self._brought[definition.id] != brought_by:
                self._table.put(b"D" + definition.id, brought_by + definition.encoded)
                self._brought[definition.id] = brought_by
            return False
        limits, brought = self._limits, sum(1 for key in self._brought.values() if key == brought_by)
        most = limits.collections if own else limits.collections - limits.operator_collections
        share = limits.task_db_collections if brought_by == TASK_CODE else limits.author_collections
        if len(self._definitions) >= most or (not own and brought >= share):
            raise DocumentError(DocumentReason.TOO_MANY_COLLECTIONS)
        rows = [self._table.change(b"D" + definition.id, brought_by + definition.encoded)]
        rows += [self._table.change(b"i" + definition.id + path.encode(), b"") for path in definition.indexes]
        self._database.write(rows)
        self._definitions[definition.id], self._brought[definition.id] = definition, brought_by
        self._indexes[definition.id] = frozenset(definition.indexes)
        self._totals[definition.id] = Totals()
        self._shards[definition.id] = Counter()
        return True

    def brought_by(self, collection: bytes) -> bytes | None:
        """The key of who brought a collection here: whoever opened it at this node, else an author; None if nobody."""
        return self._brought.get(collection)

    def totals(self, collection: bytes) -> Totals:
        """What a collection holds here; nothing if it is not kept."""
        return self._totals.get(collection, Totals())

    def shard_counts(self, collection: bytes) -> dict[int, int]:
        """Keys, tombstones among them, in each shard that holds any."""
        return {shard: count for shard, count in self._shards.get(collection, {}).items() if count}

    # --- stakers, and the own author

    def note_stakers(self, keys: Collection[bytes]) -> None:
        """Remember keys as stakers: what they wrote stays admissible when they have left."""
        new = set(keys) - self._stakers
        room = self._limits.roster_entries * 4 - len(self._stakers)
        new = set(sorted(new)[: max(room, 0)])
        if new:
            self._database.write([self._table.change(b"k" + key, b"") for key in sorted(new)])
            self._stakers |= new

    def was_staker(self, key: bytes) -> bool:
        """Whether a key was ever seen as a staker."""
        return key in self._stakers

    def next_stamp(self, now: int, after: int = -1) -> tuple[int, int]:
        """Slot and sequence for the next version of the own author, with a slot behind `after`.

        Neither ever goes back, whatever K2's slot does.
        """
        self._slot = max(self._slot, now, after + 1)
        if self._seq >= self._seq_reserved:
            self._seq_reserved = self._seq + SEQUENCES_AT_ONCE
            self._table.put(b"q", _bytes(self._slot) + _bytes(self._seq_reserved), sync=True)
        self._seq += 1
        return self._slot, self._seq

    # --- writing

    def put(
        self, definition: Definition, documents: Iterable[VerifiedDocument]
    ) -> list[DocumentReason | bool]:
        """Store versions of a collection that is kept, all in one atomic write.

        Returns for each: True if it is the newest now, False if it is not, or why it is refused.
        """
        batch = _Batch(self._table)
        totals = self._totals[definition.id]
        results: list[DocumentReason | bool] = []
        for document in documents:
            result, totals = self._put(batch, definition, document, totals)
            results.append(result)
        self._commit(batch, definition.id, totals)
        return results

    def _put(
        self, batch: _Batch, definition: Definition, document: VerifiedDocument, totals: Totals
    ) -> tuple[DocumentReason | bool, Totals]:
        place = definition.id + bytes((shard_of(definition, document.digest),)) + document.digest
        head = batch.get(b"h" + place)
        held = None if head is None else _head(document.digest, head)
        if held is not None and held.version >= document.version:
            return False, totals
        batch.count(place[KEY_BYTES], held is None)
        old = batch.get(b"r" + place)
        old_raw = None if old is None else old[_NUMBER_BYTES:]
        cost = self._cost(definition.id, place, document.raw)
        growth = cost - (0 if old_raw is None else self._cost(definition.id, place, old_raw))
        # A removal of what is here has room always; a tombstone of a key that nobody had takes room as a document does.
        removes = document.deleted and held is not None
        if growth > 0 and totals.bytes + growth > self._limits.collection_bytes and not removes:
            batch.drop()
            return DocumentReason.OVER_QUOTA, totals
        if old_raw is not None and held is not None:
            self._forget(batch, definition.id, place, held, old_raw)
        used, size = _pair(batch.get(b"u" + definition.id + document.author))
        over = used >= self._limits.author_documents
        over |= size + cost > self._limits.author_document_bytes
        if over and not removes:
            batch.drop()
            return DocumentReason.OVER_QUOTA, totals
        batch.set(b"u" + definition.id + document.author, _bytes(used + 1) + _bytes(size + cost))
        batch.set(b"r" + place, _bytes(totals.next_ordinal) + document.raw)
        batch.set(b"h" + place, _head_bytes(document))
        batch.set(b"o" + definition.id + _bytes(totals.next_ordinal), place[KEY_BYTES:])
        if document.deleted:
            batch.set(_tombstone_row(place, document.version.slot), b"")
        else:
            for row in self._index_rows(definition.id, place, document.value()):
                batch.set(row, b"")
        was_document = held is not None and not held.deleted
        was_tombstone = held is not None and held.deleted
        batch.keep()
        return True, Totals(
            totals.documents + (not document.deleted) - was_document,
            totals.tombstones + document.deleted - was_tombstone,
            totals.bytes + growth,
            totals.next_ordinal + 1,
        )

    def _cost(self, collection: bytes, place: bytes, raw: bytes) -> int:
        """What a record counts against quotas: its bytes, and its rows in the indexes that the definition names.

        An array has a row for each element: they may take a hundred times as much as the document.
        """
        paths = self._definitions[collection].indexes
        document = stored_value(raw) if paths else None
        if document is None:
            return len(raw)
        return len(raw) + sum(
            len(row) for path in paths for row in _places(collection, path, place, document)
        )

    def _forget(self, batch: _Batch, collection: bytes, place: bytes, held: Head, raw: bytes) -> None:
        """Take out every row that follows from a document."""
        old = batch.get(b"r" + place)
        assert old is not None
        batch.set(b"o" + collection + old[:_NUMBER_BYTES], None)
        batch.set(b"r" + place, None)
        batch.set(b"h" + place, None)
        author = author_of(raw)
        used, size = _pair(batch.get(b"u" + collection + author))
        cost = self._cost(collection, place, raw)
        rest = _bytes(max(used - 1, 0)) + _bytes(max(size - cost, 0))
        batch.set(b"u" + collection + author, rest if used > 1 else None)
        if held.deleted:
            batch.set(_tombstone_row(place, held.version.slot), None)
        elif self._indexes[collection]:
            for row in self._index_rows(collection, place, stored_value(raw)):
                batch.set(row, None)

    def _commit(self, batch: _Batch, collection: bytes, totals: Totals) -> None:
        if not batch.changes:
            return
        batch.set(b"n" + collection, _totals_bytes(totals))
        batch.keep()
        self._database.write([self._table.change(key, value) for key, value in batch.changes.items()])
        self._totals[collection] = totals
        self._shards[collection].update(batch.counts)

    def remove(self, collection: bytes, shard: int, digests: Iterable[bytes]) -> int:
        """Take keys out as if they had never been here; returns how many were. Used when a shard moves away."""
        batch, totals, count = _Batch(self._table), self._totals[collection], 0
        for digest in digests:
            place = collection + bytes((shard,)) + digest
            head, row = batch.get(b"h" + place), batch.get(b"r" + place)
            if head is None or row is None:
                continue
            held = _head(digest, head)
            self._forget(batch, collection, place, held, row[_NUMBER_BYTES:])
            totals = Totals(
                totals.documents - (not held.deleted),
                totals.tombstones - held.deleted,
                totals.bytes - self._cost(collection, place, row[_NUMBER_BYTES:]),
                totals.next_ordinal,
            )
            batch.count(shard, -1)
            batch.keep()
            count += 1
        self._commit(batch, collection, totals)
        return count

    def purge(self, collection: bytes, before: int, most: int = 1024) -> dict[int, int]:
        """Take out up to `most` tombstones of slots before `before`; returns how many of each shard."""
        found: dict[int, list[bytes]] = {}
        rows = self._table.between(
            b"g" + collection, b"g" + collection + _bytes(max(before, 0)), values=False
        )
        for count, (row, _) in enumerate(rows):
            if count == most:
                break
            place = row[1 + KEY_BYTES + _NUMBER_BYTES :]
            found.setdefault(place[0], []).append(place[1:])
        return {shard: self.remove(collection, shard, digests) for shard, digests in found.items()}

    # --- indexes

    def indexes(self, collection: bytes) -> frozenset[str]:
        """Paths of the fields that are indexed here."""
        return self._indexes.get(collection, frozenset())

    def ensure_index(self, collection: bytes, path: str) -> bool:
        """Index a dotted field from now on, and what is there; False if it was. Raises `DocumentError`.

        The row that makes it an index comes in one write with all its places.
        """
        check_path(path)
        if path in self._indexes[collection]:
            return False
        rows = [self._table.change(b"i" + collection + path.encode(), b"")]
        for key, value in self._table.scan(b"r" + collection):
            document = stored_value(value[_NUMBER_BYTES:])
            if document is not None:
                rows += [self._table.change(row, b"") for row in _places(collection, path, key[1:], document)]
        self._database.write(rows)
        self._indexes[collection] |= {path}
        return True

    def candidates(self, collection: bytes, path: str, bounds: Bounds) -> Iterator[tuple[int, bytes]] | None:
        """(shard, digest) of every key that may match, perhaps more than once; None if the index cannot tell."""
        ranges = index_ranges(bounds)
        if ranges is None or path not in self.indexes(collection):
            return None
        return self._candidates(b"x" + collection + _path_bytes(path), ranges)

    def _candidates(self, prefix: bytes, ranges: list[tuple[bytes, bytes]]) -> Iterator[tuple[int, bytes]]:
        for low, high in ranges:
            for key, _ in self._table.between(prefix + low, prefix + high, values=False):
                yield key[-KEY_BYTES - 1], key[-KEY_BYTES:]

    def _index_rows(
        self, collection: bytes, place: bytes, document: dict[str, Json] | None
    ) -> Iterator[bytes]:
        for path in self._indexes[collection]:
            if document is not None:
                yield from _places(collection, path, place, document)

    # --- reading

    def get(self, collection: bytes, shard: int, digest: bytes) -> bytes | None:
        """The record of a key's newest version, tombstones too; None if there is none."""
        row = self._table.get(b"r" + collection + bytes((shard,)) + digest)
        return None if row is None else row[_NUMBER_BYTES:]

    def head(self, collection: bytes, shard: int, digest: bytes) -> Head | None:
        """What is known of a key, or None."""
        row = self._table.get(b"h" + collection + bytes((shard,)) + digest)
        return None if row is None else _head(digest, row)

    def heads(self, collection: bytes, shard: int, begin: bytes = b"") -> Iterator[Head]:
        """What is known of each key of a shard whose digest begins so, in the order of their digests."""
        for key, value in self._table.scan(b"h" + collection + bytes((shard,)) + begin):
            yield _head(key[-KEY_BYTES:], value)

    def records(self, collection: bytes, shard: int) -> Iterator[bytes]:
        """Records of the newest versions of a shard, in the order of their keys' digests."""
        for _, value in self._table.scan(b"r" + collection + bytes((shard,))):
            yield value[_NUMBER_BYTES:]

    def changes(self, collection: bytes, since: int, most: int) -> Iterator[Changed]:
        """Up to `most` documents that changed after an ordinal, in that order; each once, as it is now."""
        rows = self._table.between(b"o" + collection + _bytes(since + 1), b"o" + collection + _LAST)
        for count, (key, place) in enumerate(rows):
            if count == most:
                return
            raw = self.get(collection, place[0], place[1:])
            if raw is not None:
                yield Changed(_number(key[-_NUMBER_BYTES:]), place[0], raw)

    def last_ordinal(self, collection: bytes) -> int:
        """The ordinal of the newest change; 0 before the first."""
        return self.totals(collection).next_ordinal - 1

    def author_usage(self, collection: bytes, author: bytes) -> tuple[int, int]:
        """Keys and bytes whose newest version is of an author."""
        return _pair(self._table.get(b"u" + collection + author))

    def _count_shards(self, collection: bytes) -> Counter[int]:
        rows = self._table.scan(b"h" + collection, values=False)
        return Counter(key[1 + KEY_BYTES] for key, _ in rows)

    def _read_indexes(self, collection: bytes) -> frozenset[str]:
        start = b"i" + collection
        return frozenset(key[len(start) :].decode() for key, _ in self._table.scan(start, values=False))

    def _read_totals(self, collection: bytes) -> Totals:
        row = self._table.get(b"n" + collection)
        if row is None:
            return Totals()
        ordinal, documents, tombstones, size = (
            _number(row[start : start + _NUMBER_BYTES]) for start in range(0, len(row), _NUMBER_BYTES)
        )
        return Totals(documents, tombstones, size, ordinal)


class _Batch:
    """Changes that are to become one write, and reads that see them; those of one document can be taken back."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.changes: dict[bytes, bytes | None] = {}
        self.counts: Counter[int] = Counter()
        self._pending: dict[bytes, bytes | None] = {}
        self._pending_counts: Counter[int] = Counter()

    def get(self, key: bytes) -> bytes | None:
        for changes in (self._pending, self.changes):
            if key in changes:
                return changes[key]
        return self._table.get(key)

    def set(self, key: bytes, value: bytes | None) -> None:
        self._pending[key] = value

    def count(self, shard: int, more: int) -> None:
        self._pending_counts[shard] += more

    def keep(self) -> None:
        self.changes |= self._pending
        self.counts.update(self._pending_counts)
        self.drop()

    def drop(self) -> None:
        self._pending = {}
        self._pending_counts = Counter()


def author_of(raw: bytes) -> bytes:
    """The author in a record whose form was checked: the header of every one has the same length."""
    return raw[10 : 10 + KEY_BYTES]


def _places(collection: bytes, path: str, place: bytes, document: dict[str, Json]) -> Iterator[bytes]:
    start, end = b"x" + collection + _path_bytes(path), place[KEY_BYTES:]
    for value in index_keys(field_of(document, path)):
        yield start + value + end


def _path_bytes(path: str) -> bytes:
    return sha256(path.encode()).digest()[:8]


def _tombstone_row(place: bytes, slot: int) -> bytes:
    return b"g" + place[:KEY_BYTES] + _bytes(slot) + place[KEY_BYTES:]


def _head_bytes(document: VerifiedDocument) -> bytes:
    version = document.version
    return _bytes(version.slot) + _bytes(version.seq) + version.id + bytes((document.deleted,))


def _head(digest: bytes, row: bytes) -> Head:
    version = Version(_number(row[:8]), _number(row[8:16]), row[16:48])
    return Head(digest, version, row[48] == 1)


def _totals_bytes(totals: Totals) -> bytes:
    numbers = (totals.next_ordinal, totals.documents, totals.tombstones, totals.bytes)
    return b"".join(_bytes(number) for number in numbers)


def _pair(row: bytes | None) -> tuple[int, int]:
    return (0, 0) if row is None else (_number(row[:_NUMBER_BYTES]), _number(row[_NUMBER_BYTES:]))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _bytes(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")
