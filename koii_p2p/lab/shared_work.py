"""Work that thousands of simulated nodes would do alike, done once: nothing else makes a large net possible.

While `shared` is in force, pure functions of the protocol remember what they found: decoding and verifying a record,
drawing auditors, selecting and counting records, building a commitment, a list, the set of items that reconciliation
compares. Each is a function of its arguments alone and returns what nobody changes, so that no node can tell who did
the work; tests play nets with and without it and compare every bit. What is refused is not remembered: a bad
signature is found bad by every node for itself. How often a node *would* have verified is counted, since that is what
it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any, Final, Generic, TypeVar

from koii_p2p.records import envelope as envelopes
from koii_p2p.records import equivocation
from koii_p2p.records.envelope import Envelope, Verified
from koii_p2p.rounds import admission, anchoring, commitment, distribution, engine, leader, record_book
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.item_set import ItemSet
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.round_records import RoundRecords
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.tally import Tally
from koii_p2p.rounds.terms import TaskTerms

MOST_RECORDS: Final = 1 << 17
"""Records remembered: those of four rounds of ten thousand nodes."""
MOST_SETS: Final = 256
"""Sets of records for which something is remembered. In a calm round nearly all nodes have one of a few. A set of items
takes 400 bytes for each, and a bundle all its records."""
MOST_BUILT: Final = 32

Value = TypeVar("Value")


class _Memory(Generic[Value]):
    """Values by key, of which the oldest is forgotten when there are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Any, Value] = {}

    def get(self, key: Any) -> Value | None:
        return self._values.get(key)

    def put(self, key: Any, value: Value) -> Value:
        if len(self._values) >= self._most:
            del self._values[next(iter(self._values))]
        self._values[key] = value
        return value


class SharedWork:
    """What was found, and how often it was asked for."""

    def __init__(self) -> None:
        self.verified = 0
        """Signatures checked by anybody, remembered ones among them."""
        self._decoded: _Memory[Envelope] = _Memory(MOST_RECORDS)
        self._checked: _Memory[Verified] = _Memory(MOST_RECORDS)
        self._records: _Memory[RoundRecords] = _Memory(MOST_SETS)
        self._disputes: _Memory[tuple[dict[bytes, bytes], object]] = _Memory(MOST_SETS)
        self._items: _Memory[ItemSet] = _Memory(MOST_SETS)
        self._assignments: _Memory[AuditAssignment] = _Memory(MOST_SETS)
        self._built: _Memory[tuple[BuiltRound, object]] = _Memory(MOST_BUILT)
        self._orders: _Memory[tuple[bytes, ...]] = _Memory(MOST_SETS)
        self._lists: _Memory[tuple[DistributionList, tuple[object, ...]]] = _Memory(MOST_SETS)

    # --- records

    def decode_record(self, raw: bytes) -> Envelope:
        """`records.envelope.decode_record`."""
        found = self._decoded.get(raw)
        return found if found is not None else self._decoded.put(raw, envelopes.decode_record(raw))

    def verify(self, envelope: Envelope, genesis: bytes) -> Verified:
        """`records.envelope.verify`. The id names every byte of the record."""
        self.verified += 1
        key = envelope.id, genesis
        found = self._checked.get(key)
        return found if found is not None else self._checked.put(key, envelopes.verify(envelope, genesis))

    # --- rounds

    def records(self, state: RoundState, held: frozenset[bytes]) -> RoundRecords:
        """`RoundState.records`: which records are held says which of them a commitment is about."""
        key = state.round, held
        found = self._records.get(key)
        return found if found is not None else self._records.put(key, RoundState.records(state))

    def disputed(self, state: RoundState, terms: TaskTerms, held: frozenset[bytes]) -> dict[bytes, bytes]:
        """`RoundState.disputed`, of an assignment that is shared."""
        key = state.round, held, id(state.assignment)
        found = self._disputes.get(key)
        if found is None:
            found = self._disputes.put(key, (RoundState.disputed(state, terms), state.assignment))
        return found[0]

    def item_set(self, state: RoundState, held: frozenset[bytes]) -> ItemSet:
        """`RoundState.item_set`."""
        key = state.round, held
        found = self._items.get(key)
        return found if found is not None else self._items.put(key, RoundState.item_set(state))

    def assignment(
        self,
        beacon: bytes,
        roster: Roster,
        rules: AuditRules,
        rates: Mapping[bytes, int] | None = None,
    ) -> AuditAssignment:
        """`AuditAssignment`, which remembers its own draws."""
        key = beacon, roster.round, roster.root, rules, tuple(sorted((rates or {}).items()))
        found = self._assignments.get(key)
        if found is None:
            found = self._assignments.put(key, AuditAssignment(beacon, roster, rules, rates))
        return found

    def build_commitment(
        self,
        terms: TaskTerms,
        roster: Roster,
        beacon: bytes,
        previous: bytes,
        records: RoundRecords,
        assignment: AuditAssignment | None = None,
    ) -> BuiltRound:
        """`rounds.commitment.build_commitment`, by identity of what is shared; that is kept for as long as the key."""
        key = id(roster), beacon, previous, id(records), id(assignment)
        found = self._built.get(key)
        if found is None:
            built = commitment.build_commitment(terms, roster, beacon, previous, records, assignment)
            found = self._built.put(key, (built, (roster, records, assignment)))
        return found[0]

    def leader_order(
        self, beacon: bytes, keys: Iterable[bytes], scores: Mapping[bytes, int] | None = None
    ) -> tuple[bytes, ...]:
        """`rounds.leader.leader_order`."""
        members = frozenset(keys)
        key = beacon, members, tuple(sorted((scores or {}).items()))
        found = self._orders.get(key)
        if found is None:
            found = self._orders.put(key, leader.leader_order(beacon, members, scores or {}))
        return found

    def next_list(
        self,
        previous: DistributionList | None,
        roster: Roster,
        amounts: Mapping[bytes, int],
        terms: TaskTerms,
        counted: Tally,
    ) -> DistributionList:
        """`rounds.distribution.next_list`, by identity of what is shared; that is kept for as long as the key."""
        key = id(previous), id(roster), id(counted), hash(frozenset(amounts.items()))
        found = self._lists.get(key)
        if found is not None and found[1][3] == amounts:
            return found[0]
        listed = _NEXT_LIST(previous, roster, amounts, terms, counted)
        return self._lists.put(key, (listed, (previous, roster, counted, dict(amounts))))[0]


