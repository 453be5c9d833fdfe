"""The data room of one node: what its operator, its tasks and its peers can have of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from koii_p2p.data.auditing import Auditor, Availability
from koii_p2p.data.durability import level_of
from koii_p2p.data.fetching import Reader, Sink, find
from koii_p2p.data.holders import HolderStatistics
from koii_p2p.data.manifest import Manifest, Reference
from koii_p2p.data.putting import PutResult, PutSettings, put
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.data.repairing import Upkeep, UpkeepStatistics
from koii_p2p.data.room import Found, Room, in_thread
from koii_p2p.data.serving import Server
from koii_p2p.data.space import Directory, Space
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.shards import ShardStore, ShardStoreStatistics, StoredBlob

log = structlog.get_logger(__name__)

_ANNOUNCE_SECONDS: Final = 5.0
"""How often it is looked for what is new to be announced."""
_SEED_SECONDS: Final = 2.0
"""How often it is looked whether there is a new beacon."""
_BLOBS_AT_ONCE: Final = 256
"""Blobs that are looked at before other work of the node gets its turn."""
_ANNOUNCERS: Final = 3
"""Of those who are to have a manifest, so many say so."""


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """Everything countable about task data since the node started; `events` by name."""

    store: ShardStoreStatistics
    holders: HolderStatistics
    upkeep: UpkeepStatistics
    events: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class BlobView:
    """What a node knows of a blob. `live` are the shards that its holders said they have, of all; None if not asked."""

    cid: bytes
    content: bytes
    task: bytes | None
    size: int
    stored: int
    blocks: int
    level: str
    private: bool
    pinned: bool
    until: int | None
    held: int
    """Shards of it on this node."""
    live: tuple[int, ...] | None = None
    """Live shards of each block."""


class DataRoom:
    """Blobs of a node's tasks: put, read, pinned, looked after. One for each node.

    Its questions of peers are answered from when it is made; `run` looks after what is stored.
    """

    def __init__(
        self,
        store: ShardStore,
        network: Network,
        spaces: Iterable[Space],
        *,
        limits: Limits | None = None,
        directory: Directory | None = None,
        judged: Callable[[bytes, float], None] | None = None,
    ) -> None:
        """`judged(key, score)` is told what to think of a peer; gossip is, if nobody else."""
        self._limits = limits or Limits()
        hears = network.set_application_score if judged is None else judged
        self.room = Room(store, network, self._limits, spaces, directory, hears)
        self._auditor = Auditor(self.room)
        self.upkeep = Upkeep(self.room, self._auditor)
        Server(self.room, self.upkeep.counted).serve()
        self._at_once = trio.CapacityLimiter(self._limits.data_at_once)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after what is stored until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce)
            nursery.start_soon(self._note_seeds)
            nursery.start_soon(self.upkeep.run)

    async def put(
        self, task: bytes | None, chunks: AsyncIterator[bytes], settings: PutSettings | None = None
    ) -> PutResult:
        """Store a stream of bytes for a task; None is the only one there is.

        Raises `DataError`, `LimitExceeded` if a quota is full, or another `StorageError`; then nothing of it is left.
        """
        async with self._at_once:
            return await put(self.room, self._task(task), chunks, settings or PutSettings())

    async def find(self, cid: bytes) -> Found:
        """A blob by the CID of its manifest or of its bytes. Raises `DataError` (NOT_FOUND)."""
        return await find(self.room, cid)

    async def read(self, found: Found, key: bytes | None, sink: Sink) -> None:
        """Hand a blob's bytes to `sink`, in order. Raises `DataError`, and what `sink` raises."""
        async with self._at_once:
            await Reader(self.room, found).blob(key, sink)
        self.room.counts["blobs read"] += 1

    async def get(self, reference: Reference, most: int) -> bytes:
        """A whole blob of at most `most` bytes. Raises `DataError`."""
        found = await self.find(reference.manifest)
        if found.manifest.plain_size > most:
            raise DataError(
                DataReason.BLOB_TOO_LARGE,
                f"It has {found.manifest.plain_size} bytes; {most} are wanted at most.",
            )
        pieces: list[bytes] = []

        async def take(piece: bytes) -> None:
            pieces.append(piece)

        await self.read(found, reference.key, take)
        return b"".join(pieces)

    async def pin(self, cid: bytes) -> BlobView:
        """Have a blob kept for as long as it is pinned here. Raises `DataError`, or `LimitExceeded`."""
        room, found = self.room, await self.find(cid)
        task = self._task(found.task)
        until = room.space(task).round() + self._limits.data_most_rounds
        encoded = found.manifest.encode()

        def keep() -> None:
            room.store.add(task, found.cid, found.manifest.content, encoded, until=until)
            room.store.set_pin(found.cid, True)

        await room.keep(task, keep)
        await self._renew_now(Found(found.cid, found.manifest, task), until)
        return await self.stat(found.cid)

    async def unpin(self, cid: bytes) -> BlobView:
        """Let a blob end with its term. Raises `DataError` (NOT_FOUND) if it is not known here."""
        blob = await in_thread(lambda: self._here(cid))
        await in_thread(lambda: self.room.store.set_pin(blob.cid, False))
        return await self.stat(blob.cid)

    async def stat(self, cid: bytes, *, ask: bool = False) -> BlobView:
        """What is known of a blob; with `ask`, what its holders say that they have as well. Raises `DataError`."""
        found = await self.find(cid)
        live = await self._live(found) if ask else None
        return self._view(found.manifest, found.cid, self.room.store.blob(found.cid), live, found.task)

    async def blobs(self, most: int) -> list[BlobView]:
        """The blobs of which this node keeps something, in the order of their CIDs; at most so many."""
        views: list[BlobView] = []
        for blob in (await in_thread(self.room.store.blobs))[:most]:
            manifest = await self.room.manifest(blob.cid)
            if manifest is not None:
                views.append(self._view(manifest, blob.cid, blob, None, blob.task))
        return views

    async def availability(self, task: bytes, cid: bytes) -> Availability:
        """Whether enough holders of a blob show what they hold (PROTOCOL section 9)."""
        return await self._auditor.availability(task, cid, self.room.space(task).seed())

    def statistics(self) -> DataStatistics:
        """The counters."""
        return DataStatistics(
            self.room.store.statistics(),
            self.room.holders.statistics(),
            self.upkeep.statistics(),
            tuple(sorted(self.room.counts.items())),
        )

    # --- inside

    def _task(self, task: bytes | None) -> bytes:
        if task is None:
            if len(self.room.spaces) != 1:
                raise DataError(DataReason.NO_SPACE)
            return next(iter(self.room.spaces))
        return self.room.space(task).task

    def _here(self, cid: bytes) -> StoredBlob:
        blob = self.room.store.blob(cid) or next(iter(self.room.store.with_content(cid)), None)
        if blob is None:
            raise DataError(DataReason.NOT_FOUND, "This node keeps nothing of it.")
        return blob

    def _view(
        self,
        manifest: Manifest,
        cid: bytes,
        blob: StoredBlob | None,
        live: tuple[int, ...] | None,
        task: bytes | None,
    ) -> BlobView:
        level = level_of(manifest.code)
        return BlobView(
            cid=cid,
            content=manifest.content,
            task=task,
            size=manifest.plain_size,
            stored=sum(manifest.shard_length(block) for block in range(len(manifest.blocks)))
            * manifest.code.shards,
            blocks=len(manifest.blocks),
            level=str(manifest.code) if level is None else level.title,
            private=manifest.is_private,
            pinned=blob is not None and blob.pinned,
            until=None if blob is None else blob.until,
            held=0 if blob is None else len(blob.held),
            live=live,
        )

    async def _live(self, found: Found) -> tuple[int, ...]:
        held = await self.upkeep.held(found, until=0)
        return tuple(
            sum(bool(held.get((block, shard))) for shard in range(found.manifest.code.shards))
            for block in range(len(found.manifest.blocks))
        )

    async def _renew_now(self, found: Found, until: int) -> None:
        await self.upkeep.held(found, until=until)

    async def _note_seeds(self) -> None:
        """Remember the beacons, by which blobs are placed."""
        while True:
            for space in self.room.spaces.values():
                try:
                    await self.room.note_seed(space)
                except StorageError as error:
                    log.error("a beacon was not remembered", error=str(error))
            await trio.sleep(min(_SEED_SECONDS, self._limits.data_upkeep_seconds))

    async def _announce(self) -> None:
        """Say in the directory what this node is to be asked for first, and no longer what it has no more."""
        room, directory = self.room, self.room.directory
        decided: dict[bytes, frozenset[bytes]] = {}
        announced: dict[bytes, set[bytes]] = {}
        while directory is not None:
            try:
                await self._announce_new(directory, decided, announced)
            except StorageError as error:
                room.counts["announcements failed"] += 1
                log.error("what is stored was not announced", error=str(error))
            await trio.sleep(min(_ANNOUNCE_SECONDS, self._limits.data_upkeep_seconds))

    async def _announce_new(
        self, directory: Directory, decided: dict[bytes, frozenset[bytes]], announced: dict[bytes, set[bytes]]
    ) -> None:
        room = self.room
        for count, blob in enumerate(await in_thread(room.store.blobs)):
            if count % _BLOBS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            members = room.members(blob.task)
            if decided.get(blob.cid) == members or not members:
                continue
            decided[blob.cid] = members
            manifest = await room.manifest(blob.cid)
            if manifest is None:
                continue
            for cid in {blob.cid} if manifest.is_private else {blob.cid, blob.content}:
                first = (await room.index_holders(blob.task, cid, manifest))[:_ANNOUNCERS]
                if room.own in first and cid not in announced.get(blob.cid, ()):
                    announced.setdefault(blob.cid, set()).add(cid)
                    await room.announce(cid)
        for gone in [cid for cid in decided if room.store.blob(cid) is None]:
            del decided[gone]
            for cid in announced.pop(gone, ()):
                directory.stop_providing(cid)
