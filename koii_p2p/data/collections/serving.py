"""Answers peers' questions about collections, whichever task of this node they are about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.service import Collections
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network

_ANSWERS: dict[str, Callable[[Collections], Callable[[bytes, bytes], Awaitable[bytes]]]] = {
    wire.COLLECTIONS_PROTOCOL: lambda one: one.replicator.collections,
    wire.PUT_PROTOCOL: lambda one: one.replicator.put,
    wire.DIFFER_PROTOCOL: lambda one: one.replicator.differ,
    wire.FETCH_PROTOCOL: lambda one: one.replicator.fetch,
    wire.FIND_PROTOCOL: lambda one: one.reader.answer,
    wire.CHANGES_PROTOCOL: lambda one: one.feed.answer,
}


def serve_collections(
    network: Network, of_task: Callable[[bytes], Collections | None], limits: Limits
) -> None:
    """Serve every protocol of collections on a network; `of_task` gives the collections of a task, or None."""

    def serve(
        protocol: str, answer_of: Callable[[Collections], Callable[[bytes, bytes], Awaitable[bytes]]]
    ) -> None:
        async def answer(asker: bytes, data: bytes) -> bytes:
            collections = of_task(wire.task_of(data, limits))
            if collections is None:
                raise DocumentError(DocumentReason.BAD_MESSAGE, "We do not work on this task.")
            return await answer_of(collections)(asker, data)

        network.serve(protocol, answer)

    for protocol, answer_of in _ANSWERS.items():
        serve(protocol, answer_of)
