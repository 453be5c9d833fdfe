"""The rules of the router one by one: topics, gossip, mesh, peer exchange, what each protocol version gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Connect, Disconnect, Graylist, Send, Verdict
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import Bounds, Degrees
from koii_p2p.gossip.peers import ANNOUNCED, Protocol
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.wire import Message, Prune
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

# --- peers and topics


def test_a_new_peer_is_told_our_topics_in_one_frame() -> None:
    talk = Talk()
    talk.take(talk.router.subscribe("other", 0))
    talk.join(b"p")
    [hello] = talk.said[b"p"]
    assert hello.subscriptions == [(True, TOPIC), (True, "other")]


def test_joining_and_leaving_a_topic_is_announced_to_everybody() -> None:
    talk = Talk(joined=False)
    talk.join(b"p")
    talk.join(b"q", Protocol.FLOODSUB, subscribed=False)
    assert talk.said == {}
    talk.take(talk.router.subscribe(TOPIC, 0))
    assert talk.router.subscribe(TOPIC, 0) == []
    for peer in (b"p", b"q"):
        assert [rpc.subscriptions for rpc in talk.said[peer]] == [[(True, TOPIC)]]
    talk.hush()
    talk.take(talk.router.unsubscribe(TOPIC, 0))
    assert talk.router.unsubscribe(TOPIC, 0) == []
    assert talk.said[b"q"][0].subscriptions == [(False, TOPIC)]
    assert talk.router.statistics().topics == ()


def test_joining_grafts_up_to_d_of_the_peers_that_are_there() -> None:
    talk = Talk(joined=False)
    peers = talk.join_many(10)
    talk.take(talk.router.subscribe(TOPIC, 0))
    assert len(talk.router.mesh(TOPIC)) == 6
    assert sum(talk.grafts(peer) for peer in peers) == 6


def test_leaving_prunes_the_mesh_with_the_short_back_off() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    talk.take(talk.router.unsubscribe(TOPIC, 0))
    assert talk.prunes(b"p") == [Prune(TOPIC, 10)]
    talk.hush()
    talk.take(talk.router.subscribe(TOPIC, 5_000))
    assert not talk.in_mesh(b"p")
    talk.now = 11_000
    talk.beat()
    assert talk.in_mesh(b"p")


def test_neighbours_and_subscriptions_are_what_peers_said() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.join(b"q", subscribed=False)
    talk.say(b"q", subscription("elsewhere"))
    assert talk.router.neighbours(TOPIC) == (b"p",)
    assert talk.router.neighbours("elsewhere") == (b"q",)
    assert talk.router.subscriptions(b"q") == ("elsewhere",)
    talk.say(b"p", subscription(subscribes=False))
    assert talk.router.neighbours(TOPIC) == ()
    assert talk.router.subscriptions(b"nobody") == ()


def test_a_peer_that_unsubscribes_leaves_the_mesh() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    assert talk.in_mesh(b"p")
    talk.say(b"p", subscription(subscribes=False))
    assert not talk.in_mesh(b"p")


def test_a_peer_that_leaves_is_forgotten_but_for_its_score() -> None:
    talk = Talk(with_topic(invalid_weight=-10.0), verdict=Verdict.REJECT)
    talk.join(b"p")
    talk.say(b"p", GRAFT, encoded(b"bad"))
    talk.take(talk.router.peer_left(b"p", 0))
    assert talk.router.peer_left(b"p", 0) == []
    assert talk.router.mesh(TOPIC) == talk.router.neighbours(TOPIC) == ()
    assert talk.say(b"p", encoded(b"more")) == []
    assert talk.refused(Refusal.STRANGER) == 1
    talk.join(b"p")
    assert talk.router.score(b"p") == -10.0


def test_a_second_stream_of_a_peer_gets_a_second_hello_and_keeps_its_place() -> None:
    talk = Talk()
    talk.join(b"p", group=b"g")
    talk.say(b"p", GRAFT)
    talk.hush()
    talk.take(talk.router.peer_joined(b"p", Protocol.MESHSUB_1_1, True, b"h", 0))
    assert talk.said[b"p"][0].subscriptions == [(True, TOPIC)]
    assert talk.in_mesh(b"p")
    assert talk.router.statistics().peers == 1
    talk.take(talk.router.peer_joined(b"p", Protocol.FLOODSUB, True, b"h", 0))
    assert not talk.in_mesh(b"p")


def test_too_many_peers_are_sent_away() -> None:
    talk = Talk(with_bounds(peers=2))
    talk.join_many(2)
    assert talk.take(talk.router.peer_joined(b"p", Protocol.MESHSUB_1_2, False, None, 0)) == [
        Disconnect(b"p", None)
    ]
    assert talk.refused(Refusal.PEERS_FULL) == 1


def test_topics_and_messages_over_their_bounds_are_our_own_error() -> None:
    talk = Talk(with_bounds(topics=2, message_bytes=100))
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        talk.router.subscribe("t" * 129, 0)
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        talk.router.subscribe("", 0)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        talk.router.publish(TOPIC, bytes(101), 0)
    talk.take(talk.router.subscribe("second", 0))
    with pytest.raises(ValueError, match="2 topics already"):
        talk.router.subscribe("third", 0)


def test_we_announce_1_2_and_1_1() -> None:
    assert ANNOUNCED == ("/meshsub/1.2.0", "/meshsub/1.1.0")


# --- gossip


def test_peers_outside_the_mesh_are_told_what_there_is_for_three_heartbeats() -> None:
    talk = Talk()
    for peer in talk.join_many(6):
        talk.say(peer, GRAFT)
    talk.join(b"outside")
    talk.beat(2)
    talk.say(b"peer-000", encoded(b"m"))
    talk.hush()
    for told in (1, 1, 1, 0):
        talk.beat()
        assert len(talk.told(b"outside")) == told
        assert all(talk.told(peer) == [] for peer in talk.router.mesh(TOPIC))
        talk.hush()


def test_at_least_d_lazy_and_a_quarter_of_the_peers_are_told() -> None:
    for count, told in ((10, 4), (24, 6), (60, 13)):
        talk = Talk()
        peers = talk.join_many(count)
        talk.beat(3)
        talk.publish(b"m")
        talk.hush()
        talk.beat()
        assert sum(bool(talk.told(peer)) for peer in peers) == told, count


def test_who_came_into_the_mesh_just_now_is_told_what_went_past_it() -> None:
    talk = Talk()
    talk.join(b"old")
    talk.say(b"old", GRAFT, encoded(b"m"))
    talk.beat(2)
    talk.join(b"new")
    talk.say(b"new", GRAFT)
    talk.hush()
    talk.beat()
    assert talk.told(b"new") == [id_of(b"m")]
    assert talk.told(b"old") == []


def test_lacking_messages_are_asked_for_and_known_ones_are_not() -> None:
    talk = Talk(verdict=None)
    talk.join(b"p")
    for data, verdict in ((b"seen", Verdict.ACCEPT), (b"bad", Verdict.REJECT), (b"no", Verdict.IGNORE)):
        talk.say(b"p", encoded(data))
        talk.take(talk.router.judge(id_of(data), verdict, 0))
    talk.say(b"p", encoded(b"waiting"))
    ids = [id_of(data) for data in (b"seen", b"bad", b"no", b"waiting", b"lacking")]
    talk.say(b"p", control(wire.ihave_entry(TOPIC, ids)))
    assert talk.wanted(b"p") == [id_of(b"lacking")]


def test_ids_of_another_length_are_not_asked_for() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", control(wire.ihave_entry(TOPIC, [b"x" * 19, b"x" * 21, b""])))
    talk.say(b"p", control(wire.idontwant_entry([b"x" * 19])))
    assert talk.wanted(b"p") == []
    assert talk.refused(Refusal.ID_LENGTH) == 4


def test_a_message_that_is_asked_for_is_sent_while_it_is_cached() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.join(b"q")
    talk.say(b"q", encoded(b"m"))
    ask = control(wire.iwant_entry([id_of(b"m"), id_of(b"unknown"), id_of(b"m")]))
    talk.say(b"p", ask)
    assert talk.messages(b"p") == [b"m"]
    assert talk.refused(Refusal.IWANT_UNKNOWN) == 1
    talk.beat(6)
    talk.say(b"p", ask)
    assert talk.messages(b"p") == [b"m"]


def test_answers_are_split_into_rpcs_that_fit() -> None:
    talk = Talk(with_bounds(rpc_bytes=10_000, message_bytes=4_000))
    talk.join(b"p")
    talk.join(b"q")
    payloads = [bytes([number]) * 3_000 for number in range(7)]
    for data in payloads:
        talk.say(b"q", encoded(data))
    talk.hush()
    talk.say(b"p", control(wire.iwant_entry([id_of(data) for data in payloads])))
    assert talk.messages(b"p") == payloads
    assert [len(rpc.messages) for rpc in talk.said[b"p"]] == [3, 3, 1]
    assert all(len(wire.unframed(send.frame)) <= 10_000 for send in talk.of(Send))


# --- the mesh


def test_a_mesh_below_low_is_filled_at_the_heartbeat() -> None:
    talk = Talk()
    talk.join_many(20)
    talk.beat()
    assert len(talk.router.mesh(TOPIC)) == 6
    for peer in talk.router.mesh(TOPIC)[:2]:
        talk.take(talk.router.peer_left(peer, talk.now))
    talk.beat()
    assert len(talk.router.mesh(TOPIC)) == 6


def test_two_nodes_are_a_mesh() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.beat(5)
    assert talk.router.mesh(TOPIC) == (b"p",)
    assert talk.grafts(b"p") == 1


def test_a_mesh_above_high_is_cut_to_d_with_back_off_and_recommendations() -> None:
    talk = Talk()
    inbound = talk.join_many(11)
    outbound = talk.join_many(4, "out", outbound=True)
    for peer in (*inbound, *outbound):
        talk.router.set_record(peer, b"record of " + peer)
        talk.say(peer, GRAFT)
    assert len(talk.router.mesh(TOPIC)) == 15
    talk.beat()
    mesh = talk.router.mesh(TOPIC)
    assert len(mesh) == 6
    assert sum(peer.startswith(b"out") for peer in mesh) >= 2
    pruned = [peer for peer in (*inbound, *outbound) if talk.prunes(peer)]
    assert len(pruned) == 9
    [prune] = talk.prunes(pruned[0])
    assert prune.back_off == 15
    assert len(prune.peers) == 14
    assert all(record == b"record of " + peer for peer, record in prune.peers)
    assert pruned[0] not in dict(prune.peers)


def test_a_mesh_without_outbound_peers_reaches_out() -> None:
    talk = Talk()
    for peer in talk.join_many(6):
        talk.say(peer, GRAFT)
    talk.join_many(3, "out", outbound=True)
    talk.beat()
    assert sum(peer.startswith(b"out") for peer in talk.router.mesh(TOPIC)) == 2


def test_peers_with_a_negative_score_leave_the_mesh_without_recommendations() -> None:
    talk = Talk()
    for peer in talk.join_many(6):
        talk.say(peer, GRAFT)
    talk.router.set_application_score(b"peer-000", -1.0)
    talk.beat()
    assert not talk.in_mesh(b"peer-000")
    assert talk.prunes(b"peer-000") == [Prune(TOPIC, 15)]
    talk.beat(30)
    assert not talk.in_mesh(b"peer-000")
    talk.router.set_application_score(b"peer-000", 0.0)
    talk.take(talk.router.peer_left(b"peer-001", talk.now))
    talk.take(talk.router.peer_left(b"peer-002", talk.now))
    talk.beat()
    assert talk.in_mesh(b"peer-000")


def test_a_graft_is_taken_as_a_subscription() -> None:
    talk = Talk()
    talk.join(b"p", subscribed=False)
    talk.say(b"p", GRAFT)
    assert talk.in_mesh(b"p")
    assert talk.router.neighbours(TOPIC) == (b"p",)


def test_a_pruned_peer_is_left_alone_for_its_back_off_and_a_heartbeat() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT, control(wire.prune_entry(Prune(TOPIC, 3))))
    talk.beat(3)
    assert talk.grafts(b"p") == 0
    talk.beat()
    assert talk.grafts(b"p") == 1


def test_a_prune_without_a_time_means_ours() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT, PRUNE)
    talk.beat(15)
    assert talk.grafts(b"p") == 0
    talk.beat()
    assert talk.grafts(b"p") == 1
    talk.beat(15)
    assert talk.router.statistics().back_offs == 0


def test_a_mesh_of_poor_peers_takes_in_better_ones_once_a_minute() -> None:
    talk = Talk(replace(PLAIN, degrees=replace(PLAIN.degrees, vouched=0)))
    for peer in talk.join_many(6, outbound=True):
        talk.say(peer, GRAFT)
    good = talk.join_many(3, "good")
    for peer in good:
        talk.router.set_application_score(peer, 50.0)
    talk.beat(60)
    assert len(talk.router.mesh(TOPIC)) == 6
    talk.beat()
    assert sum(map(talk.in_mesh, good)) == 2


# --- peer exchange


def exchanging(score: float, count: int = 3, **bounds: int) -> tuple[Talk, list[Connect]]:
    talk = Talk(with_bounds(PLAIN, **bounds))
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    talk.router.set_application_score(b"p", score)
    peers = tuple((b"new-%d" % number, b"record") for number in range(count))
    talk.say(b"p", control(wire.prune_entry(Prune(TOPIC, 60, ((b"us", b""), (b"p", b""), *peers)))))
    return talk, talk.of(Connect)


def test_recommended_peers_are_dialled_if_the_recommender_is_trusted() -> None:
    _, connects = exchanging(10.0)
    assert connects == [Connect(b"new-%d" % number, b"record", b"p") for number in range(3)]


def test_recommendations_below_the_threshold_are_ignored() -> None:
    talk, connects = exchanging(9.9)
    assert connects == []
    assert talk.refused(Refusal.PX_SCORE) == 1


def test_so_many_recommended_peers_are_dialled_in_a_heartbeat() -> None:
    talk, connects = exchanging(10.0, 5, px_connects=2)
    assert len(connects) == 2
    assert talk.refused(Refusal.PX_PEERS) == 3
    talk.beat()
    talk.say(b"p", control(wire.prune_entry(Prune(TOPIC, None, ((b"another", b""),)))))
    assert talk.of(Connect)[-1].peer == b"another"


def test_a_record_over_its_bound_is_not_passed_on() -> None:
    talk = Talk()
    for peer in talk.join_many(13):
        talk.router.set_record(peer, bytes(4_097 if peer == b"peer-000" else 4_096))
        talk.say(peer, GRAFT)
    [prune] = talk.prunes(b"peer-012")
    assert {peer: len(record) for peer, record in prune.peers}[b"peer-000"] == 0
    assert sorted(len(record) for _, record in prune.peers) == [0] + [4_096] * 11


def test_a_peer_may_be_recommended_without_a_record() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.router.set_application_score(b"p", 10.0)
    talk.say(b"p", control(wire.prune_entry(Prune(TOPIC, None, ((b"new", b""),)))))
    assert talk.of(Connect) == [Connect(b"new", b"", b"p")]


# --- direct peers


def test_direct_peers_are_dialled_and_get_everything_outside_the_mesh() -> None:
    talk = Talk(direct=[b"friend", b"absent"])
    talk.beat()
    assert talk.of(Connect) == [Connect(b"absent", b"", b""), Connect(b"friend", b"", b"")]
    talk.hush()
    talk.join(b"friend")
    talk.join(b"p")
    talk.beat()
    assert talk.router.mesh(TOPIC) == (b"p",)
    talk.say(b"p", encoded(b"m"))
    assert talk.messages(b"friend") == [b"m"]
    talk.beat(300)
    assert talk.of(Connect) == [Connect(b"absent", b"", b"")]


def test_direct_peers_are_heard_and_served_whatever_their_score() -> None:
    talk = Talk(direct=[b"friend"])
    talk.join(b"friend")
    talk.join(b"p")
    talk.say(b"p", GRAFT)
    talk.router.set_application_score(b"friend", -2_000.0)
    talk.beat()
    assert talk.of(Graylist) == []
    talk.say(b"friend", encoded(b"m"))
    assert talk.messages(b"p") == [b"m"]
    talk.publish(b"own")
    assert talk.messages(b"friend") == [b"own"]


def test_a_direct_peer_that_grafts_is_pruned_at_no_cost() -> None:
    talk = Talk(direct=[b"friend"])
    talk.join(b"friend")
    talk.say(b"friend", GRAFT, GRAFT)
    assert len(talk.prunes(b"friend")) == 2
    assert not talk.in_mesh(b"friend")
    assert talk.router.score(b"friend") == 0.0
    assert talk.refused(Refusal.GRAFT_DIRECT) == 2


# --- protocol versions


def test_floodsub_peers_get_every_message_and_no_control() -> None:
    talk = Talk()
    talk.join(b"old", Protocol.FLOODSUB)
    talk.join(b"p")
    talk.hush()
    talk.beat()
    assert talk.router.mesh(TOPIC) == (b"p",)
    talk.say(b"p", encoded(b"m"))
    talk.publish(b"own")
    talk.beat(2)
    assert talk.messages(b"old") == [b"m", b"own"]
    assert talk.controls(b"old") == []
    talk.say(b"old", GRAFT)
    assert not talk.in_mesh(b"old")
    assert talk.refused(Refusal.CONTROL_FROM_FLOODSUB) == 1
    talk.router.set_application_score(b"old", -501.0)
    talk.say(b"p", encoded(b"n"))
    assert talk.messages(b"old") == [b"m", b"own"]


def test_1_0_peers_get_prunes_without_back_off_and_recommendations() -> None:
    talk = Talk()
    peers = [talk.join(b"%03d" % number, Protocol.MESHSUB_1_0) for number in range(15)]
    for peer in peers[:12]:
        talk.say(peer, GRAFT)
    talk.say(peers[12], GRAFT)
    assert talk.prunes(peers[12]) == [Prune(TOPIC)]


def test_a_full_mesh_recommends_others_to_a_1_1_peer_it_has_no_room_for() -> None:
    talk = Talk()
    peers = [talk.join(b"%03d" % number, Protocol.MESHSUB_1_1) for number in range(20)]
    for peer in peers[:12]:
        talk.say(peer, GRAFT)
    talk.say(peers[12], GRAFT)
    [prune] = talk.prunes(peers[12])
    assert prune.back_off == 15
    assert len(prune.peers) == 16


# --- ids and numbers


def test_the_id_of_a_message_is_a_hash_of_domain_topic_and_payload() -> None:
    from hashlib import sha256

    assert (
        content_id(Message("topic", b"payload"))
        == (sha256(b"\x00\x11koii_p2p/gossip/1" + b"\x00\x05topic" + b"payload").digest()[:20])
    )
    assert content_id(Message("ab", b"c")) != content_id(Message("a", b"bc"))


def test_statistics_count_what_there_is() -> None:
    talk = Talk()
    for peer in talk.join_many(3):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(b"a"))
    talk.say(b"peer-001", encoded(b"a"), encoded(b"b"))
    talk.publish(b"own")
    talk.beat()
    statistics = talk.router.statistics()
    [topic] = statistics.topics
    assert (topic.topic, topic.neighbours, topic.mesh) == (TOPIC, 3, 3)
    assert (topic.published, topic.accepted, topic.duplicates, topic.ignored) == (1, 2, 1, 0)
    assert (statistics.received, statistics.delivered, statistics.forwarded) == (3, 2, 4)
    assert (statistics.cached, statistics.seen, statistics.peers, statistics.heartbeats) == (3, 3, 3, 1)
    assert statistics.grafts_taken == 3


def test_a_bootstrapper_without_a_mesh_gossips_and_recommends() -> None:
    degrees = Degrees(wanted=0, low=0, high=0, score=0, outbound=0, vouched=0, lazy=6)
    talk = Talk(replace(PLAIN, degrees=degrees))
    talk.join_many(5)
    talk.say(b"peer-000", GRAFT)
    [prune] = talk.prunes(b"peer-000")
    assert len(prune.peers) == 4
    talk.say(b"peer-000", encoded(b"m"))
    talk.hush()
    talk.beat()
    assert talk.router.mesh(TOPIC) == ()
    assert sum(bool(talk.told(b"peer-%03d" % number)) for number in range(5)) == 5


def test_bounds_hold_every_message_that_may_be_published() -> None:
    bounds = Bounds()
    talk = Talk()
    talk.join(b"p")
    talk.publish(bytes(bounds.message_bytes))
    [send] = [send for send in talk.of(Send) if not send.urgent]
    assert len(wire.unframed(send.frame)) < bounds.rpc_bytes
