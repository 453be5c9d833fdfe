"""The signing journal: what this node signs, made durable before, so that it never says two things.

A node that ends between the journal and the sending signs the same bytes again when it is back; it never
signs other bytes for a place that is taken. Entries are kept for ever: they are small, and forgetting one is
what could cost the stake.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from koii_p2p.errors import CheckFailed
from koii_p2p.records.envelope import Signer, Verified, sign
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.payload import decode_payload, payload_bytes
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Kind, Statement
from koii_p2p.storage.database import Database
from koii_p2p.storage.round_key import round_key


class AlreadySigned(CheckFailed):
    """Another statement was signed for this place; signing a second one would be an equivocation."""

    def __init__(self, place: Place) -> None:
        super().__init__(
            f"A second {place.kind.name.lower().replace('_', ' ')} of round {place.round} was not signed.",
            "The signing journal holds a different one, and two are punished as an equivocation.",
            "Nothing needs to be done; the first one counts.",
        )
        self.place = place


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Counts since the journal was opened."""

    reserved: int
    repeated: int
    refused: int


class SigningJournal:
    """Places where this identity has spoken, each with the one payload it may sign there.

    Every method raises `StorageError`; if `reserve` raises anything, nothing may be signed.
    """

    def __init__(self, database: Database) -> None:
        self._table = database.prefixed(b"journal/")  # task, round, kind, attempt -> payload
        self._lock = threading.Lock()
        self._reserved = self._repeated = self._refused = 0

    def reserve(self, task: bytes, round: int, kind: Kind, payload: bytes, *, attempt: int = 0) -> None:
        """Take a place for a payload, durably: when this returns, it survives a power failure.

        The same payload again is accepted. Raises `AlreadySigned` for a different one, for ever.
        """
        place = Place(task, round, kind, attempt)
        key = _key(place)
        with self._lock:
            held = self._table.get(key)
            if held is None:
                self._table.put(key, payload, sync=True)
                self._reserved += 1
            elif held == payload:
                self._repeated += 1
            else:
                self._refused += 1
                raise AlreadySigned(place)

    def payload_of(self, task: bytes, round: int, kind: Kind, *, attempt: int = 0) -> bytes | None:
        """Return the payload that holds a place, or None if the place is free."""
        return self._table.get(_key(Place(task, round, kind, attempt)))

    def statement_of(self, task: bytes, round: int, kind: Kind, *, attempt: int = 0) -> Statement | None:
        """Return the statement that holds a place, to be signed again after a restart, or None."""
        payload = self.payload_of(task, round, kind, attempt=attempt)
        if payload is None:
            return None
        try:
            return decode_payload(payload)
        except RecordError as error:
            raise self._table.corrupt(f"journal entry of round {round}: {error}") from error

    def sign(self, statement: Statement, genesis: bytes, signer: Signer) -> Verified:
        """Reserve the place of a statement, if its kind has one, and only then sign it.

        Raises `AlreadySigned` if another statement holds the place, `RecordError` as `records.sign` does.
        """
        place = place_of(statement)
        if place is not None:
            payload = payload_bytes(statement)
            self.reserve(place.task, place.round, place.kind, payload, attempt=place.attempt)
        return sign(statement, genesis, signer)

    def statistics(self) -> JournalStatistics:
        """Return the counts since the journal was opened."""
        return JournalStatistics(self._reserved, self._repeated, self._refused)


def _key(place: Place) -> bytes:
    return round_key(place.task, place.round) + bytes((place.kind,)) + place.attempt.to_bytes(8, "big")
