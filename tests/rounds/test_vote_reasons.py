"""Why an auditor voted as it did: 32 bytes that go with its vote, and count for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import pytest

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import sign
from koii_p2p.records.schema import Ballot, BallotEntry, Statement, Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.explain_audit import AuditDetail, audit_of
from koii_p2p.rounds.taking_part import MOST_REASONS
from koii_p2p.rounds.tally import Outcome
from tests.rounds.net import GENESIS, TASK, secret
from tests.rounds.simulation import TERMS, Net, Peer, records_read_once

WHY = {Verdict.INVALID: sha256(b"bad").digest(), Verdict.UNAVAILABLE: sha256(b"gone").digest()}


class Reasoning(Peer):
    """A node whose task says why."""

    def feed(self, event: events.Event) -> None:
        if isinstance(event, events.AuditMade):
            event = replace(event, evidence=WHY.get(event.verdict, b""))
        super().feed(event)


def detail(net: Net, author: Peer) -> AuditDetail:
    state = net.peers[0].engine.round(0)
    assert state is not None
    assert state.built is not None
    assert state.assignment is not None
    found = audit_of(state.built, state.assignment, author.key, {})
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with records_read_once():
        yield


@pytest.mark.parametrize("sealed", [False, True])
def test_a_reason_goes_with_the_vote_into_the_commitment(sealed: bool) -> None:
    terms = replace(TERMS, audit=AuditRules(sealed=sealed))
    net = Net(0, 1, crew=[Reasoning] * 9, terms=terms)
    net.run_until_settled(0)
    cheater, *honest = net.peers
    against = detail(net, cheater)
    voted = [vote for vote in against.votes if Verdict.INVALID in (vote.first, vote.full)]
    assert len(voted) == len(honest)
    assert {vote.evidence for vote in voted} == {WHY[Verdict.INVALID]}, "in a full audit as well"
    for peer in honest:
        assert {vote.evidence for vote in detail(net, peer).votes} == {b""}
    assert all(0 in peer.settled for peer in net.peers)


def test_reasons_count_for_nothing() -> None:
    """The same round with and without them comes to the same."""
    outcomes = []
    for maker in (Peer, Reasoning):
        net = Net(0, 1, crew=[maker] * 5)
        net.run_until_settled(0)
        state = net.peers[1].engine.round(0)
        assert state is not None
        assert state.commitment is not None
        outcomes.append(
            (state.commitment.outcome_of, state.commitment.auditors, net.chain.anchored[0].list_root)
        )
    assert outcomes[0] == outcomes[1]
    assert Outcome.REJECTED in outcomes[0][0].values()


def test_a_ballot_of_the_most_votes_with_reasons_fits_a_record() -> None:
    limits = Limits()
    ids = sorted(sha256(b"%d" % number).digest() for number in range(limits.ballot_entries))
    entries = tuple(
        BallotEntry(one, Verdict.UNAVAILABLE, WHY[Verdict.UNAVAILABLE] if place < MOST_REASONS else b"")
        for place, one in enumerate(ids)
    )
    raw = sign(Statement(TASK, 2**63, 2**63, 1, Ballot(entries)), GENESIS, secret(0)).raw
    assert len(raw) <= limits.record_bytes
