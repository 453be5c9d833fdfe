"""Putting a blob: coded block by block onto this disk, then made readable in one step, then brought to its holders.

What a crash leaves is either nothing, or a whole blob that this node can give out and goes on bringing to where it
belongs. A shard is removed here only when its holder has said that it has it on disk.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from koii_p2p.data import protocol
from koii_p2p.data.blob import BlobEncoder, CodedBlock
from koii_p2p.data.durability import DEFAULT_LEVEL, Level
from koii_p2p.data.encryption import KEY_BYTES, PREFIX_BYTES, BlockCipher
from koii_p2p.data.manifest import BLOCK_BYTES, Manifest, Reference
from koii_p2p.data.protocol import ProtocolError, Stored, StoreRequest
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.data.room import Room, in_thread, in_thread_if_large
from koii_p2p.network.requests import RequestFailed
from koii_p2p.records.cid import cid_of
from koii_p2p.storage.shards import Place

_PASSES: Final = 3
_AT_HAND_BYTES: Final = 16 * 1024 * 1024
"""Coded shards of a blob that is put stay in memory up to so many bytes, and are not read back to be sent."""
_MANIFEST_ALONE_BYTES: Final = 512 * 1024
_BLOCK_ENTRY_BYTES: Final = 1024
"""About what a block takes in a manifest: so much is encoded in one go."""
_REQUEST_SPARE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class PutSettings:
    """How a blob is to be kept: level, rounds from now, whether it is pinned here, whether it is private."""

    level: Level = DEFAULT_LEVEL
    rounds: int = 8
    pinned: bool = False
    private: bool = False
    block_bytes: int = BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a blob's shards are: with their due holders (or those who stand in for them), or still only here."""

    placed: int
    waiting: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """A blob that was put: how it is asked for, how many bytes a reader gets and nodes store, and where it is."""

    reference: Reference
    content: bytes
    size: int
    stored: int
    until: int
    placed: Placed


async def put(room: Room, task: bytes, chunks: AsyncIterator[bytes], settings: PutSettings) -> PutResult:
    """Store a stream of bytes for a task. Holds two blocks and `_AT_HAND_BYTES` of shards, never the blob.

    Raises `DataError`, and `LimitExceeded` or another `StorageError` if it cannot be stored here first; then nothing
    of it is left.
    """
    space, limits = room.space(task), room.limits
    if not limits.data_least_rounds <= settings.rounds <= limits.data_most_rounds:
        raise DataError(
            DataReason.BAD_TERM,
            f"{settings.rounds} rounds; {limits.data_least_rounds} to {limits.data_most_rounds} are possible.",
        )
    if not room.members(task):
        raise DataError(DataReason.NO_HOLDERS)
    key = secrets.token_bytes(KEY_BYTES) if settings.private else None
    cipher = BlockCipher(key, secrets.token_bytes(PREFIX_BYTES)) if key is not None else None
    encoder = BlobEncoder(
        settings.level.code, block_bytes=settings.block_bytes, cipher=cipher, seed=await room.note_seed(space)
    )
    number = await room.keep(task, lambda: room.store.begin(task))
    at_hand = AtHand()
    # What was coded last is not on disk yet: it goes with the commit, so that small blobs are one write.
    last: dict[Place, bytes] = {}

    async def stage(blocks: tuple[CodedBlock, ...]) -> None:
        nonlocal last
        for block in blocks:
            if last:
                await room.keep(task, partial(room.store.stage, number, last))
            last = {(block.number, shard): data for shard, data in enumerate(block.shards)}
            at_hand.keep(last)

    try:
        async for data in _gathered(chunks, settings.block_bytes):
            work = partial(encoder.feed, data)
            await stage(await in_thread_if_large(len(data), work))
        blocks, manifest = await in_thread(encoder.finish)
        await stage(blocks)
        encoded = await in_thread_if_large(len(manifest.blocks) * _BLOCK_ENTRY_BYTES, manifest.encode)
        if len(encoded) > limits.request_bytes - _REQUEST_SPARE_BYTES:
            raise DataError(
                DataReason.BLOB_TOO_LARGE, "Its manifest is too large to be sent: choose larger blocks."
            )
        cid = cid_of(encoded)
        until = max(space.round(), 0) + settings.rounds

        def commit() -> None:
            room.store.commit(
                number, cid, manifest.content, encoded, until=until, pinned=settings.pinned, shards=last
            )

        await room.keep(task, commit)
    except BaseException:
        # Also when cancelled.
        with trio.CancelScope(shield=True):
            await in_thread(lambda: room.store.abandon(number))
        raise
    room.remember(cid, manifest)
    room.counts["blobs put"] += 1
    room.placing.add(cid)
    try:
        placed = await Placer(room, task, cid, manifest, until, encoded=encoded, at_hand=at_hand).place()
    finally:
        room.placing.discard(cid)
    return PutResult(
        Reference(cid, key),
        manifest.content,
        manifest.plain_size,
        sum(len(entry.shards) * manifest.shard_length(block) for block, entry in enumerate(manifest.blocks)),
        until,
        placed,
    )


