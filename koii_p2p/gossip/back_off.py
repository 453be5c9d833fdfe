"""Who must not be grafted for how long (v1.1, "PRUNE Backoff and Peer Exchange")."""

from __future__ import annotations


class BackOffs:
    """Back-offs by topic and peer. They outlive the peer's connection: to come back is no way around them."""

    def __init__(self, most: int, slack: int) -> None:
        """`slack` is how much longer we wait than we must, for the other side's heartbeat may be later than ours."""
        self._most = most
        self._slack = slack
        #: (topic, peer) -> (when it ends, when it began).
        self._entries: dict[tuple[str, bytes], tuple[int, int]] = {}
        self.forgotten_early = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, topic: str, peer: bytes, duration: int, now: int) -> None:
        """Begin a back-off, or begin it anew; one that would end later stays."""
        key = topic, peer
        ends = now + duration
        if known := self._entries.pop(key, None):
            ends = max(ends, known[0])
        self._entries[key] = ends, now
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]
            self.forgotten_early += 1

    def began(self, topic: str, peer: bytes, now: int) -> int | None:
        """Return when the back-off that holds now began; None if there is none."""
        entry = self._entries.get((topic, peer))
        return entry[1] if entry is not None and now < entry[0] else None

    def keeps_from_grafting(self, topic: str, peer: bytes, now: int) -> bool:
        """Say whether we must not graft a peer ourselves yet."""
        entry = self._entries.get((topic, peer))
        return entry is not None and now < entry[0] + self._slack

    def expire(self, now: int) -> None:
        """Forget what is over. Looks at all, so it is not for every heartbeat."""
        over = [key for key, (ends, _) in self._entries.items() if ends + self._slack <= now]
        for key in over:
            del self._entries[key]
