"""Write the tables of docs/settlement.md: values, windows, the tree, accounts, instructions, codes and compute units.

    python scripts/make_settlement_page.py                  # writes them
    python scripts/make_settlement_page.py --check          # only says whether they are up to date
    python scripts/make_settlement_page.py --old-runtime    # first measures in Solana 1.18 again; needs node and npm

Accounts and codes come from the tables that the C source is built from; what an instruction takes from the encoders,
windows from the round clock, the tree's example from the tree; compute units from running every instruction in the
virtual machine, rounded up to the next 500. The text around the tables is written by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from koii_p2p.rounds import merkle
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.clock import RoundClock, Window
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement import layouts
from koii_p2p.settlement.refusals import ProgramError

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "settlement.md"
PROGRAM_SO: Final = ROOT / "koii_p2p" / "settlement" / "program" / "settlement.so"
OLD_UNITS: Final = ROOT / "tests" / "interop" / "compute_units.json"
"""What every instruction took in the runtime of Solana 1.18, and of which code that was measured."""
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

MEANINGS: Final[Mapping[str, str]] = {
    "task.active": "1, or 0 after SetActive(0)",
    "task.created_slot": "slot of CreateTask",
    "task.funded": "ever paid in by Fund",
    "task.paid": "rewards ever paid by Settle",
    "task.slashed": "slashes ever moved into the vault",
    "task.forgiven": "slashes that a stake no longer covered",
    "task.total_stake": "in all stake accounts, also where it was asked back",
    "task.stakers": "stake accounts ever opened",
    "task.head": "the chain over all anchors",
    "task.anchors": "records in that chain",
    "task.newest_list": "a list: of the highest round that was not rejected",
    "task.settled_list": "a list: the newest past its audit when a round was last begun",
    "task.withdrawn": "stakes ever paid back by Withdraw",
    "task.bonds": "bonds ever moved into the vault",
    "task.idle_from": "first round that is not committed to",
    "task.idle_until": "first one that is again; 2^64 - 1 while inactive",
    "task.updated_slot": "slot of the last UpdateTask; 0: never",
    "task.successor": "zero: none",
    "audit.sealed": "0 or 1",
    "audit.confidence": "millionths",
    "audit.dishonest": "basis points, as the next four",
    "round.list_by": "who signed AnchorList",
    "round.commitment_by": "who signed AnchorCommitment",
    "round.veto_stake": "Roe of the stakes against this attempt's list",
    "round.barred_committer": "who anchored the rejected attempt before this one",
    "stake.amount": "Roe in this account above its rent",
    "stake.reward_total": "rewards paid so far",
    "stake.slash_total": "slashes settled so far, taken or forgiven",
    "stake.unstake_slot": "slot of RequestUnstake; 0: not asked back",
    "stake.checkpoint_count": "checkpoints ever begun",
    "stake.veto_window": "round + attempt + 1 of the last vetoed list; 0: none",
    "stake.vetoes": "bit k: the list of attempt k in that window",
    "checkpoint.slot": "of the last change in its period",
    "checkpoint.stake": "what a roster may count",
    "anchor_record.tag": "of the instruction",
    "anchor_record.by": "the staker who signed",
    "anchor_record.digest": "commitment, list root, or root of the rejected list",
    "anchor_record.reward_total": "0, as the next, unless it is a list",
}
"""What the names of fields leave open."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A slot of a round: `S0 + (r + periods) * RT + submissions * SW + audits * AW`, for attempt k with r + k."""

    periods: int
    submissions: int
    audits: int
    attempt: bool = False

    def text(self) -> str:
        """As a formula."""
        period = f"S0 + (r{' + k' * self.attempt} + {self.periods})*RT"
        return period + " + SW" * self.submissions + " + AW" * self.audits

    def slot(self, clock: RoundClock, round: int, attempt: int) -> int:
        """As a number."""
        periods = round + self.periods + attempt * self.attempt
        first = clock.starting_slot + periods * clock.round_time
        return first + self.submissions * clock.submission_window + self.audits * clock.audit_window


