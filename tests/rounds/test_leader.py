from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.leader import leader_order, tickets, turn

KEYS = tuple(sha256(b"key %d" % index).digest() for index in range(10))
BEACONS = tuple(sha256(b"leader beacon %d" % number).digest() for number in range(4000))

binary_32 = st.binary(min_size=32, max_size=32)
scored = st.dictionaries(binary_32, st.integers(0, 10_000), max_size=20)


@given(binary_32, scored, st.randoms(use_true_random=False))
def test_an_order_of_all_candidates_by_their_smallest_tickets_whatever_their_input_order(
    beacon: bytes, scores: dict[bytes, int], rng: random.Random
) -> None:
    order = leader_order(beacon, scores, scores)
    assert sorted(order) == sorted(scores)
    smallest = [
        min(sha256(beacon + key + bytes([t])).digest() for t in range(1 + scores[key] * 7 // 10_000))
        for key in order
    ]
    assert smallest == sorted(smallest)
    candidates = [*scores, *scores]
    rng.shuffle(candidates)
    assert leader_order(beacon, candidates, scores) == order


@given(binary_32, scored)
def test_without_scores_everybody_has_the_one_ticket_of_a_score_of_zero(
    beacon: bytes, scores: dict[bytes, int]
) -> None:
    assert leader_order(beacon, scores) == leader_order(beacon, scores, dict.fromkeys(scores, 0))
    assert leader_order(beacon, scores) == leader_order(beacon, scores, {bytes(31): 10_000})


@given(binary_32, scored, st.data())
def test_more_reputation_never_costs_a_place(
    beacon: bytes, scores: dict[bytes, int], data: st.DataObject
) -> None:
    if not scores:
        return
    lifted = data.draw(st.sampled_from(sorted(scores)))
    before = leader_order(beacon, scores, scores).index(lifted)
    more = {**scores, lifted: data.draw(st.integers(scores[lifted], 10_000))}
    assert leader_order(beacon, scores, more).index(lifted) <= before


def test_one_to_eight_tickets() -> None:
    assert [tickets(score) for score in (0, 1428, 1429, 5000, 9999, 10_000)] == [1, 1, 2, 4, 7, 8]
    for score in (-1, 10_001):
        with pytest.raises(ValueError):
            tickets(score)
    with pytest.raises(ValueError):
        leader_order(BEACONS[0], [KEYS[0]], {KEYS[0]: 10_001})


def first_leaders(scores: Mapping[bytes, int]) -> Counter[bytes]:
    return Counter(leader_order(beacon, scores, scores)[0] for beacon in BEACONS)


def test_the_chance_to_lead_is_in_proportion_to_the_tickets() -> None:
    scores = {KEYS[0]: 10_000, KEYS[1]: 10_000, KEYS[2]: 5_000, KEYS[3]: 1_429, KEYS[4]: 0, KEYS[5]: 0}
    shares = {member: tickets(score) for member, score in scores.items()}
    total, won = sum(shares.values()), first_leaders(scores)
    assert total == 8 + 8 + 4 + 2 + 1 + 1
    expected = {member: len(BEACONS) * share / total for member, share in shares.items()}
    chi_square = sum((won[member] - expected[member]) ** 2 / expected[member] for member in scores)
    assert chi_square < 15.09  # 5 degrees of freedom, 1 %


def test_the_next_leader_is_drawn_in_the_same_way_among_those_left() -> None:
    scores = {KEYS[0]: 10_000, KEYS[1]: 5_000, KEYS[2]: 0}
    orders = Counter(leader_order(beacon, scores, scores) for beacon in BEACONS)
    share = {member: tickets(score) for member, score in scores.items()}
    for order, seen in orders.items():
        first, second, third = (share[member] for member in order)
        chance = first / (first + second + third) * second / (second + third)
        sigma = (len(BEACONS) * chance * (1 - chance)) ** 0.5
        assert abs(seen - len(BEACONS) * chance) < 3 * sigma
    assert sum(orders.values()) == len(BEACONS)
    assert len(orders) == 6


def test_without_reputation_everybody_leads_equally_often() -> None:
    won = Counter(leader_order(beacon, KEYS)[0] for beacon in BEACONS)
    chi_square = sum((won[member] - 400) ** 2 / 400 for member in KEYS)
    assert chi_square < 21.67  # 9 degrees of freedom, 1 %


def test_each_dead_leader_costs_one_step() -> None:
    assert [turn(Window(100, 120), rank, 5) for rank in range(3)] == [100, 105, 110]
    for rank, step in ((-1, 5), (0, 0)):
        with pytest.raises(ValueError):
            turn(Window(100, 120), rank, step)
