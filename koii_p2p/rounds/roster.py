"""The roster of a round: who may submit and audit in it, and with how much stake."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from koii_p2p.limits import Limits
from koii_p2p.rounds import merkle
from koii_p2p.rounds.audit_rules import Weights
from koii_p2p.rounds.terms import U64_MAX, TaskTerms

MAX_ENTRIES = Limits().roster_entries

LOCK_PERIODS = 4
"""Periods over which stake times lock time is summed. K2 keeps eight stake changes, at most one per period, so that
the sum can be read for every round in flight."""


class RosterError(ValueError):
    """Stake records that contradict themselves, or more of them than a round can hold."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a stake account after a change at `slot`: Roe of stake left and of slashes taken so far."""

    slot: int
    stake: int
    slash_total: int


@dataclass(frozen=True, slots=True)
class StakeHistory:
    """What K2 holds about one staker of one task; checkpoints ascending by slot, newest last.

    The chain keeps a ring of recent checkpoints, so that the roster of any recent round follows from the
    current state alone. `unstake_slot` is None while no unstake was requested; `reward_paid` in Roe.
    """

    staker: bytes
    beneficiary: bytes
    checkpoints: tuple[Checkpoint, ...]
    unstake_slot: int | None = None
    reward_paid: int = 0


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One staker of a round: Roe staked and slashes already taken when the round's period began.

    `stake_time` is the sum of the stakes that were active at the starts of the newest `LOCK_PERIODS` periods.
    """

    key: bytes
    stake: int
    slash_settled: int
    beneficiary: bytes
    stake_time: int = 0

    def encode(self) -> bytes:
        """96 bytes, leaf of `Roster.root`: key, stake and slash_settled (u64 little-endian), beneficiary,
        stake_time (u128 little-endian)."""
        return (
            self.key
            + self.stake.to_bytes(8, "little")
            + self.slash_settled.to_bytes(8, "little")
            + self.beneficiary
            + self.stake_time.to_bytes(16, "little")
        )


@dataclass(frozen=True, slots=True)
class Roster:
    """Stakers of one round, sorted by key, each once. Raises RosterError otherwise."""

    round: int
    entries: tuple[RosterEntry, ...]
    weights: Weights = Weights.STAKE
    _by_key: dict[bytes, RosterEntry] = field(init=False, repr=False, compare=False)
    _weights: dict[bytes, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.entries) > MAX_ENTRIES:
            raise RosterError(f"{len(self.entries)} stakers; a round holds {MAX_ENTRIES}")
        for entry in self.entries:
            _check_entry(entry)
        keys = [entry.key for entry in self.entries]
        if any(first >= second for first, second in itertools.pairwise(keys)):
            raise RosterError("roster entries are not sorted by key, or one key appears twice")
        object.__setattr__(self, "_by_key", dict(zip(keys, self.entries, strict=True)))
        weights = {entry.key: _weight(entry, self.weights) for entry in self.entries}
        object.__setattr__(self, "_weights", weights)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys in order."""
        return tuple(self._by_key)

    @property
    def total_stake(self) -> int:
        """Stake of everybody together, in Roe; may exceed 64 bits."""
        return sum(entry.stake for entry in self.entries)

    @property
    def root(self) -> bytes:
        """Merkle root over the encoded entries: the roster a commitment was made with, in 32 bytes."""
        return merkle.root([entry.encode() for entry in self.entries])

    def entry(self, key: bytes) -> RosterEntry:
        """Entry of one staker. Raises KeyError for a key that is not in the roster."""
        return self._by_key[key]

    def stake_of(self, key: bytes) -> int:
        """Stake of one key in Roe; 0 for a key that is not in the roster."""
        entry = self._by_key.get(key)
        return entry.stake if entry else 0

    def weight_of(self, key: bytes) -> int:
        """What a vote of this key is worth by the task's rules; 0 for a key that is not in the roster."""
        return self._weights.get(key, 0)


def roster_at(histories: Iterable[StakeHistory], round_number: int, terms: TaskTerms) -> Roster:
    """Roster of a round: stakers whose stake was active at the start of its period (PROTOCOL §6).

    Counts the last checkpoint before the first slot of period `round_number`: it must hold at least the
    minimum stake, and no unstake request may be older than that slot. What happens inside the period
    cannot change the roster any more. `histories` must reach back that far; a staker without such a
    checkpoint is new.

    Stake times lock time is the sum of the stakes at the starts of this period and the three before: a stake
    weighs fully after four periods, and what is added later counts from when it is added. (Koii docs:
    designing-tasks/staking-and-voting.md scales votes by stake and lock time, without a formula.)

    Raises RosterError.
    """
    clock = terms.clock
    start = clock.work(round_number).opens
    entries: list[RosterEntry] = []
    for history in histories:
        _check_ascending(history)
        if history.unstake_slot is not None and history.unstake_slot < start:
            continue
        current = _active_at(history, start)
        if current is None or current.stake < terms.minimum_stake:
            continue
        earlier = (_active_at(history, start - age * clock.round_time) for age in range(1, LOCK_PERIODS))
        stake_time = current.stake + sum(point.stake for point in earlier if point is not None)
        entries.append(
            RosterEntry(history.staker, current.stake, current.slash_total, history.beneficiary, stake_time)
        )
    ordered = tuple(sorted(entries, key=lambda entry: entry.key))
    return Roster(round_number, ordered, terms.audit.weights)


def _active_at(history: StakeHistory, slot: int) -> Checkpoint | None:
    """The newest checkpoint before a slot."""
    return next((point for point in reversed(history.checkpoints) if point.slot < slot), None)


def _weight(entry: RosterEntry, weights: Weights) -> int:
    match weights:
        case Weights.EQUAL:
            return 1
        case Weights.STAKE:
            return entry.stake
        case Weights.STAKE_TIME:
            return entry.stake_time


def _check_entry(entry: RosterEntry) -> None:
    if len(entry.key) != 32 or len(entry.beneficiary) != 32:
        raise RosterError("staker and beneficiary are 32-byte keys")
    if not 0 <= entry.stake <= U64_MAX or not 0 <= entry.slash_settled <= U64_MAX:
        raise RosterError(f"stake of {entry.key.hex()} is not an unsigned 64-bit amount")
    if not 0 <= entry.stake_time <= LOCK_PERIODS * U64_MAX:
        raise RosterError(f"stake times lock time of {entry.key.hex()} is out of range")


def _check_ascending(history: StakeHistory) -> None:
    # Several changes may share a slot; the later one in the ring is the newer one.
    slots = [point.slot for point in history.checkpoints]
    if any(earlier > later for earlier, later in itertools.pairwise(slots)):
        raise RosterError(f"checkpoints of {history.staker.hex()} are not in ascending order")
