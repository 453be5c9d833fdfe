"""Collections over real networks on loopback, all in one process, with a slot that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import trio

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.service import Collections
from koii_p2p.data.collections.serving import serve_collections
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.database import Database
from tests.network.nets import LOOPBACK, QUICK, until

GENESIS, TASK = b"g" * 32, b"t" * 32
LIMITS = replace(QUICK, change_wait_seconds=0.5)


class Clock:
    """The slot of a test."""

    def __init__(self, slot: int = 100) -> None:
        self.slot = slot

    def __call__(self) -> int:
        return self.slot


class Member:
    """A node with collections, and nothing else."""

    def __init__(
        self,
        number: int,
        home: Path,
        clock: Callable[[], int],
        settings: NetworkSettings,
        *,
        limits: Limits = LIMITS,
        full: bool = False,
        sync_seconds: float = 3600.0,
    ) -> None:
        self.secret = SecretKey.from_seed(number.to_bytes(32, "big"))
        self.network = Network(self.secret, settings, limits)
        self.database = Database.open(home / f"db-{number}")
        self.collections = Collections(
            TASK,
            GENESIS,
            self.secret,
            self.database,
            self.network,
            slot=clock,
            random_source=Random(number),
            limits=limits,
            full=full,
            sync_seconds=sync_seconds,
        )
        serve_collections(self.network, lambda task: self.collections if task == TASK else None, limits)
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    @property
    def key(self) -> bytes:
        return self.secret.public_key

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.network.run)
                    await nursery.start(self.collections.run)
                    task_status.started()
        finally:
            self.database.close()
            self._stopped.set()

    async def stop(self) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._stopped.wait()

    def peers(self) -> set[bytes]:
        return {peer.key for peer in self.network.peers()}

    def state(self, definition: Definition) -> dict[tuple[int, bytes], bytes]:
        """(shard, digest) -> record id, of everything that it holds."""
        store = self.collections.store
        return {
            (shard, head.digest): head.version.id
            for shard in range(definition.shards)
            for head in store.heads(definition.id, shard)
        }


@asynccontextmanager
async def members(
    count: int,
    home: Path,
    clock: Callable[[], int],
    *,
    limits: Limits = LIMITS,
    stakers: Sequence[int] | None = None,
    full: Sequence[int] = (),
    conditions: Path | None = None,
    sync_seconds: float = 3600.0,
) -> AsyncIterator[list[Member]]:
    """So many connected members, each with every other; `stakers` are the numbers of those who hold shards."""
    async with trio.open_nursery() as nursery:
        found: list[Member] = []
        for number in range(1, count + 1):
            settings = NetworkSettings(
                listen=LOOPBACK,
                bootstrap=tuple(one.network.addresses[0] for one in found),
                heartbeat=0.5,
                max_peers=64,
                target_peers=count,
                conditions=conditions,
            )
            member = Member(
                number, home, clock, settings, limits=limits, full=number in full, sync_seconds=sync_seconds
            )
            await nursery.start(member.run)
            found.append(member)
        await until(lambda: all(len(one.peers()) == count - 1 for one in found), 60)
        keys = [one.key for number, one in enumerate(found, 1) if stakers is None or number in stakers]
        for one in found:
            one.collections.set_stakers(keys)
        yield found
        for one in found:
            await one.stop()
        nursery.cancel_scope.cancel()
