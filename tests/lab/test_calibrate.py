from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.cli.lab_calibrate import topology_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.calibrate import SLOTS_TO_LIST, Use, beside, read_outcome, same_net, simulated, used
from koii_p2p.lab.result import Metric
from koii_p2p.lab.runs import findings_of
from koii_p2p.lab.workers import ThisProcess
from koii_p2p.testnets.timing import round_lengths
from koii_p2p.testnets.topology import Topology

LENGTHS = (100, 110, 36, 44)


def line(number: int, what: str, slot: int, attempt: int = 0) -> dict[str, Any]:
    return {
        "round": number,
        "what": what,
        "slot": slot,
        "attempt": attempt,
        "signature": "s",
        "fee": 1,
        "by": "n",
    }


def node(behaviour: str, verdicts: list[str | None], audited: int, due: int) -> dict[str, Any]:
    return {"behaviour": behaviour, "verdicts": verdicts, "audited": audited, "audits_due": due}


OUTCOME: dict[str, Any] = {
    "first_counted_round": 1,
    "rounds": [{"round": number} for number in range(3)],
    "settled": 2,
    "nodes": [
        node("honest", ["APPROVED", "APPROVED", "APPROVED"], 3, 3),
        node("honest", [None, "APPROVED", "REJECTED"], 2, 3),
        node("wrong-value", ["REJECTED", "REJECTED", None], 3, 3),
    ],
    "transactions": [
        line(0, "commitment", 5),
        line(1, "commitment", 200),
        line(1, "list", 230),
        line(2, "commitment", 310),
        line(2, "list", 360, attempt=1),
        line(2, "commitment", 340, attempt=1),
        line(2, "settle", 400),
    ],
}


def written(folder: Path, document: object) -> Path:
    file = folder / "document.json"
    file.write_text(json.dumps(document))
    return file


def test_what_a_testnet_came_to(tmp_path: Path) -> None:
    found = read_outcome(written(tmp_path, OUTCOME), LENGTHS)
    metrics = {one.name: one for one in found.metrics}
    assert (found.nodes, found.cheaters, found.rounds, found.lengths) == (3, 1, 2, LENGTHS)
    assert (metrics["punishment"].value, metrics["punishment"].count) == (1.0, 1)
    assert (metrics["wrong_rejections"].value, metrics["wrong_rejections"].count) == (0.25, 4)
    assert metrics["vote_coverage"].value == 5 / 6
    assert metrics["settled"].value == 1.0
    assert metrics["transactions"].value == 2.5
    assert metrics[SLOTS_TO_LIST].value == 25.0


def test_what_a_round_took_of_real_nodes() -> None:
    found = {one.name: one for one in used([Use(3000, 6000, 1.0, 10, 20), Use(4000, 8000, 2.0, 10, 30)])}
    assert found["sent_bytes"].value == 3500
    assert found["received_bytes"].value == 7000
    assert found["cpu"].value == 1.5e6
    assert found["duplicates"].value == 2.5
    assert {one.value for one in used([])} == {None}, "its testnet ended before"


def test_the_same_net_is_played_and_its_numbers_stand_beside(tmp_path: Path) -> None:
    real = read_outcome(written(tmp_path, {**OUTCOME, "nodes": OUTCOME["nodes"] * 2}), LENGTHS)
    experiment = same_net(real, {"engine": "fast", "seeds": 1, "rounds": 2, "network.latency": 5.0})
    scenario = experiment.arms[0].scenario
    assert scenario.network.nodes == 6
    assert sum(group.misbehaves for group in scenario.crew()) == 2
    assert scenario.chain.slot_ms == 100
    assert (scenario.protocol.round_time, scenario.protocol.audit_window) == (110, 44)
    assert scenario.network.latency.low_ms == 5.0
    assert scenario.network.degree == 5  # all others
    found = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))
    pairs = {pair.real.name: pair for pair in beside(real.metrics, simulated(found))}
    assert pairs["transactions"].simulated.value == 2.0
    assert pairs["transactions"].ratio == pytest.approx(0.8)
    assert pairs["vote_coverage"].simulated.value == 1.0
    assert {"punishment", "wrong_rejections", "settled", SLOTS_TO_LIST} <= set(pairs)


def test_intervals_overlap_or_do_not() -> None:
    def metric(value: float, low: float | None, high: float | None) -> Metric:
        return Metric("m", value, "s", "", 3, low, high)

    (pair,) = beside([metric(2.0, 1.0, 3.0)], [metric(4.0, 2.5, 5.0)])
    assert (pair.ratio, pair.overlap) == (2.0, True)
    (pair,) = beside([metric(2.0, 1.0, 3.0)], [metric(4.0, 3.5, 5.0)])
    assert pair.overlap is False
    (pair,) = beside([metric(0.0, None, None)], [metric(4.0, 3.5, 5.0)])
    assert (pair.ratio, pair.overlap) == (None, None)
    assert beside([metric(1.0, 1.0, 1.0)], []) == ()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "no JSON object"),
        ({}, "first_counted_round"),
        ({**OUTCOME, "nodes": [node("fleeing", [None] * 3, 0, 0)]}, "fleeing have no twin"),
        ({**OUTCOME, "nodes": 3}, "not what"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, document: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read_outcome(written(tmp_path, document), LENGTHS)


def test_a_document_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        read_outcome(tmp_path / "none.json", LENGTHS)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        read_outcome(tmp_path / "text.json", LENGTHS)


def test_slots_are_so_long_that_the_nodes_keep_up_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    found = [topology_of(None, nodes, None) for nodes in (5, 10, 20)]
    assert [topology.slot_ms for topology in found] == [100, 100, 200]
    assert all(topology.trace for topology in found)
    # The windows stay as many slots as usual, so that a slot that is longer gives each more time.
    usual, longer = round_lengths(Topology(nodes=20)), round_lengths(found[2])
    assert (longer.round_time, longer.slot_ms) == (usual.round_time, 2 * usual.slot_ms)
    assert topology_of(None, 20, 100).slot_ms == 100
    file = tmp_path / "net.toml"
    file.write_text("nodes = 20\nslot_ms = 50\n")
    assert topology_of(file, None, None).slot_ms == 50
