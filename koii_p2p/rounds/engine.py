"""`RoundEngine`: one task's gradual consensus at one node. Events in, actions out; nothing else.

Three rounds are in flight at any slot (PROTOCOL 4): the task works in round P, submissions of P-1 are made
and audited, and the list of P-2 is anchored, voted on and settled. Whoever drives the engine feeds it slots, what
K2 holds, what peers send and what the task's functions return, and carries out the actions it asks for.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    Body,
    CommitmentNotice,
    Kind,
    ListNotice,
    ListVote,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Action as Judgement
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.commitment import (
    NO_PREVIOUS,
    Bundle,
    Commitment,
    CommitmentError,
    build_commitment,
)
from koii_p2p.rounds.distribution import DistributionError, DistributionList, next_list, submitters_of
from koii_p2p.rounds.events import Action, Event
from koii_p2p.rounds.item_set import ItemSet
from koii_p2p.rounds.leader import leader_order, turn
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.record_book import BookStatistics, RecordBook
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.terms import TaskTerms

ASK_AGAIN_SLOTS = 10
"""An action that was not answered by its event is asked for again after this many slots."""


class RoundEngine:
    """The rounds of one task as one node sees them. Not thread-safe; every method returns at once."""

    def __init__(self, terms: TaskTerms, genesis: bytes, key: bytes, *, limits: Limits | None = None) -> None:
        """`genesis` is K2's genesis hash, `key` the 32-byte staking key we sign with."""
        self.terms = terms
        self.clock = terms.clock
        self._book = RecordBook(terms, genesis, limits or Limits())
        self._key = key
        self._limits = limits or Limits()
        self._slot = -1
        self._anchored: dict[int, AnchoredRound] | None = None
        self._lists: dict[int, DistributionList] = {}
        self._asked: dict[Hashable, int] = {}

    # --- facts in

    def handle(self, event: Event) -> list[Action]:
        """Take in one fact and return what to do now. Facts about rounds no longer kept are ignored."""
        match event:
            case events.SlotAdvanced(slot=slot):
                if slot <= self._slot:
                    return []
                self._slot = slot
                self._open_and_close_rounds()
            case events.AnchorsRead(anchored=anchored):
                self._anchored = dict(anchored)
            case events.RosterRead(roster=roster):
                if state := self._book.rounds.get(roster.round):
                    state.roster = roster
                    self._assign(state)
            case events.BlockhashRead(round=number, blockhash=blockhash):
                if state := self._book.rounds.get(number):
                    state.blockhash = blockhash
                    state.beacon = beacon(blockhash, self.terms.task, number)
                    self._assign(state)
            case events.SubmissionMade(round=number, value=value):
                return self._submit(number, value)
            case events.AuditMade(round=number, submission_id=submission_id, verdict=verdict):
                if state := self._book.rounds.get(number):
                    state.verdicts[submission_id] = verdict
            case events.DistributionMade(round=number, amounts=amounts):
                if state := self._book.rounds.get(number):
                    state.amounts = dict(amounts)
            case events.ArtifactsRead():
                return self._read_artifacts(event) + self._steps()
            case events.CommitmentAnchored(round=number, signature=signature):
                return self._notify_commitment(number, signature)
            case events.ListAnchored(round=number, signature=signature):
                return self._notify_list(number, signature)
        return self._steps()

    def receive(
        self, raw: bytes, source: Source, slot: int | None = None, *, kinds: Container[Kind] | None = None
    ) -> tuple[Judgement, Verified | None]:
        """Judge one record from a peer, from reconciliation or of our own; see `RecordBook.receive`.

        `slot` is the slot of receipt of a record read back from disk; now, otherwise. What it leads to comes
        out of the next slot's actions: records arrive in bursts, and are acted on once.
        """
        return self._book.receive(raw, source, self._slot if slot is None else slot, kinds=kinds)

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
        return (self._anchored or {}).get(number)

    def newest_list(self) -> DistributionList | None:
        """The newest list that is both anchored and held by us."""
        return self._lists[max(self._lists)] if self._lists else None

    @property
    def slot(self) -> int:
        """The last slot the engine was told of; -1 before the first."""
        return self._slot

    def statistics(self) -> BookStatistics:
        """Counters for `status`, metrics and tests."""
        return self._book.statistics()

    # --- rounds come and go

    def _open_and_close_rounds(self) -> None:
        period = self.clock.period(self._slot)
        for number in range(max(period - 2, 0), period + 1):
            self._book.rounds.setdefault(number, RoundState(self.terms.task, number))
        oldest = period - self._limits.rounds_kept
        for number in [number for number in self._book.rounds if number < oldest]:
            del self._book.rounds[number]
        for number in [number for number in self._lists if number < oldest and number != max(self._lists)]:
            del self._lists[number]
        self._asked = {
            key: slot for key, slot in self._asked.items() if slot > self._slot - self.clock.round_time
        }

    def _assign(self, state: RoundState) -> None:
        if state.roster is not None and state.beacon is not None:
            state.assignment = AuditAssignment(state.beacon, state.roster, self.terms.auditors)

    def _steps(self) -> list[Action]:
        """What each round in flight needs at this slot."""
        if self._anchored is None or self._slot < self.clock.starting_slot:
            return []
        actions: list[Action] = []
        period = self.clock.period(self._slot)
        for number in range(max(period - 2, 0), period + 1):
            state = self._book.rounds[number]
            actions += [events.KeepRecord(record) for record in self._book.unpark(state, self._slot)]
            actions += self._step(state)
        return actions

    def _step(self, state: RoundState) -> Iterator[Action]:
        if state.roster is None:
            yield from self._ask(events.ReadRoster(state.round))
            return
        closed = self._slot >= self.clock.submission(state.round).closes
        if closed and state.beacon is None:
            yield from self._ask(events.ReadBlockhash(state.round, self.clock.submission(state.round).closes))
        if self._key in state.roster:
            yield from self._work(state)
            yield from self._audit(state)
        yield from self._reconcile(state)
        yield from self._commit(state)
        yield from self._distribute(state)
        yield from self._settle(state)

    def _ask(self, action: Action, key: Hashable = None) -> Iterator[Action]:
        """Yield the action, unless it (or what `key` names) was asked for in the last few slots."""
        if self._due(action if key is None else key):
            yield action

    def _due(self, key: Hashable) -> bool:
        """Whether something may be asked for (again) now; it counts as asked for from then on."""
        asked = self._asked.get(key)
        if asked is not None and self._slot - asked < ASK_AGAIN_SLOTS:
            return False
        self._asked[key] = self._slot
        return True

    # --- work and submission

    def _work(self, state: RoundState) -> Iterator[Action]:
        if self._slot in self.clock.work(state.round) and not state.task_called:
            state.task_called = True
            yield events.RunTask(state.round)
        if (
            self._slot in self.clock.submission(state.round)
            and not state.nothing_to_submit
            and state.of_author(Kind.SUBMISSION, self._key) is None
        ):
            yield from self._ask(events.MakeSubmission(state.round))

    def _submit(self, number: int, value: str | bytes | None) -> list[Action]:
        state = self._book.rounds.get(number)
        if state is None or self._slot not in self.clock.submission(number):
            return []
        if value is None:
            state.nothing_to_submit = True
            return []
        if state.of_author(Kind.SUBMISSION, self._key) is not None:
            return []
        return [self._say(number, Submission(value))]

    def _say(self, number: int, body: Body) -> Action:
        return events.SignAndPublish(Statement(self.terms.task, number, self._slot, 0, body))

    # --- audit

    def _audit(self, state: RoundState) -> Iterator[Action]:
        window = self.clock.audit(state.round)
        if self._slot not in window or state.assignment is None:
            return
        if state.of_author(Kind.BALLOT, self._key) is not None:
            return
        due = state.due_from(self._key)
        for submission in due:
            body = submission.statement.body
            if submission.id not in state.verdicts and isinstance(body, Submission):
                yield from self._ask(
                    events.AuditSubmission(state.round, submission.id, submission.author, body.value)
                )
        # A third of the window lets stragglers be pulled; at two thirds a slow audit counts as unavailable,
        # so that the ballot still reaches everyone in time.
        elapsed, length = self._slot - window.opens, self.terms.audit_window
        complete = all(submission.id in state.verdicts for submission in due)
        if due and (elapsed >= 2 * length // 3 or (complete and elapsed >= length // 3)):
            entries = tuple(
                BallotEntry(submission.id, state.verdicts.get(submission.id, Verdict.UNAVAILABLE))
                for submission in due[: self._limits.ballot_entries]
            )
            yield from self._ask(self._say(state.round, Ballot(entries)), key=("ballot", state.round))

    # --- reconciliation

    def _reconcile(self, state: RoundState) -> Iterator[Action]:
        """When submissions close, while stragglers are awaited, and twice before anybody commits."""
        audit, delay = self.clock.audit(state.round), self.clock.delay(state.round)
        moments = (
            audit.opens,
            audit.opens + self.terms.audit_window // 6,
            audit.opens + self.terms.audit_window // 4,
            delay.opens,
            delay.opens + self._commit_quiet() // 2,
        )
        due = [moment for moment in moments if moment <= self._slot]
        if due and self._slot < self.clock.commitment(state.round).closes:
            key = ("reconcile", state.round, due[-1])
            if key not in self._asked:
                self._asked[key] = self._slot
                yield events.Reconcile(state.round)

    # --- commitment

    def _commit_room(self) -> int:
        """Slots that ranked leaders share: the delay, or half a submission window where there is no delay."""
        delay = self.terms.round_time - self.terms.submission_window - self.terms.audit_window
        return delay or self.terms.submission_window // 2

    def _commit_quiet(self) -> int:
        return self._commit_room() // 3

    def _commit(self, state: RoundState) -> Iterator[Action]:
        if state.commitment is not None or state.beacon is None or state.roster is None:
            return
        anchored = self.anchored(state.round)
        if anchored is not None:
            yield from self._follow_commitment(state, anchored)
            return
        window = self.clock.commitment(state.round)
        if self._slot not in window:
            return
        rank = self._rank(state, self._commitment_candidates(state))
        if rank is None:
            return
        step = max(2, self._commit_room() // 6)
        my_turn = self._slot >= turn(window, rank, step) + self._commit_quiet()
        if my_turn and self._due(("commit", state.round)):
            proposal = self._propose(state)
            if proposal is not None:
                commitment, bundle = proposal
                yield events.AnchorCommitment(
                    state.round, commitment.digest, commitment.encode(), bundle.encode()
                )

    def _commitment_candidates(self, state: RoundState) -> Iterable[bytes]:
        """Stakers whose work was approved in the round before, else the whole roster (PROTOCOL §7)."""
        before = self._book.rounds.get(state.round - 1)
        return self._approved(before) if before else ()

    def _approved(self, state: RoundState) -> Iterable[bytes]:
        if state.commitment is None:
            return ()
        return [entry.author for entry in state.commitment.outcomes if entry.outcome is Outcome.APPROVED]

    def _rank(self, state: RoundState, preferred: Iterable[bytes]) -> int | None:
        """Our place in the leader order, or None outside the roster. Those preferred come first."""
        if state.roster is None or state.beacon is None or self._key not in state.roster:
            return None
        chosen = {key for key in preferred if key in state.roster}
        first = leader_order(state.beacon, chosen)
        rest = leader_order(state.beacon, set(state.roster.keys) - chosen)
        return (*first, *rest).index(self._key)

    def _propose(self, state: RoundState) -> tuple[Commitment, Bundle] | None:
        """The commitment that the records we hold lead to. None until roster and beacon are known."""
        if state.roster is None or state.beacon is None:
            return None
        state.proposal = build_commitment(
            self.terms,
            state.roster,
            state.beacon,
            self._previous_digest(state.round),
            state.of_kind(Kind.SUBMISSION),
            state.of_kind(Kind.BALLOT),
            state.assignment,
        )
        return state.proposal

    def _previous_digest(self, number: int) -> bytes:
        before = [earlier for earlier in self._anchored or {} if earlier < number]
        return self._anchored[max(before)].commitment if before and self._anchored else NO_PREVIOUS

    def _follow_commitment(self, state: RoundState, anchored: AnchoredRound) -> Iterator[Action]:
        """Adopt the anchored commitment if our records lead to it; otherwise ask peers for what it holds."""
        key = ("own view", state.round, len(state.by_id))
        if key not in self._asked:
            self._asked[key] = self._slot
            proposal = state.proposal
            if proposal is None or proposal[0].digest != anchored.commitment:
                proposal = self._propose(state)
            if proposal is not None and proposal[0].digest == anchored.commitment:
                yield self._adopt_commitment(state, *proposal)
                return
        yield from self._ask(events.FetchArtifacts(state.round))

    def _adopt_commitment(self, state: RoundState, commitment: Commitment, bundle: Bundle) -> Action:
        state.commitment, state.bundle = commitment, bundle
        included = {*bundle.submissions, *bundle.ballots}
        expected = (Kind.SUBMISSION, Kind.BALLOT)
        state.omitted = tuple(
            record.id
            for record in state.by_id.values()
            if record.id in state.timely and record.kind in expected and record.raw not in included
        )
        return events.KeepArtifacts(state.round, commitment=commitment.encode(), bundle=bundle.encode())

    def _notify_commitment(self, number: int, signature: bytes) -> list[Action]:
        state = self._book.rounds.get(number)
        if state is None or state.proposal is None:
            return []
        commitment, bundle = state.proposal
        return [self._say(number, CommitmentNotice(commitment.digest, bundle.cid, signature))]

    # --- distribution list

    def _distribute(self, state: RoundState) -> Iterator[Action]:
        if state.commitment is None or state.roster is None:
            return
        if self._slot < self.clock.distribution(state.round).opens:
            return
        if state.list is None:
            before = self._previous_list_round(state.round)
            if before is not None and before not in self._lists:
                yield from self._ask(events.FetchArtifacts(before))
                return
            previous = None if before is None else self._lists[before]
            if state.amounts is None:
                yield from self._ask_for_amounts(state, state.commitment, state.roster, previous)
                return
            try:
                state.list = next_list(previous, state.roster, state.amounts, self.terms, state.round)
            except DistributionError:
                # The task's own distribution is at fault; it is asked again, and says so in its log.
                self._book.count("BAD_DISTRIBUTION")
                state.amounts = None
                return
        anchored = self.anchored(state.round)
        if anchored is None or anchored.list_root is None:
            yield from self._propose_list(state, state.list)
        else:
            yield from self._judge_list(state, state.list, anchored)

    def _ask_for_amounts(
        self, state: RoundState, commitment: Commitment, roster: Roster, previous: DistributionList | None
    ) -> Iterator[Action]:
        outcomes = {entry.author: entry.outcome for entry in commitment.outcomes}
        call = events.MakeDistribution(
            state.round, submitters_of(outcomes, roster, previous), self.terms.bounty_per_round
        )
        yield from self._ask(call, key=("distribution", state.round))

    def _previous_list_round(self, number: int) -> int | None:
        """The newest round before this one whose list is anchored, or None."""
        listed = (r for r, anchor in (self._anchored or {}).items() if r < number and anchor.list_root)
        return max(listed, default=None)

    def _propose_list(self, state: RoundState, proposal: DistributionList) -> Iterator[Action]:
        window = self.clock.distribution(state.round)
        if self._slot not in window:
            return
        rank = self._rank(state, self._approved(state))
        if rank is None:
            return
        step = max(2, self.terms.submission_window // 10)
        if self._slot > turn(window, rank, step):
            yield from self._ask(
                events.AnchorList(
                    state.round, proposal.root, proposal.reward_total, proposal.slash_total, proposal.encode()
                ),
                key=("list", state.round),
            )

    def _judge_list(
        self, state: RoundState, own: DistributionList, anchored: AnchoredRound
    ) -> Iterator[Action]:
        """Compare the anchored list with ours, keep it, and say whether we agree (gossiped; PROTOCOL §3)."""
        agree = own.root == anchored.list_root and not state.omitted
        if own.root == anchored.list_root and state.round not in self._lists:
            self._lists[state.round] = own
            yield events.KeepArtifacts(state.round, list=own.encode())
        elif state.round not in self._lists:
            yield from self._ask(events.FetchArtifacts(state.round))
        may_vote = self._key in (state.roster or ()) and state.of_author(Kind.LIST_VOTE, self._key) is None
        if may_vote and self._slot in self.clock.distribution_audit(state.round):
            reason = (
                ListObjection.NONE
                if agree
                else (ListObjection.OMITTED_RECORD if state.omitted else ListObjection.WRONG_LIST)
            )
            root = anchored.list_root or NO_PREVIOUS
            yield from self._ask(
                self._say(state.round, ListVote(root, agree, int(reason))), key=("vote", state.round)
            )

    def _notify_list(self, number: int, signature: bytes) -> list[Action]:
        state = self._book.rounds.get(number)
        if state is None or state.list is None:
            return []
        body = ListNotice(
            state.list.root, state.list.cid, state.list.reward_total, state.list.slash_total, signature
        )
        return [self._say(number, body)]

    def _settle(self, state: RoundState) -> Iterator[Action]:
        anchored, settled_list = self.anchored(state.round), self._lists.get(state.round)
        if state.settled or settled_list is None or anchored is None:
            return
        if anchored.list_root is not None and self._slot >= self.clock.settles_at(state.round):
            state.settled = True
            yield events.RoundSettled(state.round, settled_list, self._rank(state, self._approved(state)))

    # --- artifacts from disk or peers

    def _read_artifacts(self, event: events.ArtifactsRead) -> list[Action]:
        """Check bytes against what K2 holds, and adopt what matches; the rest is refused and counted."""
        anchored = self.anchored(event.round)
        if anchored is None:
            return []
        actions: list[Action] = []
        state = self._book.rounds.get(event.round)
        if event.commitment and event.bundle and state is not None and state.commitment is None:
            actions += self._read_commitment(state, anchored, event.commitment, event.bundle)
        if event.list and anchored.list_root is not None and event.round not in self._lists:
            try:
                read = DistributionList.decode(event.list)
            except DistributionError:
                self._book.count("BAD_LIST")
            else:
                if read.root == anchored.list_root:
                    self._lists[event.round] = read
                    actions.append(events.KeepArtifacts(event.round, list=event.list))
                else:
                    self._book.count("LIST_NOT_ANCHORED")
        return actions

    def _read_commitment(
        self, state: RoundState, anchored: AnchoredRound, commitment_bytes: bytes, bundle_bytes: bytes
    ) -> list[Action]:
        if state.roster is None or state.beacon is None:
            return []
        try:
            commitment, bundle = Commitment.decode(commitment_bytes), Bundle.decode(bundle_bytes)
        except CommitmentError:
            self._book.count("BAD_ARTIFACTS")
            return []
        if commitment.digest != anchored.commitment or commitment.bundle_cid != bundle.cid:
            self._book.count("NOT_ANCHORED")
            return []
        for raw in (*bundle.submissions, *bundle.ballots):
            self.receive(raw, Source.SYNC)
        rebuilt = self._rebuild(state, bundle)
        if rebuilt is None or rebuilt.digest != commitment.digest:
            self._book.count("WRONG_COMMITMENT")
            return []
        return [self._adopt_commitment(state, commitment, bundle)]

    def _rebuild(self, state: RoundState, bundle: Bundle) -> Commitment | None:
        """The commitment that follows from the bundle's own records, whatever our view is."""
        if state.roster is None or state.beacon is None:
            return None
        try:
            records = {
                kind: [verify(decode_record(raw), self._book.genesis) for raw in raws]
                for kind, raws in ((Kind.SUBMISSION, bundle.submissions), (Kind.BALLOT, bundle.ballots))
            }
            commitment, rebuilt = build_commitment(
                self.terms,
                state.roster,
                state.beacon,
                self._previous_digest(state.round),
                records[Kind.SUBMISSION],
                records[Kind.BALLOT],
                state.assignment,
            )
        except (RecordError, CommitmentError):
            return None
        return commitment if rebuilt == bundle else None
