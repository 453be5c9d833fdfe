"""Build the settlement program, and the stand-in for Koii's task program that tests run.

    python scripts/build_program.py            # writes koii_p2p/settlement/program/ and scripts/koii_standin/
    python scripts/build_program.py --check    # only compares with the committed files

`layout.h` is written from the Python tables, the C sources are compiled and each is linked to a `.so`. Needs
clang 14 with the BPF target (Debian: `apt-get install --no-install-recommends clang-14`). The result depends
on the source and the compiler's version only: the same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sbf_link import LinkError, link

from koii_p2p.rounds import audit_rules, distribution, terms
from koii_p2p.settlement import instructions, layouts
from koii_p2p.settlement.refusals import ProgramError

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAM: Final = ROOT / "koii_p2p" / "settlement" / "program"
STANDIN: Final = ROOT / "scripts" / "koii_standin"
HEADERS: Final = ("runtime.h", "accounts.h", "stakes.h", "anchors.h", "leaves.h")
COMPILER: Final = "clang-14"
FLAGS: Final = (
    "-target",
    "bpf",
    "-mcpu=v1",  # sBPF v0 has neither the 32-bit nor the signed jumps of later BPF
    "-Oz",
    "-std=c11",
    "-ffreestanding",
    "-fno-builtin",  # there is no memcpy to call
    "-fno-unroll-loops",
    "-nostdinc",
    "-Wall",
    "-Wextra",
    "-Werror",
)


class BuildError(Exception):
    """The program could not be built; the text says why."""


def header() -> str:
    """The text of `layout.h`: every number that C and Python must agree on."""
    lines = [
        "/* Written by scripts/build_program.py from layouts.py, instructions.py and refusals.py. */",
        "#ifndef KOII_P2P_LAYOUT_H",
        "#define KOII_P2P_LAYOUT_H",
    ]
    for layout in layouts.LAYOUTS:
        name = layout.name.upper()
        lines += ["", f"/* {layout.name} */"]
        lines += [f"#define {name}_{field.name.upper()} {field.offset}" for field in layout]
        lines += [f"#define {name}_SIZE {layout.size}"]
    lines += ["", "/* numbers */"]
    lines += [f"#define {name} {value}" for name, value in _numbers().items()]
    lines += ["", "/* instruction tags */"]
    lines += [f"#define TAG_{tag.name} {int(tag)}" for tag in instructions.Tag]
    lines += ["", "/* error codes */"]
    lines += [f"#define ERR_{error.name} {int(error)}" for error in ProgramError]
    lines += ["", "#endif", ""]
    return "\n".join(lines)


def _numbers() -> dict[str, str]:
    magics = {
        "TASK_MAGIC_VALUE": layouts.TASK_MAGIC,
        "VAULT_MAGIC_VALUE": layouts.VAULT_MAGIC,
        "STAKE_MAGIC_VALUE": layouts.STAKE_MAGIC,
        "CLOSED_MAGIC_VALUE": layouts.CLOSED_MAGIC,
    }
    task = layouts.TASK_LAYOUT
    audit = task.field("audit")
    numbers = {
        "LAYOUT_VERSION": layouts.VERSION,
        "ROUND_RING": layouts.ROUND_RING,
        "CHECKPOINT_RING": layouts.CHECKPOINT_RING,
        "ROUND_EMPTY": layouts.ROUND_EMPTY,
        "ROUND_COMMITTED": layouts.ROUND_COMMITTED,
        "ROUND_LISTED": layouts.ROUND_LISTED,
        "ROUND_REJECTED": layouts.ROUND_REJECTED,
        "FIRST_ATTEMPT": instructions.FIRST_ATTEMPT,
        "LAST_ATTEMPT": layouts.LAST_ATTEMPT,
        "PROOF_SIBLINGS": instructions.PROOF_SIBLINGS,
        "LEAF_LENGTH": distribution.LEAF_BYTES,
        "TERMS_LENGTH": audit.offset + audit.size - task.field("name").offset,
        "CREATE_TASK_LENGTH": instructions.CREATE_TASK_FORMAT.size,
        "FUND_LENGTH": instructions.FUND_FORMAT.size,
        "STAKE_LENGTH": instructions.STAKE_FORMAT.size,
        "ANCHOR_COMMITMENT_LENGTH": instructions.ANCHOR_COMMITMENT_FORMAT.size,
        "ANCHOR_LIST_LENGTH": instructions.ANCHOR_LIST_FORMAT.size,
        "VETO_LENGTH": instructions.VETO_FORMAT.size,
        "SETTLE_LENGTH": instructions.SETTLE_FORMAT.size,
        "SET_ACTIVE_LENGTH": instructions.SET_ACTIVE_FORMAT.size,
        "REQUEST_UNSTAKE_LENGTH": instructions.TAG_FORMAT.size,
        "WITHDRAW_LENGTH": instructions.TAG_FORMAT.size,
        "CLOSE_LENGTH": instructions.TAG_FORMAT.size,
        "CLOSE_STAKE_LENGTH": instructions.TAG_FORMAT.size,
        "UPDATE_TASK_LENGTH": instructions.UPDATE_TASK_FORMAT.size,
        "LOCK_PERIODS": layouts.LOCK_PERIODS,
        "ESCAPE_PERIODS": layouts.ESCAPE_PERIODS,
        "BOND_DIVISOR": layouts.BOND_DIVISOR,
        "NEVER": layouts.NEVER,
        "MAX_STARTING_SLOT": terms.MAX_STARTING_SLOT,
        "MAX_ROUND_TIME": terms.MAX_ROUND_TIME,
        "SHORTEST_AUDIT": terms.SHORTEST_AUDIT,
        "BASIS_POINTS": audit_rules.BASIS_POINTS,
        "MILLIONTHS": audit_rules.MILLIONTHS,
        "MAX_AUDITORS": audit_rules.MAX_AUDITORS,
        "MAX_WITNESS_SEATS": audit_rules.MAX_WITNESS_SEATS,
        "MAX_FAILED_DISTRIBUTIONS": terms.MAX_FAILED_DISTRIBUTIONS,
    }
    numbers |= {f"PROFILE_{one.name}": int(one) for one in audit_rules.Profile}
    numbers |= {f"WEIGHTS_{one.name}": int(one) for one in audit_rules.Weights}
    return {name: f"{int.from_bytes(magic, 'little'):#x}ULL" for name, magic in magics.items()} | {
        name: f"{value}ULL" for name, value in numbers.items()
    }


def compiler_missing() -> str | None:
    """Why nothing can be compiled here, or None if it can."""
    if shutil.which(COMPILER) is None:
        return f"{COMPILER} is not installed (Debian: apt-get install --no-install-recommends {COMPILER})"
    return None


def compile_and_link(source: Path, headers: Mapping[str, str] | None = None) -> bytes:
    """Compile one C file with these headers (name to text) beside it, and link it. Raises `BuildError`."""
    missing = compiler_missing()
    if missing is not None:
        raise BuildError(missing)
    with tempfile.TemporaryDirectory() as folder:
        # A fixed name in the current folder: nothing of this machine's paths can reach the object file.
        shutil.copy(source, Path(folder) / "program.c")
        for name, text in (headers or {}).items():
            (Path(folder) / name).write_text(text)
        command = [COMPILER, *FLAGS, "-c", "program.c", "-o", "program.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise BuildError(f"{' '.join(command)} failed:\n{done.stderr}")
        try:
            return link((Path(folder) / "program.o").read_bytes())
        except LinkError as error:
            raise BuildError(f"The object cannot be linked: {error}.") from error


def build() -> bytes:
    """The settlement program's bytes, built from the source as it is now. Raises `BuildError`."""
    headers = {name: (PROGRAM / name).read_text() for name in HEADERS}
    return compile_and_link(PROGRAM / "settlement.c", headers | {"layout.h": header()})


def build_standin() -> bytes:
    """The stand-in's bytes, built from the source as it is now. Raises `BuildError`."""
    return compile_and_link(STANDIN / "standin.c")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the settlement program and the stand-in of Koii's.")
    parser.add_argument("--check", action="store_true", help="only compare with the committed files")
    arguments = parser.parse_args()
    try:
        outputs = {
            PROGRAM / "layout.h": header().encode(),
            PROGRAM / "settlement.so": build(),
            STANDIN / "standin.so": build_standin(),
        }
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    stale = [path.name for path, data in outputs.items() if not path.exists() or path.read_bytes() != data]
    if arguments.check:
        print(f"differs: {', '.join(stale)}" if stale else "everything is up to date")
        return 1 if stale else 0
    for path, data in outputs.items():
        path.write_bytes(data)
        print(f"{path.name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
