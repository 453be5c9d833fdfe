"""The signing journal: what this node signs, made durable before, so that it never says two things.

A node that ends between the journal and the sending signs the same bytes again when it is back; it never
signs other bytes for a place that is taken. Entries are kept for ever: they are small, and forgetting one is
what could cost the stake.

A journal that came from elsewhere, or from the past, may lack entries. So each task may have a floor: in its
round and all earlier ones, a place without an entry counts as taken by words that are not known. This is the
low watermark that EIP-3076 recommends, at the newest imported round, where the EIP's minimal databases have it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import base58

from koii_p2p.errors import CheckFailed
from koii_p2p.records.envelope import GENESIS_BYTES, Signer, Verified, sign
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.keys import PUBLIC_KEY_BYTES
from koii_p2p.records.payload import decode_payload, payload_bytes
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Kind, Statement
from koii_p2p.storage.database import Change, Database
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.round_key import ROUND_KEY_BYTES, TASK_BYTES, round_key, rounds_of

_ROUND_BYTES: Final = 8
_KEY_BYTES: Final = ROUND_KEY_BYTES + 1 + 8
_KINDS: Final = {kind.value: kind for kind in Kind}
_CONFLICTS_NAMED: Final = 5


class Owner(NamedTuple):
    """Whose words a journal holds: K2's genesis hash and the identity's public key, 32 bytes each."""

    genesis: bytes
    key: bytes


class AlreadySigned(CheckFailed):
    """Another statement was signed for this place; signing a second one would be an equivocation."""

    def __init__(self, place: Place) -> None:
        super().__init__(
            f"A second {_words(place.kind)} of round {place.round} was not signed.",
            "The signing journal holds a different one, and two are punished as an equivocation.",
            "Nothing needs to be done; the first one counts.",
        )
        self.place = place


class BelowFloor(CheckFailed):
    """The place is free in the journal, but in a round of which the journal may not know everything."""

    def __init__(self, place: Place, floor: int) -> None:
        super().__init__(
            f"The {_words(place.kind)} of round {place.round} was not signed.",
            f"What this key said up to round {floor} is not all in the signing journal, which was imported or "
            "given a floor, and a second, different statement is punished as an equivocation.",
            f"Nothing needs to be done; from round {floor + 1} on this node takes part again.",
        )
        self.place = place
        self.floor = floor


class JournalConflict(CheckFailed):
    """What is to be merged says something else for places that are taken; nothing was merged."""

    def __init__(self, places: tuple[Place, ...]) -> None:
        named = ", ".join(_described(place) for place in places[:_CONFLICTS_NAMED])
        more = len(places) - _CONFLICTS_NAMED
        super().__init__(
            f"The journals contradict each other in {len(places)} {'place' if len(places) == 1 else 'places'}.",
            f"They hold different statements for {named}{f' and {more} more' if more > 0 else ''}: "
            "this key has spoken twice, or one journal is not its own. Nothing was imported.",
            "Find out which is right. Until then, keep the key from signing for those rounds with "
            "`koii-p2p journal floor`.",
        )
        self.places = places


class OtherIdentity(StorageError):
    """The journal belongs to another identity or another chain."""

    def __init__(self, held: Owner, wanted: Owner) -> None:
        what, of = ("key", 1) if held.key != wanted.key else ("chain", 0)
        super().__init__(
            f"The signing journal is that of another {what}.",
            f"It was kept for {_text(held[of])}, and this is {_text(wanted[of])}.",
            "Give each identity a home of its own (--home).",
        )


class SpokenElsewhere(StorageError):
    """This key is used elsewhere: another node runs with it, or ran while this home was an older copy."""

    def __init__(self, said: Statement, key: bytes, since: int | None = None) -> None:
        """`said` is what this node did not say; `since` the slot it has run from, if that was said after it."""
        named = f"{_words(said.kind)} of round {said.round}"
        remedy = (
            "Stop the other node. Then set a floor with `koii-p2p journal floor`, and start this one again."
        )
        if since is None:
            super().__init__(
                f"This node's key has signed another {named}.",
                f"A second node runs with the key {_text(key)}, or ran while this home was elsewhere; going on "
                "would only make more evidence against it.",
                remedy,
            )
        else:
            super().__init__(
                "Another node runs with this node's key.",
                f"With the key {_text(key)} a {named} was signed at slot {said.slot}, and not by this node, which "
                f"runs since slot {since}; two that go on would contradict each other, and lose the stake.",
                remedy,
            )
        self.said = said


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: entries that were new and that were there; the floor of each task it named, as it is now."""

    new: int
    known: int
    floors: dict[bytes, int]


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Counts since the journal was opened."""

    reserved: int
    repeated: int
    refused: int
    below_floor: int


class SigningJournal:
    """Places where this identity has spoken, each with the one payload it may sign there.

    Every method raises `StorageError`; if `reserve` raises anything, nothing may be signed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.prefixed(b"journal/")  # task, round, kind, attempt -> payload
        self._floors = database.prefixed(b"journal-floor/")  # task -> round
        self._owner = database.prefixed(b"journal-owner/")  # (one empty key) -> genesis, public key
        self._lock = threading.Lock()
        self._reserved = self._repeated = self._refused = self._below_floor = 0

    # --- speaking

    def reserve(self, task: bytes, round: int, kind: Kind, payload: bytes, *, attempt: int = 0) -> None:
        """Take a place for a payload, durably: when this returns, it survives a power failure.

        The same payload again is accepted. Raises `AlreadySigned` for a different one, for ever, and
        `BelowFloor` if the place is free, but in a round that is not above the task's floor.
        """
        with self._lock:
            self._reserve(Place(task, round, kind, attempt), payload, [])

    def sign(self, statement: Statement, genesis: bytes, signer: Signer) -> Verified:
        """Reserve the place of a statement, if its kind has one, and only then sign it.

        The first statement makes the journal that of the signer and chain; any other raises `OtherIdentity`.
        Raises what `reserve` does, and `RecordError` as `records.sign` does.
        """
        place = place_of(statement)
        if place is not None:
            with self._lock:
                owning = self._owning(Owner(genesis, signer.public_key))
                self._reserve(place, payload_bytes(statement), owning)
        return sign(statement, genesis, signer)

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

    # --- what is held

    def owner(self) -> Owner | None:
        """Return whose words these are, or None if the journal never signed, merged or got a floor."""
        value = self._owner.get(b"")
        if value is None:
            return None
        if len(value) != GENESIS_BYTES + PUBLIC_KEY_BYTES:
            raise self._owner.corrupt("the owner of the journal")
        return Owner(value[:GENESIS_BYTES], value[GENESIS_BYTES:])

    def tasks(self) -> list[bytes]:
        """Return the tasks that have entries or a floor, ascending."""
        found = set(self.floors())
        key = self._table.first_from(b"")
        while key is not None:
            found.add(key[:TASK_BYTES])
            key = self._table.first_from(key[:TASK_BYTES] + b"\xff" * (_KEY_BYTES - TASK_BYTES))
        return sorted(found)

    def rounds(self, task: bytes) -> list[int]:
        """Return the rounds of a task that have entries, ascending."""
        return list(rounds_of(self._table, task))

    def of_round(self, task: bytes, round: int) -> Iterator[tuple[Place, bytes]]:
        """Yield the entries of a round, each a place and its payload, in ascending order of the places."""
        for key, payload in self._table.scan(round_key(task, round)):
            yield self._place(key), payload

    def floor_of(self, task: bytes) -> int | None:
        """Return the newest round of a task in which free places stay free, or None."""
        value = self._floors.get(task)
        return None if value is None else self._round(value)

    def floors(self) -> dict[bytes, int]:
        """Return every task's floor, in ascending order of the tasks."""
        return {task: self._round(value) for task, value in self._floors.scan()}

    # --- what comes from elsewhere

    def set_floor(self, owner: Owner, task: bytes, round: int, *, lower: bool = False) -> None:
        """Refuse every free place of a task's round `round` and of earlier ones from now on, durably.

        Raises `CheckFailed` if the floor is higher already and not to be lowered, and `OtherIdentity`.
        """
        round_key(task, round)  # checks both
        with self._lock:
            changes = self._owning(owner)
            held = self.floor_of(task)
            if held is not None and held > round and not lower:
                raise CheckFailed(
                    "The floor was not lowered.",
                    f"It is at round {held}, and lowering it to {round} lets this key speak where it may have "
                    "spoken before.",
                    "If you know that it has not, give --lower as well.",
                )
            changes.append(self._floors.change(task, round.to_bytes(_ROUND_BYTES, "big")))
            self._database.write(changes, sync=True)

    def merge(self, owner: Owner, entries: Mapping[Place, bytes], floors: Mapping[bytes, int]) -> Merged:
        """Take over entries and floors of the same identity's journal, all of them or none, durably.

        Each task's floor rises to the newest round of its entries, since what was said in rounds so far need
        not all be among them; no floor falls. Raises `JournalConflict` and `OtherIdentity`.
        """
        with self._lock:
            changes = self._owning(owner)
            newest, known, conflicts = dict(floors), 0, []
            for place, payload in entries.items():
                newest[place.task] = max(newest.get(place.task, 0), place.round)
                held = self._table.get(_key(place))
                if held is None:
                    changes.append(self._table.change(_key(place), payload))
                elif held == payload:
                    known += 1
                else:
                    conflicts.append(place)
            if conflicts:
                raise JournalConflict(tuple(conflicts))
            for task in newest:
                newest[task] = max(newest[task], self.floor_of(task) or 0)
                changes.append(self._floors.change(task, newest[task].to_bytes(_ROUND_BYTES, "big")))
            self._database.write(changes, sync=True)
            return Merged(len(entries) - known, known, dict(sorted(newest.items())))

    def require_owner(self, owner: Owner) -> None:
        """Raise `OtherIdentity` if the journal is known to be that of another."""
        self._owning(owner)

    def statistics(self) -> JournalStatistics:
        """Return the counts since the journal was opened."""
        return JournalStatistics(self._reserved, self._repeated, self._refused, self._below_floor)

    # --- inside the lock

    def _reserve(self, place: Place, payload: bytes, also: list[Change]) -> None:
        """Take a place; `also` is written with it, so that one synced write makes all of it durable."""
        key = _key(place)
        held = self._table.get(key)
        if held == payload:
            self._repeated += 1
        elif held is not None:
            self._refused += 1
            raise AlreadySigned(place)
        else:
            floor = self.floor_of(place.task)
            if floor is not None and place.round <= floor:
                self._below_floor += 1
                raise BelowFloor(place, floor)
            self._database.write([*also, self._table.change(key, payload)], sync=True)
            self._reserved += 1

    def _owning(self, owner: Owner) -> list[Change]:
        """The change that makes the journal this owner's, if it is still nobody's."""
        held = self.owner()
        if held is None:
            return [self._owner.change(b"", owner.genesis + owner.key)]
        if held != owner:
            raise OtherIdentity(held, owner)
        return []

    def _place(self, key: bytes) -> Place:
        kind = _KINDS.get(key[ROUND_KEY_BYTES]) if len(key) == _KEY_BYTES else None
        if kind is None:
            raise self._table.corrupt("a journal entry of no known place")
        round = int.from_bytes(key[TASK_BYTES:ROUND_KEY_BYTES], "big")
        return Place(key[:TASK_BYTES], round, kind, int.from_bytes(key[ROUND_KEY_BYTES + 1 :], "big"))

    def _round(self, value: bytes) -> int:
        if len(value) != _ROUND_BYTES:
            raise self._floors.corrupt("a floor of the journal")
        return int.from_bytes(value, "big")


def _key(place: Place) -> bytes:
    return round_key(place.task, place.round) + bytes((place.kind,)) + place.attempt.to_bytes(8, "big")


def _words(kind: Kind) -> str:
    return kind.name.lower().replace("_", " ")


def _described(place: Place) -> str:
    attempt = f", attempt {place.attempt}" if place.attempt else ""
    return f"the {_words(place.kind)} of round {place.round}{attempt} (task {_text(place.task)})"


def _text(key: bytes) -> str:
    return base58.b58encode(key).decode("ascii")