WINDOWS: Final[Mapping[str, tuple[Bound, Bound, range, Callable[[RoundClock, int, int], Window]]]] = {
    "AnchorCommitment, k = 0": (Bound(1, 1, 1), Bound(2, 1, 0), range(1), RoundClock.commitment),
    "AnchorList, k = 0": (Bound(2, 0, 0), Bound(2, 1, 0), range(1), RoundClock.distribution),
    "AnchorCommitment, k > 0": (
        Bound(1, 1, 0, attempt=True),
        Bound(2, 0, 0, attempt=True),
        range(1, 16),
        RoundClock.commitment,
    ),
    "AnchorList, k > 0": (
        Bound(1, 1, 0, attempt=True),
        Bound(2, 0, 0, attempt=True),
        range(1, 16),
        RoundClock.distribution,
    ),
    "Veto": (
        Bound(2, 1, 0, attempt=True),
        Bound(2, 1, 1, attempt=True),
        range(16),
        RoundClock.distribution_audit,
    ),
}


def windows() -> str:
    """When a round can be anchored and vetoed. Raises `ValueError` if a formula is not what the round clock says."""
    lines = ["| instruction | from slot | before slot |", "|---|---|---|"]
    clock = RoundClock(1000, 100, 30, 41)
    for name, (opens, closes, attempts, of) in WINDOWS.items():
        for attempt in attempts:
            window = Window(opens.slot(clock, 7, attempt), closes.slot(clock, 7, attempt))
            if window != of(clock, 7, attempt):
                raise ValueError(f"the window of {name} is {of(clock, 7, attempt)}, not {window}")
        lines.append(f"| {name} | `{opens.text()}` | `{closes.text()}` |")
    lines.append(f"| Settle, Withdraw with its leaf | `{WINDOWS['Veto'][1].text()}` | |")
    return "\n".join(lines)


