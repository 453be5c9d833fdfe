"""What a node says in a round before it is committed to: work, ballots, reveals, challenges (PROTOCOL §4 and §6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    Kind,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.records.seals import opens, seal_of
from koii_p2p.rounds import events
from koii_p2p.rounds.asking import Asking
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT, MAX_CHALLENGES
from koii_p2p.rounds.events import Action
from koii_p2p.rounds.omissions import reveals_at
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.round_records import entries_of
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.terms import TaskTerms

_SALT = b"koii-p2p/1 salt"
_CANARY = b"koii-p2p/1 canary"

MOST_REASONS = 512
"""Votes of one ballot that say why, which takes 32 bytes each: a ballot of the most votes still fits a record."""

OWNING_UP = MAX_CHALLENGES - 1
"""The challenge that a node keeps for owning up to its own canary, however many others it has made by then."""


class TakingPart:
    """One node's own words in every round, and what it has to ask its task for to find them."""

    def __init__(
        self, terms: TaskTerms, key: bytes, role: Role, private: bytes, asking: Asking, limits: Limits
    ) -> None:
        self._terms = terms
        self._clock = terms.clock
        self._rules = terms.audit
        self._key = key
        self._role = role
        self._private = private
        self._asking = asking
        self._limits = limits

    def steps(self, state: RoundState) -> Iterator[Action]:
        """What this node does now in one round, as a staker or as a witness without stake."""
        if state.roster is None:
            return
        staked = self._key in state.roster
        if staked and self._role.submits:
            yield from self._work(state)
        if state.assignment is None or not (staked or self._rules.witness_seats):
            return
        yield from self._first_ballot(state)
        if self._rules.sealed:
            yield from self._reveal(state)
        if staked and self._rules.profile is not Profile.KOII:
            yield from self._patrol(state)
            yield from self._own_up(state)
            yield from self._full_audit(state)

    def say(
        self, number: int, body: Body, seq: int = 0, opening: BallotReveal | None = None
    ) -> events.SignAndPublish:
        """The action that makes a statement of this slot."""
        statement = Statement(self._terms.task, number, self._asking.slot, seq, body)
        return events.SignAndPublish(statement, opening)

    # --- work and submission

    def _work(self, state: RoundState) -> Iterator[Action]:
        slot = self._asking.slot
        if slot in self._clock.work(state.round) and not state.task_called:
            state.task_called = True
            yield events.RunTask(state.round)
        if (
            slot in self._clock.submission(state.round).spoken
            and not state.nothing_to_submit
            and state.of_author(Kind.SUBMISSION, self._key) is None
        ):
            yield from self._asking.ask(events.MakeSubmission(state.round, self._is_canary(state.round)))

    def submit(self, state: RoundState, value: str | bytes | None) -> list[Action]:
        """Hand in what the task made of the round, if there is something and still time."""
        if self._asking.slot not in self._clock.submission(state.round):
            return []
        if value is None:
            state.nothing_to_submit = True
            return []
        if state.of_author(Kind.SUBMISSION, self._key) is not None:
            return []
        return [self.say(state.round, Submission(value))]

    def _is_canary(self, number: int) -> bool:
        """A draw with this node's secret: nobody else can know whose work is bad on purpose."""
        if not self._role.canaries:
            return False
        draw = int.from_bytes(self._derived(_CANARY, number), "big")
        return draw % BASIS_POINTS < self._rules.canary_rate

    def _derived(self, domain: bytes, number: int) -> bytes:
        return sha256(domain + self._private + self._terms.task + number.to_bytes(8, "little")).digest()

    # --- first ballots

    def _first_ballot(self, state: RoundState) -> Iterator[Action]:
        window = self._first_window(state.round)
        if self._asking.slot not in window or state.looked or state.of_author(Kind.BALLOT, self._key):
            return
        due = self._due(state)
        yield from self._audits(state, due)
        # Half of the window lets stragglers be pulled; at three quarters a slow audit counts as unavailable,
        # so that the ballot still reaches everyone in time.
        ripe = self._ripe(state, window, due, complete_after=(1, 2), slow_after=(3, 4), closed_at=(7, 8))
        if ripe and self._rules.profile is Profile.KOII:
            yield from self._koii_ballot(state, ripe)
        elif ripe:
            yield from self._ballot(state, self._votes(state, ripe))

    def _first_window(self, number: int) -> Window:
        if self._rules.profile is Profile.KOII:
            return self._clock.audit(number)
        return self._clock.seals(number) if self._rules.sealed else self._clock.first_ballots(number)

    def _due(self, state: RoundState) -> tuple[Verified, ...]:
        """The submissions that this node votes on first, by id. Computed anew when a record was added."""
        if state.due[0] != state.changes and state.assignment is not None and state.roster is not None:
            submissions = state.submissions()
            if self._rules.profile is Profile.KOII or self._key not in state.roster:
                authors = state.assignment.sample_of(self._key, submissions)
            else:
                authors = state.assignment.authors_for(self._key, submissions)
            due = sorted((submissions[author] for author in authors), key=lambda record: record.id)
            state.due = (state.changes, tuple(due))
        return state.due[1]

    def _ballot(self, state: RoundState, entries: tuple[BallotEntry, ...]) -> Iterator[Action]:
        key = ("ballot", state.round)
        if not self._rules.sealed:
            yield from self._asking.ask(self.say(state.round, Ballot(entries)), key=key)
            return
        # After a crash between sealing and publishing, the first opening is the one that counts.
        state.opening = state.opening or BallotReveal(self._derived(_SALT, state.round), entries)
        seal = seal_of(state.opening, self._terms.task, state.round, self._key)
        sealed = self.say(state.round, Ballot(seal=seal), opening=state.opening)
        yield from self._asking.ask(sealed, key=key)

    def _koii_ballot(self, state: RoundState, due: Iterable[Verified]) -> Iterator[Action]:
        """Votes against what is bad, and for what is good only where somebody voted against it: once, as Koii does."""
        state.looked = True
        accused = {
            entry.submission_id
            for record in state.of_kind(Kind.BALLOT)
            for entry in entries_of(record)
            if entry.verdict is Verdict.INVALID
        }
        entries = tuple(
            entry
            for entry in self._votes(state, due)
            if entry.verdict is Verdict.INVALID
            or (entry.verdict is Verdict.VALID and entry.submission_id in accused)
        )
        if entries:
            yield from self._asking.ask(self.say(state.round, Ballot(entries)), key=("ballot", state.round))

    def _reveal(self, state: RoundState) -> Iterator[Action]:
        ballot, opening = state.of_author(Kind.BALLOT, self._key), state.opening
        window = Window(reveals_at(self._terms, state.round), self._clock.reveals(state.round).closes)
        if self._asking.slot not in window or ballot is None or opening is None:
            return
        if state.of_author(Kind.BALLOT_REVEAL, self._key) is not None:
            return
        body = ballot.statement.body
        seal = body.seal if isinstance(body, Ballot) else None
        if seal is not None and opens(opening, seal, self._terms.task, state.round, self._key):
            yield from self._asking.ask(self.say(state.round, opening), key=("reveal", state.round))

    # --- challenges and full audits

    def _patrol(self, state: RoundState) -> Iterator[Action]:
        """Look at more than is due, and challenge what is bad and nobody has accused."""
        assignment = state.assignment
        if not self._role.patrols or self._asking.slot not in self._clock.first_ballots(state.round):
            return
        submissions = state.submissions()
        if assignment is None or not submissions:
            return
        free = [author for author in submissions if not assignment.may_vote(self._key, author, DRAWN)]
        chosen = [submissions[author] for author in assignment.sample_of(self._key, free, self._role.patrols)]
        yield from self._audits(state, chosen)
        bad = [record for record in chosen if state.verdicts.get(record.id) is Verdict.INVALID]
        under_dispute = state.disputed(self._terms) if bad else {}
        most = OWNING_UP if self._is_canary(state.round) else MAX_CHALLENGES
        for record in bad:
            seq = state.challenges_of(self._key)
            if record.id not in under_dispute and seq < most:
                challenge = self.say(state.round, Challenge(record.id, _digest_of(record)), seq)
                yield from self._asking.ask(challenge, key=("challenge", state.round, seq))
                return

    def _own_up(self, state: RoundState) -> Iterator[Action]:
        if self._asking.slot not in self._clock.openings(state.round):
            return
        state.watched_openings = True
        own = state.of_author(Kind.SUBMISSION, self._key)
        if own is None or not self._is_canary(state.round):
            return
        if state.of_author(Kind.CHALLENGE, self._key, OWNING_UP) is None:
            challenge = self.say(state.round, Challenge(own.id, _digest_of(own)), OWNING_UP)
            yield from self._asking.ask(challenge, key=("own up", state.round))

    def _full_audit(self, state: RoundState) -> Iterator[Action]:
        window = self._clock.full_audit(state.round)
        if self._rules.profile is Profile.ALL or self._asking.slot not in window or state.assignment is None:
            return
        if state.of_author(Kind.BALLOT, self._key, FULL_AUDIT) is not None:
            return
        voted = {entry.submission_id for entry in self._own_first_votes(state)}
        due = tuple(
            state.by_id[record_id]
            for record_id, author in sorted(state.disputed(self._terms).items())
            if record_id not in voted and state.assignment.may_vote(self._key, author, FULL_AUDIT)
        )
        yield from self._audits(state, due)
        ripe = self._ripe(state, window, due, complete_after=(1, 3), slow_after=(2, 3), closed_at=(2, 3))
        if ripe:
            ballot = self.say(state.round, Ballot(self._votes(state, ripe)), FULL_AUDIT)
            yield from self._asking.ask(ballot, key=("full ballot", state.round))

    def _own_first_votes(self, state: RoundState) -> tuple[BallotEntry, ...]:
        kind = Kind.BALLOT_REVEAL if self._rules.sealed else Kind.BALLOT
        record = state.of_author(kind, self._key)
        return entries_of(record) if record else ()

    # --- verdicts

    def _audits(self, state: RoundState, due: Iterable[Verified]) -> Iterator[Action]:
        for submission in due:
            body = submission.statement.body
            if submission.id not in state.verdicts and isinstance(body, Submission):
                yield from self._asking.ask(
                    events.AuditSubmission(state.round, submission.id, submission.author, body.value)
                )

    def _ripe(
        self,
        state: RoundState,
        window: Window,
        due: tuple[Verified, ...],
        *,
        complete_after: tuple[int, int],
        slow_after: tuple[int, int],
        closed_at: tuple[int, int],
    ) -> tuple[Verified, ...]:
        """What a ballot that is closed now votes on; nothing while it has to stay open. Fractions are of its window.

        It may close with all verdicts, later without the slow ones, and at last without those that were asked for only
        just now: of a submission or an accusation that came late, silence says less than UNAVAILABLE would. That is a
        vote, and who comes late on purpose could keep an honest reward back by it.
        """
        elapsed, length = self._asking.slot - window.opens, window.closes - window.opens
        complete, slow, closed = (
            elapsed >= length * part // whole for part, whole in (complete_after, slow_after, closed_at)
        )
        judged = [submission for submission in due if submission.id in state.verdicts]
        if len(judged) == len(due):
            return due if complete else ()
        ripe = tuple(
            submission
            for submission in due
            if self._asking.since(("due", state.round, submission.id)) >= length // 4
            or submission.id in state.verdicts
        )
        return ripe if closed or (slow and len(ripe) == len(due)) else ()

    def _votes(self, state: RoundState, due: Iterable[Verified]) -> tuple[BallotEntry, ...]:
        chosen = tuple(due)[: self._limits.ballot_entries]
        return tuple(
            BallotEntry(
                submission.id,
                state.verdicts.get(submission.id, Verdict.UNAVAILABLE),
                state.reasons.get(submission.id, b"") if place < MOST_REASONS else b"",
            )
            for place, submission in enumerate(chosen)
        )


def _digest_of(submission: Verified) -> bytes:
    """What was audited: SHA-256 of the submission's value, the evidence of a challenge that has no more to show."""
    body = submission.statement.body
    value = body.value if isinstance(body, Submission) else b""
    return sha256(value if isinstance(value, bytes) else value.encode()).digest()
