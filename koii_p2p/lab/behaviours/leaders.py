"""Behaviours of those who anchor: what they show of it."""

from __future__ import annotations

from dataclasses import replace

from koii_p2p.lab.behaviours.behaviour import Behaviour
from koii_p2p.lab.work import Truth, Work
from koii_p2p.rounds.commitment import build_commitment
from koii_p2p.rounds.events import AnchorCommitment, KeepArtifacts
from koii_p2p.rounds.misconduct import hasty_commitments, hasty_lists


class Withholder(Behaviour):
    """Keeps to itself the data of its submissions, or what it anchors before anybody else's turn.

    A withheld commitment leaves out its author's own submission, so that nobody comes to it from what everybody has. A
    withheld list pays its author, and nobody can see it.
    """

    def work(self, number: int, work: Work) -> Work:
        """See `Behaviour`."""
        return replace(work, truth=Truth.WITHHELD) if self.parameter == "data" else work

    def tick(self, slot: int) -> None:
        """Anchor before the first leader's turn."""
        if self.parameter == "data":
            return
        engine, key = self.actor.engine, self.actor.key
        for commitment in hasty_commitments(engine):
            self.actor.do(self._unlike(commitment) if self.parameter == "commitment" else commitment)
        if self.parameter == "list":
            for listed in hasty_lists(engine, key):
                self.actor.do(listed)

    def _unlike(self, action: AnchorCommitment) -> AnchorCommitment:
        """A commitment to less than everybody holds."""
        engine, key = self.actor.engine, self.actor.key
        state = engine.round(action.round)
        if state is None or state.proposal is None or state.roster is None or state.beacon is None:
            return action
        records, previous = state.proposal.records, state.proposal.commitment.previous
        kept = {author: one for author, one in records.submissions.items() if author != key}
        built = state.proposal = build_commitment(
            engine.terms,
            state.roster,
            state.beacon,
            previous,
            replace(records, submissions=kept),
            state.assignment,
        )
        return replace(
            action,
            digest=built.commitment.digest,
            commitment=built.commitment.encode(),
            bundle=built.bundle.encode(),
        )

    def serves(self, kept: KeepArtifacts) -> KeepArtifacts | None:
        """See `Behaviour`."""
        anchored = self.actor.chain.anchored.get(kept.round)
        if anchored is None or self.actor.key not in anchored.anchorers:
            return kept
        if self.parameter == "commitment":
            return None
        return replace(kept, list=None) if self.parameter == "list" else kept
