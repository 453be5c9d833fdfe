"""Nets of real routers in virtual time, held against what others have published and against theory."""

from __future__ import annotations

import pytest

from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.lab import closed_forms as forms
from koii_p2p.lab.clockwork import MILLISECOND, SECOND
from koii_p2p.lab.gossip_net import (
    NOT_YET,
    TOPIC,
    GossipNet,
    Spread,
    Version,
    peer_id,
    published_network,
    spread,
    spread_of,
)
from koii_p2p.lab.scenario import Latency, Network

PUBLISHED = {
    # nodes: messages, then what v1.0 and v1.1 sent for them (gerbil-simsub, README.org and gists of its author)
    100: (10, 6_280, 6_738),
    250: (60, 96_320, 100_112),
    500: (60, 189_451, 193_171),
    1000: (60, 377_370, 381_920),
}
HISTOGRAMS = {
    # Deliveries by 100 ms of the same runs.
    (100, Version.V1_0): (156, 722, 112),
    (100, Version.V1_1): (527, 463),
    (1000, Version.V1_0): (22, 347, 609, 21),
}


def played(nodes: int, version: Version, messages: int, seed: int = 1) -> Spread:
    found = spread(nodes, messages, version, seed)
    assert found.deliveries == nodes * messages, "everything reaches everybody"
    return found


def assert_as_published(nodes: int, version: Version, messages: int) -> Spread:
    found = played(nodes, version, messages)
    all_messages, *copies = PUBLISHED[nodes]
    published = copies[version is Version.V1_1] / all_messages
    assert found.copies / messages == pytest.approx(published, rel=0.1)
    return found


def assert_histogram_as_published(found: Spread, nodes: int, version: Version, off: float) -> None:
    published, ours = HISTOGRAMS[nodes, version], found.histogram()
    width = max(len(published), len(ours))
    shares = [
        [count / sum(counts) for count in counts] + [0.0] * (width - len(counts))
        for counts in (published, ours)
    ]
    assert all(abs(one - other) < off for one, other in zip(*shares, strict=True)), shares


@pytest.mark.parametrize("version", Version)
def test_a_hundred_nodes_spread_messages_as_published(version: Version) -> None:
    """Theirs runs in real time, with a thread for each node: its own delays make it a little slower than its links."""
    found = assert_as_published(100, version, 10)
    assert_histogram_as_published(found, 100, version, off=0.15)


@pytest.mark.parametrize("version", Version)
def test_250_nodes_spread_messages_as_published(version: Version) -> None:
    assert_as_published(250, version, 5)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "version"), [(500, Version.V1_1), (1000, Version.V1_0)])
def test_500_and_1000_nodes_spread_messages_as_published(nodes: int, version: Version) -> None:
    found = assert_as_published(nodes, version, 5)
    if (nodes, version) in HISTOGRAMS:
        assert_histogram_as_published(found, nodes, version, off=0.15)


def test_flood_publishing_is_faster_and_costs_copies() -> None:
    plain, flood = played(60, Version.V1_0, 5), played(60, Version.V1_1, 5)
    assert flood.latencies[len(flood.latencies) // 2] < plain.latencies[len(plain.latencies) // 2]
    assert plain.copies < flood.copies < plain.copies * 1.2


def test_the_same_seed_is_the_same_run_and_another_is_not() -> None:
    one, again, other = (played(40, Version.V1_1, 2, seed) for seed in (4, 4, 5))
    assert one == again
    assert one.latencies != other.latencies


# --- (9) of the closed forms


@pytest.mark.parametrize("nodes", [60, 150])
def test_a_mesh_sends_as_many_copies_as_its_degree_makes_of_them(nodes: int) -> None:
    found = played(nodes, Version.V1_0, 5)
    assert found.copies / 5 == pytest.approx(forms.copies_sent(found.mean_mesh, nodes), rel=0.02)
    low, high = forms.duplicate_bounds(found.mean_mesh)
    assert low <= (found.copies / 5 - (nodes - 1)) / (nodes - 1) <= high


def test_nothing_is_faster_than_the_hops_that_it_needs() -> None:
    """With links of one latency, arrivals come in steps of it, and the last not before the least number of hops."""
    network = Network(nodes=200, degree=20, latency=Latency(low_ms=50.0, high_ms=50.0), jitter=0.0)
    still = GossipNet(network, 1, GossipParameters(degrees=degrees_for(200), flood_publish=False))
    still.subscribe()
    still.connect_randomly(range(200), 10)
    still.run(6 * SECOND)
    still.publish(0)
    still.run(3 * SECOND)
    found = spread_of(still)
    assert len(found.latencies) == 199
    assert {latency % (50 * MILLISECOND) for latency in found.latencies} == {0}
    hops = found.latencies[-1] / (50 * MILLISECOND)
    assert hops >= forms.least_hops(200, found.mean_mesh)
    assert forms.dissemination_time(hops, found.mean_mesh, 512, 1e12, 0.05) == pytest.approx(
        found.latencies[-1] / SECOND, rel=1e-3
    )


# --- the net itself


def test_a_message_is_known_to_its_author_at_once_and_to_others_later() -> None:
    net = GossipNet(published_network(10), 1, GossipParameters(degrees=degrees_for(10)))
    net.subscribe()
    net.connect_randomly(range(10), 3)
    net.run(5 * SECOND)
    number = net.publish(3, size=64)
    assert net.arrivals[number][3] == net.clock.now
    assert all(net.arrivals[number][node] == NOT_YET for node in range(10) if node != 3)
    net.run(2 * SECOND)
    assert all(time > net.published[number][1] for node, time in enumerate(net.arrivals[number]) if node != 3)
    assert spread_of(net).histogram(50) != ()
    with pytest.raises(ValueError, match="no room for its number"):
        net.publish(3, size=3)


def test_links_are_there_once_and_both_ways() -> None:
    net = GossipNet(published_network(5), 1, GossipParameters(degrees=degrees_for(5)))
    net.connect(0, 1)
    net.connect(1, 0)
    net.connect(2, 2)
    assert net.linked(0) == (1,)
    assert net.linked(1) == (0,)
    assert net.linked(2) == ()
    net.subscribe()
    net.run(SECOND)
    assert [router.neighbours(TOPIC) for router in net.routers[:3]] == [(peer_id(1),), (peer_id(0),), ()]
