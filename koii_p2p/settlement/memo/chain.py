"""The canonical chain among all the memos that name a task: a pure function of their order.

The rules are those that the settlement program enforces (program/settlement.c), with the stakes of the genesis
document: of what is sent, the first that is valid counts, in the order of slots and of transactions in a slot. What
the program would refuse is judged with the same `ProgramError`; what else can be wrong is a `LinkFault`. The heads
are the program's too, so a round reads the same whatever carried it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.history import EMPTY_HEAD, next_head
from koii_p2p.settlement.instructions import FIRST_ATTEMPT, AnchorCommitment, AnchorList, Tag, Veto
from koii_p2p.settlement.interface import AnchoredList
from koii_p2p.settlement.layouts import LAST_ATTEMPT, NOBODY, ROUND_RING
from koii_p2p.settlement.memo.genesis import Genesis
from koii_p2p.settlement.memo.records import LINK_BYTES, NO_LINK, MemoRecord
from koii_p2p.settlement.refusals import ProgramError


class LinkFault(Enum):
    """Why a record does not continue the chain, although its place in it is free."""

    STALE = "it follows an earlier head: another record came first"
    UNKNOWN = "it follows a head that this history does not have"
    OTHER_LIST = "it is against a list or commitment that the round does not have"


Refusal: TypeAlias = ProgramError | LinkFault


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it landed. `fee` (Roe) is that of the whole transaction, None if not told."""

    slot: int
    signature: str
    author: bytes
    record: MemoRecord
    fee: int | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A record and why it does not count; None if it does."""

    entry: Entry
    refusal: Refusal | None


class MemoChain:
    """The state of a memo task after some records. `append` judges the next one; nothing is ever taken back."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.head = EMPTY_HEAD
        self.anchors = 0
        self.created_slot: int | None = None
        self.rounds: dict[int, AnchoredRound] = {}
        self.last_list: AnchoredList | None = None
        self.settled_list: AnchoredList | None = None
        self.judged: list[Judged] = []
        self._earlier: set[bytes] = set()
        self._vetoers: set[tuple[int, int, bytes]] = set()
        self._doubters: set[bytes] = set()

    @property
    def link(self) -> bytes:
        """What the next commitment or list has to name."""
        return self.head[:LINK_BYTES]

    @property
    def doubted_by(self) -> int:
        """Roe of the stakers whose newest commitment or list follows a head which this history does not have.

        One of them may lie, or have read a fork that K2 gave up. If they are more than half, it is this history that
        lacks something.
        """
        return sum(self.genesis.amounts[doubter] for doubter in self._doubters)

    def append(self, entry: Entry) -> Refusal | None:
        """Judge a record, which must not be older than those before, and apply it if it counts."""
        refusal = self.refusal(entry)
        self.judged.append(Judged(entry, refusal))
        if refusal is LinkFault.UNKNOWN:
            self._doubters.add(entry.author)
        elif refusal is LinkFault.STALE or (refusal is None and entry.record.kind in _LINKED):
            self._doubters.discard(entry.author)
        if refusal is None:
            _APPLY[entry.record.kind](self, entry)
        return refusal

    def refusal(self, entry: Entry) -> Refusal | None:
        """Why this record would not count, as the next one; None if it would."""
        record = entry.record
        if record.kind is Tag.CREATE_TASK:
            return self._announcement_refusal(entry)
        if entry.author not in self.genesis.amounts:
            return ProgramError.ANCHORER_BELOW_MINIMUM
        match record.kind:
            case Tag.ANCHOR_COMMITMENT:
                return self._commitment_refusal(entry) or self._link_fault(record)
            case Tag.ANCHOR_LIST:
                return self._list_refusal(entry) or self._link_fault(record)
        return self._veto_refusal(entry)

    # -- judging

    @property
    def _terms(self) -> TaskTerms:
        return self.genesis.terms

    def _announcement_refusal(self, entry: Entry) -> Refusal | None:
        if entry.author != self._terms.creator or entry.record.digest != self.genesis.digest:
            return ProgramError.WRONG_TASK_ADDRESS
        return ProgramError.ALREADY_EXISTS if self.created_slot is not None else None

    def _commitment_refusal(self, entry: Entry) -> ProgramError | None:
        record = entry.record
        window = self._terms.clock.commitment(record.round, record.attempt)
        late = _outside(entry.slot, window, ProgramError.COMMITMENT_EARLY, ProgramError.COMMITMENT_LATE)
        if late is not None:
            return late
        held = self.rounds.get(record.round)
        if record.attempt == FIRST_ATTEMPT:
            return None if held is None else ProgramError.COMMITMENT_EXISTS
        if record.attempt > min(self._terms.allowed_failed_distributions, LAST_ATTEMPT):
            return ProgramError.ATTEMPTS_USED_UP
        if held is None:
            return ProgramError.WRONG_ATTEMPT
        if record.attempt <= held.attempt:
            return ProgramError.COMMITMENT_EXISTS
        if record.attempt != held.attempt + 1 or not held.rejected:
            return ProgramError.WRONG_ATTEMPT
        return ProgramError.BARRED if entry.author in held.anchorers else None

    def _list_refusal(self, entry: Entry) -> ProgramError | None:
        record = entry.record
        window = self._terms.clock.distribution(record.round, record.attempt)
        late = _outside(entry.slot, window, ProgramError.LIST_EARLY, ProgramError.LIST_LATE)
        if late is not None:
            return late
        held = self.rounds.get(record.round)
        if held is None:
            return ProgramError.NO_COMMITMENT
        if record.attempt != held.attempt:
            return ProgramError.WRONG_ATTEMPT
        if held.list_root is not None or held.rejected:
            return ProgramError.LIST_EXISTS
        if entry.author in held.barred:
            return ProgramError.BARRED
        if self.last_list is not None and self.last_list.round >= record.round:
            return ProgramError.LIST_ORDER
        return self._totals_refusal(record)

    def _totals_refusal(self, record: MemoRecord) -> ProgramError | None:
        last = self.last_list
        rewards, slashes = (0, 0) if last is None else (last.reward_total, last.slash_total)
        if record.reward_total < rewards or record.slash_total < slashes:
            return ProgramError.TOTALS_DECREASE
        if record.reward_total - rewards > self._terms.bounty_per_round + record.slash_total - slashes:
            return ProgramError.REWARDS_ABOVE_BOUNTY
        if record.slash_total > self.genesis.total_stake:
            return ProgramError.SLASHES_ABOVE_STAKES
        if record.reward_total > self.genesis.pledged + record.slash_total:
            return ProgramError.REWARDS_ABOVE_VAULT
        return None

    def _veto_refusal(self, entry: Entry) -> Refusal | None:
        record = entry.record
        window = self._terms.clock.distribution_audit(record.round, record.attempt)
        late = _outside(entry.slot, window, ProgramError.VETO_EARLY, ProgramError.VETO_LATE)
        if late is not None:
            return late
        held = self.rounds.get(record.round)
        if held is None:
            return ProgramError.NO_COMMITMENT
        if record.attempt > held.attempt:
            return ProgramError.WRONG_ATTEMPT
        if record.attempt < held.attempt or held.rejected:
            return ProgramError.ALREADY_REJECTED
        if (record.round, record.attempt, entry.author) in self._vetoers:
            return ProgramError.ALREADY_VETOED
        if (record.digest, record.link) != veto_target(held):
            return LinkFault.OTHER_LIST
        return None

    def _link_fault(self, record: MemoRecord) -> LinkFault | None:
        if record.link == self.link:
            return None
        return LinkFault.STALE if record.link in self._earlier else LinkFault.UNKNOWN

    # -- applying

    def _announce(self, entry: Entry) -> None:
        self.created_slot = entry.slot

    def _commit(self, entry: Entry) -> None:
        record, slot = entry.record, entry.slot
        held = self.rounds.get(record.round)
        if record.attempt == FIRST_ATTEMPT:
            self.settled_list = self._newest(slot)
            # As in the program, a place of the ring serves every sixteenth round.
            for other in [one for one in self.rounds if one % ROUND_RING == record.round % ROUND_RING]:
                del self.rounds[other]
        self.rounds[record.round] = AnchoredRound(
            record.round,
            record.attempt,
            record.digest,
            slot,
            entry.author,
            barred=() if held is None else held.anchorers,
        )
        anchor = AnchorCommitment(self._terms.task, entry.author, record.round, record.attempt, record.digest)
        self._advance(anchor, slot, record.digest)

    def _list(self, entry: Entry) -> None:
        record = entry.record
        listed = replace(
            self.rounds[record.round],
            list_root=record.digest,
            reward_total=record.reward_total,
            slash_total=record.slash_total,
            list_slot=entry.slot,
            list_by=entry.author,
        )
        self.rounds[record.round] = listed
        self.last_list = _list_of(listed)
        totals = record.reward_total, record.slash_total
        anchor = AnchorList(
            self._terms.task, entry.author, record.round, record.attempt, record.digest, *totals
        )
        self._advance(anchor, entry.slot, record.digest)

    def _veto(self, entry: Entry) -> None:
        record = entry.record
        self._vetoers.add((record.round, record.attempt, entry.author))
        held = self.rounds[record.round]
        against = held.veto_stake + self.genesis.amounts[entry.author]
        rejected = 2 * against > self.genesis.total_stake
        self.rounds[record.round] = replace(held, veto_stake=against, rejected=rejected)
        if not rejected:
            return
        self.last_list = self._newest(None)
        veto = Veto(self._terms.task, entry.author, record.round, record.attempt)
        self._advance(veto, entry.slot, held.list_root or NOBODY)

    def _advance(self, anchor: AnchorCommitment | AnchorList | Veto, slot: int, digest: bytes) -> None:
        self._earlier.add(self.link)
        self.head = next_head(self.head, anchor, slot, digest)
        self.anchors += 1

    def _newest(self, past_audit_at: int | None) -> AnchoredList | None:
        """The standing list of the highest round, of those past their audit if a slot is given."""
        lists = [self.settled_list, *map(_list_of, self.rounds.values())]
        clock = self._terms.clock
        standing = [
            one
            for one in lists
            if one is not None
            and (past_audit_at is None or clock.settles_at(one.round, one.attempt) <= past_audit_at)
        ]
        return max(standing, key=lambda one: one.round, default=None)


