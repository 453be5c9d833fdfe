from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations, product
from math import comb, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.data.durability import (
    Level,
    level_of,
    loss_at_worst,
    loss_bound,
    loss_of_some,
    loss_probability,
    manifest_code,
    repair_margin,
    spread_evenly,
)
from koii_p2p.data.erasure import Code

probabilities = st.integers(0, 100).map(lambda percent: Fraction(percent, 100))
small_codes = st.integers(1, 6).flatmap(lambda k: st.builds(Code, st.just(k), st.integers(k, 9)))


def closed_form(code: Code, loss: Fraction) -> Fraction:
    n = code.shards
    return sum((comb(n, i) * (1 - loss) ** i * loss ** (n - i) for i in range(code.needed)), Fraction(0))


@given(small_codes, probabilities)
def test_with_a_holder_for_every_shard_it_is_the_binomial_sum(code: Code, loss: Fraction) -> None:
    assert loss_probability(code, loss) == closed_form(code, loss)


@given(small_codes, st.integers(1, 10), st.data())
def test_of_some_that_are_lost_every_set_is_as_likely(code: Code, nodes: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, nodes))
    holdings = spread_evenly(code.shards, nodes)
    holdings += (0,) * (nodes - len(holdings))
    sets = list(combinations(holdings, lost))
    bad = sum(code.shards - sum(gone) < code.needed for gone in sets)
    assert loss_of_some(code, nodes, lost) == Fraction(bad, len(sets))


def test_twelve_nodes_of_which_four_are_killed_and_two_lie() -> None:
    assert loss_of_some(Level.STANDARD.code, 12, 4) == 0
    assert loss_of_some(Level.STANDARD.code, 12, 6) == Fraction(135, 495)
    assert loss_of_some(Level.STRONG.code, 12, 6) == loss_of_some(Level.PARANOID.code, 12, 6) == 0
    with pytest.raises(ValueError, match="13 of 12"):
        loss_of_some(Level.STANDARD.code, 12, 13)


@given(small_codes, probabilities, st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_it_is_the_sum_over_everything_that_can_happen(
    code: Code, loss: Fraction, holdings: list[int]
) -> None:
    expected = Fraction(0)
    for lost in product((False, True), repeat=len(holdings)):
        left = sum(count for count, gone in zip(holdings, lost, strict=True) if not gone)
        if left < code.needed:
            expected += prod((loss if gone else 1 - loss for gone in lost), start=Fraction(1))
    assert loss_probability(code, loss, holdings) == expected


def test_a_simulation_agrees_within_three_sigma() -> None:
    code, loss, trials = Code(4, 8), Fraction(3, 10), 20_000
    source = random.Random(7)
    lost = sum(sum(source.random() >= loss for _ in range(8)) < 4 for _ in range(trials))
    expected = float(loss_probability(code, loss))
    sigma = (expected * (1 - expected) / trials) ** 0.5
    assert abs(lost / trials - expected) < 3 * sigma


def test_known_values() -> None:
    # Sum over i < k of C(n, i) p^i (1 - p)^(n - i), rounded as in the tables of the literature.
    assert f"{float(loss_probability(Code(4, 8), Fraction(1, 10))):.1e}" == "4.3e-04"
    assert f"{float(loss_probability(Code(4, 12), Fraction(1, 10))):.1e}" == "1.7e-07"
    assert f"{float(loss_probability(Code(1, 3), Fraction(1, 10))):.1e}" == "1.0e-03"


def test_every_level_beats_copies_of_the_same_cost_and_the_level_before() -> None:
    for loss in (Fraction(1, 100), Fraction(1, 10), Fraction(1, 5)):
        before = Fraction(1)
        for level in Level:
            code = level.code
            own = loss_probability(code, loss)
            copies = Code(1, code.shards // code.needed)
            assert own <= loss_probability(copies, loss)
            assert own < before
            before = own


def test_margins_leave_room_above_k_wherever_there_are_spares() -> None:
    for shards in range(1, 40):
        for needed in range(1, shards + 1):
            margin = repair_margin(Code(needed, shards))
            assert (margin > 0) == (shards > needed)
            assert needed + margin <= shards
    assert loss_at_worst(Code(4, 8), Fraction(1, 10)) == closed_form(Code(4, 6), Fraction(1, 10))


def test_the_manifest_survives_as_many_losses_as_a_block() -> None:
    for level in Level:
        copies = manifest_code(level.code)
        assert copies.needed == 1
        assert copies.shards - 1 == level.code.shards - level.code.needed


def test_levels_have_names_and_are_found_by_their_code() -> None:
    assert [level.title for level in Level] == ["none", "standard", "strong", "paranoid"]
    assert all(level_of(level.code) is level for level in Level)
    assert level_of(Code(5, 7)) is None


def test_the_bound_adds_up_and_ends_at_one() -> None:
    assert loss_bound(Fraction(1, 1000), 3, 4) == Fraction(12, 1000)
    assert loss_bound(Fraction(1, 10), 100) == 1


@given(st.integers(1, 40), st.integers(1, 40))
def test_an_even_spread_is_even(shards: int, holders: int) -> None:
    counts = spread_evenly(shards, holders)
    assert sum(counts) == shards
    assert len(counts) == min(shards, holders)
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("loss", [Fraction(-1, 2), Fraction(3, 2)])
def test_a_probability_is_between_nought_and_one(loss: Fraction) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        loss_probability(Code(1, 1), loss)
