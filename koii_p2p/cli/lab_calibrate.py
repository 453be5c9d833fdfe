"""`koii-p2p lab calibrate`: a testnet of real nodes, and the same net in the simulator."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.lab_progress import LabProgress
from koii_p2p.cli.list_rule import rule_of
from koii_p2p.cli.output import table
from koii_p2p.cli.settings import PREFIX
from koii_p2p.cli.testnet_view import View
from koii_p2p.errors import CheckFailed
from koii_p2p.lab.calibrate import (
    Pair,
    Testnet,
    Use,
    beside,
    read_outcome,
    same_net,
    simulated,
    spreading,
    used,
)
from koii_p2p.lab.experiment import Settings
from koii_p2p.lab.report import write_report
from koii_p2p.lab.runs import run_into
from koii_p2p.lab.words import interval, metric_title, number, unit_of
from koii_p2p.lab.workers import Workers
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.meter import NodeUse, run_measured
from koii_p2p.testnets.outcome import outcome_json
from koii_p2p.testnets.timing import round_lengths, stretch_for, stretched
from koii_p2p.testnets.topology import Topology, load_topology

_OUTCOME: Final = "outcome.json"


def topology_of(file: Path | None, nodes: int | None, slot_ms: int | None) -> Topology:
    """The testnet to be run, with traces. Raises `ConfigurationError`.

    Where neither a file nor `slot_ms` says how long slots are, they are so long that these nodes keep up here.
    """
    topology = load_topology(file, {"nodes": nodes, "slot_ms": slot_ms, "trace": True})
    if file is None and slot_ms is None:
        return stretched(topology, stretch_for(topology.nodes, len(os.sched_getaffinity(0))))
    return topology


def testnet_played(topology: Topology, folder: Path) -> Testnet:
    """Run a testnet and measure a round of it, keep what it came to in the folder, and read it.

    Raises `OperatorError`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    rule = partial(rule_of, topology.task)
    net = NetFolder(folder / "net")
    with View(to_stderr=True) as view:
        run, measured = trio.run(partial(run_measured, topology, net, environment, view, rule=rule))
    if not run.ok:
        raise CheckFailed(
            "The testnet did not come to what was expected.",
            "; ".join(run.outcome.failures) or "It was not verified.",
            "A busy machine may be too slow for it: run it again on a quiet one.",
        )
    place = folder / _OUTCOME
    place.write_text(json.dumps(outcome_json(run.outcome)))
    lengths = round_lengths(topology)
    found = read_outcome(
        place, (lengths.slot_ms, lengths.round_time, lengths.submission_window, lengths.audit_window)
    )
    traces = [net.trace(row.node.name) for row in run.outcome.nodes]
    first = run.outcome.first
    spread = spreading(traces, range(first, first + topology.rounds))
    return replace(found, metrics=(*found.metrics, *spread, *used([_use(one) for one in measured.uses])))


def _use(one: NodeUse) -> Use:
    whole, duplicates = one.whole, one.gossip.get("duplicates", 0)
    heard = one.gossip.get("received", 0) - duplicates
    return Use(whole.sent, whole.received, whole.cpu_seconds, heard, duplicates)


def calibrated(real: Testnet, settings: Settings, folder: Path, workers: Workers) -> tuple[Pair, ...]:
    """Play the same net into `folder`/simulated, and put the numbers of both beside each other."""
    experiment = same_net(real, dict(settings))
    place = folder / "simulated"
    with LabProgress(experiment) as progress:
        findings = run_into(place, experiment, workers, progress)
    write_report(findings, place)
    return beside(real.metrics, simulated(findings))


def pairs_json(pairs: tuple[Pair, ...]) -> list[dict[str, Any]]:
    """The numbers as JSON values."""
    return [
        {
            "name": pair.real.name,
            "unit": pair.real.unit,
            "real": pair.real.value,
            "simulated": pair.simulated.value,
            "ratio": pair.ratio,
            "overlap": pair.overlap,
        }
        for pair in pairs
    ]


def pairs_table(pairs: tuple[Pair, ...]) -> RenderableType:
    """The numbers as a table."""
    rows = [
        (
            f"{metric_title(pair.real.name)} ({unit_of(pair.real.unit)})",
            number(pair.real.value, pair.real.unit),
            interval(pair.real.low, pair.real.high, pair.real.unit),
            number(pair.simulated.value, pair.simulated.unit),
            interval(pair.simulated.low, pair.simulated.high, pair.simulated.unit),
            "-" if pair.ratio is None else f"{pair.ratio:.2f}",
            {True: "overlap", False: "apart", None: ""}[pair.overlap],
        )
        for pair in pairs
    ]
    columns = ("", "real", "95 %", "simulated", "95 %", "ratio", "intervals")
    return Group(table(columns, rows), Text())
