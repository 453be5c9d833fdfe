"""Ids remembered for a time."""

from __future__ import annotations


class Seen:
    """Ids and a note to each, for a fixed time and up to a number; the oldest is forgotten first."""

    def __init__(self, most: int, lifetime: int) -> None:
        self._most = most
        self._lifetime = lifetime
        #: id -> (when to forget it, note). Looked up by the router for every message and every advertised id.
        self.entries: dict[bytes, tuple[int, bytes]] = {}
        self.forgotten_early = 0

    def __len__(self) -> int:
        return len(self.entries)

    def note(self, message_id: bytes) -> bytes | None:
        """Return the note left with an id; None for an id that is not known."""
        entry = self.entries.get(message_id)
        return None if entry is None else entry[1]

    def add(self, message_id: bytes, now: int, note: bytes = b"") -> None:
        """Remember an id from now on."""
        self.entries.pop(message_id, None)
        self.entries[message_id] = (now + self._lifetime, note)
        if len(self.entries) > self._most:
            del self.entries[next(iter(self.entries))]
            self.forgotten_early += 1

    def expire(self, now: int) -> None:
        """Forget what is too old. Costs as much as there is to forget."""
        entries = self.entries
        while entries:
            oldest = next(iter(entries))
            if entries[oldest][0] > now:
                return
            del entries[oldest]
