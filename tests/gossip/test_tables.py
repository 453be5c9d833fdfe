"""The bounded tables: seen ids, cached messages, waiting messages, back-offs, promises."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.gossip import wire
from koii_p2p.gossip.back_off import BackOffs
from koii_p2p.gossip.effects import Send
from koii_p2p.gossip.message_cache import Entry, MessageCache, Pending
from koii_p2p.gossip.outbox import Outbox
from koii_p2p.gossip.parameters import Bounds
from koii_p2p.gossip.promises import Promises
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.seen import Seen
from koii_p2p.gossip.wire import Message


def entry(number: int, *, topic: str = "t", size: int = 10, first: bytes = b"p", now: int = 0) -> Entry:
    key = number.to_bytes(4, "big")
    return Entry(key, Message(topic, key), key + bytes(size - 4), first, now)


# --- seen


def test_an_id_is_known_for_its_lifetime() -> None:
    seen = Seen(10, 100)
    seen.add(b"a", 0, b"note")
    seen.expire(99)
    assert seen.note(b"a") == b"note"
    seen.expire(100)
    assert seen.note(b"a") is None
    assert len(seen) == 0


def test_an_id_added_again_is_known_for_longer() -> None:
    seen = Seen(10, 100)
    seen.add(b"a", 0)
    seen.add(b"b", 10)
    seen.add(b"a", 50)
    seen.expire(149)
    assert list(seen.entries) == [b"a"]


def test_the_oldest_id_goes_first_and_is_counted() -> None:
    seen = Seen(2, 100)
    for key in (b"a", b"b", b"c"):
        seen.add(key, 0)
    assert list(seen.entries) == [b"b", b"c"]
    assert seen.forgotten_early == 1


# --- the message cache


def test_messages_are_advertised_for_three_windows_and_cached_for_six() -> None:
    cache = MessageCache(6, 3, 100, 10_000)
    for number in range(8):
        cache.put(entry(number))
        if number < 7:
            cache.shift()
    newest = [number.to_bytes(4, "big") for number in (5, 6, 7)]
    assert cache.gossip_ids() == {"t": newest}
    assert [number for number in range(8) if cache.get(number.to_bytes(4, "big"))] == [2, 3, 4, 5, 6, 7]
    assert len(cache) == len(cache.by_part) == 6
    assert cache.size == 60


def test_ids_are_advertised_by_topic() -> None:
    cache = MessageCache(6, 3, 100, 10_000)
    cache.put(entry(1, topic="a"))
    cache.put(entry(2, topic="b"))
    assert cache.gossip_ids() == {"a": [b"\0\0\0\1"], "b": [b"\0\0\0\2"]}


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 10_000), (100, 39)])
def test_the_oldest_message_goes_first_when_there_are_too_many_or_too_large(
    most: int, most_bytes: int
) -> None:
    cache = MessageCache(6, 3, most, most_bytes)
    for number in range(5):
        cache.put(entry(number))
        cache.shift()
    assert [number for number in range(5) if cache.get(number.to_bytes(4, "big"))] == [2, 3, 4]
    assert cache.dropped_early == 2
    assert cache.size == 30


def test_a_message_is_cached_once() -> None:
    cache = MessageCache(6, 3, 100, 10_000)
    cache.put(entry(1))
    cache.shift()
    cache.put(entry(1))
    assert (len(cache), cache.size) == (1, 10)
    for _ in range(5):
        cache.shift()
    assert (len(cache), cache.size, len(cache.by_part)) == (0, 0, 0)


# --- messages that wait for a verdict


def test_waiting_messages_are_bounded_in_number_in_bytes_and_per_peer() -> None:
    pending = Pending(3, 45, 2, 100)
    pending.put(entry(1, first=b"p"))
    assert pending.has_room_for(b"p")
    pending.put(entry(2, first=b"p"))
    assert not pending.has_room_for(b"p")
    assert pending.has_room_for(b"q")
    assert pending.has_room(25)
    assert not pending.has_room(26)
    pending.put(entry(3, first=b"q"))
    assert not pending.has_room(1)
    assert pending.pop(b"\0\0\0\1") is not None
    assert pending.pop(b"\0\0\0\1") is None
    assert pending.has_room_for(b"p")
    assert (len(pending), pending.size) == (2, 20)


def test_messages_wait_no_longer_than_they_may() -> None:
    pending = Pending(10, 1000, 10, 100)
    pending.put(entry(1, now=0))
    pending.put(entry(2, now=50))
    assert [late.message_id for late in pending.expired(100)] == [b"\0\0\0\1"]
    assert pending.expired(149) == []
    assert [late.message_id for late in pending.expired(150)] == [b"\0\0\0\2"]
    assert (len(pending), pending.size) == (0, 0)


# --- back-offs


def test_a_back_off_holds_until_it_ends_and_keeps_us_a_little_longer() -> None:
    back_offs = BackOffs(10, slack=10)
    back_offs.add("t", b"p", 100, now=5)
    assert back_offs.began("t", b"p", 104) == 5
    assert back_offs.began("t", b"p", 105) is None
    assert back_offs.began("u", b"p", 50) is None
    assert back_offs.keeps_from_grafting("t", b"p", 114)
    assert not back_offs.keeps_from_grafting("t", b"p", 115)


def test_a_shorter_back_off_does_not_end_a_longer_one() -> None:
    back_offs = BackOffs(10, slack=0)
    back_offs.add("t", b"p", 100, now=0)
    back_offs.add("t", b"p", 10, now=20)
    assert back_offs.began("t", b"p", 99) == 20
    assert back_offs.began("t", b"p", 100) is None


def test_back_offs_are_bounded_and_forgotten_when_over() -> None:
    back_offs = BackOffs(2, slack=5)
    for key in (b"a", b"b", b"c"):
        back_offs.add("t", key, 100, now=0)
    assert back_offs.began("t", b"a", 1) is None
    assert back_offs.forgotten_early == 1
    back_offs.expire(104)
    assert len(back_offs) == 2
    back_offs.expire(105)
    assert len(back_offs) == 0


# --- frames


def test_parts_for_a_peer_share_frames_that_fit_and_none_is_too_large() -> None:
    refused: Counter[Refusal] = Counter()
    out = Outbox(100, refused)
    out.subscription(b"p", wire.subscription("topic", True))
    for size in (30, 30, 30, 85, 10):
        out.control(b"p", wire.graft_entry("x" * size))
    out.control(b"q", wire.graft_entry("t"))
    sends = [effect for effect in out.flush() if isinstance(effect, Send)]
    assert [send.peer for send in sends] == [b"p", b"p", b"q"]
    assert all(send.urgent and len(wire.unframed(send.frame)) <= 100 for send in sends)
    read = [wire.decode_rpc(wire.unframed(send.frame), Bounds()) for send in sends]
    assert [rpc.subscriptions for rpc in read] == [[(True, "topic")], [], []]
    sizes = [[len(topic) for topic in rpc.control.graft] for rpc in read if rpc.control]
    assert sizes == [[30, 30], [30, 10], [1]]
    assert refused == {Refusal.TOO_LARGE_TO_SEND: 1}


# --- promises


def test_one_id_of_each_request_is_watched_and_broken_when_nobody_sends_it() -> None:
    promises = Promises(10, 100)
    promises.add(b"p", [b"a", b"b", b"c"], 0, Random(0))
    promises.add(b"q", [b"d"], 10, Random(0))
    assert len(promises) == 2
    assert promises.broken(99) == {}
    assert promises.broken(100) == {b"p": 1}
    assert promises.broken(110) == {b"q": 1}
    assert len(promises) == 0


def test_a_message_from_anybody_keeps_all_promises_of_it() -> None:
    promises = Promises(10, 100)
    for peer in (b"p", b"q"):
        promises.add(peer, [b"a"], 0, Random(0))
    promises.keep(b"a")
    assert promises.broken(1000) == {}
    assert len(promises) == 0


def test_a_second_promise_does_not_put_the_first_off() -> None:
    promises = Promises(10, 100)
    promises.add(b"p", [b"a"], 0, Random(0))
    promises.add(b"p", [b"a"], 90, Random(0))
    assert promises.broken(100) == {b"p": 1}


def test_who_left_owes_nothing() -> None:
    promises = Promises(10, 100)
    promises.add(b"p", [b"a"], 0, Random(0))
    promises.add(b"q", [b"a"], 0, Random(0))
    promises.forget(b"p")
    assert promises.broken(100) == {b"q": 1}


@given(st.lists(st.tuples(st.sampled_from([b"p", b"q", b"r"]), st.integers(0, 9)), max_size=60))
def test_promises_are_bounded_and_counted(asked: list[tuple[bytes, int]]) -> None:
    promises = Promises(5, 100)
    for now, (peer, number) in enumerate(asked):
        promises.add(peer, [bytes([number])], now, Random(0))
        assert len(promises) <= 5
    assert sum(promises.broken(10_000).values()) <= 5
    assert len(promises) == 0
