"""The shards and manifests that a node keeps for tasks, in a LevelDB of their own, with what they may take up.

Whatever is to be true together is one batch: a blob with its shards, a removal with everything it removes. A process
that is killed, or a machine that loses power, leaves each batch whole or not at all, and what a `begin` without a
`commit` left behind is removed at the next start. Use is counted from what is there, so it cannot leak.

A blob is known by a number of its own until its CID is known, which is when the last block was coded. Bytes are not
judged here: who reads a shard compares it with its manifest.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final

from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.records.cid import is_cid
from koii_p2p.storage.database import Change, Database
from koii_p2p.storage.faults import LimitExceeded, StorageCorrupt
from koii_p2p.storage.round_key import TASK_BYTES
from koii_p2p.storage.shard_use import BLOB_ENTRIES as BLOB_ENTRIES
from koii_p2p.storage.shard_use import OURS, Use

Place = tuple[int, int]
"""Number of a block, and of the shard in it."""

ENTRY_BYTES: Final = 64
"""What each shard and each blob counts besides its bytes: its keys and its entry in memory."""
SEED_BYTES: Final = 32
SEEDS_KEPT: Final = 256
"""Beacons of a task that are remembered, the newest: four times as many rounds as a blob is kept unasked."""
_NUMBER_BYTES: Final = 8
_PLACE_BYTES: Final = 6
_KEY_BYTES: Final = 32
_MOST_RECORD_BYTES: Final = 1024
_REMOVED_AT_ONCE: Final = 4096


@dataclass(slots=True)
class StoredBlob:
    """A blob of which a node keeps the manifest and some shards, whose lengths are in `held`.

    It is kept while the task's round is not above `until`, and for as long as it is `pinned`. `content` is the CID of
    the blob's bytes. `held` of a readable blob is never changed, but replaced: others look at it without a lock.
    """

    number: int
    task: bytes
    cid: bytes
    content: bytes
    until: int
    pinned: bool
    manifest_bytes: int
    bringer: bytes = OURS
    """Key of who brought it first, against whose share it counts; empty for what this node itself wants kept."""
    held: dict[Place, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What it counts against quotas."""
        return ENTRY_BYTES + self.manifest_bytes + sum(self.held.values()) + ENTRY_BYTES * len(self.held)


@dataclass(frozen=True, slots=True)
class ShardStoreStatistics:
    """What is stored now, and what was refused, removed or found damaged since the store was opened."""

    blobs: int
    shards: int
    bytes: int
    most_of_a_task: int
    """Bytes of the task that has most of them."""
    pinned: int
    refused: int
    expired: int
    evicted: int
    damaged: int
    left_behind: int
    """Shards of unfinished blobs that were removed when the store was opened."""


