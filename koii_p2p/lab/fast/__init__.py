"""The fast engine: rounds of thousands of nodes, with the real rules and without a router or an engine at every node.

What is the same for everybody is computed once, by the code that nodes run: roster, beacon, draw of auditors, tally,
reputation, distribution list. What each node hears when is read off shortest paths over a gossip mesh (`mesh`), and
what each says is drawn for all at once (`verdicts`). What it does not play it refuses (`crew.require_played`).

What it takes for granted: whoever leads is up and anchors at its first slot, everybody has read K2 as it is, all in the
roster agree on the list, and records of a slot do not wait for one another. Whoever forwards nothing is rare enough
that others do. Where no chance is left but the draw, both engines come to the same numbers (`tests/lab/test_fast.py`).
"""

from __future__ import annotations

from hashlib import sha256

from koii_p2p.lab.fast.play import Play
from koii_p2p.lab.fast.tables import tables_of
from koii_p2p.lab.metrics import metrics_of
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.result import Result
from koii_p2p.lab.scenario import Scenario
from koii_p2p.lab.simulation import terms_of
from koii_p2p.records.keys import SecretKey


def run(scenario: Scenario, seed: int, told: Told = nobody) -> Result:
    """Play a scenario once. Raises `ConfigurationError` for what this engine does not play.

    Equal (code, scenario, seed) give equal tables. Keys, links, block hashes, and so the draws of auditors of a first
    round, are those of the exact engine with this seed.
    """
    nodes = range(scenario.network.nodes)
    keys = [SecretKey.from_seed(sha256(b"lab %d %d" % (seed, node)).digest()).public_key for node in nodes]
    play = Play(scenario, seed, terms_of(scenario), keys)
    tables = tables_of(play, play.rounds(told))
    return Result(scenario, seed, **tables, metrics=metrics_of(tables, scenario.metrics), events=0)
