"""The K2 of a rehearsal: what the settlement program holds and enforces of rounds, in memory and in virtual slots.

It stands in for a chain only where nobody attacks it: one commitment and one list of a round, inside their windows, in
ascending order, and slashes that are taken once. Transactions land in the slot in which they are made, without a fee.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256

from koii_p2p.rounds import landing
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.events import AnchorCommitment, AnchorList, RoundSettled
from koii_p2p.rounds.roster import Checkpoint, Roster, StakeHistory, roster_at
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.interface import TaskState


class RehearsalChain:
    """Anchors and stakes of one task. `stake` is what every staker has at first, in Roe."""

    def __init__(self, terms: TaskTerms, stakers: Iterable[bytes], stake: int, funds: int) -> None:
        self._terms = terms
        self._funds = funds
        self._stakes = {key: StakeHistory(key, key, (Checkpoint(0, stake, 0),)) for key in stakers}
        self.anchored: Mapping[int, AnchoredRound] = {}
        self.settled: dict[int, DistributionList] = {}

    def blockhash(self, slot: int) -> bytes:
        """The hash of the block of a slot: every slot has one."""
        return sha256(b"koii-p2p/rehearsal" + slot.to_bytes(8, "big")).digest()

    def roster(self, number: int) -> Roster:
        """Who was staked when the period of this number began."""
        return roster_at(self._stakes.values(), number, self._terms)

    def commit(self, slot: int, by: bytes, action: AnchorCommitment) -> bool:
        """Take the commitment of a round, if it is the first and in its window."""
        return self._write(landing.committed(self.anchored, self._terms, slot, by, action))

    def list(self, slot: int, by: bytes, action: AnchorList) -> bool:
        """Take the list of a committed round, in its window and within the bounty; rounds come in ascending order."""
        return self._write(landing.listed(self.anchored, self._terms, slot, by, action))

    def settle(self, slot: int, action: RoundSettled) -> None:
        """Take the slashes and pay the rewards of a list that is past its audit; doing it again moves nothing."""
        anchor = self.anchored.get(action.round)
        if anchor is None or anchor.list_root != action.list.root:
            return
        if slot < self._terms.clock.settles_at(action.round, 0):
            return
        self.settled.setdefault(action.round, action.list)
        for leaf in action.list.leaves:
            history = landing.slashed(self._stakes[leaf.staker], leaf, slot)
            paid = max(history.reward_paid, leaf.reward_total)
            self._stakes[leaf.staker] = replace(history, reward_paid=paid)

    def state(self) -> TaskState:
        """The task as K2 would tell of it."""
        newest = max(self.settled, default=None)
        paid = 0 if newest is None else self.settled[newest].reward_total
        slashed = 0 if newest is None else self.settled[newest].slash_total
        return TaskState(
            terms=self._terms,
            nonce=0,
            created_slot=0,
            vault=self._funds + slashed - paid,
            funded=self._funds,
            paid=paid,
            slashed=slashed,
            forgiven=0,
            total_stake=sum(one.checkpoints[-1].stake for one in self._stakes.values()),
            stakers=len(self._stakes),
            head=bytes(32),
            anchors=len(self.anchored),
            rounds=self.anchored,
            last_list=None,
            settled_list=None,
        )

    def _write(self, anchor: AnchoredRound | None) -> bool:
        if anchor is None:
            return False
        self.anchored = {**self.anchored, anchor.round: anchor}
        return True
