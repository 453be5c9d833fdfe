"""The simulator beside a testnet of real nodes: the same net, the same numbers, and how far they are apart.

What a testnet came to is what `koii-p2p testnet up --output json` prints. From that a scenario is made that is the same
net, as far as a scenario can say it. How records spread comes from what nodes traced (`testnet up --trace`), and what a
round took of them was read from outside (`testnets.meter`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.experiment import Experiment, experiment_of
from koii_p2p.lab.metrics import metrics_of
from koii_p2p.lab.result import TABLES, Metric, empty, mean_interval, proportion
from koii_p2p.lab.runs import Findings
from koii_p2p.lab.traces import messages_of

_MOST_BYTES: Final = 64 * 1024 * 1024
_HONEST: Final = "honest"
_CHEATER: Final = "wrong-value"
_COUNTED: Final = ("commitment", "list", "veto")
_SEEDS: Final = 5
_LOOPBACK_MS: Final = 3.0
"""From one process of a machine to another, with the time until that gets a core: a millisecond at the least, three in
the middle of what traces of five nodes on two busy cores say. It has no tail, which a busy machine has."""
_MORE_ROUNDS: Final = 10
"""The last list is settled in periods after the last round, whose presences count for the rounds before."""

SLOTS_TO_LIST: Final = "slots_to_list"
SPREADING: Final = ("delivery", "propagation_p50", "propagation_p99", "propagation_last")
"""Metrics of how records spread."""


@dataclass(frozen=True, slots=True)
class Testnet:
    """What a testnet of real nodes came to, and what it was: enough to play the same one.

    `lengths` are the milliseconds of a slot, and the slots of a round and of its two windows.
    """

    nodes: int
    cheaters: int
    rounds: int
    lengths: tuple[int, int, int, int]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One number of both. `ratio` is the simulated one over the real one; None where one of them is none, or nought.

    `overlap`: whether their intervals have something in common; None where one has no interval.
    """

    real: Metric
    simulated: Metric
    ratio: float | None
    overlap: bool | None


def read_outcome(file: Path, lengths: tuple[int, int, int, int]) -> Testnet:
    """Read what `testnet up --output json` printed. Raises `ConfigurationError`."""
    found = _document(file)
    try:
        return _outcome(found, lengths)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"The document {file} cannot be used.",
            f"It is not what `koii-p2p testnet up --output json` prints: {type(error).__name__}: {error}.",
            "Name the right file.",
        ) from error


@dataclass(frozen=True, slots=True)
class Use:
    """What one real node used in one round: bytes over TCP to and from other nodes, seconds of processor time with its
    task's, and gossip messages that it had not and had already.
    """

    sent: int
    received: int
    cpu_seconds: float
    heard: int
    duplicates: int


def used(uses: Sequence[Use]) -> tuple[Metric, ...]:
    """What a round took of real nodes, in everything that they do: metrics as a simulation has them."""
    heard = sum(use.heard for use in uses)
    return (
        _mean("sent_bytes", [use.sent for use in uses], "bytes", "bytes over TCP to other nodes in a round"),
        _mean(
            "received_bytes",
            [use.received for use in uses],
            "bytes",
            "bytes over TCP from other nodes in a round",
        ),
        _mean(
            "cpu",
            [use.cpu_seconds * 1e6 for use in uses],
            "us",
            "processor time of a node and its task in a round",
        ),
        Metric(
            "duplicates",
            sum(use.duplicates for use in uses) / heard if heard else None,
            "messages",
            "gossip messages that a node had already, for each that it had not",
            heard,
        ),
    )


def spreading(traces: Sequence[Path], rounds: Container[int]) -> tuple[Metric, ...]:
    """How the records of some rounds spread among nodes, by their traces: metrics as a simulation has them.

    Raises as `messages_of`.
    """
    tables = {name: empty(columns) for name, columns in TABLES.items()}
    return metrics_of({**tables, "messages": messages_of(traces, rounds)}, SPREADING)


