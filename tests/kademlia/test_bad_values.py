"""Values that are too large or whose time is over: refused by name, and nothing that is held is lost by them."""

from __future__ import annotations

import pytest

from koii_p2p.kademlia.parameters import HOUR, Bounds
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.values import ValueSearch
from koii_p2p.kademlia.wire import Message, MessageType
from tests.kademlia.net import key_of, peer
from tests.kademlia.test_node import ask, held, node, put, refusal, value

LARGEST = Bounds().value_bytes


class Anything:
    """Takes every value; the last in the order of bytes is the best."""

    def validate(self, key: bytes, value: bytes) -> bool:
        return True

    def select(self, key: bytes, values: list[bytes]) -> int:
        return values.index(max(values))


def test_the_largest_value_is_taken_and_one_byte_more_is_not_and_replaces_nothing() -> None:
    ours = node()
    ours.add_namespace("any", Anything())  # type: ignore[arg-type]
    key = b"/any/key"
    largest = b"\1" * LARGEST
    ask(ours, put(key, largest))
    assert refusal(ours, put(key, b"\2" * (LARGEST + 1))) is Refusal.VALUE_SIZE
    assert held(ours, key) == largest
    assert (len(ours.values), ours.values.size) == (1, len(key) + LARGEST)
    with pytest.raises(Refused) as refused:
        ours.own_value(key, b"\2" * (LARGEST + 1))
    assert refused.value.refusal is Refusal.VALUE_SIZE
    assert ours.due_values(0) == [], "nothing of it is repeated"


def test_too_large_a_value_in_an_answer_is_passed_over() -> None:
    ours = node()
    ours.add_namespace("any", Anything())  # type: ignore[arg-type]
    search = ours.value_search(b"/any/key", 0)
    assert isinstance(search, ValueSearch)
    search.take(peer(1), b"good")
    with pytest.raises(Refused) as refused:
        search.take(peer(2), b"\2" * (LARGEST + 1))
    assert refused.value.refusal is Refusal.VALUE_SIZE
    assert search.best == b"good"


def test_a_value_whose_time_is_over_is_neither_given_nor_repeated_nor_in_the_way() -> None:
    ours, key = node(), key_of(1)
    ask(ours, put(key, value(key, 9), life=60))
    over = 60_000
    assert held(ours, key, now=over - 1) == value(key, 9)
    assert held(ours, key, now=over) is None
    answer = ask(ours, Message(MessageType.GET_VALUE, key), now=over)
    assert answer.record is None
    assert ours.due_values(over + HOUR) == []
    assert ours.value_search(key, over).best is None
    # An older one is refused beside it only as long as it counts.
    assert refusal(ours, put(key, value(key, 8)), now=over - 1) is Refusal.OLDER_VALUE
    ask(ours, put(key, value(key, 8)), now=over)
    assert held(ours, key, now=over) == value(key, 8)
    assert ours.statistics().values == 1
    assert ours.statistics().values_bytes == len(key) + len(value(key))


def test_what_is_said_again_lives_on_and_never_shorter() -> None:
    ours, key = node(), key_of(1)
    ask(ours, put(key, value(key), life=3600))
    ask(ours, put(key, value(key), life=1), now=1000)
    assert held(ours, key, now=HOUR - 1) == value(key)
    ask(ours, put(key, value(key), life=3600), now=HOUR - 1)
    assert held(ours, key, now=2 * HOUR - 2) == value(key)
