"""What happens to messages: new, copied, judged, signed, own, and large ones; `test_router.py` has all else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Deliver, Send, Verdict
from koii_p2p.gossip.message_id import author_id
from koii_p2p.gossip.parameters import SignaturePolicy
from koii_p2p.gossip.peers import Protocol
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

LARGE = bytes(2000)


# --- messages


def test_a_new_message_is_handed_over_once_and_forwarded_to_the_mesh_but_not_back() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(3):
        talk.say(peer, GRAFT)
    talk.join(b"outside")
    one, two, three = talk.router.mesh(TOPIC)
    effects = talk.say(one, encoded(b"m"))
    assert effects == [Deliver(Message(TOPIC, b"m"), one, id_of(b"m"))]
    [deliver] = talk.of(Deliver)
    assert (deliver.topic, deliver.data) == (TOPIC, b"m")
    sends = talk.take(talk.router.judge(id_of(b"m"), Verdict.ACCEPT, 0))
    assert [send.peer for send in sends if isinstance(send, Send)] == [two, three]
    assert talk.messages(two) == talk.messages(three) == [b"m"]
    assert talk.messages(one) == talk.messages(b"outside") == []
    assert talk.say(two, encoded(b"m")) == []
    assert talk.router.statistics().duplicates == 1


def test_a_message_is_encoded_once_for_all_who_get_it() -> None:
    talk = Talk()
    for peer in talk.join_many(6):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(b"m"))
    frames = [send.frame for send in talk.of(Send) if send.message_ids]
    assert len(frames) == 5
    assert all(frame is frames[0] for frame in frames)
    talk.hush()
    talk.publish(b"own")
    frames = [send.frame for send in talk.of(Send)]
    assert len(frames) == 6
    assert all(frame is frames[0] for frame in frames)


def test_who_sent_a_copy_while_it_was_judged_does_not_get_it() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(3):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(b"m"))
    assert talk.say(b"peer-001", encoded(b"m")) == []
    talk.take(talk.router.judge(id_of(b"m"), Verdict.ACCEPT, 0))
    assert talk.messages(b"peer-001") == []
    assert talk.messages(b"peer-002") == [b"m"]


def test_an_ignored_message_goes_nowhere_costs_nothing_and_may_come_again_later() -> None:
    talk = Talk(verdict=Verdict.IGNORE)
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(b"m"))
    assert talk.messages(b"peer-001") == []
    assert talk.router.score(b"peer-000") == 0.0
    assert talk.say(b"peer-001", encoded(b"m")) == []
    assert talk.refused(Refusal.IGNORED) == talk.refused(Refusal.IGNORED_BEFORE) == 1
    talk.verdict = Verdict.ACCEPT
    talk.beat(10)
    talk.say(b"peer-001", encoded(b"m"))
    assert talk.messages(b"peer-000") == [b"m"]


def test_a_rejected_message_costs_everybody_who_sent_it_and_is_not_judged_again() -> None:
    talk = Talk(with_topic(invalid_weight=-10.0), verdict=None)
    peers = talk.join_many(4)
    for peer in peers[:2]:
        talk.say(peer, encoded(b"bad"))
    talk.take(talk.router.judge(id_of(b"bad"), Verdict.REJECT, 0))
    assert talk.say(peers[2], encoded(b"bad")) == []
    assert [talk.router.score(peer) for peer in peers] == [-10.0, -10.0, -10.0, 0.0]
    assert talk.refused(Refusal.REJECTED) == talk.refused(Refusal.REJECTED_BEFORE) == 1
    [topic] = talk.router.statistics().topics
    assert topic.rejected == 2
    talk.beat(120)
    assert len(talk.say(peers[3], encoded(b"bad"))) == 1  # judged anew after the time it is remembered for


def test_a_verdict_may_come_later_within_its_time() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(b"soon"), encoded(b"late"))
    talk.beat(4)
    talk.take(talk.router.judge(id_of(b"soon"), Verdict.ACCEPT, talk.now))
    assert talk.messages(b"peer-001") == [b"soon"]
    assert talk.router.statistics().pending == 1
    talk.beat(1)
    assert talk.router.statistics().pending == 0
    assert talk.take(talk.router.judge(id_of(b"late"), Verdict.ACCEPT, talk.now)) == []
    assert talk.refused(Refusal.PENDING_EXPIRED) == talk.refused(Refusal.VERDICT_UNASKED) == 1
    assert talk.router.score(b"peer-000") == 0.0


def test_so_many_messages_wait_for_a_verdict_and_no_more() -> None:
    talk = Talk(with_bounds(pending=5, pending_per_peer=3), verdict=None)
    talk.join_many(3)
    talk.say(b"peer-000", *(encoded(b"a%d" % number) for number in range(4)))
    talk.say(b"peer-001", *(encoded(b"b%d" % number) for number in range(4)))
    assert talk.router.statistics().pending == 5
    assert talk.refused(Refusal.PENDING_PER_PEER) == 1
    assert talk.refused(Refusal.PENDING_FULL) == 2
    talk.take(talk.router.judge(id_of(b"a0"), Verdict.IGNORE, 0))
    assert len(talk.say(b"peer-002", encoded(b"b2"))) == 1  # what was refused may come again


def test_waiting_messages_are_bounded_in_bytes() -> None:
    talk = Talk(with_bounds(pending_bytes=5_000), verdict=None)
    talk.join(b"p")
    talk.say(b"p", encoded(bytes(3_000)), encoded(bytes(2_999)))
    assert talk.refused(Refusal.PENDING_FULL) == 1


def test_a_message_of_a_topic_we_did_not_join_is_dropped() -> None:
    talk = Talk()
    talk.join(b"p")
    assert talk.say(b"p", encoded(b"m", "elsewhere")) == []
    assert talk.refused(Refusal.UNJOINED_TOPIC) == 1
    assert talk.router.score(b"p") == 0.0


def test_several_messages_of_one_rpc_are_each_dealt_with() -> None:
    talk = Talk()
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(b"a") + encoded(b"b") + encoded(b"a") + encoded(b"c"))
    assert talk.messages(b"peer-001") == [b"a", b"b", b"c"]
    talk.say(b"peer-001", encoded(b"b") + encoded(b"d"))
    assert talk.messages(b"peer-000") == [b"d"]
    assert talk.router.statistics().duplicates == 2


def test_a_known_message_is_known_by_its_id_when_its_bytes_are_no_longer_cached() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", encoded(b"m"))
    talk.beat(7)
    assert talk.router.statistics().cached == 0
    assert talk.say(b"p", encoded(b"m")) == []
    talk.beat(113)
    assert [type(effect) for effect in talk.say(b"p", encoded(b"m"))] == [Deliver]


def test_unknown_fields_do_not_make_another_message() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    odd = wire.message_part(bytes.fromhex("7801") + wire.encode_message(Message(TOPIC, b"m")))
    talk.say(b"peer-000", odd)
    talk.take(talk.router.judge(id_of(b"m"), Verdict.ACCEPT, 0))
    [send] = [send for send in talk.of(Send) if send.message_ids]
    assert wire.unframed(send.frame) == encoded(b"m")
    assert talk.say(b"peer-001", odd) == talk.say(b"peer-001", encoded(b"m")) == []


@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.REJECT])
def test_unknown_fields_do_not_make_us_judge_again(verdict: Verdict) -> None:
    talk = Talk(verdict=verdict)
    talk.join(b"p")
    raw = wire.encode_message(Message(TOPIC, b"m"))
    talk.say(b"p", *(wire.message_part(bytes((0x78, number)) + raw) for number in range(5)))
    assert talk.router.statistics().delivered == 1


# --- author fields


SIGNED = Message(TOPIC, b"m", b"author", b"\0\0\0\1", b"signature", b"key")


@pytest.mark.parametrize("name", ["author", "seqno", "signature", "key"])
def test_without_signing_no_author_field_may_be_there(name: str) -> None:
    talk = Talk(with_topic(invalid_weight=-10.0))
    talk.join(b"p")
    message = replace(Message(TOPIC, b"m"), **{name: b""})  # type: ignore[arg-type]
    assert talk.say(b"p", wire.message_part(wire.encode_message(message))) == []
    assert talk.refused(Refusal.SIGNATURE_POLICY) == 1
    assert talk.router.score(b"p") == -10.0


@pytest.mark.parametrize("name", ["author", "seqno", "signature"])
def test_with_signing_author_seqno_and_signature_have_to_be_there(name: str) -> None:
    talk = Talk(replace(with_topic(invalid_weight=-10.0), policy=SignaturePolicy.SIGN))
    talk.join(b"p")
    message = replace(SIGNED, **{name: None})  # type: ignore[arg-type]
    assert talk.say(b"p", wire.message_part(wire.encode_message(message))) == []
    assert talk.router.score(b"p") == -10.0


def signing_talk() -> Talk:
    return Talk(
        replace(PLAIN, policy=SignaturePolicy.SIGN, id_length=None), verdict=None, message_id=author_id
    )


def test_a_signed_message_travels_as_it_came_with_all_its_fields() -> None:
    talk = signing_talk()
    for peer in (*talk.join_many(2), talk.join(b"author")):
        talk.say(peer, GRAFT)
    raw = wire.encode_message(SIGNED) + bytes.fromhex("7801")  # an unknown field is signed, too
    [deliver] = talk.say(b"peer-000", wire.message_part(raw))
    assert isinstance(deliver, Deliver)
    assert deliver.message == SIGNED
    assert deliver.message_id == b"author\0\0\0\1"
    talk.take(talk.router.judge(deliver.message_id, Verdict.ACCEPT, 0))
    [send] = [send for send in talk.of(Send) if send.message_ids]
    assert send.peer == b"peer-001"  # neither back nor to its author
    assert wire.unframed(send.frame) == wire.message_part(raw)


def test_a_forgery_does_not_keep_the_true_message_of_its_id_away() -> None:
    talk = signing_talk()
    talk.join_many(2)
    forged = wire.message_part(wire.encode_message(replace(SIGNED, signature=b"wrong", data=LARGE)))
    true = wire.message_part(wire.encode_message(SIGNED))
    [deliver] = talk.say(b"peer-000", forged)
    assert isinstance(deliver, Deliver)
    assert talk.say(b"peer-001", true) == []
    assert talk.refused(Refusal.OTHER_BYTES) == 1
    talk.take(talk.router.judge(deliver.message_id, Verdict.REJECT, 0))
    assert talk.router.score(b"peer-000") < 0
    assert talk.router.score(b"peer-001") == 0.0
    [deliver] = talk.say(b"peer-001", true)
    assert isinstance(deliver, Deliver)
    assert deliver.message == SIGNED


def test_own_signed_messages_carry_their_fields() -> None:
    talk = signing_talk()
    talk.join(b"p")
    talk.take(talk.router.publish_message(SIGNED, 0))
    assert wire.decode_message(talk.said[b"p"][-1].messages[0]) == SIGNED
    with pytest.raises(ValueError, match="SIGN"):
        talk.publish(b"unsigned")
    with pytest.raises(ValueError, match="NO_SIGN"):
        Talk().router.publish_message(SIGNED, 0)


# --- own messages


def test_own_messages_go_to_every_subscriber_and_must_not_be_dropped() -> None:
    talk = Talk()
    peers = talk.join_many(20)
    talk.join(b"elsewhere", subscribed=False)
    talk.hush()
    talk.publish(b"own")
    assert all(talk.messages(peer) == [b"own"] for peer in peers)
    assert b"elsewhere" not in talk.said
    assert all(send.message_ids == () and not send.urgent for send in talk.of(Send))


def test_own_messages_are_not_sent_below_the_publish_threshold() -> None:
    talk = Talk()
    talk.join_many(2)
    talk.router.set_application_score(b"peer-000", -501.0)
    talk.publish(b"own")
    assert talk.messages(b"peer-000") == []
    assert talk.messages(b"peer-001") == [b"own"]


def test_without_flood_publishing_own_messages_go_to_the_mesh() -> None:
    talk = Talk(replace(PLAIN, flood_publish=False))
    peers = talk.join_many(20)
    talk.beat()
    talk.hush()
    talk.publish(b"own")
    assert {peer for peer in peers if talk.messages(peer)} == set(talk.router.mesh(TOPIC))


def test_a_topic_we_only_publish_to_has_a_fanout_that_is_kept_filled_and_forgotten() -> None:
    talk = Talk(replace(PLAIN, flood_publish=False), joined=False)
    peers = talk.join_many(20)
    talk.publish(b"one")
    first = {peer for peer in peers if talk.messages(peer)}
    assert len(first) == 6
    talk.hush()
    talk.publish(b"two")
    assert {peer for peer in peers if talk.messages(peer)} == first
    gone = min(first)
    talk.take(talk.router.peer_left(gone, talk.now))
    talk.hush()
    talk.beat()
    told = {peer for peer in peers if talk.told(peer)}
    assert told.isdisjoint(first - {gone})
    talk.publish(b"three")
    now = {peer for peer in peers if talk.messages(peer)}
    assert len(now) == 6
    assert first - {gone} < now
    talk.beat(60)
    talk.take(talk.router.subscribe(TOPIC, talk.now))
    assert len(talk.router.mesh(TOPIC)) == 6
    assert set(talk.router.mesh(TOPIC)) != now


def test_a_fanout_peer_below_the_publish_threshold_is_replaced() -> None:
    talk = Talk(replace(PLAIN, flood_publish=False), joined=False)
    peers = talk.join_many(7)
    talk.publish(b"one")
    poor = next(peer for peer in peers if talk.messages(peer))
    talk.router.set_application_score(poor, -501.0)
    talk.beat()
    talk.hush()
    talk.publish(b"two")
    assert {peer for peer in peers if talk.messages(peer)} == set(peers) - {poor}


def test_joining_a_topic_moves_its_fanout_into_the_mesh() -> None:
    talk = Talk(replace(PLAIN, flood_publish=False), joined=False)
    peers = talk.join_many(20)
    talk.publish(b"one")
    fanout = {peer for peer in peers if talk.messages(peer)}
    talk.take(talk.router.subscribe(TOPIC, talk.now))
    assert set(talk.router.mesh(TOPIC)) == fanout


def test_an_own_message_is_published_once_and_not_judged_when_it_comes_back() -> None:
    talk = Talk(verdict=None)
    talk.join(b"p")
    assert len(talk.publish(b"own")) == 1
    assert talk.publish(b"own") == []
    assert talk.say(b"p", encoded(b"own")) == []
    assert talk.router.statistics().published == 1


def test_an_own_message_waits_for_the_first_who_subscribes() -> None:
    talk = Talk()
    talk.publish(b"early")
    assert talk.router.statistics().held == 1
    talk.join(b"p", subscribed=False)
    talk.say(b"p", subscription("elsewhere"))
    assert talk.messages(b"p") == []
    talk.say(b"p", subscription())
    assert talk.messages(b"p") == [b"early"]
    assert talk.router.statistics().held == 0
    talk.join(b"q")
    assert talk.messages(b"q") == []


def test_leaving_a_topic_gives_up_what_waits_in_it() -> None:
    talk = Talk()
    talk.publish(b"early")
    talk.take(talk.router.unsubscribe(TOPIC, talk.now))
    assert talk.router.statistics().held == 0
    talk.take(talk.router.subscribe(TOPIC, talk.now))
    talk.join(b"p")
    assert talk.messages(b"p") == []


def test_so_many_own_messages_wait_and_the_oldest_is_given_up() -> None:
    talk = Talk(with_bounds(held=2))
    for number in range(3):
        talk.publish(b"%d" % number)
    talk.join(b"p")
    assert talk.messages(b"p") == [b"1", b"2"]
    assert talk.refused(Refusal.HELD_FULL) == 1


def test_what_a_full_queue_kept_from_a_mesh_peer_is_offered_again() -> None:
    talk = Talk()
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    talk.beat(2)
    talk.say(b"peer-000", encoded(b"m"))
    [send] = [send for send in talk.of(Send) if send.message_ids]
    talk.router.not_sent(send)
    talk.hush()
    talk.beat()
    assert talk.told(b"peer-001") == [id_of(b"m")]
    assert talk.told(b"peer-000") == []
    talk.hush()
    talk.beat()
    assert talk.told(b"peer-001") == []
    assert talk.refused(Refusal.NOT_SENT) == 1


def test_what_a_full_queue_kept_back_is_offered_even_if_it_is_no_longer_advertised() -> None:
    talk = Talk()
    talk.join_many(2)
    talk.say(b"peer-000", encoded(b"old"))
    talk.beat(4)
    talk.say(b"peer-001", control(wire.iwant_entry([id_of(b"old")])))
    talk.router.not_sent(talk.of(Send)[-1])
    talk.say(b"peer-000", PRUNE, encoded(b"new"))
    talk.say(b"peer-001", PRUNE)
    talk.hush()
    talk.beat()
    assert talk.told(b"peer-001") == [id_of(b"new"), id_of(b"old")]


def test_an_answer_that_a_full_queue_kept_back_does_not_count_as_one() -> None:
    talk = Talk()
    talk.join_many(2)
    talk.say(b"peer-000", encoded(b"m"))
    for _ in range(10):
        talk.hush()
        talk.say(b"peer-001", control(wire.iwant_entry([id_of(b"m")])))
        [send] = talk.of(Send)
        talk.router.not_sent(send)
    assert talk.refused(Refusal.IWANT_REPEATS) == 0


def test_a_mesh_peer_that_left_and_came_back_meanwhile_is_told_that_it_is_out() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.beat()
    assert talk.grafts(b"p") == 1
    talk.say(b"p", subscription(subscribes=False), subscription())  # it has joined anew and taken our GRAFT
    assert talk.prunes(b"p") == [Prune(TOPIC, 10)]
    assert not talk.in_mesh(b"p")


def test_a_mesh_peer_that_prunes_us_and_leaves_is_not_answered() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.say(b"p", GRAFT, subscription(subscribes=False) + PRUNE)
    assert not talk.in_mesh(b"p")
    assert talk.prunes(b"p") == []


# --- IDONTWANT


def test_large_messages_are_announced_to_1_2_mesh_peers_before_the_verdict() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(3):
        talk.say(peer, GRAFT)
    talk.join(b"old", Protocol.MESHSUB_1_1)
    talk.say(b"old", GRAFT)
    talk.join(b"outside")
    talk.hush()
    talk.say(b"peer-000", encoded(LARGE))
    assert talk.unwanted(b"peer-001") == talk.unwanted(b"peer-002") == [id_of(LARGE)]
    assert talk.unwanted(b"peer-000") == talk.unwanted(b"old") == talk.unwanted(b"outside") == []
    assert all(send.urgent for send in talk.of(Send))


def test_small_messages_are_not_announced() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", encoded(bytes(1_023)))
    assert talk.unwanted(b"peer-001") == []


def test_what_a_peer_does_not_want_is_not_forwarded_for_three_heartbeats() -> None:
    talk = Talk(verdict=None)
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    for data, beats, sent in ((b"a", 0, False), (b"b", 2, False), (b"c", 3, True)):
        talk.say(b"peer-001", control(wire.idontwant_entry([id_of(data)])))
        talk.beat(beats)
        talk.say(b"peer-000", encoded(data))
        talk.take(talk.router.judge(id_of(data), Verdict.ACCEPT, talk.now))
        assert (data in talk.messages(b"peer-001")) is sent, data
    assert talk.router.statistics().idontwant_heeded == 2


def test_what_a_peer_does_not_want_is_not_sent_on_request_either() -> None:
    talk = Talk()
    talk.join(b"p")
    talk.join(b"q")
    talk.say(b"q", encoded(b"m"))
    talk.say(b"p", control(wire.idontwant_entry([id_of(b"m")]), wire.iwant_entry([id_of(b"m")])))
    talk.say(b"p", control(wire.iwant_entry([id_of(b"m")])))
    assert talk.messages(b"p") == [b"m"]  # IWANT came first in the first RPC


def test_where_authors_choose_ids_idontwant_waits_for_the_verdict() -> None:
    talk = signing_talk()
    for peer in talk.join_many(2):
        talk.say(peer, GRAFT)
    talk.say(b"peer-000", wire.message_part(wire.encode_message(replace(SIGNED, data=LARGE))))
    assert talk.unwanted(b"peer-001") == []
    talk.take(talk.router.judge(author_id(SIGNED), Verdict.ACCEPT, 0))
    assert talk.unwanted(b"peer-001") == [author_id(SIGNED)]
