"""The routing table: peers that answer for others, near ones all and far ones few, and not too many of one network.

Source: Maymounkov and Mazieres, Kademlia, sections 2.2 and 4.1; the address groups are go-libp2p-kbucket's
`peerdiversity`. A bucket holds peers by how many leading bits they share with us.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from koii_p2p.kademlia.keyspace import closest, common_bits, place
from koii_p2p.kademlia.parameters import KademliaParameters
from koii_p2p.kademlia.refusals import Refusal


@dataclass(slots=True)
class Entry:
    """A peer of the table; `group` is what peers behind one network share, None where many share one rightly."""

    peer: bytes
    group: bytes | str | None
    seen: int
    """When it last answered."""
    failures: int = 0
    """How often in a row it has not."""


class Bucket:
    """Peers at one distance: those of the table, and those that wait for a place, each the longest known first."""

    __slots__ = ("entries", "looked_up", "waiting")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.waiting: dict[bytes, Entry] = {}
        self.looked_up = -1
        """When something in it was last looked up; negative: never."""


class RoutingTable:
    """The table of the node with the peer id `own`. Only peers that are known to serve the DHT belong into it."""

    def __init__(self, own: bytes, parameters: KademliaParameters, refused: Counter[Refusal]) -> None:
        self._own = own
        self._place = place(own)
        self._size = parameters.bucket_size
        self._failures = parameters.failures
        self._bounds = parameters.bounds
        self._refused = refused
        self._buckets: dict[int, Bucket] = {}
        self._groups: Counter[bytes | str] = Counter()

    def __len__(self) -> int:
        return sum(len(bucket.entries) for bucket in self._buckets.values())

    def __contains__(self, peer: object) -> bool:
        return isinstance(peer, bytes) and peer in self._bucket(peer).entries

    def __iter__(self) -> Iterator[bytes]:
        return iter([peer for bucket in self._buckets.values() for peer in bucket.entries])

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(len(bucket.waiting) for bucket in self._buckets.values())

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return (common leading bits, peers) of each bucket that has any, the farthest first."""
        return tuple(
            (number, len(bucket.entries))
            for number, bucket in sorted(self._buckets.items())
            if bucket.entries
        )

    def answered(self, peer: bytes, group: bytes | str | None, now: int) -> bool:
        """Note that a peer has served us; return whether it is in the table now."""
        if peer == self._own:
            self._refused[Refusal.OWN_ID] += 1
            return False
        bucket = self._bucket(peer)
        entry = bucket.entries.pop(peer, None)
        if entry is not None:
            entry.seen, entry.failures = now, 0
            bucket.entries[peer] = entry  # the longest unseen stands first
            return True
        entry = Entry(peer, group, now)
        if not self._diverse(bucket, group):
            self._refused[Refusal.ADDRESS_GROUP] += 1
            return False
        if len(bucket.entries) < self._size:
            self._place_in(bucket, entry)
            return True
        failing = next((one for one in bucket.entries.values() if one.failures), None)
        if failing is not None:
            self._take_out(bucket, failing)
            self._place_in(bucket, entry)
            return True
        # Who is there and answers stays: old nodes live longer, and newcomers cannot push them out.
        bucket.waiting.pop(peer, None)
        bucket.waiting[peer] = entry
        if len(bucket.waiting) > self._bounds.replacements:
            del bucket.waiting[next(iter(bucket.waiting))]
        return False

    def failed(self, peer: bytes) -> None:
        """Note that a peer did not answer, or could not be reached."""
        bucket = self._bucket(peer)
        bucket.waiting.pop(peer, None)
        entry = bucket.entries.get(peer)
        if entry is None:
            return
        entry.failures += 1
        if entry.failures >= self._failures or bucket.waiting:
            self._take_out(bucket, entry)
            self._fill(bucket)

    def remove(self, peer: bytes) -> None:
        """Take out a peer that does not serve the DHT (any more)."""
        bucket = self._bucket(peer)
        bucket.waiting.pop(peer, None)
        entry = bucket.entries.get(peer)
        if entry is not None:
            self._take_out(bucket, entry)
            self._fill(bucket)

    def closest(self, target: int, count: int, *, without: bytes = b"") -> list[bytes]:
        """Return the `count` peers nearest to a place, the nearest first, without one of them."""
        return closest((peer for peer in self if peer != without), target, count)

    def looked_up(self, target: int, now: int) -> None:
        """Note that a place was looked up, which brings its bucket up to date."""
        number = common_bits(self._place, target)
        self._buckets.setdefault(number, Bucket()).looked_up = now

    def stale(self, now: int, refresh: int) -> list[int]:
        """Return the buckets in which nothing was looked up for `refresh` milliseconds, the farthest first.

        Buckets nearer than the nearest peer are empty for everybody and are not among them.
        """
        used = [number for number, bucket in self._buckets.items() if bucket.entries]
        return [
            number
            for number in range(max(used, default=-1) + 1)
            if (found := self._buckets.get(number)) is None
            or found.looked_up < 0
            or now - found.looked_up >= refresh
        ]

    def _bucket(self, peer: bytes) -> Bucket:
        number = common_bits(self._place, place(peer))
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = Bucket()
        return bucket

    def _diverse(self, bucket: Bucket, group: bytes | str | None) -> bool:
        if group is None:
            return True
        in_bucket = sum(entry.group == group for entry in bucket.entries.values())
        return in_bucket < self._bounds.group_per_bucket and self._groups[group] < self._bounds.group_in_table

    def _place_in(self, bucket: Bucket, entry: Entry) -> None:
        bucket.waiting.pop(entry.peer, None)
        bucket.entries[entry.peer] = entry
        if entry.group is not None:
            self._groups[entry.group] += 1

    def _take_out(self, bucket: Bucket, entry: Entry) -> None:
        del bucket.entries[entry.peer]
        if entry.group is not None:
            self._groups[entry.group] -= 1
            if not self._groups[entry.group]:
                del self._groups[entry.group]

    def _fill(self, bucket: Bucket) -> None:
        """Give a free place to the newest of those that wait and whose address group has room."""
        for entry in reversed(list(bucket.waiting.values())):
            if len(bucket.entries) >= self._size:
                break
            if self._diverse(bucket, entry.group):
                self._place_in(bucket, entry)
