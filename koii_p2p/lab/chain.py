"""A simulated K2: slots, block hashes, stakes, and what the settlement program lets land (PROTOCOL section 8).

It enforces what the program enforces of attempts, windows, totals and vetoes. Transactions land some slots after they
were sent; nodes read what has landed by the end of a slot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from koii_p2p.rounds import landing
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.events import AnchorCommitment, AnchorList, RoundSettled, Veto
from koii_p2p.rounds.roster import Checkpoint, Roster, StakeHistory, roster_at
from koii_p2p.rounds.terms import TaskTerms

COMMITMENT: Final = "commitment"
LIST: Final = "list"
VETO: Final = "veto"
SETTLEMENT: Final = "settlement"

ROUNDS_KEPT: Final = 16
"""Rounds whose anchors the program holds; an older one gives its place to a newer."""

CHECKPOINTS_KEPT: Final = 8
"""Stake changes of one staker that the program holds."""


@dataclass(frozen=True, slots=True)
class Landed:
    """A transaction that landed: what it was, for which round and attempt, whose, in which slot, of how many leaves."""

    name: str
    round: int
    attempt: int
    by: bytes
    slot: int
    leaves: int = 0


class SimulatedChain:
    """What K2 holds of one task."""

    def __init__(self, terms: TaskTerms, stakes: Mapping[bytes, int], seed: int) -> None:
        """`stakes`: Roe by staking key, all staked since slot 1."""
        self.terms = terms
        self.landed: list[Landed] = []
        self.anchored: Mapping[int, AnchoredRound] = {}
        self.newest: dict[int, AnchoredRound] = {}
        """The newest attempt at every round, however old."""
        self._seed = seed
        self._clock = terms.clock
        self._stakes = {
            key: StakeHistory(key, sha256(b"wallet" + key).digest(), (Checkpoint(1, stake, 0),))
            for key, stake in stakes.items()
            if stake
        }
        self._vetoes: set[tuple[bytes, int, int]] = set()
        self._slots: list[int] = [-1]
        self._history: list[Mapping[int, AnchoredRound]] = [{}]
        self._rosters: dict[int, Roster] = {}
        self.tries: dict[int, int] = {}
        """Which candidate the leader of a slot takes for its block hash, where it has a choice; else the first."""

    # --- reads

    def blockhash(self, slot: int) -> bytes:
        """The block hash of a slot: 32 bytes that follow from the seed, and from the leader's choice if it has one."""
        return self.candidate(slot, self.tries.get(slot, 0))

    def candidate(self, slot: int, number: int) -> bytes:
        """One of the block hashes that the leader of a slot may choose from."""
        return sha256(b"block %d %d %d" % (self._seed, slot, number)).digest()

    def at(self, slot: int) -> Mapping[int, AnchoredRound]:
        """The anchored rounds as they were at the end of a slot."""
        return self._history[bisect_right(self._slots, slot) - 1]

    def roster(self, number: int) -> Roster:
        """The roster of a round whose period has begun; one object for everybody who asks."""
        if number not in self._rosters:
            self._rosters[number] = roster_at(self._stakes.values(), number, self.terms)
        return self._rosters[number]

    def stake_of(self, key: bytes) -> int:
        """What a key has staked now, in Roe."""
        history = self._stakes.get(key)
        return history.checkpoints[-1].stake if history else 0

    # --- transactions

    def commit(self, slot: int, by: bytes, action: AnchorCommitment) -> bool:
        """Take a commitment, unless the program would refuse it."""
        anchor = landing.committed(self.anchored, self.terms, slot, by, action)
        if anchor is None or not self.stake_of(by):
            return False
        self._write(Landed(COMMITMENT, action.round, anchor.attempt, by, slot), anchor)
        return True

    def list(self, slot: int, by: bytes, action: AnchorList) -> bool:
        """Take a list, unless the program would refuse it."""
        anchor = landing.listed(self.anchored, self.terms, slot, by, action)
        if anchor is None or not self.stake_of(by):
            return False
        self._write(Landed(LIST, action.round, action.attempt, by, slot), anchor)
        return True

    def veto(self, slot: int, by: bytes, action: Veto) -> bool:
        """Take a veto against a list under audit, or against a commitment that got none in time."""
        anchor = self.anchored.get(action.round)
        if anchor is None or anchor.rejected or anchor.attempt != action.attempt or not self.stake_of(by):
            return False
        if slot not in self._clock.distribution_audit(action.round, action.attempt):
            return False
        if (by, action.round, action.attempt) in self._vetoes:
            return False
        self._vetoes.add((by, action.round, action.attempt))
        against = anchor.veto_stake + self.stake_of(by)
        total = sum(self.stake_of(key) for key in self._stakes)
        vetoed = replace(anchor, veto_stake=against, rejected=against * 2 > total)
        self._write(Landed(VETO, action.round, action.attempt, by, slot), vetoed)
        return True

    def settle(self, slot: int, by: bytes, action: RoundSettled) -> bool:
        """Take the slashes of a list that is past its audit; a leaf that moves nothing needs no transaction."""
        anchor = self.anchored.get(action.round)
        if anchor is None or anchor.rejected or anchor.list_root != action.list.root:
            return False
        if slot < self._clock.settles_at(action.round, anchor.attempt):
            return False
        leaves = 0
        for leaf in action.list.leaves:
            history = self._stakes.get(leaf.staker)
            if history is None:
                continue
            after = landing.slashed(history, leaf, slot)
            if after is not history:
                kept = after.checkpoints[-CHECKPOINTS_KEPT:]
                self._stakes[leaf.staker] = replace(after, checkpoints=kept)
                leaves += 1
        if leaves:
            self.landed.append(Landed(SETTLEMENT, action.round, anchor.attempt, by, slot, leaves))
        return bool(leaves)

    def owed(self, listed: DistributionList) -> bool:
        """Whether a list takes more of anybody than K2 has taken."""
        if listed.slash_total == 0:
            return False
        return any(
            leaf.slash_total > self._stakes[leaf.staker].checkpoints[-1].slash_total
            for leaf in listed.leaves
            if leaf.slash_total and leaf.staker in self._stakes
        )

    def forget_before(self, slot: int) -> None:
        """Forget how K2 was before a slot, which nobody reads any more."""
        oldest = bisect_right(self._slots, slot) - 1
        if oldest > 0:
            del self._slots[:oldest], self._history[:oldest]

    def _write(self, landed: Landed, anchor: AnchoredRound) -> None:
        self.newest[anchor.round] = anchor
        kept = {**self.anchored, anchor.round: anchor}
        self.anchored = {number: kept[number] for number in sorted(kept)[-ROUNDS_KEPT:]}
        self.landed.append(landed)
        self._slots.append(landed.slot)
        self._history.append(self.anchored)
