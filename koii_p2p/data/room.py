"""What putting, reading, serving and repairing share: the store, who holds what, and questions to peers."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar

import structlog
import trio

from koii_p2p.data.durability import manifest_code
from koii_p2p.data.holders import Holders
from koii_p2p.data.manifest import Manifest, decode_manifest
from koii_p2p.data.placement import holders_of
from koii_p2p.data.protocol import ProtocolError
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.data.space import Directory, Space
from koii_p2p.errors import OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed, RequestReason
from koii_p2p.storage.faults import LimitExceeded, StorageError
from koii_p2p.storage.shards import Place, ShardStore

log = structlog.get_logger(__name__)

_KEEPER: Final = b"koii-p2p/1 data keeper"
_PLANS_KEPT: Final = 512
_SHAPES_KEPT: Final = 65_536
_PROVIDERS: Final = 16
_SMALL_BYTES: Final = 32 * 1024
_HASHES_AT_ONCE: Final = 256
"""Who is to hold what is worked out in a thread when it takes more."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """A blob that can be read: its CID, manifest, and whose task's it is if that is known."""

    cid: bytes
    manifest: Manifest
    task: bytes | None


class Room:
    """One node's part of the data room. Disk and hashing run in threads; the event loop never waits for them."""

    def __init__(
        self,
        store: ShardStore,
        network: Network,
        limits: Limits,
        spaces: Iterable[Space],
        directory: Directory | None,
        judged: Callable[[bytes, float], None],
    ) -> None:
        self.store = store
        self.network = network
        self.limits = limits
        self.own = network.key
        self.spaces = {space.task: space for space in spaces}
        self.directory = directory
        self.holders = Holders(limits, trio.current_time, judged)
        self.counts: Counter[str] = Counter()
        self.placing: set[bytes] = set()
        """Blobs that are being put: who puts them brings their shards."""
        self._manifests: OrderedDict[bytes, Manifest] = OrderedDict()
        self._shapes: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._members: dict[bytes, tuple[frozenset[bytes], frozenset[bytes], frozenset[bytes]]] = {}
        self._index_plans: OrderedDict[tuple[bytes, bytes, int, frozenset[bytes]], tuple[bytes, ...]] = (
            OrderedDict()
        )
        self._plans: OrderedDict[tuple[bytes, frozenset[bytes]], tuple[tuple[bytes, ...], ...]] = (
            OrderedDict()
        )

    # --- who

    def add(self, space: Space) -> None:
        """Keep a task's data from now on."""
        # A new mapping, here and below: whoever goes through the old one is not disturbed.
        self.spaces = {**self.spaces, space.task: space}

    def remove(self, task: bytes) -> None:
        """Keep nothing for a task any more."""
        self.spaces = {one: space for one, space in self.spaces.items() if one != task}

    def space(self, task: bytes) -> Space:
        """What is known of a task. Raises `DataError` (NO_SPACE) for one that this node does not work on."""
        found = self.spaces.get(task)
        if found is None:
            raise DataError(DataReason.NO_SPACE)
        return found

    async def note_seed(self, space: Space) -> bytes:
        """The task's newest beacon, which this node then knows for one. Raises `StorageError`."""
        seed = space.seed()
        if not self.store.knows_seed(space.task, seed):
            await in_thread(lambda: self.store.note_seed(space.task, seed))
        return seed

    def members(self, task: bytes | None, without: frozenset[bytes] = frozenset()) -> frozenset[bytes]:
        """Keys that are to hold a task's data: those on its roster, but for who is gone, and `without`."""
        if task is None or task not in self.spaces:
            return frozenset()
        roster, gone = self.spaces[task].members(), self.holders.gone() - {self.own}
        known = self._members.get(task)
        # Asked for with every blob: as long as nothing changed it is the same object, whose hash Python keeps.
        if known is None or known[0] is not roster or known[1] != gone:
            known = self._members[task] = (roster, gone, roster - gone)
            self._plans.clear()  # or each would keep a roster that is over
            self._index_plans.clear()
        return known[2] - without if without else known[2]

    async def due(
        self, task: bytes, cid: bytes, manifest: Manifest, without: frozenset[bytes] = frozenset()
    ) -> tuple[tuple[bytes, ...], ...]:
        """The due holder of each shard of each block. Raises `DataError` if nobody is there."""
        members = self.members(task, without)
        plan = self._plans.get((cid, members))
        if plan is None:
            seed = manifest.seed or task

            def work() -> tuple[tuple[bytes, ...], ...]:
                return tuple(
                    holders_of(seed, entry.cid, members, manifest.code.shards) for entry in manifest.blocks
                )

            quick = len(manifest.blocks) * len(members) < _HASHES_AT_ONCE
            plan = work() if quick else await in_thread(work)
            self._plans[cid, members] = plan
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    async def index_holders(self, task: bytes, cid: bytes, manifest: Manifest) -> tuple[bytes, ...]:
        """Who is to have the manifest so that it is found by this CID: its own, or that of the blob's bytes."""
        members = self.members(task)
        if not members:
            return ()
        copies = min(manifest_code(manifest.code).shards, len(members))
        place = (task, cid, copies, members)
        found = self._index_plans.get(place)
        if found is None:

            def work() -> tuple[bytes, ...]:
                return holders_of(task, cid, members, copies)

            found = work() if len(members) < _HASHES_AT_ONCE else await in_thread(work)
            self._index_plans[place] = found
            while len(self._index_plans) > _PLANS_KEPT * 4:
                self._index_plans.popitem(last=False)
        return found

    async def index_of(self, task: bytes, cid: bytes, manifest: Manifest) -> set[bytes]:
        """Everybody who is to have the manifest: by its own CID, and by that of a public blob's bytes."""
        cids = (cid,) if manifest.is_private else (cid, manifest.content)
        return {key for one in cids for key in await self.index_holders(task, one, manifest)}

    def keepers(self, cid: bytes, holders: Iterable[bytes]) -> list[bytes]:
        """Holders of a blob in the order in which they are to look after it; everybody finds the same."""
        return sorted(set(holders), key=lambda key: sha256(_KEEPER + cid + key).digest())

    # --- what is here

    async def manifest(self, cid: bytes) -> Manifest | None:
        """The manifest of a blob that is kept here, or None. One that is damaged is dropped with its blob."""
        cached = self._manifests.get(cid)
        if cached is not None and self.store.blob(cid) is not None:
            self._manifests.move_to_end(cid)
            return cached

        def read() -> Manifest | None:
            data = self.store.manifest(cid)
            return None if data is None else decode_manifest(data, cid)

        try:
            found = await in_thread(read)
        except DataError as error:
            log.warning("a stored manifest is damaged", error=str(error))
            await in_thread(lambda: self.store.remove(cid, why="damaged"))
            return None
        if found is not None:
            self.remember(cid, found)
        return found

    def remember(self, cid: bytes, manifest: Manifest) -> None:
        """Keep a manifest at hand that is stored here."""
        self._manifests[cid] = manifest
        self._manifests.move_to_end(cid)
        while len(self._manifests) > self.limits.data_manifests_cached:
            self._manifests.popitem(last=False)

    async def shape(self, cid: bytes) -> tuple[int, int] | None:
        """Blocks of a blob that is kept here and shards of each, or None; its manifest is read the first time only."""
        known = self._shapes.get(cid)
        if known is None and (manifest := await self.manifest(cid)) is not None:
            known = self._shapes[cid] = (len(manifest.blocks), manifest.code.shards)
            while len(self._shapes) > _SHAPES_KEPT:
                self._shapes.popitem(last=False)
        return known

    async def shard(self, cid: bytes, place: Place, manifest: Manifest) -> bytes | None:
        """A stored shard that is what the manifest says, or None. One that is not is dropped, and counted.

        One that the disk does not give back is None as well: others have theirs.
        """
        blob = self.store.blob(cid)
        if blob is None or place not in blob.held:
            return None

        def read() -> bytes | None:
            data = self.store.shard(cid, place)
            right = data is not None and sha256(data).digest() == manifest.blocks[place[0]].shards[place[1]]
            if not right:
                self.store.drop_shards(cid, [place], why="damaged")
            return data if right else None

        try:
            return await in_thread(read)
        except StorageError as error:
            self.counts["shards not read from disk"] += 1
            log.error("a stored shard could not be read", error=str(error))
            return None

    async def keep(self, task: bytes, work: Callable[[], T]) -> T:
        """Store something, if need be after removing what may go: blobs whose term is over, or of no task of this node.

        Raises `LimitExceeded` if there is no room even so, or another `StorageError`.
        """
        try:
            return await in_thread(work)
        except LimitExceeded:
            if not await self.collect() + await self._remove_foreign():
                raise
            return await in_thread(work)

    async def collect(self) -> int:
        """Remove every blob whose term is over; how many."""

        def work() -> int:
            return sum(
                self.store.remove(cid, why="expired")
                for task, round in rounds.items()
                for cid in self.store.expired(task, round)
            )

        rounds = {task: space.round() for task, space in self.spaces.items()}
        return await in_thread(work)

    async def _remove_foreign(self) -> int:
        """Remove what is kept for tasks that this node does not work on (any more), unless it is pinned; how many."""

        def work() -> int:
            foreign = [
                blob for blob in self.store.blobs() if blob.task not in self.spaces and not blob.pinned
            ]
            return sum(self.store.remove(blob.cid) for blob in foreign)

        return await in_thread(work)

    # --- peers

    async def ask(self, key: bytes, protocol: str, payload: bytes, *, deadline: float | None = None) -> bytes:
        """Ask a peer and note how it did. Raises `RequestFailed`."""
        began = trio.current_time()
        try:
            reply = await self.network.request(key, protocol, payload, deadline=deadline)
        except RequestFailed as error:
            if error.reason is not RequestReason.TOO_LARGE:
                self.holders.failed(key)
            raise
        self.holders.answered(key, trio.current_time() - began)
        return reply

    def blame(self, key: bytes, what: str) -> None:
        """Note that a peer sent what no honest holder sends."""
        self.holders.lied(key, what)
        log.warning("a holder sent wrong data", peer=key.hex(), what=what)

    async def announce(self, key: bytes) -> None:
        """Say in the directory, if there is one, that this node knows of something."""
        if self.directory is None:
            return
        try:
            with trio.move_on_after(self.limits.request_deadline):
                await self.directory.provide(key)
            self.counts["announced"] += 1
        except (OperatorError, RequestFailed, ValueError) as error:
            self.counts["announcements failed"] += 1
            log.info("not announced", error=str(error))

    async def providers(self, key: bytes) -> tuple[bytes, ...]:
        """Who says in the directory that it knows of something; nobody if there is none, or it fails."""
        if self.directory is None:
            return ()
        try:
            with trio.move_on_after(self.limits.request_deadline):
                return await self.directory.find_providers(
                    key, count=_PROVIDERS, deadline=self.limits.request_deadline / 2
                )
        except (OperatorError, RequestFailed, ValueError) as error:
            log.info("no providers", error=str(error))
        return ()

    def neighbours(self) -> list[bytes]:
        """Connected peers."""
        return [peer.key for peer in self.network.peers()]


async def in_thread(work: Callable[[], T]) -> T:
    """Do disk or CPU work in a thread. It is never left half done: a cancelled caller waits for it."""
    return await trio.to_thread.run_sync(work)


async def in_thread_if_large(size: int, work: Callable[[], T]) -> T:
    """Do CPU work on so many bytes: here and now if that is quicker than going to a thread."""
    return work() if size <= _SMALL_BYTES else await in_thread(work)


PEER_FAULTS: Final = (RequestFailed, ProtocolError)
"""What may go wrong with an answer, and costs no more than that answer."""
