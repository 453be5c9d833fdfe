"""What a node answers, keeps, refuses and repeats."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.kademlia import wire
from koii_p2p.kademlia.keyspace import place
from koii_p2p.kademlia.node import KademliaNode
from koii_p2p.kademlia.parameters import HOUR, Bounds, KademliaParameters
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.wire import Message, MessageType, Peer, Record
from tests.kademlia.net import ADDRESS, SignedByKey, key_of, peer

ASKER = peer(1)


def node(**bounds: int) -> KademliaNode:
    parameters = KademliaParameters(bounds=replace(Bounds(), **bounds))
    ours = KademliaNode(b"own", parameters, random.Random(1), lambda one: Peer(one, (ADDRESS,)))
    ours.add_namespace("t", SignedByKey())
    return ours


def value(key: bytes, number: int = 1) -> bytes:
    return key + number.to_bytes(4, "big")


def put(key: bytes, content: bytes, life: int = 0) -> Message:
    return Message(MessageType.PUT_VALUE, key, Record(key, content, life=life))


def ask(ours: KademliaNode, message: Message, *, asker: bytes = ASKER, now: int = 0) -> Message:
    answer = ours.answer(asker, wire.encode(message), now, "2026-01-01T00:00:00Z")
    assert answer is not None
    return wire.decode(answer, ours.parameters.bounds)


def refusal(ours: KademliaNode, message: Message, *, asker: bytes = ASKER, now: int = 0) -> Refusal:
    before = ours.refused.total()
    with pytest.raises(Refused) as raised:
        ours.answer(asker, wire.encode(message), now)
    assert ours.refused.total() == before + 1
    return raised.value.refusal


def held(ours: KademliaNode, key: bytes, now: int = 0) -> bytes | None:
    record = ask(ours, Message(MessageType.GET_VALUE, key), now=now).record
    return None if record is None else record.value


def test_ping_is_answered() -> None:
    assert ask(node(), Message(MessageType.PING)) == Message(MessageType.PING)


def test_the_nearest_are_named_without_the_asker_and_those_without_an_address() -> None:
    ours = node()
    homeless = peer(7)
    ours._describe = lambda one: Peer(one, () if one in (homeless, b"key") else (ADDRESS,))
    for number in range(60):
        ours.table.answered(peer(number), None, 0)
    named = [one.id for one in ask(ours, Message(MessageType.FIND_NODE, b"key")).closer]
    assert 18 <= len(named) <= 20
    assert ASKER not in named
    assert homeless not in named
    assert named == sorted(named, key=lambda one: place(one) ^ place(b"key"))


def test_the_very_peer_looked_for_is_named_first_even_if_it_serves_nobody() -> None:
    ours = node()
    ours.table.answered(peer(2), None, 0)
    named = [one.id for one in ask(ours, Message(MessageType.FIND_NODE, peer(99))).closer]
    assert named == [peer(99), peer(2)]
    assert [one.id for one in ask(ours, Message(MessageType.FIND_NODE, ASKER)).closer] == [peer(2)]


def test_a_value_is_stored_and_given_with_what_is_left_of_its_life() -> None:
    ours, key = node(), key_of(1)
    stored = ask(ours, put(key, value(key), life=3600))
    assert stored.record is not None
    assert stored.record.value == value(key)
    answer = ask(ours, Message(MessageType.GET_VALUE, key), now=600_000)
    assert answer.record == Record(key, value(key), "2026-01-01T00:00:00Z", 3000)
    assert held(ours, key, now=3_599_999) == value(key)
    assert held(ours, key, now=3_600_000) is None
    ours.expire(3_600_000)
    assert ours.statistics().values_bytes == 0


def test_nobody_chooses_a_longer_life_than_ours() -> None:
    ours, key = node(), key_of(1)
    ask(ours, put(key, value(key), life=2**31))
    assert held(ours, key, now=24 * HOUR - 1) is not None
    assert held(ours, key, now=24 * HOUR) is None


def test_a_newer_value_takes_the_place_and_an_older_one_is_refused() -> None:
    ours, key = node(), key_of(1)
    ask(ours, put(key, value(key, 5)))
    assert refusal(ours, put(key, value(key, 4))) is Refusal.OLDER_VALUE
    ask(ours, put(key, value(key, 6)))
    ask(ours, put(key, value(key, 6)))
    assert held(ours, key) == value(key, 6)
    assert len(ours.values) == 1


def test_what_cannot_be_stored_is_refused_with_its_reason() -> None:
    ours, key = node(), key_of(1)
    other = key_of(2)
    assert refusal(ours, put(b"/z/key", b"v")) is Refusal.NAMESPACE
    assert refusal(ours, put(b"key", b"v")) is Refusal.NAMESPACE
    assert refusal(ours, put(key, b"not signed")) is Refusal.INVALID_VALUE
    assert refusal(ours, put(key, bytes(64 * 1024 + 1))) is Refusal.VALUE_SIZE
    assert refusal(ours, Message(MessageType.PUT_VALUE, key)) is Refusal.NO_RECORD
    assert (
        refusal(ours, Message(MessageType.PUT_VALUE, key, Record(other, value(other)))) is Refusal.NO_RECORD
    )
    assert refusal(ours, put(b"/t/" + bytes(300), b"v")) is Refusal.KEY
    for kind in set(MessageType) - {MessageType.PING}:
        assert refusal(ours, Message(kind)) is Refusal.KEY
    assert len(ours.values) == 0


def test_one_peer_fills_its_share_only() -> None:
    ours = node(values_per_peer=3)
    for number in range(3):
        ask(ours, put(key_of(number), value(key_of(number))))
    assert refusal(ours, put(key_of(9), value(key_of(9)))) is Refusal.VALUES_PER_PEER
    ask(ours, put(key_of(1), value(key_of(1), 2)))
    ask(ours, put(key_of(9), value(key_of(9))), asker=peer(2))
    assert len(ours.values) == 4


def test_a_full_store_keeps_what_is_nearest_to_us() -> None:
    ours = node(values=5, values_per_peer=99)
    keys = sorted((key_of(number) for number in range(12)), key=lambda key: place(key) ^ place(b"own"))
    for key in keys[6:11]:
        ask(ours, put(key, value(key)))
    assert refusal(ours, put(keys[11], value(keys[11]))) is Refusal.VALUES_FULL
    for key in keys[:5]:
        ask(ours, put(key, value(key)))
    assert [held(ours, key) for key in keys[:5]] == [value(key) for key in keys[:5]]
    assert ours.refused[Refusal.VALUE_EVICTED] == 5
    assert len(ours.values) == 5


def test_expired_values_make_room_before_live_ones_do() -> None:
    ours = node(values=2)
    keys = sorted((key_of(number) for number in range(3)), key=lambda key: place(key) ^ place(b"own"))
    ask(ours, put(keys[0], value(keys[0]), life=1))
    ask(ours, put(keys[1], value(keys[1])))
    ask(ours, put(keys[2], value(keys[2])), now=2000)
    assert held(ours, keys[1], now=2000) is not None
    assert held(ours, keys[2], now=2000) is not None


def provide(key: bytes, *providers: bytes) -> bytes:
    peers = tuple(Peer(one, (ADDRESS,)) for one in providers)
    return wire.encode(Message(MessageType.ADD_PROVIDER, key, providers=peers))


def providers(ours: KademliaNode, key: bytes, now: int = 0) -> list[bytes]:
    return [one.id for one in ask(ours, Message(MessageType.GET_PROVIDERS, key), now=now).providers]


def test_a_provider_is_named_once_however_often_it_says_so_until_it_expires() -> None:
    ours = node()
    for now in (0, 10, HOUR):
        assert ours.answer(ASKER, provide(b"key", ASKER), now) is None
    ours.answer(peer(2), provide(b"key", peer(2)), 0)
    assert providers(ours, b"key") == [ASKER, peer(2)]
    assert providers(ours, b"key", now=24 * HOUR) == [ASKER]
    ours.expire(25 * HOUR)
    assert len(ours.providers) == ours.providers.keys == 0


def test_nobody_provides_for_another() -> None:
    ours = node()
    ours.answer(ASKER, provide(b"key", peer(2), peer(3), ASKER), 0)
    assert providers(ours, b"key") == [ASKER]
    assert ours.refused == {Refusal.FOREIGN_PROVIDER: 2}


def test_providers_are_bounded_by_key_by_peer_and_in_all() -> None:
    ours = node(providers_per_key=3, provided_per_peer=2, provided_keys=4)
    for number in range(4, 8):
        if number < 7:
            ours.answer(peer(number), provide(b"key", peer(number)), 0)
    with pytest.raises(Refused) as raised:
        ours.answer(peer(9), provide(b"key", peer(9)), 0)
    assert raised.value.refusal is Refusal.PROVIDERS_PER_KEY
    ours.answer(ASKER, provide(b"a", ASKER), 0)
    ours.answer(ASKER, provide(b"b", ASKER), 0)
    with pytest.raises(Refused) as raised:
        ours.answer(ASKER, provide(b"c", ASKER), 0)
    assert raised.value.refusal is Refusal.PROVIDED_PER_PEER
    ours.answer(peer(2), provide(b"c", peer(2)), 0)
    with pytest.raises(Refused) as raised:
        ours.answer(peer(2), provide(b"d", peer(2)), 0)
    assert raised.value.refusal is Refusal.PROVIDED_FULL
    # those that have said nothing for a day make room
    ours.answer(peer(9), provide(b"key", peer(9)), 24 * HOUR)
    assert providers(ours, b"key", now=24 * HOUR) == [peer(9)]


def test_all_provider_records_together_are_bounded_and_so_are_their_addresses() -> None:
    ours = node(provider_records=3, provider_address_bytes=10, provided_keys=9, providers_per_key=9)
    addresses = (b"1234", b"567890", b"x", b"")
    said = Message(MessageType.ADD_PROVIDER, b"key", providers=(Peer(ASKER, addresses),))
    ours.answer(ASKER, wire.encode(said), 0)
    assert [one.addresses for one in ours.providers_of(b"key", 0)] == [(b"1234", b"567890")]
    for number, key in ((4, b"key"), (5, b"other")):
        ours.answer(peer(number), provide(key, peer(number)), 0)
    for key in (b"key", b"other", b"third"):
        with pytest.raises(Refused) as raised:
            ours.answer(peer(6), provide(key, peer(6)), 0)
        assert raised.value.refusal is Refusal.PROVIDED_FULL
    assert len(ours.providers) == 3
    ours.answer(ASKER, wire.encode(said), HOUR)  # whoever is there may say it again
    ours.expire(24 * HOUR)
    assert len(ours.providers) == 1
    ours.answer(peer(6), provide(b"key", peer(6)), 24 * HOUR)


def test_of_a_provider_only_those_addresses_are_kept_that_it_can_have() -> None:
    ours = node()
    said = wire.encode(
        Message(MessageType.ADD_PROVIDER, b"key", providers=(Peer(ASKER, (b"inside", b"outside")),))
    )
    ours.answer(ASKER, said, 0, "", lambda addresses: tuple(one for one in addresses if one != b"inside"))
    assert [one.addresses for one in ours.providers_of(b"key", 0)] == [(b"outside",)]


def test_we_are_a_provider_of_our_own_keys() -> None:
    ours = node()
    ours.own_key(b"key")
    assert providers(ours, b"key") == [b"own"]
    ours.disown_key(b"key")
    assert providers(ours, b"key") == []


def test_what_is_ours_is_due_at_once_then_every_six_hours_and_soon_when_nobody_took_it() -> None:
    ours, key = node(), key_of(1)
    ours.own_key(b"key")
    ours.own_value(key, value(key))
    assert ours.due_keys(0) == [b"key"]
    assert ours.due_values(0) == [(key, value(key), 24 * HOUR)]
    ours.stored(b"key", 0, 0)
    ours.stored(key, 20, 0)
    assert ours.due_keys(29_999) == []
    assert ours.due_keys(30_000) == [b"key"]
    assert ours.due_values(6 * HOUR - 1) == []
    assert len(ours.due_values(6 * HOUR)) == 1
    ours.stored(key, 19, 6 * HOUR)  # the net is small, or not known well
    assert len(ours.due_values(6 * HOUR + 600_000)) == 1


def test_a_changed_value_of_ours_is_stored_after_ten_minutes() -> None:
    ours, key = node(), key_of(1)
    ours.own_value(key, value(key))
    ours.stored(key, 20, 0)
    ours.own_value(key, value(key, 2))
    assert ours.due_values(599_999) == []
    assert ours.due_values(600_000) == [(key, value(key, 2), 24 * HOUR)]
    with pytest.raises(Refused):
        ours.own_value(key, b"not signed")


def test_values_of_others_are_repeated_hourly_with_the_life_they_have_left() -> None:
    ours, key = node(), key_of(1)
    ask(ours, put(key, value(key)))
    assert ours.due_values(HOUR - 1) == []
    ask(ours, put(key, value(key), life=100), now=HOUR - 1)
    assert ours.due_values(HOUR) == []
    assert ours.due_values(2 * HOUR) == [(key, value(key), 22 * HOUR)]
    assert ours.due_values(2 * HOUR) == []


def test_the_best_value_wins_and_those_behind_it_are_known() -> None:
    ours, key = node(), key_of(1)
    ask(ours, put(key, value(key, 2)))
    search = ours.value_search(key, 0)
    assert search.best == value(key, 2)
    search.take(peer(1), value(key, 1))
    search.take(peer(2), value(key, 3))
    assert not search.enough
    search.take(peer(3), value(key, 3))
    assert search.enough
    assert search.best == value(key, 3)
    assert sorted(search.outdated()) == sorted([b"own", peer(1)])
    assert search.behind([peer(1), peer(2), peer(4)]) == [peer(1), peer(4)]
    with pytest.raises(Refused):
        search.take(peer(5), b"not signed")


def test_an_answer_to_another_question_is_none() -> None:
    ours = node()
    question = Message(MessageType.GET_VALUE, key_of(1))
    for answer in (
        Message(MessageType.PING),
        put(key_of(2), b"v"),
        Message(MessageType.GET_VALUE, b"", Record(b"x", b"v")),
    ):
        with pytest.raises(Refused) as raised:
            ours.read_answer(question, wire.encode(answer))
        assert raised.value.refusal is Refusal.BAD_ANSWER
    with pytest.raises(Refused):
        ours.read_answer(question, b"\xff")


def test_a_walk_looks_up_ourselves_and_stale_buckets() -> None:
    ours = node()
    for number in range(200):
        ours.table.answered(peer(number), None, 0)
    stale = len(ours.table.stale(0, 1))
    keys = ours.refresh_keys(0, 100)
    assert keys[0] == b"own"
    assert len(keys) == 1 + stale
    assert len(ours.refresh_keys(0, 3)) == 3


@given(st.lists(st.tuples(st.sampled_from([ASKER, peer(2)]), st.binary(max_size=120)), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_request_is_answered_or_refused_and_counted(requests: list[tuple[bytes, bytes]]) -> None:
    ours = node()
    for asker, data in requests:
        before = ours.refused.total()
        try:
            ours.answer(asker, data, 0)
        except Refused:
            assert ours.refused.total() > before
