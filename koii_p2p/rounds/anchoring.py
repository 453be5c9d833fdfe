"""What a node does about commitments and lists: anchor, follow, object, veto, settle (PROTOCOL §7 and §8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from koii_p2p.records.schema import CommitmentNotice, Kind, ListNotice, ListVote
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.adoption import read_commitment, rebuild
from koii_p2p.rounds.anchors import AnchoredRound, previous_digest
from koii_p2p.rounds.asking import Asking
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.commitment import (
    NO_PREVIOUS,
    BuiltRound,
    Bundle,
    Commitment,
    CommitmentError,
    build_commitment,
)
from koii_p2p.rounds.distribution import DistributionError, DistributionList, next_list, submitters_of
from koii_p2p.rounds.events import Action
from koii_p2p.rounds.leader import leader_order, turn
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.omissions import omitted_from, unseen_canaries, without_late_canaries
from koii_p2p.rounds.record_book import RecordBook
from koii_p2p.rounds.reputation import (
    REPUTATION_ROUNDS,
    Reputation,
    RoundStanding,
    counts_in,
    reputations,
    standing_of,
)
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.taking_part import TakingPart
from koii_p2p.rounds.tally import Outcome

LEAST_STEP = 2
"""Slots between the turns of two leaders, where the room is small."""

MISSING_SLOTS = 5
"""What has just landed may not be in what is read yet: it counts as taken back after so many slots."""


class Anchoring:
    """What K2 holds of the rounds of one task, and one node's part in it."""

    def __init__(self, key: bytes, book: RecordBook, asking: Asking, speaker: TakingPart) -> None:
        self._terms = book.terms
        self._clock = book.terms.clock
        self._key = key
        self._book = book
        self._asking = asking
        self._speaker = speaker
        self._anchored: dict[int, AnchoredRound] | None = None
        self._read_at = -1
        #: Of each round, what K2 held when last seen there, unless it was rejected, and in which slot that was.
        self._seen: dict[int, tuple[AnchoredRound, int]] = {}
        self._lists: dict[int, DistributionList] = {}
        self._standings: dict[int, RoundStanding] = {}

    # --- what K2 holds

    def read(self, anchored: Mapping[int, AnchoredRound], slot: int | None = None) -> None:
        """Take in what K2 held at `slot` (now if None), unless that is older than what was read before.

        Where an attempt was rejected, the next one starts over; so does one whose commitment a fork put another for.
        """
        slot = self._asking.slot if slot is None else slot
        if slot < self._read_at:
            return
        self._anchored, self._read_at = dict(anchored), slot
        for number, anchor in anchored.items():
            attempt = anchor.attempt + anchor.rejected
            state = self._book.rounds.get(number)
            before = self._seen_of(number, anchor.attempt)
            replaced = before is not None and before.commitment != anchor.commitment
            if not anchor.rejected:
                self._seen[number] = anchor, slot
            if state is not None and (attempt != state.attempt or replaced):
                state.start_over(attempt, self._asking.slot)
                self._lists.pop(number, None)
                self._standings.pop(number, None)
                self._build_anew_after(number)

    def _seen_of(self, number: int, attempt: int) -> AnchoredRound | None:
        """What K2 held of an attempt when it was last seen there."""
        seen, _slot = self._seen.get(number, (None, -1))
        return seen if seen is not None and seen.attempt == attempt else None

    def _build_anew_after(self, number: int) -> None:
        """Forget our own lists of later rounds: what they were built on was rejected."""
        for later, state in self._book.rounds.items():
            if later > number and not state.settled:
                state.amounts = state.list = None

    @property
    def known(self) -> bool:
        """Whether K2 was read at all."""
        return self._anchored is not None

    def anchored(self, number: int) -> AnchoredRound | None:
        """What K2 holds of a round, as last read."""
        return (self._anchored or {}).get(number)

    def standing(self, number: int) -> AnchoredRound | None:
        """What K2 holds of a round, unless it was rejected."""
        anchored = self.anchored(number)
        return None if anchored is None or anchored.rejected else anchored

    def list_of(self, number: int) -> DistributionList | None:
        """The list of a round that is both anchored and held by us."""
        return self._lists.get(number)

    def newest_list(self) -> DistributionList | None:
        """The newest list that is both anchored and held by us."""
        return self._lists[max(self._lists)] if self._lists else None

    def forget_before(self, number: int) -> None:
        """Forget the lists and standings of rounds before this one; the newest list stays."""
        for old in [old for old in self._lists if old < number and old != max(self._lists)]:
            del self._lists[old]
        for old in [old for old in self._standings if old < number - REPUTATION_ROUNDS]:
            del self._standings[old]
        self._seen = {later: seen for later, seen in self._seen.items() if later >= number}

    def is_open(self, number: int, period: int) -> bool:
        """Whether a round still has steps to take: the last three, and those that are tried again."""
        if number >= period - 2:
            return True
        anchored = self.anchored(number)
        if anchored is None or not (anchored.attempt or anchored.rejected):
            return False
        attempt = anchored.attempt + anchored.rejected
        return number >= period - 2 - attempt and attempt <= self._terms.allowed_failed_distributions

    def steps(self, state: RoundState) -> Iterator[Action]:
        """What one round needs now, from the end of its audit on."""
        if state.attempt > self._terms.allowed_failed_distributions:
            return
        yield from self._commit(state)
        yield from self._distribute(state)
        yield from self._object(state)
        yield from self._settle(state)

    # --- reputation

    def reputations(self, number: int) -> dict[bytes, Reputation] | None:
        """Reputations that count in a round; empty where the task has none; None while they can't be known.

        That takes the commitments that count, and K2 as it was when the audit opened or later: until then a list
        may still be vetoed, and everybody has to draw the same auditors.
        """
        if not self._terms.audit.reputation_floor:
            return {}
        if self._read_at < self._clock.audit(number).opens:
            return None
        counting = self._counting(number)
        if any(older not in self._standings for older in counting):
            return None
        return reputations(number, (self._standings[older] for older in counting))

    def missing_standings(self, number: int) -> Iterator[Action]:
        """Ask for the commitments that reputations in a round follow from."""
        if self._terms.audit.reputation_floor:
            for older in self._counting(number):
                if older not in self._standings:
                    yield from self._asking.ask(events.FetchArtifacts(older))

    def _counting(self, number: int) -> list[int]:
        return [
            older
            for older, anchored in sorted((self._anchored or {}).items())
            if number - REPUTATION_ROUNDS - 2 < older < number and counts_in(anchored, number, self._clock)
        ]

    def _learn_standing(self, anchored: AnchoredRound, data: bytes) -> None:
        """Whatever K2 vouches for counts, right or wrong: everybody has to count the same."""
        if anchored.round in self._standings or sha256(data).digest() != anchored.commitment:
            return
        standing = RoundStanding(anchored.round, {}, {})
        try:
            commitment = Commitment.decode(data)
        except CommitmentError:
            pass  # anchored, and no commitment: it says nothing about anybody
        else:
            if commitment.round == anchored.round and commitment.task == self._terms.task:
                standing = standing_of(commitment)
        self._standings[anchored.round] = standing

    # --- leaders

    def rank(self, state: RoundState, preferred: Iterable[bytes]) -> int | None:
        """Our place in the leader order, or None outside the roster. Those preferred come first.

        Who anchored an attempt that was rejected has no place in the next one.
        """
        if state.roster is None or state.beacon is None or self._key not in state.roster:
            return None
        anchored = self.anchored(state.round)
        barred: tuple[bytes, ...] = ()
        if anchored is not None:
            barred = anchored.anchorers if anchored.rejected else anchored.barred
        if self._key in barred:
            return None
        allowed = set(state.roster.keys) - set(barred)
        chosen = {key for key in preferred if key in allowed}
        scores = {key: found.score for key, found in (self.reputations(state.round) or {}).items()}
        first = leader_order(state.beacon, chosen, scores)
        rest = leader_order(state.beacon, allowed - chosen, scores)
        return (*first, *rest).index(self._key)

    def approved(self, state: RoundState | None) -> list[bytes]:
        """Whose work was approved in a round, as far as we know."""
        if state is None or state.commitment is None:
            return []
        return [entry.author for entry in state.commitment.outcomes if entry.outcome is Outcome.APPROVED]

    def _my_turn(
        self, state: RoundState, preferred: Iterable[bytes], window: Window, step: int, quiet: int
    ) -> bool:
        """Whether the slot of our rank has come, `quiet` slots into the window; see `rank`."""
        if state.attempt:
            # The veto opened this attempt, whenever that was: its slots are shared from when we saw it.
            window = Window(max(window.opens, state.opened_at), window.closes)
            step = max(LEAST_STEP, (window.closes - window.opens) // 8)
            quiet = 0
        if not turn(window, 0, step) + quiet <= self._asking.slot < window.closes:
            return False
        rank = self.rank(state, preferred)
        return rank is not None and self._asking.slot >= turn(window, rank, step) + quiet

    # --- commitment

    def quiet(self) -> int:
        """Slots of the commitment window that are for reconciling only: a third of what the leaders share."""
        return self._commit_room() // 3

    def _commit_room(self) -> int:
        """Slots that ranked leaders share: the delay, or half a submission window where there is no delay."""
        delay = self._terms.round_time - self._terms.submission_window - self._terms.audit_window
        return delay or self._terms.submission_window // 2

    def _commit(self, state: RoundState) -> Iterator[Action]:
        if state.beacon is None or state.roster is None or state.assignment is None:
            return
        standing = self.standing(state.round)
        if standing is not None:
            if state.built is None:
                yield from self._follow_commitment(state, standing)
            return
        # Stakers whose work was approved in the round before lead first, then the whole roster (PROTOCOL §7).
        preferred = self.approved(self._book.rounds.get(state.round - 1))
        window = self._clock.commitment(state.round, state.attempt)
        step = max(LEAST_STEP, self._commit_room() // 6)
        again = self._seen_of(state.round, state.attempt) is not None
        if again:
            my_turn = self._my_turn_again(state, preferred, window, step)
        else:
            my_turn = self._my_turn(state, preferred, window, step, self.quiet())
        if my_turn and self._asking.due(("commit", state.round)):
            proposal = state.proposal = state.built if again else self._propose(state)
            if proposal is not None:
                yield events.AnchorCommitment(
                    state.round,
                    state.attempt,
                    proposal.commitment.digest,
                    proposal.commitment.encode(),
                    proposal.bundle.encode(),
                )

    def _my_turn_again(self, state: RoundState, preferred: list[bytes], window: Window, step: int) -> bool:
        """Whether to anchor once more what a fork took back from K2: whoever goes by it, ranked from when it was gone.

        Who objected to it or never had it, or whom the fork gave another beacon or previous commitment, goes back to a
        proposal of its own, a step later.
        """
        missing = self._read_at - self._seen[state.round][1] - MISSING_SLOTS
        ours, objected = state.commitment, state.objection is not ListObjection.NONE
        chain = (state.beacon, self.previous_digest(state.round))
        if ours is None or objected or (ours.beacon, ours.previous) != chain:
            if missing >= step:
                del self._seen[state.round]
                self._standings.pop(state.round, None)
                state.start_over(state.attempt, self._asking.slot)
            return False
        rank = self.rank(state, preferred) if self._asking.slot in window else None
        return rank is not None and missing >= rank * LEAST_STEP

    def _propose(self, state: RoundState) -> BuiltRound | None:
        """The commitment that the records we hold lead to. None until roster, beacon and auditors are known."""
        if state.roster is None or state.beacon is None or state.assignment is None:
            return None
        state.proposal = build_commitment(
            self._terms,
            state.roster,
            state.beacon,
            self.previous_digest(state.round),
            without_late_canaries(state, self._terms),
            state.assignment,
        )
        return state.proposal

    def previous_digest(self, number: int) -> bytes:
        """The commitment that one to this round follows, by K2 as last read."""
        return previous_digest(self._anchored or {}, number)

    def _follow_commitment(self, state: RoundState, anchored: AnchoredRound) -> Iterator[Action]:
        """Adopt the anchored commitment if our records lead to it; otherwise ask peers for what it holds."""
        if state.objection is not ListObjection.NONE:
            return
        if self._asking.first_time(("own view", state.round, state.attempt, state.changes)):
            proposal = state.proposal
            if proposal is None or proposal.commitment.digest != anchored.commitment:
                proposal = self._propose(state)
            if proposal is not None and proposal.commitment.digest == anchored.commitment:
                yield self._adopt_commitment(state, anchored, proposal)
                return
        yield from self._asking.ask(events.FetchArtifacts(state.round))

    def _adopt_commitment(self, state: RoundState, anchored: AnchoredRound, built: BuiltRound) -> Action:
        state.built = built
        state.omitted = omitted_from(built.records, state, self._terms)
        if unseen_canaries(built.records, state, self._terms):
            state.objection = ListObjection.INVALID_RECORD
        elif state.omitted:
            state.objection = ListObjection.OMITTED_RECORD
        self._learn_standing(anchored, built.commitment.encode())
        return events.KeepArtifacts(
            state.round, commitment=built.commitment.encode(), bundle=built.bundle.encode()
        )

    def notify_commitment(self, state: RoundState, signature: bytes) -> list[Action]:
        """Tell the others that our commitment is on K2."""
        if state.proposal is None:
            return []
        ours = state.proposal
        notice = CommitmentNotice(ours.commitment.digest, ours.bundle.cid, signature)
        return [self._speaker.say(state.round, notice, state.attempt)]

    # --- distribution list

    def _distribute(self, state: RoundState) -> Iterator[Action]:
        if state.built is None or state.roster is None or self._asking.slot < self._list_opens(state):
            return
        if state.list is None:
            yield from self._make_list(state)
            if state.list is None:
                return
        standing = self.standing(state.round)
        if standing is None:
            return
        if standing.list_root is None:
            # Nobody proposes a list for a commitment that it objects to: it would be vetoed with it.
            if state.objection is ListObjection.NONE:
                yield from self._propose_list(state, state.list)
        elif state.round not in self._lists:
            if state.list.root == standing.list_root:
                self._lists[state.round] = state.list
                yield events.KeepArtifacts(state.round, list=state.list.encode())
            else:
                yield from self._asking.ask(events.FetchArtifacts(state.round))

    def _list_opens(self, state: RoundState) -> int:
        return self._clock.distribution(state.round, state.attempt).opens

    def _make_list(self, state: RoundState) -> Iterator[Action]:
        if state.built is None or state.roster is None or self._comes_first(state.round) is not None:
            return
        before = self._previous_list_round(state.round)
        if before is not None and before not in self._lists:
            yield from self._asking.ask(events.FetchArtifacts(before))
            return
        previous = None if before is None else self._lists[before]
        if state.amounts is None:
            call = events.MakeDistribution(
                state.round,
                submitters_of(state.built.commitment.outcome_of, state.roster, previous),
                self._terms.bounty_per_round,
            )
            yield from self._asking.ask(call, key=("distribution", state.round))
            return
        try:
            state.list = next_list(previous, state.roster, state.amounts, self._terms, state.built.tally)
        except DistributionError:
            # The task's own distribution is at fault; it is asked again, and says so in its log.
            self._book.count("BAD_DISTRIBUTION")
            state.amounts = None

    def _previous_list_round(self, number: int) -> int | None:
        """The newest round before this one whose list stands, and that we agree with or can't change any more."""
        for earlier in sorted(self._anchored or {}, reverse=True):
            standing = self.standing(earlier)
            if earlier >= number or standing is None or standing.list_root is None:
                continue
            state = self._book.rounds.get(earlier)
            objected = state is not None and self._objection(state, standing) is not ListObjection.NONE
            final = self._asking.slot >= self._clock.settles_at(earlier, standing.attempt)
            if final or not objected:
                return earlier
        return None

    def _comes_first(self, number: int) -> int | None:
        """An earlier round that is tried again, or will be if most think as we do; None if there is none.

        Lists land in ascending order of rounds, so a list that overtakes it would cost it its own for ever.
        """
        for earlier, anchored in sorted((self._anchored or {}).items()):
            attempt = anchored.attempt + anchored.rejected
            if earlier >= number or attempt > self._terms.allowed_failed_distributions:
                continue
            if anchored.rejected:
                closes = self._clock.distribution(earlier, attempt).closes
            elif attempt and self._is_doubtful(earlier, anchored):
                closes = self._clock.settles_at(earlier, attempt)
            else:
                continue
            if self._asking.slot < closes:
                return earlier
        return None

    def _is_doubtful(self, number: int, standing: AnchoredRound) -> bool:
        """Whether an attempt that stands has no list, or one that we object to."""
        state = self._book.rounds.get(number)
        objected = state is not None and self._objection(state, standing) is not ListObjection.NONE
        return standing.list_root is None or objected

    def _propose_list(self, state: RoundState, proposal: DistributionList) -> Iterator[Action]:
        window = self._clock.distribution(state.round, state.attempt)
        step = max(LEAST_STEP, self._terms.submission_window // 10)
        if self._my_turn(state, self.approved(state), window, step, quiet=1):
            anchor = events.AnchorList(
                state.round,
                state.attempt,
                proposal.root,
                proposal.reward_total,
                proposal.slash_total,
                proposal.encode(),
            )
            yield from self._asking.ask(anchor, key=("list", state.round, state.attempt))

    def notify_list(self, state: RoundState, signature: bytes) -> list[Action]:
        """Tell the others that our list is on K2."""
        if state.list is None:
            return []
        body = ListNotice(
            state.list.root, state.list.cid, state.list.reward_total, state.list.slash_total, signature
        )
        return [self._speaker.say(state.round, body, state.attempt)]

    # --- objections

    def _objection(self, state: RoundState, standing: AnchoredRound) -> ListObjection:
        """What we have against the anchored attempt; NONE also while we can't tell."""
        if state.objection is not ListObjection.NONE:
            return state.objection
        window = self._clock.distribution_audit(state.round, standing.attempt)
        if standing.list_root is None:
            return ListObjection.NO_LIST if self._read_at >= window.opens else ListObjection.NONE
        if state.list is not None and state.list.root != standing.list_root:
            return ListObjection.WRONG_LIST
        if state.list is None and state.built is not None and self._comes_first(state.round) is not None:
            return ListObjection.WRONG_LIST
        if state.list is None and state.built is None:
            patience = (window.closes - window.opens) // 2
            waited = self._asking.since(("withheld", state.round, state.attempt))
            late = self._asking.slot >= window.opens + patience
            # Who has just come back has not asked anybody yet.
            return ListObjection.DATA_WITHHELD if late and waited >= patience // 2 else ListObjection.NONE
        return ListObjection.NONE

    def _object(self, state: RoundState) -> Iterator[Action]:
        """Say whether we agree with what is anchored (gossiped), and veto it with most of the stake if not."""
        standing = self.standing(state.round)
        window = self._clock.distribution_audit(state.round, state.attempt)
        if standing is None or state.roster is None or self._key not in state.roster:
            return
        if self._asking.slot not in window:
            return
        objection = self._objection(state, standing)
        # Nobody agrees with a list that is not there: a read of K2 from after its window may show one yet.
        agreed = state.list is not None and standing.list_root is not None
        decided = agreed or objection is not ListObjection.NONE
        spoken = self._asking.slot in window.spoken
        if decided and spoken and state.of_author(Kind.LIST_VOTE, self._key, state.attempt) is None:
            root = standing.list_root or NO_PREVIOUS
            vote = ListVote(root, objection is ListObjection.NONE, int(objection))
            said = self._speaker.say(state.round, vote, state.attempt)
            yield from self._asking.ask(said, key=("vote", state.round, state.attempt))
        yield from self._veto(state)

    def _veto(self, state: RoundState) -> Iterator[Action]:
        """Veto on K2 once those who disagree hold most of the stake: the first at once, the others if needed.

        What everybody can see from K2 and the data alone needs no majority in gossip: in the last quarter of the window
        it is vetoed without one, so that a net in pieces that can still reach K2 pays no lie.
        """
        if state.roster is None or state.beacon is None:
            return
        against = {key for key, vote in state.list_votes().items() if not vote.agree and key in state.roster}
        if self._key not in against:
            return
        order = leader_order(state.beacon, against)
        total = state.roster.total_stake
        window = self._clock.distribution_audit(state.round, state.attempt)
        if sum(state.roster.stake_of(key) for key in against) * 2 <= total:
            last = window.closes - (window.closes - window.opens) // 4
            if self._asking.slot >= last and self._is_plain(state):
                yield from self._asking.ask(events.Veto(state.round, state.attempt))
            return
        before_us = sum(state.roster.stake_of(key) for key in order[: order.index(self._key)])
        waited = self._asking.since(("majority", state.round, state.attempt))
        if before_us * 2 <= total or waited >= self._terms.audit_window // 6:
            yield from self._asking.ask(events.Veto(state.round, state.attempt))

    def _is_plain(self, state: RoundState) -> bool:
        """Whether every honest node must object as well: not to what was received when, which differs."""
        vote = state.list_votes()[self._key]
        subjective = vote.reason == ListObjection.OMITTED_RECORD or (
            vote.reason == ListObjection.INVALID_RECORD and state.built is not None
        )
        return not subjective

    # --- settlement

    def _settle(self, state: RoundState) -> Iterator[Action]:
        standing, settled_list = self.standing(state.round), self._lists.get(state.round)
        if state.settled or settled_list is None or standing is None or standing.list_root is None:
            return
        # Judged by when K2 was read: a veto may land in the last slot of its window.
        if self._read_at >= self._clock.settles_at(state.round, standing.attempt):
            state.settled = True
            yield events.RoundSettled(
                state.round, settled_list, self.rank(state, self.approved(state)), standing.attempt
            )

    # --- artifacts from disk or peers

    def read_artifacts(self, event: events.ArtifactsRead) -> list[Action]:
        """Check bytes against what K2 holds, and adopt what matches; the rest is refused and counted."""
        anchored = self.standing(event.round)
        if anchored is None:
            return []
        actions: list[Action] = []
        state = self._book.rounds.get(event.round)
        if event.commitment:
            self._learn_standing(anchored, event.commitment)
            if event.bundle and state is not None and state.built is None:
                actions += self._read_commitment(state, anchored, event.commitment, event.bundle)
        if event.list and anchored.list_root is not None and event.round not in self._lists:
            actions += self._read_list(anchored, event.list)
        return actions

    def _read_list(self, anchored: AnchoredRound, data: bytes) -> list[Action]:
        try:
            read = DistributionList.decode(data)
        except DistributionError:
            self._book.count("BAD_LIST")
            return []
        if read.root != anchored.list_root:
            self._book.count("LIST_NOT_ANCHORED")
            return []
        self._lists[anchored.round] = read
        return [events.KeepArtifacts(anchored.round, list=data)]

    def _read_commitment(
        self, state: RoundState, anchored: AnchoredRound, commitment: bytes, bundle: bytes
    ) -> Iterator[Action]:
        if state.assignment is None or state.objection is not ListObjection.NONE:
            return
        read = read_commitment(anchored.commitment, commitment, bundle)
        if read is None:
            self._book.count("NOT_ANCHORED")
            return
        keep = events.KeepArtifacts(state.round, commitment=commitment, bundle=bundle)
        if isinstance(read, ListObjection):
            self._book.count("BAD_ARTIFACTS")
            state.objection = read
            yield keep
            return
        yield from self._take_in(read.bundle)
        built = rebuild(read, state, self.previous_digest(state.round), self._terms, self._book.genesis)
        if isinstance(built, ListObjection):
            self._book.count("WRONG_COMMITMENT")
            state.objection = built
            yield keep
            return
        yield self._adopt_commitment(state, anchored, built)

    def _take_in(self, bundle: Bundle) -> Iterator[Action]:
        """Records of the bundle that we lack, held like any that was reconciled where that is still allowed."""
        for raw in bundle.records:
            _judgement, record = self._book.receive(raw, Source.SYNC, self._asking.slot)
            if record is not None:
                yield events.KeepRecord(record)
