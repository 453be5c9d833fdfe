"""Behaviours of those who audit: not looking, copying, lying together or alone, keeping votes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from koii_p2p.lab.behaviours.behaviour import Actor, Behaviour
from koii_p2p.lab.behaviours.submitters import wrong
from koii_p2p.lab.work import Work
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, Kind, ListVote, Verdict
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.eligibility import DRAWN
from koii_p2p.rounds.events import AuditSubmission, SignAndPublish
from koii_p2p.rounds.misconduct import agreeing
from koii_p2p.rounds.round_records import entries_of

Look = Callable[[], Verdict]


def _valid() -> Verdict:
    return Verdict.VALID


def _invalid() -> Verdict:
    return Verdict.INVALID


class _Draws(Behaviour):
    """What it does with one submission is one draw, however often it is asked."""

    def draws(self, action: AuditSubmission) -> bool:
        """Whether its parameter's chance comes true for this submission."""
        return self.happens(int.from_bytes(action.submission_id[:6], "big"))


class Lazy(_Draws):
    """Calls what it does not look at VALID."""

    def verdict(self, action: AuditSubmission, look: Look) -> Look:
        """See `Behaviour`."""
        return look if self.draws(action) else _valid


class Copier(_Draws):
    """Votes as most of the votes that it has seen; VALID where there are none.

    It waits with its ballot for as long as it can, so that there are votes to copy; sealed ballots show nothing.
    """

    def verdict(self, action: AuditSubmission, look: Look) -> Look:
        """See `Behaviour`."""
        return look if self.draws(action) else lambda: self._copied(action.round, action.submission_id)

    def _copied(self, number: int, submission_id: bytes) -> Verdict:
        state = self.actor.engine.round(number)
        if state is None:
            return Verdict.VALID
        seen = [
            entry.verdict
            for kind in (Kind.BALLOT, Kind.BALLOT_REVEAL)
            for record in state.of_kind(kind)
            for entry in entries_of(record)
            if entry.submission_id == submission_id and record.author != self.actor.key
        ]
        return Verdict.INVALID if 2 * seen.count(Verdict.INVALID) > len(seen) else Verdict.VALID

    def says(self, action: SignAndPublish) -> SignAndPublish | None:
        """Keep an open first ballot until the last slots in which it can still reach the others; then copy anew."""
        statement, body = action.statement, action.statement.body
        clock, rules = self.actor.terms.clock, self.actor.terms.audit
        if not isinstance(body, Ballot) or statement.seq != DRAWN or rules.sealed:
            return action
        window = (
            clock.audit(statement.round)
            if rules.profile is Profile.KOII
            else clock.first_ballots(statement.round)
        )
        last = window.closes - max(2, (window.closes - window.opens) // 8)
        if self.actor.engine.slot < last:
            return None  # the engine asks again
        entries = tuple(
            entry
            if self.happens(int.from_bytes(entry.submission_id[:6], "big"))
            else replace(entry, verdict=self._copied(statement.round, entry.submission_id))
            for entry in body.entries
        )
        return replace(action, statement=replace(statement, body=replace(body, entries=entries)))


class Colluder(Behaviour):
    """Submits a wrong value, calls its ring VALID, and agrees with what the ring anchors.

    Node numbers modulo the parameter name the ring. What is not the ring's, it audits as it should.
    """

    def _is_friend(self, key: bytes) -> bool:
        number = self.actor.numbers.get(key)
        if number is None or "colluder" not in self.actor.cast[key]:
            return False
        rings = int(self.share)
        return number % rings == self.actor.number % rings

    def work(self, number: int, work: Work) -> Work:
        """See `Behaviour`."""
        return wrong(work)

    def verdict(self, action: AuditSubmission, look: Look) -> Look:
        """See `Behaviour`."""
        return _valid if self._is_friend(action.author) else look

    def says(self, action: SignAndPublish) -> SignAndPublish | None:
        """Agree with a friend's anchors, whatever they are."""
        statement = action.statement
        if not isinstance(statement.body, ListVote):
            return action
        anchored = self.actor.chain.anchored.get(statement.round)
        if anchored is None or not any(self._is_friend(key) for key in anchored.anchorers):
            return action
        return replace(action, statement=agreeing(statement))


class Accuser(_Draws):
    """Calls honest submissions INVALID, as soon as it votes."""

    def verdict(self, action: AuditSubmission, look: Look) -> Look:
        """See `Behaviour`."""
        return _invalid if self.draws(action) and not self.actor.is_adversary(action.author) else look


class LateAccuser(Behaviour):
    """Calls honest submissions INVALID so late that hardly anybody can answer.

    What it says first waits until so many slots before first ballots close. A sealed ballot cannot wait: it is what its
    reveal says that comes late.
    """

    def __init__(self, actor: Actor, parameter: float | str) -> None:
        super().__init__(actor, parameter)
        self._kept: dict[int, SignAndPublish] = {}

    def verdict(self, action: AuditSubmission, look: Look) -> Look:
        """See `Behaviour`."""
        return look if self.actor.is_adversary(action.author) else _invalid

    def says(self, action: SignAndPublish) -> SignAndPublish | None:
        """See `Behaviour`."""
        statement, sealed = action.statement, self.actor.terms.audit.sealed
        kind = Kind.BALLOT_REVEAL if sealed else Kind.BALLOT
        if (
            statement.kind is not kind
            or statement.seq != DRAWN
            or self.actor.engine.slot >= self._due(statement.round)
        ):
            return action
        self._kept.setdefault(statement.round, action)
        return None

    def tick(self, slot: int) -> None:
        """See `Behaviour`."""
        for number in sorted(self._kept):
            if slot >= self._due(number):
                kept = self._kept.pop(number)
                self.actor.do(replace(kept, statement=replace(kept.statement, slot=slot)))

    def _due(self, number: int) -> int:
        clock = self.actor.terms.clock
        koii = self.actor.terms.audit.profile is Profile.KOII
        closes = (clock.audit(number) if koii else clock.first_ballots(number)).closes
        return closes - int(self.share)


class NonRevealer(Behaviour):
    """Seals its ballots, and does not say what is in some of them."""

    def says(self, action: SignAndPublish) -> SignAndPublish | None:
        """See `Behaviour`."""
        statement = action.statement
        kept = statement.kind is Kind.BALLOT_REVEAL and self.happens(statement.round)
        return None if kept else action


class Freeloader(Behaviour):
    """Hands in its work, and does nothing for others: no ballots but a share of them, no forwarding."""

    def says(self, action: SignAndPublish) -> SignAndPublish | None:
        """See `Behaviour`."""
        statement = action.statement
        kept = statement.kind is Kind.BALLOT and not self.happens(statement.round)
        return None if kept else action

    def forwards(self, record: Verified) -> bool:
        """See `Behaviour`."""
        return False
