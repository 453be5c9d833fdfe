"""`/metrics` for Prometheus: the numbers of `statistics()` at the moment of the scrape, under documented names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from koii_p2p.node.metric_sections import SECTIONS, Snapshot
from koii_p2p.node.metric_words import Kind


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of the documented table."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


DERIVED: Final = (
    Row("koii_info", "gauge", ("version", "key", "peer_id"), "Who the node is; always 1."),
    Row("koii_gossipsub_topic_subscription_status", "gauge", ("hash",), "1 for a topic this node joined."),
    Row(
        "koii_gossipsub_topic_msg_recv_counts_total",
        "counter",
        ("hash",),
        "Messages received, each once: accepted, ignored and rejected.",
    ),
    Row(
        "koii_gossipsub_topic_msg_recv_counts_unfiltered_total",
        "counter",
        ("hash",),
        "Messages received, with their copies.",
    ),
)
"""What is made of several fields."""


def metric_table() -> tuple[Row, ...]:
    """Every metric by name, as it is documented."""
    rows = list(DERIVED)
    for section in SECTIONS:
        for _field, described in section.described():
            end = "_total" if described.kind is Kind.COUNTER else ""
            labels = (*section.labels, described.label) if described.label else section.labels
            rows.append(
                Row(f"{section.prefix}{described.name}{end}", described.kind.value, labels, described.help)
            )
    return tuple(sorted(rows, key=lambda row: row.name))


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """What is scraped, of one moment."""
    about = snapshot.about
    yield _family(DERIVED[0], [((about.version, about.key, about.peer_id), 1.0)])
    topics = snapshot.network.gossip.topics if snapshot.network.gossip is not None else ()
    once = [((one.topic,), float(one.accepted + one.ignored + one.rejected)) for one in topics]
    copies = [float(one.duplicates) for one in topics]
    yield _family(DERIVED[1], [((one.topic,), 1.0) for one in topics])
    yield _family(DERIVED[2], once)
    yield _family(
        DERIVED[3], [(labels, count + more) for (labels, count), more in zip(once, copies, strict=True)]
    )
    for section in SECTIONS:
        values = tuple(section.read(snapshot))
        for field, described in section.described():
            samples = [
                ((*labels, *more), number)
                for labels, statistics in values
                for more, number in _numbers(getattr(statistics, field))
            ]
            wide = any(len(labels) > len(section.labels) for labels, _ in samples)
            label = described.label or ("reason" if wide else "")
            names = (*section.labels, label) if label else section.labels
            row = Row(
                f"{section.prefix}{described.name}",
                described.kind.value,
                names,
                described.help,
            )
            if samples or described.kind is not Kind.UNKNOWN:
                yield _family(row, samples)


class NodeMetrics(Collector):
    """A registry of one node's own. Nothing is kept: each scrape reads `snapshot` anew."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: a scrape before the node runs would have no numbers."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families, for the registry."""
        yield from families(self._snapshot())

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text for a scrape, and its content type: what the scraper's `Accept` header prefers."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it compares a version that is no number with one that is
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


def _numbers(value: object) -> Iterator[tuple[tuple[str, ...], float]]:
    """The numbers in a field: one, or several by name; none in what is not known now, or is no number."""
    if isinstance(value, bool | int | float):
        yield (), float(value)
        return
    pairs: Iterable[Any] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, tuple | list):
        pairs = (one for one in value if isinstance(one, tuple) and len(one) == 2)
    for name, number in pairs:
        if isinstance(number, bool | int | float):
            yield (str(name.value if isinstance(name, Enum) else name),), float(number)


def _family(row: Row, samples: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "unknown": UnknownMetricFamily}
    made: CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily
    made = kinds[row.kind](row.name, row.help, labels=row.labels)
    for labels, number in samples:
        made.add_metric(list(labels), number)
    return made
