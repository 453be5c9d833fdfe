"""Leaders that anchor before their turn, and lie about a round in one way each (PROTOCOL §7 and §8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from koii_p2p.records.envelope import Verified
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Ballot, BallotReveal, Challenge, Statement, Submission, Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.anchors import previous_digest
from koii_p2p.rounds.commitment import BuiltRound, Bundle, Commitment, build_commitment
from koii_p2p.rounds.distribution import (
    DistributionList,
    Leaf,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.round_records import RoundRecords
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.tally import Outcome
from tests.rounds.adversaries import Adversary, friendly, friends_of
from tests.rounds.simulation import RIGHT, Maker, Net, Peer


class Lie(Enum):
    """What a lying leader does to the round that it anchors."""

    OMIT_SUBMISSION = "leaves out one honest submission"
    OMIT_ACCUSATION = "leaves out whatever accuses its friends"
    OMIT_EVIDENCE = "leaves out what convicts its friends"
    TWICE = "includes a record twice"
    MISPLACED = "includes a record of another round"
    OUTCOME = "commits to an outcome that the records do not lead to"
    WITHHOLD_COMMITMENT = "shows nobody what it committed to"
    NO_LIST = "commits, and anchors no list"
    PAY_ITSELF = "anchors a list that pays itself"
    WITHHOLD_LIST = "anchors a list that pays itself, and shows it to nobody"
    NOTHING = "anchors whatever it holds"


ABOUT_LISTS = frozenset({Lie.NO_LIST, Lie.PAY_ITSELF, Lie.WITHHOLD_LIST})


@dataclass(frozen=True, slots=True)
class Told:
    """One lie that made it to K2."""

    round: int
    attempt: int
    lie: Lie


class LyingLeader(Adversary):
    """Anchors before its turn, and lies. `lies_in` says for which rounds (and attempts) it has time."""

    lie = Lie.OMIT_SUBMISSION

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret)
        self.told: list[Told] = []
        self.mine: dict[int, tuple[BuiltRound, Commitment]] = {}
        self.lies_in: Callable[[int, int], bool] = lambda _number, attempt: attempt == 0

    def publish(self, statement: Statement) -> None:
        super().publish(friendly(self, statement))

    def serve(self, number: int) -> events.KeepArtifacts | None:
        kept = super().serve(number)
        if kept is None or number not in {told.round for told in self.told}:
            return kept
        if self.lie is Lie.WITHHOLD_COMMITMENT:
            return None
        return replace(kept, list=None) if self.lie is Lie.WITHHOLD_LIST else kept

    def anchor_commitment(self, action: events.AnchorCommitment) -> None:
        """Everything is anchored by `tick`, before its turn."""
        if not self.lies_in(action.round, action.attempt):
            super().anchor_commitment(action)

    def anchor_list(self, action: events.AnchorList) -> None:
        if not self.lies_in(action.round, action.attempt):
            super().anchor_list(action)

    def tick(self, slot: int) -> None:
        if not self.staked:
            return
        for number in self.engine.rounds():
            state = self.engine.round(number)
            if state is None or state.assignment is None or not self.lies_in(number, state.attempt):
                continue
            anchored = self.net.chain.anchored.get(number)
            opens = self.net.terms.clock.commitment(number, state.attempt).opens
            if (anchored is None or anchored.rejected) and slot >= opens + 1:
                self._commit(state)
            elif (
                anchored is not None
                and not anchored.rejected
                and anchored.commitment_by == self.key
                and anchored.list_root is None
                and self.lie is not Lie.NO_LIST
                and slot >= self.net.terms.clock.distribution(number, state.attempt).opens
            ):
                self._list(state)

    def _commit(self, state: RoundState) -> None:
        terms, net = self.net.terms, self.net
        assert state.roster is not None
        assert state.beacon is not None
        previous = previous_digest(net.chain.anchored, state.round)
        records = self._chosen(state)
        if records is None:
            return
        built = build_commitment(terms, state.roster, state.beacon, previous, records, state.assignment)
        told = self._falsified(state, built)
        if told is None:
            return
        commitment, bundle = told
        action = events.AnchorCommitment(
            state.round, state.attempt, commitment.digest, commitment.encode(), bundle.encode()
        )
        self.keep(events.KeepArtifacts(state.round, action.commitment, action.bundle))
        if net.chain.commit(net.slot, self.key, action):
            self.mine[state.round] = built, commitment
            if self.lie not in ABOUT_LISTS or self.lie is Lie.NO_LIST:
                self.told.append(Told(state.round, state.attempt, self.lie))

    def _chosen(self, state: RoundState) -> RoundRecords | None:
        records, friends = state.records(), friends_of(self)
        if self.lie is Lie.OMIT_SUBMISSION:
            victims = [author for author in records.submissions if author not in friends]
            if not victims:
                return None
            kept = {author: record for author, record in records.submissions.items() if author != victims[0]}
            return replace(records, submissions=kept)
        if self.lie is Lie.OMIT_ACCUSATION:
            theirs = {record.id for author, record in records.submissions.items() if author in friends}

            def accuses(record: Verified) -> bool:
                body = record.statement.body
                if state.roster is None or record.author not in state.roster:
                    return False  # decides nothing, and may be left out
                if isinstance(body, Ballot | BallotReveal):
                    return any(
                        entry.submission_id in theirs and entry.verdict is Verdict.INVALID
                        for entry in body.entries
                    )
                return isinstance(body, Challenge) and body.submission_id in theirs

            sections = {
                name: {place: record for place, record in section.items() if not accuses(record)}
                for name, section in records.sections.items()
            }
            left_out = sum(map(len, records.sections.values())) - sum(map(len, sections.values()))
            return RoundRecords(**sections) if left_out else None  # type: ignore[arg-type]
        if self.lie is Lie.OMIT_EVIDENCE:
            spared = {key: record for key, record in records.evidence.items() if key not in friends}
            return replace(records, evidence=spared) if len(spared) < len(records.evidence) else None
        return records

    def _falsified(self, state: RoundState, built: BuiltRound) -> tuple[Commitment, Bundle] | None:
        commitment, bundle = built.commitment, built.bundle
        if self.lie in (Lie.TWICE, Lie.MISPLACED):
            if not bundle.submissions:
                return None
            extra = bundle.submissions[0]
            if self.lie is Lie.MISPLACED:
                statement = Statement(
                    self.net.terms.task,
                    state.round + 1,
                    self.net.terms.clock.submission(state.round + 1).opens,
                    0,
                    Submission(RIGHT),
                )
                extra = self.sign_anew(statement).raw
            bundle = replace(bundle, submissions=(*bundle.submissions, extra))
            counts = tuple(len(raws) for raws in bundle.sections.values())
            return replace(commitment, roots=bundle.roots, counts=counts, bundle_cid=bundle.cid), bundle
        if self.lie is Lie.OUTCOME:
            outcomes = list(commitment.outcomes)
            index = next(
                (index for index, entry in enumerate(outcomes) if entry.outcome is Outcome.APPROVED), None
            )
            if index is None:
                return None
            outcomes[index] = replace(outcomes[index], outcome=Outcome.REJECTED)
            return replace(commitment, outcomes=tuple(outcomes)), bundle
        if self.lie is Lie.WITHHOLD_COMMITMENT:
            return replace(commitment, previous=b"\x01" * 32), bundle
        return commitment, bundle

    def _list(self, state: RoundState) -> None:
        """The list that follows from what it committed to, or one that pays itself."""
        terms, net = self.net.terms, self.net
        if state.round not in self.mine or state.roster is None:
            return
        built, claimed = self.mine[state.round]
        standing = [other for other in net.chain.anchored.values() if other.list_root and not other.rejected]
        newest = max(standing, key=lambda other: other.round, default=None)
        previous = self.engine.list_of(newest.round) if newest else None
        if newest is not None and previous is None:
            return
        submitters = submitters_of(claimed.outcome_of, state.roster, previous)
        amounts = default_distribution(submitters, terms.bounty_per_round, terms.slash_basis_points)
        found = next_list(previous, state.roster, amounts, terms, built.tally)
        if self.lie in (Lie.PAY_ITSELF, Lie.WITHHOLD_LIST):
            before = {leaf.staker: leaf.reward_total for leaf in previous.leaves} if previous else {}
            leaves = tuple(
                Leaf(
                    leaf.staker,
                    before.get(leaf.staker, 0) + (terms.bounty_per_round if leaf.staker == self.key else 0),
                    leaf.slash_total,
                )
                for leaf in found.leaves
            )
            found = DistributionList(found.round, leaves)
        action = events.AnchorList(
            state.round, state.attempt, found.root, found.reward_total, found.slash_total, found.encode()
        )
        self.keep(events.KeepArtifacts(state.round, list=action.list))
        if net.chain.list(net.slot, self.key, action) and self.lie in ABOUT_LISTS:
            self.told.append(Told(state.round, state.attempt, self.lie))


def liar(lie: Lie, lies_in: Callable[[int, int], bool] | None = None) -> Maker:
    """A `LyingLeader` with this lie."""

    def make(net: Net, secret: SecretKey) -> Peer:
        peer = LyingLeader(net, secret)
        peer.lie = lie
        if lies_in is not None:
            peer.lies_in = lies_in
        return peer

    return make
