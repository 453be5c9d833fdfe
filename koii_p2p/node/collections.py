"""The collections of a node's tasks: each follows its task's roster, and all answer peers on one network."""

from __future__ import annotations

import random
from collections.abc import Iterable

import trio

from koii_p2p.data.collections.service import Collections
from koii_p2p.data.collections.serving import serve_collections
from koii_p2p.data.space import Space
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.node.slots import SlotClock
from koii_p2p.node.views import base58
from koii_p2p.records.cose import Signer
from koii_p2p.storage.database import Database

ROSTER_SECONDS = 1.0
"""How often a task's roster is looked at; it changes once a round."""


class TaskCollections:
    """One task's collections, whose shards are dealt out among the newest roster."""

    def __init__(self, collections: Collections, space: Space) -> None:
        self.collections = collections
        self._space = space

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.collections.run)
            task_status.started()
            while True:
                members = self._space.members()
                if members:  # between two rosters the last one counts
                    await self.collections.follow_stakers(members)
                await trio.sleep(ROSTER_SECONDS)


def collections_of(
    space: Space,
    genesis: bytes,
    signer: Signer,
    database: Database,
    network: Network,
    slots: SlotClock,
    limits: Limits,
) -> TaskCollections:
    """The collections of one task."""
    collections = Collections(
        space.task,
        genesis,
        signer,
        database,
        network,
        slot=slots.now,
        random_source=random.Random(),
        limits=limits,
    )
    return TaskCollections(collections, space)


def open_collections(
    spaces: Iterable[Space],
    genesis: bytes,
    signer: Signer,
    database: Database,
    network: Network,
    slots: SlotClock,
    limits: Limits,
) -> dict[str, TaskCollections]:
    """The collections of each task, by its id in base58; peers' questions are served from now on.

    A task that is put into what is returned is served as well.
    """
    found = {
        base58(space.task): collections_of(space, genesis, signer, database, network, slots, limits)
        for space in spaces
    }

    def of_task(task: bytes) -> Collections | None:
        one = found.get(base58(task))
        return None if one is None else one.collections

    serve_collections(network, of_task, limits)
    return found