async def _gathered(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in runs of at least `size` and less than twice as many, and a shorter last one."""
    gathered = bytearray()
    async for chunk in chunks:
        for start in range(0, len(chunk), size):
            gathered += chunk[start : start + size]
            if len(gathered) >= size:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


class AtHand:
    """Shards of a blob that is being put, up to `_AT_HAND_BYTES`; each is given out once."""

    def __init__(self) -> None:
        self._shards: dict[Place, bytes] = {}
        self._room = _AT_HAND_BYTES

    def keep(self, shards: Mapping[Place, bytes]) -> None:
        """Keep a block's shards, if there is room for all of them."""
        size = sum(map(len, shards.values()))
        if size <= self._room:
            self._room -= size
            self._shards.update(shards)

    def take(self, place: Place) -> bytes | None:
        """A shard that is at hand, which it then is no longer."""
        return self._shards.pop(place, None)


class Placer:
    """Brings the shards of one blob that are here, and its manifest, to where they belong."""

    def __init__(
        self,
        room: Room,
        task: bytes,
        cid: bytes,
        manifest: Manifest,
        until: int,
        *,
        encoded: bytes | None = None,
        at_hand: AtHand | None = None,
    ) -> None:
        """`encoded` is the manifest's encoding, and `at_hand` shards, where they are known."""
        self._room = room
        self._task = task
        self._cid = cid
        self._manifest = manifest
        self._encoded = manifest.encode() if encoded is None else encoded
        self._at_hand = AtHand() if at_hand is None else at_hand
        self._until = until
        self._told: set[bytes] = set()
        self._placed = 0
        #: Bytes sent, for those who count them.
        self.sent = 0

    async def place(self) -> Placed:
        """Bring what is not due here to its holders, and to who stands in for one that cannot take it.

        A shard is removed here once its holder has it. What nobody took stays.
        """
        room = self._room
        refusing: frozenset[bytes] = frozenset(
            key for key in room.members(self._task) if key != room.own and not room.holders.takes(key)
        )
        for _ in range(_PASSES):
            astray = await self._astray(refusing)
            if not astray:
                break
            refused = await self._bring(astray)
            if not refused:
                break
            refusing |= refused
        await self._tell_index()
        blob = room.store.blob(self._cid)
        due = await self._due(frozenset())
        waiting = sum(due[block][shard] != room.own for block, shard in (blob.held if blob else {}))
        held_here = len(blob.held) - waiting if blob else 0
        return Placed(self._placed + held_here, waiting)

    async def _due(self, refusing: frozenset[bytes]) -> tuple[tuple[bytes, ...], ...]:
        without = refusing if self._room.members(self._task, refusing) else frozenset()
        return await self._room.due(self._task, self._cid, self._manifest, without)

    async def _astray(self, refusing: frozenset[bytes]) -> dict[bytes, list[Place]]:
        """Shards that are here and belong to others, by holder."""
        blob = self._room.store.blob(self._cid)
        if blob is None or not self._room.members(self._task):
            return {}
        due = await self._due(refusing)
        found: dict[bytes, list[Place]] = {}
        for block, shard in sorted(blob.held):
            holder = due[block][shard]
            if holder != self._room.own:
                found.setdefault(holder, []).append((block, shard))
        return found

    async def _bring(self, astray: dict[bytes, list[Place]]) -> frozenset[bytes]:
        """Bring shards to their holders, all holders at once; those who did not take theirs.

        Beside it the manifest goes to those with whom it is looked for, and who get no shard.
        """
        refused: set[bytes] = set()
        given: list[Place] = []
        index = await self._room.index_of(self._task, self._cid, self._manifest)

        async def bring(holder: bytes, places: list[Place]) -> None:
            if not await self._give(holder, places, given):
                refused.add(holder)

        try:
            async with trio.open_nursery() as nursery:
                for holder, places in astray.items():
                    nursery.start_soon(bring, holder, places)
                for key in index - astray.keys():
                    nursery.start_soon(self._tell, key)
        finally:
            # Also when cancelled: what a holder has is not brought to it again.
            if given:
                with trio.CancelScope(shield=True):
                    await in_thread(lambda: self._room.store.drop_shards(self._cid, given, why="handed over"))
        return frozenset(refused)

    async def _give(self, holder: bytes, places: list[Place], given: list[Place]) -> bool:
        """Bring shards that are here to one holder, and note what it took; whether it took them all."""
        room = self._room
        sizes = [self._manifest.shard_length(block) for block, _ in places]
        for run in protocol.batches(sizes, room.limits):
            some = [places[index] for index in run]
            shards: list[tuple[Place, bytes]] = []
            for place in some:
                data = self._at_hand.take(place) or await room.shard(self._cid, place, self._manifest)
                if data is not None:
                    shards.append((place, data))
            if not await self.send(holder, shards):
                return False
            self._placed += len(shards)
            given += some
        return True

    async def send(self, holder: bytes, shards: list[tuple[Place, bytes]]) -> bool:
        """Have a holder keep these shards, and the manifest; whether it says that they are on its disk."""
        room = self._room
        manifest: bytes | None = None
        if holder not in self._told:
            if len(self._encoded) > _MANIFEST_ALONE_BYTES and shards:
                if not await self.send(holder, []):
                    return False
            else:
                manifest = self._encoded
        request = StoreRequest(self._task, self._cid, self._until, tuple(shards), manifest)
        try:
            payload = await in_thread_if_large(
                sum(len(data) for _, data in shards), lambda: protocol.encode_store(request)
            )
            reply = protocol.decode_stored(await room.ask(holder, protocol.STORE, payload))
        except RequestFailed:
            room.counts["store failures"] += 1
            return False
        except ProtocolError:
            room.blame(holder, "answer")
            return False
        self.sent += len(payload)
        if reply.stored is not Stored.DONE:
            room.counts[f"turned away: {reply.stored.name.lower()}"] += 1
            if reply.stored in (Stored.NO_ROOM, Stored.SHARE_FULL):
                room.holders.full(holder)
            return False
        self._told.add(holder)
        return True

    async def _tell_index(self) -> None:
        """Give the manifest to those with whom it is looked for: by its own CID, and by that of a public blob."""
        keys = await self._room.index_of(self._task, self._cid, self._manifest)
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(self._tell, key)

    async def _tell(self, key: bytes) -> None:
        """Give the manifest to one who does not have it yet, if it is worth while to ask."""
        if key != self._room.own and key not in self._told and self._room.holders.takes(key):
            await self.send(key, [])
