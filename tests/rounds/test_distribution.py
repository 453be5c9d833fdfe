from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of
from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import (
    DistributionError,
    DistributionList,
    Leaf,
    Submitter,
    default_distribution,
    effective_stake,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.tally import Outcome
from tests.rounds.net import STAKE, TERMS, key

U64 = 2**64 - 1


def members(*rows: tuple[int, int, int], number: int = 3) -> Roster:
    """A roster of (index, stake, slash_settled)."""
    entries = [RosterEntry(key(i), stake, settled, bytes(32)) for i, stake, settled in rows]
    return Roster(number, tuple(sorted(entries, key=lambda entry: entry.key)))


def listed(*rows: tuple[int, int, int], number: int = 2) -> DistributionList:
    """A list of (index, reward_total, slash_total)."""
    return DistributionList(
        number, tuple(sorted((Leaf(key(i), r, s) for i, r, s in rows), key=lambda x: x.staker))
    )


# --- the default distribution: Koii's golden numbers


def test_koii_equal_split() -> None:
    group = [Submitter(key(i), Outcome.APPROVED, STAKE) for i in range(3)]
    assert set(default_distribution(group, 100_000_000, 7000).values()) == {33_333_333}


def test_koii_seventy_percent_slash() -> None:
    rejected = [Submitter(key(0), Outcome.REJECTED, 1_900_000_000)]
    assert default_distribution(rejected, 100_000_000, 7000) == {key(0): -1_330_000_000}


def test_the_slash_is_the_integer_floor_not_the_floating_point_one() -> None:
    assert default_distribution([Submitter(key(0), Outcome.REJECTED, 90)], 0, 7000) == {key(0): -63}


def test_undecided_and_unavailable_earn_and_lose_nothing() -> None:
    group = [
        Submitter(key(0), Outcome.UNDECIDED, STAKE),
        Submitter(key(1), Outcome.UNAVAILABLE, STAKE),
        Submitter(key(2), Outcome.APPROVED, STAKE),
    ]
    assert default_distribution(group, 11, 7000) == {key(0): 0, key(1): 0, key(2): 11}


def test_nobody_approved_and_nobody_at_all() -> None:
    assert default_distribution([Submitter(key(0), Outcome.UNDECIDED, 1)], 10, 7000) == {key(0): 0}
    assert default_distribution([], 10, 7000) == {}


def test_one_key_twice_is_refused() -> None:
    with pytest.raises(DistributionError):
        default_distribution([Submitter(key(0), Outcome.APPROVED, 1)] * 2, 10, 7000)


submitter_lists = st.lists(
    st.builds(Submitter, st.integers(0, 30).map(key), st.sampled_from(Outcome), st.integers(0, U64)),
    unique_by=lambda submitter: submitter.key,
    max_size=20,
)


@given(submitter_lists, st.integers(0, U64), st.integers(0, 10_000))
def test_rewards_within_the_bounty_and_slashes_within_the_stake(
    group: list[Submitter], bounty: int, basis_points: int
) -> None:
    amounts = default_distribution(group, bounty, basis_points)
    assert set(amounts) == {submitter.key for submitter in group}
    assert list(amounts) == sorted(amounts)
    assert sum(amount for amount in amounts.values() if amount > 0) <= bounty
    for submitter in group:
        assert -submitter.stake <= amounts[submitter.key]


# --- the cumulative list


def test_a_leaf_has_48_bytes() -> None:
    leaf = Leaf(key(0), 1, 2)
    assert leaf.encode() == key(0) + b"\x01" + bytes(7) + b"\x02" + bytes(7)
    assert Leaf.decode(leaf.encode()) == leaf
    with pytest.raises(DistributionError):
        Leaf.decode(leaf.encode() + b"x")


def test_the_list_covers_the_roster_and_everybody_listed_before() -> None:
    result = next_list(listed((9, 5, 6)), members((0, STAKE, 0), (1, STAKE, 0)), {key(0): 7}, TERMS, 3)
    assert {leaf.staker: (leaf.reward_total, leaf.slash_total) for leaf in result.leaves} == {
        key(0): (7, 0),
        key(1): (0, 0),
        key(9): (5, 6),
    }
    assert (result.reward_total, result.slash_total) == (12, 6)
    assert result.root == merkle.root([leaf.encode() for leaf in result.leaves])


def test_proofs_verify_against_the_root() -> None:
    result = listed(*((i, i, i) for i in range(7)))
    assert result.proofs() == {leaf.staker: result.proof(leaf.staker) for leaf in result.leaves}
    for leaf in result.leaves:
        assert merkle.verify(result.root, leaf.encode(), result.proof(leaf.staker))
    with pytest.raises(KeyError):
        result.proof(key(8))


def test_one_slash_per_stake_while_settlement_lags() -> None:
    group = members((0, STAKE, 0), (1, STAKE, 0))
    slash = STAKE * 7000 // 10_000
    first = next_list(None, group, {key(0): -slash, key(1): 10}, TERMS, 3)
    assert effective_stake(first, group, key(0)) == STAKE - slash
    # The chain has not taken it yet: neither slashed nor paid again.
    again = next_list(first, replace(group, round=4), {key(0): -slash, key(1): 10}, TERMS, 4)
    assert again.leaf(key(0)) == first.leaf(key(0)) == Leaf(key(0), 0, slash)
    paid = next_list(again, replace(group, round=5), {key(0): 10, key(1): 10}, TERMS, 5)
    assert paid.leaf(key(0)) == Leaf(key(0), 0, slash)
    assert paid.leaf(key(1)) == Leaf(key(1), 30, 0)
    # Taken, and staked anew: at risk again.
    renewed = members((0, STAKE, slash), (1, STAKE, 0), number=6)
    assert effective_stake(paid, renewed, key(0)) == STAKE
    assert next_list(paid, renewed, {key(0): -slash}, TERMS, 6).leaf(key(0)) == Leaf(key(0), 0, 2 * slash)


def test_a_slash_never_exceeds_the_effective_stake() -> None:
    group = members((0, 3 * STAKE, 0))
    first = next_list(None, group, {key(0): -STAKE}, TERMS, 3)
    second = next_list(first, replace(group, round=4), {key(0): -(10**30)}, TERMS, 4)
    assert second.leaf(key(0)) == Leaf(key(0), 0, 3 * STAKE)


def test_the_distribution_sees_the_effective_stake() -> None:
    group = members((0, 3 * STAKE, 0), (1, STAKE, 0))
    before = listed((0, 0, STAKE))
    outcomes = {key(0): Outcome.REJECTED, key(1): Outcome.APPROVED}
    assert submitters_of(outcomes, group, before) == tuple(
        sorted(
            (Submitter(key(0), Outcome.REJECTED, 2 * STAKE), Submitter(key(1), Outcome.APPROVED, STAKE)),
            key=lambda submitter: submitter.key,
        )
    )


@pytest.mark.parametrize(
    "amounts",
    [{key(0): 1.0}, {key(0): True}, {key(0): "1"}, {key(7): 0}, {key(0): TERMS.bounty_per_round + 1}],
)
def test_bad_amounts_are_refused(amounts: dict[bytes, Any]) -> None:
    with pytest.raises(DistributionError):
        next_list(None, members((0, STAKE, 0)), amounts, TERMS, 3)


def test_a_previous_list_of_the_same_round_or_another_roster_is_refused() -> None:
    group = members((0, STAKE, 0))
    with pytest.raises(DistributionError):
        next_list(listed((0, 0, 5), number=3), group, {}, TERMS, 3)
    with pytest.raises(DistributionError):
        next_list(listed((0, 0, 5)), group, {}, TERMS, 4)


def test_rounds_go_on_from_an_anchored_list_that_lied() -> None:
    group = members((0, STAKE, 5), (1, STAKE, 5))
    lie = listed((0, 0, STAKE + 6), (1, 0, 4))
    assert effective_stake(lie, group, key(0)) == 0
    assert effective_stake(lie, group, key(1)) == STAKE
    result = next_list(lie, group, {key(0): 7, key(1): -1}, TERMS, 3)
    assert result.leaf(key(0)) == Leaf(key(0), 0, STAKE + 6)
    assert result.leaf(key(1)) == Leaf(key(1), 0, 5)


def test_totals_beyond_64_bits_are_refused() -> None:
    full = listed((0, U64, 0))
    with pytest.raises(DistributionError):
        next_list(full, members((0, STAKE, 0)), {key(0): 1}, TERMS, 3)
    with pytest.raises(DistributionError):
        next_list(full, members((0, STAKE, 0), (1, STAKE, 0)), {key(1): 1}, TERMS, 3)


def test_before_the_first_list_there_is_an_empty_one() -> None:
    group = members((0, STAKE, 0), number=0)
    assert next_list(None, group, {key(0): 5}, TERMS, 0).leaf(key(0)) == Leaf(key(0), 5, 0)
    assert next_list(None, members(number=0), {}, TERMS, 0).root == merkle.EMPTY_ROOT


lists = st.builds(
    lambda number, rows: DistributionList(
        number, tuple(Leaf(staker, *rows[staker]) for staker in sorted(rows))
    ),
    st.integers(0, U64),
    st.dictionaries(
        st.binary(min_size=32, max_size=32),
        st.tuples(st.integers(0, U64 // 20), st.integers(0, U64 // 20)),
        max_size=12,
    ),
)


@given(lists)
def test_lists_survive_encoding(original: DistributionList) -> None:
    data = original.encode()
    assert DistributionList.decode(data) == original
    assert original.cid == cid_of(data)


@given(lists, st.data())
def test_a_changed_byte_is_another_list_or_none(original: DistributionList, data: st.DataObject) -> None:
    encoded = bytearray(original.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = DistributionList.decode(bytes(encoded))
    except DistributionError:
        return
    assert changed != original


@pytest.mark.parametrize(
    "value",
    [
        [],
        {0: 1},
        {0: 1, 1: [], 2: 0},
        {0: -1, 1: []},
        {0: True, 1: []},
        {0: 1, 1: [b"short"]},
        {0: 1, 1: ["text"]},
        {0: 1, 1: b""},
        {0: 1, 1: [bytes(48), bytes(48)]},
        {0: 1, 1: [b"\x01" + bytes(47), bytes(48)]},
    ],
)
def test_other_encodings_are_refused(value: object) -> None:
    with pytest.raises(DistributionError):
        DistributionList.decode(cbor.encode(value))


def test_impossible_lists_are_refused() -> None:
    for build in (
        lambda: DistributionList(-1, ()),
        lambda: DistributionList(0, (Leaf(b"k", 0, 0),)),
        lambda: DistributionList(0, (Leaf(key(0), -1, 0),)),
        lambda: DistributionList(0, (Leaf(key(0), 0, U64 + 1),)),
        lambda: listed((0, U64, 0), (1, 1, 0)),
    ):
        with pytest.raises(DistributionError):
            build()


amount_rounds = st.lists(
    st.dictionaries(st.integers(0, 4), st.integers(-3 * STAKE, TERMS.bounty_per_round // 5)), max_size=6
)


@given(amount_rounds, st.lists(st.booleans(), min_size=6, max_size=6))
def test_totals_never_decrease_and_never_take_more_than_was_staked(
    rounds: list[dict[int, int]], settled_after: list[bool]
) -> None:
    """A small model of the chain: it takes listed slashes after some rounds, and nobody stakes anew."""
    stakes, settled = [STAKE * (i + 1) for i in range(5)], [0] * 5
    previous: DistributionList | None = None
    for number, amounts in enumerate(rounds):
        group = members(*((i, stakes[i], settled[i]) for i in range(5)), number=number)
        at_risk = {i: effective_stake(previous, group, key(i)) for i in range(5)}
        new = next_list(previous, group, {key(i): amount for i, amount in amounts.items()}, TERMS, number)
        rewards = 0
        for i in range(5):
            before = (previous.leaf(key(i)) if previous else None) or Leaf(key(i), 0, 0)
            after = new.leaf(key(i))
            assert after is not None
            assert after.reward_total >= before.reward_total
            assert 0 <= after.slash_total - before.slash_total <= at_risk[i]
            if at_risk[i] < TERMS.minimum_stake:
                assert after == before  # ejected: one slash per stake
            assert after.slash_total <= STAKE * (i + 1)
            rewards += after.reward_total - before.reward_total
        assert rewards <= TERMS.bounty_per_round
        previous = new
        if settled_after[number]:
            for i in range(5):
                leaf = new.leaf(key(i))
                assert leaf is not None
                stakes[i] -= leaf.slash_total - settled[i]
                settled[i] = leaf.slash_total
