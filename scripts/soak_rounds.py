"""Play random rounds until so many are done, and check what must hold of every one; for hours, if wanted.

    python scripts/soak_rounds.py --from SEED --rounds 10000 [--jobs 2]
    python scripts/soak_rounds.py --seed SEED

A seed is one scenario: a net of 4 to 40 round engines with its terms, weather, faults and adversaries
(`tests/rounds/scenarios.py`), and a few rounds of it. The invariants are listed in `tests/rounds/invariants.py`. Seeds
are played one after the other from `--from`; `--seed` plays one of them again. Exits with 1 if an invariant is violated
and names the seed.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.rounds.invariants import play
from tests.rounds.simulation import records_read_once


@dataclass(frozen=True)
class Result:
    """What one seed came to."""

    seed: int
    rounds: int
    outcomes: Counter[str]
    notes: Counter[str]
    adversaries: Counter[str]
    violations: tuple[str, ...]


def run(seed: int) -> Result:
    try:
        with records_read_once():
            played = play(seed)
    except Exception:  # noqa: BLE001 - an engine that raises is a violation like any other
        text = f"seed {seed}: raised\n{traceback.format_exc()}"
        return Result(seed, 0, Counter(), Counter(), Counter(), (text,))
    return Result(
        seed,
        played.scenario.rounds,
        played.outcomes,
        played.notes,
        played.adversaries,
        tuple(played.violations),
    )


def results(first: int, jobs: int) -> Iterator[Result]:
    """Results from this seed on, in the order of the seeds, without an end."""
    if jobs == 1:
        yield from map(run, count(first))
        return
    # `imap` would take in all of an endless iterator at once: a few seeds per job at a time.
    with get_context("spawn").Pool(jobs) as pool:
        for start in count(first, 8 * jobs):
            yield from pool.imap(run, range(start, start + 8 * jobs))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--rounds", type=int, default=10_000, help="stop when so many are done")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="play this seed alone")
    wanted = parser.parse_args()
    if wanted.jobs < 1 or wanted.rounds < 1:
        parser.error("--jobs and --rounds are at least 1")
    found = iter([run(wanted.seed)]) if wanted.seed is not None else results(wanted.first, wanted.jobs)
    rounds = scenarios = bad = 0
    last = wanted.first if wanted.seed is None else wanted.seed
    outcomes, notes, adversaries = Counter[str](), Counter[str](), Counter[str]()
    for result in found:
        scenarios, rounds, last = scenarios + 1, rounds + result.rounds, result.seed
        outcomes += result.outcomes
        notes += result.notes
        adversaries += result.adversaries
        bad += bool(result.violations)
        for violation in result.violations:
            print(f"VIOLATED: {violation}", flush=True)
        if scenarios % 100 == 0:
            print(
                f"... seed {result.seed}: {rounds} rounds, {bad} bad scenarios", file=sys.stderr, flush=True
            )
        if wanted.seed is None and rounds >= wanted.rounds:
            break
    first = wanted.first if wanted.seed is None else wanted.seed
    print(f"seeds {first} to {last}: {rounds} rounds in {scenarios} scenarios")
    for name, counts in (("outcomes", outcomes), ("met on the way", notes), ("adversaries", adversaries)):
        print(f"{name}:")
        for what, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"  {number:7} {what}")
    print("every invariant held" if not bad else f"invariants were violated in {bad} scenarios")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
