"""What a whole audited round costs: real `koii-p2p join` processes over a local K2, read from outside.

    python scripts/bench/round.py [--nodes 10,20,30,50] [--stretch 1] [--json] [--quick] [--folder DIR]

Each net has one node that submits a wrong value, runs until its rounds are settled, and is checked like any testnet
(`koii_p2p.testnets`). One period in the middle is measured: its submissions and audit are those of one round, while the
round before is paid, so that together it is the work of one whole round. For each of its windows: CPU seconds, bytes to
and from other nodes, and peak memory of a node. Windows grow with the nodes (`testnets.timing`), because all of them
share the cores of one machine.

Beside that stands the floor: each record of the round's commitment verified once by each node, at 40 microseconds a
signature, and sent to it once.

It ends with 1 unless every submission and ballot due from an honest node is in the commitments, nobody honest was
slashed and the check found nothing wrong. `--quick` takes a net of three with short rounds, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import trio
from solders.pubkey import Pubkey

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from koii_p2p.cli.settings import PREFIX
from koii_p2p.errors import OperatorError
from koii_p2p.testnets.check import CheckedRound
from koii_p2p.testnets.expect import VOTED
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.identity import HONEST
from koii_p2p.testnets.meter import Measured, NodeUse, PhaseUse, run_measured
from koii_p2p.testnets.net import RunningNet
from koii_p2p.testnets.outcome import Outcome
from koii_p2p.testnets.run import Run
from koii_p2p.testnets.timing import RoundLengths, round_lengths, stretched
from koii_p2p.testnets.topology import Topology
from koii_p2p.testnets.watch import Snapshot

SIGNATURE_SECONDS: Final = 40e-6
"""Of verifying one Ed25519 signature, in the floor."""
ROUNDS: Final = 2
"""How many are settled and checked; the period of the second is measured, in which the first is paid."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What honest nodes were due to say in the counted rounds, and what of it is in commitments."""

    submissions_due: int
    submissions: int
    ballots_due: int
    ballots: int

    @property
    def share(self) -> float:
        """The share of all that was due; 0 if nothing was."""
        due = self.submissions_due + self.ballots_due
        return (self.submissions + self.ballots) / due if due else 0.0


@dataclass(frozen=True, slots=True)
class Floor:
    """The least a node can do in the measured round: verify each record once, and receive those of others once."""

    records: int
    cpu_seconds: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Result:
    """A net of so many nodes. `seconds` is of the whole run, `round_seconds` of the measured period."""

    nodes: int
    lengths: RoundLengths
    ok: bool
    failures: tuple[str, ...]
    coverage: Coverage
    honest_slashed: tuple[str, ...]
    floor: Floor
    uses: tuple[NodeUse, ...]
    seconds: float
    round_seconds: float
    first: int


class Listener:
    """Says on stderr what happens; is shown nothing else."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def note(self, text: str) -> None:
        """One sentence about what was done."""
        self._say(text)

    def show(self, _net: RunningNet, _snapshot: Snapshot) -> None:
        """What the testnet looks like now."""


async def measure(topology: Topology, folder: Path, say: Callable[[str], object]) -> Result:
    """Run a net and measure it. Raises `OperatorError` subclasses."""
    run, measured = await run_measured(topology, NetFolder(folder), environment(), Listener(say))
    return result_of(topology, run, measured)


def environment() -> dict[str, str]:
    """Return what the processes get: everything but settings of ours, which are for the operator's own node."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def result_of(topology: Topology, run: Run, measured: Measured) -> Result:
    """Put together how a run ended and what was measured."""
    outcome, uses = run.outcome, measured.uses
    coverage = coverage_of(outcome)
    slashed = tuple(
        row.node.name for row in outcome.nodes if row.node.behaviour == HONEST and (row.slash or row.taken)
    )
    failures = [*(str(one) for one in outcome.report.findings), *outcome.failures, *run.deaths]
    if not uses:
        failures.append("the testnet ended before the measured period")
    if coverage.share < 1.0:
        failures.append("something that was due from an honest node is in no commitment")
    if slashed:
        failures.append(f"honest nodes were slashed: {', '.join(slashed)}")
    return Result(
        nodes=topology.nodes,
        lengths=round_lengths(topology),
        ok=run.ok and not failures,
        failures=tuple(failures),
        coverage=coverage,
        honest_slashed=slashed,
        floor=floor_of(outcome.report.rounds[measured.number]),
        uses=uses,
        seconds=run.seconds,
        round_seconds=uses[0].whole.seconds if uses else 0.0,
        first=outcome.first,
    )


def coverage_of(outcome: Outcome) -> Coverage:
    """Count over the rounds that count; a round without a commitment has nothing of anybody."""
    honest = {
        bytes(Pubkey.from_string(row.node.key)): row.node
        for row in outcome.nodes
        if row.node.behaviour == HONEST
    }
    submissions_due = submissions = ballots_due = ballots = 0
    for checked in outcome.report.rounds[outcome.first :]:
        roster, commitment = checked.roster, checked.commitment
        due = [key for key, node in honest.items() if not node.witness and roster and key in roster]
        submissions_due += len(due)
        if commitment is not None:
            submissions += sum(key in commitment.outcome_of for key in due)
            said = [status for key, status in commitment.auditors if key in honest]
            ballots_due += len(said)
            ballots += sum(status in VOTED for status in said)
    return Coverage(submissions_due, submissions, ballots_due, ballots)