_NEXT_LIST: Final = distribution.next_list
_IN_FORCE: list[SharedWork] = []
_LOCK: Final = RLock()


class _SharedState(RoundState):
    """A `RoundState` that asks whether somebody with the same records has found it already."""

    __slots__ = ("_held",)

    def _names(self) -> frozenset[bytes]:
        kept: tuple[int, frozenset[bytes]] | None = getattr(self, "_held", None)
        if kept is None or kept[0] != self.changes:
            kept = self._held = (self.changes, frozenset(self.by_id))
        return kept[1]

    def records(self) -> RoundRecords:
        """See `RoundState`."""
        return _IN_FORCE[-1].records(self, self._names()) if _IN_FORCE else RoundState.records(self)

    def disputed(self, terms: TaskTerms) -> dict[bytes, bytes]:
        """See `RoundState`."""
        if self.assignment is None or not _IN_FORCE:
            return RoundState.disputed(self, terms)
        if self.disputes[0] != self.changes:
            found = _IN_FORCE[-1].disputed(self, terms, self._names())
            self.disputes = (self.changes, found)
        return self.disputes[1]

    def item_set(self) -> ItemSet:
        """See `RoundState`."""
        if not _IN_FORCE:
            return RoundState.item_set(self)
        if self.items[0] != self.changes:
            self.items = (self.changes, _IN_FORCE[-1].item_set(self, self._names()))
        return self.items[1]


@contextmanager
def shared(work: SharedWork, *, rounds: bool = True) -> Iterator[SharedWork]:
    """Let all engines that this process makes and runs meanwhile share their work.

    With `rounds` False only records are decoded and verified once. One simulation at a time uses it in a process: a
    second thread waits.
    """
    replaced: list[tuple[object, str, Callable[..., Any]]] = [
        (record_book, "decode_record", work.decode_record),
        (record_book, "verify", work.verify),
        (admission, "verify", work.verify),
        (commitment, "decode_record", work.decode_record),
        (commitment, "verify", work.verify),
        (equivocation, "decode_record", work.decode_record),
        (equivocation, "verify", work.verify),
    ]
    if rounds:
        replaced += [
            (engine, "RoundState", _SharedState),
            (engine, "AuditAssignment", work.assignment),
            (anchoring, "build_commitment", work.build_commitment),
            (anchoring, "leader_order", work.leader_order),
            (anchoring, "next_list", work.next_list),
        ]
    with _LOCK:
        before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
        _IN_FORCE.append(work)
        try:
            for module, name, found in replaced:
                setattr(module, name, found)
            yield work
        finally:
            for module, name, found in before:
                setattr(module, name, found)
            _IN_FORCE.pop()
