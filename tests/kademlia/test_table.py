"""The routing table: who gets a place, who loses it, and what is up to date."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.kademlia.keyspace import closest, common_bits, content_key, place, random_key
from koii_p2p.kademlia.parameters import Bounds, KademliaParameters
from koii_p2p.kademlia.refusals import Refusal
from koii_p2p.kademlia.table import RoutingTable
from tests.kademlia.net import peer

OWN = b"own"


def table(size: int = 4, **bounds: int) -> RoutingTable:
    parameters = KademliaParameters(bucket_size=size, bounds=replace(Bounds(), **bounds))
    return RoutingTable(OWN, parameters, Counter())


def bucket(number: int, count: int) -> list[bytes]:
    """Peers that share so many leading bits with us."""
    found: list[bytes] = []
    candidate = 0
    while len(found) < count:
        if common_bits(place(OWN), place(peer(candidate))) == number:
            found.append(peer(candidate))
        candidate += 1
    return found


def test_who_answered_is_in_the_table_and_we_never_are() -> None:
    ours = table()
    assert ours.answered(peer(1), None, 0)
    assert not ours.answered(OWN, None, 0)
    assert list(ours) == [peer(1)]
    assert ours._refused == {Refusal.OWN_ID: 1}


def test_a_full_bucket_keeps_who_is_there_and_newcomers_wait() -> None:
    ours, peers = table(), bucket(0, 6)
    assert [ours.answered(one, None, 0) for one in peers] == [True] * 4 + [False] * 2
    assert sorted(ours) == sorted(peers[:4])
    assert ours.waiting == 2


def test_who_fails_makes_room_for_the_newest_that_waits() -> None:
    ours, peers = table(), bucket(0, 6)
    for one in peers:
        ours.answered(one, None, 0)
    ours.failed(peers[0])
    assert peers[0] not in ours
    assert peers[5] in ours
    assert ours.waiting == 1


def test_who_fails_stays_while_nobody_waits_until_it_fails_again() -> None:
    ours, peers = table(), bucket(0, 2)
    for one in peers:
        ours.answered(one, None, 0)
    ours.failed(peers[0])
    assert peers[0] in ours
    ours.answered(peers[0], None, 1)
    ours.failed(peers[0])
    assert peers[0] in ours
    ours.failed(peers[0])
    assert list(ours) == [peers[1]]


def test_a_newcomer_takes_the_place_of_one_that_has_failed() -> None:
    ours, peers = table(), bucket(0, 5)
    for one in peers[:4]:
        ours.answered(one, None, 0)
    ours.failed(peers[2])
    assert ours.answered(peers[4], None, 1)
    assert peers[2] not in ours
    assert len(ours) == 4


def test_who_does_not_serve_any_more_is_taken_out() -> None:
    ours, peers = table(), bucket(0, 5)
    for one in peers:
        ours.answered(one, None, 0)
    ours.remove(peers[1])
    ours.remove(peer(9999))
    assert sorted(ours) == sorted([peers[0], *peers[2:5]])


def test_few_of_one_address_group_get_into_a_bucket_and_the_table() -> None:
    ours = table(20, group_per_bucket=2, group_in_table=3)
    far, near = bucket(0, 4), bucket(1, 4)
    assert [ours.answered(one, "198.51.100.0/24", 0) for one in far] == [True, True, False, False]
    assert [ours.answered(one, "198.51.100.0/24", 0) for one in near] == [True, False, False, False]
    assert ours.answered(near[1], "203.0.113.0/24", 0)
    assert ours._refused == {Refusal.ADDRESS_GROUP: 5}
    ours.remove(far[0])
    assert ours.answered(near[2], "198.51.100.0/24", 0)


def test_grinding_ids_from_one_network_does_not_fill_the_buckets_near_us() -> None:
    ours = table(20)
    source = random.Random(1)
    for number in range(300):
        near = min((source.randbytes(8) for _ in range(64)), key=lambda one: place(one) ^ place(OWN))
        ours.answered(near, "198.51.100.0/24", number)
    assert len(ours) <= Bounds().group_in_table


def test_a_waiting_peer_of_a_full_address_group_does_not_get_the_free_place() -> None:
    ours, peers = table(4, group_per_bucket=1), bucket(0, 6)
    ours.answered(peers[0], "a", 0)
    for one in peers[1:4]:
        ours.answered(one, None, 0)
    ours.answered(peers[4], None, 0)
    ours.answered(peers[5], "b", 0)
    ours.failed(peers[1])
    assert peers[5] in ours
    ours.failed(peers[2])
    assert peers[4] in ours


def test_stale_buckets_are_those_nobody_looked_into() -> None:
    ours = table()
    for number in (0, 2):
        ours.answered(bucket(number, 1)[0], None, 0)
    assert ours.stale(0, 100) == [0, 1, 2]
    ours.looked_up(place(bucket(1, 1)[0]), 50)
    assert ours.stale(60, 100) == [0, 2]
    assert ours.stale(150, 100) == [0, 1, 2]


def test_a_random_key_lies_in_the_bucket_it_is_for() -> None:
    source = random.Random(3)
    for number in range(9):
        key = random_key(place(OWN), number, source)
        assert common_bits(place(OWN), place(key)) == number
    assert common_bits(place(OWN), place(random_key(place(OWN), 200, source))) >= 8


def test_the_key_of_a_content_is_its_multihash_whatever_codec_it_has() -> None:
    digest = bytes(range(32))
    assert content_key(b"\x01\x55\x12\x20" + digest) == b"\x12\x20" + digest
    assert content_key(b"\x01\x71\x12\x20" + digest) == b"\x12\x20" + digest
    assert content_key(b"\x12\x20" + digest) == b"\x12\x20" + digest
    assert content_key(b"any other key") == b"any other key"
    assert content_key(b"\x01\x55\x12\x20" + digest[:31]) == b"\x01\x55\x12\x20" + digest[:31]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "failed", "remove"]),
        st.integers(0, 200),
        st.sampled_from([None, "a", "b"]),
    ),
    max_size=300,
)


@given(STEPS)
@settings(max_examples=50, deadline=None)
def test_whatever_happens_the_table_keeps_its_bounds(steps: list[tuple[str, int, str | None]]) -> None:
    ours = table(3, replacements=2, group_in_table=5)
    groups: dict[bytes, str | None] = {}
    for now, (what, number, group) in enumerate(steps):
        one = peer(number)
        if what == "answered":
            known = one in ours
            if ours.answered(one, group, now) and not known:
                groups[one] = group
        elif what == "failed":
            ours.failed(one)
        else:
            ours.remove(one)
    assert all(count <= 3 for _, count in ours.sizes())
    assert len(ours) == sum(count for _, count in ours.sizes()) == len(set(ours))
    assert sum(ours._groups.values()) <= len(ours)
    assert max(ours._groups.values(), default=0) <= 5
    assert ours.waiting <= 2 * len(ours._buckets)
    target = place(b"anything")
    assert ours.closest(target, 5) == closest(list(ours), target, 5)
