"""The standing experiment: random nets in bad weather with up to a third of adversaries, and what must hold of each.

Whatever links, clocks, K2 and adversaries do, as long as these hold together at most a third of the stake: no honest
node loses stake, no right submission is REJECTED, and no two honest nodes hold different lists of a round final.
Profile koii-today is left out: it is known to slash the honest.
"""

from __future__ import annotations

from random import Random
from typing import Any

from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS
from koii_p2p.lab.result import Result, rows_of
from koii_p2p.lab.scenario import Scenario
from koii_p2p.lab.scenario_file import scenario_of


def standing_scenario(seed: int) -> Scenario:
    """The scenario of a seed: 6 to 15 nodes, 3 rounds, windows long enough for the latencies."""
    draw = Random(f"standing {seed}")
    nodes = draw.randint(6, 15)
    sealed = draw.random() < 0.3
    profile = draw.choice(("hardened", "hardened", "hardened", "all", "posp"))
    table: dict[str, Any] = {
        "name": f"standing-{seed}",
        "rounds": 3,
        "seed": seed,
        "network": _network(draw, nodes),
        "protocol": {
            "profile": profile,
            "sealed": sealed,
            "auditors": draw.choice((2, 3, 5)),
            "weights": draw.choice(("equal", "stake")),
            "finders_share": draw.choice((0, 0.2)),
            "patrols": draw.choice((0, 0, 3)),
            "presence_seconds": 0,
            **({"audit_rate": 0.6} if profile == "posp" else {}),
        },
        "population": _population(draw, nodes, sealed),
        "chain": {
            "delay_slots": draw.randint(1, 3),
            "loss": draw.choice((0, 0, 0.2)),
            "lag_slots": draw.choice((0, 0, 3)),
            "read_every": draw.choice((2, 5)),
        },
    }
    return scenario_of(table)


def _network(draw: Random, nodes: int) -> dict[str, Any]:
    network: dict[str, Any] = {
        "nodes": nodes,
        "degree": draw.randint(2, 6),
        "latency": draw.choice((50, [10, 150], "cities")),
        "jitter": draw.choice((0, 0.3)),
        "loss": draw.choice((0, 0, 0.05, 0.3)),
        "clock_skew_ms": draw.choice((0, 200, 800)),
    }
    if draw.random() < 0.3:
        network["churn"] = {
            "per_minute": draw.choice((0.3, 1.0)),
            "away_seconds": draw.choice((3, 15)),
            "records_lost": draw.choice((0, 0.3)),
        }
    if draw.random() < 0.4:
        network["partitions"] = [
            {
                "start": round(draw.uniform(0.5, 3.5), 2),
                "rounds": round(draw.uniform(0.1, 1.0), 2),
                "share": round(draw.uniform(0.1, 0.5), 2),
            }
        ]
    return network


def _population(draw: Random, nodes: int, sealed: bool) -> dict[str, Any]:
    """Adversaries that are at most a third of the nodes, and some without a stake besides."""
    names = [name for name, one in BEHAVIOURS.items() if one.misbehaves and one.staked]
    names = [name for name in names if sealed or name != "non-revealer"]
    counts: dict[str, int] = {}
    for _ in range(draw.randint(0, nodes // 3)):
        name = draw.choice(names)
        counts[name] = counts.get(name, 0) + 1
    population: dict[str, Any] = {name: {"share": count / nodes} for name, count in counts.items()}
    if "withholder" in population:
        population["withholder"]["what"] = draw.choice(("data", "commitment", "list"))
    if "late-accuser" in population:
        population["late-accuser"]["slots"] = draw.randint(1, 4)
    if draw.random() < 0.3 and nodes >= 9:
        population[draw.choice(("sybil", "eclipse"))] = {"share": 1 / nodes}
    return population


def violations(result: Result) -> list[str]:
    """What must not be, in sentences; none is good."""
    found = []
    for row in rows_of(result.rounds):
        for column, text in (
            ("wrongly_slashed", "honest nodes lost stake"),
            ("wrongly_rejected", "right submissions were REJECTED"),
        ):
            if row[column]:
                found.append(f"seed {result.seed}, round {row['round']}: {row[column]} {text}")
        if isinstance(row["lists"], int) and row["lists"] > 1:
            found.append(
                f"seed {result.seed}, round {row['round']}: {row['lists']} different lists are final"
            )
    return found
