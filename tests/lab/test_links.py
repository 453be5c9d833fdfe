"""Links between simulated nodes: latency, jitter, order, loss, bandwidth, cuts, cities."""

from __future__ import annotations

from itertools import pairwise

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.cities import CITIES, distance_km, latency_ms
from koii_p2p.lab.clockwork import MILLISECOND, SECOND
from koii_p2p.lab.links import QUEUE_BYTES, Full, Links
from koii_p2p.lab.scenario import Latency, LatencyModel, Network

PAIRS = [(one, other) for one in range(40) for other in range(one)]


def latencies(latency: Latency, seed: int = 1) -> list[int]:
    links = Links(Network(latency=latency), seed)
    return sorted(links.latency(one, other) for one, other in PAIRS)


def test_a_link_is_the_same_both_ways_in_any_order_and_in_larger_nets() -> None:
    first, second = Links(Network(nodes=50), 3), Links(Network(nodes=500), 3)
    forth = [first.latency(one, other) for one, other in PAIRS]
    back = [second.latency(other, one) for one, other in reversed(PAIRS)]
    assert forth == back[::-1]
    other_seed = Links(Network(nodes=50), 4)
    assert forth != [other_seed.latency(one, other) for one, other in PAIRS]


def test_uniform_latencies_fill_their_range() -> None:
    found = latencies(Latency(low_ms=10, high_ms=150))
    assert found[0] >= 10 * MILLISECOND
    assert found[-1] <= 150 * MILLISECOND
    mean = sum(found) / len(found)
    assert abs(mean - 80 * MILLISECOND) < 4 * 40.4 * MILLISECOND / len(found) ** 0.5  # four standard errors
    assert set(latencies(Latency(low_ms=7, high_ms=7))) == {7 * MILLISECOND}


@pytest.mark.parametrize("model", [LatencyModel.LOGNORMAL, LatencyModel.EXPONENTIAL])
def test_medians_of_the_other_distributions(model: LatencyModel) -> None:
    found = latencies(Latency(model, low_ms=0, median_ms=60, sigma=0.4))
    # An exponential has its median at ln 2 of its mean.
    median = 60 if model is LatencyModel.LOGNORMAL else 60 * 0.6931
    assert found[len(found) // 2] == pytest.approx(median * MILLISECOND, rel=0.1)


def test_a_matrix_is_taken_as_it_is() -> None:
    links = Links(Network(latency=Latency(LatencyModel.MATRIX, matrix=((0.0, 3.0), (5.0, 0.0)))), 1)
    assert links.latency(0, 1) == links.latency(1, 0) == 3 * MILLISECOND
    assert links.latency(2, 3) == 3 * MILLISECOND  # node 2 is where node 0 is


def test_cities() -> None:
    assert distance_km("london", "new-york") == pytest.approx(5570, abs=20)
    assert distance_km("sydney", "london") == pytest.approx(16990, abs=40)
    assert distance_km("tokyo", "tokyo") == 0
    assert latency_ms("tokyo", "tokyo") == 4
    for one in CITIES:
        # Never faster than light in a straight fibre, nor longer than around the world.
        assert all(distance_km(one, other) / 200 <= latency_ms(one, other) < 150 for other in CITIES)
    found = latencies(Latency(LatencyModel.CITIES, cities=("tokyo", "berlin")))
    near, far = 4 * MILLISECOND, round(latency_ms("tokyo", "berlin") * MILLISECOND)
    assert set(found) == {near, far}
    with pytest.raises(ConfigurationError, match="Did you mean `berlin`"):
        Links(Network(latency=Latency(LatencyModel.CITIES, cities=("berlim",))), 1)


def test_messages_of_a_link_arrive_in_order_whatever_the_jitter() -> None:
    links = Links(Network(jitter=0.9), 1)
    arrivals = [links.arrival(0, 1, 100, now) for now in range(0, 100_000, 100)]
    times = [when for when in arrivals if when is not None]
    assert len(times) == 1000
    assert all(first <= second for first, second in pairwise(times))
    assert len(set(times)) > 10


def test_loss_is_as_often_as_it_was_said() -> None:
    links = Links(Network(loss=0.2), 1)
    lost = sum(links.arrival(0, 1, 100, now) is None for now in range(2000))
    assert 2000 * 0.2 - 4 * 18 < lost < 2000 * 0.2 + 4 * 18  # four standard deviations


def test_bandwidth_is_shared_by_all_that_a_node_sends() -> None:
    links = Links(Network(bandwidth_kib=100, jitter=0, latency=Latency(low_ms=10, high_ms=10)), 1)
    size = 102_400 // 10
    times = [links.arrival(0, peer, size, 0) for peer in range(1, 6)]
    assert times == [10 * MILLISECOND + part * SECOND // 10 for part in range(1, 6)]
    assert links.arrival(1, 0, size, 0) == 10 * MILLISECOND + SECOND // 10  # another node's own
    for _ in range(QUEUE_BYTES // 65_536):
        links.arrival(0, 1, 65_536, 0)
    with pytest.raises(Full):
        links.arrival(0, 1, 65_536, 0)


def test_nothing_passes_a_cut_until_it_heals() -> None:
    links = Links(Network(), 1)
    links.cut([0, 0, 1])
    assert links.is_cut(0, 2)
    assert not links.is_cut(0, 1)
    assert links.arrival(0, 2, 10, 0) is None
    assert links.arrival(0, 1, 10, 0) is not None
    links.cut(())
    assert links.arrival(0, 2, 10, 0) is not None
