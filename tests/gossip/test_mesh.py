"""Degrees, and whom a mesh takes in and lets go."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.gossip import mesh
from koii_p2p.gossip.parameters import Bounds, Degrees, GossipParameters, degrees_for

DEGREES = Degrees(wanted=6, low=5, high=12, score=4, outbound=2, vouched=3, lazy=6)


def peers(count: int, first: int = 0) -> list[bytes]:
    return [b"%03d" % number for number in range(first, first + count)]


def yes(_peer: bytes) -> bool:
    return True


def no(_peer: bytes) -> bool:
    return False


@pytest.mark.parametrize(
    ("nodes", "wanted"), [(0, 3), (1, 3), (2, 3), (5, 3), (10, 4), (30, 5), (50, 6), (1000, 8), (20_000, 8)]
)
def test_degrees_follow_the_number_of_peers(nodes: int, wanted: int) -> None:
    degrees = degrees_for(nodes)
    assert (degrees.wanted, degrees.low, degrees.high) == (wanted, wanted - 1, 2 * wanted)
    assert 1 <= degrees.outbound < degrees.low
    assert 2 * degrees.outbound <= degrees.wanted
    assert degrees.wanted <= 2 * degrees.vouched <= 2 * (degrees.wanted - degrees.outbound)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Degrees(wanted=6, low=7),
        lambda: Degrees(wanted=6, high=5),
        lambda: Degrees(wanted=6, low=5, outbound=5),
        lambda: Degrees(wanted=6, low=5, outbound=4),
        lambda: Degrees(wanted=6, outbound=2, vouched=5),
        lambda: Degrees(vouched=-1),
        lambda: Degrees(score=7),
        lambda: Degrees(lazy=-1),
        lambda: Bounds(pending=0),
        lambda: Bounds(message_bytes=1024 * 1024),
        lambda: GossipParameters(history=3, history_gossip=3),
        lambda: GossipParameters(gossip_factor=1.5),
        lambda: GossipParameters(heartbeat=0),
        lambda: GossipParameters(id_length=65),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError):
        wrong()


def test_a_bootstrapper_has_no_mesh() -> None:
    assert Degrees(wanted=0, low=0, high=0, score=0, outbound=0, vouched=0, lazy=6).wanted == 0


@given(st.integers(0, 20), st.integers(0, 20), st.integers())
def test_a_mesh_is_filled_up_to_d_once_it_is_below_low(size: int, candidates: int, seed: int) -> None:
    taken = mesh.to_fill(peers(size), peers(candidates, 100), DEGREES, Random(seed))
    assert len(taken) == (min(6 - size, candidates) if size < 5 else 0)
    assert len(set(taken)) == len(taken)


@given(
    st.integers(0, 30),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.lists(st.integers(-3, 3), min_size=30, max_size=30),
    st.integers(),
)
def test_a_mesh_is_cut_down_to_d_with_the_best_the_outbound_and_the_vouched_ones_kept(
    size: int, outbound: list[bool], vouched: list[bool], scored: list[int], seed: int
) -> None:
    members = peers(size)
    score = dict(zip(peers(30), map(float, scored), strict=True)).__getitem__
    is_outbound = dict(zip(peers(30), outbound, strict=True)).__getitem__
    is_vouched = dict(zip(peers(30), vouched, strict=True)).__getitem__
    gone = mesh.to_cut(members, DEGREES, Random(seed), score, is_outbound, is_vouched)
    if size < 12:
        assert gone == []
        return
    kept = set(members) - set(gone)
    assert len(kept) == 6
    assert len(gone) == size - 6
    assert sum(map(is_outbound, kept)) >= min(2, sum(map(is_outbound, members)))
    assert sum(map(is_vouched, kept)) >= min(3, sum(map(is_vouched, members)))
    # The best D_score stay, but for those that made room for outbound and vouched ones.
    worst_best = sorted(map(score, members), reverse=True)[3]
    better = {peer for peer in members if score(peer) > worst_best}
    if better - kept:
        assert all(is_outbound(peer) or is_vouched(peer) for peer in kept - better)


def test_the_best_always_stay_where_the_outbound_quota_is_met() -> None:
    members = peers(20)
    for seed in range(50):
        gone = mesh.to_cut(members, DEGREES, Random(seed), lambda peer: -float(peer), yes, yes)
        assert not set(peers(4)) & set(gone)


def test_those_who_are_not_the_best_stay_by_chance() -> None:
    members = peers(20)
    stayed: set[bytes] = set()
    for seed in range(200):
        stayed |= set(members) - set(mesh.to_cut(members, DEGREES, Random(seed), lambda _: 0.0, no, no))
    assert stayed == set(members)


def test_a_full_mesh_reaches_out_for_the_outbound_peers_it_lacks() -> None:
    members, candidates = peers(6), peers(10, 100)
    outbound = set(candidates[:5])
    taken = mesh.to_reach(members, candidates, 2, DEGREES, Random(0), outbound.__contains__)
    assert len(taken) == 2
    assert set(taken) <= outbound
    assert mesh.to_reach(members[:4], candidates, 2, DEGREES, Random(0), outbound.__contains__) == []
    both = {*outbound, *members[:2]}
    assert mesh.to_reach(members, candidates, 2, DEGREES, Random(0), both.__contains__) == []


def test_a_poor_mesh_takes_in_peers_above_its_median() -> None:
    members, candidates = peers(4), peers(10, 100)
    score = dict.fromkeys(members, 1.0) | {peer: float(peer) - 105 for peer in candidates}
    taken = mesh.to_improve(members, candidates, 2.0, 2, Random(0), score.__getitem__)
    assert len(taken) == 2
    assert all(score[peer] > 1.0 for peer in taken)
    assert mesh.to_improve(members, candidates, 1.0, 2, Random(0), score.__getitem__) == []
    assert mesh.to_improve(members[:1], candidates, 2.0, 2, Random(0), score.__getitem__) == []


def test_the_same_source_of_chance_makes_the_same_choice() -> None:
    chosen = [mesh.chosen(peers(50), 7, Random(3)) for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert mesh.chosen(peers(3), 7, Random(3)) == mesh.chosen(peers(3), 3, Random(3))
