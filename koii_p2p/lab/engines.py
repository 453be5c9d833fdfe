"""One run of a scenario with one seed, by the engine that it names."""

from __future__ import annotations

from koii_p2p.lab.gossip_result import GossipResult
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.result import Result
from koii_p2p.lab.scenario import EngineKind, Scenario


def play(scenario: Scenario, seed: int, told: Told = nobody) -> Result | GossipResult:
    """Play a scenario to its end. Raises `ConfigurationError` for what its engine does not play."""
    if scenario.engine is EngineKind.GOSSIP:
        from koii_p2p.lab import gossip_engine

        return gossip_engine.run(scenario, seed, told)
    if scenario.engine is EngineKind.FAST:
        from koii_p2p.lab import fast

        return fast.run(scenario, seed, told)
    from koii_p2p.lab import exact

    return exact.play(scenario, seed, told)
