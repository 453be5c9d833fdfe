"""Behaviours of those who submit: wrong values, two at a time, beacons that suit them, or what pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from koii_p2p.lab.behaviours.behaviour import Actor, Behaviour
from koii_p2p.lab.work import Truth, Work
from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.schema import Kind, Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import BASIS_POINTS
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.events import AuditSubmission
from koii_p2p.rounds.misconduct import contradiction
from koii_p2p.rounds.tally import Outcome


def wrong(work: Work, catch: float = 1.0) -> Work:
    """The same, done wrong: a look finds it with the chance `catch`."""
    return replace(work, truth=Truth.WRONG, catch=catch)


class Fraudulent(Behaviour):
    """Submits a wrong value in a share of its rounds; whoever looks sees it."""

    def work(self, number: int, work: Work) -> Work:
        """See `Behaviour`."""
        return wrong(work) if self.happens(number) else work


class Subtle(Behaviour):
    """Submits a value that is wrong in few places, so that a look finds it with a chance."""

    def work(self, number: int, work: Work) -> Work:
        """See `Behaviour`."""
        return wrong(work, self.share)


class Equivocator(Behaviour):
    """Signs a second submission in each round, and shows it to a share of its neighbours."""

    def said(self, record: Verified) -> None:
        """See `Behaviour`."""
        second = contradiction(record.statement) if record.kind is Kind.SUBMISSION else None
        if second is None:
            return
        peers = self.actor.neighbours()
        shown = self.actor.random.sample(peers, round(self.share * len(peers)))
        self.actor.publish(sign(second, self.actor.genesis, self.actor.secret), frozenset(shown))


class Grinder(Behaviour):
    """Submits wrong values, and has a friend who leads the slot of the beacon and tries block hashes.

    It takes the one by which most of its kind's submissions have none but its kind as auditors. They call each other
    VALID. What it is worth is `closed_forms`' grinding: a chance p becomes 1 - (1 - p)^tries.
    """

    def work(self, number: int, work: Work) -> Work:
        """See `Behaviour`."""
        return wrong(work)

    def verdict(self, action: AuditSubmission, look: Callable[[], Verdict]) -> Callable[[], Verdict]:
        """See `Behaviour`."""
        friendly = "grinder" in self.actor.cast.get(action.author, ())
        return (lambda: Verdict.VALID) if friendly else look

    def chooses_beacon(self, number: int, slot: int) -> None:
        """See `Behaviour`."""
        chain, terms = self.actor.chain, self.actor.terms
        if slot in chain.tries:
            return
        roster = chain.roster(number)
        friends = [key for key in roster.keys if "grinder" in self.actor.cast.get(key, ())]

        def captured(candidate: int) -> int:
            drawn = AuditAssignment(
                beacon(chain.candidate(slot, candidate), terms.task, number), roster, terms.audit
            )
            return sum(set(drawn.auditors_of(key)) <= set(friends) for key in friends)

        chain.tries[slot] = max(
            range(int(self.share)), key=lambda candidate: (captured(candidate), -candidate)
        )


class Rational(Behaviour):
    """Does what pays best: the work for its reward, or a wrong value and the chance not to be found.

    With a reward R, a slash S, and work that costs `cost` times R: honest work earns R - C, fraud (1 - p) R - p S. So
    it cheats while p < C / (R + S) (PoSP, arXiv:2405.00295, without collusion). Its p begins with the share of
    submissions that the task's rules audit, as `PRIOR` observations, and is corrected by what becomes of its own
    frauds.
    """

    PRIOR = 10

    def __init__(self, actor: Actor, parameter: float | str) -> None:
        super().__init__(actor, parameter)
        self._tried: set[int] = set()
        self._judged: dict[int, bool] = {}

    def found_chance(self) -> float:
        """What it takes its chance to be found for."""
        rules = self.actor.terms.audit
        prior = self.PRIOR * rules.audit_rate / BASIS_POINTS
        return (prior + sum(self._judged.values())) / (self.PRIOR + len(self._judged))

    def work(self, number: int, work: Work) -> Work:
        """See `Behaviour`."""
        self._learn()
        terms, roster = self.actor.terms, self.actor.chain.roster(number)
        reward = terms.bounty_per_round / max(1, len(roster))
        slash = self.actor.chain.stake_of(self.actor.key) * terms.slash_basis_points / BASIS_POINTS
        if self.found_chance() * (reward + slash) >= self.share * reward:
            return work
        self._tried.add(number)
        return wrong(work)

    def _learn(self) -> None:
        for number in sorted(self._tried - self._judged.keys()):
            state = self.actor.engine.round(number)
            commitment = state.commitment if state is not None else None
            if commitment is not None:
                outcome = commitment.outcome_of.get(self.actor.key)
                self._judged[number] = outcome is Outcome.REJECTED
