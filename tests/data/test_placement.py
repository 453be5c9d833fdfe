from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.data.durability import Level, repair_margin, spread_evenly
from koii_p2p.data.erasure import Code
from koii_p2p.data.placement import Copy, Health, holders_of, plan_repair
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.rounds.roster import MAX_ENTRIES

SEED = b"s" * 32
CODE = Level.STANDARD.code


def keys(count: int, family: str = "node") -> list[bytes]:
    return [sha256(f"{family} {number}".encode()).digest() for number in range(count)]


def block(number: int) -> bytes:
    return sha256(number.to_bytes(4, "big")).digest()


def moved(before: tuple[bytes, ...], after: tuple[bytes, ...]) -> list[int]:
    return [shard for shard, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]


@given(st.integers(1, 60), st.integers(1, 40), st.randoms(use_true_random=False))
def test_everybody_computes_the_same_even_spread(count: int, shards: int, source: random.Random) -> None:
    names = keys(count)
    found = holders_of(SEED, block(0), names, shards)
    source.shuffle(names)
    assert holders_of(SEED, block(0), names + names[:1], shards) == found
    assert sorted(Counter(found).values(), reverse=True) == list(spread_evenly(shards, count))
    assert set(found) <= set(names)


@settings(max_examples=25)
@given(st.integers(150, 400), st.integers(0, 10**6))
def test_a_leaver_hands_over_its_own_shards_and_nothing_else_moves(count: int, number: int) -> None:
    names = keys(count, f"family {number}")
    before = holders_of(SEED, block(number), names, CODE.shards)
    for shard, leaver in enumerate(before):
        after = holders_of(SEED, block(number), [name for name in names if name != leaver], CODE.shards)
        assert moved(before, after) == [shard]
    for bystander in [name for name in names if name not in before][:5]:
        after = holders_of(SEED, block(number), [name for name in names if name != bystander], CODE.shards)
        assert after == before


def test_one_of_n_nodes_holds_and_moves_an_nth_of_all_shards() -> None:
    names, blocks = keys(100), 300
    placed = [holders_of(SEED, block(number), names, CODE.shards) for number in range(blocks)]
    held = Counter(name for holders in placed for name in holders)
    assert set(held) == set(names)
    mean = blocks * CODE.shards / 100
    spread = sum((held[name] - mean) ** 2 for name in names) / mean
    assert spread < 148.2, "chi-squared with 99 degrees of freedom exceeds this once in 1000 times"
    leaver = names[17]
    left = [name for name in names if name != leaver]
    changes = sum(
        len(moved(before, holders_of(SEED, block(number), left, CODE.shards)))
        for number, before in enumerate(placed)
    )
    assert changes == held[leaver]


def test_in_small_rosters_little_more_than_the_leavers_shards_move() -> None:
    # Lanes that are empty borrow a node, and give it back when its own lane needs it.
    for count, most in ((9, 0.6), (12, 0.35), (20, 0.08), (50, 0.01)):
        extra = own = 0
        for number in range(30):
            names = keys(count, f"small {number}")
            before = holders_of(SEED, block(number), names, CODE.shards)
            for leaver in names:
                left = [name for name in names if name != leaver]
                own += leaver in before
                extra += len(moved(before, holders_of(SEED, block(number), left, CODE.shards)))
                extra -= leaver in before
        assert 0 <= extra <= most * own


def test_one_who_joins_takes_one_shard_of_a_block_at_most() -> None:
    names = keys(200)
    taken = 0
    for number in range(300):
        before = holders_of(SEED, block(number), names[:-1], CODE.shards)
        after = holders_of(SEED, block(number), names, CODE.shards)
        changed = moved(before, after)
        assert len(changed) <= 1
        assert all(after[shard] == names[-1] for shard in changed)
        taken += len(changed)
    assert 0 < taken < 30, "12 of 2400 shards are expected"


def test_seed_and_block_draw_anew() -> None:
    names = keys(100)
    found = holders_of(SEED, block(0), names, CODE.shards)
    assert found != holders_of(SEED, block(1), names, CODE.shards)
    assert found != holders_of(b"t" * 32, block(0), names, CODE.shards)


