"""Every accepted record, by task and round, with the slot at which this node received it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from koii_p2p.records.envelope import Verified
from koii_p2p.storage.database import Database
from koii_p2p.storage.round_key import ROUND_KEY_BYTES, keys_before, round_key, rounds_of

_SLOT_BYTES = 8


class LoggedRecord(NamedTuple):
    """A record's bytes and the K2 slot at which they were received."""

    raw: bytes
    slot_received: int


@dataclass(frozen=True, slots=True)
class RecordLogStatistics:
    """Counts since the log was opened."""

    stored: int
    repeated: int
    forgotten: int


class RecordLog:
    """Records on disk. `put` returns once they survive the end of the process.

    They are not synced one by one: what a power failure takes is fetched again from peers, and what this node
    said itself is in the signing journal. Every method raises `StorageError`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records = database.prefixed(b"records/")  # task, round, id -> slot, raw
        self._places = database.prefixed(b"record-places/")  # id -> task, round
        self._stored = self._repeated = self._forgotten = 0

    def put(self, record: Verified, slot_received: int) -> bool:
        """Store a record; return False if it was there, and then its first slot stays."""
        if self._places.get(record.id) is not None:
            self._repeated += 1
            return False
        place = round_key(record.statement.task, record.round)
        value = slot_received.to_bytes(_SLOT_BYTES, "big") + record.raw
        self._database.write(
            [self._records.change(place + record.id, value), self._places.change(record.id, place)]
        )
        self._stored += 1
        return True

    def get(self, record_id: bytes) -> LoggedRecord | None:
        """Return a record by its id, or None."""
        place = self._places.get(record_id)
        if place is None:
            return None
        value = self._records.get(place + record_id)
        if value is None:
            raise self._records.corrupt(f"record {record_id.hex()} is listed, but not there")
        return self._logged(value)

    def of_round(self, task: bytes, round: int) -> list[LoggedRecord]:
        """Return the records of a round in ascending order of their ids."""
        return [self._logged(value) for _, value in self._records.scan(round_key(task, round))]

    def ids_of_round(self, task: bytes, round: int) -> list[bytes]:
        """Return the ids of the records of a round, ascending."""
        keys = self._records.scan(round_key(task, round), values=False)
        return [key[ROUND_KEY_BYTES:] for key, _ in keys]

    def rounds(self, task: bytes) -> list[int]:
        """Return the rounds of a task that have records, ascending."""
        return list(rounds_of(self._records, task))

    def forget_before(self, task: bytes, round: int) -> int:
        """Remove the records of a task's rounds before `round`; return how many."""
        count = 0
        for keys in keys_before(self._records, task, round):
            records = [self._records.change(key, None) for key in keys]
            places = [self._places.change(key[ROUND_KEY_BYTES:], None) for key in keys]
            self._database.write(records + places)
            count += len(keys)
        self._forgotten += count
        return count

    def statistics(self) -> RecordLogStatistics:
        """Return the counts since the log was opened."""
        return RecordLogStatistics(self._stored, self._repeated, self._forgotten)

    def _logged(self, value: bytes) -> LoggedRecord:
        if len(value) <= _SLOT_BYTES:
            raise self._records.corrupt("a record without content")
        return LoggedRecord(value[_SLOT_BYTES:], int.from_bytes(value[:_SLOT_BYTES], "big"))
