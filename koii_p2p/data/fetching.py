"""Reading a blob: any k of n shards of each block, in parallel, from whoever has them, none trusted before its hash.

A block asks as many holders as it lacks shards. One that fails, lies or takes longer than `Limits.data_hedge_seconds`
gets company: the next best is asked beside it. Who is to hold what follows from the roster; when that does not do,
whoever may know anything is asked what it has: providers in the directory, the task's nodes, neighbours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from koii_p2p.data import protocol
from koii_p2p.data.blob import AHEAD, BlobDecoder, Verdict, check_bytes
from koii_p2p.data.durability import Level, manifest_code
from koii_p2p.data.manifest import Manifest, decode_manifest
from koii_p2p.data.placement import holders_of
from koii_p2p.data.protocol import ProtocolError
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.data.room import PEER_FAULTS, Found, Room, in_thread, in_thread_if_large
from koii_p2p.network.requests import RequestFailed
from koii_p2p.records.cid import cid_of
from koii_p2p.storage.round_key import TASK_BYTES
from koii_p2p.storage.shards import Place

_ASKED_FOR_MANIFEST: Final = 3
_FIRST_ALONE_SECONDS: Final = 0.1
"""So long the best one is asked alone for a manifest: most answer sooner, and then nobody else is troubled."""
MOST_ASKED: Final = 64
"""Of those who may know of a blob, so many are asked at a time."""
_FURTHER_CHANCES: Final = 3
"""So often holders that did not answer in time are asked again before a block is given up, after a wait that doubles:
first those that are connected, in the end all of them."""
_NO_TASK: Final = bytes(TASK_BYTES)
"""In a census by who does not know whose a blob is: it renews nothing."""

Sink = Callable[[bytes], Awaitable[None]]


async def find(room: Room, cid: bytes) -> Found:
    """A blob by the CID of its manifest or of its bytes, from here or from whoever has the manifest.

    Raises `DataError` (NOT_FOUND).
    """
    here = room.store.blob(cid)
    for blob in [here] if here is not None else await in_thread(lambda: room.store.with_content(cid)):
        manifest = await room.manifest(blob.cid)
        if manifest is not None:
            return Found(blob.cid, manifest, blob.task)
    asked: set[bytes] = {room.own}
    for source in (_index_keys, _provider_keys, _any_keys):
        keys = [key for key in await source(room, cid) if key not in asked][:MOST_ASKED]
        asked.update(keys)
        found = await _ask_for_manifest(room, cid, room.holders.best_first(keys))
        if found is not None:
            return Found(*found, _only_task(room))
    raise DataError(DataReason.NOT_FOUND, f"{len(asked) - 1} nodes were asked, and none of them has it.")


def _only_task(room: Room) -> bytes | None:
    return next(iter(room.spaces)) if len(room.spaces) == 1 else None


async def _index_keys(room: Room, cid: bytes) -> list[bytes]:
    """Who is to have the manifest by the roster of some task, whatever its level is."""
    rosters = [(task, members) for task in room.spaces if (members := room.members(task))]

    def work() -> list[bytes]:
        keys: list[bytes] = []
        for task, members in rosters:
            for copies in sorted({manifest_code(level.code).shards for level in Level}):
                keys += holders_of(task, cid, members, min(copies, len(members)))
        return list(dict.fromkeys(keys))

    return await in_thread(work)


async def _provider_keys(room: Room, cid: bytes) -> list[bytes]:
    return list(await room.providers(cid))


async def _any_keys(room: Room, cid: bytes) -> list[bytes]:
    members = {key for task in room.spaces for key in room.members(task)}
    return [*room.neighbours(), *members]


async def _ask_for_manifest(room: Room, cid: bytes, keys: list[bytes]) -> tuple[bytes, Manifest] | None:
    """Ask a few at a time, the next whenever one has nothing or takes long; the first right manifest and its CID."""
    result: list[tuple[bytes, Manifest]] = []
    waiting = list(reversed(keys))

    def checked(data: bytes) -> tuple[bytes, Manifest]:
        own, manifest = cid_of(data), decode_manifest(data)
        if cid not in (own, manifest.content):
            raise DataError(DataReason.WRONG_MANIFEST)
        return own, manifest

    async def ask(nursery: trio.Nursery, turn: trio.Event) -> None:
        key = waiting.pop()
        try:
            for data in protocol.decode_manifests(
                await room.ask(key, protocol.FIND, protocol.encode_find(cid))
            ):
                result.append(await in_thread_if_large(len(data), partial(checked, data)))
                nursery.cancel_scope.cancel()
                return
        except DataError:
            room.blame(key, "manifest")
        except PEER_FAULTS:
            room.counts["fetch failures"] += 1
        turn.set()

    count, patience = 1, min(_FIRST_ALONE_SECONDS, room.limits.data_hedge_seconds)
    async with trio.open_nursery() as nursery:
        while waiting and not result:
            turn = trio.Event()
            for _ in range(min(count, len(waiting))):
                nursery.start_soon(ask, nursery, turn)
            await trio.lowlevel.checkpoint()
            with trio.move_on_after(patience):
                await turn.wait()
            count, patience = _ASKED_FOR_MANIFEST, room.limits.data_hedge_seconds
    return result[0] if result else None


@dataclass(slots=True)
class _Sources:
    """Who may have which shard: the due holders, and what others said that they hold."""

    due: tuple[tuple[bytes, ...], ...]
    others: dict[Place, list[bytes]] = field(default_factory=dict)
    asked_around: bool = False
    asking: trio.Lock = field(default_factory=trio.Lock)

    def of(self, place: Place) -> list[bytes]:
        """Possible holders of one shard."""
        due = [self.due[place[0]][place[1]]] if self.due else []
        return [*due, *(key for key in self.others.get(place, ()) if key not in due)]


class Reader:
    """Reads shards of one blob."""

    def __init__(self, room: Room, found: Found) -> None:
        self._room = room
        self._cid = found.cid
        self._manifest = found.manifest
        self._task = found.task
        self._sources: _Sources | None = None
        self._unanswered: set[tuple[Place, bytes]] = set()

    async def blob(self, key: bytes | None, sink: Sink) -> None:
        """Hand the blob's bytes to `sink` in order, holding five blocks at most.

        The last piece is handed over when all of them together are the blob: whoever asked for these bytes by their
        own CID has not got all of another's. Raises `DataError`: too few holders, a false manifest, a wrong key.
        """
        decoder = BlobDecoder(self._manifest, key)
        feeding, room_ahead = trio.Lock(), trio.Semaphore(AHEAD)
        last: bytes | None = None

        async def read(block: int) -> None:
            nonlocal last
            shards = await self.block(block)

            def put_together() -> list[bytes]:
                return [
                    piece
                    for shard, data in shards.items()
                    for piece in decoder.feed(block, shard, data, checked=True).pieces
                ]

            async with feeding:
                for piece in await in_thread_if_large(self._manifest.length_of(block), put_together):
                    if last is not None:
                        await sink(last)
                    last = piece
                    room_ahead.release()

        async with _unwrapped(), trio.open_nursery() as nursery:
            for block in range(len(self._manifest.blocks)):
                await room_ahead.acquire()
                nursery.start_soon(read, block)
        decoder.finish()
        if last is not None:
            await sink(last)

    async def block(self, block: int, wanted: int | None = None) -> dict[int, bytes]:
        """k right shards of a block, by number, or `wanted` more or fewer. Raises `DataError` (TOO_FEW_HOLDERS)."""
        needed = self._manifest.code.needed if wanted is None else wanted
        have: dict[int, bytes] = {}
        for shard in range(self._manifest.code.shards):
            if len(have) == needed:
                return have
            data = await self._room.shard(self._cid, (block, shard), self._manifest)
            if data is not None:
                have[shard] = data
        sources = await self._known_sources()
        tried: set[tuple[int, bytes]] = set()
        await self._from_peers(block, have, needed, sources, tried)
        if len(have) < needed:
            await self._ask_around(sources)
            await self._from_peers(block, have, needed, sources, tried)
        for chance in range(_FURTHER_CHANCES):
            if len(have) >= needed:
                break
            silent = {(shard, key) for shard, key in tried if ((block, shard), key) in self._unanswered}
            connected = set(self._room.neighbours())
            again = {one for one in silent if one[1] in connected or chance == _FURTHER_CHANCES - 1}
            if not again:
                continue
            # Connected and silent is busy, and a busy one may have lost its connection: with no more than k shards
            # live, each of them is needed.
            await trio.sleep(self._room.limits.data_hedge_seconds * 2**chance)
            tried -= again
            await self._from_peers(block, have, needed, sources, tried)
        if len(have) < needed:
            raise DataError(
                DataReason.TOO_FEW_HOLDERS,
                f"{len(have)} of {needed} shards of block {block} could be had; {len(tried)} holders were asked.",
            )
        return have

    async def _from_peers(
        self,
        block: int,
        have: dict[int, bytes],
        needed: int,
        sources: _Sources,
        tried: set[tuple[int, bytes]],
    ) -> None:
        """Ask until enough is there or nobody is left; of each shard one holder at a time unless it is slow."""
        changed = trio.Event()
        busy = 0

        def candidate() -> tuple[int, bytes] | None:
            offers = [
                (shard, key)
                for shard in range(self._manifest.code.shards)
                if shard not in have
                for key in sources.of((block, shard))
                if key != self._room.own and (shard, key) not in tried
            ]
            best = self._room.holders.best_first({key for _, key in offers})
            ranks = {key: rank for rank, key in enumerate(best)}
            asked = {shard for shard, _ in tried}
            able = [offer for offer in offers if offer[1] in ranks]
            # Shards of the data itself need no decoding; a shard that is asked for already waits for its answer.
            return min(
                able,
                key=lambda one: (
                    self._room.holders.rests(one[1]),
                    one[0] in asked,
                    one[0] >= self._manifest.code.needed,
                    ranks[one[1]],
                ),
                default=None,
            )

        async def ask(shard: int, key: bytes) -> None:
            nonlocal busy, changed
            try:
                data = await self.shard_of(key, (block, shard))
                if data is not None:
                    have.setdefault(shard, data)
            finally:
                busy -= 1
                changed.set()

        async with trio.open_nursery() as nursery:
            while len(have) < needed:
                while busy < needed - len(have) and (offer := candidate()) is not None:
                    tried.add(offer)
                    busy += 1
                    nursery.start_soon(ask, *offer)
                if not busy:
                    break
                changed = trio.Event()
                with trio.move_on_after(self._room.limits.data_hedge_seconds) as hedge:
                    await changed.wait()
                if hedge.cancelled_caught and (offer := candidate()) is not None:
                    self._room.counts["hedged"] += 1
                    tried.add(offer)
                    busy += 1
                    nursery.start_soon(ask, *offer)
            nursery.cancel_scope.cancel()

    async def shard_of(self, key: bytes, place: Place) -> bytes | None:
        """One shard from one holder, if it is right; a wrong one is blamed on it."""
        room = self._room

        def judged(reply: bytes) -> tuple[bytes | None, Verdict]:
            found = protocol.decode_shards(reply, 1, room.limits)[0]
            return found, Verdict.TAKEN if found is None else check_bytes(self._manifest, *place, found)

        try:
            reply = await room.ask(key, protocol.FETCH, protocol.encode_fetch(self._cid, [place]))
            # An answer that is here is judged, even if nobody waits for it any more: slow liars are liars too.
            with trio.CancelScope(shield=True):
                data, verdict = await in_thread_if_large(len(reply), partial(judged, reply))
        except RequestFailed:
            room.counts["fetch failures"] += 1
            self._unanswered.add((place, key))
            return None
        except ProtocolError:
            room.blame(key, "answer")
            return None
        self._unanswered.discard((place, key))
        if data is None:
            room.counts["shards missing"] += 1
            return None
        if verdict is not Verdict.TAKEN:
            room.blame(key, verdict.value)
            return None
        room.counts["shards fetched"] += 1
        room.counts["bytes fetched"] += len(data)
        return data

    async def _known_sources(self) -> _Sources:
        if self._sources is None:
            due: tuple[tuple[bytes, ...], ...] = ()
            if self._task is not None and self._room.members(self._task):
                due = await self._room.due(self._task, self._cid, self._manifest)
            self._sources = _Sources(due)
        return self._sources

    async def _ask_around(self, sources: _Sources) -> None:
        """Ask whoever may know, once for all blocks, what they hold of the blob."""
        room = self._room
        async with sources.asking:
            if sources.asked_around:
                return
            keys = {*await room.providers(self._cid), *room.neighbours(), *room.members(self._task)} - {
                room.own
            }
            async with trio.open_nursery() as nursery:
                for key in room.holders.best_first(keys)[:MOST_ASKED]:
                    nursery.start_soon(self._note_holdings, key, sources)
            sources.asked_around = True

    async def _note_holdings(self, key: bytes, sources: _Sources) -> None:
        held = await holdings(self._room, key, self._task or _NO_TASK, [(self._cid, 0, self._manifest)])
        for place in held.get(self._cid, ()):
            sources.others.setdefault(place, []).append(key)


async def holdings(
    room: Room, key: bytes, task: bytes, blobs: list[tuple[bytes, int, Manifest]]
) -> dict[bytes, frozenset[Place]]:
    """Which shards of some blobs a peer says it has; the blobs' rounds are what it is asked to keep them to.

    A blob that it does not know is left out, and all of them if it does not answer as it should.
    """
    found: dict[bytes, frozenset[Place]] = {}
    most = room.limits.data_message_blobs
    for start in range(0, len(blobs), most):
        some = blobs[start : start + most]
        try:
            question = protocol.encode_census(task, ((cid, until) for cid, until, _ in some))
            reply = await room.ask(key, protocol.CENSUS, question)
            for (cid, _, manifest), bits in zip(
                some, protocol.decode_holdings(reply, len(some), room.limits), strict=True
            ):
                if bits is not None:
                    found[cid] = protocol.places_of(bits, len(manifest.blocks), manifest.code.shards)
        except ProtocolError:
            room.blame(key, "answer")
        except RequestFailed:
            return found
    return found


@asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Let the first `DataError` out of a nursery's group by itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        matching, rest = group.split(DataError)
        if matching is None or rest is not None:
            raise
        raise _first(matching) from group


def _first(group: BaseExceptionGroup[DataError]) -> DataError:
    one: BaseException = group
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    assert isinstance(one, DataError)
    return one
