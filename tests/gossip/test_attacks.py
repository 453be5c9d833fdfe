"""Peers that mean harm, each against one router: what it costs them, and what it must not cost us.

After the hand-written bad peers of go-libp2p-pubsub (`gossipsub_spam_test.go`) and the attacks of the gossipsub v1.1
evaluation report; what is asserted is what the specification says about each.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Connect, Deliver, Disconnect, Graylist, Verdict
from koii_p2p.gossip.parameters import GossipParameters, ScoreParameters, TopicScore
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.wire import Prune, WireFault
from tests.gossip.talk import (
    GRAFT,
    PLAIN,
    PRUNE,
    TOPIC,
    Talk,
    control,
    encoded,
    id_of,
    subscription,
    with_bounds,
    with_topic,
)

STRICT = replace(PLAIN, score=replace(PLAIN.score, behaviour_weight=-100.0))


def ids(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(20, "big") for number in range(first, first + count)]


# --- IWANT and IHAVE


def test_iwant_spam_gets_a_message_three_times_and_no_more() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.publish(b"m")
    for _ in range(50):
        talk.say(b"p", control(wire.iwant_entry([id_of(b"m")])))
    assert talk.messages(b"p") == [b"m"] * (1 + 3)
    assert talk.refused(Refusal.IWANT_REPEATS) == 47


def test_iwant_is_answered_with_so_many_bytes_in_a_heartbeat() -> None:
    talk = Talk(with_bounds(iwant_bytes=10_000))
    talk.join(b"p")
    talk.join(b"q")
    payloads = [bytes([number]) * 3_000 for number in range(5)]
    for data in payloads:
        talk.say(b"q", encoded(data))
    ask = control(wire.iwant_entry([id_of(data) for data in payloads]))
    talk.say(b"p", ask)
    assert talk.messages(b"p") == payloads[:3]
    assert talk.refused(Refusal.IWANT_BYTES) == 2
    talk.beat()
    talk.say(b"p", ask)
    assert len(talk.messages(b"p")) == 6


def test_so_many_ids_of_iwant_are_looked_up_in_a_heartbeat() -> None:
    talk = Talk(with_bounds(iwant_ids=100))
    talk.join(b"p")
    for _ in range(3):
        talk.say(b"p", control(wire.iwant_entry(ids(100))))
    assert talk.refused(Refusal.IWANT_UNKNOWN) == 100
    assert talk.refused(Refusal.IWANT_IDS) == 200


def test_iwant_below_the_gossip_threshold_is_ignored() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.join(b"q")
    talk.say(b"q", encoded(b"m"))
    talk.router.set_application_score(b"p", -101.0)
    talk.say(b"p", control(wire.iwant_entry([id_of(b"m")])))
    assert talk.messages(b"p") == []
    assert talk.refused(Refusal.IWANT_BELOW_THRESHOLD) == 1


def test_ihave_spam_makes_us_ask_ten_times_in_a_heartbeat() -> None:
    talk = Talk()
    talk.join(b"p")
    for beat in range(2):
        talk.hush()
        for number in range(1_000):
            talk.say(b"p", control(wire.ihave_entry(TOPIC, ids(1, 1_000 * beat + number))))
        assert len(talk.wanted(b"p")) == 10
        talk.beat()
    assert talk.refused(Refusal.IHAVE_MESSAGES) == 2 * 990


def test_a_flood_of_ids_makes_us_ask_for_so_many_in_a_heartbeat() -> None:
    talk = Talk(with_bounds(ihave_ids=100))
    talk.join(b"p")
    for number in range(5):
        talk.say(b"p", control(wire.ihave_entry(TOPIC, ids(60, 60 * number))))
    assert len(set(talk.wanted(b"p"))) == 100
    assert talk.refused(Refusal.IHAVE_IDS) == 200


def test_a_true_id_among_false_ones_is_asked_for_by_chance() -> None:
    asked = 0
    for seed in range(60):
        talk = Talk(with_bounds(ihave_ids=50), seed=seed)
        talk.join(b"p")
        entries = [wire.ihave_entry(TOPIC, ids(50, 50 * number)) for number in range(3)]
        talk.say(b"p", control(*entries, wire.ihave_entry(TOPIC, [id_of(b"true")])))
        asked += id_of(b"true") in talk.wanted(b"p")
    assert 10 <= asked <= 30  # one in three


def test_ihave_of_topics_we_did_not_join_is_ignored() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", control(wire.ihave_entry("elsewhere", ids(3))))
    assert talk.wanted(b"p") == []
    assert talk.refused(Refusal.IHAVE_UNJOINED) == 1


def test_ihave_below_the_gossip_threshold_is_ignored_and_none_is_sent() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.router.set_application_score(b"p", -101.0)
    talk.say(b"p", control(wire.ihave_entry(TOPIC, ids(3))))
    assert talk.wanted(b"p") == []
    assert talk.refused(Refusal.IHAVE_BELOW_THRESHOLD) == 1
    talk.publish(b"m")
    talk.beat()
    assert talk.told(b"p") == []


def test_broken_promises_cost_until_the_liar_is_graylisted() -> None:
    talk = Talk(STRICT)
    talk.join(b"liar")
    talk.say(b"liar", control(wire.ihave_entry(TOPIC, ids(100))))
    talk.beat(2)
    assert talk.router.score(b"liar") == 0.0
    talk.beat()
    assert talk.refused(Refusal.PROMISE_BROKEN) == 1
    assert talk.router.score(b"liar") < 0.0
    for number in range(4):
        talk.say(b"liar", control(wire.ihave_entry(TOPIC, ids(100, 1_000 * number + 1_000))))
    talk.beat(3)
    assert talk.router.score(b"liar") < -1_000.0
    talk.say(b"liar", encoded(b"m"))
    assert talk.refused(Refusal.GRAYLISTED) == 1


def test_a_promise_is_kept_by_whoever_sends_the_message_valid_or_not() -> None:
    for verdict in Verdict:
        talk = Talk(STRICT, verdict=verdict)
        talk.join(b"p")
        talk.join(b"q")
        talk.say(b"p", control(wire.ihave_entry(TOPIC, [id_of(b"m")])))
        talk.say(b"q", encoded(b"m"))
        talk.beat(5)
        assert talk.refused(Refusal.PROMISE_BROKEN) == 0
        assert talk.router.score_parts(b"p").behaviour == 0.0


def test_a_connection_that_ends_breaks_no_promise() -> None:
    talk = Talk(STRICT)
    talk.join(b"p")
    talk.say(b"p", control(wire.ihave_entry(TOPIC, ids(1))))
    talk.take(talk.router.peer_left(b"p", talk.now))
    talk.join(b"p")
    talk.beat(5)
    assert talk.refused(Refusal.PROMISE_BROKEN) == 0
    assert talk.router.score(b"p") == 0.0


def test_one_lost_answer_is_forgiven_by_default() -> None:
    talk = Talk(GossipParameters())
    talk.join(b"p")
    talk.say(b"p", control(wire.ihave_entry(TOPIC, ids(1))))
    talk.beat(5)
    assert talk.refused(Refusal.PROMISE_BROKEN) == 1
    assert talk.router.score(b"p") >= 0.0


# --- GRAFT and PRUNE


def test_graft_of_an_unknown_topic_is_not_answered() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.hush()
    for number in range(100):
        talk.say(b"p", control(wire.graft_entry(f"none-{number}")))
    assert talk.said == {}
    assert talk.refused(Refusal.GRAFT_UNJOINED) == 100
    assert talk.router.statistics().back_offs == 0


def test_graft_during_back_off_is_pruned_punished_and_at_last_not_heard() -> None:
    parameters = replace(STRICT, prune_back_off=20_000, graft_flood=10_000)
    talk = Talk(parameters)
    talk.join(b"p")
    talk.say(b"p", GRAFT, PRUNE)
    assert talk.prunes(b"p") == []
    talk.now += 10_001
    talk.say(b"p", GRAFT)
    assert len(talk.prunes(b"p")) == 1
    assert talk.router.score(b"p") == -100.0
    talk.say(b"p", GRAFT)  # right after the PRUNE: twice
    assert len(talk.prunes(b"p")) == 2
    assert talk.router.score(b"p") == -900.0
    talk.say(b"p", GRAFT)
    assert len(talk.prunes(b"p")) == 3
    assert talk.router.score(b"p") < -1_000.0
    talk.now += 20_001
    talk.say(b"p", GRAFT)
    assert len(talk.prunes(b"p")) == 3
    assert not talk.in_mesh(b"p")
    assert talk.refused(Refusal.GRAFT_BACK_OFF) == 3
    assert talk.refused(Refusal.GRAFT_FLOOD) == 2


def test_graft_during_back_off_begins_the_back_off_anew() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT, PRUNE)
    talk.now += 14_000
    talk.say(b"p", GRAFT)
    talk.now += 14_999
    talk.say(b"p", GRAFT)
    assert not talk.in_mesh(b"p")
    assert talk.refused(Refusal.GRAFT_BACK_OFF) == 2


def test_a_graft_flood_of_one_rpc_graylists_by_itself() -> None:
    talk = Talk(GossipParameters())
    talk.join(b"p")
    talk.say(b"p", control(*[wire.graft_entry(TOPIC), wire.prune_entry(Prune(TOPIC))] * 20))
    talk.say(b"p", control(*[wire.graft_entry(TOPIC)] * 60))
    assert talk.router.score(b"p") < talk.router.parameters.score.thresholds.graylist
    talk.hush()
    talk.say(b"p", GRAFT)
    assert talk.said == {}


def test_to_leave_and_come_back_does_not_end_a_back_off_or_better_a_score() -> None:
    talk = Talk(STRICT)
    talk.join(b"p")
    talk.say(b"p", GRAFT, PRUNE, GRAFT)
    before = talk.router.score(b"p")
    assert before < 0
    talk.take(talk.router.peer_left(b"p", talk.now))
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    assert not talk.in_mesh(b"p")
    assert talk.router.score(b"p") < before


def test_graft_of_a_peer_with_a_negative_score_is_pruned() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.router.set_application_score(b"p", -1.0)
    talk.say(b"p", GRAFT)
    assert not talk.in_mesh(b"p")
    assert talk.prunes(b"p") == [Prune(TOPIC, 15)]
    assert talk.refused(Refusal.GRAFT_SCORE) == 1
    talk.router.set_application_score(b"p", 0.0)
    talk.say(b"p", GRAFT)
    assert talk.refused(Refusal.GRAFT_BACK_OFF) == 1


@pytest.mark.parametrize("seconds", [601, 2**31, 2**63, 2**64 - 1])
def test_a_huge_back_off_is_capped(seconds: int) -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT, control(wire.prune_entry(Prune(TOPIC, seconds))))
    assert talk.refused(Refusal.BACK_OFF_CAPPED) == 1
    talk.beat(600)
    assert talk.grafts(b"p") == 0
    talk.beat(1)
    assert talk.grafts(b"p") == 1


def test_a_swarm_that_dials_us_cannot_fill_the_mesh() -> None:
    talk = Talk()
    for peer in talk.join_many(300, "sybil"):
        talk.say(peer, GRAFT)
    assert len(talk.router.mesh(TOPIC)) == 12
    assert talk.refused(Refusal.GRAFT_FULL) == 288
    ours = talk.join_many(3, "dialled", outbound=True)
    talk.say(ours[0], GRAFT)  # one that we dialled gets in although it is full
    assert talk.in_mesh(ours[0])
    talk.beat()
    assert len(talk.router.mesh(TOPIC)) <= 7
    assert sum(map(talk.in_mesh, ours)) >= 2


def test_prunes_of_topics_we_did_not_join_leave_no_trace() -> None:
    talk = Talk()
    talk.join(b"p")
    for number in range(100):
        talk.say(b"p", control(wire.prune_entry(Prune(f"none-{number}", 600, ((b"x", b""),)))))
    assert talk.router.statistics().back_offs == 0
    assert talk.of(Connect) == []


# --- peer exchange


@pytest.mark.parametrize("poison", [(b"", b"record"), (b"x" * 65, b"record"), (b"x", bytes(4_097))])
def test_poisoned_recommendations_are_not_dialled_and_cost(poison: tuple[bytes, bytes]) -> None:
    talk = Talk(STRICT)
    talk.join(b"p")
    talk.router.set_application_score(b"p", 10.0)
    talk.say(b"p", control(wire.prune_entry(Prune(TOPIC, None, (poison,)))))
    assert talk.of(Connect) == []
    assert talk.refused(Refusal.PX_RECORD) == 1
    assert talk.router.score_parts(b"p").behaviour == -100.0


def test_a_flood_of_recommendations_is_cut() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.router.set_application_score(b"p", 10.0)
    for start in range(0, 1_000, 100):
        peers = tuple((b"%d" % number, b"record") for number in range(start, start + 100))
        talk.say(b"p", control(wire.prune_entry(Prune(TOPIC, None, peers))))
    assert len(talk.of(Connect)) == 16
    assert talk.refused(Refusal.PX_PEERS) == 984


def test_the_driver_can_hold_a_bad_record_against_the_recommender() -> None:
    talk = Talk(STRICT)
    talk.join(b"p")
    talk.router.penalise(b"p", 2)
    assert talk.router.score(b"p") == -400.0


# --- messages


def test_invalid_messages_prune_and_graylist_their_sender() -> None:
    talk = Talk(with_topic(invalid_weight=-10.0), verdict=Verdict.REJECT)
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    for number in range(100):
        talk.say(b"p", encoded(b"bad-%d" % number))
    assert talk.refused(Refusal.REJECTED) == 11  # -10 * 11 * 11 is below the threshold
    assert talk.refused(Refusal.GRAYLISTED) == 89
    talk.beat()
    assert not talk.in_mesh(b"p")
    assert len(talk.prunes(b"p")) == 1
    assert [effect.peer for effect in talk.of(Graylist)] == [b"p"]
    talk.beat(3)
    assert len(talk.of(Graylist)) == 1
    assert talk.router.statistics().graylisted == 1


def test_one_rejected_message_sent_again_and_again_graylists_without_being_judged_again() -> None:
    talk = Talk(with_topic(invalid_weight=-10.0), verdict=Verdict.REJECT)
    talk.join(b"p")
    for _ in range(100):
        talk.say(b"p", encoded(b"bad"))
    assert talk.router.statistics().delivered == 1
    assert talk.refused(Refusal.REJECTED_BEFORE) == 10
    assert talk.refused(Refusal.GRAYLISTED) == 89


def test_one_invalid_message_does_not_graylist() -> None:
    talk = Talk(GossipParameters(), verdict=Verdict.REJECT)
    talk.join(b"p")
    talk.say(b"p", encoded(b"bad"))
    talk.beat()
    assert talk.of(Graylist) == []
    assert -100.0 < talk.router.score(b"p") < 0.0


def test_oversized_messages_cost_and_are_not_handed_over() -> None:
    talk = Talk(with_bounds(with_topic(invalid_weight=-10.0), message_bytes=1_000))
    talk.join(b"p")
    assert talk.say(b"p", encoded(bytes(1_001))) == []
    assert talk.refused(Refusal.MESSAGE_TOO_LARGE) == 1
    assert talk.router.score(b"p") == -10.0


@pytest.mark.parametrize("rpc", [b"\x12", b"\x13", b"\xff" * 12, b"\x0a\x02\x12\x05", bytes(1024 * 1024 + 1)])
def test_a_malformed_rpc_costs_and_ends_the_connection(rpc: bytes) -> None:
    talk = Talk(STRICT)
    talk.join(b"p")
    [effect] = talk.say(b"p", rpc)
    assert isinstance(effect, Disconnect)
    assert isinstance(effect.fault, WireFault)
    assert talk.refused(Refusal.MALFORMED_RPC) == 1
    assert talk.router.score(b"p") == -100.0


def test_a_malformed_message_costs_and_the_rest_of_its_rpc_counts() -> None:
    talk = Talk(STRICT)
    talk.join(b"p")
    talk.join(b"q")
    talk.say(b"q", GRAFT)
    talk.say(b"p", wire.message_part(b"\x22\x01\xff") + encoded(b"m") + wire.message_part(b""))
    assert talk.refused(Refusal.MALFORMED_MESSAGE) == 2
    assert talk.router.score(b"p") == -400.0
    assert talk.messages(b"q") == [b"m"]


def test_replaying_our_own_messages_earns_nothing() -> None:
    parameters = with_topic(
        first_weight=1.0, mesh_weight=-1.0, mesh_threshold=5.0, mesh_activation=1_000, mesh_window=10_000
    )
    talk = Talk(parameters)
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    for number in range(20):
        talk.publish(b"%d" % number)
        talk.say(b"p", encoded(b"%d" % number))
    assert talk.router.score_parts(b"p").first_deliveries == 0.0
    talk.beat(3)
    assert not talk.in_mesh(b"p")  # as if it had delivered nothing at all


def test_a_mesh_peer_that_never_delivers_is_pruned_and_kept_out() -> None:
    parameters = with_topic(
        mesh_weight=-1.0,
        mesh_threshold=10.0,
        mesh_activation=5_000,
        mesh_decay=0.99,
        failure_weight=-1.0,
        failure_decay=0.99,
    )
    talk = Talk(parameters)
    talk.join_many(2)
    for peer in (b"peer-000", b"peer-001"):
        talk.say(peer, GRAFT)
    for second in range(8):
        for number in range(5):
            talk.say(b"peer-000", encoded(b"%d-%d" % (second, number)))
        talk.beat()
    assert talk.router.mesh(TOPIC) == (b"peer-000",)
    assert talk.router.score_parts(b"peer-001").mesh_failures < -90.0
    talk.now += 20_000
    talk.hush()
    talk.say(b"peer-001", GRAFT)
    assert not talk.in_mesh(b"peer-001")
    assert len(talk.prunes(b"peer-001")) == 1


def test_sybils_on_one_address_are_pruned_and_others_are_not() -> None:
    score = ScoreParameters(colocation_weight=-20.0, colocation_threshold=3)
    talk = Talk(replace(PLAIN, score=score))
    honest = [talk.join(b"honest-%d" % number, group=b"address-%d" % number) for number in range(2)]
    sybils = [talk.join(b"sybil-%d" % number, group=b"one address") for number in range(10)]
    for peer in (*honest, *sybils):
        talk.say(peer, GRAFT)
    talk.beat()
    assert set(talk.router.mesh(TOPIC)) == set(honest)
    assert talk.router.score(sybils[0]) == -20.0 * 49


def test_many_nodes_on_loopback_are_no_sybils() -> None:
    talk = Talk(GossipParameters())
    for number in range(30):
        talk.join(b"%d" % number, group=None)
    assert min(talk.router.score(b"%d" % number) for number in range(30)) == 0.0


# --- floods of names


def test_subscriptions_of_a_peer_are_bounded_and_long_names_refused() -> None:
    talk = Talk()
    talk.join(b"p", subscribed=False)
    for start in range(0, 10_000, 100):
        talk.say(b"p", b"".join(subscription(f"topic-{number}") for number in range(start, start + 100)))
    talk.say(b"p", subscription("x" * 129))
    assert len(talk.router.subscriptions(b"p")) == 64
    assert talk.refused(Refusal.TOPICS_PER_PEER) == 10_000 - 64
    assert talk.refused(Refusal.TOPIC_TOO_LONG) == 1
    talk.say(b"p", GRAFT)  # it has used up its topics, ours among the refused
    assert not talk.in_mesh(b"p")
    assert len(talk.prunes(b"p")) == 1


def test_subscribing_and_leaving_again_and_again_changes_nothing() -> None:
    talk = Talk()
    talk.join(b"p")
    for number in range(1_000):
        talk.say(b"p", subscription(f"topic-{number}"), subscription(f"topic-{number}", False))
    assert talk.router.subscriptions(b"p") == (TOPIC,)
    assert talk.refused(Refusal.TOPICS_PER_PEER) == 0


def test_idontwant_spam_is_cut_and_its_budget_comes_back() -> None:
    talk = Talk(with_bounds(idontwant_ids=100))
    talk.join_many(2)
    for peer in (b"peer-000", b"peer-001"):
        talk.say(peer, GRAFT)
    talk.say(b"peer-001", control(wire.idontwant_entry(ids(60))), control(wire.idontwant_entry(ids(60, 60))))
    assert talk.refused(Refusal.IDONTWANT_IDS) == 20
    talk.say(b"peer-001", control(wire.idontwant_entry([id_of(b"a")])))
    talk.say(b"peer-000", encoded(b"a"))
    assert talk.messages(b"peer-001") == [b"a"]  # over the budget, so it is sent
    talk.beat()
    talk.say(b"peer-001", control(wire.idontwant_entry([id_of(b"b")])))
    talk.say(b"peer-000", encoded(b"b"))
    assert talk.messages(b"peer-001") == [b"a"]


def test_what_a_peer_does_not_want_is_forgotten_in_time() -> None:
    talk = Talk(with_bounds(idontwant_ids=100))
    talk.join(b"p")
    for number in range(50):
        talk.say(b"p", control(wire.idontwant_entry(ids(100, 100 * number))))
        talk.beat()
    [peer] = talk.router._state.peers.values()
    assert len(peer.unwanted) <= 3 * 100


def test_promises_and_back_offs_of_a_swarm_are_bounded() -> None:
    talk = Talk(with_bounds(promises=50, back_offs=50))
    for number, peer in enumerate(talk.join_many(100)):
        talk.say(peer, control(wire.ihave_entry(TOPIC, ids(1, number)), wire.prune_entry(Prune(TOPIC, 600))))
    statistics = talk.router.statistics()
    assert (statistics.promises, statistics.back_offs) == (50, 50)
    assert talk.refused(Refusal.PROMISES_FULL) == talk.refused(Refusal.BACK_OFFS_FULL) == 50


def test_scores_of_a_swarm_that_comes_and_goes_are_bounded() -> None:
    talk = Talk(with_bounds(retained_scores=50))
    for peer in talk.join_many(100):
        talk.take(talk.router.peer_left(peer, talk.now))
    assert talk.router.statistics().scores == 50
    assert talk.refused(Refusal.SCORES_FULL) == 50


def test_tables_of_messages_are_bounded() -> None:
    talk = Talk(with_bounds(seen=50, cached=20, rejected=10, ignored=10, pending=500))
    talk.join(b"p")
    for number in range(100):
        talk.say(b"p", encoded(b"good-%d" % number))
    statistics = talk.router.statistics()
    assert (statistics.seen, statistics.cached) == (50, 20)
    assert talk.refused(Refusal.SEEN_FULL) == 50
    assert talk.refused(Refusal.CACHE_FULL) == 80


def test_a_default_topic_score_rewards_and_punishes_within_the_thresholds() -> None:
    parameters, topic = ScoreParameters(), TopicScore()
    earned = topic.time_cap * topic.time_weight + topic.first_cap * topic.first_weight
    assert earned <= parameters.topic_cap
    assert topic.invalid_weight * 3**2 > parameters.thresholds.gossip > topic.invalid_weight * 4**2
    assert topic.invalid_weight * 10**2 >= parameters.thresholds.graylist > topic.invalid_weight * 11**2
    assert earned + topic.invalid_weight * 11**2 < parameters.thresholds.publish


def test_the_rest_of_an_rpc_is_not_judged_once_its_sender_is_graylisted() -> None:
    talk = Talk(verdict=None)
    enemy, other = talk.join_many(2)
    told = talk.say(enemy, b"".join(encoded(b"%d" % number) for number in range(20)))
    waiting = [effect for effect in told if isinstance(effect, Deliver)]
    assert len(waiting) == 20
    talk.say(other, encoded(b"19"))
    for effect in waiting[:11]:
        assert not talk.router.withdraw(effect.message_id, enemy)  # not bad enough yet
        talk.router.judge(effect.message_id, Verdict.REJECT, talk.now)
    assert [talk.router.withdraw(effect.message_id, enemy) for effect in waiting[11:]] == [True] * 8 + [False]
    assert talk.refused(Refusal.GRAYLISTED) == 8
    # What was withdrawn is not known, and is judged when somebody else sends it; what another sent as well waits.
    again = talk.say(other, encoded(b"15"))
    assert [effect.data for effect in again if isinstance(effect, Deliver)] == [b"15"]
    assert talk.router.statistics().pending == 2
