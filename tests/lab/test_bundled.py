"""Every scenario of rounds that comes with the package is played, smaller than it is.

Those of gossip alone: test_gossip_scenarios.py.
"""

from __future__ import annotations

from html import escape

import pytest

from koii_p2p.lab.experiment import Experiment, bundled, experiment_of, find, read_experiment, with_settings
from koii_p2p.lab.plots import headline, plots_of
from koii_p2p.lab.report import html_of
from koii_p2p.lab.runs import findings_of
from koii_p2p.lab.scenario import EngineKind
from koii_p2p.lab.scenario_file import read_table
from koii_p2p.lab.workers import ThisProcess

NODES, ROUNDS = 9, 2
OF_ROUNDS = [name for name in bundled() if read_experiment(name).engine is not EngineKind.GOSSIP]


def smaller(name: str) -> Experiment:
    """A bundled scenario with few nodes and rounds, of each axis its two outermost values, and one seed."""
    table = read_table(find(name))
    axes = {setting: [values[0], values[-1]] for setting, values in table.get("axes", {}).items()}
    axes.pop("network.nodes", None)
    settings = [("network.nodes", [NODES]), ("rounds", [ROUNDS]), ("seeds", [1])]
    return experiment_of(with_settings({**table, "axes": axes}, settings))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ROUNDS)
def test_a_bundled_scenario_is_played_and_reported(name: str) -> None:
    experiment = smaller(name)
    found = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))
    assert found.rounds.height == ROUNDS * len(experiment.arms)
    wanted = set(experiment.metrics)
    assert {one.partition(".")[0] for one in headline(found)} == wanted
    assert found.rounds["wrongly_slashed"].null_count() == 0
    assert escape(experiment.title) in html_of(found, plots_of(found))
