"""The layout table: no gaps, aligned, the same numbers in C, and nothing but the program's own bytes accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import koii_p2p.settlement
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.layouts import (
    ANCHOR_RECORD_LAYOUT,
    CHECKPOINT_LAYOUT,
    CHECKPOINT_RING,
    LAYOUTS,
    LIST_LAYOUT,
    ROUND_LAYOUT,
    ROUND_RING,
    STAKE_LAYOUT,
    TASK_LAYOUT,
    VAULT_LAYOUT,
    Layout,
    LayoutError,
    decode_stake,
    decode_task,
)
from koii_p2p.settlement.refusals import ProgramError, program_error
from scripts.build_program import HEADERS

from .virtual_chain import TaskChain

PROGRAM = Path(koii_p2p.settlement.__file__).parent / "program"


@pytest.fixture(scope="module")
def numbers() -> dict[str, int]:
    """Every #define of layout.h, as C sees it."""
    found = re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)(?:ULL)?$", (PROGRAM / "layout.h").read_text(), re.M)
    assert len(found) == len(dict(found))
    return {name: int(value, 0) for name, value in found}


def test_sizes_are_fixed() -> None:
    assert {layout.name: layout.size for layout in LAYOUTS} == {
        "task": 5120,
        "audit": 24,
        "round": 256,
        "list": 72,
        "vault": 40,
        "stake": 448,
        "checkpoint": 24,
        "closed_task": 136,
        "anchor_record": 98,
    }
    # What one instruction can allocate.
    assert max(layout.size for layout in LAYOUTS) <= 10_240


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_fields_follow_each_other(layout: Layout) -> None:
    offset = 0
    for field in layout:
        assert field.offset == offset
        offset += field.size
    assert offset == layout.size
    assert len({field.name for field in layout}) == len(layout.fields)


@pytest.mark.parametrize("layout", [one for one in LAYOUTS if one is not ANCHOR_RECORD_LAYOUT])
def test_fields_are_aligned(layout: Layout) -> None:
    assert layout.size % 8 == 0
    for field in layout:
        if field.kind in ("u64", "key") or field.name in (
            "rounds",
            "checkpoints",
            "newest_list",
            "settled_list",
        ):
            assert field.offset % 8 == 0, field.name
        if field.kind in ("u16", "u32"):
            assert field.offset % field.size == 0, field.name
    assert TASK_LAYOUT.field("audit").offset % 4 == 0


def test_a_round_begins_with_its_list() -> None:
    """The program copies a list out of its round, and reads one as the other."""
    for one, other in zip(LIST_LAYOUT, ROUND_LAYOUT, strict=False):
        assert (one.offset, one.size, one.kind) == (other.offset, other.size, other.kind)
    assert [field.name for field in ROUND_LAYOUT][len(LIST_LAYOUT.fields)] == "list_by"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_c_header_has_the_same_offsets(layout: Layout, numbers: dict[str, int]) -> None:
    prefix = layout.name.upper()
    for field in layout:
        assert numbers[f"{prefix}_{field.name.upper()}"] == field.offset
    assert numbers[f"{prefix}_SIZE"] == layout.size


def test_the_c_header_has_the_same_codes_and_tags(numbers: dict[str, int]) -> None:
    assert {name: value for name, value in numbers.items() if name.startswith("ERR_")} == {
        f"ERR_{error.name}": int(error) for error in ProgramError
    }
    assert {name: value for name, value in numbers.items() if name.startswith("TAG_")} == {
        f"TAG_{tag.name}": int(tag) for tag in ix.Tag
    }


def test_the_source_uses_every_code_and_defines_none() -> None:
    source = "".join((PROGRAM / name).read_text() for name in (*HEADERS, "settlement.c"))
    used = set(re.findall(r"\bERR_(\w+)", source))
    assert used == {error.name for error in ProgramError}
    assert not re.search(r"#define (ERR|TAG|TASK|STAKE|VAULT|ROUND|LIST|CHECKPOINT|CLOSED)_", source)


def test_places_for_later_work_are_kept(numbers: dict[str, int]) -> None:
    assert TASK_LAYOUT.field("reserved").size == 424
    assert STAKE_LAYOUT.field("reserved").size == 80
    assert STAKE_LAYOUT.field("unstake_slot").size == 8
    assert (numbers["ROUND_RING"], numbers["CHECKPOINT_RING"]) == (ROUND_RING, CHECKPOINT_RING) == (16, 8)


def test_codes_are_distinct_and_say_what_they_mean() -> None:
    meanings = [error.meaning for error in ProgramError]
    assert len(set(meanings)) == len(set(ProgramError)) == len(meanings)
    for error in ProgramError:
        assert error.meaning.endswith(".")
        assert error.__doc__ == error.meaning
        assert program_error(int(error)) is error
    assert min(ProgramError) > 1000
    assert program_error(1) is None


