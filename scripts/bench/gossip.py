"""What gossip costs: nets of our nodes beside nets of py-libp2p and of js-libp2p, over loopback.

    python scripts/bench/gossip.py [--json] [--rounds 1] [--cases burst] [--arms ours,js] [--quick] [--profile CASE]

All have the same links, the same mesh degrees and no signatures, and take turns in one run; the ratios are what counts
on another machine. Nets are of 10 and of 30 nodes in one process, and of 10 in a process each. A burst is published by
all nodes as fast as they are let; the other cases have a steady rate. js-libp2p is installed by npm once, in the
versions of `tests/interop/libp2p/package.json`; py-libp2p is the library unmodified, with its own GossipSub
(`gossip_arms.StockNode` says with which settings).

`--json` prints `cpu_ratio_to_js`, the median over the cases of our CPU per delivery to that of js-libp2p, and
`delivered`, the least share of ours that was delivered, above the figures of every case. `--quick` takes two small
nets, to see that everything works.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gossip_cases import (
    ARMS,
    CASES,
    HEADER,
    JS,
    OURS,
    QUICK,
    Case,
    Figure,
    lines,
    median,
    summary,
)
from gossip_net import QUICK_PACE, Pace, run

from tests.interop.js_peer import js_libp2p_folder


def measure_all(
    cases: Sequence[Case], arms: Sequence[str], rounds: int, pace: Pace
) -> dict[str, dict[str, Figure]]:
    """Run the cases with the arms in turns, and return the medians.

    Raises `NotInstalled` where js-libp2p is wanted and cannot be had.
    """
    folder = js_libp2p_folder(Path(__file__).with_suffix(".mjs")) if JS in arms else None
    found: dict[str, dict[str, Figure]] = {}
    for case in cases:
        runs: dict[str, list[Figure]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm, figures in runs.items():
                figures.append(run(arm, case, folder, pace))
        found[case.name] = {arm: median(figures) for arm, figures in runs.items()}
        print(*lines(case.name, found[case.name]), sep="\n", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured; medians are given")
    parser.add_argument("--cases", default="", help="only the cases in whose names this is")
    parser.add_argument("--arms", default=",".join(ARMS), help="which to compare; ours always is one")
    parser.add_argument("--quick", action="store_true", help="two small nets, to see that everything works")
    parser.add_argument("--profile", help="print where the time of the cases named like this goes in ours")
    options = parser.parse_args()
    arms = [arm for arm in ARMS if arm == OURS or arm in options.arms.split(",")]
    known, pace = (QUICK, QUICK_PACE) if options.quick else (CASES, Pace())
    if options.profile:
        for case in (case for case in known if options.profile in case.name):
            print(f"\n{case.name}: {run(OURS, case, None, pace, profile=True)}")
        return
    cases = [case for case in known if options.cases in case.name]
    if not cases:
        parser.error("there is no such case; there are: " + "; ".join(case.name for case in known))
    found = measure_all(cases, arms, options.rounds, pace)
    if options.json:
        print(json.dumps(summary(found), indent=1))
    else:
        print(HEADER, *(line for name, arms in found.items() for line in lines(name, arms)), sep="\n")


if __name__ == "__main__":
    main()