def floor_of(checked: CheckedRound) -> Floor:
    """The floor of a round, from the records its commitment is about; nothing where it could not be played again."""
    if checked.played is None or not checked.roster:
        return Floor(0, 0.0, 0.0)
    records = [record for section in checked.played.records.sections.values() for record in section.values()]
    size = sum(len(record.raw) for record in records)
    return Floor(len(records), len(records) * SIGNATURE_SECONDS, float(size))


HEADER: Final = (
    f"{'nodes':>5} {'phase':11} {'s':>6} {'CPU s':>7} {'most':>7} {'sent kB':>8} {'recv. kB':>8}"
    f" {'MB':>5} {'most':>5}"
)


def report(results: Sequence[Result]) -> str:
    """Return the table: means over the nodes of a net, and what the node had that needed most."""
    return "\n".join([HEADER, *(line for result in results for line in _lines(result))])


def _lines(result: Result) -> Iterator[str]:
    for phases in zip(*(use.phases for use in result.uses), strict=True):
        yield _phase(result.nodes, phases[0].phase, phases)
    if result.uses:
        yield _phase(result.nodes, "together", [use.whole for use in result.uses])
    floor, covered = result.floor, result.coverage
    start = _mean(use.start_cpu_seconds for use in result.uses)
    slashed = ", ".join(result.honest_slashed) or "none"
    notes = (
        f"floor: {floor.records} records, {floor.cpu_seconds * 1e3:.1f} ms of CPU and {floor.bytes / 1e3:.1f} kB",
        f"start: {start:.1f} s of CPU a node; gossip in the period: {_gossip(result.uses)}",
        f"in commitments: {covered.submissions} of {covered.submissions_due} submissions and {covered.ballots} of"
        f" {covered.ballots_due} ballots of honest nodes; slashed of them: {slashed}",
        "everything is as expected" if result.ok else "FAILED",
        *result.failures,
    )
    yield from (f"{'':5} {note}" for note in notes)


def _phase(nodes: int, name: str, phases: Sequence[PhaseUse]) -> str:
    cpu, memory = [one.cpu_seconds for one in phases], [one.peak_mb for one in phases]
    sent, received = _mean(one.sent for one in phases), _mean(one.received for one in phases)
    return (
        f"{nodes:5} {name:11} {phases[0].seconds:6.1f} {_mean(cpu):7.2f} {max(cpu):7.2f}"
        f" {sent / 1e3:8.1f} {received / 1e3:8.1f} {_mean(memory):5.0f} {max(memory):5.0f}"
    )


def _gossip(uses: Sequence[NodeUse]) -> str:
    names = ("received", "duplicates", "forwarded")
    return ", ".join(f"{name} {_mean(use.gossip.get(name, 0) for use in uses):.0f}" for name in names)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.fmean(known) if known else 0.0


def as_json(results: Sequence[Result]) -> dict[str, object]:
    """Return what `--json` prints."""
    return {
        "ok": all(result.ok for result in results),
        "coverage": min(result.coverage.share for result in results),
        "honest_slashed": sum(len(result.honest_slashed) for result in results),
        "nets": [{**asdict(result), "coverage_share": result.coverage.share} for result in results],
    }


def topology_of(nodes: int, stretch: int = 1, *, quick: bool = False) -> Topology:
    """A net with one cheater; a quick one has rounds as short as three nodes on a busy machine bear.

    Slots, and with them the windows, are `stretch` times as long as a testnet of so many nodes has them.
    """
    if quick:
        return Topology(
            nodes=nodes, cheaters=1, rounds=1, round_time=110, submission_window=36, audit_window=44
        )
    return stretched(Topology(nodes=nodes, cheaters=1, rounds=ROUNDS), stretch)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", default="10,20,30,50", help="how many, one net after the other")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="three nodes with short rounds")
    parser.add_argument(
        "--stretch", type=int, default=1, help="make slots so many times as long: 4 is K2's 400 ms"
    )
    parser.add_argument("--folder", type=Path, help="keep the nets here: logs, homes, evidence")
    options = parser.parse_args()
    sizes = [3] if options.quick else [int(text) for text in options.nodes.split(",")]
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} {text}", file=sys.stderr, flush=True)

    results = []
    try:
        for nodes in sizes:
            with tempfile.TemporaryDirectory() as place:
                folder = options.folder / f"{nodes}" if options.folder else Path(place) / "net"
                folder.parent.mkdir(parents=True, exist_ok=True)
                topology = topology_of(nodes, options.stretch, quick=options.quick)
                results.append(trio.run(measure, topology, folder, say))
                print(report(results[-1:]), file=sys.stderr, flush=True)
    except OperatorError as error:
        print(f"{error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(as_json(results), indent=1) if options.json else report(results))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
