"""What the gossip benchmark measures: its cases, the graph and the publishers of each, and the figures of one net.

They are chosen by seeds, so that every arm has the same links and the same node publishes the same message.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from koii_p2p.gossip.parameters import GossipParameters, degrees_for

LINKS: Final = 4
"""How many others each node dials, so that it has twice as many links."""
OURS: Final = "ours"
STOCK: Final = "py-libp2p"
JS: Final = "js"
ARMS: Final = (OURS, STOCK, JS)


@dataclass(frozen=True, slots=True)
class Case:
    """`messages` of `size` bytes among `nodes` in `processes`, so many a second, or 0: as fast as they go."""

    nodes: int
    messages: int
    size: int
    rate: float = 0.0
    processes: int = 1

    @property
    def name(self) -> str:
        """Its name in reports and for `--cases`."""
        pace = f"{self.rate:g}/s" if self.rate else "burst"
        spread = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.nodes} nodes{spread}, {pace} of {self.messages} x {self.size}"


def _cases(nodes: int, processes: int, steady: float) -> tuple[Case, ...]:
    small, large = 512, 16 * 1024
    return (
        Case(nodes, 100, small, 0.0, processes),
        Case(nodes, 500, small, 0.0, processes),
        Case(nodes, 100, large, 0.0, processes),
        Case(nodes, 100, small, steady, processes),
        Case(nodes, 100, large, steady, processes),
    )


CASES: Final = (*_cases(10, 1, 20.0), *_cases(30, 1, 5.0), *_cases(10, 10, 20.0))
QUICK: Final = (Case(3, 20, 2000), Case(3, 20, 2000, 50.0, processes=3))


@dataclass(frozen=True, slots=True)
class Figure:
    """What one net did. Latencies are milliseconds from publishing to the validator or subscriber of another node."""

    delivered: float
    """The share of all deliveries that happened; a delivery is one message at one node that did not publish it."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Per delivery, of all processes together."""
    bytes: float
    """Written to sockets, per delivery."""
    memory_mb: float
    """The peak of each process, added up."""


def links_of(nodes: int) -> list[tuple[int, int]]:
    """Return who dials whom: each node some earlier and later ones, by chance, the same for everybody."""
    source = random.Random(nodes)
    linked: set[tuple[int, int]] = set()
    for number in range(nodes):
        others = [other for other in range(nodes) if other != number and (other, number) not in linked]
        linked |= {(number, other) for other in source.sample(others, min(LINKS, len(others)))}
    return sorted(linked)


def publishers_of(case: Case) -> list[int]:
    """Return who publishes which message."""
    source = random.Random(case.messages)
    return [source.randrange(case.nodes) for _ in range(case.messages)]


def described(case: Case) -> dict[str, object]:
    """Return a case as a worker is told it: with mesh parameters, which are ours for a net of this size."""
    parameters = GossipParameters(degrees=degrees_for(case.nodes))
    return {
        **asdict(case),
        "degrees": asdict(parameters.degrees),
        "idontwant": parameters.idontwant_bytes,
        "publishers": publishers_of(case),
    }


def median(figures: Sequence[Figure]) -> Figure:
    """Return the medians of several runs, and the least that was delivered in any."""
    middle = {
        name: statistics.median(getattr(figure, name) for figure in figures) for name in Figure.__slots__
    }
    middle["delivered"] = min(figure.delivered for figure in figures)
    return Figure(**middle)


Found = Mapping[str, Mapping[str, Figure]]
"""The figures of each arm, by the name of the case."""


def summary(found: Found) -> dict[str, object]:
    """Return what `--json` prints; without js-libp2p there is no ratio to it."""
    ratios = [arms[OURS].cpu_ms / arms[JS].cpu_ms for arms in found.values() if JS in arms]
    stock = [arms[OURS].cpu_ms / arms[STOCK].cpu_ms for arms in found.values() if STOCK in arms]
    return {
        "cpu_ratio_to_js": statistics.median(ratios) if ratios else None,
        "cpu_ratio_to_py_libp2p": statistics.median(stock) if stock else None,
        "delivered": min(arms[OURS].delivered for arms in found.values()),
        "cases": {
            name: {arm: asdict(figure) for arm, figure in arms.items()} for name, arms in found.items()
        },
    }


HEADER: Final = (
    f"{'case':46} {'arm':10} {'delivered':>9} {'CPU ms':>8} {'of ours':>8} {'p50 ms':>7} {'p99 ms':>7}"
    f" {'kB':>7} {'MB':>5}\n{'':46} {'':10} {'':9} {'/deliv.':>8} {'':8} {'':7} {'':7} {'/deliv.':>7}"
)


def lines(name: str, arms: Mapping[str, Figure]) -> list[str]:
    """Return the figures of a case as lines of the table, an arm each; `of ours` is CPU in units of ours."""
    ours = arms[OURS].cpu_ms
    return [
        f"{name if arm == OURS else '':46} {arm:10} {one.delivered:9.4f} {one.cpu_ms:8.3f} {one.cpu_ms / ours:8.2f}"
        f" {one.p50_ms:7.0f} {one.p99_ms:7.0f} {one.bytes / 1e3:7.2f} {one.memory_mb:5.0f}"
        for arm, one in arms.items()
    ]
