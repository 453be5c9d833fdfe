from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.leader import leader_order, turn

keys = st.lists(st.binary(min_size=32, max_size=32), max_size=20)


@given(st.binary(min_size=32, max_size=32), keys, st.randoms(use_true_random=False))
def test_an_order_of_all_candidates_whatever_their_input_order(
    beacon: bytes, candidates: list[bytes], rng
) -> None:  # type: ignore[no-untyped-def]
    order = leader_order(beacon, candidates)
    assert sorted(order) == sorted(set(candidates))
    ranks = [sha256(beacon + key).digest() for key in order]
    assert ranks == sorted(ranks)
    rng.shuffle(candidates)
    assert leader_order(beacon, candidates) == order


def test_each_dead_leader_costs_one_step() -> None:
    assert [turn(Window(100, 120), rank, 5) for rank in range(3)] == [100, 105, 110]
    for rank, step in ((-1, 5), (0, 0)):
        with pytest.raises(ValueError):
            turn(Window(100, 120), rank, step)
