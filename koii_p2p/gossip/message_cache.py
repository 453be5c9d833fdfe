"""The messages of the last heartbeats, in windows (v1.0, "Message Cache"), and those that wait for a verdict."""

from __future__ import annotations

from collections import deque

from koii_p2p.gossip.wire import Message


class Entry:
    """One message as it travels, who sent it to us, and who asked for it. Its payload is held once, in `part`."""

    __slots__ = (
        "accepted_at",
        "asked",
        "author",
        "first",
        "message_id",
        "part",
        "payload_bytes",
        "peers",
        "received_at",
        "topic",
    )

    def __init__(self, message_id: bytes, message: Message, part: bytes, first: bytes, now: int) -> None:
        self.message_id = message_id
        self.topic = message.topic
        self.author = message.author
        self.payload_bytes = len(message.data)
        #: The message as a field of an RPC. An RPC of nothing else has these very bytes.
        self.part = part
        #: Who sent it first; empty for an own message.
        self.first = first
        #: Everybody who sent it, in order.
        self.peers: dict[bytes, None] = {first: None} if first else {}
        self.received_at = now
        self.accepted_at = now
        #: How often each peer got it in answer to IWANT.
        self.asked: dict[bytes, int] = {}

    @property
    def size(self) -> int:
        """Bytes it takes up."""
        return len(self.part)


class MessageCache:
    """Accepted messages by id and by their bytes, in one window per heartbeat."""

    def __init__(self, windows: int, gossip_windows: int, most: int, most_bytes: int) -> None:
        self._windows: deque[dict[bytes, Entry]] = deque([{}])
        self._history = windows
        self._gossip = gossip_windows
        self._most = most
        self._most_bytes = most_bytes
        self._by_id: dict[bytes, Entry] = {}
        #: Messages by their `Entry.part`. Most of what arrives is a copy, which is recognised here without decoding it.
        self.by_part: dict[bytes, Entry] = {}
        self.size = 0
        self.dropped_early = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, message_id: bytes) -> Entry | None:
        """Return a message that is still cached."""
        return self._by_id.get(message_id)

    def put(self, entry: Entry) -> None:
        """Add a message to the newest window, and drop the oldest ones if there are too many now."""
        if entry.message_id in self._by_id:
            return
        self._windows[-1][entry.message_id] = entry
        self._by_id[entry.message_id] = entry
        self.by_part[entry.part] = entry
        self.size += entry.size
        while len(self._by_id) > self._most or self.size > self._most_bytes:
            oldest = next(window for window in self._windows if window)
            self._drop(oldest.pop(next(iter(oldest))))
            self.dropped_early += 1

    def gossip_ids(self) -> dict[str, list[bytes]]:
        """Return the ids of the newest windows by topic, oldest first."""
        ids: dict[str, list[bytes]] = {}
        for window in list(self._windows)[-self._gossip :]:
            for entry in window.values():
                ids.setdefault(entry.topic, []).append(entry.message_id)
        return ids

    def shift(self) -> None:
        """Begin a new window, and drop the messages of the one that is too old."""
        self._windows.append({})
        if len(self._windows) > self._history:
            for entry in self._windows.popleft().values():
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        del self._by_id[entry.message_id]
        del self.by_part[entry.part]
        self.size -= entry.size


class Pending:
    """Messages that wait for a verdict: bounded in number, in bytes and per peer, and in time."""

    def __init__(self, most: int, most_bytes: int, per_peer: int, lifetime: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._per_peer = per_peer
        self._lifetime = lifetime
        self._entries: dict[bytes, Entry] = {}
        self._peers: dict[bytes, int] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, message_id: bytes) -> Entry | None:
        """Return a message that waits."""
        return self._entries.get(message_id)

    def has_room(self, size: int) -> bool:
        """Say whether a message of `size` bytes may wait."""
        return len(self._entries) < self._most and self.size + size <= self._most_bytes

    def has_room_for(self, peer: bytes) -> bool:
        """Say whether one more message of a peer may wait."""
        return self._peers.get(peer, 0) < self._per_peer

    def put(self, entry: Entry) -> None:
        """Let a message wait."""
        self._entries[entry.message_id] = entry
        self._peers[entry.first] = self._peers.get(entry.first, 0) + 1
        self.size += entry.size

    def pop(self, message_id: bytes) -> Entry | None:
        """Take out a message whose verdict has come; None if it does not wait."""
        entry = self._entries.pop(message_id, None)
        if entry is not None:
            self.size -= entry.size
            left = self._peers[entry.first] - 1
            if left:
                self._peers[entry.first] = left
            else:
                del self._peers[entry.first]
        return entry

    def expired(self, now: int) -> list[Entry]:
        """Take out and return the messages that have waited too long."""
        late = []
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.received_at + self._lifetime > now:
                break
            late.append(entry)
            self.pop(entry.message_id)
        return late
