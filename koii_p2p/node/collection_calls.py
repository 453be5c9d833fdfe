"""What can be asked of a task's collections, JSON in and out: by its operator over the API, and by the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import base58

from koii_p2p.data.collections.definition import (
    DEFAULT_REPLICAS,
    DEFAULT_SHARDS,
    MAX_AUTHORS,
    Definition,
)
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.service import Collections
from koii_p2p.data.collections.values import Json

_LONGEST_KEY: Final = 44

Call = Callable[[Collections, Definition, dict[str, Json]], Awaitable[Json]]
"""Does one thing with a collection. Raises `DocumentError`, and `OperatorError` for a network or a disk that fails."""


def definition_of(name: str, asked: dict[str, Json]) -> Definition:
    """The collection of a name, with the rules that are asked for and else the usual ones. Raises `DocumentError`."""
    return Definition(
        name,
        _whole(asked, "shards", DEFAULT_SHARDS),
        _whole(asked, "replicas", DEFAULT_REPLICAS),
        asked.get("full") is True,
        asked.get("own_keys") is True,
        _authors(asked),
        tuple(sorted(set(_texts(asked, "indexes")))),
    )


async def _open(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    made = definition_of(definition.name, asked)
    return {"name": made.name, "id": collections.open(made).id.hex()}


async def _get(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    return await collections.get(definition, _text(asked, "key"))


async def _find(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    limit = asked.get("limit")
    found = await collections.find(
        definition,
        asked.get("filter"),
        sort=asked.get("sort"),
        skip=_whole(asked, "skip", 0),
        limit=None if limit is None else _whole(asked, "limit", 0),
        projection=asked.get("projection"),
    )
    return list(found)


async def _count(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    return await collections.count(definition, asked.get("filter"))


async def _put(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    written = await collections.put_many(definition, _documents(asked))
    return [
        {"_id": one.key, "slot": one.version.slot, "stored": one.stored, "replicas": one.asked}
        for one in written
    ]


async def _insert(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    return list(await collections.insert(definition, _documents(asked)))


async def _update(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    return await collections.update(
        definition,
        asked.get("filter"),
        asked.get("change"),
        multi=asked.get("multi") is True,
        upsert=asked.get("upsert") is True,
    )


async def _remove(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    return await collections.remove(definition, asked.get("filter"), multi=asked.get("multi") is True)


async def _index(collections: Collections, definition: Definition, asked: dict[str, Json]) -> Json:
    return collections.ensure_index(definition, _text(asked, "field"))


CALLS: Final[Mapping[str, Call]] = {
    "open": _open,
    "get": _get,
    "find": _find,
    "count": _count,
    "put": _put,
    "insert": _insert,
    "update": _update,
    "remove": _remove,
    "index": _index,
}
"""By the name that the API and a task's worker ask with."""


def _authors(asked: dict[str, Json]) -> tuple[bytes, ...]:
    texts = _texts(asked, "authors")
    if len(texts) > MAX_AUTHORS:
        raise DocumentError(DocumentReason.BAD_DEFINITION, f"There are at most {MAX_AUTHORS} authors.")
    return tuple(sorted({_key(text) for text in texts}))


def _documents(asked: dict[str, Json]) -> list[dict[str, Json]]:
    documents = asked.get("documents")
    if not isinstance(documents, list):
        raise DocumentError(DocumentReason.BAD_BODY, "Documents are an array of JSON objects.")
    found = [one for one in documents if isinstance(one, dict)]
    if len(found) != len(documents):
        raise DocumentError(DocumentReason.BAD_BODY, "A document is a JSON object.")
    return found


def _text(asked: dict[str, Json], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise DocumentError(DocumentReason.BAD_QUERY, f"{name} is a text.")
    return value


def _texts(asked: dict[str, Json], name: str) -> list[str]:
    value = asked.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DocumentError(DocumentReason.BAD_DEFINITION, f"{name} is an array of texts.")
    return [one for one in value if isinstance(one, str)]


def _whole(asked: dict[str, Json], name: str, usual: int) -> int:
    value = asked.get(name, usual)
    if type(value) is not int:
        raise DocumentError(DocumentReason.BAD_QUERY, f"{name} is a whole number.")
    return value


def _key(text: str) -> bytes:
    try:
        if len(text) <= _LONGEST_KEY:  # before decoding, whose time grows with the square of the length
            return base58.b58decode(text)
    except ValueError:
        pass
    raise DocumentError(DocumentReason.BAD_DEFINITION, f"{text[:64]!r} is not a key.")
