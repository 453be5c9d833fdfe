"""What one call of the router writes to each peer, put together into as few frames as it fits into."""

from __future__ import annotations

from collections import Counter

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Effect, Send
from koii_p2p.gossip.message_cache import Entry
from koii_p2p.gossip.refusals import Refusal

OVERHEAD = 16
"""Bytes of tags and lengths around the parts of an RPC, at most."""


class Outbox:
    """The effects of one call. Control for a peer is in one frame, messages in another, for these may wait longer."""

    __slots__ = ("_most", "_refused", "_written", "effects")

    def __init__(self, most: int, refused: Counter[Refusal]) -> None:
        """`most` is the size of an RPC; parts over it are left out and counted."""
        self._most = most - OVERHEAD
        self._refused = refused
        #: peer -> (encoded subscriptions, encoded control entries).
        self._written: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
        self.effects: list[Effect] = []

    def subscription(self, peer: bytes, encoded: bytes) -> None:
        """Announce a subscription to a peer."""
        self._written.setdefault(peer, ([], []))[0].append(encoded)

    def control(self, peer: bytes, entry: bytes) -> None:
        """Write a control entry to a peer."""
        self._written.setdefault(peer, ([], []))[1].append(entry)

    def messages(self, peer: bytes, entries: list[Entry], *, own: bool = False) -> None:
        """Write messages to a peer; `own` ones must not be left unsent."""
        parts = [entry.part for entry in entries]
        for batch in self._batches(parts):
            ids = () if own else tuple(entries[index].message_id for index in batch)
            rpc = b"".join([parts[index] for index in batch])
            self.effects.append(Send(peer, wire.frame(rpc), message_ids=ids))

    def flush(self) -> list[Effect]:
        """Return all effects, control after everything else."""
        for peer, (subscriptions, entries) in self._written.items():
            parts = subscriptions + entries
            for batch in self._batches(parts):
                announced = [parts[index] for index in batch if index < len(subscriptions)]
                control = [parts[index] for index in batch if index >= len(subscriptions)]
                if control:
                    announced.append(wire.control_part(b"".join(control)))
                self.effects.append(Send(peer, wire.frame(b"".join(announced)), urgent=True))
        return self.effects

    def _batches(self, parts: list[bytes]) -> list[list[int]]:
        """Group the parts, by index and in order, so that each group fits into an RPC."""
        batches: list[list[int]] = []
        room = 0
        for index, part in enumerate(parts):
            if len(part) > self._most:
                self._refused[Refusal.TOO_LARGE_TO_SEND] += 1
                continue
            if len(part) > room:
                batches.append([])
                room = self._most
            batches[-1].append(index)
            room -= len(part)
        return batches
