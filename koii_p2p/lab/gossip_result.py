"""What a run of gossip under attack came to: its tables, and its metrics with definition, unit and interval.

The counterpart of `result` and `metrics` for runs that have no rounds. Nodes are numbers from 0, honest ones first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from koii_p2p.lab.clockwork import MILLISECOND, SECOND
from koii_p2p.lab.result import (
    Cell,
    Frame,
    Metric,
    digest_of_frames,
    proportion,
    quantile,
    require_columns,
    rows_of,
)
from koii_p2p.lab.scenario import Scenario

PUBLISHED: Final[Mapping[str, str]] = {
    "message": "number of the message, in order of publication",
    "author": "number of the node that published it",
    "sent_us": "when it was published",
    "due": "honest nodes that were to get it: all but its author",
    "reached": "of those, how many did",
}
DELIVERIES: Final[Mapping[str, str]] = {
    "message": "number of the message",
    "node": "number of the honest node that got it, its author left out",
    "latency_us": "time from its publication to the first copy",
}
MESHES: Final[Mapping[str, str]] = {
    "node": "number of the honest node",
    "links": "peers that it is linked to at the end",
    "honest_links": "of those, honest ones",
    "mesh": "peers in its mesh at the end",
    "honest_mesh": "of those, honest ones",
    "copies": "messages that it sent in the whole run, each copy to each peer counted",
}
GOSSIP_TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "published": PUBLISHED,
    "deliveries": DELIVERIES,
    "meshes": MESHES,
}
"""Columns of each table, with what they mean; all are whole numbers."""

DEADLINE: Final = 6 * SECOND
"""What Filecoin gives a block to reach everybody, by which the report judges."""
WINDOW: Final = 10 * SECOND
"""Messages are looked at together by so much of the time of publication, where it matters when."""


@dataclass(frozen=True, slots=True)
class GossipResult:
    """One run of gossip with one seed: its tables, as described above, and its metrics."""

    scenario: Scenario
    seed: int
    published: Frame
    deliveries: Frame
    meshes: Frame
    metrics: tuple[Metric, ...] = ()
    events: int = 0

    def __post_init__(self) -> None:
        require_columns(self.frames, GOSSIP_TABLES)

    @property
    def frames(self) -> dict[str, Frame]:
        """All tables by name."""
        return {name: getattr(self, name) for name in GOSSIP_TABLES}

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) over all tables: equal for equal (code, scenario, seed)."""
        return digest_of_frames(self.frames)


def gossip_metrics(tables: Mapping[str, Frame]) -> tuple[Metric, ...]:
    """All metrics of the tables of a run, or of many together."""
    return (*_delivered(tables), *_latencies(tables), *_meshes(tables))


def _delivered(tables: Mapping[str, Frame]) -> Iterable[Metric]:
    due, reached = _numbers(tables, "published", "due"), _numbers(tables, "published", "reached")
    yield proportion(
        "delivered",
        sum(reached),
        sum(due),
        "of all deliveries that are due (every message to every honest node but its author), those that were made by "
        "the end of the run, ten seconds after the last message",
    )
    soon = sum(latency <= DEADLINE for latency in _numbers(tables, "deliveries", "latency_us"))
    yield proportion(
        "in_time",
        soon,
        sum(due),
        "of all deliveries that are due, those that were made within six seconds of the publication",
    )
    worst = min(_by_window(tables), default=(0, 0), key=lambda one: one[1] / one[0])
    yield proportion(
        "delivered_worst",
        worst[1],
        worst[0],
        "as delivered, of the messages of the worst ten seconds only",
    )


def _by_window(tables: Mapping[str, Frame]) -> list[tuple[int, int]]:
    """(due, reached) of the messages of each window of time, all runs together."""
    found: dict[int, tuple[int, int]] = {}
    for row in rows_of(tables["published"]):
        window = _int(row["sent_us"]) // WINDOW
        due, reached = found.get(window, (0, 0))
        found[window] = due + _int(row["due"]), reached + _int(row["reached"])
    return [one for one in found.values() if one[0]]


def _latencies(tables: Mapping[str, Frame]) -> Iterable[Metric]:
    times = sorted(_numbers(tables, "deliveries", "latency_us"))
    for name, share, what in (
        ("latency_p50", 0.5, "half of all deliveries that were made took no longer than this"),
        ("latency_p99", 0.99, "99 of 100 deliveries that were made took no longer than this"),
        ("latency_last", 1.0, "what the slowest delivery took"),
    ):
        value = quantile(times, share) / MILLISECOND if times else None
        yield Metric(name, value, "ms", f"virtual time from publication to arrival: {what}", len(times))


def _meshes(tables: Mapping[str, Frame]) -> Iterable[Metric]:
    mesh, honest = _numbers(tables, "meshes", "mesh"), _numbers(tables, "meshes", "honest_mesh")
    yield proportion(
        "honest_mesh",
        sum(honest),
        sum(mesh),
        "honest ones among the peers in the meshes of honest nodes at the end",
    )
    yield proportion(
        "eclipsed",
        sum(not one for one in honest),
        len(honest),
        "honest nodes that have nobody honest in their mesh at the end",
    )
    copies, made = sum(_numbers(tables, "meshes", "copies")), sum(_numbers(tables, "published", "reached"))
    yield Metric(
        "copies",
        copies / made if made else None,
        "copies",
        "copies of messages that honest nodes sent, those to sybils too, for each delivery to an honest node",
        made,
    )


def _numbers(tables: Mapping[str, Frame], table: str, column: str) -> Sequence[int]:
    return [_int(value) for value in tables[table][column]]


def _int(value: Cell) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value
