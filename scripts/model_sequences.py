"""Run the settlement program against its model for random sequences of instructions, as many as asked for.

    python scripts/model_sequences.py --sequences 2000 --steps 50

Prints how often each instruction was done and each refusal met, as JSON. The first difference between the program and
the model ends it, shrunk to a short sequence that can be reproduced.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.settlement.test_model import live


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the settlement program against its model.")
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    started = time.monotonic()
    seen = live(arguments.sequences, arguments.steps, derandomize=False)
    seconds = round(time.monotonic() - started)
    done = {name or "set up": count for name, count in sorted(seen.items()) if not name.isupper()}
    refused = {name: count for name, count in sorted(seen.items()) if name.isupper()}
    report = {"sequences": arguments.sequences, "steps": arguments.steps, "seconds": seconds}
    print(json.dumps(report | {"done": done, "refused": refused}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
