"""Who is connected, who misbehaved, and who is banned for a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from koii_p2p.limits import Limits

REMEMBERED = 4096
SETTLED_SECONDS = 60.0
"""After so long a peer had time to find others."""


@dataclass(slots=True)
class Link:
    """A connected peer."""

    key: bytes
    since: float
    """`trio.current_time()` of its first connection."""
    outgoing: bool
    connections: int
    deaf_since: float | None = None
    """Since when it has no gossip stream."""


@dataclass(slots=True)
class _Record:
    rejects: int
    last: float
    banned_until: float = 0.0
    bans: int = 0


class PeerTable:
    """Links by key, and a bounded memory of misbehaviour that outlives them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.links: dict[bytes, Link] = {}
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self.bans = 0

    def update(self, key: bytes, connections: int, *, outgoing: bool, now: float) -> bool:
        """Note how many connections a peer has now, at least one; return whether it had none before.

        The number is read from the swarm, not counted by events: those may come late, twice or never.
        """
        link = self.links.get(key)
        if link is None:
            self.links[key] = Link(key, now, outgoing, connections, deaf_since=now)
            return True
        link.connections = connections
        return False

    def lost(self, key: bytes) -> bool:
        """Note that a peer has no connection; return whether it had one before."""
        return self.links.pop(key, None) is not None

    def to_make_room(self, excess: int, target: int, now: float) -> list[bytes]:
        """Return up to `excess` peers to let go, of those that had time to find others.

        First those we dialled beyond `target`, the newest first: whoever has us dial many must not fill our places.
        Then those that dialled us, the oldest first.
        """
        by_age = sorted(self.links.values(), key=lambda link: link.since)
        settled = [link for link in by_age if now - link.since > SETTLED_SECONDS]
        kept = [link.key for link in by_age if link.outgoing][:target]
        surplus = [link.key for link in reversed(settled) if link.outgoing and link.key not in kept]
        inbound = [link.key for link in settled if not link.outgoing]
        return [*surplus, *inbound][: max(0, excess)]

    def misbehaved(self, key: bytes, now: float) -> bool:
        """Count one thing nobody honest does; return whether the peer is banned because of it."""
        record = self._records.get(key)
        if record is None or now - record.last > self._limits.misbehaviour_memory:
            record = _Record(0, now)
        record.rejects += 1
        record.last = now
        self._remember(key, record)
        if record.rejects >= self._limits.rejects_before_disconnect and record.banned_until <= now:
            self.ban(key, now)
            return True
        return False

    def ban(self, key: bytes, now: float) -> None:
        """Let a peer not connect for `Limits.ban_seconds`."""
        bans = self.bans_of(key) + 1
        self._remember(key, _Record(0, now, now + self._limits.ban_seconds, bans))
        self.bans += 1

    def _remember(self, key: bytes, record: _Record) -> None:
        self._records.pop(key, None)
        self._records[key] = record
        while len(self._records) > REMEMBERED:
            self._records.popitem(last=False)

    def rejects(self, key: bytes) -> int:
        """Return how often a peer misbehaved since it was last banned or forgotten."""
        record = self._records.get(key)
        return 0 if record is None else record.rejects

    def bans_of(self, key: bytes) -> int:
        """Return how often a peer was banned, as far as it is remembered."""
        record = self._records.get(key)
        return 0 if record is None else record.bans

    def banned(self, key: bytes, now: float) -> bool:
        """Say whether a peer may not connect now."""
        record = self._records.get(key)
        return record is not None and record.banned_until > now

    def banned_count(self, now: float) -> int:
        """Return how many peers are banned now."""
        return sum(record.banned_until > now for record in self._records.values())
