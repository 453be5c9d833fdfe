"""Attacks on gossip in full size, by the lab: a thousand honest nodes and four thousand sybils, with measured time.

    python scripts/bench/lab_attacks.py [--attack cold-boot,covert-flash,swarm] [--defence v1.0,unscored,report,ours]
        [--factor 1] [--seconds 60] [--seed 1] [--json]

One line per attack and defence: the share of deliveries to honest nodes, that of the worst ten seconds, latency in ms
at p50, p99 and at most, which part of a mesh is honest at the end, CPU seconds and peak memory so far. `--factor 10`
plays a tenth of all nodes; `--seconds` is for how long messages are published, of the attack itself in a covert flash.
Full size takes some minutes each on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from koii_p2p.lab import gossip_engine
from koii_p2p.lab.gossip_attacks import COLD_BOOT, COVERT_FLASH, SWARM
from koii_p2p.lab.scenario import Attack, Defence, EngineKind, Scenario

METRICS: Final = (
    "delivered",
    "delivered_worst",
    "latency_p50",
    "latency_p99",
    "latency_last",
    "honest_mesh",
)
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
        print("attack        defence  " + "".join(f"{name:>17}" for name in METRICS) + "  CPU s  peak MB")
    for name in options.attack.split(","):
        attack = lasting(ATTACKS[name].shrunk(options.factor), options.seconds)
        for defence in map(Defence, options.defence.split(",")):
            scenario = Scenario(engine=EngineKind.GOSSIP, attack=attack, defence=defence)
            began = time.process_time()
            played = gossip_engine.run(scenario, options.seed)
            took = time.process_time() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            found = {one.name: one.value for one in played.metrics}
            if options.json:
                figures = {"attack": name, "defence": defence.value, **found, "cpu_s": took, "peak_mb": peak}
                print(json.dumps({**figures, "events": played.events}), flush=True)
                continue
            cells = "".join(f"{'-' if found[one] is None else f'{found[one]:.4f}':>17}" for one in METRICS)
            print(f"{name:13} {defence.value:9}{cells} {took:6.0f} {peak:8.0f}", flush=True)


if __name__ == "__main__":
    main()
