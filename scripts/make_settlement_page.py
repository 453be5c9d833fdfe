"""Write the tables of docs/settlement.md: accounts, instructions, error codes and compute units.

    python scripts/make_settlement_page.py            # writes them
    python scripts/make_settlement_page.py --check    # only says whether they are up to date

Accounts and codes come from the tables that the C source is built from; what an instruction takes from the encoders,
compute units from running every instruction once in the virtual machine, rounded up to the next 500. The text around
the tables is written by hand.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from solders.instruction import Instruction

from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement import layouts
from koii_p2p.settlement.refusals import ProgramError

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "settlement.md"
STEP: Final = 500
"""Compute units are rounded up to a multiple of this: they differ a little from address to address."""

_TASK, _STAKER, _OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
_TERMS: Final = TaskTerms(_TASK, _STAKER, "name", 0, 100, 30, 40, 1, 1)
_LEAF: Final = (1, Leaf(_STAKER, 1, 1), Proof((), 0))

INSTRUCTIONS: Final[Mapping[ix.Tag, tuple[str, struct.Struct, Instruction, str]]] = {
    ix.Tag.CREATE_TASK: (
        "tag:B nonce:Q name:24s program:64s starting_slot:Q round_time:Q submission_window:Q audit_window:Q "
        "bounty_per_round:Q minimum_stake:Q slash_basis_points:H allowed_failed_distributions:H audit:24s",
        ix.CREATE_TASK_FORMAT,
        ix.create_task(_TERMS, 0),
        "creator task vault system",
    ),
    ix.Tag.FUND: (
        "tag:B amount:Q",
        ix.FUND_FORMAT,
        ix.fund(_TASK, _STAKER, 1),
        "funder task vault system",
    ),
    ix.Tag.SET_ACTIVE: (
        "tag:B active:B",
        ix.SET_ACTIVE_FORMAT,
        ix.set_active(_TASK, _STAKER, True),
        "creator task",
    ),
    ix.Tag.STAKE: (
        "tag:B amount:Q beneficiary:32s",
        ix.STAKE_FORMAT,
        ix.stake(_TASK, _OTHER, _STAKER, _OTHER, 1),
        "payer staker task stake system",
    ),
    ix.Tag.REQUEST_UNSTAKE: (
        "tag:B",
        ix.TAG_FORMAT,
        ix.request_unstake(_TASK, _STAKER),
        "staker task stake",
    ),
    ix.Tag.WITHDRAW: (
        "tag:B round:Q leaf:48s directions:I siblings:B",
        ix.SETTLE_FORMAT,
        ix.withdraw(_TASK, _STAKER, _OTHER, *_LEAF),
        "staker task vault stake beneficiary",
    ),
    ix.Tag.ANCHOR_COMMITMENT: (
        "tag:B attempt:B round:Q digest:32s",
        ix.ANCHOR_COMMITMENT_FORMAT,
        ix.anchor_commitment(_TASK, _STAKER, 1, _OTHER),
        "staker task stake",
    ),
    ix.Tag.ANCHOR_LIST: (
        "tag:B attempt:B round:Q root:32s reward_total:Q slash_total:Q",
        ix.ANCHOR_LIST_FORMAT,
        ix.anchor_list(_TASK, _STAKER, 1, _OTHER, 1, 1),
        "staker task stake vault",
    ),
    ix.Tag.VETO: (
        "tag:B attempt:B round:Q",
        ix.VETO_FORMAT,
        ix.veto(_TASK, _STAKER, 1, 0, _OTHER, None),
        "staker task stake vault committer's_stake lister's_stake",
    ),
    ix.Tag.SETTLE: (
        "tag:B round:Q leaf:48s directions:I siblings:B",
        ix.SETTLE_FORMAT,
        ix.settle(_TASK, *_LEAF, _OTHER),
        "task vault stake beneficiary",
    ),
    ix.Tag.CLOSE: ("tag:B", ix.TAG_FORMAT, ix.close(_TASK, _STAKER), "creator task vault"),
    ix.Tag.UPDATE_TASK: (
        "tag:B metadata:64s",
        ix.UPDATE_TASK_FORMAT,
        ix.update_task(_TASK, _STAKER, ""),
        "creator task successor",
    ),
    ix.Tag.CLOSE_STAKE: (
        "tag:B",
        ix.TAG_FORMAT,
        ix.close_stake(_TASK, _STAKER, _OTHER),
        "task stake beneficiary",
    ),
}
_KINDS: Final = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64"}


def accounts() -> str:
    """One table for each account, and for what accounts are made of."""
    parts = []
    for layout in layouts.LAYOUTS:
        lines = [
            f"**{layout.name}** ({layout.size} bytes)",
            "",
            "| offset | size | kind | field |",
            "|---|---|---|---|",
        ]
        lines += [f"| {one.offset} | {one.size} | {one.kind} | {one.name} |" for one in layout]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def instructions() -> str:
    """Data and accounts of every instruction. Raises `ValueError` if a row is not what the encoder makes."""
    lines = ["| tag | instruction | accounts | data, bytes |", "|---|---|---|---|"]
    for tag in ix.Tag:
        names, format, example, roles = INSTRUCTIONS[tag]
        fields = [one.split(":") for one in names.split()]
        if "<" + "".join(kind for _, kind in fields) != _plain(format.format):
            raise ValueError(f"the data of {tag.name} is {format.format}, not {names}")
        metas = zip(roles.split(), example.accounts, strict=True)
        shown = [
            role.replace("_", " ")
            + (" " if one.is_signer or one.is_writable else "")
            + "S" * one.is_signer
            + "W" * one.is_writable
            for role, one in metas
        ]
        data = ", ".join(f"{name} {_KINDS.get(kind, kind.removesuffix('s'))}" for name, kind in fields)
        lines.append(f"| {int(tag)} | {_title(tag)} | {', '.join(shown)} | {data}: {format.size} |")
    return "\n".join(lines)


def _plain(format: str) -> str:
    """`<2Q` as `<QQ`: one letter for each number."""
    return re.sub(r"(\d+)([BHIQ])", lambda found: found[2] * int(found[1]), format)


def errors() -> str:
    """Code, name and meaning of every refusal."""
    lines = ["| code | name | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| {int(one)} | {one.name} | {one.meaning} |" for one in ProgramError])


def compute_units(measured: Mapping[str, list[int]]) -> str:
    """The most that each instruction took, rounded up."""
    lines = ["| instruction | compute units, at most |", "|---|---|"]
    for tag in ix.Tag:
        lines.append(f"| {_title(tag)} | {-(-max(measured[tag.name]) // STEP) * STEP} |")
    return "\n".join(lines)


def measure() -> dict[str, list[int]]:
    """Run every instruction in the virtual machine, with a task whose ring of rounds is full."""
    from tests.settlement.virtual_chain import TaskChain, use_every_instruction

    chain = TaskChain()
    use_every_instruction(chain, rounds=layouts.ROUND_RING + 1)
    return chain.units


def _title(tag: ix.Tag) -> str:
    return "".join(word.capitalize() for word in tag.name.split("_"))


def page(text: str) -> str:
    """The page with every table made anew. Raises `ValueError` if the page lacks the place for one."""
    tables: dict[str, Callable[[], str]] = {
        "accounts": accounts,
        "instructions": instructions,
        "errors": errors,
        "compute units": lambda: compute_units(measure()),
    }
    for name, make in tables.items():
        begin, end = f"<!-- {name}: made by scripts/make_settlement_page.py -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the page has no place for {name}")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the tables of docs/settlement.md.")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    old = PAGE.read_text()
    new = page(old)
    if arguments.check:
        print(
            "up to date" if old == new else "docs/settlement.md differs: run scripts/make_settlement_page.py"
        )
        return 0 if old == new else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