def test_reading_back_what_was_packed() -> None:
    values: dict[str, int | bytes] = {"slot": 2**64 - 1, "stake": 0, "slash_total": 7}
    data = CHECKPOINT_LAYOUT.pack(values)
    read = CHECKPOINT_LAYOUT.values(b"xx" + data, 2)
    assert {name: read.integer(name) for name in values} == values


@pytest.mark.parametrize(
    "values",
    [
        {"slot": 2**64, "stake": 0, "slash_total": 0},
        {"slot": 0},
        {"slot": b"short", "stake": 0, "slash_total": 0},
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, int | bytes]) -> None:
    with pytest.raises(LayoutError):
        CHECKPOINT_LAYOUT.pack(values)


def test_reading_too_little_is_refused() -> None:
    with pytest.raises(LayoutError, match="takes 72 bytes"):
        LIST_LAYOUT.values(bytes(100), 40)
    with pytest.raises(KeyError):
        LIST_LAYOUT.field("absent")


@pytest.fixture(scope="module")
def chain() -> TaskChain:
    chain = TaskChain()
    chain.run_round(0, [1, 2, 3])
    return chain


def patched(data: bytes, layout: Layout, name: str, value: bytes) -> bytes:
    field = layout.field(name)
    assert len(value) <= field.size
    return data[: field.offset] + value + data[field.offset + len(value) :]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("magic", b"K2STAK01", "not a task account"),
        ("version", b"\2", "version 2"),
        ("name", b"\xff\xff", "not UTF-8"),
        ("name", bytes(24), "terms"),
        ("program", b"\xff", "not UTF-8"),
        ("round_time", bytes(8), "terms"),
        ("minimum_stake", bytes(8), "terms"),
        ("audit", b"\0", "profile koii has no weights"),
        ("audit", b"\7", "terms"),
        ("audit", b"\1\3", "terms"),
        ("audit", b"\1\1\2", "sealed is 2"),
        ("audit", b"\1\1\0\1", "the byte behind it 1"),
        ("rounds", bytes(9) + b"\4", "Place 0"),
        ("rounds", bytes(8) + b"\x10\2", "Place 0"),
        ("rounds", b"\1", "Place 0"),
        ("newest_list", bytes(9) + b"\1", "newest_list is damaged"),
        ("settled_list", bytes(9) + b"\3", "settled_list is damaged"),
    ],
)
def test_damaged_task_accounts_are_refused(chain: TaskChain, name: str, value: bytes, why: str) -> None:
    data = patched(chain.data(chain.task), TASK_LAYOUT, name, value)
    with pytest.raises(LayoutError, match=why):
        decode_task(chain.task, data, vault=0)


@pytest.mark.parametrize(("name", "value"), [("magic", b"K2TASK01"), ("version", b"\0"), ("magic", bytes(8))])
def test_damaged_stake_accounts_are_refused(chain: TaskChain, name: str, value: bytes) -> None:
    data = patched(chain.data(chain.stake_address(0)), STAKE_LAYOUT, name, value)
    with pytest.raises(LayoutError):
        decode_stake(data)


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_accounts_of_another_length_are_refused(chain: TaskChain, cut: int) -> None:
    task, stake = chain.data(chain.task), chain.data(chain.stake_address(0))
    for data in (task[:cut], task[:-1], task + b"\0", stake):
        with pytest.raises(LayoutError):
            decode_task(chain.task, data, vault=0)
    for data in (stake[:cut], stake[:-1], stake + b"\0", task):
        with pytest.raises(LayoutError):
            decode_stake(data)


def test_text_fills_its_place() -> None:
    chain = TaskChain(stakers=0, funds=0)
    terms = TaskTerms(**{name: getattr(chain.terms, name) for name in TaskTerms.__dataclass_fields__})
    object.__setattr__(terms, "name", "n" * 24)
    object.__setattr__(terms, "program", "p" * 64)
    chain.ok(ix.create_task(terms, 8))
    chain.task = ix.task_address(terms.creator, 8)
    chain.vault = ix.vault_address(chain.task)
    assert (chain.state().terms.name, chain.state().terms.program) == ("n" * 24, "p" * 64)


def test_an_unstake_request_is_read(chain: TaskChain) -> None:
    data = patched(
        chain.data(chain.stake_address(0)), STAKE_LAYOUT, "unstake_slot", (77).to_bytes(8, "little")
    )
    assert decode_stake(data).history.unstake_slot == 77
    assert VAULT_LAYOUT.size < STAKE_LAYOUT.size
