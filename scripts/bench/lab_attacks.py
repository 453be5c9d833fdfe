"""Attacks on gossip in full size, by the lab: a thousand honest nodes and four thousand sybils, with measured time.

    python scripts/bench/lab_attacks.py [--attack cold-boot,covert-flash,swarm] [--defence v1.0,unscored,report,ours]
        [--factor 1] [--seconds 60] [--seed 1] [--json]

One line per attack and defence: the share of deliveries to honest nodes, the worst minute of it, latency in seconds at
p50, p99 and at most, which part of a mesh is honest at the end, CPU seconds and peak memory so far. `--factor 10` plays
a tenth of all nodes; `--seconds` is for how long messages are published, of the attack itself in a covert flash. Full
size takes some minutes each on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from koii_p2p.lab.gossip_attacks import COLD_BOOT, COVERT_FLASH, SWARM, play
from koii_p2p.lab.scenario import Attack, Defence

ATTACKS: Final = {"cold-boot": COLD_BOOT, "covert-flash": COVERT_FLASH, "swarm": SWARM}


def lasting(attack: Attack, seconds: float) -> Attack:
    """The attack with so many seconds of messages while it lasts."""
    before = max(0.0, attack.attack_at_seconds - attack.warm_seconds)
    return replace(attack, run_seconds=before + seconds)


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--attack", default=",".join(ATTACKS))
    parser.add_argument("--defence", default=",".join(one.value for one in Defence))
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON lines")
    options = parser.parse_args()
    if not options.json:
        print(
            "attack        defence   delivered  worst minute   p50 s   p99 s   max s  honest mesh  CPU s  peak MB"
        )
    for name in options.attack.split(","):
        attack = lasting(ATTACKS[name].shrunk(options.factor), options.seconds)
        for defence in map(Defence, options.defence.split(",")):
            began = time.process_time()
            found = play(attack, defence, options.seed)
            took, peak = (
                time.process_time() - began,
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
            if options.json:
                figures = {
                    "attack": name,
                    "defence": defence.value,
                    **asdict(found),
                    "cpu_s": took,
                    "peak_mb": peak,
                }
                print(json.dumps(figures), flush=True)
                continue
            print(
                f"{name:13} {defence.value:9} {found.delivered:9.4f} {min(found.by_minute):13.4f} {found.p50:7.3f}"
                f" {found.p99:7.3f} {found.latest:7.2f} {found.honest_mesh:12.2f} {took:6.0f} {peak:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