def same_net(real: Testnet, settings: Mapping[str, Any]) -> Experiment:
    """An experiment that is the net of a testnet; `settings` are others by dotted name, such as the latency."""
    slot_ms, round_time, submission_window, audit_window = real.lengths
    table: dict[str, Any] = {
        "name": "same-net",
        "title": f"A testnet of {real.nodes} nodes, simulated",
        "question": "Does the simulator come to what real nodes came to?",
        "rounds": real.rounds + _MORE_ROUNDS,
        "seeds": _SEEDS,
        # By `koii-p2p peers`, in testnets of up to twenty nodes each is linked to all others before the first round.
        "network": {"nodes": real.nodes, "degree": real.nodes - 1, "latency": _LOOPBACK_MS},
        "protocol": {
            "round_time": round_time,
            "submission_window": submission_window,
            "audit_window": audit_window,
        },
        "population": {"fraudulent": real.cheaters / real.nodes} if real.cheaters else {},
        "chain": {"slot_ms": slot_ms},
    }
    for name, value in settings.items():
        *path, last = name.split(".")
        place = table
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return experiment_of(table)


def simulated(findings: Findings) -> tuple[Metric, ...]:
    """The metrics of the simulator that a testnet has as well, of an experiment with one arm."""
    metrics = findings.metrics_of(findings.experiment.arms[0].name)
    rounds = findings.rounds.filter(pl.col("list_slot").is_not_null())
    between = (rounds["list_slot"] - rounds["commitment_slot"]).to_list()
    return (*metrics.values(), _mean(SLOTS_TO_LIST, between, "slots", _SLOTS_TO_LIST_IS))


def beside(real: Iterable[Metric], others: Iterable[Metric]) -> tuple[Pair, ...]:
    """Numbers of both, by name, in the order of the real ones."""
    known = {one.name: one for one in others}
    return tuple(_pair(one, known[one.name]) for one in real if one.name in known)


# --- what a testnet came to


_SLOTS_TO_LIST_IS: Final = "slots from a round's commitment to its list on K2"


def _outcome(found: Mapping[str, Any], lengths: tuple[int, int, int, int]) -> Testnet:
    first, nodes = int(found["first_counted_round"]), found["nodes"]
    counted = [one["round"] for one in found["rounds"] if one["round"] >= first]
    honest = [node for node in nodes if node["behaviour"] == _HONEST]
    cheaters = [node for node in nodes if node["behaviour"] == _CHEATER]
    strange = {node["behaviour"] for node in nodes} - {_HONEST, _CHEATER}
    if strange:
        raise ValueError(f"nodes that behave as {', '.join(sorted(strange))} have no twin here")
    verdicts = [node["verdicts"][number] for node in cheaters for number in counted]
    handed_in = [verdict for verdict in verdicts if verdict is not None]
    right = [node["verdicts"][number] for node in honest for number in counted]
    sent = [line for line in found["transactions"] if line["round"] >= first and line["what"] in _COUNTED]
    landed = {(line["round"], line["what"], line["attempt"]): line["slot"] for line in sent}
    between = [
        slot - landed[number, "commitment", attempt]
        for (number, what, attempt), slot in landed.items()
        if what == "list" and (number, "commitment", attempt) in landed
    ]
    metrics = (
        proportion(
            "punishment", handed_in.count("REJECTED"), len(handed_in), "wrong submissions that were REJECTED"
        ),
        proportion(
            "wrong_rejections",
            right.count("REJECTED"),
            sum(verdict is not None for verdict in right),
            "right submissions that were REJECTED",
        ),
        proportion(
            "vote_coverage",
            sum(node["audited"] for node in honest),
            sum(node["audits_due"] for node in honest),
            "rounds in which an honest node that was due voted on all that was its",
        ),
        proportion("settled", int(found["settled"]), len(counted), "rounds that were settled"),
        _mean(
            "transactions",
            [sum(line["round"] == number for line in sent) for number in counted],
            "transactions",
            "commitments, lists and vetoes on K2 for a round",
        ),
        _mean(SLOTS_TO_LIST, between, "slots", _SLOTS_TO_LIST_IS),
    )
    return Testnet(len(nodes), len(cheaters), len(counted), lengths, metrics)


def _pair(real: Metric, other: Metric) -> Pair:
    ratio = other.value / real.value if real.value and other.value is not None else None
    if real.low is None or real.high is None or other.low is None or other.high is None:
        return Pair(real, other, ratio, None)
    return Pair(real, other, ratio, real.low <= other.high and other.low <= real.high)


def _mean(name: str, values: Sequence[float], unit: str, definition: str) -> Metric:
    if not values:
        return Metric(name, None, unit, definition)
    mean, low, high = mean_interval(values)
    return Metric(
        name, mean, unit, f"{definition}; median {statistics.median(values):g}", len(values), low, high
    )


def _document(file: Path) -> Mapping[str, Any]:
    what = f"The document {file} cannot be used."
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(what, f"{error}.", "Name the right file.") from error
    return found
