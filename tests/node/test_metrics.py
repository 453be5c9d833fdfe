from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from koii_p2p.connections import ConnectionStatistics
from koii_p2p.limits import Limits
from koii_p2p.network.discovery import BootstrapStatus
from koii_p2p.network.gossip import GossipStatistics, TopicStatistics
from koii_p2p.network.statistics import RelayStatistics
from koii_p2p.node.metric_sections import SECTIONS, About, Section, Snapshot, TaskNumbers
from koii_p2p.node.metric_words import Kind
from koii_p2p.node.metrics import NodeMetrics, families, metric_table
from koii_p2p.node.resources import ProcessStatistics, limit_uses
from koii_p2p.node.slots import SlotStatistics
from koii_p2p.node.supervisor import SupervisorStatistics
from koii_p2p.node.task_service import TaskStatistics
from koii_p2p.settlement.jsonrpc import RpcStatistics
from koii_p2p.settlement.rpc_nodes import NodeStatistics
from koii_p2p.storage.database import DatabaseStatistics
from koii_p2p.storage.journal import JournalStatistics
from koii_p2p.storage.record_log import RecordLogStatistics
from scripts import make_metrics_page as maker
from tests.node.test_resources import documents, task_use, usage

TOPIC = "/koii/topic"


def gossip() -> GossipStatistics:
    """Gossip with one topic; every other number is 0, none is missing."""
    numbers = {one.name: () if one.name == "refused" else 0 for one in dataclasses.fields(GossipStatistics)}
    topic = TopicStatistics(
        TOPIC, neighbours=5, mesh=3, published=2, accepted=20, ignored=4, rejected=1, duplicates=9
    )
    return GossipStatistics(**{**numbers, "topics": (topic,), "peers": 5, "queued": 7})  # type: ignore[arg-type]


def snapshot() -> Snapshot:
    seen = usage(task_use(2, 5, 100, TOO_LARGE=3))
    network = replace(
        seen.network,
        peers=5,
        gossip=gossip(),
        disconnects=(("stalled", 4),),
        discovery=replace(
            seen.network.discovery, bootstrap=(BootstrapStatus("/ip4/1.2.3.4/tcp/1", True, 2, "refused"),)
        ),
        relay=RelayStatistics(3, 1, 7, 4096, (("NO_RESERVATION", 2),), (("closed", 6),)),
    )
    seen = replace(seen, network=network)
    return Snapshot(
        about=About("0.1", "KEY", "PEER", 12.5, 4096),
        process=ProcessStatistics(10, 1024, 3, None, None, 1.5, 40),
        network=network,
        slot=SlotStatistics(1000, 0.4, 0.2, True, 0, 1),
        supervisor=SupervisorStatistics({"slots": 2}, {"slots": "away"}),
        rpc=RpcStatistics(9, 10, 1, 1, 0, 0, 5000),
        rpc_nodes=(NodeStatistics("http://127.0.0.1:1", False, 0, 3),),
        database=DatabaseStatistics(6, 5, 0),
        journal=JournalStatistics(4, 0, 0, 0),
        records=RecordLogStatistics(11, 0, 0),
        api=ConnectionStatistics(1, 2, 0, 0),
        tasks=(
            TaskNumbers(
                "TASK", 7, TaskStatistics({"Publish": 8}, {"Anchor": 1}, {}, {}), seen.tasks[0], documents()
            ),
        ),
        limits=limit_uses(Limits(), seen),
    )


