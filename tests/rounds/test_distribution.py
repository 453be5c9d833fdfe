from __future__ import annotations

from collections.abc import Callable
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
from koii_p2p.rounds.tally import AuditorStatus, Finders, Outcome, Tally
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds.net import STAKE, TERMS, key, play, with_rules

U64 = 2**64 - 1
NOTHING = Tally({}, {}, frozenset(), {})
"""The tally of a round in which nobody is convicted of anything, and no fraud was found."""


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


def test_a_canary_earns_and_loses_nothing_and_so_far_an_equivocator_does() -> None:
    # What an equivocator loses follows from its conviction, not from the task's amounts: see next_list.
    group = [
        Submitter(key(0), Outcome.CANARY, STAKE),
        Submitter(key(1), Outcome.EQUIVOCATED, STAKE),
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
    result = next_list(listed((9, 5, 6)), members((0, STAKE, 0), (1, STAKE, 0)), {key(0): 7}, TERMS, NOTHING)
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
    first = next_list(None, group, {key(0): -slash, key(1): 10}, TERMS, NOTHING)
    assert effective_stake(first, group, key(0)) == STAKE - slash
    # The chain has not taken it yet: neither slashed nor paid again.
    again = next_list(first, replace(group, round=4), {key(0): -slash, key(1): 10}, TERMS, NOTHING)
    assert again.leaf(key(0)) == first.leaf(key(0)) == Leaf(key(0), 0, slash)
    paid = next_list(again, replace(group, round=5), {key(0): 10, key(1): 10}, TERMS, NOTHING)
    assert paid.leaf(key(0)) == Leaf(key(0), 0, slash)
    assert paid.leaf(key(1)) == Leaf(key(1), 30, 0)
    # Taken, and staked anew: at risk again.
    renewed = members((0, STAKE, slash), (1, STAKE, 0), number=6)
    assert effective_stake(paid, renewed, key(0)) == STAKE
    assert next_list(paid, renewed, {key(0): -slash}, TERMS, NOTHING).leaf(key(0)) == Leaf(
        key(0), 0, 2 * slash
    )


def test_a_slash_never_exceeds_the_effective_stake() -> None:
    group = members((0, 3 * STAKE, 0))
    first = next_list(None, group, {key(0): -STAKE}, TERMS, NOTHING)
    second = next_list(first, replace(group, round=4), {key(0): -(10**30)}, TERMS, NOTHING)
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
        next_list(None, members((0, STAKE, 0)), amounts, TERMS, NOTHING)


def test_a_previous_list_of_the_same_or_a_later_round_is_refused() -> None:
    group = members((0, STAKE, 0))
    for number in (3, 4):
        with pytest.raises(DistributionError, match=f"of round {number}, not before 3"):
            next_list(listed((0, 0, 5), number=number), group, {}, TERMS, NOTHING)
    # The empty list that a task begins with is before every round.
    assert next_list(listed(number=3), group, {key(0): 5}, TERMS, NOTHING).leaf(key(0)) == Leaf(key(0), 5, 0)
    # Rounds without a list are skipped over.
    assert next_list(listed((0, 1, 0), number=0), group, {key(0): 5}, TERMS, NOTHING).round == 3


def test_rounds_go_on_from_an_anchored_list_that_lied() -> None:
    group = members((0, STAKE, 5), (1, STAKE, 5))
    lie = listed((0, 0, STAKE + 6), (1, 0, 4))
    assert effective_stake(lie, group, key(0)) == 0
    assert effective_stake(lie, group, key(1)) == STAKE
    result = next_list(lie, group, {key(0): 7, key(1): -1}, TERMS, NOTHING)
    assert result.leaf(key(0)) == Leaf(key(0), 0, STAKE + 6)
    assert result.leaf(key(1)) == Leaf(key(1), 0, 5)


def test_totals_beyond_64_bits_are_refused() -> None:
    full = listed((0, U64, 0))
    with pytest.raises(DistributionError):
        next_list(full, members((0, STAKE, 0)), {key(0): 1}, TERMS, NOTHING)
    with pytest.raises(DistributionError):
        next_list(full, members((0, STAKE, 0), (1, STAKE, 0)), {key(1): 1}, TERMS, NOTHING)


def test_before_the_first_list_there_is_an_empty_one() -> None:
    group = members((0, STAKE, 0), number=0)
    assert next_list(None, group, {key(0): 5}, TERMS, NOTHING).leaf(key(0)) == Leaf(key(0), 5, 0)
    assert next_list(None, members(number=0), {}, TERMS, NOTHING).root == merkle.EMPTY_ROOT


# --- convictions


def convicted(*indices: int) -> Tally:
    statuses = {key(index): AuditorStatus.EQUIVOCATED for index in indices}
    return Tally({}, statuses, frozenset(), {})


SLASH = STAKE * 7000 // 10_000


def test_an_equivocator_earns_nothing_and_loses_what_a_rejected_submission_loses() -> None:
    group = members((0, STAKE, 0), (1, 3 * STAKE, 0), (2, STAKE, 0))
    amounts = {key(0): 10, key(1): 10, key(2): 10}
    result = next_list(None, group, amounts, TERMS, convicted(0, 1))
    assert result.leaf(key(0)) == Leaf(key(0), 0, SLASH)
    assert result.leaf(key(1)) == Leaf(key(1), 0, 3 * SLASH)
    assert result.leaf(key(2)) == Leaf(key(2), 10, 0)


def test_a_conviction_and_a_slash_of_the_task_take_the_larger_one_and_not_both() -> None:
    group = members((0, STAKE, 0))
    for slash, taken in ((STAKE, STAKE), (1, SLASH), (SLASH, SLASH), (10**30, STAKE)):
        result = next_list(None, group, {key(0): -slash}, TERMS, convicted(0))
        assert result.leaf(key(0)) == Leaf(key(0), 0, taken)


def test_one_conviction_per_stake_while_settlement_lags() -> None:
    group = members((0, STAKE, 0))
    first = next_list(None, group, {}, TERMS, convicted(0))
    again = next_list(first, replace(group, round=4), {}, TERMS, convicted(0))
    assert again.leaf(key(0)) == first.leaf(key(0)) == Leaf(key(0), 0, SLASH)
    # What is left of a larger stake is at risk again, and only that.
    large = members((0, 5 * STAKE, 0))
    once = next_list(None, large, {}, TERMS, convicted(0))
    assert once.leaf(key(0)) == Leaf(key(0), 0, 5 * SLASH)
    left = 5 * STAKE - 5 * SLASH
    twice = next_list(once, replace(large, round=4), {}, TERMS, convicted(0))
    assert twice.leaf(key(0)) == Leaf(key(0), 0, 5 * SLASH + left * 7000 // 10_000)


def test_an_equivocator_without_a_stake_in_the_round_loses_nothing() -> None:
    result = next_list(None, members((0, STAKE, 0)), {}, TERMS, convicted(9))
    assert result.leaf(key(9)) is None
    assert result.slash_total == 0


# --- finders


def shared(share: int) -> TaskTerms:
    return with_rules(finders_share=share)


def found(author: int, accusers: tuple[int, ...], voters: tuple[int, ...], *others: int) -> Tally:
    """The fraud of `author` was found by these; `others` are convicted of an equivocation."""
    finders = Finders(tuple(sorted(map(key, accusers))), tuple(sorted(map(key, voters))))
    return replace(convicted(*others), finders={key(author): finders})


FIVE = members(*((index, STAKE, 0) for index in range(5)))


@pytest.mark.parametrize(
    ("accusers", "voters", "expected"),
    [
        ((1,), (2, 3), {1: 500, 2: 250, 3: 250}),
        ((1, 2), (3,), {1: 250, 2: 250, 3: 500}),
        ((1, 2), (), {1: 500, 2: 500}),  # those drawn were the whole committee
        ((1, 2, 3), (4,), {1: 166, 2: 166, 3: 166, 4: 500}),  # remainders stay in the vault
    ],
)
def test_who_finds_a_fraud_gets_a_share_of_the_slash(
    accusers: tuple[int, ...], voters: tuple[int, ...], expected: dict[int, int]
) -> None:
    result = next_list(None, FIVE, {key(0): -10_000}, shared(1000), found(0, accusers, voters))
    rewards = {leaf.staker: leaf.reward_total for leaf in result.leaves if leaf.reward_total}
    assert rewards == {key(index): amount for index, amount in expected.items()}
    assert result.leaf(key(0)) == Leaf(key(0), 0, 10_000)


def test_without_a_share_in_the_terms_finders_get_nothing() -> None:
    result = next_list(None, FIVE, {key(0): -10_000}, TERMS, found(0, (1,), (2,)))
    assert result.reward_total == 0


def test_a_share_comes_on_top_of_the_bounty_and_never_exceeds_the_slash() -> None:
    amounts = {key(0): -(10**30), key(1): TERMS.bounty_per_round}
    result = next_list(None, FIVE, amounts, shared(10_000), found(0, (1,), (2, 3)))
    assert result.slash_total == STAKE
    assert result.reward_total == TERMS.bounty_per_round + STAKE
    assert result.leaf(key(1)) == Leaf(key(1), TERMS.bounty_per_round + STAKE // 2, 0)


def test_who_finds_two_frauds_gets_a_share_of_both() -> None:
    both = replace(NOTHING, finders=found(0, (1,), (2,)).finders | found(3, (2,), (1,)).finders)
    result = next_list(None, FIVE, {key(0): -1000, key(3): -500}, shared(10_000), both)
    assert result.leaf(key(1)) == Leaf(key(1), 750, 0)
    assert result.leaf(key(2)) == Leaf(key(2), 750, 0)


def test_nobody_without_stake_and_no_equivocator_gets_a_share_and_nobody_gets_it_instead() -> None:
    for accused_by in ((1, 4), (1, 9)):  # 4 is convicted itself, 9 has no stake
        result = next_list(None, FIVE, {key(0): -10_000}, shared(1000), found(0, accused_by, (2,), 4))
        assert result.leaf(key(1)) == Leaf(key(1), 250, 0)
        assert result.leaf(key(2)) == Leaf(key(2), 500, 0)
        assert result.reward_total == 750
    # Whoever is below the minimum stake was ejected already.
    before = listed((1, 0, STAKE))
    result = next_list(before, FIVE, {key(0): -10_000}, shared(1000), found(0, (1,), (2,)))
    assert result.leaf(key(1)) == Leaf(key(1), 0, STAKE)
    assert result.leaf(key(2)) == Leaf(key(2), 500, 0)


def test_a_fraud_that_is_not_slashed_pays_nobody() -> None:
    ejected = listed((0, 0, STAKE))
    result = next_list(ejected, FIVE, {key(0): -10_000}, shared(1000), found(0, (1,), (2,)))
    assert result.reward_total == 0


def test_shares_of_a_round_as_it_is_played() -> None:
    played = play(nodes=9, cheaters=(2,), terms=shared(2000))
    finders = played.tally.finders[key(2)]
    assert set(finders.accusers) | set(finders.voters) == {key(i) for i in range(9) if i != 2}
    pool, equal = SLASH * 2000 // 10_000, TERMS.bounty_per_round // 8
    for side in (finders.accusers, finders.voters):
        for finder in side:
            assert played.list.leaf(finder) == Leaf(finder, equal + pool // 2 // len(side), 0)
    assert played.list.reward_total <= TERMS.bounty_per_round + pool


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
    impossible: tuple[Callable[[], DistributionList], ...] = (
        lambda: DistributionList(-1, ()),
        lambda: DistributionList(0, (Leaf(b"k", 0, 0),)),
        lambda: DistributionList(0, (Leaf(key(0), -1, 0),)),
        lambda: DistributionList(0, (Leaf(key(0), 0, U64 + 1),)),
        lambda: listed((0, U64, 0), (1, 1, 0)),
    )
    for build in impossible:
        with pytest.raises(DistributionError):
            build()


amount_rounds = st.lists(
    st.dictionaries(st.integers(0, 4), st.integers(-3 * STAKE, TERMS.bounty_per_round // 5)), max_size=6
)


finder_rounds = st.lists(
    st.tuples(
        st.sets(st.integers(0, 4), max_size=2),  # convicted
        st.dictionaries(  # by whom accused and confirmed
            st.integers(0, 4), st.tuples(st.sets(st.integers(0, 2)), st.sets(st.integers(3, 5))), max_size=2
        ),
    ),
    min_size=6,
    max_size=6,
)


@given(amount_rounds, finder_rounds, st.integers(0, 10_000), st.lists(st.booleans(), min_size=6, max_size=6))
def test_totals_never_decrease_and_never_take_more_than_was_staked(
    rounds: list[dict[int, int]],
    trials: list[tuple[set[int], dict[int, tuple[set[int], set[int]]]]],
    share: int,
    settled_after: list[bool],
) -> None:
    """A small model of the chain: it takes listed slashes after some rounds, and nobody stakes anew."""
    stakes, settled = [STAKE * (i + 1) for i in range(5)], [0] * 5
    previous: DistributionList | None = None
    for number, amounts in enumerate(rounds):
        group = members(*((i, stakes[i], settled[i]) for i in range(5)), number=number)
        at_risk = {i: effective_stake(previous, group, key(i)) for i in range(5)}
        equivocators, frauds = trials[number]
        counted = convicted(*equivocators)
        for author, (accusers, voters) in frauds.items():
            counted.finders.update(found(author, tuple(accusers), tuple(voters)).finders)
        new = next_list(
            previous, group, {key(i): amount for i, amount in amounts.items()}, shared(share), counted
        )
        rewards = slashes = 0
        for i in range(5):
            before = (previous.leaf(key(i)) if previous else None) or Leaf(key(i), 0, 0)
            after = new.leaf(key(i))
            assert after is not None
            assert after.reward_total >= before.reward_total
            assert 0 <= after.slash_total - before.slash_total <= at_risk[i]
            if at_risk[i] < TERMS.minimum_stake:
                assert after == before  # ejected: one slash per stake
            assert after.slash_total <= STAKE * (i + 1)
            if i in equivocators:
                assert after.reward_total == before.reward_total
            rewards += after.reward_total - before.reward_total
            slashes += after.slash_total - before.slash_total
        # What the settlement program asks for: a list beyond that could not be anchored.
        assert rewards <= TERMS.bounty_per_round + slashes * share // 10_000
        previous = new
        if settled_after[number]:
            for i in range(5):
                leaf = new.leaf(key(i))
                assert leaf is not None
                stakes[i] -= leaf.slash_total - settled[i]
                settled[i] = leaf.slash_total