def values() -> str:
    """What the fields of accounts and the accounts of instructions are made of."""
    states = {
        "none": layouts.ROUND_EMPTY,
        "committed": layouts.ROUND_COMMITTED,
        "listed": layouts.ROUND_LISTED,
        "rejected": layouts.ROUND_REJECTED,
    }
    magics = {
        "task": layouts.TASK_MAGIC,
        "vault": layouts.VAULT_MAGIC,
        "stake": layouts.STAKE_MAGIC,
        "closed_task": layouts.CLOSED_MAGIC,
    }
    rounds, checkpoints = layouts.TASK_LAYOUT.field("rounds"), layouts.STAKE_LAYOUT.field("checkpoints")
    ring, places = layouts.ROUND_RING, layouts.CHECKPOINT_RING
    plain = AuditRules()
    rows = {
        "program id on the local K2": f"`{Pubkey(ix.PROGRAM_ID)}`",
        "task, vault, stake": "`find_program_address` of the seeds above: words in ASCII, keys in 32 bytes, "
        "the nonce in 8",
        "system": f"`{Pubkey.default()}`",
        "magic": ", ".join(f"{name} `{magic.decode()}`" for name, magic in magics.items()),
        "version": str(layouts.VERSION),
        "round.state, list.state": ", ".join(f"{number} {name}" for name, number in states.items()),
        "no key": "32 zero bytes",
        "rounds": f"round r is at {rounds.offset} + {layouts.ROUND_LAYOUT.size} * (r mod {ring}), "
        "if the number there is r and the state not 0",
        "checkpoints": f"the newest is at {checkpoints.offset} + {layouts.CHECKPOINT_LAYOUT.size} * "
        f"((checkpoint_count - 1) mod {places}); one for each period in which the stake changed",
        "head": "32 zero bytes before the first anchor_record; one for each commitment, each list, and each veto that "
        "rejected a list",
        "vault": "what it holds is its balance less the rent of its size",
        "audit.profile": ", ".join(f"{int(one)} {one.name.lower()}" for one in Profile),
        "audit.weights": ", ".join(f"{int(one)} {one.name.lower()}" for one in Weights),
        "audit, usual": f"`{layouts.encode_audit(plain).hex()}`: {plain.profile.name.lower()}, weights by "
        f"{plain.weights.name.lower()}, {plain.auditors} auditors, quorum {plain.quorum}, dishonest {plain.dishonest}, "
        f"audit_rate {plain.audit_rate}, the rest 0",
    }
    return "\n".join(
        ["| what | is |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )


def tree() -> str:
    """The Merkle tree of a list by an example: leaves, root, and the proof of each."""
    leaves = [Leaf(bytes([number]) * 32, number * 10, number - 1) for number in (1, 2, 3)]
    encoded = [leaf.encode() for leaf in leaves]
    keys = (f"{leaf.staker[0]:02x}..{leaf.staker[0]:02x}" for leaf in leaves)
    lines = [
        f"Of the three leaves with the keys {', '.join(keys)}, "
        f"rewards {', '.join(str(leaf.reward_total) for leaf in leaves)} and slashes "
        f"{', '.join(str(leaf.slash_total) for leaf in leaves)}, the root is `{merkle.root(encoded).hex()}`:",
        "",
        "| leaf hash | directions | siblings |",
        "|---|---|---|",
    ]
    for leaf, proof in zip(encoded, merkle.all_proofs(encoded), strict=True):
        siblings = ", ".join(f"`{one.hex()}`" for one in proof.siblings)
        lines.append(f"| `{merkle.leaf_hash(leaf).hex()}` | {proof.directions} | {siblings} |")
    return "\n".join(lines)


def accounts() -> str:
    """One table for each account, and for what accounts are made of. Raises `ValueError` for a meaning of no field."""
    parts = []
    unused = dict(MEANINGS)
    for layout in layouts.LAYOUTS:
        lines = [
            f"**{layout.name}** ({layout.size} bytes)",
            "",
            "| offset | size | kind | field | |",
            "|---|---|---|---|---|",
        ]
        for one in layout:
            meaning = unused.pop(f"{layout.name}.{one.name}", "")
            lines.append(
                f"| {one.offset} | {one.size} | {one.kind} | {one.name} |{f' {meaning}' * bool(meaning)} |"
            )
        parts.append("\n".join(lines))
    if unused:
        raise ValueError(f"there is no field {', '.join(unused)}")
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
    """Code, name and meaning of every refusal, and how many attacks of the tests must get it."""
    counts = attacks()
    lines = [
        f"{sum(counts.values())} transactions of `tests/settlement/test_refusals_*.py` are attacks that must each get "
        "their code; how many get which is in the last column.",
        "",
        "| code | name | meaning | attacks |",
        "|---|---|---|---|",
    ]
    return "\n".join(
        lines + [f"| {int(one)} | {one.name} | {one.meaning} | {counts[one]} |" for one in ProgramError]
    )


def attacks() -> Counter[ProgramError]:
    """How many attacks of the tests there are for each code."""
    modules = (
        import_module(f"tests.settlement.test_refusals_{name}")
        for name in ("tasks", "anchors", "settle", "veto", "leaving", "rest")
    )
    return Counter(error for module in modules for error, _ in module.CASES.values())


def compute_units(measured: Mapping[str, list[int]]) -> str:
    """The most that each instruction took, rounded up; beside it, what it took in Solana 1.18."""
    lines = ["| instruction | compute units, at most | on Solana 1.18 |", "|---|---|---|"]
    old = old_units()
    for tag in ix.Tag:
        before = str(_up(old[tag.name])) if tag.name in old else "not measured"
        lines.append(f"| {_title(tag)} | {_up(max(measured[tag.name]))} | {before} |")
    return "\n".join(lines)


def _up(units: int) -> int:
    return -(-units // STEP) * STEP


def old_units() -> dict[str, int]:
    """What each instruction took in Solana 1.18: empty if the code has changed since that was measured."""
    kept = json.loads(OLD_UNITS.read_text())
    same = kept["sha256"] == hashlib.sha256(PROGRAM_SO.read_bytes()).hexdigest()
    return kept["units"] if same else {}


def measure_old() -> None:
    """Measure in Solana 1.18 and keep the figures. Raises `NotInstalled` without node, npm or the package."""
    from tests.interop.bankrun import measured_units
    from tests.interop.npm import packages

    with tempfile.TemporaryDirectory() as folder:
        found = measured_units(packages(), Path(folder))
    OLD_UNITS.write_text(json.dumps(found, indent=2) + "\n")


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
        "values": values,
        "windows": windows,
        "tree": tree,
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
    parser.add_argument(
        "--old-runtime",
        action="store_true",
        help="measure compute units in Solana 1.18 first; takes node and npm",
    )
    arguments = parser.parse_args()
    if arguments.old_runtime:
        measure_old()
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
