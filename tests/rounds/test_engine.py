from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from koii_p2p.records.schema import Kind, Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.anchoring import MISSING_SLOTS
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.clock import Phase
from koii_p2p.rounds.commitment import NO_PREVIOUS, build_commitment
from koii_p2p.rounds.tally import Outcome
from tests.rounds.simulation import BOUNTY, STAKE, TERMS, Net, Peer

SLASH = STAKE * 7000 // 10000


def outcomes(peer: Peer, number: int) -> dict[bytes, Outcome]:
    state = peer.engine.round(number)
    assert state is not None
    assert state.commitment is not None
    return state.commitment.outcome_of


def assert_settled_alike(net: Net, rounds: range) -> None:
    assert [name for name, _ in net.chain.transactions].count("commitment") == len(rounds)
    assert [name for name, _ in net.chain.transactions].count("list") == len(rounds)
    newest = {peer.engine.newest_list().root for peer in net.peers if peer.running}  # type: ignore[union-attr]
    assert newest == {net.chain.anchored[rounds[-1]].list_root}


def test_three_rounds_pay_the_honest_and_slash_the_cheater_once() -> None:
    net = Net(honest=4, cheaters=1)
    net.run_until_settled(2)
    cheater = net.peers[-1]
    assert_settled_alike(net, range(3))
    for number in range(3):
        for peer in net.peers:
            found = outcomes(peer, number)
            assert found[cheater.key] is Outcome.REJECTED
            assert sum(outcome is Outcome.APPROVED for outcome in found.values()) == 4
    for peer in net.peers[:-1]:
        assert net.chain.stakes[peer.key].reward_paid == 3 * (BOUNTY // 4)
        assert net.stake_of(peer) == STAKE
    # Rounds 1 and 2 were in flight when the slash of round 0 landed: one stake is slashed once.
    assert net.stake_of(cheater) == STAKE - SLASH
    assert net.chain.stakes[cheater.key].reward_paid == 0


def test_an_ejected_cheater_is_not_in_later_rosters() -> None:
    net = Net(honest=4, cheaters=1)
    net.run_until(TERMS.clock.audit(3).opens)
    state = net.peers[0].engine.round(3)
    assert state is not None
    assert state.roster is not None
    assert net.peers[-1].key not in state.roster
    assert len(state.roster) == 4


def test_three_rounds_are_in_flight() -> None:
    net = Net(honest=3)
    net.run_until(TERMS.starting_slot + 2 * TERMS.round_time + 5)
    engine = net.peers[0].engine
    assert engine.rounds() == (0, 1, 2)
    phases = [TERMS.clock.phase(number, engine.slot) for number in engine.rounds()]
    assert phases == [Phase.DISTRIBUTION, Phase.SUBMISSION, Phase.WORK]
    asked = [type(action) for action in net.peers[0].done]
    assert asked.count(events.RunTask) == 3


@pytest.mark.parametrize("seed", range(5))
def test_lost_gossip_is_repaired_before_the_commitment(seed: int) -> None:
    net = Net(honest=6, cheaters=1, loss=0.5, seed=seed)
    net.run_until_settled(1)
    assert_settled_alike(net, range(2))
    for peer in net.peers:
        assert outcomes(peer, 0) == outcomes(net.peers[0], 0)
        assert len(outcomes(peer, 0)) == 7
    assert net.stake_of(net.peers[-1]) == STAKE - SLASH


def test_after_a_fork_took_the_beacons_block_back_everybody_draws_anew_and_agrees() -> None:
    terms = replace(TERMS, audit=replace(TERMS.audit, auditors=3))
    net = Net(honest=12, terms=terms)
    window = terms.clock.audit(0)
    net.run_until((window.opens + window.closes) // 2)
    before = [peer.engine.round(0).assignment for peer in net.peers]  # type: ignore[union-attr]
    assert all(before)
    for peer in net.peers:
        peer.feed(events.BlockhashRead(0, b"fork".ljust(32)))
    net.run_until(window.closes)
    authors = [peer.key for peer in net.peers]
    for peer, old in zip(net.peers, before, strict=True):
        state = peer.engine.round(0)
        assert state is not None
        assert state.roster is not None
        assert state.assignment is not None
        drawn = [state.assignment.auditors_of(author) for author in authors]
        wanted = AuditAssignment(
            beacon(b"fork".ljust(32), terms.task, 0), state.roster, terms.audit
        ).auditors_of
        assert drawn == [wanted(author) for author in authors]
        assert drawn != [old.auditors_of(author) for author in authors]  # type: ignore[union-attr]
    net.run_until_settled(1)
    assert_settled_alike(net, range(2))
    assert {str(outcomes(peer, 0)) for peer in net.peers} == {str(outcomes(net.peers[0], 0))}
    assert all(net.stake_of(peer) == STAKE for peer in net.peers)


PHASES = {
    "work": TERMS.clock.work(1).opens + 5,
    "submission": TERMS.clock.submission(1).opens + 5,
    "audit": TERMS.clock.audit(1).opens + 5,
    "delay": TERMS.clock.delay(1).opens + 1,
    "distribution": TERMS.clock.distribution(1).opens + 1,
    "distribution audit": TERMS.clock.distribution_audit(1).opens + 1,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", range(4))
def test_a_crash_in_any_phase_costs_no_honest_stake_and_the_node_catches_up(phase: str, victim: int) -> None:
    net = Net(honest=4, cheaters=1)
    net.run_until(PHASES[phase])
    net.peers[victim].running = False
    net.run_until(net.slot + 130)
    net.peers[victim].restart(net.slot)
    net.run_until_settled(4)
    assert_settled_alike(net, range(5))
    assert all(net.stake_of(peer) == STAKE for peer in net.peers[:-1])
    assert net.stake_of(net.peers[-1]) == STAKE - SLASH
    last = outcomes(net.peers[victim], 4)
    assert last == outcomes(net.peers[(victim + 1) % 4], 4)
    assert last[net.peers[victim].key] is Outcome.APPROVED


def test_a_restarted_node_says_nothing_twice() -> None:
    net = Net(honest=4)
    net.run_until(TERMS.clock.audit(0).closes)
    peer = net.peers[0]
    peer.running = False
    said = [action for action in peer.done if isinstance(action, events.SignAndPublish)]
    assert {action.statement.kind for action in said} == {Kind.SUBMISSION, Kind.BALLOT}
    peer.done.clear()
    peer.restart(net.slot)
    net.run_until(TERMS.clock.delay(0).closes)
    again = [action for action in peer.done if isinstance(action, events.SignAndPublish)]
    kinds = {action.statement.kind for action in again if action.statement.round == 0}
    assert not kinds & {Kind.SUBMISSION, Kind.BALLOT}


def test_a_dead_leader_costs_a_step_and_not_the_round() -> None:
    alive = Net(honest=5)
    alive.run_until_settled(0)
    leader = alive.chain.anchored[0].commitment_by
    net = Net(honest=5)
    net.run_until(TERMS.clock.audit(0).closes - 1)
    dead = next(peer for peer in net.peers if peer.key == leader)
    dead.running = False
    net.run_until_settled(0)
    anchor = net.chain.anchored[0]
    assert anchor.commitment_by != leader
    late = anchor.commitment_slot - alive.chain.anchored[0].commitment_slot
    assert 0 < late <= 2 * TERMS.clock.delay(0).closes - 2 * TERMS.clock.delay(0).opens
    assert anchor.list_root is not None


def committed(seed: int = 1, cheaters: int = 1) -> Net:
    """A net in which everybody goes by the commitment to round 0 that K2 has held for a moment."""
    net = Net(honest=5, cheaters=cheaters, seed=seed)
    net.run_until(TERMS.clock.audit(0).closes)
    while 0 not in net.chain.anchored:
        net.run_until(net.slot + 1)
    net.run_until(net.slot + 2)
    assert all(outcomes(peer, 0) for peer in net.peers)
    return net


def roll_back(net: Net, anchored: dict[int, AnchoredRound] | None = None) -> None:
    """Let K2 hold nothing of its rounds any more, or something else."""
    net.chain.anchored = anchored or {}
    net.chain.history.append((net.slot, net.chain.anchored))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dead", [True, False])
def test_a_commitment_that_a_fork_took_back_is_anchored_again_whether_or_not_its_leader_lives(
    seed: int, dead: bool
) -> None:
    net = committed(seed)
    first = net.chain.anchored[0]
    [leader] = [peer for peer in net.peers if peer.key == first.commitment_by]
    leader.running = not dead
    roll_back(net)
    net.run_until(net.slot + MISSING_SLOTS - 1)
    assert net.chain.anchored == {}  # a read that is late shows as little
    net.run_until(TERMS.clock.commitment(0).closes)
    again = net.chain.anchored[0]
    assert again.commitment == first.commitment
    assert (again.commitment_by == leader.key) is not dead
    net.run_until_settled(0)
    lists = {peer.engine.list_of(0).root for peer in net.peers if peer.running}  # type: ignore[union-attr]
    assert lists == {net.chain.anchored[0].list_root}
    assert not any(peer.contradicted for peer in net.peers)
    assert net.said_twice == []


def test_who_anchors_again_does_so_in_leader_order_one_after_the_other() -> None:
    net = committed()
    roll_back(net)
    asked: list[tuple[int, bytes]] = []

    def noted(peer: Peer, _action: events.AnchorCommitment) -> None:
        asked.append((net.slot, peer.key))

    for peer in net.peers:
        peer.anchor_commitment = partial(noted, peer)  # type: ignore[method-assign]
    net.run_until(net.slot + MISSING_SLOTS + 2 * len(net.peers))
    first = {key: slot for slot, key in reversed(asked)}
    assert len(first) == len(net.peers)
    slots = sorted(first.values())
    assert [later - earlier for earlier, later in pairwise(slots)] == [2] * (len(slots) - 1)


def test_a_commitment_that_took_the_place_of_another_by_a_fork_is_followed() -> None:
    net = committed(cheaters=0)
    one = net.chain.anchored[0]
    # The leader of the other fork lacked a record.
    other = net.peers[0].engine
    state = other.round(0)
    assert state is not None
    assert state.built is not None
    records = state.records()
    fewer = replace(records, ballots=dict(list(records.ballots.items())[1:]))
    built = build_commitment(TERMS, state.roster, state.beacon, NO_PREVIOUS, fewer, state.assignment)  # type: ignore[arg-type]
    assert built.commitment.digest != one.commitment
    for peer in net.peers:
        kept = events.KeepArtifacts(0, built.commitment.encode(), built.bundle.encode())
        peer.artifacts[0] = kept
    roll_back(net, {0: replace(one, commitment=built.commitment.digest)})
    net.run_until(TERMS.clock.commitment(0).closes)
    for peer in net.peers:
        state = peer.engine.round(0)
        assert state is not None
        assert state.commitment is not None
        assert state.commitment.digest == built.commitment.digest


def test_whom_a_fork_gave_another_beacon_commits_anew() -> None:
    net = committed()
    first = net.chain.anchored[0]
    roll_back(net)
    blockhash = b"fork!" + bytes(27)
    net.chain.blockhash = lambda slot: blockhash  # type: ignore[method-assign]
    for peer in net.peers:
        peer.feed(events.BlockhashRead(0, blockhash))
    net.run_until(TERMS.clock.commitment(0).closes)
    anchored = net.chain.anchored[0]
    assert anchored.commitment != first.commitment
    commitments = {peer.engine.round(0).commitment for peer in net.peers}  # type: ignore[union-attr]
    assert {one.beacon for one in commitments if one is not None} == {beacon(blockhash, TERMS.task, 0)}


def test_an_audit_that_never_answers_is_unavailable_and_slashes_nobody() -> None:
    net = Net(honest=4)
    for peer in net.peers:
        peer.audit = lambda _value: Verdict.UNAVAILABLE
    net.run_until_settled(0)
    assert set(outcomes(net.peers[0], 0).values()) == {Outcome.UNAVAILABLE}
    assert all(net.stake_of(peer) == STAKE for peer in net.peers)
    assert net.chain.anchored[0].reward_total == 0


def test_everybody_agrees_in_gossip_with_a_right_list() -> None:
    net = Net(honest=4, cheaters=1)
    net.run_until_settled(0)
    state = net.peers[0].engine.round(0)
    assert state is not None
    assert [vote.agree for vote in state.list_votes().values()] == [True] * 5


def test_a_late_joiner_follows_from_artifacts_and_works_in_its_first_full_round() -> None:
    net = Net(honest=5)
    late = net.peers[4]
    late.running = False
    net.run_until(TERMS.clock.work(3).opens - 20)
    late.running = True
    late.restart(net.slot)
    net.run_until_settled(3)
    assert_settled_alike(net, range(4))
    assert outcomes(late, 3)[late.key] is Outcome.APPROVED


def test_slots_never_go_back_for_an_engine() -> None:
    net = Net(honest=3)
    net.run_until(TERMS.starting_slot + 10)
    engine = net.peers[0].engine
    assert engine.handle(events.SlotAdvanced(TERMS.starting_slot)) == []
    assert engine.slot == TERMS.starting_slot + 10


def test_artifacts_that_do_not_match_k2_are_refused_and_counted() -> None:
    net = Net(honest=4)
    net.run_until_settled(0)
    kept = net.peers[0].artifacts[0]
    assert kept.commitment
    assert kept.bundle
    assert kept.list
    other = Net(honest=5)  # whose own records lead to another commitment
    other.run_until(TERMS.clock.delay(0).opens + 1)
    stranger = other.peers[0]
    wrong = bytes([kept.commitment[0]]) + kept.commitment[1:-1] + bytes([kept.commitment[-1] ^ 1])
    anchored = {0: net.chain.anchored[0]}
    stranger.engine.handle(events.AnchorsRead(anchored))
    stranger.engine.handle(events.ArtifactsRead(0, wrong, kept.bundle, b"\x00"))
    refused = stranger.engine.statistics().refused
    assert refused["NOT_ANCHORED"] == 1
    assert refused["BAD_LIST"] == 1


def test_a_node_restarted_when_its_ballot_is_overdue_says_what_it_said() -> None:
    net = Net(honest=4)
    net.run_until(TERMS.clock.first_ballots(0).closes - 3)
    peer = net.peers[0]
    assert any(place.kind is Kind.BALLOT for place in peer.signed)
    peer.done.clear()
    peer.restart(net.slot)
    net.run_until(TERMS.clock.delay(0).closes)
    said = [action.statement for action in peer.done if isinstance(action, events.SignAndPublish)]
    assert not [statement for statement in said if statement.kind is Kind.BALLOT]
    assert peer.contradicted == []


def test_nobody_agrees_with_a_list_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "anchor_list", lambda _peer, _action: None)
    net = Net(honest=4)
    net.run_until(TERMS.clock.distribution_audit(0).opens + 2)
    for peer in net.peers:
        vote = net.vote_of(peer, 0)
        assert vote is not None
        assert not vote.agree