_LINKED: Final = frozenset({Tag.ANCHOR_COMMITMENT, Tag.ANCHOR_LIST})

_APPLY: Final = {
    Tag.CREATE_TASK: MemoChain._announce,
    Tag.ANCHOR_COMMITMENT: MemoChain._commit,
    Tag.ANCHOR_LIST: MemoChain._list,
    Tag.VETO: MemoChain._veto,
}


def fold(genesis: Genesis, entries: Iterable[Entry]) -> MemoChain:
    """The chain that these records give, oldest first."""
    chain = MemoChain(genesis)
    for entry in entries:
        chain.append(entry)
    return chain


def veto_target(held: AnchoredRound) -> tuple[bytes, bytes]:
    """Digest and link of a veto against a round as it stands: its list's root, and half of its commitment."""
    return held.list_root or NOBODY, held.commitment[:LINK_BYTES] if held.commitment else NO_LINK


def _list_of(held: AnchoredRound) -> AnchoredList | None:
    if held.list_root is None or held.rejected:
        return None
    totals = held.reward_total, held.slash_total
    return AnchoredList(held.round, held.attempt, held.list_root, *totals, held.list_slot)


def _outside(slot: int, window: Window, early: ProgramError, late: ProgramError) -> ProgramError | None:
    if slot < window.opens:
        return early
    return late if slot >= window.closes else None
