"""What a node answers to others about task data. Nothing is believed before its hash matches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from koii_p2p.data import protocol
from koii_p2p.data.blob import Verdict, check_shard
from koii_p2p.data.challenge import answer, encode_answer, leaf_count
from koii_p2p.data.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from koii_p2p.data.protocol import Stored, StoreReply, StoreRequest
from koii_p2p.data.reasons import DataError
from koii_p2p.data.room import Room, in_thread, in_thread_if_large
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.shard_use import ShareFull

log = structlog.get_logger(__name__)

UNKNOWN_SEED: Final = bytes(32)
"""Stands for everybody together as who brought blobs whose seed this node did not see as a beacon; nobody's key."""


class Server:
    """Answers the five questions of `protocol.py`. `counted(asker, cid)` hears who takes a census of what."""

    def __init__(self, room: Room, counted: Callable[[bytes, bytes], None]) -> None:
        self._room = room
        self._counted = counted

    def serve(self) -> None:
        """Begin to answer."""
        network = self._room.network
        network.serve(protocol.FIND, self._find)
        network.serve(protocol.FETCH, self._fetch)
        network.serve(protocol.STORE, self._store)
        network.serve(protocol.CENSUS, self._census)
        network.serve(protocol.CHALLENGE, self._challenge)

    async def _find(self, _asker: bytes, data: bytes) -> bytes:
        cid = protocol.decode_find(data)
        store = self._room.store

        def read() -> list[bytes]:
            known = [cid, *(blob.cid for blob in store.with_content(cid))]
            found: list[bytes] = []
            for one in known[: protocol.MOST_MANIFESTS]:
                manifest = store.manifest(one)
                # One of the largest goes alone: nobody has us hold several of them for an answer.
                if manifest is not None and sum(map(len, found)) + len(manifest) <= MAX_MANIFEST_BYTES:
                    found.append(manifest)
            return found

        manifests = await in_thread(read)
        self._room.counts["manifests served"] += len(manifests)
        return protocol.encode_manifests(manifests)

    async def _fetch(self, _asker: bytes, data: bytes) -> bytes:
        room = self._room
        cid, places = protocol.decode_fetch(data, room.limits)
        manifest = await room.manifest(cid)
        shards: list[bytes | None] = []
        left = room.limits.data_message_bytes
        for place in places:
            blob = room.store.blob(cid)
            length = 0 if blob is None else blob.held.get(place, 0)
            fits = not any(shards) or length <= left
            shard = await room.shard(cid, place, manifest) if manifest is not None and fits else None
            shards.append(shard)
            left -= len(shard or b"")
        room.counts["shards served"] += sum(shard is not None for shard in shards)
        room.counts["bytes served"] += sum(len(shard) for shard in shards if shard is not None)
        size = sum(len(shard) for shard in shards if shard is not None)
        return await in_thread_if_large(size, lambda: protocol.encode_shards(shards))

    async def _store(self, asker: bytes, data: bytes) -> bytes:
        request = await in_thread_if_large(len(data), lambda: protocol.decode_store(data, self._room.limits))
        try:
            reply = await self._kept(asker, request)
        except ShareFull as error:
            reply = StoreReply(Stored.SHARE_FULL, error.why)
        except StorageError as error:
            # A full or failing disk is this node's to mend; the asker only has to know that it is none of its doing.
            log.warning("data of a peer was not stored", error=str(error))
            reply = StoreReply(Stored.NO_ROOM, error.why)
        if reply.stored is not Stored.DONE:
            self._room.counts[f"refused: {reply.stored.name.lower()}"] += 1
        return protocol.encode_stored(reply)

    async def _kept(self, asker: bytes, request: StoreRequest) -> StoreReply:
        room, cid = self._room, request.cid
        space = room.spaces.get(request.task)
        if space is None:
            return StoreReply(Stored.NOT_OURS)
        if asker not in space.members():
            return StoreReply(Stored.NOT_A_MEMBER)
        round = space.round()
        if request.until < round:
            return StoreReply(Stored.TOO_LATE, f"It is round {round}.")
        until = min(request.until, round + room.limits.data_most_rounds)
        known = await room.manifest(cid)
        blob = room.store.blob(cid)
        if blob is not None and blob.task != request.task:
            return StoreReply(Stored.WRONG, "It is another task's.")
        if known is None and request.manifest is None:
            return StoreReply(Stored.MANIFEST_WANTED)
        await room.note_seed(space)

        def keep() -> Manifest | Verdict:
            """Judge what came and keep it: one way to a thread and back for all of it."""
            manifest, encoded = known, request.manifest
            if manifest is None:
                manifest = decode_manifest(encoded or b"", cid)
            for place, data in request.shards:
                verdict = check_shard(manifest, *place, data)
                if verdict is not Verdict.TAKEN:
                    return verdict
            if known is not None:
                encoded = room.store.manifest(cid)
            if encoded is not None:
                # An unknown seed is older than this node's memory, or was chosen so as to fill certain holders.
                is_seed = room.store.knows_seed(request.task, manifest.seed)
                room.store.add(
                    request.task, cid, manifest.content, encoded,
                    until=until, shards=dict(request.shards), bringer=asker if is_seed else UNKNOWN_SEED,
                )  # fmt: skip
            return manifest

        try:
            kept = await room.keep(request.task, keep)
        except DataError as error:
            room.blame(asker, "manifest")
            return StoreReply(Stored.WRONG, str(error))
        if isinstance(kept, Verdict):
            room.blame(asker, kept.value)
            return StoreReply(Stored.WRONG, str(kept.__doc__))
        if known is None:
            room.remember(cid, kept)
            if not room.store.knows_seed(request.task, kept.seed):
                room.counts["blobs under unknown seeds"] += 1
        room.counts["shards stored"] += len(request.shards)
        room.counts["bytes stored"] += sum(len(data) for _, data in request.shards)
        return StoreReply(Stored.DONE)

    async def _census(self, asker: bytes, data: bytes) -> bytes:
        room = self._room
        task, blobs = protocol.decode_census(data, room.limits)
        space = room.spaces.get(task)
        holdings: list[bytes | None] = []
        for cid, until in blobs:
            # Anybody may ask after hundreds of blobs: their manifests are not read again for each.
            blob, shape = room.store.blob(cid), await room.shape(cid)
            if blob is None or shape is None:
                holdings.append(None)
                continue
            if space is not None and blob.task == task and asker in space.members():
                self._counted(asker, cid)
                most = min(until, space.round() + room.limits.data_most_rounds)
                if most > blob.until:
                    await in_thread(lambda cid=cid, most=most: room.store.set_term(cid, most))  # type: ignore[misc]
            holdings.append(protocol.bits_of(blob.held, *shape))
        return protocol.encode_holdings(holdings)

    async def _challenge(self, _asker: bytes, data: bytes) -> bytes:
        room = self._room
        cid, place, leaf = protocol.decode_challenge(data)
        manifest = await room.manifest(cid)
        shard = None if manifest is None else await room.shard(cid, place, manifest)
        if shard is None or leaf >= leaf_count(len(shard)):
            return protocol.encode_shown(None)
        held = shard
        shown = await in_thread(lambda: encode_answer(answer(held, leaf)))
        room.counts["challenges answered"] += 1
        return protocol.encode_shown(shown)
