"""How fast the lab's exact engine is, and what its time goes into.

    python scripts/bench/lab.py heap
    python scripts/bench/lab.py run --nodes 100 1000 [--rounds 1] [--transport direct]
    python scripts/bench/lab.py costs

`heap` lets empty events happen on `lab.clockwork` and on a bare heapq loop. `run` plays scenarios with a tenth of the
nodes fraudulent, and prints processor time, events and judged records per second, memory, and the shares of the parts;
timing the parts itself makes a run a few per cent slower. `costs` measures what `lab.costs` has as constants.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from unittest import mock

from koii_p2p.gossip.router import GossipRouter
from koii_p2p.lab.clockwork import Clockwork
from koii_p2p.lab.links import Links
from koii_p2p.lab.scenario_file import scenario_of
from koii_p2p.lab.simulation import Simulation
from koii_p2p.records.envelope import decode_record, sign, verify
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Statement, Submission
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.reconcile import Reconciler

PARTS: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("round engine: records", RoundEngine, ("receive",)),
    ("round engine: slots and facts", RoundEngine, ("handle",)),
    ("router: frames", GossipRouter, ("receive",)),
    ("router: verdicts and own records", GossipRouter, ("judge", "publish")),
    ("router: heartbeats", GossipRouter, ("heartbeat",)),
    ("links", Links, ("arrival",)),
    ("reconciliation", Reconciler, ("respond", "receive", "initiate")),
)


def heap(events: int = 1_000_000, waiting: int = 1000) -> None:
    clock, left = Clockwork(), events

    def happen() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            clock.at(clock.now + left * 7919 % 1000 + 1, happen)

    for number in range(waiting):
        clock.at(number, happen)
    began = time.process_time()
    clock.run(1 << 60)
    ours = clock.happened / (time.process_time() - began)
    bare = [(number, number) for number in range(waiting)]
    began = time.process_time()
    for number in range(events):
        when, _ = heapq.heappop(bare)
        heapq.heappush(bare, (when + number * 7919 % 1000 + 1, number))
    loop = events / (time.process_time() - began)
    print(f"clockwork {ours:,.0f} events/s; bare heapq loop {loop:,.0f} events/s; {waiting} waiting")


@contextmanager
def parts_timed(spent: Counter[str]) -> Iterator[None]:
    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter

        def call(*args: Any, **named: Any) -> Any:
            began = clock()
            found = function(*args, **named)
            spent[part] += clock() - began  # type: ignore[assignment]
            return found

        return call

    patches = [
        mock.patch.object(kind, name, timed(part, getattr(kind, name)))
        for part, kind, names in PARTS
        for name in names
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def run(nodes: int, rounds: int, transport: str) -> None:
    scenario = scenario_of(
        {
            "rounds": rounds,
            "network": {"nodes": nodes},
            "protocol": {"transport": transport, "presence_seconds": 0},
            "population": {"fraudulent": 0.1},
        }
    )
    spent: Counter[str] = Counter()
    simulation = Simulation(scenario, 1)
    began, wall = time.process_time(), time.perf_counter()
    with parts_timed(spent):
        simulation.play()
    took, waited = time.process_time() - began, time.perf_counter() - wall
    events, records = simulation.clock.happened, sum(node.meter.records for node in simulation.nodes)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{nodes} nodes, {rounds} rounds, {transport}: {took:.1f} s of processor, {waited:.1f} s of clock")
    print(f"  {events:,} events, {events / took:,.0f}/s; {records:,} records judged, {records / took:,.0f}/s")
    print(f"  {memory:.0f} MiB")
    for part, seconds in spent.most_common():
        print(f"  {100 * seconds / waited:5.1f} %  {part}")
    rest = 100 * (1 - sum(spent.values()) / waited)
    print(f"  {rest:5.1f} %  everything else: the heap, what nodes do with actions, notes")


def costs(repeated: int = 300) -> None:
    secret, genesis = SecretKey.from_seed(bytes(32)), sha256(b"genesis").digest()
    statements = [Statement(bytes(32), 3, 100, number, Submission("x" * 59)) for number in range(repeated)]
    records = [sign(statement, genesis, secret) for statement in statements]

    def measured(name: str, call: Callable[[int], object]) -> None:
        began = time.process_time()
        for number in range(repeated):
            call(number)
        print(f"{name}: {(time.process_time() - began) / repeated * 1e6:.0f} us")

    measured("sign (and read back)", lambda number: sign(statements[number], genesis, secret))
    measured("verify", lambda number: verify(records[number].envelope, genesis))
    measured("decode", lambda number: decode_record(records[number].raw))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("heap", "run", "costs"))
    parser.add_argument("--nodes", type=int, nargs="+", default=[100])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--transport", choices=("gossip", "direct"), default="gossip")
    asked = parser.parse_args()
    match asked.what:
        case "heap":
            heap()
        case "costs":
            costs()
        case _:
            for nodes in asked.nodes:
                run(nodes, asked.rounds, asked.transport)


if __name__ == "__main__":
    main()
