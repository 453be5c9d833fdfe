"""Searches: they find the nearest, among liars, dead and slow peers, and end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.kademlia.keyspace import closest, place
from koii_p2p.kademlia.lookup import Lookup, Named
from koii_p2p.kademlia.parameters import Bounds, KademliaParameters
from koii_p2p.kademlia.refusals import Refusal
from koii_p2p.kademlia.wire import Message, MessageType, Peer
from tests.kademlia.net import ADDRESS, SimulatedNet, ground, key_of, peer

NODES = 200
SEARCHES = 60


def found_rate(net: SimulatedNet, askers: list[bytes], searches: int = SEARCHES) -> float:
    """Which share of the honest nodes truly nearest is among what searches find."""
    right = wanted = 0
    for number in range(searches):
        asker = askers[number % len(askers)]
        key = key_of(number)
        truth = net.truly_nearest(key, without={asker})[:10]
        found = set(net.nearest(asker, key))
        right += sum(one in found for one in truth)
        wanted += len(truth)
    return right / wanted


def honest(net: SimulatedNet) -> list[bytes]:
    return [one for one in net.nodes if one not in net.lies and one not in net.dead]


def test_everybody_nearest_is_found_with_few_questions() -> None:
    net = SimulatedNet(NODES, seed=1)
    assert found_rate(net, honest(net)) == 1.0
    assert net.asked / SEARCHES < 45


def test_a_fifth_of_liars_who_name_peers_that_do_not_exist() -> None:
    net = SimulatedNet(NODES, seed=2)

    def lie(_asker: bytes, message: Message) -> Message:
        fakes = [ground(place(message.key), net.random, 50) for _ in range(20)]
        return Message(message.type, message.key, closer=tuple(Peer(one, (ADDRESS,)) for one in fakes))

    for number in range(0, NODES, 5):
        net.lies[peer(number)] = lie
    assert len(net.lies) == NODES // 5
    assert found_rate(net, honest(net)) >= 0.99
    assert net.asked / SEARCHES < 50


def test_a_fifth_of_liars_who_name_each_other_only() -> None:
    net = SimulatedNet(NODES, seed=3)
    liars = [peer(number) for number in range(0, NODES, 5)]

    def lie(_asker: bytes, message: Message) -> Message:
        nearest = closest(liars, place(message.key), 20)
        return Message(message.type, message.key, closer=tuple(Peer(one, (ADDRESS,)) for one in nearest))

    net.lies = dict.fromkeys(liars, lie)
    assert found_rate(net, honest(net)) >= 0.99


def test_liars_who_have_ground_ids_near_the_key_do_not_hide_the_honest_ones() -> None:
    # Twelve identities nearer to the key than anybody, known to all, that name each other only: they take twelve of
    # the twenty places, and what is stored at the other eight is still found.
    net = SimulatedNet(NODES, seed=4)
    key = key_of(0)
    liars = [ground(place(key), net.random, 2000) for _ in range(12)]

    def lie(_asker: bytes, message: Message) -> Message:
        return Message(message.type, message.key, closer=tuple(Peer(one, (ADDRESS,)) for one in liars))

    net.lies = dict.fromkeys(liars, lie)
    for node in net.nodes.values():
        for one in liars:
            node.table.answered(one, None, 0)
    for asker in honest(net)[:20]:
        found = net.nearest(asker, key)
        assert len(found) == 20
        assert set(net.truly_nearest(key, without={asker})[:8]) <= set(found)


def test_disjoint_paths_alone_keep_most_liars_out() -> None:
    rates = {}
    for paths in (1, 3):
        parameters = KademliaParameters(paths=paths, bounds=replace(Bounds(), named_in_vain=1000))
        net = SimulatedNet(NODES, seed=50, parameters=parameters)

        def lie(_asker: bytes, message: Message, net: SimulatedNet = net) -> Message:
            fakes = [ground(place(message.key), net.random, 50) for _ in range(20)]
            return Message(message.type, message.key, closer=tuple(Peer(one, (ADDRESS,)) for one in fakes))

        for number in range(NODES // 5):
            net.lies[peer(number)] = lie
        rates[paths] = found_rate(net, honest(net), 20)
    assert rates[1] < 0.95 < rates[3]


def test_a_third_of_dead_nodes_costs_time_and_nothing_else() -> None:
    net = SimulatedNet(NODES, seed=5)
    net.dead = {peer(number) for number in range(0, NODES, 3)}
    assert found_rate(net, honest(net), 30) >= 0.99


def test_who_is_slow_is_not_waited_for() -> None:
    net = SimulatedNet(NODES, seed=6)
    key = key_of(1)
    slow = set(net.truly_nearest(key, without={peer(0)})[3:7])
    began = net.now
    lookup = net.search(
        peer(0),
        Message(MessageType.FIND_NODE, key),
        latency=lambda one: 2900 if one in slow else 20,
    )
    assert net.now - began <= 2 * net.parameters.hedge
    assert len(lookup.closest(20)) == 20
    assert not slow & set(lookup.closest(20))


def test_a_peer_that_is_looked_for_is_found_by_its_id() -> None:
    net = SimulatedNet(NODES, seed=7)
    for number in range(40):
        assert net.nearest(peer(number), peer(number + 100))[0] == peer(number + 100)


def test_a_value_is_found_again_after_a_third_of_the_nodes_is_gone() -> None:
    net = SimulatedNet(NODES, seed=8)
    for number in range(30):
        key = key_of(number)
        for one in net.nearest(peer(number), key):
            net.nodes[one].values.put(key, key + b"0001", peer(number), 0, net.now)
    net.dead = {peer(number) for number in range(30, NODES, 3)}
    for number in range(30):
        key = key_of(number)
        search = net.nodes[peer(29 - number)].value_search(key, net.now)

        def take(one: bytes, answer: Message, search=search) -> None:  # type: ignore[no-untyped-def]
            if answer.record is not None:
                search.take(one, answer.record.value)

        net.search(peer(29 - number), Message(MessageType.GET_VALUE, key), take, lambda s=search: s.enough)  # type: ignore[misc]
        assert search.best == key + b"0001"


# --- single rules


def lookup(seeds: list[bytes], **choices: int) -> Lookup:
    parameters = KademliaParameters(**{"bucket_size": 4, "parallel": 2, "paths": 1, **choices})  # type: ignore[arg-type]
    return Lookup(b"own", place(b"target"), seeds, parameters, Counter())


def near(count: int, begin: int = 0) -> list[bytes]:
    """Peers from the nearest to the farthest."""
    return sorted(
        (peer(number) for number in range(begin, begin + count)),
        key=lambda one: place(one) ^ place(b"target"),
    )


def test_no_seeds_no_search() -> None:
    assert lookup([]).over(0)
    assert lookup([]).ask(0) == []


def test_so_many_are_asked_at_a_time_the_nearest_first() -> None:
    peers = near(6)
    search = lookup(list(reversed(peers)))
    assert search.ask(0) == peers[:2]
    assert search.ask(0) == []
    search.answered(peers[1], [], 1)
    assert search.ask(1) == [peers[2]]


def test_it_is_over_when_the_nearest_have_answered_and_farther_ones_are_not_asked() -> None:
    peers = near(6)
    search = lookup(peers)
    while not search.over(0):
        for one in search.ask(0):
            search.answered(one, [], 0)
    assert search.closest(6) == peers[:4]
    assert search.asked == 4


def test_who_failed_is_replaced_by_the_next() -> None:
    peers = near(6)
    search = lookup(peers)
    search.ask(0)
    search.failed(peers[0])
    while not search.over(0):
        for one in search.ask(0):
            search.answered(one, [], 0)
        search.answered(peers[1], [], 0)
    assert search.closest(9) == peers[1:5]


def test_a_late_answer_is_hedged_and_still_counts() -> None:
    peers = near(6)
    search = lookup(peers, hedge=100)
    assert search.ask(0) == peers[:2]
    assert search.wake_at(0) == 100
    assert search.ask(100) == peers[2:4]
    search.answered(peers[0], [], 150)
    assert search.closest(1) == [peers[0]]


def test_each_peer_is_asked_on_one_path_only() -> None:
    peers = near(30)
    search = lookup(peers[:6], paths=3, parallel=3, bucket_size=8)
    asked: list[bytes] = []
    while not search.over(0):
        for one in search.ask(0):
            asked.append(one)
            search.answered(one, [Named(other) for other in peers], 0)
    assert len(asked) == len(set(asked))
    assert search.closest(8) == peers[:8]


def test_neither_we_nor_the_informant_itself_are_followed() -> None:
    peers = near(2)
    counted: Counter[Refusal] = Counter()
    search = Lookup(b"own", place(b"target"), peers[:1], KademliaParameters(), counted)
    assert search.ask(0) == peers[:1]
    search.answered(peers[0], [Named(b"own"), Named(peers[0])], 0)
    assert search.over(0)
    assert search.asked == 1
    assert counted == {Refusal.OWN_ID: 1}


def test_who_names_only_the_dead_is_not_followed_for_ever() -> None:
    peers = near(40)
    search = lookup(peers[39:], bucket_size=20, parallel=1)
    [liar] = search.ask(0)
    search.answered(liar, [Named(one) for one in peers[:20]], 0)
    failed = 0
    while not search.over(0):
        for one in search.ask(0):
            search.failed(one)
            failed += 1
    assert failed == Bounds().named_in_vain


def test_few_of_one_address_group_are_asked() -> None:
    peers = near(40)
    search = lookup(peers[39:], bucket_size=8, parallel=1)
    [informant] = search.ask(0)
    named = [Named(one, "198.51.100.0/24") for one in peers[:12]] + [Named(one) for one in peers[12:20]]
    search.answered(informant, named, 0)
    asked = []
    while not search.over(0):
        for one in search.ask(0):
            asked.append(one)
            search.answered(one, [Named(other) for other in peers[12:20]], 0)
    assert sum(one in peers[:12] for one in asked) == 4
    assert set(peers[12:16]) <= set(asked)


@pytest.mark.parametrize("paths", [1, 3, 5])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_others_say_a_search_ends_within_its_bounds(paths: int, data: st.DataObject) -> None:
    bounds = replace(Bounds(), candidates=40, asked=20)
    parameters = KademliaParameters(
        bucket_size=5, parallel=6, paths=paths, hedge=10, patience=30, bounds=bounds
    )
    names = st.integers(0, 60).map(peer) | st.just(b"own")
    search = Lookup(b"own", place(b"target"), data.draw(st.lists(names, max_size=10)), parameters)
    source = random.Random(data.draw(st.integers(0, 1000)))
    waiting: dict[bytes, int] = {}
    asked: list[bytes] = []
    now = 0
    for _ in range(400):
        new = search.ask(now)
        asked += new
        waiting |= dict.fromkeys(new, now)
        if search.over(now):
            break
        late = [one for one, since in waiting.items() if now - since >= 30]
        chosen = late[0] if late else source.choice(sorted(waiting))
        if late or source.random() < 0.3:
            search.failed(chosen)
            del waiting[chosen]
        elif source.random() < 0.7:
            search.answered(chosen, map(Named, data.draw(st.lists(names, max_size=8))), now)
            del waiting[chosen]
        now += source.randrange(12)
    assert search.over(now)
    assert len(asked) == len(set(asked)) == search.asked <= 20
    assert b"own" not in asked
    assert set(search.closest(99)) <= set(asked)
