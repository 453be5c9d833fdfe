"""What peers advertised and we asked them for (v1.1, "Spam Protection Measures")."""

from __future__ import annotations

from koii_p2p.gossip.random_source import RandomSource


class Promises:
    """For each IWANT one id by chance, which has to come from anybody in time."""

    def __init__(self, most: int, lifetime: int) -> None:
        self._most = most
        self._lifetime = lifetime
        #: id -> peer -> when it is broken. In order of time, as all have the same.
        self._open: dict[bytes, dict[bytes, int]] = {}
        self._count = 0
        self.forgotten_early = 0

    def __len__(self) -> int:
        return self._count

    def add(self, peer: bytes, ids: list[bytes], now: int, random: RandomSource) -> None:
        """Watch one of the ids that a peer was asked for. An older promise of the same id by the same peer stays."""
        message_id = ids[random.randrange(len(ids))]
        peers = self._open.setdefault(message_id, {})
        if peer in peers:
            return
        peers[peer] = now + self._lifetime
        self._count += 1
        while self._count > self._most:
            oldest = next(iter(self._open))
            self._count -= len(self._open[oldest])
            self.forgotten_early += len(self._open.pop(oldest))

    def keep(self, message_id: bytes) -> None:
        """A message has come: whoever promised it is free."""
        if self._open and (peers := self._open.pop(message_id, None)):
            self._count -= len(peers)

    def broken(self, now: int) -> dict[bytes, int]:
        """Take out the promises whose time is over, and return how many each peer broke."""
        counts: dict[bytes, int] = {}
        for message_id in list(self._open):
            peers = self._open[message_id]
            for peer in [peer for peer, until in peers.items() if until <= now]:
                del peers[peer]
                self._count -= 1
                counts[peer] = counts.get(peer, 0) + 1
            if not peers:
                del self._open[message_id]
        return counts

    def forget(self, peer: bytes) -> None:
        """A peer has left: what it promised is not held against it."""
        for message_id in list(self._open):
            if self._open[message_id].pop(peer, None) is not None:
                self._count -= 1
                if not self._open[message_id]:
                    del self._open[message_id]
