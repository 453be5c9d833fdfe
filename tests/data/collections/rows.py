"""Whether the rows of a store say the same: everything follows from the documents."""

from __future__ import annotations

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import decode_document, value_of
from koii_p2p.data.collections.index_keys import index_keys
from koii_p2p.data.collections.sharding import shard_of
from koii_p2p.data.collections.store import DocumentStore, _path_bytes
from koii_p2p.data.collections.values import field_of


def check_rows(store: DocumentStore, definition: Definition) -> int:
    """Build every row anew from the documents and compare; returns how many documents there are."""
    table, collection = store._table, definition.id
    shards: dict[int, int] = {}
    wanted: dict[bytes, set[bytes]] = {kind: set() for kind in (b"h", b"x", b"o", b"g")}
    usage: dict[bytes, list[int]] = {}
    documents = tombstones = size = last = 0
    for key, row in table.scan(b"r" + collection):
        place, raw = key[1:], row[8:]
        document = decode_document(raw)
        assert place == collection + bytes((shard_of(definition, document.digest),)) + document.digest
        version = document.version
        shards[place[32]] = shards.get(place[32], 0) + 1
        wanted[b"h"].add(
            b"h" + place + version.slot.to_bytes(8, "big") + version.seq.to_bytes(8, "big") + version.id
        )
        wanted[b"o"].add(b"o" + collection + row[:8] + place[32:])
        last = max(last, int.from_bytes(row[:8], "big"))
        cost = len(raw)
        for path in definition.indexes if document.body is not None else ():
            places = index_keys(field_of(value_of(document), path))
            cost += sum(len(b"x" + collection + _path_bytes(path) + value + place[32:]) for value in places)
        used = usage.setdefault(document.author, [0, 0])
        used[0] += 1
        used[1] += cost
        size += cost
        if document.body is None:
            tombstones += 1
            wanted[b"g"].add(b"g" + collection + version.slot.to_bytes(8, "big") + place[32:])
            continue
        documents += 1
        for path in store.indexes(collection):
            for value in index_keys(field_of(value_of(document), path)):
                wanted[b"x"].add(b"x" + collection + _path_bytes(path) + value + place[32:])
    found = {
        b"h": {key + value[:-1] for key, value in table.scan(b"h" + collection)},
        b"x": {key for key, _ in table.scan(b"x" + collection)},
        b"o": {key + value for key, value in table.scan(b"o" + collection)},
        b"g": {key for key, _ in table.scan(b"g" + collection)},
    }
    for kind, rows in wanted.items():
        assert found[kind] == rows, kind
    assert store.shard_counts(collection) == shards
    totals = store.totals(collection)
    assert (totals.documents, totals.tombstones, totals.bytes) == (documents, tombstones, size)
    assert totals.next_ordinal > last
    authors = {
        key[-32:]: store.author_usage(collection, key[-32:]) for key, _ in table.scan(b"u" + collection)
    }
    assert authors == {author: tuple(used) for author, used in usage.items()}
    return documents + tombstones
