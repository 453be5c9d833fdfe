"""Stakers who commit, list, veto, settle and stake at random, right and wrong: the program against a plain model of it.

The model keeps every list for ever, asks the round clock for the time, and has neither a ring nor a header. Whatever
the order of events: the program answers as the model does, nothing is paid or taken beyond the newest list that is
past its audit, every such list can be settled, and the transactions prove the account.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.settlement.history import ChainEntry, check_history, read_entries
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.layouts import LAST_ATTEMPT, ROUND_RING
from koii_p2p.settlement.refusals import ProgramError as E

from .virtual_chain import KOII, TaskChain, address
from .virtual_rpc import VirtualRpc

Deed = Callable[[int, int, int], None]
Refuses = Callable[[int, int, int], E | None]

STAKERS = 5
BOUNTY = 5 * KOII
BOND = 2 * KOII // 10
EDGES = (0, 1, 10, 11, 12, 20, 23, 24, 30, 39)
"""Slots of a period: at the bounds of its windows, and within."""
AUDIT = range(11, 24)
WINDOWS = {"round_time": 40, "submission_window": 11, "audit_window": 13}


@dataclass
class Attempt:
    """One attempt of a round, as the model remembers it."""

    round: int
    number: int
    committer: int
    barred: set[int]
    leaves: list[Leaf] | None = None
    lister: int = -1
    vetoed_by: set[int] = field(default_factory=set)
    against: int = 0
    rejected: bool = False

    @property
    def stands(self) -> bool:
        return self.leaves is not None and not self.rejected

    @property
    def totals(self) -> tuple[int, int]:
        leaves = self.leaves or []
        return sum(leaf.reward_total for leaf in leaves), sum(leaf.slash_total for leaf in leaves)


class Walk:
    """A chain, its model, and random steps that are done to both."""

    def __init__(self, seed: int, allowed: int) -> None:
        self.random = random.Random(seed)
        self.chain = TaskChain(
            STAKERS, 5000 * KOII, bounty_per_round=BOUNTY, allowed_failed_distributions=allowed, **WINDOWS
        )
        self.allowed = allowed
        self.clock: RoundClock = self.chain.clock
        for index in range(STAKERS):
            self.chain.rich(f"beneficiary {index}")
        self.stakes = [5 * KOII] * STAKERS
        self.slashed = [0] * STAKERS
        self.attempts: list[Attempt] = []
        self.kept: Attempt | None = None
        self.refusals: set[E] = set()
        self.rejections = 0

    # -- the model

    def of(self, round: int) -> Attempt | None:
        """The newest attempt of a round, unless a round sixteen later took its place."""
        newest = next(
            (one for one in reversed(self.attempts) if one.round % ROUND_RING == round % ROUND_RING), None
        )
        return newest if newest is not None and newest.round == round else None

    def newest(self) -> Attempt | None:
        return max((one for one in self.attempts if one.stands), key=lambda one: one.round, default=None)

    def is_final(self, one: Attempt) -> bool:
        return one.stands and self.chain.slot >= self.clock.settles_at(one.round, one.number)

    def newest_final(self) -> Attempt | None:
        return max(
            (one for one in self.attempts if self.is_final(one)), key=lambda one: one.round, default=None
        )

    def poor(self, staker: int) -> bool:
        return self.stakes[staker] < self.chain.terms.minimum_stake

    def refuses_commitment(self, round: int, number: int, staker: int) -> E | None:
        window, before = self.clock.commitment(round, number), self.of(round)
        if self.poor(staker):
            return E.ANCHORER_BELOW_MINIMUM
        if self.chain.slot not in window:
            return E.COMMITMENT_EARLY if self.chain.slot < window.opens else E.COMMITMENT_LATE
        if number == 0:
            return None if before is None else E.COMMITMENT_EXISTS
        if number > min(self.allowed, LAST_ATTEMPT):
            return E.ATTEMPTS_USED_UP
        if before is None:
            return E.WRONG_ATTEMPT
        if number <= before.number:
            return E.COMMITMENT_EXISTS
        if number > before.number + 1 or not before.rejected:
            return E.WRONG_ATTEMPT
        return E.BARRED if staker in (before.committer, before.lister) else None

    def refuses_list(self, round: int, number: int, staker: int) -> E | None:
        window, at, newest = self.clock.distribution(round, number), self.of(round), self.newest()
        if self.poor(staker):
            return E.ANCHORER_BELOW_MINIMUM
        if self.chain.slot not in window:
            return E.LIST_EARLY if self.chain.slot < window.opens else E.LIST_LATE
        if at is None:
            return E.NO_COMMITMENT
        if number != at.number:
            return E.WRONG_ATTEMPT
        if at.leaves is not None:
            return E.LIST_EXISTS
        if staker in at.barred:
            return E.BARRED
        return E.LIST_ORDER if newest is not None and newest.round >= round else None

    def refuses_veto(self, round: int, number: int, staker: int) -> E | None:
        window, at = self.clock.distribution_audit(round, number), self.of(round)
        if self.poor(staker):
            return E.ANCHORER_BELOW_MINIMUM
        if self.chain.slot not in window:
            return E.VETO_EARLY if self.chain.slot < window.opens else E.VETO_LATE
        if at is None:
            return E.NO_COMMITMENT
        if number > at.number:
            return E.WRONG_ATTEMPT
        if number < at.number or at.rejected:
            return E.ALREADY_REJECTED
        return E.ALREADY_VETOED if staker in at.vetoed_by else None

    def refuses_settlement(self, listed: Attempt) -> E | None:
        standing = next((one for one in self.attempts if one.round == listed.round and one.stands), None)
        if standing is None or standing not in (self.of(listed.round), self.kept):
            return E.NO_LIST
        if not self.is_final(standing):
            return E.SETTLE_EARLY
        return None if standing.leaves == listed.leaves else E.PROOF_INVALID

    # -- steps

    def commit(self, round: int, number: int, staker: int) -> None:
        before, expected = self.of(round), self.refuses_commitment(round, number, staker)
        instruction = self.chain.commit_instruction(round, staker, number)
        if self.agree(self.chain.send(instruction, signers=[self.chain.stakers[staker]]).error, expected):
            if number == 0:
                self.kept = self.newest_final()
            barred = {before.committer, before.lister} if number and before is not None else set()
            self.attempts.append(Attempt(round, number, staker, barred))

    def anchor(self, round: int, number: int, staker: int) -> None:
        expected, base = self.refuses_list(round, number, staker), self.newest()
        leaves = self.leaves(base)
        instruction = self.chain.list_instruction(round, leaves, staker, number)
        if self.agree(self.chain.send(instruction, signers=[self.chain.stakers[staker]]).error, expected):
            at = self.of(round)
            assert at is not None
            at.leaves, at.lister = leaves, staker

    def leaves(self, base: Attempt | None) -> list[Leaf]:
        """The leaves of `base` and up to a bounty more, for anybody; now and then somebody is slashed."""
        before = {} if base is None else {leaf.staker: leaf for leaf in base.leaves or ()}
        gains = [
            self.random.choice([0, BOUNTY // STAKERS, self.random.randrange(BOUNTY // STAKERS)])
        ] * STAKERS
        losses = [0] * STAKERS
        if self.random.random() < 0.2:
            losses[self.random.randrange(STAKERS)] = self.random.randrange(KOII // 2)
        made = []
        for key, gain, loss in zip(map(address, self.chain.stakers), gains, losses, strict=True):
            old = before.get(key, Leaf(key, 0, 0))
            made.append(Leaf(key, old.reward_total + gain, old.slash_total + loss))
        return sorted(made, key=lambda leaf: leaf.staker)

    def veto(self, round: int, number: int, staker: int) -> None:
        expected = self.refuses_veto(round, number, staker)
        instruction = self.chain.veto_instruction(round, staker, number)
        if self.agree(self.chain.send(instruction, signers=[self.chain.stakers[staker]]).error, expected):
            at = self.of(round)
            assert at is not None
            at.vetoed_by.add(staker)
            at.against += self.stakes[staker]
            at.rejected = 2 * at.against > sum(self.stakes)
            self.rejections += at.rejected
            for anchorer in (at.committer, at.lister) if at.rejected else ():
                if anchorer >= 0:
                    self.stakes[anchorer] -= min(BOND, self.stakes[anchorer])

    def settle(self, listed: Attempt, index: int) -> None:
        assert listed.leaves is not None
        expected = self.refuses_settlement(listed)
        instruction = self.chain.settle_instruction(listed.round, listed.leaves, index)
        if self.agree(self.chain.send(instruction).error, expected):
            leaf = next(one for one in listed.leaves if one.staker == address(self.chain.stakers[index]))
            due = max(0, leaf.slash_total - self.slashed[index])
            self.slashed[index] += due
            self.stakes[index] -= min(due, self.stakes[index])

    def stake(self, index: int) -> None:
        self.chain.add_stake(index, 2 * KOII)
        self.stakes[index] += 2 * KOII

    def agree(self, got: E | None, expected: E | None) -> bool:
        assert got is expected
        if got is not None:
            self.refusals.add(got)
        return got is None

    def step(self, discord: float) -> None:
        """One random deed now, by anybody. Most are right; `discord` is how often a right one may be a veto."""
        deed, refuses, *place = self.some_deed()
        for _ in range(self.random.choice([0, 5, 40])):
            if refuses(*place) is None and (deed != self.veto or self.random.random() < discord):
                break
            deed, refuses, *place = self.some_deed()
        deed(*place)
        listed = [one for one in self.attempts if one.leaves]
        if listed and self.random.random() < 0.2:
            self.settle(self.random.choice(listed[-8:]), self.random.randrange(STAKERS))
        poorest = min(range(STAKERS), key=lambda index: self.stakes[index])
        if self.random.random() < 0.01 or (self.poor(poorest) and self.random.random() < 0.2):
            self.stake(poorest)

    def some_deed(self) -> tuple[Deed, Refuses, int, int, int]:
        period = self.clock.period(self.chain.slot)
        round = max(0, period - self.random.choice([1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 18]))
        at = self.of(round)
        number = 0 if at is None else max(0, at.number + self.random.choice([0, 0, 0, 1, 1, -1, 2]))
        deed, refuses = self.random.choice(
            [
                (self.commit, self.refuses_commitment),
                (self.anchor, self.refuses_list),
                (self.veto, self.refuses_veto),
            ]
        )
        return deed, refuses, round, number, self.random.randrange(STAKERS)

    # -- what always holds

    def check(self) -> TaskState:
        state, newest, final = self.chain.state(), self.newest(), self.newest_final()
        rewards, slashes = (0, 0) if final is None else final.totals
        assert state.paid <= rewards
        assert state.slashed + state.forgiven <= slashes
        assert rewards <= slashes + BOUNTY * len({one.round for one in self.attempts})
        for told, one in ((state.last_list, newest), (state.settled_list, self.kept)):
            assert (told is None) is (one is None)
            if told is not None and one is not None:
                assert (told.round, told.attempt) == (one.round, one.number)
                assert (told.reward_total, told.slash_total) == one.totals
        for number, held in state.rounds.items():
            at = self.of(number)
            assert at is not None
            assert (held.attempt, held.rejected, held.veto_stake) == (at.number, at.rejected, at.against)
            assert set(held.barred) == {address(self.chain.stakers[one]) for one in at.barred if one >= 0}
        return state

    def settle_all(self) -> None:
        """Whatever is past its audit and in the ring can be settled to the last leaf."""
        for one in [one for one in self.attempts if self.is_final(one) and self.of(one.round) is one]:
            for index in range(STAKERS):
                assert self.refuses_settlement(one) is None
                self.settle(one, index)
        final = self.newest_final()
        if final is not None:
            assert (self.chain.state().paid, sum(self.slashed)) == final.totals


@pytest.mark.parametrize(("seed", "allowed"), [(1, 4), (2, 2), (3, 1), (7, 15)])
def test_the_program_is_its_model(seed: int, allowed: int) -> None:
    walk = Walk(seed, allowed)
    for period in range(1, 36):
        discord = walk.random.choice([0, 0.3, 1, 1])
        for edge in EDGES:
            walk.chain.at(walk.chain.terms.starting_slot + WINDOWS["round_time"] * period + edge)
            for _ in range(walk.random.choice([0, 2, 16] if edge in AUDIT else [0, 2, 4])):
                walk.step(discord)
            walk.check()
        if walk.random.random() < 0.3:
            walk.settle_all()
    state = walk.check()
    rpc = VirtualRpc(walk.chain)
    entries: list[ChainEntry] = []
    for landed in walk.chain.landed:
        truth = rpc.truth(landed)
        assert truth.line is not None
        entries += read_entries(truth.line, truth.record, walk.chain.task)
    assert check_history(entries, state) == ()
    # Not vacuous: lists were rejected, retried and settled, and wrong deeds were tried.
    assert walk.rejections >= 10
    assert max(one.number for one in walk.attempts) >= 1
    assert state.paid > 0
    assert len(walk.refusals) >= 8
