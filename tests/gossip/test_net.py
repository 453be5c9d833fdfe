"""Whole nets of routers in virtual time: everything arrives, at about the cost that theory has, and attacks fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from koii_p2p.gossip.effects import Deliver, Verdict
from koii_p2p.gossip.parameters import GossipParameters, ScoreParameters, degrees_for
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.refusals import Refusal
from tests.gossip.net import TOPIC, Net, Node, name


def settled(count: int, links: int | None, seed: int = 1, **options: object) -> Net:
    net = Net(count, seed, **options)  # type: ignore[arg-type]
    if links is None:
        net.connect_all()
    else:
        net.connect_randomly(links)
    net.subscribe()
    net.run(10_000)
    return net


def publish_many(net: Net, count: int, pause: int = 100) -> list[bytes]:
    payloads = [b"message-%04d" % number for number in range(count)]
    for number, data in enumerate(payloads):
        net.publish(number % len(net.nodes), data)
        net.run(pause)
    return payloads


def total(net: Net, field: str) -> int:
    return sum(getattr(node.router.statistics(), field) for node in net.nodes.values())


NETS = [(2, None), (3, None), (10, None), (50, 8), pytest.param(200, 6, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("count", "links"), NETS)
def test_everything_reaches_everybody_once(count: int, links: int | None) -> None:
    net = settled(count, links)
    payloads = publish_many(net, 30)
    net.run(3_000)
    assert [net.reached(data) for data in payloads] == [count] * 30
    assert sum(node.delivered_twice for node in net.nodes.values()) == 0
    assert net.asymmetries() == []
    refused = {what for node in net.nodes.values() for what in node.router.statistics().refused}
    assert refused <= {Refusal.GRAFT_FULL, Refusal.GRAFT_BACK_OFF, Refusal.GRAFT_FLOOD, Refusal.PX_SCORE}


@pytest.mark.parametrize(("count", "links"), NETS[2:])
def test_duplicates_per_delivery_are_what_the_mesh_degree_makes_of_them(
    count: int, links: int | None
) -> None:
    """Between d/2 - 1 and d - 1 at mean degree d: each link carries a message once or twice. No flood publishing."""
    parameters = replace(GossipParameters(degrees=degrees_for(count)), flood_publish=False)
    net = settled(count, links, parameters=parameters)
    before = total(net, "duplicates"), total(net, "delivered")
    publish_many(net, 30)
    net.run(3_000)
    degree = sum(len(node.router.mesh(TOPIC)) for node in net.nodes.values()) / count
    duplicates = (total(net, "duplicates") - before[0]) / (total(net, "delivered") - before[1])
    assert degree / 2 - 1 <= duplicates <= degree - 1


def test_meshes_stay_within_their_degrees() -> None:
    net = settled(50, 10)
    net.run(30_000)
    degrees = degrees_for(50)
    sizes = [len(node.router.mesh(TOPIC)) for node in net.nodes.values()]
    assert min(sizes) >= degrees.low
    assert max(sizes) <= degrees.high


def test_idontwant_saves_bytes_of_large_messages_and_loses_none() -> None:
    used = []
    for size in (0, 10**9):
        parameters = replace(
            GossipParameters(degrees=degrees_for(30)), flood_publish=False, idontwant_bytes=size + 1_024
        )
        net = settled(30, 8, parameters=parameters, delay=(10, 50), verdict_delay=(100, 300))
        start = net.bytes
        for number in range(10):
            net.publish(number, bytes([number]) * 20_000)
            net.run(3_000)
        assert all(net.reached(bytes([number]) * 20_000) == 30 for number in range(10))
        used.append(net.bytes - start)
    assert used[0] < 0.7 * used[1]


def test_a_mixed_net_of_all_versions_delivers_everything() -> None:
    net = settled(30, 6, protocols=tuple(Protocol))
    payloads = publish_many(net, 20)
    net.run(5_000)
    assert [net.reached(data) for data in payloads] == [30] * 20


def test_full_queues_lose_nothing_for_good() -> None:
    net = settled(30, 6, loss=0.3)
    payloads = publish_many(net, 40)
    net.run(10_000)
    assert net.losses.total() > 100
    assert [net.reached(data) for data in payloads] == [30] * 40


def test_verdicts_that_take_seconds_delay_messages_and_lose_none() -> None:
    net = settled(20, 6, verdict_delay=(100, 2_000))
    payloads = publish_many(net, 20)
    net.run(20_000)
    assert [net.reached(data) for data in payloads] == [20] * 20
    assert total(net, "pending") == 0


def test_nodes_that_come_and_go_lose_nothing_to_those_that_stay() -> None:
    net = settled(30, 6)
    payloads = []
    for number in range(40):
        leaver = 20 + number % 10
        for peer in list(net.node(leaver).links):
            net.disconnect(leaver, peer)
        payloads.append(b"churn-%02d" % number)
        net.publish(number % 20, payloads[-1])
        net.run(500)
        for step in range(4):
            net.connect(leaver, (number + 5 * step) % 20)
        net.run(500)
    net.run(5_000)
    stayed = [net.node(number) for number in range(20)]
    assert all(data in node.delivered for node in stayed for data in payloads)


def test_a_net_that_was_cut_in_two_is_one_mesh_again() -> None:
    net = settled(20, 5)
    across = [
        (key, peer) for key, node in net.nodes.items() for peer in list(node.links) if key < name(10) <= peer
    ]
    for one, other in across:
        net.disconnect(one, other)
    net.publish(0, b"while cut")
    net.run(2_000)
    assert net.reached(b"while cut") == 10
    for one, other in across:
        net.connect(one, other)
    net.run(20_000)
    net.publish(19, b"healed")
    net.run(2_000)
    assert net.reached(b"healed") == 20


def test_a_late_joiner_gets_what_was_said_in_the_last_heartbeats() -> None:
    net = settled(10, None)
    late = net.node(9)
    net.perform(late, late.router.unsubscribe(TOPIC, net.now))
    net.run(20_000)
    net.publish(0, b"before")
    net.run(500)
    net.subscribe([9])
    net.run(3_000)
    assert b"before" in late.delivered


def test_a_net_that_grows_from_two_to_two_hundred_delivers_everything_with_degrees_that_follow() -> None:
    net = Net(200, 3, parameters=GossipParameters(degrees=degrees_for(2)))
    size = 2
    net.connect(0, 1)
    net.subscribe(range(2))
    while True:
        for number in range(size):
            net.node(number).router.set_degrees(degrees_for(size))
        net.run(20_000)
        payloads = [b"%d of %d" % (number, size) for number in range(10)]
        for number, data in enumerate(payloads):
            net.publish(number % size, data)
            net.run(200)
        net.run(3_000)
        assert [net.reached(data) for data in payloads] == [size] * 10
        degrees = degrees_for(size)
        sizes = [len(net.node(number).router.mesh(TOPIC)) for number in range(size)]
        assert max(sizes) <= degrees.high
        assert sum(sizes) / size >= min(degrees.low, size - 1)
        for number in range(size):  # all but those in back-off
            assert sizes[number] >= min(degrees.low // 2, len(net.node(number).links))
        if size == 200:
            break
        for number in range(size, 10 * size):
            for _ in range(4):
                net.connect(number, net.random.randrange(number))
        net.subscribe(range(size, 10 * size))
        size *= 10


# --- attacks on a net


def dropped_by(numbers: range) -> Callable[[Node, Deliver], Verdict]:
    """Verdicts by which some nodes forward nothing."""
    keys = {name(number) for number in numbers}
    return lambda node, deliver: Verdict.IGNORE if node.key in keys else Verdict.ACCEPT


def surround(net: Net, honest: int, sybils: int, *, links: int) -> None:
    """Link each sybil to all honest nodes, and each of those to so many that follow it in a ring."""
    for sybil in range(honest, honest + sybils):
        for node in range(honest):
            net.connect(sybil, node)
    for node in range(honest):
        for step in range(1, links + 1):
            net.connect(node, (node + step) % honest)


def share(net: Net, payloads: list[bytes], honest: int) -> float:
    """Which share of the messages the honest nodes have."""
    had = sum(data in net.node(number).delivered for number in range(honest) for data in payloads)
    return had / honest / len(payloads)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_cold_boot_among_twenty_times_as_many_sybils_delivers_99_percent(seed: int) -> None:
    honest, sybils = 10, 200
    net = Net(honest + sybils, seed, parameters=GossipParameters(degrees=degrees_for(64)))
    net.verdict = dropped_by(range(honest, honest + sybils))
    net.subscribe()
    surround(net, honest, sybils, links=3)
    net.run(5_000)
    payloads = [b"vote-%02d" % number for number in range(30)]
    for number, data in enumerate(payloads):
        net.publish(number % honest, data)
        net.run(300)
    net.run(10_000)
    assert share(net, payloads, honest) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_covert_flash_takes_no_more_than_a_percent_in_any_minute(seed: int) -> None:
    """Sybils, four to each honest node and linked to all, behave, hold the meshes, and all fall silent at once."""
    honest, sybils = 10, 40
    net = Net(honest + sybils, seed, parameters=GossipParameters(degrees=degrees_for(50)))
    surround(net, honest, sybils, links=2)
    net.subscribe()
    net.run(5_000)
    publish_many(net, 25, 1_000)
    net.verdict = dropped_by(range(honest, honest + sybils))
    payloads = [b"second-%03d" % number for number in range(180)]
    for number, data in enumerate(payloads):
        net.publish(number % honest, data)
        net.run(1_000)
    net.run(5_000)
    minutes = [share(net, payloads[start : start + 60], honest) for start in (0, 60, 120)]
    assert min(minutes) >= 0.99


def test_mesh_peers_that_censor_one_author_do_not_keep_it_from_anybody() -> None:
    net = settled(20, 6)
    censors = {name(number) for number in range(5, 20)}
    censored = b"censored"

    def verdict(node: Node, deliver: Deliver) -> Verdict:
        hide = node.key in censors and deliver.data.startswith(censored)
        return Verdict.IGNORE if hide else Verdict.ACCEPT

    net.verdict = verdict
    for number in range(10):
        net.publish(0, censored + b"%d" % number)
        net.run(1_000)
    net.run(10_000)
    direct = [number for number in range(1, 5) if name(number) in net.node(0).links]
    assert all(censored + b"%d" % n in net.node(number).delivered for number in direct for n in range(10))
    others = [number for number in range(1, 5) if name(number) not in net.node(0).links]
    linked = [number for number in others if any(name(peer) in net.node(number).links for peer in direct)]
    assert all(censored + b"%d" % n in net.node(number).delivered for number in linked for n in range(10))


def test_one_spammer_is_graylisted_by_all_and_does_not_spoil_honest_scores() -> None:
    net = settled(10, None, parameters=GossipParameters(degrees=degrees_for(10), score=ScoreParameters()))
    spammer = name(9)

    def verdict(node: Node, deliver: Deliver) -> Verdict:
        if deliver.data.startswith(b"spam") and node.key != spammer:
            return Verdict.REJECT
        return Verdict.ACCEPT

    net.verdict = verdict
    for number in range(50):
        net.publish(9, b"spam-%d" % number)
        net.publish(number % 9, b"good-%d" % number)
        net.run(100)
    net.run(3_000)
    for number in range(9):
        router = net.node(number).router
        assert router.score(spammer) < -1_000.0
        assert [effect.peer for effect in net.node(number).graylisted] == [spammer]
        assert min(router.score(name(other)) for other in range(9) if other != number) >= 0.0
    assert all(net.reached(b"good-%d" % number) >= 9 for number in range(50))