def scraped(seen: Snapshot, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a scrape, read by the parser of Prometheus' own client."""
    text, _content_type = NodeMetrics(lambda: seen).exposition(accept)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("koii_gossipsub_mesh_peer_counts", {"hash": TOPIC}, 3),
        ("koii_gossipsub_topic_peers_counts", {"hash": TOPIC}, 5),
        ("koii_gossipsub_topic_msg_published_total", {"hash": TOPIC}, 2),
        ("koii_gossipsub_accepted_messages_per_topic_total", {"hash": TOPIC}, 20),
        ("koii_gossipsub_topic_msg_recv_counts_total", {"hash": TOPIC}, 25),
        ("koii_gossipsub_topic_msg_recv_counts_unfiltered_total", {"hash": TOPIC}, 34),
        ("koii_gossipsub_queue_size", {}, 7),
        ("koii_info", {"version": "0.1", "key": "KEY", "peer_id": "PEER"}, 1),
        ("koii_network_disconnects_total", {"reason": "stalled"}, 4),
        ("koii_discovery_bootstrap_connected", {"address": "/ip4/1.2.3.4/tcp/1"}, 1),
        ("koii_k2_trusted", {}, 1),
        ("koii_k2_rpc_node_outvoted_total", {"url": "http://127.0.0.1:1"}, 3),
        ("koii_supervisor_restarts_total", {"service": "slots"}, 2),
        ("koii_task_actions_failed_total", {"task": "TASK", "action": "Anchor"}, 1),
        ("koii_task_records_refused_total", {"task": "TASK", "reason": "TOO_LARGE"}, 3),
        ("koii_task_unheard", {"task": "TASK"}, 3),
        ("koii_task_eclipsed", {"task": "TASK"}, 1),
        ("koii_task_worker_failures_total", {"task": "TASK", "failure": "TIMED_OUT"}, 2),
        ("koii_collections_documents_refused_total", {"task": "TASK", "reason": "over_quota"}, 4),
        ("koii_collection_documents", {"task": "TASK", "name": "links", "id": "ab"}, 12),
        ("koii_collections_replication_versions_pulled_total", {"task": "TASK"}, 7),
        ("koii_collections_reading_fallbacks_total", {"task": "TASK"}, 5),
        ("koii_limit", {"name": "api_connections"}, 64),
        ("koii_limit_used", {"name": "api_connections"}, 2),
        ("koii_limit_refused_total", {"name": "api_connections"}, 6),
        ("process_open_fds", {}, 10),
        ("process_cpu_seconds_total", {}, 1.5),
    ],
)
def test_a_number_is_scraped_under_its_name(name: str, labels: dict[str, str], value: float) -> None:
    assert scraped(snapshot())[name, tuple(sorted(labels.items()))] == value


def test_what_is_not_known_has_no_sample() -> None:
    names = {name for name, _labels in scraped(snapshot())}
    assert "process_open_fds" in names
    assert "process_resident_memory_bytes" not in names
    quiet = replace(snapshot(), network=usage().network)
    assert not [name for name, _labels in scraped(quiet) if name.startswith("koii_gossipsub_")]


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    metrics = NodeMetrics(snapshot)
    plain, plain_type = metrics.exposition("*/*")
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert plain_type.startswith("text/plain")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert b"# EOF" not in plain
    for nonsense in ("application/openmetrics-text; version=abc", ",;=", "text/plain; version=", "\x00"):
        assert b"koii_network_peers 5.0" in metrics.exposition(nonsense)[0]


def test_each_scrape_reads_anew() -> None:
    now = [snapshot()]
    metrics = NodeMetrics(lambda: now[0])
    assert b"koii_network_peers 5.0" in metrics.exposition("")[0]
    now[0] = replace(now[0], network=replace(now[0].network, peers=6))
    assert b"koii_network_peers 6.0" in metrics.exposition("")[0]


def test_a_hostile_label_breaks_no_line() -> None:
    seen = snapshot()
    evil = 'a"} 1\nkoii_info{key="FORGED"} 1\\'
    seen = replace(seen, network=replace(seen.network, contained=((evil, 3),)))
    found = scraped(seen)
    assert found["koii_network_contained_faults_total", (("fault", evil),)] == 3
    assert [labels for name, labels in found if name == "koii_info"] == [
        (("key", "KEY"), ("peer_id", "PEER"), ("version", "0.1"))
    ]


def test_every_number_of_every_statistics_is_described() -> None:
    for section in SECTIONS:
        for field, described in section.described():
            assert described.kind is not Kind.UNKNOWN, f"{section.of.__name__}.{field}"
        names = {one.name for one in dataclasses.fields(section.of)}
        assert section.elsewhere <= names, section.of.__name__


@dataclass(frozen=True)
class Grown:
    """Statistics that have got new fields."""

    known: int
    new_number: int
    new_reasons: tuple[tuple[str, int], ...]
    new_text: str


def test_a_new_counter_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(1, 2, (("full", 3),), "words")
    section = Section(Grown, "koii_grown_", lambda _snapshot: [((), grown)], {})
    monkeypatch.setattr("koii_p2p.node.metrics.SECTIONS", (section,))
    found = scraped(snapshot())
    assert found["koii_grown_new_number", ()] == 2
    assert found["koii_grown_new_reasons", (("reason", "full"),)] == 3
    assert not [name for name, _labels in found if "text" in name]


def test_the_documented_table_has_every_metric_that_is_scraped() -> None:
    shown = {row.name: (row.kind, row.labels) for row in metric_table()}
    assert len(shown) == len(metric_table()), "a name is used twice"
    for family in families(snapshot()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kind, labels = shown.pop(name)
        assert family.type == kind
        for sample in family.samples:
            assert tuple(sample.labels) == labels, name
    assert shown == {}
    text = maker.PAGE.read_text()
    assert maker.page(text) == text, "run scripts/make_metrics_page.py"
