"""Build the stand-in for Koii's task program.

    python scripts/build_standin.py            # writes scripts/koii_standin/standin.so
    python scripts/build_standin.py --check    # only compares

Needs what scripts/build_program.py needs, and gives the same bytes for the same source and compiler.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_program import BuildError, compile_and_link

STANDIN: Final = Path(__file__).resolve().parent / "koii_standin"


def build() -> bytes:
    """The stand-in's bytes, built from the source as it is now. Raises `BuildError`."""
    return compile_and_link(STANDIN / "standin.c")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the stand-in for Koii's task program.")
    parser.add_argument("--check", action="store_true", help="only compare with the committed file")
    arguments = parser.parse_args()
    try:
        binary = build()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    output = STANDIN / "standin.so"
    if arguments.check:
        stale = not output.exists() or output.read_bytes() != binary
        print("standin.so differs" if stale else "standin.so is up to date")
        return 1 if stale else 0
    output.write_bytes(binary)
    print(f"standin.so: {len(binary)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
