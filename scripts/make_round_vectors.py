"""Write the test vectors of the rounds; `docs/vectors.md` says what is in them.

    python scripts/make_round_vectors.py [--check] [--output tests/vectors]

Everything is derived from fixed seeds, so the same code writes the same bytes. What follows from the protocol's text
(verdicts, outcomes, standings, amounts) is written down by hand, digests and draws are computed;
`tests/rounds/test_vectors.py` holds the library against the former, and other code against the latter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from round_vectors import (
    accusations,
    admission,
    assignments,
    commitments,
    lists,
    reconciliation,
    reputation,
    tallies,
)
from round_vectors.world import VectorFile

FOLDERS: Final[Mapping[str, Mapping[str, Callable[[], VectorFile]]]] = {
    "admission": {**admission.FILES, **accusations.FILES},
    "assignments": assignments.FILES,
    "tallies": tallies.FILES,
    "commitments": commitments.FILES,
    "lists": lists.LIST_FILES,
    "proofs": lists.PROOF_FILES,
    "reconciliation": reconciliation.FILES,
    "reputation": reputation.FILES,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the test vectors of the rounds.")
    default = Path(__file__).parent.parent / "tests" / "vectors"
    parser.add_argument("--output", type=Path, default=default, help="the folder of all vectors")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    arguments = parser.parse_args()
    output: Path = arguments.output
    texts = {
        output / folder / f"{name}.json": make().render()
        for folder, files in FOLDERS.items()
        for name, make in files.items()
    }
    there = {path: path.read_text("ascii") for folder in FOLDERS for path in (output / folder).glob("*")}
    if arguments.check:
        stale = sorted(
            str(path) for path in texts.keys() | there.keys() if texts.get(path) != there.get(path)
        )
        if stale:
            sys.exit("Not what this script writes: " + ", ".join(stale) + ". Run it without --check.")
        return
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
