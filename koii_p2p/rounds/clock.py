"""The round clock: which slots belong to which phase of which round. Slots only, never wall time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SLOWER_CLOCKS = 3
"""Slots by which honest estimates of the slot usually differ, at most."""


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open range of slots `[opens, closes)`; empty when both are equal.

    Koii docs: the stacking-rounds figure leaves the edges open; half-open is the reading under which every
    slot belongs to exactly one phase.
    """

    opens: int
    closes: int

    def __contains__(self, slot: int) -> bool:
        return self.opens <= slot < self.closes

    @property
    def spoken(self) -> Window:
        """Its slots in which to speak: not the first ones, in which whoever is a little behind would still be outside.

        Gossip does not pass on what is early. At most `SLOWER_CLOCKS` slots, and a sixteenth of a short window.
        """
        return Window(self.opens + min(SLOWER_CLOCKS, (self.closes - self.opens) // 16), self.closes)


class Phase(Enum):
    """Where a work round stands at a given slot."""

    FUTURE = "future"
    WORK = "work"
    SUBMISSION = "submission"
    AUDIT = "audit"
    DELAY = "delay"
    DISTRIBUTION = "distribution"
    DISTRIBUTION_AUDIT = "distribution audit"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class RoundClock:
    """Windows of every round of one task, all lengths in slots.

    Koii docs: `EZ:Lesson 1/imgs/stacking-rounds.png`. Work round `r` is worked on in period `r`, submitted
    and audited in period `r + 1`, paid in period `r + 2`; the same two window lengths serve both halves.
    """

    starting_slot: int
    round_time: int
    submission_window: int
    audit_window: int

    def period(self, slot: int) -> int:
        """Period that `slot` falls into: `floor((slot - S0) / RT)`; negative before the task starts."""
        return (slot - self.starting_slot) // self.round_time

    def work(self, round_number: int) -> Window:
        """Slots in which the work of the round is done: the whole period `r`."""
        opens = self._start(round_number)
        return Window(opens, opens + self.round_time)

    def submission(self, round_number: int) -> Window:
        """Slots in which submissions of the round are accepted: the first `SW` of period `r + 1`."""
        opens = self._start(round_number + 1)
        return Window(opens, opens + self.submission_window)

    def audit(self, round_number: int) -> Window:
        """Slots in which ballots of the round are accepted: the `AW` that follow the submissions."""
        opens = self.submission(round_number).closes
        return Window(opens, opens + self.audit_window)

    def first_ballots(self, round_number: int) -> Window:
        """Slots for the ballots of those drawn, and for challenges: the first two thirds of the audit."""
        window = self.audit(round_number)
        return Window(window.opens, self._audit_at(round_number, 2, 3))

    def seals(self, round_number: int) -> Window:
        """Slots for sealed ballots, where a task wants them: the first third of the audit."""
        return Window(self.audit(round_number).opens, self._audit_at(round_number, 1, 3))

    def openings(self, round_number: int) -> Window:
        """Slots for owning up to a canary: after nobody can seal any more, before anybody reveals."""
        return Window(self._audit_at(round_number, 1, 3), self._audit_at(round_number, 1, 2))

    def reveals(self, round_number: int) -> Window:
        """Slots for revealing sealed ballots: until the first ballots end."""
        return Window(self._audit_at(round_number, 1, 2), self._audit_at(round_number, 2, 3))

    def full_audit(self, round_number: int) -> Window:
        """Slots for the votes of a full audit: the last third of the audit."""
        return Window(self._audit_at(round_number, 2, 3), self.audit(round_number).closes)

    def delay(self, round_number: int) -> Window:
        """Slots between the audit and the end of period `r + 1`: peers reconcile what they know."""
        return Window(self.audit(round_number).closes, self._start(round_number + 2))

    def commitment(self, round_number: int, attempt: int = 0) -> Window:
        """Slots in which the round may be committed to: from audit end to the end of its distribution window.

        Longer than the delay, so that a chain that is down for the delay does not cost the round. A later attempt
        has the slots between the veto of the one before it and the end of that period.
        """
        if attempt:
            return self._retry(round_number, attempt)
        return Window(self.audit(round_number).closes, self.distribution(round_number).closes)

    def distribution(self, round_number: int, attempt: int = 0) -> Window:
        """Slots in which the distribution list is accepted: the first `SW` of period `r + 2`.

        That of a later attempt follows its commitment within the same slots, so that the list of the next round
        always comes after it and can build on it.
        """
        if attempt:
            return self._retry(round_number, attempt)
        opens = self._start(round_number + 2)
        return Window(opens, opens + self.submission_window)

    def distribution_audit(self, round_number: int, attempt: int = 0) -> Window:
        """Slots in which the distribution list is voted on: the `AW` that follow it; a period later per attempt."""
        opens = self.distribution(round_number).closes + attempt * self.round_time
        return Window(opens, opens + self.audit_window)

    def settles_at(self, round_number: int, attempt: int = 0) -> int:
        """First slot at which the list of the round is final and may be settled."""
        return self.distribution_audit(round_number, attempt).closes

    def phase(self, round_number: int, slot: int) -> Phase:
        """Phase of one work round at one slot. Every slot has exactly one; the delay may be empty."""
        ends = (
            (self._start(round_number), Phase.FUTURE),
            (self.work(round_number).closes, Phase.WORK),
            (self.submission(round_number).closes, Phase.SUBMISSION),
            (self.audit(round_number).closes, Phase.AUDIT),
            (self.delay(round_number).closes, Phase.DELAY),
            (self.distribution(round_number).closes, Phase.DISTRIBUTION),
            (self.distribution_audit(round_number).closes, Phase.DISTRIBUTION_AUDIT),
        )
        for end, phase in ends:
            if slot < end:
                return phase
        return Phase.SETTLED

    def _retry(self, round_number: int, attempt: int) -> Window:
        before = self.distribution_audit(round_number, attempt - 1)
        return Window(before.opens, self._start(round_number + 2 + attempt))

    def _audit_at(self, round_number: int, numerator: int, denominator: int) -> int:
        return self.audit(round_number).opens + self.audit_window * numerator // denominator

    def _start(self, period: int) -> int:
        return self.starting_slot + period * self.round_time
