from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
import reedsolo
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.data import galois
from koii_p2p.data.durability import Level
from koii_p2p.data.erasure import Code, decode, encode, rebuild
from koii_p2p.data.reasons import DataError, DataReason

ZFEC = json.loads((Path(__file__).parent / "zfec.json").read_text())
"""What zfec makes of the same data: scripts/make_erasure_vectors.py."""

codes = st.integers(1, 12).flatmap(lambda k: st.builds(Code, st.just(k), st.integers(k, k + 12)))
blocks = st.binary(min_size=1, max_size=200)


def test_the_field_is_that_of_reedsolo() -> None:
    reedsolo.init_tables(prim=galois.MODULUS, generator=2)
    assert all(
        galois.multiply(first, second) == reedsolo.gf_mul(first, second)
        for first in range(256)
        for second in range(256)
    )
    assert all(
        galois.divide(first, second) == reedsolo.gf_div(first, second)
        for first in range(256)
        for second in range(1, 256)
    )
    assert galois.products(29)[77] == galois.multiply(29, 77)


def test_nothing_is_divided_by_zero() -> None:
    with pytest.raises(ZeroDivisionError):
        galois.divide(7, 0)


@pytest.mark.parametrize("case", ZFEC["cases"], ids=lambda case: f"{case['k']}-of-{case['n']}")
def test_shards_are_those_of_zfec(case: dict[str, object]) -> None:
    code = Code(int(str(case["k"])), int(str(case["n"])))
    shards = encode(code, bytes.fromhex(str(case["data"])))
    assert b"".join(shards).hex() == case["shards"]


@pytest.mark.parametrize("needed", [1, 4, 100, 223, 254])
def test_reedsolo_takes_our_shards_for_a_codeword_and_restores_what_is_erased(needed: int) -> None:
    # All points but 0, in the order of the powers of 2, make the cyclic code with the roots 2**1 ... 2**(255 - k);
    # reedsolo writes the highest power first.
    reedsolo.init_tables(prim=galois.MODULUS, generator=2)
    shards = encode(Code(needed, 256), bytes(range(7, 7 + min(needed, 200))).ljust(needed, b"x"))
    word = bytearray(shard[0] for shard in reversed(shards[1:]))
    spare = 255 - needed
    assert not any(reedsolo.rs_calc_syndromes(word, spare, fcr=1))
    erased = list(range(0, 2 * spare, 2))[:spare] if needed > 128 else list(range(spare))
    erased = [position for position in erased if position < 255]
    damaged = bytearray(0 if position in erased else byte for position, byte in enumerate(word))
    message, parity, _ = reedsolo.rs_correct_msg(damaged, spare, fcr=1, erase_pos=erased, only_erasures=True)
    assert bytearray(message) + bytearray(parity) == word


@given(codes, blocks, st.data())
def test_any_k_shards_give_the_block_back(code: Code, block: bytes, data: st.DataObject) -> None:
    shards = encode(code, block)
    assert len(shards) == code.shards
    assert {len(shard) for shard in shards} == {code.shard_bytes(len(block))}
    assert b"".join(shards[: code.needed])[: len(block)] == block, "the first k shards are the data"
    left = data.draw(st.permutations(range(code.shards)))[: code.needed]
    assert decode(code, {index: shards[index] for index in left}, len(block)) == block


@given(codes, blocks, st.data())
def test_any_lost_shard_is_made_again_from_any_k_others(
    code: Code, block: bytes, data: st.DataObject
) -> None:
    shards = encode(code, block)
    left = data.draw(st.permutations(range(code.shards)))[: code.needed]
    held = {index: shards[index] for index in left}
    assert rebuild(code, held, range(code.shards), len(shards[0])) == shards


def test_every_choice_of_four_of_eight_works() -> None:
    code, block = Level.STANDARD.code, bytes(range(50))
    shards = encode(code, block)
    choices = list(combinations(range(8), 4))
    assert len(choices) == 70
    for choice in choices:
        assert decode(code, {index: shards[index] for index in choice}, 50) == block


def test_one_of_n_is_a_copy() -> None:
    assert encode(Code(1, 4), b"the same") == (b"the same",) * 4


def test_more_shards_than_needed_do_no_harm() -> None:
    code, block = Code(3, 7), b"more than enough"
    assert decode(code, dict(enumerate(encode(code, block))), len(block)) == block


@pytest.mark.parametrize(("needed", "shards"), [(0, 1), (2, 1), (1, 257), (-1, 3), (0, 0)])
def test_no_code_with_impossible_numbers(needed: int, shards: int) -> None:
    with pytest.raises(DataError) as refused:
        Code(needed, shards)
    assert refused.value.reason is DataReason.BAD_CODE


@pytest.mark.parametrize(
    ("shards", "reason"),
    [
        ({0: b"abc"}, DataReason.TOO_FEW_SHARDS),
        ({}, DataReason.TOO_FEW_SHARDS),
        ({0: b"abc", 4: b"abc"}, DataReason.UNKNOWN_SHARD),
        ({0: b"abc", -1: b"abc"}, DataReason.UNKNOWN_SHARD),
        ({0: b"abc", 1: b"ab"}, DataReason.WRONG_LENGTH),
        ({0: b"abcd", 1: b"abcd"}, DataReason.WRONG_LENGTH),
    ],
)
def test_unfit_shards_are_refused(shards: dict[int, bytes], reason: DataReason) -> None:
    with pytest.raises(DataError) as refused:
        decode(Code(2, 4), shards, 6)
    assert refused.value.reason is reason


def test_a_shard_that_the_code_does_not_have_is_not_made() -> None:
    with pytest.raises(DataError) as refused:
        rebuild(Code(1, 2), {0: b"a"}, [2], 1)
    assert refused.value.reason is DataReason.UNKNOWN_SHARD