def test_there_must_be_somebody_and_not_too_many() -> None:
    for names, reason in (
        ([], DataReason.NO_HOLDERS),
        ([number.to_bytes(32, "big") for number in range(MAX_ENTRIES + 1)], DataReason.TOO_MANY_HOLDERS),
    ):
        with pytest.raises(DataError) as refused:
            holders_of(SEED, block(0), names, 1)
        assert refused.value.reason is reason


codes = st.integers(1, 8).flatmap(lambda k: st.builds(Code, st.just(k), st.integers(k, k + 12)))


@given(codes, st.data())
def test_a_plan_carried_out_leaves_every_shard_where_it_belongs_or_enough_of_them(
    code: Code, data: st.DataObject
) -> None:
    nodes = keys(30)
    due = holders_of(SEED, block(1), nodes, code.shards)
    held = data.draw(
        st.dictionaries(st.integers(0, code.shards - 1), st.sets(st.sampled_from(nodes), max_size=3))
    )
    held = {
        shard: names | ({due[shard]} if data.draw(st.booleans()) else set()) for shard, names in held.items()
    }
    live = sum(1 for names in held.values() if names)
    plan = plan_repair(code, due, held)
    assert plan.live == live
    if live < code.needed:
        assert (plan.health, plan.shards_sent) == (Health.LOST, 0)
        return
    for copy in plan.copies:
        assert copy.source in held[copy.shard]
        assert copy.target == due[copy.shard] not in held[copy.shard]
        held[copy.shard].add(copy.target)
    for shard, source in plan.read:
        assert source in held[shard]
    assert len({shard for shard, _ in plan.read}) == (code.needed if plan.rebuilt else 0)
    for shard, target in plan.rebuilt:
        assert target == due[shard]
        assert not held.get(shard)
        held[shard] = {target}
    after = plan_repair(code, due, held)
    assert not after.copies
    assert after.shards_sent == 0
    weak = live < code.needed + repair_margin(code)
    assert (plan.health is Health.WEAK) == weak == bool(plan.rebuilt)
    if weak:
        assert after.health is Health.PLACED


def test_health_goes_down_step_by_step() -> None:
    due = holders_of(SEED, block(2), keys(30), CODE.shards)
    held = {shard: {due[shard]} for shard in range(CODE.shards)}
    found = []
    for gone in range(CODE.shards):
        found.append(plan_repair(CODE, due, held))
        held[gone] = set()
    names = [plan.health.name for plan in found]
    assert names == ["PLACED", "SCATTERED", "SCATTERED", "WEAK", "WEAK", "LOST", "LOST", "LOST"]
    assert all(before.live == after.live + 1 for before, after in pairwise(found))
    weak = found[3]
    assert weak.rebuilt == tuple((shard, due[shard]) for shard in range(3))
    assert weak.read == tuple((shard, due[shard]) for shard in range(3, 7))
    assert weak.shards_sent == 7
    assert plan_repair(CODE, due, {shard: {due[shard]} for shard in range(4)}, margin=0).rebuilt == ()


def test_a_shard_that_is_elsewhere_is_copied_not_made_again() -> None:
    due = holders_of(SEED, block(3), keys(30), CODE.shards)
    held: dict[int, set[bytes]] = {shard: {due[shard]} for shard in range(CODE.shards)}
    held[5] = {b"z" * 32, b"a" * 32}
    plan = plan_repair(CODE, due, held)
    assert (plan.health, plan.copies) == (Health.SCATTERED, (Copy(5, b"a" * 32, due[5]),))
    assert plan.shards_sent == 1


def test_facts_about_another_code_are_refused() -> None:
    due = keys(8)
    for holders, held in ((due[:7], {}), (due, {8: {due[0]}}), (due, {-1: {due[0]}})):
        with pytest.raises(DataError) as refused:
            plan_repair(CODE, holders, held)
        assert refused.value.reason is DataReason.UNKNOWN_SHARD
