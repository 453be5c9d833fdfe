"""Play the standing experiment of the lab over many seeds, on all cores, and say what did not hold.

    python scripts/lab_seeds.py 1000 [--from 0] [--processes 2]

Prints one line for every seed in which something did not hold, and a summary: rounds played, how many settled at once,
later or not, and the digest over all runs, which is the same for the same code and seeds. Exit code 1 if anything
failed. A thousand seeds take a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256

from koii_p2p.lab.exact import play
from koii_p2p.lab.standing import standing_scenario, violations


def played(seed: int) -> tuple[int, list[str], str, list[str]]:
    result = play(standing_scenario(seed), seed)
    attempts = [
        "not settled" if attempt is None else f"attempt {attempt}" for attempt in result.rounds["attempt"]
    ]
    return seed, violations(result), result.digest, attempts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", type=int)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    began, failed, settled, digest = time.monotonic(), 0, Counter[str](), sha256()
    seeds = range(asked.first, asked.first + asked.seeds)
    with ProcessPoolExecutor(asked.processes) as pool:
        for seed, found, name, attempts in pool.map(played, seeds, chunksize=4):
            failed += bool(found)
            settled.update(attempts)
            digest.update(name.encode())
            for sentence in found:
                print(sentence, flush=True)
            if (seed + 1 - asked.first) % 50 == 0:
                took = time.monotonic() - began
                print(f"{seed + 1 - asked.first} seeds, {failed} failed, {took:.0f} s", flush=True)
    rounds = sum(settled.values())
    print(f"{asked.seeds} seeds, {rounds} rounds: {dict(sorted(settled.items()))}; {failed} seeds failed")
    print(f"digest {digest.hexdigest()}, {time.monotonic() - began:.0f} s on {asked.processes} processes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