class ShardStore:
    """Shards and manifests on disk, for any thread. Methods raise `StorageError`; `LimitExceeded` at a full quota."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._lock = threading.RLock()
        self._blobs_table = database.prefixed(b"blob/")
        self._manifests = database.prefixed(b"manifest/")
        self._held = database.prefixed(b"held/")
        self._shards = database.prefixed(b"shard/")
        self._blobs: dict[bytes, StoredBlob] = {}
        self._contents: dict[bytes, set[bytes]] = {}
        self._staged: dict[int, StoredBlob] = {}
        self._pinned: set[bytes] = set()
        self._use = Use(limits)
        self._counts: Counter[str] = Counter()
        self._next = 0
        self._seeds_table = database.prefixed(b"seed/")
        self._seeds: dict[bytes, dict[bytes, int]] = {}
        self._read()

    @classmethod
    def open(cls, path: Path, limits: Limits) -> ShardStore:
        """Open the store in a folder, and make it if there is none. Raises `StorageError`."""
        try:
            # Trying to compress parity takes a sixth of a put's CPU, and gains nothing.
            database = Database.open(path, compressed=False)
        except StorageCorrupt as error:
            raise _damaged(path, error.why) from error
        try:
            return cls(database, limits)
        except StorageCorrupt as error:
            database.close()
            raise _damaged(path, error.why) from error

    def __enter__(self) -> ShardStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    # --- a blob that is being made here

    def begin(self, task: bytes) -> int:
        """Begin a blob whose CID is not known yet; the number for `stage`, `commit` and `abandon`.

        Raises `LimitExceeded`.
        """
        if len(task) != TASK_BYTES:
            raise ValueError(f"A task id has {TASK_BYTES} bytes, not {len(task)}.")
        with self._lock:
            self._require_room(task, OURS, ENTRY_BYTES, BLOB_ENTRIES)
            self._next += 1
            self._staged[self._next] = StoredBlob(self._next, task, b"", b"", 0, False, 0)
            self._use.count(task, OURS, ENTRY_BYTES, blobs=1)
            return self._next

    def stage(self, number: int, shards: Mapping[Place, bytes]) -> None:
        """Store shards of a blob that was begun, durably. Nobody can read them before `commit`."""
        with self._lock:
            self._write_shards(self._staged[number], shards)

    def commit(
        self,
        number: int,
        cid: bytes,
        content: bytes,
        manifest: bytes,
        *,
        until: int,
        pinned: bool,
        shards: Mapping[Place, bytes] | None = None,
    ) -> StoredBlob:
        """Make a blob that was begun readable, with its last `shards`, in one step.

        One of the same CID gives way to it, and its pin and term stay.
        """
        last = shards or {}
        with self._lock:
            staged, old = self._staged[number], self._blobs.get(cid)
            more = len(manifest) + sum(len(data) + ENTRY_BYTES for data in last.values())
            self._require_room(staged.task, OURS, more, len(last))
            blob = replace(
                staged,
                held={**staged.held, **{place: len(data) for place, data in last.items()}},
                cid=cid,
                content=content,
                manifest_bytes=len(manifest),
                until=until if old is None else max(until, old.until),
                pinned=pinned or (old is not None and old.pinned),
            )
            changes = [self._manifests.change(_key(number), manifest), self._record(blob)]
            changes += self._additions(number, last)
            if old is not None:
                changes += self._removal(old)
            self._database.write(changes, sync=True)
            del self._staged[number]
            if old is not None:
                self._forget(old)
            self._use.count(blob.task, OURS, more, shards=len(last))
            self._remember(blob)
            return blob

    def abandon(self, number: int) -> None:
        """Remove what was staged of a blob. A number that is not staged any more does nothing."""
        with self._lock:
            blob = self._staged.pop(number, None)
            if blob is not None:
                self._use.count(blob.task, OURS, -blob.bytes, shards=-len(blob.held), blobs=-1)
                # What is left of it after a power failure goes at the next start.
                self._database.write(self._removal(blob))

    # --- blobs of others

    def add(
        self,
        task: bytes,
        cid: bytes,
        content: bytes,
        manifest: bytes,
        *,
        until: int,
        shards: Mapping[Place, bytes] | None = None,
        bringer: bytes = OURS,
    ) -> StoredBlob:
        """Keep a blob's manifest, and shards of it, until a round; all of it in one step if it is new.

        A new one counts against the share of its `bringer`. Raises `LimitExceeded`, `ShareFull` for that one's share.

        If it is there already, it is kept until the later of the two rounds, and gets the shards that it lacks.
        """
        with self._lock:
            blob = self._blobs.get(cid)
            if blob is not None:
                if until > blob.until:
                    self.set_term(cid, until)
                self.put_shards(cid, shards or {})
                return blob
            self._next += 1
            blob = StoredBlob(self._next, task, cid, content, until, False, len(manifest), bringer)
            blob.held = {place: len(data) for place, data in (shards or {}).items()}
            self._require_room(task, bringer, blob.bytes, BLOB_ENTRIES + len(blob.held))
            changes = [self._manifests.change(_key(blob.number), manifest), self._record(blob)]
            changes += self._additions(blob.number, shards or {})
            self._database.write(changes, sync=True)
            self._use.count(task, bringer, blob.bytes, shards=len(blob.held), blobs=1)
            self._remember(blob)
            return blob

    def put_shards(self, cid: bytes, shards: Mapping[Place, bytes]) -> None:
        """Store shards of a known blob, durably; those that are there stay. Raises `KeyError` for no such blob."""
        with self._lock:
            blob = self._blobs[cid]
            self._write_shards(
                blob, {place: data for place, data in shards.items() if place not in blob.held}
            )

    def drop_shards(self, cid: bytes, places: list[Place], *, why: str = "evicted") -> None:
        """Remove shards of a blob, which need not be there; counted as `why`: evicted, or damaged."""
        with self._lock:
            blob = self._blobs.get(cid)
            gone = [place for place in places if blob is not None and place in blob.held]
            if blob is None or not gone:
                return
            keys = [_key(blob.number) + _place_key(place) for place in gone]
            self._database.write(
                change
                for key in keys
                for change in (self._held.change(key, None), self._shards.change(key, None))
            )
            held = dict(blob.held)
            size = sum(held.pop(place) + ENTRY_BYTES for place in gone)
            blob.held = held
            self._use.count(blob.task, blob.bringer, -size, shards=-len(gone))
            self._counts[why] += len(gone)

    def remove(self, cid: bytes, *, why: str = "evicted") -> bool:
        """Remove a blob with its shards; whether it was there."""
        with self._lock:
            blob = self._blobs.get(cid)
            if blob is None:
                return False
            self._database.write(self._removal(blob))
            self._forget(blob)
            self._counts[why] += 1
            return True

    def set_term(self, cid: bytes, until: int) -> None:
        """Keep a blob until this round."""
        self._change(cid, until=until)

    def set_pin(self, cid: bytes, pinned: bool) -> None:
        """Pin a blob or unpin it."""
        self._change(cid, pinned=pinned)

    def expired(self, task: bytes, round: int) -> list[bytes]:
        """The blobs of a task that are not pinned and whose term ended before this round."""
        with self._lock:
            return [
                blob.cid
                for blob in self._blobs.values()
                if blob.task == task and not blob.pinned and blob.until < round
            ]

    # --- reading

    def blob(self, cid: bytes) -> StoredBlob | None:
        """What is known of a blob by the CID of its manifest; do not change it."""
        return self._blobs.get(cid)

    def with_content(self, content: bytes) -> list[StoredBlob]:
        """The blobs whose bytes have this CID."""
        with self._lock:
            return [self._blobs[cid] for cid in sorted(self._contents.get(content, ()))]

    def blobs(self) -> list[StoredBlob]:
        """Every readable blob, by CID."""
        with self._lock:
            return [self._blobs[cid] for cid in sorted(self._blobs)]

    def manifest(self, cid: bytes) -> bytes | None:
        """The stored bytes of a manifest, or None."""
        blob = self._blobs.get(cid)
        return None if blob is None else self._manifests.get(_key(blob.number))

    def shard(self, cid: bytes, place: Place) -> bytes | None:
        """The stored bytes of a shard, or None."""
        blob = self._blobs.get(cid)
        if blob is None or place not in blob.held:
            return None
        return self._shards.get(_key(blob.number) + _place_key(place))

    def used(self, task: bytes | None = None) -> int:
        """Bytes that count against the quota of a task, or of the whole store."""
        return self._use.total if task is None else self._use.of(task)

    def statistics(self) -> ShardStoreStatistics:
        """What is stored, and what was refused and removed. Waits for no write that is under way."""
        return ShardStoreStatistics(
            blobs=len(self._blobs),
            shards=self._use.shards,
            bytes=self._use.total,
            most_of_a_task=self._use.most,
            pinned=len(self._pinned),
            refused=self._counts["refused"],
            expired=self._counts["expired"],
            evicted=self._counts["evicted"],
            damaged=self._counts["damaged"],
            left_behind=self._counts["left_behind"],
        )

    # --- seeds

    def note_seed(self, task: bytes, seed: bytes) -> None:
        """Remember a beacon of a task, that blobs placed by it may come later; the newest `SEEDS_KEPT` are known."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"A seed has {SEED_BYTES} bytes, not {len(seed)}.")
        with self._lock:
            known = self._seeds.setdefault(task, {})
            if seed in known:
                return
            number = max(known.values(), default=0) + 1
            changes = [self._seeds_table.change(task + _key(number), seed)]
            for old in list(known)[: max(len(known) + 1 - SEEDS_KEPT, 0)]:
                changes.append(self._seeds_table.change(task + _key(known.pop(old)), None))
            self._database.write(changes)
            known[seed] = number

    def knows_seed(self, task: bytes, seed: bytes | None) -> bool:
        """Whether this was seen as a beacon of the task."""
        return seed in self._seeds.get(task, {})

    # --- inside

    def _write_shards(self, blob: StoredBlob, shards: Mapping[Place, bytes]) -> None:
        more = sum(len(data) + ENTRY_BYTES for data in shards.values())
        self._require_room(blob.task, blob.bringer, more, len(shards))
        if shards:
            self._database.write(self._additions(blob.number, shards), sync=True)
        new = {place: len(data) for place, data in shards.items() if place not in blob.held}
        if blob.number in self._staged:
            blob.held.update(new)
        else:
            blob.held = {**blob.held, **new}
        self._use.count(blob.task, blob.bringer, sum(new.values()) + ENTRY_BYTES * len(new), shards=len(new))

    def _require_room(self, task: bytes, bringer: bytes, more: int, entries: int) -> None:
        try:
            self._use.require(task, bringer, more, entries)
        except LimitExceeded:
            self._counts["refused"] += 1
            raise

    def _change(self, cid: bytes, *, until: int | None = None, pinned: bool | None = None) -> None:
        with self._lock:
            blob = self._blobs.get(cid)
            if blob is None:
                raise KeyError(cid)
            before = blob.until, blob.pinned
            blob.until = blob.until if until is None else until
            blob.pinned = blob.pinned if pinned is None else pinned
            if before == (blob.until, blob.pinned):
                return
            try:
                # A term that a power failure takes back is renewed with the next census; a pin is the operator's word.
                self._database.write([self._record(blob)], sync=pinned is not None)
            except BaseException:
                blob.until, blob.pinned = before
                raise
            self._note_pin(blob)

    def _record(self, blob: StoredBlob) -> Change:
        value = {
            0: blob.task, 1: blob.cid, 2: blob.content, 3: blob.until, 4: blob.pinned, 5: blob.manifest_bytes,
            6: blob.bringer,
        }  # fmt: skip
        return self._blobs_table.change(_key(blob.number), cbor.encode(value, max_depth=1))

    def _additions(self, number: int, shards: Mapping[Place, bytes]) -> list[Change]:
        changes: list[Change] = []
        for place, data in shards.items():
            key = _key(number) + _place_key(place)
            changes += [self._held.change(key, len(data).to_bytes(4, "big")), self._shards.change(key, data)]
        return changes

    def _removal(self, blob: StoredBlob) -> list[Change]:
        name = _key(blob.number)
        changes = [self._blobs_table.change(name, None), self._manifests.change(name, None)]
        for place in blob.held:
            key = name + _place_key(place)
            changes += [self._held.change(key, None), self._shards.change(key, None)]
        return changes

    def _remember(self, blob: StoredBlob) -> None:
        self._blobs[blob.cid] = blob
        self._contents.setdefault(blob.content, set()).add(blob.cid)
        self._note_pin(blob)

    def _note_pin(self, blob: StoredBlob) -> None:
        if blob.pinned:
            self._pinned.add(blob.cid)
        else:
            self._pinned.discard(blob.cid)

    def _forget(self, blob: StoredBlob) -> None:
        self._use.count(blob.task, blob.bringer, -blob.bytes, shards=-len(blob.held), blobs=-1)
        if self._blobs.get(blob.cid) is not blob:
            return
        del self._blobs[blob.cid]
        self._pinned.discard(blob.cid)
        same = self._contents[blob.content]
        same.discard(blob.cid)
        if not same:
            del self._contents[blob.content]

    def _read(self) -> None:
        """Learn what is there, and remove what a blob that was never committed left behind."""
        by_number: dict[int, StoredBlob] = {}
        for key, value in self._blobs_table.scan():
            blob = self._decoded(key, value)
            by_number[blob.number] = blob
            self._remember(blob)
            self._use.count(blob.task, blob.bringer, ENTRY_BYTES + blob.manifest_bytes, blobs=1)
            self._next = max(self._next, blob.number)
        stray: list[bytes] = []
        for key, value in self._held.scan():
            if len(key) != _NUMBER_BYTES + _PLACE_BYTES or len(value) != 4:
                raise self._held.corrupt("a shard is noted in a way that nobody writes")
            number = int.from_bytes(key[:_NUMBER_BYTES], "big")
            self._next = max(self._next, number)
            found = by_number.get(number)
            if found is None:
                stray.append(key)
                continue
            place = (
                int.from_bytes(key[_NUMBER_BYTES : _NUMBER_BYTES + 4], "big"),
                int.from_bytes(key[-2:], "big"),
            )
            found.held[place] = int.from_bytes(value, "big")
            self._use.count(found.task, found.bringer, found.held[place] + ENTRY_BYTES, shards=1)
        for some in _chunks(stray, _REMOVED_AT_ONCE):
            self._database.write(
                change
                for key in some
                for change in (self._held.change(key, None), self._shards.change(key, None))
            )
        self._counts["left_behind"] += len(stray)
        for key, value in self._seeds_table.scan():
            if len(key) != TASK_BYTES + _NUMBER_BYTES or len(value) != SEED_BYTES:
                raise self._seeds_table.corrupt("a seed is noted in a way that nobody writes")
            number = int.from_bytes(key[TASK_BYTES:], "big")
            self._seeds.setdefault(key[:TASK_BYTES], {})[value] = number

    def _decoded(self, key: bytes, value: bytes) -> StoredBlob:
        try:
            fields = cbor.decode(value, max_bytes=_MOST_RECORD_BYTES, max_depth=1)
        except cbor.CborError as error:
            raise self._blobs_table.corrupt(f"a blob's record is not CBOR: {error}") from error
        match fields:
            case {
                0: bytes(task), 1: bytes(cid), 2: bytes(content), 3: int(until), 4: bool(pinned), 5: int(size),
                6: bytes(bringer),
            } if (
                len(key) == _NUMBER_BYTES and len(task) == TASK_BYTES and is_cid(cid) and is_cid(content)
                and len(bringer) in (0, _KEY_BYTES)
            ):  # fmt: skip
                return StoredBlob(
                    int.from_bytes(key, "big"), task, cid, content, until, pinned, size, bringer
                )
        raise self._blobs_table.corrupt("a blob's record has other fields than it must have")


def _key(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")


def _place_key(place: Place) -> bytes:
    return place[0].to_bytes(4, "big") + place[1].to_bytes(2, "big")


def _chunks(keys: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _damaged(path: Path, why: str) -> StorageCorrupt:
    return StorageCorrupt(
        "The task data of this node cannot be read.",
        why,
        f"Move the folder {path} away and start again: other nodes make lost shards anew; what only this node had is "
        "in the folder still.",
    )
