"""The exact engine: a scenario played by the round engine and the gossip router that nodes run."""

from __future__ import annotations

from koii_p2p.lab.metrics import metrics_of
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.result import Result
from koii_p2p.lab.scenario import Scenario
from koii_p2p.lab.simulation import Simulation
from koii_p2p.lab.tables import tables_of


def play(scenario: Scenario, seed: int | None = None, told: Told = nobody) -> Result:
    """Play a scenario once, with its own seed if none is given. Bit-identical for (code, scenario, seed).

    Raises `CheckFailed` if the net floods itself.
    """
    chosen = scenario.seed if seed is None else seed
    simulation = Simulation(scenario, chosen)
    simulation.play(told)
    tables = tables_of(simulation)
    return Result(
        scenario,
        chosen,
        **tables,
        metrics=metrics_of(tables, scenario.metrics),
        events=simulation.clock.happened,
    )
