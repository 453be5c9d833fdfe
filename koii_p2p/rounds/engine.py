"""`RoundEngine`: one task's gradual consensus at one node. Events in, actions out; nothing else.

Three rounds are in flight at any slot (PROTOCOL 4): the task works in round P, submissions of P-1 are made
and audited, and the list of P-2 is anchored, voted on and settled; rounds whose list was vetoed are tried again
meanwhile. Whoever drives the engine feeds it slots, what K2 holds, what peers send and what the task's functions
return, and carries out the actions it asks for. `TakingPart` says what this node has to say in a round, `Anchoring`
looks after commitments and lists; the engine knows the rounds there are, and which facts concern whom.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified
from koii_p2p.records.equivocation import equivocation_of
from koii_p2p.records.schema import Kind
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Action as Judgement
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.anchoring import Anchoring
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.asking import Asking
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.coverage import Coverage, coverage
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.eligibility import window_of
from koii_p2p.rounds.events import Action, Event
from koii_p2p.rounds.item_set import ItemSet
from koii_p2p.rounds.offences import carrying_round
from koii_p2p.rounds.record_book import BookStatistics, RecordBook
from koii_p2p.rounds.reputation import Reputation, audit_rates
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.taking_part import TakingPart
from koii_p2p.rounds.terms import TaskTerms

SUBMITTER = Role()
"""What a node does unless its operator chose otherwise: it submits and audits what it is due for."""


class RoundEngine:
    """The rounds of one task as one node sees them. Not thread-safe; every method returns at once."""

    def __init__(
        self,
        terms: TaskTerms,
        genesis: bytes,
        key: bytes,
        *,
        private: bytes = b"",
        role: Role = SUBMITTER,
        limits: Limits | None = None,
    ) -> None:
        """`genesis` is K2's genesis hash, `key` the 32-byte staking key we sign with.

        `private` (32 bytes that nobody else can know, the same in every run) salts sealed ballots and chooses
        canaries. Raises ValueError if the task has sealed ballots and there is none.
        """
        if terms.audit.sealed and len(private) != 32:
            raise ValueError("sealed ballots need 32 private bytes to salt them with")
        limits = limits or Limits()
        self.terms = terms
        self.clock = terms.clock
        self._key = key
        self._limits = limits
        self._period = -1
        self._asking = Asking(terms.audit_window)
        self._book = RecordBook(terms, genesis, limits)
        self._part = TakingPart(terms, key, role, private, self._asking, limits)
        self._anchoring = Anchoring(key, self._book, self._asking, self._part)

    # --- facts in

    def handle(self, event: Event) -> list[Action]:
        """Take in one fact and return what to do now. Facts about rounds no longer kept are ignored."""
        match event:
            case events.SlotAdvanced(slot=slot):
                if slot <= self._asking.slot:
                    return []
                self._asking.slot = slot
                self._open_and_close_rounds()
            case events.AnchorsRead(anchored=anchored, slot=slot):
                self._anchoring.read(anchored, slot)
            case events.ArtifactsRead():
                return [*self._anchoring.read_artifacts(event), *self._steps()]
            case events.RosterRead(roster=roster):
                if state := self._book.rounds.get(roster.round):
                    state.roster = roster
            case _:
                if state := self._book.rounds.get(event.round):
                    said = self._take_in(event, state)
                    if said is not None:
                        return said
        return self._steps()

    def _take_in(self, event: events.RoundEvent, state: RoundState) -> list[Action] | None:
        """Take in a fact about one round. Returns what it leads to by itself, or None: all rounds take their steps."""
        match event:
            case events.BlockhashRead(blockhash=blockhash):
                if blockhash != state.blockhash:
                    state.assignment = None  # a fork took a block back: other auditors are drawn
                state.blockhash = blockhash
                state.beacon = beacon(blockhash, self.terms.task, state.round)
            case events.AuditMade(submission_id=submission_id, verdict=verdict):
                state.verdicts[submission_id] = verdict
                state.reasons[submission_id] = event.evidence
            case events.DistributionMade(amounts=amounts):
                state.amounts = dict(amounts)
            case events.OpeningRead(opening=opening):
                state.opening = opening
            case events.SubmissionMade(value=value):
                return self._part.submit(state, value)
            case events.CommitmentAnchored(signature=signature):
                return self._anchoring.notify_commitment(state, signature)
            case events.ListAnchored(signature=signature):
                return self._anchoring.notify_list(state, signature)
        return None

    def receive(
        self, raw: bytes, source: Source, slot: int | None = None, *, kinds: Container[Kind] | None = None
    ) -> tuple[Judgement, Verified | None]:
        """Judge one record from a peer, from reconciliation or of our own; see `RecordBook.receive`.

        `slot` is the slot of receipt of a record read back from disk; now, otherwise. What it leads to comes
        out of the next slot's actions: records arrive in bursts, and are acted on once.
        """
        return self._book.receive(raw, source, self.slot if slot is None else slot, kinds=kinds)

    # --- facts out

    def presences(self) -> tuple[Verified, ...]:
        """The newest presence of everybody who said where it is, by key."""
        return self._book.presences()

    def item_set(self, number: int) -> ItemSet:
        """The records held of a round, as reconciliation compares them; empty for a round that is not kept."""
        state = self._book.rounds.get(number)
        return state.item_set() if state else ItemSet(())

    def lacks(self, number: int, record_id: bytes) -> bool:
        """Whether a record of a round is not held; also True for a round that is not kept."""
        state = self._book.rounds.get(number)
        return state is None or record_id not in state.by_id

    def records_of(self, number: int, ids: Iterable[bytes]) -> Iterator[bytes]:
        """Raw records of a round by id; ids that are not held are passed over."""
        if state := self._book.rounds.get(number):
            yield from (state.by_id[record_id].raw for record_id in ids if record_id in state.by_id)

    def round(self, number: int) -> RoundState | None:
        """What we know of a round that is still kept. Read only."""
        return self._book.rounds.get(number)

    def rounds(self) -> tuple[int, ...]:
        """The rounds still kept, oldest first."""
        return tuple(sorted(self._book.rounds))

    def anchored(self, number: int) -> AnchoredRound | None:
        """What K2 holds of a round, as last read."""
        return self._anchoring.anchored(number)

    def previous_digest(self, number: int) -> bytes:
        """Digest of the commitment that one to this round has to follow."""
        return self._anchoring.previous_digest(number)

    def list_of(self, number: int) -> DistributionList | None:
        """The list of a round that is both anchored and held by us."""
        return self._anchoring.list_of(number)

    def newest_list(self) -> DistributionList | None:
        """The newest list that is both anchored and held by us."""
        return self._anchoring.newest_list()

    def reputations(self, number: int) -> dict[bytes, Reputation] | None:
        """Reputations that count in a round, by key; empty where the task has none, None while they are unknown."""
        return self._anchoring.reputations(number)

    def coverage(self) -> Coverage | None:
        """Who was not heard in the newest round whose first ballots are over, of those who were due to speak."""
        for number in reversed(self.rounds()):
            if self.slot >= self.clock.audit(number).closes:
                return coverage(self._book.rounds[number], self._key)
        return None

    @property
    def slot(self) -> int:
        """The last slot the engine was told of; -1 before the first."""
        return self._asking.slot

    def statistics(self) -> BookStatistics:
        """Counters for `status`, metrics and tests."""
        return self._book.statistics()

    # --- rounds come and go

    def _open_and_close_rounds(self) -> None:
        period = self.clock.period(self.slot)
        if period == self._period:
            return
        self._period = period
        for number in range(max(period - 2, 0), period + 1):
            if number not in self._book.rounds:
                self._book.rounds[number] = RoundState(self.terms.task, number, moments=self._moments(number))
        oldest = period - self._limits.rounds_kept
        for number in [number for number in self._book.rounds if number < oldest]:
            del self._book.rounds[number]
        self._anchoring.forget_before(oldest)
        self._asking.forget_before(self.slot - self.clock.round_time + 1)

    def _steps(self) -> list[Action]:
        """What each round in flight needs at this slot."""
        if not self._anchoring.known or self.slot < self.clock.starting_slot:
            return []
        actions: list[Action] = []
        period = self.clock.period(self.slot)
        for number in sorted(self._book.rounds):
            if self._anchoring.is_open(number, period):
                state = self._book.rounds[number]
                actions += self._unparked(state)
                actions += self._step(state)
        return actions

    def _step(self, state: RoundState) -> Iterator[Action]:
        if state.roster is None:
            yield from self._asking.ask(events.ReadRoster(state.round))
            return
        ends = self.clock.submission(state.round).closes
        if state.assignment is None and self.slot >= ends:
            if state.beacon is None:
                yield from self._asking.ask(events.ReadBlockhash(state.round, ends))
            else:
                yield from self._assign(state)
                # What an earlier run of this node said may be among what waited for the auditors.
                yield from self._unparked(state)
        yield from self._part.steps(state)
        yield from self._reconcile(state)
        yield from self._convict(state)
        yield from self._anchoring.steps(state)

    def _unparked(self, state: RoundState) -> list[Action]:
        """Records that had been parked, and are admitted by what is known by now."""
        return [events.KeepRecord(record) for record in self._book.unpark(state, self.slot)]

    def _assign(self, state: RoundState) -> Iterator[Action]:
        """Draw the auditors, once roster, beacon and, where reputation counts, the rounds before are known."""
        known = self._anchoring.reputations(state.round)
        if state.roster is None or state.beacon is None:
            return
        if known is None:
            yield from self._anchoring.missing_standings(state.round)
            return
        rates = audit_rates(known, self.terms.audit)
        state.assignment = AuditAssignment(state.beacon, state.roster, self.terms.audit, rates)

    # --- reconciliation

    def _moments(self, number: int) -> tuple[int, ...]:
        """Slots at which to reconcile a round.

        While submissions, votes and list votes are still in time, since gossip may lose any of them (a peer whose slot
        lags puts aside what comes early, and forwards none of it) and what comes late need not be committed to; when
        submissions close, while stragglers are awaited, at each stage, twice before anybody commits, twice more while
        that is still possible (a net that heals by then agrees in the next attempt, if not in this one), and while
        owning up to a canary counts, where there are canaries.
        """
        window = self.terms.audit_window
        audit, full, delay, openings, listing = (
            self.clock.audit(number),
            self.clock.full_audit(number),
            self.clock.delay(number),
            self.clock.openings(number),
            self.clock.distribution(number),
        )
        moments = {
            self.clock.submission(number).closes - self.terms.submission_window // 3,
            full.opens - window // 12,
            full.closes - window // 12,
            self.clock.distribution_audit(number).opens + window // 6,
            audit.opens,
            audit.opens + window // 6,
            audit.opens + window // 4,
            full.opens,
            full.opens + window // 12,
            delay.opens,
            delay.opens + self._anchoring.quiet() // 2,
            (listing.opens + listing.closes) // 2,
            listing.closes - self.terms.submission_window // 6,
        }
        if self.terms.audit.canary_rate:
            moments |= {(openings.opens + openings.closes) // 2, openings.closes}
        return tuple(sorted(moments))

    def _reconcile(self, state: RoundState) -> Iterator[Action]:
        passed = bisect_right(state.moments, self.slot)
        if passed <= state.reconciled:
            return
        state.reconciled = passed
        if self.slot < self.clock.settles_at(state.round):
            yield events.Reconcile(state.round)

    # --- evidence

    def _convict(self, state: RoundState) -> Iterator[Action]:
        """Say once, with both records, that somebody contradicted itself in this round."""
        for (place, author), second in list(state.equivocations.items()):
            target = self._book.rounds.get(carrying_round(place))
            first = state.held.get((place, author))
            if target is None or target.roster is None or first is None or author in target.evidence:
                continue
            if self._key not in target.roster or author not in target.roster:
                continue
            evidence = self._part.say(target.round, equivocation_of(first, second))
            window = window_of(evidence.statement, self.terms)
            if window is not None and self.slot in window:
                yield from self._asking.ask(evidence, key=("convict", target.round, author))
