"""What a node's key says in one task: journalled, then signed; and what it is found to have said elsewhere.

A home may be an older copy of itself, and a copy of it may run somewhere else. Either way the key speaks with words
that this journal lacks, and what contradicts them costs the stake. So a node listens for its own key.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.payload import payload_bytes
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Kind, Statement
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.storage.journal import AlreadySigned, Owner, SigningJournal, SpokenElsewhere

log = structlog.get_logger(__name__)

EARLY_SLOTS = Limits().early_slots


class OwnWords:
    """The words of one key in one task. Every method raises `StorageError`, of which `SpokenElsewhere` is one."""

    def __init__(self, genesis: bytes, secret: SecretKey, journal: SigningJournal) -> None:
        self._genesis = genesis
        self._secret = secret
        self._journal = journal
        self._since: int | None = None
        self._period = 0
        self._ahead = 0
        self._presence = b""
        self._elsewhere: SpokenElsewhere | None = None

    def begin(self, slot: int, period: int, ahead: int) -> None:
        """Note when this node began to run (slot and period); only the first time counts.

        `ahead` is by how many slots an estimate may run ahead of a K2 that stands still: what an earlier run of this
        node said about itself may be so far in the future.
        """
        if self._since is None:
            self._since, self._period, self._ahead = slot, period, ahead

    def sign(self, statement: Statement) -> Verified:
        """Sign a statement, or else what was signed for its place before. Raises `BelowFloor`."""
        if self._elsewhere is not None:
            raise self._elsewhere
        journal = self._journal
        try:
            record = journal.sign(statement, self._genesis, self._secret)
        except AlreadySigned as refused:
            # What was promised once is said again to the letter: never a second, different record.
            place = refused.place
            earlier = journal.statement_of(place.task, place.round, place.kind, attempt=place.attempt)
            if earlier is None:
                raise
            return journal.sign(earlier, self._genesis, self._secret)
        if record.kind is Kind.PRESENCE:
            self._presence = record.id
        return record

    def hear(self, record: Verified) -> None:
        """Take in what may be a record of our key. What the journal lacks is entered: then it is not the newest.

        That raises the task's floor to the newest round in which anything could be said before this node ran, so
        that nothing contradicts what else may be missing.

        Raises `SpokenElsewhere` if the key said it since this node runs, or if the journal holds something else for
        its place, in a round above the floor.
        """
        if record.author != self._secret.public_key:
            return
        place = place_of(record.statement)
        if place is None:
            if record.kind is Kind.PRESENCE and record.id != self._presence:
                self._refuse_later(record, self._ahead)
            return
        held = self._journal.payload_of(place.task, place.round, place.kind, attempt=place.attempt)
        payload = payload_bytes(record.statement)
        if held == payload:
            return
        self._refuse_later(record, EARLY_SLOTS)
        if held is None:
            self._enter(place, payload)
        elif not self._below_floor(place):
            raise self._found(record)

    def catch_up(self, engine: RoundEngine, numbers: Iterable[int]) -> None:
        """Hear all of ours that the engine has of these rounds, what still waits to be admitted as well.

        That is ours by its signature, whatever else is unknown yet.
        """
        own = self._secret.public_key
        for number in numbers:
            state = engine.round(number)
            if state is None:
                continue
            for (_place, author), held in list(state.held.items()):
                if author == own:
                    self.hear(held)
            for parked in list(state.parked.values()):
                if own in parked.raw:
                    try:
                        record = verify(decode_record(parked.raw), self._genesis)
                    except RecordError:
                        continue
                    self.hear(record)

    def refuse_doubles(self, engine: RoundEngine) -> None:
        """Raise `SpokenElsewhere` if two different records of our key are known for one place above the floor.

        Up to the floor nothing new is said, and who set it knows why.
        """
        for number in engine.rounds():
            state = engine.round(number)
            for (place, author), second in state.equivocations.items() if state is not None else ():
                if author == self._secret.public_key:
                    self._refuse_later(second, EARLY_SLOTS)
                    if not self._below_floor(place):
                        raise self._found(second)

    def _enter(self, place: Place, payload: bytes) -> None:
        owner, journal = Owner(self._genesis, self._secret.public_key), self._journal
        # Work of the round of this period is handed in after it ends: all before may have been spoken about.
        merged = journal.merge(owner, {place: payload}, {place.task: max(self._period - 1, 0)})
        log.warning(
            "the signing journal lacked what this key has said: this home is an older copy",
            round=place.round,
            kind=place.kind.name,
            floor=merged.floors[place.task],
        )

    def _refuse_later(self, record: Verified, ahead: int) -> None:
        if self._since is not None and record.statement.slot > self._since + ahead:
            raise self._found(record, self._since)

    def _found(self, record: Verified, since: int | None = None) -> SpokenElsewhere:
        """The error for a record that we did not sign. From then on nothing is signed at all."""
        self._elsewhere = SpokenElsewhere(record.statement, record.author, since)
        return self._elsewhere

    def _below_floor(self, place: Place) -> bool:
        floor = self._journal.floor_of(place.task)
        return floor is not None and place.round <= floor
