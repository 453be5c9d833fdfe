"""What a collection is: its name, how it is cut and copied, who may write, which fields have an index.

The SHA-256 of a definition is the collection's id, and every document is signed for one id: nobody can change the rules
of a collection under its documents, and a node that never heard of one is told its definition by whoever has documents
for it, and can check it. Another definition is another collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Final

from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.records import cbor
from koii_p2p.records.keys import PUBLIC_KEY_BYTES

_DOMAIN: Final = b"koii-p2p/1 collection"
VERSION: Final = 1
COLLECTION_BYTES: Final = 32
MAX_NAME_BYTES: Final = 64
MAX_SHARDS: Final = 256
MAX_REPLICAS: Final = 16
MAX_AUTHORS: Final = 1024
MAX_INDEXES: Final = 16
MAX_PATH_BYTES: Final = 128
MAX_DEFINITION_BYTES: Final = 64 * 1024
DEFAULT_SHARDS: Final = 64
DEFAULT_REPLICAS: Final = 3


@dataclass(frozen=True)
class Definition:
    """One collection. `authors`: keys that may write, ascending; empty is every staker of the task.

    `replicas` nodes hold each of the `shards`; with `full` every staker holds everything. With `own_keys` an author
    writes only to keys that begin with its own, in base58, and nobody can write over another's documents. `indexes` are
    dotted fields that every holder indexes. Raises `DocumentError`.
    """

    name: str
    shards: int = DEFAULT_SHARDS
    replicas: int = DEFAULT_REPLICAS
    full: bool = False
    own_keys: bool = False
    authors: tuple[bytes, ...] = ()
    indexes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(0 < _size(self.name) <= MAX_NAME_BYTES, f"a name has 1 to {MAX_NAME_BYTES} bytes")
        _require(self.name.isprintable(), "a name has printable characters")
        _require(1 <= self.shards <= MAX_SHARDS, f"there are 1 to {MAX_SHARDS} shards")
        _require(1 <= self.replicas <= MAX_REPLICAS, f"there are 1 to {MAX_REPLICAS} replicas")
        _require(len(self.authors) <= MAX_AUTHORS, f"there are at most {MAX_AUTHORS} authors")
        _require(all(len(key) == PUBLIC_KEY_BYTES for key in self.authors), "an author is a key of 32 bytes")
        _require(self.authors == tuple(sorted(set(self.authors))), "authors ascend, each once")
        _require(len(self.indexes) <= MAX_INDEXES, f"there are at most {MAX_INDEXES} indexes")
        _require(self.indexes == tuple(sorted(set(self.indexes))), "indexes ascend, each once")
        for path in self.indexes:
            check_path(path)

    @cached_property
    def id(self) -> bytes:
        """32 bytes that name the collection."""
        return sha256(_DOMAIN + self.encoded).digest()

    @cached_property
    def encoded(self) -> bytes:
        """Deterministic CBOR of it."""
        return cbor.encode(
            {
                0: VERSION,
                1: self.name,
                2: self.shards,
                3: self.replicas,
                4: self.full,
                5: self.own_keys,
                6: list(self.authors),
                7: list(self.indexes),
            }
        )


def check_path(path: str) -> None:
    """Raises `DocumentError` for what is no dotted field, or the key, which needs no index."""
    good = 0 < _size(path) <= MAX_PATH_BYTES and all(path.split(".")) and not path.startswith("$")
    _require(good and path != "_id", f"{path[:64]!r} is not a field that can be indexed")


def decode_definition(data: bytes) -> Definition:
    """Inverse of `Definition.encoded`. Raises `DocumentError` for any other bytes."""
    try:
        value = cbor.decode(data, max_bytes=MAX_DEFINITION_BYTES, max_depth=2)
    except cbor.CborError as error:
        raise DocumentError(DocumentReason.BAD_DEFINITION, str(error)) from error
    if not isinstance(value, dict):
        raise _bad("it is not a map")
    match [value.get(number) for number in range(8)]:
        case [
            version,
            str(name),
            int(shards),
            int(replicas),
            bool(full),
            bool(own),
            list(authors),
            list(fields),
        ]:
            _require(version == VERSION and len(value) == 8, "it is of another version")
        case _:
            raise _bad("a field is missing or of another type")
    _require(all(isinstance(key, bytes) for key in authors), "an author is not bytes")
    _require(all(isinstance(path, str) for path in fields), "an index is not text")
    _require(not isinstance(shards, bool) and not isinstance(replicas, bool), "a number is a boolean")
    return Definition(name, shards, replicas, full, own, tuple(authors), tuple(fields))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _bad(why: str) -> DocumentError:
    return DocumentError(DocumentReason.BAD_DEFINITION, f"The definition of the collection is wrong: {why}.")


def _require(good: bool, why: str) -> None:
    if not good:
        raise _bad(why)
