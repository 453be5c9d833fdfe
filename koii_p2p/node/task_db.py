"""Collections for a task's own code: what `ctx.db` asks of the node's collections of that task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from koii_p2p.data.collections.reasons import DocumentError
from koii_p2p.data.collections.service import Collections
from koii_p2p.data.collections.values import Json, json_bytes, parse_json
from koii_p2p.limits import Limits
from koii_p2p.node.collection_calls import CALLS, definition_of
from koii_p2p.tasks.services import Refused

_AT_ONCE: Final = 128
"""Documents of an answer that are put into JSON without a pause."""
_LARGE: Final = 16 * 1024
"""A question of more bytes is parsed in a thread: the node goes on meanwhile."""
_WITH_DOCUMENTS: Final = frozenset({"put", "insert"})


class TaskDb:
    """Answers for one task. A worker may ask while its node still starts: then `collections_now()` is None."""

    def __init__(self, collections_now: Callable[[], Collections | None], limits: Limits) -> None:
        self._collections_now = collections_now
        self._limits = limits
        self._at_once = trio.CapacityLimiter(limits.task_db_at_once)

    async def __call__(self, call: str, question: bytes) -> bytes:
        """Do what is asked (a name of `CALLS`), and return the answer in JSON.

        The question is a JSON object: `collection` has name and rules of the collection, which is kept here from then
        on, and the rest is the call's. Raises `Refused`, and `OperatorError` for a network or a disk that fails.
        """
        collections = self._collections_now()
        if collections is None:
            raise Refused("The node has just started and keeps no collections yet; ask again later.")
        try:
            with trio.fail_after(self._limits.task_db_seconds):
                async with self._at_once:
                    return await self._answer(collections, call, question)
        except trio.TooSlowError:
            raise Refused(
                f"The collection did not answer within {self._limits.task_db_seconds:g} s; of what was to be written "
                "nobody knows how much is."
            ) from None
        except DocumentError as error:
            raise Refused(str(error)) from error

    async def _answer(self, collections: Collections, call: str, question: bytes) -> bytes:
        most = 2 * self._limits.query_bytes  # the rules of the collection, and the filter or change
        if call not in _WITH_DOCUMENTS and len(question) > most:
            raise Refused(f"The question has {len(question)} bytes of JSON; {call} takes at most {most}.")
        large = len(question) > _LARGE
        asked = await trio.to_thread.run_sync(_object, question) if large else _object(question)
        rules = asked.pop("collection", None)
        name = rules.get("name") if isinstance(rules, dict) else None
        if call not in CALLS or not isinstance(rules, dict) or not isinstance(name, str):
            raise Refused("A question to a collection has the name of a call and of the collection.")
        # Opened before anything else, since what a node keeps of collections is bounded by how many are open.
        definition = collections.open_for_task(definition_of(name, rules))
        if call == "open":
            return json_bytes({"name": definition.name, "id": definition.id.hex()})
        if call == "find":
            self._narrow(asked)
            return await self._encoded(await CALLS[call](collections, definition, asked))
        self._check_count(asked.get("documents"))
        found = await CALLS[call](collections, definition, asked)
        if call == "insert" and isinstance(
            found, list
        ):  # the worker has the documents, but not all of their keys
            found = [row["_id"] for row in found if isinstance(row, dict)]
        return json_bytes(found)

    def _narrow(self, asked: dict[str, Json]) -> None:
        """Ask for one document more than there may be, unless for fewer, so that it is seen when there are too many."""
        most, limit = self._limits.task_db_documents, asked.get("limit")
        if not limit:
            asked["limit"] = most + 1
        elif type(limit) is int and limit > most:
            raise Refused(f"A limit of {limit} documents; at most {most} are handed out at a time.")

    def _check_count(self, documents: Json) -> None:
        most = self._limits.task_db_documents
        if isinstance(documents, list) and len(documents) > most:
            raise Refused(f"{len(documents)} documents; at most {most} are written at a time.")

    async def _encoded(self, found: Json) -> bytes:
        documents = found if isinstance(found, list) else []
        if len(documents) > self._limits.task_db_documents:
            raise Refused(
                f"More than {self._limits.task_db_documents} documents match: narrow the filter, or ask for parts "
                "with skip and limit."
            )
        parts: list[bytes] = []
        room = self._limits.task_db_bytes
        for count, document in enumerate(documents):
            parts.append(json_bytes(document))
            room -= len(parts[-1]) + 1
            if room < 0:
                raise Refused(
                    f"The answer would be more than {self._limits.task_db_bytes} bytes of JSON: ask for fewer "
                    "documents with a limit, or for less of each with a projection."
                )
            if count % _AT_ONCE == _AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        return b"[" + b",".join(parts) + b"]"


def _object(question: bytes) -> dict[str, Json]:
    try:
        asked = parse_json(question)
    except ValueError as error:
        raise Refused(f"The question is not JSON: {error}.") from error
    if not isinstance(asked, dict):
        raise Refused("A question to a collection is a JSON object.")
    return asked
