"""P5 of a peer: the pure function, out of real engines, and in the meshes of real nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from koii_p2p.gossip.parameters import ScoreParameters, TopicScore, degrees_for
from koii_p2p.node.peer_standing import PeerStandings
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.audit_rules import Weights
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.peer_standings import (
    BEST,
    EQUIVOCATED,
    REJECTED,
    STAKED,
    WEIGHTY,
    combined,
    standings_in_task,
)
from koii_p2p.rounds.reputation import RoundStanding
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from tests.network.nets import TOPIC, net, until
from tests.node import test_task_life
from tests.node.peers import NOW, PLAYED, ROUND, engine_with
from tests.rounds.net import GENESIS, STAKE, TERMS, evidence_against, key, roster, secret, submission
from tests.rounds.simulation import Net as Rounds

GOOD, LAZY, WRONG, CHEAT, LIAR = (key(index) for index in range(5))
STRANGER = key(99)
CONTRADICTION = evidence_against(
    secret(0), PLAYED.submissions[key(1)], submission(secret(1), "and another", ROUND), ROUND
)


def rounds_of(
    count: int, outcomes: dict[bytes, Outcome], auditors: dict[bytes, AuditorStatus]
) -> list[RoundStanding]:
    return [RoundStanding(number, outcomes, auditors) for number in range(count)]


def test_a_staker_is_above_somebody_unknown_and_a_clean_record_above_none() -> None:
    members = roster(4)
    new = standings_in_task(members, (), ())
    assert set(new) == set(members.keys)
    assert all(value == STAKED + WEIGHTY for value in new.values())
    clean = standings_in_task(members, rounds_of(8, {GOOD: Outcome.APPROVED}, {}), ())
    assert clean[GOOD] > new[GOOD] > 0.0
    assert clean[LAZY] == new[LAZY]
    assert STRANGER not in clean


def test_who_is_absent_is_no_enemy_and_worth_no_more_than_somebody_unknown() -> None:
    members = roster(4)
    always = standings_in_task(members, rounds_of(8, {}, {LAZY: AuditorStatus.ABSENT}), ())
    assert LAZY not in always
    half = [
        RoundStanding(number, {}, {LAZY: (AuditorStatus.ABSENT, AuditorStatus.DILIGENT)[number % 2]})
        for number in range(8)
    ]
    assert 0.0 < standings_in_task(members, half, ())[LAZY] < STAKED
    overruled = [*half[:-1], RoundStanding(7, {}, {LAZY: AuditorStatus.OVERRULED})]
    assert 0.0 < standings_in_task(members, overruled, ())[LAZY] < standings_in_task(members, half, ())[LAZY]


@pytest.mark.parametrize(
    ("outcome", "status", "value"),
    [
        (Outcome.REJECTED, AuditorStatus.DILIGENT, REJECTED),
        (Outcome.EQUIVOCATED, AuditorStatus.DILIGENT, EQUIVOCATED),
        (Outcome.APPROVED, AuditorStatus.EQUIVOCATED, EQUIVOCATED),
        (Outcome.REJECTED, AuditorStatus.EQUIVOCATED, EQUIVOCATED),
    ],
)
def test_one_conviction_outweighs_every_other_round_and_leaving_the_roster(
    outcome: Outcome, status: AuditorStatus, value: float
) -> None:
    good = rounds_of(8, {CHEAT: Outcome.APPROVED}, {CHEAT: AuditorStatus.DILIGENT})
    good[3] = RoundStanding(3, {CHEAT: outcome}, {CHEAT: status})
    assert standings_in_task(roster(6), good, ())[CHEAT] == value
    without = roster(3)
    assert CHEAT not in without
    assert standings_in_task(without, good, ())[CHEAT] == value
    assert CHEAT not in standings_in_task(without, good[4:], ())


@pytest.mark.parametrize(
    "outcome", [Outcome.CANARY, Outcome.UNDECIDED, Outcome.UNAVAILABLE, Outcome.APPROVED]
)
def test_what_is_no_fault_costs_nothing(outcome: Outcome) -> None:
    found = standings_in_task(roster(4), rounds_of(8, {GOOD: outcome}, {}), ())
    assert found[GOOD] >= STAKED + WEIGHTY


def test_evidence_convicts_before_anything_is_committed_to() -> None:
    assert standings_in_task(roster(6), (), [LIAR])[LIAR] == EQUIVOCATED


def test_a_stake_in_small_pieces_is_worth_less_each() -> None:
    amounts = [STAKE, *[10 * STAKE] * 3]
    entries = (replace(entry, stake=stake) for entry, stake in zip(roster(4).entries, amounts, strict=True))
    members = Roster(ROUND, tuple(entries), Weights.STAKE)
    found = standings_in_task(members, (), ())
    small, *large = (found[one] for one in members.keys)
    assert STAKED < small < STAKED + WEIGHTY / 5
    assert large == [STAKED + WEIGHTY] * 3


observations = st.builds(
    RoundStanding,
    st.just(0),
    st.dictionaries(st.sampled_from([key(index) for index in range(6)]), st.sampled_from(Outcome)),
    st.dictionaries(st.sampled_from([key(index) for index in range(6)]), st.sampled_from(AuditorStatus)),
)


@given(st.lists(observations, max_size=8), st.sets(st.sampled_from([key(index) for index in range(6)])))
def test_values_stay_within_their_ranges(found: list[RoundStanding], convicted: set[bytes]) -> None:
    rounds = [RoundStanding(number, one.outcomes, one.auditors) for number, one in enumerate(found)]
    for value in standings_in_task(roster(4), rounds, convicted).values():
        assert value in (REJECTED, EQUIVOCATED) or 0.0 < value <= BEST + 1e-9


def test_the_numbers_are_what_the_page_derives_from_the_routers_own() -> None:
    scores, topic = ScoreParameters(), TopicScore()
    thresholds = scores.thresholds
    in_topic = topic.time_weight * topic.time_cap + topic.first_weight * topic.first_cap
    assert -topic.invalid_weight > BEST  # stake does not pay for one rejected message
    assert topic.time_weight * topic.time_cap + BEST < thresholds.opportunistic
    assert -in_topic > REJECTED
    assert thresholds.gossip < REJECTED
    assert EQUIVOCATED + scores.topic_cap < thresholds.gossip
    assert EQUIVOCATED > thresholds.publish > thresholds.graylist


def test_over_all_tasks_the_worst_counts_and_good_does_not_add_up() -> None:
    tasks = [
        {GOOD: 1.0, CHEAT: 1.9},
        {GOOD: 1.5, CHEAT: REJECTED},
        {CHEAT: EQUIVOCATED, LAZY: 0.2},
        {CHEAT: 1.0},
    ]
    assert combined(tasks) == combined(tasks[::-1]) == {GOOD: 1.5, CHEAT: EQUIVOCATED, LAZY: 0.2}


# --- out of engines


def told(standings: PeerStandings) -> dict[bytes, float]:
    return dict(standings._told)


async def test_a_node_hands_in_what_its_engines_know_and_takes_it_back() -> None:
    async with net() as running:
        node = await running.add(7)
        engines = {"task": engine_with(PLAYED.ballots.values())}
        standings = PeerStandings(lambda: engines, node.network)
        standings.refresh()
        assert set(told(standings)) == set(PLAYED.roster.keys)
        assert node.network._application_scores == told(standings)
        judged, record = engines["task"].receive(CONTRADICTION.raw, Source.GOSSIP)
        assert record is not None, judged
        standings.refresh()
        assert node.network._application_scores[key(1)] == EQUIVOCATED
        engines.clear()
        standings.refresh()
        assert node.network._application_scores == {}


async def test_it_is_computed_when_a_roster_or_a_round_changes_and_not_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[Roster] = []

    def noted(
        members: Roster, rounds: Collection[RoundStanding], convicted: Iterable[bytes]
    ) -> dict[bytes, float]:
        counted.append(members)
        return standings_in_task(members, rounds, convicted)

    monkeypatch.setattr("koii_p2p.node.peer_standing.standings_in_task", noted)
    async with net() as running:
        node = await running.add(7)
        engine = engine_with(())
        standings = PeerStandings(lambda: {"task": engine}, node.network)
        for record in PLAYED.submissions.values():
            standings.refresh()
            engine.receive(record.raw, Source.SYNC)
        assert len(counted) == 1
        engine.handle(events.SlotAdvanced(TERMS.clock.work(ROUND + 2).opens))
        engine.handle(events.RosterRead(replace(roster(3), round=ROUND + 2)))
        standings.refresh()
        assert len(counted) == 2
        assert set(told(standings)) == set(roster(3).keys)


def test_what_else_is_thought_of_a_key_counts_if_it_is_ill() -> None:
    network = _Noted(key(9))
    engine = engine_with(())
    standings = PeerStandings(lambda: {"task": engine}, network)  # type: ignore[arg-type]
    standings.refresh()
    standings.note(STRANGER, 50.0)
    assert STRANGER not in network.scores
    standings.note(GOOD, -20.0)
    standings.note(STRANGER, -20.0)
    assert network.scores[GOOD] == network.scores[STRANGER] == -20.0
    standings.note(GOOD, 0.0)
    standings.note(STRANGER, 0.0)
    assert network.scores[GOOD] == STAKED + WEIGHTY
    assert network.scores[STRANGER] == 0.0


def test_strangers_that_lie_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koii_p2p.node.peer_standing.NOTED", 3)
    network = _Noted(secret(0).public_key)
    standings = PeerStandings(dict, network)  # type: ignore[arg-type]
    strangers = [bytes([number]) * 32 for number in range(10, 15)]
    for stranger in strangers:
        standings.note(stranger, -20.0)
    assert [network.scores[one] for one in strangers] == [0.0, 0.0, -20.0, -20.0, -20.0]


def test_a_round_that_was_really_played_and_anchored_convicts_whoever_handed_in_bad_work() -> None:
    rounds = Rounds(5, cheaters=1)
    rounds.run_until_settled(1)
    engine: RoundEngine = rounds.peers[0].engine
    network = _Noted(rounds.peers[0].key)
    PeerStandings(lambda: {"task": engine}, network).refresh()  # type: ignore[arg-type]
    cheat = rounds.peers[5].key
    assert network.scores[cheat] == REJECTED
    others = {peer.key for peer in rounds.peers[1:5]}
    assert all(STAKED + WEIGHTY < network.scores[one] <= BEST for one in others)
    assert network.key not in network.scores
    # Its slash has landed, and it is no staker any more: it is remembered all the same.
    assert network.expected == 5


class _Noted:
    """What a network is told."""

    def __init__(self, own: bytes) -> None:
        self.key = own
        self.scores: dict[bytes, float] = {}
        self.expected = 0

    def set_application_score(self, one: bytes, value: float) -> None:
        self.scores[one] = value

    def expect_peers(self, count: int) -> None:
        self.expected = count


# --- in the meshes of real nodes


async def test_a_convicted_neighbour_leaves_the_mesh_of_a_node_stays_connected_and_is_heard() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        standings = PeerStandings(lambda: engines, first.network)
        members = Roster(ROUND, (replace(roster(1).entries[0], key=second.key),))
        engine = RoundEngine(TERMS, GENESIS, first.key)
        engine.handle(events.SlotAdvanced(NOW))
        engine.handle(events.AnchorsRead({}))
        engine.handle(events.RosterRead(members))
        engines = {"task": engine}
        standings.refresh()

        def mesh() -> list[bool]:
            return [
                one.in_mesh for peer in first.network.scores() for one in peer.topics if one.topic == TOPIC
            ]

        await until(lambda: mesh() == [True])
        [score] = first.network.scores()
        assert score.key == second.key
        assert score.parts.application == STAKED + WEIGHTY
        state = engine.round(ROUND)
        assert state is not None
        own = SecretKey.from_seed((2).to_bytes(32, "big"))
        contradiction = evidence_against(
            secret(0), submission(own, "one", ROUND), submission(own, "other", ROUND), ROUND
        )
        state.hold(contradiction, GENESIS, timely=True)
        standings.refresh()
        await until(lambda: mesh() == [False])
        await second.network.publish(TOPIC, b"a vote")
        await until(lambda: b"a vote" in first.received)
        assert first.peers() == {second.key}
        assert first.network.statistics().bans == 0


world = test_task_life.world


@pytest.mark.slow
async def test_nodes_of_one_task_vouch_for_each_other_once_they_are_staked(
    world: test_task_life.World,
) -> None:
    with trio.fail_after(120):
        task = await world.make_task(starts_in=100)
        stakers = [
            await world.node(name, (task,), stake=2 * test_task_life.KOII) for name in ("first", "second")
        ]
        stranger = await world.node("stranger", (task,))
        first = stakers[0].node
        for other in (stakers[1], stranger):
            first._network.learn(other.key, other.node._network.addresses)
        names = {str(Pubkey(other.key)): other for other in (stakers[1], stranger)}

        def seen() -> dict[str, float]:
            return {one["key"]: one["application"] for one in first.scores()}

        await until(lambda: set(seen()) == set(names))
        second, unknown = names
        await until(lambda: seen()[second] >= STAKED + WEIGHTY, 60)
        assert seen()[unknown] == 0.0
        gossip = first._network._gossip
        assert gossip is not None
        assert gossip._router.parameters.degrees == degrees_for(3)

        def joined() -> list[int]:
            return [sum(one["in_mesh"] for one in peer["topics"]) for peer in first.scores()]

        await until(lambda: 3 in joined(), 60)  # the task's three topics


async def test_the_degrees_of_a_node_follow_the_roster_and_who_is_connected() -> None:
    async with net() as running:
        nodes = await running.chain(2)
        gossip = nodes[0].network._gossip
        assert gossip is not None
        router = gossip._router
        assert router.parameters.degrees == degrees_for(32)
        nodes[0].network.expect_peers(1)
        assert router.parameters.degrees == degrees_for(2)
        nodes[0].network.expect_peers(200)
        assert router.parameters.degrees == degrees_for(200)
        nodes[0].network.expect_peers(2)
        await until(lambda: len(router.mesh(TOPIC)) == 1)
        await nodes[1].network.publish(TOPIC, b"between two")
        await until(lambda: b"between two" in nodes[0].received)
